//! Where partitions begin and end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest};

use super::{Extent, Failure, Isolation, Reader, TopicPartition, topic_name};
use crate::Result;

/// The special timestamps of ListOffsets.
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

impl Reader {
    /// The extents of a topic's partitions as this reader's isolation sees them.
    pub async fn extents(&mut self, topic: &str) -> Result<BTreeMap<TopicPartition, Extent>> {
        self.extents_as(topic, self.isolation).await
    }

    /// The extents as the given isolation sees them: a high watermark above the last stable
    /// offset means that a Kafka transaction is open.
    pub async fn extents_as(
        &mut self,
        topic: &str,
        isolation: Isolation,
    ) -> Result<BTreeMap<TopicPartition, Extent>> {
        let deadline = Instant::now() + self.patience;
        let earliest = self.offsets(topic, EARLIEST, isolation, deadline).await?;
        let latest = self.offsets(topic, LATEST, isolation, deadline).await?;
        let extent = |key: &TopicPartition, earliest: i64| Extent {
            earliest,
            end: latest.get(key).copied().unwrap_or(earliest),
        };
        Ok(earliest.iter().map(|(key, offset)| (key.clone(), extent(key, *offset))).collect())
    }

    async fn offsets(
        &mut self,
        topic: &str,
        timestamp: i64,
        isolation: Isolation,
        deadline: Instant,
    ) -> Result<BTreeMap<TopicPartition, i64>> {
        loop {
            let by_leader = self.partitions_by_leader(topic, deadline).await?;
            let mut offsets = BTreeMap::new();
            let mut failure = None;
            for (leader, partitions) in by_leader {
                let request = offsets_request(topic, &partitions, timestamp, isolation);
                match self.cluster.call(leader, &request).await {
                    Err(error) => failure = Some(Failure::passing(error)),
                    Ok(answer) => {
                        for found in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
                            failure = failure.or(Failure::of(found.error_code, "list offsets"));
                            offsets.insert((Arc::from(topic), found.partition_index), found.offset);
                        }
                    }
                }
            }
            match failure {
                None => return Ok(offsets),
                Some(failure) => self.cluster.recover(failure, deadline).await?,
            }
        }
    }

    async fn partitions_by_leader(
        &mut self,
        topic: &str,
        deadline: Instant,
    ) -> Result<BTreeMap<BrokerId, Vec<i32>>> {
        loop {
            let mut by_leader: BTreeMap<BrokerId, Vec<i32>> = BTreeMap::new();
            let mut missing = "does not exist";
            for found in self.cluster.topics().filter(|found| &*found.name == topic) {
                missing = "";
                for index in found.partitions {
                    match self.cluster.leader(&(found.name.clone(), index)) {
                        Some(leader) => by_leader.entry(leader).or_default().push(index),
                        None => missing = "has a partition without a leader",
                    }
                }
            }
            if missing.is_empty() {
                return Ok(by_leader);
            }
            let failure = Failure::passing(format!("topic {topic} {missing}").into());
            self.cluster.recover(failure, deadline).await?;
        }
    }
}

fn offsets_request(
    topic: &str,
    partitions: &[i32],
    timestamp: i64,
    isolation: Isolation,
) -> ListOffsetsRequest {
    let partitions = partitions
        .iter()
        .map(|index| ListOffsetsPartition::default().with_partition_index(*index).with_timestamp(timestamp))
        .collect();
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(isolation.level())
        .with_topics(vec![
            ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(partitions),
        ])
}
