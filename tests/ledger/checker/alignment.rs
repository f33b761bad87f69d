//! Each event to its journal row: nothing lost, nothing extra, each once, in order, and equal.

use std::collections::{HashMap, HashSet};

use super::expectation::{Expectation, Expected, Key, Part};
use super::{Evidence, Findings};
use crate::events::{Body, Cell, Change, Event, Op, Position};
use crate::journal::Entry;
use crate::tables::{Form, TABLES};

/// For each event what it was expected as; `None` for a phantom.
pub type Aligned = Vec<Option<Expected>>;

/// One key's events on their way through its expectations.
struct Lane<'a, 'e> {
    expected: &'a [Expected],
    /// How often each expectation was met by its change, and by a snapshot's row.
    changes: Vec<u32>,
    reads: Vec<u32>,
    /// The furthest expectation met so far.
    furthest: Option<usize>,
    /// The event before, while it is a delete whose tombstone has not come.
    open_delete: Option<(usize, Option<Position>)>,
    deletes_seen: HashSet<Position>,
    first: &'e Event,
}

pub fn align(evidence: &Evidence<'_>, expectation: &Expectation<'_>, findings: &mut Findings) -> Aligned {
    let mut lanes: HashMap<Key<'_>, Lane<'_, '_>> = HashMap::new();
    let mut aligned = Vec::with_capacity(evidence.events.len());
    for event in evidence.events {
        let key = (event.table, &*event.key);
        let lane = lanes.entry(key).or_insert_with(|| {
            let expected = expectation.keys.get(&key).map_or(&[][..], Vec::as_slice);
            Lane::new(expected, event)
        });
        if lane.first.place.partition != event.place.partition {
            findings.counts.reordered += 1;
            findings.note("reordered", Some(&event.place), || {
                format!("key {} lies also in {}", event.key, lane.first.place)
            });
        }
        aligned.push(lane.meet(event, expectation, findings));
    }
    for (key, expected) in &expectation.keys {
        let lane = lanes.get(key);
        for (index, item) in expected.iter().enumerate() {
            if !lane.is_some_and(|lane| lane.met(index, expectation)) && is_due(expected, index, expectation)
            {
                lost(key, *item, expectation, findings);
            }
        }
    }
    findings.seen.keys = u64::try_from(expectation.keys.len()).unwrap_or(u64::MAX);
    aligned
}

/// What the first snapshot saw comes as the row that it left, unless something came of it afterwards.
fn is_due(expected: &[Expected], index: usize, expectation: &Expectation<'_>) -> bool {
    let item = expected[index];
    let entry = expectation.entry(item);
    let is_row = matches!(item.part, Part::Create | Part::Update);
    let is_truncated = expectation.truncated.get(&entry.table).is_some_and(|last| *last > entry.seq);
    expectation.is_emitted(item) || (is_row && index + 1 == expected.len() && !is_truncated)
}

fn lost(key: &Key<'_>, item: Expected, expectation: &Expectation<'_>, findings: &mut Findings) {
    findings.counts.lost += 1;
    let entry = expectation.entry(item);
    findings.note("lost", None, || {
        let table = TABLES[key.0].name;
        format!("{table} key {}: {:?} of seq {} in transaction {}", key.1, item.part, entry.seq, entry.xid)
    });
}

impl<'a, 'e> Lane<'a, 'e> {
    fn new(expected: &'a [Expected], first: &'e Event) -> Self {
        Lane {
            expected,
            changes: vec![0; expected.len()],
            reads: vec![0; expected.len()],
            furthest: None,
            open_delete: None,
            deletes_seen: HashSet::new(),
            first,
        }
    }

    /// A row does not stand for a change.
    fn met(&self, index: usize, ex: &Expectation<'_>) -> bool {
        let hits = if ex.is_emitted(self.expected[index]) { &self.changes } else { &self.reads };
        hits[index] > 0
    }

    /// Whether a change may come as itself, and a row as this change left it: it has to be the last one that
    /// the first snapshot saw, or one after that.
    fn may_come(&self, index: usize, read: bool, ex: &Expectation<'_>) -> bool {
        let is_emitted = ex.is_emitted(self.expected[index]);
        match read {
            false => is_emitted,
            true => is_emitted || self.expected.get(index + 1).is_none_or(|next| ex.is_emitted(*next)),
        }
    }

    fn meet(&mut self, event: &Event, ex: &Expectation<'_>, findings: &mut Findings) -> Option<Expected> {
        let found = match &event.body {
            Body::Tombstone => self.tombstone(event),
            Body::Change(change) if change.op == Op::Delete => self.delete(event, change, ex),
            Body::Change(change) => self.row(change, ex),
        };
        self.open_delete = match (&event.body, found) {
            (Body::Change(change), Some(index)) if change.op == Op::Delete => Some((index, event.position)),
            _ => None,
        };
        let read = event.change().is_some_and(|change| change.op == Op::Read);
        findings.seen.rows += u64::from(read);
        let Some(index) = found.filter(|index| self.may_come(*index, read, ex)) else {
            findings.counts.phantom += 1;
            findings.note("phantom", Some(&event.place), || phantom_text(event, ex));
            return None;
        };
        self.count(index, event, findings);
        let item = self.expected[index];
        compare(event, item, ex, findings);
        Some(item)
    }

    fn count(&mut self, index: usize, event: &Event, findings: &mut Findings) {
        let read = event.change().is_some_and(|change| change.op == Op::Read);
        let hits = if read { &mut self.reads[index] } else { &mut self.changes[index] };
        *hits += 1;
        if *hits > 1 {
            findings.counts.doubled += 1;
            findings.note("doubled", Some(&event.place), || format!("key {} once more", event.key));
        } else if self.furthest.is_some_and(|furthest| index < furthest)
            // A snapshot's row may follow its change, not come before it.
            || (!read && self.reads[index] > 0)
        {
            findings.counts.reordered += 1;
            findings
                .note("reordered", Some(&event.place), || format!("key {} after a later change", event.key));
        }
        self.furthest = self.furthest.max(Some(index));
    }

    /// A row carries the sequence number of the change that wrote it.
    fn row(&self, change: &Change, ex: &Expectation<'_>) -> Option<usize> {
        let seq = change.seq?;
        let from = self.expected.partition_point(|item| ex.entry(*item).seq < seq);
        let rest = self.expected.get(from..)?;
        let at = rest
            .iter()
            .take_while(|item| ex.entry(**item).seq == seq)
            .position(|item| matches!(item.part, Part::Create | Part::Update))?;
        Some(from + at)
    }

    /// A delete names its transaction; several of one key in it come in their order.
    fn delete(&mut self, event: &Event, change: &Change, ex: &Expectation<'_>) -> Option<usize> {
        let mut ours = self
            .expected
            .iter()
            .enumerate()
            .filter(|(_, item)| item.part == Part::Delete && Some(ex.entry(**item).xid) == change.xid)
            .map(|(index, _)| index);
        let first = ours.next()?;
        let repeated = event.position.is_some_and(|position| !self.deletes_seen.insert(position));
        if repeated {
            return Some(first);
        }
        let free = std::iter::once(first).chain(ours).find(|index| self.changes[*index] == 0);
        Some(free.unwrap_or(first))
    }

    /// A tombstone is its delete's; one without is taken for the first that is still missing.
    fn tombstone(&self, event: &Event) -> Option<usize> {
        if let Some((delete, position)) = self.open_delete {
            let twin = match (position, event.position) {
                (Some(delete), Some(own)) => delete.change() == own.change(),
                _ => true,
            };
            if twin {
                return Some(delete + 1);
            }
        }
        let tombstones =
            || (0..self.expected.len()).filter(|index| self.expected[*index].part == Part::Tombstone);
        tombstones().find(|index| self.changes[*index] == 0).or_else(|| tombstones().next())
    }
}

fn phantom_text(event: &Event, ex: &Expectation<'_>) -> String {
    let Some(change) = event.change() else { return format!("a tombstone of key {}", event.key) };
    let state = match change.xid {
        Some(xid) if ex.events_due.contains_key(&xid) => "which committed without it",
        Some(_) => "which did not commit",
        None => "of a snapshot",
    };
    let (op, seq, xid) = (change.op, change.seq, change.xid);
    format!("{op:?} of key {} with seq {seq:?} in transaction {xid:?}, {state}", event.key)
}

/// The event says what the journal says: operation, transaction, and every column.
fn compare(event: &Event, item: Expected, ex: &Expectation<'_>, findings: &mut Findings) {
    let Some(change) = event.change() else { return };
    let entry = ex.entry(item);
    let op_fits = matches!(
        (change.op, item.part),
        (Op::Create, Part::Create)
            | (Op::Update, Part::Update)
            | (Op::Delete, Part::Delete)
            | (Op::Read, Part::Create | Part::Update)
    );
    let is_silent = change.op == Op::Read || TABLES[entry.table].form == Form::Outbox;
    let xid_fits = is_silent || change.xid == Some(entry.xid);
    let before = ex.row_before(item.entry);
    let wrong = if !op_fits {
        Some(format!("op is {:?} where {:?} was done", change.op, item.part))
    } else if !xid_fits {
        Some(format!("txId is {:?}, the transaction was {}", change.xid, entry.xid))
    } else {
        let own = TABLES[entry.table].columns.len();
        // A row is read later than it was written, and columns that came later have changed by then.
        let length = if change.op == Op::Read { own } else { usize::MAX };
        let after = change.after.as_deref().map(|row| row.get(..length).unwrap_or(row));
        let after = after.and_then(|row| unequal(row, length, entry, before, findings));
        after.or_else(|| old_row(change, item, entry, before))
    };
    if let Some(text) = wrong {
        findings.counts.hash_mismatch += 1;
        findings.note("hash_mismatch", Some(&event.place), || {
            format!("key {} seq {}: {text}", event.key, entry.seq)
        });
    }
}

/// The first column of `row` that is not what the entry wrote. A value that the log did not hold
/// is right only if the change left it as it was.
fn unequal(
    row: &[Cell],
    length: usize,
    entry: &Entry,
    before: Option<&Entry>,
    findings: &mut Findings,
) -> Option<String> {
    let table = &TABLES[entry.table];
    let payload = entry.payload.get(..length).unwrap_or(&entry.payload);
    if row.len() != payload.len() {
        return Some(format!("{} columns instead of {}", row.len(), payload.len()));
    }
    for (index, (cell, wanted)) in row.iter().zip(payload).enumerate() {
        let name = table.columns.get(index).map_or("of a later shape", |column| column.name);
        match cell {
            Cell::Hash(hash) if hash == wanted => {}
            Cell::Hash(_) => return Some(format!("column {name} is not what was written")),
            Cell::Unavailable => {
                if before.and_then(|entry| entry.payload.get(index)) != Some(wanted) {
                    return Some(format!("column {name} is called unchanged and was changed"));
                }
                findings.seen.unchanged_values += 1;
            }
        }
    }
    None
}

/// With full identity the old row is there too, and is the row that the change before it left.
fn old_row(change: &Change, item: Expected, entry: &Entry, before: Option<&Entry>) -> Option<String> {
    let needs = TABLES[entry.table].full && matches!(item.part, Part::Update | Part::Delete);
    if !needs || change.op == Op::Read {
        return None;
    }
    let (Some(row), Some(before)) = (&change.before, before) else {
        return Some("the old row is missing".to_owned());
    };
    let same = row.len() == before.payload.len()
        && row.iter().zip(&*before.payload).all(|(cell, wanted)| *cell == Cell::Hash(*wanted));
    (!same).then(|| "the old row is not what stood there".to_owned())
}
