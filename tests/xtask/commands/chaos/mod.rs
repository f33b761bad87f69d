//! `cargo xtask chaos`: faults, one a trial, in a run that goes on; all that came out is compared with all
//! that was committed after every 20 trials. A row of the table of faults is run for as long as one likes,
//! and its results are added to the report.

mod away;
mod clock;
mod disk;
mod evidence;
mod halts;
mod injector;
mod large;
mod late;
mod links;
mod many;
mod memory;
mod pair;
mod points;
pub mod primary;
mod promotion;
mod read_rows;
mod registry;
pub mod report;
mod rotation;
mod row;
mod scene;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use millrace_ledger::run;
use millrace_ledger::writers::Large;
use xtask::{Context, Error, Result};

use super::binary::{self, Profile};
use super::interrupt::{EXIT_INTERRUPTED, Interrupt};
use injector::Injector;
use report::Line;
use row::Row;
use scene::Scene;

#[derive(clap::Args)]
pub struct Arguments {
    /// Rows of the table of faults, parted by commas.
    #[arg(long = "fault", value_delimiter = ',', required_unless_present = "every_run")]
    rows: Vec<Row>,
    /// Of each row; without it as many as belong to every run of the tests.
    #[arg(long)]
    trials: Option<u32>,
    /// Goes on with each row for so long instead; the run under way is finished.
    #[arg(long, conflicts_with = "trials")]
    minutes: Option<u64>,
    /// A run of so many is read back and compared as a whole; a failing one is short to replay.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    trials_a_run: u32,
    /// Of the first run; each run has the next one, and replays with its own.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which of a row's kinds the first trial takes; from there on they take turns.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Rows of F17's one transaction.
    #[arg(long, default_value_t = 100_000)]
    large_rows: u64,
    /// Of a text in each of them; without it they are narrow.
    #[arg(long, default_value_t = 0)]
    large_text_bytes: usize,
    /// Tables of F17's other half.
    #[arg(long, default_value_t = 1_000)]
    tables: u32,
    /// Multiplies the time that the daemon may take to recover, on a machine that does other work besides.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    slack: u32,
    /// Every row, a few times each.
    #[arg(long)]
    every_run: bool,
    /// Of these rows the first part of so many (1/2), on servers of its own; the other parts may run beside it.
    #[arg(long, requires = "every_run", default_value = "1/1")]
    part: Part,
    /// The feature `transaction.version` of the broker.
    #[arg(long)]
    transaction_version: Option<u8>,
    /// Adds the results to the table of trials, each row's when it has ended; in tests/ledger/REPORT.md where no
    /// other file is named.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = report::FILE)]
    report: Option<PathBuf>,
    /// The daemon, built with debug assertions; without it it is built.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// The commit that the daemon was built from; without it the one that is checked out.
    #[arg(long, value_name = "COMMIT", requires = "binary")]
    built_from: Option<String>,
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
    if outcome.is_none()
        && let (Some(file), Some(line)) = (&arguments.report, lines.last())
    {
        report::append(file, line)?;
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
    let dir = binary::target()?.join("chaos");
    let rows = match arguments.every_run {
        true => arguments.part.of(Row::ALL.iter().copied().filter(|row| row.every_run() > 0)),
        false => arguments.rows.clone(),
    };
    let job = Job { arguments, binary: &binary, dir: &dir };
    let mut servers: Option<Servers> = None;
    for row in rows {
        let trials = match (arguments.trials, arguments.minutes) {
            (Some(trials), _) => trials,
            (None, Some(_)) => u32::MAX,
            (None, None) => row.every_run(),
        };
        if trials > 0 {
            servers.take_if(|servers| !servers.fit(row));
            let servers = match &mut servers {
                Some(servers) => &*servers,
                none => none.insert(job.servers(row).await?),
            };
            lines.push(Line::begin(row, arguments)?);
            let line = lines.last_mut().ok_or_else(|| Error::new("no line was begun"))?;
            println!("-- {row}: {}", row.what());
            job.trials_of(servers, row, trials, line).await?;
            if let Some(file) = &arguments.report {
                println!("written: {}", report::append(file, line)?.display());
            }
        }
    }
    Ok(())
}

/// One of so many.
#[derive(Clone, Copy, Debug)]
struct Part {
    number: usize,
    parts: usize,
}

impl Part {
    /// Every so manieth: what takes long lies side by side in the table.
    fn of(self, rows: impl Iterator<Item = Row>) -> Vec<Row> {
        rows.skip(self.number - 1).step_by(self.parts).collect()
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match numbers {
            Some((number, parts)) if (1..=parts).contains(&number) => Ok(Self { number, parts }),
            _ => Err("expected a part of so many, as 1/2".to_owned()),
        }
    }
}

/// What the daemon of a row works between.
enum Servers {
    Postgres(Box<Scene>),
    Mongodb(Box<primary::Set>),
}

impl Servers {
    /// One set for all rows but MongoDB's, the one whose broker has a small disk and the one with logins.
    fn fit(&self, row: Row) -> bool {
        match self {
            Servers::Postgres(scene) => {
                let disk_fits = scene.disk.is_some() == (row == Row::F14);
                row != Row::F7 && disk_fits && scene.has_logins == (row == Row::F16)
            }
            Servers::Mongodb(_) => row == Row::F7,
        }
    }
}

/// What is run.
struct Job<'a> {
    arguments: &'a Arguments,
    binary: &'a Path,
    dir: &'a Path,
}

impl Job<'_> {
    async fn servers(&self, row: Row) -> Result<Servers> {
        if row == Row::F7 {
            return Ok(Servers::Mongodb(Box::new(primary::Set::start().await?)));
        }
        println!("-- starting Kafka, the schema registry and Postgres");
        let version = self.arguments.transaction_version;
        Ok(Servers::Postgres(Box::new(Scene::set(self.binary, self.dir, version, row).await?)))
    }

    /// Run after run, until there are enough or one fails.
    async fn trials_of(&self, servers: &Servers, row: Row, trials: u32, line: &mut Line) -> Result<()> {
        let arguments = self.arguments;
        let until = arguments.minutes.map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
        while line.trials < trials && line.failures == 0 && until.is_none_or(|until| Instant::now() < until) {
            let (began, seed) = (Instant::now(), line.next_seed);
            let count = row.trials_of_a_run(trials - line.trials, arguments.trials_a_run);
            // Kinds take turns over all runs of a row, so a run's first follows from its seed.
            let turn = arguments.first
                + usize::try_from(seed.wrapping_sub(1)).unwrap_or(0) * arguments.trials_a_run as usize;
            let (done, failure) = match (servers, row) {
                (Servers::Mongodb(set), _) => self.leaderless(set, count, seed, line).await?,
                (Servers::Postgres(scene), Row::F12) => halting(scene, count, seed, turn).await?,
                (Servers::Postgres(scene), Row::F6) => {
                    promotions(scene, count, seed, arguments.slack, line).await
                }
                (Servers::Postgres(scene), Row::F17Tables) => {
                    many_tables(scene, count, seed, arguments.tables).await
                }
                (Servers::Postgres(scene), _) => {
                    let large = Large { rows: arguments.large_rows, text_bytes: arguments.large_text_bytes };
                    let injector = Injector::new(row, scene, turn, large, arguments.slack);
                    going_on(scene, count, seed, injector, line).await
                }
            };
            line.trials += done;
            line.next_seed += 1;
            line.took += began.elapsed();
            if let Some(failure) = failure {
                line.failures += 1;
                line.failed_seed.get_or_insert(seed);
                println!(
                    "{row} FAILED with seed {seed}: replay with `cargo xtask chaos --fault {row} --trials {count} \
                     --trials-a-run {} --seed {seed}`",
                    arguments.trials_a_run
                );
                println!("{failure}");
                if let Servers::Postgres(scene) = servers {
                    match evidence::keep(&scene.servers(), self.dir, &format!("{row}-{seed}")) {
                        Ok(kept) => println!("logs and records are kept in {}", kept.display()),
                        // The rest goes on without.
                        Err(error) => println!("not all logs and records are kept: {error}"),
                    }
                }
            }
        }
        Ok(())
    }

    /// A run in which the primary is struck so often.
    async fn leaderless(
        &self,
        set: &primary::Set,
        count: u32,
        seed: u64,
        line: &mut Line,
    ) -> Result<(u32, Option<String>)> {
        let report = set.run(self.binary, self.dir, count, seed).await?;
        line.recovery_worst = line.recovery_worst.max(Duration::from_millis(report.recovery.worst_ms));
        Ok((count, (!report.passed()).then(|| report.to_string())))
    }
}

/// A run that goes on after each fault: how many trials it came to, and what is wrong with it.
async fn going_on(
    scene: &Scene,
    count: u32,
    seed: u64,
    mut injector: Injector<'_>,
    line: &mut Line,
) -> (u32, Option<String>) {
    let row = injector.row;
    let mut config = scene.config(row, count, seed);
    if row == Row::F2 {
        // Its large transactions take long beside other work, and would be cut.
        config.transaction_timeout = config.transaction_timeout.map(|timeout| timeout * line.slack);
    }
    let outcome = run::run(&config, &mut injector, |news| println!("{news}")).await;
    scene.links_pass();
    if let Ok(report) = &outcome {
        line.recovery_worst = line.recovery_worst.max(Duration::from_millis(report.recovery.worst_ms));
    }
    if let Some(growth) = injector.memory() {
        line.memory.add(growth);
    }
    match outcome {
        Ok(report) if report.passed() && line.memory.finding().is_some() => {
            println!("{}", report.in_short());
            (report.trials, line.memory.finding())
        }
        Err(error) => (0, Some(format!("the run could not be finished: {error}"))),
        Ok(report) if row.must_show() => {
            let shown = !report.passed();
            println!("{report}");
            // The first trial that shows it is the run's last.
            (report.trials, (!shown).then(|| "nothing was found although the rule is off".to_owned()))
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

/// Runs with servers of their own, each a trial.
async fn promotions(
    scene: &Scene,
    count: u32,
    seed: u64,
    slack: u32,
    line: &mut Line,
) -> (u32, Option<String>) {
    for trial in 1..=count {
        match promotion::trial(&scene.config(Row::F6, 1, seed), slack).await {
            Ok((told, recovery)) => {
                line.recovery_worst = line.recovery_worst.max(recovery);
                println!("F6 trial {trial} of seed {seed}: {told}");
            }
            Err(error) => return (trial, Some(error.to_string())),
        }
    }
    (count, None)
}

/// A run for each trial.
async fn many_tables(scene: &Scene, count: u32, seed: u64, tables: u32) -> (u32, Option<String>) {
    for trial in 1..=count {
        match many::trial(&scene.config(Row::F17Tables, 1, seed), tables).await {
            Ok(told) => println!("F17-tables trial {trial} of seed {seed}: {told}"),
            Err(error) => return (trial, Some(error.to_string())),
        }
    }
    (count, None)
}

impl Line {
    fn begin(row: Row, arguments: &Arguments) -> Result<Line> {
        let commit = match &arguments.built_from {
            Some(commit) => commit.clone(),
            None => super::bench::commit().context(|| "what was tested".to_owned())?,
        };
        Ok(Line::new(row, arguments.transaction_version, commit, arguments.seed, arguments.slack))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_rows_are_all_of_them_once() {
        let of = |text: &str| text.parse::<Part>().expect("a part").of(Row::ALL.into_iter());
        let mut all = [of("1/2"), of("2/2")].concat();
        all.sort_by_key(|row| Row::ALL.iter().position(|other| other == row));
        assert_eq!(all, Row::ALL);
        for text in ["0/2", "3/2", "2", "a/b", "1/"] {
            assert!(text.parse::<Part>().is_err(), "{text}");
        }
    }
}
