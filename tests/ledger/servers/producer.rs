//! A transactional producer by hand: every step of the protocol is a call, so a test can stop in
//! the middle of a transaction.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest, ProduceRequest,
    TopicName, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use millrace_ledger::reader::Connection;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Producer {
    /// One broker is leader and coordinator of everything here.
    connection: Connection,
    id: TransactionalId,
    producer_id: i64,
    epoch: i16,
    sequences: BTreeMap<(String, i32), i32>,
    pub compression: Compression,
    /// Of every record.
    pub key: Option<Bytes>,
}

impl Producer {
    pub async fn open(bootstrap: &str, id: &str) -> Producer {
        let mut connection = Connection::open(bootstrap).await.unwrap();
        let transactional_id = TransactionalId(StrBytes::from_string(id.to_owned()));
        let deadline = Instant::now() + PATIENCE;
        // The coordinator's topic is created at the first question.
        loop {
            let find =
                FindCoordinatorRequest::default().with_key(transactional_id.0.clone()).with_key_type(1);
            let found = connection.call(&find).await.unwrap();
            let init = InitProducerIdRequest::default()
                .with_transactional_id(Some(transactional_id.clone()))
                .with_transaction_timeout_ms(60_000)
                .with_producer_id((-1).into())
                .with_producer_epoch(-1);
            let answer = connection.call(&init).await.unwrap();
            if found.error_code == 0 && answer.error_code == 0 {
                return Producer {
                    connection,
                    id: transactional_id,
                    producer_id: answer.producer_id.0,
                    epoch: answer.producer_epoch,
                    sequences: BTreeMap::new(),
                    compression: Compression::None,
                    key: Some(Bytes::from_static(b"key")),
                };
            }
            assert!(Instant::now() < deadline, "no coordinator: {}", answer.error_code);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn id(&self) -> i64 {
        self.producer_id
    }

    /// Adds the partition to the open transaction, or opens one with it.
    pub async fn add(&mut self, topic: &str, partition: i32) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let topics = AddPartitionsToTxnTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(vec![partition]);
            let request = AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(self.id.clone())
                .with_v3_and_below_producer_id(self.producer_id.into())
                .with_v3_and_below_producer_epoch(self.epoch)
                .with_v3_and_below_topics(vec![topics]);
            let answer = self.connection.call(&request).await.unwrap();
            let code = answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code;
            match ResponseError::try_from_code(code) {
                None => return,
                // The markers of the one before are still being written.
                Some(ResponseError::ConcurrentTransactions) => {}
                Some(error) => assert!(error.is_retriable(), "{error}"),
            }
            assert!(Instant::now() < deadline, "{code}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn send(&mut self, topic: &str, partition: i32, values: &[&str]) {
        self.add(topic, partition).await;
        let next = self.sequences.entry((topic.to_owned(), partition)).or_default();
        let records: Vec<Record> = values
            .iter()
            .zip(0..)
            .map(|(value, index)| Record {
                transactional: true,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id: self.producer_id,
                producer_epoch: self.epoch,
                timestamp_type: TimestampType::Creation,
                offset: i64::from(index),
                sequence: *next + index,
                timestamp: 1_700_000_000_000,
                key: self.key.clone(),
                value: Some(Bytes::copy_from_slice(value.as_bytes())),
                headers: [("position".into(), Some(Bytes::from_static(b"here")))].into(),
            })
            .collect();
        *next += i32::try_from(values.len()).unwrap();
        let mut set = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: self.compression };
        RecordBatchEncoder::encode(&mut set, &records, &options).unwrap();
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(set.freeze()));
        let request = ProduceRequest::default()
            .with_transactional_id(Some(self.id.clone()))
            .with_acks(-1)
            .with_timeout_ms(10_000)
            .with_topic_data(vec![
                TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]),
            ]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.connection.call(&request).await.unwrap();
            let code = answer.responses[0].partition_responses[0].error_code;
            // A topic just made is without a leader for a moment.
            match ResponseError::try_from_code(code) {
                None => return,
                Some(error) => assert!(error.is_retriable() && Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn end(&mut self, committed: bool) {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.id.clone())
            .with_producer_id(self.producer_id.into())
            .with_producer_epoch(self.epoch)
            .with_committed(committed);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let code = self.connection.call(&request).await.unwrap().error_code;
            match ResponseError::try_from_code(code) {
                None => return,
                Some(error) => assert!(error.is_retriable() && Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
