//! A registry that speaks TLS with a certificate of a private authority and wants a password or a token: the real one
//! does all of it by itself. What is wrong is told, and mended without a restart of the daemon.

use std::path::Path;
use std::sync::Arc;

use millrace_e2e::{Papers, Servers, Shop, openssl, run_to_end, wait_for_records};
use millrace_ledger::avro;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use xtask::services::{Home, Registry, RegistryConfig, free_port};

const PASSWORD: &str = "of-this-test";

fn put(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).expect("a file in a temporary directory");
}

/// A registry that shows `live.pem` to whom comes by TLS and lets nobody write without a login. Reading is open: so a
/// consumer that has no login can read what was registered.
struct Guarded {
    registry: Registry,
    tls_port: u16,
}

impl Guarded {
    async fn start(papers: &Papers, login: &[(&str, &str)]) -> Self {
        show(papers, "server");
        let tls_port = free_port().expect("a port");
        let [certificate, key] = ["live.crt", "live.key"].map(|name| papers.path(name).display().to_string());
        let tls_port_text = tls_port.to_string();
        let always = [
            ("quarkus.http.ssl-port", &*tls_port_text),
            ("quarkus.http.insecure-requests", "enabled"),
            ("quarkus.http.ssl.certificate.files", &certificate),
            ("quarkus.http.ssl.certificate.key-files", &key),
            ("apicurio.auth.anonymous-read-access.enabled", "true"),
        ];
        let settings =
            always.iter().chain(login).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let config = RegistryConfig { settings: settings.collect(), ..RegistryConfig::default() };
        let home = Home::temporary().expect("a temporary directory");
        let registry = Registry::start_new(&config, &home).await.expect("the registry starts");
        Self { registry, tls_port }
    }

    /// By a host that its certificate names, or by its address, which it does not.
    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/apis/ccompat/v7", self.tls_port)
    }

    /// Fails unless the topic holds so many records whose schemas are in this registry.
    async fn expect_records(&self, shop: &Shop, count: usize) {
        let topic = shop.topic("public.orders");
        let records = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic], count).await;
        let mut registry = avro::Registry::new(&self.registry.url()).expect("a client");
        let mut ids = Vec::new();
        for record in &records {
            ids.push(record.avro(&mut registry).await["after"]["id"].as_i64());
        }
        let expected: Vec<_> = (1..).map(Some).take(count).collect();
        assert_eq!(ids, expected);
    }
}

/// Puts a certificate where the registry finds it when it starts.
fn show(papers: &Papers, name: &str) {
    for end in ["crt", "key"] {
        put(&papers.path(&format!("live.{end}")), papers.text(&format!("{name}.{end}")));
    }
}

/// Certificates of a server that is known by its name and not by its address.
fn papers() -> Papers {
    let papers = Papers::new();
    papers.signed("server", "/O=Servers/CN=registry", "subjectAltName=DNS:localhost");
    papers.expired("expired", "/O=Servers/CN=registry", "subjectAltName=DNS:localhost");
    papers
}

async fn shop(registry: &Guarded, name: &str) -> Shop {
    let mut shop = Shop::on(&Arc::new(Servers::shared().await), name).await;
    shop.file.set("format/registry", registry.url("localhost"));
    shop
}

#[tokio::test]
async fn a_registry_with_a_private_authority_and_a_password_tells_what_is_wrong_and_is_gone_on_with() {
    let (papers, others) = (papers(), Papers::new());
    let login = [
        ("quarkus.http.auth.basic", "true"),
        ("quarkus.security.users.embedded.plain-text", "true"),
        ("quarkus.security.users.embedded.users.millrace", PASSWORD),
        ("quarkus.security.users.embedded.roles.millrace", "sr-admin"),
    ];
    let registry = Guarded::start(&papers, &login).await;
    let mut shop = shop(&registry, "registry-password").await;
    let check = |shop: &Shop| run_to_end(&["check", &shop.write_file().display().to_string()], shop.dir());
    let told = check(&shop).text();
    assert!(told.contains("UnknownIssuer") && told.contains("set registry_ca_file in [format]"), "{told}");

    let (ca, password) = (shop.dir().join("ca.pem"), shop.dir().join("password"));
    put(&ca, papers.text("ca.pem"));
    put(&password, "hunter2-hunter2");
    shop.file
        .set("format/registry_ca_file", ca.display().to_string())
        .set("format/registry_username", "millrace")
        .set("format/registry_password", format!("${{file:{}}}", password.display()))
        .set("format/registry", registry.url("127.0.0.1"));
    let told = check(&shop).text();
    assert!(told.contains("does not name 127.0.0.1"), "{told}");
    shop.file.set("format/registry", registry.url("localhost"));

    // Nothing is asked of the registry before the first row.
    put(&ca, others.text("ca.pem"));
    shop.start().await.rows(1..=10).await;
    let refusal = shop.daemon().degraded(&shop.name, &["invalid peer certificate"]).await;
    refusal.expect_hint(&["registry_ca_file", &ca.display().to_string(), "no restart"]);
    let pid = shop.daemon().pid();
    put(&ca, papers.text("ca.pem"));
    let refusal = shop.daemon().degraded(&shop.name, &["401"]).await;
    refusal.expect_hint(&[&password.display().to_string(), "no restart"]);
    put(&password, PASSWORD);
    registry.expect_records(&shop, 10).await;

    show(&papers, "expired");
    registry.registry.restart().await.expect("the registry starts again");
    shop.sql.run("ALTER TABLE orders ADD colour text").await;
    shop.rows(11..=20).await;
    shop.daemon().degraded(&shop.name, &["Expired"]).await.expect_hint(&["valid today"]);
    show(&papers, "server");
    registry.registry.restart().await.expect("the registry starts again");
    registry.expect_records(&shop, 20).await;
    shop.wait_for_state("RUNNING").await;
    assert_eq!(shop.daemon().pid(), pid);
    for word in [PASSWORD, "hunter2"] {
        assert!(!shop.daemon().log().contains(word), "the log shows a password");
    }
}

/// The key by which a registry judges tokens, and tokens that are signed with it.
struct Issuer {
    papers: Papers,
}

impl Issuer {
    const KEY_ID: &str = "of-this-test";

    fn new() -> Self {
        Self { papers: Papers::new() }
    }

    /// Signed with RS256; good for so many seconds from now on.
    fn token(&self, lasts_s: i64) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let now = i64::try_from(now.as_secs()).expect("before the end of time");
        let claims =
            json!({"sub": "millrace", "iat": now - 60, "exp": now + lasts_s, "groups": ["sr-admin"]});
        let head = json!({"alg": "RS256", "typ": "JWT", "kid": Self::KEY_ID});
        let signed = format!("{}.{}", self.encoded(head), self.encoded(claims));
        put(&self.papers.path("signed"), &signed);
        let key = self.papers.path("server.key").display().to_string();
        let dir = self.papers.path("");
        let signature = openssl(&dir, &["dgst", "-sha256", "-sign", &key, "signed"]);
        format!("{signed}.{}", self.base64url(&signature))
    }

    /// What an identity provider gives away under its `jwks_uri`.
    fn keys(&self) -> Json {
        let shown = openssl(&self.papers.path(""), &["rsa", "-in", "server.key", "-noout", "-modulus"]);
        let shown = String::from_utf8(shown).expect("text");
        let (_, digits) = shown.trim().split_once('=').expect("Modulus=...");
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
        let modulus: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        let n = self.base64url(&modulus);
        json!({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": Self::KEY_ID, "n": n, "e": "AQAB"}]})
    }

    fn encoded(&self, json: Json) -> String {
        self.base64url(json.to_string().as_bytes())
    }

    fn base64url(&self, bytes: &[u8]) -> String {
        put(&self.papers.path("bytes"), bytes);
        let text = openssl(&self.papers.path(""), &["base64", "-A", "-in", "bytes"]);
        let text = String::from_utf8(text).expect("text");
        text.trim_end_matches('=').replace('+', "-").replace('/', "_")
    }
}

/// Gives the same document to everybody who asks, on a port of its own.
async fn serve(document: Json) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("a port").port();
    let body = document.to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            // Who asks sends one packet, and whoever is gone asks again.
            let _ = from.read(&mut [0; 4096]).await;
            let _ = from.write_all(answer.as_bytes()).await;
        }
    });
    port
}

#[tokio::test]
async fn a_registry_that_judges_bearer_tokens_is_asked_again_with_the_token_that_its_file_holds() {
    let (papers, issuer) = (papers(), Issuer::new());
    let provider = format!("http://127.0.0.1:{}", serve(issuer.keys()).await);
    let login = [
        ("quarkus.oidc.tenant-enabled", "true"),
        ("quarkus.oidc.application-type", "service"),
        ("quarkus.oidc.auth-server-url", &*provider),
        ("quarkus.oidc.discovery-enabled", "false"),
        ("quarkus.oidc.jwks-path", "/keys"),
    ];
    let registry = Guarded::start(&papers, &login).await;
    let mut shop = shop(&registry, "registry-token").await;
    let token = shop.dir().join("token");
    put(&token, issuer.token(-30));
    shop.file
        .set("format/registry_ca_file", papers.path("ca.pem").display().to_string())
        .set("format/registry_token", format!("${{file:{}}}", token.display()));
    shop.start().await.rows(1..=10).await;
    let refusal = shop.daemon().degraded(&shop.name, &["401"]).await;
    refusal.expect_hint(&[&token.display().to_string(), "no restart"]);
    let good = issuer.token(3_600);
    put(&token, &good);
    registry.expect_records(&shop, 10).await;
    shop.wait_for_state("RUNNING").await;
    assert!(!shop.daemon().log().contains(&good), "the log shows the token");
}
