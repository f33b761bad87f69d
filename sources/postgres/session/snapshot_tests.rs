//! A scripted log with chunks read beside it: what is in the rows is not emitted again, what overtook a row
//! drops it, and what a change left out is read again.

use millrace_core::batch::{SnapshotMark, Value};

use super::tests::{begin, commit, fresh, play, relation};
use super::*;
use crate::pgoutput::writer::{Writer, Written};
use crate::snapshot::chunk::{Of, Opened, Read, Turn, row};
use crate::snapshot::key;
use crate::snapshot::table::{Part, Phase, TableNote, Unread};
use crate::snapshot::tracker::MESSAGE_PREFIX;
use crate::snapshot::visibility::Visibility;
use crate::snapshot::window::Block;
use crate::tables::TableName;

const TABLE: u32 = 7;

type Logged = (Lsn, Vec<u8>);

fn reading(phase: Phase) -> Session {
    let table = TableName::new("public", "t");
    let note = TableNote { parts: vec![Part::default()], ..TableNote::new(phase) };
    let unread = Unread { table, note, listed: Vec::new(), is_keyless: false, order_by: None };
    let tracker = Tracker::new(vec![unread], Vec::new(), "us".to_owned());
    Session::new(Streamed::starting_at("1", 1, "s", Lsn(10)), Messages::default(), Some(tracker))
}

/// The table waits since place 20 and is released, all else is delivered up to 40, and its rows are to be read anew.
fn releasing() -> Session {
    let Session { tracker, .. } = reading(Phase::Pending);
    let mut main = Streamed::starting_at("1", 1, "s", Lsn(40));
    main.held = vec![crate::held::Held {
        relation: "public.t".into(),
        columns: Vec::new(),
        values: Vec::new(),
        topics: Vec::new(),
        end_lsn: Lsn(20),
        open: None,
        lsn_commit: None,
        since_ms: 0,
        why: "refused".into(),
        hint: None,
    }];
    Session::new(main, Messages::default(), tracker).holding(vec![true])
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
    open_for(session, id, seen, Turn::Message);
}

fn open_for(session: &mut Session, id: u64, seen: &str, turn: Turn) {
    let seen = Visibility::parse(seen).expect("a snapshot");
    let (outcomes, _) = tokio::sync::mpsc::channel(1);
    session.tracker().expect("reading").open(Opened { id, table: 0, seen, turn, outcomes });
}

/// Hands over the rows of a chunk.
fn read(session: &mut Session, id: u64, ids: &[u32], ended: bool) {
    read_of(session, id, ids, (Of::Part(0), ended));
}

fn read_of(session: &mut Session, id: u64, ids: &[u32], (of, ended): (Of, bool)) {
    read_after(session, id, ids, (of, None, ended));
}

fn read_after(
    session: &mut Session,
    id: u64,
    ids: &[u32],
    (of, after, ended): (Of, Option<Vec<String>>, bool),
) {
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
        of,
        after,
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
    let (outcome, _) = session.place(&mut batch).expect("a chunk is ready");
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
    assert!(outcome.done && !session.is_reading());
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

/// The same, and the row gets another key.
fn update_in_part_of_the_key(lsn: u64, from: u32, id: u32) -> Logged {
    let old = [Written::Text(from.to_string()), Written::Null];
    let row = [Written::Text(id.to_string()), Written::Unchanged];
    (Lsn(lsn), Writer::default().tag(b'U').u32(TABLE).tag(b'K').tuple(&old).tag(b'N').tuple(&row).0)
}

/// A table of two columns, whose first chunk was opened.
fn reading_wide() -> (Session, ChangeBatch) {
    let mut session = reading(Phase::Reading);
    let batch = fresh(&mut session);
    session.define(TABLE, wide(), true);
    open(&mut session, 1, "100:105:");
    (session, batch)
}

fn wide() -> Relation {
    let mut wide = relation();
    wide.columns.push(wide.columns[0].clone());
    wide
}

fn keys(ids: &[u32]) -> Of {
    Of::Keys(ids.iter().map(|id| key::from_texts(&[id.to_string()])).collect())
}

fn noted(batch: &ChangeBatch) -> Vec<(&str, bool)> {
    batch.notes.iter().map(|note| (&*note.key, note.text.is_some())).collect()
}

const REREAD_2: &str = "reread \"public\".\"t\" [\"2\"]";
const NOTE: (&str, bool) = ("snapshot \"public\".\"t\"", true);

#[test]
fn a_row_that_was_dropped_for_a_change_in_part_is_listed_until_it_was_read_again() {
    let (mut session, mut batch) = reading_wide();
    let log = [transaction(20, 106, update_in_part(20, 2)), message(30, "us", 1)].concat();
    play(&mut session, &log, &mut batch).expect("play");
    session.take_notes(&mut batch);
    assert_eq!(noted(&batch), [], "nothing was dropped yet");
    read(&mut session, 1, &[1, 2], true);
    let (emitted, batch, outcome) = place(&mut session);
    assert_eq!(emitted, reads(&[1]));
    assert_eq!(noted(&batch), [(REREAD_2, true), NOTE]);
    assert_eq!((outcome.done, outcome.is_alone, outcome.listed.len()), (false, true, 1));

    open(&mut session, 2, "107:107:");
    let mut batch = fresh(&mut session);
    play(&mut session, &message(40, "us", 2), &mut batch).expect("play");
    read_of(&mut session, 2, &[2], (keys(&[2]), true));
    let (emitted, batch, outcome) = place(&mut session);
    assert_eq!(emitted, reads(&[2]));
    assert_eq!(noted(&batch), [(REREAD_2, false), NOTE]);
    assert!(outcome.done);
}

#[test]
fn a_change_in_part_of_a_row_that_is_out_or_is_still_to_be_read_costs_nothing() {
    let (mut session, mut batch) = reading_wide();
    // In the snapshot, and of a row that no chunk drops.
    let log = [transaction(20, 101, update_in_part(20, 2)), transaction(30, 106, update_in_part(30, 9))];
    play(&mut session, &log.concat(), &mut batch).expect("play");
    play(&mut session, &message(40, "us", 1), &mut batch).expect("play");
    read(&mut session, 1, &[1, 2], true);
    let (emitted, _, outcome) = place(&mut session);
    assert_eq!((emitted, outcome.done), (reads(&[1, 2]), true));
}

#[test]
fn the_newest_change_says_whether_a_dropped_row_is_needed() {
    let (mut session, mut batch) = reading_wide();
    let log = [transaction(20, 106, update_in_part(20, 2)), transaction(30, 107, delete_wide(30, 2))];
    play(&mut session, &log.concat(), &mut batch).expect("play");
    play(&mut session, &message(40, "us", 1), &mut batch).expect("play");
    read(&mut session, 1, &[1, 2], true);
    let (emitted, _, outcome) = place(&mut session);
    assert_eq!((emitted, outcome.done), (reads(&[1]), true));
}

fn delete_wide(lsn: u64, id: u32) -> Logged {
    let row = [Written::Text(id.to_string()), Written::Null];
    (Lsn(lsn), Writer::default().tag(b'D').u32(TABLE).tag(b'K').tuple(&row).0)
}

#[test]
fn a_row_that_moves_in_part_is_listed_at_once_and_in_whole_numbers_the_table_is_read_once_more() {
    let (mut session, mut batch) = reading_wide();
    play(&mut session, &transaction(20, 106, update_in_part_of_the_key(20, 7, 2)), &mut batch).expect("play");
    session.take_notes(&mut batch);
    assert_eq!(noted(&batch), [(REREAD_2, true)]);
    // One transaction that moves more rows than are listed.
    let mut log = vec![begin(200_000, 107)];
    log.extend((0..60_000_u32).map(|n| update_in_part_of_the_key(40 + u64::from(n), n + 1_000_000, n)));
    log.push(commit(200_000, 200_001));
    play(&mut session, &log, &mut batch).expect("play");
    let mut noticed = fresh(&mut session);
    session.take_notes(&mut noticed);
    let text = noticed.notes.last().and_then(|note| note.text.clone()).expect("a note");
    assert!(text.contains("\"repeat\":true"), "{text}");
    play(&mut session, &message(200_010, "us", 1), &mut batch).expect("play");
    read(&mut session, 1, &[1_000_000_000], true);
    let (_, _, outcome) = place(&mut session);
    assert_eq!((outcome.done, outcome.again, outcome.listed.len()), (false, true, 0));
    open(&mut session, 2, "108:108:");
    play(&mut session, &message(200_020, "us", 2), &mut batch).expect("play");
    read(&mut session, 2, &[1], true);
    assert!(place(&mut session).2.done);
}

#[test]
fn a_row_that_is_changed_all_the_time_goes_out_just_before_the_change_that_overtakes_it() {
    let (mut session, mut batch) = reading_wide();
    open_for(&mut session, 2, "100:105:", Turn::Overtaken);
    let mut rows = wide();
    rows.version = 77;
    let mut wide_rows = ChangeBatch::default();
    for id in [2, 3] {
        let line = format!("{id}\twhole\n");
        let after = crate::snapshot::copy::append_row(&mut wide_rows, line.as_bytes(), 2).expect("a row");
        wide_rows.changes.push(row(after));
    }
    let read = Read {
        id: 2,
        rows: wide_rows,
        oid: TABLE,
        relation: rows,
        of: keys(&[2, 3]),
        after: None,
        last: None,
        ended: true,
        is_last_table: true,
        read_at_us: 5,
    };
    session.tracker().expect("reading").read(read);
    let log = [
        transaction(20, 101, update_in_part(20, 2)),
        transaction(30, 106, update_in_part(30, 2)),
        transaction(40, 107, update_in_part(40, 2)),
    ];
    play(&mut session, &log.concat(), &mut batch).expect("play");
    let expected = [(Op::Update, "2"), (Op::Read, "2"), (Op::Update, "2"), (Op::Update, "2")];
    assert_eq!(emitted(&batch), expected.map(|(op, id)| (op, id.to_owned())));
    let marks: Vec<Mark> = batch.changes.iter().map(|change| change.mark).collect();
    assert!(marks.is_sorted_by(|one, next| one < next), "{marks:?}");
    let whole = batch.cells_of(batch.changes[1].after)[1];
    assert_eq!(batch.value(whole), Value::Text(b"whole"));
    // The first chunk is of no interest here.
    play(&mut session, &message(50, "us", 1), &mut batch).expect("play");
    read_of(&mut session, 1, &[], (Of::Part(0), true));
    place(&mut session);
    play(&mut session, &message(60, "us", 2), &mut batch).expect("play");
    let (emitted, _, outcome) = place(&mut session);
    assert_eq!((emitted, outcome.done), (reads(&[3]), true));
}

#[test]
fn a_chunk_that_does_not_follow_the_one_before_it_is_read_again() {
    let mut session = reading(Phase::Reading);
    let mut batch = fresh(&mut session);
    open(&mut session, 1, "100:105:");
    play(&mut session, &message(20, "us", 1), &mut batch).expect("play");
    read(&mut session, 1, &[1, 2], false);
    assert_eq!(place(&mut session).0, reads(&[1, 2]));
    // It was to begin at the table's beginning.
    open(&mut session, 2, "100:105:");
    play(&mut session, &message(30, "us", 2), &mut batch).expect("play");
    read(&mut session, 2, &[1, 2, 3], true);
    let (emitted, _, outcome) = place(&mut session);
    assert_eq!((emitted, outcome.spoiled, outcome.last), (vec![], true, Some(vec!["2".to_owned()])));
}

#[test]
fn a_table_that_is_asked_for_later_is_watched_from_then_on_and_no_longer_once_it_is_given_up() {
    let (outcomes, _) = tokio::sync::mpsc::channel(1);
    let tracker = Tracker::new(Vec::new(), Vec::new(), "us".to_owned());
    let from = Streamed::starting_at("1", 1, "s", Lsn(10));
    let mut session = Session::new(from, Messages::default(), Some(tracker));
    let mut batch = fresh(&mut session);
    play(&mut session, &[vec![described()], transaction(20, 100, insert(20, 1))].concat(), &mut batch)
        .expect("play");
    let note = TableNote { parts: vec![Part::default()], ..TableNote::new(Phase::Reading) };
    let asked = Some(millrace_core::requests::Asked { id: "one".into(), ..Default::default() });
    let note = TableNote { asked, ..note };
    let table = TableName::new("public", "t");
    session.watch(vec![Unread { table, note, listed: Vec::new(), is_keyless: false, order_by: None }]);
    let seen = Visibility::parse("101:105:102").expect("a snapshot");
    session.tracker().expect("it").open(Opened { id: 1, table: 0, seen, turn: Turn::Message, outcomes });
    let log = [transaction(30, 102, delete(30, 2)), message(40, "us", 1)].concat();
    play(&mut session, &log, &mut batch).expect("play");
    read(&mut session, 1, &[1, 2, 3], false);
    let (emitted, batch, outcome) = place(&mut session);
    assert_eq!((emitted, outcome.done), (reads(&[1, 3]), false));
    let words = batch.changes.iter().map(|change| batch.transactions[change.transaction as usize].snapshot);
    assert!(words.into_iter().all(|word| word == SnapshotMark::Incremental));
    open(&mut session, 2, "106:106:");
    session.give_up(0);
    read(&mut session, 2, &[4], true);
    let (emitted, batch, outcome) = place(&mut session);
    assert_eq!((emitted, outcome.done, session.is_reading()), (vec![], true, false));
    assert!(batch.notes.iter().any(|note| note.text.as_ref().is_some_and(|text| text.contains("done"))));
}

#[test]
fn what_begins_behind_the_last_row_is_passed_over_where_only_rows_are_wanted() {
    let mut session = reading(Phase::Reading);
    let tracker = session.tracker().expect("it");
    *tracker =
        std::mem::replace(tracker, Tracker::new(Vec::new(), Vec::new(), String::new())).followed(false);
    let mut batch = fresh(&mut session);
    play(&mut session, &[vec![described()], transaction(20, 102, insert(20, 1))].concat(), &mut batch)
        .expect("play");
    assert_eq!(batch.changes.len(), 1);
    open(&mut session, 1, "100:105:102");
    play(&mut session, &message(30, "us", 1), &mut batch).expect("play");
    read(&mut session, 1, &[2], true);
    assert_eq!((place(&mut session).0, session.is_reading()), (reads(&[2]), false));
    let mut batch = fresh(&mut session);
    play(&mut session, &transaction(40, 106, insert(40, 3)), &mut batch).expect("play");
    assert_eq!((batch.changes.len(), session.end_lsn()), (0, Lsn(42)));
}

#[test]
fn a_table_that_is_asked_for_while_it_is_read_is_watched_for_that_too() {
    let (outcomes, _) = tokio::sync::mpsc::channel(1);
    let mut session = reading(Phase::Reading);
    let mut batch = fresh(&mut session);
    play(&mut session, &[described()], &mut batch).expect("play");
    let note = TableNote { parts: vec![Part::default()], ..TableNote::new(Phase::Reading) };
    let table = TableName::new("public", "t");
    session.watch(vec![Unread { table, note, listed: Vec::new(), is_keyless: false, order_by: None }]);
    session.give_up(0);
    let seen = Visibility::parse("101:105:102").expect("a snapshot");
    session.tracker().expect("it").open(Opened { id: 1, table: 1, seen, turn: Turn::Message, outcomes });
    let log = [transaction(30, 102, delete(30, 2)), message(40, "us", 1)].concat();
    play(&mut session, &log, &mut batch).expect("play");
    read(&mut session, 1, &[1, 2, 3], false);
    assert_eq!(place(&mut session).0, reads(&[1, 3]));
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

/// A blocking snapshot that was taken now, and whoever waits for the stream to stand still behind it.
fn block(session: &mut Session, id: u64, seen: &str) -> tokio::sync::oneshot::Receiver<bool> {
    let (told, standing) = tokio::sync::oneshot::channel();
    let seen = Visibility::parse(seen).expect("a snapshot");
    let block = Block { id, tables: 0..1, seen, standing: Some(told) };
    session.tracker().expect("reading").block(block);
    standing
}

/// Whether the stream stands still now, and the rows may come.
fn stands(session: &mut Session) -> Option<bool> {
    session.tracker().expect("reading").stand().map(|(_, may_come)| may_come)
}

#[test]
fn rows_of_a_blocking_snapshot_come_where_the_stream_stands_still_without_those_that_changed_before() {
    let mut session = reading(Phase::Reading);
    let mut batch = fresh(&mut session);
    let log = [vec![described()], transaction(20, 100, insert(20, 1))].concat();
    play(&mut session, &log, &mut batch).expect("play");
    let _standing = block(&mut session, 9, "101:105:102");
    // 103 is in the snapshot; 102 was under way, and 105 came later.
    let log = [
        transaction(30, 103, insert(30, 3)),
        transaction(40, 102, insert(40, 2)),
        transaction(50, 105, delete(50, 4)),
    ];
    play(&mut session, &log.concat(), &mut batch).expect("play");
    assert!(!session.has_chunk() && stands(&mut session).is_none(), "its message has not come");
    play(&mut session, &message(60, "us", 9), &mut batch).expect("play");
    assert!(session.has_chunk());
    assert_eq!((stands(&mut session), stands(&mut session)), (Some(true), None), "told once");
    // What is read under it is in several chunks, each of which drops what changed.
    for (id, ids, left, ended) in [(10, &[1, 2, 3][..], &[1, 3][..], false), (11, &[4, 5], &[5], true)] {
        open_for(&mut session, id, "101:105:102", Turn::Standing);
        let after = (id == 11).then(|| vec!["3".to_owned()]);
        read_after(&mut session, id, ids, (Of::Part(0), after, ended));
        let (rows, batch, outcome) = place(&mut session);
        assert_eq!((rows, outcome.done), (reads(left), ended));
        assert_eq!(batch.transactions.first().map(|t| t.snapshot), Some(SnapshotMark::Row));
    }
}

#[test]
fn a_truncate_on_the_way_to_where_the_stream_stands_still_leaves_no_rows() {
    let mut session = reading(Phase::Reading);
    let mut batch = fresh(&mut session);
    play(&mut session, &[described()], &mut batch).expect("play");
    let _standing = block(&mut session, 9, "100:100:");
    let log = [transaction(20, 101, truncate(20)), message(30, "us", 9)].concat();
    play(&mut session, &log, &mut batch).expect("play");
    assert_eq!(stands(&mut session), Some(true));
    open_for(&mut session, 10, "100:100:", Turn::Standing);
    read(&mut session, 10, &[1, 2], true);
    let (rows, _, outcome) = place(&mut session);
    assert!(rows.is_empty() && outcome.done);
}

#[test]
fn what_is_released_is_told_though_its_table_is_to_be_read_anew() {
    let mut session = releasing();
    let mut batch = fresh(&mut session);
    let log = [vec![described()], transaction(30, 5, delete(30, 1)), transaction(50, 6, insert(50, 2))];
    play(&mut session, &log.concat(), &mut batch).expect("a log");
    // The one behind the position is in the rows that are still to be read.
    assert_eq!(emitted(&batch), [(Op::Delete, "1".to_owned())]);
}

#[test]
fn a_table_whose_rows_cannot_be_told_stops_at_the_first_that_is_wanted() {
    let unfit = || Some(Error::config("its key is not known"));
    let mut session = releasing();
    session.define(TABLE, relation(), true);
    session.must_not_tell(TABLE, unfit());
    let mut batch = fresh(&mut session);
    let log = transaction(30, 5, insert(30, 1));
    play(&mut session, &log, &mut batch).expect_err("it is released");

    const OTHER: u32 = 8;
    let mut session = releasing();
    session.define(OTHER, Relation { name: "other".into(), ..relation() }, true);
    session.must_not_tell(OTHER, unfit());
    let row = [Written::Text("1".to_owned())];
    let insert = |lsn: u64| (Lsn(lsn), Writer::default().tag(b'I').u32(OTHER).tag(b'N').tuple(&row).0);
    play(&mut session, &transaction(30, 5, insert(30)), &mut batch)
        .expect("it was delivered when it could be");
    play(&mut session, &transaction(50, 6, insert(50)), &mut batch).expect_err("it is new");
    assert!(batch.changes.is_empty());
}
