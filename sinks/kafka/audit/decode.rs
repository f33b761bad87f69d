//! What a record's bytes say about its change, and why they may say nothing. Start at `Decoder::op`.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use millrace_core::encode::Encoding;
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

pub struct Decoder {
    encoding: Encoding,
    /// Some records are rows or documents without the envelope around them.
    has_flat: bool,
    registry: Option<Registry>,
    /// For the registry, from the thread that reads.
    runtime: Handle,
    /// By id; `None`: there is none, or its text is no schema.
    readers: HashMap<u32, Option<GenericDatumReader<'static>>>,
}

impl Decoder {
    pub fn new(encoding: Encoding, has_flat: bool, registry: Option<Registry>, runtime: Handle) -> Self {
        Self { encoding, has_flat, registry, runtime, readers: HashMap::new() }
    }

    /// Reads key and value whole; the outer error is the registry's.
    pub fn op(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Result<Op, Unreadable>> {
        if self.encoding == Encoding::Avro
            && let Some(Err(unreadable)) = key.map(|key| self.avro(key)).transpose()?
        {
            return Ok(Err(unreadable));
        }
        let Some(value) = value else { return Ok(Ok(Op::Tombstone)) };
        let letter = match self.encoding {
            Encoding::Avro => self.avro(value)?.map(|value| letter_of(&value)),
            Encoding::Json { .. } => Ok(json_letter(value)),
        };
        Ok(letter.and_then(|letter| match letter.as_deref() {
            Some("d") => Ok(Op::Delete),
            Some(_) => Ok(Op::Other),
            None if self.has_flat => Ok(Op::Other),
            None => Err(Unreadable::Foreign("its value is not an event")),
        }))
    }

    fn avro(&mut self, frame: &[u8]) -> Result<Result<Value, Unreadable>> {
        let Some((id, mut body)) = unframed(frame) else {
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
        let value = reader.read_value(&mut body).ok();
        let whole = value.filter(|_| body.is_empty());
        Ok(whole.ok_or(Unreadable::Foreign("its bytes do not fit its schema")))
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
    fn only_confluents_frame_is_taken_for_avro() {
        assert_eq!(unframed(&[0, 0, 0, 1, 2, 9]), Some((258, &[9_u8][..])));
        assert_eq!(unframed(&[1, 0, 0, 1, 2, 9]), None);
        assert_eq!(unframed(&[0, 0, 0]), None);
    }
}
