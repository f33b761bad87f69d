//! Avro's binary form.

use super::lexical::{Bad, hex, number};
use super::value::{Union, Writer};

pub(crate) enum Avro {}

/// The index of a union's first and second branch.
pub(crate) const FIRST: u8 = 0;
pub(crate) const SECOND: u8 = 2;

/// A zigzag number, seven bits a byte, the lowest first.
#[inline]
pub(crate) fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    if rest < 0x80 {
        out.push(rest as u8);
        return;
    }
    let mut bytes = [0; 10];
    let mut len = 0;
    for byte in &mut bytes {
        len += 1;
        *byte = rest as u8 & 0x7f;
        rest >>= 7;
        if rest == 0 {
            break;
        }
        *byte |= 0x80;
    }
    // Copies all ten and cuts: a copy of fixed size is two moves, one of unknown size is a call.
    let end = out.len() + len;
    out.extend_from_slice(&bytes);
    out.truncate(end);
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // Slices are never longer than `isize::MAX`.
    put_long(out, i64::try_from(count).unwrap_or(i64::MAX));
}

impl Writer for Avro {
    fn boolean(out: &mut Vec<u8>, value: bool) {
        out.push(u8::from(value));
    }
    #[inline]
    fn int(out: &mut Vec<u8>, value: i32) {
        put_long(out, i64::from(value));
    }
    #[inline]
    fn long(out: &mut Vec<u8>, value: i64) {
        put_long(out, value);
    }
    fn float(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Bad> {
        out.extend_from_slice(&number::float32(text)?.to_le_bytes());
        Ok(())
    }
    #[inline]
    fn double(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Bad> {
        out.extend_from_slice(&number::float64(text)?.to_le_bytes());
        Ok(())
    }
    #[inline]
    fn string(out: &mut Vec<u8>, text: &[u8]) {
        put_count(out, text.len());
        out.extend_from_slice(text);
    }
    #[inline]
    fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
        put_count(out, bytes.len());
        out.extend_from_slice(bytes);
    }
    fn hex(out: &mut Vec<u8>, text: &[u8], _scratch: &mut Vec<u8>) -> Result<(), Bad> {
        put_count(out, hex::decoded_len(text)?);
        hex::decode(text, out)
    }
    fn member(out: &mut Vec<u8>, _index: usize, _name: &str, present: Option<bool>) {
        Self::element(out, 0, present);
    }
    fn map_start(out: &mut Vec<u8>, count: usize) {
        put_count(out, count);
    }
    fn map_key(out: &mut Vec<u8>, _index: usize, key: &[u8], present: Option<bool>) {
        Self::string(out, key);
        Self::element(out, 0, present);
    }
    fn map_end(out: &mut Vec<u8>, count: usize) {
        Self::array_end(out, count);
    }
    const ENTRY_OPEN: &[u8] = b"";
    const ENTRY_MIDDLE: &[u8] = b"";
    const ENTRY_CLOSE: &[u8] = b"";
    /// One block, whose count is also the end of an empty array.
    fn array_start(out: &mut Vec<u8>, count: usize) {
        put_count(out, count);
    }
    #[inline]
    fn element(out: &mut Vec<u8>, _index: usize, present: Option<bool>) {
        match present {
            Some(true) => out.push(SECOND),
            Some(false) => out.push(FIRST),
            None => {}
        }
    }
    fn array_end(out: &mut Vec<u8>, count: usize) {
        if count > 0 {
            out.push(0);
        }
    }

    const STRUCT_OPEN: &[u8] = b"";
    const STRUCT_CLOSE: &[u8] = b"";
    fn lead(_name: &str, _is_first: bool, union: Union) -> Vec<u8> {
        match union {
            Union::Required => Vec::new(),
            Union::NullFirst => vec![SECOND],
            Union::NullLast => vec![FIRST],
        }
    }
    fn null(_name: &str, _is_first: bool, union: Union) -> Vec<u8> {
        match union {
            Union::Required => Vec::new(),
            Union::NullFirst => vec![FIRST],
            Union::NullLast => vec![SECOND],
        }
    }
    /// The length of the letter.
    const OP_OPEN: &[u8] = &[2];
    const OP_CLOSE: &[u8] = b"";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longs_are_zigzag_numbers_of_seven_bits() {
        let known: [(i64, &[u8]); 7] = [
            (0, &[0]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[126]),
            (64, &[128, 1]),
            (i64::MAX, &[254, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
            (i64::MIN, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ];
        for (value, bytes) in known {
            let mut out = Vec::new();
            put_long(&mut out, value);
            assert_eq!(out, bytes, "{value}");
        }
    }
}
