//! Events that are documents, as Debezium's MongoEventRouter has them: the type of a member is that of each event's own
//! value. Start at [`of_event`].

use crate::encode::connect::{Base, Schema};
use crate::encode::flat::Arrays;
use crate::encode::flat::node::{self, Node};
use crate::encode::flat::shape;
use crate::encode::outbox::Poison;
use crate::encode::target::View;
use crate::encode::{json, object};

use super::Cells;
use super::cell::Cell;

/// The name of the schema of a document's text, from which Debezium derives those of its members.
const DOCUMENT: &str = "io.debezium.data.Json";

/// What the schema of a value of several members is called.
pub(super) fn value_name(routed_by: &str) -> String {
    format!("io.debezium.data.{routed_by}.Json")
}

/// The cells of one event. A payload that is a document stays one, or becomes its text.
pub(super) fn of_event(
    cells: &Cells,
    row: View<'_>,
    (payload, expands): (&str, bool),
) -> Result<Cells, Poison> {
    let cell = |cell: &Cell| of_member(cell, row, &cell.name);
    let of_payload = match row.text(cells.payload.index) {
        Some(raw) if raw.first() == Some(&b'{') && !expands => {
            // One that stands for a single value is no document.
            match node::value(raw).ok_or(Poison::BadJson)? {
                Node::Document(_) => {
                    let text = String::from_utf8(indented(raw)).map_err(|_| Poison::BadJson)?;
                    cells.payload.with(Schema::new(Base::String).optional(), Node::Text(text))
                }
                _ => of_member(&cells.payload, row, payload)?,
            }
        }
        _ => of_member(&cells.payload, row, payload)?,
    };
    Ok(Cells {
        key: cell(&cells.key)?,
        payload: of_payload,
        headers: cells.headers.iter().map(cell).collect::<Result<_, _>>()?,
        envelope: cells.envelope.iter().map(cell).collect::<Result<_, _>>()?,
    })
}

fn of_member(cell: &Cell, row: View<'_>, name: &str) -> Result<Cell, Poison> {
    let Some(raw) = row.text(cell.index) else { return Ok(cell.clone()) };
    let node = node::value(raw).ok_or(Poison::BadJson)?;
    let path = format!("{DOCUMENT}.{name}");
    match shape::schema(&node, &path, Arrays::Lists) {
        Ok(Some(schema)) => Ok(cell.with(schema, node)),
        Ok(None) => Ok(cell.clone()),
        // An array of several types, which no schema of Connect takes.
        Err(_) => Err(Poison::BadField),
    }
}

/// Writes a member as the text that it is routed, keyed and timed by.
pub(in crate::encode) fn put_text(raw: &[u8], out: &mut Vec<u8>) {
    match node::value(raw) {
        Some(Node::Text(text)) => out.extend_from_slice(text.as_bytes()),
        Some(Node::Int32(number)) => out.extend_from_slice(number.to_string().as_bytes()),
        Some(Node::Int64(number) | Node::Time(number)) => {
            out.extend_from_slice(number.to_string().as_bytes())
        }
        _ => object::put_text(raw, out),
    }
}

/// JSON on its way to another spelling; texts, and names, are as they are written, so that none is empty.
enum Tree {
    Text(Vec<u8>),
    Object(Vec<(Vec<u8>, Tree)>),
    Array(Vec<Tree>),
}

/// Extended JSON in its canonical form, as the driver indents it.
fn indented(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() * 2);
    canonical(raw).put(1, &mut out);
    out
}

fn one(name: &str, inner: Tree) -> Tree {
    Tree::Object(vec![(json::quoted(name).into_bytes(), inner)])
}

fn wrapped(name: &str, text: &str) -> Tree {
    one(name, Tree::Text(json::quoted(text).into_bytes()))
}

/// `raw` is JSON: it has been read.
fn canonical(raw: &[u8]) -> Tree {
    let raw = raw.trim_ascii();
    match raw.first() {
        Some(b'{') => object_of(&object::members(raw).unwrap_or_default()),
        Some(b'[') => {
            Tree::Array(object::elements(raw).unwrap_or_default().into_iter().map(canonical).collect())
        }
        Some(b'0'..=b'9' | b'-' | b'N' | b'I') => number(&String::from_utf8_lossy(raw)),
        _ => Tree::Text(raw.to_vec()),
    }
}

fn number(text: &str) -> Tree {
    let name = match text.parse::<i64>() {
        Err(_) => "$numberDouble",
        Ok(whole) if i32::try_from(whole).is_ok() => "$numberInt",
        Ok(_) => "$numberLong",
    };
    wrapped(name, text)
}

/// What stands for one value of BSON is written as the canonical form has it.
fn object_of(members: &[(&[u8], &[u8])]) -> Tree {
    let as_is = |raw: &[u8]| Tree::Text(raw.to_vec());
    let named = |name: &str, raw: &[u8]| (json::quoted(name).into_bytes(), as_is(raw));
    match members {
        [(br#""$date""#, ms)] if !ms.starts_with(b"{") => {
            let ms = match node::value(&[br#"{"$date":"#, *ms, b"}"].concat()) {
                Some(Node::Time(ms)) => ms.to_string(),
                _ => String::from_utf8_lossy(ms).into_owned(),
            };
            one("$date", wrapped("$numberLong", &ms))
        }
        [(br#""$binary""#, data), (br#""$type""#, kind)] => {
            one("$binary", Tree::Object(vec![named("base64", data), named("subType", kind)]))
        }
        [(br#""$regex""#, pattern), (br#""$options""#, options)] => one(
            "$regularExpression",
            Tree::Object(vec![named("pattern", pattern), named("options", options)]),
        ),
        [(br#""$timestamp""#, parts)] => {
            let parts = object::members(parts).unwrap_or_default().into_iter();
            one("$timestamp", Tree::Object(parts.map(|(name, part)| (name.to_vec(), as_is(part))).collect()))
        }
        [(name @ (br#""$minKey""# | br#""$maxKey""#), key)] => {
            Tree::Object(vec![(name.to_vec(), as_is(key))])
        }
        _ => Tree::Object(members.iter().map(|(name, raw)| (name.to_vec(), canonical(raw))).collect()),
    }
}

impl Tree {
    /// `depth` is that of what is inside.
    fn put(&self, depth: usize, out: &mut Vec<u8>) {
        let line = |nth: usize, depth: usize, out: &mut Vec<u8>| {
            out.extend_from_slice(if nth > 0 { b",\n" } else { b"\n" });
            out.resize(out.len() + depth * 2, b' ');
        };
        let ([open, close], parts): ([u8; 2], Vec<(&[u8], &Self)>) = match self {
            Self::Text(text) => return out.extend_from_slice(text),
            Self::Object(members) => (*b"{}", members.iter().map(|(name, part)| (&**name, part)).collect()),
            Self::Array(items) => (*b"[]", items.iter().map(|item| (&b""[..], item)).collect()),
        };
        out.push(open);
        for (nth, (name, part)) in parts.iter().enumerate() {
            line(nth, depth, out);
            if !name.is_empty() {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
            }
            part.put(depth + 1, out);
        }
        if !parts.is_empty() {
            line(0, depth - 1, out);
        }
        out.push(close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_indented_as_the_driver_of_java_does_it() {
        let strict = r#"{"i": 1, "l": {"$numberLong": "5"}, "d": 1.0E+20, "t": "x\"\u2028", "n": null, "o": {}, "e": [],
            "a": [true, {"x": 2}], "at": {"$date": 5}, "b": {"$binary": "AQID", "$type": "00"},
            "r": {"$regex": "a", "$options": "i"}, "s": {"$timestamp": {"t": 3, "i": 1}}, "k": {"$minKey": 1}}"#;
        let expected = r#"{
  "i": {
    "$numberInt": "1"
  },
  "l": {
    "$numberLong": "5"
  },
  "d": {
    "$numberDouble": "1.0E+20"
  },
  "t": "x\"\u2028",
  "n": null,
  "o": {},
  "e": [],
  "a": [
    true,
    {
      "x": {
        "$numberInt": "2"
      }
    }
  ],
  "at": {
    "$date": {
      "$numberLong": "5"
    }
  },
  "b": {
    "$binary": {
      "base64": "AQID",
      "subType": "00"
    }
  },
  "r": {
    "$regularExpression": {
      "pattern": "a",
      "options": "i"
    }
  },
  "s": {
    "$timestamp": {
      "t": 3,
      "i": 1
    }
  },
  "k": {
    "$minKey": 1
  }
}"#;
        assert_eq!(String::from_utf8(indented(strict.as_bytes())).unwrap(), expected);
    }

    #[test]
    fn what_an_event_is_routed_by_is_a_text() {
        for (raw, expected) in [
            (r#""a\"b""#, "a\"b"),
            (r#"{"$oid": "65"}"#, "65"),
            (r#"{"$numberLong": "9"}"#, "9"),
            ("4", "4"),
            (r#"{"$date": 5}"#, "5"),
        ] {
            let mut out = Vec::new();
            put_text(raw.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
