//! From the text that the database prints to values. Pure functions over slices; whatever is not exactly
//! in the expected form is an error, never a guess.

pub(crate) mod array;
pub(crate) mod bits;
pub(crate) mod decimal;
pub(crate) mod hex;
pub(crate) mod hstore;
pub(crate) mod interval;
pub(crate) mod money;
pub(crate) mod number;
pub(crate) mod time;

/// Why a text cannot become a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Not in the form of its kind.
    Malformed,
    /// Beyond what the target type holds.
    OutOfRange,
    /// A NaN or an infinity where only numbers fit.
    Special,
    /// A NULL in an array whose elements are never null.
    NullElement,
}

/// Takes a prefix off.
pub(crate) fn expect<'a>(text: &'a [u8], prefix: &[u8]) -> Result<&'a [u8], Bad> {
    text.strip_prefix(prefix).ok_or(Bad::Malformed)
}

/// Takes exactly two digits off.
#[inline]
fn two_digits(text: &[u8]) -> Result<(u32, &[u8]), Bad> {
    match text {
        [a @ b'0'..=b'9', b @ b'0'..=b'9', rest @ ..] => {
            Ok((u32::from(*a - b'0') * 10 + u32::from(*b - b'0'), rest))
        }
        _ => Err(Bad::Malformed),
    }
}

/// Takes all leading digits off: the number and how many there were. More than 18 are out of range.
#[inline]
fn digits(text: &[u8]) -> Result<(i64, usize, &[u8]), Bad> {
    let mut value = 0;
    let mut count = 0;
    let mut rest = text;
    while let [digit @ b'0'..=b'9', tail @ ..] = rest {
        // One more may be beyond what the number holds.
        if count == 18 {
            return Err(Bad::OutOfRange);
        }
        value = value * 10 + i64::from(*digit - b'0');
        count += 1;
        rest = tail;
    }
    if count == 0 { Err(Bad::Malformed) } else { Ok((value, count, rest)) }
}

/// Takes `.` and up to six digits off, if they are there: microseconds.
#[inline]
fn fraction_us(text: &[u8]) -> Result<(u32, &[u8]), Bad> {
    let Some(mut rest) = text.strip_prefix(b".") else {
        return Ok((0, text));
    };
    // All six, as most often: one pass without looking where to end.
    if let Some((six, tail)) = rest.split_first_chunk::<6>() {
        let digits = six.map(|byte| byte.wrapping_sub(b'0'));
        let ends = tail.first().is_none_or(|byte| !byte.is_ascii_digit());
        if ends && digits.iter().all(|digit| *digit <= 9) {
            return Ok((digits.iter().fold(0, |us, digit| us * 10 + u32::from(*digit)), tail));
        }
    }
    let mut us = 0;
    let mut weight = 100_000;
    while let [digit @ b'0'..=b'9', tail @ ..] = rest {
        if weight == 0 {
            return Err(Bad::Malformed);
        }
        us += u32::from(*digit - b'0') * weight;
        weight /= 10;
        rest = tail;
    }
    if weight == 100_000 { Err(Bad::Malformed) } else { Ok((us, rest)) }
}
