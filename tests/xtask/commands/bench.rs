//! `cargo xtask bench`: the figures of the report, measured on servers of their own.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, Subcommand};
use millrace_bench::{Bench, Servers, large, latency, mongodb, outbox, recovery, snapshot, throughput};
use xtask::services::{Config, Home, KafkaVersion, Mongodb, Server, Services, repository};
use xtask::{Context, Error, Result, cargo};

/// The program itself and not Debian's wrapper, a script whose time would count too.
const PG_RECVLOGICAL: &str = "/usr/lib/postgresql/15/bin/pg_recvlogical";

#[derive(Subcommand)]
pub enum Question {
    /// Throughput against pg_recvlogical, on the same log in alternating runs.
    Postgres(Throughput),
    /// Throughput of an outbox against pg_recvlogical, on the same log in alternating runs.
    Outbox(Events),
    /// Throughput against a bare reader of the change stream, on the same log in alternating runs.
    Mongodb(Documents),
    /// From a commit to a consumer, under steady loads.
    Latency(Latency),
    /// From kill -9, and from a cold start, to the first new event.
    Recovery(Recovery),
    /// One transaction larger than memory.
    LargeTransaction(Large),
    /// Rows that were there before, against COPY.
    Snapshot(Snapshot),
    /// All of them.
    All(All),
}

#[derive(Args)]
pub struct Throughput {
    /// Counted rounds; one more comes first, to warm up.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Rows in transactions of 10,000.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Transactions of one row.
    #[arg(long, default_value_t = 300_000)]
    single_rows: u64,
}

#[derive(Args)]
pub struct Events {
    /// Counted rounds; one more comes first, to warm up.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Rows in transactions of 10,000, and as many in transactions of one.
    #[arg(long, default_value_t = 300_000)]
    events: u64,
}

#[derive(Args)]
pub struct Documents {
    /// Counted rounds; one more comes first, to warm up.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    #[arg(long, default_value_t = 300_000)]
    documents: u64,
}

#[derive(Args)]
pub struct Latency {
    /// The measured part of each load.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Commits a second.
    #[arg(long, value_delimiter = ',', default_values_t = [500, 2000])]
    rates: Vec<u64>,
}

#[derive(Args)]
pub struct Recovery {
    #[arg(long, default_value_t = 10)]
    kills: u32,
    #[arg(long, default_value_t = 5)]
    cold_starts: u32,
    /// Commits a second, all along.
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Of the moments of the kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
pub struct Large {
    /// 10^9 bytes of rows on the wire.
    #[arg(long, default_value_t = 2.0)]
    gigabytes: f64,
}

#[derive(Args)]
pub struct Snapshot {
    /// Counted rounds; three more come first, to warm up.
    #[arg(long = "snapshot-rounds", default_value_t = 5)]
    rounds: u32,
    /// Of all tables together.
    #[arg(long = "snapshot-rows", default_value_t = 1_000_000)]
    rows: u64,
    #[arg(long = "snapshot-tables", default_value_t = 4)]
    tables: u32,
    /// Empty ones, of the start with many of them.
    #[arg(long, default_value_t = 10_000)]
    many_tables: u32,
}

#[derive(Args)]
pub struct All {
    #[command(flatten)]
    throughput: Throughput,
    #[command(flatten)]
    latency: Latency,
    #[command(flatten)]
    recovery: Recovery,
    #[command(flatten)]
    large: Large,
    #[command(flatten)]
    snapshot: Snapshot,
}

pub async fn run(question: Question) -> Result<ExitCode> {
    if cfg!(debug_assertions) {
        return in_release_mode();
    }
    build("millrace")?;
    let home = Home::temporary()?;
    let services = Services::start_new(&config(), &home).await?;
    let mut bench = bench(&services, &home)?;
    let outcome = match question {
        Question::Postgres(arguments) => throughput::run(&bench, &arguments.into()).await,
        Question::Outbox(Events { rounds, events }) => {
            outbox::run(&bench, &outbox::Options { rounds, events }).await
        }
        Question::Mongodb(arguments) => documents(&mut bench, &services.mongodb, &arguments).await,
        Question::Latency(arguments) => latency::run(&bench, &arguments.into()).await,
        Question::Recovery(arguments) => recovery::run(&bench, &arguments.into()).await,
        Question::LargeTransaction(arguments) => large::run(&bench, &arguments.into()).await,
        Question::Snapshot(arguments) => snapshot::run(&bench, &arguments.into()).await,
        Question::All(arguments) => all(&bench, arguments).await,
    };
    outcome.context(|| "bench".to_owned())?;
    println!("written: {}", bench.report.display());
    Ok(ExitCode::SUCCESS)
}

async fn documents(bench: &mut Bench, set: &Mongodb, arguments: &Documents) -> millrace_bench::Result<()> {
    bench.servers.mongodb = Some(set.url());
    bench.server_notes = vec![
        "MongoDB: a replica set of one member with a cache of 0.3 GB, otherwise its defaults; Kafka: one broker, its \
         defaults and its start script's 1 GiB heap, topics of one partition"
            .to_owned(),
    ];
    let pids: Vec<u32> = set.members().iter().filter_map(Server::pid).collect();
    let options = mongodb::Options { rounds: arguments.rounds, documents: arguments.documents };
    mongodb::run(bench, &pids, &options).await
}

async fn all(bench: &Bench, arguments: All) -> millrace_bench::Result<()> {
    throughput::run(bench, &arguments.throughput.into()).await?;
    latency::run(bench, &arguments.latency.into()).await?;
    recovery::run(bench, &arguments.recovery.into()).await?;
    large::run(bench, &arguments.large.into()).await?;
    snapshot::run(bench, &arguments.snapshot.into()).await
}

/// The consumer and the writers measure too: they run as fast as the daemon does.
fn in_release_mode() -> Result<ExitCode> {
    build("xtask")?;
    let mut command = Command::new(release_dir()?.join("xtask"));
    // Becomes it, so that a signal to this process is a signal to the measurement.
    let error = command.args(std::env::args_os().skip(1)).exec();
    Err(Error::new(format!("xtask in release mode: {error}")))
}

/// One at a time: built together they would share features that the daemon alone does not have.
fn build(package: &str) -> Result<()> {
    let status =
        cargo(&["build", "--release", "--package", package]).status().context(|| "cargo build".to_owned())?;
    if status.success() { Ok(()) } else { Err(Error::new("cargo build --release failed")) }
}

/// Beside the directory of this very program, or that directory itself.
fn release_dir() -> Result<PathBuf> {
    let this = std::env::current_exe().context(|| "this program's own path".to_owned())?;
    let target = this.parent().and_then(Path::parent);
    let target = target.ok_or_else(|| Error::new("this program lies in no target directory"))?;
    Ok(target.join("release"))
}

fn config() -> Config {
    let mut config = Config::default();
    config.kafka.whole_heap = true;
    config.postgres.fsync = false;
    config.postgres.settings = vec![("autovacuum".into(), "off".into())];
    config
}

fn bench(services: &Services, home: &Home) -> Result<Bench> {
    let servers = Servers {
        postgres: services.postgres.url(),
        mongodb: None,
        bootstrap: services.kafka.bootstrap(),
        registry: services.registry.url(),
        broker_pids: services.kafka.brokers().iter().filter_map(Server::pid).collect(),
        millrace: release_dir()?.join("millrace"),
        pg_recvlogical: PG_RECVLOGICAL.into(),
    };
    let typed: Vec<String> = std::env::args().skip(1).collect();
    let kafka = match config().kafka.version {
        KafkaVersion::V4_3_0 => "4.3.0",
    };
    let versions = [("Millrace", commit()?), ("Kafka", kafka.into()), ("Apicurio Registry", "3.0.9".into())];
    Ok(Bench {
        servers,
        report: repository().join("tests/bench/REPORT.md"),
        scratch: home.dir.clone(),
        command: format!("cargo xtask {}", typed.join(" ")),
        versions: versions.map(|(name, version)| (name.to_owned(), version)).to_vec(),
        server_notes: vec![
            "Postgres: fsync, full_page_writes and autovacuum off, otherwise its defaults with \
             wal_level = logical; Kafka: one broker, its defaults and its start script's 1 GiB heap, \
             topics of one partition"
                .to_owned(),
        ],
    })
}

/// What the daemon was built from.
pub fn commit() -> Result<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(repository()).output();
        let output = output.context(|| "git".to_owned())?;
        Ok::<String, Error>(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ".",
        ":!tests/bench/REPORT.md",
        ":!tests/ledger/REPORT.md",
        ":!tests/ledger/REPORT-MONGODB.md",
        ":!tests/diff/REPORT*.md",
    ])?;
    Ok(if changed.is_empty() { commit } else { format!("{commit} with uncommitted changes") })
}

impl From<Throughput> for throughput::Options {
    fn from(Throughput { rounds, rows, single_rows }: Throughput) -> Self {
        Self { rounds, rows, single_rows }
    }
}

impl From<Latency> for latency::Options {
    fn from(Latency { seconds, rates }: Latency) -> Self {
        Self { seconds, rates }
    }
}

impl From<Recovery> for recovery::Options {
    fn from(Recovery { kills, cold_starts, rate, seed }: Recovery) -> Self {
        Self { kills, cold_starts, rate, seed }
    }
}

impl From<Large> for large::Options {
    fn from(Large { gigabytes }: Large) -> Self {
        Self { gigabytes }
    }
}

impl From<Snapshot> for snapshot::Options {
    fn from(Snapshot { rounds, rows, tables, many_tables }: Snapshot) -> Self {
        Self { rounds, rows, tables, many_tables }
    }
}
