//! The topic of dead letters, from outside of a running connector: read whole, and emptied letter by letter by
//! a replay. Start at `Replay`.
//!
//! A letter's key is its position; a record without a value says that the letter was replayed. The records of
//! a letter and that mark are one Kafka transaction, so a replay that dies in the middle is simply run again.
//! A second replay at the same time is shut out by the transactional id.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_core::batch::EncodedBatch;
use millrace_core::error::{Error, Result};
use millrace_core::route;

use crate::admin::Presence;
use crate::config::{RETRY_BACKOFF, Settings};
use crate::errors::{self, Code, Failure};
use crate::native::{self, Client, Role, Topic};
use crate::opening::blocking;
use crate::producer::{self, Sizes};
use crate::topics::Topics;
use crate::{KafkaTargets, compacted, registry};

/// librdkafka's upper limit for `message.max.bytes`.
const RECORD_BYTES_MAX: u32 = 1_000_000_000;

/// A letter that nobody has replayed: its key and its value.
pub type Raw = (String, Vec<u8>);

/// Every letter that was not replayed, by position.
pub async fn read(settings: &Settings, topic: &str) -> Result<Vec<Raw>> {
    let newest = compacted::read(settings, topic).await?.unwrap_or_default();
    // Positions are hexadecimal of one width, so their texts rise as they do; only the last number does not.
    let mut letters: Vec<Raw> = newest.into_iter().collect();
    letters.sort_by_key(|(key, _)| (key.len(), key.clone()));
    letters.sort_by_key(|(key, _)| key.get(..33).unwrap_or_default().to_owned());
    Ok(letters)
}

/// A producer of its own, beside those of a connector that may be running.
pub struct Replay {
    settings: Arc<Settings>,
    topics: Arc<Topics>,
    targets: KafkaTargets,
    topic: String,
    client: Arc<Client>,
    handles: BTreeMap<String, Arc<Topic>>,
}

impl Replay {
    /// Shuts out a replay that runs already; the letters are to be read after this.
    pub async fn open(
        settings: &Settings,
        registry: Option<registry::Settings>,
        topic: &str,
    ) -> Result<Self> {
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
        let config = producer::config(&settings, &id, RETRY_BACKOFF, sizes)?;
        let timeout = settings.limits.timeout;
        let client = blocking(move || {
            let client = Client::new(&config, Role::Producer).map_err(|why| {
                Error::config(format!("librdkafka refuses the settings of the sink: {why}"))
            })?;
            client
                .init_transactions(timeout)
                .map_err(|failure| errors::error(format!("cannot open {id}"), failure))?;
            Ok(client)
        })
        .await?;
        Ok(Self { settings, topics, targets, topic: topic.to_owned(), client, handles: BTreeMap::new() })
    }

    /// What the encoder asks.
    pub fn targets(&self) -> KafkaTargets {
        self.targets.clone()
    }

    /// Writes a letter's records and, with `settles`, the mark that it is done, in one Kafka transaction.
    pub async fn write(&mut self, key: &str, batch: &EncodedBatch, settles: bool) -> Result<()> {
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
        blocking(move || {
            let ended = client.flush(timeout).and_then(|()| client.commit_transaction(timeout));
            ended.map_err(|failure| errors::error(about, failure))
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
