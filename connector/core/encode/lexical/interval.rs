//! Intervals as `IntervalStyle = postgres` prints them: `-1 years +2 mons 3 days -04:05:06.789`.

use std::io::Write;

use super::{Bad, digits, expect, fraction_us, two_digits};

const DAY_US: i128 = 86_400_000_000;
/// A twelfth of a year of 365.25 days, as Debezium counts months. A whole number of microseconds.
const MONTH_US: i128 = DAY_US * 36_525 / 1_200;

/// Microseconds. Infinite intervals (Postgres 17) are the greatest and the smallest number.
pub(crate) fn micros(text: &[u8]) -> Result<i64, Bad> {
    match text {
        b"infinity" => return Ok(i64::MAX),
        b"-infinity" => return Ok(i64::MIN),
        b"" => return Err(Bad::Malformed),
        _ => {}
    }
    let mut sum = 0;
    let mut parts = text.split(|b| *b == b' ');
    while let Some(part) = parts.next() {
        let (negative, unsigned) = match part {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (count, _, rest) = digits(unsigned)?;
        let size = if rest.is_empty() {
            i128::from(count) * unit_us(parts.next().ok_or(Bad::Malformed)?)?
        } else if parts.next().is_none() {
            clock_us(count, rest)?
        } else {
            return Err(Bad::Malformed);
        };
        sum += if negative { -size } else { size };
    }
    i64::try_from(sum).map_err(|_| Bad::OutOfRange)
}

/// ISO 8601 as Debezium spells it: every part, each with its sign.
pub(crate) fn iso(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let (mut years, mut months, mut days, mut clock) = (0, 0, 0, 0);
    let mut parts = text.split(|b| *b == b' ');
    while let Some(part) = parts.next() {
        let (sign, unsigned) = match part {
            [b'-', rest @ ..] => (-1, rest),
            [b'+', rest @ ..] => (1, rest),
            rest => (1, rest),
        };
        let (count, _, rest) = digits(unsigned)?;
        if !rest.is_empty() {
            clock = i128::from(sign) * clock_us(count, rest)?;
            continue;
        }
        *match parts.next().ok_or(Bad::Malformed)? {
            b"year" | b"years" => &mut years,
            b"mon" | b"mons" => &mut months,
            b"day" | b"days" => &mut days,
            _ => return Err(Bad::Malformed),
        } = sign * count;
    }
    let sign = if clock < 0 { -1 } else { 1 };
    let clock = u64::try_from(clock.unsigned_abs()).map_err(|_| Bad::OutOfRange)?;
    let (seconds, us) = (clock / 1_000_000, clock % 1_000_000);
    let signed = |value: u64| i64::try_from(value).map(|value| sign * value).map_err(|_| Bad::OutOfRange);
    let (hours, minutes) = (signed(seconds / 3600)?, signed(seconds / 60 % 60)?);
    let minus = if sign < 0 && (seconds % 60 > 0 || us > 0) { "-" } else { "" };
    let seconds = seconds % 60;
    let _ = write!(out, "P{years}Y{months}M{days}DT{hours}H{minutes}M{minus}{seconds}");
    if us > 0 {
        let _ = write!(out, ".{us:06}");
        let kept = out.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1);
        out.truncate(kept);
    }
    out.push(b'S');
    Ok(())
}

fn unit_us(unit: &[u8]) -> Result<i128, Bad> {
    match unit {
        b"year" | b"years" => Ok(MONTH_US * 12),
        b"mon" | b"mons" => Ok(MONTH_US),
        b"day" | b"days" => Ok(DAY_US),
        _ => Err(Bad::Malformed),
    }
}

/// What follows the hours, which may have any number of digits.
fn clock_us(hours: i64, rest: &[u8]) -> Result<i128, Bad> {
    let (minutes, rest) = two_digits(expect(rest, b":")?)?;
    let (seconds, rest) = two_digits(expect(rest, b":")?)?;
    let (us, rest) = fraction_us(rest)?;
    if !rest.is_empty() || minutes > 59 || seconds > 59 {
        return Err(Bad::Malformed);
    }
    let seconds = i128::from(hours) * 3600 + i128::from(minutes * 60 + seconds);
    Ok(seconds * 1_000_000 + i128::from(us))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const DAY: i64 = 86_400 * SECOND;

    #[test]
    fn intervals_become_iso_text() {
        for (text, expected) in [
            ("00:00:00", "P0Y0M0DT0H0M0S"),
            ("1 year 2 mons 3 days 04:05:06.789", "P1Y2M3DT4H5M6.789S"),
            ("-1 days +02:00:00", "P0Y0M-1DT2H0M0S"),
            ("-00:00:00.5", "P0Y0M0DT0H0M-0.5S"),
        ] {
            let mut out = Vec::new();
            iso(text.as_bytes(), &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{text}");
        }
        assert!(iso(b"1 fortnight", &mut Vec::new()).is_err());
    }

    #[test]
    fn intervals_become_microseconds() {
        let known = [
            ("00:00:00", 0),
            ("1 day", DAY),
            ("-3 days", -3 * DAY),
            ("1 mon", 2_629_800 * SECOND),
            ("1 year", 31_557_600 * SECOND),
            ("2 years 1 mon", (2 * 31_557_600 + 2_629_800) * SECOND),
            ("04:05:06.789", 14_706_789_000),
            ("-00:00:00.5", -500_000),
            ("1 day -00:00:01", DAY - SECOND),
            ("-1 years -2 mons +3 days -04:05:06.000001", {
                -(31_557_600 + 2 * 2_629_800) * SECOND + 3 * DAY - 14_706 * SECOND - 1
            }),
            ("2562047:47:16.854775", 9_223_372_036_854_775),
            ("infinity", i64::MAX),
            ("-infinity", i64::MIN),
        ];
        for (text, us) in known {
            assert_eq!(micros(text.as_bytes()), Ok(us), "{text}");
        }
    }

    #[test]
    fn what_is_not_an_interval_is_refused() {
        for text in
            ["", "1", "1 hour", "P1Y", "1 day ", "00:00", "00:60:00", "1 day 00:00:00 2 days", "@ 1 day"]
        {
            assert_eq!(micros(text.as_bytes()), Err(Bad::Malformed), "{text}");
        }
    }

    #[test]
    fn an_interval_beyond_the_range_of_a_long_is_refused() {
        assert_eq!(micros(b"178000000 years"), Err(Bad::OutOfRange));
    }
}
