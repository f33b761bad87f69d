//! BSON as the server sends it, read in place: pure functions over slices. Start at `Doc::elements`.
//!
//! Nothing is copied and nothing is skipped: whatever is not in the form of <https://bsonspec.org> is an error.
//! Text is bytes here, because the server takes text that is not UTF-8; what writes it decides.

mod decimal;
mod filter;
mod json;
mod printable;
mod words;

pub use filter::{Along, FieldRules, Renamed, Rule};
pub use json::{Dialect, Fault, Fraction, Style, put_date, put_value, write_document, write_text};

/// Why bytes are no BSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Ends in the middle of something.
    Cut,
    /// A length that does not fit what it measures.
    Length,
    /// A type that the specification does not have.
    Type(u8),
    /// A boolean that is neither.
    Bool(u8),
    /// Nested deeper than the server allows.
    Depth,
    /// A field that must be there is not, or is of another type.
    Field(&'static str),
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cut => f.write_str("it is cut short"),
            Self::Length => f.write_str("a length does not fit"),
            Self::Type(code) => write!(f, "there is no type {code:#04x}"),
            Self::Bool(byte) => write!(f, "a boolean is {byte}"),
            Self::Depth => f.write_str("it is nested too deeply"),
            Self::Field(name) => write!(f, "field {name} is missing or of another type"),
        }
    }
}

impl std::error::Error for Malformed {}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Double(f64),
    Text(&'a [u8]),
    Document(Doc<'a>),
    Array(Doc<'a>),
    Binary {
        subtype: u8,
        bytes: &'a [u8],
    },
    Undefined,
    ObjectId(&'a [u8; 12]),
    Bool(bool),
    /// Milliseconds since 1970.
    DateTime(i64),
    Null,
    Regex {
        pattern: &'a [u8],
        options: &'a [u8],
    },
    DbPointer {
        namespace: &'a [u8],
        id: &'a [u8; 12],
    },
    Code(&'a [u8]),
    Symbol(&'a [u8]),
    CodeWithScope {
        code: &'a [u8],
        scope: Doc<'a>,
    },
    Int32(i32),
    /// Seconds in the high half, the increment in the low one.
    Timestamp(u64),
    Int64(i64),
    Decimal128(&'a [u8; 16]),
    MinKey,
    MaxKey,
}

impl<'a> Value<'a> {
    pub fn document(self, field: &'static str) -> Result<Doc<'a>, Malformed> {
        match self {
            Self::Document(doc) => Ok(doc),
            _ => Err(Malformed::Field(field)),
        }
    }

    pub fn array(self, field: &'static str) -> Result<Doc<'a>, Malformed> {
        match self {
            Self::Array(doc) => Ok(doc),
            _ => Err(Malformed::Field(field)),
        }
    }

    pub fn text(self, field: &'static str) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(Malformed::Field(field)),
        }
    }

    pub fn timestamp(self, field: &'static str) -> Result<u64, Malformed> {
        match self {
            Self::Timestamp(time) => Ok(time),
            _ => Err(Malformed::Field(field)),
        }
    }

    /// A whole number of any type.
    pub fn integer(self, field: &'static str) -> Result<i64, Malformed> {
        match self {
            Self::Int32(number) => Ok(i64::from(number)),
            Self::Int64(number) => Ok(number),
            // Commands answer with doubles where a shell once typed the number.
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
            Self::Double(number) if number.fract() == 0.0 && number.abs() < 9e15 => Ok(number as i64),
            _ => Err(Malformed::Field(field)),
        }
    }
}

/// The elements of a document or an array: its bytes without length and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doc<'a>(&'a [u8]);

impl<'a> Doc<'a> {
    /// A whole document, from its length to its end.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let doc = document(&mut rest)?;
        if rest.is_empty() { Ok(doc) } else { Err(Malformed::Length) }
    }

    /// The elements alone, as `as_bytes` gave them.
    pub fn of_elements(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The elements' bytes: equal for equal documents.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Name and value, in order. Ends after the first error.
    pub fn elements(self) -> Elements<'a> {
        Elements { rest: self.0 }
    }

    /// The first field of that name.
    pub fn get(self, name: &str) -> Result<Option<Value<'a>>, Malformed> {
        for element in self.elements() {
            let (found, value) = element?;
            if found == name.as_bytes() {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The first field of that name as an element without a name: two ids are one where these bytes are equal.
    pub fn nameless(self, name: &'static str) -> Result<Box<[u8]>, Malformed> {
        let mut elements = self.elements();
        loop {
            let from = elements.rest;
            let (found, _) = elements.next().ok_or(Malformed::Field(name))??;
            if found == name.as_bytes() {
                let element = from.get(..from.len() - elements.rest.len()).ok_or(Malformed::Cut)?;
                // Its type, its name with the zero byte behind that, its value.
                let code = element.get(..1).ok_or(Malformed::Cut)?;
                let value = element.get(1 + found.len()..).ok_or(Malformed::Cut)?;
                return Ok([code, value].concat().into());
            }
        }
    }

    pub fn need(self, name: &'static str) -> Result<Value<'a>, Malformed> {
        self.get(name)?.ok_or(Malformed::Field(name))
    }
}

#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<(&'a [u8], Value<'a>), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let element = element(&mut self.rest);
        if element.is_err() {
            self.rest = &[];
        }
        Some(element)
    }
}

fn element<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], Value<'a>), Malformed> {
    let [code] = *take::<1>(rest)?;
    let name = c_string(rest)?;
    Ok((name, value(code, rest)?))
}

fn value<'a>(code: u8, rest: &mut &'a [u8]) -> Result<Value<'a>, Malformed> {
    Ok(match code {
        0x01 => Value::Double(f64::from_le_bytes(*take(rest)?)),
        0x02 => Value::Text(string(rest)?),
        0x03 => Value::Document(document(rest)?),
        0x04 => Value::Array(document(rest)?),
        0x05 => binary(rest)?,
        0x06 => Value::Undefined,
        0x07 => Value::ObjectId(take(rest)?),
        0x08 => match *take::<1>(rest)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => return Err(Malformed::Bool(other)),
        },
        0x09 => Value::DateTime(i64::from_le_bytes(*take(rest)?)),
        0x0A => Value::Null,
        0x0B => Value::Regex { pattern: c_string(rest)?, options: c_string(rest)? },
        0x0C => Value::DbPointer { namespace: string(rest)?, id: take(rest)? },
        0x0D => Value::Code(string(rest)?),
        0x0E => Value::Symbol(string(rest)?),
        0x0F => code_with_scope(rest)?,
        0x10 => Value::Int32(i32::from_le_bytes(*take(rest)?)),
        0x11 => Value::Timestamp(u64::from_le_bytes(*take(rest)?)),
        0x12 => Value::Int64(i64::from_le_bytes(*take(rest)?)),
        0x13 => Value::Decimal128(take(rest)?),
        0xFF => Value::MinKey,
        0x7F => Value::MaxKey,
        other => return Err(Malformed::Type(other)),
    })
}

#[inline]
fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], Malformed> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(Malformed::Cut)?;
    *rest = tail;
    Ok(head)
}

fn bytes<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = rest.split_at_checked(count).ok_or(Malformed::Cut)?;
    *rest = tail;
    Ok(head)
}

fn length(rest: &mut &[u8]) -> Result<usize, Malformed> {
    usize::try_from(i32::from_le_bytes(*take(rest)?)).map_err(|_| Malformed::Length)
}

fn c_string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let end = end_of_c_string(rest).ok_or(Malformed::Cut)?;
    let text = bytes(rest, end)?;
    take::<1>(rest)?;
    Ok(text)
}

/// Eight bytes at a time: most names are no longer.
fn end_of_c_string(bytes: &[u8]) -> Option<usize> {
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let zeros = words::zeros_in(u64::from_le_bytes(*word));
        if zeros != 0 {
            return Some(8 * index + zeros.trailing_zeros() as usize / 8);
        }
    }
    let from = bytes.len() - tail.len();
    tail.iter().position(|byte| *byte == 0).map(|end| from + end)
}

/// Its length counts the zero byte at its end.
fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len = length(rest)?;
    match bytes(rest, len)?.split_last() {
        Some((0, text)) => Ok(text),
        _ => Err(Malformed::Length),
    }
}

/// Its length counts itself and the zero byte at its end.
fn document<'a>(rest: &mut &'a [u8]) -> Result<Doc<'a>, Malformed> {
    let len = length(rest)?;
    let inner = bytes(rest, len.checked_sub(4).ok_or(Malformed::Length)?)?;
    match inner.split_last() {
        Some((0, elements)) => Ok(Doc(elements)),
        _ => Err(Malformed::Length),
    }
}

fn binary<'a>(rest: &mut &'a [u8]) -> Result<Value<'a>, Malformed> {
    let len = length(rest)?;
    let [subtype] = *take::<1>(rest)?;
    let mut inner = bytes(rest, len)?;
    // The old binary has its length once more inside; drivers show what follows it.
    if subtype == 2 {
        let len = length(&mut inner)?;
        if len != inner.len() {
            return Err(Malformed::Length);
        }
    }
    Ok(Value::Binary { subtype, bytes: inner })
}

fn code_with_scope<'a>(rest: &mut &'a [u8]) -> Result<Value<'a>, Malformed> {
    let len = length(rest)?;
    let mut inner = bytes(rest, len.checked_sub(4).ok_or(Malformed::Length)?)?;
    let code = string(&mut inner)?;
    let scope = document(&mut inner)?;
    if inner.is_empty() { Ok(Value::CodeWithScope { code, scope }) } else { Err(Malformed::Length) }
}

#[cfg(test)]
mod tests;
