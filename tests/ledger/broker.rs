//! What a test does to Kafka by itself: writes a record, makes and deletes topics, changes their settings,
//! shuts a producer out.

use std::time::{Duration, Instant};

use crate::reader::{Connection, Isolation, Reader};
use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest, MetadataRequest,
    ProduceRequest, TopicName, TransactionalId,
};
use kafka_protocol::protocol::{Request, StrBytes};
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

/// The number of topics among the kinds of things that have settings.
const TOPIC: i8 = 2;
const SET: i8 = 0;
const TIMEOUT_MS: i32 = 10_000;
/// How long a broker may be out of reach.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Broker {
    address: String,
}

impl Broker {
    /// A cluster of one broker.
    pub fn at(address: &str) -> Self {
        Self { address: address.to_owned() }
    }

    /// Writes a record outside of any Kafka transaction.
    pub async fn produce(&self, topic: &str, partition: i32, key: &[u8], value: &[u8]) {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.produce_record(topic, partition, Some(key), Some(value), &[]).await;
    }

    /// The same, with headers; without a value it is a tombstone.
    pub async fn produce_record(
        &self,
        topic: &str,
        partition: i32,
        key: Option<Bytes>,
        value: Option<Bytes>,
        headers: &[(String, Option<Bytes>)],
    ) {
        let headers = headers.iter().map(|(name, value)| (text(name), value.clone()));
        let record = Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset: 0,
            sequence: -1,
            timestamp: 0,
            key,
            value,
            headers: headers.collect::<IndexMap<_, _>>(),
        };
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        let mut batch = BytesMut::new();
        RecordBatchEncoder::encode(&mut batch, [&record], &options).expect("a record can be encoded");
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch.freeze()));
        let data = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
        let request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(TIMEOUT_MS).with_topic_data(vec![data]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.call(&request).await;
            let codes = answer.responses.into_iter().flat_map(|topic| topic.partition_responses);
            let codes: Vec<i16> = codes.map(|partition| partition.error_code).collect();
            // A topic that was made a moment ago has no leader yet.
            let passes =
                |code: &i16| ResponseError::try_from_code(*code).is_some_and(|error| error.is_retriable());
            if !codes.iter().any(passes) || Instant::now() >= deadline {
                codes.into_iter().for_each(|code| accepted(code, topic));
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn create_topic(&self, topic: &str, partitions: i32) {
        self.create_topic_with(topic, partitions, &[]).await;
    }

    pub async fn create_topic_with(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let setting = |(key, value): &(&str, &str)| {
            CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
        };
        let creation = CreatableTopic::default()
            .with_name(topic_name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(settings.iter().map(setting).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![creation]).with_timeout_ms(TIMEOUT_MS);
        self.call(&request).await.topics.iter().for_each(|made| accepted(made.error_code, topic));
    }

    /// Gives a topic more partitions, so many in all.
    pub async fn add_partitions(&self, topic: &str, count: i32) {
        let growth = CreatePartitionsTopic::default()
            .with_name(topic_name(topic))
            .with_count(count)
            .with_assignments(None);
        let request =
            CreatePartitionsRequest::default().with_topics(vec![growth]).with_timeout_ms(TIMEOUT_MS);
        self.call(&request).await.results.iter().for_each(|grown| accepted(grown.error_code, topic));
    }

    pub async fn delete_topic(&self, topic: &str) {
        // Older versions of the request name topics in one field, newer ones in the other.
        let request = DeleteTopicsRequest::default()
            .with_topics(vec![DeleteTopicState::default().with_name(Some(topic_name(topic)))])
            .with_timeout_ms(TIMEOUT_MS);
        self.call(&request).await.responses.iter().for_each(|gone| accepted(gone.error_code, topic));
    }

    /// Deletes a partition's records below an offset, as retention does.
    pub async fn expire(&self, topic: &str, partition: i32, below: i64) {
        let partition = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(below);
        let records =
            DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default().with_topics(vec![records]).with_timeout_ms(TIMEOUT_MS);
        for gone in self.call(&request).await.topics.into_iter().flat_map(|topic| topic.partitions) {
            accepted(gone.error_code, topic);
        }
    }

    pub async fn set_topic_config(&self, topic: &str, key: &str, value: &str) {
        let change = AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(SET)
            .with_value(Some(text(value)));
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(topic))
            .with_configs(vec![change]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        self.call(&request).await.responses.iter().for_each(|set| accepted(set.error_code, topic));
    }

    pub async fn topic_config(&self, topic: &str, key: &str) -> Option<String> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(topic))
            .with_configuration_keys(Some(vec![text(key)]));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.call(&request).await;
        let mut found = answer.results.into_iter().flat_map(|result| result.configs);
        found.find(|config| &*config.name == key)?.value.map(|value| value.to_string())
    }

    /// How many partitions a topic has; 0 where there is no such topic.
    pub async fn partitions(&self, topic: &str) -> usize {
        let mut reader = self.reader();
        let topics = reader.topics(topic).await.expect("the broker names its topics");
        topics.iter().find(|found| &*found.name == topic).map_or(0, |found| found.partitions.len())
    }

    /// How many brokers hold each partition of a topic.
    pub async fn replicas(&self, topic: &str) -> Vec<usize> {
        let wanted = MetadataRequestTopic::default().with_name(Some(TopicName(text(topic))));
        let answer = self.call(&MetadataRequest::default().with_topics(Some(vec![wanted]))).await;
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.map(|partition| partition.replica_nodes.len()).collect()
    }

    pub async fn has_topic(&self, topic: &str) -> bool {
        self.partitions(topic).await > 0
    }

    /// The offset of the last thing in a partition, a record or a marker; `None` in an empty one.
    pub async fn last_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        let extents = self.reader().extents(topic).await.expect("the topic can be asked");
        let (_, extent) = extents.iter().find(|((_, index), _)| *index == partition)?;
        (extent.end > extent.earliest).then(|| extent.end - 1)
    }

    /// Shuts out whoever produces under this id now.
    pub async fn fence(&self, transactional_id: &str) {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(text(transactional_id))))
            .with_transaction_timeout_ms(TIMEOUT_MS)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let code = self.call(&request).await.error_code;
            match ResponseError::try_from_code(code) {
                None => return,
                // What is open is being aborted.
                Some(ResponseError::ConcurrentTransactions) if Instant::now() < deadline => {}
                Some(error) => panic!("{transactional_id}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn reader(&self) -> Reader {
        Reader::new(&self.address, Isolation::ReadUncommitted, PATIENCE)
    }

    async fn call<R: Request>(&self, request: &R) -> R::Response {
        let mut connection = Connection::open(&self.address).await.expect("the broker takes a connection");
        connection.call(request).await.expect("the broker answers")
    }
}

fn accepted(code: i16, topic: &str) {
    if let Some(error) = ResponseError::try_from_code(code) {
        panic!("{topic}: {error}");
    }
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
