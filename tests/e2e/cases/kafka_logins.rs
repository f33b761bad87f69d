//! Kafka that wants a client certificate, or a password by PLAIN or SCRAM-SHA-256, over TLS: what goes through, and
//! the words for each thing that is wrong, mended in its file without a restart.

use std::path::Path;
use std::sync::Arc;

use millrace_e2e::{Own, Papers, Servers, Shop, run_to_end};
use xtask::services::{KafkaConfig, Proxied, free_port};

const CONFIGS: &str = "kafka.admin.ConfigCommand";
const PASSWORD: &str = "of-this-test";

fn put(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).expect("a file in a temporary directory");
}

/// A broker with a second way in, of this protocol and with these lines about it, that shows `live.pem`.
async fn servers(papers: &Papers, port: u16, protocol: &str, lines: &[(&str, &str)]) -> Arc<Servers> {
    put(&papers.path("live.pem"), papers.text("server.pem"));
    let protocols = format!("CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:{protocol}");
    let certificate = papers.path("live.pem").display().to_string();
    let always = [
        ("listener.security.protocol.map", &*protocols),
        ("listener.name.proxied.ssl.keystore.type", "PEM"),
        ("listener.name.proxied.ssl.keystore.location", &certificate),
    ];
    let lines = always.iter().chain(lines).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let proxied = vec![Proxied { port, advertised: port }];
    let kafka = KafkaConfig { properties: lines.collect(), proxied, ..KafkaConfig::default() };
    Arc::new(Servers::with(Own { kafka: Some(kafka), ..Own::default() }).await)
}

async fn shop(servers: &Arc<Servers>, papers: &Papers, port: u16, name: &str) -> Shop {
    let mut shop = Shop::on(servers, name).await;
    shop.file
        .set("sink/kafka/bootstrap", vec![format!("127.0.0.1:{port}")])
        .set("sink/kafka/tls/ca_file", papers.path("ca.pem").display().to_string())
        .set("sink/kafka/transaction/timeout_ms", 6_000);
    shop
}

/// What `check` says of a shop's file.
fn check(shop: &Shop) -> String {
    run_to_end(&["check", &shop.write_file().display().to_string()], shop.dir()).text()
}

fn expect(told: &str, words: &[&str]) {
    for word in words {
        assert!(told.contains(word), "{word:?} is not in {told}");
    }
}

#[tokio::test]
async fn a_broker_gets_the_certificate_that_it_wants_and_one_that_it_refuses_is_replaced_in_its_file() {
    let (papers, others) = (Papers::new(), Papers::new());
    papers.expired("expired", "/O=Clients/CN=millrace", "extendedKeyUsage=clientAuth");
    let port = free_port().expect("a port");
    let authority = papers.path("ca.pem").display().to_string();
    let lines = [
        ("listener.name.proxied.ssl.client.auth", "required"),
        ("listener.name.proxied.ssl.truststore.type", "PEM"),
        ("listener.name.proxied.ssl.truststore.location", &authority),
    ];
    let servers = servers(&papers, port, "SSL", &lines).await;
    let mut shop = shop(&servers, &papers, port, "mtls").await;
    shop.file.set("sink/kafka/security", "ssl");
    expect(&check(&shop), &["FAIL", "certificate", "certificate_file and key_file in [sink.kafka.tls]"]);

    let (certificate, key) = (shop.dir().join("client.crt"), shop.dir().join("client.key"));
    let present = |papers: &Papers, name: &str| {
        put(&certificate, papers.text(&format!("{name}.crt")));
        put(&key, papers.text(&format!("{name}.key")));
    };
    shop.file
        .set("sink/kafka/tls/certificate_file", certificate.display().to_string())
        .set("sink/kafka/tls/key_file", key.display().to_string());
    let file = certificate.display().to_string();

    // One of the two is there already.
    present(&others, "client");
    put(&key, papers.text("client.key"));
    shop.start_in_any_state().await;
    shop.daemon().hinted(&shop.name, "must fit together").await.expect_hint(&[&file, "no restart"]);
    present(&others, "client");
    let refusal = shop.daemon().degraded(&shop.name, &["tls alert"]).await;
    refusal.expect_hint(&[&file, "openssl x509", "no restart"]);
    let pid = shop.daemon().pid();
    present(&papers, "client");
    shop.wait_for_state("RUNNING").await;
    shop.rows(1..=10).await.expect_rows(1..=10).await;

    // A client keeps the certificate that it was made with.
    assert_eq!(shop.daemon().pid(), pid);
    present(&papers, "expired");
    shop.kill().start_in_any_state().await.rows(11..=20).await;
    let refusal = shop.daemon().degraded(&shop.name, &["tls alert"]).await;
    refusal.expect_hint(&[&file, "openssl x509", "no restart"]);
    present(&papers, "client");
    shop.expect_rows(1..=20).await.wait_for_state("RUNNING").await;
}

#[tokio::test]
async fn a_password_goes_by_scram_and_by_plain_and_a_wrong_one_or_an_untrusted_broker_is_told_and_mended() {
    let papers = Papers::new();
    papers.signed("server", "/O=Servers/CN=server", "subjectAltName=IP:127.0.0.1");
    papers.expired("expired", "/O=Servers/CN=server", "subjectAltName=IP:127.0.0.1");
    let port = free_port().expect("a port");
    let plain = format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required user_millrace=\"{PASSWORD}\";"
    );
    let lines = [
        ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256"),
        ("listener.name.proxied.plain.sasl.jaas.config", &*plain),
        (
            "listener.name.proxied.scram-sha-256.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        ),
    ];
    let servers = servers(&papers, port, "SASL_SSL", &lines).await;
    let secret = format!("SCRAM-SHA-256=[password={PASSWORD}]");
    let user = ["--alter", "--add-config", &secret, "--entity-type", "users", "--entity-name", "millrace"];
    servers.kafka.tool(CONFIGS, &user).await.expect("the user's password is set");

    let mut shop = shop(&servers, &papers, port, "passwords").await;
    let password = shop.dir().join("password");
    put(&password, PASSWORD);
    shop.file
        .set("sink/kafka/security", "sasl_ssl")
        .set("sink/kafka/sasl/mechanism", "SCRAM-SHA-256")
        .set("sink/kafka/sasl/username", "millrace")
        .set("sink/kafka/sasl/password", format!("${{file:{}}}", password.display()));
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.kill();

    // The certificate names the address alone.
    let right = shop.file.clone();
    shop.file.set("sink/kafka/bootstrap", vec![format!("localhost:{port}")]);
    expect(&check(&shop), &["FAIL", "certificate", "names the host in bootstrap", "-verify_hostname"]);
    shop.file = right;

    shop.file.set("sink/kafka/sasl/mechanism", "PLAIN");
    put(&password, "hunter2-hunter2");
    shop.start_in_any_state().await.rows(11..=20).await;
    let refusal = shop.daemon().degraded(&shop.name, &["Invalid username or password"]).await;
    refusal.expect_hint(&["[sink.kafka.sasl]", &password.display().to_string(), "no restart"]);
    let pid = shop.daemon().pid();
    put(&password, PASSWORD);
    shop.expect_rows(1..=20).await.wait_for_state("RUNNING").await;

    put(&papers.path("live.pem"), papers.text("expired.pem"));
    servers.kafka.restart().await.expect("Kafka starts again");
    shop.rows(21..=30).await;
    shop.daemon().degraded(&shop.name, &["certificate"]).await.expect_hint(&["expired", "ca_file"]);
    put(&papers.path("live.pem"), papers.text("server.pem"));
    servers.kafka.restart().await.expect("Kafka starts again");
    shop.expect_rows(1..=30).await.wait_for_state("RUNNING").await;
    assert_eq!(shop.daemon().pid(), pid);
    for word in [PASSWORD, "hunter2"] {
        assert!(!shop.daemon().log().contains(word), "the log shows a password");
    }
}
