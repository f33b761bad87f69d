//! BSON to JSON text, in the dialects that consumers know: start at `write_document`.
//!
//! The first three are those of MongoDB's Java driver to the byte, for Debezium's records are made of them:
//! its strict mode (extended JSON v1), relaxed and canonical (v2). `Plain` is JSON without types.

use millrace_core::encode::{base64, java_double};

use super::filter::{FieldRules, Renamed};
use super::printable::is_plain;
use super::{Doc, Malformed, Value, decimal, words};

/// The server allows 100 levels, and a change event adds some.
const DEPTH_MAX: u32 = 200;
/// The last millisecond of the year 9999.
const LAST_WRITABLE_MS: i64 = 253_402_300_799_999;

/// How values look that JSON has no type for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// Extended JSON v1, in which Debezium writes documents.
    #[default]
    Strict,
    /// Extended JSON v2, every type told.
    Canonical,
    /// Extended JSON v2, numbers and dates as JSON has them.
    Relaxed,
    /// Numbers as numbers, dates as RFC 3339, ids as hexadecimal text.
    Plain,
}

/// A dialect and the blanks in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub dialect: Dialect,
    /// A blank after each comma, as the driver has it unless it is told otherwise.
    pub spaced: bool,
}

impl Style {
    pub fn compact(dialect: Dialect) -> Self {
        Self { dialect, spaced: false }
    }

    pub fn comma(self) -> &'static [u8] {
        if self.spaced { b", " } else { b"," }
    }

    pub fn colon(self) -> &'static [u8] {
        if self.dialect == Dialect::Plain { b":" } else { b": " }
    }
}

/// Why a document cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Malformed(Malformed),
    /// A renamed field would stand beside one of its new name.
    NameTaken(String),
}

impl From<Malformed> for Fault {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

/// Adds a document, without the fields that the rules leave out and with the names that they give.
pub fn write_document(
    style: Style,
    doc: Doc<'_>,
    rules: Option<&FieldRules>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    document(style, doc, rules, 0, out)
}

/// Adds one value.
pub fn put_value(
    style: Style,
    value: Value<'_>,
    rules: Option<&FieldRules>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    put(style, value, rules, 0, out)
}

fn document(
    style: Style,
    doc: Doc<'_>,
    rules: Option<&FieldRules>,
    depth: u32,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    if depth > DEPTH_MAX {
        return Err(Malformed::Depth.into());
    }
    out.push(b'{');
    let mut is_first = true;
    let mut field = |name: &[u8], value, below, out: &mut Vec<u8>| {
        if !is_first {
            out.extend_from_slice(style.comma());
        }
        is_first = false;
        write_text(name, out);
        out.extend_from_slice(style.colon());
        put(style, value, below, depth + 1, out)
    };
    match rules {
        None => {
            for element in doc.elements() {
                let (name, value) = element?;
                field(name, value, None, out)?;
            }
        }
        Some(rules) => {
            rules.check_names(doc)?;
            let mut renamed = Vec::new();
            for element in doc.elements() {
                let (name, value) = element?;
                match rules.at(name) {
                    Renamed::Left => {}
                    Renamed::As(name, below, None) => field(name, value, below, out)?,
                    Renamed::As(name, below, Some(by)) => renamed.push((by, name, value, below)),
                }
            }
            renamed.sort_by_key(|(by, ..)| *by);
            for (_, name, value, below) in renamed {
                field(name, value, below, out)?;
            }
        }
    }
    out.push(b'}');
    Ok(())
}

/// Rules reach into the documents of an array, not into arrays inside it: as Debezium.
fn array(
    style: Style,
    items: Doc<'_>,
    rules: Option<&FieldRules>,
    depth: u32,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    if depth > DEPTH_MAX {
        return Err(Malformed::Depth.into());
    }
    out.push(b'[');
    for (index, element) in items.elements().enumerate() {
        let (_, value) = element?;
        if index > 0 {
            out.extend_from_slice(style.comma());
        }
        let rules = rules.filter(|_| matches!(value, Value::Document(_)));
        put(style, value, rules, depth + 1, out)?;
    }
    out.push(b']');
    Ok(())
}

#[inline]
fn put(
    style: Style,
    value: Value<'_>,
    rules: Option<&FieldRules>,
    depth: u32,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    match value {
        Value::Text(text) => write_text(text, out),
        Value::Document(doc) => document(style, doc, rules, depth, out)?,
        Value::Array(items) => array(style, items, rules, depth, out)?,
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int32(number) if style.dialect == Dialect::Canonical => {
            wrapped(out, "$numberInt", itoa::Buffer::new().format(number));
        }
        Value::Int32(number) => number_text(out, number),
        Value::Int64(number) => match style.dialect {
            Dialect::Strict | Dialect::Canonical => {
                wrapped(out, "$numberLong", itoa::Buffer::new().format(number))
            }
            Dialect::Relaxed | Dialect::Plain => number_text(out, number),
        },
        Value::Double(number) => double(style.dialect, number, out),
        Value::DateTime(ms) => date(style.dialect, ms, out),
        Value::ObjectId(id) if style.dialect == Dialect::Plain => quoted_hex(id, out),
        Value::ObjectId(id) => object_id(id, out),
        _ if style.dialect == Dialect::Plain => plain(value, depth, out)?,
        _ => extended(style, value, depth, out)?,
    }
    Ok(())
}

/// The types that are rare, as extended JSON has them.
fn extended(style: Style, value: Value<'_>, depth: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
    let strict = style.dialect == Dialect::Strict;
    let comma = style.comma();
    match value {
        Value::Binary { subtype, bytes } => {
            let (data, kind, end) = match strict {
                true => (&b"{\"$binary\": \""[..], &b"\"$type\": \""[..], &b"\"}"[..]),
                false => (&b"{\"$binary\": {\"base64\": \""[..], &b"\"subType\": \""[..], &b"\"}}"[..]),
            };
            out.extend_from_slice(data);
            base64(bytes, out);
            out.extend_from_slice(&[b"\"", comma, kind].concat());
            hex(&[subtype], out);
            out.extend_from_slice(end);
        }
        Value::Regex { pattern, options } => {
            let (first, second, end) = match strict {
                true => (&b"{\"$regex\": "[..], &b"\"$options\": "[..], &b"}"[..]),
                false => (&b"{\"$regularExpression\": {\"pattern\": "[..], &b"\"options\": "[..], &b"}}"[..]),
            };
            out.extend_from_slice(first);
            write_text(pattern, out);
            out.extend_from_slice(&[comma, second].concat());
            write_text(&sorted(options), out);
            out.extend_from_slice(end);
        }
        Value::DbPointer { namespace, id } => {
            let wraps = style.dialect == Dialect::Canonical;
            out.extend_from_slice(if wraps { b"{\"$dbPointer\": {\"$ref\": " } else { b"{\"$ref\": " });
            write_text(namespace, out);
            out.extend_from_slice(&[comma, b"\"$id\": "].concat());
            object_id(id, out);
            out.extend_from_slice(if wraps { b"}}" } else { b"}" });
        }
        Value::Code(code) => text_under("$code", code, out),
        Value::Symbol(symbol) => text_under("$symbol", symbol, out),
        Value::CodeWithScope { code, scope } => {
            out.extend_from_slice(b"{\"$code\": ");
            write_text(code, out);
            out.extend_from_slice(&[comma, b"\"$scope\": "].concat());
            document(style, scope, None, depth + 1, out)?;
            out.push(b'}');
        }
        Value::Timestamp(time) => {
            let (seconds, increment) = (time >> 32, time & 0xffff_ffff);
            out.extend_from_slice(format!("{{\"$timestamp\": {{\"t\": {seconds}").as_bytes());
            out.extend_from_slice(comma);
            out.extend_from_slice(format!("\"i\": {increment}}}}}").as_bytes());
        }
        Value::Decimal128(bytes) => {
            out.extend_from_slice(b"{\"$numberDecimal\": \"");
            decimal::put(bytes, out);
            out.extend_from_slice(b"\"}");
        }
        Value::Undefined => out.extend_from_slice(b"{\"$undefined\": true}"),
        Value::MinKey => out.extend_from_slice(b"{\"$minKey\": 1}"),
        Value::MaxKey => out.extend_from_slice(b"{\"$maxKey\": 1}"),
        // Written by `put`.
        _ => {}
    }
    Ok(())
}

/// The rare types without their names.
fn plain(value: Value<'_>, depth: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
    let style = Style::compact(Dialect::Plain);
    match value {
        Value::Binary { subtype: 4, bytes } if bytes.len() == 16 => {
            out.push(b'"');
            for (index, byte) in bytes.iter().enumerate() {
                if matches!(index, 4 | 6 | 8 | 10) {
                    out.push(b'-');
                }
                hex(&[*byte], out);
            }
            out.push(b'"');
        }
        Value::Binary { bytes, .. } => {
            out.push(b'"');
            base64(bytes, out);
            out.push(b'"');
        }
        Value::Regex { pattern, options } => {
            write_text(&[b"/", pattern, b"/", &sorted(options)[..]].concat(), out);
        }
        Value::DbPointer { namespace, id } => {
            out.extend_from_slice(b"{\"ref\":");
            write_text(namespace, out);
            out.extend_from_slice(b",\"id\":");
            quoted_hex(id, out);
            out.push(b'}');
        }
        Value::Code(text) | Value::Symbol(text) => write_text(text, out),
        Value::CodeWithScope { code, scope } => {
            out.extend_from_slice(b"{\"code\":");
            write_text(code, out);
            out.extend_from_slice(b",\"scope\":");
            document(style, scope, None, depth + 1, out)?;
            out.push(b'}');
        }
        Value::Timestamp(time) => {
            let (seconds, increment) = (time >> 32, time & 0xffff_ffff);
            out.extend_from_slice(format!("{{\"t\":{seconds},\"i\":{increment}}}").as_bytes());
        }
        Value::Decimal128(bytes) => {
            let start = out.len();
            decimal::put(bytes, out);
            // JSON has no number for these.
            if !out.last().is_some_and(u8::is_ascii_digit) {
                out.insert(start, b'"');
                out.push(b'"');
            }
        }
        Value::Undefined => out.extend_from_slice(b"null"),
        Value::MinKey => out.extend_from_slice(b"\"MinKey\""),
        Value::MaxKey => out.extend_from_slice(b"\"MaxKey\""),
        // Written by `put`.
        _ => {}
    }
    Ok(())
}

fn double(dialect: Dialect, number: f64, out: &mut Vec<u8>) {
    let text = if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        // The driver marks an exponent that is not negative.
        let text = java_double(number);
        match text.split_once('E') {
            Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}E+{exponent}"),
            _ => text,
        }
    };
    match dialect {
        Dialect::Canonical => wrapped(out, "$numberDouble", &text),
        Dialect::Relaxed if !number.is_finite() => wrapped(out, "$numberDouble", &text),
        Dialect::Plain if !number.is_finite() => write_text(text.as_bytes(), out),
        // The driver's strict mode writes NaN as it is, which is not JSON; Debezium's consumers know.
        Dialect::Strict | Dialect::Relaxed | Dialect::Plain => out.extend_from_slice(text.as_bytes()),
    }
}

fn date(dialect: Dialect, ms: i64, out: &mut Vec<u8>) {
    let writable = (0..=LAST_WRITABLE_MS).contains(&ms);
    match dialect {
        Dialect::Strict => {
            out.extend_from_slice(b"{\"$date\": ");
            number_text(out, ms);
            out.push(b'}');
        }
        Dialect::Relaxed if writable => {
            out.extend_from_slice(b"{\"$date\": \"");
            put_date(ms, Fraction::Shortest, out);
            out.extend_from_slice(b"\"}");
        }
        Dialect::Canonical | Dialect::Relaxed => {
            out.extend_from_slice(b"{\"$date\": ");
            wrapped(out, "$numberLong", itoa::Buffer::new().format(ms));
            out.push(b'}');
        }
        Dialect::Plain if (FIRST_RFC_3339_MS..=LAST_WRITABLE_MS).contains(&ms) => {
            out.push(b'"');
            put_date(ms, Fraction::Milliseconds, out);
            out.push(b'"');
        }
        // Years that RFC 3339 cannot say.
        Dialect::Plain => number_text(out, ms),
    }
}

/// The first millisecond of the year 0.
const FIRST_RFC_3339_MS: i64 = -62_167_219_200_000;

/// Adds `2023-11-14T22:13:20.123Z`; `trimmed` leaves zeros at the fraction's end out, as Java does.
pub fn put_date(ms: i64, fraction: Fraction, out: &mut Vec<u8>) {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    out.extend_from_slice(text.as_bytes());
    let digits = format!(".{:03}", of_day % 1000);
    out.extend_from_slice(match fraction {
        Fraction::Milliseconds => digits.as_bytes(),
        Fraction::Shortest => digits.trim_end_matches('0').trim_end_matches('.').as_bytes(),
    });
    out.push(b'Z');
}

/// How many digits the fraction of a second has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fraction {
    /// Always three, as JavaScript prints a date.
    Milliseconds,
    /// As few as tell it, and no point for none.
    Shortest,
}

/// Days since 1970 to a date of the Gregorian calendar. Eras of 400 years begin in March of a year that
/// 400 divides, so that the leap day is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

fn number_text(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// `{"$name": "text"}`, for texts that need no escape.
fn wrapped(out: &mut Vec<u8>, name: &str, text: &str) {
    for part in ["{\"", name, "\": \"", text, "\"}"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn text_under(name: &str, text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{{\"{name}\": ").as_bytes());
    write_text(text, out);
    out.push(b'}');
}

fn object_id(id: &[u8; 12], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"$oid\": ");
    quoted_hex(id, out);
    out.push(b'}');
}

fn quoted_hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    hex(bytes, out);
    out.push(b'"');
}

fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    for byte in bytes {
        out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
}

fn sorted(options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.sort_unstable();
    options
}

/// Adds a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD, as in every driver.
pub fn write_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let (head, tail) = text.split_at(clean(text));
    out.extend_from_slice(head);
    if !tail.is_empty() {
        write_escaped(&String::from_utf8_lossy(tail), out);
    }
    out.push(b'"');
}

/// Length of the run at the beginning that goes out as it is: nearly all text. Eight bytes are looked at together,
/// the last ones of a text with those before them, or with blanks.
fn clean(text: &[u8]) -> usize {
    let (chunks, tail) = text.as_chunks::<8>();
    let last = match text.last_chunk::<8>() {
        Some(last) => *last,
        None => {
            let mut last = [b' '; 8];
            last.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
            last
        }
    };
    let is_plain = |chunk: &[u8; 8]| words::is_plain(u64::from_le_bytes(*chunk));
    if chunks.iter().all(is_plain) && is_plain(&last) {
        return text.len();
    }
    let plain = |byte: &u8| (0x20..0x7f).contains(byte) & (*byte != b'"') & (*byte != b'\\');
    text.iter().take_while(|byte| plain(byte)).count()
}

fn write_escaped(text: &str, out: &mut Vec<u8>) {
    let mut room = [0; 4];
    for character in text.chars() {
        let short = match character {
            '"' => b'"',
            '\\' => b'\\',
            '\u{8}' => b'b',
            '\u{c}' => b'f',
            '\n' => b'n',
            '\r' => b'r',
            '\t' => b't',
            ' '..='~' => {
                // ASCII fits a byte.
                out.push(character as u8);
                continue;
            }
            _ if is_plain(character) => {
                out.extend_from_slice(character.encode_utf8(&mut room).as_bytes());
                continue;
            }
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
}
