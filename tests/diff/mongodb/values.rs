//! Random documents: every BSON type, odd names, ids of many types, and updates of all kinds.

use millrace_ledger::random::Random;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc,
};

/// What the documents of a run may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// Only what Debezium's transform to flat documents can take: it dies of the rest.
    pub is_tame: bool,
    /// There arrays become documents, if their elements are plain values.
    pub lists_are_documents: bool,
    /// Only names that Avro allows.
    pub is_legal: bool,
}

impl Kinds {
    pub fn name(self, random: &mut Random) -> &'static str {
        let names: &[&'static str] = if self.is_legal { &LEGAL } else { &NAMES };
        random.pick::<&'static str>(names)
    }
}

const LEGAL: [&str; 6] = ["a", "b", "list", "deep", "UPPER", "n1"];
const NAMES: [&str; 9] = ["a", "b", "list", "deep", "with space", "zażółć", "UPPER", "quo\"te", "n1"];
const TEXTS: [&str; 7] =
    ["", "plain", "a\"b\\c/d", "line\nbreak\ttab\u{1}\u{7f}", "zażółć 漢字 €", "😀 e\u{301} ʰ\u{2028}", "x"];
const DECIMALS: [&str; 7] = ["0", "-0", "1.50", "1E+3", "NaN", "-Infinity", "0.000001234567890"];
const DOUBLES: [f64; 10] =
    [0.0, -0.0, 1.0, 1.5, 1e7, 1e-4, 1.5e300, 123_456_789.125, f64::NAN, f64::NEG_INFINITY];
const DATES: [i64; 6] = [0, 1_700_000_000_123, 1_700_000_000_100, -1, 253_402_300_800_000, 60_000];

/// A document of a few fields, without an id.
pub fn document(random: &mut Random, kinds: Kinds) -> Document {
    let mut document = Document::new();
    for _ in 0..random.below(6) {
        document.insert(kinds.name(random), value(random, 0, kinds));
    }
    document.insert("array", (0..random.below(40)).map(|_| element(random, kinds)).collect::<Vec<_>>());
    document.insert("count", 1);
    if random.percent(40) && !kinds.lists_are_documents {
        let line = |random: &mut Random| -> Bson {
            // Debezium's transform dies of an array of empty documents.
            let mut line = doc! { "k": 1 };
            for (name, of) in [("a", 13), ("list", 2), ("n1", 7)] {
                let any = random.below(20);
                if kinds.is_tame && any < 5 {
                    continue;
                }
                line.insert(name, drawn(if kinds.is_tame { of } else { any }, random, 2, kinds));
            }
            line.into()
        };
        document.insert("lines", (0..random.below(4)).map(|_| line(random)).collect::<Vec<_>>());
    }
    document
}

/// Names with dots and dollars, which only whole documents may have.
pub fn add_odd_names(document: &mut Document, random: &mut Random, kinds: Kinds) {
    if random.percent(30) && !kinds.is_tame {
        document.insert("dot.ted", doc! { "in.side": value(random, 2, kinds), "$": 1 });
        document.insert("$dollar", value(random, 2, kinds));
    }
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
pub fn update(random: &mut Random, kinds: Kinds) -> mongodb::options::UpdateModifications {
    let name = kinds.name(random);
    let document = match random.below(6) {
        0 => doc! { "$unset": { name: "" } },
        1 => doc! { "$set": { format!("deep2.{name}"): value(random, 1, kinds) }, "$inc": { "count": 1 } },
        2 => doc! { "$push": { "array": element(random, kinds) } },
        3 => doc! { "$set": { name: value(random, 0, kinds) }, "$unset": { "other": "" } },
        4 => {
            let keep = i32::try_from(1 + random.below(3)).unwrap_or(1);
            return vec![doc! { "$set": { "array": { "$slice": ["$array", keep] } } }].into();
        }
        _ => doc! { "$set": { "array.0": element(random, kinds) } },
    };
    document.into()
}

/// One of an array that may hold anything, or numbers only.
fn element(random: &mut Random, kinds: Kinds) -> Bson {
    match (kinds.is_tame, kinds.lists_are_documents) {
        (false, _) => value(random, 2, kinds),
        (true, false) => Bson::Int32(random.draw() as i32),
        (true, true) => drawn(*random.pick(&[0, 2, 7, 13, 15]), random, 2, kinds),
    }
}

fn value(random: &mut Random, depth: u32, kinds: Kinds) -> Bson {
    let kind = random.below(if depth > 2 { 18 } else { 20 });
    match kind {
        5 | 12 | 17 if kinds.is_tame => Bson::Null,
        18 if kinds.is_tame && (kinds.lists_are_documents || depth > 0) => Bson::Boolean(true),
        18 if kinds.is_tame => {
            let of = *random.pick(&[0, 2, 6, 7, 8, 13, 15, 16]);
            let list = |random: &mut Random| {
                let count = 1 + random.below(3);
                Bson::Array((0..count).map(|_| drawn(of, random, 3, kinds)).collect())
            };
            if random.percent(30) { Bson::Array(vec![list(random), list(random)]) } else { list(random) }
        }
        _ => drawn(kind, random, depth, kinds),
    }
}

/// A value of this kind.
fn drawn(kind: u64, random: &mut Random, depth: u32, kinds: Kinds) -> Bson {
    match kind {
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
        // Debezium takes the seconds for a signed number where it flattens: after 2038 they are before 1970.
        14 => Bson::Timestamp(Timestamp { time: random.draw() as u32 >> 1, increment: 7 }),
        15 => Bson::Int64(random.draw().cast_signed()),
        16 => random.pick(&DECIMALS).parse::<Decimal128>().map_or(Bson::Null, Bson::Decimal128),
        17 => random.pick(&[Bson::MinKey, Bson::MaxKey]).clone(),
        18 => match random.below(3) {
            0 => Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                code: "g()".to_owned(),
                scope: doc! { "x": value(random, 9, kinds) },
            }),
            1 => Bson::Array(Vec::new()),
            _ => Bson::Array((0..random.below(4)).map(|_| value(random, depth + 1, kinds)).collect()),
        },
        _ => {
            let mut document = Document::new();
            for _ in 0..random.below(4) {
                document.insert(kinds.name(random), value(random, depth + 1, kinds));
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
