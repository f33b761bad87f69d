//! The daemon under test: its file, its process, and its end by force.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::Result;
use crate::tables::TABLES;

/// SIGTERM drains and commits within 10 s; a little more is a failure, not a wait.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);
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
}

impl ConnectorFile {
    pub fn text(&self) -> String {
        let tables: Vec<_> = TABLES.iter().map(|table| format!("\"ledger.{}\"", table.name)).collect();
        let brokers: Vec<_> = self.bootstrap.split(',').map(|broker| format!("\"{broker}\"")).collect();
        format!(
            r#"name = "{name}"

[source.postgres]
url = "{url}"
slot = "{slot}"
sslmode = "disable"
tables = [{tables}]

[format]
envelope = "debezium"
encoding = "avro"
registry = "{registry}"

[sink.kafka]
bootstrap = [{brokers}]
position_topic = "{position_topic}"

[sink.kafka.topic_defaults]
partitions = {partitions}
replication = 1

[rest]
listen = "127.0.0.1:0"
"#,
            name = self.name,
            url = self.postgres_url,
            slot = self.slot,
            tables = tables.join(", "),
            registry = self.registry_url,
            brokers = brokers.join(", "),
            position_topic = self.position_topic,
            partitions = self.partitions,
        )
    }
}

pub struct Daemon {
    binary: PathBuf,
    file: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Writes the file into `dir`; the log of all starts goes beside it.
    pub fn prepare(binary: &Path, dir: &Path, connector: &ConnectorFile) -> Result<Daemon> {
        Self::with_file(binary, dir, &connector.name, &connector.text())
    }

    /// The same for a file of any text.
    pub fn with_file(binary: &Path, dir: &Path, name: &str, text: &str) -> Result<Daemon> {
        std::fs::create_dir_all(dir)?;
        let file = dir.join(format!("{name}.toml"));
        std::fs::write(&file, text)?;
        let log = dir.join(format!("{name}.log"));
        File::create(&log)?;
        Ok(Daemon { binary: binary.to_owned(), file, log, child: None })
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn start(&mut self) -> Result<()> {
        let log = OpenOptions::new().append(true).open(&self.log)?;
        let child = Command::new(&self.binary)
            .arg("run")
            .arg(&self.file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
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
        let mut child = self.child.take().ok_or("the daemon does not run")?;
        if let Some(id) = child.id()
            && let Some(pid) = Pid::from_raw(i32::try_from(id)?)
        {
            kill_process(pid, Signal::TERM)?;
        }
        match tokio::time::timeout(STOP_TIME_MAX, child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                child.kill().await?;
                Err(format!("the daemon did not stop within {STOP_TIME_MAX:?}").into())
            }
        }
    }

    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}
