//! Events folded by key give the tables' final content.

use std::collections::BTreeMap;

use super::alignment::Aligned;
use super::expectation::Expectation;
use super::{Evidence, Findings};
use crate::events::{Body, Cell, Event};
use crate::tables::TABLES;

type Folded<'a> = BTreeMap<(usize, &'a str), Box<[u32]>>;

pub fn folds(
    evidence: &Evidence<'_>,
    expectation: &Expectation<'_>,
    aligned: &Aligned,
    findings: &mut Findings,
) {
    let mut folded = Folded::new();
    for (event, item) in evidence.events.iter().zip(aligned) {
        // Phantoms fold too: a consumer cannot tell them from events.
        let written = item.map(|item| &*expectation.entry(item).payload).unwrap_or_default();
        fold(&mut folded, event, written);
    }
    for ((table, key), row) in evidence.content {
        match folded.remove(&(*table, &**key)) {
            Some(found) if found == *row => {}
            Some(_) => mismatch(*table, key, "the folded row is not the table's", findings),
            None => mismatch(*table, key, "the table has a row that the events do not give", findings),
        }
    }
    for (table, key) in folded.into_keys() {
        mismatch(table, key, "the events give a row that the table does not have", findings);
    }
}

/// A value that the log did not hold is taken from the journal: the alignment has proved that it
/// is the one that stood there.
fn fold<'a>(folded: &mut Folded<'a>, event: &'a Event, written: &[u32]) {
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
        Cell::Unavailable => written.get(index).copied().unwrap_or(0),
    };
    folded.insert(key, row.iter().enumerate().map(resolve).collect());
}

fn mismatch(table: usize, key: &str, text: &str, findings: &mut Findings) {
    findings.counts.fold_mismatch += 1;
    findings.note("fold_mismatch", None, || format!("{} key {key}: {text}", TABLES[table].name));
}
