//! The topic of dead letters, from outside of a running connector: read whole, and emptied letter by letter by
//! a replay. Start at `Replay`.
//!
//! A letter's key is its position; a record without a value says that the letter was replayed. The records of
//! a letter and that mark are one Kafka transaction, so a replay that dies in the middle is simply run again.
//! A second replay at the same time is shut out by the transactional id.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_core::batch::EncodedBatch;
use millrace_core::chaos::{self, Point};
use millrace_core::error::{Error, Result};
use millrace_core::position::Mark;
use millrace_core::route;

use crate::admin::Presence;
use crate::audit::reading;
use crate::config::Settings;
use crate::errors::{self, Code, Failure};
use crate::native::{self, Client, Role, Topic};
use crate::opening::blocking;
use crate::producer::{self, DOUBT, Sizes};
use crate::rights::{self, On};
use crate::topics::Topics;
use crate::{KafkaTargets, compacted, registry};

pub use crate::opening::Doubt;

/// librdkafka's upper limit for `message.max.bytes`.
const RECORD_BYTES_MAX: u32 = 1_000_000_000;

/// An abort is a courtesy to readers.
const ABORT_TIMEOUT: Duration = Duration::from_secs(3);

/// A letter that nobody has replayed: its key and its value.
pub type Raw = (String, Vec<u8>);

/// Every letter that was not replayed, in no order.
pub async fn read(settings: &Settings, topic: &str) -> Result<Vec<Raw>> {
    Ok(compacted::read(settings, topic).await?.unwrap_or_default().into_iter().collect())
}

/// A topic, and a key in it.
pub type Keyed = (String, Vec<u8>);

/// Of each key that was looked for, what its newest record in the topic is.
pub type Delivered = HashMap<Keyed, Newest>;

/// Where the newest record of a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newest {
    /// There is none.
    Nothing,
    At(Mark),
    /// Some record of the key does not say it.
    Unsaid,
}

impl Newest {
    fn and(self, mark: Option<Mark>) -> Self {
        match (self, mark) {
            (Self::Unsaid, _) | (_, None) => Self::Unsaid,
            (Self::Nothing, Some(mark)) => Self::At(mark),
            (Self::At(one), Some(other)) => Self::At(one.max(other)),
        }
    }
}

/// What was delivered of these keys. Reads their topics from the beginning, which takes its time.
pub async fn delivered(settings: &Settings, keys: HashSet<Keyed>) -> Result<Delivered> {
    let topics: BTreeSet<String> = keys.iter().map(|(topic, _)| topic.clone()).collect();
    let found: Delivered = keys.into_iter().map(|keyed| (keyed, Newest::Nothing)).collect();
    let found = Arc::new(Mutex::new(found));
    let seen = found.clone();
    reading::of_topics(settings, topics, move |record| {
        let Some(record) = record else { return ControlFlow::Break(()) };
        let Some(key) = record.key else { return ControlFlow::Continue(()) };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newest) = seen.get_mut(&(record.topic.to_string(), key)) {
            *newest = newest.and(record.place.map(|place| place.mark));
        }
        ControlFlow::Continue(())
    })
    .await?;
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *found))
}

/// A producer of its own, beside those of a connector that may be running.
pub struct Replay {
    settings: Arc<Settings>,
    topics: Arc<Topics>,
    targets: KafkaTargets,
    topic: String,
    client: Arc<Client>,
    handles: BTreeMap<String, Arc<Topic>>,
    /// A transaction is begun and not ended.
    is_open: bool,
    /// How slow a commit may be before it is in doubt comes from this.
    backoff: Duration,
    /// Commits without doubt, and whether one with it came behind them.
    clean: u32,
    doubtful: bool,
}

impl Replay {
    /// Shuts out a replay that runs already; the letters are to be read after this.
    pub async fn open(
        settings: &Settings,
        registry: Option<registry::Settings>,
        topic: &str,
        doubt: &Doubt,
    ) -> Result<Self> {
        let backoff = doubt.backoff;
        let settings = Arc::new(settings.clone());
        let topics = Arc::new(Topics::new(settings.clone(), Arc::default()));
        let registry = match registry {
            Some(registry) => Some(Arc::new(registry::Registry::new(registry, Arc::default())?)),
            None => None,
        };
        let targets = KafkaTargets { topics: topics.clone(), registry, patience: None };
        let id = format!("{}-replay", settings.transactional_id);
        // Which topics there will be, and what they take, is known with the letters only.
        let sizes = Sizes { record_bytes: RECORD_BYTES_MAX, ..topics.sizes() };
        let config = producer::config(&settings, &id, backoff, sizes)?;
        let timeout = settings.limits.timeout;
        let of_client = settings.clone();
        let client = blocking(move || {
            let client = Client::new(&config, Role::Producer).map_err(|why| of_client.refused(why))?;
            client.init_transactions(timeout).map_err(|failure| {
                let ids = On::TransactionalIds(&of_client.transactional_id);
                rights::error(&of_client, format!("cannot open {id}"), failure, "Write", ids)
            })?;
            Ok(client)
        })
        .await?;
        Ok(Self {
            settings,
            topics,
            targets,
            topic: topic.to_owned(),
            client,
            handles: BTreeMap::new(),
            is_open: false,
            backoff,
            clean: 0,
            doubtful: false,
        })
    }

    /// What the encoder asks.
    pub fn targets(&self) -> KafkaTargets {
        self.targets.clone()
    }

    /// Where records go, and their keys.
    pub fn keyed(&self, batch: &EncodedBatch) -> Vec<Keyed> {
        let keyed = batch.records.iter().filter_map(|record| {
            let topic = self.topics.get(record.topic)?;
            Some((topic.name.to_string(), batch.slice(record.key?).to_vec()))
        });
        keyed.collect()
    }

    /// Writes a letter's records and, with `settles`, the mark that it is done, in one Kafka transaction. False: the
    /// end of it may have been asked for twice, and could end the next one too, so another producer has to be opened.
    pub async fn write(&mut self, key: &str, batch: &EncodedBatch, settles: bool) -> Result<bool> {
        for record in &batch.records {
            if let Some(known) = self.topics.get(record.topic) {
                self.handle(&known.name)?;
            }
        }
        let letters = self.handle(&self.topic.clone())?;
        let partitions = match self.topics.admin.presence(&self.topic).await? {
            Presence::Ready { partitions, .. } => partitions,
            Presence::Missing | Presence::Coming => 1,
        };
        self.client.begin_transaction().map_err(|failure| self.error(failure))?;
        self.is_open = true;
        for record in &batch.records {
            let Some(handle) = self.topics.get(record.topic).and_then(|known| self.handles.get(&*known.name))
            else {
                continue;
            };
            let slice = |span: Option<_>| span.map(|span| batch.slice(span));
            let (key, value) = (slice(record.key), slice(record.value));
            handle
                .produce(
                    record.partition,
                    key,
                    value,
                    batch.headers(record),
                    record.mark.change,
                    record.time_ms,
                )
                .map_err(|code| self.error(failure(code)))?;
        }
        if settles {
            let partition = route::partition(Some(key.as_bytes()), partitions);
            letters
                .produce(partition, Some(key.as_bytes()), None, std::iter::empty(), 0, 0)
                .map_err(|code| self.error(failure(code)))?;
        }
        let (client, timeout, about) = (self.client.clone(), self.settings.limits.timeout, self.about());
        let in_doubt = self.backoff.mul_f64(DOUBT);
        let is_clean = blocking(move || {
            let committed = || {
                client.flush(timeout)?;
                chaos::pass(Point::ReplayFlushed);
                let began = Instant::now();
                client.commit_transaction(timeout)?;
                chaos::pass(Point::ReplayCommitted);
                Ok(began.elapsed() <= in_doubt)
            };
            committed().map_err(|failure| errors::error(about, failure))
        })
        .await?;
        self.is_open = false;
        self.clean += u32::from(is_clean);
        self.doubtful |= !is_clean;
        Ok(is_clean)
    }

    /// Readers are not to wait for a transaction that failed. The next producer is opened by what this one has seen.
    pub async fn close(self, doubt: &mut Doubt) -> Result<()> {
        doubt.session_over(self.clean, self.doubtful, self.settings.limits.timeout / 4);
        blocking(move || {
            if self.is_open {
                self.client.purge();
                // The broker ends it anyway, later.
                let _ = self.client.abort_transaction(ABORT_TIMEOUT);
            }
            Ok(())
        })
        .await
    }

    fn handle(&mut self, name: &str) -> Result<Arc<Topic>> {
        if let Some(handle) = self.handles.get(name) {
            return Ok(handle.clone());
        }
        let handle = Arc::new(self.client.topic(name).map_err(|failure| self.error(failure))?);
        self.handles.insert(name.to_owned(), handle.clone());
        Ok(handle)
    }

    fn about(&self) -> String {
        format!("cannot replay into kafka at {}", self.settings.brokers())
    }

    fn error(&self, failure: Failure) -> Error {
        errors::error(self.about(), failure)
    }
}

fn failure(code: Code) -> Failure {
    Failure { code, text: native::describe(code), retriable: false }
}
