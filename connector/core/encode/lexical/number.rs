//! Integers and floating point numbers.

use super::Bad;

/// A decimal integer with an optional minus.
#[inline]
pub(crate) fn int(text: &[u8]) -> Result<i64, Bad> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    // Eighteen digits cannot overflow: only longer ones are checked at each step.
    if digits.is_empty() || digits.len() > 18 {
        return long_int(negative, digits);
    }
    let mut value = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(Bad::Malformed);
        }
        value = value * 10 + i64::from(digit);
    }
    Ok(if negative { -value } else { value })
}

#[cold]
fn long_int(negative: bool, digits: &[u8]) -> Result<i64, Bad> {
    let mut value: i64 = 0;
    for byte in digits {
        let digit = i64::from(byte.wrapping_sub(b'0'));
        if digit > 9 {
            return Err(Bad::Malformed);
        }
        // Counts downwards: the smallest number has no positive twin.
        let next = value.checked_mul(10).and_then(|v| v.checked_sub(digit));
        value = next.ok_or(Bad::OutOfRange)?;
    }
    match (digits.is_empty(), negative) {
        (true, _) => Err(Bad::Malformed),
        (false, true) => Ok(value),
        (false, false) => value.checked_neg().ok_or(Bad::OutOfRange),
    }
}

/// A floating point number; `NaN`, `Infinity` and `-Infinity` as Postgres prints them.
#[inline]
pub(crate) fn float64(text: &[u8]) -> Result<f64, Bad> {
    match fast_float2::parse::<f64, _>(text) {
        Ok(value) if value.is_finite() => Ok(value),
        _ => special(text),
    }
}

#[inline]
pub(crate) fn float32(text: &[u8]) -> Result<f32, Bad> {
    match fast_float2::parse::<f32, _>(text) {
        Ok(value) if value.is_finite() => Ok(value),
        #[expect(clippy::cast_possible_truncation, reason = "NaN and infinities stay what they are")]
        _ => special(text).map(|value| value as f32),
    }
}

#[cold]
fn special(text: &[u8]) -> Result<f64, Bad> {
    match text {
        b"NaN" => Ok(f64::NAN),
        b"Infinity" => Ok(f64::INFINITY),
        b"-Infinity" => Ok(f64::NEG_INFINITY),
        _ if text.iter().any(u8::is_ascii_digit) && fast_float2::parse::<f64, _>(text).is_ok() => {
            Err(Bad::OutOfRange)
        }
        _ => Err(Bad::Malformed),
    }
}

/// Whether the text is a number as Java would print it but for a fraction of zero, and if so whether it shows a
/// fraction. Java prints 0 and what lies between a thousandth and ten millions without an exponent.
pub(crate) fn plain_number(text: &[u8]) -> Option<bool> {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let rest = skip_digits(unsigned)?;
    if unsigned.len() - rest.len() > 7
        || matches!(unsigned, [b'0', b'0'..=b'9', ..] | [b'0', b'.', b'0', b'0', b'0', ..])
    {
        return None;
    }
    let fraction = match rest {
        [b'.', tail @ ..] if skip_digits(tail)?.is_empty() => tail,
        [] => rest,
        _ => return None,
    };
    // The database prints no zeros at the end; somebody else's text may have them.
    if fraction.len() > 1 && fraction.ends_with(b"0") { None } else { Some(!fraction.is_empty()) }
}

/// The rest after one digit or more.
fn skip_digits(text: &[u8]) -> Option<&[u8]> {
    let count = text.iter().take_while(|b| b.is_ascii_digit()).count();
    if count == 0 { None } else { text.get(count..) }
}

/// Java prints what lies in here without an exponent.
const PLAIN: std::ops::Range<f64> = 1e-3..1e7;

/// A double as Java prints it, for defaults in schema texts.
pub fn java_double(value: f64) -> String {
    // Without an exponent both print the shortest digits, with one behind the point at least.
    if value == 0.0 || PLAIN.contains(&value.abs()) {
        return zmij::Buffer::new().format_finite(value).to_owned();
    }
    let shortest = format!("{value:e}");
    // Java shows two digits at least, and of the smallest numbers the second one is not zero: 4.9E-324.
    let two = format!("{value:.1e}");
    let is_longer = !shortest.contains('.') && two.parse() == Ok(value);
    java_float(value, if is_longer { &two } else { &shortest })
}

/// A float as Java prints it.
pub(crate) fn java_single(value: f32) -> String {
    let shortest = format!("{value:e}");
    let two = format!("{value:.1e}");
    let is_longer = !shortest.contains('.') && two.parse() == Ok(value);
    java_float(f64::from(value), if is_longer { &two } else { &shortest })
}

/// `digits` are those that Java would show, in scientific notation.
fn java_float(value: f64, digits: &str) -> String {
    if value != 0.0 && !PLAIN.contains(&value.abs()) {
        let (mantissa, exponent) = digits.split_once('e').unwrap_or((digits, "0"));
        let dot = if mantissa.contains('.') { "" } else { ".0" };
        return format!("{mantissa}{dot}E{exponent}");
    }
    // Reading the shortest digits as a double keeps them: a double holds more of them than a float.
    let plain = digits.parse::<f64>().unwrap_or(value);
    format!("{plain:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_up_to_their_bounds() {
        for value in [0, 1, -1, 999_999_999_999_999_999, i64::MAX, i64::MIN, i64::MIN + 1] {
            assert_eq!(int(value.to_string().as_bytes()), Ok(value));
        }
    }

    #[test]
    fn what_is_not_an_integer_is_refused() {
        for text in ["", "-", "+1", "1.0", "1 ", " 1", "0x1", "1e3", "--1", "١", "1234567890123456789a"] {
            assert_eq!(int(text.as_bytes()), Err(Bad::Malformed), "{text}");
        }
        for text in ["9223372036854775808", "-9223372036854775809", "99999999999999999999999"] {
            assert_eq!(int(text.as_bytes()), Err(Bad::OutOfRange), "{text}");
        }
    }

    #[test]
    fn floats_are_read_with_their_special_values() {
        assert_eq!(float64(b"1.5e-07"), Ok(1.5e-7));
        assert_eq!(float64(b"-0").map(f64::to_bits), Ok((-0.0_f64).to_bits()));
        assert_eq!(float64(b"-Infinity"), Ok(f64::NEG_INFINITY));
        assert!(float64(b"NaN").is_ok_and(f64::is_nan));
        assert_eq!(float32(b"3.4028235e+38"), Ok(f32::MAX));
    }

    #[test]
    fn what_is_not_a_float_is_refused() {
        for text in ["", "abc", "1,5", "1.5x", "nan", "inf"] {
            assert_eq!(float64(text.as_bytes()), Err(Bad::Malformed), "{text}");
        }
        assert_eq!(float64(b"1e999"), Err(Bad::OutOfRange));
        assert_eq!(float32(b"1e39"), Err(Bad::OutOfRange));
    }

    #[test]
    fn only_what_java_prints_the_same_is_taken_as_it_is() {
        for (text, fraction) in
            [("0", false), ("-12", false), ("1.5", true), ("9999999", false), ("0.001", true)]
        {
            assert_eq!(plain_number(text.as_bytes()), Some(fraction), "{text}");
        }
        for text in
            ["", "-", "01", ".5", "1.", "1e", "NaN", "+1", "1 ", "1e+10", "10000000", "0.0001", "1.50"]
        {
            assert_eq!(plain_number(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn floats_are_printed_as_java_prints_them() {
        let known = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.001, "0.001"),
            (0.00012, "1.2E-4"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (-1.5e300, "-1.5E300"),
            (f64::from_bits(1), "4.9E-324"),
            (1e23, "1.0E23"),
        ];
        for (value, text) in known {
            assert_eq!(java_double(value), text);
        }
        assert_eq!(java_single(0.1), "0.1");
        assert_eq!(java_single(1.5e10), "1.5E10");
    }
}
