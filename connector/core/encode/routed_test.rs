//! Records of an outbox as Debezium's event router and Kafka Connect's converters have them.

use super::scene::*;
use super::*;
use crate::relation::{Column, Kind};
use crate::route::rule::{
    Converter, OnReject, OnUpdate, Outbox, PayloadForm, Placed, Placement, Route, Routed, TopicRule,
};

const JSON: Converter = Converter::Json { schemas: false };

fn columns(payload: Kind) -> Vec<Column> {
    vec![
        column("id", Kind::Uuid),
        column("aggregatetype", Kind::Text),
        column("aggregateid", Kind::Text),
        column("type?", Kind::Text),
        column("payload?", payload),
        column("amount?", Kind::Int32),
    ]
}

fn placed(column: &str, at: Placement, name: &str) -> Placed {
    Placed { column: column.into(), at, name: name.into() }
}

fn routed(key: Converter, value: Converter) -> Routed {
    let (schema_version, placed) = (None, Vec::new());
    Routed { key, value, expand: false, keeps_nulls: false, schema_version, placed, skips_missing: false }
}

fn desk(routed: Routed, tombstone_on_empty: bool) -> Desk {
    desk_that(OnReject::Stop, routed, tombstone_on_empty)
}

fn desk_that(on_reject: OnReject, routed: Routed, tombstone_on_empty: bool) -> Desk {
    let format = Format { envelope: Envelope::Outbox, ..json(false, debezium()) };
    let outbox = Outbox {
        payload_form: PayloadForm::Json,
        on_update: OnUpdate::Skip,
        tombstone_on_empty,
        routed: Some(routed),
        ..Outbox::default()
    };
    let route = Route {
        topic: Some(TopicRule::Replace {
            column: "aggregatetype".into(),
            regex: regex_lite::Regex::new("(.*)").unwrap(),
            replacement: "out.$1".into(),
        }),
        outbox: Some(outbox),
        ..route("*", Format { on_reject, ..format })
    };
    Desk::new(Format { routes: vec![route], ..json(false, debezium()) })
}

type Texts = (Option<String>, Option<String>, Vec<(String, Option<String>)>);

/// Key, value and headers of each record, the headers of Debezium's context left out.
fn encode(desk: &mut Desk, payload: Kind, rows: &[(C, C)]) -> Vec<Texts> {
    let mut batch = batch(&relation(columns(payload), &[0]));
    for (text, amount) in rows {
        let id = t("11111111-1111-4111-8111-111111111111");
        insert(&mut batch, &[id, t("order"), t("k\"1"), t("made"), text.clone(), amount.clone()]);
    }
    let out = desk.try_encode(&batch).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    out.records
        .iter()
        .map(|record| {
            let part = |span: Option<crate::batch::Span>| span.map(|span| text(out.slice(span)));
            let headers = out.headers(record).filter(|(name, _)| !name.starts_with("__debezium"));
            let headers = headers.map(|(name, value)| (name.to_owned(), value.map(text))).collect();
            (part(record.key), part(record.value), headers)
        })
        .collect()
}

fn value(routed: Routed, payload: Kind, text: C) -> Option<String> {
    encode(&mut desk(routed, false), payload, &[(text, C::N)]).remove(0).1
}

#[test]
fn a_payload_is_a_string_to_connect_however_it_is_written() {
    let text = "{\"n\": 1}";
    for (by, expected) in [
        (Converter::Text, text.to_owned()),
        (JSON, r#""{\"n\": 1}""#.to_owned()),
        (
            Converter::Json { schemas: true },
            r#"{"schema":{"type":"string","optional":true,"name":"io.debezium.data.Json","version":1},"payload":"{\"n\": 1}"}"#
                .to_owned(),
        ),
    ] {
        assert_eq!(value(routed(by, by), Kind::Json, t(text)), Some(expected), "{by:?}");
    }
    assert_eq!(value(routed(JSON, Converter::Bytes), Kind::Bytes, t("\\x4869")).as_deref(), Some("Hi"));
}

#[test]
fn an_expanded_payload_is_an_object_without_nulls_and_empty_arrays() {
    let expand = |keeps_nulls| Routed { expand: true, keeps_nulls, ..routed(Converter::Text, JSON) };
    let text = r#"{"b": 1.0, "none": null, "a": [], "list": [{"x": 1}, {"x": 2, "y": "z"}]}"#;
    let list = r#""list":[{"x":1,"y":null},{"x":2,"y":"z"}]"#;
    let without = format!("{{\"b\":1.0,{list}}}");
    assert_eq!(value(expand(false), Kind::Json, t(text)), Some(without));
    let with = format!("{{\"b\":1.0,\"none\":null,{list}}}");
    assert_eq!(value(expand(true), Kind::Json, t(text)), Some(with));
    let text = r#"{"a": [1, "x"]}"#;
    assert_eq!(value(expand(false), Kind::Json, t(text)).as_deref(), Some(r#""{\"a\": [1, \"x\"]}""#));
}

#[test]
fn columns_go_where_they_are_placed_in_the_order_of_the_file() {
    let placed = vec![
        placed("type", Placement::Header, "eventType"),
        placed("amount", Placement::Envelope, "sum"),
        placed("amount", Placement::Header, "amount"),
    ];
    let settings = Routed { placed, expand: true, ..routed(Converter::Text, JSON) };
    let rows = [(t("{\"n\": 1}"), t("5")), (t("[1]"), C::N)];
    let seen = encode(&mut desk(settings, false), Kind::Json, &rows);
    assert_eq!(seen[0].0.as_deref(), Some("k\"1"));
    assert_eq!(seen[0].1.as_deref(), Some(r#"{"payload":{"n":1},"sum":5}"#));
    assert_eq!(seen[1].1.as_deref(), Some(r#"{"payload":"[1]","sum":null}"#));
    let header = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    let id = header("id", Some("11111111-1111-4111-8111-111111111111"));
    let kind = header("eventType", Some("made"));
    assert_eq!(seen[0].2, [id.clone(), kind.clone(), header("amount", Some("5"))]);
    assert_eq!(seen[1].2, [id, kind, header("amount", None)], "a null is a header without a value");
}

#[test]
fn an_empty_payload_is_a_tombstone_where_the_file_says_so_and_itself_otherwise() {
    let rows = [(C::N, C::N), (t(" "), C::N)];
    for (by, tombstones, expected) in [
        (Converter::Text, true, [None, None]),
        (Converter::Text, false, [None, Some(" ")]),
        (JSON, false, [Some("null"), Some("\" \"")]),
    ] {
        let seen = encode(&mut desk(routed(by, by), tombstones), Kind::Text, &rows);
        let values: Vec<_> = seen.iter().map(|(_, value, _)| value.as_deref()).collect();
        assert_eq!(values, expected, "{by:?} {tombstones}");
    }
}

#[test]
fn what_a_converter_does_not_take_is_an_error_of_the_file() {
    for (settings, payload) in [
        (routed(JSON, Converter::Bytes), Kind::Text),
        (routed(JSON, Converter::Text), Kind::Bytes),
        (Routed { expand: true, ..routed(JSON, Converter::Text) }, Kind::Json),
        (
            Routed {
                placed: vec![placed("nowhere", Placement::Header, "x")],
                ..routed(JSON, Converter::Text)
            },
            Kind::Json,
        ),
    ] {
        let mut batch = batch(&relation(columns(payload), &[0]));
        insert(&mut batch, &[t("1"), t("o"), t("k"), t("t"), t("{}"), C::N]);
        let mut desk = desk(settings, false);
        let future = std::pin::pin!(desk.encoder.prepare(&batch));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(Err(error)) = future.poll(&mut context) else { panic!("it was taken") };
        assert_eq!(error.kind(), crate::error::Kind::Config, "{error}");
    }
}

#[test]
fn keys_and_values_in_avro_have_schemas_under_the_topic_of_the_row() {
    let mut desk = desk(routed(Converter::Avro, Converter::Avro), false);
    let seen = encode(&mut desk, Kind::Json, &[(t("{}"), C::N)]);
    let schemas = desk.registry.schemas.lock().unwrap().clone();
    let subjects: Vec<&str> = schemas.iter().map(|(subject, _)| subject.as_str()).collect();
    assert_eq!(subjects, ["out.order-key", "out.order-value"]);
    // A frame, a tag of the union, a length, the text.
    assert!(seen[0].1.as_deref().unwrap().ends_with("\u{2}\u{4}{}"), "{seen:?}");
}

#[test]
fn an_inferred_schema_that_its_subject_does_not_take_makes_its_own_event_a_letter_and_no_other() {
    let settings = Routed { expand: true, ..routed(Converter::Text, Converter::Avro) };
    let mut desk = desk_that(OnReject::DeadLetter, settings, false);
    let encode = |desk: &mut Desk, seq: u64| {
        let mut batch = batch(&relation(columns(Kind::Json), &[0]));
        batch.seq = seq;
        for payload in [r#"{"n": 1}"#, r#"{"n": "7777"}"#, r#"{"n": 2}"#] {
            insert(&mut batch, &[t("1"), t("order"), t("k"), t("made"), t(payload), C::N]);
        }
        let out = desk.try_encode(&batch).unwrap();
        let code = |record| out.headers(record).find(|(name, _)| *name == "error.code").is_some();
        let letters: Vec<bool> = out.records.iter().map(code).collect();
        let letter = out.records[1].value.and_then(|value| Letter::parse(out.slice(value)).ok());
        (letters, letter.map(|letter| (letter.error.code, letter.error.message)))
    };
    *desk.registry.refuses.lock().unwrap() = Some(r#"["null","string"]"#);
    let (letters, letter) = encode(&mut desk, 1);
    assert_eq!(letters, [false, true, false]);
    let (code, message) = letter.unwrap();
    assert_eq!(code, "schema_incompatible");
    assert!(message.contains("a field has another type") && !message.contains("7777"), "{message}");
    // Asked again, since somebody may have lowered the level.
    *desk.registry.refuses.lock().unwrap() = None;
    assert_eq!(encode(&mut desk, 2).0, [false; 3]);
}
