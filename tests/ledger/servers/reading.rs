//! What the reader sees of a real broker's transactions.

use std::time::{Duration, Instant};

use kafka_protocol::records::Compression;
use millrace_ledger::broker::Broker;
use millrace_ledger::reader::{Isolation, Outcome, Read, Reader, Start};
use xtask::services::{Home, Kafka, KafkaConfig, Services};

use crate::producer::Producer;

const PATIENCE: Duration = Duration::from_secs(30);

/// The servers may be those of an earlier run: its names are taken.
pub fn own(name: &str) -> String {
    format!("{name}{}", std::process::id())
}

async fn read(bootstrap: &str, topic: &str, isolation: Isolation) -> Read {
    Reader::new(bootstrap, isolation, PATIENCE).read_all(&[topic]).await.unwrap()
}

fn values(read: &Read) -> Vec<String> {
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    read.records.iter().map(|record| text(record.value.as_deref().unwrap())).collect()
}

/// Waits until the end markers of a topic have been written.
async fn settled(bootstrap: &str, topic: &str) {
    let mut reader = Reader::new(bootstrap, Isolation::ReadCommitted, PATIENCE);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stable = reader.extents_as(topic, Isolation::ReadCommitted).await.unwrap();
        let high = reader.extents_as(topic, Isolation::ReadUncommitted).await.unwrap();
        if stable == high {
            return;
        }
        assert!(Instant::now() < deadline, "{topic} did not settle");
    }
}

#[tokio::test]
async fn committed_records_are_read_and_aborted_ones_are_not() {
    let kafka = Services::for_tests().await.unwrap().kafka.bootstrap();
    let topic = &own("ledger-reading.aborted");
    Broker::at(&kafka).create_topic(topic, 2).await;
    let mut one = Producer::open(&kafka, &own("ledger-reading-one")).await;
    let mut two = Producer::open(&kafka, &own("ledger-reading-two")).await;
    one.send(topic, 0, &["a", "b"]).await;
    two.send(topic, 0, &["x"]).await;
    one.send(topic, 1, &["c"]).await;
    two.end(false).await;
    one.send(topic, 0, &["d"]).await;
    one.end(true).await;
    one.send(topic, 0, &["y"]).await;
    one.end(false).await;
    one.send(topic, 0, &["e"]).await;
    one.end(true).await;
    settled(&kafka, topic).await;

    let committed = read(&kafka, topic, Isolation::ReadCommitted).await;
    assert_eq!(sorted(values(&committed)), ["a", "b", "c", "d", "e"]);
    let all = read(&kafka, topic, Isolation::ReadUncommitted).await;
    assert_eq!(sorted(values(&all)), ["a", "b", "c", "d", "e", "x", "y"]);
    assert_eq!(committed.records[0].header("position"), Some(&b"here"[..]));

    // The same partition's transactions of one producer are told apart, and each has its marker.
    let ordinal = |value: &str| {
        let found = all.records.iter().find(|record| record.value.as_deref() == Some(value.as_bytes()));
        let tx = found.unwrap().tx.unwrap();
        (tx.producer_id == one.id(), tx.ordinal)
    };
    assert_eq!(ordinal("a"), (true, 0));
    assert_eq!(ordinal("d"), (true, 0));
    assert_eq!(ordinal("y"), (true, 1));
    assert_eq!(ordinal("e"), (true, 2));
    assert_eq!(ordinal("x"), (false, 0));
    let ends = all.markers.iter().filter(|m| m.partition == 0 && m.tx.producer_id == one.id());
    let ends: Vec<_> = ends.map(|marker| (marker.tx.ordinal, marker.outcome)).collect();
    assert_eq!(ends, [(0, Outcome::Commit), (1, Outcome::Abort), (2, Outcome::Commit)]);
}

fn sorted(mut values: Vec<String>) -> Vec<String> {
    values.sort();
    values
}

#[tokio::test]
async fn an_open_transaction_holds_the_end_back_and_a_tail_goes_on_after_it() {
    let kafka = Services::for_tests().await.unwrap().kafka.bootstrap();
    let topic = &own("ledger-reading.open");
    Broker::at(&kafka).create_topic(topic, 1).await;
    let mut one = Producer::open(&kafka, &own("ledger-open-one")).await;
    let mut two = Producer::open(&kafka, &own("ledger-open-two")).await;
    one.send(topic, 0, &["first"]).await;
    one.end(true).await;
    settled(&kafka, topic).await;
    two.send(topic, 0, &["open"]).await;
    one.send(topic, 0, &["behind"]).await;
    one.end(true).await;

    let mut tail = Reader::new(&kafka, Isolation::ReadCommitted, PATIENCE);
    tail.assign(topic, Start::Earliest).await.unwrap();
    let mut first = Vec::new();
    while first.is_empty() {
        first = values(&tail.poll(Duration::from_millis(200)).await.unwrap());
    }
    assert_eq!(first, ["first"]);
    assert_eq!(values(&tail.poll(Duration::from_millis(200)).await.unwrap()), Vec::<String>::new());
    let all = read(&kafka, topic, Isolation::ReadUncommitted).await;
    assert_eq!(values(&all), ["first", "open", "behind"]);

    two.end(true).await;
    settled(&kafka, topic).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(values(&tail.poll(Duration::from_millis(200)).await.unwrap()));
    }
    assert_eq!(seen, ["open", "behind"]);
}

/// A producer that was killed: its successor's init aborts what it left open.
#[tokio::test]
async fn what_a_fenced_producer_left_is_aborted() {
    let kafka = Services::for_tests().await.unwrap().kafka.bootstrap();
    let topic = &own("ledger-reading.fenced");
    Broker::at(&kafka).create_topic(topic, 1).await;
    let mut killed = Producer::open(&kafka, &own("ledger-fenced")).await;
    killed.send(topic, 0, &["left"]).await;
    let mut next = Producer::open(&kafka, &own("ledger-fenced")).await;
    next.send(topic, 0, &["right"]).await;
    next.end(true).await;
    settled(&kafka, topic).await;

    let committed = read(&kafka, topic, Isolation::ReadCommitted).await;
    assert_eq!(values(&committed), ["right"]);
    let all = read(&kafka, topic, Isolation::ReadUncommitted).await;
    let outcomes: Vec<_> = all.markers.iter().map(|marker| marker.outcome).collect();
    assert_eq!(outcomes, [Outcome::Abort, Outcome::Commit]);
    let ordinals: Vec<_> = all.records.iter().map(|record| record.tx.unwrap().ordinal).collect();
    assert_eq!(ordinals, [0, 1]);
}

#[tokio::test]
async fn thousands_of_records_over_many_fetches_come_each_once_in_order() {
    let kafka = Services::for_tests().await.unwrap().kafka.bootstrap();
    let topic = &own("ledger-reading.many");
    Broker::at(&kafka).create_topic(topic, 1).await;
    let mut producer = Producer::open(&kafka, &own("ledger-many")).await;
    let kinds =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let mut wanted = Vec::new();
    for round in 0..60 {
        producer.compression = kinds[round % kinds.len()];
        let sent: Vec<String> = (0..100).map(|n| format!("{round}/{n} {}", "x".repeat(1_000))).collect();
        producer.send(topic, 0, &sent.iter().map(String::as_str).collect::<Vec<_>>()).await;
        producer.end(round % 3 != 0).await;
        if round % 3 != 0 {
            wanted.extend(sent);
        }
    }
    settled(&kafka, topic).await;
    let committed = read(&kafka, topic, Isolation::ReadCommitted).await;
    assert_eq!(values(&committed), wanted);
    assert_eq!(committed.markers.len(), 60);
}

#[tokio::test]
async fn topics_are_found_by_their_prefix() {
    let kafka = Services::for_tests().await.unwrap().kafka.bootstrap();
    let prefix = own("ledger-prefix.");
    Broker::at(&kafka).create_topic(&format!("{prefix}a"), 3).await;
    Broker::at(&kafka).create_topic(&own("ledger-other."), 1).await;
    let mut reader = Reader::new(&kafka, Isolation::ReadCommitted, PATIENCE);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let topics = reader.topics(&prefix).await.unwrap();
        if let [topic] = topics.as_slice() {
            assert_eq!(
                (topic.name.to_string(), topic.partitions.as_slice()),
                (format!("{prefix}a"), &[0, 1, 2][..])
            );
            return;
        }
        assert!(Instant::now() < deadline, "{topics:?}");
    }
}

#[tokio::test]
async fn a_topic_that_does_not_exist_is_an_error_and_not_an_empty_read() {
    let kafka = Services::for_tests().await.unwrap().kafka.bootstrap();
    let mut reader = Reader::new(&kafka, Isolation::ReadCommitted, Duration::from_millis(200));
    let error = reader.read_all(&["ledger-no-such-topic"]).await.unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[tokio::test]
async fn a_broker_that_restarts_under_a_tail_loses_nothing() {
    let kafka = Kafka::start_new(&KafkaConfig::default(), &Home::temporary().unwrap()).await.unwrap();
    let bootstrap = kafka.bootstrap();
    let topic = &own("ledger-restart");
    Broker::at(&bootstrap).create_topic(topic, 1).await;
    let mut producer = Producer::open(&bootstrap, &own("ledger-restart")).await;
    producer.send(topic, 0, &["before"]).await;
    producer.end(true).await;
    let mut tail = Reader::new(&bootstrap, Isolation::ReadCommitted, Duration::from_secs(60));
    tail.assign(topic, Start::Earliest).await.unwrap();
    let mut seen = Vec::new();
    while seen.is_empty() {
        seen.extend(values(&tail.poll(Duration::from_millis(100)).await.unwrap()));
    }
    kafka.restart().await.unwrap();
    let mut producer = Producer::open(&bootstrap, &own("ledger-restart")).await;
    producer.send(topic, 0, &["after"]).await;
    producer.end(true).await;
    while seen.len() < 2 {
        seen.extend(values(&tail.poll(Duration::from_millis(100)).await.unwrap()));
    }
    assert_eq!(seen, ["before", "after"]);
}
