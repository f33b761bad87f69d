//! Dates and times against tables of their bounds and against a calendar that counts day by day.

use super::*;

fn zoned(text: &str, precision: u8) -> Result<String, Bad> {
    zoned_timestamp(text.as_bytes(), precision).map(|s| String::from_utf8_lossy(s.as_slice()).into_owned())
}

#[test]
fn dates_agree_with_a_calendar_that_counts_day_by_day() {
    let (mut year, mut month, mut day) = (-4713, 1, 1);
    let first = Date { year, month, day }.days().unwrap();
    for days in first..first + 7000 * 365 {
        let date = Date { year, month, day };
        assert_eq!(date.days(), Ok(days), "{date:?}");
        assert_eq!(Date::from_days(days), date);
        day += 1;
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        if day > lengths[month as usize - 1] {
            (day, month) = (1, month + 1);
        }
        if month > 12 {
            (month, year) = (1, year + 1);
        }
    }
}

#[test]
fn dates_are_days_since_1970() {
    let known = [
        ("1970-01-01", 0),
        ("1969-12-31", -1),
        ("2000-02-29", 11_016),
        ("2024-12-31", 20_088),
        ("0001-01-01", -719_162),
        ("0001-12-31 BC", -719_163),
        ("4714-11-24 BC", -2_440_588),
        ("10000-01-01", 2_932_897),
        ("5874897-12-31", 2_145_042_905),
        ("infinity", -2_147_472_692),
        ("-infinity", -2_147_472_691),
    ];
    for (text, days) in known {
        assert_eq!(date_days(text.as_bytes()), Ok(days), "{text}");
    }
}

#[test]
fn what_is_not_a_date_is_refused() {
    for text in [
        "",
        "2024",
        "2024-1-1",
        "24-01-01",
        "2024-13-01",
        "2024-00-01",
        "2024-01-32",
        "2023-02-29",
        "1900-02-29",
        "2024-04-31",
        "2024-01-01 ",
        "2024-01-01 AD",
        "2024-01-01BC",
        "-2024-01-01",
        "12345678-01-01",
        "Infinity",
    ] {
        assert_eq!(date_days(text.as_bytes()), Err(Bad::Malformed), "{text}");
    }
}

#[test]
fn times_are_microseconds_since_midnight() {
    let known = [
        ("00:00:00", 0),
        ("00:00:00.000001", 1),
        ("13:51:30.123", 49_890_123_000),
        ("23:59:59.999999", 86_399_999_999),
        ("24:00:00", 86_400_000_000),
    ];
    for (text, us) in known {
        assert_eq!(time_us(text.as_bytes()), Ok(us), "{text}");
    }
}

#[test]
fn what_is_not_a_time_is_refused() {
    for text in
        ["", "1:00:00", "00:00", "25:00:00", "24:00:01", "24:00:00.1", "00:60:00", "00:00:60", "00:00:00."]
    {
        assert_eq!(time_us(text.as_bytes()), Err(Bad::Malformed), "{text}");
    }
    assert_eq!(time_us(b"00:00:00.1234567"), Err(Bad::Malformed));
    assert_eq!(time_us(b"00:00:00+00"), Err(Bad::Malformed));
}

#[test]
fn timestamps_count_from_1970() {
    let known = [
        ("1970-01-01 00:00:00", 0),
        ("1969-12-31 23:59:59.999999", -1),
        ("2024-01-02 03:04:05.123", 1_704_164_645_123_000),
        ("0044-03-15 12:00:00 BC", -63_517_780_800_000_000),
        ("infinity", 9_223_372_036_825_200_000),
        ("-infinity", -9_223_372_036_832_400_000),
    ];
    for (text, us) in known {
        assert_eq!(timestamp_us(text.as_bytes()), Ok(us), "{text}");
    }
    assert_eq!([&b"infinity"[..], b"-infinity"].map(timestamp_ns), [Ok(i64::MAX), Ok(i64::MIN)]);
    assert_eq!(timestamp_ms(b"2024-01-02 03:04:05.123"), Ok(1_704_164_645_123));
    assert_eq!(timestamp_ms(b"1969-12-31 23:59:59.999"), Ok(-1));
    assert_eq!(timestamp_ms(b"294276-12-31 23:59:59.999"), Ok(9_224_318_015_999_999));
}

#[test]
fn a_timestamp_beyond_the_range_of_microseconds_is_refused() {
    assert_eq!(timestamp_us(b"294276-12-31 23:59:59"), Err(Bad::OutOfRange));
    assert_eq!(timestamp_us(b"2024-01-02"), Err(Bad::Malformed));
    assert_eq!(timestamp_us(b"2024-01-02 03:04:05+00"), Err(Bad::Malformed));
}

#[test]
fn zoned_timestamps_are_printed_in_utc() {
    let known = [
        ("2024-01-02 03:04:05.123+02", 6, "2024-01-02T01:04:05.123000Z"),
        ("2024-01-02 03:04:05.123+02", 3, "2024-01-02T01:04:05.123Z"),
        ("2024-01-01 02:00:00+05:30", 0, "2023-12-31T20:30:00Z"),
        ("2024-12-31 23:00:00-03:30:15", 0, "2025-01-01T02:30:15Z"),
        ("0001-01-01 00:00:00+01", 0, "0000-12-31T23:00:00Z"),
        ("0001-01-01 00:00:00+00 BC", 0, "0000-01-01T00:00:00Z"),
        ("4714-11-24 00:00:00+00 BC", 6, "-4713-11-24T00:00:00.000000Z"),
        ("0002-01-01 00:00:00+00 BC", 0, "-0001-01-01T00:00:00Z"),
        ("21016-11-06 02:50:00+00", 0, "+21016-11-06T02:50:00Z"),
        ("294276-12-31 23:59:59.999999+00", 6, "+294276-12-31T23:59:59.999999Z"),
        ("infinity", 6, "infinity"),
        ("-infinity", 6, "-infinity"),
    ];
    for (text, precision, expected) in known {
        assert_eq!(zoned(text, precision).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_not_a_zoned_timestamp_is_refused() {
    for text in [
        "",
        "2024-01-02 03:04:05",
        "2024-01-02 03:04:05Z",
        "2024-01-02 03:04:05+2",
        "2024-01-02T03:04:05+02",
        "2024-01-02 03:04:05+02:60",
        "2024-01-02 03:04:05+02:00:60",
        "2024-01-02 03:04:05+02 ",
    ] {
        assert_eq!(zoned(text, 6), Err(Bad::Malformed), "{text}");
    }
}

#[test]
fn zoned_times_are_printed_in_utc_with_few_fraction_digits() {
    let known = [
        ("13:51:30+02", "11:51:30Z"),
        ("01:00:00.123400+02", "23:00:00.1234Z"),
        ("23:30:00-05:30", "05:00:00Z"),
        ("24:00:00+00", "00:00:00Z"),
        ("10:00:00.000001+00", "10:00:00.000001Z"),
    ];
    for (text, expected) in known {
        let short = zoned_time(text.as_bytes()).unwrap();
        assert_eq!(std::str::from_utf8(short.as_slice()), Ok(expected), "{text}");
    }
    assert!(zoned_time(b"10:00:00").is_err());
}

#[test]
fn a_number_beyond_every_year_is_out_of_range_and_does_not_wrap() {
    for text in ["9223372036854775808-01-01", "9623372036854775807854775807"] {
        assert_eq!(date_days(text.as_bytes()), Err(Bad::OutOfRange), "{text}");
    }
}
