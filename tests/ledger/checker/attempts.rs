//! Rows of a table without a key that were read more than once: those of the last reading count.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Findings;
use crate::events::{Event, Op};

/// What a consumer keeps that forgets a table's rows when a later reading of it begins. A row of an earlier one
/// behind a row of a later one is reordered: then nobody can tell when to forget.
pub fn last_of_each<'a>(events: &'a [Event], findings: &mut Findings) -> Cow<'a, [Event]> {
    let mut last: HashMap<usize, u32> = HashMap::new();
    for event in rows(events) {
        let last = last.entry(event.table).or_default();
        *last = event.attempt.max(*last);
    }
    if last.values().all(|attempt| *attempt <= 1) {
        return Cow::Borrowed(events);
    }
    let mut furthest: HashMap<(usize, i32), u32> = HashMap::new();
    for event in rows(events) {
        let furthest = furthest.entry((event.table, event.place.partition)).or_default();
        if event.attempt < *furthest {
            findings.counts.reordered += 1;
            findings.note("reordered", Some(&event.place), || {
                format!("a row of reading {} after one of reading {furthest}", event.attempt)
            });
        }
        *furthest = event.attempt.max(*furthest);
    }
    let counts = |event: &&Event| !is_row(event) || Some(&event.attempt) == last.get(&event.table);
    let kept: Vec<Event> = events.iter().filter(counts).cloned().collect();
    findings.seen.superseded = u64::try_from(events.len() - kept.len()).unwrap_or(u64::MAX);
    Cow::Owned(kept)
}

fn rows(events: &[Event]) -> impl Iterator<Item = &Event> {
    events.iter().filter(|event| is_row(event))
}

fn is_row(event: &Event) -> bool {
    event.change().is_some_and(|change| change.op == Op::Read)
}
