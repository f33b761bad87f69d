//! The table of trials in tests/ledger/REPORT.md: a line for each row of each command, added below those
//! that are there.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_bench::machine;
use rustix::fs::{FlockOperation, flock};
use xtask::services::repository;
use xtask::{Context, Result};

use super::memory::Judged;
use super::row::Row;

pub const FILE: &str = "tests/ledger/REPORT.md";
/// Where the table begins; what stands below its head is only added to.
const HEAD: &str = "## Trials

Written by `cargo xtask chaos --report`, which adds a line for each row of a command and changes none. A trial is
one fault in a run that goes on: order is checked after each, everything after every 20. A failing seed replays.

| fault | what | date | machine | Millrace (debug build), Kafka, Postgres | seeds | trials | failures | time |
|---|---|---|---|---|---|---|---|---|
";

/// What became of one row.
#[derive(Debug)]
pub struct Line {
    row: Row,
    pub slack: u32,
    versions: String,
    first_seed: u64,
    pub next_seed: u64,
    pub trials: u32,
    pub failures: u32,
    pub failed_seed: Option<u64>,
    pub took: Duration,
    /// Until the daemon was at work again.
    pub recovery_worst: Duration,
    /// Of a soak's daemon.
    pub memory: Judged,
}

impl Line {
    pub fn new(row: Row, transaction_version: Option<u8>, commit: String, seed: u64, slack: u32) -> Line {
        let feature =
            transaction_version.map_or_else(String::new, |v| format!(" with transaction.version {v}"));
        Line {
            row,
            slack,
            versions: format!(
                "{commit}, 4.3.0{feature}, {}",
                match row {
                    Row::F6 => "17",
                    Row::F7 => "MongoDB 6.0.5",
                    _ => "15",
                }
            ),
            first_seed: seed,
            next_seed: seed,
            trials: 0,
            failures: 0,
            failed_seed: None,
            took: Duration::ZERO,
            recovery_worst: Duration::ZERO,
            memory: Judged::default(),
        }
    }

    fn seeds(&self) -> String {
        let last = self.next_seed.saturating_sub(1).max(self.first_seed);
        let seeds = match last == self.first_seed {
            true => last.to_string(),
            false => format!("{}-{last}", self.first_seed),
        };
        self.failed_seed.map_or(seeds.clone(), |seed| format!("{seeds}, failed: {seed}"))
    }

    fn memory(&self) -> String {
        if self.row == Row::F19 { format!("; {}", self.memory) } else { String::new() }
    }

    fn text(&self, date: &str, machine: &str) -> String {
        let slack = match self.slack {
            1 => String::new(),
            times => format!("; beside other work, with {times} times the time to recover"),
        };
        format!(
            "| {} | {}{slack} | {date} | {machine} | {} | {} | {} | {} | {} s{}{} |\n",
            self.row,
            self.row.what(),
            self.versions,
            self.seeds(),
            self.trials,
            self.failures,
            self.took.as_secs(),
            match self.recovery_worst {
                Duration::ZERO => String::new(),
                worst => format!("; at work again in {:.1} s at worst", worst.as_secs_f64()),
            },
            self.memory()
        )
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (row, seeds, took) = (self.row, self.seeds(), self.took.as_secs());
        write!(f, "{row}: {} trials, {} failures, seeds {seeds}, {took} s", self.trials, self.failures)?;
        write!(f, "{}; go on with --seed {}", self.memory(), self.next_seed)
    }
}

/// Adds the line to the table in this file, which is made where it is not there, and gives its path. Several
/// commands may do so at once.
pub fn append(file: &Path, line: &Line) -> Result<PathBuf> {
    let path = repository().join(file);
    if line.trials == 0 && line.failures == 0 {
        return Ok(path);
    }
    let machine = machine::machine();
    let new = line.text(&machine::now(), machine.split(';').next().unwrap_or_default());
    add(&path, &new).context(|| path.display().to_string())?;
    Ok(path)
}

fn add(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    // Until it is closed.
    flock(&file, FlockOperation::LockExclusive)?;
    let mut old = String::new();
    file.read_to_string(&mut old)?;
    file.rewind()?;
    file.write_all(added(&old, line).as_bytes())
}

/// The report with these lines at the end of its table, which stands at its own end.
fn added(old: &str, lines: &str) -> String {
    let old = old.trim_end();
    match old.contains(HEAD.lines().next().unwrap_or_default()) {
        true => format!("{old}\n{lines}"),
        false => format!("{old}\n\n{HEAD}{lines}"),
    }
}

/// The table of trials as it stands in a report, to be kept when the rest is written anew.
pub fn table(report: &str) -> &str {
    let head = HEAD.lines().next().unwrap_or_default();
    report.find(head).and_then(|at| report.get(at..)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_lines_stay_and_later_ones_come_below_them() {
        let mut line = Line::new(Row::F1, Some(1), "abc".into(), 7, 1);
        (line.trials, line.next_seed) = (40, 9);
        let first = added("# Ledger report\n\ntext\n", &line.text("today", "a machine"));
        (line.failures, line.failed_seed) = (1, Some(8));
        let second = added(&first, &line.text("tomorrow", "a machine"));
        assert!(second.starts_with(&first) && second.contains("| 7-8 | 40 | 0 |"), "{second}");
        assert!(second.ends_with("| 7-8, failed: 8 | 40 | 1 | 0 s |\n"), "{second}");
        assert_eq!(second.matches("## Trials").count(), 1);
        assert!(table(&second).starts_with("## Trials"));
    }
}
