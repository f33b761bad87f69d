//! Apicurio Registry with its Confluent-compatible interface; schemas in an H2 file, so that ids outlive
//! a restart and a kill.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::blocking;
use super::home::{Home, Lock, cache, create, free_port, remove};
use super::install::{Download, Origin, finish};
use super::process::Launch;
use super::server::{Kind, Record, Server, lost_its_port};
use crate::{Context, Result};

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
        let program = blocking(unpacked).await?;
        let dir = home.place("registry")?;
        let mut port = free_port()?;
        let record = Record {
            name: "registry".into(),
            kind: Kind::Registry,
            port,
            launch: launch(config, &program, &dir, port),
            dirs: vec![dir.clone()],
            process: None,
        };
        let server = Server::new(dir.clone(), home.lifetime, record);
        for attempt in 1.. {
            match server.start().await {
                Ok(()) => break,
                Err(_) if attempt < 3 && lost_its_port(&server) => {
                    server.kill();
                    port = free_port()?;
                    fs::write(server.log(), "").context(|| format!("{}", server.log().display()))?;
                    server.move_to(port, launch(config, &program, &dir, port));
                }
                Err(e) => {
                    server.kill();
                    return Err(e);
                }
            }
        }
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

/// The archive lies in the cache, and beside it what came out of it.
fn unpacked() -> Result<PathBuf> {
    let archive = DOWNLOAD.fetch()?.join(ARCHIVE);
    let cache = cache()?;
    let done = cache.join("registry-3.0.9-unpacked");
    if !done.exists() {
        let _one_at_a_time = Lock::take(&cache.join("lock"))?;
        let partial = cache.join(".partial-registry");
        remove(&partial)?;
        create(&partial)?;
        finish(Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(&partial))?;
        if done.exists() {
            remove(&partial)?;
        } else {
            fs::rename(&partial, &done).context(|| format!("{} cannot be made", done.display()))?;
        }
    }
    Ok(done.join(PROGRAM))
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
    let ask = async {
        let mut registry = TcpStream::connect(("127.0.0.1", port)).await?;
        registry.write_all(b"GET /apis/ccompat/v7/subjects HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n").await?;
        let mut status = [0; 12];
        registry.read_exact(&mut status).await?;
        std::io::Result::Ok(status)
    };
    ask.await.is_ok_and(|status| status.ends_with(b" 200"))
}
