//! F16: passwords and certificates change under the daemon, which reads them from files. In turn the server
//! changes first, so that the old one is refused for a while, and the file, so that the new one is not known
//! yet; all connections are ended each time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use millrace_ledger::Result;
use millrace_ledger::daemon::Login;
use millrace_ledger::proxy::Mode;
use millrace_ledger::run::{Stage, Struck};
use tokio_postgres::Client;
use xtask::services::KafkaConfig;

use super::scene::Scene;

/// The role and the user that the daemon logs in as.
const USER: &str = "rotating";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
/// Of every file that the servers are given.
const FILES: [&str; 3] = ["server.crt", "server.key", "ca.pem"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    PostgresPassword,
    PostgresCertificates,
    KafkaPassword,
}

const EACH: [(What, bool); 6] = [
    (What::PostgresPassword, true),
    (What::KafkaPassword, true),
    (What::PostgresCertificates, true),
    (What::PostgresPassword, false),
    (What::KafkaPassword, false),
    (What::PostgresCertificates, false),
];

/// Whoever comes through the proxy logs in.
pub fn secure(kafka: &mut KafkaConfig) {
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let properties = [
        ("listener.security.protocol.map", "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:SASL_PLAINTEXT"),
        ("sasl.enabled.mechanisms", "SCRAM-SHA-512"),
        ("listener.name.proxied.scram-sha-512.sasl.jaas.config", scram),
    ];
    kafka.properties.extend(properties.map(|(key, value)| (key.to_owned(), value.to_owned())));
}

/// What the daemon's file says of its logins.
pub fn login(dir: &Path) -> Login {
    let at = |name: &str| dir.join(name).display().to_string();
    let source = format!(
        "password = \"${{file:{}}}\"\nsslmode = \"verify-full\"\nsslrootcert = \"{}\"\nsslcert = \"{}\"\nsslkey = \"{}\"\n",
        at("postgres"),
        at("ca.pem"),
        at("client.crt"),
        at("client.key"),
    );
    let sink = format!(
        "security = \"sasl_plaintext\"\n[sink.kafka.sasl]\nmechanism = \"SCRAM-SHA-512\"\nusername = \"{USER}\"\n\
         password = \"${{file:{}}}\"\n",
        at("kafka"),
    );
    Login { source, sink }
}

pub fn url(port: u16) -> String {
    format!("postgres://{USER}@127.0.0.1:{port}/postgres")
}

/// Both sides know the first of everything before the daemon starts.
pub async fn first_start(scene: &Scene, stage: &mut Stage) -> Result<()> {
    let dir = dir(scene)?;
    let admin = stage.admin().await?;
    let make = format!(
        "DO $$ BEGIN CREATE ROLE {USER} SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object THEN END $$"
    );
    admin.batch_execute(&make).await?;
    let access = format!(
        "hostssl all {USER} 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n\
                          host all all 127.0.0.1/32 scram-sha-256"
    );
    give(&admin, "pg_hba.conf", &access).await?;
    let password = "of-the-first-start";
    at_postgres(&admin, password).await?;
    at_kafka(scene, password).await?;
    for file in ["postgres", "kafka"] {
        std::fs::write(dir.join(file), password)?;
    }
    certify(&dir)?;
    certificates_at_postgres(&admin, &dir).await?;
    with_the_daemon(&dir)?;
    // A server that offers no TLS yet would be the end of a daemon that demands it.
    while stage.admin().await?.query_one("SHOW ssl", &[]).await?.get::<_, String>(0) != "on" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.first_start().await
}

pub async fn strike(scene: &Scene, stage: &mut Stage, turn: usize) -> Result<Struck> {
    let (what, server_first) = EACH[turn % EACH.len()];
    let (dir, admin) = (dir(scene)?, stage.admin().await?);
    let word = format!("word-{:x}", stage.random.draw());
    let gap = stage.millis(3_000);
    if what == What::PostgresCertificates {
        certify(&dir)?;
    }
    for side in [server_first, !server_first] {
        match (what, side) {
            (What::PostgresPassword, true) => at_postgres(&admin, &word).await?,
            (What::KafkaPassword, true) => at_kafka(scene, &word).await?,
            (What::PostgresCertificates, true) => certificates_at_postgres(&admin, &dir).await?,
            (What::PostgresPassword, false) => std::fs::write(dir.join("postgres"), &word)?,
            (What::KafkaPassword, false) => std::fs::write(dir.join("kafka"), &word)?,
            (What::PostgresCertificates, false) => with_the_daemon(&dir)?,
        }
        end_connections(scene, &admin, what).await?;
        tokio::time::sleep(gap).await;
    }
    let first = if server_first { "the server" } else { "the file" };
    Ok(Struck::now(format!("{what:?} changed, {first} {:.1} s earlier", gap.as_secs_f64())))
}

fn dir(scene: &Scene) -> Result<PathBuf> {
    let dir = scene.logins();
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// As a server that is told to forget its sessions, or a network that breaks.
async fn end_connections(scene: &Scene, admin: &Client, what: What) -> Result<()> {
    if what == What::KafkaPassword {
        scene.kafka_link.set(Mode::Cut);
        tokio::time::sleep(Duration::from_millis(100)).await;
        scene.kafka_link.set(Mode::Pass);
        return Ok(());
    }
    let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'");
    Ok(admin.batch_execute(&sql).await?)
}

async fn at_postgres(admin: &Client, password: &str) -> Result<()> {
    Ok(admin.batch_execute(&format!("ALTER ROLE {USER} PASSWORD '{password}'")).await?)
}

async fn at_kafka(scene: &Scene, password: &str) -> Result<()> {
    let secret = format!("SCRAM-SHA-512=[password={password}]");
    let words = ["--alter", "--add-config", &secret, "--entity-type", "users", "--entity-name", USER];
    scene.kafka.tool(CONFIGS, &words).await?;
    Ok(())
}

/// A new authority, and what it signs for both sides.
fn certify(dir: &Path) -> Result<()> {
    let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let own =
        ["-x509", "-days", "30", "-subj", "/CN=authority", "-keyout", "new-ca.key", "-out", "new-ca.pem"];
    openssl(dir, &[&new[..], &own].concat())?;
    let client = format!("/CN={USER}");
    let kinds = [
        ("server", "/CN=server", "subjectAltName=IP:127.0.0.1"),
        ("client", &client, "keyUsage=digitalSignature"),
    ];
    for (name, subject, extension) in kinds {
        let [key, csr, crt] = ["key", "csr", "crt"].map(|kind| format!("new-{name}.{kind}"));
        let asked = ["-subj", subject, "-addext", extension, "-keyout", &key, "-out", &csr];
        openssl(dir, &[&new[..], &asked].concat())?;
        let by = ["-CA", "new-ca.pem", "-CAkey", "new-ca.key", "-CAcreateserial", "-copy_extensions", "copy"];
        let signed = ["x509", "-req", "-days", "30", "-in", &csr, "-out", &crt];
        openssl(dir, &[&signed[..], &by].concat())?;
    }
    Ok(())
}

fn openssl(dir: &Path, words: &[&str]) -> Result<()> {
    let ended = Command::new("openssl").args(words).current_dir(dir).output()?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(format!("openssl {words:?}: {}", String::from_utf8_lossy(&ended.stderr)).into()),
    }
}

/// Reloaded for new connections; some may still be made with the old ones.
async fn certificates_at_postgres(admin: &Client, dir: &Path) -> Result<()> {
    for name in FILES {
        give(admin, name, &std::fs::read_to_string(dir.join(format!("new-{name}")))?).await?;
    }
    let settings =
        ["ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'", "ssl_ca_file = 'ca.pem'", "ssl = on"];
    for setting in settings {
        admin.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await?;
    }
    Ok(admin.batch_execute("SELECT pg_reload_conf()").await?)
}

/// The server keeps a file beside its data, as its own user.
async fn give(admin: &Client, name: &str, text: &str) -> Result<()> {
    let lines = format!("SELECT unnest(string_to_array($text${text}$text$, E'\\n'))");
    let sql = format!("COPY ({lines}) TO PROGRAM 'umask 077; cat > {name}'");
    Ok(admin.batch_execute(&sql).await?)
}

/// One after the other, as any tool does it.
fn with_the_daemon(dir: &Path) -> Result<()> {
    for name in ["ca.pem", "client.crt", "client.key"] {
        std::fs::copy(dir.join(format!("new-{name}")), dir.join(name))?;
    }
    Ok(())
}
