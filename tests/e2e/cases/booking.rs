//! The booking system of `configs/booking`: four services, events in Avro by the schemas of the folder, signed,
//! each with a copy for the audit service.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_e2e::{
    Bare, Broker, Daemon, File, Own, Servers, Sql, Subjects, codecs, openssl, run_to_end, signing_key, until,
    wait_for_records,
};
use millrace_ledger::avro::Registry;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

const SERVICES: [&str; 4] = ["bookings", "payments", "tickets", "notifications"];
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const AT: &str = "2024-01-02T03:04:05.000006Z";
const AT_US: i64 = 1_704_164_645_000_006;

/// Each type with its service, the member that is its key, and its data as services write it.
fn events(n: usize) -> Vec<(&'static str, &'static str, &'static str, Json)> {
    let (booking, ticket) = (format!("b-{n}"), format!("t-{n}"));
    vec![
        (
            "bookings",
            "booking-requested",
            "booking_id",
            json!({"booking_id": booking, "user_id": "u", "ticket_ids": ["t-1", "t-2"], "total_amount": "120.50",
                   "currency": "EUR", "booking_date": "2024-02-03"}),
        ),
        (
            "bookings",
            "booking-cancelled",
            "booking_id",
            json!({"booking_id": booking, "user_id": "u", "reason": null, "cancelled_at": AT}),
        ),
        (
            "payments",
            "payment-succeeded",
            "booking_id",
            json!({"booking_id": booking, "payment_id": "p", "amount": "120.50", "currency": "EUR",
                   "payment_method": "card", "transaction_id": "x"}),
        ),
        ("payments", "payment-failed", "booking_id", json!({"booking_id": booking, "error": "no \"money\""})),
        (
            "payments",
            "refund-processed",
            "booking_id",
            json!({"booking_id": booking, "payment_id": "p", "refund_id": "r", "amount": "-0.01", "currency": "EUR"}),
        ),
        (
            "tickets",
            "ticket-created",
            "ticket_id",
            json!({"ticket_id": ticket, "event_id": "e", "seats": 5, "price": "60.25", "status": "open"}),
        ),
        (
            "tickets",
            "ticket-updated",
            "ticket_id",
            json!({"ticket_id": ticket, "event_id": "e", "available_seats": 3, "price": "60.25", "status": "open"}),
        ),
        (
            "notifications",
            "notification-sent",
            "booking_id",
            json!({"user_id": "u", "notification_type": "mail", "template_id": "t", "delivery_status": "sent",
                   "booking_id": booking}),
        ),
    ]
}

/// The row of business that an event of this key tells of.
fn business(service: &str, key: &str) -> String {
    match service {
        "bookings" => format!(
            "INSERT INTO bookings VALUES ('{key}', 'u', 120.50, 'EUR', '2024-02-03', 'new')
             ON CONFLICT (booking_id) DO UPDATE SET status = 'cancelled'"
        ),
        "payments" => {
            format!("INSERT INTO payments VALUES (gen_random_uuid(), '{key}', 120.50, 'EUR', 'told')")
        }
        "tickets" => format!(
            "INSERT INTO tickets VALUES ('{key}', 'e', 5, 60.25, 'open')
             ON CONFLICT (ticket_id) DO UPDATE SET available_seats = 3"
        ),
        _ => "INSERT INTO notifications (user_id, template_id, delivery_status) VALUES ('u', 't', 'sent')"
            .into(),
    }
}

/// As a reader of Avro has it: dates are days, times microseconds.
fn as_read(mut data: Json) -> Json {
    for (member, read) in [("booking_date", json!(19756)), ("cancelled_at", json!(AT_US))] {
        if let Some(value) = data.get_mut(member) {
            *value = read;
        }
    }
    data
}

struct Booking {
    servers: Arc<Servers>,
    sql: Vec<Sql>,
    files: Vec<PathBuf>,
    dir: TempDir,
}

impl Booking {
    async fn set_up() -> Self {
        let servers = Arc::new(Servers::with(Own::both()).await);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut sql, mut files) = (Vec::new(), Vec::new());
        for service in SERVICES {
            Sql::connect(&servers.postgres.url()).await.run(&format!("CREATE DATABASE {service}")).await;
            let url = servers.postgres.url_of(service);
            let database = Sql::connect(&url).await;
            database.run(&File::text_of_configs(&format!("booking/{service}.sql"))).await;
            sql.push(database);
            let mut file = File::of_configs(&format!("booking/{service}.toml"));
            file.set("source/postgres/url", url)
                .set("format/registry", servers.registry.url())
                .set("signature/ed25519_secret", signing_key(dir.path(), service))
                .set("sink/kafka/bootstrap", vec![servers.kafka.bootstrap()]);
            // Users, passwords and certificates have a test of their own.
            for key in
                ["source/postgres/password", "sink/kafka/security", "sink/kafka/sasl", "sink/kafka/tls"]
            {
                file.remove(key);
            }
            for key in ["registry_username", "registry_password", "registry_ca_file"] {
                file.remove(&format!("format/{key}"));
            }
            let path = dir.path().join(format!("{service}.toml"));
            file.write(&path);
            files.push(path);
        }
        Self { servers, sql, files, dir }
    }

    async fn start(&self) -> Daemon {
        let files: Vec<_> = self.files.iter().map(PathBuf::as_path).collect();
        let daemon = Daemon::start(&files, self.dir.path(), "booking").await;
        for service in SERVICES {
            daemon.wait_for_state(&format!("booking-{service}"), "RUNNING").await;
        }
        daemon
    }

    fn sql(&self, service: &str) -> &Sql {
        let at = SERVICES.iter().position(|known| *known == service).expect("a service");
        &self.sql[at]
    }

    /// Writes an event as its service does, with the row that it tells of; what is rolled back nobody hears of.
    async fn write(&self, service: &str, kind: &str, key: &str, data: &Json, end: &str) {
        let statements = format!(
            "BEGIN; {}; INSERT INTO outbox (aggregateid, type, created_at, correlation_id, traceparent, payload)
             VALUES ('{key}', '{kind}', '{AT}', 'c-{key}', '{TRACE}', '{}'); {end}",
            business(service, key),
            data.to_string().replace('\'', "''")
        );
        self.sql(service).run(&statements).await;
    }

    async fn topic(&self, topic: &str, count: usize) -> Vec<Bare> {
        let found = wait_for_records(&self.servers.kafka.bootstrap(), &[topic], count).await;
        assert_eq!(found.len(), count, "{topic}");
        found
    }

    fn run(&self, service: &str, words: &[&str]) -> (Option<i32>, String) {
        let file = self.dir.path().join(format!("{service}.toml")).display().to_string();
        let words: Vec<&str> =
            words[..1].iter().copied().chain([file.as_str()]).chain(words[1..].iter().copied()).collect();
        let ended = run_to_end(&words, self.dir.path());
        (ended.code, ended.stdout + &ended.stderr)
    }
}

/// By openssl and the service's public key.
fn expect_signature(dir: &Path, service: &str, event: &Bare) {
    let header = event.header("signature").expect("a signature");
    let signed = header.strip_prefix(&format!("ed25519:booking-{service}-1:")).expect("of its service's key");
    std::fs::write(dir.join("value"), event.bytes.as_deref().unwrap_or_default()).expect("a file");
    std::fs::write(dir.join("signature"), signed).expect("a file");
    openssl(dir, &["base64", "-d", "-A", "-in", "signature", "-out", "signature.raw"]);
    let key = format!("{service}.pub");
    openssl(
        dir,
        &[
            "pkeyutl",
            "-verify",
            "-pubin",
            "-inkey",
            &key,
            "-rawin",
            "-in",
            "value",
            "-sigfile",
            "signature.raw",
        ],
    );
}

async fn expect_events(booking: &Booking, registry: &mut Registry, service: &str, numbers: &[usize]) {
    let topic = format!("booking-system.{service}");
    let own = |n: usize| events(n).into_iter().filter(|(of, ..)| *of == service);
    let each = own(0).count();
    let found = booking.topic(&topic, each * numbers.len()).await;
    for n in numbers {
        let (_, _, member, data) = own(*n).next().expect("an event");
        let key = data[member].as_str().expect("a key").to_owned();
        let of_key: Vec<&Bare> = found.iter().filter(|event| event.key.as_deref() == Some(&key)).collect();
        assert_eq!(of_key.len(), each, "{topic}: {key}");
        for (event, (_, kind, _, data)) in of_key.iter().zip(own(*n)) {
            let value = event.avro(registry).await;
            let expected = json!({"event_id": event.header("id"), "event_type": kind, "timestamp": AT_US,
                                  "data": as_read(data)});
            assert_eq!(value, expected, "{topic}");
            let headers = ["event_type", "correlation_id", "traceparent"].map(|name| event.header(name));
            assert_eq!(headers, [Some(kind), Some(format!("c-{key}").as_str()), Some(TRACE)]);
            assert_eq!(event.partition, of_key[0].partition);
        }
    }
    expect_signature(booking.dir.path(), service, &found[0]);
    assert_eq!(Broker::at(&booking.servers.kafka.bootstrap()).partitions(&topic).await, 6);
    let packed = codecs(&booking.servers.kafka.brokers()[0], &topic);
    assert!(packed.contains("lz4") && packed.is_subset(&["lz4", "none"].into()), "{topic}: {packed:?}");
}

/// The auditors have each event as it is, and those of a key in the order in which its service told them.
async fn expect_copies(booking: &Booking, count: usize) {
    let copies = booking.topic("booking-system.audit", count).await;
    let of = |events: &[Bare], service: &str| {
        let signed = format!("ed25519:booking-{service}-1:");
        let own = |event: &&Bare| event.header("signature").is_some_and(|header| header.starts_with(&signed));
        let told =
            |event: &Bare| (event.key.clone(), event.bytes.clone(), event.header("id").map(str::to_owned));
        let mut found: Vec<_> = events.iter().filter(own).map(told).collect();
        // Those of a key stay in their order.
        found.sort_by(|one, next| one.0.cmp(&next.0));
        found
    };
    for service in SERVICES {
        let topic = format!("booking-system.{service}");
        let events = wait_for_records(&booking.servers.kafka.bootstrap(), &[&topic], 1).await;
        assert_eq!(of(&copies, service), of(&events, service), "{service}");
    }
    let broker = Broker::at(&booking.servers.kafka.bootstrap());
    let kept = broker.topic_config("booking-system.audit", "retention.ms").await;
    assert_eq!(kept.as_deref(), Some("31536000000"));
}

const FIGURES: [&str; 4] = [
    "millrace_delivered_records_total",
    "millrace_end_to_end_latency_seconds_count",
    "millrace_lag_seconds",
    "millrace_failed_events_total",
];

/// Throughput, latency, failures and lag of each service, each event with its copy.
async fn expect_figures(daemon: &Daemon, events: usize) {
    for service in SERVICES {
        until("the events are counted and timed", async || {
            let name = format!("booking-{service}");
            let [delivered, timed, lag, _failed] = daemon.metrics(FIGURES, &name).await?;
            (delivered >= 2.0 * events as f64 && timed >= 1.0 && lag >= 0.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn every_event_of_the_booking_system_arrives_by_its_schema_signed_and_with_a_copy_for_the_auditors() {
    let booking = Booking::set_up().await;
    let daemon = booking.start().await;
    let mut registry = Registry::new(&booking.servers.registry.url()).expect("a client");
    for n in 0..12 {
        if n == 6 {
            booking.servers.kafka.stop().await.expect("Kafka stops");
        }
        for (service, kind, member, data) in events(n) {
            let end = if n % 4 == 3 { "ROLLBACK" } else { "COMMIT" };
            let key = data[member].as_str().expect("a key").to_owned();
            booking.write(service, kind, &key, &data, end).await;
        }
    }
    // More digits than the schema has, a member that it does not have, and a type that nobody declared.
    let wrong = json!({"booking_id": "b", "payment_id": "p", "amount": "1.001", "currency": "EUR",
                       "payment_method": "card", "transaction_id": "x"});
    booking.write("payments", "payment-succeeded", "b", &wrong, "COMMIT").await;
    let more = json!({"booking_id": "b", "error": "x", "card_number": "4111"});
    booking.write("payments", "payment-failed", "b", &more, "COMMIT").await;
    booking.write("payments", "loyalty-earned", "b", &json!({}), "COMMIT").await;
    booking.servers.kafka.start().await.expect("Kafka starts");

    let numbers: Vec<usize> = (0..12).filter(|n| n % 4 != 3).collect();
    for service in SERVICES {
        expect_events(&booking, &mut registry, service, &numbers).await;
    }
    expect_copies(&booking, 8 * numbers.len()).await;
    expect_figures(&daemon, numbers.len()).await;
    let letters = booking.topic("booking-system.payments.dead-letters", 3).await;
    let codes: Vec<_> = letters.iter().filter_map(|letter| letter.header("error.code")).collect();
    assert_eq!(codes, ["schema_misfit", "schema_misfit", "topic_not_allowed"]);
    // The schemas that the first two do not fit; nobody declared one for the third.
    let ids =
        letters.iter().map(|letter| letter.json()["error"]["schema_id"].as_u64().map(|id| id.to_string()));
    let ids: Vec<Option<String>> = ids.collect();
    assert!(ids[0].is_some() && ids[1].is_some() && ids[0] != ids[1] && ids[2].is_none(), "{ids:?}");
    let headers = letters.iter().map(|letter| letter.header("error.schema_id").map(str::to_owned));
    assert_eq!(headers.collect::<Vec<_>>(), ids);
    let message = letters[0].header("error.message").unwrap_or_default();
    assert!(message.contains("data.amount") && !message.contains("1.001"), "{message}");
    let subjects = Subjects::at(&booking.servers.registry.url());
    assert_eq!(subjects.compatibility("booking-system.payment-failed").await, "BACKWARD");

    // An operator sees them, and that nothing has changed which would let the first be delivered, or the next before it.
    let (_, said) = booking.run("payments", &["dead-letters", "list"]);
    assert_eq!(said.lines().filter(|line| line.contains("attempt 1")).count(), 3, "{said}");
    let (_, said) = booking.run("payments", &["dead-letters", "replay", "--yes"]);
    assert_eq!(said.matches("refused again").count(), 1, "{said}");
    assert_eq!(said.matches("waits: the earlier letter").count(), 2, "of the same booking: {said}");

    let (code, said) = booking.run("payments", &["audit"]);
    assert!(code == Some(0) && said.contains("all signed by the connector's key"), "{said}");
    let events = 3 * numbers.len();
    assert!(said.contains(&format!("{events} values, each read whole by the schema of its id")), "{said}");
    let broker = Broker::at(&booking.servers.kafka.bootstrap());
    // An event that lacks its end: no consumer can read it by its schema.
    let topic = "booking-system.payments";
    let mut lacking = booking.topic(topic, events).await.swap_remove(0).bytes.expect("a value");
    lacking.pop();
    let headers = [("id", "x"), ("position", "FFFFFFFF00000001/FFFFFFFF00000001/0/0")];
    let headers = headers.map(|(name, value)| (name.to_owned(), Some(value.into())));
    broker.produce_record(topic, 0, Some("b".into()), Some(lacking.into()), &headers).await;
    let (code, said) = booking.run("payments", &["audit"]);
    assert!(code == Some(2) && said.contains("its bytes do not fit its schema"), "{said}");
    let forged = [("signature".to_owned(), Some("ed25519:booking-payments-1:AAAA".into()))];
    broker.produce_record(topic, 0, Some("b".into()), Some("forged".into()), &forged).await;
    let (code, said) = booking.run("payments", &["audit"]);
    assert!(code != Some(0) && said.contains("FAIL  signatures"), "{said}");
}
