//! Random rows of random tables, read back by `apache-avro` with the schema text that was registered.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::scene::*;
use crate::batch::{Before, Op};
use crate::relation::{Column, Declared, Kind, Relation};

/// A kind, a text of it, and what a reader is to see: worked out here by other means than in the encoder.
#[derive(Clone, Debug)]
struct Sample {
    kind: Kind,
    text: String,
    seen: Json,
}

fn sample(kind: Kind, text: impl ToString, seen: Json) -> Sample {
    Sample { kind, text: text.to_string(), seen }
}

/// Two's complement as short as it can be, by the definition: the first length that holds the number.
fn hex_of(number: i128) -> Json {
    let bytes = number.to_be_bytes();
    let fits =
        |len: usize| len == 16 || (-(1_i128 << (len * 8 - 1))..1_i128 << (len * 8 - 1)).contains(&number);
    let len = (1..=16).find(|len| fits(*len)).unwrap();
    json!(bytes[16 - len..].iter().map(|b| format!("{b:02x}")).collect::<String>())
}

fn numbers() -> impl Strategy<Value = Sample> {
    prop_oneof![
        any::<bool>().prop_map(|v| sample(Kind::Bool, if v { "t" } else { "f" }, json!(v))),
        any::<i16>().prop_map(|v| sample(Kind::Int16, v, json!(v))),
        any::<i32>().prop_map(|v| sample(Kind::Int32, v, json!(v))),
        any::<i64>().prop_map(|v| sample(Kind::Int64, v, json!(v))),
        prop::num::f64::NORMAL.prop_map(|v| sample(Kind::Float64, format!("{v:e}"), json!(v))),
        prop::num::f32::NORMAL.prop_map(|v| sample(Kind::Float32, format!("{v:e}"), json!(v))),
        (any::<i64>(), 0..19_u32).prop_map(|(v, scale)| {
            let digits = format!("{:0width$}", v.unsigned_abs(), width = scale as usize + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
            let (sign, point) = (if v < 0 { "-" } else { "" }, if scale > 0 { "." } else { "" });
            let text = format!("{sign}{whole}{point}{fraction}");
            sample(Kind::Decimal { precision: 38, scale }, text, hex_of(i128::from(v)))
        }),
        any::<i64>().prop_map(|v| {
            sample(Kind::VariableDecimal, v, json!({"scale": 0, "value": hex_of(i128::from(v))}))
        }),
    ]
}

fn texts() -> impl Strategy<Value = Sample> {
    let word = "[a-zA-Z0-9 \"\\\\{},ż\n]{0,20}";
    prop_oneof![
        word.prop_map(|v| sample(Kind::Text, v.clone(), json!(v))),
        word.prop_map(|v| sample(Kind::Json, v.clone(), json!(v))),
        Just(sample(Kind::Uuid, "4d1c-x", json!("4d1c-x"))),
        Just(sample(Kind::Enum { labels: vec!["a".into(), "b".into()] }, "b", json!("b"))),
        Just(sample(Kind::Other { type_name: "inet".into() }, "::1", json!("::1"))),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|v| {
            let hex: String = v.iter().map(|b| format!("{b:02x}")).collect();
            sample(Kind::Bytes, format!("\\x{hex}"), json!(hex))
        }),
    ]
}

fn times() -> impl Strategy<Value = Sample> {
    let clock = |us: i64| {
        let (seconds, us) = (us / 1_000_000, us % 1_000_000);
        format!("{:02}:{:02}:{:02}.{us:06}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    };
    const DAY_US: i64 = 86_400_000_000;
    prop_oneof![
        (0..3650_i32).prop_map(|v| sample(Kind::Date, nth_day(v), json!(v))),
        (0..DAY_US).prop_map(move |v| sample(Kind::Time { precision: 6 }, clock(v), json!(v))),
        (0..DAY_US / 1000).prop_map(move |v| {
            sample(Kind::Time { precision: 3 }, clock(v * 1000).get(..12).unwrap(), json!(v))
        }),
        (0..3650_i32, 0..DAY_US).prop_map(move |(day, us)| {
            let text = format!("{} {}", nth_day(day), clock(us));
            sample(Kind::Timestamp { precision: 6 }, text, json!(i64::from(day) * DAY_US + us))
        }),
        (0..3650_i32, 0..DAY_US).prop_map(move |(day, us)| {
            let (day, clock) = (nth_day(day), clock(us));
            let seen = json!(format!("{day}T{clock}Z"));
            sample(Kind::TimestampTz { precision: 6 }, format!("{day} {clock}+00"), seen)
        }),
        (0..DAY_US).prop_map(move |v| sample(Kind::Interval, clock(v), json!(v))),
    ]
}

/// Days after 1970-01-01, counted month by month.
fn nth_day(mut rest: i32) -> String {
    let mut year = 1970;
    loop {
        let february = if year % 4 == 0 { 29 } else { 28 };
        for (month, length) in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate()
        {
            if rest < length {
                return format!("{year}-{:02}-{:02}", month + 1, rest + 1);
            }
            rest -= length;
        }
        year += 1;
    }
}

fn scalars() -> impl Strategy<Value = Sample> {
    prop_oneof![numbers(), texts(), times()]
}

/// An array that holds the scalar, a NULL and the scalar again.
fn arrays() -> impl Strategy<Value = Sample> {
    scalars().prop_map(|element| {
        let quoted = format!("\"{}\"", element.text.replace('\\', r"\\").replace('"', "\\\""));
        let text = format!("{{{quoted},NULL,{quoted}}}");
        sample(Kind::Array(Box::new(element.kind)), text, json!([element.seen, null, element.seen]))
    })
}

/// Columns of a table after its key; some of them nullable, some of the values NULL.
fn table() -> impl Strategy<Value = Vec<(Sample, bool, bool)>> {
    let column = (prop_oneof![3 => scalars().boxed(), 1 => arrays().boxed()], any::<bool>(), any::<bool>());
    prop::collection::vec(column, 0..12)
}

fn relation_of(table: &[(Sample, bool, bool)]) -> Arc<Relation> {
    let mut columns = vec![column("id", Kind::Int64)];
    columns.extend(table.iter().enumerate().map(|(index, (sample, nullable, _))| Column {
        name: format!("c{index}"),
        kind: sample.kind.clone(),
        nullable: *nullable,
        default: (sample.text.len() % 2 == 0).then(|| sample.text.clone()),
        declared: Declared::default(),
    }));
    relation(columns, &[0])
}

fn row_of(table: &[(Sample, bool, bool)], id: usize) -> (Vec<C>, Json) {
    let mut cells = vec![t(&id.to_string())];
    let mut seen = serde_json::Map::from_iter([("id".to_owned(), json!(id))]);
    for (index, (sample, nullable, null)) in table.iter().enumerate() {
        let is_null = *nullable && *null;
        cells.push(if is_null { C::N } else { t(&sample.text) });
        seen.insert(format!("c{index}"), if is_null { Json::Null } else { sample.seen.clone() });
    }
    (cells, Json::Object(seen))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn rows_read_back_as_what_they_were(table in table()) {
        let (cells, expected) = row_of(&table, 7);
        let mut batch = batch(&relation_of(&table));
        insert(&mut batch, &cells);
        add(&mut batch, Op::Update, Before::Full, &cells, &cells);
        let seen = Desk::new(millrace()).encode(&batch);
        let (created, updated) = (seen[0].value.as_ref().unwrap(), seen[1].value.as_ref().unwrap());
        prop_assert_eq!(&created["after"], &expected);
        prop_assert_eq!(&updated["before"], &expected);
        prop_assert_eq!(&updated["after"], &expected);
        prop_assert_eq!(seen[0].key.as_ref(), Some(&json!({"id": 7})));
    }

    #[test]
    fn json_rows_are_json_with_or_without_their_schema(table in table(), schemas in any::<bool>()) {
        let (cells, expected) = row_of(&table, 7);
        let mut batch = batch(&relation_of(&table));
        insert(&mut batch, &cells);
        let value = Desk::new(super::scene::json(schemas, millrace())).encode(&batch)[0].value.clone().unwrap();
        let payload = if schemas { &value["payload"] } else { &value };
        let names = |row: &Json| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        prop_assert_eq!(names(&payload["after"]), names(&expected));
    }

    #[test]
    fn batch_boundaries_anywhere_give_the_same_records(
        table in table(), cuts in prop::collection::vec(any::<bool>(), 1..20),
    ) {
        let relation = relation_of(&table);
        let mut whole = batch(&relation);
        let mut parts = vec![batch(&relation)];
        for (id, cut) in cuts.iter().enumerate() {
            let (cells, _) = row_of(&table, id);
            insert(&mut whole, &cells);
            let mark = whole.changes.last().unwrap().mark;
            insert(parts.last_mut().unwrap(), &cells);
            parts.last_mut().unwrap().changes.last_mut().unwrap().mark = mark;
            if *cut {
                parts.push(batch(&relation));
            }
        }
        let (mut one, mut many) = (Desk::new(millrace()), Desk::new(millrace()));
        let in_parts: Vec<_> = parts.iter().flat_map(|part| many.encode(part)).map(without_clock).collect();
        let at_once: Vec<_> = one.encode(&whole).into_iter().map(without_clock).collect();
        prop_assert_eq!(at_once, in_parts);
    }

    #[test]
    fn no_text_of_any_kind_makes_the_encoder_panic(table in table(), text in ".{0,30}") {
        let mut batch = batch(&relation_of(&table));
        insert(&mut batch, &vec![t(&text); table.len() + 1]);
        let _ = Desk::new(millrace()).try_encode(&batch);
    }
}

/// Without the time of processing, the one thing that differs between runs.
fn without_clock(mut seen: Seen) -> Seen {
    let value = seen.value.as_mut().and_then(Json::as_object_mut).unwrap();
    ["ts_ms", "ts_us", "ts_ns"].iter().for_each(|name| drop(value.remove(*name)));
    seen
}
