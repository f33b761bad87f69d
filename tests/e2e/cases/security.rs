//! Kafka with TLS, passwords and default-deny ACLs: services of `configs/booking` and `configs/exb`, each with the rights
//! of its own principal; and the payments with one thing wrong at a time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_e2e::{
    Daemon, File, Own, Papers, Servers, Sql, committed, openssl, run_to_end, signing_key, until,
    wait_for_records,
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use xtask::services::{KafkaConfig, Proxied, free_port};

const NAME: &str = PAYMENTS.principal;
const ACLS: &str = "org.apache.kafka.tools.AclCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const PASSWORD: &str = "of-this-test";

use super::secure_source::secure;

/// A service with a database and a file of its own.
#[derive(Clone, Copy)]
struct Service {
    /// Its connector too.
    principal: &'static str,
    database: &'static str,
    /// In `configs/`.
    file: &'static str,
    sql: &'static str,
    /// Where its event goes, and columns and values of that.
    topics: &'static [&'static str],
    columns: &'static str,
    values: &'static str,
    /// Another service writes it.
    foreign: &'static str,
    /// How many commands `check` prints: of transactional ids, positions, dead letters, and each of its topics.
    rights: usize,
}

const PAYMENTS: Service = Service {
    principal: "booking-payments",
    database: "payments",
    file: "booking/payments.toml",
    sql: "booking/payments.sql",
    topics: &["booking-system.payments", "booking-system.audit"],
    columns: "type, payload",
    values: r#"'payment-failed', '{"booking_id": "b", "error": "none"}'"#,
    foreign: "booking-system.tickets",
    rights: 5,
};
const TICKETS: Service = Service {
    principal: "booking-tickets",
    database: "tickets",
    file: "booking/tickets.toml",
    sql: "booking/tickets.sql",
    topics: &["booking-system.tickets", "booking-system.audit"],
    columns: "type, payload",
    values: r#"'ticket-created',
        '{"ticket_id": "t", "event_id": "e", "seats": 5, "price": "60.25", "status": "open"}'"#,
    foreign: "booking-system.payments",
    rights: 5,
};
const DOMAIN: Service = Service {
    principal: "exb-domain",
    database: "domain",
    file: "exb/domain.toml",
    sql: "exb/outbox.sql",
    topics: &["customer.events"],
    columns: "aggregatetype, version, type, payload",
    values: r#"'customer', 1, 'customer.changed', '{"name": "N", "email": "n@bank", "status": "new"}'"#,
    foreign: "audit.events",
    rights: 8,
};

/// A CA, and a certificate of it for 127.0.0.1 with its key, in one PEM file.
fn certificates(dir: &Path, ca: &str) {
    let (key, pem, csr) = (format!("{ca}.key"), format!("{ca}.pem"), format!("{ca}.csr"));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let self_signed = ["-days", "30", "-subj", "/CN=ca", "-keyout", &key, "-out", &pem];
    openssl(dir, &[&["req", "-x509"], &curve[..], &self_signed].concat());
    let names = [
        "-subj",
        "/CN=broker",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        "broker.key",
        "-out",
        &csr,
    ];
    openssl(dir, &[&["req"], &curve[..], &names].concat());
    let signed = ["x509", "-req", "-in", &csr, "-CA", &pem, "-CAkey", &key, "-CAcreateserial", "-days", "30"];
    openssl(dir, &[&signed[..], &["-copy_extensions", "copy", "-out", "broker.pem"]].concat());
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect("made just now");
    std::fs::write(dir.join("broker.all.pem"), read("broker.key") + &read("broker.pem")).expect("a file");
}

/// Gives a right by a command as it is printed, from behind its program on.
async fn give(servers: &Servers, command: &str) {
    // The test has a way of its own to the brokers.
    let words: Vec<&str> = command.split_whitespace().skip(2).collect();
    servers.kafka.tool(ACLS, &words).await.expect("the right is given");
}

struct Bank {
    service: Service,
    servers: Arc<Servers>,
    /// Where who comes by TLS is taken for who they say they are.
    port: u16,
    sql: Sql,
    file: File,
    dir: Arc<TempDir>,
}

impl Bank {
    /// The payments, on servers of their own.
    async fn set_up() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        certificates(dir.path(), "other");
        certificates(dir.path(), "ca");
        let port = free_port().expect("a port");
        let own = Own { kafka: Some(kafka(dir.path(), port)), ..Own::postgres() };
        Self::of(PAYMENTS, Arc::new(Servers::with(own).await), port, Arc::new(dir)).await
    }

    /// Another service on the same servers.
    async fn beside(&self, service: Service) -> Self {
        Self::of(service, self.servers.clone(), self.port, self.dir.clone()).await
    }

    async fn of(service: Service, servers: Arc<Servers>, port: u16, dir: Arc<TempDir>) -> Self {
        let database = service.database;
        Sql::connect(&servers.postgres.url()).await.run(&format!("CREATE DATABASE {database}")).await;
        let url = servers.postgres.url_of(database);
        let sql = Sql::connect(&url).await;
        sql.run(&File::text_of_configs(service.sql)).await;
        let mut file = File::of_configs(service.file);
        file.set("source/postgres/url", url)
            .set("format/registry", servers.registry.url())
            .set("sink/kafka/bootstrap", vec![format!("127.0.0.1:{port}")])
            .set("sink/kafka/sasl/password", PASSWORD)
            .set("sink/kafka/tls/ca_file", dir.path().join("ca.pem").display().to_string());
        if service.file.starts_with("booking/") {
            file.set("signature/ed25519_secret", signing_key(dir.path(), database));
        }
        file.remove("source/postgres/password");
        for key in ["registry_username", "registry_password", "registry_ca_file"] {
            file.remove(&format!("format/{key}"));
        }
        let bank = Self { service, servers, port, sql, file, dir };
        bank.set_password(PASSWORD).await;
        bank
    }

    async fn set_password(&self, password: &str) {
        let (secret, user) = (format!("SCRAM-SHA-512=[password={password}]"), self.service.principal);
        let words = ["--alter", "--add-config", &secret, "--entity-type", "users", "--entity-name", user];
        self.servers.kafka.tool(CONFIGS, &words).await.expect("the user's password is set");
    }

    /// Exactly what `check` prints.
    async fn allow_all(&self) {
        let file = self.write_file().display().to_string();
        let told = run_to_end(&["check", &file], self.dir.path()).text();
        let (_, rights) = told.split_once("[rights on kafka]").expect("the rights that it needs");
        let commands = rights.lines().filter_map(|line| line.split_once("kafka-acls.sh "));
        let commands: Vec<String> = commands.map(|(_, words)| words.to_owned()).collect();
        assert_eq!(commands.len(), self.service.rights, "{told}");
        let mut given = JoinSet::new();
        for command in commands {
            let servers = self.servers.clone();
            given.spawn(async move { give(&servers, &command).await });
        }
        given.join_all().await;
    }

    async fn take(&self, operation: &str, on: &[&str]) {
        let principal = format!("User:{NAME}");
        let right = ["--remove", "--force", "--allow-principal", &principal, "--operation", operation];
        self.servers.kafka.tool(ACLS, &[&right[..], on].concat()).await.expect("the right is taken");
    }

    /// Waits until the status says that this is missing, and does what it says to type.
    async fn mend(&self, daemon: &Daemon, missing: &str) {
        let refusal = daemon.degraded(NAME, &[&format!("User:{NAME} may not {missing}")]).await;
        let command = refusal.hint.split_once("kafka-acls.sh ").and_then(|(_, rest)| rest.split_once(';'));
        let (command, _) = command.unwrap_or_else(|| panic!("no command: {refusal:?}"));
        give(&self.servers, command).await;
    }

    fn write_file(&self) -> PathBuf {
        let path = self.dir.path().join(format!("{}.toml", self.service.database));
        self.file.write(&path);
        path
    }

    async fn start(&self, name: &str) -> Daemon {
        Daemon::start(&[&self.write_file()], self.dir.path(), name).await
    }

    /// Writes the service's event, of the aggregate with this key.
    async fn tell(&self, key: &str) {
        let (columns, values) = (self.service.columns, self.service.values);
        self.sql
            .run(&format!("INSERT INTO outbox (aggregateid, {columns}) VALUES ('{key}', {values})"))
            .await;
    }

    /// Its event comes to its topics, and not to another service's.
    async fn expect_rights(mut self) {
        let Service { principal, topics, foreign, .. } = self.service;
        self.allow_all().await;
        let mut daemon = self.start(&format!("{principal}-rights")).await;
        daemon.wait_for_state(principal, "RUNNING").await;
        let key = format!("of-{principal}");
        self.tell(&key).await;
        for topic in topics {
            until(&format!("{principal} writes {topic}"), async || {
                let events = committed(&self.servers.kafka.bootstrap(), &[topic]).await;
                let own = events.iter().filter(|event| event.key.as_deref() == Some(&key)).count();
                (own == 1).then_some(())
            })
            .await;
        }
        if principal == NAME {
            self.expect_words_for_what_is_missing(&daemon).await;
        }
        daemon.term().await;
        self.file.lay(&format!(
            "[[route]]\nrelations = \"public.outbox\"\nenvelope = \"outbox\"\ntopic = \"{foreign}\"\n"
        ));
        let daemon = self.start(&format!("{principal}-elsewhere")).await;
        self.tell("of-another").await;
        let refusal = daemon.not_ready(principal, "FAILED").await;
        let told = format!("User:{principal} may not Describe on topic {foreign}");
        refusal.expect_reason(&[&told]).expect_hint(&["kafka-acls.sh", &format!("--topic {foreign}")]);
    }

    /// What is taken away while it runs is named, and given back by what the status says to type.
    async fn expect_words_for_what_is_missing(&self, daemon: &Daemon) {
        let (topic, position) = (self.service.topics[0], format!("millrace-{NAME}-position"));
        self.take("Read", &["--topic", &position]).await;
        self.take("Write", &["--topic", topic]).await;
        self.tell("b-2").await;
        self.mend(daemon, &format!("Read on topic {position}")).await;
        self.mend(daemon, &format!("Write on topic {topic}")).await;
        let bootstrap = self.servers.kafka.bootstrap();
        wait_for_records(&bootstrap, &[topic], 2).await;
        let ids = format!("millrace-{NAME}");
        self.take("Write", &["--transactional-id", &ids, "--resource-pattern-type", "prefixed"]).await;
        self.tell("b-3").await;
        self.mend(daemon, &format!("Write on transactional ids {ids}-*")).await;
        assert_eq!(wait_for_records(&bootstrap, &[topic], 3).await.len(), 3);
    }
}

fn kafka(dir: &Path, port: u16) -> KafkaConfig {
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let properties = [
        ("listener.security.protocol.map", "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:SASL_SSL"),
        ("sasl.enabled.mechanisms", "SCRAM-SHA-512"),
        ("listener.name.proxied.scram-sha-512.sasl.jaas.config", scram),
        ("listener.name.proxied.ssl.keystore.type", "PEM"),
        ("listener.name.proxied.ssl.keystore.location", &dir.join("broker.all.pem").display().to_string()),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        // Whoever comes without TLS is the broker itself, or this test.
        ("super.users", "User:ANONYMOUS"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let proxied = vec![Proxied { port, advertised: port }];
    KafkaConfig { properties: properties.into(), proxied, ..KafkaConfig::default() }
}

#[tokio::test]
async fn a_service_writes_with_the_rights_of_its_principal_and_no_other_service_s_topics() {
    let payments = Bank::set_up().await;
    let (tickets, mut domain) = (payments.beside(TICKETS).await, payments.beside(DOMAIN).await);
    // As its file says, the bank's domain believes its database by its certificate.
    let papers = Papers::new();
    secure(&domain.sql, &papers, "server").await;
    domain.file.set("source/postgres/sslrootcert", papers.path("ca.pem").display().to_string());
    for service in [payments, tickets, domain] {
        service.expect_rights().await;
    }
}

#[tokio::test]
async fn a_wrong_password_and_a_wrong_ca_are_told_as_what_they_are_and_never_shown() {
    let mut bank = Bank::set_up().await;
    bank.allow_all().await;
    let right = bank.file.clone();
    bank.file.set("sink/kafka/sasl/password", "hunter2-hunter2");
    let mut daemon = bank.start("password").await;
    daemon.degraded(NAME, &["SASL", "invalid credentials"]).await.expect_hint(&["[sink.kafka.sasl]"]);
    assert!(!daemon.log().contains("hunter2"), "the log shows the password");
    daemon.kill();

    bank.file = right.clone();
    bank.file.set("sink/kafka/tls/ca_file", bank.dir.path().join("other.pem").display().to_string());
    let mut daemon = bank.start("ca").await;
    daemon.degraded(NAME, &["certificate"]).await.expect_hint(&["ca_file", "other.pem"]);
    daemon.kill();

    bank.file = right;
    let daemon = bank.start("right").await;
    daemon.wait_for_state(NAME, "RUNNING").await;
}

#[tokio::test]
async fn a_password_and_a_certificate_that_change_in_their_files_are_taken_up_without_a_restart() {
    let mut bank = Bank::set_up().await;
    bank.allow_all().await;
    let (password, ca) = (bank.dir.path().join("password"), bank.dir.path().join("live-ca.pem"));
    let put = |word: &str, authority: &str| {
        std::fs::write(&password, format!("{word}\n")).expect("a file");
        std::fs::copy(bank.dir.path().join(authority), &ca).expect("a file");
    };
    put(PASSWORD, "ca.pem");
    bank.file
        .set("sink/kafka/sasl/password", format!("${{file:{}}}", password.display()))
        .set("sink/kafka/tls/ca_file", ca.display().to_string())
        .set("sink/kafka/transaction/timeout_ms", 6_000);
    let daemon = bank.start("rotation").await;
    daemon.wait_for_state(NAME, "RUNNING").await;
    let bootstrap = bank.servers.kafka.bootstrap();
    let topic = "booking-system.payments";
    bank.tell("b-1").await;
    wait_for_records(&bootstrap, &[topic], 1).await;

    // The brokers change first.
    bank.set_password("the-second").await;
    certificates(bank.dir.path(), "second");
    bank.servers.kafka.restart().await.expect("Kafka starts again");
    bank.tell("b-2").await;
    let refusal = daemon.hinted(NAME, "no restart").await;
    refusal.expect_hint(&[&password.display().to_string(), &ca.display().to_string()]);
    put("the-second", "second.pem");
    assert_eq!(wait_for_records(&bootstrap, &[topic], 2).await.len(), 2);

    // The files change first, and what is connected stays so until the brokers do.
    bank.set_password("the-third").await;
    put("the-third", "second.pem");
    bank.tell("b-3").await;
    assert_eq!(wait_for_records(&bootstrap, &[topic], 3).await.len(), 3);
    bank.servers.kafka.restart().await.expect("Kafka starts again");
    bank.tell("b-4").await;
    let events = wait_for_records(&bootstrap, &[topic], 4).await;
    // Of several partitions.
    let keys: BTreeSet<_> = events.iter().filter_map(|event| event.key.as_deref()).collect();
    assert_eq!((keys, events.len()), (BTreeSet::from(["b-1", "b-2", "b-3", "b-4"]), 4));
    daemon.wait_for_state(NAME, "RUNNING").await;
    for word in [PASSWORD, "the-second", "the-third"] {
        assert!(!daemon.log().contains(word), "the log shows a password");
    }
}
