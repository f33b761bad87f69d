//! A scripted log with chunks read beside it: what is in the rows is not emitted again, what overtook a row
//! drops it, and what a change left out is read again.

use millrace_core::batch::{SnapshotMark, Value};

use super::tests::{begin, commit, fresh, play, relation};
use super::*;
use crate::pgoutput::writer::{Writer, Written};
use crate::snapshot::table::{Phase, TableNote, Unread};
use crate::snapshot::tracker::{MESSAGE_PREFIX, Opened, Read, Turn, row};
use crate::snapshot::visibility::Visibility;
use crate::tables::TableName;

const TABLE: u32 = 7;

type Logged = (Lsn, Vec<u8>);

fn reading(phase: Phase) -> Session {
    let table = TableName::new("public", "t");
    let unread = Unread { table, note: TableNote::new(phase), listed: Vec::new(), is_keyless: false };
    let tracker = Tracker::new(vec![unread], Vec::new(), "us".to_owned());
    Session::new(Streamed::starting_at("1", 1, "s", Lsn(10)), Messages::default(), Some(tracker))
}

fn described() -> Logged {
    let writer = Writer::default().tag(b'R').u32(TABLE).string("public").string("t").tag(b'd').u16(1);
    (Lsn(0), writer.tag(1).string("id").u32(20).u32(u32::MAX).0)
}

fn insert(lsn: u64, id: u32) -> Logged {
    let row = [Written::Text(id.to_string())];
    (Lsn(lsn), Writer::default().tag(b'I').u32(TABLE).tag(b'N').tuple(&row).0)
}

fn delete(lsn: u64, id: u32) -> Logged {
    let row = [Written::Text(id.to_string())];
    (Lsn(lsn), Writer::default().tag(b'D').u32(TABLE).tag(b'K').tuple(&row).0)
}

fn truncate(lsn: u64) -> Logged {
    (Lsn(lsn), Writer::default().tag(b'T').u32(1).tag(0).u32(TABLE).0)
}

/// The message of a chunk, in a transaction of its own.
fn message(lsn: u64, token: &str, chunk: u64) -> Vec<Logged> {
    let content = format!("{token} {chunk}");
    let writer = Writer::default().tag(b'M').tag(1).u64(lsn).string(MESSAGE_PREFIX);
    let message = writer.u32(content.len() as u32).bytes(content.as_bytes()).0;
    vec![begin(lsn + 1, 9_999), (Lsn(lsn), message), commit(lsn + 1, lsn + 2)]
}

fn transaction(lsn: u64, xid: u32, change: Logged) -> Vec<Logged> {
    vec![begin(lsn + 1, xid), change, commit(lsn + 1, lsn + 2)]
}

fn open(session: &mut Session, id: u64, seen: &str) {
    let seen = Visibility::parse(seen).expect("a snapshot");
    session.tracker().expect("reading").open(Opened { id, table: 0, seen, turn: Turn::Message });
}

/// Hands over the rows of a chunk.
fn read(session: &mut Session, id: u64, ids: &[u32], ended: bool) {
    let mut rows = ChangeBatch::default();
    for id in ids {
        let line = format!("{id}\n");
        let after = crate::snapshot::copy::append_row(&mut rows, line.as_bytes(), 1).expect("a row");
        rows.changes.push(row(after));
    }
    let last = ids.last().map(|id| vec![id.to_string()]);
    let read = Read {
        id,
        rows,
        oid: TABLE,
        relation: relation(),
        requested: None,
        last,
        ended,
        is_last_table: true,
        read_at_us: 5,
    };
    session.tracker().expect("reading").read(read);
}

fn emitted(batch: &ChangeBatch) -> Vec<(Op, String)> {
    let of = |change: &Change| {
        let cells = if change.op == Op::Delete { change.before } else { change.after };
        let text = batch.cells_of(cells).first().map(|cell| match batch.value(*cell) {
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        });
        (change.op, text.unwrap_or_default())
    };
    batch.changes.iter().map(of).collect()
}

fn place(session: &mut Session) -> (Vec<(Op, String)>, ChangeBatch, Outcome) {
    let mut batch = fresh(session);
    let outcome = session.place(&mut batch).expect("a chunk is ready");
    session.take_notes(&mut batch);
    (emitted(&batch), batch, outcome)
}

fn reads(ids: &[u32]) -> Vec<(Op, String)> {
    ids.iter().map(|id| (Op::Read, id.to_string())).collect()
}

#[test]
fn changes_before_the_first_snapshot_and_in_it_are_in_its_rows_and_no_others() {
    let mut session = reading(Phase::Pending);
    let mut batch = fresh(&mut session);
    let log = [vec![described()], transaction(20, 100, insert(20, 1))].concat();
    play(&mut session, &log, &mut batch).expect("play");
    open(&mut session, 1, "100:105:102");
    // 101 and 104 are in the snapshot, 102 was under way and 105 came later.
    let log = [
        transaction(30, 101, insert(30, 2)),
        transaction(40, 102, insert(40, 3)),
        transaction(50, 105, insert(50, 4)),
        transaction(60, 104, insert(60, 5)),
    ];
    play(&mut session, &log.concat(), &mut batch).expect("play");
    assert_eq!(emitted(&batch), [(Op::Insert, "3".into()), (Op::Insert, "4".into())]);
    session.take_notes(&mut batch);
    let first = batch.notes.last().and_then(|note| note.text.clone()).expect("a note");
    assert!(first.contains("reading") && first.contains("100:105:102"), "{first}");
}

#[test]
fn a_chunk_waits_for_its_own_message_and_for_its_rows() {
    let mut session = reading(Phase::Pending);
    let mut batch = fresh(&mut session);
    open(&mut session, 1, "100:105:");
    play(&mut session, &message(20, "them", 1), &mut batch).expect("play");
    play(&mut session, &message(30, "us", 2), &mut batch).expect("play");
    read(&mut session, 1, &[1, 2], true);
    assert!(!session.has_chunk());
    play(&mut session, &message(40, "us", 1), &mut batch).expect("play");
    assert!(session.has_chunk());
    let (emitted, batch, outcome) = place(&mut session);
    assert_eq!(emitted, reads(&[1, 2]));
    assert!(outcome.done && session.tracker().is_none());
    let marks: Vec<_> = batch.changes.iter().map(|change| change.mark).collect();
    assert_eq!(marks, [Mark { commit: 42, change: 1, n: 0 }, Mark { commit: 42, change: 1, n: 1 }]);
    let words = batch.changes.iter().map(|change| batch.transactions[change.transaction as usize].snapshot);
    assert_eq!(words.collect::<Vec<_>>(), [SnapshotMark::First, SnapshotMark::Last]);
    assert_eq!(session.position().snapshot_chunk, Some(1));
}

#[test]
fn rows_that_a_transaction_outside_the_snapshot_touched_are_dropped() {
    let mut session = reading(Phase::Reading);
    let mut batch = fresh(&mut session);
    play(&mut session, &[described()], &mut batch).expect("play");
    open(&mut session, 1, "100:105:102");
    let log = [
        transaction(20, 101, delete(20, 1)),
        transaction(30, 102, delete(30, 2)),
        message(40, "us", 1),
        transaction(50, 106, insert(50, 3)),
    ];
    play(&mut session, &log.concat(), &mut batch).expect("play");
    read(&mut session, 1, &[1, 2, 3, 4], false);
    let (emitted, _, outcome) = place(&mut session);
    // The one deleted in the snapshot is not in its rows on a real server.
    assert_eq!(emitted, reads(&[1, 4]));
    assert_eq!((outcome.last, outcome.done), (Some(vec!["4".to_owned()]), false));
}

#[test]
fn a_truncate_outside_the_snapshot_drops_all_rows() {
    for (xid, left) in [(101, reads(&[1, 2])), (105, vec![])] {
        let mut session = reading(Phase::Reading);
        let mut batch = fresh(&mut session);
        play(&mut session, &[described()], &mut batch).expect("play");
        open(&mut session, 1, "100:105:");
        let log = [transaction(20, xid, truncate(20)), message(30, "us", 1)].concat();
        play(&mut session, &log, &mut batch).expect("play");
        read(&mut session, 1, &[1, 2], true);
        assert_eq!(place(&mut session).0, left, "transaction {xid}");
    }
}

/// Two columns, the second of which the change left out.
fn update_in_part(lsn: u64, id: u32) -> Logged {
    let row = [Written::Text(id.to_string()), Written::Unchanged];
    (Lsn(lsn), Writer::default().tag(b'U').u32(TABLE).tag(b'N').tuple(&row).0)
}

#[test]
fn a_row_whose_change_left_a_value_out_is_listed_until_it_was_read_again() {
    let mut session = reading(Phase::Reading);
    let mut batch = fresh(&mut session);
    let wide = || {
        let mut wide = relation();
        wide.columns.push(wide.columns[0].clone());
        wide
    };
    session.define(TABLE, wide(), true);
    open(&mut session, 1, "100:105:");
    let log = [transaction(20, 106, update_in_part(20, 2)), message(30, "us", 1)].concat();
    play(&mut session, &log, &mut batch).expect("play");
    session.take_notes(&mut batch);
    assert_eq!(&*batch.notes[0].key, "reread \"public\".\"t\" [\"2\"]");
    read(&mut session, 1, &[1, 2], true);
    let (emitted, _, outcome) = place(&mut session);
    assert_eq!(emitted, reads(&[1]));
    assert_eq!((outcome.done, outcome.listed.len()), (false, 1));

    open(&mut session, 2, "107:107:");
    play(&mut session, &message(40, "us", 2), &mut batch).expect("play");
    read(&mut session, 2, &[2], true);
    let (emitted, batch, outcome) = place(&mut session);
    assert_eq!(emitted, reads(&[2]));
    assert!(outcome.done && batch.notes[0].text.is_none(), "{:?}", batch.notes);
}

#[test]
fn a_snapshot_must_see_what_was_streamed_until_one_has() {
    let mut session = reading(Phase::Pending);
    let mut batch = fresh(&mut session);
    let log = [transaction(20, 100, insert(20, 1)), transaction(30, 103, insert(30, 2))].concat();
    play(&mut session, &[vec![described()], log].concat(), &mut batch).expect("play");
    assert_eq!(session.tracker().expect("reading").streamed(), [100, 103]);
    open(&mut session, 1, "102:105:103");
    assert_eq!(session.tracker().expect("reading").streamed(), [103]);
}
