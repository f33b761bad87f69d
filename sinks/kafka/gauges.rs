//! Figures of the cluster for those who run an event bus, by the names that they ask for: how fast topics grow,
//! how far other people's groups are behind, which brokers are up. Start at `watch`.
//!
//! Read through Kafka like anybody reads: the ends of partitions, the offsets that groups have committed, the
//! brokers that the cluster names. No group is joined.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use millrace_core::error::Error;
use millrace_core::progress::{Figure, Progress};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;

use crate::config::Settings;

/// Fresh enough for a scrape every few seconds, and a handful of requests.
const INTERVAL: Duration = Duration::from_secs(5);
/// A broker that answers at all answers within this.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks whether the sink is still there.
const STEP: Duration = Duration::from_millis(100);

/// `[sink.kafka.gauges]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    #[serde(default)]
    pub topics: Vec<String>,
    #[serde(default)]
    pub groups: Vec<String>,
    pub prefix: Option<String>,
    pub interval_s: Option<u64>,
}

/// What is watched; nothing where there are no topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    topics: Vec<String>,
    groups: Vec<String>,
    prefix: String,
    interval: Duration,
}

impl Watched {
    pub fn resolve(raw: Raw, wrong: &mut Vec<Error>) -> Self {
        let prefix = raw.prefix.unwrap_or_default();
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !prefix.chars().all(legal) || prefix.starts_with(|c: char| c.is_ascii_digit()) {
            wrong.push(
                Error::config("sink.kafka.gauges.prefix cannot begin the name of a metric")
                    .hint("use letters, digits and _, as in \"bus_\""),
            );
        }
        if raw.topics.is_empty() && !raw.groups.is_empty() {
            wrong.push(
                Error::config("sink.kafka.gauges.topics is missing")
                    .hint("name the topics in which the groups may be behind"),
            );
        }
        let interval = raw.interval_s.map_or(INTERVAL, |seconds| Duration::from_secs(seconds.max(1)));
        Self { topics: raw.topics, groups: raw.groups, prefix, interval }
    }
}

/// Watches until the token is dropped.
pub fn watch(settings: Arc<Settings>, progress: Arc<Progress>) -> Option<Arc<()>> {
    if settings.gauges.topics.is_empty() {
        return None;
    }
    let token = Arc::new(());
    let alive = Arc::downgrade(&token);
    let run = move || {
        let mut eyes = Eyes::new(settings);
        while wait(&alive, eyes.settings.gauges.interval) {
            progress.set_figures(eyes.look());
        }
    };
    // Without it there are no gauges, and the connector does its work.
    match thread::Builder::new().name("kafka-gauges".into()).spawn(run) {
        Ok(_) => Some(token),
        Err(error) => {
            tracing::warn!(%error, "no thread for the gauges of [sink.kafka.gauges]");
            None
        }
    }
}

/// False when nobody asks any more.
fn wait(alive: &Weak<()>, interval: Duration) -> bool {
    let until = Instant::now() + interval;
    while Instant::now() < until {
        if alive.strong_count() == 0 {
            return false;
        }
        thread::sleep(STEP);
    }
    alive.strong_count() > 0
}

type Place = (String, i32);

struct Eyes {
    settings: Arc<Settings>,
    /// By group; one without a group is for everything else.
    consumers: HashMap<String, BaseConsumer>,
    /// Every broker that was ever up.
    brokers: BTreeSet<i32>,
    /// Where partitions ended at the last look.
    ends: BTreeMap<Place, i64>,
    looked: Option<Instant>,
}

impl Eyes {
    fn new(settings: Arc<Settings>) -> Self {
        let (consumers, brokers, ends) = (HashMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { settings, consumers, brokers, ends, looked: None }
    }

    fn look(&mut self) -> Vec<Figure> {
        let mut figures = Vec::new();
        let now = Instant::now();
        let (up, ends) = self.cluster().unwrap_or_else(|error| {
            tracing::debug!(%error, "no gauges of the cluster");
            // The login may have changed, and a client keeps the one that it was made with.
            self.consumers.clear();
            Default::default()
        });
        self.brokers.extend(&up);
        for broker in &self.brokers {
            let labels = vec![("broker_id", broker.to_string())];
            figures.push(self.figure(BROKERS, labels, if up.contains(broker) { 1.0 } else { 0.0 }));
        }
        if let Some(looked) = self.looked {
            let seconds = (now - looked).as_secs_f64().max(f64::EPSILON);
            for ((topic, partition), end) in &ends {
                // What a partition had before it was first seen came at an unknown time.
                let Some(before) = self.ends.get(&(topic.clone(), *partition)) else { continue };
                let labels = vec![("topic", topic.clone()), ("partition", partition.to_string())];
                figures.push(self.figure(RATE, labels, (end - before).max(0) as f64 / seconds));
            }
        }
        for group in self.settings.gauges.groups.clone() {
            for ((topic, partition), offset) in self.committed(&group, &ends).unwrap_or_default() {
                let Some(end) = ends.get(&(topic.clone(), partition)) else { continue };
                let labels = vec![
                    ("consumer_group", group.clone()),
                    ("topic", topic),
                    ("partition", partition.to_string()),
                ];
                figures.push(self.figure(LAG, labels, (end - offset).max(0) as f64));
            }
        }
        if !ends.is_empty() {
            (self.ends, self.looked) = (ends, Some(now));
        }
        figures
    }

    fn figure(
        &self,
        (name, help): (&str, &'static str),
        labels: Vec<(&'static str, String)>,
        value: f64,
    ) -> Figure {
        Figure { name: format!("{}{name}", self.settings.gauges.prefix), help, labels, value }
    }

    fn consumer(&mut self, group: &str) -> KafkaResult<&BaseConsumer> {
        if !self.consumers.contains_key(group) {
            let config = self.settings.client_config();
            let mut config = config.map_err(|_| rdkafka::error::KafkaError::Canceled)?;
            // librdkafka wants a name even of one that joins nothing.
            config.set("group.id", if group.is_empty() { "millrace-gauges" } else { group });
            config.set("enable.auto.commit", "false");
            self.consumers.insert(group.to_owned(), config.create()?);
        }
        self.consumers.get(group).ok_or(rdkafka::error::KafkaError::Canceled)
    }

    /// The brokers that are up, and where the partitions of the topics end.
    fn cluster(&mut self) -> KafkaResult<(BTreeSet<i32>, BTreeMap<Place, i64>)> {
        let topics = self.settings.gauges.topics.clone();
        let consumer = self.consumer("")?;
        let metadata = consumer.fetch_metadata(None, TIMEOUT)?;
        let up = metadata.brokers().iter().map(rdkafka::metadata::MetadataBroker::id).collect();
        let mut ends = BTreeMap::new();
        for topic in metadata.topics().iter().filter(|topic| topics.iter().any(|name| name == topic.name())) {
            for partition in topic.partitions() {
                if let Ok((_, end)) = consumer.fetch_watermarks(topic.name(), partition.id(), TIMEOUT) {
                    ends.insert((topic.name().to_owned(), partition.id()), end);
                }
            }
        }
        Ok((up, ends))
    }

    /// Where a group stands in each partition that it has committed.
    fn committed(&mut self, group: &str, ends: &BTreeMap<Place, i64>) -> KafkaResult<Vec<(Place, i64)>> {
        let mut asked = TopicPartitionList::new();
        for (topic, partition) in ends.keys() {
            asked.add_partition(topic, *partition);
        }
        let answer = self.consumer(group)?.committed_offsets(asked, TIMEOUT)?;
        let offset = |offset: Offset| match offset {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        let elements = answer.elements();
        let places = elements.iter().filter_map(|element| {
            Some(((element.topic().to_owned(), element.partition()), offset(element.offset())?))
        });
        Ok(places.collect())
    }
}

const RATE: (&str, &str) =
    ("messages_per_second", "Growth of a partition, the marks of Kafka transactions included");
const LAG: (&str, &str) =
    ("consumer_lag", "Records between a group's committed offset and the partition's end");
const BROKERS: (&str, &str) =
    ("broker_availability", "1 for a broker that the cluster names, 0 for one that is gone");

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Arc<Settings> {
        let raw = crate::Raw { bootstrap: vec!["127.0.0.1:1".to_owned()], ..crate::Raw::default() };
        Arc::new(Settings::resolve(raw, "orders").unwrap())
    }

    #[test]
    fn a_prefix_that_no_metric_may_have_and_groups_without_topics_are_refused() {
        let mut wrong = Vec::new();
        let raw = Raw { groups: vec!["g".into()], prefix: Some("1-".into()), ..Raw::default() };
        Watched::resolve(raw, &mut wrong);
        assert_eq!(wrong.len(), 2);
        assert!(watch(settings(), Arc::default()).is_none());
    }

    #[test]
    fn without_an_answer_every_broker_that_was_up_is_not() {
        let mut eyes = Eyes::new(settings());
        eyes.brokers.insert(7);
        let figures = eyes.look();
        assert_eq!((figures.len(), figures[0].name.as_str()), (1, "broker_availability"));
        assert_eq!((figures[0].labels.clone(), figures[0].value), (vec![("broker_id", "7".to_owned())], 0.0));
    }
}
