//! The audit that runs beside everything: what was confirmed to Postgres is never ahead of the
//! position committed in Kafka.
//!
//! Confirmed is read first. Both only rise, so a position read later and still lower proves that
//! at the moment of the first reading something was confirmed that was not delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::checker::Mark;
use crate::position::{Positions, parse_lsn};
use crate::writers::connect;
use crate::{Error, Result};

/// Often enough to see most status updates, and no load worth naming.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// Servers may be away for a while when they are the ones that are killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many are kept to be read.
const BREACHES_KEPT: usize = 20;

#[derive(Clone, Debug, Serialize)]
pub struct Breach {
    pub confirmed: u64,
    /// `None`: something was confirmed, and no position was there at all.
    pub position: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Audit {
    pub samples: u64,
    /// Moments at which one of the servers could not be asked.
    pub missed: u64,
    pub breaches_total: u64,
    pub breaches: Vec<Breach>,
    /// All positions that were committed, in their order.
    pub marks: Vec<Mark>,
}

pub struct Watch {
    stop: Arc<AtomicBool>,
    /// How many positions there have been, and when the newest was seen.
    progress: watch::Receiver<(usize, Instant)>,
    /// One task, aborted when the handle is dropped.
    task: JoinSet<Result<Audit>>,
}

/// What the audit asks about.
#[derive(Clone, Debug)]
pub struct Subject {
    pub postgres_url: String,
    pub slot: String,
    pub bootstrap: String,
    pub position_topic: String,
}

impl Watch {
    pub fn start(subject: Subject) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, progress) = watch::channel((0, Instant::now()));
        let mut task = JoinSet::new();
        task.spawn(sample(subject, stop.clone(), sender));
        Watch { stop, progress, task }
    }

    /// How many positions have been committed so far.
    pub fn positions(&self) -> usize {
        self.progress.borrow().0
    }

    /// Waits until more than `known` positions have been committed; when the newest was seen.
    pub async fn beyond(&mut self, known: usize, patience: Duration) -> Result<Instant> {
        let newer = self.progress.wait_for(|(count, _)| *count > known);
        match tokio::time::timeout(patience, newer).await {
            Ok(Ok(seen)) => Ok(seen.1),
            Ok(Err(_)) => Err("the audit ended early".into()),
            Err(_) => Err(format!("no new position was committed within {patience:?}").into()),
        }
    }

    pub async fn finish(mut self) -> Result<Audit> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join_next().await.ok_or("the audit has no task")?.map_err(Error::from)?
    }
}

async fn sample(
    subject: Subject,
    stop: Arc<AtomicBool>,
    progress: watch::Sender<(usize, Instant)>,
) -> Result<Audit> {
    let mut audit = Audit::default();
    let mut positions = Positions::new(&subject.bootstrap, subject.position_topic.clone(), PATIENCE);
    let mut client = None;
    loop {
        let last = stop.load(Ordering::Relaxed);
        match compare(&subject, &mut client, &mut positions).await {
            Ok(None) => {}
            Ok(Some((confirmed, position))) => {
                audit.samples += 1;
                if position.is_none_or(|position| confirmed > position) {
                    audit.breaches_total += 1;
                    if audit.breaches.len() < BREACHES_KEPT {
                        audit.breaches.push(Breach { confirmed, position });
                    }
                }
            }
            Err(_) => {
                audit.missed += 1;
                client = None;
            }
        }
        let count = positions.marks.len();
        progress.send_if_modified(|state| {
            let more = count > state.0;
            if more {
                *state = (count, Instant::now());
            }
            more
        });
        if last {
            audit.marks = positions.marks;
            return Ok(audit);
        }
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
}

/// Confirmed and position at one moment. `None` while there is nothing to compare: no slot yet, or
/// a slot of a first start, whose consistent point counts as confirmed before any position is.
async fn compare(
    subject: &Subject,
    client: &mut Option<Client>,
    positions: &mut Positions,
) -> Result<Option<(u64, Option<u64>)>> {
    if client.is_none() {
        *client = Some(connect(&subject.postgres_url).await?);
    }
    let confirmed = match client {
        Some(client) => confirmed(client, &subject.slot).await?,
        None => None,
    };
    let begun = !positions.marks.is_empty();
    let position = positions.newest().await?;
    Ok(confirmed.filter(|_| begun || position.is_some()).map(|confirmed| (confirmed, position)))
}

async fn confirmed(client: &Client, slot: &str) -> Result<Option<u64>> {
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let Some(row) = client.query_opt(sql, &[&slot]).await? else { return Ok(None) };
    let text: Option<&str> = row.try_get(0)?;
    match text {
        None => Ok(None),
        Some(text) => Ok(Some(parse_lsn(text).ok_or_else(|| format!("{text} is no LSN"))?)),
    }
}
