//! The order event bus of `configs/orders`, on three brokers of which one is killed.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_e2e::{Bare, Broker, Daemon, File, Own, Servers, Sql, codecs, until, wait_for_records};
use serde_json::json;
use xtask::services::KafkaConfig;

const TYPES: [(&str, &str); 12] = [
    ("order.created", "order-events"),
    ("order.updated", "order-events"),
    ("order.cancelled", "order-events"),
    ("order.completed", "order-events"),
    ("inventory.updated", "inventory-events"),
    ("inventory.reserved", "inventory-events"),
    ("inventory.released", "inventory-events"),
    ("payment.processed", "payment-events"),
    ("payment.failed", "payment-events"),
    ("payment.refunded", "payment-events"),
    ("customer.registered", "customer-events"),
    ("customer.updated", "customer-events"),
];
/// Partitions and retention.
const TOPICS: [(&str, usize, &str); 4] = [
    ("order-events", 12, "604800000"),
    ("inventory-events", 6, "259200000"),
    ("payment-events", 12, "604800000"),
    ("customer-events", 8, "2592000000"),
];

/// Every type, for one number, in one transaction with its order; every fifth is rolled back.
async fn write(sql: &Sql, numbers: std::ops::Range<i32>) {
    for n in numbers {
        let mut statements = format!("BEGIN; INSERT INTO orders VALUES ('o-{n}', 'c-{n}', 'new', 10.50);");
        for (kind, _) in TYPES {
            statements += &format!(
                "INSERT INTO outbox (aggregateid, type, created_at, payload)
                 VALUES ('k-{}', '{kind}', '2024-01-02 03:04:05.678+00', '{{\"n\": {n}, \"total\": 10.50}}');",
                n % 5
            );
        }
        statements += if n % 5 == 4 { "ROLLBACK" } else { "COMMIT" };
        sql.run(&statements).await;
    }
}

const GROUPS_TOOL: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";

/// What Kafka's own tool and the gauges say of a group, by partition.
async fn expect_gauges(servers: &Servers, daemon: &Daemon) {
    let moved =
        ["--group", "order-processing", "--topic", "order-events", "--reset-offsets", "--to-offset", "3"];
    let moved: Vec<&str> = moved.iter().copied().chain(["--execute"]).collect();
    servers.kafka.tool(GROUPS_TOOL, &moved).await.expect("the group's offsets are set");
    let told = servers.kafka.tool(GROUPS_TOOL, &["--group", "order-processing", "--describe"]).await;
    let told = told.expect("the group is described");
    let lines = told.lines().filter(|line| line.starts_with("order-processing")).map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let of = format!("topic=\"{}\",partition=\"{}\"", words[1], words[2]);
        format!("consumer_lag{{consumer_group=\"order-processing\",{of}}} {}\n", words[5])
    });
    let lines: Vec<String> = lines.collect();
    assert_eq!(lines.len(), 12, "{told}");
    until("the gauges say what Kafka's tool says", async || {
        let page = daemon.get("/metrics").await.1;
        let rates =
            page.lines().filter(|line| line.starts_with("messages_per_second{topic=\"order-events\""));
        (rates.count() == 12 && lines.iter().all(|line| page.contains(line))).then_some(())
    })
    .await;
}

/// An event of a type of this topic; its number, and its type's place in a transaction.
fn expect_event(event: &Bare, topic: &str) -> (i64, usize) {
    let value = event.json();
    let kind = value["eventType"].as_str().unwrap_or_default();
    let place = TYPES.iter().position(|known| *known == (kind, topic)).expect("a type of the topic");
    assert_eq!(event.header("eventType"), Some(kind));
    let id = value["eventId"].as_str().expect("an id");
    assert_eq!(Some(id), event.header("id"));
    let digits: Vec<usize> = id.split('-').map(str::len).collect();
    assert!(digits == [8, 4, 4, 4, 12] && id.chars().all(|c| c == '-' || c.is_ascii_hexdigit()), "{id}");
    assert_eq!(value["timestamp"], "2024-01-02T03:04:05.678Z");
    assert_eq!((&value["source"], &value["version"]), (&json!("order-service"), &json!("1.0")));
    assert!(event.value.as_deref().is_some_and(|text| text.contains("10.50")), "{event:?}");
    (value["data"]["n"].as_i64().expect("a number"), place)
}

#[tokio::test]
async fn the_order_bus_delivers_each_event_once_while_one_of_three_brokers_is_killed() {
    let kafka = KafkaConfig { brokers: 3, heap_mb: 384, ..KafkaConfig::default() };
    let servers = Arc::new(Servers::with(Own { kafka: Some(kafka), ..Own::postgres() }).await);
    Sql::connect(&servers.postgres.url()).await.run("CREATE DATABASE shop").await;
    let sql = Sql::connect(&servers.postgres.url_of("shop")).await;
    sql.run(&File::text_of_configs("orders/orders.sql")).await;
    let mut file = File::of_configs("orders/orders.toml");
    let bootstrap = servers.kafka.bootstrap();
    let brokers: Vec<String> = bootstrap.split(',').map(str::to_owned).collect();
    file.set("source/postgres/url", servers.postgres.url_of("shop"))
        .set("sink/kafka/bootstrap", brokers.clone())
        .set("sink/kafka/gauges/interval_s", 1);
    file.remove("source/postgres/password");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("orders.toml");
    file.write(&path);
    let daemon = Daemon::start(&[&path], dir.path(), "orders").await;
    daemon.wait_for_state("orders", "RUNNING").await;

    write(&sql, 0..20).await;
    servers.kafka.brokers()[2].kill();
    write(&sql, 20..40).await;
    until("the dead broker is shown", async || {
        let page = daemon.get("/metrics").await.1;
        page.contains("broker_availability{broker_id=\"3\"} 0\n").then_some(())
    })
    .await;
    servers.kafka.brokers()[2].start().await.expect("the broker starts");
    until("the broker is shown again", async || {
        let page = daemon.get("/metrics").await.1;
        page.contains("broker_availability{broker_id=\"3\"} 1\n").then_some(())
    })
    .await;
    write(&sql, 40..50).await;
    sql.run("INSERT INTO outbox (aggregateid, type, payload) VALUES ('x', 'shipping.lost', '{}')").await;

    // Of fifty, ten were rolled back.
    let letters = wait_for_records(&brokers[0], &["orders.dead-letters"], 1).await;
    assert_eq!(letters[0].header("error.code"), Some("topic_not_allowed"));
    for (topic, partitions, retention) in TOPICS {
        let kinds = TYPES.iter().filter(|(_, of)| *of == topic).count();
        let events = wait_for_records(&brokers[0], &[topic], 40 * kinds).await;
        assert_eq!(events.len(), 40 * kinds, "{topic}");
        let mut by_key: BTreeMap<&str, Vec<(i64, usize)>> = BTreeMap::new();
        for event in &events {
            by_key
                .entry(event.key.as_deref().unwrap_or_default())
                .or_default()
                .push(expect_event(event, topic));
        }
        // All types of a key together, in the order in which they were written.
        assert!(
            by_key.values().all(|told| told.is_sorted_by(|one, next| one < next) && told.len() == 10 * kinds),
            "{by_key:?}"
        );
        let broker = Broker::at(&brokers[0]);
        assert_eq!(broker.replicas(topic).await, vec![3; partitions], "{topic}");
        let packed = codecs(&servers.kafka.brokers()[0], topic);
        assert!(packed.contains("lz4") && packed.is_subset(&["lz4", "none"].into()), "{topic}: {packed:?}");
        assert_eq!(broker.partitions(topic).await, partitions);
        assert_eq!(broker.topic_config(topic, "retention.ms").await.as_deref(), Some(retention));
        assert_eq!(broker.topic_config(topic, "min.insync.replicas").await.as_deref(), Some("2"));
    }
    expect_gauges(&servers, &daemon).await;
}
