//! After each kill: once the end markers have settled, each source transaction is complete or
//! absent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::completeness::Completeness;
use super::live::Order;
use crate::Result;
use crate::events::{Body, Decoder};
use crate::journal::events_due;
use crate::reader::{Isolation, Reader, Start, TopicPartition};
use crate::snapshot::Begins;

/// Markers are written within milliseconds of each other; ends that stood this long have settled.
const SETTLED_FOR: Duration = Duration::from_millis(400);
const POLL_PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);
const TOPICS_EVERY: Duration = Duration::from_millis(200);

type Ends = BTreeMap<TopicPartition, i64>;

/// Follows the topics and counts the events of each source transaction.
pub struct Tail {
    reader: Reader,
    decoder: Decoder,
    seen: Completeness,
    order: Order,
    /// Keys of which a row has been seen, asked for by [`Tail::watch_for`].
    awaited: BTreeSet<(usize, String)>,
}

impl Tail {
    pub fn new(bootstrap: &str, decoder: Decoder) -> Tail {
        Tail {
            reader: Reader::new(bootstrap, Isolation::ReadCommitted, PATIENCE),
            decoder,
            seen: Completeness::default(),
            order: Order::default(),
            awaited: BTreeSet::new(),
        }
    }

    /// The ends of all topics, once they no longer move. Nobody may be writing.
    pub async fn settle(&mut self) -> Result<Ends> {
        let mut before = self.ends().await?;
        let mut since = Instant::now();
        let deadline = Instant::now() + PATIENCE;
        while since.elapsed() < SETTLED_FOR {
            if Instant::now() >= deadline {
                return Err("the ends of the topics do not come to rest".into());
            }
            tokio::time::sleep(POLL_PAUSE).await;
            let now = self.ends().await?;
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        Ok(before)
    }

    /// No Kafka transaction is open in any topic, and none has been for a while.
    pub async fn idle(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let committed = self.settle().await?;
            let mut all = Ends::new();
            for topic in self.topics().await? {
                let extents = self.reader.extents_as(&topic, Isolation::ReadUncommitted).await?;
                all.extend(extents.into_iter().map(|(key, extent)| (key, extent.end)));
            }
            if all == committed {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err("a Kafka transaction stays open".into());
            }
        }
    }

    /// The ledger's topics that exist: one is created with its table's first event.
    async fn topics(&mut self) -> Result<Vec<String>> {
        let wanted = self.decoder.topics();
        let there = self.reader.topics("").await?;
        Ok(wanted.into_iter().filter(|name| there.iter().any(|topic| &*topic.name == name)).collect())
    }

    async fn ends(&mut self) -> Result<Ends> {
        let mut ends = Ends::new();
        for topic in self.topics().await? {
            let extents = self.reader.extents(&topic).await?;
            ends.extend(extents.into_iter().map(|(key, extent)| (key, extent.end)));
        }
        Ok(ends)
    }

    /// Reads everything that is committed by now; how many events there have been.
    pub async fn catch_up(&mut self) -> Result<u64> {
        let ends = self.ends().await?;
        self.read_up_to(&ends).await?;
        Ok(self.order.events)
    }

    /// What was found out of order since this was asked last.
    pub fn disorder(&mut self) -> Vec<String> {
        std::mem::take(&mut self.order.found)
    }

    async fn read_up_to(&mut self, ends: &Ends) -> Result<()> {
        for topic in self.topics().await? {
            self.reader.assign(&topic, Start::Earliest).await?;
        }
        self.reader.limit_to(ends);
        while self.reader.behind() {
            self.read().await?;
        }
        self.reader.unlimit();
        Ok(())
    }

    /// Reads up to these ends and says which source transactions are there in part.
    pub async fn torn_up_to(
        &mut self,
        ends: &Ends,
        journal: &Client,
        begins: &Begins,
    ) -> Result<Vec<String>> {
        self.read_up_to(ends).await?;
        let mut xids = Vec::new();
        for xid in self.seen.doubtful() {
            xids.push(i64::try_from(xid)?);
        }
        let due = events_due(journal, &xids, begins).await?;
        Ok(self.seen.torn(&due))
    }

    async fn read(&mut self) -> Result<()> {
        let read = self.reader.poll(Duration::from_millis(100)).await?;
        let events = self.decoder.events(&read.records).await;
        for event in &events.events {
            self.seen.count(event);
            self.order.see(event);
            if matches!(event.body, Body::Change(_)) {
                self.awaited.remove(&(event.table, event.key.to_string()));
            }
        }
        Ok(())
    }

    /// Reads on until a row of each of these keys has been seen.
    pub async fn watch_for(&mut self, keys: Vec<(usize, String)>, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        self.awaited = keys.into_iter().collect();
        let mut assigned: Option<Instant> = None;
        while !self.awaited.is_empty() {
            if Instant::now() >= deadline {
                return Err(format!("not drained within {patience:?}: missing {:?}", self.awaited).into());
            }
            // A topic comes with its table's first event; asking costs more calls than a read.
            if assigned.is_none_or(|at| at.elapsed() >= TOPICS_EVERY) {
                for topic in self.topics().await? {
                    self.reader.assign(&topic, Start::Earliest).await?;
                }
                assigned = Some(Instant::now());
            }
            self.read().await?;
        }
        Ok(())
    }
}
