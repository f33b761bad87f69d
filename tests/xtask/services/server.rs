//! A server that can be started, stopped, killed, paused and started again on the same port and data.
//! What is needed for that lies in `server.json` beside its data, so that another process can do it too.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::home::{self, Home, Lifetime, free_port};
use super::process::{Identity, Launch, Process, last_lines};
use super::{connect, kafka, mongodb, postgres, registry};
use crate::{Context, Error, Result};

pub(super) const RECORD: &str = "server.json";

/// How long a server may take to answer: the slowest takes 5 s on two idle cores.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a server may take to stop in good order before it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// What tells the servers apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Kafka,
    Registry,
    /// Kafka Connect, with Debezium.
    Connect,
    Postgres {
        password: String,
    },
    /// One member of a replica set.
    Mongodb {
        password: Option<String>,
    },
}

/// Everything there is to know about a server, as written to disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    pub kind: Kind,
    pub port: u16,
    pub launch: Launch,
    /// Directories to delete with the server; its own is one of them.
    pub dirs: Vec<PathBuf>,
    pub process: Option<Identity>,
}

/// A running server, or one that was stopped and can be started again.
#[derive(Debug)]
pub struct Server {
    dir: PathBuf,
    lifetime: Lifetime,
    record: Mutex<Record>,
    process: Process,
}

impl Server {
    /// A new server in `dir`, not started yet.
    pub(super) fn new(dir: PathBuf, lifetime: Lifetime, record: Record) -> Self {
        Self { dir, lifetime, record: Mutex::new(record), process: Process::default() }
    }

    /// The server that lives in `dir`, whoever started it.
    pub(super) fn open(dir: PathBuf, lifetime: Lifetime) -> Result<Self> {
        let file = dir.join(RECORD);
        let text = fs::read(&file).context(|| format!("{}", file.display()))?;
        let record: Record = serde_json::from_slice(&text).context(|| format!("{}", file.display()))?;
        let process = Process::found(record.process);
        Ok(Self { dir, lifetime, record: Mutex::new(record), process })
    }

    /// The servers of a home, by name.
    pub fn all(home: &Home) -> Result<Vec<Self>> {
        let mut dirs: Vec<PathBuf> = match fs::read_dir(&home.dir) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::new(format!("{}: {e}", home.dir.display()))),
        };
        dirs.retain(|dir| dir.join(RECORD).exists());
        dirs.sort();
        dirs.into_iter().map(|dir| Self::open(dir, home.lifetime)).collect()
    }

    pub fn name(&self) -> String {
        self.record(|record| record.name.clone())
    }

    pub fn kind(&self) -> Kind {
        self.record(|record| record.kind.clone())
    }

    /// On 127.0.0.1, and the same for as long as the server exists.
    pub fn port(&self) -> u16 {
        self.record(|record| record.port)
    }

    /// The process that was started last, whether or not it still runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.identity().map(|identity| identity.pid)
    }

    /// Standard output and standard error, of all its starts one after the other.
    pub fn log(&self) -> PathBuf {
        self.record(|record| record.launch.log.clone())
    }

    /// The server's own directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is run.
    pub fn program(&self) -> PathBuf {
        self.record(|record| record.launch.program.clone())
    }

    /// Whether its process runs; it may not answer yet, or be paused.
    pub fn alive(&self) -> bool {
        self.process.alive()
    }

    /// Whether it answers now.
    pub async fn ready(&self) -> bool {
        let (kind, port) = self.record(|record| (record.kind.clone(), record.port));
        let probe = async {
            match kind {
                Kind::Kafka => kafka::brokers_seen_by(port).await.is_ok_and(|ports| ports.contains(&port)),
                Kind::Registry => registry::answers(port).await,
                Kind::Connect => connect::answers(port).await,
                Kind::Postgres { password } => postgres::answers(port, &password).await,
                Kind::Mongodb { .. } => mongodb::answers(port).await,
            }
        };
        tokio::time::timeout(Duration::from_secs(2), probe).await.unwrap_or(false)
    }

    /// Starts it on its port and data if it does not run, and waits until it answers.
    pub async fn start(&self) -> Result<()> {
        self.launch()?;
        self.wait_ready().await
    }

    /// Starts it for the first time, on another port if somebody took its own between the choice and the
    /// use. `on_port` makes it ready for one.
    pub(super) async fn start_new(&self, on_port: impl Fn(u16) -> Result<Launch>) -> Result<()> {
        for attempt in 1.. {
            match self.start().await {
                Ok(()) => break,
                Err(_) if attempt < 3 && lost_its_port(self) => {
                    self.kill();
                    fs::write(self.log(), "").context(|| format!("{}", self.log().display()))?;
                    let port = free_port()?;
                    self.move_to(port, on_port(port)?);
                }
                Err(e) => {
                    self.kill();
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Starts it without waiting for it.
    pub fn launch(&self) -> Result<()> {
        if self.alive() {
            return Ok(());
        }
        let launch = self.record(|record| record.launch.clone());
        let identity = self.process.spawn(&launch, self.lifetime != Lifetime::Lasting)?;
        self.record(|record| record.process = Some(identity));
        self.save()
    }

    /// Waits until it answers; an error says how its log ends.
    pub async fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            // Looked at first, so that a foreign server on our port is not taken for ours.
            let alive = self.alive();
            if alive && self.ready().await {
                return Ok(());
            }
            let (name, log) = (self.name(), self.log());
            if !alive {
                return Err(Error::new(format!("{name} ended; its log:\n{}", last_lines(&log))));
            }
            if Instant::now() >= deadline {
                let limit = READY_WITHIN.as_secs();
                return Err(Error::new(format!(
                    "{name} does not answer after {limit} s; its log:\n{}",
                    last_lines(&log)
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops it in good order; for Postgres this is `pg_ctl stop -m fast`.
    pub async fn stop(&self) -> Result<()> {
        let signal = match self.kind() {
            Kind::Postgres { .. } => Signal::INT,
            Kind::Kafka | Kind::Registry | Kind::Connect | Kind::Mongodb { .. } => Signal::TERM,
        };
        self.stop_by(signal).await
    }

    pub(super) async fn stop_by(&self, signal: Signal) -> Result<()> {
        // A paused process would keep the signal for later.
        self.resume();
        self.process.signal(signal);
        if self.process.ended(STOPPED_WITHIN).await {
            return Ok(());
        }
        self.kill();
        let (name, limit) = (self.name(), STOPPED_WITHIN.as_secs());
        Err(Error::new(format!("{name} did not stop within {limit} s and was killed")))
    }

    /// SIGKILL, to all its processes; returns when they are gone.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// SIGSTOP, to all its processes: it holds its connections and answers nothing.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// SIGCONT, to all its processes.
    pub fn resume(&self) {
        self.process.signal_tree(Signal::CONT);
    }

    /// Stops it in good order and starts it again.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// Stops it and deletes its data; nothing is left of it.
    pub async fn remove(self) -> Result<()> {
        // One that has to be killed in the end is removed all the same.
        let _ = self.stop().await;
        self.delete()
    }

    /// How it is started.
    pub(super) fn launch_record(&self) -> Launch {
        self.record(|record| record.launch.clone())
    }

    /// Gives it another port, after the first was lost to somebody else.
    pub(super) fn move_to(&self, port: u16, launch: Launch) {
        self.record(|record| {
            record.port = port;
            record.launch = launch;
        });
    }

    fn delete(&self) -> Result<()> {
        for dir in self.record(|record| record.dirs.clone()) {
            home::remove(&dir)?;
        }
        if let Some(parent) = self.dir.parent() {
            home::remove_if_temporary_and_empty(parent);
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        let text = self.record(|record| serde_json::to_vec_pretty(record));
        let text = text.context(|| "a server cannot be written down".to_owned())?;
        let (file, next) = (self.dir.join(RECORD), self.dir.join("server.json.next"));
        fs::write(&next, text).context(|| format!("{}", next.display()))?;
        fs::rename(&next, &file).context(|| format!("{}", file.display()))
    }

    pub(super) fn record<T>(&self, see: impl FnOnce(&mut Record) -> T) -> T {
        see(&mut self.record.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Handle {
            self.kill();
            if let Err(e) = self.delete() {
                eprintln!("{e}");
            }
        }
    }
}

/// Whether what listens on a port answers a GET with 200.
pub(super) async fn answers_http(port: u16, path: &str) -> bool {
    let ask = async {
        let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
        server.write_all(format!("GET {path} HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n").as_bytes()).await?;
        let mut status = [0; 12];
        server.read_exact(&mut status).await?;
        std::io::Result::Ok(status)
    };
    ask.await.is_ok_and(|status| status.ends_with(b" 200"))
}

/// Whether a start failed because somebody else took the port between its choice and its use.
pub(super) fn lost_its_port(server: &Server) -> bool {
    let words = last_lines(&server.log());
    ["Address already in use", "BindException", "already bound", "Port already", "SocketException"]
        .iter()
        .any(|sign| words.contains(sign))
}
