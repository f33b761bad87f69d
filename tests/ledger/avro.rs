//! Confluent's wire frame to values: magic byte, schema id, Avro; schemas come from the registry.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::{NamesRef, ResolvedSchema};
use apache_avro::types::Value;
use serde_json::{Value as Json, json};

use crate::Result;

/// How long a registry may be away before a read gives up.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Schemas by id. A process sees a handful of them, so they live until its end.
pub struct Registry {
    base: String,
    http: reqwest::Client,
    schemas: HashMap<u32, Option<&'static Known>>,
}

struct Known {
    schema: &'static Schema,
    names: NamesRef<'static>,
    reader: GenericDatumReader<'static>,
}

/// A value with the schema it was written with.
pub struct Decoded {
    pub schema_id: u32,
    pub value: Value,
    known: &'static Known,
}

/// Why a record's bytes are no value.
#[derive(Debug)]
pub enum Undecodable {
    NotFramed,
    /// The registry does not know the id, or knows a text that is no schema.
    UnknownSchema(u32),
    Malformed {
        schema_id: u32,
        reason: String,
    },
    /// The registry itself cannot be asked: nothing is known about the record.
    Unreachable(String),
}

impl Registry {
    /// `base` is the Confluent-compatible root, such as `http://127.0.0.1:8081/apis/ccompat/v7`.
    pub fn new(base: &str) -> Result<Registry> {
        // The client is built with TLS in it, and without a provider it does not start.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        Ok(Registry { base: base.trim_end_matches('/').to_owned(), http, schemas: HashMap::new() })
    }

    pub async fn decode(&mut self, frame: &[u8]) -> std::result::Result<Decoded, Undecodable> {
        let (schema_id, mut body) = unframe(frame).ok_or(Undecodable::NotFramed)?;
        let known = self.schema(schema_id).await?;
        let malformed = |reason: String| Undecodable::Malformed { schema_id, reason };
        let value = known.reader.read_value(&mut body).map_err(|error| malformed(error.to_string()))?;
        match body.len() {
            0 => Ok(Decoded { schema_id, value, known }),
            rest => Err(malformed(format!("{rest} bytes follow the value"))),
        }
    }

    async fn schema(&mut self, id: u32) -> std::result::Result<&'static Known, Undecodable> {
        if !self.schemas.contains_key(&id) {
            let text = self.text(id).await.map_err(|error| Undecodable::Unreachable(error.to_string()))?;
            self.schemas.insert(id, text.and_then(|text| known(&text)));
        }
        self.schemas.get(&id).copied().flatten().ok_or(Undecodable::UnknownSchema(id))
    }

    /// The schema text of an id; `None` when the registry says that there is none.
    async fn text(&self, id: u32) -> Result<Option<String>> {
        let url = format!("{}/schemas/ids/{id}", self.base);
        let deadline = Instant::now() + REGISTRY_PATIENCE;
        loop {
            let error = match self.http.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => {
                    let body: Json = answer.json().await?;
                    return Ok(body.get("schema").and_then(Json::as_str).map(str::to_owned));
                }
                Ok(answer) if answer.status().is_client_error() => return Ok(None),
                Ok(answer) => format!("{url} answered {}", answer.status()),
                Err(error) => format!("{url}: {error}"),
            };
            if Instant::now() >= deadline {
                return Err(error.into());
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

fn known(text: &str) -> Option<&'static Known> {
    // Leaked on purpose: the reader borrows the schema, and both live as long as the process.
    let schema: &'static Schema = Box::leak(Box::new(Schema::parse_str(text).ok()?));
    let names = ResolvedSchema::new(schema).ok()?.get_names().clone();
    let reader = GenericDatumReader::builder(schema).build().ok()?;
    Some(Box::leak(Box::new(Known { schema, names, reader })))
}

fn unframe(frame: &[u8]) -> Option<(u32, &[u8])> {
    let (magic, rest) = frame.split_first()?;
    let (id, body) = rest.split_first_chunk::<4>()?;
    (*magic == 0).then_some((u32::from_be_bytes(*id), body))
}

impl Decoded {
    /// The value as plain JSON for people: unions without their branch, decimals as exact text,
    /// bytes in hex.
    pub fn json(&self) -> Json {
        plain(&self.value, Some(self.known.schema), &self.known.names)
    }
}

fn plain(value: &Value, schema: Option<&Schema>, names: &NamesRef<'static>) -> Json {
    let schema = match schema {
        Some(Schema::Ref { name }) => names.get(name).copied(),
        other => other,
    };
    match (value, schema) {
        (Value::Union(branch, inner), Some(Schema::Union(union))) => {
            let branch = usize::try_from(*branch).ok().and_then(|i| union.variants().get(i));
            plain(inner, branch, names)
        }
        (Value::Record(fields), Some(Schema::Record(record))) => {
            if let Some(number) = variable_scale(value) {
                return Json::String(number);
            }
            let schemas = record.fields.iter().map(|field| Some(&field.schema));
            fields
                .iter()
                .zip(schemas.chain(std::iter::repeat(None)))
                .map(|((name, field), schema)| (name.clone(), plain(field, schema, names)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        (Value::Array(items), Some(Schema::Array(array))) => {
            items.iter().map(|item| plain(item, Some(&array.items), names)).collect()
        }
        (Value::Decimal(number), Some(Schema::Decimal(decimal))) => {
            Vec::<u8>::try_from(number).map_or(Json::Null, |bytes| decimal_text(&bytes, decimal.scale).into())
        }
        (value, _) => scalar(value),
    }
}

fn scalar(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(b) => json!(b),
        Value::Int(n) | Value::Date(n) | Value::TimeMillis(n) => json!(n),
        Value::Long(n)
        | Value::TimeMicros(n)
        | Value::TimestampMillis(n)
        | Value::TimestampMicros(n)
        | Value::TimestampNanos(n) => json!(n),
        Value::Float(x) if x.is_finite() => json!(x),
        Value::Double(x) if x.is_finite() => json!(x),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => json!(hex(bytes)),
        Value::String(text) | Value::Enum(_, text) => json!(text),
        Value::Uuid(id) => json!(id.to_string()),
        Value::Union(_, inner) => scalar(inner),
        Value::Map(map) => {
            // It has no order of its own.
            let sorted: BTreeMap<_, _> = map.iter().collect();
            sorted.into_iter().map(|(k, v)| (k.clone(), scalar(v))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(scalar).collect(),
        Value::Record(fields) => {
            fields.iter().map(|(k, v)| (k.clone(), scalar(v))).collect::<serde_json::Map<_, _>>().into()
        }
        other => json!(format!("{other:?}")),
    }
}

/// The text of Debezium's struct for a numeric without a declared scale; `None` if it is another.
pub fn variable_scale(value: &Value) -> Option<String> {
    let Value::Record(fields) = value else { return None };
    match fields.as_slice() {
        [(s, Value::Int(scale)), (v, Value::Bytes(bytes))] if s == "scale" && v == "value" => {
            Some(decimal_text(bytes, usize::try_from(*scale).ok()?))
        }
        _ => None,
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text that Postgres prints for an unscaled two's-complement integer (big-endian).
pub fn decimal_text(unscaled: &[u8], scale: usize) -> String {
    let negative = unscaled.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude = unscaled.to_vec();
    if negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            let (sum, over) = (!*byte).overflowing_add(u8::from(carry));
            *byte = sum;
            carry = over;
        }
    }
    let mut digits = Vec::new(); // least significant first
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut remainder = 0u16;
        for byte in &mut magnitude {
            let part = remainder << 8 | u16::from(*byte);
            *byte = u8::try_from(part / 10).expect("a remainder below ten leaves a quotient below 256");
            remainder = part % 10;
        }
        digits.push(char::from(b'0' + u8::try_from(remainder).expect("below ten")));
    }
    while digits.len() <= scale {
        digits.push('0');
    }
    if scale > 0 {
        digits.insert(scale, '.');
    }
    if negative {
        digits.push('-');
    }
    digits.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_read_as_postgres_prints_them() {
        let cases: [(&[u8], usize, &str); 8] = [
            (&[0], 2, "0.00"),
            (&[1], 2, "0.01"),
            (&[0xff], 2, "-0.01"),
            (&[0x01, 0x00], 0, "256"),
            (&[0xff, 0x00], 1, "-25.6"),
            (&[0x80], 0, "-128"),
            (&[0x00, 0xe8, 0xd4, 0xa5, 0x0f, 0xff], 2, "9999999999.99"),
            (&[], 0, "0"),
        ];
        for (bytes, scale, text) in cases {
            assert_eq!(decimal_text(bytes, scale), text);
        }
    }

    #[test]
    fn a_frame_without_its_magic_byte_is_no_value() {
        assert!(unframe(&[0, 0, 0, 0, 7, 1]).is_some_and(|(id, body)| id == 7 && body == [1]));
        assert!(unframe(&[1, 0, 0, 0, 7, 1]).is_none());
        assert!(unframe(&[0, 0, 0]).is_none());
    }

    #[test]
    fn a_value_prints_as_plain_json_with_exact_decimals() {
        let text = r#"{"type":"record","name":"Envelope","namespace":"a.b","fields":[
            {"name":"before","type":["null",{"type":"record","name":"Value","fields":[
                {"name":"d","type":{"type":"bytes","scale":2,"precision":12,"logicalType":"decimal"}}]}]},
            {"name":"after","type":["null","Value"],"default":null}]}"#;
        let known = known(text).unwrap();
        let mut body: &[u8] = &[0, 2, 4, 0x04, 0xd2];
        let value = known.reader.read_value(&mut body).unwrap();
        let decoded = Decoded { schema_id: 1, value, known };
        assert_eq!(decoded.json(), json!({"before": null, "after": {"d": "12.34"}}));
    }
}
