//! The command line: which verb, with what. Each verb gives the exit code.
//!
//! 0 as asked; 1 stopped by an error in the data or in a server; 2 the file or a precondition must change;
//! 3 not drained in time; 130 and 143 by a second signal.

mod audit;
mod check;
mod dead_letters;
mod health;
mod position;
mod remove;
mod run;
mod signals;
mod upgrade;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use millrace_core::chaos;

use crate::config::{Environment, Problem};
use crate::telemetry::{self, LogFormat};

/// The file or a precondition must change.
const EXIT_CONFIG: u8 = 2;
/// A server or the data said no.
const EXIT_FAILED: u8 = 1;

#[derive(Debug, Parser)]
#[command(
    name = "millrace",
    version,
    about = "Change data capture from Postgres and MongoDB to Kafka, exactly once"
)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    logs: Logs,
}

#[derive(Debug, Args)]
struct Logs {
    /// How log lines look; they go to standard error.
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    /// error, warn, info, debug, trace, or a filter like info,millrace_kafka=debug.
    #[arg(long, global = true, default_value = "info")]
    log_level: String,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs every connector until it is told to stop.
    Run(Run),
    /// Proves every precondition of one connector and changes nothing.
    Check {
        /// A connector's file.
        file: PathBuf,
    },
    /// Proves from a connector's own topics that nothing is there twice, out of order or in part.
    Audit {
        /// A connector's file.
        file: PathBuf,
    },
    /// Shows where a connector stands, or moves it. Moving needs the connector stopped.
    Position {
        /// A connector's file.
        file: PathBuf,
        #[command(subcommand)]
        action: position::Action,
    },
    /// Whether a daemon on this machine lives, by the exit code: for the health checks of containers.
    Health {
        /// Where its REST listens.
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8083")]
        rest: SocketAddr,
    },
    /// Drops a connector's slot, publication and position, and lists slots that nobody reads. Needs it stopped.
    Remove {
        /// A connector's file.
        file: PathBuf,
        /// Asks nothing.
        #[arg(long)]
        yes: bool,
    },
    /// Before a major upgrade of Postgres, with nobody writing: delivers everything and records that nothing more comes.
    Drain(upgrade::Drain),
    /// After it, before anybody writes: goes on at the new server, without a gap and without reading rows again.
    Adopt(upgrade::Adopt),
    /// Lists, shows and replays what could not be delivered.
    DeadLetters {
        /// A connector's file.
        file: PathBuf,
        #[command(subcommand)]
        action: dead_letters::Action,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Files of connectors, or folders with *.toml files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Where REST listens, instead of what [rest] says; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    rest: Option<SocketAddr>,
    /// Ends once every connector has ended with an error, instead of staying to be asked why.
    #[arg(long)]
    exit_on_failure: bool,
}

/// Does what was asked; gives the exit code.
pub async fn main(arguments: Arguments) -> u8 {
    if let Err(error) = telemetry::init(arguments.logs.log_format, &arguments.logs.log_level) {
        eprintln!("millrace: {error}\n  hint: {}", error.hint_text().unwrap_or_default());
        return EXIT_CONFIG;
    }
    if let Some(order) = Environment::of_process().chaos()
        && let Err(why) = chaos::arm(order)
    {
        tracing::error!("cannot start: {why}");
        return EXIT_CONFIG;
    }
    match arguments.verb {
        Verb::Run(run) => run::run(run).await,
        Verb::Check { file } => check::check(file).await,
        Verb::Audit { file } => audit::audit(file).await,
        Verb::DeadLetters { file, action } => dead_letters::dead_letters(file, action).await,
        Verb::Health { rest } => health::health(rest).await,
        Verb::Remove { file, yes } => remove::remove(file, yes).await,
        Verb::Drain(asked) => upgrade::drain(asked).await,
        Verb::Adopt(asked) => upgrade::adopt(asked).await,
        Verb::Position { file, action } => position::position(file, action).await,
    }
}

/// Names everything that is wrong with the files.
fn refuse(problems: &[Problem]) -> u8 {
    for problem in problems {
        eprintln!("{problem}");
    }
    EXIT_CONFIG
}
