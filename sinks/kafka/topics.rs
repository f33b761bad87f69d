//! The topics that records go to: made or verified before the first row is encoded, then known by number.
//!
//! Start at `Topics::ensure`; the sink looks numbers up by `Topics::get`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_core::chaos::{self, Point};
use millrace_core::error::{Error, Kind, Result};
use millrace_core::progress::Progress;
use millrace_core::sink::Topic;

use crate::admin::{Admin, Presence};
use crate::config::Settings;
use crate::position;
use crate::producer::Sizes;
use crate::waiting::Waiting;

/// A new topic's partitions have leaders within milliseconds; beyond this the wait shows as one.
const LEADERS_WITHIN: Duration = Duration::from_secs(5);
const LEADERS_POLL: Duration = Duration::from_millis(20);

/// What Kafka brokers take where nobody said otherwise.
const MESSAGE_BYTES_DEFAULT: u32 = 1_048_588;
/// librdkafka's default, below every broker's.
const BATCH_BYTES_DEFAULT: u32 = 1_000_000;
/// Around a record's key, value and headers: the batch's header (61), the record's own lengths and deltas
/// (up to 31) and a few bytes a header.
const RECORD_OVERHEAD: u32 = 512;
/// librdkafka takes no less.
const SIZE_MIN: u32 = 1_000;
/// Its upper limit for `message.max.bytes`.
const SIZE_MAX: u32 = 1_000_000_000;

#[derive(Clone, Debug)]
pub struct Known {
    pub name: Arc<str>,
    pub topic: Topic,
    /// Verified since the sink was opened.
    fresh: bool,
}

#[derive(Default)]
struct Table {
    topics: Vec<Known>,
    by_name: HashMap<Arc<str>, usize>,
    /// Partition counts that were written with: a key lives in one partition for ever.
    recorded: BTreeMap<String, u32>,
    /// Smallest `max.message.bytes` of all topics: a batch must fit into each.
    batch_bytes: Option<u32>,
}

pub struct Topics {
    settings: Arc<Settings>,
    pub admin: Admin,
    progress: Arc<Progress>,
    table: Mutex<Table>,
}

impl Topics {
    pub fn new(settings: Arc<Settings>, progress: Arc<Progress>) -> Self {
        Self { admin: Admin::new(settings.clone()), settings, progress, table: Mutex::default() }
    }

    pub fn get(&self, index: u32) -> Option<Known> {
        self.table().topics.get(index as usize).cloned()
    }

    pub fn sizes(&self) -> Sizes {
        let table = self.table();
        let largest = table.topics.iter().map(|known| known.topic.record_bytes_max).max().unwrap_or(0);
        Sizes {
            batch_bytes: table.batch_bytes.unwrap_or(BATCH_BYTES_DEFAULT).min(BATCH_BYTES_DEFAULT),
            record_bytes: largest.saturating_add(RECORD_OVERHEAD).clamp(MESSAGE_BYTES_DEFAULT, SIZE_MAX),
        }
    }

    /// The sink was opened: what it found recorded holds from now on, and everything is looked at again.
    pub fn reopened(&self, recorded: BTreeMap<String, u32>) {
        let mut table = self.table();
        table.recorded = recorded;
        for known in &mut table.topics {
            known.fresh = false;
        }
    }

    pub fn is_recorded(&self, name: &str) -> bool {
        self.table().recorded.contains_key(name)
    }

    /// Makes sure that the topic is there. Waits, visibly, while the brokers are away.
    pub async fn ensure(&self, name: &str) -> Result<Topic> {
        if let Some(known) = self.known(name).filter(|known| known.fresh) {
            return Ok(known.topic);
        }
        let mut waiting = Waiting::new(&self.progress);
        loop {
            match waiting.during(self.try_ensure(name), || self.silent(name)).await {
                Err(error) if error.kind() == Kind::Transient => waiting.after(&error).await,
                answer => return answer,
            }
        }
    }

    async fn try_ensure(&self, name: &str) -> Result<Topic> {
        let defaults = self.settings.declared(name);
        let (partitions, replication, made) =
            self.present(name, defaults.partitions, defaults.replication, &defaults.config).await?;
        self.check_count(name, partitions)?;
        let config = self.admin.topic_config(name).await?;
        if !made && self.known(name).is_none() {
            self.report_deviations(name, partitions, replication, config.as_ref());
        }
        let limit = config
            .as_ref()
            .and_then(|config| config.get("max.message.bytes")?.parse().ok())
            .unwrap_or(MESSAGE_BYTES_DEFAULT)
            .clamp(SIZE_MIN, SIZE_MAX);
        Ok(self.learn(name, partitions, limit))
    }

    /// The position topic; its layout is not a matter of taste.
    pub async fn ensure_position_topic(&self) -> Result<()> {
        let name = &self.settings.position_topic;
        let mut waiting = Waiting::new(&self.progress);
        let ensured = waiting.during(self.try_ensure_position_topic(name), || self.silent(name)).await;
        if self.progress.kafka_cluster_id().is_none()
            && let Some(id) = self.admin.cluster_id().await?
        {
            self.progress.set_kafka_cluster_id(id);
        }
        ensured
    }

    async fn try_ensure_position_topic(&self, name: &str) -> Result<()> {
        let config: BTreeMap<_, _> =
            position::TOPIC_CONFIG.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let replication = self.settings.topic_defaults.replication;
        let present = self.present(name, Some(position::PARTITIONS), replication, &config).await;
        let (partitions, _, made) = present.map_err(|error| match error.kind() {
            Kind::Config => {
                let hint = error.hint_text().map(|hint| format!("{hint}; or ")).unwrap_or_default();
                error.hint(format!(
                    "{hint}make it beforehand: kafka-topics.sh --create --topic {name} --partitions {} --config \
                     cleanup.policy=compact; position_topic in [sink.kafka] names another",
                    position::PARTITIONS
                ))
            }
            Kind::Transient | Kind::Record | Kind::Fenced | Kind::Fatal => error,
        })?;
        if made {
            return Ok(());
        }
        let policy = self.admin.topic_config(name).await?;
        position_topic_fits(name, partitions, policy.as_ref())
    }

    /// The topic of one partition whose owner is the active instance.
    pub async fn ensure_turn_topic(&self, name: &str) -> Result<()> {
        let replication = self.settings.topic_defaults.replication;
        let (partitions, _, _) = self.present(name, Some(1), replication, &BTreeMap::new()).await?;
        if partitions != 1 {
            return Err(Error::config(format!(
                "topic {name} has {partitions} partitions, and needs 1: its owner is the active instance"
            ))
            .hint(format!("kafka-topics.sh --delete --topic {name}; Millrace creates it again")));
        }
        Ok(())
    }

    /// Creates the topic where it is missing and waits until it can be written: partitions, replication, and
    /// whether it was made now.
    async fn present(
        &self,
        name: &str,
        partitions: Option<u32>,
        replication: Option<u32>,
        config: &BTreeMap<String, String>,
    ) -> Result<(u32, u32, bool)> {
        let deadline = Instant::now() + LEADERS_WITHIN;
        let written = self.table().recorded.get(name).copied();
        let mut made = false;
        loop {
            let presence = self.admin.presence(name).await?;
            match presence {
                // A broker tells of a partition some milliseconds before it takes records for it, and a
                // record that is refused then waits for a whole retry backoff.
                Presence::Ready { partitions, replication }
                    if !made || self.admin.answers(name, partitions).await? =>
                {
                    return Ok((partitions, replication, made));
                }
                // A broker that has just started may not know all topics yet, so one that was written to is
                // waited for.
                Presence::Missing if !made && written.is_none() => {
                    self.admin.create(name, partitions, replication, config).await?;
                    chaos::pass(Point::TopicCreated);
                    made = true;
                    continue;
                }
                Presence::Missing | Presence::Coming | Presence::Ready { .. } => (),
            }
            if Instant::now() > deadline {
                if let (Presence::Missing, Some(partitions)) = (presence, written) {
                    return Err(gone(name, partitions));
                }
                return Err(Error::transient(format!("topic {name} has partitions without a leader"))
                    .hint("check the brokers; kafka-topics.sh --describe shows which partition"));
            }
            tokio::time::sleep(LEADERS_POLL).await;
        }
    }

    /// Invariant 4: with another count a key would move to another partition, beside its own past.
    fn check_count(&self, name: &str, now: u32) -> Result<()> {
        match self.table().recorded.get(name) {
            Some(&recorded) if recorded != now => Err(other_count(name, now, recorded)),
            _ => Ok(()),
        }
    }

    /// Whether every topic in use still has the partitions that it is written with.
    pub async fn verify_counts(&self) -> Result<()> {
        let in_use = self.in_use();
        if in_use.is_empty() {
            return Ok(());
        }
        let now = self.admin.cluster().await?.partitions;
        for (name, written) in &in_use {
            // One that is missing is told by the records that do not get there.
            if let Some(&now) = now.get(&**name)
                && now != *written
            {
                return Err(other_count(name, now, *written));
            }
        }
        Ok(())
    }

    /// The topics that this process writes to, and their partitions. One that has had no record since the sink
    /// was opened counts as it is recorded; one that is recorded and written to no more is nobody's concern.
    fn in_use(&self) -> Vec<(Arc<str>, u32)> {
        let table = self.table();
        let count = |known: &Known| match known.fresh {
            true => Some(known.topic.partitions),
            false => table.recorded.get(&*known.name).copied(),
        };
        table.topics.iter().filter_map(|known| Some((known.name.clone(), count(known)?))).collect()
    }

    fn silent(&self, topic: &str) -> Error {
        let brokers = self.settings.brokers();
        let error = Error::transient(format!("kafka at {brokers} has not answered yet about topic {topic}"))
            .hint("check that the brokers run and that bootstrap in [sink.kafka] reaches them");
        self.settings.with_login(error)
    }

    fn report_deviations(
        &self,
        name: &str,
        partitions: u32,
        replication: u32,
        config: Option<&BTreeMap<String, String>>,
    ) {
        let defaults = self.settings.declared(name);
        for (what, declared, actual) in [
            ("partitions", defaults.partitions, partitions),
            ("replication", defaults.replication, replication),
        ] {
            if let Some(declared) = declared.filter(|declared| *declared != actual) {
                tracing::warn!(
                    topic = name,
                    what,
                    declared,
                    actual,
                    "topic differs from what the file declares"
                );
            }
        }
        let Some(config) = config else {
            tracing::warn!(
                topic = name,
                "may not read the topic's configuration; its limit is taken as {MESSAGE_BYTES_DEFAULT} bytes"
            );
            return;
        };
        for (key, declared) in &defaults.config {
            let actual = config.get(key);
            if actual != Some(declared) {
                tracing::warn!(
                    topic = name,
                    key,
                    declared,
                    actual,
                    "topic differs from what the file declares"
                );
            }
        }
    }

    fn learn(&self, name: &str, partitions: u32, limit: u32) -> Topic {
        let mut table = self.table();
        let table = &mut *table;
        table.batch_bytes = Some(table.batch_bytes.unwrap_or(limit).min(limit));
        let at = table.by_name.get(name).copied().unwrap_or(table.topics.len());
        let topic = Topic {
            index: u32::try_from(at).unwrap_or(u32::MAX),
            partitions,
            record_bytes_max: limit - RECORD_OVERHEAD.min(limit / 2),
        };
        match table.topics.get_mut(at) {
            Some(known) => {
                known.topic = topic;
                known.fresh = true;
            }
            None => {
                let name: Arc<str> = Arc::from(name);
                table.by_name.insert(name.clone(), at);
                table.topics.push(Known { name, topic, fresh: true });
            }
        }
        topic
    }

    fn known(&self, name: &str) -> Option<Known> {
        let table = self.table();
        table.by_name.get(name).and_then(|at| table.topics.get(*at)).cloned()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn other_count(name: &str, now: u32, written: u32) -> Error {
    Error::fatal(format!("topic {name} has {now} partitions, and was written with {written}")).hint(format!(
        "keys would change their partition and lose their order: recreate {name} with {written} partitions, or \
         begin anew with `millrace position <file> reset`"
    ))
}

/// To make it again in silence would hide that everything in it is lost.
fn gone(name: &str, written: u32) -> Error {
    Error::fatal(format!("topic {name} is gone, and with it the records that were delivered to it")).hint(
        format!(
            "see who deleted it; to go on after the position without them: kafka-topics.sh --create --topic \
             {name} --partitions {written}; to begin anew: `millrace position <file> reset`"
        ),
    )
}

/// `config` is `None` where we may not see it.
pub fn position_topic_fits(
    name: &str,
    partitions: u32,
    config: Option<&BTreeMap<String, String>>,
) -> Result<()> {
    if partitions != position::PARTITIONS {
        return Err(Error::config(format!(
            "position topic {name} has {partitions} partitions, and needs {}",
            position::PARTITIONS
        ))
        .hint("name another position_topic in [sink.kafka], and let Millrace create it"));
    }
    let policy = config.and_then(|config| config.get("cleanup.policy"));
    if let Some(policy) = policy
        && policy != "compact"
    {
        return Err(Error::config(format!(
            "position topic {name} has cleanup.policy {policy}: the broker would delete the position"
        ))
        .hint(format!(
            "kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config cleanup.policy=compact"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        let raw = serde_json::from_value(serde_json::json!({"bootstrap": ["127.0.0.1:1"]})).unwrap();
        Topics::new(Arc::new(Settings::resolve(raw, "orders").unwrap()), Arc::default())
    }

    #[test]
    fn a_topic_keeps_its_number_when_it_is_looked_at_again() {
        let topics = topics();
        assert_eq!(topics.learn("a", 3, 2_000).index, 0);
        assert_eq!(topics.learn("b", 1, 2_000_000).index, 1);
        topics.reopened(BTreeMap::new());
        let again = topics.learn("a", 3, 4_000);
        assert_eq!((again.index, again.record_bytes_max), (0, 3_488));
    }

    #[test]
    fn topics_without_a_record_since_the_opening_are_looked_at_by_what_is_recorded() {
        let topics = topics();
        topics.learn("a", 3, 2_000);
        topics.learn("b", 4, 2_000);
        topics.reopened(BTreeMap::from([("a".to_owned(), 3), ("former".to_owned(), 1)]));
        assert_eq!(topics.in_use(), [(Arc::from("a"), 3)]);
        topics.learn("b", 5, 2_000);
        assert_eq!(topics.in_use(), [(Arc::from("a"), 3), (Arc::from("b"), 5)]);
    }

    #[test]
    fn batches_fit_into_the_smallest_topic_and_records_into_the_largest() {
        let topics = topics();
        let start = Sizes { batch_bytes: BATCH_BYTES_DEFAULT, record_bytes: MESSAGE_BYTES_DEFAULT };
        assert_eq!(topics.sizes(), start);
        topics.learn("small", 1, 10_000);
        topics.learn("large", 1, 20_000_000);
        assert_eq!(topics.sizes(), Sizes { batch_bytes: 10_000, record_bytes: 20_000_000 });
    }

    #[test]
    fn another_partition_count_than_the_recorded_one_stops() {
        let topics = topics();
        topics.reopened(BTreeMap::from([("a".to_owned(), 3)]));
        assert!(topics.check_count("a", 3).is_ok() && topics.check_count("b", 9).is_ok());
        let error = topics.check_count("a", 6).unwrap_err();
        assert_eq!(error.kind(), Kind::Fatal);
        assert!(error.message().contains("6") && error.hint_text().unwrap().contains("3 partitions"));
    }

    #[test]
    fn a_position_topic_that_loses_records_is_refused() {
        let config = |policy: &str| BTreeMap::from([("cleanup.policy".to_owned(), policy.to_owned())]);
        assert!(position_topic_fits("p", 2, Some(&config("compact"))).is_ok());
        assert!(position_topic_fits("p", 2, None).is_ok());
        assert!(position_topic_fits("p", 1, None).is_err());
        assert!(position_topic_fits("p", 2, Some(&config("delete"))).is_err());
        assert!(position_topic_fits("p", 2, Some(&config("compact,delete"))).is_err());
    }
}
