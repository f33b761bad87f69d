//! The header `position` rises in each partition, and one source transaction has one final LSN.

use std::collections::HashMap;

use super::{Evidence, Findings};
use crate::events::{Event, Op, Position};

pub fn rise(evidence: &Evidence<'_>, findings: &mut Findings) {
    if !evidence.limits.positions {
        return;
    }
    let mut last: HashMap<(usize, i32), Position> = HashMap::new();
    let mut final_lsns: HashMap<u64, u64> = HashMap::new();
    for event in evidence.events {
        let wrong = match event.position {
            None => Some("the header position is missing".to_owned()),
            Some(position) => {
                let before = last.insert((event.table, event.place.partition), position);
                let falls = before.is_some_and(|before| before >= position);
                falls.then(|| format!("{position:x?} follows {before:x?}")).or_else(|| {
                    let xid = event.change().filter(|change| change.op != Op::Read)?.xid?;
                    let known = *final_lsns.entry(xid).or_insert(position.final_lsn);
                    (known != position.final_lsn).then(|| format!("transaction {xid} has two final LSNs"))
                })
            }
        };
        if let Some(text) = wrong {
            regression(event, text, findings);
        }
    }
    marks_rise(evidence, findings);
}

fn regression(event: &Event, text: String, findings: &mut Findings) {
    findings.counts.position_regression += 1;
    findings.note("position_regression", Some(&event.place), || text);
}

/// The committed positions themselves never fall.
fn marks_rise(evidence: &Evidence<'_>, findings: &mut Findings) {
    let marks = evidence.marks.unwrap_or_default();
    for pair in marks.windows(2) {
        if pair[1].end_lsn < pair[0].end_lsn {
            findings.counts.position_regression += 1;
            findings.note("position_regression", None, || {
                format!("position record {} follows {} and is lower", pair[1].offset, pair[0].offset)
            });
        }
    }
}
