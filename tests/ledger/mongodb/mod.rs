//! The same proof for MongoDB: writers whose transactions say in a journal of the same transaction what they
//! did, the daemon killed -9 and the set's primary too, then everything read back and given to the checker.
//! Start at [`run`].
//!
//! A document is compared by one hash of its JSON, so that for the checker it is a row of one column. The
//! collections have the names of ledger tables, because the checker knows those.

mod documents;
mod events;
mod report;
mod writers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mongodb::error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::{ClientOptions, ReadConcern, WriteConcern};
use mongodb::{Client, ClientSession};

use crate::checker::{Evidence, Limits, Mark, Verdict, check};
use crate::daemon::Daemon;
use crate::events::{Event, Events, Problem};
use crate::journal::{Content, Entry};
use crate::plant::{Fault, Planting, plant};
use crate::random::Random;
use crate::reader::{Extent, Isolation, Read, Reader, Start, TopicPartition};
use crate::run::{Planted, RECOVERY_MAX, Recovery};
use crate::snapshot::Begins;
use crate::{Result, position};

use documents::{COLLECTIONS, read_content, read_journal};
use events::Decoder;
pub use report::Report;
use writers::{Workload, Writers};

/// A first start creates topics and schemas, beside the writers' own start.
const FIRST_START_MAX: Duration = Duration::from_secs(60);
/// Beyond what is allowed, so that a slow recovery is measured and not merely cut off.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(90);
const DRAIN_MAX: Duration = Duration::from_secs(300);
/// So often a kill does not wait until the daemon is at work again: it hits the opening.
const EARLY_KILL_PERCENT: u64 = 25;
const EARLY_KILL_WITHIN_MS: u64 = 1_500;
const READER_PATIENCE: Duration = Duration::from_secs(60);
/// Longer than an election.
const SELECTION_PATIENCE: Duration = Duration::from_secs(60);

/// For whoever is in the way to be done.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// What is run against what.
#[derive(Clone, Debug)]
pub struct Config {
    /// With the password in it. The database `ledger` of this set is dropped and made anew.
    pub mongodb_url: String,
    pub bootstrap: String,
    pub registry_url: String,
    pub binary: PathBuf,
    /// For the connector's file and the daemon's log.
    pub dir: PathBuf,
    /// The connector: names topics, so it must be new on these servers.
    pub connector: String,
    /// Of the daemon.
    pub kills: u32,
    /// So often something happens to the set's primary, spread among the kills where there are any.
    pub primary_strikes: u32,
    pub seed: u64,
    /// How long the writers work; the kills are spread over it.
    pub duration: Duration,
    pub writers: u32,
    pub changes_max: u64,
    pub changes_per_second: u64,
    pub partitions: u32,
}

impl Config {
    pub fn new(
        mongodb_url: &str,
        bootstrap: &str,
        registry_url: &str,
        binary: PathBuf,
        dir: PathBuf,
    ) -> Config {
        let started = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
        Config {
            mongodb_url: mongodb_url.to_owned(),
            bootstrap: bootstrap.to_owned(),
            registry_url: registry_url.to_owned(),
            binary,
            dir,
            connector: format!("ledger_mongodb_{started}"),
            kills: 20,
            primary_strikes: 3,
            seed: 1,
            duration: Duration::from_secs(100),
            writers: 16,
            changes_max: 2_000,
            changes_per_second: 1_500,
            partitions: 4,
        }
    }

    fn file(&self) -> String {
        let collections: Vec<_> = COLLECTIONS.iter().map(|name| format!("\"ledger.{name}\"")).collect();
        let brokers: Vec<_> = self.bootstrap.split(',').map(|broker| format!("\"{broker}\"")).collect();
        format!(
            r#"name = "{name}"

[source.mongodb]
snapshot = "no_data"
url = "{url}"
collections = [{collections}]
update_document = "post_image"
pre_images = true
json = "relaxed"

[format]
encoding = "avro"
registry = "{registry}"

[sink.kafka]
bootstrap = [{brokers}]

[sink.kafka.topic_defaults]
partitions = {partitions}
replication = 1

[rest]
listen = "127.0.0.1:0"
"#,
            name = self.connector,
            url = self.mongodb_url,
            collections = collections.join(", "),
            registry = self.registry_url,
            brokers = brokers.join(", "),
            partitions = self.partitions,
        )
    }

    fn topics(&self) -> Vec<String> {
        COLLECTIONS.iter().map(|name| format!("{}.ledger.{name}", self.connector)).collect()
    }
}

/// A client that waits for an election to end, writes to a majority and reads what one has.
pub async fn connect(url: &str) -> Result<Client> {
    let mut options = ClientOptions::parse(url).await?;
    options.server_selection_timeout = Some(SELECTION_PATIENCE);
    options.write_concern = Some(WriteConcern::majority());
    options.read_concern = Some(ReadConcern::majority());
    Ok(Client::with_options(options)?)
}

/// What the end of an attempt at a transaction asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Committed,
    /// From the beginning: the server gave it up.
    Again,
}

/// Commits, and asks again while the server does not tell whether it did: the drivers' rules for transactions.
pub async fn commit(session: &mut ClientSession) -> mongodb::error::Result<Ended> {
    let deadline = Instant::now() + SELECTION_PATIENCE;
    loop {
        match session.commit_transaction().await {
            Ok(()) => return Ok(Ended::Committed),
            Err(error)
                if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) && Instant::now() < deadline => {}
            Err(error) if error.contains_label(TRANSIENT_TRANSACTION_ERROR) => return Ok(Ended::Again),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
    }
}

/// After an error inside a transaction: once more, where the server says that this may help.
pub async fn abort(
    session: &mut ClientSession,
    error: mongodb::error::Error,
) -> mongodb::error::Result<Ended> {
    // It may be gone on the server already, which is what is wanted.
    let _ = session.abort_transaction().await;
    if !error.contains_label(TRANSIENT_TRANSACTION_ERROR) {
        return Err(error);
    }
    tokio::time::sleep(BETWEEN_ATTEMPTS).await;
    Ok(Ended::Again)
}

/// Runs it; `say` is told how far it has come, and `strike_primary` does something to the set's primary, waits for
/// the next one, makes the set whole again, and tells what it did.
pub async fn run(
    config: &Config,
    mut say: impl FnMut(String),
    mut strike_primary: impl AsyncFnMut(u32) -> Result<String>,
) -> Result<Report> {
    let began = Instant::now();
    let client = connect(&config.mongodb_url).await?;
    documents::create(&client).await?;
    let mut daemon = Daemon::with_file(&config.binary, &config.dir, &config.connector, &config.file())?;
    let mut run = Run {
        config,
        random: Random::fork(config.seed, u64::MAX - 1),
        positions: events::Positions::new(&config.bootstrap, position::topic(&config.connector)),
        recoveries: Vec::new(),
        early: None,
    };
    let outcome = run.go(&client, &mut daemon, &mut say, &mut strike_primary).await;
    let (written, stopped_orderly) = outcome.map_err(|error| {
        let (log, tail) = (daemon.log().display(), daemon.log_tail());
        format!("{error}\nthe end of {log}:\n{tail}")
    })?;
    say("reading everything back".to_owned());
    run.positions.newest().await?;
    let proof = Proof::collect(config, &client, std::mem::take(&mut run.positions.marks)).await?;
    say(format!("checking {} events", proof.found.events.len()));
    let verdict = proof.verdict(&proof.found.events, &proof.found.problems);
    say("checking with planted faults".to_owned());
    let planted = proof.plant_all(config.seed);
    Ok(Report {
        connector: config.connector.clone(),
        seed: config.seed,
        kills: config.kills,
        primary_strikes: config.primary_strikes,
        seconds: began.elapsed().as_secs_f64(),
        written,
        verdict,
        recovery: Recovery::of(run.recoveries, RECOVERY_MAX),
        planted,
        stopped_orderly,
    })
}

struct Run<'a> {
    config: &'a Config,
    random: Random,
    positions: events::Positions,
    recoveries: Vec<Duration>,
    /// The next kill comes so soon after the last start.
    early: Option<Duration>,
}

impl Run<'_> {
    async fn go(
        &mut self,
        client: &Client,
        daemon: &mut Daemon,
        say: &mut impl FnMut(String),
        strike_primary: &mut impl AsyncFnMut(u32) -> Result<String>,
    ) -> Result<(writers::Totals, bool)> {
        let config = self.config;
        daemon.start()?;
        self.at_work(daemon, FIRST_START_MAX, 0).await?;
        let workload = Workload {
            mongodb_url: config.mongodb_url.clone(),
            seed: config.seed,
            writers: config.writers,
            changes_max: config.changes_max,
            changes_per_second: config.changes_per_second,
        };
        let mut writers = Writers::start(&workload).await?;
        // Spread among the daemon's kills, and never the first thing or the last.
        let share = config.kills / (config.primary_strikes + 1);
        for kill in 1..=config.kills {
            self.kill_once(daemon).await?;
            say(format!("kill {kill}: {} changes written", writers.totals().changes));
            if share > 0 && kill % share == 0 && kill / share <= config.primary_strikes {
                say(strike_primary(kill / share).await?);
            }
        }
        let alone = if config.kills == 0 { config.primary_strikes } else { 0 };
        for strike in 1..=alone {
            self.work_a_while().await?;
            let what = strike_primary(strike).await?;
            let took = self.recovered(daemon).await?.as_secs_f64();
            let (seed, changes) = (config.seed, writers.totals().changes);
            say(format!(
                "F7 trial {strike} of seed {seed}: {what}; at work again in {took:.1} s; {changes} changes"
            ));
        }
        let totals = writers.stop().await?;
        let finals = writers::write_finals(client).await?;
        say(format!("draining {} changes", totals.changes));
        self.drain(daemon, &finals).await?;
        let status = daemon.stop().await?;
        daemon.audit().await?;
        Ok((totals, status.success()))
    }

    /// Waits for a position beyond the known ones; when it came.
    async fn at_work(&mut self, daemon: &mut Daemon, patience: Duration, known: usize) -> Result<Instant> {
        let deadline = Instant::now() + patience;
        loop {
            daemon.still_runs()?;
            self.positions.newest().await?;
            if self.positions.marks.len() > known {
                return Ok(Instant::now());
            }
            if Instant::now() >= deadline {
                return Err(format!("no position came within {} s", patience.as_secs()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A random time between two strikes.
    async fn work_a_while(&mut self) -> Result<()> {
        let strikes = self.config.kills.max(self.config.primary_strikes).max(1);
        let mean = u64::try_from(self.config.duration.as_millis())? / u64::from(strikes);
        let late = Duration::from_millis(mean * 3 / 10 + self.random.below(mean * 14 / 10 + 1));
        tokio::time::sleep(self.early.take().unwrap_or(late)).await;
        Ok(())
    }

    /// Waits for a position that is newer than now; how long that took.
    async fn recovered(&mut self, daemon: &mut Daemon) -> Result<Duration> {
        let began = Instant::now();
        self.positions.newest().await?;
        let seen = self.at_work(daemon, RECOVERY_PATIENCE, self.positions.marks.len()).await?;
        let took = seen.saturating_duration_since(began);
        self.recoveries.push(took);
        Ok(took)
    }

    /// A random moment of work, the kill, and the start again.
    async fn kill_once(&mut self, daemon: &mut Daemon) -> Result<()> {
        self.work_a_while().await?;
        daemon.kill().await?;
        self.positions.newest().await?;
        let known = self.positions.marks.len();
        let started = Instant::now();
        daemon.start()?;
        if self.random.percent(EARLY_KILL_PERCENT) {
            self.early = Some(Duration::from_millis(self.random.below(EARLY_KILL_WITHIN_MS)));
            return Ok(());
        }
        let seen = self.at_work(daemon, RECOVERY_PATIENCE, known).await?;
        self.recoveries.push(seen.saturating_duration_since(started));
        Ok(())
    }

    /// Follows the topics until the last documents have come through.
    async fn drain(&self, daemon: &mut Daemon, finals: &[(usize, String)]) -> Result<()> {
        let mut reader = Reader::new(&self.config.bootstrap, Isolation::ReadCommitted, READER_PATIENCE);
        let topics = self.config.topics();
        for topic in &topics {
            reader.assign(topic, Start::Earliest).await?;
        }
        let mut decoder = Decoder::new(&self.config.registry_url)?;
        let mut missing: Vec<_> = finals.to_vec();
        let deadline = Instant::now() + DRAIN_MAX;
        while !missing.is_empty() {
            daemon.still_runs()?;
            if Instant::now() >= deadline {
                return Err(format!("{} last documents did not come through", missing.len()).into());
            }
            let read = reader.poll(Duration::from_millis(200)).await?;
            for record in &read.records {
                let key = decoder.key(record).await;
                let table = topics.iter().position(|topic| **topic == *record.topic);
                missing.retain(|(of, last)| Some(*of) != table || key.as_deref() != Some(last));
            }
        }
        Ok(())
    }
}

/// Everything that is compared in the end.
struct Proof {
    journal: Vec<Entry>,
    content: Content,
    found: Events,
    marks: Vec<Mark>,
    extents: BTreeMap<TopicPartition, Extent>,
    uncommitted: Read,
}

impl Proof {
    async fn collect(config: &Config, client: &Client, marks: Vec<Mark>) -> Result<Proof> {
        let topics = config.topics();
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let mut reader = Reader::new(&config.bootstrap, Isolation::ReadCommitted, READER_PATIENCE);
        let read = reader.read_all(&names).await?;
        let found = Decoder::new(&config.registry_url)?.events(&read.records, &topics).await;
        let mut second = Reader::new(&config.bootstrap, Isolation::ReadUncommitted, READER_PATIENCE).bare();
        let uncommitted = second.read_all(&names).await?;
        let (journal, content) = (read_journal(client).await?, read_content(client).await?);
        Ok(Proof { journal, content, found, marks, extents: read.extents, uncommitted })
    }

    fn verdict(&self, events: &[Event], problems: &[Problem]) -> Verdict {
        check(&Evidence {
            journal: &self.journal,
            events,
            problems,
            extents: &self.extents,
            content: &self.content,
            marks: Some(&self.marks),
            uncommitted: Some(&self.uncommitted),
            limits: Limits { uncut_changes_max: u64::MAX, positions: true },
            begins: &Begins::Empty,
        })
    }

    fn plant_all(&self, seed: u64) -> Vec<Planted> {
        let mut random = Random::fork(seed, u64::MAX - 2);
        let planted = Fault::ALL.map(|fault| match plant(&self.found.events, fault, &mut random) {
            None => Planted { fault, place: None, found: 0 },
            Some(Planting { events, problems, place }) => {
                let found = fault.shows_in(&self.verdict(&events, &problems).counts);
                Planted { fault, place: Some(place), found }
            }
        });
        planted.into()
    }
}
