//! The metadata of transactions, over whole, cut and repeated ones.

use serde_json::{Value as Json, json};

use super::scene::{
    Desk, Seen, add, batch, column, debezium, insert, json as in_json, millrace, relation, t,
};
use super::*;
use crate::batch::{Before, Change, Name, Op, Part, SnapshotMark};
use crate::relation::Kind;

const TOPIC: &str = "test_server.transaction";

fn with_metadata(format: Format) -> Desk {
    Desk::new(Format { transactions: Some(TOPIC.into()), ..in_json(false, format) })
}

fn part(begin: Option<u64>, end: Option<u64>) -> Part {
    Part { name: Name::Number { commit: 0xABC }, begin, end, delivered: None }
}

/// An insert, a changed key and a delete, from the `from`th to before the `to`th of them.
fn changes(batch: &mut ChangeBatch, from: usize, to: usize) {
    for nth in 0..to {
        match nth {
            0 => insert(batch, &[t("1")]),
            1 => add(batch, Op::Update, Before::Key, &[t("1")], &[t("2")]),
            _ => add(batch, Op::Delete, Before::Key, &[t("2")], &[]),
        }
    }
    batch.changes.drain(..from);
}

fn orders() -> Arc<Relation> {
    relation(vec![column("id", Kind::Int32)], &[0])
}

fn blocks(seen: &[Seen]) -> Vec<Json> {
    let of = |seen: &Seen| seen.value.as_ref().map(|value| value["transaction"].clone());
    seen.iter().filter_map(of).filter(|block| !block.is_null()).collect()
}

fn statuses(seen: &[Seen]) -> Vec<Json> {
    let values = seen.iter().filter_map(|seen| seen.value.clone());
    values.filter(|value| value.get("status").is_some()).collect()
}

#[test]
fn a_transaction_begins_counts_its_events_and_ends() {
    let mut batch = batch(&orders());
    changes(&mut batch, 0, 3);
    batch.transactions[0].part = part(Some(40), Some(210));
    let seen = with_metadata(debezium()).encode(&batch);
    let block = |place, order| json!({"id": format!("77:{place}"), "total_order": order, "data_collection_order": order});
    assert_eq!(blocks(&seen), [block(100, 1), block(101, 2), block(101, 3), block(102, 4)]);
    let tables = json!([{"data_collection": "public.t", "event_count": 4}]);
    let ts_ms = 1_700_000_000_123_i64;
    assert_eq!(
        statuses(&seen),
        [
            json!({"status": "BEGIN", "id": "77:40", "event_count": null, "data_collections": null, "ts_ms": ts_ms}),
            json!({"status": "END", "id": "77:210", "event_count": 4, "data_collections": tables, "ts_ms": ts_ms}),
        ]
    );
    assert_eq!(seen.first().and_then(|first| first.key.clone()), Some(json!({"id": "77:40"})));
    // Two tombstones beside the four events and the two ends.
    assert_eq!(seen.len(), 8);
}

#[test]
fn a_transaction_of_which_nothing_came_is_not_told_of() {
    let mut batch = batch(&orders());
    changes(&mut batch, 0, 1);
    batch.transactions[0].part = part(Some(40), Some(210));
    let skipped = super::format::Skipped { inserts: true, ..Default::default() };
    assert_eq!(with_metadata(Format { skipped, ..debezium() }).encode(&batch).len(), 0);
    // One that goes on elsewhere may still have something to come.
    batch.transactions[0].part = part(Some(40), None);
    let skipped = super::format::Skipped { inserts: true, ..Default::default() };
    assert_eq!(with_metadata(Format { skipped, ..debezium() }).encode(&batch).len(), 1);
}

#[test]
fn a_row_that_was_read_and_stands_inside_of_a_transaction_ends_nothing() {
    for place in [0, 1] {
        let mut batch = batch(&orders());
        changes(&mut batch, 0, 3);
        batch.transactions[0].part = part(Some(40), Some(210));
        let of_row = crate::batch::Transaction {
            snapshot: SnapshotMark::Row,
            part: Part::default(),
            ..batch.transactions[0]
        };
        batch.transactions.push(of_row);
        let read = Change { op: Op::Read, transaction: 1, ..batch.changes[0] };
        batch.changes.insert(place, read);
        let told = statuses(&with_metadata(debezium()).encode(&batch));
        let told: Vec<_> =
            told.iter().map(|one| (one["status"].clone(), one["event_count"].clone())).collect();
        assert_eq!(told, [(json!("BEGIN"), json!(null)), (json!("END"), json!(4))], "{place}");
    }
}

#[test]
fn in_our_dialect_a_transaction_has_one_id() {
    let mut batch = batch(&orders());
    changes(&mut batch, 0, 1);
    batch.transactions[0].part = part(Some(40), Some(210));
    let seen = with_metadata(millrace()).encode(&batch);
    let ids: Vec<_> = blocks(&seen).iter().chain(&statuses(&seen)).map(|value| value["id"].clone()).collect();
    assert_eq!(ids, [json!("77:2748"), json!("77:2748"), json!("77:2748")]);
}

#[test]
fn a_cut_transaction_is_counted_on_after_a_restart_as_if_it_had_not_been_cut() {
    let relation = orders();
    let mut whole = batch(&relation);
    changes(&mut whole, 0, 3);
    whole.transactions[0].part = part(Some(40), Some(210));
    let expected = with_metadata(debezium()).encode(&whole);
    for cut in 1..3 {
        let mut first = batch(&relation);
        changes(&mut first, 0, cut);
        first.transactions[0].part = part(Some(40), None);
        let mut desk = with_metadata(debezium());
        let before = desk.encode(&first);

        let mut on = batch(&relation);
        changes(&mut on, cut, 3);
        on.transactions[0].part = part(None, Some(210));
        let going_on = [before.clone(), desk.encode(&on)].concat();

        let mut again = batch(&relation);
        changes(&mut again, 0, 3);
        let delivered = again.changes.get(cut - 1).map(|change| change.mark);
        again.transactions[0].part = Part { delivered, ..part(None, Some(210)) };
        let restarted = [before, with_metadata(debezium()).encode(&again)].concat();
        for found in [going_on, restarted] {
            assert_eq!(
                (blocks(&found), statuses(&found), found.len()),
                (blocks(&expected), statuses(&expected), expected.len()),
                "cut after {cut}"
            );
        }
    }
}

#[test]
fn what_was_delivered_before_is_not_written_again_without_metadata_either() {
    let mut batch = batch(&orders());
    changes(&mut batch, 0, 2);
    let delivered = batch.changes.first().map(|change| change.mark);
    batch.transactions[0].part = Part { delivered, ..part(None, None) };
    let seen = Desk::new(in_json(false, debezium())).encode(&batch);
    let ops: Vec<_> = seen.iter().filter_map(|seen| Some(seen.value.as_ref()?["op"].clone())).collect();
    assert_eq!(ops, [json!("d"), json!("c")]);
}

#[test]
fn an_event_outside_of_any_transaction_has_no_block() {
    let mut batch = batch(&orders());
    insert(&mut batch, &[t("1")]);
    let seen = with_metadata(debezium()).encode(&batch);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].value.as_ref().map(|value| value["transaction"].clone()), Some(Json::Null));
}

#[test]
fn the_avro_of_blocks_and_ends_is_read_by_their_schemas() {
    let mut batch = batch(&orders());
    changes(&mut batch, 0, 1);
    batch.transactions[0].part = part(Some(40), Some(210));
    let mut desk = Desk::new(Format { transactions: Some(TOPIC.into()), ..debezium() });
    let seen = desk.encode(&batch);
    assert_eq!(blocks(&seen).len(), 1);
    assert_eq!(statuses(&seen).len(), 2);
}
