//! Who leads which partition, the connections to the brokers, and what to do when they fail.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::Request;

use super::{Connection, Topic, TopicPartition};
use crate::{Error, Result};

/// Between two attempts: far below what a broker needs to come back.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub struct Cluster {
    bootstrap: Vec<String>,
    addresses: HashMap<BrokerId, String>,
    connections: HashMap<BrokerId, Connection>,
    /// `None`: the partition exists, and nobody leads it at the moment.
    leaders: BTreeMap<TopicPartition, Option<BrokerId>>,
    /// Topics of the brokers' own.
    internal: BTreeSet<Arc<str>>,
}

/// A broker's refusal, or a broken connection.
pub struct Failure {
    error: Error,
    passing: bool,
}

impl Failure {
    /// An unreachable broker may come back.
    pub fn passing(error: Error) -> Failure {
        Failure { error, passing: true }
    }

    pub fn of(code: i16, what: &str) -> Option<Failure> {
        let error = ResponseError::try_from_code(code)?;
        Some(Failure { error: format!("{what}: {error}").into(), passing: error.is_retriable() })
    }
}

impl Cluster {
    pub fn new(bootstrap: &str) -> Cluster {
        Cluster {
            bootstrap: bootstrap.split(',').map(|address| address.trim().to_owned()).collect(),
            addresses: HashMap::new(),
            connections: HashMap::new(),
            leaders: BTreeMap::new(),
            internal: BTreeSet::new(),
        }
    }

    pub fn leader(&self, partition: &TopicPartition) -> Option<BrokerId> {
        self.leaders.get(partition).copied().flatten()
    }

    pub fn is_internal(&self, topic: &str) -> bool {
        self.internal.contains(topic)
    }

    pub fn topics(&self) -> impl Iterator<Item = Topic> {
        let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
        for (name, partition) in self.leaders.keys() {
            topics.entry(name.clone()).or_default().push(*partition);
        }
        topics.into_iter().map(|(name, partitions)| Topic { name, partitions })
    }

    pub async fn call<R: Request>(&mut self, broker: BrokerId, request: &R) -> Result<R::Response> {
        let connection = match self.connections.remove(&broker) {
            Some(connection) => connection,
            None => {
                let address = self.addresses.get(&broker).ok_or("the broker has no known address")?;
                Connection::open(address).await?
            }
        };
        // Back into the map only after an answer: a failed exchange leaves the stream in no state.
        let mut connection = connection;
        let answer = connection.call(request).await?;
        self.connections.insert(broker, connection);
        Ok(answer)
    }

    /// Waits a moment and learns the leaders anew, unless the failure stays or time is up.
    pub async fn recover(&mut self, failure: Failure, deadline: Instant) -> Result<()> {
        if !failure.passing || Instant::now() >= deadline {
            return Err(failure.error);
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        self.connections.clear();
        self.refresh_until(deadline).await
    }

    pub async fn refresh_until(&mut self, deadline: Instant) -> Result<()> {
        loop {
            match self.refresh().await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn refresh(&mut self) -> Result<()> {
        let mut last: Error = "no bootstrap address".into();
        for address in self.bootstrap.clone() {
            match ask(&address).await {
                Ok(metadata) => {
                    self.learn(metadata);
                    return Ok(());
                }
                Err(error) => last = format!("broker {address}: {error}").into(),
            }
        }
        Err(last)
    }

    fn learn(&mut self, metadata: MetadataResponse) {
        self.addresses =
            metadata.brokers.iter().map(|b| (b.node_id, format!("{}:{}", &*b.host, b.port))).collect();
        self.leaders.clear();
        self.internal.clear();
        for topic in metadata.topics {
            let Some(name) = topic.name else { continue };
            let name: Arc<str> = Arc::from(name.as_str());
            if topic.is_internal {
                self.internal.insert(name.clone());
            }
            for partition in topic.partitions {
                let led = partition.error_code == 0 && partition.leader_id.0 >= 0;
                self.leaders
                    .insert((name.clone(), partition.partition_index), led.then_some(partition.leader_id));
            }
        }
    }
}

async fn ask(address: &str) -> Result<MetadataResponse> {
    let mut connection = Connection::open(address).await?;
    connection.call(&MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false)).await
}
