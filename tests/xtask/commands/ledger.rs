//! `cargo xtask ledger`: exactly once, proved. Writers at work, the daemon killed -9 at random moments, then
//! everything that reached Kafka compared with everything that was committed; and the comparison itself put
//! to the test, with faults that are planted into what was read.

mod mongodb;
mod report;

use std::process::ExitCode;

use millrace_ledger::run::{self, Kills, Report};
use xtask::services::{Config, Home, Services};
use xtask::{Context, Result};

use super::binary::{self, Profile};
use super::interrupt::{EXIT_INTERRUPTED, Interrupt};

#[derive(clap::Args)]
pub struct Arguments {
    /// How often the daemon is killed in each run.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Decides what is written and when it is killed; several, parted by commas, are as many runs.
    #[arg(long = "seed", value_delimiter = ',', default_values_t = [1])]
    seeds: Vec<u64>,
    /// The daemon's debug build, with its assertions.
    #[arg(long)]
    debug: bool,
    /// Where the changes come from.
    #[arg(long, value_enum, default_value_t = Source::Postgres)]
    source: Source,
    /// Writes tests/ledger/REPORT.md, or REPORT-MONGODB.md beside it.
    #[arg(long)]
    report: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    Postgres,
    Mongodb,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    tokio::select! {
        biased;
        () = interrupt.asked(1) => {
            println!("stopped before the end: nothing is proved");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        outcome = prove(&arguments) => outcome,
    }
}

async fn prove(arguments: &Arguments) -> Result<ExitCode> {
    let profile = if arguments.debug { Profile::Debug } else { Profile::Release };
    let binary = binary::build(profile).await?;
    if arguments.source == Source::Mongodb {
        let passed = mongodb::prove(arguments, profile, &binary, &binary::target()?.join("ledger")).await?;
        return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    println!("-- starting Kafka, the schema registry and Postgres");
    let services = Services::start_new(&Config::default(), &Home::temporary()?).await?;
    // Not beside the servers' data: the daemon's log outlives them, for whoever has to find a fault in it.
    let dir = binary::target()?.join("ledger");
    let mut reports = Vec::new();
    for seed in &arguments.seeds {
        let mut config = run::Config::new(
            &services.postgres.url(),
            &services.kafka.bootstrap(),
            &services.registry.url(),
            binary.clone(),
            dir.clone(),
        );
        config.trials = arguments.kills;
        config.seed = *seed;
        println!("-- seed {seed}: {} kills; the daemon's log: {}", arguments.kills, dir.display());
        let ran = run::run(&config, &mut Kills, |news| println!("{news}")).await;
        let report = ran.context(|| format!("the run with seed {seed} could not be finished"))?;
        println!("{report}");
        reports.push(report);
    }
    let passed = reports.iter().all(Report::passed);
    if arguments.report {
        println!("written: {}", report::write(profile, &services, &reports).await?.display());
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
