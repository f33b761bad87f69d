//! A run: writers at work and a daemon that captures them; one fault a trial, after each of which everything
//! committed so far is read and its order checked; in the end everything is read back and compared. Start at
//! [`run`]; what a [`Fault`] can do is what [`Stage`] offers.

mod completeness;
mod kills;
mod live;
mod proof;
mod report;
mod settled;
mod stage;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::checker::{Limits, Verdict};
use crate::daemon::{ConnectorFile, Daemon, Login};
use crate::events::Decoder;
use crate::position::Positions;
use crate::writers::connect;
use crate::{Error, Result, position, snapshot};

pub use kills::Kills;
use proof::Proof;
pub use report::{Planted, RECOVERY_MAX, Recovery, Report, Watermarks};
pub use stage::Stage;

const JUDGE_PATIENCE: Duration = Duration::from_secs(30);

/// What is run against what.
#[derive(Clone, Debug)]
pub struct Config {
    /// With the password in it. The schema `ledger` of this database is dropped and made anew.
    pub postgres_url: String,
    pub bootstrap: String,
    /// The Confluent-compatible root of the registry.
    pub registry_url: String,
    /// Where the daemon finds the same servers; not always where the checker does.
    pub links: Links,
    /// The daemon's binary.
    pub binary: PathBuf,
    /// For the connector's file and the daemon's log.
    pub dir: PathBuf,
    /// The connector: names topics and slot, so it must be new on these servers.
    pub connector: String,
    pub trials: u32,
    pub seed: u64,
    /// Between two faults, on average.
    pub between: Duration,
    pub writers: usize,
    pub changes_max: u64,
    pub changes_per_second: Option<u64>,
    pub partitions: u32,
    pub transaction_timeout: Option<Duration>,
    pub socket_timeout: Option<Duration>,
    pub cut_bytes: Option<u64>,
    pub high_availability: bool,
    /// The rows that are there before the connector is are read, so many at once; otherwise there are none.
    pub snapshot_chunk_rows: Option<u64>,
    pub login: Login,
    /// At most: behind on everything that was written while the daemon was down.
    pub drains_within: Duration,
    pub limits: Limits,
    /// Tests the checker itself with faults planted into what was read.
    pub planted: bool,
}

/// The daemon's way to its servers.
#[derive(Clone, Debug)]
pub struct Links {
    pub postgres_url: String,
    pub bootstrap: String,
    pub registry_url: String,
}

impl Config {
    /// 16 writers, up to 10,000 changes a transaction, four seconds for each trial.
    pub fn new(
        postgres_url: &str,
        bootstrap: &str,
        registry_url: &str,
        binary: PathBuf,
        dir: PathBuf,
    ) -> Config {
        let started = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_millis());
        Config {
            postgres_url: postgres_url.to_owned(),
            bootstrap: bootstrap.to_owned(),
            registry_url: registry_url.to_owned(),
            links: Links {
                postgres_url: postgres_url.to_owned(),
                bootstrap: bootstrap.to_owned(),
                registry_url: registry_url.to_owned(),
            },
            binary,
            dir,
            connector: format!("ledger_{started}"),
            trials: 20,
            seed: 1,
            between: Duration::from_secs(4),
            writers: 16,
            changes_max: 10_000,
            changes_per_second: Some(3_000),
            partitions: 4,
            transaction_timeout: None,
            socket_timeout: None,
            cut_bytes: None,
            high_availability: false,
            snapshot_chunk_rows: None,
            login: Login::default(),
            drains_within: Duration::from_secs(300),
            limits: Limits { uncut_changes_max: u64::MAX, positions: true },
            planted: true,
        }
    }

    pub fn connector_file(&self) -> ConnectorFile {
        ConnectorFile {
            name: self.connector.clone(),
            slot: self.slot(),
            postgres_url: self.links.postgres_url.clone(),
            bootstrap: self.links.bootstrap.clone(),
            registry_url: self.links.registry_url.clone(),
            partitions: self.partitions,
            position_topic: self.position_topic(),
            transaction_timeout: self.transaction_timeout,
            socket_timeout: self.socket_timeout,
            cut_bytes: self.cut_bytes,
            high_availability: self.high_availability,
            snapshot_chunk_rows: self.snapshot_chunk_rows,
            login: self.login.clone(),
        }
    }

    pub fn slot(&self) -> String {
        format!("millrace_{}", self.connector)
    }

    pub fn position_topic(&self) -> String {
        position::topic(&self.connector)
    }

    /// What the connector delivers of its tables, by what it has committed so far.
    async fn begins(&self) -> Result<snapshot::Begins> {
        match self.snapshot_chunk_rows {
            None => Ok(snapshot::Begins::Empty),
            Some(_) => Ok(self.notes().await?.begins()),
        }
    }

    async fn notes(&self) -> Result<snapshot::Notes> {
        snapshot::Notes::read(&self.bootstrap, &self.position_topic()).await
    }

    fn decoder(&self) -> Result<Decoder> {
        Decoder::new(&self.registry_url, &self.connector)
    }
}

/// What strikes once a trial.
pub trait Fault {
    /// As in the table of faults: `F1`.
    fn name(&self) -> &'static str;

    /// How soon the daemon must be at work again, once nothing is in its way.
    fn recovery_max(&self) -> Duration {
        RECOVERY_MAX
    }

    /// The first start, up to the first position; a fault may strike on the way.
    fn first_start(&mut self, stage: &mut Stage) -> impl Future<Output = Result<()>> {
        stage.first_start()
    }

    /// Breaks something and mends it.
    fn strike(&mut self, stage: &mut Stage) -> impl Future<Output = Result<Struck>>;
}

/// What was done, and when the last obstacle was gone.
#[derive(Debug)]
pub struct Struck {
    pub what: String,
    /// `None`: the next trial comes before the daemon is at work again.
    pub free_since: Option<Instant>,
}

impl Struck {
    /// The way is free from now on.
    pub fn now(what: impl Into<String>) -> Struck {
        Struck { what: what.into(), free_since: Some(Instant::now()) }
    }
}

/// Runs it; `say` is told how far it has come. An error means that the run could not be finished,
/// a report that did not pass means that something was found.
pub async fn run<F: Fault>(config: &Config, fault: &mut F, mut say: impl FnMut(String)) -> Result<Report> {
    let began = Instant::now();
    let mut stage = Stage::prepare(config).await?;
    let outcome = trials(&mut stage, fault, &mut say).await;
    let stopped_orderly = outcome.map_err(|error| with_log(error, &stage.daemon))?;
    let totals = stage.totals();
    let Stage { watch, recoveries, torn, disorder, trials, .. } = stage;
    let audit = watch.finish().await?;
    let admin = connect(&config.postgres_url).await?;
    let proof = Proof::collect(config, &admin).await?;
    say(format!("checking {} events", proof.found.events.len()));
    let verdict = proof.verdict(config, &audit.marks);
    let planted = if config.planted { proof.plant_all(config, &audit.marks) } else { Vec::new() };
    stage::drop_slot(config, &admin).await?;
    Ok(Report {
        fault: fault.name(),
        connector: config.connector.clone(),
        seed: config.seed,
        trials,
        seconds: began.elapsed().as_secs_f64(),
        written: totals,
        verdict,
        disorder,
        torn_after_kills: torn,
        audit: Watermarks {
            samples: audit.samples,
            missed: audit.missed,
            breaches_total: audit.breaches_total,
            positions: u64::try_from(audit.marks.len())?,
            breaches: audit.breaches,
        },
        recovery: Recovery::of(recoveries, fault.recovery_max()),
        planted,
        stopped_orderly,
    })
}

/// From the first start to the orderly end. A trial that shows a fault is the last one.
async fn trials<F: Fault>(stage: &mut Stage, fault: &mut F, say: &mut impl FnMut(String)) -> Result<bool> {
    fault.first_start(stage).await?;
    stage.set_writers_to_work().await?;
    for trial in 1..=stage.config.trials {
        stage.work_a_while().await;
        let struck = fault.strike(stage).await?;
        let told = match struck.free_since {
            None => "the next comes at once".to_owned(),
            Some(since) => {
                let recovery = stage.at_work_since(since).await?;
                format!("at work again in {:.1} s", recovery.as_secs_f64())
            }
        };
        stage.trials = trial;
        let seen = stage.catch_up().await?;
        let name = fault.name();
        say(format!(
            "{name} trial {trial} of seed {}: {}; {told}; {seen} events",
            stage.config.seed, struck.what
        ));
        if let Some(text) = stage.disorder.first().or(stage.torn.first()) {
            say(format!("{name} trial {trial}: FOUND: {text}"));
            break;
        }
    }
    stage.drain().await?;
    let stopped_orderly = stage.daemon.stop().await?.success();
    if stage.disorder.is_empty() && stage.torn.is_empty() {
        stage.daemon.audit().await?;
    }
    Ok(stopped_orderly)
}

/// What the checker says of what lies in Kafka and in the database now, whoever wrote it there.
pub async fn judge(config: &Config) -> Result<Verdict> {
    let admin = connect(&config.postgres_url).await?;
    let proof = Proof::collect(config, &admin).await?;
    let mut positions = Positions::new(&config.bootstrap, config.position_topic(), JUDGE_PATIENCE);
    positions.newest().await?;
    Ok(proof.verdict(config, &positions.marks))
}

fn with_log(error: Error, daemon: &Daemon) -> Error {
    format!("{error}\nthe end of {}:\n{}", daemon.log().display(), daemon.log_tail()).into()
}
