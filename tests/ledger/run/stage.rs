//! What a fault finds: a daemon at work, writers that go on, and a reader that follows.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::Config;
use super::settled::Tail;
use crate::Result;
use crate::daemon::Daemon;
use crate::position::{Positions, is_position};
use crate::random::Random;
use crate::reader::{Isolation, Reader};
use crate::watermark::{Subject, Watch};
use crate::writers::{Totals, Workload, Writers, connect, create_schema, fill, write_final_rows};

/// A first start creates topics, slot and schemas, beside the writers' own start.
const FIRST_START_MAX: Duration = Duration::from_secs(60);
/// Beyond what is allowed, so that a slow recovery is measured and not merely cut off.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(120);
const READER_PATIENCE: Duration = Duration::from_secs(60);
const STATE_PAUSE: Duration = Duration::from_millis(50);
const SLOT_PAUSE: Duration = Duration::from_millis(20);

pub struct Stage {
    pub config: Config,
    pub daemon: Daemon,
    pub random: Random,
    pub(super) watch: Watch,
    tail: Tail,
    writers: Option<Writers>,
    pub(super) recoveries: Vec<Duration>,
    /// What [`Tail`] has found so far.
    pub(super) disorder: Vec<String>,
    pub(super) torn: Vec<String>,
    /// Done so far.
    pub(super) trials: u32,
    /// The next fault comes so soon after the last start.
    pub early: Option<Duration>,
}

impl Stage {
    pub async fn prepare(config: &Config) -> Result<Stage> {
        create_schema(&connect(&config.postgres_url).await?).await?;
        let daemon = Daemon::prepare(&config.binary, &config.dir, &config.connector_file())?;
        let watch = Watch::start(Subject {
            postgres_url: config.postgres_url.clone(),
            slot: config.slot(),
            bootstrap: config.bootstrap.clone(),
            position_topic: config.position_topic(),
        });
        Ok(Stage {
            config: config.clone(),
            daemon,
            random: Random::fork(config.seed, u64::MAX - 1),
            watch,
            tail: Tail::new(&config.bootstrap, config.decoder()?),
            writers: None,
            recoveries: Vec::new(),
            disorder: Vec::new(),
            torn: Vec::new(),
            trials: 0,
            early: None,
        })
    }

    /// Starts the daemon and waits for the first position.
    pub async fn first_start(&mut self) -> Result<()> {
        self.daemon.start()?;
        self.position_after(0, FIRST_START_MAX).await.map(drop)
    }

    /// Does nothing where they work already.
    pub async fn set_writers_to_work(&mut self) -> Result<()> {
        if self.writers.is_some() {
            return Ok(());
        }
        let workload = Workload {
            postgres_url: self.config.postgres_url.clone(),
            seed: self.config.seed,
            writers: self.config.writers,
            changes_max: self.config.changes_max,
            changes_per_second: self.config.changes_per_second,
            outbox: self.config.connector_file().has_outbox(),
        };
        self.writers = Some(Writers::start(&workload).await?);
        Ok(())
    }

    /// Whether the writers write.
    pub fn writers_pause(&self, paused: bool) {
        if let Some(writers) = &self.writers {
            writers.pause(paused);
        }
    }

    pub fn totals(&self) -> Totals {
        self.writers.as_ref().map(Writers::totals).unwrap_or_default()
    }

    /// A connection for what a fault does to the database.
    pub async fn admin(&self) -> Result<Client> {
        connect(&self.config.postgres_url).await
    }

    /// How many positions have been committed.
    pub fn positions(&self) -> usize {
        self.watch.positions()
    }

    /// A random time between two faults.
    pub async fn work_a_while(&mut self) {
        let mean = u64::try_from(self.config.between.as_millis()).unwrap_or(0);
        let late = Duration::from_millis(mean * 3 / 10 + self.random.below(mean * 14 / 10 + 1));
        tokio::time::sleep(self.early.take().unwrap_or(late)).await;
    }

    /// Waits for a position beyond the known ones; when it came.
    pub async fn position_after(&mut self, known: usize, patience: Duration) -> Result<Instant> {
        let deadline = Instant::now() + patience;
        loop {
            self.daemon.still_runs()?;
            match self.watch.beyond(known, Duration::from_millis(500)).await {
                Ok(when) => return Ok(when),
                Err(error) if Instant::now() >= deadline => {
                    let state = self.daemon.state().await;
                    return Err(format!("{error}; the daemon says {state:?}").into());
                }
                Err(_) => {}
            }
        }
    }

    /// Waits until everything up to this place in the log is delivered.
    pub async fn delivered(&mut self, end_lsn: u64, patience: Duration) -> Result<()> {
        let (bootstrap, topic) = (&self.config.bootstrap, self.config.position_topic());
        let mut positions = Positions::new(bootstrap, topic, READER_PATIENCE);
        let deadline = Instant::now() + patience;
        while positions.newest().await?.is_none_or(|end| end < end_lsn) {
            self.daemon.still_runs()?;
            if Instant::now() >= deadline {
                return Err(format!("not all is delivered within {patience:?}").into());
            }
            tokio::time::sleep(STATE_PAUSE).await;
        }
        Ok(())
    }

    /// Waits until this very process is at work. A position alone does not tell: one of the process before it
    /// may be seen late.
    pub async fn running(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.daemon.state().await.is_none_or(|state| state.name != "RUNNING") {
            self.daemon.still_runs()?;
            if Instant::now() >= deadline {
                let state = self.daemon.state().await;
                return Err(format!("not at work within {patience:?}; the daemon says {state:?}").into());
            }
            tokio::time::sleep(STATE_PAUSE).await;
        }
        let known = self.positions();
        self.position_after(known, patience).await.map(drop)
    }

    /// Waits for the first new position after the way was free, and how long that took.
    pub async fn at_work_since(&mut self, free: Instant) -> Result<Duration> {
        let known = self.positions();
        let seen = self.position_after(known, RECOVERY_PATIENCE).await?;
        let recovery = seen.saturating_duration_since(free);
        self.recoveries.push(recovery);
        Ok(recovery)
    }

    /// SIGKILL, and then the ends of the topics, once the markers have settled.
    pub async fn kill_and_settle(&mut self) -> Result<()> {
        self.daemon.kill().await?;
        self.after_death().await
    }

    /// The daemon is dead: what it left must be whole. Starts it again.
    pub async fn after_death(&mut self) -> Result<()> {
        let ends = self.tail.settle().await?;
        let begins = self.config.begins().await?;
        self.daemon.start()?;
        let admin = self.admin().await?;
        self.torn.extend(self.tail.torn_up_to(&ends, &admin, &begins).await?);
        Ok(())
    }

    /// Reads everything that is committed by now and checks its order; how many events there were in all.
    pub async fn catch_up(&mut self) -> Result<u64> {
        let seen = self.tail.catch_up().await?;
        self.disorder.extend(self.tail.disorder());
        Ok(seen)
    }

    /// An error if anything was found out of order.
    pub fn in_order(&self) -> Result<()> {
        match self.disorder.first() {
            None => Ok(()),
            Some(text) => Err(text.clone().into()),
        }
    }

    /// The key of the newest position record, as it lies in its topic.
    pub async fn position_key(&self) -> Result<Vec<u8>> {
        let topic = self.config.position_topic();
        let mut reader = Reader::new(&self.config.bootstrap, Isolation::ReadCommitted, READER_PATIENCE);
        let read = reader.read_all(&[&topic]).await?;
        let key = read.records.iter().rev().find(|record| is_position(record)).and_then(|r| r.key.clone());
        Ok(key.ok_or("no position was committed")?.to_vec())
    }

    /// Ends a run that cannot go on: nothing of it stays at work, and its slot is dropped.
    pub async fn abandon(mut self) -> Result<()> {
        if self.daemon.pid().is_some() {
            self.daemon.kill().await?;
        }
        if let Some(writers) = &mut self.writers {
            writers.stop().await?;
        }
        self.watch.finish().await?;
        let admin = connect(&self.config.postgres_url).await?;
        let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                   WHERE slot_name = $1 AND active";
        while admin.execute(sql, &[&self.config.slot()]).await? > 0 {
            tokio::time::sleep(SLOT_PAUSE).await;
        }
        drop_slot(&self.config, &admin).await
    }

    /// Stops the writers and waits until everything has come through.
    pub(super) async fn drain(&mut self) -> Result<()> {
        if let Some(writers) = &mut self.writers {
            writers.stop().await?;
        }
        let finals =
            write_final_rows(&self.config.postgres_url, self.config.connector_file().has_outbox()).await?;
        if let Err(error) = self.tail.watch_for(finals, self.config.drains_within).await {
            return Err(format!("{error}; the daemon says {:?}", self.daemon.state().await).into());
        }
        self.rows_read().await?;
        self.daemon.still_runs()?;
        self.tail.idle().await?;
        self.disorder.extend(self.tail.disorder());
        Ok(())
    }

    /// Waits until the rows of all tables have come.
    async fn rows_read(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.config.drains_within;
        loop {
            let unread = self.unread().await?;
            if unread.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let state = self.daemon.state().await;
                return Err(
                    format!("the rows of {unread:?} are not all read; the daemon says {state:?}").into()
                );
            }
            tokio::time::sleep(STATE_PAUSE).await;
        }
    }

    /// The tables of which rows are still to come.
    pub async fn unread(&self) -> Result<Vec<&'static str>> {
        match self.config.snapshot_chunk_rows {
            None => Ok(Vec::new()),
            Some(_) => Ok(self.config.notes().await?.unread()),
        }
    }

    /// Rows that are there before the connector is, so many in each table for each writer.
    pub async fn fill(&self, rows: u64) -> Result<()> {
        fill(&self.config.postgres_url, self.config.seed, self.config.writers, rows).await
    }

    /// A random number of milliseconds up to this.
    pub fn millis(&mut self, max: u64) -> Duration {
        Duration::from_millis(self.random.below(max + 1))
    }
}

/// The slot would hold the log back for ever; topics and tables stay to be looked at.
pub(super) async fn drop_slot(config: &Config, admin: &Client) -> Result<()> {
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
               WHERE slot_name = $1 AND NOT active";
    admin.execute(sql, &[&config.slot()]).await?;
    Ok(())
}
