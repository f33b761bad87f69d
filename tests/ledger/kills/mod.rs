//! The run with kills: writers at work, the daemon killed -9 at random moments and started again,
//! then everything read back and checked. Start at [`run_kills`].

mod completeness;
mod report;
mod settled;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::checker::{Evidence, Limits, Verdict, check};
use crate::daemon::{ConnectorFile, Daemon};
use crate::events::{Decoder, Event, Events};
use crate::journal::{Content, Entry, read_content, read_journal};
use crate::plant::{Fault, plant};
use crate::random::Random;
use crate::reader::{Extent, Isolation, Read, Reader, Start, TopicPartition};
use crate::watermark::{Audit, Subject, Watch};
use crate::writers::{Totals, Workload, Writers, connect, create_schema, write_final_rows};
use crate::{Error, Result, position};

pub use report::{Planted, RECOVERY_MAX, Recovery, Report, Watermarks};
use settled::Tail;

/// A first start creates topics, slot and schemas, beside the writers' own start.
const FIRST_START_MAX: Duration = Duration::from_secs(60);
/// Beyond what is allowed, so that a slow recovery is measured and not merely cut off.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);
/// At most: behind on everything that was written while the daemon was down.
const DRAIN_MAX: Duration = Duration::from_secs(300);
/// So often a kill does not wait until the daemon is at work again: it hits the opening.
const EARLY_KILL_PERCENT: u64 = 25;
/// An opening takes about as long.
const EARLY_KILL_WITHIN_MS: u64 = 1_500;
const READER_PATIENCE: Duration = Duration::from_secs(60);

/// What is run against what.
#[derive(Clone, Debug)]
pub struct Config {
    /// With the password in it. The schema `ledger` of this database is dropped and made anew.
    pub postgres_url: String,
    pub bootstrap: String,
    /// The Confluent-compatible root of the registry.
    pub registry_url: String,
    /// The daemon's binary.
    pub binary: PathBuf,
    /// For the connector's file and the daemon's log.
    pub dir: PathBuf,
    /// The connector: names topics and slot, so it must be new on these servers.
    pub connector: String,
    pub kills: u32,
    pub seed: u64,
    /// How long the writers work; the kills are spread over it.
    pub duration: Duration,
    pub writers: usize,
    pub changes_max: u64,
    pub changes_per_second: Option<u64>,
    pub partitions: u32,
    pub limits: Limits,
}

impl Config {
    /// 16 writers, up to 10,000 changes a transaction, four seconds for each kill.
    pub fn new(
        postgres_url: &str,
        bootstrap: &str,
        registry_url: &str,
        binary: PathBuf,
        dir: PathBuf,
    ) -> Config {
        let started = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
        Config {
            postgres_url: postgres_url.to_owned(),
            bootstrap: bootstrap.to_owned(),
            registry_url: registry_url.to_owned(),
            binary,
            dir,
            connector: format!("ledger_{started}"),
            kills: 20,
            seed: 1,
            duration: Duration::from_secs(80),
            writers: 16,
            changes_max: 10_000,
            changes_per_second: Some(3_000),
            partitions: 4,
            limits: Limits { uncut_changes_max: u64::MAX, positions: true },
        }
    }

    fn connector_file(&self) -> ConnectorFile {
        ConnectorFile {
            name: self.connector.clone(),
            slot: self.slot(),
            postgres_url: self.postgres_url.clone(),
            bootstrap: self.bootstrap.clone(),
            registry_url: self.registry_url.clone(),
            partitions: self.partitions,
            position_topic: position::topic(&self.connector),
        }
    }

    fn slot(&self) -> String {
        format!("millrace_{}", self.connector)
    }

    fn decoder(&self) -> Result<Decoder> {
        Decoder::new(&self.registry_url, &self.connector)
    }
}

/// A run under way.
struct Run<'a, S> {
    config: &'a Config,
    say: S,
    admin: Client,
    daemon: Daemon,
    watch: Watch,
    tail: Tail,
    random: Random,
    recoveries: Vec<Duration>,
    torn: Vec<String>,
    /// The next kill comes so soon after the last start.
    early: Option<Duration>,
}

/// Runs it; `say` is told how far it has come. An error means that the run could not be finished,
/// a report that did not pass means that something was found.
pub async fn run_kills(config: &Config, say: impl FnMut(String)) -> Result<Report> {
    let began = Instant::now();
    let mut run = Run::prepare(config, say).await?;
    let outcome = run.go().await;
    let Run { daemon, watch, recoveries, torn, admin, mut say, .. } = run;
    let (totals, stopped_orderly) = outcome.map_err(|error| with_log(error, &daemon))?;
    let audit = watch.finish().await?;
    say("reading everything back".to_owned());
    let proof = Proof::collect(config, &admin).await?;
    say(format!("checking {} events", proof.found.events.len()));
    let verdict = proof.verdict(config, &audit, &proof.found.events);
    say("checking with planted faults".to_owned());
    let planted = proof.plant_all(config, &audit);
    clean_up(config, &admin).await?;
    Ok(Report {
        connector: config.connector.clone(),
        seed: config.seed,
        kills: config.kills,
        seconds: began.elapsed().as_secs_f64(),
        written: totals,
        verdict,
        torn_after_kills: torn,
        audit: Watermarks {
            samples: audit.samples,
            missed: audit.missed,
            breaches_total: audit.breaches_total,
            positions: u64::try_from(audit.marks.len())?,
            breaches: audit.breaches,
        },
        recovery: Recovery::of(recoveries),
        planted,
        stopped_orderly,
    })
}

fn with_log(error: Error, daemon: &Daemon) -> Error {
    format!("{error}\nthe end of {}:\n{}", daemon.log().display(), daemon.log_tail()).into()
}

/// The slot would hold the log back for ever; topics and tables stay to be looked at.
async fn clean_up(config: &Config, admin: &Client) -> Result<()> {
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
               WHERE slot_name = $1 AND NOT active";
    admin.execute(sql, &[&config.slot()]).await?;
    Ok(())
}

impl<'a, S: FnMut(String)> Run<'a, S> {
    async fn prepare(config: &'a Config, say: S) -> Result<Run<'a, S>> {
        let admin = connect(&config.postgres_url).await?;
        create_schema(&admin).await?;
        let daemon = Daemon::prepare(&config.binary, &config.dir, &config.connector_file())?;
        let watch = Watch::start(Subject {
            postgres_url: config.postgres_url.clone(),
            slot: config.slot(),
            bootstrap: config.bootstrap.clone(),
            position_topic: position::topic(&config.connector),
        });
        let tail = Tail::new(&config.bootstrap, config.decoder()?);
        let random = Random::fork(config.seed, u64::MAX - 1);
        Ok(Run {
            config,
            say,
            admin,
            daemon,
            watch,
            tail,
            random,
            recoveries: Vec::new(),
            torn: Vec::new(),
            early: None,
        })
    }

    /// From the first start to the orderly end.
    async fn go(&mut self) -> Result<(Totals, bool)> {
        self.daemon.start()?;
        self.at_work(FIRST_START_MAX, 0).await?;
        let workload = Workload {
            postgres_url: self.config.postgres_url.clone(),
            seed: self.config.seed,
            writers: self.config.writers,
            changes_max: self.config.changes_max,
            changes_per_second: self.config.changes_per_second,
        };
        let mut writers = Writers::start(&workload).await?;
        for kill in 1..=self.config.kills {
            self.kill_once().await?;
            (self.say)(format!("kill {kill}: {} changes written", writers.totals().changes));
        }
        let totals = writers.stop().await?;
        let finals = write_final_rows(&self.config.postgres_url).await?;
        (self.say)(format!("draining {} changes", totals.changes));
        self.tail.watch_for(finals, DRAIN_MAX).await?;
        self.daemon.still_runs()?;
        self.tail.idle().await?;
        let status = self.daemon.stop().await?;
        Ok((totals, status.success()))
    }

    /// Waits for a position beyond the known ones; when it came.
    async fn at_work(&mut self, patience: Duration, known: usize) -> Result<Instant> {
        let deadline = Instant::now() + patience;
        loop {
            self.daemon.still_runs()?;
            match self.watch.beyond(known, Duration::from_millis(500)).await {
                Ok(when) => return Ok(when),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// A random moment of work, the kill, the check of what settled, and the start again.
    async fn kill_once(&mut self) -> Result<()> {
        let mean = u64::try_from(self.config.duration.as_millis())? / u64::from(self.config.kills.max(1));
        let late = Duration::from_millis(mean * 3 / 10 + self.random.below(mean * 14 / 10 + 1));
        tokio::time::sleep(self.early.take().unwrap_or(late)).await;
        self.daemon.kill().await?;
        let ends = self.tail.settle().await?;
        let known = self.watch.positions();
        let started = Instant::now();
        self.daemon.start()?;
        self.torn.extend(self.tail.torn_up_to(&ends, &self.admin).await?);
        if self.random.percent(EARLY_KILL_PERCENT) {
            let early = Duration::from_millis(self.random.below(EARLY_KILL_WITHIN_MS));
            self.early = Some(early.saturating_sub(started.elapsed()));
            return Ok(());
        }
        let seen = self.at_work(RECOVERY_PATIENCE, known).await?;
        self.recoveries.push(seen.saturating_duration_since(started));
        Ok(())
    }
}

/// Everything that is compared in the end.
struct Proof {
    journal: Vec<Entry>,
    content: Content,
    found: Events,
    extents: BTreeMap<TopicPartition, Extent>,
    uncommitted: Read,
}

impl Proof {
    async fn collect(config: &Config, admin: &Client) -> Result<Proof> {
        let mut decoder = config.decoder()?;
        let topics = decoder.topics();
        let mut reader = Reader::new(&config.bootstrap, Isolation::ReadCommitted, READER_PATIENCE);
        let mut extents = BTreeMap::new();
        for topic in &topics {
            extents.extend(reader.extents(topic).await?);
            reader.assign(topic, Start::Earliest).await?;
        }
        reader.limit_to(&extents.iter().map(|(key, extent)| (key.clone(), extent.end)).collect());
        let mut found = Events::default();
        while reader.behind() {
            let read = reader.poll(Duration::from_millis(100)).await?;
            let mut more = decoder.events(&read.records).await;
            found.events.append(&mut more.events);
            found.problems.append(&mut more.problems);
        }
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let mut second = Reader::new(&config.bootstrap, Isolation::ReadUncommitted, READER_PATIENCE).bare();
        let uncommitted = second.read_all(&names).await?;
        let (journal, content) = (read_journal(admin).await?, read_content(admin).await?);
        Ok(Proof { journal, content, found, extents, uncommitted })
    }

    fn verdict(&self, config: &Config, audit: &Audit, events: &[Event]) -> Verdict {
        check(&Evidence {
            journal: &self.journal,
            events,
            problems: &self.found.problems,
            extents: &self.extents,
            content: &self.content,
            marks: Some(&audit.marks),
            uncommitted: Some(&self.uncommitted),
            limits: config.limits,
        })
    }

    fn plant_all(&self, config: &Config, audit: &Audit) -> Vec<Planted> {
        let mut random = Random::fork(config.seed, u64::MAX - 2);
        let mut planted = Vec::new();
        for fault in Fault::ALL {
            planted.push(match plant(&self.found.events, fault, &mut random) {
                None => Planted { fault, place: None, found: 0 },
                Some((events, place)) => {
                    let verdict = self.verdict(config, audit, &events);
                    Planted { fault, place: Some(place), found: fault.shows_in(&verdict.counts) }
                }
            });
        }
        planted
    }
}
