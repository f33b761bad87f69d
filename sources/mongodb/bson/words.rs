//! Eight bytes looked at together, as a number whose lowest byte is the first.

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES << 7;

/// The lowest bit that is set lies in the first byte that is zero; nothing is set where none is.
pub fn zeros_in(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// Whether all of them are printable ASCII and stand for themselves in a JSON text.
pub fn is_plain(word: u64) -> bool {
    let is_none = |byte: u8| zeros_in(word ^ (ONES * u64::from(byte))) == 0;
    let below_blank = word.wrapping_sub(ONES * 0x20) & HIGHS;
    (word & HIGHS) | below_blank == 0 && is_none(0x7f) && is_none(b'"') && is_none(b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_zero_is_found_wherever_it_is() {
        for at in 0..8 {
            for other in [1, 0x7f, 0x80, 0xff] {
                let mut bytes = [other; 8];
                bytes[at] = 0;
                assert_eq!(
                    zeros_in(u64::from_le_bytes(bytes)).trailing_zeros() as usize / 8,
                    at,
                    "{bytes:?}"
                );
                bytes[at] = other;
                assert_eq!(zeros_in(u64::from_le_bytes(bytes)), 0, "{bytes:?}");
            }
        }
    }

    #[test]
    fn every_byte_is_judged_at_every_place() {
        for byte in 0..=u8::MAX {
            let expected = (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
            for at in 0..8 {
                for other in [b' ', b'~', b'a'] {
                    let mut bytes = [other; 8];
                    bytes[at] = byte;
                    assert_eq!(is_plain(u64::from_le_bytes(bytes)), expected, "{bytes:?}");
                }
            }
        }
    }
}
