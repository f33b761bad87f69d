//! One record as one line: `{"topic":..,"key":..,"value":..,"headers":{..}}`. Key and value are the JSON that
//! the encoder wrote, copied as it is; a tombstone's value is null.

use std::io::Write;

use millrace_core::batch::{EncodedBatch, Record};

/// Appends the record's line. The topic and the headers are text; the encoder's JSON has no line breaks.
pub fn append(out: &mut Vec<u8>, topic: &str, batch: &EncodedBatch, record: &Record) {
    out.extend_from_slice(b"{\"topic\":");
    text(out, topic);
    out.extend_from_slice(b",\"key\":");
    out.extend_from_slice(record.key.map_or(b"null", |span| batch.slice(span)));
    out.extend_from_slice(b",\"value\":");
    out.extend_from_slice(record.value.map_or(b"null", |span| batch.slice(span)));
    let mut headers = batch.headers(record).peekable();
    if headers.peek().is_some() {
        out.extend_from_slice(b",\"headers\":");
        for (nth, (name, value)) in headers.enumerate() {
            out.push(if nth == 0 { b'{' } else { b',' });
            text(out, name);
            out.push(b':');
            match value {
                Some(value) => text(out, &String::from_utf8_lossy(value)),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"}\n");
}

fn text(out: &mut Vec<u8>, text: &str) {
    // Writing to memory cannot fail, and a string is always JSON.
    let _ = write!(out, "{}", serde_json::Value::from(text));
}
