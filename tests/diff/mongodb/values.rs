//! Random documents: every BSON type, odd names, ids of many types, and updates of all kinds.

use millrace_ledger::random::Random;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc,
};

const NAMES: [&str; 9] = ["a", "b", "list", "deep", "with space", "zażółć", "UPPER", "quo\"te", "n1"];
const TEXTS: [&str; 7] =
    ["", "plain", "a\"b\\c/d", "line\nbreak\ttab\u{1}\u{7f}", "zażółć 漢字 €", "😀 e\u{301} ʰ\u{2028}", "x"];
const DECIMALS: [&str; 7] = ["0", "-0", "1.50", "1E+3", "NaN", "-Infinity", "0.000001234567890"];
const DOUBLES: [f64; 10] =
    [0.0, -0.0, 1.0, 1.5, 1e7, 1e-4, 1.5e300, 123_456_789.125, f64::NAN, f64::NEG_INFINITY];
const DATES: [i64; 6] = [0, 1_700_000_000_123, 1_700_000_000_100, -1, 253_402_300_800_000, 60_000];

/// A document of a few fields, without an id.
pub fn document(random: &mut Random) -> Document {
    let mut document = Document::new();
    for _ in 0..random.below(6) {
        document.insert(*random.pick(&NAMES), value(random, 0));
    }
    document.insert("array", (0..random.below(40)).map(|_| value(random, 2)).collect::<Vec<_>>());
    document.insert("count", 1);
    document
}

/// Unique, or nearly so.
pub fn id(random: &mut Random) -> Bson {
    let drawn = i64::try_from(random.below(1 << 52)).unwrap_or(0);
    match random.below(9) {
        0 => Bson::Int64(drawn),
        1 => Bson::Int32(i32::try_from(drawn % (1 << 30)).unwrap_or(0)),
        2 => Bson::String(format!("{} {drawn}", random.pick(&TEXTS))),
        3 => Bson::ObjectId(object_id(random)),
        4 => doc! { "k": drawn, "s": *random.pick(&TEXTS) }.into(),
        5 => Bson::DateTime(DateTime::from_millis(drawn)),
        6 => Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: bytes(random, 16) }),
        7 => Bson::Double(drawn as f64 + 0.5),
        _ => format!("{drawn}.25").parse::<Decimal128>().map_or(Bson::Int64(drawn), Bson::Decimal128),
    }
}

/// By operators, or by a pipeline that cuts an array.
pub fn update(random: &mut Random) -> mongodb::options::UpdateModifications {
    let name = *random.pick(&NAMES);
    let document = match random.below(6) {
        0 => doc! { "$unset": { name: "" } },
        1 => doc! { "$set": { format!("deep2.{name}"): value(random, 1) }, "$inc": { "count": 1 } },
        2 => doc! { "$push": { "array": value(random, 2) } },
        3 => doc! { "$set": { name: value(random, 0) }, "$unset": { "other": "" } },
        4 => {
            let keep = i32::try_from(1 + random.below(3)).unwrap_or(1);
            return vec![doc! { "$set": { "array": { "$slice": ["$array", keep] } } }].into();
        }
        _ => doc! { "$set": { "array.0": value(random, 2) } },
    };
    document.into()
}

fn value(random: &mut Random, depth: u32) -> Bson {
    match random.below(if depth > 2 { 18 } else { 20 }) {
        0 => Bson::Double(*random.pick(&DOUBLES)),
        1 => Bson::Double(f64::from_bits(random.draw() & !(0x7ff << 52) | random.below(2046) << 52)),
        2 => Bson::String((*random.pick(&TEXTS)).to_owned()),
        3 => Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: bytes(random, 5) }),
        4 => Bson::Binary(Binary { subtype: BinarySubtype::UserDefined(0x80), bytes: bytes(random, 3) }),
        5 => Bson::Undefined,
        6 => Bson::ObjectId(object_id(random)),
        7 => Bson::Boolean(random.percent(50)),
        8 => Bson::DateTime(DateTime::from_millis(*random.pick(&DATES))),
        9 => Bson::Null,
        10 => regex(random).unwrap_or(Bson::Null),
        11 => Bson::JavaScriptCode("f(\"x\")".to_owned()),
        12 => Bson::Symbol("s\"y".to_owned()),
        13 => Bson::Int32(random.draw() as i32),
        14 => Bson::Timestamp(Timestamp { time: random.draw() as u32, increment: 7 }),
        15 => Bson::Int64(random.draw().cast_signed()),
        16 => random.pick(&DECIMALS).parse::<Decimal128>().map_or(Bson::Null, Bson::Decimal128),
        17 => random.pick(&[Bson::MinKey, Bson::MaxKey]).clone(),
        18 => match random.below(3) {
            0 => Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                code: "g()".to_owned(),
                scope: doc! { "x": value(random, 9) },
            }),
            1 => Bson::Array(Vec::new()),
            _ => Bson::Array((0..random.below(4)).map(|_| value(random, depth + 1)).collect()),
        },
        _ => {
            let mut document = Document::new();
            for _ in 0..random.below(4) {
                document.insert(*random.pick(&NAMES), value(random, depth + 1));
            }
            document.into()
        }
    }
}

fn regex(random: &mut Random) -> Option<Bson> {
    let options = *random.pick(&["", "i", "imx"]);
    let (pattern, options) = ("a/b\"+".try_into().ok()?, options.try_into().ok()?);
    Some(Bson::RegularExpression(Regex { pattern, options }))
}

fn object_id(random: &mut Random) -> ObjectId {
    let mut raw = [0; 12];
    raw.iter_mut().zip(bytes(random, 12)).for_each(|(to, from)| *to = from);
    ObjectId::from_bytes(raw)
}

fn bytes(random: &mut Random, count: usize) -> Vec<u8> {
    (0..count).map(|_| random.draw() as u8).collect()
}
