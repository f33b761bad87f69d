//! `cargo xtask diff takeover`: who reads the slot, or the change stream, changes in the middle of a load. Start at
//! `in_turn`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use millrace_bench::machine;
use millrace_diff::turns::{Outcome, WRITERS};
use millrace_diff::{mongodb, postgres};
use xtask::services::{Config, ConnectConfig, repository};
use xtask::{Context, Result};

use super::Stand;
use crate::commands::bench;
use crate::commands::binary::Profile;

#[derive(clap::Args)]
pub struct Arguments {
    /// One change stream instead.
    #[arg(long)]
    mongodb: bool,
    /// Decides the transactions and the length of the turns; several, parted by commas, are as many runs.
    #[arg(long = "seed", value_delimiter = ',', default_values_t = [1])]
    seeds: Vec<u64>,
    /// The daemon's release build.
    #[arg(long)]
    release: bool,
    /// Writes tests/diff/REPORT-TAKEOVER.md, or REPORT-TAKEOVER-MONGODB.md beside it.
    #[arg(long)]
    report: bool,
}

pub async fn in_turn(arguments: &Arguments) -> Result<ExitCode> {
    let connect = ConnectConfig { is_distributed: true, ..ConnectConfig::default() };
    let stand = Stand::set_up_with(&Config::default(), &connect, arguments.release).await?;
    let mut outcomes = Vec::new();
    for seed in &arguments.seeds {
        let outcome = match arguments.mongodb {
            true => mongodb::takeover::run(&stand.place, &stand.services.mongodb.url(), *seed).await,
            false => postgres::takeover::run(&stand.place, &stand.services.postgres.url(), *seed).await,
        };
        let outcome = outcome.context(|| format!("the run with seed {seed} could not be finished"))?;
        tell(&outcome);
        outcomes.push(outcome);
    }
    if arguments.report {
        println!("written: {}", report(arguments, &outcomes)?.display());
    }
    let passed = outcomes.iter().all(Outcome::passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(outcome: &Outcome) {
    let Outcome { seed, rows, lost, doubled, reordered, turns, offsets } = outcome;
    println!(
        "-- seed {seed}: {rows} rows, {} lost, {} doubled, {} reordered; by turns {turns:?}",
        lost.len(),
        doubled.len(),
        reordered.len()
    );
    for offset in offsets {
        println!("taken over: {offset}");
    }
    if !outcome.passed() {
        println!("lost: {lost:?}, doubled: {doubled:?}, reordered: {reordered:?}");
    }
}

fn report(arguments: &Arguments, outcomes: &[Outcome]) -> Result<PathBuf> {
    let (what, file) = match arguments.mongodb {
        true => ("of a change stream", "REPORT-TAKEOVER-MONGODB.md"),
        false => ("of a slot", "REPORT-TAKEOVER.md"),
    };
    let profile = if arguments.release { Profile::Release } else { Profile::Debug };
    let typed: Vec<String> = std::env::args().skip(1).collect();
    let mut text = format!(
        "# Take-over and hand-back {what}, under a load\n\nWritten by `cargo xtask diff takeover --report`. {WRITERS} \
         writers commit short and long transactions that overlap; Debezium is\nstopped, the daemon takes over from its \
         offset, is stopped, and hands back, twice. Every committed row is looked for in\nthe topic.\n\n"
    );
    // Writing to a string cannot fail.
    let _ = writeln!(text, "- Date: {}", machine::now());
    let _ = writeln!(text, "- Machine: {}", machine::machine());
    let (commit, profile) = (bench::commit()?, profile.name());
    let _ = writeln!(text, "- Versions: Millrace {commit} ({profile} build), Debezium 3.6.3.Final");
    let _ = writeln!(text, "- Command: `cargo xtask {}`\n", typed.join(" "));
    text +=
        "| seed | rows | by turns | lost | doubled | reordered | verdict |\n|---|---|---|---|---|---|---|\n";
    for outcome in outcomes {
        let Outcome { seed, rows, lost, doubled, reordered, turns, .. } = outcome;
        let turns: Vec<String> = turns.iter().map(usize::to_string).collect();
        let verdict = if outcome.passed() { "passed" } else { "**not passed**" };
        let _ = writeln!(
            text,
            "| {seed} | {rows} | {} | {} | {} | {} | {verdict} |",
            turns.join(", "),
            lost.len(),
            doubled.len(),
            reordered.len()
        );
    }
    let offsets: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.offsets).collect();
    let overtaken = offsets.iter().filter(|offset| postgres::takeover::is_overtaken(offset)).count();
    let _ = write!(text, "\nThe {} offsets of Debezium's from which the daemon went on", offsets.len());
    if !arguments.mongodb {
        let _ = write!(text, ", {overtaken} of them in a transaction that another one had overtaken");
    }
    text += ":\n\n```json\n";
    for offset in offsets {
        let _ = writeln!(text, "{offset}");
    }
    text += "```\n";
    let file = repository().join("tests/diff").join(file);
    std::fs::write(&file, text).context(|| file.display().to_string())?;
    Ok(file)
}
