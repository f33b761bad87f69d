//! `cargo xtask chaos`: faults, one a trial, in a run that goes on; all that came out is compared with all
//! that was committed after every 20 trials. A row of the table of faults is run for as long as one likes,
//! and its results are added to the report.

mod clock;
mod disk;
mod halts;
mod injector;
mod large;
mod late;
mod links;
mod pair;
mod points;
mod registry;
pub mod report;
mod row;
mod scene;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use millrace_ledger::run;
use xtask::{Context, Error, Result};

use super::binary::{self, Profile};
use super::interrupt::{EXIT_INTERRUPTED, Interrupt};
use injector::Injector;
use report::Line;
use row::Row;
use scene::Scene;

/// A run of so many trials is read back and compared as a whole; a failing one is short to replay.
const TRIALS_A_RUN: u32 = 20;

#[derive(clap::Args)]
pub struct Arguments {
    /// Rows of the table of faults, parted by commas.
    #[arg(long = "fault", value_delimiter = ',', required_unless_present = "every_run")]
    rows: Vec<Row>,
    /// Of each row; without it as many as belong to every run of the tests.
    #[arg(long)]
    trials: Option<u32>,
    /// Of the first run; each run of 20 trials has the next one, and replays with its own.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which of a row's kinds the first trial takes; from there on they take turns.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Rows of F17's one transaction.
    #[arg(long, default_value_t = 100_000)]
    large_rows: u64,
    /// Every row, a few times each.
    #[arg(long)]
    every_run: bool,
    /// The feature `transaction.version` of the broker.
    #[arg(long)]
    transaction_version: Option<u8>,
    /// Adds the results to tests/ledger/REPORT.md.
    #[arg(long)]
    report: bool,
    /// The daemon, built with debug assertions; without it it is built.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => binary::build(Profile::Debug).await?,
    };
    let mut lines = Vec::new();
    let outcome = tokio::select! {
        biased;
        () = interrupt.asked(1) => None,
        outcome = all(&arguments, binary, &mut lines) => Some(outcome),
    };
    // What was checked in full counts, also when the rest was not waited for.
    if arguments.report && !lines.is_empty() {
        println!("written: {}", report::append(&lines)?.display());
    }
    for line in &lines {
        println!("{line}");
    }
    match outcome {
        None => {
            println!("stopped before the end: the run under way proves nothing");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        Some(outcome) => {
            outcome?;
            let passed = lines.iter().all(|line| line.failures == 0);
            Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

async fn all(arguments: &Arguments, binary: PathBuf, lines: &mut Vec<Line>) -> Result<()> {
    println!("-- starting Kafka, the schema registry and Postgres");
    let dir = binary::target()?.join("chaos");
    let rows = if arguments.every_run { Row::ALL.to_vec() } else { arguments.rows.clone() };
    let mut scene: Option<Scene> = None;
    for row in rows {
        let trials = arguments.trials.unwrap_or_else(|| row.every_run());
        if trials > 0 {
            // One set of servers for all rows but the one whose broker has a small disk.
            let fits = scene.as_ref().is_some_and(|scene| scene.disk.is_some() == (row == Row::F14));
            if !fits {
                scene = None;
            }
            let scene = match &mut scene {
                Some(scene) => &*scene,
                none => none.insert(Scene::set(&binary, &dir, arguments.transaction_version, row).await?),
            };
            lines.push(Line::begin(row, scene, arguments.seed)?);
            let line = lines.last_mut().ok_or_else(|| Error::new("no line was begun"))?;
            println!("-- {row}: {trials} trials: {}", row.what());
            trials_of(scene, row, trials, arguments, line).await?;
        }
    }
    Ok(())
}

/// Run after run, until there are enough or one fails.
async fn trials_of(
    scene: &Scene,
    row: Row,
    trials: u32,
    arguments: &Arguments,
    line: &mut Line,
) -> Result<()> {
    while line.trials < trials && line.failures == 0 {
        let (began, seed) = (Instant::now(), line.next_seed);
        let count = (trials - line.trials).min(TRIALS_A_RUN);
        // Kinds take turns over all runs of a row, so a run's first follows from its seed.
        let turn =
            arguments.first + usize::try_from(seed.wrapping_sub(1)).unwrap_or(0) * TRIALS_A_RUN as usize;
        let (done, failure) = match row {
            Row::F12 => halting(scene, count, seed, turn).await?,
            _ => {
                let mut injector = Injector::new(row, scene, turn, arguments.large_rows);
                going_on(scene, row, count, seed, &mut injector).await
            }
        };
        line.trials += done;
        line.next_seed += 1;
        line.took += began.elapsed();
        if let Some(failure) = failure {
            line.failures += 1;
            line.failed_seed.get_or_insert(seed);
            println!(
                "{row} FAILED with seed {seed}: replay with `cargo xtask chaos --fault {row} --trials {count} --seed {seed}`"
            );
            println!("{failure}");
        }
    }
    Ok(())
}

/// A run that goes on after each fault: how many trials it came to, and what is wrong with it.
async fn going_on(
    scene: &Scene,
    row: Row,
    count: u32,
    seed: u64,
    injector: &mut Injector<'_>,
) -> (u32, Option<String>) {
    let config = scene.config(row, count, seed);
    let outcome = run::run(&config, injector, |news| println!("{news}")).await;
    scene.links_pass();
    match outcome {
        Err(error) if row.must_show() => (count, Some(format!("the run could not be finished: {error}"))),
        Err(error) => (0, Some(format!("the run could not be finished: {error}"))),
        Ok(report) if row.must_show() => {
            let shown = !report.passed();
            println!("{report}");
            (count, (!shown).then(|| "nothing was found although the rule is off".to_owned()))
        }
        Ok(report) if report.passed() => {
            println!("{}", report.in_short());
            (report.trials, None)
        }
        Ok(report) => (report.trials, Some(report.to_string())),
    }
}

/// Runs that end with a halt, each a trial.
async fn halting(scene: &Scene, count: u32, seed: u64, turn: usize) -> Result<(u32, Option<String>)> {
    for trial in 0..count {
        let mut config = scene.config(Row::F12, 1, seed);
        config.between = Duration::ZERO;
        let kind = halts::EACH[(turn + trial as usize) % halts::EACH.len()];
        match halts::trial(&config, kind).await {
            Ok(told) => println!("F12 trial {} of seed {seed}: {told}", trial + 1),
            Err(error) => return Ok((trial + 1, Some(error.to_string()))),
        }
    }
    Ok((count, None))
}

impl Line {
    fn begin(row: Row, scene: &Scene, seed: u64) -> Result<Line> {
        let commit = super::bench::commit().context(|| "what was tested".to_owned())?;
        Ok(Line::new(row, scene.transaction_version, commit, seed))
    }
}
