//! Events in, changes and positions out.

use super::*;
use crate::config::Raw;
use millrace_core::batch::{Name, Value as Seen};
use mongodb::bson::{DateTime, RawDocumentBuf, Timestamp, doc};
use proptest::prelude::*;

fn settings(toml: &str) -> Arc<Settings> {
    let raw: Raw =
        toml::from_str(&format!("url = 'mongodb://db'\ncollections = ['shop.*']\n{toml}")).unwrap();
    Arc::new(Settings::resolve(raw, "orders").unwrap())
}

fn session_with(toml: &str) -> Session {
    let origin = Origin { version: "1".into(), name: "shop".into() };
    let from = Streamed::starting_at("rs0", "deployment", "x", None, ClusterTime(1 << 32));
    let mut session = Session::new(settings(toml), origin, from, Tracker::new(Vec::new(), Vec::new()));
    session.begin_batch();
    session
}

fn session() -> Session {
    session_with("")
}

/// A token of this second; `n` tells two of the same time apart.
fn token(second: u32, n: u32) -> RawDocumentBuf {
    rawdoc! { "_data": format!("82{second:08X}00000001{n:08X}") }
}

fn raw(document: &mongodb::bson::Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap()
}

/// An insert at a second, in a transaction where a number is given.
fn insert(second: u32, n: u32, transaction: Option<i64>) -> RawDocumentBuf {
    let id = format!("{second}/{n}");
    let mut event = doc! {
        "_id": { "_data": format!("82{second:08X}00000001{n:08X}") },
        "operationType": "insert",
        "clusterTime": Timestamp { time: second, increment: 1 },
        "wallTime": DateTime::from_millis(i64::from(second) * 1000 + 7),
        "fullDocument": { "_id": &id },
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": &id },
    };
    if let Some(number) = transaction {
        event.insert("lsid", doc! { "id": "s" });
        event.insert("txnNumber", number);
    }
    raw(&event)
}

fn apply(session: &mut Session, event: &RawDocumentBuf, batch: &mut ChangeBatch) -> Result<()> {
    session.apply(Doc::new(event.as_bytes()).unwrap(), batch)
}

fn ended(session: &mut Session, token: &RawDocumentBuf, drained: bool) {
    session.reply_ended(Some(Doc::new(token.as_bytes()).unwrap()), drained).unwrap();
}

fn cell(batch: &ChangeBatch, nth: usize, index: usize) -> Option<String> {
    match batch.value(batch.cells_of(batch.changes[nth].after)[index]) {
        Seen::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
        Seen::Null | Seen::Unchanged => None,
    }
}

#[test]
fn an_event_outside_of_a_transaction_is_whole_by_itself() {
    let (mut session, mut batch) = (session(), ChangeBatch::default());
    apply(&mut session, &insert(5, 0, None), &mut batch).unwrap();
    assert!(session.is_whole());
    let position = session.position().unwrap();
    assert_eq!(position.resume_token.unwrap().to_string(), "82000000050000000100000000");
    assert_eq!((position.cluster_time.to_string().as_str(), position.open), ("5.1", false));
    assert_eq!(cell(&batch, 0, document::ID).as_deref(), Some("\"5/0\""));
    assert_eq!(cell(&batch, 0, document::AFTER).as_deref(), Some("{\"_id\": \"5/0\"}"));
    assert_eq!(cell(&batch, 0, document::WALL_MS).as_deref(), Some("5007"));
    assert_eq!(batch.transactions[0].commit_ts_us, 5_007_000);
}

#[test]
fn a_transaction_is_whole_with_the_next_one_with_a_later_place_or_with_an_empty_reply() {
    let part = |session: &mut Session| {
        let mut batch = ChangeBatch::default();
        for n in 0..2 {
            apply(session, &insert(5, n, Some(1)), &mut batch).unwrap();
        }
        assert!(!session.is_whole());
    };
    let mut by_next = session();
    part(&mut by_next);
    let fit = |session: &mut Session, event: &RawDocumentBuf| {
        session.fit(Doc::new(event.as_bytes()).unwrap()).unwrap()
    };
    assert_eq!(fit(&mut by_next, &insert(5, 2, Some(1))), Fit::Inside);
    assert_eq!(fit(&mut by_next, &insert(6, 0, Some(2))), Fit::Apart);
    assert!(by_next.is_whole());

    let mut by_place = session();
    part(&mut by_place);
    ended(&mut by_place, &token(5, 9), false);
    assert!(!by_place.is_whole());
    ended(&mut by_place, &token(6, 0), false);
    assert!(by_place.is_whole());

    let mut by_silence = session();
    part(&mut by_silence);
    ended(&mut by_silence, &token(5, 9), true);
    assert!(by_silence.is_whole());
}

#[test]
fn a_position_inside_a_transaction_is_that_of_its_last_event() {
    let (mut session, mut batch) = (session(), ChangeBatch::default());
    for n in 0..3 {
        apply(&mut session, &insert(5, n, Some(1)), &mut batch).unwrap();
    }
    let position = session.position().unwrap();
    assert!(position.open);
    assert_eq!(
        (position.event_n, position.resume_token.unwrap().to_string()),
        (2, "82000000050000000100000002".into())
    );
    assert_eq!((batch.transactions.len(), batch.transactions[0].id), (1, 1));
}

#[test]
fn events_of_one_cluster_time_are_numbered_on_after_a_restart() {
    let (mut first, mut batch) = (session(), ChangeBatch::default());
    apply(&mut first, &insert(5, 0, Some(1)), &mut batch).unwrap();
    let position = first.position().unwrap();
    let origin = Origin { version: "1".into(), name: "shop".into() };
    let mut second = Session::new(settings(""), origin, position, Tracker::new(Vec::new(), Vec::new()));
    second.begin_batch();
    let mut batch = ChangeBatch::default();
    for n in 1..3 {
        apply(&mut second, &insert(5, n, Some(1)), &mut batch).unwrap();
    }
    assert_eq!(batch.changes.iter().map(|change| change.mark.n).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn the_fragments_of_an_event_count_with_the_last_one() {
    let (mut session, mut batch) = (session(), ChangeBatch::default());
    apply(&mut session, &insert(5, 0, None), &mut batch).unwrap();
    let whole = insert(6, 0, None);
    let whole = mongodb::bson::Document::try_from(whole.as_ref()).unwrap();
    for number in 1..=3 {
        let mut part = doc! {
            "_id": { "_data": format!("820000000600000001{number:08X}") },
            "splitEvent": { "fragment": number, "of": 3 },
        };
        let fields: &[&str] = match number {
            1 => &["operationType", "clusterTime", "wallTime", "ns"],
            2 => &["documentKey"],
            _ => &["fullDocument"],
        };
        part.extend(fields.iter().map(|name| ((*name).to_owned(), whole.get(*name).unwrap().clone())));
        apply(&mut session, &raw(&part), &mut batch).unwrap();
        assert_eq!(session.has_position(), number == 3, "{number}");
        assert_eq!(session.is_whole(), number == 3, "{number}");
    }
    assert_eq!(batch.changes.len(), 2);
    assert_eq!(cell(&batch, 1, document::AFTER).as_deref(), Some("{\"_id\": \"6/0\"}"));
    assert_eq!(session.position().unwrap().resume_token.unwrap().to_string(), "82000000060000000100000003");
}

#[test]
fn an_update_is_described_with_what_it_set_removed_and_cut() {
    let (mut session, mut batch) =
        (session_with("exclude_fields = ['shop.orders.pin']"), ChangeBatch::default());
    let event = raw(&doc! {
        "_id": { "_data": "820000000500000001" },
        "operationType": "update",
        "clusterTime": Timestamp { time: 5, increment: 1 },
        "ns": { "db": "shop", "coll": "orders" },
        "documentKey": { "_id": 1 },
        "fullDocument": null,
        "updateDescription": {
            "updatedFields": { "a": 1, "pin": 2, "b.c": "x" },
            "removedFields": ["d\"e", "pin"],
            "truncatedArrays": [{ "field": "f", "newSize": 3 }],
        },
    });
    apply(&mut session, &event, &mut batch).unwrap();
    assert_eq!(cell(&batch, 0, document::UPDATED).as_deref(), Some(r#"{"a": 1, "b.c": "x"}"#));
    assert_eq!(cell(&batch, 0, document::REMOVED).as_deref(), Some(r#"{"d\"e"}"#));
    assert_eq!(cell(&batch, 0, document::TRUNCATED).as_deref(), Some(r#"{"f","3"}"#));
    assert_eq!(cell(&batch, 0, document::IMAGE).as_deref(), Some("none"));
    assert_eq!(cell(&batch, 0, document::AFTER), None);
}

#[test]
fn a_drop_is_a_change_of_its_collection_and_an_invalidation_only_a_place() {
    let (mut session, mut batch) = (session(), ChangeBatch::default());
    let drop = raw(&doc! {
        "_id": { "_data": "820000000500000001" },
        "operationType": "drop",
        "clusterTime": Timestamp { time: 5, increment: 1 },
        "ns": { "db": "shop", "coll": "orders" },
    });
    let invalidate = raw(&doc! {
        "_id": { "_data": "820000000600000001" },
        "operationType": "invalidate",
        "clusterTime": Timestamp { time: 6, increment: 1 },
    });
    apply(&mut session, &drop, &mut batch).unwrap();
    apply(&mut session, &invalidate, &mut batch).unwrap();
    assert_eq!(batch.changes.len(), 1);
    assert_eq!(batch.changes[0].op, Op::Truncate);
    assert_eq!(cell(&batch, 0, document::OPERATION).as_deref(), Some(r#"{"operationType":"drop"}"#));
    assert_eq!(session.position().unwrap().cluster_time.to_string(), "6.1");
}

#[test]
fn a_collection_that_is_not_captured_moves_the_position_and_nothing_else() {
    let (mut session, mut batch) =
        (session_with("exclude_collections = ['shop.orders']"), ChangeBatch::default());
    apply(&mut session, &insert(5, 0, None), &mut batch).unwrap();
    assert!(batch.changes.is_empty());
    assert_eq!(session.position().unwrap().cluster_time.to_string(), "5.1");
}

#[test]
fn an_event_without_what_it_needs_is_fatal_and_takes_nothing() {
    let (mut session, mut batch) = (session(), ChangeBatch::default());
    let event = rawdoc! { "_id": { "_data": "82" }, "operationType": "insert" };
    let error = apply(&mut session, &event, &mut batch).unwrap_err();
    assert_eq!(error.kind(), millrace_core::error::Kind::Fatal);
    assert!(batch.changes.is_empty());
}

proptest! {
    /// Wherever replies and batches end, the changes, their marks and their order are the same.
    #[test]
    fn replies_may_end_anywhere(sizes in proptest::collection::vec(1_u32..4, 1..12), ends in any::<u64>()) {
        let mut events = Vec::new();
        for (nth, size) in (0_u32..).zip(&sizes) {
            let transaction = (*size > 1).then(|| i64::from(nth));
            events.extend((0..*size).map(|n| (10 + nth, insert(10 + nth, n, transaction))));
        }
        let run = |ends: u64| {
            let (mut session, mut batches) = (session(), vec![ChangeBatch::default()]);
            for (at, (second, event)) in events.iter().enumerate() {
                if ends >> (at % 64) & 1 == 1 {
                    batches.push(ChangeBatch::default());
                    session.begin_batch();
                }
                apply(&mut session, event, batches.last_mut().unwrap()).unwrap();
                if ends >> ((at + 7) % 64) & 1 == 1 {
                    ended(&mut session, &token(*second, 99), false);
                }
            }
            let marks = batches.iter().flat_map(|batch| &batch.changes).map(|change| change.mark);
            let ids = batches.iter().flat_map(|batch| {
                (0..batch.changes.len()).map(|nth| cell(batch, nth, document::ID).unwrap())
            });
            (marks.collect::<Vec<_>>(), ids.collect::<Vec<_>>())
        };
        let (marks, ids) = run(ends);
        prop_assert_eq!((marks.clone(), ids), run(0));
        prop_assert!(marks.is_sorted());
    }
}

/// Begin, end and what was delivered before, of each transaction of a batch, and the text of its name.
fn parts(batch: &ChangeBatch) -> Vec<(bool, bool, Option<u32>, String)> {
    let of = |part: &Part| {
        let name = match part.name {
            Name::Text(cell) => String::from_utf8(batch.text(cell).to_vec()).unwrap(),
            Name::None | Name::Number { .. } => String::new(),
        };
        (part.begin.is_some(), part.end.is_some(), part.delivered.map(|mark| mark.n), name)
    };
    batch.transactions.iter().map(|transaction| of(&transaction.part)).collect()
}

const NAME: &str = r#"{"id": "s"}:1"#;

#[test]
fn a_transaction_is_named_and_begins_and_ends_once_over_many_batches() {
    let mut session = session();
    let mut first = ChangeBatch::default();
    apply(&mut session, &insert(5, 0, Some(1)), &mut first).unwrap();
    assert_eq!(parts(&first), [(true, false, None, NAME.into())]);
    session.begin_batch();
    let mut second = ChangeBatch::default();
    apply(&mut session, &insert(5, 1, Some(1)), &mut second).unwrap();
    apply(&mut session, &insert(6, 0, None), &mut second).unwrap();
    let outside = (false, false, None, String::new());
    assert_eq!(parts(&second), [(false, true, None, NAME.into()), outside]);

    apply(&mut session, &insert(7, 0, Some(1)), &mut second).unwrap();
    session.begin_batch();
    let mut third = ChangeBatch::default();
    assert!(!session.has_end());
    ended(&mut session, &token(7, 9), true);
    assert!(session.has_end());
    session.tell_end(&mut third).unwrap();
    assert_eq!((parts(&third), third.changes.len()), (vec![(false, true, None, NAME.into())], 0));
    assert!(!session.has_end());
}

#[test]
fn a_cut_transaction_is_read_again_from_its_begin_and_what_was_delivered_is_known() {
    let mut first = session();
    let mut batch = ChangeBatch::default();
    apply(&mut first, &insert(4, 0, None), &mut batch).unwrap();
    for n in 0..3 {
        apply(&mut first, &insert(5, n, Some(1)), &mut batch).unwrap();
    }
    let position = first.position().unwrap();
    let begun = position.begun.clone().unwrap();
    assert_eq!(begun.resume_token.unwrap().to_string(), "82000000040000000100000000");
    let stored = crate::position::Stored::parse(&position.to_position()).unwrap();
    assert_eq!(stored, crate::position::Stored::Streamed(Box::new(position.clone())));

    let origin = Origin { version: "1".into(), name: "shop".into() };
    let mut second =
        Session::new(settings(""), origin, position.clone(), Tracker::new(Vec::new(), Vec::new()));
    assert!(!second.is_whole(), "nothing may be placed inside the transaction");
    second.begin_batch();
    let mut batch = ChangeBatch::default();
    ended(&mut second, &token(4, 5), true);
    for n in 0..2 {
        apply(&mut second, &insert(5, n, Some(1)), &mut batch).unwrap();
    }
    assert_eq!(second.position().unwrap(), position, "it stays while events come again");
    for n in 2..5 {
        apply(&mut second, &insert(5, n, Some(1)), &mut batch).unwrap();
    }
    assert_eq!(parts(&batch), [(false, false, Some(2), NAME.into())]);
    assert_eq!(batch.changes.iter().map(|change| change.mark.n).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let on = second.position().unwrap();
    assert_eq!((on.event_n, on.begun), (4, position.begun));
    ended(&mut second, &token(6, 0), false);
    second.tell_end(&mut batch).unwrap();
    assert_eq!(parts(&batch), [(false, true, Some(2), NAME.into())]);
    assert!(second.is_whole() && second.position().unwrap().begun.is_none());
}

#[test]
fn an_end_that_was_not_told_before_a_crash_is_told_after_it() {
    let (mut first, mut batch) = (session(), ChangeBatch::default());
    apply(&mut first, &insert(5, 0, Some(1)), &mut batch).unwrap();
    let position = first.position().unwrap();
    let origin = Origin { version: "1".into(), name: "shop".into() };
    let mut second = Session::new(settings(""), origin, position, Tracker::new(Vec::new(), Vec::new()));
    second.begin_batch();
    let mut batch = ChangeBatch::default();
    apply(&mut second, &insert(5, 0, Some(1)), &mut batch).unwrap();
    ended(&mut second, &token(5, 0), true);
    second.tell_end(&mut batch).unwrap();
    assert_eq!(parts(&batch), [(false, true, Some(0), NAME.into())]);
    assert!(second.is_whole());
}

fn session_at(position: Streamed) -> Session {
    let origin = Origin { version: "1".into(), name: "shop".into() };
    let mut session = Session::new(settings(""), origin, position, Tracker::new(Vec::new(), Vec::new()));
    session.begin_batch();
    session
}

#[test]
fn nothing_from_a_server_that_may_not_know_what_is_committed_ends_no_transaction() {
    let (mut session, mut batch) = (session(), ChangeBatch::default());
    for n in 0..2 {
        apply(&mut session, &insert(5, n, Some(1)), &mut batch).unwrap();
    }
    ended(&mut session, &token(5, 1), false);
    assert!(!session.is_whole() && !session.has_end());
    let seen = session.seen();
    apply(&mut session, &insert(5, 2, Some(1)), &mut batch).unwrap();
    ended(&mut session, &token(5, 2), true);
    assert!(session.is_whole());
    assert_eq!((batch.transactions.len(), seen.to_string().as_str()), (1, "5.1"));
}

#[test]
fn an_answer_inside_a_transaction_that_comes_again_never_moves_the_position_back() {
    let (mut first, mut batch) = (session(), ChangeBatch::default());
    for n in 0..4 {
        apply(&mut first, &insert(5, n, Some(1)), &mut batch).unwrap();
    }
    let cut = first.position().unwrap();
    for drained in [false, true] {
        let (mut second, mut batch) = (session_at(cut.clone()), ChangeBatch::default());
        for n in 0..2 {
            apply(&mut second, &insert(5, n, Some(1)), &mut batch).unwrap();
        }
        ended(&mut second, &token(5, 1), drained);
        assert_eq!(second.is_whole(), drained, "a server that knows it all has no more of it");
        assert_eq!(second.position().unwrap().resume_token, cut.resume_token);
        if !drained {
            assert_eq!(second.position().unwrap(), cut);
            for n in 2..5 {
                apply(&mut second, &insert(5, n, Some(1)), &mut batch).unwrap();
            }
            assert_eq!(parts(&batch), [(false, false, Some(3), NAME.into())]);
        }
    }
}

#[test]
fn a_transaction_before_the_one_that_was_cut_does_not_end_the_coming_again() {
    let (mut first, mut batch) = (session(), ChangeBatch::default());
    for n in 0..3 {
        apply(&mut first, &insert(5, n, Some(2)), &mut batch).unwrap();
    }
    let cut = first.position().unwrap();
    // Of a collection that has joined since.
    let (mut second, mut batch) = (session_at(cut.clone()), ChangeBatch::default());
    apply(&mut second, &insert(4, 0, Some(1)), &mut batch).unwrap();
    ended(&mut second, &token(4, 7), true);
    ended(&mut second, &token(5, 0), false);
    assert_eq!(second.position().unwrap(), cut);
    for n in 0..3 {
        apply(&mut second, &insert(5, n, Some(2)), &mut batch).unwrap();
    }
    assert_eq!(second.position().unwrap(), cut, "they were delivered");
}

#[test]
fn documents_are_read_as_of_a_time_that_the_server_has() {
    // The place of a stream that begins now is a step beyond the newest entry.
    assert_eq!(session().seen().to_string(), "0.4294967295");
    let (mut session, mut batch) = (session(), ChangeBatch::default());
    ended(&mut session, &token(5, 0), false);
    assert_eq!(session.seen().to_string(), "5.0", "events of that time may still come");
    apply(&mut session, &insert(5, 1, None), &mut batch).unwrap();
    assert_eq!(session.seen().to_string(), "5.1", "and then that time holds them");
    ended(&mut session, &token(6, 0), true);
    assert_eq!(session.seen().to_string(), "6.1");
}
