//! Flat rows: the row alone, what is added to it, and what becomes of deletes.

use serde_json::json;

use super::flat::{Added, Deletes, Flat};
use super::scene::{
    C, Desk, Seen, add, batch, column, debezium, header, insert, json as as_json, millrace, relation, t,
};
use super::*;
use crate::batch::{Before, Op};
use crate::pattern::Pattern;
use crate::relation::Kind;

fn parts(texts: &[&str]) -> Vec<Added> {
    texts.iter().map(|text| Added::parse(text, "__").unwrap()).collect()
}

fn flat(format: Format, flat: Flat) -> Format {
    Format { envelope: Envelope::Flat, flat, ..format }
}

/// An insert, an update of the name, a change of the key and a delete, of a table with its key as identity.
fn changes(format: Format) -> Vec<Seen> {
    let table = relation(vec![column("id", Kind::Int32), column("name?", Kind::Text)], &[0]);
    let mut batch = batch(&table);
    insert(&mut batch, &[t("1"), t("a")]);
    add(&mut batch, Op::Update, Before::None, &[], &[t("1"), C::N]);
    add(&mut batch, Op::Update, Before::Key, &[t("1"), C::N], &[t("2"), t("b")]);
    add(&mut batch, Op::Delete, Before::Key, &[t("2"), C::N], &[]);
    Desk::new(format).encode(&batch)
}

fn values(seen: &[Seen]) -> Vec<Option<serde_json::Value>> {
    seen.iter().map(|seen| seen.value.clone()).collect()
}

#[test]
fn a_row_stands_alone_and_a_delete_is_its_tombstone() {
    for format in [debezium(), millrace(), as_json(false, millrace())] {
        let seen = changes(flat(format, Flat::default()));
        let row = |id: i32, name| Some(json!({"id": id, "name": name}));
        assert_eq!(values(&seen), [row(1, Some("a")), row(1, None), None, row(2, Some("b")), None]);
        assert_eq!(seen[2].key, Some(json!({"id": 1})));
    }
}

#[test]
fn deletes_are_dropped_or_rewritten_as_the_file_says() {
    let of = |deletes| changes(flat(debezium(), Flat { deletes, ..Flat::default() }));
    let dropped = of(Deletes::Drop);
    assert_eq!(dropped.len(), 3);
    let row = |id: i32, name, deleted| Some(json!({"id": id, "name": name, "__deleted": deleted}));
    let gone = |id: i32| row(id, None, "true");
    let rewritten =
        [row(1, Some("a"), "false"), row(1, None, "false"), gone(1), row(2, Some("b"), "false"), gone(2)];
    assert_eq!(values(&of(Deletes::Rewrite)), rewritten);
    let mut with_tombstones = rewritten.to_vec();
    with_tombstones.insert(5, None);
    with_tombstones.insert(3, None);
    let both = of(Deletes::RewriteWithTombstone);
    assert_eq!(values(&both), with_tombstones);
    assert_eq!(both[3].key, Some(json!({"id": 1})));
    // What compacted topics need: only where tombstones are wanted at all.
    let without = Format { tombstones: false, ..debezium() };
    let without = flat(without, Flat { deletes: Deletes::RewriteWithTombstone, ..Flat::default() });
    assert_eq!(values(&changes(without)), rewritten);
}

#[test]
fn parts_of_the_event_stand_behind_the_row_and_in_headers() {
    let settings = Flat {
        deletes: Deletes::Rewrite,
        fields: parts(&["op", "source.lsn:at", "sequence", "xmin", "source.snapshot", "ts_ns"]),
        headers: parts(&["op", "table", "xmin"]),
        ..Flat::default()
    };
    for format in [debezium(), as_json(false, debezium())] {
        let seen = changes(flat(format, settings.clone()));
        let value = seen[3].value.as_ref().unwrap();
        assert_eq!(value["__op"], "c", "the new key's row is an insert");
        assert_eq!(value["__at"], 102);
        assert_eq!(value["__sequence"], "[\"90\",\"102\"]");
        assert_eq!(value["__xmin"], json!(null));
        assert_eq!(value["__source_snapshot"], json!(null), "as Debezium: the default is not read");
        assert!(value["__ts_ns"].as_i64().is_some());
        let ops: Vec<Option<&str>> = seen.iter().map(|seen| header(seen, "__op")).collect();
        assert_eq!(ops, ["c", "u", "d", "c", "d"].map(Some));
        assert_eq!((header(&seen[0], "__table"), header(&seen[0], "__xmin")), (Some("t"), Some("null")));
    }
}

#[test]
fn the_fields_and_their_order_are_in_the_schema() {
    let settings =
        Flat { deletes: Deletes::Rewrite, fields: parts(&["op", "source.snapshot"]), ..Flat::default() };
    let seen = changes(flat(as_json(true, debezium()), settings));
    let schema = &seen[0].value.as_ref().unwrap()["schema"];
    let fields: Vec<&str> =
        schema["fields"].as_array().unwrap().iter().map(|field| field["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["id", "name", "__deleted", "__op", "__source_snapshot"]);
    assert_eq!((&schema["name"], &schema["optional"]), (&json!("test_server.public.t.Value"), &json!(false)));
    let snapshot = &schema["fields"][4];
    assert_eq!((&snapshot["optional"], &snapshot["default"]), (&json!(true), &json!(null)));
    assert_eq!(schema["fields"][2]["type"], "string");
}

#[test]
fn a_table_whose_columns_are_all_left_out_has_what_is_added() {
    let excluded =
        Format { columns_excluded: vec![Pattern::new("public.t.*")], ..as_json(false, debezium()) };
    let settings = Flat { fields: parts(&["xmin", "op"]), ..Flat::default() };
    let seen = changes(flat(excluded, settings));
    assert_eq!(seen[0].value, Some(json!({"__xmin": null, "__op": "c"})));
}

#[test]
fn parts_that_rows_lack_and_names_that_columns_have_are_refused() {
    let table = relation(vec![column("__op", Kind::Int32)], &[0]);
    let mut rows = batch(&table);
    insert(&mut rows, &[t("1")]);
    for (part, said) in [
        ("collection", "have no source.collection"),
        ("updateDescription.updatedFields", "have no updateDescription"),
        ("op", "has a field __op already"),
    ] {
        let settings = Flat { fields: parts(&[part]), ..Flat::default() };
        let mut desk = Desk::new(flat(debezium(), settings));
        let mut out = EncodedBatch::default();
        assert!(matches!(desk.encoder.encode(&rows, &mut out), Ok(Encoded::NeedsPrepare)));
        let error = scene::ready(desk.encoder.prepare(&rows)).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn without_a_key_a_tombstone_says_nothing_and_a_rewritten_delete_does() {
    let table = relation(vec![column("a", Kind::Text)], &[]);
    let mut rows = batch(&table);
    add(&mut rows, Op::Delete, Before::Full, &[t("x")], &[]);
    let refused = Desk::new(flat(millrace(), Flat::default())).try_encode(&rows).unwrap_err();
    assert!(refused.to_string().contains("public.t"), "{refused}");
    let settings = Flat { deletes: Deletes::RewriteWithTombstone, ..Flat::default() };
    let seen = Desk::new(flat(millrace(), settings)).encode(&rows);
    assert_eq!(values(&seen), [Some(json!({"a": "x", "__deleted": "true"}))]);
}
