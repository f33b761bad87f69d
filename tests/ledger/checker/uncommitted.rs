//! What only `read_uncommitted` sees is of aborted transactions; judged by the end markers in the
//! log, not by the broker's list that the committed pass went by.

use std::collections::{HashMap, HashSet};

use super::{Evidence, Findings};
use crate::events::Place;
use crate::reader::{Outcome, Record};

pub fn only_aborted(evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(read) = evidence.uncommitted else { return };
    let mut ends = HashMap::new();
    for marker in &read.markers {
        let log = (marker.topic.clone(), marker.partition);
        ends.insert((log, marker.tx.producer_id, marker.tx.ordinal), marker.outcome);
    }
    let events = evidence.events.iter().map(|event| &event.place);
    let committed: HashSet<&Place> = events.chain(evidence.problems.iter().map(|p| &p.place)).collect();
    for record in &read.records {
        let log = (record.topic.clone(), record.partition);
        let Some(extent) = evidence.extents.get(&log) else { continue };
        if record.offset >= extent.end {
            continue; // written after the committed pass had ended
        }
        let outcome = record.tx.and_then(|tx| ends.get(&(log, tx.producer_id, tx.ordinal)));
        let place = place(record);
        match (outcome, committed.contains(&place)) {
            (Some(Outcome::Commit), true) => {}
            (Some(Outcome::Abort), false) => findings.seen.aborted_records += 1,
            (outcome, visible) => {
                findings.counts.uncommitted_extra += 1;
                findings.note("uncommitted_extra", Some(&place), || {
                    format!("its transaction ended with {outcome:?}; read_committed shows it: {visible}")
                });
            }
        }
    }
}

fn place(record: &Record) -> Place {
    Place { topic: record.topic.clone(), partition: record.partition, offset: record.offset }
}
