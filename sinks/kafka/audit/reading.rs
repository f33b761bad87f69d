//! Reads everything in a connector's topics, in the order in which it lies in the source's log. Start at
//! `records`; `of_topics` is for single ones.
//!
//! Which topics those are stands in the position topic. Each partition has a queue of its own; of the records
//! at their heads the earliest comes first, so that one pass over any number of topics needs no memory.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_core::encode::{Format, signature};
use millrace_core::error::{Error, Result};
use millrace_core::position::Mark;
use millrace_core::progress::Progress;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::admin::Presence;
use crate::config::Settings;
use crate::errors::{Code, Failure};
use crate::native;
use crate::opening::blocking;
use crate::position::{self, Keys};
use crate::rights::{self, On};
use crate::topics::Topics;

/// Brokers that answer at all answer within this.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Without a single record for so long, the read has failed.
const SILENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// A committed transaction is visible in all its partitions by then.
const MARKERS_WITHIN: Duration = Duration::from_secs(1);
/// Of each partition, so that many of them stay small in memory.
const QUEUE_KBYTES: &str = "512";
/// A queue that was full is filled again after this. librdkafka's own second would hold the reading to a
/// queue a second.
const REFILLED_AFTER_MS: &str = "5";
/// A fetch that found the ends alone must not keep the partitions waiting that have been read empty since.
const FETCH_WAIT_MS: &str = "10";

/// What the header `position` says: where the change lies, and which of its records this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub mark: Mark,
    pub sub: u32,
}

#[derive(Clone, Debug)]
pub struct Sighted {
    pub topic: Arc<str>,
    pub partition: u32,
    pub offset: i64,
    /// Partitions of its topic.
    pub partitions: u32,
    /// `None`: it has no such header, or one that is not ours.
    pub place: Option<Place>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// The header of an event's id: it is what somebody wrote into an outbox.
    pub is_event: bool,
    pub signature: Option<Vec<u8>>,
    /// The row left this key for another one.
    pub key_left: bool,
    /// The whole Kafka transaction that it is in can be seen by now.
    pub settled: bool,
    /// Nothing was taken from any of the topics: what is not there was never there.
    pub complete: bool,
}

/// A topic as it was found. What is not complete any more proves nothing about what is gone.
#[derive(Clone, Debug)]
pub struct Scope {
    pub name: String,
    pub partitions: u32,
    /// Partitions that begin above offset 0.
    pub shortened: Vec<u32>,
    pub compacted: bool,
    /// It holds dead letters, which are no records of changes.
    pub letters: bool,
    /// Written with another number of partitions than it has now; 0: the topic is gone.
    pub recorded: u32,
}

impl Scope {
    /// Records may have been taken from it.
    pub fn is_thinned(&self) -> bool {
        !self.letters && (self.compacted || !self.shortened.is_empty())
    }
}

/// Shows every record to `with` until it breaks off, and `None` when there is none left; gives the topics.
pub async fn records(
    settings: &Settings,
    format: &Format,
    with: impl FnMut(Option<Sighted>) -> ControlFlow<()> + Send + 'static,
) -> Result<Vec<Scope>> {
    let settings = Arc::new(settings.clone());
    let keys = Keys::new(&settings.name, &format.topic_prefix);
    let letters = format.dead_letters.clone();
    let topics = Topics::new(settings.clone(), Arc::new(Progress::default()));
    if topics.admin.presence(&settings.position_topic).await? == Presence::Missing {
        return Ok(Vec::new());
    }
    let recorded = {
        let settings = settings.clone();
        blocking(move || position::read_slow(&settings, &keys)).await?.partitions
    };
    let mut compacted = Vec::new();
    for name in recorded.keys() {
        let config = topics.admin.topic_config(name).await?.unwrap_or_default();
        compacted.push(config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")));
    }
    blocking(move || {
        let reading = Reading::new(&settings)?;
        let mut scopes = Vec::new();
        for ((name, recorded), compacted) in recorded.into_iter().zip(compacted) {
            let partitions = reading.partitions(&name)?;
            let letters = name == letters;
            scopes.push(Scope { name, partitions, shortened: Vec::new(), compacted, letters, recorded });
        }
        reading.walk(&mut scopes, with)?;
        Ok(scopes)
    })
    .await
}

/// Shows every record of these topics to `with` until it breaks off, and `None` when there is none left.
pub async fn of_topics(
    settings: &Settings,
    names: impl IntoIterator<Item = String> + Send + 'static,
    with: impl FnMut(Option<Sighted>) -> ControlFlow<()> + Send + 'static,
) -> Result<()> {
    let settings = settings.clone();
    blocking(move || {
        let reading = Reading::new(&settings)?;
        let mut scopes = Vec::new();
        for name in names {
            let partitions = reading.partitions(&name)?;
            let (shortened, recorded) = (Vec::new(), partitions);
            scopes.push(Scope { name, partitions, shortened, compacted: false, letters: false, recorded });
        }
        reading.walk(&mut scopes, with)
    })
    .await
}

struct Reading {
    consumer: Arc<BaseConsumer>,
    settings: Settings,
}

/// One partition on its way.
struct Lane {
    queue: PartitionQueue<DefaultConsumerContext>,
    topic: Arc<str>,
    partition: u32,
    partitions: u32,
    settled_before: i64,
    complete: bool,
    head: Option<Sighted>,
    is_over: bool,
}

impl Reading {
    fn new(settings: &Settings) -> Result<Self> {
        let mut config = settings.client_config()?;
        config.set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true");
        config.set("auto.offset.reset", "error");
        config.set("enable.auto.commit", "false");
        config.set("queued.max.messages.kbytes", QUEUE_KBYTES);
        config.set("fetch.queue.backoff.ms", REFILLED_AFTER_MS);
        config.set("fetch.wait.max.ms", FETCH_WAIT_MS);
        // librdkafka wants a name; no group is joined and no offset stored.
        config.set("group.id", format!("{}-audit", settings.transactional_id));
        let consumer: BaseConsumer = config.create().map_err(|why| settings.refused(why))?;
        Ok(Self { consumer: Arc::new(consumer), settings: settings.clone() })
    }

    /// 0 where the topic is gone. One whose leader is being chosen has no partitions to show either, and is there.
    fn partitions(&self, topic: &str) -> Result<u32> {
        let found = self.consumer.fetch_metadata(Some(topic), TIMEOUT);
        let metadata = found.map_err(|error| self.error(topic, &error))?;
        let Some(known) = metadata.topics().iter().find(|known| known.name() == topic) else { return Ok(0) };
        match known.error().map(|error| Code(error as i32)) {
            None => Ok(u32::try_from(known.partitions().len()).unwrap_or(u32::MAX)),
            Some(code) if code == Code::UNKNOWN_TOPIC => Ok(0),
            Some(code) => Err(self.failed(topic, code, native::describe(code))),
        }
    }

    fn walk(
        &self,
        scopes: &mut [Scope],
        mut with: impl FnMut(Option<Sighted>) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut lanes = self.lanes(scopes)?;
        // What lies before these ends has all its partitions visible before the reading begins.
        std::thread::sleep(MARKERS_WITHIN);
        let mut heard = Instant::now();
        loop {
            // Serves the connections, and says what is wrong with them; every partition has a queue of its own.
            if let Some(Ok(stray)) = self.consumer.poll(Duration::ZERO) {
                let (topic, partition, offset) = (stray.topic(), stray.partition(), stray.offset());
                return Err(Error::fatal(format!("{topic}-{partition}@{offset} came to no queue")));
            }
            let mut waits = false;
            for lane in lanes.iter_mut().filter(|lane| !lane.is_over && lane.head.is_none()) {
                let fetched = lane.fetch().map_err(|error| self.error(&lane.topic, &error))?;
                waits |= !fetched;
                heard = if fetched { Instant::now() } else { heard };
                if let Some(head) = lane.head.take_if(|head| head.place.is_none())
                    && with(Some(head)).is_break()
                {
                    return Ok(());
                }
            }
            let is_ready = lanes.iter().all(|lane| lane.is_over || lane.head.is_some());
            if !is_ready {
                if waits && heard.elapsed() > SILENCE {
                    return Err(Error::transient(format!(
                        "kafka at {} gave no record for {} s",
                        self.settings.brokers(),
                        SILENCE.as_secs()
                    ))
                    .hint("check the brokers, and look for a transaction that hangs"));
                }
                continue;
            }
            let earliest = lanes.iter_mut().filter(|lane| lane.head.is_some());
            let earliest = earliest.min_by_key(|lane| lane.head.as_ref().and_then(|head| head.place));
            match earliest.and_then(|lane| lane.head.take()) {
                Some(head) => {
                    if with(Some(head)).is_break() {
                        return Ok(());
                    }
                }
                None => {
                    // Whatever it answers: there is nothing more to show.
                    let _ = with(None);
                    return Ok(());
                }
            }
        }
    }

    fn lanes(&self, scopes: &mut [Scope]) -> Result<Vec<Lane>> {
        let mut list = TopicPartitionList::new();
        let mut ranges = Vec::new();
        let mut is_thinned = false;
        for scope in scopes {
            let topic: Arc<str> = scope.name.as_str().into();
            for partition in 0..scope.partitions {
                let id = partition.cast_signed();
                let range = self.consumer.fetch_watermarks(&topic, id, TIMEOUT);
                let (low, high) = range.map_err(|error| self.error(&topic, &error))?;
                if low > 0 {
                    scope.shortened.push(partition);
                }
                list.add_partition_offset(&topic, id, Offset::Offset(low))
                    .map_err(|error| self.error(&topic, &error))?;
                ranges.push((topic.clone(), partition, scope.partitions, high));
            }
            is_thinned |= scope.is_thinned();
        }
        let complete = !is_thinned;
        // Before anything is fetched: what had come by then would lie in the queue of the consumer, and be missed.
        let lanes = ranges.into_iter().map(|(topic, partition, partitions, settled_before)| {
            let queue = self.consumer.split_partition_queue(&topic, partition.cast_signed());
            let gone = || Error::fatal(format!("partition {partition} of topic {topic} has no queue"));
            Ok(Lane {
                queue: queue.ok_or_else(gone)?,
                topic,
                partition,
                partitions,
                settled_before,
                complete,
                head: None,
                is_over: false,
            })
        });
        let lanes = lanes.collect::<Result<Vec<Lane>>>()?;
        self.consumer.assign(&list).map_err(|error| self.error("the audit", &error))?;
        Ok(lanes)
    }

    fn error(&self, what: &str, error: &KafkaError) -> Error {
        let code = error.rdkafka_error_code().map_or(Code::CANCELLED, |code| Code(code as i32));
        self.failed(what, code, error.to_string())
    }

    fn failed(&self, what: &str, code: Code, text: String) -> Error {
        let failure = Failure { code, text, retriable: false };
        let about = format!("cannot read {what} from kafka at {}", self.settings.brokers());
        rights::error(&self.settings, about, failure, "Read", On::Topic(what))
    }
}

impl Lane {
    /// False when nothing came in time.
    fn fetch(&mut self) -> Result<bool, KafkaError> {
        match self.queue.poll(POLL) {
            None => return Ok(false),
            Some(Err(KafkaError::PartitionEOF(_))) => self.is_over = true,
            Some(Err(error)) => return Err(error),
            Some(Ok(message)) => {
                let head = self.sighted(&message);
                drop(message);
                self.head = Some(head);
            }
        }
        Ok(true)
    }

    fn sighted(&self, message: &BorrowedMessage<'_>) -> Sighted {
        let header = |name: &str| {
            let headers = message.headers()?;
            headers.iter().find(|header| header.key == name).map(|header| header.value)
        };
        Sighted {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: message.offset(),
            partitions: self.partitions,
            place: header("position").flatten().and_then(place),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            is_event: header("id").is_some(),
            signature: header(signature::HEADER).flatten().map(<[u8]>::to_vec),
            key_left: header("__debezium.newkey").is_some(),
            settled: message.offset() < self.settled_before,
            complete: self.complete,
        }
    }
}

/// `<commit>/<change>/<n>/<sub>`, the first two in hexadecimal.
fn place(text: &[u8]) -> Option<Place> {
    let mut parts = std::str::from_utf8(text).ok()?.split('/');
    let hex = |part: Option<&str>| u64::from_str_radix(part?, 16).ok();
    let (commit, change) = (hex(parts.next())?, hex(parts.next())?);
    let (n, sub) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(Place { mark: Mark { commit, change, n }, sub })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_the_encoder_writes_it() {
        let mark = Mark { commit: 0x16_B374_D848, change: 0xAB, n: 12 };
        assert_eq!(place(b"16B374D848/AB/12/2"), Some(Place { mark, sub: 2 }));
        for foreign in ["", "1/2/3", "1/2/3/4/5", "x/2/3/4", "1/2/-3/4", "0/16B374D848"] {
            assert_eq!(place(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
