//! Writes values that are more than a number or a text: bits, money, maps, points, geometries, vectors, and
//! other spellings of bytes and times. Apart from `value`, whose short way they would make long.

use super::json;
use super::lexical::decimal::Decimal;
use super::lexical::{Bad, bits, expect, hex, interval, money, number, time};
use super::value::{Rare, Scratch, Writer, narrow};

/// EWKB's flag for a number of the reference system that follows.
const HAS_SRID: u32 = 0x2000_0000;

pub(crate) fn write<W: Writer>(
    rare: Rare,
    text: &[u8],
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Result<(), Bad> {
    match rare {
        Rare::Bit => match text {
            b"1" => W::boolean(out, true),
            b"0" => W::boolean(out, false),
            _ => return Err(Bad::Malformed),
        },
        Rare::Bits => {
            bits::little_endian(text, &mut scratch.bytes)?;
            W::bytes(out, &scratch.bytes);
        }
        Rare::Money => {
            let amount = money::plain(text)?;
            W::bytes(out, Decimal::parse(amount.as_slice())?.unscaled(2, &mut scratch.number)?);
        }
        Rare::MoneyText => W::string(out, money::plain(text)?.as_slice()),
        Rare::MoneyDouble => W::double(out, money::plain(text)?.as_slice())?,
        Rare::Digits => out.extend_from_slice(text),
        Rare::Hex => W::string(out, expect(text, b"\\x")?),
        Rare::Base64 { url_safe } => {
            scratch.bytes.clear();
            hex::decode(text, &mut scratch.bytes)?;
            base64(&scratch.bytes, url_safe, &mut scratch.text);
            W::string(out, &scratch.text);
        }
        Rare::HstoreJson => {
            scratch.pairs.parse(text)?;
            scratch.text.clear();
            let pairs = &scratch.pairs;
            write_map::<json::Json>(pairs.len(), pairs.iter(), &mut scratch.text);
            W::string(out, &scratch.text);
        }
        Rare::HstoreMap => {
            scratch.pairs.parse(text)?;
            write_map::<W>(scratch.pairs.len(), scratch.pairs.iter(), out);
        }
        Rare::Point => point::<W>(text, out, scratch)?,
        Rare::Geometry => geometry::<W>(text, out, scratch)?,
        Rare::Vector { is_single } => vector::<W>(text, is_single, out)?,
        Rare::SparseVector => sparse_vector::<W>(text, out)?,
        Rare::TimeNs => W::long(out, time::time_us(text)? * 1000),
        Rare::TimestampNs => W::long(out, time::timestamp_ns(text)?),
        Rare::TimestampConnect => W::long(out, time::timestamp_connect(text)?),
        Rare::DateIso { java } => W::string(out, time::iso_date(text, java)?.as_slice()),
        Rare::TimeIso => W::string(out, time::iso_time(text)?.as_slice()),
        Rare::TimestampIso => W::string(out, time::iso_timestamp(text)?.as_slice()),
        Rare::IntervalIso => {
            scratch.text.clear();
            interval::iso(text, &mut scratch.text)?;
            W::string(out, &scratch.text);
        }
    }
    Ok(())
}

/// What stands for a value that was not sent; `false` where nothing does.
pub(crate) fn write_placeholder<W: Writer>(rare: Rare, placeholder: &[u8], out: &mut Vec<u8>) -> bool {
    let pair = [(placeholder, Some(placeholder))];
    match rare {
        Rare::Hex => W::string(out, placeholder),
        Rare::Base64 { url_safe } => {
            let mut text = Vec::new();
            base64(placeholder, url_safe, &mut text);
            W::string(out, &text);
        }
        Rare::HstoreJson => {
            let mut text = Vec::new();
            write_map::<json::Json>(1, pair.into_iter(), &mut text);
            W::string(out, &text);
        }
        Rare::HstoreMap => write_map::<W>(1, pair.into_iter(), out),
        _ => return false,
    }
    true
}

fn base64(bytes: &[u8], url_safe: bool, out: &mut Vec<u8>) {
    out.clear();
    hex::base64(bytes, out);
    if url_safe {
        for byte in out {
            *byte = match *byte {
                b'+' => b'-',
                b'/' => b'_',
                other => other,
            };
        }
    }
}

fn write_map<'a, W: Writer>(
    count: usize,
    pairs: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    out: &mut Vec<u8>,
) {
    W::map_start(out, count);
    for (index, (key, value)) in pairs.enumerate() {
        W::map_key(out, index, key, Some(value.is_some()));
        if let Some(value) = value {
            W::string(out, value);
        }
    }
    W::map_end(out, count);
}

fn point<W: Writer>(text: &[u8], out: &mut Vec<u8>, scratch: &mut Scratch) -> Result<(), Bad> {
    let inner = expect(text, b"(")?.strip_suffix(b")").ok_or(Bad::Malformed)?;
    let comma = inner.iter().position(|byte| *byte == b',').ok_or(Bad::Malformed)?;
    let (x, y) = (inner.get(..comma).unwrap_or_default(), inner.get(comma + 1..).unwrap_or_default());
    // Little-endian, a point, no reference system.
    scratch.bytes.clear();
    scratch.bytes.extend_from_slice(&[1, 1, 0, 0, 0]);
    scratch.bytes.extend_from_slice(&number::float64(x)?.to_le_bytes());
    scratch.bytes.extend_from_slice(&number::float64(y)?.to_le_bytes());
    out.extend_from_slice(W::STRUCT_OPEN);
    W::member(out, 0, "x", None);
    W::double(out, x)?;
    W::member(out, 1, "y", None);
    W::double(out, y)?;
    W::member(out, 2, "wkb", Some(true));
    W::bytes(out, &scratch.bytes);
    W::member(out, 3, "srid", Some(false));
    out.extend_from_slice(W::STRUCT_CLOSE);
    Ok(())
}

fn geometry<W: Writer>(text: &[u8], out: &mut Vec<u8>, scratch: &mut Scratch) -> Result<(), Bad> {
    scratch.text.clear();
    scratch.text.extend_from_slice(b"\\x");
    scratch.text.extend_from_slice(text);
    scratch.bytes.clear();
    hex::decode(&scratch.text, &mut scratch.bytes)?;
    let srid = srid(&scratch.bytes)?;
    out.extend_from_slice(W::STRUCT_OPEN);
    W::member(out, 0, "wkb", None);
    W::bytes(out, &scratch.bytes);
    W::member(out, 1, "srid", Some(srid.is_some()));
    if let Some(srid) = srid {
        W::int(out, srid);
    }
    out.extend_from_slice(W::STRUCT_CLOSE);
    Ok(())
}

fn srid(ewkb: &[u8]) -> Result<Option<i32>, Bad> {
    let ([order, kind @ ..], rest) = ewkb.split_first_chunk::<5>().ok_or(Bad::Malformed)?;
    let number =
        |bytes: [u8; 4]| if *order == 1 { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
    if number(*kind) & HAS_SRID == 0 {
        return Ok(None);
    }
    let srid = rest.first_chunk::<4>().ok_or(Bad::Malformed)?;
    Ok(Some(number(*srid).cast_signed()))
}

fn vector<W: Writer>(text: &[u8], is_single: bool, out: &mut Vec<u8>) -> Result<(), Bad> {
    let inner = expect(text, b"[")?.strip_suffix(b"]").ok_or(Bad::Malformed)?;
    let elements = || inner.split(|byte| *byte == b',').filter(|_| !inner.is_empty());
    let count = elements().count();
    W::array_start(out, count);
    for (index, element) in elements().enumerate() {
        W::element(out, index, None);
        if is_single { W::float(out, element)? } else { W::double(out, element)? }
    }
    W::array_end(out, count);
    Ok(())
}

/// `{1:1.5,3:-2}/5`: places begin with 1, and the rest is zero.
fn sparse_vector<W: Writer>(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let end = text.iter().position(|byte| *byte == b'}').ok_or(Bad::Malformed)?;
    let (inner, rest) = text.split_at(end);
    let (inner, dimensions) = (expect(inner, b"{")?, expect(rest, b"}/")?);
    let entries = || inner.split(|byte| *byte == b',').filter(|entry| !entry.is_empty());
    let count = entries().count();
    out.extend_from_slice(W::STRUCT_OPEN);
    W::member(out, 0, "dimensions", None);
    W::int(out, i32::from(narrow::<i16>(number::int(dimensions)?)?));
    W::member(out, 1, "vector", None);
    W::array_start(out, count);
    for (index, entry) in entries().enumerate() {
        let colon = entry.iter().position(|byte| *byte == b':').ok_or(Bad::Malformed)?;
        W::element(out, index, None);
        out.extend_from_slice(W::ENTRY_OPEN);
        W::int(out, i32::from(narrow::<i16>(number::int(entry.get(..colon).unwrap_or_default())?)?));
        out.extend_from_slice(W::ENTRY_MIDDLE);
        W::double(out, entry.get(colon + 1..).unwrap_or_default())?;
        out.extend_from_slice(W::ENTRY_CLOSE);
    }
    W::array_end(out, count);
    out.extend_from_slice(W::STRUCT_CLOSE);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use json::Json;

    fn written(rare: Rare, text: &str) -> Result<String, Bad> {
        let mut out = Vec::new();
        write::<Json>(rare, text.as_bytes(), &mut out, &mut Scratch::default())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn each_becomes_the_json_that_debezium_writes() {
        for (rare, text, expected) in [
            (Rare::Bit, "1", "true"),
            (Rare::Bits, "101", "\"BQ==\""),
            (Rare::Money, "-$1.50", "\"/2o=\""),
            (Rare::MoneyText, "$1,234.50", "\"1234.50\""),
            (Rare::Hex, "\\x00ff", "\"00ff\""),
            (Rare::Base64 { url_safe: false }, "\\xfbff", "\"+/8=\""),
            (Rare::Base64 { url_safe: true }, "\\xfbff", "\"-_8=\""),
            (Rare::HstoreJson, r#""a"=>"1", "b"=>NULL"#, r#""{\"a\":\"1\",\"b\":null}""#),
            (Rare::HstoreMap, r#""a"=>"1", "b"=>NULL"#, r#"{"a":"1","b":null}"#),
            (
                Rare::Point,
                "(1.5,-2)",
                r#"{"x":1.5,"y":-2.0,"wkb":"AQEAAAAAAAAAAAD4PwAAAAAAAADA","srid":null}"#,
            ),
            (
                Rare::Geometry,
                "0101000020E6100000000000000000F03F0000000000000040",
                r#"{"wkb":"AQEAACDmEAAAAAAAAAAA8D8AAAAAAAAAQA==","srid":4326}"#,
            ),
            (Rare::Vector { is_single: false }, "[1,2.5,-3]", "[1.0,2.5,-3.0]"),
            // What a required column holds where the old row was not sent.
            (Rare::Vector { is_single: true }, "[]", "[]"),
            (Rare::SparseVector, "{1:1.5,3:-2}/5", r#"{"dimensions":5,"vector":[[1,1.5],[3,-2.0]]}"#),
            (Rare::SparseVector, "{}/5", r#"{"dimensions":5,"vector":[]}"#),
            (Rare::TimeNs, "00:00:00.000001", "1000"),
            (Rare::DateIso { java: true }, "-infinity", "\"-5877611-06-22Z\""),
            (Rare::DateIso { java: false }, "-infinity", "\"-infinity\""),
            (Rare::TimestampNs, "1970-01-01 00:00:01", "1000000000"),
            (Rare::TimestampConnect, "1970-01-01 00:00:01", "1000"),
            (Rare::TimestampConnect, "infinity", "9223372036825200"),
            (Rare::TimestampConnect, "-infinity", "-9223372036832400"),
        ] {
            assert_eq!(written(rare, text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_in_the_form_of_its_kind_is_refused() {
        for (rare, text) in [
            (Rare::Bit, "2"),
            (Rare::Bits, "12"),
            (Rare::Money, "1,50 EUR"),
            (Rare::Point, "(1)"),
            (Rare::Geometry, "01"),
            (Rare::Vector { is_single: true }, "[1,]"),
            (Rare::SparseVector, "{1:2}"),
            (Rare::HstoreMap, "a=>b"),
        ] {
            assert!(written(rare, text).is_err(), "{text}");
        }
    }
}
