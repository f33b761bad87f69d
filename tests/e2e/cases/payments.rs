//! The payments of `configs/payments`: three services with a database and an outbox each, one daemon.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use millrace_e2e::{Bare, Daemon, File, Own, Servers, Sql, until, wait_for_records};
use serde_json::json;
use tempfile::TempDir;

const SERVICES: [&str; 3] = ["core", "auth", "gateway"];
const TOPICS: [&str; 4] = ["payment.created", "payment.updated", "user.registered", "notification.email"];

/// Databases as the folder sets them up, and the folder's files with the addresses of this test.
struct Payments {
    servers: Arc<Servers>,
    databases: Vec<Sql>,
    files: Vec<PathBuf>,
    dir: TempDir,
}

impl Payments {
    async fn set_up() -> Self {
        // Topics are named by the files, so no other test may share the broker.
        let servers = Arc::new(Servers::with(Own::both()).await);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut databases, mut files) = (Vec::new(), Vec::new());
        for service in SERVICES {
            Sql::connect(&servers.postgres.url()).await.run(&format!("CREATE DATABASE {service}")).await;
            let url = servers.postgres.url_of(service);
            let sql = Sql::connect(&url).await;
            sql.run(&File::text_of_configs(&format!("payments/{service}.sql"))).await;
            databases.push(sql);
            let mut file = File::of_configs(&format!("payments/{service}.toml"));
            file.set("source/postgres/url", url).set("sink/kafka/bootstrap", vec![servers.kafka.bootstrap()]);
            file.remove("source/postgres/password");
            let path = dir.path().join(format!("{service}.toml"));
            file.write(&path);
            files.push(path);
        }
        Self { servers, databases, files, dir }
    }

    async fn start(&self) -> Daemon {
        let files: Vec<_> = self.files.iter().map(PathBuf::as_path).collect();
        let daemon = Daemon::start(&files, self.dir.path(), "payments").await;
        for service in SERVICES {
            daemon.wait_for_state(&format!("payments-{service}"), "RUNNING").await;
        }
        daemon
    }

    /// What core does for each payment: the row and its events in one transaction.
    async fn pay(&self, numbers: std::ops::Range<i32>) {
        for n in numbers {
            let amount = n * 100;
            let statements = format!(
                "BEGIN; INSERT INTO payments VALUES ('p-{n}', {n}, {amount}, 'EUR', 'new', '2024-01-02T03:04:05Z');
                 INSERT INTO outbox (aggregateid, type, payload) VALUES ('p-{n}', 'payment.created',
                   '{{\"payment_id\":\"p-{n}\",\"user_id\":{n},\"amount\":{amount},\"currency\":\"EUR\",\"created_at\":\"2024-01-02T03:04:05Z\"}}');
                 {}; BEGIN; UPDATE payments SET status = 'paid' WHERE payment_id = 'p-{n}';
                 INSERT INTO outbox (aggregateid, type, payload) VALUES ('p-{n}', 'payment.updated',
                   '{{\"payment_id\":\"p-{n}\",\"status\":\"paid\",\"updated_at\":\"2024-01-02T03:04:06Z\"}}'),
                   ('p-{n}', 'payment.updated',
                   '{{\"payment_id\":\"p-{n}\",\"status\":\"settled\",\"updated_at\":\"2024-01-02T03:04:07Z\"}}');
                 DELETE FROM outbox; {}",
                // Every seventh customer changes their mind, and nobody hears of it.
                if n % 7 == 3 { "ROLLBACK" } else { "COMMIT" },
                if n % 7 == 3 { "ROLLBACK" } else { "COMMIT" },
            );
            self.databases[0].run(&statements).await;
        }
    }

    async fn topic(&self, topic: &str, count: usize) -> Vec<Bare> {
        wait_for_records(&self.servers.kafka.bootstrap(), &[topic], count).await
    }
}

#[tokio::test]
async fn every_event_of_the_payments_arrives_once_bare_and_in_order_though_kafka_was_down() {
    let payments = Payments::set_up().await;
    let daemon = payments.start().await;
    payments.pay(0..20).await;
    payments.topic("payment.updated", 34).await;
    payments.servers.kafka.stop().await.expect("Kafka stops");
    payments.pay(20..40).await;
    payments.databases[1]
        .run(
            "BEGIN; INSERT INTO users VALUES (7, 'a@example.com', 'A', '2024-01-02T03:04:05Z');
             INSERT INTO outbox (aggregateid, type, payload) VALUES ('7', 'user.registered',
             '{\"user_id\":7,\"email\":\"a@example.com\",\"name\":\"A\",\"registered_at\":\"2024-01-02T03:04:05Z\"}'); COMMIT",
        )
        .await;
    payments.databases[2]
        .run(
            "INSERT INTO outbox (aggregateid, type, payload) VALUES ('a@example.com', 'notification.email',
             '{\"to\":\"a@example.com\",\"subject\":\"Hi\",\"body\":\"b\",\"template\":null}'),
             ('a@example.com', 'notification.fax', '{}'), ('', 'notification.email', '{}')",
        )
        .await;
    payments.servers.kafka.start().await.expect("Kafka starts");

    let expected: Vec<i32> = (0..40).filter(|n| n % 7 != 3).collect();
    for (topic, field, statuses) in [
        ("payment.created", "created_at", &[""][..]),
        ("payment.updated", "updated_at", &["paid", "settled"][..]),
    ] {
        let events = payments.topic(topic, expected.len() * statuses.len()).await;
        let mut by_payment: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for event in &events {
            let value = event.json();
            assert_eq!(value["payment_id"].as_str(), event.key.as_deref());
            assert!(value[field].as_str().is_some_and(|time| time.ends_with('Z')), "{value}");
            assert!(event.header("id").is_some());
            let number = event.key.as_deref().and_then(|key| key.strip_prefix("p-")?.parse().ok());
            let status = value["status"].as_str().unwrap_or_default().to_owned();
            by_payment.entry(number.expect("a payment's id")).or_default().push(status);
        }
        assert!(by_payment.keys().eq(&expected), "{topic}: {by_payment:?}");
        assert!(by_payment.values().all(|found| found == statuses), "{topic}: {by_payment:?}");
    }
    let created = payments.topic("payment.created", expected.len()).await;
    let fields = json!({"payment_id": "p-5", "user_id": 5, "amount": 500, "currency": "EUR",
                        "created_at": "2024-01-02T03:04:05Z"});
    assert!(created.iter().any(|event| event.json() == fields));
    let users = payments.topic("user.registered", 1).await;
    assert_eq!((users[0].key.as_deref(), &users[0].json()["name"]), (Some("7"), &json!("A")));
    let mails = payments.topic("notification.email", 1).await;
    assert_eq!(mails[0].key.as_deref(), Some("a@example.com"));
    assert_eq!(
        mails[0].value.as_deref(),
        Some(r#"{"to":"a@example.com","subject":"Hi","body":"b","template":null}"#)
    );
    let letters = payments.topic("payments.dead-letters", 2).await;
    let codes: Vec<_> = letters.iter().filter_map(|letter| letter.header("error.code")).collect();
    assert_eq!(codes, ["topic_not_allowed", "empty_key"]);
    let broker = millrace_e2e::Broker::at(&payments.servers.kafka.bootstrap());
    for topic in TOPICS {
        assert_eq!(broker.partitions(topic).await, 6, "{topic}");
    }
    until("all three run", async || {
        let mut states = Vec::new();
        for service in SERVICES {
            states.push(daemon.state(&format!("payments-{service}")).await);
        }
        states.iter().all(|state| state.as_deref() == Some("RUNNING")).then_some(())
    })
    .await;
}
