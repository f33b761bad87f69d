//! What a run has found, for people and for machines.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::checker::{Outcome, Verdict};
use crate::plant::Fault;
use crate::watermark::Breach;
use crate::writers::Totals;

/// A daemon that was killed is at work again within this.
pub const RECOVERY_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
pub struct Report {
    /// As in the table of faults.
    pub fault: &'static str,
    pub connector: String,
    pub seed: u64,
    pub trials: u32,
    pub seconds: f64,
    pub written: Totals,
    pub verdict: Verdict,
    /// Found while the run went on.
    pub disorder: Vec<String>,
    /// After a kill, with the markers settled: source transactions that were there in part.
    pub torn_after_kills: Vec<String>,
    pub audit: Watermarks,
    pub recovery: Recovery,
    /// The checker's own test, on what this run read.
    pub planted: Vec<Planted>,
    /// SIGTERM at the end was answered with exit status 0.
    pub stopped_orderly: bool,
}

#[derive(Debug, Default, Serialize)]
pub struct Watermarks {
    pub samples: u64,
    pub missed: u64,
    pub breaches_total: u64,
    pub breaches: Vec<Breach>,
    pub positions: u64,
}

/// From the end of a fault to the next committed position.
#[derive(Debug, Default, Serialize)]
pub struct Recovery {
    pub measured: u32,
    pub median_ms: u64,
    pub worst_ms: u64,
    pub too_slow: u32,
    pub allowed_ms: u64,
}

impl Recovery {
    pub fn of(mut times: Vec<Duration>, allowed: Duration) -> Recovery {
        times.sort();
        let ms =
            |time: Option<&Duration>| time.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Recovery {
            measured: count(times.len()),
            median_ms: ms(times.get(times.len() / 2)),
            worst_ms: ms(times.last()),
            too_slow: count(times.iter().filter(|time| **time > allowed).count()),
            allowed_ms: ms(Some(&allowed)),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Planted {
    pub fault: Fault,
    /// Where it was put; `None` if the run held no place for it.
    pub place: Option<String>,
    /// What the checker counted of its kind.
    pub found: u64,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.verdict.outcome == Outcome::Passed
            && self.disorder.is_empty()
            && self.torn_after_kills.is_empty()
            && self.audit.breaches_total == 0
            && self.audit.samples > 0
            && self.recovery.too_slow == 0
            && self.stopped_orderly
            && self.planted.iter().all(|planted| planted.found > 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "ledger {}: {}, seed {}, {} trials, {:.0} s",
            self.connector, self.fault, self.seed, self.trials, self.seconds
        )?;
        self.fmt_work(f)?;
        self.fmt_findings(f)?;
        for planted in &self.planted {
            let place = planted.place.as_deref().unwrap_or("no place for it");
            writeln!(f, "  planted   {:?} at {place}: {} found", planted.fault, planted.found)?;
        }
        for text in &self.disorder {
            writeln!(f, "  disorder  {text}")?;
        }
        for text in self.torn_after_kills.iter().take(10) {
            writeln!(f, "  torn      {text}")?;
        }
        for violation in &self.verdict.violations {
            let place = violation.place.as_ref().map_or_else(String::new, |place| format!(" at {place}"));
            writeln!(f, "  {}{place}: {}", violation.kind, violation.text)?;
        }
        for reason in &self.verdict.unchecked {
            writeln!(f, "  could not check: {reason}")?;
        }
        if !self.stopped_orderly {
            writeln!(f, "  the daemon did not end orderly on SIGTERM")?;
        }
        write!(f, "  {}", if self.passed() { "PASSED" } else { "NOT PASSED" })
    }
}

impl Report {
    /// One line of a run that passed.
    pub fn in_short(&self) -> String {
        let (seen, recovery) = (&self.verdict.seen, &self.recovery);
        format!(
            "{} seed {}: PASSED: {} trials, {} events of {} transactions, {} aborted records, recovery {} ms at the \
             median and {} at worst, {:.0} s",
            self.fault,
            self.seed,
            self.trials,
            seen.events,
            seen.source_transactions,
            seen.aborted_records,
            recovery.median_ms,
            recovery.worst_ms,
            self.seconds
        )
    }

    fn fmt_work(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seen, written) = (&self.verdict.seen, &self.written);
        writeln!(
            f,
            "  written   {} transactions of {} changes; {} rolled back, {} savepoints rolled back, {} errors",
            written.committed,
            written.changes,
            written.rolled_back,
            written.savepoints_rolled_back,
            written.errors
        )?;
        writeln!(
            f,
            "  read      {} events of {} transactions over {} Kafka transactions",
            seen.events, seen.source_transactions, seen.kafka_transactions,
        )?;
        writeln!(
            f,
            "            {} on several partitions, {} unchanged values, {} aborted records, {} rows read once more",
            seen.spread_transactions, seen.unchanged_values, seen.aborted_records, seen.superseded
        )
    }

    fn fmt_findings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (counts, audit, recovery) = (&self.verdict.counts, &self.audit, &self.recovery);
        writeln!(
            f,
            "  found     {} lost, {} phantom, {} doubled, {} reordered, {} torn, {} torn after kills",
            counts.lost,
            counts.phantom,
            counts.doubled,
            counts.reordered,
            counts.torn,
            self.torn_after_kills.len()
        )?;
        writeln!(
            f,
            "            {} mismatched, {} positions fell, {} schemas unresolved, {} fold mismatches, \
             {} uncommitted extras",
            counts.hash_mismatch,
            counts.position_regression,
            counts.unresolved_schema,
            counts.fold_mismatch,
            counts.uncommitted_extra
        )?;
        writeln!(
            f,
            "  audit     confirmed above position {} times in {} samples ({} missed), {} positions",
            audit.breaches_total, audit.samples, audit.missed, audit.positions
        )?;
        writeln!(
            f,
            "  recovery  {} measured, median {} ms, worst {} ms, {} above {} s",
            recovery.measured,
            recovery.median_ms,
            recovery.worst_ms,
            recovery.too_slow,
            recovery.allowed_ms / 1_000
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{Counts, Seen};

    fn report() -> Report {
        Report {
            fault: "F1",
            connector: "orders".to_owned(),
            seed: 1,
            trials: 1,
            seconds: 1.0,
            written: Totals::default(),
            verdict: Verdict {
                outcome: Outcome::Passed,
                counts: Counts::default(),
                seen: Seen::default(),
                unchecked: Vec::new(),
                violations: Vec::new(),
            },
            disorder: Vec::new(),
            torn_after_kills: Vec::new(),
            audit: Watermarks { samples: 1, positions: 1, ..Default::default() },
            recovery: Recovery::of(vec![Duration::from_secs(1)], RECOVERY_MAX),
            planted: Vec::new(),
            stopped_orderly: true,
        }
    }

    #[test]
    fn a_run_passes_only_if_everything_in_it_does() {
        assert!(report().passed());
        let faults: [fn(&mut Report); 9] = [
            |r| r.verdict.outcome = Outcome::Failed,
            |r| r.verdict.outcome = Outcome::CouldNotCheck,
            |r| r.disorder.push("an event twice".to_owned()),
            |r| r.torn_after_kills.push("transaction 7".to_owned()),
            |r| r.audit.breaches_total = 1,
            |r| r.audit.samples = 0,
            |r| r.recovery = Recovery::of(vec![Duration::from_secs(11)], RECOVERY_MAX),
            |r| r.planted.push(Planted { fault: Fault::Torn, place: None, found: 0 }),
            |r| r.stopped_orderly = false,
        ];
        for (index, fault) in faults.into_iter().enumerate() {
            let mut report = report();
            fault(&mut report);
            assert!(!report.passed(), "fault {index}");
            assert!(report.to_string().ends_with("NOT PASSED"), "fault {index}");
        }
    }

    #[test]
    fn recovery_tells_the_middle_and_the_worst() {
        let recovery = Recovery::of([12, 1, 2].map(Duration::from_secs).to_vec(), RECOVERY_MAX);
        let told = (recovery.measured, recovery.median_ms, recovery.worst_ms, recovery.too_slow);
        assert_eq!(told, (3, 2_000, 12_000, 1));
        assert_eq!(Recovery::of(Vec::new(), RECOVERY_MAX).measured, 0);
    }
}
