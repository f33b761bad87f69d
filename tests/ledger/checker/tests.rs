//! A small world whose journal and events agree, and faults put into it one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::events::{Body, Cell, Change, Op, Position};
use crate::journal::Did;
use crate::plant::{Fault, plant};
use crate::random::Random;
use crate::reader::{Marker, Outcome as Ended, Record};
use crate::snapshot::{Begins, Snapshot};
use crate::tables::TABLES;

const MEMBER: usize = 2;
const WIDE: usize = 1;
const BODY: usize = 4;

/// Builds the journal and, beside it, the events of a daemon that makes no mistake.
struct World {
    journal: Vec<Entry>,
    events: Vec<Event>,
    rows: BTreeMap<(usize, Box<str>), Box<[u32]>>,
    marks: Vec<Mark>,
    problems: Vec<Problem>,
    seq: i64,
    xid: u64,
    offsets: BTreeMap<(usize, i32), i64>,
    begins: Begins,
}

impl World {
    /// Some transactions over all tables, with a delete, a rekey and an unchanged large value.
    fn new() -> World {
        let mut world = World {
            journal: Vec::new(),
            events: Vec::new(),
            rows: BTreeMap::new(),
            marks: Vec::new(),
            problems: Vec::new(),
            seq: 0,
            xid: 700,
            offsets: BTreeMap::new(),
            begins: Begins::Empty,
        };
        world.transaction(&[
            (0, Did::Insert, "1", None),
            (0, Did::Insert, "2", None),
            (WIDE, Did::Insert, "5", None),
        ]);
        world.transaction(&[(0, Did::Update, "1", None), (MEMBER, Did::Insert, "7|a", None)]);
        world.transaction(&[(0, Did::Update, "1", None), (MEMBER, Did::Update, "7|a", None)]);
        world.transaction(&[(0, Did::Delete, "2", None), (MEMBER, Did::Rekey, "7|a", Some("7|b"))]);
        world.transaction(&[(0, Did::Insert, "2", None), (WIDE, Did::Update, "5", None)]);
        world.transaction(&[
            (0, Did::Delete, "2", None),
            (0, Did::Insert, "2", None),
            (0, Did::Delete, "2", None),
        ]);
        world
    }

    fn transaction(&mut self, changes: &[(usize, Did, &str, Option<&str>)]) {
        self.xid += 1;
        for (n, (table, did, key, new_key)) in changes.iter().enumerate() {
            self.change(n, *table, *did, key, *new_key);
        }
        let tx = self.kafka_tx();
        self.marks.push(Mark { offset: tx.ordinal as i64 * 2, end_lsn: self.final_lsn() + 0x30, tx });
    }

    fn final_lsn(&self) -> u64 {
        self.xid * 0x1000
    }

    /// Each source transaction in a Kafka transaction of its own, two producers taking turns.
    fn kafka_tx(&self) -> KafkaTx {
        KafkaTx { producer_id: 40 + (self.xid % 2) as i64, producer_epoch: 0, ordinal: self.xid / 2 }
    }

    fn change(&mut self, n: usize, table: usize, did: Did, key: &str, new_key: Option<&str>) {
        self.seq += 1;
        let old = self.rows.remove(&(table, key.into()));
        let mut payload: Box<[u32]> = match did {
            Did::Delete => old.clone().unwrap(),
            _ => (0..TABLES[table].columns.len()).map(|c| (self.seq as u32) << 8 | c as u32).collect(),
        };
        let mut after: Vec<Cell> = payload.iter().map(|hash| Cell::Hash(*hash)).collect();
        if table == WIDE && did == Did::Update {
            payload[BODY] = old.as_ref().unwrap()[BODY];
            after[BODY] = Cell::Unavailable;
        }
        let before = old.filter(|_| TABLES[table].full);
        let before = before.map(|row| row.iter().map(|hash| Cell::Hash(*hash)).collect());
        let create = |op, before| Change {
            op,
            xid: Some(self.xid),
            seq: Some(self.seq),
            before,
            after: Some(after.clone().into()),
        };
        let delete =
            Change { op: Op::Delete, xid: Some(self.xid), seq: None, before: before.clone(), after: None };
        let at = new_key.unwrap_or(key);
        let bodies = match did {
            Did::Insert => vec![(key, Body::Change(create(Op::Create, None)))],
            Did::Update => vec![(key, Body::Change(create(Op::Update, before)))],
            Did::Delete => vec![(key, Body::Change(delete)), (key, Body::Tombstone)],
            Did::Truncate => Vec::new(),
            Did::Rekey => vec![
                (key, Body::Change(delete)),
                (key, Body::Tombstone),
                (at, Body::Change(create(Op::Create, None))),
            ],
        };
        for (sub, (key, body)) in bodies.into_iter().enumerate() {
            self.event(table, key, body, n, sub);
        }
        if did != Did::Delete {
            self.rows.insert((table, at.into()), payload.clone());
        }
        let entry = Entry {
            seq: self.seq,
            xid: self.xid,
            table,
            did,
            key: key.into(),
            new_key: new_key.map(Into::into),
            payload,
        };
        self.journal.push(entry);
    }

    fn event(&mut self, table: usize, key: &str, body: Body, n: usize, sub: usize) {
        let partition = i32::from(key.as_bytes()[0] % 2);
        let offset = self.offsets.entry((table, partition)).or_default();
        let topic = Arc::from(format!("shop.ledger.{}", TABLES[table].name));
        let place = Place { topic, partition, offset: *offset };
        *offset += 1;
        let (final_lsn, change_lsn) = (self.final_lsn(), self.final_lsn() - 0x800 + n as u64);
        let position = Position { final_lsn, change_lsn, n: 0, sub: sub as u64 };
        let tx = Some(self.kafka_tx());
        self.events.push(Event {
            place,
            table,
            key: key.into(),
            position: Some(position),
            tx,
            attempt: 1,
            body,
        });
    }

    fn extents(&self) -> BTreeMap<TopicPartition, Extent> {
        let of = |event: &Event| {
            ((event.place.topic.clone(), event.place.partition), Extent { earliest: 0, end: i64::MAX })
        };
        self.events.iter().map(of).collect()
    }

    /// The log as `read_uncommitted` shows it: the same records, their markers, and one aborted.
    fn log(&self) -> Read {
        let mut read = Read::default();
        for event in &self.events {
            read.records.push(self.record(event));
            let tx = event.tx.unwrap();
            let (topic, partition) = (event.place.topic.clone(), event.place.partition);
            let marker = Marker { topic, partition, offset: 0, timestamp_ms: 0, tx, outcome: Ended::Commit };
            read.markers.push(marker);
        }
        let mut aborted = self.record(&self.events[0]);
        aborted.offset = 1 << 40;
        let tx = KafkaTx { producer_id: 99, producer_epoch: 0, ordinal: 0 };
        aborted.tx = Some(tx);
        let (topic, partition) = (aborted.topic.clone(), aborted.partition);
        read.markers.push(Marker { topic, partition, offset: 0, timestamp_ms: 0, tx, outcome: Ended::Abort });
        read.records.push(aborted);
        read
    }

    fn record(&self, event: &Event) -> Record {
        let Place { topic, partition, offset } = event.place.clone();
        Record {
            topic,
            partition,
            offset,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: Vec::new(),
            tx: event.tx,
        }
    }

    /// Its first two transactions were there before the connector: what they left comes as rows, but for the
    /// one that changed under its chunk and is read again.
    fn begun_with_rows() -> World {
        let mut world = World::new();
        let first = Snapshot::parse("703:703:").unwrap();
        world.begins = Begins::Rows((0..TABLES.len()).map(|table| (table, first.clone())).collect());
        let seen = |event: &Event| event.change().and_then(|change| change.xid).is_some_and(|xid| xid < 703);
        let gone = |event: &Event| matches!((event.table, &*event.key), (0, "1") | (MEMBER, "7|a"));
        world.events.retain(|event| !(seen(event) && gone(event)));
        for event in world.events.iter_mut().filter(|event| seen(event)) {
            let Body::Change(change) = &mut event.body else { continue };
            (change.op, change.xid) = (Op::Read, None);
        }
        world
    }

    fn verdict(&self) -> Verdict {
        self.verdict_over(&self.events, &self.log())
    }

    fn verdict_over(&self, events: &[Event], log: &Read) -> Verdict {
        check(&Evidence {
            journal: &self.journal,
            events,
            problems: &self.problems,
            extents: &self.extents(),
            content: &self.rows,
            marks: Some(&self.marks),
            uncommitted: Some(log),
            limits: Limits { uncut_changes_max: 1_000, positions: true },
            begins: &self.begins,
        })
    }
}

#[test]
fn a_faultless_run_passes() {
    let verdict = World::new().verdict();
    assert_eq!(verdict.outcome, Outcome::Passed, "{verdict:#?}");
    assert_eq!(verdict.counts, Counts::default());
    assert_eq!(verdict.seen.source_transactions, 6);
    assert_eq!(verdict.seen.unchanged_values, 1);
    assert_eq!(verdict.seen.aborted_records, 1);
    assert!(verdict.seen.spread_transactions > 0);
}

#[test]
fn each_planted_fault_fails_in_its_own_count() {
    let world = World::new();
    for fault in Fault::ALL {
        for seed in 0..50 {
            let planting = plant(&world.events, fault, &mut Random::new(seed)).unwrap();
            let (events, place) = (planting.events, planting.place);
            let mut planted = World { problems: planting.problems, ..World::new() };
            planted.events.clone_from(&events);
            let verdict = planted.verdict_over(&events, &world.log());
            assert_eq!(verdict.outcome, Outcome::Failed, "{fault:?} at {place}");
            assert!(fault.shows_in(&verdict.counts) > 0, "{fault:?} at {place}: {verdict:#?}");
        }
    }
}

#[test]
fn a_single_lost_event_is_one_lost_and_one_torn() {
    let mut world = World::new();
    let log = world.log();
    world.events.remove(0);
    let counts = world.verdict_over(&world.events, &log).counts;
    assert_eq!((counts.lost, counts.torn, counts.phantom, counts.doubled), (1, 1, 0, 0));
}

#[test]
fn an_event_of_a_rolled_back_transaction_is_a_phantom() {
    let mut world = World::new();
    let journal = world.journal.len();
    world.transaction(&[(0, Did::Insert, "9", None)]);
    world.journal.truncate(journal);
    let counts = world.verdict().counts;
    assert_eq!((counts.phantom, counts.lost), (1, 0));
}

#[test]
fn a_lost_tombstone_is_lost() {
    let mut world = World::new();
    let at = world.events.iter().position(|event| matches!(event.body, Body::Tombstone)).unwrap();
    world.events.remove(at);
    assert_eq!(world.verdict().counts.lost, 1);
}

#[test]
fn a_value_called_unchanged_though_it_changed_is_a_mismatch() {
    let mut world = World::new();
    let at = world.journal.iter().rposition(|entry| entry.table == WIDE).unwrap();
    world.journal[at].payload[BODY] ^= 1;
    assert!(world.verdict().counts.hash_mismatch > 0);
}

#[test]
fn a_wrong_old_row_is_a_mismatch_where_identity_is_full() {
    let mut world = World::new();
    let old_rows = world.events.iter_mut().filter_map(|event| match &mut event.body {
        Body::Change(change) => change.before.as_mut(),
        Body::Tombstone => None,
    });
    for row in old_rows.take(1) {
        row[4] = Cell::Hash(1);
    }
    assert_eq!(world.verdict().counts.hash_mismatch, 1);
}

#[test]
fn a_position_that_falls_is_a_regression() {
    let mut world = World::new();
    let last = world.events.last_mut().unwrap();
    last.position.as_mut().unwrap().change_lsn = 0;
    assert_eq!(world.verdict().counts.position_regression, 1);
}

#[test]
fn a_missing_position_header_is_a_regression() {
    let mut world = World::new();
    world.events[3].position = None;
    assert!(world.verdict().counts.position_regression > 0);
}

#[test]
fn a_source_transaction_over_two_kafka_transactions_of_a_partition_is_torn() {
    let mut world = World::new();
    world.events.last_mut().unwrap().tx.as_mut().unwrap().ordinal += 1000;
    assert_eq!(world.verdict().counts.torn, 1);
}

#[test]
fn a_part_that_lies_in_the_next_kafka_transaction_is_torn() {
    let mut world = World::new();
    let next = world.journal.iter().find(|entry| entry.xid == 703).map(|entry| entry.xid);
    let tx = world.events.iter().find(|event| event.change().is_some_and(|c| c.xid == next)).unwrap().tx;
    let of_first =
        |event: &&mut Event| event.table == 0 && event.change().is_some_and(|c| c.xid == Some(701));
    world.events.iter_mut().find(of_first).unwrap().tx = tx;
    assert!(world.verdict().counts.torn > 0);
}

#[test]
fn a_position_in_another_producers_transaction_is_torn() {
    let mut world = World::new();
    world.marks[2].tx.producer_id = 77;
    assert!(world.verdict().counts.torn > 0);
}

#[test]
fn the_fold_is_compared_with_the_table() {
    let mut world = World::new();
    world.rows.insert((0, "44".into()), Box::new([0; 12]));
    assert_eq!(world.verdict().counts.fold_mismatch, 1);
}

#[test]
fn a_record_that_only_read_uncommitted_sees_must_have_been_aborted() {
    let world = World::new();
    let mut log = world.log();
    log.markers.retain(|marker| marker.outcome != Ended::Abort);
    assert_eq!(world.verdict_over(&world.events, &log).counts.uncommitted_extra, 1);
}

#[test]
fn an_aborted_record_that_read_committed_shows_is_found() {
    let world = World::new();
    let mut log = world.log();
    let tx = world.events[0].tx.unwrap();
    for marker in log.markers.iter_mut().filter(|marker| marker.tx == tx) {
        marker.outcome = Ended::Abort;
    }
    assert!(world.verdict_over(&world.events, &log).counts.uncommitted_extra > 0);
}

#[test]
fn reading_nothing_is_not_passing() {
    let world = World { journal: Vec::new(), events: Vec::new(), rows: BTreeMap::new(), ..World::new() };
    let verdict = world.verdict_over(&[], &Read::default());
    assert_eq!(verdict.outcome, Outcome::CouldNotCheck);
    assert!(verdict.unchecked.len() >= 3, "{:?}", verdict.unchecked);
}

#[test]
fn expired_offsets_are_not_passed_over() {
    let world = World::new();
    let mut extents = world.extents();
    extents.values_mut().next().unwrap().earliest = 5;
    let verdict = check(&Evidence {
        journal: &world.journal,
        events: &world.events,
        problems: &[],
        extents: &extents,
        content: &world.rows,
        marks: Some(&world.marks),
        uncommitted: Some(&world.log()),
        limits: Limits { uncut_changes_max: 1_000, positions: true },
        begins: &Begins::Empty,
    });
    assert_eq!(verdict.outcome, Outcome::CouldNotCheck);
}

#[test]
fn a_foreign_record_is_not_passed_over() {
    let mut world = World::new();
    let place = world.events[0].place.clone();
    world.problems.push(Problem { place, kind: ProblemKind::Foreign, text: "no Avro frame".to_owned() });
    assert_eq!(world.verdict().outcome, Outcome::CouldNotCheck);
}

#[test]
fn an_unknown_schema_fails() {
    let mut world = World::new();
    let place = world.events[0].place.clone();
    world.problems.push(Problem { place, kind: ProblemKind::Unresolved, text: "schema 9".to_owned() });
    assert_eq!(world.verdict().counts.unresolved_schema, 1);
}

#[test]
fn a_snapshots_row_may_follow_its_change_and_not_precede_it() {
    let mut world = World::new();
    let log = world.log();
    let mut read = world.events[0].clone();
    read.position = None;
    if let Body::Change(change) = &mut read.body {
        change.op = Op::Read;
        change.xid = None;
    }
    world.events.insert(1, read.clone());
    let counts = world.verdict_over(&world.events, &log).counts;
    assert_eq!((counts.doubled, counts.reordered, counts.phantom), (0, 0, 0));
    world.events.remove(1);
    world.events.insert(0, read);
    assert_eq!(world.verdict_over(&world.events, &log).counts.reordered, 1);
}

#[test]
fn what_was_there_before_comes_as_rows_and_what_came_after_as_changes() {
    let world = World::begun_with_rows();
    let verdict = world.verdict();
    assert_eq!(verdict.outcome, Outcome::Passed, "{verdict:#?}");
    assert_eq!((verdict.seen.rows, verdict.seen.source_transactions), (2, 4));
}

#[test]
fn a_change_that_is_in_the_rows_is_a_phantom() {
    let mut world = World::begun_with_rows();
    world.begins =
        Begins::Rows((0..TABLES.len()).map(|table| (table, Snapshot::parse("704:704:").unwrap())).collect());
    assert!(world.verdict().counts.phantom > 0);
}

#[test]
fn rows_of_a_reading_that_was_begun_again_are_forgotten_and_come_before_the_next_ones() {
    let mut world = World::begun_with_rows();
    let read = |event: &Event| event.change().is_some_and(|change| change.op == Op::Read);
    let at = world.events.iter().position(read).unwrap();
    let earlier = world.events[at].clone();
    // As it was when it was read first.
    let mut stale = earlier.clone();
    let Body::Change(change) = &mut stale.body else { panic!("a row") };
    change.seq = Some(-1);
    world.events[at].attempt = 2;
    for rows in [vec![earlier.clone()], vec![stale, earlier.clone()]] {
        let again = rows.len() as u64;
        let events: Vec<Event> = rows.into_iter().chain(world.events.iter().cloned()).collect();
        let verdict = world.verdict_over(&events, &world.log());
        let Counts { lost, phantom, doubled, reordered, fold_mismatch, .. } = verdict.counts;
        assert_eq!((lost, phantom, doubled, reordered, fold_mismatch), (0, 0, 0, 0, 0), "{verdict:#?}");
        assert_eq!(verdict.seen.superseded, again);
    }
    let mut late = world.events.clone();
    late.push(earlier);
    assert_eq!(world.verdict_over(&late, &world.log()).counts.reordered, 1);
}

#[test]
fn a_row_that_nothing_changed_afterwards_has_to_come() {
    let mut world = World::begun_with_rows();
    let log = world.log();
    world.transaction(&[(0, Did::Insert, "9", None)]);
    world.begins =
        Begins::Rows((0..TABLES.len()).map(|table| (table, Snapshot::parse("708:708:").unwrap())).collect());
    world.events.retain(|event| event.change().is_some_and(|change| change.op == Op::Read));
    let counts = world.verdict_over(&world.events, &log).counts;
    // Keys 1 and 9 of the first table, 5 of the wide one as it is now, and the member's last row.
    assert!(counts.lost >= 3, "{counts:?}");
}

#[test]
fn a_value_that_only_the_row_held_is_missed_when_the_row_did_not_come() {
    let mut world = World::begun_with_rows();
    let log = world.log();
    world
        .events
        .retain(|event| (event.table, event.change().map(|change| change.op)) != (WIDE, Some(Op::Read)));
    let counts = world.verdict_over(&world.events, &log).counts;
    assert_eq!((counts.fold_mismatch, counts.lost), (1, 0), "{counts:?}");
}
