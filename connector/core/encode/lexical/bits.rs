//! Bit strings: `1010`.

use super::Bad;

/// The number that the bits are, as bytes with the lowest first, without the zeros at its high end.
pub(crate) fn little_endian(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    out.clear();
    for eight in text.rchunks(8) {
        let mut byte = 0;
        for bit in eight {
            byte = match bit {
                b'0' => byte << 1,
                b'1' => byte << 1 | 1,
                _ => return Err(Bad::Malformed),
            };
        }
        out.push(byte);
    }
    let kept = out.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    out.truncate(kept);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bit_is_the_lowest_of_the_first_byte() {
        for (text, expected) in [
            ("", &[][..]),
            ("0", &[]),
            ("1", &[1]),
            ("101", &[5]),
            ("00000000100000000", &[0, 1]),
            ("10000000000000001", &[1, 0, 1]),
        ] {
            let mut out = vec![9];
            assert_eq!(little_endian(text.as_bytes(), &mut out), Ok(()));
            assert_eq!(out, expected, "{text}");
        }
        assert_eq!(little_endian(b"012", &mut Vec::new()), Err(Bad::Malformed));
    }
}
