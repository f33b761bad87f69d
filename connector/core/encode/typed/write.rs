//! JSON written by a schema of Avro: exactly, or not at all. Start at `Schema::put`.
//!
//! A number that the type cannot hold, a member that the schema does not have, a decimal with more digits than
//! its scale: each is a misfit, never a value that is almost the same. Times are RFC 3339 or the number itself;
//! bytes are as Avro's own JSON has them, a character a byte.

use std::fmt;

use super::schema::{Field, Id, Node, Schema};
use crate::encode::avro::{Avro, put_long};
use crate::encode::lexical::decimal::{Decimal, Room};
use crate::encode::lexical::{number, time};
use crate::encode::object;
use crate::encode::value::Writer;

/// JSON itself is not read deeper than this.
const DEPTH_MAX: usize = 128;

/// What does not fit, and where. Values are not named: they may be secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// Members from the outermost on, with a dot between them.
    path: String,
    what: &'static str,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(self.what) } else { write!(f, "{}: {}", self.path, self.what) }
    }
}

impl Misfit {
    #[cold]
    fn new(what: &'static str) -> Self {
        Self { path: String::new(), what }
    }

    #[cold]
    fn inside(self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{name}.{}", self.path) };
        Self { path, ..self }
    }
}

type Put = Result<(), Misfit>;

impl Schema {
    /// Adds a value; `text` is JSON for certain.
    pub(crate) fn put(&self, text: &[u8], out: &mut Vec<u8>) -> Put {
        self.value(self.root, text.trim_ascii(), 0, out)
    }

    /// The same by a part of the schema.
    pub(super) fn put_at(&self, node: Id, text: &[u8], out: &mut Vec<u8>) -> Put {
        self.value(node, text, 0, out)
    }

    fn value(&self, id: Id, text: &[u8], depth: usize, out: &mut Vec<u8>) -> Put {
        if depth > DEPTH_MAX {
            return Err(Misfit::new("is too deep"));
        }
        let Some(node) = self.nodes.get(id) else { return Err(Misfit::new("has no type")) };
        match node {
            Node::Open => return Err(Misfit::new("has a type that is not whole")),
            Node::Null if text == b"null" => {}
            Node::Null => return Err(Misfit::new("is not null")),
            Node::Boolean => Avro::boolean(out, boolean(text)?),
            Node::Int => put_long(out, int(text)?),
            Node::Long => put_long(out, long(text)?),
            Node::Float => Avro::float(out, plain_number(text)?).map_err(|_| Misfit::new("is no float"))?,
            Node::Double => {
                Avro::double(out, plain_number(text)?).map_err(|_| Misfit::new("is no double"))?
            }
            Node::Text => with_text(text, |text| {
                Avro::string(out, text.as_bytes());
                Ok(())
            })?,
            Node::Uuid => with_text(text, |text| {
                if !is_uuid(text) {
                    return Err(Misfit::new("is no uuid"));
                }
                Avro::string(out, text.as_bytes());
                Ok(())
            })?,
            Node::Bytes => Avro::bytes(out, &bytes(text)?),
            Node::Fixed(size) => {
                let bytes = bytes(text)?;
                if bytes.len() != *size {
                    return Err(Misfit::new("has another size than its fixed"));
                }
                out.extend_from_slice(&bytes);
            }
            Node::Decimal { scale, precision, size } => decimal(text, *scale, *precision, *size, out)?,
            Node::Date => put_long(out, moment(text, Unit::Days)?),
            Node::TimeMillis => put_long(out, moment(text, Unit::DayMillis)?),
            Node::TimeMicros => put_long(out, moment(text, Unit::DayMicros)?),
            Node::TimestampMillis => put_long(out, moment(text, Unit::Millis)?),
            Node::TimestampMicros => put_long(out, moment(text, Unit::Micros)?),
            Node::Enum(symbols) => with_text(text, |text| {
                let at = symbols.iter().position(|symbol| symbol == text);
                let at = at.and_then(|at| i64::try_from(at).ok());
                put_long(out, at.ok_or(Misfit::new("is no symbol of its enum"))?);
                Ok(())
            })?,
            Node::Array(items) => self.array(*items, text, depth, out)?,
            Node::Map(values) => self.map(*values, text, depth, out)?,
            Node::Union(branches) => self.union(branches, text, depth, out)?,
            Node::Record(fields) => self.record(fields, text, depth, out)?,
        }
        Ok(())
    }

    fn array(&self, items: Id, text: &[u8], depth: usize, out: &mut Vec<u8>) -> Put {
        let elements = object::elements(text).ok_or(Misfit::new("is no list"))?;
        Avro::array_start(out, elements.len());
        for element in &elements {
            self.value(items, element, depth + 1, out)?;
        }
        Avro::array_end(out, elements.len());
        Ok(())
    }

    fn map(&self, values: Id, text: &[u8], depth: usize, out: &mut Vec<u8>) -> Put {
        let members = object::members(text).ok_or(Misfit::new("is no object"))?;
        Avro::array_start(out, members.len());
        for (name, value) in &members {
            let mut key = Vec::new();
            object::put_text(name, &mut key);
            Avro::string(out, &key);
            self.value(values, value, depth + 1, out)
                .map_err(|misfit| misfit.inside(&String::from_utf8_lossy(&key)))?;
        }
        Avro::array_end(out, members.len());
        Ok(())
    }

    /// The first branch that takes the value.
    fn union(&self, branches: &[Id], text: &[u8], depth: usize, out: &mut Vec<u8>) -> Put {
        let start = out.len();
        let mut last = Misfit::new("has no type");
        for (at, branch) in (0_i64..).zip(branches) {
            put_long(out, at);
            match self.value(*branch, text, depth + 1, out) {
                Ok(()) => return Ok(()),
                // Of several reasons the last one is that of the type that is not null, as unions are written.
                Err(misfit) => last = misfit,
            }
            out.truncate(start);
        }
        Err(last)
    }

    fn record(&self, fields: &[Field], text: &[u8], depth: usize, out: &mut Vec<u8>) -> Put {
        let members = object::members(text).ok_or(Misfit::new("is no object"))?;
        for field in fields {
            let value = members.iter().rev().find(|(written, _)| object::is_named(written, &field.name));
            match (value, &field.default) {
                (Some((_, value)), _) => self
                    .value(field.node, value, depth + 1, out)
                    .map_err(|misfit| misfit.inside(&field.name))?,
                (None, Some(default)) => out.extend_from_slice(default),
                (None, None) => return Err(Misfit::new("is missing").inside(&field.name)),
            }
        }
        let is_known = |written: &[u8]| fields.iter().any(|field| object::is_named(written, &field.name));
        match members.iter().find(|(written, _)| !is_known(written)) {
            None => Ok(()),
            Some((written, _)) => {
                let name = String::from_utf8_lossy(written).trim_matches('"').to_owned();
                Err(Misfit::new("is no field of the schema").inside(&name))
            }
        }
    }
}

fn boolean(text: &[u8]) -> Result<bool, Misfit> {
    match text {
        b"true" => Ok(true),
        b"false" => Ok(false),
        _ => Err(Misfit::new("is no boolean")),
    }
}

fn long(text: &[u8]) -> Result<i64, Misfit> {
    number::int(text).map_err(|_| Misfit::new("is no long"))
}

fn int(text: &[u8]) -> Result<i64, Misfit> {
    let number = number::int(text).ok().filter(|number| i32::try_from(*number).is_ok());
    number.ok_or(Misfit::new("is no int"))
}

/// A number of JSON, and no text that reads like one.
fn plain_number(text: &[u8]) -> Result<&[u8], Misfit> {
    match text.first() {
        Some(b'-' | b'0'..=b'9') => Ok(text),
        _ => Err(Misfit::new("is no number")),
    }
}

fn with_text(text: &[u8], put: impl FnOnce(&str) -> Put) -> Put {
    let inner = text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    match inner.filter(|inner| !inner.contains(&b'\\')).and_then(|inner| std::str::from_utf8(inner).ok()) {
        Some(plain) => put(plain),
        None => match serde_json::from_slice::<String>(text) {
            Ok(text) => put(&text),
            Err(_) => Err(Misfit::new("is no text")),
        },
    }
}

fn bytes(text: &[u8]) -> Result<Vec<u8>, Misfit> {
    let mut found = Ok(Vec::new());
    with_text(text, |text| {
        found = text
            .chars()
            .map(|c| u8::try_from(u32::from(c)).map_err(|_| Misfit::new("is no bytes")))
            .collect();
        Ok(())
    })?;
    found
}

fn decimal(text: &[u8], scale: usize, precision: usize, size: Option<usize>, out: &mut Vec<u8>) -> Put {
    // A number, or a text for those whose JSON has doubles only.
    let plain = text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(text);
    let parsed = Decimal::parse(plain).map_err(|_| Misfit::new("is no decimal"))?;
    if parsed.digits_before_point() + scale > precision {
        return Err(Misfit::new("has more digits than its decimal"));
    }
    let mut room = Room::default();
    let unscaled = parsed
        .unscaled(scale, &mut room)
        .map_err(|_| Misfit::new("has more digits than its decimal's scale"))?;
    match size {
        None => Avro::bytes(out, unscaled),
        Some(size) if unscaled.len() <= size => {
            let fill = if unscaled.first().is_some_and(|byte| *byte & 0x80 != 0) { 0xff } else { 0 };
            out.extend(std::iter::repeat_n(fill, size - unscaled.len()));
            out.extend_from_slice(unscaled);
        }
        Some(_) => return Err(Misfit::new("has more digits than its fixed")),
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Unit {
    Days,
    DayMillis,
    DayMicros,
    Millis,
    Micros,
}

/// A number as it is, or a text by its unit.
fn moment(text: &[u8], unit: Unit) -> Result<i64, Misfit> {
    const NONE: &str = "is no time of its type";
    if !text.starts_with(b"\"") {
        return match unit {
            Unit::Days | Unit::DayMillis => int(text),
            Unit::DayMicros | Unit::Millis | Unit::Micros => long(text),
        };
    }
    let mut found = Err(Misfit::new(NONE));
    with_text(text, |text| {
        let text = text.as_bytes();
        let micros = match unit {
            Unit::Days => {
                found = time::date_days(text).map(i64::from).map_err(|_| Misfit::new(NONE));
                return Ok(());
            }
            Unit::DayMillis | Unit::DayMicros => time::time_us(text),
            Unit::Millis | Unit::Micros => time::rfc3339_us(text),
        };
        let micros = micros.map_err(|_| Misfit::new(NONE))?;
        found = match unit {
            Unit::DayMillis | Unit::Millis if micros % 1000 == 0 => Ok(micros / 1000),
            Unit::DayMillis | Unit::Millis => Err(Misfit::new("has digits below a millisecond")),
            Unit::DayMicros | Unit::Micros | Unit::Days => Ok(micros),
        };
        Ok(())
    })?;
    found
}

fn is_uuid(text: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match dashes.contains(&at) {
            true => byte == b'-',
            false => byte.is_ascii_hexdigit(),
        })
}
