//! What becomes of the rows of an outbox, and of rows that can be no record.

use serde_json::json;

use super::disguise::{Cipher, Disguise, Disguised};
use super::scene::*;
use super::*;
use crate::batch::{Before, Cell, Op, ReplicationOrigin, Tag};
use crate::error::Kind as ErrorKind;
use crate::pattern::Pattern;
use crate::relation::{Column, Kind};
use crate::route::rule::{
    Field, FieldForm, FieldFrom, Header, OnReject, OnUpdate, Outbox, PayloadForm, Route, TopicRule,
};
use crate::route::template::Template;

fn columns() -> Vec<Column> {
    let names = ["id", "aggregatetype", "aggregateid", "type", "payload?"];
    names.map(|name| column(name, if name == "payload?" { Kind::Json } else { Kind::Text })).into()
}

fn route(outbox: Outbox) -> Route {
    let format = Format { envelope: Envelope::Outbox, ..json(false, millrace()) };
    Route {
        allow: vec![Pattern::new("outbox.event.o*")],
        headers: vec![Header { name: "kind".into(), column: "type".into(), optional: false, is_time: false }],
        outbox: Some(outbox),
        ..scene::route("public.*", Format { on_reject: OnReject::DeadLetter, ..format })
    }
}

fn desk(route: Route) -> Desk {
    Desk::new(Format { routes: vec![route], ..json(false, millrace()) })
}

fn row(id: &str, aggregate: &str, key: &str, payload: C) -> [C; 5] {
    [t(id), t(aggregate), t(key), t("made"), payload]
}

/// Encodes rows of inserts.
fn encode(desk: &mut Desk, rows: &[[C; 5]]) -> Vec<Seen> {
    let mut batch = batch(&relation(columns(), &[0]));
    for row in rows {
        insert(&mut batch, row);
    }
    desk.encode(&batch)
}

#[test]
fn an_inserted_row_is_an_event_and_its_payload_stays_as_it_is() {
    let mut desk = desk(route(Outbox::default()));
    let seen = encode(&mut desk, &[row("1", "order", "7", t("{\"a\":null,\"b\":[]}"))]);
    assert_eq!((&seen[0].key, &seen[0].value), (&Some(json!(7)), &Some(json!({"a": null, "b": []}))));
    assert_eq!((header(&seen[0], "id"), header(&seen[0], "kind")), (Some("1"), Some("made")));
    let topics = desk.registry.topics.lock().unwrap().clone();
    assert_eq!(topics, ["test_server.dead-letters", "outbox.event.order"]);
}

#[test]
fn each_topic_is_asked_for_once_whatever_the_rows_and_batches() {
    let mut desk = desk(route(Outbox::default()));
    let rows: Vec<_> = (0..50).map(|n| row("1", &format!("o{}", n % 3), "7", t("{}"))).collect();
    assert_eq!(encode(&mut desk, &rows).len(), 50);
    assert_eq!(desk.registry.topics.lock().unwrap().len(), 1 + 3);
}

#[test]
fn an_object_of_fields_has_them_in_order_and_by_their_types() {
    let field = |name: &str, from| Field { name: name.into(), from };
    let of = |name: &str| FieldFrom::Column { name: name.into(), form: FieldForm::ByType };
    let fields =
        vec![field("b", of("payload")), field("a", FieldFrom::Text("x\"".into())), field("c", of("type"))];
    let mut desk = desk(route(Outbox { fields, ..Outbox::default() }));
    let mut batch = batch(&relation(columns(), &[0]));
    insert(&mut batch, &row("1", "order", "7", t(" [1] ")));
    let out = desk.try_encode(&batch).unwrap();
    let value = out.records[0].value.map(|span| out.slice(span)).unwrap();
    assert_eq!(String::from_utf8_lossy(value), r#"{"b":[1],"a":"x\"","c":"made"}"#);
}

#[test]
fn rejects_become_dead_letters_between_their_neighbours_and_are_counted() {
    let mut desk = desk(route(Outbox::default()));
    let rows = [
        row("1", "order", "7", t("{}")),
        row("2", "user", "7", t("{}")),
        row(" ", "order", "7", t("{}")),
        row("4", "order", "", t("{}")),
        row("5", "order", "7", t("{")),
        row("6", "order", "7", C::N),
        row("7", "order", "7", t("{}")),
    ];
    let mut batch = batch(&relation(columns(), &[0]));
    rows.iter().for_each(|row| insert(&mut batch, row));
    let name = Cell { start: batch.bytes.len() as u32, len: 3, tag: Tag::Text };
    batch.bytes.extend_from_slice(b"dc1");
    batch.transactions[0].origin = Some(ReplicationOrigin { name, commit: 5 });
    let out = desk.try_encode(&batch).unwrap();
    let codes: Vec<_> = out
        .records
        .iter()
        .map(|record| out.headers(record).find(|(name, _)| *name == "error.code"))
        .map(|found| {
            found.map_or("-".into(), |(_, code)| {
                String::from_utf8_lossy(code.unwrap_or_default()).into_owned()
            })
        })
        .collect();
    let expected = ["-", "topic_not_allowed", "empty_id", "empty_key", "bad_json", "empty_payload", "-"];
    assert_eq!(codes, expected);
    assert_eq!(out.buried, 5);
    let letter = out.records[4].value.map(|span| out.slice(span)).unwrap();
    let letter = Letter::parse(letter).unwrap();
    assert_eq!((letter.attempt, letter.error.code.as_str()), (1, "bad_json"));

    // The letter alone is enough to try again, with the same outcome and one attempt more.
    let again = letter.to_batch(1).unwrap();
    desk.encoder = Encoder::new(desk.format().clone(), desk.registry.clone(), desk.progress.clone());
    desk.encoder.set_attempt(2);
    let out = desk.try_encode(&again).unwrap();
    assert_eq!((out.records.len(), out.buried), (1, 1));
    let letter = Letter::parse(out.records[0].value.map(|span| out.slice(span)).unwrap()).unwrap();
    assert_eq!((letter.attempt, letter.mark), (2, batch.changes[4].mark));
    assert_eq!(letter.origin, Some(("dc1".to_owned(), 5)));
}

#[test]
fn without_a_policy_for_it_the_first_reject_stops() {
    let mut strict = route(Outbox::default());
    strict.format.on_reject = OnReject::Stop;
    let mut batch = batch(&relation(columns(), &[0]));
    insert(&mut batch, &row("1", "order", "7", t("{")));
    let error = desk(strict).try_encode(&batch).unwrap_err();
    assert_eq!((error.kind(), error.code_text()), (ErrorKind::Record, Some("bad_json")));
    assert!(!error.to_string().contains('{'), "{error}");
}

#[test]
fn deletes_are_no_events_and_updates_are_by_policy() {
    for (policy, letters, stops) in
        [(OnUpdate::Skip, 0, false), (OnUpdate::Reject, 1, false), (OnUpdate::Stop, 0, true)]
    {
        let mut desk = desk(route(Outbox { on_update: policy, ..Outbox::default() }));
        let mut batch = batch(&relation(columns(), &[0]));
        let row = row("1", "order", "7", t("{}"));
        add(&mut batch, Op::Delete, Before::Key, &row, &[]);
        add(&mut batch, Op::Update, Before::None, &[], &row);
        match desk.try_encode(&batch) {
            Ok(out) => assert_eq!((out.records.len(), stops), (letters, false), "{policy:?}"),
            Err(error) => assert_eq!((error.kind(), stops), (ErrorKind::Fatal, true), "{policy:?}"),
        }
    }
}

#[test]
fn a_document_s_members_stand_for_columns() {
    let columns = vec![column("prefix", Kind::Text), column("content", Kind::Text)];
    let settings = Outbox { document: Some("content".into()), ..Outbox::default() };
    let mut desk = desk(route(settings));
    let mut batch = batch(&relation(columns, &[]));
    let content = r#"{"payload": {"x": [1, null]}, "aggregateid": 7, "aggregatetype": "o\u0072der", "id": "i",
                      "type": "k"}"#;
    insert(&mut batch, &[t("p"), t(content)]);
    let seen = desk.encode(&batch);
    assert_eq!((&seen[0].key, &seen[0].value), (&Some(json!(7)), &Some(json!({"x": [1, null]}))));
    assert_eq!((header(&seen[0], "id"), header(&seen[0], "kind")), (Some("i"), Some("k")));
    insert(&mut batch, &[t("p"), t("[]")]);
    insert(&mut batch, &[t("p"), t("{\"id\": \"i\"")]);
    let out = desk.try_encode(&batch).unwrap();
    assert_eq!((out.records.len(), out.buried), (3, 2));
}

/// The cells of an inserted document.
fn put_document(batch: &mut ChangeBatch, after: &str) {
    let mut cells = vec![C::N; crate::batch::document::CELLS];
    cells[crate::batch::document::AFTER] = t(after);
    insert(batch, &cells);
}

#[test]
fn a_document_of_a_collection_is_an_event_whose_members_keep_their_types() {
    let field = |name: &str, column: &str, form| Field {
        name: name.into(),
        from: FieldFrom::Column { name: column.into(), form },
    };
    let settings = Outbox {
        payload: "data".into(),
        fields: vec![
            field("n", "n", FieldForm::ByType),
            field("text", "n", FieldForm::Text),
            field("by", "meta.by", FieldForm::ByType),
            field("data", "data", FieldForm::ByType),
            field("none", "none", FieldForm::ByType),
        ],
        ..Outbox::default()
    };
    let inside = Header { name: "by".into(), column: "meta.by".into(), optional: false, is_time: false };
    let route = Route { headers: vec![inside], ..route(settings) };
    let mut papers = Relation::clone(&relation(vec![column("id", Kind::Text)], &[0]));
    papers.shape = crate::relation::Shape::Documents;
    let mut batch = batch(&Arc::new(papers));
    let text = r#"{"_id":"5f","aggregatetype":"order","aggregateid":"7","n":7,"meta":{"by":"me"},"data":{}}"#;
    put_document(&mut batch, text);
    put_document(&mut batch, r#"{"_id":"60","aggregatetype":"order","aggregateid":null,"data":{}}"#);
    let mut desk = desk(route);
    let out = desk.try_encode(&batch).unwrap();
    let value = out.records[0].value.map(|span| out.slice(span)).unwrap();
    let expected = r#"{"n":7,"text":"7","by":"me","data":{},"none":null}"#;
    assert_eq!(String::from_utf8_lossy(value), expected);
    let headers: Vec<_> = out.headers(&out.records[0]).collect();
    let has = |name, value: &[u8]| headers.contains(&(name, Some(value)));
    assert!(has("id", b"5f") && has("by", b"me"), "{headers:?}");
    assert_eq!((out.records.len(), out.buried), (2, 1));
}

#[test]
fn times_and_partitions_come_from_columns() {
    let mut columns = columns();
    columns.extend([column("at", Kind::Timestamp { precision: 6 }), column("part", Kind::Int32)]);
    let settings =
        Outbox { timestamp: Some("at".into()), partition: Some("part".into()), ..Outbox::default() };
    let mut desk = desk(route(settings));
    let mut batch = batch(&relation(columns, &[0]));
    for (at, part) in [("2024-01-02 03:04:05.25", "3"), ("2024-01-02 03:04:05", "4"), ("soon", "0")] {
        let mut cells = row("1", "order", "7", t("{}")).to_vec();
        cells.extend([t(at), t(part)]);
        insert(&mut batch, &cells);
    }
    let out = desk.try_encode(&batch).unwrap();
    assert_eq!((out.records[0].partition, out.records[0].time_ms), (3, 1_704_164_645_250));
    // Four partitions are all there are, and that is no time.
    assert_eq!(out.buried, 2);
}

#[test]
fn a_route_that_names_no_column_is_an_error_of_the_file() {
    let mut batch = batch(&relation(columns(), &[0]));
    insert(&mut batch, &row("1", "order", "7", t("{}")));
    for wrong in [
        Route {
            headers: vec![Header {
                name: "a".into(),
                column: "nowhere".into(),
                optional: false,
                is_time: false,
            }],
            ..route(Outbox::default())
        },
        Route {
            topic: Template::parse("{nowhere}").ok().map(TopicRule::Template),
            ..route(Outbox::default())
        },
        route(Outbox { payload: "nowhere".into(), ..Outbox::default() }),
    ] {
        let mut desk = desk(wrong);
        let future = std::pin::pin!(desk.encoder.prepare(&batch));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(Err(error)) = future.poll(&mut context) else { panic!("it was taken") };
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("nowhere"), "{error}");
    }
}

#[test]
fn text_is_not_looked_at() {
    let mut desk = desk(route(Outbox { payload_form: PayloadForm::Text, ..Outbox::default() }));
    let mut batch = batch(&relation(columns(), &[0]));
    insert(&mut batch, &row("1", "order", "7", t("{no json")));
    let out = desk.try_encode(&batch).unwrap();
    assert_eq!(out.records[0].value.map(|span| out.slice(span)), Some(&b"{no json"[..]));
}

#[test]
fn what_the_events_of_an_outbox_are_made_of_cannot_be_hidden() {
    let texts: Vec<Column> = columns().into_iter().map(|own| Column { kind: Kind::Text, ..own }).collect();
    let said = |mut route: Route, name: &str| {
        let by = Disguise::Encrypt(Cipher::new("2026", &"00".repeat(32)).unwrap());
        route.format.disguised = vec![Disguised { columns: Pattern::new(name), by }];
        let format = Format { routes: vec![route], ..json(false, millrace()) };
        let found = misfits(&format, &[Relation::clone(&relation(texts.clone(), &[]))]);
        found.iter().map(ToString::to_string).collect::<String>()
    };
    let plain = || route(Outbox::default());
    for name in ["id", "aggregateid", "aggregatetype", "type", "payload"] {
        let all = said(plain(), &format!("*.t.{name}"));
        assert!(all.contains(&format!("public.t.{name} is masked or encrypted")), "{name}: {all}");
    }
    // Neither the key nor the topic is of these columns any more, or all of them are members of a document.
    let keyed = || Route { key: vec!["type".into()], headers: Vec::new(), ..plain() };
    assert_eq!(said(keyed(), "public.t.aggregateid"), "");
    assert!(said(keyed(), "public.t.type").contains("public.t.type is masked"));
    let topic = Some(TopicRule::Fixed("events".into()));
    assert_eq!(said(Route { topic, ..plain() }, "public.t.aggregatetype"), "");
    let of_document = || route(Outbox { document: Some("payload".into()), ..Outbox::default() });
    assert_eq!(said(of_document(), "public.t.aggregateid"), "");
    assert!(said(of_document(), "public.t.payload").contains("public.t.payload is masked"));
}
