//! Dates of any year to microseconds since 1970, as Postgres counts them.

/// What Debezium writes for timestamps that are infinite.
const PLUS_INFINITY_US: i64 = 9_223_372_036_825_200_000;
const MINUS_INFINITY_US: i64 = -9_223_372_036_832_400_000;

const SECOND_US: i128 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;

/// The canonical text of a timestamp in microseconds.
pub fn micros_text(micros: i64) -> String {
    match micros {
        PLUS_INFINITY_US => "infinity".to_owned(),
        MINUS_INFINITY_US => "-infinity".to_owned(),
        other => other.to_string(),
    }
}

/// The canonical text of an ISO timestamp in UTC: `[+-]YYYY-MM-DDTHH:MM:SS[.ffffff]Z`, the year 0
/// being 1 BC.
pub fn zoned_to_micros(text: &str) -> Result<String, String> {
    if text == "infinity" || text == "-infinity" {
        return Ok(text.to_owned());
    }
    micros(text).map(|us| us.to_string()).ok_or_else(|| format!("{text} is no ISO timestamp in UTC"))
}

/// In 128 bits: the last year of Postgres, counted from 1970, is beyond 64.
fn micros(text: &str) -> Option<i128> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (sign, date) = match date.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, date.strip_prefix('+').unwrap_or(date)),
    };
    let mut parts = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (sign * parts.next()??, parts.next()??, parts.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = clock.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
    if fraction.len() > 6 {
        return None;
    }
    let fraction: i128 = format!("{fraction:0<6}").parse().ok()?;
    let seconds = days_from_civil(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second;
    Some(i128::from(seconds) * SECOND_US + fraction)
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant's algorithm).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_of_any_year_are_counted_as_postgres_counts() {
        let cases = [
            ("1970-01-01T00:00:00Z", "0"),
            ("1969-12-31T23:59:59.999999Z", "-1"),
            ("2026-11-21T00:07:30.000001Z", "1795219650000001"),
            ("0001-01-01T00:00:00Z", "-62135596800000000"),
            ("+294276-12-31T23:59:59.999999Z", "9224318015999999999"),
            ("-4712-01-01T00:00:00.000000Z", "-210863520000000000"),
            ("infinity", "infinity"),
        ];
        for (text, micros) in cases {
            assert_eq!(zoned_to_micros(text).as_deref(), Ok(micros), "{text}");
        }
    }

    #[test]
    fn a_local_timestamp_is_refused() {
        assert!(zoned_to_micros("1970-01-01T00:00:00").is_err());
        assert!(zoned_to_micros("1970-01-01T00:00:00+01:00").is_err());
    }
}
