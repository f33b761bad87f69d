//! Which records a change makes, and what they say.

use serde_json::{Value as Json, json};

use super::disguise::{Cipher, Disguise, Disguised};
use super::scene::*;
use super::*;
use crate::batch::{Before, Cell, Op, ReplicationOrigin, SnapshotMark, Tag};
use crate::error::Kind as ErrorKind;
use crate::pattern::Pattern;
use crate::relation::{Column, Kind};

fn columns() -> Vec<Column> {
    vec![column("id", Kind::Int64), column("name", Kind::Text), column("amount?", Kind::Int32)]
}

fn row(id: &str, name: &str) -> [C; 3] {
    [t(id), t(name), C::N]
}

/// Operations and keys, for a quick look; a tombstone is `-`.
fn ops(seen: &[Seen]) -> Vec<(String, Json)> {
    let op = |s: &Seen| s.value.as_ref().map_or("-".into(), |v| v["op"].as_str().unwrap().to_owned());
    seen.iter().map(|s| (op(s), s.key.as_ref().map_or(Json::Null, |key| key["id"].clone()))).collect()
}

fn encode(format: Format, op: Op, has_before: Before, old: &[C], new: &[C]) -> Vec<Seen> {
    let mut batch = batch(&relation(columns(), &[0]));
    add(&mut batch, op, has_before, old, new);
    Desk::new(format).encode(&batch)
}

#[test]
fn an_insert_is_one_record_with_source_and_position() {
    let seen = encode(millrace(), Op::Insert, Before::None, &[], &[t("7"), t("Ann"), t("-3")]);
    let [record] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(record.key, Some(json!({"id": 7})));
    let value = record.value.as_ref().unwrap();
    assert_eq!(value["before"], Json::Null);
    assert_eq!(value["after"], json!({"id": 7, "name": "Ann", "amount": -3}));
    assert_eq!(value["op"], "c");
    assert_eq!(value["transaction"], Json::Null);
    assert_eq!(
        value["source"],
        json!({
            "version": "0.1.0", "connector": "postgresql", "name": "test_server",
            "ts_ms": 1_700_000_000_123_i64, "snapshot": "false", "db": "shop", "sequence": "[\"90\",\"100\"]",
            "ts_us": 1_700_000_000_123_456_i64, "ts_ns": 1_700_000_000_123_456_000_i64,
            "schema": "public", "table": "t", "txId": 77, "lsn": 100, "xmin": null, "origin": null,
            "origin_lsn": null,
        })
    );
    assert_eq!(header(record, "position"), Some("0000000000000ABC/0000000000000064/2/0"));
    let (ms, us, ns) = (value["ts_ms"].as_i64(), value["ts_us"].as_i64(), value["ts_ns"].as_i64());
    assert_eq!((ms, ns), (us.map(|us| us / 1000), us.map(|us| us * 1000)));
}

#[test]
fn a_snapshot_s_row_says_what_it_is_in_it_and_where_the_stream_stood() {
    let mut batch = batch(&relation(columns(), &[0]));
    add(&mut batch, Op::Read, Before::None, &[], &row("7", "a"));
    batch.transactions[0].snapshot = SnapshotMark::LastOfTable;
    let seen = Desk::new(millrace()).encode(&batch);
    let value = seen[0].value.as_ref().unwrap();
    assert_eq!(
        (&value["op"], &value["before"], &value["after"]["id"]),
        (&"r".into(), &Json::Null, &7.into())
    );
    let source = &value["source"];
    assert_eq!(
        (&source["snapshot"], &source["lsn"], &source["sequence"]),
        (&"last_in_data_collection".into(), &0xABC.into(), &"[\"90\",\"2748\"]".into())
    );
    assert_eq!(header(&seen[0], "position"), Some("0000000000000ABC/0000000000000064/2/0"));
}

#[test]
fn a_row_that_was_asked_for_is_of_no_transaction_in_debezium_s_dialect() {
    let mut batch = batch(&relation(columns(), &[0]));
    add(&mut batch, Op::Read, Before::None, &[], &row("7", "a"));
    batch.transactions[0].snapshot = SnapshotMark::Incremental;
    let in_json = |format: Format| Format { encoding: Encoding::Json { schemas: false }, ..format };
    for (format, id, lsn) in [
        (debezium(), Json::Null, Json::Null),
        (in_json(debezium()), Json::Null, Json::Null),
        (millrace(), 77.into(), 0xABC.into()),
    ] {
        let seen = Desk::new(format).encode(&batch);
        let source = &seen[0].value.as_ref().unwrap()["source"];
        assert_eq!((&source["txId"], &source["lsn"]), (&id, &lsn));
        assert_eq!(
            (&source["snapshot"], &source["sequence"], &source["table"], &source["xmin"]),
            (&"incremental".into(), &"[\"90\",\"2748\"]".into(), &"t".into(), &Json::Null)
        );
    }
}

#[test]
fn a_first_commit_has_no_predecessor_in_its_sequence() {
    let mut batch = batch(&relation(columns(), &[0]));
    insert(&mut batch, &row("1", "a"));
    batch.transactions[0].previous_commit = None;
    let seen = Desk::new(millrace()).encode(&batch);
    assert_eq!(seen[0].value.as_ref().unwrap()["source"]["sequence"], "[null,\"100\"]");
}

#[test]
fn json_and_avro_say_the_same() {
    let new = [t("7"), t("a \"quoted\"\nline \\ ż"), C::N];
    let mut avro = encode(millrace(), Op::Insert, Before::None, &[], &new);
    let mut plain = encode(json(false, millrace()), Op::Insert, Before::None, &[], &new);
    let mut full = encode(json(true, millrace()), Op::Insert, Before::None, &[], &new);
    full[0].value = full[0].value.take().map(|value| value["payload"].clone());
    for seen in [&mut avro, &mut plain, &mut full] {
        let value = seen[0].value.as_mut().unwrap().as_object_mut().unwrap();
        ["ts_ms", "ts_us", "ts_ns"].iter().for_each(|name| drop(value.remove(*name)));
    }
    assert_eq!(avro[0].value, plain[0].value);
    assert_eq!(full[0].value, plain[0].value);
    assert_eq!(avro[0].headers, plain[0].headers);
}

#[test]
fn debezium_s_dialect_has_no_headers_of_ours() {
    let seen = encode(debezium(), Op::Update, Before::None, &[], &[t("7"), C::U, C::N]);
    let names: Vec<_> = seen[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    let context = ["connectorLogicalName", "taskId", "connectorName", "runId"];
    assert_eq!(names, context.map(|name| format!("__debezium.context.{name}")));
    assert_eq!(header(&seen[0], "__debezium.context.connectorLogicalName"), Some("test_server"));
    let quiet = Format { context_headers: false, ..debezium() };
    let seen = encode(quiet, Op::Update, Before::None, &[], &[t("7"), C::U, C::N]);
    assert!(seen[0].headers.is_empty());
}

#[test]
fn an_excluded_column_is_in_the_key_and_nowhere_else() {
    let columns_excluded = vec![Pattern::new("*.id"), Pattern::new("public.t.amount")];
    let format = Format { columns_excluded, ..json(false, millrace()) };
    let seen = encode(format, Op::Insert, Before::None, &[], &row("7", "a"));
    assert_eq!(seen[0].key, Some(json!({"id": 7})));
    assert_eq!(seen[0].value.as_ref().unwrap()["after"], json!({"name": "a"}));
}

#[test]
fn only_included_columns_are_in_the_row() {
    let format = Format { columns_included: vec![Pattern::new("*.name")], ..json(false, millrace()) };
    let seen = encode(format, Op::Insert, Before::None, &[], &row("7", "a"));
    assert_eq!(seen[0].value.as_ref().unwrap()["after"], json!({"name": "a"}));
}

#[test]
fn an_update_that_changes_nothing_that_events_show_makes_no_record_where_the_file_says_so() {
    let quiet = Format { skip_unchanged: true, ..json(false, millrace()) };
    let old = row("7", "a");
    let records = |format: &Format, before, old: &[C], new: &[C]| {
        encode(format.clone(), Op::Update, before, old, new).len()
    };
    assert_eq!(records(&quiet, Before::Full, &old, &row("7", "a")), 0);
    assert_eq!(records(&quiet, Before::Full, &old, &row("7", "b")), 1);
    assert_eq!(records(&quiet, Before::Full, &old, &row("8", "a")), 3, "another key");
    assert_eq!(records(&quiet, Before::None, &[], &row("7", "a")), 1, "nothing to compare with");
    let cut = disguised("*.name", Disguise::Truncate { characters: 1 });
    let cut = Format { disguised: cut, ..quiet.clone() };
    assert_eq!(records(&cut, Before::Full, &row("7", "ab"), &row("7", "ac")), 0);
    assert_eq!(records(&cut, Before::Full, &row("7", "ab"), &row("7", "cb")), 1);
    let masked = Format { disguised: disguised("*.name", Disguise::Mask { asterisks: 3 }), ..quiet.clone() };
    assert_eq!(records(&masked, Before::Full, &old, &row("7", "b")), 0);
    assert_eq!(records(&masked, Before::Full, &old, &[t("7"), C::N, C::N]), 0);
    let hidden = Format { columns_excluded: vec![Pattern::new("*.name")], ..quiet };
    assert_eq!(records(&hidden, Before::Full, &old, &row("7", "b")), 0);
    assert_eq!(records(&json(false, millrace()), Before::Full, &old, &row("7", "a")), 1);
}

fn disguised(columns: &str, by: Disguise) -> Vec<Disguised> {
    vec![Disguised { columns: Pattern::new(columns), by }]
}

#[test]
fn a_masked_column_shows_neither_its_text_nor_whether_it_has_one() {
    let mask = disguised("public.t.name", Disguise::Mask { asterisks: 3 });
    for (encoding, format) in [("json", json(false, millrace())), ("avro", millrace())] {
        let format = Format { disguised: mask.clone(), ..format };
        for new in [row("7", "secret").to_vec(), vec![t("7"), C::N, C::N], vec![t("7"), C::U, C::N]] {
            let seen = encode(format.clone(), Op::Update, Before::None, &[], &new);
            assert_eq!(seen[0].value.as_ref().unwrap()["after"]["name"], "***", "{encoding}");
        }
        let seen = encode(format, Op::Delete, Before::Key, &[t("7"), C::N, C::N], &[]);
        assert_eq!(seen[0].value.as_ref().unwrap()["before"]["name"], "***", "{encoding}");
    }
}

#[test]
fn what_stands_for_a_value_that_is_not_there_is_encrypted_like_all_others() {
    let cipher = Cipher::new("2026", &"00".repeat(32)).unwrap();
    let said = |format: Format, column: Column, before: &[C], after: &[C]| {
        let disguised = disguised("public.t.name", Disguise::Encrypt(cipher.clone()));
        let mut batch = batch(&relation(vec![scene::column("id", Kind::Int64), column], &[0]));
        let op = if after.is_empty() { Op::Delete } else { Op::Insert };
        add(&mut batch, op, if before.is_empty() { Before::None } else { Before::Key }, before, after);
        let seen = Desk::new(Format { disguised, ..format }).encode(&batch);
        let row = if after.is_empty() { "before" } else { "after" };
        let text = seen[0].value.as_ref().unwrap()[row]["name"].clone();
        text.as_str().map(|text| cipher.opened(text).unwrap_or_else(|| panic!("{text} does not open")))
    };
    let with_default = |name| with_default(scene::column(name, Kind::Text), "none");
    let (old, null) = ([t("7"), C::N], [t("7"), C::N]);
    let forms: [fn(Format) -> Format; 2] = [|format| json(false, format), |format| format];
    for form in forms {
        // Debezium's converters write the default for a NULL.
        assert_eq!(said(form(debezium()), with_default("name?"), &[], &null).as_deref(), Some("none"));
        assert_eq!(said(form(millrace()), with_default("name?"), &[], &null), None);
        let plain = || scene::column("name", Kind::Text);
        assert_eq!(said(form(millrace()), with_default("name"), &old, &[]).as_deref(), Some("none"));
        assert_eq!(said(form(debezium()), plain(), &old, &[]).as_deref(), Some(""));
    }
}

#[test]
fn a_truncated_column_keeps_its_first_characters_and_its_nulls() {
    let format = json(false, millrace());
    let format = Format { disguised: disguised("*.name", Disguise::Truncate { characters: 3 }), ..format };
    let after = |new: &[C]| {
        let seen = encode(format.clone(), Op::Insert, Before::None, &[], new);
        seen[0].value.as_ref().unwrap()["after"]["name"].clone()
    };
    assert_eq!(after(&row("7", "abcdef")), "abc");
    assert_eq!(after(&[t("7"), C::N, C::N]), Json::Null);
}

#[test]
fn skipped_operations_make_no_record() {
    let skipped = Skipped { inserts: true, ..Skipped::default() };
    let format = || Format { skipped, ..millrace() };
    assert!(encode(format(), Op::Insert, Before::None, &[], &row("7", "a")).is_empty());
    assert_eq!(encode(format(), Op::Update, Before::None, &[], &row("7", "a")).len(), 1);
}

#[test]
fn of_a_changed_key_only_the_delete_and_the_create_can_be_skipped() {
    let seen = |skipped: Skipped| {
        let format = Format { skipped, ..millrace() };
        let seen = encode(format, Op::Update, Before::Key, &[t("7"), C::N, C::N], &row("8", "b"));
        ops(&seen).into_iter().map(|(op, _)| op).collect::<String>()
    };
    assert_eq!(seen(Skipped { updates: true, ..Skipped::default() }), "d-c");
    assert_eq!(seen(Skipped { deletes: true, ..Skipped::default() }), "c");
    assert_eq!(seen(Skipped { inserts: true, ..Skipped::default() }), "d-");
}

#[test]
fn an_update_shows_the_old_row_only_if_all_of_it_was_sent() {
    let before = |seen: &[Seen]| seen[0].value.as_ref().unwrap()["before"].clone();
    let new = row("7", "b");
    assert_eq!(before(&encode(millrace(), Op::Update, Before::None, &[], &new)), Json::Null);
    let identity = [t("7"), C::N, C::N];
    assert_eq!(before(&encode(millrace(), Op::Update, Before::Key, &identity, &new)), Json::Null);
    let full = encode(millrace(), Op::Update, Before::Full, &row("7", "a"), &new);
    assert_eq!(before(&full), json!({"id": 7, "name": "a", "amount": null}));
    assert_eq!(ops(&full), [("u".into(), json!(7))]);
}

#[test]
fn a_changed_key_is_a_delete_a_tombstone_and_a_create() {
    let seen = encode(millrace(), Op::Update, Before::Key, &[t("7"), C::N, C::N], &row("8", "b"));
    assert_eq!(ops(&seen), [("d".into(), json!(7)), ("-".into(), json!(7)), ("c".into(), json!(8))]);
    assert_eq!(header(&seen[0], "__debezium.newkey"), Some("{\"id\":8}"));
    assert_eq!(header(&seen[1], "__debezium.newkey"), Some("{\"id\":8}"));
    assert_eq!(header(&seen[2], "__debezium.oldkey"), Some("{\"id\":7}"));
    let subs: Vec<_> =
        seen.iter().map(|s| header(s, "position").unwrap().rsplit_once('/').unwrap().1).collect();
    assert_eq!(subs, ["0", "1", "2"]);
    assert_eq!(seen[0].partition, seen[1].partition);
    assert_eq!(seen[2].value.as_ref().unwrap()["before"], Json::Null);
}

#[test]
fn a_changed_key_without_tombstones_is_two_records() {
    let format = Format { tombstones: false, ..millrace() };
    let seen = encode(format, Op::Update, Before::Full, &row("7", "a"), &row("8", "b"));
    assert_eq!(ops(&seen), [("d".into(), json!(7)), ("c".into(), json!(8))]);
    assert!(header(&seen[1], "position").unwrap().ends_with("/1"));
}

#[test]
fn a_delete_by_key_holds_zeros_where_the_row_was_not_sent() {
    let seen = encode(debezium(), Op::Delete, Before::Key, &[t("7"), C::N, C::N], &[]);
    assert_eq!(ops(&seen), [("d".into(), json!(7)), ("-".into(), json!(7))]);
    let value = seen[0].value.as_ref().unwrap();
    assert_eq!(value["before"], json!({"id": 7, "name": "", "amount": null}));
    assert_eq!(value["after"], Json::Null);
}

#[test]
fn a_zero_in_text_has_the_column_s_scale_in_debezium_s_dialect() {
    for (format, kind, zero) in [
        (debezium(), Kind::Decimal { precision: 8, scale: 3 }, "0.000"),
        (debezium(), Kind::Decimal { precision: 8, scale: 0 }, "0"),
        (debezium(), Kind::VariableDecimal, "0"),
        (millrace(), Kind::Decimal { precision: 8, scale: 3 }, "0"),
    ] {
        let mut batch = batch(&relation(vec![column("id", Kind::Int64), column("x", kind)], &[0]));
        add(&mut batch, Op::Delete, Before::Key, &[t("7"), C::N], &[]);
        let seen = Desk::new(Format { decimals: Decimals::Text, ..format }).encode(&batch);
        assert_eq!(seen[0].value.as_ref().unwrap()["before"]["x"], zero);
    }
}

#[test]
fn zeros_of_every_kind_are_values_of_their_type() {
    let kinds = [
        (Kind::Bool, json!(false)),
        (Kind::Float64, json!(0.0)),
        (Kind::Decimal { precision: 9, scale: 2 }, json!("00")),
        (Kind::VariableDecimal, json!({"scale": 0, "value": "00"})),
        (Kind::Bytes, json!("")),
        (Kind::Date, json!(0)),
        (Kind::Time { precision: 6 }, json!(0)),
        (Kind::TimeTz { precision: 6 }, json!("00:00:00Z")),
        (Kind::Timestamp { precision: 3 }, json!(0)),
        (Kind::TimestampTz { precision: 6 }, json!("1970-01-01T00:00:00Z")),
        (Kind::Interval, json!(0)),
        (Kind::Array(Box::new(Kind::Int32)), json!([])),
    ];
    for (kind, zero) in kinds {
        let columns = vec![column("id", Kind::Int64), column("x", kind.clone())];
        let mut batch = batch(&relation(columns, &[0]));
        add(&mut batch, Op::Delete, Before::Key, &[t("7"), C::N], &[]);
        let seen = Desk::new(debezium()).encode(&batch);
        assert_eq!(seen[0].value.as_ref().unwrap()["before"]["x"], zero, "{kind:?}");
    }
}

#[test]
fn a_truncate_is_a_record_without_a_key_when_asked_for() {
    assert!(encode(millrace(), Op::Truncate, Before::None, &[], &[]).is_empty());
    let seen = encode(Format { truncates: true, ..millrace() }, Op::Truncate, Before::None, &[], &[]);
    assert_eq!(ops(&seen), [("t".into(), Json::Null)]);
    assert_eq!((seen[0].key.clone(), seen[0].partition), (None, 0));
}

#[test]
fn rows_without_a_key_have_neither_key_nor_tombstone() {
    let mut batch = batch(&relation(columns(), &[]));
    insert(&mut batch, &row("7", "a"));
    add(&mut batch, Op::Delete, Before::Full, &row("7", "a"), &[]);
    let mut desk = Desk::new(millrace());
    let seen = desk.encode(&batch);
    assert_eq!(ops(&seen), [("c".into(), Json::Null), ("d".into(), Json::Null)]);
    assert!(seen.iter().all(|s| s.key.is_none() && s.partition == 0));
    assert_eq!(desk.registry.schemas.lock().unwrap().len(), 1);
}

#[test]
fn an_unchanged_value_is_taken_from_the_old_row_if_it_was_sent() {
    let seen = encode(millrace(), Op::Update, Before::Full, &row("7", "long"), &[t("7"), C::U, t("1")]);
    assert_eq!(seen[0].value.as_ref().unwrap()["after"]["name"], "long");
    assert_eq!(header(&seen[0], "unchanged"), None);
}

#[test]
fn an_unchanged_value_that_was_not_sent_is_marked() {
    let kinds = [
        (Kind::Text, json!("ab")),
        (Kind::Json, json!("ab")),
        (Kind::Bytes, json!("6162")),
        (Kind::Array(Box::new(Kind::Text)), json!(["ab"])),
        (Kind::Array(Box::new(Kind::Bytes)), json!(["6162"])),
        (Kind::Array(Box::new(Kind::Int64)), json!([97, 98])),
        (Kind::VariableDecimal, json!(null)),
    ];
    for (kind, expected) in kinds {
        let columns = vec![column("id", Kind::Int64), column("x?", kind.clone())];
        let mut batch = batch(&relation(columns, &[0]));
        add(&mut batch, Op::Update, Before::None, &[], &[t("7"), C::U]);
        let seen = Desk::new(Format { placeholder: "ab".into(), ..millrace() }).encode(&batch);
        assert_eq!(seen[0].value.as_ref().unwrap()["after"]["x"], expected, "{kind:?}");
        assert_eq!(header(&seen[0], "unchanged"), Some("[\"x\"]"));
    }
}

#[test]
fn an_unchanged_key_column_comes_from_the_old_key_or_is_an_error() {
    let relation = relation(vec![column("id", Kind::Text), column("x?", Kind::Int32)], &[0]);
    let mut with_old = batch(&relation);
    add(&mut with_old, Op::Update, Before::Key, &[t("k"), C::N], &[C::U, t("1")]);
    let seen = Desk::new(millrace()).encode(&with_old);
    assert_eq!(ops(&seen), [("u".into(), json!("k"))]);
    let mut without = batch(&relation);
    add(&mut without, Op::Update, Before::None, &[], &[C::U, t("1")]);
    let error = Desk::new(millrace()).try_encode(&without).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Record);
    assert!(error.to_string().contains("without its key column id"), "{error}");
}

#[test]
fn a_null_beside_a_default_is_the_default_only_in_debezium_s_dialect() {
    let relation =
        relation(vec![column("id", Kind::Int64), with_default(column("x?", Kind::Text), "std")], &[0]);
    let mut batch = batch(&relation);
    insert(&mut batch, &[t("7"), C::N]);
    let after = |format| Desk::new(format).encode(&batch)[0].value.as_ref().unwrap()["after"]["x"].clone();
    assert_eq!(after(debezium()), "std");
    assert_eq!(after(json(false, debezium())), "std");
    assert_eq!(after(millrace()), Json::Null);
}

#[test]
fn a_null_in_a_not_null_column_makes_a_nullable_version() {
    let relation = relation(columns(), &[0]);
    let mut first = batch(&relation);
    insert(&mut first, &row("1", "a"));
    let mut second = batch(&relation);
    insert(&mut second, &row("2", "b"));
    insert(&mut second, &[t("3"), C::N, C::N]);
    let mut desk = Desk::new(millrace());
    desk.encode(&first);
    let seen = desk.encode(&second);
    assert_eq!(seen[1].value.as_ref().unwrap()["after"]["name"], Json::Null);
    assert_eq!(desk.registry.schemas.lock().unwrap().len(), 4);
    assert_eq!(desk.progress.events()["public.t"], [3, 0, 0, 0, 0]);
    assert!(desk.encoder.is_prepared(&first));
}

#[test]
fn a_decimal_that_is_no_number_is_null_with_a_mark_where_null_is_allowed() {
    let kind = Kind::Decimal { precision: 10, scale: 2 };
    let relation = relation(vec![column("id", Kind::Int64), column("amount?", kind)], &[0]);
    let mut batch = batch(&relation);
    add(&mut batch, Op::Update, Before::Full, &[t("7"), t("Infinity")], &[t("7"), t("NaN")]);
    let seen = Desk::new(millrace()).encode(&batch);
    assert_eq!(seen[0].value.as_ref().unwrap()["after"]["amount"], Json::Null);
    assert_eq!(header(&seen[0], "special"), Some("{\"amount\":\"NaN\"}"));
    assert_eq!(header(&seen[0], "special.before"), Some("{\"amount\":\"Infinity\"}"));
}

#[test]
fn a_decimal_that_is_no_number_in_a_not_null_column_is_an_error_that_says_what_to_type() {
    let relation = relation(vec![column("id", Kind::Int64), column("amount", Kind::VariableDecimal)], &[0]);
    let mut batch = batch(&relation);
    insert(&mut batch, &[t("7"), t("NaN")]);
    let error = Desk::new(millrace()).try_encode(&batch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Record);
    let message = error.to_string();
    assert!(message.contains("table public.t, column amount"), "{message}");
    assert!(message.contains("0000000000000ABC/0000000000000064/2"), "{message}");
    assert_eq!(error.hint_text(), Some("set decimals = \"string\" in [format]"));
}

#[test]
fn decimals_that_are_no_numbers_have_names_as_text_and_values_as_doubles() {
    let relation = relation(vec![column("id", Kind::Int64), column("x", Kind::VariableDecimal)], &[0]);
    let mut batch = batch(&relation);
    for text in ["NaN", "Infinity", "-Infinity", "-1.50"] {
        insert(&mut batch, &[t("7"), t(text)]);
    }
    let values = |format| -> Vec<Json> {
        let seen = Desk::new(format).encode(&batch);
        seen.iter().map(|s| s.value.as_ref().unwrap()["after"]["x"].clone()).collect()
    };
    let text = Format { decimals: Decimals::Text, ..debezium() };
    assert_eq!(values(text), ["NAN", "POSITIVE_INFINITY", "NEGATIVE_INFINITY", "-1.50"]);
    let text = Format { decimals: Decimals::Text, ..millrace() };
    assert_eq!(values(text), ["NaN", "Infinity", "-Infinity", "-1.50"]);
    let double = Format { decimals: Decimals::Double, ..millrace() };
    assert_eq!(values(double.clone()), [json!("NaN"), json!("inf"), json!("-inf"), json!(-1.5)]);
    assert_eq!(
        values(json(false, double)),
        [json!("NaN"), json!("Infinity"), json!("-Infinity"), json!(-1.5)]
    );
}

#[test]
fn a_value_that_is_not_of_its_type_is_an_error_and_its_text_stays_secret() {
    let mut batch = batch(&relation(columns(), &[0]));
    insert(&mut batch, &[t("secret"), t("a"), C::N]);
    let error = Desk::new(millrace()).try_encode(&batch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Record);
    assert!(error.to_string().contains("column id") && !error.to_string().contains("secret"), "{error}");
}

#[test]
fn a_null_element_of_an_enumeration_is_an_error_only_in_debezium_s_dialect() {
    let kind = Kind::Array(Box::new(Kind::Enum { labels: vec!["a".into()] }));
    let mut batch = batch(&relation(vec![column("id", Kind::Int64), column("x?", kind)], &[0]));
    insert(&mut batch, &[t("7"), t("{a,NULL}")]);
    assert!(Desk::new(debezium()).try_encode(&batch).is_err());
    let seen = Desk::new(millrace()).encode(&batch);
    assert_eq!(seen[0].value.as_ref().unwrap()["after"]["x"], json!(["a", null]));
}

#[test]
fn a_record_above_the_limit_is_an_error_that_names_the_topic() {
    let mut batch = batch(&relation(columns(), &[0]));
    insert(&mut batch, &row("7", &"x".repeat(2000)));
    let error = Desk::new(Format { record_bytes_max: 1000, ..millrace() }).try_encode(&batch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Record);
    assert!(error.to_string().contains("the limit is 1000"), "{error}");
    assert!(error.hint_text().unwrap().contains("max.message.bytes of topic test_server.public.t"));
}

#[test]
fn the_topic_s_limit_counts_too() {
    let mut batch = batch(&relation(columns(), &[0]));
    insert(&mut batch, &row("7", &"x".repeat(1_000_000)));
    let error = Desk::new(millrace()).try_encode(&batch).unwrap_err();
    assert!(error.to_string().contains("the limit is 1000000"), "{error}");
}

#[test]
fn a_newer_version_of_a_table_drops_the_older_plan_unless_the_batch_has_both() {
    let (old, new) = (relation(columns(), &[0]), relation(columns(), &[0]));
    let mut desk = Desk::new(millrace());
    let mut both = batch(&old);
    both.relations.push(new.clone());
    desk.prepare(&both);
    assert!(desk.encoder.is_prepared(&both));
    desk.prepare(&batch(&new));
    assert!(desk.encoder.is_prepared(&batch(&new)) && !desk.encoder.is_prepared(&batch(&old)));
}

#[test]
fn what_the_batch_says_of_itself_is_handed_on() {
    let mut change_batch = batch(&relation(columns(), &[0]));
    change_batch.drained = true;
    change_batch.seq = 1;
    let mut desk = Desk::new(millrace());
    let out = desk.try_encode(&change_batch).unwrap();
    assert_eq!(out.end, change_batch.end);
    assert_eq!((out.whole, out.drained, out.seq), (true, true, 1));
    assert_eq!(out.commit_ts_us, 1_700_000_000_123_456);
    change_batch.seq = 3;
    assert_eq!(desk.try_encode(&change_batch).unwrap_err().kind(), ErrorKind::Fatal);
}

#[test]
fn an_event_says_from_where_its_transaction_was_replicated() {
    for format in [millrace(), json(true, debezium())] {
        let mut batch = batch(&relation(columns(), &[0]));
        insert(&mut batch, &row("1", "Ann"));
        let start = batch.bytes.len() as u32;
        batch.bytes.extend_from_slice(b"dc1");
        let name = Cell { start, len: 3, tag: Tag::Text };
        batch.transactions[0].origin = Some(ReplicationOrigin { name, commit: 74_565 });
        let mut desk = Desk::new(format.clone());
        let seen = desk.encode(&batch);
        let value = seen[0].value.as_ref().unwrap();
        let source = value.pointer("/payload/source").unwrap_or(&value["source"]);
        assert_eq!((&source["origin"], &source["origin_lsn"]), (&json!("dc1"), &json!(74_565)), "{source}");
        // The next batch is of another transaction.
        batch.transactions[0].origin = None;
        let seen = desk.encode(&batch);
        let value = seen[0].value.as_ref().unwrap();
        let source = value.pointer("/payload/source").unwrap_or(&value["source"]);
        assert_eq!((&source["origin"], &source["origin_lsn"]), (&Json::Null, &Json::Null));
    }
}

#[test]
fn a_sparse_vector_of_any_number_of_dimensions_is_text_and_debezium_s_holds_what_a_short_counts() {
    let of = |format, text: &str| {
        let columns = vec![column("id", Kind::Int64), column("x?", Kind::LongSparseVector)];
        let mut batch = batch(&relation(columns, &[0]));
        insert(&mut batch, &[t("1"), t(text)]);
        let mut desk = Desk::new(format);
        desk.try_encode(&batch).map(|_| desk.encode(&batch)[0].value.as_ref().unwrap()["after"]["x"].clone())
    };
    let long = "{40000:1.5}/100000";
    assert_eq!(of(millrace(), long).unwrap(), json!(long));
    assert_eq!(of(debezium(), "{2:1.5}/5").unwrap()["dimensions"], 5);
    assert_eq!(of(debezium(), long).unwrap_err().kind(), ErrorKind::Record);
}

#[test]
fn elements_are_parted_by_what_their_array_says() {
    let mut batch = batch(&relation(
        vec![
            column("id", Kind::Int64),
            column("x?", Kind::Delimited { element: Box::new(Kind::Geometry), delimiter: b':' }),
        ],
        &[0],
    ));
    let point = "0101000000000000000000F03F0000000000000040";
    insert(&mut batch, &[t("1"), t(&format!("{{{point}:{point}}}"))]);
    let seen = Desk::new(millrace()).encode(&batch);
    assert_eq!(seen[0].value.as_ref().unwrap()["after"]["x"].as_array().map(Vec::len), Some(2));
}
