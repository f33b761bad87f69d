//! Apicurio Registry with its Confluent-compatible interface; schemas in an H2 file, so that ids outlive
//! a restart and a kill.

use std::ops::Deref;
use std::path::Path;

use super::blocking;
use super::home::{Home, free_port};
use super::install::{Download, Origin};
use super::process::Launch;
use super::server::{Kind, Record, Server, answers_http};
use crate::Result;

const DOWNLOAD: Download = Download {
    name: "registry-3.0.9",
    from: Origin::Artifact("io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all"),
    sums: include_str!("sums/registry-3.0.9.sha256"),
};
const ARCHIVE: &str = "apicurio-registry-app-3.0.9-all.tar.gz";
const PROGRAM: &str = "apicurio-registry-app-3.0.9-runner.jar";

/// What a registry is to be like.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Java heap.
    pub heap_mb: u32,
    /// More `-D` settings of Apicurio or Quarkus.
    pub settings: Vec<(String, String)>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { heap_mb: 512, settings: Vec::new() }
    }
}

/// A registry on 127.0.0.1; what can be done to it is what can be done to a [`Server`].
#[derive(Debug)]
pub struct Registry {
    server: Server,
}

impl Deref for Registry {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Registry {
    /// Installs the registry if need be, starts a new one and waits until it answers.
    pub async fn start_new(config: &RegistryConfig, home: &Home) -> Result<Self> {
        let program = blocking(|| Ok(DOWNLOAD.unpacked(ARCHIVE, |_| Ok(()))?.join(PROGRAM))).await?;
        let dir = home.place("registry")?;
        let port = free_port()?;
        let record = Record {
            name: "registry".into(),
            kind: Kind::Registry,
            port,
            launch: launch(config, &program, &dir, port),
            dirs: vec![dir.clone()],
            process: None,
        };
        let server = Server::new(dir.clone(), home.lifetime, record);
        server.start_new(|port| Ok(launch(config, &program, &dir, port))).await?;
        Ok(Self { server })
    }

    pub(super) fn from_server(server: Server) -> Self {
        Self { server }
    }

    /// The base of the Confluent-compatible interface: `<url>/subjects`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port())
    }
}

fn launch(config: &RegistryConfig, program: &Path, dir: &Path, port: u16) -> Launch {
    // WRITE_DELAY=0: H2 keeps a commit in memory for half a second otherwise, and a kill would take back
    // an id that somebody already writes into records.
    let database = format!("jdbc:h2:file:{};WRITE_DELAY=0", dir.join("schemas").display());
    let ours = [
        ("quarkus.http.host", "127.0.0.1"),
        ("quarkus.http.port", &port.to_string()),
        ("quarkus.http.access-log.enabled", "false"),
        ("apicurio.storage.kind", "sql"),
        ("apicurio.storage.sql.kind", "h2"),
        ("apicurio.datasource.url", &database),
    ];
    let mut args = vec![format!("-Xmx{}m", config.heap_mb)];
    args.extend(ours.iter().map(|(key, value)| format!("-D{key}={value}")));
    args.extend(config.settings.iter().map(|(key, value)| format!("-D{key}={value}")));
    args.extend(["-jar".into(), program.display().to_string()]);
    Launch { program: "java".into(), args, cwd: dir.to_owned(), log: dir.join("log"), user: None }
}

pub(super) async fn answers(port: u16) -> bool {
    answers_http(port, "/apis/ccompat/v7/subjects").await
}
