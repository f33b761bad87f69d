//! Signals that come as records of a topic, as Debezium's Kafka channel has them: the key names the connector, the
//! value is what REST takes. Start at `listen`.
//!
//! A group's offset says which were heard. It moves once what a signal asked for is in a Kafka transaction that is over,
//! so a crash or a failed attempt in between hears it again: rows are read once more, and none is forgotten.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use millrace_core::progress::{Progress, State};
use millrace_core::signal::{self, Action, Signal};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::config::{Settings, check_topic_name};
use crate::errors::Code;
use crate::rights::{self, On};

/// A broker that answers at all answers within this.
const TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(200);
/// Between two attempts to do what somebody else has to make possible.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// Signals have an order, so they have one partition.
const PARTITION: i32 = 0;
/// Commits after which what was taken up before the first of them is in one that is over: two batches may be under way
/// on either side of the encoder, each in a transaction of its own.
const COMMITS: u64 = 5;
/// Nothing has waited to be delivered for so long.
const SETTLED_FOR: Duration = Duration::from_secs(1);
/// A signal of which nothing was told by then, while the connector was at work, is given up.
const TOLD_WITHIN: Duration = Duration::from_secs(30);
/// A broker forgets where a group stands after days without a word of it.
const COMMIT_EVERY: Duration = Duration::from_secs(6 * 3600);

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
        matches!(self.progress.shown().state, State::Running | State::Degraded | State::Stalled)
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
        let (consumer, begins) = self.consumer()?;
        self.told.clear();
        // What was asked in an attempt that failed may be gone with it, and is heard again.
        let restarts = self.progress.restarts.load(Ordering::Relaxed);
        let (mut waiting, mut next) = (VecDeque::<Waiting>::new(), begins);
        let mut committed = Instant::now();
        while self.lives() && self.is_at_work() && self.progress.restarts.load(Ordering::Relaxed) == restarts
        {
            match consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => match self.take(&message, restarts) {
                    Some(taken) => waiting.push_back(taken),
                    None => return Ok(()),
                },
                Some(Err(error)) => return Err(self.error(&error)),
            }
            while let Some(first) = waiting.front_mut() {
                if !first.is_done(&self.progress) {
                    break;
                }
                next = first.offset + 1;
                self.commit(&consumer, next)?;
                committed = Instant::now();
                waiting.pop_front();
            }
            if committed.elapsed() > COMMIT_EVERY {
                self.commit(&consumer, next)?;
                committed = Instant::now();
            }
        }
        Ok(())
    }

    /// And the offset that it begins with.
    fn consumer(&self) -> Result<(BaseConsumer, i64)> {
        let mut config = self.settings.client_config()?;
        config.set("group.id", &self.heard.group);
        config.set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "earliest");
        config.set("isolation.level", "read_committed");
        let refused = |error: KafkaError| self.error(&error);
        let consumer: BaseConsumer = config.create().map_err(refused)?;
        let topic = &self.heard.topic;
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).map_err(refused)?;
        let found = metadata.topics().first();
        let missing = [RDKafkaErrorCode::UnknownTopicOrPartition, RDKafkaErrorCode::UnknownTopic];
        if let Some(code) = found.and_then(|topic| topic.error()).map(RDKafkaErrorCode::from)
            && !missing.contains(&code)
        {
            return Err(self.error(&KafkaError::MetadataFetch(code)));
        }
        let partitions = found.map_or(0, |topic| topic.partitions().len());
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
        let place = self.place(Offset::Offset(offset)).map_err(refused)?;
        consumer.assign(&place).map_err(refused)?;
        tracing::info!(topic, group = self.heard.group, offset, "signals are heard");
        Ok((consumer, offset))
    }

    /// Where the group stands; at its first time behind what is there, which was said to somebody else.
    fn begin(&self, consumer: &BaseConsumer) -> KafkaResult<i64> {
        let stands = consumer.committed_offsets(self.place(Offset::Invalid)?, TIMEOUT)?;
        let mut known = None;
        for element in stands.elements() {
            element.error()?;
            known = known.or(match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            });
        }
        let offset = match known {
            Some(offset) => offset,
            None => consumer.fetch_watermarks(&self.heard.topic, PARTITION, TIMEOUT)?.1,
        };
        consumer.commit(&self.place(Offset::Offset(offset))?, CommitMode::Sync)?;
        Ok(offset)
    }

    /// The one partition, at an offset.
    fn place(&self, offset: Offset) -> KafkaResult<TopicPartitionList> {
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(&self.heard.topic, PARTITION, offset)?;
        Ok(place)
    }

    fn commit(&self, consumer: &BaseConsumer, next: i64) -> Result<()> {
        let place = self.place(Offset::Offset(next));
        let committed = place.and_then(|place| consumer.commit(&place, CommitMode::Sync));
        committed.map_err(|error| self.error(&error))
    }

    /// Passes a signal on. `None` where nobody takes it: it is heard again.
    fn take(&self, message: &BorrowedMessage<'_>, restarts: u64) -> Option<Waiting> {
        let offset = message.offset();
        // One topic may serve many connectors.
        if message.key() != Some(self.key.as_bytes()) {
            return Some(Waiting { offset, signal: None });
        }
        let signal = match self.signal(message) {
            Ok(signal) => signal,
            Err(why) => {
                let topic = &self.heard.topic;
                tracing::warn!(topic, offset, "a record is no signal and is passed over: {why}");
                return Some(Waiting { offset, signal: None });
            }
        };
        let told = Told {
            id: signal.id.clone(),
            after: self.progress.notified(),
            reads_rows: matches!(signal.action, Action::Execute(_)),
            since: Instant::now(),
            commits: None,
            settled: None,
        };
        let is_told = !matches!(signal.action, Action::Log(_));
        // An attempt that has yet to come about would find one more of it each time.
        while self.progress.shown().state != State::Running || !(self.tell)(signal.clone()) {
            let has_failed = self.progress.restarts.load(Ordering::Relaxed) != restarts;
            if !self.lives() || !self.is_at_work() || has_failed {
                return None;
            }
            self.pause(POLL);
        }
        Some(Waiting { offset, signal: is_told.then_some(told) })
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
        let code = error.rdkafka_error_code().map_or(Code::CANCELLED, |code| Code(code as i32));
        let on = if code == Code::TOPIC_REFUSED { On::Topic(topic) } else { On::Group(group) };
        let what = format!("cannot read topic {topic} as group {group}");
        match rights::lacking(&self.settings, &what, code, "Read", on) {
            Some((message, hint)) => Error::transient(message).hint(hint),
            None => Error::transient(format!("{what}: {error}")).hint("check that the brokers run"),
        }
    }
}

/// A record that was heard, and the signal that is followed until its request cannot be lost.
struct Waiting {
    offset: i64,
    signal: Option<Told>,
}

struct Told {
    id: String,
    /// Notifications that there were before it.
    after: u64,
    reads_rows: bool,
    since: Instant,
    /// That there were when something was told of it.
    commits: Option<u64>,
    /// Since when nothing waits to be delivered.
    settled: Option<Instant>,
}

impl Waiting {
    fn is_done(&mut self, progress: &Progress) -> bool {
        self.signal.as_mut().is_none_or(|signal| signal.is_done(progress))
    }
}

impl Told {
    /// What it asked for is in a Kafka transaction that is over.
    fn is_done(&mut self, progress: &Progress) -> bool {
        let (news, _) = progress.notifications_after(self.after);
        let mut own = news.iter().filter(|news| news.id == self.id);
        let is_over = own.clone().any(|news| news.kind == "COMPLETED");
        if own.next().is_none() {
            if progress.shown().state != State::Running {
                self.since = Instant::now();
            }
            let is_given_up = self.since.elapsed() > TOLD_WITHIN;
            if is_given_up {
                let within = TOLD_WITHIN.as_secs();
                tracing::warn!(
                    id = self.id,
                    "nothing came of a signal within {within} s: it is not heard again"
                );
            }
            return is_given_up;
        }
        let now = progress.commits.load(Ordering::Relaxed);
        if now >= *self.commits.get_or_insert(now) + COMMITS {
            return true;
        }
        if progress.pending_since_us.load(Ordering::Relaxed) != 0 {
            self.settled = None;
            return false;
        }
        let settled = *self.settled.get_or_insert_with(Instant::now);
        // A request that is under way is noted with the rows that it sends.
        (is_over || !self.reads_rows) && settled.elapsed() > SETTLED_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_done_once_its_request_is_in_commits_and_not_when_it_is_told() {
        let progress = Progress::default();
        progress.show(State::Running, None, None);
        let told = |reads_rows| Told {
            id: "one".into(),
            after: 0,
            reads_rows,
            since: Instant::now(),
            commits: None,
            settled: None,
        };
        let (mut rows, mut pause) = (told(true), told(false));
        assert!(!rows.is_done(&progress), "nothing is told of it");
        let say = |kind| {
            progress.notify(millrace_core::progress::Notification {
                id: "one".into(),
                aggregate: "Incremental Snapshot",
                kind,
                data: std::collections::BTreeMap::new(),
                at_ms: 1,
            });
        };
        say("STARTED");
        assert!(!rows.is_done(&progress) && !pause.is_done(&progress));
        (rows.settled, pause.settled) = (Some(long_ago()), Some(long_ago()));
        assert!(!rows.is_done(&progress), "its request may be in no transaction yet");
        assert!(pause.is_done(&progress));
        progress.commits.fetch_add(COMMITS, Ordering::Relaxed);
        assert!(rows.is_done(&progress));

        say("COMPLETED");
        let mut small = told(true);
        progress.pending_since_us.store(1, Ordering::Relaxed);
        assert!(!small.is_done(&progress), "its rows are on their way");
        progress.pending_since_us.store(0, Ordering::Relaxed);
        small.settled = Some(long_ago());
        assert!(small.is_done(&progress));

        let mut lost = Told { id: "other".into(), since: long_ago(), ..told(true) };
        progress.show(State::Degraded, None, None);
        assert!(!lost.is_done(&progress), "nobody can take it up now");
        progress.show(State::Running, None, None);
        assert!(!lost.is_done(&progress), "it has its time from here on");
        lost.since = long_ago();
        assert!(lost.is_done(&progress));
    }

    fn long_ago() -> Instant {
        Instant::now().checked_sub(TOLD_WITHIN * 2).unwrap()
    }

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
