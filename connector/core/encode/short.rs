//! Short byte strings that are written by copies of a fixed size, which are a few moves and not a call.

/// A text built in place, up to 64 bytes; the texts built here (times, positions) are below that by their
/// form.
#[derive(Debug)]
pub(crate) struct Short {
    bytes: [u8; Short::CAPACITY],
    len: usize,
}

impl Short {
    const CAPACITY: usize = 64;

    pub(crate) fn new() -> Self {
        Self { bytes: [0; Self::CAPACITY], len: 0 }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn push(&mut self, text: &[u8]) {
        let room = self.bytes.get_mut(self.len..self.len + text.len());
        debug_assert!(room.is_some(), "a short text grew past {} bytes", Self::CAPACITY);
        if let Some(room) = room {
            room.copy_from_slice(text);
            self.len += text.len();
        }
    }

    /// The last `N` decimal digits of the number, with leading zeros.
    #[inline]
    pub(crate) fn push_digits<const N: usize>(&mut self, number: u32) {
        let mut digits = [0; N];
        let mut rest = number;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.push(&digits);
    }

    #[inline]
    pub(crate) fn push_number(&mut self, number: u64) {
        if number < 10 {
            self.push(&[b'0' + number as u8]);
        } else {
            self.push(itoa::Buffer::new().format(number).as_bytes());
        }
    }

    /// Sixteen hexadecimal digits in capitals.
    #[inline]
    pub(crate) fn push_hex(&mut self, number: u64) {
        self.push(&hex_digits(number >> 32));
        self.push(&hex_digits(number & 0xffff_ffff));
    }

    /// Takes the last bytes off.
    #[inline]
    pub(crate) fn pop(&mut self, count: usize) {
        self.len = self.len.saturating_sub(count);
    }
}

/// Eight digits at once: spreads the nibbles over the bytes of a word, then adds what each lacks to its
/// letter.
#[inline]
fn hex_digits(number: u64) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let halves = (number << 16 | number) & 0x0000_ffff_0000_ffff;
    let bytes = (halves << 8 | halves) & 0x00ff_00ff_00ff_00ff;
    let nibbles = (bytes << 4 | bytes) & (EACH * 0x0f);
    let letters = ((nibbles + EACH * 6) >> 4) & EACH;
    (nibbles + EACH * u64::from(b'0') + letters * u64::from(b'A' - b'0' - 10)).to_be_bytes()
}

/// Constant bytes of a plan, most of them very few.
#[derive(Debug)]
pub(crate) struct Lead {
    /// The bytes if there is room for them.
    short: [u8; Lead::SHORT],
    len: usize,
    /// The bytes if there is none.
    long: Box<[u8]>,
}

impl Lead {
    const SHORT: usize = 16;

    #[inline]
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        if self.len <= Self::SHORT {
            let end = out.len() + self.len;
            out.extend_from_slice(&self.short);
            out.truncate(end);
        } else {
            out.extend_from_slice(&self.long);
        }
    }
}

impl From<Vec<u8>> for Lead {
    fn from(bytes: Vec<u8>) -> Self {
        let mut short = [0; Self::SHORT];
        match short.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(&bytes);
                Self { short, len: bytes.len(), long: Box::default() }
            }
            None => Self { short, len: bytes.len(), long: bytes.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_what_was_pushed() {
        let mut text = Short::new();
        text.push(b"a");
        text.push_digits::<2>(7);
        text.push_number(u64::MAX);
        text.push_hex(0x1_6D2A_B0C8);
        text.push(b"xyz");
        text.pop(3);
        assert_eq!(text.as_slice(), b"a0718446744073709551615000000016D2AB0C8");
    }

    #[test]
    fn hexadecimal_digits_are_those_of_the_standard_library() {
        for number in [0, 0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210, u64::MAX, 0x9A] {
            let mut text = Short::new();
            text.push_hex(number);
            assert_eq!(text.as_slice(), format!("{number:016X}").as_bytes());
        }
    }

    #[test]
    fn a_lead_of_any_length_puts_its_bytes() {
        for len in [0, 1, 15, 16, 17, 100] {
            let bytes: Vec<u8> = (0..len).collect();
            let mut out = vec![7];
            Lead::from(bytes.clone()).put(&mut out);
            assert_eq!(out, [&[7][..], &bytes].concat());
        }
    }
}
