//! What a record's bytes say about its change, and why they may say nothing. Start at `Decoder::op`.

use std::collections::HashMap;
use std::io::{self, Read};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use millrace_core::encode::{Encoding, Envelope, Format};
use millrace_core::error::Result;
use tokio::runtime::Handle;

use crate::registry::Registry;

/// What the records of a change that follow depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Delete,
    /// No value.
    Tombstone,
    Other,
}

/// Why bytes are not what this connector writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The registry does not know the schema.
    SchemaMissing(u32),
    Foreign(&'static str),
}

/// In what a connector's relations are encoded: its routes may differ.
#[derive(Clone, Copy, Debug)]
struct Encodings {
    avro: bool,
    json: bool,
}

impl Encodings {
    fn of(format: &Format) -> Self {
        let is_json = |format: &Format| matches!(format.encoding, Encoding::Json { .. });
        Self {
            avro: format.is_somewhere(|format| format.encoding == Encoding::Avro),
            json: format.is_somewhere(is_json),
        }
    }

    /// Where both are written, the bytes tell: Confluent's frame begins with a zero, and no JSON does.
    fn is_avro(self, bytes: &[u8]) -> bool {
        self.avro && (!self.json || bytes.first() == Some(&0))
    }
}

pub struct Decoder {
    encodings: Encodings,
    /// Some records are rows or documents without the envelope around them.
    has_flat: bool,
    registry: Option<Registry>,
    /// For the registry, from the thread that reads.
    runtime: Handle,
    /// By id; `None`: there is none, or its text is no schema.
    readers: HashMap<u32, Option<GenericDatumReader<'static>>>,
}

impl Decoder {
    pub fn new(format: &Format, registry: Option<Registry>, runtime: Handle) -> Self {
        let encodings = Encodings::of(format);
        let has_flat = format.is_somewhere(|format| format.envelope == Envelope::Flat);
        Self { encodings, has_flat, registry, runtime, readers: HashMap::new() }
    }

    /// Reads key and value whole; the outer error is the registry's.
    pub fn op(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Result<Op, Unreadable>> {
        // A key is encoded as its value is.
        let is_avro = value.or(key).is_some_and(|bytes| self.encodings.is_avro(bytes));
        if is_avro && let Some(Err(unreadable)) = key.map(|key| self.avro(key)).transpose()? {
            return Ok(Err(unreadable));
        }
        let Some(value) = value else { return Ok(Ok(Op::Tombstone)) };
        let letter = match is_avro {
            true => self.avro(value)?.map(|value| letter_of(&value)),
            false => Ok(json_letter(value)),
        };
        Ok(letter.and_then(|letter| match letter.as_deref() {
            Some("d") => Ok(Op::Delete),
            Some(_) => Ok(Op::Other),
            None if self.has_flat => Ok(Op::Other),
            None => Err(Unreadable::Foreign("its value is not an event")),
        }))
    }

    /// Reads the value of an event whole, by the schema of its id; the outer error is the registry's.
    pub fn event(&mut self, value: &[u8]) -> Result<Result<Op, Unreadable>> {
        Ok(self.avro(value)?.map(|_| Op::Other))
    }

    fn avro(&mut self, frame: &[u8]) -> Result<Result<Value, Unreadable>> {
        let Some((id, body)) = unframed(frame) else {
            return Ok(Err(Unreadable::Foreign("it does not begin as Avro with a schema does")));
        };
        if !self.readers.contains_key(&id) {
            let text = match &self.registry {
                Some(registry) => self.runtime.block_on(registry.text_of(id))?,
                None => None,
            };
            self.readers.insert(id, text.and_then(|text| reader_of(&text)));
        }
        let Some(Some(reader)) = self.readers.get(&id) else {
            return Ok(Err(Unreadable::SchemaMissing(id)));
        };
        Ok(whole(reader, body).ok_or(Unreadable::Foreign("its bytes do not fit its schema")))
    }
}

/// The value of all these bytes, and of no more than there are.
fn whole(reader: &GenericDatumReader<'static>, rest: &[u8]) -> Option<Value> {
    let mut body = Body { rest, fell_short: false };
    let value = reader.read_value(&mut body).ok()?;
    (body.rest.is_empty() && !body.fell_short).then_some(value)
}

/// Bytes that remember whether more of them were wanted: apache-avro takes their end for a null where a text or a
/// number is due.
struct Body<'a> {
    rest: &'a [u8],
    fell_short: bool,
}

impl Read for Body<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.rest.read(out)?;
        self.fell_short |= count < out.len();
        Ok(count)
    }
}

fn reader_of(text: &str) -> Option<GenericDatumReader<'static>> {
    // Leaked on purpose: the reader borrows it, both are needed until the audit ends, and the process with it.
    let schema: &'static Schema = Box::leak(Box::new(Schema::parse_str(text).ok()?));
    GenericDatumReader::builder(schema).build().ok()
}

/// Confluent's frame: a zero, the schema's id, the value.
fn unframed(frame: &[u8]) -> Option<(u32, &[u8])> {
    let (0, rest) = frame.split_first()? else { return None };
    let (id, body) = rest.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*id), body))
}

fn letter_of(value: &Value) -> Option<String> {
    let Value::Record(fields) = value else { return None };
    let (_, op) = fields.iter().find(|(name, _)| name == "op")?;
    let (_, source) = fields.iter().find(|(name, _)| name == "source")?;
    if !matches!(source, Value::Record(_)) {
        return None;
    }
    // A document's may be null, as its schema has it.
    let op = if let Value::Union(_, op) = op { op } else { op };
    match op {
        Value::String(letter) => Some(letter.clone()),
        _ => None,
    }
}

/// With its schema beside it or without.
fn json_letter(value: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(value).ok()?;
    let event = json.get("payload").unwrap_or(&json);
    // A row of its own may have a column of that name, and no block of the source beside it.
    event.get("source")?.as_object()?;
    event.get("op")?.as_str().map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operation_of_a_json_event_is_found_with_and_without_its_schema() {
        assert_eq!(json_letter(br#"{"op":"d","source":{},"after":null}"#).as_deref(), Some("d"));
        assert_eq!(json_letter(br#"{"schema":{},"payload":{"op":"c","source":{}}}"#).as_deref(), Some("c"));
        assert_eq!(json_letter(br#"{"op":"d","id":1}"#), None, "a flat row with a column of that name");
        assert_eq!(json_letter(b"[1]"), None);
        assert_eq!(json_letter(b"what?"), None);
    }

    #[test]
    fn the_operation_of_an_avro_event_is_found_where_it_may_be_null_too() {
        let letter = || Value::String("d".to_owned());
        for (op, expected) in [
            (letter(), Some("d")),
            (Value::Union(1, Box::new(letter())), Some("d")),
            (Value::Union(0, Box::new(Value::Null)), None),
        ] {
            let source = Value::Record(Vec::new());
            let mut event = vec![("source".to_owned(), source), ("op".to_owned(), op)];
            assert_eq!(letter_of(&Value::Record(event.clone())).as_deref(), expected);
            assert_eq!(letter_of(&Value::Record(event.split_off(1))), None, "a flat row with such a column");
        }
        assert_eq!(letter_of(&letter()), None);
    }

    #[test]
    fn bytes_tell_their_encoding_only_where_a_connector_has_both() {
        let (avro, json) = (b"\0\0\0\0\x01x", b"{}");
        let mut format = Format::new("shop");
        assert!(Encodings::of(&format).is_avro(avro) && Encodings::of(&format).is_avro(json));
        format.encoding = Encoding::Json { schemas: false };
        assert!(!Encodings::of(&format).is_avro(avro) && !Encodings::of(&format).is_avro(json));
        let both = Encodings { avro: true, json: true };
        assert!(both.is_avro(avro) && !both.is_avro(json));
    }

    #[test]
    fn a_value_is_read_whole_or_not_at_all() {
        let fields = r#"[{"name": "a", "type": "long"}, {"name": "b", "type": "string"}]"#;
        let reader = reader_of(&format!(r#"{{"type": "record", "name": "r", "fields": {fields}}}"#)).unwrap();
        let bytes = b"\x02\x06abc";
        assert!(whole(&reader, bytes).is_some());
        for end in 0..bytes.len() {
            assert_eq!(whole(&reader, &bytes[..end]), None, "{end}");
        }
        assert_eq!(whole(&reader, b"\x02\x06abcd"), None);
    }

    #[test]
    fn only_confluents_frame_is_taken_for_avro() {
        assert_eq!(unframed(&[0, 0, 0, 1, 2, 9]), Some((258, &[9_u8][..])));
        assert_eq!(unframed(&[1, 0, 0, 1, 2, 9]), None);
        assert_eq!(unframed(&[0, 0, 0]), None);
    }
}
