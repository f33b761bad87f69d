//! Signals that come as records of a topic, as Debezium's Kafka channel has them: the key names the connector, the
//! value is what REST takes. Start at `listen`.
//!
//! A group's offset says which were heard. It moves once what a signal asked for is under way and noted with the
//! position, so a crash in between hears it again: rows are read once more, and none is forgotten.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use millrace_core::progress::{Progress, State};
use millrace_core::signal::{self, Action, Signal};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::config::{Settings, check_topic_name};

/// A broker that answers at all answers within this.
const TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(200);
/// Between two attempts to do what somebody else has to make possible.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// Signals have an order, so they have one partition.
const PARTITION: i32 = 0;
/// Commits after which what was taken up before the first of them is in one that is over: two may be under way.
const COMMITS: u64 = 3;
/// A signal that nothing was told of by then is taken for done: it asked for nothing that is told.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

/// Where signals are heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub topic: String,
    pub group: String,
}

impl Heard {
    pub fn resolve(
        topic: Option<String>,
        group: Option<String>,
        name: &str,
        wrong: &mut Vec<Error>,
    ) -> Option<Self> {
        let Some(topic) = topic else {
            if group.is_some() {
                wrong.push(
                    Error::config("sink.kafka.signal_group has no effect without signal_topic")
                        .hint("name the topic, or take signal_group out"),
                );
            }
            return None;
        };
        check_topic_name(&topic, wrong);
        Some(Self { topic, group: group.unwrap_or_else(|| format!("millrace-{name}-signals")) })
    }
}

/// The value of a record.
#[derive(Deserialize)]
struct Value {
    id: Option<String>,
    r#type: String,
    #[serde(default)]
    data: Json,
}

/// Hears until the token is dropped. `key` is that of this connector's records; `tell` passes a signal on, or says
/// that nobody hears it now.
pub fn listen(
    settings: Arc<Settings>,
    key: String,
    progress: Arc<Progress>,
    tell: impl Fn(Signal) -> bool + Send + 'static,
) -> Option<Arc<()>> {
    let heard = settings.signals.clone()?;
    let token = Arc::new(());
    let alive = Arc::downgrade(&token);
    let run = move || Ear { settings, heard, key, progress, tell, alive, told: String::new() }.run();
    match thread::Builder::new().name("kafka-signals".into()).spawn(run) {
        Ok(_) => Some(token),
        Err(error) => {
            tracing::warn!(%error, "no thread for the signals of [sink.kafka]: they are not heard");
            None
        }
    }
}

struct Ear<T> {
    settings: Arc<Settings>,
    heard: Heard,
    key: String,
    progress: Arc<Progress>,
    tell: T,
    alive: Weak<()>,
    /// The trouble that was told last: it is told once.
    told: String,
}

impl<T: Fn(Signal) -> bool> Ear<T> {
    fn run(mut self) {
        while self.lives() {
            if let Err(error) = self.hear() {
                let text = error.to_string();
                if text != self.told {
                    tracing::warn!(hint = error.hint_text(), "signals are not heard: {text}");
                    self.told = text;
                }
                self.pause(TRY_EVERY);
            }
        }
    }

    fn lives(&self) -> bool {
        self.alive.strong_count() > 0
    }

    /// An instance that stands by or is held leaves signals to the one that is at work, and to later.
    fn is_at_work(&self) -> bool {
        matches!(self.progress.shown().state, State::Running | State::Degraded)
    }

    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while self.lives() && Instant::now() < until {
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Until this instance is no longer at work, or there is trouble.
    fn hear(&mut self) -> Result<()> {
        while !self.is_at_work() {
            if !self.lives() {
                return Ok(());
            }
            self.pause(POLL);
        }
        let consumer = self.consumer()?;
        self.told.clear();
        while self.lives() && self.is_at_work() {
            match consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    if !self.take(&message) {
                        return Ok(());
                    }
                    self.commit(&consumer, message.offset() + 1)?;
                }
                Some(Err(error)) => return Err(self.error(&error)),
            }
        }
        Ok(())
    }

    fn consumer(&self) -> Result<BaseConsumer> {
        let mut config = self.settings.client_config()?;
        config.set("group.id", &self.heard.group);
        config.set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "earliest");
        config.set("isolation.level", "read_committed");
        let refused = |error: KafkaError| self.error(&error);
        let consumer: BaseConsumer = config.create().map_err(refused)?;
        let topic = &self.heard.topic;
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).map_err(refused)?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        if partitions != 1 {
            return Err(Error::config(match partitions {
                0 => format!("topic {topic} is not there"),
                more => format!("topic {topic} has {more} partitions: signals would lose their order"),
            })
            .hint(format!(
                "kafka-topics.sh --bootstrap-server {} --create --topic {topic} --partitions 1",
                self.settings.brokers()
            )));
        }
        let offset = self.begin(&consumer).map_err(refused)?;
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(topic, PARTITION, Offset::Offset(offset)).map_err(refused)?;
        consumer.assign(&place).map_err(refused)?;
        tracing::info!(topic, group = self.heard.group, offset, "signals are heard");
        Ok(consumer)
    }

    /// Where the group stands; at its first time behind what is there, which was said to somebody else.
    fn begin(&self, consumer: &BaseConsumer) -> KafkaResult<i64> {
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&self.heard.topic, PARTITION);
        let stands = consumer.committed_offsets(asked, TIMEOUT)?;
        if let Some(Offset::Offset(offset)) = stands.elements().first().map(|element| element.offset()) {
            return Ok(offset);
        }
        let (_, end) = consumer.fetch_watermarks(&self.heard.topic, PARTITION, TIMEOUT)?;
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(&self.heard.topic, PARTITION, Offset::Offset(end))?;
        consumer.commit(&place, CommitMode::Sync)?;
        Ok(end)
    }

    fn commit(&self, consumer: &BaseConsumer, next: i64) -> Result<()> {
        let mut place = TopicPartitionList::new();
        let added = place.add_partition_offset(&self.heard.topic, PARTITION, Offset::Offset(next));
        let committed = added.and_then(|()| consumer.commit(&place, CommitMode::Sync));
        committed.map_err(|error| self.error(&error))
    }

    /// Passes a signal on and waits until it is under way. False where that cannot be said: it is heard again.
    fn take(&self, message: &BorrowedMessage<'_>) -> bool {
        // One topic may serve many connectors.
        if message.key() != Some(self.key.as_bytes()) {
            return true;
        }
        let signal = match self.signal(message) {
            Ok(signal) => signal,
            Err(why) => {
                let (topic, offset) = (&self.heard.topic, message.offset());
                tracing::warn!(topic, offset, "a record is no signal and is passed over: {why}");
                return true;
            }
        };
        let (id, told) = (signal.id.clone(), self.progress.notified());
        let is_told = !matches!(signal.action, Action::Log(_));
        let reads_rows = matches!(signal.action, Action::Execute(_));
        while !(self.tell)(signal.clone()) {
            if !self.lives() || !self.is_at_work() {
                return false;
            }
            self.pause(POLL);
        }
        !is_told || self.is_under_way(&id, told, reads_rows)
    }

    fn is_under_way(&self, id: &str, told: u64, reads_rows: bool) -> bool {
        let until = Instant::now() + TOLD_WITHIN;
        let mut commits = None;
        while self.lives() && self.is_at_work() {
            let (news, _) = self.progress.notifications_after(told);
            let mut own = news.iter().filter(|news| news.id == id);
            let is_over = own.clone().any(|news| news.kind == "COMPLETED");
            let is_taken = own.next().is_some();
            if is_over || (is_taken && !reads_rows) {
                return true;
            }
            let now = self.progress.commits.load(std::sync::atomic::Ordering::Relaxed);
            if is_taken && now >= *commits.get_or_insert(now) + COMMITS {
                return true;
            }
            if !is_taken && Instant::now() >= until {
                return true;
            }
            self.pause(POLL);
        }
        false
    }

    fn signal(&self, message: &BorrowedMessage<'_>) -> std::result::Result<Signal, String> {
        let value = message.payload().ok_or("it has no value")?;
        let value: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let own = || format!("{}-{}", self.heard.topic, message.offset());
        signal::parse(value.id.unwrap_or_else(own), &value.r#type, &value.data)
            .map_err(|error| error.to_string())
    }

    fn error(&self, error: &KafkaError) -> Error {
        let Heard { topic, group } = &self.heard;
        Error::transient(format!("cannot read topic {topic} as group {group}: {error}"))
            .hint("check that the brokers run, and that the user may read the topic and the group")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_needs_its_topic_and_has_a_name_of_its_own() {
        let mut wrong = Vec::new();
        assert_eq!(Heard::resolve(None, Some("g".into()), "shop", &mut wrong), None);
        assert!(wrong.remove(0).to_string().contains("signal_group"));
        let heard = Heard::resolve(Some("signals".into()), None, "shop", &mut wrong).unwrap();
        assert_eq!((heard.group.as_str(), wrong.len()), ("millrace-shop-signals", 0));
        Heard::resolve(Some("no topic".into()), None, "shop", &mut wrong);
        assert_eq!(wrong.len(), 1);
    }
}
