//! What a run has found, for people and for machines.

use std::fmt;

use serde::Serialize;

use super::writers::Totals;
use crate::checker::{Outcome, Verdict};
use crate::run::{Planted, Recovery};

#[derive(Debug, Serialize)]
pub struct Report {
    pub connector: String,
    pub seed: u64,
    pub kills: u32,
    pub primary_strikes: u32,
    pub seconds: f64,
    pub written: Totals,
    pub verdict: Verdict,
    pub recovery: Recovery,
    /// The checker's own test, on what this run read.
    pub planted: Vec<Planted>,
    /// SIGTERM at the end was answered with exit status 0.
    pub stopped_orderly: bool,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.verdict.outcome == Outcome::Passed
            && self.stopped_orderly
            && self.planted.iter().all(|planted| planted.found > 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (written, seen, counts) = (&self.written, &self.verdict.seen, &self.verdict.counts);
        writeln!(
            f,
            "ledger {}: seed {}, {} kills of the daemon and {} strikes at the primary, {:.0} s",
            self.connector, self.seed, self.kills, self.primary_strikes, self.seconds
        )?;
        writeln!(
            f,
            "  written   {} transactions ({} changes), {} rolled back, {} attempts more, {} ends not told",
            written.committed, written.changes, written.rolled_back, written.retried, written.errors
        )?;
        writeln!(
            f,
            "  seen      {} events of {} transactions and {} keys, in {} Kafka transactions",
            seen.events, seen.source_transactions, seen.keys, seen.kafka_transactions
        )?;
        writeln!(
            f,
            "  recovery  {} measured, median {} ms, worst {} ms",
            self.recovery.measured, self.recovery.median_ms, self.recovery.worst_ms
        )?;
        writeln!(
            f,
            "  found     {} lost, {} phantom, {} doubled, {} reordered, {} torn, {} unequal, {} other",
            counts.lost,
            counts.phantom,
            counts.doubled,
            counts.reordered,
            counts.torn,
            counts.hash_mismatch,
            counts.position_regression
                + counts.unresolved_schema
                + counts.fold_mismatch
                + counts.uncommitted_extra,
        )?;
        for planted in &self.planted {
            let place = planted.place.as_deref().unwrap_or("no place for it");
            writeln!(f, "  planted   {:?} at {place}: {} found", planted.fault, planted.found)?;
        }
        for violation in &self.verdict.violations {
            let place = violation.place.as_ref().map_or_else(String::new, |place| format!(" at {place}"));
            writeln!(f, "  {}{place}: {}", violation.kind, violation.text)?;
        }
        for reason in &self.verdict.unchecked {
            writeln!(f, "  could not check: {reason}")?;
        }
        let verdict = if self.passed() { "passed" } else { "FAILED" };
        write!(f, "  {verdict}; stopped in good order: {}", self.stopped_orderly)
    }
}
