//! The lab of `configs/lab`: an event store in MongoDB, four databases of services in Postgres, one daemon.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use millrace_e2e::{
    Bare, Broker, Daemon, File, Own, Servers, Sql, codecs, committed, connect, run_to_end, until,
    wait_for_records,
};
use millrace_ledger::mongodb::{Ended, abort, commit};
use mongodb::bson::{DateTime, Document, doc};
use mongodb::{Client, Collection};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use xtask::services::MongodbConfig;

const DATABASES: [&str; 4] = ["userdb", "eventdb", "registrationdb", "auditdb"];
type Setting = (&'static str, &'static str);

/// Topic, partitions, and what is set on it.
const TOPICS: [(&str, usize, &[Setting]); 7] = [
    ("user.created", 3, &[("retention.ms", "604800000"), ("segment.ms", "86400000")]),
    ("user.updated", 3, &[]),
    ("user.logged_in", 3, &[]),
    ("registration.created", 3, &[]),
    ("notification.sent", 3, &[]),
    ("audit.logged", 1, &[("cleanup.policy", "compact")]),
    ("unknown.events", 3, &[]),
];
/// Each user's events, in one transaction.
const EVENTS: [(&str, &str); 8] = [
    ("UserCreated", "user.created"),
    ("UserUpdated", "user.updated"),
    ("UserUpdated", "user.updated"),
    ("UserLoggedIn", "user.logged_in"),
    ("RegistrationCreated", "registration.created"),
    ("NotificationSent", "notification.sent"),
    ("AuditLogged", "audit.logged"),
    ("NotificationTriggered", "unknown.events"),
];
const NOW_MS: i64 = 1_704_067_200_000;
const NOW: &str = "2024-01-01T00:00:00.000Z";

struct Lab {
    servers: Arc<Servers>,
    client: Client,
    sql: BTreeMap<&'static str, Sql>,
    files: Vec<PathBuf>,
    dir: TempDir,
}

impl Lab {
    async fn set_up() -> Self {
        let mongodb = MongodbConfig { auth: true, ..MongodbConfig::default() };
        let servers = Arc::new(Servers::with(Own { mongodb: Some(mongodb), ..Own::both() }).await);
        let mut lab = Self {
            client: connect(&servers.mongodb.url()).await,
            servers,
            sql: BTreeMap::new(),
            files: Vec::new(),
            dir: tempfile::tempdir().expect("a temporary directory"),
        };
        lab.set_up_store().await;
        for database in DATABASES {
            let superuser = Sql::connect(&lab.servers.postgres.url()).await;
            superuser.run(&format!("CREATE DATABASE {database}")).await;
            let url = lab.servers.postgres.url_of(database);
            let sql = Sql::connect(&url).await;
            sql.run(&File::text_of_configs(&format!("lab/{database}.sql"))).await;
            lab.sql.insert(database, sql);
            let mut file = File::of_configs(&format!("lab/{database}.toml"));
            file.set("source/postgres/url", url).remove("source/postgres/password");
            lab.put_file(file);
        }
        lab
    }

    /// The store with a user that may read it and nothing else.
    async fn set_up_store(&mut self) {
        let store = self.client.database("eventstore");
        let commands: Vec<Document> =
            serde_json::from_str(&File::text_of_configs("lab/setup/eventstore.json")).expect("commands");
        let user = doc! { "createUser": "millrace", "pwd": "secret", "roles": ["read"] };
        for command in commands.into_iter().chain([user]) {
            store.run_command(command).await.expect("the store is set up");
        }
        let url = self.servers.mongodb.url();
        let hosts = url.split_once('@').expect("a url with a user").1;
        let mut file = File::of_configs("lab/eventstore.toml");
        file.set("source/mongodb/url", format!("mongodb://millrace@{hosts}&authSource=eventstore"))
            .set("source/mongodb/password", "secret");
        self.put_file(file);
    }

    fn put_file(&mut self, mut file: File) {
        file.set("sink/kafka/bootstrap", vec![self.servers.kafka.bootstrap()]);
        let path = self.dir.path().join(format!("{}.toml", file.name()));
        file.write(&path);
        self.files.push(path);
    }

    async fn start(&self) -> Daemon {
        let files: Vec<_> = self.files.iter().map(PathBuf::as_path).collect();
        let daemon = Daemon::start(&files, self.dir.path(), "lab").await;
        for name in DATABASES.iter().chain(&["eventstore"]) {
            daemon.wait_for_state(name, "RUNNING").await;
        }
        // What is written before it would come as rows that were there.
        for name in &DATABASES[1..] {
            until("the rows are read", async || {
                daemon.own_status(name).await?["snapshot"]["finished_ms"].as_i64()
            })
            .await;
        }
        daemon
    }

    fn events(&self) -> Collection<Document> {
        self.client.database("eventstore").collection("events")
    }

    /// What the services do for each user; every fifth user changes their mind.
    async fn users(&self, numbers: std::ops::Range<i32>) {
        for n in numbers {
            let end = if leaves(n) { "ROLLBACK" } else { "COMMIT" };
            let told = |kind: &str, more: &str| {
                format!(
                    "INSERT INTO outbox (aggregateid, type, payload) VALUES ('u-{n}', '{kind}', '{{
                     \"eventType\": \"{kind}\", \"userId\": \"u-{n}\", \"email\": \"{n}@lab\", \"name\": \"N {n}\",
                     \"timestamp\": \"{NOW}\"{more}}}');"
                )
            };
            let statements = format!(
                "BEGIN; INSERT INTO users VALUES ('u-{n}', 'n{n}', '{n}@lab', 'N {n}', '{NOW}'); {}
                 UPDATE users SET full_name = 'M' WHERE id = 'u-{n}'; {} DELETE FROM outbox; {end}",
                told("UserCreated", ""),
                told("UserUpdated", ", \"changes\": {\"fullName\": \"M\"}"),
            );
            self.sql["userdb"].run(&statements).await;
            self.sql["eventdb"]
                .run(&format!("BEGIN; INSERT INTO events VALUES ('e-{n}', 'x', '{NOW}', {n}); {end}"))
                .await;
            self.sql["registrationdb"]
                .run(&format!("BEGIN; INSERT INTO registrations VALUES ('r-{n}', 'e', 'u', 'new'); {end}"))
                .await;
            self.sql["auditdb"]
                .run(&format!(
                    "BEGIN; INSERT INTO audit_log (action, user_id, details) VALUES ('a', 'u-{n}', '{{}}'); {end}"
                ))
                .await;
            self.store(n).await;
        }
    }

    /// The user's events in one transaction, again if an election ends it.
    async fn store(&self, n: i32) {
        let mut session = self.client.start_session().await.expect("a session");
        let events = EVENTS.iter().zip(1_i32..).map(|((kind, _), version)| {
            doc! {
                "aggregateId": format!("u-{n}"),
                "eventType": *kind,
                "eventData": { "userId": format!("u-{n}"), "createdAt": DateTime::from_millis(NOW_MS + 7),
                               "n": i64::from(n), "none": null },
                "eventVersion": version,
                "timestamp": DateTime::from_millis(NOW_MS),
                "metadata": { "userId": "u", "requestId": "q", "source": "lab", "correlationId": format!("c-{n}") },
            }
        });
        let events: Vec<Document> = events.collect();
        loop {
            session.start_transaction().await.expect("a transaction");
            match self.events().insert_many(&events).session(&mut session).await {
                Ok(_) if leaves(n) => {
                    session.abort_transaction().await.expect("the transaction ends");
                    return;
                }
                Ok(_) => {
                    if commit(&mut session).await.expect("the transaction is committed") != Ended::Again {
                        return;
                    }
                }
                Err(error) => {
                    abort(&mut session, error).await.expect("a transaction that may be tried again");
                }
            }
        }
    }

    /// An event without an aggregate, one that is written over, and one that is taken out.
    async fn poison(&self) {
        let event = |aggregate: &str| {
            doc! { "aggregateId": aggregate, "eventType": "UserCreated", "eventData": {}, "eventVersion": 1,
            "timestamp": DateTime::from_millis(NOW_MS) }
        };
        let insert = async |aggregate: &str| {
            self.events().insert_one(event(aggregate)).await.expect("an event");
        };
        insert("").await;
        insert("x").await;
        let over = doc! { "$set": { "eventVersion": 2 } };
        self.events().update_one(doc! { "aggregateId": "x" }, over).await.expect("an update");
        self.events().delete_one(doc! { "aggregateId": "x" }).await.expect("a delete");
    }

    async fn topic(&self, topic: &str, count: usize) -> Vec<Bare> {
        let found = wait_for_records(&self.servers.kafka.bootstrap(), &[topic], count).await;
        assert_eq!(found.len(), count, "{topic}");
        found
    }

    fn check(&self, name: &str) -> String {
        let file = self.dir.path().join(format!("{name}.toml")).display().to_string();
        let ended = run_to_end(&["check", &file], self.dir.path());
        assert_eq!(ended.code, Some(0), "{}", ended.stdout);
        ended.stdout
    }
}

fn leaves(n: i32) -> bool {
    n % 5 == 4
}

/// An event of the store, whole.
fn expect_event(event: &Bare, kind: &str) -> i64 {
    let value = event.json();
    let members: Vec<&String> = value.as_object().expect("an object").keys().collect();
    let n = value["eventData"]["n"].as_i64().expect("a number");
    let key = format!("u-{n}");
    let expected = json!({
        "aggregateId": key,
        "eventId": value["eventId"],
        "eventData": { "userId": key, "createdAt": "2024-01-01T00:00:00.007Z", "n": n, "none": null },
        "eventVersion": value["eventVersion"],
        "timestamp": NOW,
        "metadata": { "userId": "u", "requestId": "q", "source": "lab", "correlationId": format!("c-{n}") },
    });
    assert_eq!(value, expected, "{members:?}");
    assert!(value["eventId"].as_str().is_some_and(|id| id.len() == 24 && Some(id) == event.header("id")));
    assert_eq!(event.key.as_deref(), Some(key.as_str()));
    let headers = ["eventType", "aggregateId", "timestamp", "source"].map(|name| event.header(name));
    assert_eq!(headers, [Some(kind), Some(key.as_str()), Some(NOW), Some("lab")]);
    value["eventVersion"].as_i64().expect("a number")
}

async fn the_store_s_topics(lab: &Lab, users: &[i32]) {
    let broker = Broker::at(&lab.servers.kafka.bootstrap());
    for (topic, partitions, settings) in TOPICS {
        assert_eq!(broker.partitions(topic).await, partitions, "{topic}");
        for (key, value) in settings {
            assert_eq!(broker.topic_config(topic, key).await.as_deref(), Some(*value), "{topic}");
        }
        let versions: Vec<i64> =
            (1..).zip(EVENTS).filter(|(_, (_, of))| *of == topic).map(|(version, _)| version).collect();
        let kind = EVENTS.iter().find(|(_, of)| *of == topic).expect("a type of the topic").0;
        // The one before it was taken out.
        let extra = usize::from(topic == "user.created");
        let events = lab.topic(topic, users.len() * versions.len() + extra).await;
        let mut seen: BTreeMap<String, Vec<&Bare>> = BTreeMap::new();
        for event in events.iter().filter(|event| event.key.as_deref() != Some("x")) {
            seen.entry(event.key.clone().unwrap_or_default()).or_default().push(event);
        }
        assert_eq!(seen.len(), users.len(), "{topic}");
        // What its consumers can unpack.
        let packed = codecs(&lab.servers.kafka.brokers()[0], topic);
        assert!(packed.contains("gzip") && packed.is_subset(&["gzip", "none"].into()), "{topic}: {packed:?}");
        for events in seen.values() {
            let found: Vec<i64> = events.iter().map(|event| expect_event(event, kind)).collect();
            assert_eq!(found, versions, "{topic}");
            // Of one transaction: nobody sees one of them without the others.
            assert!(events.iter().all(|event| event.kafka_transaction == events[0].kafka_transaction));
        }
    }
}

async fn the_services_topics(lab: &Lab, users: &[i32]) {
    let told = lab.topic("user-events", 2 * users.len()).await;
    for n in users {
        let key = format!("u-{n}");
        let own: Vec<Json> =
            told.iter().filter(|event| event.key.as_deref() == Some(&key)).map(Bare::json).collect();
        let created = json!({"eventType": "UserCreated", "userId": key, "email": format!("{n}@lab"),
                             "name": format!("N {n}"), "timestamp": NOW});
        let mut updated = created.clone();
        updated["eventType"] = json!("UserUpdated");
        updated["changes"] = json!({"fullName": "M"});
        assert_eq!(own, [created, updated]);
    }
    for (topic, each) in [
        ("userdb.public.users", 2),
        ("eventdb.public.events", 1),
        ("registrationdb.public.registrations", 1),
        ("auditdb.public.audit_log", 1),
    ] {
        let events = lab.topic(topic, each * users.len()).await;
        let first = events[0].json();
        assert_eq!((&first["op"], &first["source"]["connector"]), (&json!("c"), &json!("postgresql")));
        assert_eq!(Broker::at(&lab.servers.kafka.bootstrap()).partitions(topic).await, 3, "{topic}");
    }
}

#[tokio::test]
async fn the_lab_s_events_and_changes_arrive_once_and_in_order_from_five_databases_though_kafka_was_down() {
    let lab = Lab::set_up().await;
    let found = lab.check("eventstore");
    assert!(found.contains("warn  topic audit.logged"), "{found}");
    for database in DATABASES {
        lab.check(database);
    }
    let daemon = lab.start().await;
    lab.users(0..10).await;
    lab.topic("user.updated", 16).await;
    lab.servers.kafka.stop().await.expect("Kafka stops");
    lab.users(10..25).await;
    lab.poison().await;
    lab.servers.kafka.start().await.expect("Kafka starts");

    let users: Vec<i32> = (0..25).filter(|n| !leaves(*n)).collect();
    the_store_s_topics(&lab, &users).await;
    the_services_topics(&lab, &users).await;
    let letters = lab.topic("eventstore.dead-letters", 2).await;
    let codes: Vec<_> = letters.iter().filter_map(|letter| letter.header("error.code")).collect();
    assert_eq!(codes, ["empty_key", "update"]);
    assert!(committed(&lab.servers.kafka.bootstrap(), &["eventstore.eventstore.snapshots"]).await.is_empty());
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("a process");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    let kilobytes: u64 = resident.and_then(|text| text.parse().ok()).expect("its memory");
    assert!(kilobytes < 512 * 1024, "five connectors took {kilobytes} kB");
}
