//! One producer against a mock broker that fails on demand.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;

type Cluster = MockCluster<'static, DefaultProducerContext>;

const SIZES: Sizes = Sizes { batch_bytes: 1_000_000, record_bytes: 1_048_588 };

async fn open() -> (Cluster, Producer, Topic) {
    open_beside(&[]).await
}

/// With these in the list of bootstrap servers too.
async fn open_beside(others: &[&str]) -> (Cluster, Producer, Topic) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let mut bootstrap = others.to_vec();
    let servers = cluster.bootstrap_servers();
    bootstrap.extend(servers.split(','));
    let settings = settings(&bootstrap);
    let producer = Producer::new(&settings, 0, Duration::from_millis(500), SIZES).unwrap();
    producer.init().await.unwrap();
    let topic = producer.topic("t").unwrap();
    (cluster, producer, topic)
}

fn settings(bootstrap: &[&str]) -> Settings {
    let raw = serde_json::from_value(serde_json::json!({ "bootstrap": bootstrap }));
    Settings::resolve(raw.unwrap(), "orders").unwrap()
}

async fn send(producer: &Producer, topic: &Topic) {
    producer.began(&mut producer.begin()).await.unwrap();
    topic
        .produce(0, Some(b"k"), Some(b"v"), [("a", Some(&b"b"[..]))].into_iter(), 0x12_0000_0034, 0)
        .unwrap();
}

async fn commit(producer: &Producer) -> Result<Committed, Trouble> {
    let ordered = tokio::time::Instant::now();
    producer.committed(&mut producer.commit(None).done, ordered).await
}

#[tokio::test(start_paused = true)]
async fn the_watch_over_a_commit_goes_on_while_nobody_waits_for_it() {
    let settings = settings(&["127.0.0.1:1"]);
    let producer = Producer::new(&settings, 0, Duration::from_millis(500), SIZES).unwrap();
    let (_reply, mut done) = oneshot::channel();
    let ordered = tokio::time::Instant::now();
    let mut asked = async || {
        let answer = producer.committed(&mut done, ordered);
        tokio::time::timeout(Duration::from_secs(1), answer).await
    };
    while asked().await.is_err() {
        assert!(ordered.elapsed() <= settings.limits.watch() + Duration::from_secs(1), "it began anew");
    }
    assert!(ordered.elapsed() >= settings.limits.watch());
}

#[tokio::test]
async fn a_commit_does_not_wait_for_a_poll_or_for_linger() {
    let (_cluster, producer, topic) = open().await;
    let mut took = Vec::new();
    for _ in 0..30 {
        send(&producer, &topic).await;
        let committed = commit(&producer).await.unwrap();
        assert!(!committed.doubtful, "{committed:?}");
        took.push(committed.whole);
    }
    took.sort();
    assert!(took[15] < Duration::from_millis(20), "{took:?}");
}

#[tokio::test]
async fn a_commit_that_takes_longer_than_the_threshold_is_doubtful() {
    let (cluster, producer, topic) = open().await;
    // The first one warms up.
    send(&producer, &topic).await;
    assert!(!commit(&producer).await.unwrap().doubtful);
    cluster.broker_round_trip_time(1, Duration::from_millis(450)).unwrap();
    send(&producer, &topic).await;
    assert!(commit(&producer).await.unwrap().doubtful);
}

#[tokio::test]
async fn a_fenced_commit_is_told_as_fenced() {
    let (cluster, producer, topic) = open().await;
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    send(&producer, &topic).await;
    assert!(commit(&producer).await.unwrap_err().is_fenced());
}

#[tokio::test]
async fn a_missing_right_is_told_although_the_records_were_only_dropped() {
    let (cluster, producer, topic) = open().await;
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::AddPartitionsToTxn, &[denied]);
    send(&producer, &topic).await;
    let error = commit(&producer).await.unwrap_err().into_error("cannot commit", &settings(&["b:1"]));
    assert!(error.message().ends_with("User:ANONYMOUS may not Write on topic t"), "{error:?}");
}

#[tokio::test]
async fn a_refused_record_is_named_with_its_place() {
    let (cluster, producer, topic) = open().await;
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    cluster.request_errors(RDKafkaApiKey::Produce, &[refused]);
    send(&producer, &topic).await;
    let error = commit(&producer).await.unwrap_err().into_error("cannot commit", &settings(&["b:1"]));
    assert_eq!(error.kind(), millrace_core::error::Kind::Record);
    let message = "a record for partition 0 of topic t, of the change at 12/34, was not delivered";
    assert_eq!(error.message(), message);
}

#[tokio::test]
async fn a_coordinator_that_moves_is_waited_out() {
    let (cluster, producer, topic) = open().await;
    let moved = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR;
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[moved]);
    send(&producer, &topic).await;
    let committed = commit(&producer).await.unwrap();
    assert!(committed.doubtful, "it was asked for twice: {committed:?}");
}

/// Waits for librdkafka to tell of something, and says whether that puts a commit in doubt.
async fn told(producer: &Producer) -> Option<bool> {
    for _ in 0..100 {
        producer.poll();
        if producer.client.events().trouble().is_some() {
            return Some(producer.client.events().take_errors_seen());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

#[tokio::test]
async fn a_dead_bootstrap_server_beside_living_ones_puts_no_commit_in_doubt() {
    let dead = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"];
    // librdkafka begins with any of them, and may begin with the living one.
    for _ in 0..20 {
        let (_cluster, producer, topic) = open_beside(&dead).await;
        let Some(in_doubt) = told(&producer).await else { continue };
        assert!(!in_doubt);
        send(&producer, &topic).await;
        assert!(!commit(&producer).await.unwrap().doubtful);
        return;
    }
    panic!("librdkafka told of nothing");
}

#[tokio::test]
async fn a_coordinator_that_goes_puts_a_commit_in_doubt() {
    let (cluster, producer, topic) = open().await;
    send(&producer, &topic).await;
    assert!(!commit(&producer).await.unwrap().doubtful);
    cluster.broker_down(1).unwrap();
    assert_eq!(told(&producer).await, Some(true));
}

#[tokio::test]
async fn nothing_is_committed_after_a_transaction_that_was_not() {
    let (_cluster, producer, topic) = open().await;
    send(&producer, &topic).await;
    let before = Arc::<Gate>::default();
    before.set(false);
    let mut ending = producer.commit(Some(before));
    let outcome = producer.committed(&mut ending.done, tokio::time::Instant::now()).await;
    assert!(matches!(outcome, Err(Trouble::Predecessor)), "{outcome:?}");
    assert!(!ending.gate.is_clear_within(Duration::ZERO));
}

#[tokio::test]
async fn a_producer_with_an_open_transaction_ends_although_the_brokers_are_gone() {
    let (cluster, mut producer, topic) = open().await;
    send(&producer, &topic).await;
    cluster.broker_down(1).unwrap();
    let ended = producer.ended().unwrap();
    drop(topic);
    drop(producer);
    tokio::time::timeout(Duration::from_secs(8), ended).await.unwrap().unwrap();
}

#[test]
fn a_call_that_ran_out_of_its_time_is_not_made_again() {
    let again = |failing_after: Duration| {
        let mut calls = Vec::new();
        let deadline = Instant::now() + Duration::from_millis(1_200);
        let answer = until(deadline, |time| {
            calls.push(time);
            thread::sleep(failing_after);
            Err(Failure { code: Code::INVALID, text: "not yet".into(), retriable: true })
        });
        assert!(answer.is_err());
        calls
    };
    let calls = again(Duration::from_millis(50));
    assert!(calls.len() > 1 && calls.iter().all(|time| *time >= RESUMED_WITH), "{calls:?}");
    assert_eq!(again(Duration::from_millis(1_300)).len(), 1);
}
