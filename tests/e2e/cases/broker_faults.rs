//! Kafka is away, refuses, or has limits.

use millrace_e2e::{Own, Servers, Shop, within};
use std::sync::Arc;
use std::time::Duration;

/// A broker that was killed comes back with a log to recover and transactions to end.
const RECOVERY: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_broker_that_is_down_at_the_start_is_waited_for() {
    let servers = Arc::new(Servers::with(Own::kafka()).await);
    let mut shop = Shop::on(&servers, "broker-late").await;
    servers.kafka.stop().await.expect("Kafka stops");
    shop.start_in_any_state().await;
    shop.degraded(&[&servers.kafka.bootstrap()]).await;
    servers.kafka.start().await.expect("Kafka starts");
    shop.daemon().wait_for_state_within(RECOVERY, &shop.name, "RUNNING").await;
    shop.rows(1..=10).await.expect_rows(1..=10).await;
}

#[tokio::test]
async fn a_broker_killed_under_load_and_started_again_has_every_row_once() {
    let servers = Arc::new(Servers::with(Own::kafka()).await);
    let mut shop = Shop::on(&servers, "broker-killed").await;
    shop.start().await.rows(1..=1).await.wait_for_events("public.orders", 1).await;
    let load = shop.load(2..=30_000, 50).await;
    shop.wait_for_events("public.orders", 2_000).await;
    servers.kafka.kill();
    load.await.expect("the load is written");
    // On a fast machine all of the load may be through by now; these cannot be.
    shop.rows(30_001..=30_100).await;
    // It shows when a record has run out of its time, which is bound to the transaction's.
    shop.daemon().wait_for_state_within(RECOVERY, &shop.name, "DEGRADED").await;
    servers.kafka.start().await.expect("Kafka starts");
    shop.expect_rows_within(RECOVERY, 1..=30_100).await;
    shop.wait_for_state("RUNNING").await;
}

#[tokio::test]
async fn a_broker_paused_past_the_transaction_timeout_has_every_row_once() {
    let servers = Arc::new(Servers::with(Own::kafka()).await);
    let mut shop = Shop::on(&servers, "broker-paused").await;
    shop.file.set("sink/kafka/transaction/timeout_ms", 5_000);
    shop.start().await.rows(1..=1).await.wait_for_events("public.orders", 1).await;
    let load = shop.load(2..=10_000, 50).await;
    servers.kafka.pause();
    // It shows when a call has run out of its time, which is bound to the transaction's.
    within(RECOVERY, "the connector notices", async || {
        (shop.daemon().state(&shop.name).await.as_deref() == Some("DEGRADED")).then_some(())
    })
    .await;
    servers.kafka.resume();
    load.await.expect("the load is written");
    shop.expect_rows_within(RECOVERY, 1..=10_000).await;
}

#[tokio::test]
async fn a_topic_that_cannot_be_created_is_named_with_the_reason() {
    let mut shop = Shop::open("no-topic").await;
    shop.file.set("sink/kafka/topic_defaults/config/retention.ms", "for ever");
    shop.start().await.rows(1..=1).await;
    let refusal = shop.not_ready("FAILED").await;
    refusal.expect_reason(&[&shop.topic("public.orders")]).expect_hint(&["[sink.kafka"]);
}

#[tokio::test]
async fn a_topic_that_wants_more_brokers_than_are_up_is_waited_for() {
    let mut shop = Shop::open("few-brokers").await;
    shop.file.set("sink/kafka/topic_defaults/replication", 3);
    shop.start_in_any_state().await;
    let words = [&shop.position_topic(), "replication factor", "3 replicas", "1 of the brokers"];
    shop.degraded(&words).await.expect_hint(&["[sink.kafka.topic_defaults]"]);
    // Somebody makes it, which is the same as a cluster that has grown.
    let compacted = [("cleanup.policy", "compact")];
    shop.broker().create_topic_with(&shop.position_topic(), 2, &compacted).await;
    shop.broker().create_topic(&shop.topic("public.orders"), 1).await;
    shop.wait_for_state("RUNNING").await;
    shop.rows(1..=10).await.expect_rows(1..=10).await;
}

#[tokio::test]
async fn topics_are_made_as_the_file_declares_them() {
    let mut shop = Shop::open("declared").await;
    shop.file
        .set("sink/kafka/topic_defaults/partitions", 5)
        .set("sink/kafka/topic_defaults/config/retention.ms", "86400001");
    shop.start().await.rows(1..=1).await;
    shop.wait_for_events("public.orders", 1).await;
    let topic = shop.topic("public.orders");
    assert_eq!(shop.broker().partitions(&topic).await, 5);
    assert_eq!(shop.broker().topic_config(&topic, "retention.ms").await.as_deref(), Some("86400001"));
}

#[tokio::test]
async fn a_topic_that_is_there_already_is_used_as_it_is() {
    let mut shop = Shop::open("existing-topic").await;
    let topic = shop.topic("public.orders");
    shop.broker().create_topic(&topic, 2).await;
    shop.file.set("sink/kafka/topic_defaults/partitions", 5);
    shop.start().await.rows(1..=20).await;
    let events = shop.wait_for_events("public.orders", 20).await;
    assert_eq!((shop.broker().partitions(&topic).await, events.len()), (2, 20));
}

#[tokio::test]
async fn partitions_added_to_a_topic_halt_the_connector_before_any_key_moves() {
    let mut shop = Shop::open("more-partitions").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    let topic = shop.topic("public.orders");
    shop.broker().add_partitions(&topic, 3).await;
    shop.start_in_any_state().await.rows(11..=20).await;
    let refusal = shop.not_ready("FAILED").await;
    refusal.expect_reason(&[&topic, "partitions"]);
    assert!(!refusal.hint.is_empty(), "no remedy: {refusal:?}");
    let events = shop.events("public.orders").await;
    assert!(events.iter().all(|event| event.partition == 0), "{events:?}");
}

/// The topics are looked at every quarter of a minute.
const SEEN: Duration = Duration::from_secs(120);

#[tokio::test]
async fn partitions_added_under_a_running_connector_halt_it_before_any_key_moves() {
    let mut shop = Shop::open("growing").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    let topic = shop.topic("public.orders");
    let load = shop.load(11..=2_000_000_000, 1).await;
    shop.broker().add_partitions(&topic, 3).await;
    shop.daemon().wait_for_state_within(SEEN, &shop.name, "FAILED").await;
    let refusal = shop.not_ready("FAILED").await;
    refusal.expect_reason(&[&topic, "3 partitions", "written with 1"]).expect_hint(&["millrace position"]);
    load.abort();
    let events = shop.events("public.orders").await;
    assert!(events.iter().all(|event| event.partition == 0), "a key moved");
    let refusal = shop.kill().start_in_any_state().await.not_ready("FAILED").await;
    refusal.expect_reason(&[&topic, "3 partitions"]);
}

#[tokio::test]
async fn a_data_topic_that_was_deleted_is_not_quietly_made_again() {
    let mut shop = Shop::open("topic-deleted").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    let topic = shop.topic("public.orders");
    shop.broker().delete_topic(&topic).await;
    within(RECOVERY, "the topic is gone", async || (!shop.broker().has_topic(&topic).await).then_some(()))
        .await;
    shop.start_in_any_state().await.rows(11..=20).await;
    let refusal = shop.not_ready("FAILED").await;
    refusal.expect_reason(&[&topic, "gone"]).expect_hint(&["kafka-topics.sh --create", &topic]);
    assert!(!shop.broker().has_topic(&topic).await, "it was made again");
    // As the hint says.
    shop.broker().create_topic(&topic, 1).await;
    shop.kill().start().await;
    let events = shop.wait_for_events_anew("public.orders", 10).await;
    assert_eq!(events.first().and_then(|event| event.id()), Some(11));
}

#[tokio::test]
async fn a_data_topic_deleted_under_a_running_connector_halts_it() {
    let mut shop = Shop::open("topic-taken").await;
    shop.file.set("sink/kafka/transaction/timeout_ms", 6_000);
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    let topic = shop.topic("public.orders");
    shop.broker().delete_topic(&topic).await;
    let load = shop.load(11..=2_000_000_000, 1).await;
    shop.daemon().wait_for_state_within(SEEN, &shop.name, "FAILED").await;
    load.abort();
    let refusal = shop.not_ready("FAILED").await;
    refusal.expect_reason(&[&topic, "gone"]).expect_hint(&["kafka-topics.sh --create", &topic]);
    assert!(!shop.broker().has_topic(&topic).await, "it was made again");
}

#[tokio::test]
async fn a_row_above_the_topic_s_limit_stops_the_connector_and_nothing_is_lost_once_it_is_raised() {
    let mut shop = Shop::open("too-large").await;
    shop.file.set("sink/kafka/topic_defaults/config/max.message.bytes", "20000");
    shop.start().await.rows(1..=3).await.wait_for_events("public.orders", 3).await;
    // Text that no compression makes small.
    shop.sql
        .run("INSERT INTO orders SELECT 4, string_agg(md5(n::text), '') FROM generate_series(1, 4000) n")
        .await;
    shop.rows(5..=6).await;
    let refusal = shop.not_ready("FAILED").await;
    let topic = shop.topic("public.orders");
    refusal.expect_reason(&["public.orders", "the limit is"]).expect_hint(&["max.message.bytes", &topic]);
    assert_eq!(shop.events("public.orders").await.len(), 3);
    shop.broker().set_topic_config(&topic, "max.message.bytes", "1000000").await;
    shop.kill().start().await.expect_rows(1..=6).await;
}
