//! `cargo xtask`: every command of the README. Arguments in, one module of `commands` each, exit code out.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::Result;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
/// Runs the tools of the repository.
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Real Kafka, schema registry and Postgres on this machine.
    #[command(subcommand)]
    Services(commands::services::Action),
    /// From a bare machine to events: servers, a shop under load, the daemon, and what a consumer sees.
    Demo(commands::demo::Arguments),
    /// Exactly once, proved: writers at work, the daemon killed at random moments, everything compared.
    Ledger(commands::ledger::Arguments),
    /// Faults of every kind, one a trial, in a run that goes on and is checked in full.
    Chaos(commands::chaos::Arguments),
    /// The figures of tests/bench/REPORT.md, measured on servers of their own.
    #[command(subcommand)]
    Bench(commands::bench::Question),
    /// The daemon and a live Debezium on the same database, compared record by record.
    #[command(subcommand)]
    Diff(commands::diff::Subject),
    /// Bytes that nobody sends, given to every parser of foreign bytes.
    Fuzz(commands::fuzz::Arguments),
    /// Everything that has to hold before a change is accepted.
    Test(commands::test::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome: Result<ExitCode> = match Arguments::parse().command {
        Command::Services(action) => commands::services::run(action).await,
        Command::Demo(arguments) => commands::demo::run(arguments).await,
        Command::Ledger(arguments) => commands::ledger::run(arguments).await,
        Command::Diff(subject) => commands::diff::run(subject).await,
        Command::Chaos(arguments) => commands::chaos::run(arguments).await,
        Command::Bench(question) => commands::bench::run(question).await,
        Command::Fuzz(arguments) => commands::fuzz::run(&arguments),
        Command::Test(arguments) => commands::test::run(arguments).await,
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
