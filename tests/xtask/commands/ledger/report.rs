//! tests/ledger/REPORT.md, and REPORT-MONGODB.md beside it: what was run, where, and what was found.

use std::fmt::Write as _;
use std::path::PathBuf;

use millrace_bench::machine;
use millrace_ledger::mongodb;
use millrace_ledger::run::Report;
use tokio_postgres::NoTls;
use xtask::services::{Services, repository};
use xtask::{Context, Result};

use crate::commands::binary::Profile;
use crate::commands::{bench, chaos};

const HEAD: &str = "# Ledger report

Written by `cargo xtask ledger --report`. What is written, what is compared and how, in the modules of
`tests/ledger`; the guarantee that is tested, in the README.
";

/// Of a replica set's documents.
pub fn write_documents(profile: Profile, reports: &[mongodb::Report]) -> Result<PathBuf> {
    let file = repository().join("tests/ledger/REPORT-MONGODB.md");
    let head = HEAD.replacen("Ledger report", "Ledger report: MongoDB", 1);
    let head = head.replacen("cargo xtask ledger", "cargo xtask ledger --source mongodb", 1);
    let mut text = format!("{head}\n");
    let versions = "Kafka 4.3.0, Apicurio Registry 3.0.9, MongoDB 6.0.5 as a replica set of three members";
    for fact in facts(profile, versions)? {
        let _ = writeln!(text, "- {fact}");
    }
    text += "\n## Runs\n\n| seed | kills of the daemon | of the primary | transactions | changes | events | lost | phantom | doubled | reordered | torn | verdict |\n";
    text += "|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    for report in reports {
        let (counts, seen) = (&report.verdict.counts, &report.verdict.seen);
        let verdict = if report.passed() { "passed" } else { "**not passed**" };
        let (committed, changes) = (report.written.committed, report.written.changes);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {committed} | {changes} | {} | {} | {} | {} | {} | {} | {verdict} |",
            report.seed,
            report.kills,
            report.primary_strikes,
            seen.events,
            counts.lost,
            counts.phantom,
            counts.doubled,
            counts.reordered,
            counts.torn,
        );
    }
    text += "\n## In full\n";
    for report in reports {
        let _ = write!(text, "\n```text\n{report}\n```\n");
    }
    std::fs::write(&file, text).context(|| file.display().to_string())?;
    Ok(file)
}

fn facts(profile: Profile, versions: &str) -> Result<[String; 4]> {
    let typed: Vec<String> = std::env::args().skip(1).collect();
    Ok([
        format!("Date: {}", machine::now()),
        format!("Machine: {}", machine::machine()),
        format!("Versions: Millrace {} ({} build), {versions}", bench::commit()?, profile.name()),
        format!("Command: `cargo xtask {}`", typed.join(" ")),
    ])
}

/// Writes the file and gives its path.
pub async fn write(profile: Profile, services: &Services, reports: &[Report]) -> Result<PathBuf> {
    let file = repository().join("tests/ledger/REPORT.md");
    let server = version(services).await?;
    let facts = facts(profile, &format!("Kafka 4.3.0, Apicurio Registry 3.0.9, PostgreSQL {server}"))?;
    let old = std::fs::read_to_string(&file).context(|| file.display().to_string())?;
    let whole = format!("{}\n{}", text(&facts, reports), chaos::report::table(&old));
    std::fs::write(&file, whole).context(|| file.display().to_string())?;
    Ok(file)
}

async fn version(services: &Services) -> Result<String> {
    let ask = async {
        let (client, connection) = tokio_postgres::connect(&services.postgres.url(), NoTls).await?;
        // It ends with the client.
        tokio::spawn(connection);
        client.query_one("SHOW server_version", &[]).await.map(|row| row.get(0))
    };
    ask.await.context(|| "the version of Postgres".to_owned())
}

fn text(facts: &[String], reports: &[Report]) -> String {
    let mut text = format!("{HEAD}\n");
    for fact in facts {
        let _ = writeln!(text, "- {fact}");
    }
    text += "\n## Runs\n\n";
    text += "| seed | kills | transactions | changes | events | lost | phantom | doubled | reordered | torn | verdict |\n";
    text += "|---|---|---|---|---|---|---|---|---|---|---|\n";
    for report in reports {
        let (counts, seen) = (&report.verdict.counts, &report.verdict.seen);
        let torn = counts.torn + u64::try_from(report.torn_after_kills.len()).unwrap_or(u64::MAX);
        let verdict = if report.passed() { "passed" } else { "**not passed**" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {torn} | {verdict} |",
            report.seed,
            report.trials,
            report.written.committed,
            report.written.changes,
            seen.events,
            counts.lost,
            counts.phantom,
            counts.doubled,
            counts.reordered
        );
    }
    let kills: u32 = reports.iter().map(|report| report.trials).sum();
    if kills > 0 && reports.iter().all(Report::passed) {
        let bound = (300.0 / f64::from(kills)).min(100.0);
        let _ = writeln!(
            text,
            "\nNo fault in {kills} kills: with 95 % confidence fewer than {bound:.1} % of kills would show one."
        );
    }
    text += "\n## Planted faults\n\nPut into what each run had read, to see that the checker finds them.\n\n";
    text += "| seed | fault | where | found |\n|---|---|---|---|\n";
    for report in reports {
        for planted in &report.planted {
            let place = planted.place.as_deref().unwrap_or("no place for it");
            let _ = writeln!(text, "| {} | {:?} | {place} | {} |", report.seed, planted.fault, planted.found);
        }
    }
    text += "\n## In full\n";
    for report in reports {
        let _ = write!(text, "\n```text\n{report}\n```\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_ledger::checker::{Counts, Outcome, Seen, Verdict};
    use millrace_ledger::plant::Fault;
    use millrace_ledger::run::{Planted, Recovery, Watermarks};

    fn report(outcome: Outcome, lost: u64) -> Report {
        let counts = Counts { lost, ..Counts::default() };
        let seen = Seen { events: 900, ..Seen::default() };
        Report {
            connector: "ledger".into(),
            fault: "F1",
            seed: 7,
            trials: 20,
            seconds: 80.0,
            written: Default::default(),
            verdict: Verdict { outcome, counts, seen, unchecked: Vec::new(), violations: Vec::new() },
            disorder: Vec::new(),
            torn_after_kills: Vec::new(),
            audit: Watermarks { samples: 1, positions: 1, ..Default::default() },
            recovery: Recovery::default(),
            planted: vec![Planted { fault: Fault::Torn, place: Some("t/0@5".into()), found: 1 }],
            stopped_orderly: true,
        }
    }

    #[test]
    fn a_passed_run_bounds_the_rate_of_failure_and_shows_what_was_planted() {
        let text = text(&["Date: today".into()], &[report(Outcome::Passed, 0)]);
        assert!(text.contains("| 7 | 20 | 0 | 0 | 900 | 0 | 0 | 0 | 0 | 0 | passed |"), "{text}");
        assert!(text.contains("No fault in 20 kills") && text.contains("15.0 %"), "{text}");
        assert!(text.contains("| 7 | Torn | t/0@5 | 1 |"), "{text}");
    }

    #[test]
    fn a_run_with_a_lost_event_is_marked_and_bounds_nothing() {
        let text = text(&[], &[report(Outcome::Passed, 0), report(Outcome::Failed, 1)]);
        assert!(text.contains("| 1 | 0 | 0 | 0 | 0 | **not passed** |"), "{text}");
        assert!(!text.contains("No fault in"), "{text}");
    }
}
