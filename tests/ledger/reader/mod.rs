//! A plain reader of Kafka, independent of the daemon's client library.
//!
//! [`Reader::read_all`] reads whole topics up to their end; [`Reader::assign`] and
//! [`Reader::poll`] follow them live. Errors of a broker that will pass (a moving leader, a
//! restart) are retried until the reader's patience has run out.

mod batches;
mod cluster;
mod offsets;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::Result;
use batches::{Aborted, Partition};
use cluster::{Cluster, Failure};
pub use wire::Connection;

/// A partition's place in one fetch: enough for thousands of events, and little enough that many
/// partitions fit into memory.
const PARTITION_BYTES_MAX: i32 = 2 * 1024 * 1024;
const FETCH_BYTES_MAX: i32 = 16 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
}

impl Isolation {
    fn level(self) -> i8 {
        match self {
            Isolation::ReadUncommitted => 0,
            Isolation::ReadCommitted => 1,
        }
    }
}

/// A Kafka transaction as one partition shows it. Two partitions share the producer, not the
/// ordinal: a transaction leaves a marker only where it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KafkaTx {
    pub producer_id: i64,
    /// That of the data; a marker written by fencing carries the next one.
    pub producer_epoch: i16,
    /// End markers of this producer that lie before it in the partition.
    pub ordinal: u64,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
    /// `None`: written outside any transaction.
    pub tx: Option<KafkaTx>,
}

impl Record {
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        value.as_deref()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Abort,
    Commit,
}

/// The end of a Kafka transaction in one partition.
#[derive(Clone, Debug)]
pub struct Marker {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub tx: KafkaTx,
    pub outcome: Outcome,
}

/// A partition's log: where it begins and where it ended when asked. With `read_committed` the
/// end is the last stable offset, else the high watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub earliest: i64,
    pub end: i64,
}

pub type TopicPartition = (Arc<str>, i32);

/// Records and markers in the order of each partition's log.
#[derive(Debug, Default)]
pub struct Read {
    pub records: Vec<Record>,
    pub markers: Vec<Marker>,
    /// The extents at the beginning of [`Reader::read_all`]; empty for [`Reader::poll`].
    pub extents: BTreeMap<TopicPartition, Extent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: Arc<str>,
    pub partitions: Vec<i32>,
}

/// Where [`Reader::assign`] starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Earliest,
    End,
}

pub struct Reader {
    cluster: Cluster,
    isolation: Isolation,
    patience: Duration,
    partitions: BTreeMap<TopicPartition, Partition>,
    bare: bool,
}

impl Reader {
    /// `bootstrap` is one `host:port` or several, separated by commas. `patience` is how long a
    /// broker may be out of reach before a call gives up.
    pub fn new(bootstrap: &str, isolation: Isolation, patience: Duration) -> Reader {
        Reader {
            cluster: Cluster::new(bootstrap),
            isolation,
            patience,
            partitions: BTreeMap::new(),
            bare: false,
        }
    }

    /// Reads where records lie and not what they hold: a second pass needs no memory for bytes.
    pub fn bare(mut self) -> Reader {
        self.bare = true;
        self
    }

    /// The topics whose name begins so, internal ones left out.
    pub async fn topics(&mut self, prefix: &str) -> Result<Vec<Topic>> {
        self.cluster.refresh_until(Instant::now() + self.patience).await?;
        let ours = |topic: &Topic| topic.name.starts_with(prefix) && !self.cluster.is_internal(&topic.name);
        Ok(self.cluster.topics().filter(ours).collect())
    }

    /// Adds all partitions of a topic to what [`Reader::poll`] reads. Assigning twice is harmless,
    /// also when partitions were added in between.
    pub async fn assign(&mut self, topic: &str, start: Start) -> Result<()> {
        let extents = self.extents(topic).await?;
        for ((topic, index), extent) in extents {
            let next = match start {
                Start::Earliest => extent.earliest,
                Start::End => extent.end,
            };
            self.partitions
                .entry((topic.clone(), index))
                .or_insert_with(|| Partition::new(topic, index, next));
        }
        Ok(())
    }

    /// The next offset to be read of each assigned partition.
    pub fn next_offsets(&self) -> BTreeMap<TopicPartition, i64> {
        self.partitions.iter().map(|(key, partition)| (key.clone(), partition.next)).collect()
    }

    /// One fetch from each leader; waits at most `wait` for something new.
    pub async fn poll(&mut self, wait: Duration) -> Result<Read> {
        let deadline = Instant::now() + self.patience;
        let mut read = Read::default();
        for leader in self.leaders(deadline).await? {
            self.fetch(leader, wait, deadline, &mut read).await?;
        }
        Ok(read)
    }

    /// From now on nothing at or above these offsets is read, and nothing of a partition that is
    /// not named. They must be ends that the broker gave: it cuts no batch in two.
    pub fn limit_to(&mut self, ends: &BTreeMap<TopicPartition, i64>) {
        for (key, partition) in &mut self.partitions {
            partition.limit = ends.get(key).copied().unwrap_or(0);
        }
    }

    pub fn unlimit(&mut self) {
        for partition in self.partitions.values_mut() {
            partition.limit = i64::MAX;
        }
    }

    /// A partition has not been read up to its limit.
    pub fn behind(&self) -> bool {
        self.partitions.values().any(Partition::due)
    }

    /// Reads the assigned partitions up to `until`; offsets of control batches and of aborted
    /// records count as read.
    pub async fn poll_until(&mut self, until: &BTreeMap<TopicPartition, i64>) -> Result<Read> {
        self.limit_to(until);
        let mut all = Read::default();
        while self.behind() {
            let mut read = self.poll(Duration::from_millis(100)).await?;
            all.records.append(&mut read.records);
            all.markers.append(&mut read.markers);
        }
        self.unlimit();
        Ok(all)
    }

    /// Reads whole topics from their earliest offset up to where they end now, apart from what is
    /// assigned to the reader.
    pub async fn read_all(&mut self, topics: &[&str]) -> Result<Read> {
        let mut extents = BTreeMap::new();
        for topic in topics {
            extents.extend(self.extents(topic).await?);
        }
        let assigned = std::mem::take(&mut self.partitions);
        for ((topic, index), extent) in &extents {
            let partition = Partition::new(topic.clone(), *index, extent.earliest);
            self.partitions.insert((topic.clone(), *index), partition);
        }
        let until = extents.iter().map(|(key, extent)| (key.clone(), extent.end)).collect();
        let read = self.poll_until(&until).await;
        self.partitions = assigned;
        let mut read = read?;
        read.extents = extents;
        Ok(read)
    }

    async fn leaders(&mut self, deadline: Instant) -> Result<Vec<BrokerId>> {
        loop {
            let due = self.partitions.iter().filter(|(_, partition)| partition.due());
            let leaders: Option<Vec<BrokerId>> = due.map(|(key, _)| self.cluster.leader(key)).collect();
            if let Some(mut leaders) = leaders {
                leaders.sort();
                leaders.dedup();
                return Ok(leaders);
            }
            self.cluster.refresh_until(deadline).await?;
        }
    }

    async fn fetch(
        &mut self,
        leader: BrokerId,
        wait: Duration,
        deadline: Instant,
        read: &mut Read,
    ) -> Result<()> {
        let request = self.fetch_request(leader, wait)?;
        let answer = match self.cluster.call(leader, &request).await {
            Ok(answer) => answer,
            Err(error) => return self.cluster.recover(Failure::passing(error), deadline).await,
        };
        let mut failure = Failure::of(answer.error_code, "fetch");
        for topic in answer.responses {
            for data in topic.partitions {
                let what = format!("fetch of {} partition {}", topic.topic.as_str(), data.partition_index);
                match Failure::of(data.error_code, &what) {
                    Some(error) => failure = Some(error),
                    None => self.take(&topic.topic, data, read).map_err(|e| format!("{what}: {e}"))?,
                }
            }
        }
        match failure {
            Some(failure) => self.cluster.recover(failure, deadline).await,
            None => Ok(()),
        }
    }

    fn fetch_request(&self, leader: BrokerId, wait: Duration) -> Result<FetchRequest> {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for (key, partition) in &self.partitions {
            if !partition.due() || self.cluster.leader(key) != Some(leader) {
                continue;
            }
            let wanted = FetchPartition::default()
                .with_partition(key.1)
                .with_fetch_offset(partition.next)
                .with_partition_max_bytes(PARTITION_BYTES_MAX);
            match topics.last_mut().filter(|topic| topic.topic.as_str() == &*key.0) {
                Some(topic) => topic.partitions.push(wanted),
                None => topics
                    .push(FetchTopic::default().with_topic(topic_name(&key.0)).with_partitions(vec![wanted])),
            }
        }
        Ok(FetchRequest::default()
            .with_max_wait_ms(i32::try_from(wait.as_millis())?)
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES_MAX)
            .with_isolation_level(self.isolation.level())
            .with_session_epoch(-1) // no fetch session
            .with_topics(topics))
    }

    fn take(&mut self, topic: &TopicName, data: PartitionData, read: &mut Read) -> Result<()> {
        let key = (Arc::from(topic.as_str()), data.partition_index);
        let Some(partition) = self.partitions.get_mut(&key) else { return Ok(()) };
        let aborted = data.aborted_transactions.unwrap_or_default();
        let aborted = aborted
            .iter()
            .map(|a| Aborted { producer_id: a.producer_id.0, first_offset: a.first_offset })
            .collect();
        let mut taken = partition.take(data.records.unwrap_or_default(), self.isolation, aborted)?;
        if self.bare {
            for record in &mut taken.records {
                (record.key, record.value, record.headers) = (None, None, Vec::new());
            }
        }
        read.records.append(&mut taken.records);
        read.markers.append(&mut taken.markers);
        Ok(())
    }
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
