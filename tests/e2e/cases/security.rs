//! Kafka with TLS, passwords and default-deny ACLs: the payments of `configs/booking` with the rights of their own
//! principal, and with one thing wrong at a time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_e2e::{Daemon, File, Own, Servers, Sql, openssl, run_to_end, signing_key, wait_for_records};
use serde_json::json;
use tempfile::TempDir;
use xtask::services::{KafkaConfig, Proxied, free_port};

const NAME: &str = "booking-payments";
const ACLS: &str = "org.apache.kafka.tools.AclCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const PASSWORD: &str = "of-this-test";

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

struct Bank {
    servers: Arc<Servers>,
    sql: Sql,
    file: File,
    dir: TempDir,
}

impl Bank {
    async fn set_up() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        certificates(dir.path(), "other");
        certificates(dir.path(), "ca");
        let port = free_port().expect("a port");
        let servers =
            Arc::new(Servers::with(Own { kafka: Some(kafka(dir.path(), port)), ..Own::postgres() }).await);
        Sql::connect(&servers.postgres.url()).await.run("CREATE DATABASE payments").await;
        let url = servers.postgres.url_of("payments");
        let sql = Sql::connect(&url).await;
        sql.run(&File::text_of_configs("booking/payments.sql")).await;
        let mut file = File::of_configs("booking/payments.toml");
        file.set("source/postgres/url", url)
            .set("format/registry", servers.registry.url())
            .set("signature/ed25519_secret", signing_key(dir.path(), "payments"))
            .set("sink/kafka/bootstrap", vec![format!("127.0.0.1:{port}")])
            .set("sink/kafka/sasl/password", PASSWORD)
            .set("sink/kafka/tls/ca_file", dir.path().join("ca.pem").display().to_string());
        file.remove("source/postgres/password");
        for key in ["registry_username", "registry_password", "registry_ca_file"] {
            file.remove(&format!("format/{key}"));
        }
        let bank = Self { servers, sql, file, dir };
        bank.set_password(PASSWORD).await;
        bank
    }

    async fn set_password(&self, password: &str) {
        let secret = format!("SCRAM-SHA-512=[password={password}]");
        let words = ["--alter", "--add-config", &secret, "--entity-type", "users", "--entity-name", NAME];
        self.servers.kafka.tool(CONFIGS, &words).await.expect("the user's password is set");
    }

    /// Exactly what `check` prints.
    async fn allow_all(&self) {
        let file = self.write_file().display().to_string();
        let told = run_to_end(&["check", &file], self.dir.path()).text();
        let (_, rights) = told.split_once("[rights on kafka]").expect("the rights that it needs");
        let commands = rights.lines().filter_map(|line| line.split_once("kafka-acls.sh "));
        let commands: Vec<&str> = commands.map(|(_, words)| words).collect();
        assert_eq!(commands.len(), 5, "{told}");
        for command in commands {
            self.give(command).await;
        }
    }

    /// By a command as it is printed, from behind its program on.
    async fn give(&self, command: &str) {
        // The test has a way of its own to the brokers.
        let words: Vec<&str> = command.split_whitespace().skip(2).collect();
        self.servers.kafka.tool(ACLS, &words).await.expect("the right is given");
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
        self.give(command).await;
    }

    fn write_file(&self) -> PathBuf {
        let path = self.dir.path().join("payments.toml");
        self.file.write(&path);
        path
    }

    async fn start(&self, name: &str) -> Daemon {
        Daemon::start(&[&self.write_file()], self.dir.path(), name).await
    }

    async fn pay(&self, key: &str) {
        let data = json!({"booking_id": key, "error": "none"});
        let row = format!("('{key}', 'payment-failed', '{data}')");
        self.sql.run(&format!("INSERT INTO outbox (aggregateid, type, payload) VALUES {row}")).await;
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
    let mut bank = Bank::set_up().await;
    bank.allow_all().await;
    let mut daemon = bank.start("rights").await;
    daemon.wait_for_state(NAME, "RUNNING").await;
    bank.pay("b-1").await;
    let bootstrap = bank.servers.kafka.bootstrap();
    for topic in ["booking-system.payments", "booking-system.audit"] {
        let events = wait_for_records(&bootstrap, &[topic], 1).await;
        assert_eq!((events.len(), events[0].key.as_deref()), (1, Some("b-1")), "{topic}");
    }

    // What is taken away while it runs is named, and given back by what the status says to type.
    let (payments, position) = ("booking-system.payments", format!("millrace-{NAME}-position"));
    bank.take("Read", &["--topic", &position]).await;
    bank.take("Write", &["--topic", payments]).await;
    bank.pay("b-2").await;
    bank.mend(&daemon, &format!("Read on topic {position}")).await;
    bank.mend(&daemon, &format!("Write on topic {payments}")).await;
    wait_for_records(&bootstrap, &[payments], 2).await;
    let ids = format!("millrace-{NAME}");
    bank.take("Write", &["--transactional-id", &ids, "--resource-pattern-type", "prefixed"]).await;
    bank.pay("b-3").await;
    bank.mend(&daemon, &format!("Write on transactional ids {ids}-*")).await;
    assert_eq!(wait_for_records(&bootstrap, &[payments], 3).await.len(), 3);
    daemon.term().await;

    bank.file.lay(
        "[[route]]\nrelations = \"public.outbox\"\nenvelope = \"outbox\"\ntopic = \"booking-system.tickets\"\n",
    );
    let daemon = bank.start("another-s-topic").await;
    bank.pay("b-4").await;
    let refusal = daemon.not_ready(NAME, "FAILED").await;
    let told = format!("User:{NAME} may not Describe on topic booking-system.tickets");
    refusal.expect_reason(&[&told]).expect_hint(&["kafka-acls.sh", "--topic booking-system.tickets"]);
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
    bank.pay("b-1").await;
    wait_for_records(&bootstrap, &[topic], 1).await;

    // The brokers change first.
    bank.set_password("the-second").await;
    certificates(bank.dir.path(), "second");
    bank.servers.kafka.restart().await.expect("Kafka starts again");
    bank.pay("b-2").await;
    let refusal = daemon.hinted(NAME, "no restart").await;
    refusal.expect_hint(&[&password.display().to_string(), &ca.display().to_string()]);
    put("the-second", "second.pem");
    assert_eq!(wait_for_records(&bootstrap, &[topic], 2).await.len(), 2);

    // The files change first, and what is connected stays so until the brokers do.
    bank.set_password("the-third").await;
    put("the-third", "second.pem");
    bank.pay("b-3").await;
    assert_eq!(wait_for_records(&bootstrap, &[topic], 3).await.len(), 3);
    bank.servers.kafka.restart().await.expect("Kafka starts again");
    bank.pay("b-4").await;
    let events = wait_for_records(&bootstrap, &[topic], 4).await;
    // Of several partitions.
    let keys: BTreeSet<_> = events.iter().filter_map(|event| event.key.as_deref()).collect();
    assert_eq!((keys, events.len()), (BTreeSet::from(["b-1", "b-2", "b-3", "b-4"]), 4));
    daemon.wait_for_state(NAME, "RUNNING").await;
    for word in [PASSWORD, "the-second", "the-third"] {
        assert!(!daemon.log().contains(word), "the log shows a password");
    }
}
