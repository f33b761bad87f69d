//! Events folded by key give the tables' final content.

use std::collections::BTreeMap;

use super::alignment::Aligned;
use super::expectation::Expectation;
use super::{Evidence, Findings};
use crate::events::{Body, Cell, Event, Op};
use crate::journal::Entry;
use crate::tables::TABLES;

/// A row as a consumer has it, by key.
type Folded<'a> = BTreeMap<(usize, &'a str), Row>;

struct Row {
    hashes: Box<[u32]>,
    /// Of the change that wrote it, where the journal knows it.
    seq: Option<i64>,
    /// A value that was there before the change, and that no event has given.
    missing: bool,
}

pub fn folds(
    evidence: &Evidence<'_>,
    expectation: &Expectation<'_>,
    aligned: &Aligned,
    findings: &mut Findings,
) {
    let mut folded = Folded::new();
    for (event, item) in evidence.events.iter().zip(aligned) {
        // Phantoms fold too: a consumer cannot tell them from events.
        fold(&mut folded, event, item.map(|item| expectation.entry(item)));
    }
    for ((table, key), row) in evidence.content {
        match folded.remove(&(*table, &**key)) {
            Some(Row { missing: true, .. }) => {
                mismatch(*table, key, "no event gives a value that was there unchanged", findings);
            }
            Some(found) if own_columns(*table, &found.hashes) == own_columns(*table, row) => {}
            Some(_) => mismatch(*table, key, "the folded row is not the table's", findings),
            None => mismatch(*table, key, "the table has a row that the events do not give", findings),
        }
    }
    // A truncation has no event: what it took away is known from the journal alone.
    folded.retain(|(table, _), row| {
        row.seq.is_none_or(|seq| expectation.truncated.get(table).is_none_or(|last| seq > *last))
    });
    for (table, key) in folded.into_keys() {
        mismatch(table, key, "the events give a row that the table does not have", findings);
    }
}

/// A value that the log did not hold is taken from the journal: the alignment has proved that it
/// is the one that stood there. But a consumer must have had it: an update of a row of which nothing came before
/// leaves it without. A row that was given another key is a new one, and its log may hold less than the row.
fn fold<'a>(folded: &mut Folded<'a>, event: &'a Event, entry: Option<&Entry>) {
    let key = (event.table, &*event.key);
    let row = match &event.body {
        Body::Tombstone => None,
        Body::Change(change) => change.after.as_deref(),
    };
    let Some(row) = row else {
        folded.remove(&key);
        return;
    };
    let resolve = |(index, cell): (usize, &Cell)| match cell {
        Cell::Hash(hash) => *hash,
        Cell::Unavailable => entry.and_then(|entry| entry.payload.get(index)).copied().unwrap_or(0),
    };
    let hashes = row.iter().enumerate().map(resolve).collect();
    let is_update = event.change().is_some_and(|change| change.op == Op::Update);
    let before = folded.get(&key).map_or(is_update, |before| before.missing);
    let missing = before && row.contains(&Cell::Unavailable);
    folded.insert(key, Row { hashes, seq: entry.map(|entry| entry.seq), missing });
}

/// Columns that came later stand in a row's newest event as they were then, and in the table as they are now.
fn own_columns(table: usize, row: &[u32]) -> &[u32] {
    row.get(..TABLES[table].columns.len()).unwrap_or(row)
}

fn mismatch(table: usize, key: &str, text: &str, findings: &mut Findings) {
    findings.counts.fold_mismatch += 1;
    findings.note("fold_mismatch", None, || format!("{} key {key}: {text}", TABLES[table].name));
}
