//! Flat documents: with schemas as Debezium's transform makes them, and as they are without.

use serde_json::{Value as Json, json};

use super::document_test::batch;
use super::flat::{Added, Arrays, Deletes, Flat};
use super::scene::{Desk, Seen, debezium, header, json as as_json, millrace};
use super::*;
use crate::batch::Op;
use crate::batch::document::{AFTER, BEFORE, ID, REMOVED, UPDATED};

type Parts<'a> = &'a [(usize, &'a str)];

const DOCUMENT: &str = "{\"_id\": {\"$oid\": \"65\"},\"n\": {\"$numberLong\": \"5\"},\"at\": {\"$date\": 1700000000123},\
    \"d\": {\"$numberDecimal\": \"1.50\"},\"in\": {\"x\": 1,\"y\": {\"z\": true}},\"list\": [1,2],\
    \"docs\": [{\"a\": 1},{\"b\": \"x\"}],\"none\": null}";

fn flat(format: Format, flat: Flat) -> Format {
    Format { envelope: Envelope::Flat, flat, topic_prefix: "mongo".into(), ..format }
}

fn encode(format: Format, changes: &[(Op, Parts<'_>)]) -> Vec<Seen> {
    Desk::new(format).encode(&batch(changes))
}

fn one(format: Format, document: &str) -> Json {
    let changes: [(Op, Parts<'_>); 1] = [(Op::Insert, &[(ID, "1"), (AFTER, document)])];
    encode(format, &changes).remove(0).value.unwrap()
}

#[test]
fn a_document_has_the_schema_of_its_fields_in_avro_and_in_json() {
    let expected = json!({
        "_id": "65", "n": 5, "at": 1_700_000_000_123_i64, "d": "1.50", "in": {"x": 1, "y": {"z": true}},
        "list": [1, 2], "docs": [{"a": 1, "b": null}, {"a": null, "b": "x"}], "none": null,
    });
    for dialect in [debezium(), millrace()] {
        assert_eq!(one(flat(dialect.clone(), Flat::default()), DOCUMENT), expected);
        let with_schema = one(flat(as_json(true, dialect), Flat::default()), DOCUMENT);
        assert_eq!(with_schema["payload"], expected);
        assert_eq!(with_schema["schema"]["fields"][1]["type"], "int64");
        assert_eq!(with_schema["schema"]["fields"][2]["name"], "org.apache.kafka.connect.data.Timestamp");
        assert_eq!(with_schema["schema"]["fields"][4]["name"], "mongo.dbit.c1.in");
    }
}

#[test]
fn without_a_schema_a_document_is_as_it_is() {
    let text = r#"{"_id":"65","big":12345678901234567890.50,"any":[1,"a",{"b":null}],"e":[]}"#;
    let changes: [(Op, Parts<'_>); 1] = [(Op::Insert, &[(ID, "\"65\""), (AFTER, text)])];
    let mut desk = Desk::new(flat(as_json(false, millrace()), Flat::default()));
    let out = desk.try_encode(&batch(&changes)).unwrap();
    let record = &out.records[0];
    assert_eq!(out.slice(record.value.unwrap()), text.as_bytes());
    assert_eq!(out.slice(record.key.unwrap()), br#"{"id":"65"}"#);
}

#[test]
fn keys_are_ids_by_their_types() {
    for (id, expected) in [
        ("1", json!(1)),
        ("{\"$oid\": \"65\"}", json!("65")),
        ("\"a\"", json!("a")),
        ("{\"a\": 1}", json!({"a": 1})),
    ] {
        for format in [debezium(), millrace(), as_json(false, millrace())] {
            let changes: [(Op, Parts<'_>); 1] = [(Op::Insert, &[(ID, id), (AFTER, "{}")])];
            let seen = encode(flat(format, Flat::default()), &changes);
            assert_eq!(seen[0].key, Some(json!({ "id": expected })), "{id}");
        }
    }
}

#[test]
fn an_update_without_a_document_is_what_it_set_with_the_id() {
    let update: Parts<'_> = &[(ID, "1"), (UPDATED, "{\"a\": 2, \"b.c\": 3}"), (REMOVED, "{\"d\"}")];
    let with_schema = flat(as_json(true, debezium()), Flat::default());
    let seen = encode(with_schema, &[(Op::Update, update)]);
    assert_eq!(seen[0].value.as_ref().unwrap()["payload"], json!({"a": 2, "b.c": 3, "_id": 1}));
    let plain = |settings| {
        let format = flat(as_json(false, millrace()), settings);
        encode(format, &[(Op::Update, update)]).remove(0).value.unwrap()
    };
    assert_eq!(plain(Flat::default()), json!({"a": 2, "b.c": 3, "_id": 1}));
    let flattened = Flat { delimiter: Some("_".into()), ..Flat::default() };
    assert_eq!(plain(flattened), json!({"a": 2, "b_c": 3, "_id": 1}));
}

#[test]
fn a_delete_is_a_tombstone_or_nothing_or_rewritten() {
    let changes: [(Op, Parts<'_>); 2] = [
        (Op::Insert, &[(ID, "1"), (AFTER, "{\"_id\": 1}")]),
        (Op::Delete, &[(ID, "1"), (BEFORE, "{\"_id\": 1,\"a\": 2}")]),
    ];
    let of = |deletes| {
        let settings = Flat { deletes, ..Flat::default() };
        let seen = encode(flat(as_json(false, debezium()), settings), &changes);
        seen.into_iter().map(|seen| seen.value).collect::<Vec<_>>()
    };
    let (plain, kept) = (json!({"_id": 1}), json!({"_id": 1, "__deleted": false}));
    let gone = Some(json!({"_id": 1, "a": 2, "__deleted": true}));
    assert_eq!(of(Deletes::Tombstone), [Some(plain.clone()), None]);
    assert_eq!(of(Deletes::Drop), [Some(plain)]);
    assert_eq!(of(Deletes::Rewrite), [Some(kept.clone()), gone.clone()]);
    assert_eq!(of(Deletes::RewriteWithTombstone), [Some(kept), gone, None]);
}

#[test]
fn a_tombstone_after_a_rewritten_delete_has_the_delete_s_headers() {
    let headers = ["op", "source.db"].map(|part| Added::parse(part, "__").unwrap()).into();
    let settings = Flat { deletes: Deletes::RewriteWithTombstone, headers, ..Flat::default() };
    let gone: [(Op, Parts<'_>); 1] = [(Op::Delete, &[(ID, "1"), (BEFORE, "{\"_id\": 1}")])];
    let seen = encode(flat(as_json(false, debezium()), settings), &gone);
    assert_eq!(seen[1].value, None);
    for name in ["__op", "__source_db"] {
        assert_eq!(header(&seen[1], name), header(&seen[0], name), "{name}");
        assert!(header(&seen[1], name).is_some(), "{name}");
    }
}

#[test]
fn nested_fields_stand_in_the_document_where_it_is_flattened() {
    let settings = Flat { delimiter: Some("-".into()), ..Flat::default() };
    let document = "{\"_id\": 1,\"in\": {\"x\": 1,\"y\": {\"z\": true},\"e\": {}},\"list\": [1]}";
    let expected = json!({"_id": 1, "in-x": 1, "in-y-z": true, "list": [1]});
    for format in [as_json(false, debezium()), as_json(false, millrace())] {
        assert_eq!(one(flat(format, settings.clone()), document), expected);
    }
}

#[test]
fn arrays_of_any_values_become_documents_where_that_is_asked_for() {
    let settings = Flat { arrays: Arrays::Members, ..Flat::default() };
    let document = "{\"_id\": 1,\"list\": [1,\"a\",{\"x\": 2}],\"e\": []}";
    let expected = json!({"_id": 1, "list": {"_0": 1, "_1": "a", "_2": {"x": 2}}, "e": {}});
    assert_eq!(one(flat(debezium(), settings.clone()), document), expected);
    let mixed = flat(debezium(), Flat::default());
    let changes: [(Op, Parts<'_>); 1] = [(Op::Insert, &[(ID, "1"), (AFTER, document)])];
    let error = Desk::new(mixed).try_encode(&batch(&changes)).unwrap_err();
    assert!(error.to_string().contains("mongo.dbit.c1.list"), "{error}");
    assert_eq!(error.kind(), crate::error::Kind::Record);
}

#[test]
fn parts_of_the_event_stand_behind_the_document_and_in_headers() {
    let added = |texts: &[&str]| texts.iter().map(|text| Added::parse(text, "__").unwrap()).collect();
    let settings = Flat {
        fields: added(&["op", "source.collection", "source.ord:nr", "source.lsid"]),
        headers: added(&["op", "source.ts_ms", "source.lsid"]),
        ..Flat::default()
    };
    for format in [debezium(), as_json(false, millrace())] {
        let changes: [(Op, Parts<'_>); 1] = [(Op::Insert, &[(ID, "1"), (AFTER, "{\"_id\": 1}")])];
        let seen = encode(flat(format, settings.clone()), &changes).remove(0);
        let expected =
            json!({"_id": 1, "__op": "c", "__source_collection": "c1", "__nr": 3, "__source_lsid": null});
        assert_eq!(seen.value, Some(expected));
        assert_eq!(header(&seen, "__op"), Some("c"));
        assert_eq!(header(&seen, "__source_ts_ms"), Some("1700000000123"));
        assert_eq!(header(&seen, "__source_lsid"), Some("null"));
    }
    let unknown = Flat { fields: added(&["source.lsn"]), ..Flat::default() };
    let mut desk = Desk::new(flat(debezium(), unknown));
    let nothing = batch(&[]);
    let prepared = std::pin::pin!(desk.encoder.prepare(&nothing));
    let std::task::Poll::Ready(Err(error)) =
        prepared.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    else {
        panic!("events of documents have no source.lsn");
    };
    assert!(error.hint_text().unwrap().contains("collection"));
}
