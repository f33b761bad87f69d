//! Schema texts: Avro's against recorded ones, JSON's against the shape of Kafka Connect.

use serde_json::{Value as Json, json};

use super::connect::{Base, Field, Schema};
use super::scene::*;
use super::*;
use crate::relation::{Column, Kind};

const KEY: &str = include_str!("fixtures/key.avsc");
const ENVELOPE: &str = include_str!("fixtures/envelope.avsc");

/// The columns of the recorded table whose kinds exist here.
fn recorded_columns() -> Vec<Column> {
    let enumeration = Kind::Enum { labels: vec!["V1".into(), "V2".into()] };
    vec![
        with_default(column("pk", Kind::Int32), "0"),
        column("aa?", Kind::Int32),
        column("si?", Kind::Int16),
        column("txt_nn", Kind::Text),
        with_default(column("txt_def?", Kind::Text), "x"),
        column("dec?", Kind::Decimal { precision: 10, scale: 2 }),
        with_default(column("decdef", Kind::Decimal { precision: 12, scale: 0 }), "0"),
        column("vsd?", Kind::VariableDecimal),
        column("vsd2?", Kind::VariableDecimal),
        column("js?", Kind::Json),
        column("uid", Kind::Uuid),
        column("ts?", Kind::Timestamp { precision: 6 }),
        with_default(column("tstz_def?", Kind::TimestampTz { precision: 6 }), "1970-01-01 00:00:00+00"),
        column("d?", Kind::Date),
        column("e?", enumeration),
        column("arr?", Kind::Array(Box::new(Kind::Text))),
        column("raw?", Kind::Bytes),
    ]
}

/// What is registered for a table of these columns, keyed by the first.
fn registered(format: Format, columns: Vec<Column>) -> Vec<(String, String)> {
    let mut desk = Desk::new(format);
    desk.prepare(&batch(&relation(columns, &[0])));
    let schemas = desk.registry.schemas.lock().unwrap().clone();
    for (_, text) in &schemas {
        apache_avro::Schema::parse_str(text).unwrap();
    }
    schemas
}

/// The Avro type of a single nullable column, beside an integer key.
fn type_of(format: Format, extra: Column) -> Json {
    let schemas = registered(format, vec![column("id", Kind::Int32), extra]);
    let envelope: Json = serde_json::from_str(&schemas[1].1).unwrap();
    envelope.pointer("/fields/0/type/1/fields/1/type").unwrap().clone()
}

#[test]
fn schemas_are_byte_for_byte_what_debezium_registers() {
    for format in [debezium(), millrace()] {
        let schemas = registered(format, recorded_columns());
        assert_eq!(schemas[0].0, "test_server.public.t-key");
        assert_eq!(schemas[0].1, KEY.trim_end());
        assert_eq!(schemas[1].0, "test_server.public.t-value");
        assert_eq!(schemas[1].1, ENVELOPE.trim_end());
    }
}

#[test]
fn times_are_int_or_long_by_their_precision() {
    let named =
        |avro: &str, name: &str| json!(["null", {"type": avro, "connect.version": 1, "connect.name": name}]);
    let cases = [
        (Kind::Time { precision: 3 }, "int", "io.debezium.time.Time"),
        (Kind::Time { precision: 4 }, "long", "io.debezium.time.MicroTime"),
        (Kind::TimeTz { precision: 6 }, "string", "io.debezium.time.ZonedTime"),
        (Kind::Timestamp { precision: 0 }, "long", "io.debezium.time.Timestamp"),
        (Kind::Timestamp { precision: 6 }, "long", "io.debezium.time.MicroTimestamp"),
        (Kind::TimestampTz { precision: 0 }, "string", "io.debezium.time.ZonedTimestamp"),
        (Kind::Interval, "long", "io.debezium.time.MicroDuration"),
    ];
    for (kind, avro, name) in cases {
        assert_eq!(type_of(debezium(), column("x?", kind)), named(avro, name));
    }
}

#[test]
fn decimals_are_text_or_doubles_when_asked_for() {
    let amount = || column("x?", Kind::Decimal { precision: 10, scale: 2 });
    let text = Format { decimals: Decimals::Text, ..debezium() };
    assert_eq!(type_of(text, amount()), json!(["null", "string"]));
    let double = Format { decimals: Decimals::Double, ..debezium() };
    assert_eq!(type_of(double, amount()), json!(["null", "double"]));
}

#[test]
fn elements_of_an_enumeration_are_never_null_in_debezium_s_dialect() {
    let array = || column("x?", Kind::Array(Box::new(Kind::Enum { labels: vec!["a".into()] })));
    assert_eq!(type_of(debezium(), array()).pointer("/1/items/type"), Some(&json!("string")));
    assert_eq!(type_of(millrace(), array()).pointer("/1/items/0"), Some(&json!("null")));
}

#[test]
fn defaults_that_no_schema_can_show_are_left_out() {
    let cases = [
        (Kind::Bytes, "\\x00"),
        (Kind::VariableDecimal, "1"),
        (Kind::Array(Box::new(Kind::Int32)), "{}"),
        (Kind::Float64, "NaN"),
        (Kind::Decimal { precision: 5, scale: 1 }, "NaN"),
        (Kind::Int32, "not a number"),
        (Kind::Verbatim, "::1"),
    ];
    for (kind, default) in cases {
        let shown = type_of(debezium(), with_default(column("x?", kind.clone()), default));
        assert_eq!(shown[0], "null", "{kind:?}");
    }
    // A type of one byte, which Debezium knows no default of; `char(n)` is bpchar.
    for (type_name, first) in [("char", "null"), ("bpchar", "string")] {
        let mut letter = with_default(column("x?", Kind::Text), "a");
        letter.declared.type_name = type_name.into();
        let shown = type_of(debezium(), letter);
        assert!(shown[0].to_string().contains(first), "{type_name}: {shown}");
    }
}

#[test]
fn a_character_beyond_the_first_plane_stands_in_a_schema_as_it_is() {
    let shown = type_of(debezium(), with_default(column("x?", Kind::Text), "🦀 \\uD83E\\uDD80 \n"));
    let text = r#"{"type":"string","connect.default":"🦀 \\uD83E\\uDD80 \n"}"#;
    assert_eq!(shown[0], serde_json::from_str::<serde_json::Value>(text).unwrap());
    let mut desk = Desk::new(debezium());
    let table = relation(vec![with_default(column("x?", Kind::Text), "🦀")], &[]);
    desk.prepare(&batch(&table));
    assert!(desk.registry.text(1).contains("\"🦀\""), "{}", desk.registry.text(1));
}

#[test]
fn float_defaults_are_printed_as_java_prints_them() {
    let shown = type_of(debezium(), with_default(column("x?", Kind::Float64), "100"));
    assert_eq!(shown[0].to_string(), r#"{"type":"double","connect.default":100.0}"#);
}

#[test]
fn names_that_avro_does_not_allow_are_adjusted_and_the_original_is_kept() {
    let columns =
        || vec![column("id-x", Kind::Int32), column("id x?", Kind::Int32), column("1st?", Kind::Text)];
    let mut desk = Desk::new(Format::new("my-srv"));
    desk.prepare(&batch(&relation(columns(), &[0])));
    let schemas = desk.registry.schemas.lock().unwrap().clone();
    assert_eq!(
        schemas[0].1,
        r#"{"type":"record","name":"Key","namespace":"my_srv.public.t","fields":[{"name":"id_x","type":"int"}],"connect.name":"my-srv.public.t.Key"}"#
    );
    let value = apache_avro::Schema::parse_str(&schemas[1].1);
    assert!(value.is_ok() && schemas[1].1.contains("\"id_x_\"") && schemas[1].1.contains("\"_1st\""));
}

#[test]
fn the_json_schema_block_is_that_of_kafka_connect() {
    let relation = relation(
        vec![
            column("id", Kind::Int32),
            column("amount?", Kind::Decimal { precision: 10, scale: 2 }),
            with_default(column("note?", Kind::Text), "x"),
            column("tags?", Kind::Array(Box::new(Kind::Text))),
        ],
        &[0],
    );
    let mut batch = batch(&relation);
    insert(&mut batch, &[t("7"), t("1.50"), t("hi"), t("{a}")]);
    let mut desk = Desk::new(json(true, debezium()));
    let out = desk.try_encode(&batch).unwrap();
    let record = out.records[0];
    let key = std::str::from_utf8(out.slice(record.key.unwrap())).unwrap();
    assert_eq!(
        key,
        r#"{"schema":{"type":"struct","fields":[{"type":"int32","optional":false,"field":"id"}],"optional":false,"name":"test_server.public.t.Key"},"payload":{"id":7}}"#
    );
    let value = std::str::from_utf8(out.slice(record.value.unwrap())).unwrap();
    let row = concat!(
        r#"{"schema":{"type":"struct","fields":[{"type":"struct","fields":["#,
        r#"{"type":"int32","optional":false,"field":"id"},"#,
        r#"{"type":"bytes","optional":true,"name":"org.apache.kafka.connect.data.Decimal","version":1,"#,
        r#""parameters":{"scale":"2","connect.decimal.precision":"10"},"field":"amount"},"#,
        r#"{"type":"string","optional":true,"default":"x","field":"note"},"#,
        r#"{"type":"array","items":{"type":"string","optional":true},"optional":true,"field":"tags"}],"#,
        r#""optional":true,"name":"test_server.public.t.Value","field":"before"},"#,
    );
    assert!(value.starts_with(row), "{value}");
    let parsed: Json = serde_json::from_str(value).unwrap();
    assert_eq!(parsed["schema"]["version"], 2);
    assert_eq!(parsed["payload"]["after"], json!({"id": 7, "amount": "AJY=", "note": "hi", "tags": ["a"]}));
    assert!(desk.registry.schemas.lock().unwrap().is_empty());
}

#[test]
fn structs_without_a_name_share_one_where_they_are_equal_and_have_numbers_where_they_are_not() {
    let of = |member: &str| {
        let members = vec![Field::new(member, Schema::new(Base::Int32))];
        Schema::new(Base::Struct(members)).optional()
    };
    let fields = vec![Field::new("a", of("x")), Field::new("b", of("y")), Field::new("c", of("x"))];
    let whole = Schema { name: Some("shop.Row".into()), ..Schema::new(Base::Struct(fields)) };
    let parsed: Json = serde_json::from_str(&avro_schema::text(&whole, false)).unwrap();
    let kind = |index: usize| parsed["fields"][index]["type"][1].clone();
    assert_eq!((&kind(0)["name"], &kind(1)["name"]), (&json!("ConnectDefault"), &json!("ConnectDefault2")));
    assert_eq!(kind(2), json!("io.confluent.connect.avro.ConnectDefault"));
}

#[test]
fn arrays_of_names_and_of_varying_bits_are_in_our_dialect_and_not_in_debezium_s() {
    let array = |kind, type_name: &str| {
        let mut array = column("x?", Kind::Array(Box::new(kind)));
        array.declared.type_name = type_name.into();
        vec![column("id", Kind::Int32), array]
    };
    let bits = || Kind::Bits { length: None };
    for (kind, type_name, is_there) in [
        (Kind::Text, "_name", false),
        (Kind::Text, "_text", true),
        (bits(), "_varbit", false),
        (bits(), "_bit", true),
    ] {
        for (format, is_there) in [(debezium(), is_there), (millrace(), true)] {
            let schemas = registered(format, array(kind.clone(), type_name));
            assert_eq!(schemas[1].1.contains(r#""name":"x""#), is_there, "{type_name}");
        }
    }
}
