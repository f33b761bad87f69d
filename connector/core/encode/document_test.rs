//! Documents: Debezium's envelope and key, read back by `apache-avro` and as JSON.

use serde_json::json;

use super::scene::{Desk, Seen, debezium, header, json as as_json, millrace, route};
use super::*;
use crate::batch::{Before, Cell, Change, Op, Part, Row, SnapshotMark, Tag, Transaction, document};
use crate::position::{Mark, Position};
use crate::relation::{Column, Kind, Shape, SourceBlock, SourceField, SourceValue};
use crate::route::rule::Route;
use crate::route::step::{Does, Step};

/// The collection of the recorded schema texts.
fn relation() -> Arc<Relation> {
    let text = |text: &str| SourceValue::Text(text.into());
    let fields = [
        ("version", text("3.6.3.Final")),
        ("connector", text("mongodb")),
        ("name", text("mongo")),
        ("ts_ms", SourceValue::CommitMs),
        ("snapshot", SourceValue::Snapshot),
        ("db", text("dbit")),
        ("sequence", SourceValue::NoText),
        ("ts_us", SourceValue::CommitUs),
        ("ts_ns", SourceValue::CommitNs),
        ("collection", text("c1")),
        ("ord", SourceValue::Increment),
        ("lsid", SourceValue::CellText(document::SESSION)),
        ("txnNumber", SourceValue::CellLong(document::TRANSACTION)),
        ("wallTime", SourceValue::CellLong(document::WALL_MS)),
    ];
    Arc::new(Relation {
        version: Relation::next_version(),
        namespace: "dbit".into(),
        name: "c1".into(),
        columns: vec![Column::new("id", Kind::Text, false)],
        key: vec![0],
        identity: vec![0],
        source: SourceBlock {
            schema_name: "io.debezium.connector.mongo.Source",
            fields: fields.map(|(name, value)| SourceField { name, value }).into(),
        },
        shape: Shape::Documents,
    })
}

#[test]
fn headers_that_are_the_same_for_every_record_are_in_those_of_documents_too() {
    let put = Does::HeaderTexts(vec![("team".into(), "docs".into())]);
    let steps = vec![Step { relations: Vec::new(), topics: None, does: put }];
    let format = Format { steps, ..as_json(false, debezium()) };
    let route =
        Route { header_texts: vec![("by".into(), "route".into())], ..route("dbit.*", format.clone()) };
    let mut desk = Desk::new(Format { routes: vec![route], ..format });
    let parts = [(document::ID, "\"1\""), (document::BEFORE, "{}")];
    // A delete and its tombstone.
    for seen in desk.encode(&batch(&[(Op::Delete, &parts)])) {
        assert_eq!((header(&seen, "team"), header(&seen, "by")), (Some("docs"), Some("route")), "{seen:?}");
    }
}

pub(super) fn batch(changes: &[(Op, &[(usize, &str)])]) -> ChangeBatch {
    let transaction = Transaction {
        id: 0,
        commit_ts_us: 1_700_000_000_123_000,
        previous_commit: None,
        snapshot: SnapshotMark::No,
        again: 0,
        origin: None,
        part: Part::default(),
    };
    let mut batch = ChangeBatch {
        relations: vec![relation()],
        transactions: vec![transaction],
        end: Some(Position::new("{\"cluster_time\":\"1.1\"}")),
        whole: true,
        ..ChangeBatch::default()
    };
    for (n, (op, parts)) in (0..).zip(changes) {
        let start = batch.cells.len() as u32;
        for index in 0..document::CELLS {
            let text = parts.iter().find(|(of, _)| *of == index).map(|(_, text)| *text);
            let (tag, text) = text.map_or((Tag::Null, ""), |text| (Tag::Text, text));
            batch.cells.push(Cell { start: batch.bytes.len() as u32, len: text.len() as u32, tag });
            batch.bytes.extend_from_slice(text.as_bytes());
        }
        let mark = Mark { commit: 7 << 32 | 3, change: 7 << 32 | 3, n };
        let (before, after) = (Row::default(), Row { start, len: document::CELLS as u32 });
        let (has_before, relation, transaction) = (Before::None, 0, 0);
        batch.changes.push(Change { op: *op, has_before, relation, transaction, mark, before, after });
    }
    batch
}

const UPDATE: &[(usize, &str)] = &[
    (document::ID, "{\"$oid\": \"65\"}"),
    (document::BEFORE, "{\"a\": 1}"),
    (document::AFTER, "{\"a\": 2}"),
    (document::UPDATED, "{\"a\": 2}"),
    (document::REMOVED, "{\"b\",\"c\\\"d\"}"),
    (document::TRUNCATED, "{\"e\",\"3\",\"f.g\",\"0\"}"),
    (document::SESSION, "{\"id\": 1}"),
    (document::TRANSACTION, "9"),
    (document::WALL_MS, "1700000000123"),
    (document::IMAGE, "post_image"),
];

fn updated(format: Format) -> Seen {
    let format = Format { topic_prefix: "mongo".into(), ..format };
    Desk::new(format).encode(&batch(&[(Op::Update, UPDATE)])).remove(0)
}

#[test]
fn the_schemas_are_the_recorded_ones_to_the_byte() {
    let format = Format { topic_prefix: "mongo".into(), ..debezium() };
    let mut desk = Desk::new(format);
    desk.prepare(&batch(&[]));
    assert_eq!(desk.registry.text(1), include_str!("fixtures/mongodb_key.avsc").trim_end());
    assert_eq!(desk.registry.text(2), include_str!("fixtures/mongodb_envelope.avsc").trim_end());
}

#[test]
fn an_update_has_every_part_in_avro_and_in_json() {
    let source = json!({
        "version": "3.6.3.Final", "connector": "mongodb", "name": "mongo", "ts_ms": 1_700_000_000_123_i64,
        "snapshot": "false", "db": "dbit", "sequence": null, "ts_us": 1_700_000_000_123_000_i64,
        "ts_ns": 1_700_000_000_123_000_000_i64, "collection": "c1", "ord": 3, "lsid": "{\"id\": 1}",
        "txnNumber": 9, "wallTime": 1_700_000_000_123_i64,
    });
    for format in [debezium(), as_json(false, debezium())] {
        let seen = updated(format);
        assert_eq!(seen.key, Some(json!({"id": "{\"$oid\": \"65\"}"})));
        let mut value = seen.value.unwrap();
        assert!(value["ts_ms"].take().is_i64());
        let expected = json!({
            "before": "{\"a\": 1}", "after": "{\"a\": 2}",
            "updateDescription": {
                "removedFields": ["b", "c\"d"], "updatedFields": "{\"a\": 2}",
                "truncatedArrays": [{"field": "e", "size": 3}, {"field": "f.g", "size": 0}],
            },
            "source": source, "op": "u", "ts_ms": null, "transaction": null,
        });
        assert_eq!(value.to_string(), expected.to_string());
        let names = seen.headers.iter().map(|(name, _)| name.as_str());
        assert!(names.clone().all(|name| name.starts_with("__debezium.context.")), "{:?}", seen.headers);
        assert_eq!(names.count(), 4);
    }
}

#[test]
fn an_insert_has_no_description_and_a_delete_leaves_a_tombstone() {
    let insert: &[(usize, &str)] = &[(document::ID, "1"), (document::AFTER, "{\"_id\": 1}")];
    let changes = batch(&[(Op::Insert, insert), (Op::Delete, &[(document::ID, "1")])]);
    for format in [millrace(), as_json(true, millrace())] {
        let seen = Desk::new(format).encode(&changes);
        let payload = |nth: usize| {
            let value = seen[nth].value.clone().unwrap();
            value.get("payload").cloned().unwrap_or(value)
        };
        assert_eq!(payload(0)["updateDescription"], json!(null));
        assert_eq!((&payload(0)["op"], &payload(1)["op"]), (&json!("c"), &json!("d")));
        assert_eq!(
            (payload(1)["after"].clone(), payload(1)["source"]["lsid"].clone()),
            (json!(null), json!(null))
        );
        assert_eq!((seen.len(), &seen[2].value, &seen[2].key), (3, &None, &seen[1].key));
    }
}

#[test]
fn our_dialect_says_in_headers_what_the_envelope_cannot() {
    let seen = updated(millrace());
    assert_eq!(header(&seen, "image"), Some("post_image"));
    assert_eq!(header(&seen, "position"), Some("0000000700000003/0000000700000003/0/0"));
}

#[test]
fn a_drop_is_an_event_only_where_truncates_are_wanted() {
    let drop: &[(usize, &str)] = &[(document::OPERATION, "{\"operationType\":\"drop\"}")];
    let changes = batch(&[(Op::Truncate, drop)]);
    assert!(Desk::new(millrace()).encode(&changes).is_empty());
    let seen = Desk::new(Format { truncates: true, ..millrace() }).encode(&changes);
    assert_eq!((seen.len(), &seen[0].key, &seen[0].value.as_ref().unwrap()["op"]), (1, &None, &json!("t")));
    assert_eq!(header(&seen[0], "operation"), Some("{\"operationType\":\"drop\"}"));
}

#[test]
fn a_description_with_one_part_has_the_others_null() {
    for (part, text, field) in [
        (document::UPDATED, "{}", "updatedFields"),
        (document::REMOVED, "{\"a\"}", "removedFields"),
        (document::TRUNCATED, "{\"a\",\"1\"}", "truncatedArrays"),
    ] {
        let changes = batch(&[(Op::Update, &[(document::ID, "1"), (part, text)])]);
        let seen = Desk::new(debezium()).encode(&changes);
        let description = seen[0].value.as_ref().unwrap()["updateDescription"].clone();
        let set: Vec<&String> =
            description.as_object().unwrap().iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k).collect();
        assert_eq!(set, [field]);
    }
}
