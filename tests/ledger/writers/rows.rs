//! Random rows, extreme values among them, as JSON for Postgres to take apart.

use serde_json::{Map, Value as Json, json};

use crate::random::Random;
use crate::tables::{Column, Kind, Table};

/// Texts that break encoders: quotes, control characters, every length of UTF-8, look-alikes.
const TEXTS: [&str; 10] = [
    "",
    " ",
    "O'Reilly said \"no\" \\ and left",
    "line\nbreak\ttab\r\u{7f}",
    "日本語のテキスト 😀 ña",
    "\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}",
    "null",
    "{\"a\":1}",
    "\\x00",
    "a,b;c|d",
];
const TIMESTAMPS_TZ: [&str; 9] = [
    "infinity",
    "-infinity",
    "1970-01-01 00:00:00+00",
    "0001-01-01 00:00:00+00",
    "1582-10-15 12:00:00.5+00",
    "9999-12-31 23:59:59.999999+00",
    "10000-01-01 00:00:00+00",
    "294276-12-31 23:59:59.999999+00",
    "4713-01-01 00:00:00+00 BC",
];
/// None beyond what 64 bits of microseconds since 1970 hold: there is no right answer for those.
const TIMESTAMPS: [&str; 6] = [
    "infinity",
    "-infinity",
    "1970-01-01 00:00:00",
    "0001-01-01 00:00:00.000001",
    "9999-12-31 23:59:59.999999",
    "4713-01-01 00:00:00 BC",
];
const DATES: [&str; 5] = ["1970-01-01", "0001-01-01", "9999-12-31", "5874897-12-31", "4713-01-01 BC"];
const MONEY: [&str; 6] = ["0", "-0.01", "9999999999.99", "-9999999999.99", "1.28", "-2.56"];
const NUMERICS: [&str; 8] = [
    "0",
    "0.000",
    "-1",
    "123456789012345678901234567890.123456789",
    "-0.00000000000000000000000000000000000001",
    "1e30",
    "99999999999999999999",
    "1.10",
];
const DOUBLES: [&str; 8] =
    ["0", "-0", "NaN", "Infinity", "-Infinity", "1.7976931348623157e308", "5e-324", "0.1"];
const DOCUMENTS: [&str; 6] = [
    "{}",
    "[]",
    "\"text\"",
    "-0.10",
    r#"{"n":12345678901234567890,"s":"é\n\"\\","a":[],"o":{},"z":[[1,[2]],null,true]}"#,
    r#"{"a":{"b":{"c":{"d":[1.50,2e10]}}}}"#,
];

/// A large value leaves the row when the row is above 2 kB.
const LARGE_CHARS_MIN: usize = 2_500;
const LARGE_CHARS_MAX: usize = 20_000;

/// A row with this key. `crowded` rows come in thousands and have no large values.
pub fn row(table: &Table, key: &[Json], crowded: bool, random: &mut Random) -> Json {
    let mut row = Map::new();
    for (column, value) in table.key_columns().iter().zip(key) {
        row.insert(column.name.to_owned(), value.clone());
    }
    for column in table.columns.iter().skip(table.keys) {
        row.insert(column.name.to_owned(), value(column, crowded, random));
    }
    Json::Object(row)
}

fn value(column: &Column, crowded: bool, random: &mut Random) -> Json {
    if random.percent(8) && !column.declared.ends_with("not null") {
        return Json::Null;
    }
    let extreme = random.percent(10);
    match column.kind {
        Kind::Integer => integer(column, extreme, random),
        Kind::Boolean => json!(random.percent(50)),
        Kind::Text if column.toasted => large(crowded, random),
        Kind::Text if extreme => json!(random.pick(&TEXTS)),
        Kind::Text => json!(letters(random.below_usize(60), random)),
        Kind::Json if extreme => serde_json::from_str(random.pick::<&str>(&DOCUMENTS)).unwrap_or(Json::Null),
        Kind::Json => {
            json!({"name": letters(8, random), "n": random.below(1 << 40), "tags": [letters(3, random)]})
        }
        Kind::Uuid => json!(random.uuid()),
        Kind::Decimal(_) if extreme => json!(random.pick(&MONEY)),
        Kind::Decimal(_) => json!(format!("{}.{:02}", random.below(1 << 33), random.below(100))),
        Kind::Numeric if extreme => json!(random.pick(&NUMERICS)),
        Kind::Numeric => json!(format!("-{}.{}", random.below(1 << 40), random.below(1 << 20))),
        Kind::TimestampTz if extreme => json!(random.pick(&TIMESTAMPS_TZ)),
        Kind::TimestampTz => json!(format!("{}+00", moment(random))),
        Kind::Timestamp if extreme => json!(random.pick(&TIMESTAMPS)),
        Kind::Timestamp => json!(moment(random)),
        Kind::Date if extreme => json!(random.pick(&DATES)),
        Kind::Date => json!(format!("J{}", julian_day(random))),
        Kind::Bytes => {
            let bytes: Vec<u8> = (0..random.below(64)).map(|_| random.draw().to_be_bytes()[0]).collect();
            json!(format!("\\x{}", crate::avro::hex(&bytes)))
        }
        Kind::Double if extreme => json!(random.pick(&DOUBLES)),
        Kind::Double => json!(format!("{}e{}", random.below(1 << 50), random.below(40))),
    }
}

fn integer(column: &Column, extreme: bool, random: &mut Random) -> Json {
    let (min, max) = match column.declared {
        "smallint" => (i64::from(i16::MIN), i64::from(i16::MAX)),
        _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
    };
    match extreme {
        true => json!(random.pick(&[min, max, 0, -1])),
        false => json!(i64::try_from(random.below(30_000)).unwrap_or(0)),
    }
}

fn large(crowded: bool, random: &mut Random) -> Json {
    let chars = match random.below(10) {
        _ if crowded => random.below_usize(20),
        0..3 => random.below_usize(100),
        _ => LARGE_CHARS_MIN + random.below_usize(LARGE_CHARS_MAX - LARGE_CHARS_MIN),
    };
    json!(letters(chars, random))
}

/// Lower-case letters that no compression shortens much.
pub fn letters(count: usize, random: &mut Random) -> String {
    let mut text = String::with_capacity(count + 12);
    while text.len() < count {
        let mut bits = random.draw();
        for _ in 0..12 {
            text.push(char::from(b'a' + u8::try_from(bits % 26).unwrap_or(0)));
            bits /= 26;
        }
    }
    text.truncate(count);
    text
}

/// The Julian day is the one form that Postgres reads and that needs no calendar here.
fn julian_day(random: &mut Random) -> u64 {
    2_440_588 + random.below(40_000)
}

fn moment(random: &mut Random) -> String {
    let (day, time) = (julian_day(random), random.below(86_400_000_000));
    let (seconds, micros) = (time / 1_000_000, time % 1_000_000);
    format!("J{day} {:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
