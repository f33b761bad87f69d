//! The bank's event platform of `configs/exb`: fifteen families of events in Avro, out of three databases.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use millrace_e2e::{Bare, Broker, Daemon, File, Own, Servers, Sql, Subjects, until, wait_for_records};
use millrace_ledger::avro::Registry;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

const DAY_MS: u64 = 86_400_000;
/// Group, family, an event's data, and how many days it is kept.
fn families() -> Vec<(&'static str, &'static str, Json, u64)> {
    vec![
        ("domain", "customer", json!({"name": "N", "email": "n@bank", "status": "new"}), 90),
        (
            "domain",
            "account",
            json!({"customer_id": "c", "balance": "10.00", "currency": "EUR", "status": "open"}),
            365,
        ),
        (
            "domain",
            "transaction",
            json!({"account_id": "a", "amount": "-10.00", "currency": "EUR", "counterparty": null, "saga_id": "s"}),
            365,
        ),
        (
            "domain",
            "payment",
            json!({"account_id": "a", "amount": "10.00", "currency": "EUR", "status": "undone", "saga_id": "s"}),
            365,
        ),
        (
            "domain",
            "security",
            json!({"user_id": "u", "action": "login", "outcome": "ok", "ip_address": "::1"}),
            365,
        ),
        ("system", "health", json!({"component": "x", "status": "up"}), 3),
        ("system", "performance", json!({"component": "x", "metric": "m", "value": 1.5}), 3),
        ("system", "error", json!({"component": "x", "code": "e", "message": "m"}), 30),
        ("system", "audit", json!({"actor": "x", "action": "a", "object": "o"}), 3650),
        ("system", "monitoring", json!({"component": "x", "severity": "low", "message": "m"}), 7),
        ("integration", "thirdparty", json!({"provider": "p", "operation": "o", "status": "ok"}), 14),
        ("integration", "external", json!({"system": "s", "operation": "o", "status": "ok"}), 14),
        ("integration", "api", json!({"path": "/", "method": "GET", "status": 200}), 7),
        ("integration", "webhook", json!({"url": "u", "delivery": "d", "status": 200}), 14),
        (
            "integration",
            "notification",
            json!({"recipient": "r", "channel": "mail", "template": "t", "status": "sent"}),
            14,
        ),
    ]
}
/// What the services of a database keep beside their events.
const STATES: &str =
    "CREATE TABLE states (family text, aggregate text, version bigint, PRIMARY KEY (family, aggregate))";
const FIGURES: [&str; 4] = [
    "millrace_delivered_records_total",
    "millrace_end_to_end_latency_seconds_count",
    "millrace_lag_seconds",
    "millrace_dead_letters_total",
];
const GROUPS: [&str; 3] = ["domain", "system", "integration"];

struct Bank {
    servers: Arc<Servers>,
    sql: BTreeMap<&'static str, Sql>,
    files: Vec<PathBuf>,
    dir: TempDir,
}

impl Bank {
    async fn set_up() -> Self {
        let servers = Arc::new(Servers::with(Own::both()).await);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut sql, mut files) = (BTreeMap::new(), Vec::new());
        for group in GROUPS {
            Sql::connect(&servers.postgres.url()).await.run(&format!("CREATE DATABASE {group}")).await;
            let url = servers.postgres.url_of(group);
            let database = Sql::connect(&url).await;
            database.run(&File::text_of_configs("exb/outbox.sql")).await;
            database.run(STATES).await;
            sql.insert(group, database);
            let mut file = File::of_configs(&format!("exb/{group}.toml"));
            file.set("source/postgres/url", url)
                .set("format/registry", servers.registry.url())
                .set("sink/kafka/bootstrap", vec![servers.kafka.bootstrap()]);
            // Users, passwords and certificates have a test of their own.
            for key in ["sink/kafka/security", "sink/kafka/sasl", "sink/kafka/tls"] {
                file.remove(key);
            }
            for key in ["password", "sslmode", "sslrootcert"] {
                file.remove(&format!("source/postgres/{key}"));
            }
            for key in ["registry_username", "registry_password", "registry_ca_file"] {
                file.remove(&format!("format/{key}"));
            }
            let path = dir.path().join(format!("{group}.toml"));
            file.write(&path);
            files.push(path);
        }
        Self { servers, sql, files, dir }
    }

    async fn start(&self) -> Daemon {
        let files: Vec<_> = self.files.iter().map(PathBuf::as_path).collect();
        let daemon = Daemon::start(&files, self.dir.path(), "exb").await;
        for group in GROUPS {
            daemon.wait_for_state(&format!("exb-{group}"), "RUNNING").await;
        }
        daemon
    }

    /// `versions` of one aggregate of a family, each in a transaction with its state; the last one is taken back once
    /// before it is committed.
    async fn write(&self, group: &str, family: &str, key: &str, data: &Json, versions: std::ops::Range<i64>) {
        let last = versions.end - 1;
        for version in versions {
            let statements = format!(
                "BEGIN; INSERT INTO states VALUES ('{family}', '{key}', {version})
                 ON CONFLICT (family, aggregate) DO UPDATE SET version = excluded.version;
                 INSERT INTO outbox (aggregatetype, aggregateid, version, type, occurred_at, correlation_id, payload)
                 VALUES ('{family}', '{key}', {version}, '{family}.changed', '2024-01-02 03:04:05.000006+00', 'c', '{data}')"
            );
            if version == last {
                self.sql[group].run(&format!("{statements}; ROLLBACK")).await;
            }
            self.sql[group].run(&format!("{statements}; COMMIT")).await;
        }
    }

    async fn topic(&self, topic: &str, count: usize) -> Vec<Bare> {
        let found = wait_for_records(&self.servers.kafka.bootstrap(), &[topic], count).await;
        assert_eq!(found.len(), count, "{topic}");
        found
    }
}

#[tokio::test]
async fn every_family_of_the_bank_arrives_by_its_schema_and_each_aggregate_in_the_order_of_its_versions() {
    let bank = Bank::set_up().await;
    let daemon = bank.start().await;
    for (group, family, data, _) in families() {
        bank.write(group, family, "k-1", &data, 1..4).await;
    }
    bank.servers.kafka.stop().await.expect("Kafka stops");
    for (group, family, data, _) in families() {
        bank.write(group, family, "k-2", &data, 1..4).await;
    }
    bank.servers.kafka.start().await.expect("Kafka starts");
    let mut registry = Registry::new(&bank.servers.registry.url()).expect("a client");
    let broker = Broker::at(&bank.servers.kafka.bootstrap());
    let subjects = Subjects::at(&bank.servers.registry.url());
    for (_, family, data, days) in families() {
        let topic = format!("{family}.events");
        let events = bank.topic(&topic, 6).await;
        for key in ["k-1", "k-2"] {
            let own: Vec<&Bare> = events.iter().filter(|event| event.key.as_deref() == Some(key)).collect();
            for (event, version) in own.iter().zip(1..) {
                let expected = json!({
                    "event_id": event.header("id"), "event_type": format!("{family}.changed"), "aggregate_id": key,
                    "version": version, "occurred_at": 1_704_164_645_000_006_i64, "data": data,
                });
                assert_eq!(event.avro(&mut registry).await, expected, "{topic}");
                assert_eq!(event.header("correlationId"), Some("c"));
            }
            assert_eq!(own.len(), 3, "{topic}: {key}");
        }
        assert_eq!(broker.partitions(&topic).await, 6);
        let retention = (days * DAY_MS).to_string();
        assert_eq!(broker.topic_config(&topic, "retention.ms").await, Some(retention), "{topic}");
        assert_eq!(subjects.compatibility(&format!("{topic}-value")).await, "BACKWARD");
    }
    bank.write("domain", "customer", "", &json!({}), 1..2).await;
    bank.write("domain", "loyalty", "k", &json!({}), 1..2).await;
    bank.write("domain", "customer", "k", &json!({"shoe_size": 43}), 1..2).await;
    let letters = bank.topic("exb.domain.dead-letters", 3).await;
    let codes: Vec<_> = letters.iter().filter_map(|letter| letter.header("error.code")).collect();
    assert_eq!(codes, ["empty_key", "topic_not_allowed", "schema_misfit"]);
    until("the events and the dead letters are counted, and timed", async || {
        let [delivered, timed, lag, letters] = daemon.metrics(FIGURES, "exb-domain").await?;
        (delivered >= 30.0 && timed >= 1.0 && lag >= 0.0 && letters == 3.0).then_some(())
    })
    .await;
}
