//! A short text built in place, without an allocation.

/// Up to 64 bytes; the texts built here (times, positions) are below that by their form.
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

    /// The last `count` decimal digits of the number, with leading zeros.
    #[inline]
    pub(crate) fn push_digits(&mut self, number: u32, count: usize) {
        let mut digits = [b'0'; 10];
        let mut rest = number;
        for digit in digits.iter_mut().rev().take(count) {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.push(digits.get(digits.len() - count..).unwrap_or_default());
    }

    pub(crate) fn push_number(&mut self, number: u64) {
        self.push(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Sixteen hexadecimal digits in capitals.
    #[inline]
    pub(crate) fn push_hex(&mut self, number: u64) {
        let mut digits = [0; 16];
        for (digit, shift) in digits.iter_mut().zip((0..64).step_by(4).rev()) {
            let nibble = (number >> shift & 15) as u8;
            *digit = if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 };
        }
        self.push(&digits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_what_was_pushed() {
        let mut text = Short::new();
        text.push(b"a");
        text.push_digits(7, 2);
        text.push_number(u64::MAX);
        text.push_hex(0x1_6D2A_B0C8);
        assert_eq!(text.as_slice(), b"a0718446744073709551615000000016D2AB0C8");
    }
}
