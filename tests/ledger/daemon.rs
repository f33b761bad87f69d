//! The daemon under test: its file, its process, and its end by force.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::Result;
use crate::tables::{Form, TABLES};

/// SIGTERM drains and commits within 10 s; a little more is a failure, not a wait.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);
/// SIGABRT, by which a process ends itself.
const ABORTED: i32 = 6;
/// What is shown of a log when a run cannot go on.
const LOG_TAIL_LINES: usize = 30;

/// What the connector's file says.
#[derive(Clone, Debug)]
pub struct ConnectorFile {
    /// Also the prefix of the topics.
    pub name: String,
    pub slot: String,
    pub postgres_url: String,
    pub bootstrap: String,
    pub registry_url: String,
    pub partitions: u32,
    pub position_topic: String,
    /// Of the Kafka transactions; the daemon's own default where it is `None`.
    pub transaction_timeout: Option<Duration>,
    /// After which a request to a broker counts as lost; librdkafka's default where it is `None`.
    pub socket_timeout: Option<Duration>,
    /// Source transactions above it are cut; the daemon's own default where it is `None`.
    pub cut_bytes: Option<u64>,
    /// Several daemons may have this file, and one of them is at work.
    pub high_availability: bool,
    /// Rows that are read at once; `None` where none are.
    pub snapshot_chunk_rows: Option<u64>,
    /// Beside what the urls say.
    pub login: Login,
}

/// Lines for the source's section, and for the end of the sink's.
#[derive(Clone, Debug)]
pub struct Login {
    pub source: String,
    pub sink: String,
}

impl Default for Login {
    /// What the urls say is all.
    fn default() -> Login {
        Login { source: "sslmode = \"disable\"\n".to_owned(), sink: String::new() }
    }
}

impl ConnectorFile {
    /// Where rows are read it is left out: draining it holds the stream up, and such runs measure how soon that goes on.
    pub fn has_outbox(&self) -> bool {
        self.snapshot_chunk_rows.is_none()
    }

    fn route(&self) -> String {
        format!(
            "\n[[route]]\nrelations = [\"ledger.outbox\"]\nenvelope = \"outbox\"\n\
             topic = \"{}.ledger.outbox\"\nheaders = {{ seq = \"seq\", txid = \"txid\" }}\n",
            self.name
        )
    }

    pub fn text(&self) -> String {
        let captured = TABLES.iter().filter(|table| self.has_outbox() || table.form != Form::Outbox);
        let tables: Vec<_> = captured.map(|table| format!("\"ledger.{}\"", table.name)).collect();
        let line = |key: &str, value: Option<u128>| match value {
            None => String::new(),
            Some(value) => format!("{key} = {value}\n"),
        };
        let ms = |key: &str, time: Option<Duration>| line(key, time.map(|time| time.as_millis()));
        let brokers: Vec<_> = self.bootstrap.split(',').map(|broker| format!("\"{broker}\"")).collect();
        format!(
            r#"name = "{name}"
high_availability = {high_availability}

[source.postgres]
url = "{url}"
slot = "{slot}"
{login_source}tables = [{tables}]
snapshot = "{snapshot}"
{chunk_rows}
[format]
envelope = "debezium"
encoding = "avro"
registry = "{registry}"

[sink.kafka]
bootstrap = [{brokers}]
position_topic = "{position_topic}"
{login_sink}
[sink.kafka.topic_defaults]
partitions = {partitions}
replication = 1

[sink.kafka.transaction]
{cut_bytes}{transaction_timeout}
[sink.kafka.client]
{socket_timeout}
[rest]
listen = "127.0.0.1:0"
{route}"#,
            name = self.name,
            route = if self.has_outbox() { self.route() } else { String::new() },
            high_availability = self.high_availability,
            url = self.postgres_url,
            login_source = self.login.source,
            login_sink = self.login.sink,
            slot = self.slot,
            tables = tables.join(", "),
            registry = self.registry_url,
            brokers = brokers.join(", "),
            position_topic = self.position_topic,
            snapshot = if self.snapshot_chunk_rows.is_some() { "initial" } else { "no_data" },
            chunk_rows = line("snapshot_chunk_rows", self.snapshot_chunk_rows.map(u128::from)),
            partitions = self.partitions,
            cut_bytes = line("cut_bytes", self.cut_bytes.map(u128::from)),
            transaction_timeout = ms("timeout_ms", self.transaction_timeout),
            socket_timeout = ms("\"socket.timeout.ms\"", self.socket_timeout),
        )
    }
}

/// A connector as its daemon shows it.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub ready: bool,
    pub name: String,
    pub reason: String,
    pub hint: String,
}

/// By which the daemon is ordered to die at a place, or to leave a rule out.
const ORDER: &str = "MILLRACE_CHAOS";

pub struct Daemon {
    binary: PathBuf,
    file: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Obeyed from every start on.
    pub standing_order: Option<String>,
    /// Set for every start.
    pub variables: Vec<(String, String)>,
    /// Where this start's lines begin in the log.
    log_from: usize,
    started: Option<Instant>,
}

impl Daemon {
    /// Writes the file into `dir`; the log of all starts goes beside it.
    pub fn prepare(binary: &Path, dir: &Path, connector: &ConnectorFile) -> Result<Daemon> {
        Self::with_file(binary, dir, &connector.name, &connector.text())
    }

    /// The same for a file of any text.
    pub fn with_file(binary: &Path, dir: &Path, name: &str, text: &str) -> Result<Daemon> {
        Self::with_file_of(binary, dir, (name, "toml"), text)
    }

    /// The same for a file of this kind: toml, json.
    pub fn with_file_of(binary: &Path, dir: &Path, (name, kind): (&str, &str), text: &str) -> Result<Daemon> {
        std::fs::create_dir_all(dir)?;
        let file = dir.join(format!("{name}.{kind}"));
        std::fs::write(&file, text)?;
        let log = dir.join(format!("{name}.log"));
        File::create(&log)?;
        Ok(Daemon {
            binary: binary.to_owned(),
            file,
            log,
            child: None,
            standing_order: None,
            variables: Vec::new(),
            log_from: 0,
            started: None,
        })
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn start(&mut self) -> Result<()> {
        let order = self.standing_order.clone();
        self.start_ordered(order.as_deref())
    }

    /// With an order for a fault inside it; it needs a build with debug assertions.
    pub fn start_ordered(&mut self, order: Option<&str>) -> Result<()> {
        self.log_from = std::fs::read(&self.log)?.len();
        let log = OpenOptions::new().append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        if let Some(order) = order {
            command.env(ORDER, order);
        }
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        let child = command
            .envs(variables)
            .arg("run")
            .arg(&self.file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.binary.display()))?;
        self.child = Some(child);
        self.started = Some(Instant::now());
        Ok(())
    }

    /// Another process on the same file, not started yet.
    pub fn twin(&self) -> Result<Daemon> {
        let log = self.log.with_extension("twin.log");
        let log = if self.log == log { self.file.with_extension("log") } else { log };
        File::create(&log)?;
        let (binary, file) = (self.binary.clone(), self.file.clone());
        let standing_order = self.standing_order.clone();
        Ok(Daemon {
            binary,
            file,
            log,
            child: None,
            standing_order,
            variables: self.variables.clone(),
            log_from: 0,
            started: None,
        })
    }

    /// When it was started last.
    pub fn started(&self) -> Option<Instant> {
        self.started
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// The most memory that it ever held, in kB.
    pub fn memory_peak_kb(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }

    /// SIGSTOP: it keeps its connections and does nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, without waiting for what comes of it.
    pub fn term(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.pid().ok_or("the daemon does not run")?;
        let pid = Pid::from_raw(i32::try_from(id)?).ok_or("the daemon has no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until it has died at the place that it was ordered to.
    pub async fn died(&mut self, patience: Duration) -> Result<()> {
        let child = self.child.as_mut().ok_or("the daemon does not run")?;
        let Ok(status) = tokio::time::timeout(patience, child.wait()).await else {
            return Err(format!("the daemon did not die where it was told to within {patience:?}").into());
        };
        self.child = None;
        match status?.signal() {
            Some(ABORTED) => Ok(()),
            _ => Err(format!("the daemon ended otherwise than it was told to:\n{}", self.log_tail()).into()),
        }
    }

    /// What REST answers about the connector: its state and, where it is not ready, why and what to type.
    pub async fn state(&self) -> Option<State> {
        let text = std::fs::read_to_string(&self.log).ok()?;
        let (_, address) = text.get(self.log_from..)?.split_once("rest listening on ")?;
        let root = address.split_whitespace().next()?;
        // A client with TLS in it does not start without a provider; only the first call of a process chooses.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().ok()?;
        let ready = http.get(format!("{root}/ready")).send().await.ok()?.status().is_success();
        let name = self.file.file_stem()?.to_str()?;
        let answer = http.get(format!("{root}/connectors/{name}/status")).send().await.ok()?;
        let body: serde_json::Value = answer.json().await.ok()?;
        let text = |key: &str| body["millrace"][key].as_str().unwrap_or_default().to_owned();
        Some(State { ready, name: text("state"), reason: text("reason"), hint: text("hint") })
    }

    /// An error if the process has ended by itself, with the end of its log.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
            None => Ok(()),
            Some(status) => {
                Err(format!("the daemon ended by itself ({status}):\n{}", self.log_tail()).into())
            }
        }
    }

    /// SIGKILL, and waits until the process is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.still_runs()?;
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the orderly end.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.term()?;
        let mut child = self.child.take().ok_or("the daemon does not run")?;
        match tokio::time::timeout(STOP_TIME_MAX, child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                child.kill().await?;
                Err(format!("the daemon did not stop within {STOP_TIME_MAX:?}").into())
            }
        }
    }

    /// An error unless the daemon's own audit passes, with what it said.
    pub async fn audit(&self) -> Result<()> {
        let ended = Command::new(&self.binary).arg("audit").arg(&self.file).output().await?;
        if ended.status.success() {
            return Ok(());
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (said, why) = (text(&ended.stdout), text(&ended.stderr));
        Err(format!("the daemon's own audit does not pass ({}):\n{said}{why}", ended.status).into())
    }

    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}
