//! What becomes of a chunk's documents under changes.

use super::*;
use crate::snapshot::id::from_text;

const C: ClusterTime = ClusterTime(10 << 32);
const LATER: ClusterTime = ClusterTime(11 << 32);

/// An id that is a 32-bit number.
fn id(number: u8) -> Id {
    from_text(&format!("1000{number:02x}000000")).unwrap()
}

fn tracker(listed: &[u8]) -> Tracker {
    let name = Name { database: "s".into(), collection: "a".into() };
    let note = CollectionNote::new(Phase::Reading);
    let listed = listed.iter().map(|number| id(*number)).collect();
    Tracker::new(vec![Unread { name, note, parts: IdPart::cut(&[]), listed }], Vec::new())
}

/// The last id of the chunk before this one, or where its part stands.
fn behind(tracker: &Tracker, id: u64) -> Option<Id> {
    let chunk = tracker.chunks.iter().find(|chunk| chunk.id == id)?;
    let before = tracker.chunks.iter().take_while(|before| before.id != id);
    let before = before.filter(|b| (b.collection, b.part) == (chunk.collection, chunk.part));
    let before = before.filter_map(|before| before.read.as_ref()?.ids.last().cloned()).last();
    before.or_else(|| tracker.collections[chunk.collection].parts[chunk.part].last.clone())
}

fn read(tracker: &mut Tracker, chunk: u64, numbers: &[u8], requested: Option<&[u8]>, until: ClusterTime) {
    let ids: Vec<Id> = numbers.iter().map(|number| id(*number)).collect();
    let rows = ChangeBatch { changes: vec![row(Row::default()); ids.len()], ..ChangeBatch::default() };
    let requested = requested.map(|numbers| numbers.iter().map(|number| id(*number)).collect());
    let ended = requested.is_none();
    let after = behind(tracker, chunk);
    tracker.read(Read { id: chunk, rows, ids, requested, after, ended, is_last_collection: true, until });
}

/// How many rows went out, what became of it, and what was noted.
fn placed(tracker: &mut Tracker) -> (usize, Outcome, Vec<String>) {
    let mut batch = ChangeBatch::default();
    let ready = tracker.take_ready(LATER).expect("its turn has come");
    let outcome = tracker.place(ready, LATER.0 + 1, 1, &mut batch);
    let mut notes = Vec::new();
    tracker.take_notes(&mut notes);
    let shown = |note: &Note| format!("{} {}", note.key, note.text.as_deref().unwrap_or("-"));
    (batch.changes.len(), outcome, notes.iter().map(shown).collect())
}

#[test]
fn a_chunk_waits_until_the_stream_has_passed_the_time_of_its_reading() {
    let mut tracker = tracker(&[]);
    let chunk = tracker.open((0, 0), C);
    assert!(!tracker.is_ready(LATER), "nothing was read");
    read(&mut tracker, chunk, &[1], None, LATER);
    assert!(!tracker.is_ready(ClusterTime(LATER.0 - 1)));
    assert!(tracker.is_ready(LATER));
}

#[test]
fn a_document_that_changed_after_the_reading_is_left_to_its_change() {
    let mut tracker = tracker(&[]);
    let chunk = tracker.open((0, 0), C);
    tracker.changed(0, C, &id(1), true);
    tracker.changed(0, LATER, &id(2), true);
    read(&mut tracker, chunk, &[1, 2, 3], None, LATER);
    let (rows, outcome, notes) = placed(&mut tracker);
    assert_eq!((rows, outcome.rows, outcome.done), (2, 2, true));
    assert_eq!(outcome.last, Some(id(3)));
    assert_eq!(notes, [r#"snapshot s.a {"state":"done","ended":false,"rows":2}"#]);
    assert_eq!(tracker.index_of(b"s", b"a"), None, "it is through");
}

#[test]
fn one_whose_change_left_something_out_is_read_again() {
    let mut tracker = tracker(&[]);
    let chunk = tracker.open((0, 0), C);
    tracker.changed(0, LATER, &id(2), false);
    tracker.changed(0, LATER, &id(9), false);
    read(&mut tracker, chunk, &[1, 2], None, LATER);
    let (rows, outcome, notes) = placed(&mut tracker);
    assert_eq!((rows, outcome.done, &outcome.listed), (1, false, &vec![id(2)]));
    assert_eq!(notes[0], "reread s.a 100002000000 {}");
    let again = tracker.open((0, 0), LATER);
    read(&mut tracker, again, &[2], Some(&[2]), LATER);
    let (rows, outcome, notes) = placed(&mut tracker);
    assert_eq!((rows, outcome.rows, outcome.done), (1, 2, true));
    assert_eq!(notes[0], "reread s.a 100002000000 -");
}

#[test]
fn one_that_comes_whole_or_is_deleted_is_not_read_again() {
    let mut tracker = tracker(&[1, 2]);
    tracker.changed(0, LATER, &id(1), true);
    tracker.changed(0, LATER, &id(2), false);
    let chunk = tracker.open((0, 0), C);
    tracker.changed(0, LATER, &id(3), false);
    tracker.changed(0, LATER, &id(3), true);
    read(&mut tracker, chunk, &[3], None, LATER);
    let (rows, outcome, notes) = placed(&mut tracker);
    assert_eq!((rows, outcome.listed), (0, vec![id(2)]));
    assert_eq!(notes[0], "reread s.a 100001000000 -");
}

#[test]
fn one_that_is_gone_when_it_is_read_again_is_whole() {
    let mut tracker = tracker(&[1]);
    let chunk = tracker.open((0, 0), C);
    read(&mut tracker, chunk, &[], None, LATER);
    assert!(!placed(&mut tracker).1.done);
    let again = tracker.open((0, 0), C);
    read(&mut tracker, again, &[], Some(&[1]), LATER);
    assert!(placed(&mut tracker).1.done);
}

#[test]
fn what_was_read_before_its_collection_was_dropped_is_gone() {
    let mut tracker = tracker(&[5]);
    let before = tracker.open((0, 0), C);
    tracker.dropped(0, LATER);
    let after = tracker.open((0, 0), LATER);
    read(&mut tracker, before, &[1, 2], None, LATER);
    read(&mut tracker, after, &[3], None, LATER);
    let (rows, outcome, notes) = placed(&mut tracker);
    assert_eq!((rows, outcome.done, outcome.listed.len()), (0, false, 0));
    assert_eq!(notes[0], "reread s.a 100005000000 -");
    assert_eq!(placed(&mut tracker).0, 1);
}

#[test]
fn a_chunk_under_which_too_much_changed_is_read_again_with_those_behind_it() {
    let mut tracker = tracker(&[]);
    let (first, second) = (tracker.open((0, 0), C), tracker.open((0, 0), C));
    let large: Id = vec![2; TOUCHED_BYTES_MAX].into();
    tracker.changed(0, LATER, &large, true);
    for chunk in [first, second] {
        // Whatever the stream has passed.
        read(&mut tracker, chunk, &[1], None, LATER);
        let ready = tracker.take_ready(C).unwrap();
        assert!(ready.is_spoiled());
        assert_eq!(tracker.spoiled(ready).last, None);
    }
    assert_eq!(tracker.touched_bytes, 0);
    let cancelled = tracker.open((0, 0), C);
    tracker.cancel(cancelled);
    assert!(!tracker.is_ready(LATER));
}

/// A collection that is read for a signal.
fn asked() -> Unread {
    let asked = Some(millrace_core::requests::Asked { id: "june".into(), ..Default::default() });
    let note = CollectionNote { asked, ..CollectionNote::new(Phase::Reading) };
    Unread {
        name: Name { database: "s".into(), collection: "a".into() },
        note,
        parts: IdPart::cut(&[]),
        listed: Vec::new(),
    }
}

#[test]
fn a_request_waits_for_the_reading_before_it_and_has_a_word_and_a_note_of_its_own() {
    let mut tracker = tracker(&[]);
    let version = tracker.version();
    tracker.add(vec![asked()]);
    assert!(tracker.has_notes() && tracker.version() > version);
    assert_eq!(tracker.index_of(b"s", b"a"), Some(0));
    let chunk = tracker.open((0, 0), C);
    read(&mut tracker, chunk, &[1], None, LATER);
    assert!(placed(&mut tracker).1.done);
    assert_eq!(tracker.index_of(b"s", b"a"), Some(1));
    let chunk = tracker.open((1, 0), C);
    read(&mut tracker, chunk, &[1, 2], None, LATER);
    let mut batch = ChangeBatch::default();
    let ready = tracker.take_ready(LATER).unwrap();
    assert!(tracker.place(ready, LATER.0 + 1, 2, &mut batch).done);
    let word = |change: &Change| batch.transactions[change.transaction as usize].snapshot;
    assert!(batch.changes.len() == 2 && batch.changes.iter().all(|c| word(c) == SnapshotMark::Incremental));
    let mut notes = Vec::new();
    tracker.take_notes(&mut notes);
    assert_eq!((&*notes[0].key, &notes[0].text), (r#"asked ["s.a","june"]"#, &None), "it is through");
}

#[test]
fn what_is_no_longer_wanted_is_forgotten_and_its_open_chunks_come_to_nothing() {
    let mut tracker = tracker(&[]);
    let first = tracker.open((0, 0), C);
    read(&mut tracker, first, &[1], None, LATER);
    placed(&mut tracker);
    tracker.add(vec![asked()]);
    let chunk = tracker.open((1, 0), C);
    read(&mut tracker, chunk, &[1], None, LATER);
    tracker.drop_collection(1);
    assert!(tracker.take_ready(C).is_some_and(|ready| ready.is_spoiled()));
    assert_eq!(tracker.index_of(b"s", b"a"), None);
    let mut notes = Vec::new();
    tracker.take_notes(&mut notes);
    assert!(notes.last().is_some_and(|note| note.key.starts_with("asked ") && note.text.is_none()));
}

#[test]
fn a_chunk_that_is_slow_holds_up_none_of_another_collection_or_part() {
    let mut tracker = tracker(&[]);
    let other = Name { database: "s".into(), collection: "b".into() };
    tracker.add(vec![Unread { name: other, ..asked() }]);
    tracker.cut(0, IdPart::cut(&[id(5)]));
    let [slow, behind] = [tracker.open((0, 0), C), tracker.open((0, 0), C)];
    let [part, other] = [tracker.open((0, 1), C), tracker.open((1, 0), C)];
    for chunk in [part, other] {
        read(&mut tracker, chunk, &[7], None, LATER);
        assert_eq!(tracker.take_ready(LATER).map(|ready| ready.chunk.id), Some(chunk));
    }
    read(&mut tracker, behind, &[2], None, LATER);
    assert!(!tracker.is_ready(LATER), "it would come before the one before it");
    read(&mut tracker, slow, &[1], None, LATER);
    assert_eq!(tracker.take_ready(LATER).map(|ready| ready.chunk.id), Some(slow));
}

#[test]
fn a_collection_is_through_when_its_last_part_is_and_whoever_ends_that_learns_it() {
    let mut tracker = tracker(&[]);
    tracker.cut(0, IdPart::cut(&[id(5)]));
    let [first, second] = [tracker.open((0, 0), C), tracker.open((0, 1), C)];
    tracker.changed(0, LATER, &id(6), false);
    read(&mut tracker, second, &[6, 7], None, LATER);
    let (rows, outcome, notes) = placed(&mut tracker);
    assert_eq!((rows, outcome.ended, outcome.whole, outcome.done), (1, true, false, false));
    let parts = r#""parts":[{"until":"100005000000","ended":false},{"last":"100007000000","ended":true}]"#;
    assert_eq!(notes[1], format!(r#"snapshot s.a {{"state":"reading","ended":false,{parts},"rows":1}}"#));
    read(&mut tracker, first, &[1], None, LATER);
    let (_, outcome, _) = placed(&mut tracker);
    assert_eq!((outcome.whole, outcome.done, &outcome.listed), (true, false, &vec![id(6)]));
    let again = tracker.open((0, 0), C);
    read(&mut tracker, again, &[6], Some(&[6]), LATER);
    assert!(placed(&mut tracker).1.done);
}

#[test]
fn a_chunk_that_was_begun_behind_one_that_came_to_nothing_comes_to_nothing_too() {
    let mut tracker = tracker(&[]);
    let first = tracker.open((0, 0), C);
    let large: Id = vec![2; TOUCHED_BYTES_MAX].into();
    tracker.changed(0, LATER, &large, true);
    read(&mut tracker, first, &[1], None, LATER);
    assert!(tracker.take_ready(LATER).is_some_and(|ready| ready.is_spoiled()));
    // Its reader has not heard of it yet, and goes on behind it.
    let second = tracker.open((0, 0), LATER);
    read(&mut tracker, second, &[2], None, LATER);
    tracker.chunks[0].read.as_mut().unwrap().after = Some(id(1));
    let ready = tracker.take_ready(LATER).unwrap();
    assert!(ready.is_spoiled(), "its documents would stand in place of those before them");
    assert_eq!(tracker.spoiled(ready).last, None);
}

#[test]
fn a_chunk_of_a_reading_that_was_given_up_meanwhile_comes_to_nothing() {
    let mut tracker = Tracker::new(vec![asked()], Vec::new());
    tracker.drop_collection(0);
    let late = tracker.open((0, 0), C);
    read(&mut tracker, late, &[1], None, LATER);
    assert!(tracker.take_ready(LATER).is_some_and(|ready| ready.is_spoiled()));
}
