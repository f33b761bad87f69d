//! Events by schemas of somebody else's, read again by `apache-avro`.

use serde_json::json;

use super::scene::*;
use super::*;
use crate::relation::{Column, Kind};
use crate::route::rule::{Field, FieldForm, FieldFrom, OnReject, Outbox, Route, Schemas, TopicRule};
use crate::route::template::Template;
use crate::sink::SchemaType;

const SUBJECT: &str = "made-value";

fn columns() -> Vec<Column> {
    ["id", "aggregateid", "type", "payload"].map(|name| column(name, Kind::Text)).into()
}

fn schemas(of: SchemaType, declared: Option<&str>) -> Schemas {
    let texts = declared.iter().map(|text| (SUBJECT.to_owned(), (*text).to_owned())).collect();
    let subject = Template::parse("{type}-value").unwrap();
    Schemas { of, subject, texts, derived: false, id_header: None }
}

fn desk(declared: Option<&str>) -> Desk {
    desk_of(Outbox { schemas: Some(schemas(SchemaType::Avro, declared)), ..Outbox::default() })
}

fn desk_of(outbox: Outbox) -> Desk {
    let format =
        Format { envelope: Envelope::Outbox, on_reject: OnReject::DeadLetter, ..json(false, millrace()) };
    let route = Route {
        topic: Some(TopicRule::Fixed("events".into())),
        outbox: Some(outbox),
        ..route("public.*", format)
    };
    Desk::new(Format { routes: vec![route], ..json(false, millrace()) })
}

fn row(payload: &str) -> [C; 4] {
    [t("1"), t("a"), t("made"), t(payload)]
}

/// The record's value by its schema, or the code of its reject and what is said of it.
fn written(desk: &mut Desk, payload: &str) -> std::result::Result<serde_json::Value, (String, String)> {
    let mut batch = batch(&relation(columns(), &[0]));
    insert(&mut batch, &row(payload));
    let out = desk.try_encode(&batch).unwrap();
    let value = out.records[0].value.map(|span| out.slice(span)).unwrap();
    match out.buried {
        0 => Ok(desk.decode_avro(value)),
        _ => {
            let letter = Letter::parse(value).unwrap();
            Err((letter.error.code, letter.error.message))
        }
    }
}

fn by(schema: serde_json::Value, payload: &str) -> std::result::Result<serde_json::Value, (String, String)> {
    written(&mut desk(Some(&schema.to_string())), payload)
}

fn field(r#type: serde_json::Value) -> serde_json::Value {
    json!({"type": "record", "name": "r", "fields": [{"name": "x", "type": r#type}]})
}

#[test]
fn every_type_is_written_as_an_independent_reader_reads_it() {
    let logical = |of: &str, name: &str| json!({"type": of, "logicalType": name});
    let decimal = json!({"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2});
    let fixed = json!({"type": "fixed", "name": "f", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 1});
    let nested = json!({"type": "record", "name": "n", "namespace": "a.b", "fields": [
        {"name": "down", "type": ["null", "n"], "default": null}, {"name": "to", "type": "int"}]});
    for (r#type, text, expected) in [
        (json!("boolean"), "true", json!(true)),
        (json!("int"), "-2147483648", json!(i32::MIN)),
        (json!("long"), "9223372036854775807", json!(i64::MAX)),
        (json!("double"), "-1.5e3", json!(-1500.0)),
        (json!("string"), r#""a\"\u00e9""#, json!("a\"é")),
        (json!("bytes"), r#""\u0000\u00ff""#, json!("00ff")),
        (decimal.clone(), "12.5", json!("04e2")),
        (decimal, r#""-0.010""#, json!("ff")),
        (fixed, "-1.2", json!("fffffff4")),
        (logical("int", "date"), r#""2024-01-02""#, json!(19724)),
        (
            logical("long", "timestamp-millis"),
            r#""2024-01-02T03:04:05.006+01:00""#,
            json!(1_704_161_045_006_i64),
        ),
        (
            logical("long", "timestamp-micros"),
            r#""2024-01-02T03:04:05.000006Z""#,
            json!(1_704_164_645_000_006_i64),
        ),
        (logical("long", "timestamp-micros"), "7", json!(7)),
        (logical("int", "time-millis"), r#""00:00:01.5""#, json!(1500)),
        (
            logical("string", "uuid"),
            r#""5f0aa010-2030-4050-8070-8f0000000001""#,
            json!("5f0aa010-2030-4050-8070-8f0000000001"),
        ),
        (json!({"type": "enum", "name": "e", "symbols": ["A", "B"]}), r#""B""#, json!("B")),
        (json!({"type": "array", "items": ["null", "long"]}), "[1, null]", json!([1, null])),
        (json!({"type": "array", "items": "int"}), "[]", json!([])),
        (json!({"type": "map", "values": "int"}), r#"{"k": 1}"#, json!({"k": 1})),
        (json!(["null", "string", "long"]), "5", json!(5)),
        (json!(["null", "string"]), "null", json!(null)),
        (nested, r#"{"to": 1, "down": {"to": 2}}"#, json!({"down": {"down": null, "to": 2}, "to": 1})),
    ] {
        let seen = by(field(r#type.clone()), &format!("{{\"x\": {text}}}"));
        assert_eq!(seen, Ok(json!({"x": expected})), "{type} of {text}");
    }
}

#[test]
fn what_a_type_cannot_hold_exactly_is_a_misfit_that_names_the_field_and_not_the_value() {
    let decimal = json!({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2});
    let millis = json!({"type": "long", "logicalType": "timestamp-millis"});
    for (r#type, text) in [
        (json!("int"), "2147483648"),
        (json!("long"), "1.5"),
        (json!("long"), "\"77\""),
        (json!("string"), "77"),
        (json!("double"), "\"77\""),
        (decimal.clone(), "77.771"),
        (decimal, "777"),
        (millis, "\"2024-01-02T03:04:05.0000077Z\""),
        (json!({"type": "enum", "name": "e", "symbols": ["A"]}), "\"77\""),
        (json!(["null", "int"]), "\"77\""),
        (json!({"type": "fixed", "name": "f", "size": 1}), "\"77\""),
    ] {
        let (code, message) = by(field(r#type.clone()), &format!("{{\"x\": {text}}}")).unwrap_err();
        assert_eq!(code, "schema_misfit", "{type} of {text}");
        assert!(
            message.contains(&format!("schema of subject {SUBJECT}: x")) && !message.contains("77"),
            "{message}"
        );
    }
}

#[test]
fn a_missing_member_is_its_default_and_an_unknown_one_is_a_misfit() {
    let schema = json!({"type": "record", "name": "r", "fields": [
        {"name": "a", "type": "int"}, {"name": "b", "type": ["string", "null"], "default": "none"}]});
    assert_eq!(by(schema.clone(), "{\"a\": 1}"), Ok(json!({"a": 1, "b": "none"})));
    let misfit = |payload: &str| by(schema.clone(), payload).unwrap_err().1;
    assert!(misfit("{\"b\": null}").contains("a: is missing"));
    assert!(misfit("{\"a\": 1, \"c\": 2}").contains("c: is no field of the schema"));
}

#[test]
fn an_event_that_does_not_fit_is_tried_by_the_newest_schema_before_it_is_refused() {
    let mut desk = desk(None);
    let register = |desk: &Desk, fields: serde_json::Value| {
        let text = json!({"type": "record", "name": "r", "fields": fields}).to_string();
        desk.registry.schemas.lock().unwrap().push((SUBJECT.into(), text));
    };
    let mut seq = 0;
    let mut encode = |desk: &mut Desk, payload: &str| {
        seq += 1;
        let mut batch = batch(&relation(columns(), &[0]));
        batch.seq = seq;
        insert(&mut batch, &row(payload));
        let out = desk.try_encode(&batch).unwrap();
        let code = out.headers(&out.records[0]).find(|(name, _)| *name == "error.code");
        code.map_or("-".to_owned(), |(_, code)| {
            String::from_utf8_lossy(code.unwrap_or_default()).into_owned()
        })
    };
    assert_eq!(encode(&mut desk, "{\"a\": 1}"), "no_schema");
    register(&desk, json!([{"name": "a", "type": "int"}]));
    assert_eq!(encode(&mut desk, "{\"a\": 1}"), "-");
    assert_eq!(encode(&mut desk, "{\"a\": 1, \"b\": 2}"), "schema_misfit");
    register(&desk, json!([{"name": "a", "type": "int"}, {"name": "b", "type": "int", "default": 0}]));
    assert_eq!(encode(&mut desk, "{\"a\": 1, \"b\": 2}"), "-");
    assert_eq!(encode(&mut desk, "{\"a\": 1}"), "-");
}

#[test]
fn a_schema_that_is_none_is_an_error_with_its_subject() {
    for text in ["{", "{\"type\": \"record\"}", "\"nowhere\"", "[5]"] {
        let mut desk = desk(Some(text));
        let mut batch = batch(&relation(columns(), &[0]));
        insert(&mut batch, &row("{}"));
        let future = std::pin::pin!(desk.encoder.prepare(&batch));
        let error = match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(result) => result.unwrap_err(),
            std::task::Poll::Pending => panic!("this registry never waits"),
        };
        assert!(error.to_string().contains(SUBJECT), "{error}");
    }
}

fn json_desk(declared: Option<&str>, id_header: Option<&str>) -> Desk {
    let id_header = id_header.map(Into::into);
    let schemas = Schemas { id_header, ..schemas(SchemaType::Json, declared) };
    desk_of(Outbox { schemas: Some(schemas), ..Outbox::default() })
}

/// The batch of one event with this payload.
fn event(desk: &mut Desk, seq: u64, payload: &str) -> EncodedBatch {
    let mut batch = batch(&relation(columns(), &[0]));
    batch.seq = seq;
    insert(&mut batch, &row(payload));
    desk.try_encode(&batch).unwrap()
}

fn value(out: &EncodedBatch) -> &[u8] {
    out.slice(out.records[0].value.unwrap())
}

fn header_of<'a>(out: &'a EncodedBatch, wanted: &str) -> Option<&'a str> {
    let found = out.headers(&out.records[0]).find(|(name, _)| *name == wanted);
    found.map(|(_, value)| std::str::from_utf8(value.unwrap_or_default()).unwrap())
}

const NUMBERED: &str = r#"{"type": "object", "properties": {"n": {"type": "integer"}}}"#;

#[test]
fn json_that_fits_its_schema_goes_out_as_it_came_behind_the_id() {
    let mut desk = json_desk(Some(NUMBERED), None);
    let payload = r#" {"n" : 1, "x": [ ], "amount":12.50}"#;
    let out = event(&mut desk, 1, payload);
    assert_eq!(value(&out), [&[0, 0, 0, 0, 1], payload.as_bytes()].concat());
    assert_eq!(header_of(&out, "schema-id"), None);
    assert_eq!(*desk.registry.json.lock().unwrap(), [SUBJECT]);
}

#[test]
fn json_that_fits_its_schema_goes_out_bare_where_the_id_is_in_a_header() {
    let mut desk = json_desk(Some(NUMBERED), Some("the-id"));
    let out = event(&mut desk, 1, r#"{"n": 1}"#);
    assert_eq!((value(&out), header_of(&out, "the-id")), (r#"{"n": 1}"#.as_bytes(), Some("1")));
}

#[test]
fn a_letter_of_json_names_the_pointer_and_the_word_that_is_broken() {
    let mut desk = json_desk(Some(NUMBERED), None);
    let out = event(&mut desk, 1, r#"{"n": "7777"}"#);
    let letter = Letter::parse(value(&out)).unwrap();
    assert_eq!(letter.error.code, "schema_misfit");
    let message = letter.error.message;
    assert!(
        message.ends_with("schema of subject made-value: /n breaks type (#/properties/n/type)"),
        "{message}"
    );
}

#[test]
fn json_that_does_not_fit_is_tried_by_the_newest_schema_before_it_is_refused() {
    let mut desk = json_desk(None, None);
    assert_eq!(header_of(&event(&mut desk, 1, "{}"), "error.code"), Some("no_schema"));
    let register = |desk: &Desk, text: &str| {
        desk.registry.json.lock().unwrap().push(SUBJECT.into());
        desk.registry.schemas.lock().unwrap().push((SUBJECT.into(), text.into()));
    };
    register(&desk, r#"{"maxProperties": 0}"#);
    assert_eq!(header_of(&event(&mut desk, 2, "{}"), "error.code"), None);
    assert_eq!(header_of(&event(&mut desk, 3, r#"{"a":1}"#), "error.code"), Some("schema_misfit"));
    register(&desk, r#"{"maxProperties": 1}"#);
    let out = event(&mut desk, 4, r#"{"a":1}"#);
    assert_eq!(value(&out), [&[0, 0, 0, 0, 2][..], br#"{"a":1}"#].concat());
}

#[test]
fn a_subject_of_another_type_is_an_error_with_both_types() {
    let mut desk = json_desk(None, None);
    desk.registry.schemas.lock().unwrap().push((SUBJECT.into(), "\"string\"".into()));
    let mut batch = batch(&relation(columns(), &[0]));
    insert(&mut batch, &row("{}"));
    let error = ready(desk.encoder.prepare(&batch)).unwrap_err().to_string();
    assert!(error.contains("made-value is of type AVRO") && error.contains("to be JSON"), "{error}");
}

/// Columns of every kind beside the payload, and a route that shows them all.
fn derived_desk(more: &[Column]) -> (Desk, Vec<Column>) {
    let of = |name: &str| FieldFrom::Column { name: name.into(), form: FieldForm::ByType };
    let shown = [columns(), more.to_vec()].concat();
    let mut fields: Vec<_> =
        shown.iter().map(|column| Field { name: column.name.clone(), from: of(&column.name) }).collect();
    fields.push(Field { name: "source".into(), from: FieldFrom::Text("shop".into()) });
    let schemas = Schemas { derived: true, ..schemas(SchemaType::Json, None) };
    (desk_of(Outbox { fields, schemas: Some(schemas), ..Outbox::default() }), shown)
}

#[test]
fn a_derived_schema_is_of_the_route_and_its_columns_and_no_event_has_a_part_in_it() {
    let more = [
        column("whole?", Kind::Int32),
        column("part", Kind::Decimal { precision: 9, scale: 2 }),
        column("on", Kind::Bool),
        column("at?", Kind::TimestampTz { precision: 6 }),
        column("more", Kind::Json),
    ];
    let (mut desk, columns) = derived_desk(&more);
    let relation = relation(columns, &[0]);
    let mut batch = batch(&relation);
    let cells = |more: [C; 5]| [row(r#"{"any": 1}"#).to_vec(), more.to_vec()].concat();
    insert(&mut batch, &cells([t("7"), t("1.50"), t("t"), t("2024-01-02 03:04:05+00"), t("[1]")]));
    // NULLs where the catalog knows none, and a number that is none.
    insert(&mut batch, &cells([C::N, t("NaN"), C::N, C::N, C::N]));
    let out = desk.try_encode(&batch).unwrap();
    assert_eq!((out.records.len(), out.buried), (2, 0));
    let (text, or_null) = (json!({"type": "string"}), |of: &str| json!({"type": [of, "null"]}));
    let expected = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "id": or_null("string"), "aggregateid": or_null("string"), "type": or_null("string"), "payload": {},
            "whole": or_null("integer"), "part": {"type": ["number", "string", "null"]}, "on": or_null("boolean"),
            "at": {"type": ["string", "null"], "format": "date-time"}, "more": {}, "source": text,
        },
        "additionalProperties": false,
    });
    let schemas = desk.registry.schemas.lock().unwrap().clone();
    assert_eq!(schemas.len(), 1);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&schemas[0].1).unwrap(), expected);
}
