//! Decimals of any length, from text to an unscaled number: two's complement, big endian, as short as it
//! can be.

use super::Bad;

/// What a decimal is made of.
#[derive(Debug)]
pub(crate) struct Decimal<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
}

/// Room for the conversion, used again and again.
#[derive(Debug, Default)]
pub(crate) struct Room {
    limbs: Vec<u64>,
    bytes: Vec<u8>,
}

impl<'a> Decimal<'a> {
    /// Plain notation: Postgres prints numerics without exponents.
    #[inline]
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, Bad> {
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let point = rest.iter().position(|b| *b == b'.');
        let (whole, fraction) = match point {
            Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..).unwrap_or_default()),
            None => (rest, &[][..]),
        };
        let digits = whole.iter().chain(fraction).all(u8::is_ascii_digit);
        if whole.is_empty() || !digits || (point.is_some() && fraction.is_empty()) {
            return Err(if is_special(text) { Bad::Special } else { Bad::Malformed });
        }
        Ok(Self { negative, whole, fraction })
    }

    /// Without the zeros at the end of its fraction.
    pub(crate) fn stripped(self) -> Self {
        let kept = self.fraction.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
        Self { fraction: self.fraction.get(..kept).unwrap_or_default(), ..self }
    }

    /// Digits before the point that count.
    pub(crate) fn digits_before_point(&self) -> usize {
        self.whole.len() - self.whole.iter().take_while(|digit| **digit == b'0').count()
    }

    /// Digits after the point.
    pub(crate) fn scale(&self) -> usize {
        self.fraction.len()
    }

    /// The number times ten to the power of `scale`. Digits beyond the scale must be zeros: a decimal is
    /// never rounded.
    #[inline]
    pub(crate) fn unscaled<'r>(&self, scale: usize, room: &'r mut Room) -> Result<&'r [u8], Bad> {
        let kept = self.fraction.len().min(scale);
        let (fraction, beyond) = self.fraction.split_at(kept);
        if beyond.iter().any(|digit| *digit != b'0') {
            return Err(Bad::OutOfRange);
        }
        let zeros = scale - kept;
        room.bytes.clear();
        if self.whole.len() + scale <= 18 {
            let value = fold(self.whole, fraction, zeros, 0_i64, |v, d| v * 10 + i64::from(d));
            let value = if self.negative { -value } else { value };
            room.bytes.extend_from_slice(short_form(&value.to_be_bytes()));
        } else if self.whole.len() + scale <= 38 {
            let value = fold(self.whole, fraction, zeros, 0_i128, |v, d| v * 10 + i128::from(d));
            let value = if self.negative { -value } else { value };
            room.bytes.extend_from_slice(short_form(&value.to_be_bytes()));
        } else {
            long(self.negative, self.whole, fraction, zeros, room);
        }
        Ok(&room.bytes)
    }
}

/// The short way of `Decimal::parse` and `unscaled`: one pass over the text of an ordinary number. `None`
/// sends everything else the long way.
#[inline]
pub(crate) fn short_unscaled(text: &[u8], scale: usize) -> Option<i64> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    // Eighteen digits and a point cannot overflow; nineteen digits are refused below.
    if rest.len() > 19 || !rest.first()?.is_ascii_digit() {
        return None;
    }
    let mut value = 0_i64;
    let mut fraction = None;
    for byte in rest {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
            fraction = fraction.map(|count: usize| count + 1);
        } else if *byte == b'.' && fraction.is_none() {
            fraction = Some(0);
        } else {
            return None;
        }
    }
    let is_exact = if scale == 0 { fraction.is_none() && rest.len() < 19 } else { fraction == Some(scale) };
    is_exact.then_some(if negative { -value } else { value })
}

/// Whether the text is one of the values that are not numbers.
fn is_special(text: &[u8]) -> bool {
    matches!(text, b"NaN" | b"Infinity" | b"-Infinity")
}

#[inline]
fn fold<T>(whole: &[u8], fraction: &[u8], zeros: usize, start: T, step: impl Fn(T, u8) -> T) -> T {
    let value = whole.iter().fold(start, |v, d| step(v, d - b'0'));
    let value = fraction.iter().fold(value, |v, d| step(v, d - b'0'));
    (0..zeros).fold(value, |v, _| step(v, 0))
}

/// Without the leading bytes that only repeat the sign.
#[inline]
pub(crate) fn short_form(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [first, second, ..] = rest {
        let repeats = (*first == 0 && *second < 0x80) || (*first == 0xff && *second >= 0x80);
        if !repeats {
            break;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    rest
}

/// By limbs of 64 bits, eighteen digits at a time.
#[cold]
fn long(negative: bool, whole: &[u8], fraction: &[u8], zeros: usize, room: &mut Room) {
    room.limbs.clear();
    let (mut chunk, mut weight) = (0_u64, 1_u64);
    for digit in whole.iter().chain(fraction).map(|d| d - b'0').chain(std::iter::repeat_n(0, zeros)) {
        chunk = chunk * 10 + u64::from(digit);
        weight *= 10;
        if weight == 1_000_000_000_000_000_000 {
            multiply_add(&mut room.limbs, weight, chunk);
            (chunk, weight) = (0, 1);
        }
    }
    multiply_add(&mut room.limbs, weight, chunk);
    if negative {
        let mut carry = true;
        for limb in &mut room.limbs {
            (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
        }
    }
    // One more limb holds the sign; zero has none, and stays zero.
    let is_zero = room.limbs.iter().all(|limb| *limb == 0);
    room.limbs.push(if negative && !is_zero { u64::MAX } else { 0 });
    room.bytes.extend(room.limbs.iter().rev().flat_map(|limb| limb.to_be_bytes()));
    let skip = room.bytes.len() - short_form(&room.bytes).len();
    room.bytes.drain(..skip);
}

/// `limbs * weight + chunk`, least significant limb first.
fn multiply_add(limbs: &mut Vec<u64>, weight: u64, chunk: u64) {
    let mut carry = u128::from(chunk);
    for limb in limbs.iter_mut() {
        let product = u128::from(*limb) * u128::from(weight) + carry;
        #[expect(clippy::cast_possible_truncation, reason = "the low half of the product")]
        {
            *limb = product as u64;
        }
        carry = product >> 64;
    }
    if let Ok(carry @ 1..) = u64::try_from(carry) {
        limbs.push(carry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unscaled(text: &str, scale: usize) -> Result<Vec<u8>, Bad> {
        let mut room = Room::default();
        Decimal::parse(text.as_bytes())?.unscaled(scale, &mut room).map(<[u8]>::to_vec)
    }

    /// Decimal digits of a big-endian two's complement, by long division: slow and independent.
    fn print(bytes: &[u8]) -> String {
        let negative = bytes[0] >= 0x80;
        let mut magnitude = bytes.to_vec();
        if negative {
            magnitude.iter_mut().for_each(|b| *b = !*b);
            for byte in magnitude.iter_mut().rev() {
                let (sum, over) = byte.overflowing_add(1);
                *byte = sum;
                if !over {
                    break;
                }
            }
        }
        let mut digits = Vec::new();
        while magnitude.iter().any(|b| *b != 0) {
            let mut remainder = 0_u32;
            for byte in &mut magnitude {
                let value = remainder * 256 + u32::from(*byte);
                *byte = (value / 10) as u8;
                remainder = value % 10;
            }
            digits.push(char::from(b'0' + remainder as u8));
        }
        if digits.is_empty() {
            return "0".into();
        }
        let sign = if negative { "-" } else { "" };
        format!("{sign}{}", digits.iter().rev().collect::<String>())
    }

    #[test]
    fn unscaled_numbers_are_as_short_as_they_can_be() {
        let known: [(&str, usize, &[u8]); 12] = [
            ("0", 0, &[0]),
            ("0.00", 2, &[0]),
            ("-0.00", 2, &[0]),
            ("1.27", 2, &[127]),
            ("1.28", 2, &[0, 128]),
            ("-1.28", 2, &[128]),
            ("-1.29", 2, &[0xff, 0x7f]),
            ("2.5", 2, &[0, 250]),
            ("2.500", 1, &[25]),
            ("-1", 0, &[0xff]),
            ("256", 0, &[1, 0]),
            ("0.0000000000000000000000000000000000000000", 40, &[0]),
        ];
        for (text, scale, bytes) in known {
            assert_eq!(unscaled(text, scale).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn the_short_way_takes_only_numbers_that_show_their_scale() {
        for (text, scale, value) in [("0.00", 2, 0), ("-12.345", 3, -12_345), ("7", 0, 7)] {
            assert_eq!(short_unscaled(text.as_bytes(), scale), Some(value));
        }
        let longest = "99999999999999999.9";
        assert_eq!(short_unscaled(longest.as_bytes(), 1), Some(999_999_999_999_999_999));
        for (text, scale) in [
            ("", 0),
            ("-", 0),
            ("1", 2),
            ("1.5", 2),
            ("1.", 0),
            (".5", 1),
            ("1.5.5", 1),
            ("NaN", 0),
            ("1e3", 0),
        ] {
            assert_eq!(short_unscaled(text.as_bytes(), scale), None, "{text}");
        }
        assert_eq!(short_unscaled(b"9999999999999999999", 0), None);
    }

    #[test]
    fn digits_beyond_the_scale_are_refused_and_never_rounded() {
        assert_eq!(unscaled("1.005", 2), Err(Bad::OutOfRange));
    }

    #[test]
    fn what_is_not_a_decimal_is_refused() {
        for text in ["", "-", ".", "1.", ".5", "1e3", "1,5", "--1", "nan", "1.2.3", "+1"] {
            assert_eq!(unscaled(text, 2), Err(Bad::Malformed), "{text}");
        }
        for text in ["NaN", "Infinity", "-Infinity"] {
            assert_eq!(unscaled(text, 2), Err(Bad::Special), "{text}");
        }
    }

    #[test]
    fn a_numeric_of_the_greatest_length_is_converted() {
        let digits = "7".repeat(131_072);
        let bytes = unscaled(&digits, 0).unwrap();
        let bits = bytes.len() * 8;
        assert!((435_000..436_000).contains(&bits), "{bits}");
    }

    proptest! {
        #[test]
        fn unscaled_numbers_print_as_their_digits(
            text in "-?(0|[1-9][0-9]{0,90})(\\.[0-9]{1,20})?", more in 0_usize..30,
        ) {
            let fraction = text.split_once('.').map_or(0, |(_, f)| f.len());
            let bytes = unscaled(&text, fraction + more).unwrap();
            let digits = format!("{}{}", text.replace(['.', '-'], ""), "0".repeat(more));
            let digits = digits.trim_start_matches('0');
            let sign = if text.starts_with('-') && !digits.is_empty() { "-" } else { "" };
            let expected = if digits.is_empty() { "0".to_owned() } else { format!("{sign}{digits}") };
            prop_assert_eq!(print(&bytes), expected);
        }
    }
}
