//! JSON as Kafka Connect's JsonConverter writes it. What JSON has no number for (NaN and the infinities)
//! is a string, as Jackson has it.

use super::lexical::{Bad, hex, number};
use super::value::{Union, Writer};

pub(crate) enum Json {}

/// Adds a string with its quotes.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    put_escaped(out, text);
    out.push(b'"');
}

/// Escapes what JSON demands, and characters of four bytes, in Jackson's spelling: keys must have its bytes,
/// because the bytes decide the partition.
pub(crate) fn put_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| must_escape(*b)) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        if let [lead @ FOUR_BYTES..=u8::MAX, a, b, c, tail @ ..] = tail {
            put_surrogates(out, [*lead, *a, *b, *c]);
            rest = tail;
            continue;
        }
        let [byte, tail @ ..] = tail else { return };
        put_escape(out, *byte);
        rest = tail;
    }
    out.extend_from_slice(rest);
}

/// The least first byte of a character of four bytes.
const FOUR_BYTES: u8 = 0xf0;

#[inline]
fn must_escape(byte: u8) -> bool {
    // Below the space too, in one comparison: there the difference wraps.
    byte.wrapping_sub(b' ') >= FOUR_BYTES - b' ' || byte == b'"' || byte == b'\\'
}

/// A character beyond the first plane, as the two halves that UTF-16 has for it.
#[cold]
fn put_surrogates(out: &mut Vec<u8>, utf8: [u8; 4]) {
    let [a, b, c, d] = utf8.map(u32::from);
    let code = (a & 7) << 18 | (b & 63) << 12 | (c & 63) << 6 | d & 63;
    let code = code.saturating_sub(0x1_0000);
    for half in [0xd800 | code >> 10 & 0x3ff, 0xdc00 | code & 0x3ff] {
        out.extend_from_slice(b"\\u");
        for shift in [12, 8, 4, 0] {
            out.push(b"0123456789ABCDEF".get((half >> shift & 15) as usize).copied().unwrap_or(b'0'));
        }
    }
}

fn put_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        8 => b'b',
        12 => b'f',
        _ => {
            let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 };
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// A string with its quotes, for texts that are built once.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    put_string(&mut out, text.as_bytes());
    // Escapes are ASCII and stand for ASCII, so UTF-8 stays UTF-8.
    String::from_utf8(out).unwrap_or_default()
}

/// The number as Java prints it, which most often is how the database does, with a fraction.
fn put_number(
    out: &mut Vec<u8>,
    text: &[u8],
    java: impl Fn() -> Result<Option<String>, Bad>,
) -> Result<(), Bad> {
    match number::plain_number(text) {
        Some(has_fraction) => {
            out.extend_from_slice(text);
            if !has_fraction {
                out.extend_from_slice(b".0");
            }
        }
        None => match java()? {
            Some(number) => out.extend_from_slice(number.as_bytes()),
            None => put_string(out, text),
        },
    }
    Ok(())
}

impl Writer for Json {
    fn boolean(out: &mut Vec<u8>, value: bool) {
        out.extend_from_slice(if value { b"true" } else { b"false" });
    }
    fn int(out: &mut Vec<u8>, value: i32) {
        out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
    fn long(out: &mut Vec<u8>, value: i64) {
        out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
    fn float(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Bad> {
        put_number(out, text, || {
            number::float32(text).map(|value| value.is_finite().then(|| number::java_single(value)))
        })
    }
    fn double(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Bad> {
        put_number(out, text, || {
            number::float64(text).map(|value| value.is_finite().then(|| number::java_double(value)))
        })
    }
    fn string(out: &mut Vec<u8>, text: &[u8]) {
        put_string(out, text);
    }
    fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
        out.push(b'"');
        hex::base64(bytes, out);
        out.push(b'"');
    }
    fn member(out: &mut Vec<u8>, index: usize, name: &str, present: Option<bool>) {
        Self::map_key(out, index, name.as_bytes(), present);
    }
    fn map_start(out: &mut Vec<u8>, _count: usize) {
        out.push(b'{');
    }
    fn map_key(out: &mut Vec<u8>, index: usize, key: &[u8], present: Option<bool>) {
        if index > 0 {
            out.push(b',');
        }
        put_string(out, key);
        out.push(b':');
        if present == Some(false) {
            out.extend_from_slice(b"null");
        }
    }
    fn map_end(out: &mut Vec<u8>, _count: usize) {
        out.push(b'}');
    }
    const ENTRY_OPEN: &[u8] = b"[";
    const ENTRY_MIDDLE: &[u8] = b",";
    const ENTRY_CLOSE: &[u8] = b"]";
    fn array_start(out: &mut Vec<u8>, _count: usize) {
        out.push(b'[');
    }
    fn element(out: &mut Vec<u8>, index: usize, present: Option<bool>) {
        if index > 0 {
            out.push(b',');
        }
        if present == Some(false) {
            out.extend_from_slice(b"null");
        }
    }
    fn array_end(out: &mut Vec<u8>, _count: usize) {
        out.push(b']');
    }

    const STRUCT_OPEN: &[u8] = b"{";
    const STRUCT_CLOSE: &[u8] = b"}";
    fn lead(name: &str, is_first: bool, _union: Union) -> Vec<u8> {
        let comma = if is_first { "" } else { "," };
        format!("{comma}{}:", quoted(name)).into_bytes()
    }
    fn null(name: &str, is_first: bool, union: Union) -> Vec<u8> {
        [Self::lead(name, is_first, union).as_slice(), b"null"].concat()
    }
    const OP_OPEN: &[u8] = b"\"";
    const OP_CLOSE: &[u8] = b"\"";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_jackson_does_and_read_back_the_same() {
        let text = "🦀a\"b\\c\n\r\t\u{8}\u{c}\u{1}\u{1f}/\u{7f}zażółć\u{2028}";
        let json = quoted(text);
        assert_eq!(json, "\"\\uD83E\\uDD80a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001\\u001F/\u{7f}zażółć\u{2028}\"");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn floats_are_printed_as_java_does() {
        for (text, json) in [
            ("1.5", "1.5"),
            ("100", "100.0"),
            ("1e+20", "1.0E20"),
            ("NaN", "\"NaN\""),
            ("-0", "-0.0"),
            ("12345678.9", "1.23456789E7"),
            ("5e-324", "4.9E-324"),
            ("0.0001", "1.0E-4"),
        ] {
            let mut out = Vec::new();
            Json::double(&mut out, text.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), json);
        }
        assert_eq!(Json::double(&mut Vec::new(), b"x"), Err(Bad::Malformed));
    }
}
