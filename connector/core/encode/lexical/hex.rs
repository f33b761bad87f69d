//! Bytes as hexadecimal text in, as base64 out.

use super::Bad;

/// Values of hexadecimal digits; 255 marks every other byte.
const NIBBLES: [u8; 256] = {
    let mut table = [255; 256];
    let mut i = 0;
    while i < 16 {
        table[b"0123456789abcdef"[i] as usize] = i as u8;
        table[b"0123456789ABCDEF"[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// How many bytes `\x...` stands for.
pub(crate) fn decoded_len(text: &[u8]) -> Result<usize, Bad> {
    let digits = super::expect(text, b"\\x")?;
    if digits.len() % 2 == 0 { Ok(digits.len() / 2) } else { Err(Bad::Malformed) }
}

/// Adds the bytes that `\x...` stands for.
pub(crate) fn decode(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let digits = super::expect(text, b"\\x")?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Bad::Malformed);
    }
    // Digits are below 16, so one look at the end finds any that was not.
    let mut seen = 0;
    out.extend(pairs.iter().map(|[high, low]| {
        let (high, low) = (NIBBLES[usize::from(*high)], NIBBLES[usize::from(*low)]);
        seen |= high | low;
        high << 4 | low
    }));
    if seen > 15 { Err(Bad::Malformed) } else { Ok(()) }
}

/// Adds the standard base64 of the bytes, padded.
pub fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let symbol = |bits: u32| ALPHABET[(bits & 63) as usize];
    let (triples, rest) = bytes.as_chunks::<3>();
    for [a, b, c] in triples {
        let bits = u32::from(*a) << 16 | u32::from(*b) << 8 | u32::from(*c);
        out.extend_from_slice(&[symbol(bits >> 18), symbol(bits >> 12), symbol(bits >> 6), symbol(bits)]);
    }
    match rest {
        [a] => {
            let bits = u32::from(*a) << 16;
            out.extend_from_slice(&[symbol(bits >> 18), symbol(bits >> 12), b'=', b'=']);
        }
        [a, b] => {
            let bits = u32::from(*a) << 16 | u32::from(*b) << 8;
            out.extend_from_slice(&[symbol(bits >> 18), symbol(bits >> 12), symbol(bits >> 6), b'=']);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_text_becomes_bytes() {
        let mut out = vec![7];
        decode(b"\\x00ffA1b2", &mut out).unwrap();
        assert_eq!(out, [7, 0, 255, 0xa1, 0xb2]);
        assert_eq!(decoded_len(b"\\x"), Ok(0));
    }

    #[test]
    fn what_is_not_hexadecimal_is_refused() {
        for text in ["", "00", "\\x0", "\\x0g", "\\X00", "\\x0 "] {
            assert_eq!(decode(text.as_bytes(), &mut Vec::new()), Err(Bad::Malformed), "{text}");
        }
    }

    #[test]
    fn base64_is_padded() {
        let known = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (bytes, text) in known {
            let mut out = Vec::new();
            base64(bytes.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
