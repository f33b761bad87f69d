//! The checker: a pure function from what was committed and what was read back to a verdict.
//!
//! It has three answers, not two: *passed*, *failed*, and *could not check*, because a run that
//! read nothing has proved nothing. [`check`] is the place to start; each of its steps has a file.

mod alignment;
mod attempts;
mod content;
mod expectation;
mod kafka_tx;
mod positions;
mod uncommitted;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::events::{Event, Place, Problem, ProblemKind};
use crate::journal::{Content, Entry};
use crate::reader::{Extent, KafkaTx, Read, TopicPartition};
use crate::snapshot::Begins;

/// So many violations are kept for reading; all are counted.
const VIOLATIONS_KEPT: usize = 40;

/// Everything the checker may look at.
pub struct Evidence<'a> {
    /// Committed journal rows, by rising sequence number.
    pub journal: &'a [Entry],
    /// What a `read_committed` consumer saw, each partition in the order of its log.
    pub events: &'a [Event],
    pub problems: &'a [Problem],
    pub extents: &'a BTreeMap<TopicPartition, Extent>,
    /// The tables at the end, when nothing was written any more.
    pub content: &'a Content,
    /// Committed position records in the order of their log; `None` where there is no such topic.
    pub marks: Option<&'a [Mark]>,
    /// The same topics read with `read_uncommitted`.
    pub uncommitted: Option<&'a Read>,
    pub limits: Limits,
    /// What was there before the connector was, and what of it has to come.
    pub begins: &'a Begins,
}

/// What the run was set up to prove.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Source transactions of more changes may be cut over several Kafka transactions.
    pub uncut_changes_max: u64,
    /// The header `position` is switched on.
    pub positions: bool,
}

/// A committed position record.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub offset: i64,
    pub end_lsn: u64,
    pub tx: KafkaTx,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub lost: u64,
    pub phantom: u64,
    pub doubled: u64,
    pub reordered: u64,
    pub torn: u64,
    pub hash_mismatch: u64,
    pub position_regression: u64,
    pub unresolved_schema: u64,
    pub fold_mismatch: u64,
    /// Records that only `read_uncommitted` sees although no abort marker covers them, or that
    /// `read_committed` shows although one does.
    pub uncommitted_extra: u64,
}

impl Counts {
    pub fn total(&self) -> u64 {
        self.lost
            + self.phantom
            + self.doubled
            + self.reordered
            + self.torn
            + self.hash_mismatch
            + self.position_regression
            + self.unresolved_schema
            + self.fold_mismatch
            + self.uncommitted_extra
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Passed,
    Failed,
    CouldNotCheck,
}

#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    pub kind: &'static str,
    /// Where it shows in Kafka; a lost event lies nowhere.
    pub place: Option<Place>,
    pub text: String,
}

/// How much was looked at: a verdict over little proves little.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seen {
    pub source_transactions: u64,
    pub changes: u64,
    pub events: u64,
    pub keys: u64,
    /// Values that the log did not hold, and that were unchanged indeed.
    pub unchanged_values: u64,
    pub kafka_transactions: u64,
    /// Source transactions that lie on more than one partition.
    pub spread_transactions: u64,
    pub aborted_records: u64,
    /// Rows of a snapshot.
    pub rows: u64,
    /// Rows of a table without a key that a later reading of it gave once more.
    pub superseded: u64,
}

#[derive(Debug, Serialize)]
pub struct Verdict {
    pub outcome: Outcome,
    pub counts: Counts,
    pub seen: Seen,
    /// Why nothing, or not everything, could be checked.
    pub unchecked: Vec<String>,
    pub violations: Vec<Violation>,
}

/// The verdict while it is being formed.
#[derive(Default)]
struct Findings {
    counts: Counts,
    seen: Seen,
    unchecked: Vec<String>,
    violations: Vec<Violation>,
}

impl Findings {
    fn note(&mut self, kind: &'static str, place: Option<&Place>, text: impl FnOnce() -> String) {
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(Violation { kind, place: place.cloned(), text: text() });
        }
    }
}

pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut findings = Findings::default();
    preconditions(evidence, &mut findings);
    positions::rise(evidence, &mut findings);
    uncommitted::only_aborted(evidence, &mut findings);
    let events = attempts::last_of_each(evidence.events, &mut findings);
    let evidence = &Evidence { events: &events, ..*evidence };
    let expectation = expectation::Expectation::of(evidence.journal, evidence.begins);
    let aligned = alignment::align(evidence, &expectation, &mut findings);
    kafka_tx::whole(evidence, &expectation, &aligned, &mut findings);
    content::folds(evidence, &expectation, &aligned, &mut findings);
    let outcome = if findings.counts.total() > 0 {
        Outcome::Failed
    } else if !findings.unchecked.is_empty() {
        Outcome::CouldNotCheck
    } else {
        Outcome::Passed
    };
    Verdict {
        outcome,
        counts: findings.counts,
        seen: findings.seen,
        unchecked: findings.unchecked,
        violations: findings.violations,
    }
}

/// Without these the rest would pass over an empty set.
fn preconditions(evidence: &Evidence<'_>, findings: &mut Findings) {
    findings.seen.changes = u64::try_from(evidence.journal.len()).unwrap_or(u64::MAX);
    findings.seen.events = u64::try_from(evidence.events.len()).unwrap_or(u64::MAX);
    if evidence.journal.is_empty() {
        findings.unchecked.push("the journal is empty: the writers committed nothing".to_owned());
    }
    if evidence.events.is_empty() {
        findings.unchecked.push("no event was read".to_owned());
    }
    if evidence.extents.is_empty() {
        findings.unchecked.push("no partition was read".to_owned());
    }
    for ((topic, partition), extent) in evidence.extents.iter().filter(|(_, e)| e.earliest > 0) {
        let text =
            format!("{topic}/{partition} begins at offset {}: older records are gone", extent.earliest);
        findings.unchecked.push(text);
    }
    if evidence.limits.positions && evidence.marks.is_none_or(<[Mark]>::is_empty) {
        findings.unchecked.push("no position record was read".to_owned());
    }
    if evidence.uncommitted.is_none() {
        findings.unchecked.push("there was no read_uncommitted pass".to_owned());
    }
    let mut foreign = 0u64;
    for problem in evidence.problems {
        match problem.kind {
            ProblemKind::Unresolved => {
                findings.counts.unresolved_schema += 1;
                findings.note("unresolved_schema", Some(&problem.place), || problem.text.clone());
            }
            ProblemKind::Unfit => {
                findings.counts.hash_mismatch += 1;
                findings.note("hash_mismatch", Some(&problem.place), || problem.text.clone());
            }
            ProblemKind::Foreign | ProblemKind::Unreachable => {
                foreign += 1;
                findings.note("could_not_check", Some(&problem.place), || problem.text.clone());
            }
        }
    }
    if foreign > 0 {
        findings.unchecked.push(format!("{foreign} records are not of this run, or could not be decoded"));
    }
}
