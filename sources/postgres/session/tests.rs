//! Replays of a scripted log: whatever was delivered before, the rest comes once and looks the same.

use std::collections::{BTreeSet, VecDeque};

use millrace_core::progress::State;
use millrace_core::relation::{Column, Kind, Shape, SourceBlock};

use super::*;
use crate::messages::Prefixes;
use crate::pgoutput::writer::{Writer, Written};
use crate::relation::Origin;
use crate::tables::TableName;

const TABLE: u32 = 7;
const OTHER: u32 = 8;

/// One message of the log with the LSN of its header.
type Logged = (Lsn, Vec<u8>);

pub(super) fn begin(final_lsn: u64, xid: u32) -> Logged {
    begin_at(final_lsn, xid, 0)
}

/// Committed so many microseconds after 2000.
fn begin_at(final_lsn: u64, xid: u32, ts_us: u64) -> Logged {
    (Lsn(final_lsn - 9), Writer::default().tag(b'B').u64(final_lsn).u64(ts_us).u32(xid).0)
}

pub(super) fn commit(final_lsn: u64, end_lsn: u64) -> Logged {
    (Lsn(end_lsn), Writer::default().tag(b'C').tag(0).u64(final_lsn).u64(end_lsn).u64(0).0)
}

fn insert(lsn: u64, id: u32) -> Logged {
    let row = [Written::Text(id.to_string())];
    (Lsn(lsn), Writer::default().tag(b'I').u32(TABLE).tag(b'N').tuple(&row).0)
}

fn message(lsn: u64, transactional: bool) -> Logged {
    let writer = Writer::default().tag(b'M').tag(u8::from(transactional)).u64(lsn);
    (Lsn(lsn), writer.string("millrace").u32(0).0)
}

fn described() -> Logged {
    described_at(0)
}

/// The server sends it right before a change, under that change's place in the log.
fn described_at(lsn: u64) -> Logged {
    let writer = Writer::default().tag(b'R').u32(TABLE).string("public").string("t").tag(b'd').u16(1);
    (Lsn(lsn), writer.tag(1).string("id").u32(20).u32(u32::MAX).0)
}

pub(super) fn relation() -> Relation {
    let id = Column::new("id", Kind::Int64, false);
    Relation {
        version: Relation::next_version(),
        namespace: "public".to_owned(),
        name: "t".to_owned(),
        columns: vec![id],
        key: vec![0],
        identity: vec![0],
        source: SourceBlock { schema_name: "Source", fields: Vec::new() },
        shape: Shape::Rows,
    }
}

fn session_at(end_lsn: u64, open: Option<Open>) -> Session {
    let mut from = Streamed::starting_at("1", 1, "s", Lsn(end_lsn));
    from.open = open;
    Session::new(from, Messages::default(), None)
}

/// What the changes in a batch are, in order, but for those that were delivered before: the id of the row and
/// its mark.
fn rows(batch: &ChangeBatch) -> Vec<(String, Mark)> {
    let text = |change: &Change| {
        let cell = batch.cells_of(change.after)[0];
        match batch.value(cell) {
            millrace_core::batch::Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        }
    };
    let is_new = |change: &&Change| {
        let delivered = batch.transactions[change.transaction as usize].part.delivered;
        delivered.is_none_or(|delivered| change.mark > delivered)
    };
    batch.changes.iter().filter(is_new).map(|change| (text(change), change.mark)).collect()
}

pub(super) fn play(session: &mut Session, log: &[Logged], batch: &mut ChangeBatch) -> Result<()> {
    for (lsn, data) in log {
        if let Step::Relation(message) = session.apply(data, *lsn, batch)? {
            session.define(message.id, relation(), true);
        }
    }
    Ok(())
}

pub(super) fn fresh(session: &mut Session) -> ChangeBatch {
    session.begin_batch();
    ChangeBatch::default()
}

/// Three transactions: LSNs of changes that interleave, several changes of one LSN, a message that shares it.
fn log() -> Vec<Logged> {
    vec![
        described(),
        begin(100, 1),
        insert(40, 1),
        insert(60, 2),
        commit(100, 110),
        begin(200, 2),
        insert(50, 3),
        message(55, true),
        insert(55, 4),
        insert(55, 5),
        insert(55, 6),
        insert(120, 7),
        commit(200, 210),
        begin(300, 3),
        insert(220, 8),
        commit(300, 310),
    ]
}

/// The server begins at the position: transactions that committed before it are not sent again.
fn replay(position: &Streamed) -> Vec<Logged> {
    let mut replay = vec![described()];
    for (from, to, final_lsn) in [(1, 5, 100), (5, 13, 200), (13, 16, 300)] {
        if final_lsn >= position.end_lsn.0 {
            replay.extend_from_slice(&log()[from..to]);
        }
    }
    replay
}

#[test]
fn a_cut_at_any_message_and_a_replay_give_every_change_once_with_the_same_mark() {
    let mut session = session_at(10, None);
    let mut whole = fresh(&mut session);
    play(&mut session, &log(), &mut whole).expect("play");
    let expected = rows(&whole);
    assert_eq!(expected.len(), 8);

    for cut in 1..log().len() {
        let mut first = session_at(10, None);
        let mut before = fresh(&mut first);
        play(&mut first, &log()[..cut], &mut before).expect("play");
        let position = first.position();

        let replay = replay(&position);
        let mut second = Session::new(position, Messages::default(), None);
        let mut after = fresh(&mut second);
        play(&mut second, &replay, &mut after).expect("replay");
        let together = [rows(&before), rows(&after)].concat();
        assert_eq!(together, expected, "cut after message {cut}");
        assert_eq!(second.position(), session.position(), "cut after message {cut}");
    }
}

#[test]
fn a_transaction_that_the_server_sends_again_is_skipped_by_the_place_of_its_commit() {
    let mut session = session_at(110, None);
    let mut batch = fresh(&mut session);
    play(&mut session, &log(), &mut batch).expect("play");
    assert_eq!(rows(&batch).first().map(|(id, _)| id.as_str()), Some("3"));
    assert_eq!(session.position().end_lsn, Lsn(310));
}

#[test]
fn a_commit_record_that_starts_where_a_message_ends_is_not_skipped() {
    let mut session = session_at(10, None);
    let mut batch = fresh(&mut session);
    play(&mut session, &[message(100, false)], &mut batch).expect("play");
    assert_eq!(session.end_lsn(), Lsn(100));

    let mut second = Session::new(session.position(), Messages::default(), None);
    let mut batch = fresh(&mut second);
    play(&mut second, &log()[..5], &mut batch).expect("play");
    assert_eq!(rows(&batch).len(), 2);
}

#[test]
fn a_relation_sent_again_inside_the_cut_transaction_does_not_count() {
    let open = Open { final_lsn: Lsn(200), xid: 2, change_lsn: Lsn(55), n: 1 };
    let mut session = session_at(110, Some(open));
    let mut batch = fresh(&mut session);
    let mut replay = [vec![described()], log()[5..].to_vec()].concat();
    // Between two changes of the place up to which the position reaches.
    replay.insert(4, described_at(55));
    play(&mut session, &replay, &mut batch).expect("play");
    let ids: Vec<_> = rows(&batch).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["5", "6", "7", "8"]);
}

#[test]
fn the_open_transaction_stays_in_the_position_until_it_is_seen_again() {
    let open = Open { final_lsn: Lsn(200), xid: 2, change_lsn: Lsn(55), n: 1 };
    let mut session = session_at(110, Some(open));
    session.advance(Lsn(150)).expect("advance");
    assert_eq!(session.position().open, Some(open));
    assert_eq!(session.position().end_lsn, Lsn(150));
}

#[test]
fn another_transaction_in_the_place_of_the_open_one_is_a_lost_position() {
    let open = Open { final_lsn: Lsn(200), xid: 2, change_lsn: Lsn(55), n: 1 };
    let mut session = session_at(110, Some(open));
    let mut batch = fresh(&mut session);
    let error = play(&mut session, &[begin(300, 3)], &mut batch).expect_err("lost");
    assert_eq!(error.shown_state(), State::PositionLost);

    let mut session = session_at(110, Some(open));
    let error = session.advance(Lsn(250)).expect_err("lost");
    assert_eq!(error.shown_state(), State::PositionLost);
}

#[test]
fn a_keepalive_inside_a_transaction_moves_nothing() {
    let mut session = session_at(10, None);
    let mut batch = fresh(&mut session);
    play(&mut session, &log()[..3], &mut batch).expect("play");
    session.advance(Lsn(500)).expect("advance");
    assert_eq!(session.end_lsn(), Lsn(10));
}

#[test]
fn a_cut_at_any_message_and_a_replay_note_every_row_of_the_signal_table_once() {
    let listening = |from: Streamed| {
        let table = SignalTable::new(Some(TableName::new("public", "t")), VecDeque::new());
        Session::new(from, Messages::default(), None).listening(table)
    };
    for captured in [true, false] {
        for cut in 1..log().len() {
            let mut batch = ChangeBatch::default();
            let mut hear = |session: &mut Session, log: &[Logged]| {
                session.begin_batch();
                for (lsn, data) in log {
                    if let Step::Relation(message) = session.apply(data, *lsn, &mut batch).expect("a step") {
                        session.define(message.id, relation(), captured);
                    }
                }
                session.take_notes(&mut batch);
            };
            let mut first = listening(Streamed::starting_at("1", 1, "s", Lsn(10)));
            hear(&mut first, &log()[..cut]);
            let position = first.position();
            hear(&mut listening(position.clone()), &replay(&position));
            let keys: BTreeSet<_> = batch.notes.iter().map(|note| note.key.clone()).collect();
            assert_eq!((batch.notes.len(), keys.len()), (8, 8), "cut at {cut}");
        }
    }
}

#[test]
fn a_row_of_an_undescribed_relation_is_an_error_and_not_skipped() {
    let mut session = session_at(10, None);
    let mut batch = fresh(&mut session);
    assert!(play(&mut session, &[begin(100, 1), insert(40, 1)], &mut batch).is_err());
}

#[test]
fn a_change_of_a_table_that_is_not_captured_counts_and_is_not_emitted() {
    let mut session = session_at(10, None);
    let mut batch = fresh(&mut session);
    session.define(OTHER, relation(), false);
    session.define(TABLE, relation(), true);
    let other = Writer::default().tag(b'I').u32(OTHER).tag(b'N').tuple(&[Written::Text("0".to_owned())]).0;
    play(&mut session, &[begin(100, 1), (Lsn(40), other), insert(40, 1)], &mut batch).expect("play");
    assert_eq!(rows(&batch), [("1".to_owned(), Mark { commit: 100, change: 40, n: 1 })]);
}

#[test]
fn an_unchanged_relation_keeps_its_version_and_a_changed_one_gets_a_new_one() {
    let mut session = session_at(10, None);
    session.define(TABLE, relation(), true);
    let version = session.relations[&TABLE].relation.version;
    session.define(TABLE, relation(), true);
    assert_eq!(session.relations[&TABLE].relation.version, version);
    let mut wider = relation();
    wider.columns.push(Column::new("b", Kind::Text, true));
    session.define(TABLE, wider, true);
    assert_ne!(session.relations[&TABLE].relation.version, version);
}

#[test]
fn a_batch_names_its_relations_and_transactions_anew() {
    let mut session = session_at(10, None);
    let mut first = fresh(&mut session);
    play(&mut session, &log()[..3], &mut first).expect("play");
    let mut second = fresh(&mut session);
    play(&mut session, &log()[3..6], &mut second).expect("play");
    assert_eq!((second.relations.len(), second.transactions.len()), (1, 1));
    assert_eq!(second.transactions[0].id, 1);
}

#[test]
fn a_transaction_that_holds_nothing_captured_does_not_keep_the_ones_before_it_from_being_whole() {
    let mut session = session_at(10, None);
    let mut batch = fresh(&mut session);
    play(&mut session, &log()[..5], &mut batch).expect("play");
    session.define(OTHER, relation(), false);
    let other = Writer::default().tag(b'I').u32(OTHER).tag(b'N').tuple(&[Written::Text("0".to_owned())]).0;
    play(&mut session, &[begin(400, 9), (Lsn(300), other)], &mut batch).expect("play");
    assert!(session.is_whole());
    assert_eq!((session.position().end_lsn, session.position().open), (Lsn(110), None));

    session.advance(Lsn(500)).expect("advance");
    assert_eq!(session.end_lsn(), Lsn(110), "a keepalive inside a transaction moves nothing");
    play(&mut session, &[insert(310, 1)], &mut batch).expect("play");
    assert!(!session.is_whole());
}

#[test]
fn a_message_outside_any_transaction_is_an_event_once_and_never_a_row() {
    let pattern = |text: &str| millrace_core::pattern::Pattern::parse(text).expect("a pattern");
    let prefixes = Prefixes { wanted: vec![pattern("/.*/")], unwanted: vec![pattern("quiet")] };
    let origin = Origin { version: "1".into(), name: "shop".into(), database: "db".into() };
    let messages = Messages::new(&["row".to_owned()], &prefixes, &origin);
    let said = |lsn: u64, prefix: &str| {
        let writer = Writer::default().tag(b'M').tag(0).u64(lsn).string(prefix).u32(1);
        (Lsn(lsn), writer.tag(b'x').0)
    };
    let log: Vec<Logged> = ["loud", "quiet", "millrace", "millrace.chunk", "row"]
        .into_iter()
        .zip(20..)
        .map(|(p, n)| said(n, p))
        .collect();
    let mut session = Session::new(Streamed::starting_at("1", 1, "s", Lsn(10)), messages.clone(), None);
    let mut batch = fresh(&mut session);
    play(&mut session, &log, &mut batch).expect("play");
    let expected = |lsn: u64| Mark { commit: lsn - 1, change: lsn, n: 0 };
    assert_eq!(rows(&batch), [("loud".to_owned(), expected(20)), ("row".to_owned(), expected(24))]);
    assert!(session.is_whole() && session.end_lsn() == Lsn(24));

    let mut again = Session::new(session.position(), messages, None);
    let mut batch = fresh(&mut again);
    play(&mut again, &log, &mut batch).expect("play");
    assert_eq!(rows(&batch), []);
}

#[test]
fn what_was_committed_before_the_chosen_time_is_passed_over_and_a_clock_set_back_hides_nothing_later() {
    let of_2000 = 946_684_800_000_000;
    let log = [
        described(),
        begin_at(100, 1, 5),
        insert(90, 1),
        commit(100, 110),
        message(115, false),
        begin_at(200, 2, 10),
        insert(190, 2),
        commit(200, 210),
        begin_at(300, 3, 7),
        insert(290, 3),
        commit(300, 310),
    ];
    // Wherever it is begun again.
    for cut in [0, 4, 5, 8, 11] {
        let since_us = Some(of_2000 + 10);
        let mut first = Session::new(
            Streamed { since_us, ..Streamed::starting_at("1", 1, "s", Lsn(1)) },
            Messages::default(),
            None,
        );
        let mut batch = fresh(&mut first);
        play(&mut first, &log[..cut], &mut batch).expect("play");
        let mut found: Vec<String> = rows(&batch).into_iter().map(|(id, _)| id).collect();
        let position = first.position();
        assert_eq!(position.since_us.is_some(), cut <= 5, "{cut}");
        let mut second = Session::new(position, Messages::default(), None);
        let mut batch = fresh(&mut second);
        play(&mut second, &log, &mut batch).expect("play again");
        found.extend(rows(&batch).into_iter().map(|(id, _)| id));
        assert_eq!(found, ["2", "3"], "{cut}");
    }
}

#[test]
fn a_transaction_has_its_replication_origin_in_each_batch_and_the_next_one_has_none() {
    let mut session = session_at(0, None);
    let mut first = fresh(&mut session);
    let origin = (Lsn(0), Writer::default().tag(b'O').u64(77).string("dc1").0);
    play(&mut session, &[described(), begin(100, 1), origin, insert(40, 1)], &mut first).unwrap();
    let mut next = fresh(&mut session);
    let rest =
        [insert(60, 2), commit(100, 110), begin(200, 2), insert(150, 3), insert(160, 4), commit(200, 210)];
    play(&mut session, &rest, &mut next).unwrap();
    let origins = |batch: &ChangeBatch| -> Vec<Option<(String, u64)>> {
        let origins = batch.transactions.iter().map(|transaction| transaction.origin);
        let name = |cell| String::from_utf8_lossy(batch.text(cell)).into_owned();
        origins.map(|origin| origin.map(|origin| (name(origin.name), origin.commit))).collect()
    };
    let expected = Some(("dc1".to_owned(), 77));
    assert_eq!(origins(&first), std::slice::from_ref(&expected));
    assert_eq!(origins(&next), [expected, None]);
    assert_eq!(rows(&next).iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["2", "3", "4"]);
}

#[test]
fn a_new_label_has_its_table_described_again_and_one_that_stays_unknown_only_once() {
    let of = |labels: &[&str]| {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Relation { columns: vec![Column::new("id", Kind::Enum { labels }, false)], ..relation() }
    };
    let mut session = session_at(0, None);
    let mut batch = fresh(&mut session);
    let apply = |session: &mut Session, batch: &mut ChangeBatch, (lsn, data): Logged| {
        session.apply(&data, lsn, batch).unwrap()
    };
    let Step::Relation(message) = apply(&mut session, &mut batch, described()) else { panic!("no relation") };
    session.define(TABLE, of(&["1"]), true);
    apply(&mut session, &mut batch, begin(100, 1));
    assert_eq!(apply(&mut session, &mut batch, insert(40, 1)), Step::Quiet);
    assert_eq!(apply(&mut session, &mut batch, insert(50, 2)), Step::Outgrown(message.clone()));
    session.redefine((TABLE, of(&["1", "2"]), true), &mut batch).unwrap();
    // Renamed after it was written: the catalog does not have it.
    assert_eq!(apply(&mut session, &mut batch, insert(60, 3)), Step::Outgrown(message));
    session.redefine((TABLE, of(&["1", "2"]), true), &mut batch).unwrap();
    assert_eq!(apply(&mut session, &mut batch, insert(70, 3)), Step::Quiet);
    let relations: Vec<u32> = batch.changes.iter().map(|change| change.relation).collect();
    assert_eq!(relations, [0, 1, 1, 1]);
}
