//! Records as their bytes: for topics whose keys are plain text, and whose values nobody frames.

use std::collections::BTreeMap;

use millrace_ledger::avro::Registry;
use millrace_ledger::reader::{Isolation, Reader, Record};
use serde_json::Value as Json;

use crate::wait::{PATIENCE, until};

/// A record whose key is text.
#[derive(Clone, Debug)]
pub struct Bare {
    pub topic: String,
    pub partition: i32,
    pub timestamp_ms: i64,
    pub key: Option<String>,
    /// `None` is a tombstone.
    pub value: Option<String>,
    /// The same, where it is no text.
    pub bytes: Option<Vec<u8>>,
    pub headers: BTreeMap<String, String>,
    /// Which producer wrote it, and the number of its Kafka transaction in the partition.
    pub kafka_transaction: Option<(i64, u64)>,
}

impl Bare {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The value, which must be JSON and nothing else.
    pub fn json(&self) -> Json {
        let value = self.value.as_deref().unwrap_or("null");
        serde_json::from_str(value).unwrap_or_else(|error| panic!("{value} is no JSON: {error}"))
    }

    /// The value as Confluent's consumers take it apart: the id of its schema, and the rest.
    pub fn frame(&self) -> (u32, &[u8]) {
        let frame = self.bytes.as_deref().and_then(|bytes| bytes.split_first_chunk::<5>());
        let Some(([0, id @ ..], rest)) = frame else { panic!("{self:?} has no frame") };
        (u32::from_be_bytes(*id), rest)
    }

    /// The same of JSON.
    pub fn framed_json(&self) -> (u32, &str) {
        let (id, rest) = self.frame();
        (id, std::str::from_utf8(rest).expect("JSON is text"))
    }

    /// The value in Avro, by the schema that its frame names.
    pub async fn avro(&self, registry: &mut Registry) -> Json {
        let decoded = registry.decode(self.bytes.as_deref().unwrap_or_default()).await;
        decoded.unwrap_or_else(|error| panic!("{self:?}: {error:?}")).json()
    }

    fn of(record: &Record) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let header = |(name, value): &(String, Option<_>)| {
            (name.clone(), value.as_deref().map(text).unwrap_or_default())
        };
        Self {
            topic: record.topic.to_string(),
            partition: record.partition,
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref().map(text),
            value: record.value.as_deref().map(text),
            bytes: record.value.as_deref().map(<[u8]>::to_vec),
            headers: record.headers.iter().map(header).collect(),
            kafka_transaction: record.tx.map(|tx| (tx.producer_id, tx.ordinal)),
        }
    }
}

/// Everything that a committed reader sees in these topics now; a topic that the brokers do not name is empty, and
/// not waited for.
pub async fn committed(bootstrap: &str, topics: &[&str]) -> Vec<Bare> {
    let mut reader = Reader::new(bootstrap, Isolation::ReadCommitted, PATIENCE);
    let mut found = Vec::new();
    for topic in topics {
        let named = reader.topics(topic).await.expect("the brokers name their topics");
        if named.iter().any(|named| &*named.name == *topic)
            && let Ok(read) = reader.read_all(&[*topic]).await
        {
            found.extend(read.records.iter().map(Bare::of));
        }
    }
    found
}

/// The log of the coordinators of transactions, and what a record of it says of one: its state is behind the version,
/// the producer's id and epoch and the timeout.
const TRANSACTIONS: &str = "__transaction_state";
const STATE_AT: usize = 16;
const ABOUT_TO_COMMIT: u8 = 2;

/// Fails unless all that these topics hold is of one Kafka transaction: the coordinators have written down that they
/// commit one with all of the topics in it, and none with only some of them.
pub async fn expect_one_transaction(bootstrap: &str, topics: &[&str]) {
    let records = committed(bootstrap, topics).await;
    assert!(records.iter().all(|record| record.kafka_transaction.is_some()), "{records:?}");
    let mut reader = Reader::new(bootstrap, Isolation::ReadUncommitted, PATIENCE);
    let log = reader.read_all(&[TRANSACTIONS]).await.expect("the coordinators' log can be read");
    let named = |record: &Record| {
        let entry = record.value.as_deref().unwrap_or_default();
        let has = |topic: &&&str| entry.windows(topic.len()).any(|part| part == topic.as_bytes());
        let commits = entry.get(STATE_AT) == Some(&ABOUT_TO_COMMIT);
        if commits { topics.iter().filter(has).count() } else { 0 }
    };
    let commits: Vec<usize> = log.records.iter().map(named).filter(|named| *named > 0).collect();
    assert_eq!(commits, [topics.len()], "topics in each transaction that has any of {topics:?}");
}

/// Waits for at least so many records in these topics together, and answers all.
pub async fn wait_for_records(bootstrap: &str, topics: &[&str], count: usize) -> Vec<Bare> {
    until(&format!("{count} records in {topics:?}"), async || {
        let found = committed(bootstrap, topics).await;
        (found.len() >= count).then_some(found)
    })
    .await
}
