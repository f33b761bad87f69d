//! Dates and times: ISO text, years before Christ and beyond 9999, infinities, `24:00:00`.
//!
//! Years are astronomical from here on: 1 BC is the year 0.

use super::{Bad, digits, expect, fraction_us, two_digits};
use crate::encode::short::Short;
use crate::route::zone::Zone;

/// What Debezium writes while streaming: the database's sentinel days wrapped around.
const DATE_INFINITY: i32 = -2_147_472_692;
const DATE_MINUS_INFINITY: i32 = -2_147_472_691;
/// The sentinels of the Postgres driver for Java, which Debezium passes on in milliseconds and microseconds.
const TIMESTAMP_INFINITY: i64 = 9_223_372_036_825_200_000;
const TIMESTAMP_MINUS_INFINITY: i64 = -9_223_372_036_832_400_000;

const DAY_SECONDS: i64 = 86_400;

/// Days since 1970.
pub(crate) fn date_days(text: &[u8]) -> Result<i32, Bad> {
    match text {
        b"infinity" => return Ok(DATE_INFINITY),
        b"-infinity" => return Ok(DATE_MINUS_INFINITY),
        _ => {}
    }
    let (date, rest) = Date::parse(text)?;
    i32::try_from(date.era(rest)?.days()?).map_err(|_| Bad::OutOfRange)
}

/// Microseconds since midnight; `24:00:00` is the end of the day.
pub(crate) fn time_us(text: &[u8]) -> Result<i64, Bad> {
    let (seconds, us, rest) = clock(text)?;
    if rest.is_empty() { Ok(seconds * 1_000_000 + i64::from(us)) } else { Err(Bad::Malformed) }
}

/// A time with an offset as text in UTC, with as few fraction digits as it needs.
pub(crate) fn zoned_time(text: &[u8]) -> Result<Short, Bad> {
    let (seconds, us, rest) = clock(text)?;
    let (offset, rest) = offset_seconds(rest)?;
    if !rest.is_empty() {
        return Err(Bad::Malformed);
    }
    let mut out = Short::new();
    push_clock(&mut out, (seconds - offset).rem_euclid(DAY_SECONDS));
    push_fraction(&mut out, us);
    out.push(b"Z");
    Ok(out)
}

/// Microseconds since 1970, without a zone.
pub(crate) fn timestamp_us(text: &[u8]) -> Result<i64, Bad> {
    timestamp(text, |seconds, us| {
        let whole = seconds.checked_mul(1_000_000)?;
        whole.checked_add(i64::from(us))
    })
}

/// Milliseconds since 1970, in which an infinity is Java's, in milliseconds too.
pub(crate) fn timestamp_connect(text: &[u8]) -> Result<i64, Bad> {
    match text {
        b"infinity" => Ok(TIMESTAMP_INFINITY / 1000),
        b"-infinity" => Ok(TIMESTAMP_MINUS_INFINITY / 1000),
        _ => timestamp_ms(text),
    }
}

/// Nanoseconds since 1970, without a zone: the years 1677 to 2262, and infinities, which are the ends of the numbers.
/// What lies beyond is no number.
pub(crate) fn timestamp_ns(text: &[u8]) -> Result<i64, Bad> {
    let us = match text {
        b"infinity" => return Ok(i64::MAX),
        b"-infinity" => return Ok(i64::MIN),
        _ => timestamp_us(text)?,
    };
    us.checked_mul(1000).ok_or(Bad::Special)
}

/// A date as `java.time` prints it, in UTC. `java`: an infinity is the date of its days since 1970.
pub(crate) fn iso_date(text: &[u8], java: bool) -> Result<Short, Bad> {
    let mut out = Short::new();
    match (text, java) {
        (b"infinity" | b"-infinity", false) => {
            out.push(text);
            return Ok(out);
        }
        (b"infinity" | b"-infinity", true) => Date::from_days(i64::from(date_days(text)?)).push(&mut out),
        _ => {
            let (date, rest) = Date::parse(text)?;
            date.era(rest)?.checked()?.push(&mut out);
        }
    }
    out.push(b"Z");
    Ok(out)
}

/// A time with as few fraction digits as it needs, in UTC.
pub(crate) fn iso_time(text: &[u8]) -> Result<Short, Bad> {
    let (seconds, us, rest) = clock(text)?;
    if !rest.is_empty() {
        return Err(Bad::Malformed);
    }
    let mut out = Short::new();
    push_clock(&mut out, seconds);
    push_fraction(&mut out, us);
    out.push(b"Z");
    Ok(out)
}

/// A date and time with as few fraction digits as it needs, in UTC.
pub(crate) fn iso_timestamp(text: &[u8]) -> Result<Short, Bad> {
    let mut out = Short::new();
    if let b"infinity" | b"-infinity" = text {
        out.push(text);
        return Ok(out);
    }
    let (date, seconds, us, rest) = moment(text)?;
    date.era(rest)?.checked()?.push(&mut out);
    out.push(b"T");
    push_clock(&mut out, seconds);
    push_fraction(&mut out, us);
    out.push(b"Z");
    Ok(out)
}

/// As few digits as it needs, none for a whole second.
fn push_fraction(out: &mut Short, us: u32) {
    if us == 0 {
        return;
    }
    out.push(b".");
    out.push_digits::<6>(us);
    let mut rest = us;
    while rest.is_multiple_of(10) {
        rest /= 10;
        out.pop(1);
    }
}

/// Milliseconds since 1970, without a zone.
pub(crate) fn timestamp_ms(text: &[u8]) -> Result<i64, Bad> {
    timestamp(text, |seconds, us| Some(seconds * 1000 + i64::from(us / 1000)))
}

#[inline]
fn timestamp(text: &[u8], unit: impl Fn(i64, u32) -> Option<i64>) -> Result<i64, Bad> {
    match text {
        b"infinity" => return Ok(TIMESTAMP_INFINITY),
        b"-infinity" => return Ok(TIMESTAMP_MINUS_INFINITY),
        _ => {}
    }
    let (date, seconds, us, rest) = moment(text)?;
    let days = date.era(rest)?.days()?;
    unit(days * DAY_SECONDS + seconds, us).ok_or(Bad::OutOfRange)
}

/// Microseconds since 1970 of a timestamp as RFC 3339 has it, or as the database prints one with an offset.
pub(crate) fn rfc3339_us(text: &[u8]) -> Result<i64, Bad> {
    let mut plain = text.to_vec();
    if let Some(t) = plain.get_mut(10).filter(|byte| matches!(**byte, b'T' | b't')) {
        *t = b' ';
    }
    if matches!(plain.last(), Some(b'Z' | b'z')) {
        plain.pop();
        plain.extend_from_slice(b"+00");
    }
    let (date, seconds, us, rest) = moment(&plain)?;
    let (offset, rest) = offset_seconds(rest)?;
    let days = date.era(rest)?.days()?;
    let seconds = days.checked_mul(DAY_SECONDS).and_then(|of_days| of_days.checked_add(seconds - offset));
    let micros = seconds.and_then(|seconds| seconds.checked_mul(1_000_000)?.checked_add(i64::from(us)));
    micros.ok_or(Bad::OutOfRange)
}

/// A timestamp with an offset as text in UTC, with `precision` fraction digits.
pub(crate) fn zoned_timestamp(text: &[u8], precision: u8) -> Result<Short, Bad> {
    zoned(text, Some(precision), None)
}

/// The same in a zone, by the offset that it has then; without a precision, with as few digits as it needs.
pub(crate) fn timestamp_in(text: &[u8], precision: Option<u8>, zone: &Zone) -> Result<Short, Bad> {
    zoned(text, precision, Some(zone))
}

#[inline]
fn zoned(text: &[u8], precision: Option<u8>, zone: Option<&Zone>) -> Result<Short, Bad> {
    let mut out = Short::new();
    if let b"infinity" | b"-infinity" = text {
        out.push(text);
        return Ok(out);
    }
    let (date, seconds, us, rest) = moment(text)?;
    let (offset, rest) = offset_seconds(rest)?;
    let date = date.era(rest)?.checked()?;
    let east = match zone {
        None => 0,
        Some(zone) => zone.offset_at(date.days()? * DAY_SECONDS + seconds - offset),
    };
    let seconds = seconds - offset + east;
    // Most often it is the same day in UTC, and no calendar is needed.
    if (0..DAY_SECONDS).contains(&seconds) {
        date.push(&mut out);
    } else {
        Date::from_days(date.days()? + seconds.div_euclid(DAY_SECONDS)).push(&mut out);
    }
    out.push(b"T");
    push_clock(&mut out, seconds.rem_euclid(DAY_SECONDS));
    match precision {
        None => push_fraction(&mut out, us),
        Some(0) => {}
        Some(precision) => {
            out.push(b".");
            out.push_digits::<6>(us);
            out.pop(usize::from(6 - precision.min(6)));
        }
    }
    push_offset(&mut out, east);
    Ok(out)
}

/// `Z`, `+02:00` or, in old times, `-00:01:15`.
#[inline]
fn push_offset(out: &mut Short, east: i64) {
    if east == 0 {
        return out.push(b"Z");
    }
    let east_of = u32::try_from(east.abs()).unwrap_or_default();
    let ([a, b], [c, d]) = (two(east_of / 3600), two(east_of / 60 % 60));
    out.push(&[if east < 0 { b'-' } else { b'+' }, a, b, b':', c, d]);
    if !east_of.is_multiple_of(60) {
        let [e, f] = two(east_of % 60);
        out.push(&[b':', e, f]);
    }
}

/// Microseconds since 1970 of what the zone's clocks showed.
pub(crate) fn instant_us(text: &[u8], zone: &Zone) -> Result<i64, Bad> {
    let us = timestamp_us(text)?;
    match text {
        b"infinity" | b"-infinity" => Ok(us),
        _ => Ok(us - zone.offset_of_clock(us.div_euclid(1_000_000)) * 1_000_000),
    }
}

/// A date, seconds and microseconds since its midnight, and the rest.
#[inline]
fn moment(text: &[u8]) -> Result<(Date, i64, u32, &[u8]), Bad> {
    if let Some((date, seconds, rest)) = fixed_moment(text) {
        let (us, rest) = fraction_us(rest)?;
        return Ok((date, seconds, us, rest));
    }
    let (date, rest) = Date::parse(text)?;
    let (seconds, us, rest) = clock(expect(rest, b" ")?)?;
    Ok((date, seconds, us, rest))
}

/// The common form, years of four digits and a time within the day, at fixed places.
#[inline]
fn fixed_moment(text: &[u8]) -> Option<(Date, i64, &[u8])> {
    let (head, rest) = text.split_first_chunk::<19>()?;
    let [c, y, e, a, b'-', m, n, b'-', d, j, b' ', h, o, b':', i, u, b':', s, t] = head else {
        return None;
    };
    // The high bit of `seen` is set by whatever is above nine.
    let mut seen = 0_u8;
    let mut two = |tens: &u8, ones: &u8| {
        let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
        seen |= tens | tens.wrapping_add(118) | ones | ones.wrapping_add(118);
        u32::from(tens) * 10 + u32::from(ones)
    };
    let year = i64::from(two(c, y) * 100 + two(e, a));
    let date = Date { year, month: two(m, n), day: two(d, j) };
    let (hours, minutes, seconds) = (two(h, o), two(i, u), two(s, t));
    let is_common = seen < 0x80 && hours < 24 && minutes < 60 && seconds < 60;
    is_common.then_some((date, i64::from(hours * 3600 + minutes * 60 + seconds), rest))
}

/// Seconds and microseconds since midnight, and the rest.
#[inline]
fn clock(text: &[u8]) -> Result<(i64, u32, &[u8]), Bad> {
    let (hours, rest) = two_digits(text)?;
    let (minutes, rest) = two_digits(expect(rest, b":")?)?;
    let (seconds, rest) = two_digits(expect(rest, b":")?)?;
    let (us, rest) = fraction_us(rest)?;
    let sum = hours * 3600 + minutes * 60 + seconds;
    let ends_the_day = i64::from(sum) == DAY_SECONDS && us == 0;
    if minutes > 59 || seconds > 59 || (hours > 23 && !ends_the_day) {
        return Err(Bad::Malformed);
    }
    Ok((i64::from(sum), us, rest))
}

/// `+02`, `+05:30` or `-03:30:15`: seconds east of UTC.
#[inline]
fn offset_seconds(text: &[u8]) -> Result<(i64, &[u8]), Bad> {
    let (east, rest) = match text {
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return Err(Bad::Malformed),
    };
    let (hours, mut rest) = two_digits(rest)?;
    let (mut minutes, mut seconds) = (0, 0);
    if let Some(tail) = rest.strip_prefix(b":") {
        (minutes, rest) = two_digits(tail)?;
        if let Some(tail) = rest.strip_prefix(b":") {
            (seconds, rest) = two_digits(tail)?;
        }
    }
    if minutes > 59 || seconds > 59 {
        return Err(Bad::Malformed);
    }
    Ok((east * i64::from(hours * 3600 + minutes * 60 + seconds), rest))
}

#[inline]
fn push_clock(out: &mut Short, seconds: i64) {
    let seconds = u32::try_from(seconds).unwrap_or_default();
    let ([a, b], [c, d], [e, f]) = (two(seconds / 3600), two(seconds / 60 % 60), two(seconds % 60));
    out.push(&[a, b, b':', c, d, b':', e, f]);
}

/// The last two digits.
#[inline]
fn two(number: u32) -> [u8; 2] {
    [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Date {
    year: i64,
    month: u32,
    day: u32,
}

impl Date {
    /// `YYYY-MM-DD`, the year of four digits or more.
    #[inline]
    fn parse(text: &[u8]) -> Result<(Self, &[u8]), Bad> {
        let (year, count, rest) = digits(text)?;
        let (month, rest) = two_digits(expect(rest, b"-")?)?;
        let (day, rest) = two_digits(expect(rest, b"-")?)?;
        // Postgres ends in the year 5874897.
        if !(4..=7).contains(&count) {
            return Err(Bad::Malformed);
        }
        Ok((Self { year, month, day }, rest))
    }

    /// The era stands after everything else.
    #[inline]
    fn era(self, rest: &[u8]) -> Result<Self, Bad> {
        match rest {
            b"" => Ok(self),
            b" BC" => Ok(Self { year: 1 - self.year, ..self }),
            _ => Err(Bad::Malformed),
        }
    }

    /// A day that the calendar has.
    #[inline]
    fn checked(self) -> Result<Self, Bad> {
        let is_day = self.day > 0 && self.day <= days_in_month(self.year, self.month);
        if is_day { Ok(self) } else { Err(Bad::Malformed) }
    }

    /// Days since 1970 in the proleptic Gregorian calendar, by eras of 400 years that begin in March.
    #[inline]
    fn days(self) -> Result<i64, Bad> {
        self.checked()?;
        let year = if self.month > 2 { self.year } else { self.year - 1 };
        let month = i64::from(if self.month > 2 { self.month - 3 } else { self.month + 9 });
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        Ok(era * 146_097 + day_of_era - 719_468)
    }

    #[inline]
    fn from_days(days: i64) -> Self {
        let days = days + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = era * 400 + year_of_era + i64::from(month < 3);
        Self {
            year,
            month: u32::try_from(month).unwrap_or_default(),
            day: u32::try_from(day_of_year - (153 * march_month + 2) / 5 + 1).unwrap_or_default(),
        }
    }

    /// As `java.time` prints it: a sign before years that are negative or have more than four digits.
    #[inline]
    fn push(self, out: &mut Short) {
        let magnitude = u32::try_from(self.year.unsigned_abs()).unwrap_or(u32::MAX);
        if self.year < 0 {
            out.push(b"-");
        } else if magnitude > 9999 {
            out.push(b"+");
        }
        if magnitude > 9999 {
            out.push_number(u64::from(magnitude));
        } else {
            out.push(&two(magnitude / 100));
            out.push(&two(magnitude));
        }
        let ([a, b], [c, d]) = (two(self.month), two(self.day));
        out.push(&[b'-', a, b, b'-', c, d]);
    }
}

#[inline]
fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "time_test.rs"]
mod tests;
