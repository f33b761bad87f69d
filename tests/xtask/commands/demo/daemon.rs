//! The daemon of the demo: its file, its process, which is started again when somebody kills it, and what
//! it says of itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tokio::process::{Child, Command};
use xtask::services::{Services, free_port};
use xtask::{Context, Error, Result};

use super::shop::{Shop, TABLES};

/// The connector; also the first part of its topics.
pub const NAME: &str = "shop";

/// A first start makes a slot, topics and schemas, on a machine that has just built all this.
const RUNS_WITHIN: Duration = Duration::from_secs(60);
/// It drains within 10 s; a little more is a failure, not a wait.
const STOPS_WITHIN: Duration = Duration::from_secs(15);
/// An end so soon after its start is not somebody's kill but a fault.
const TOO_SOON: Duration = Duration::from_millis(300);

pub struct Daemon {
    binary: PathBuf,
    file: PathBuf,
    log: PathBuf,
    rest: String,
    child: Child,
    started: Instant,
    http: reqwest::Client,
}

/// What REST says.
#[derive(Debug, Clone)]
pub struct Status {
    pub state: String,
    pub reason: Option<String>,
    pub hint: Option<String>,
    /// The newest place in the log whose events are in Kafka.
    pub delivered: u64,
    pub records: u64,
    pub lag_seconds: f64,
}

impl Status {
    /// An error when nothing will be delivered until a person has done something.
    pub fn must_deliver(&self) -> Result<()> {
        if matches!(self.state.as_str(), "STARTING" | "RUNNING" | "DEGRADED" | "STALLED") {
            return Ok(());
        }
        let Self { state, reason, hint, .. } = self;
        let [reason, hint] = [reason, hint].map(|text| text.as_deref().unwrap_or("no reason given"));
        Err(Error::new(format!("the connector is {state}: {reason}\n  hint: {hint}")))
    }
}

impl Daemon {
    /// Writes the connector's file into `dir` and starts the daemon with it.
    pub fn start(binary: PathBuf, dir: &Path, services: &Services, shop: &Shop) -> Result<Self> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let file = dir.join(format!("{NAME}.toml"));
        fs::write(&file, text(services, shop, &listen)).context(|| file.display().to_string())?;
        let log = dir.join("millrace.log");
        let child = spawn(&binary, &file, &log)?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build();
        let http = http.context(|| "the REST client".to_owned())?;
        let (rest, started) = (format!("http://{listen}"), Instant::now());
        Ok(Self { binary, file, log, rest, child, started, http })
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn rest(&self) -> &str {
        &self.rest
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Waits until it streams: from then on no change of the shop is missed.
    pub async fn runs(&mut self) -> Result<()> {
        let deadline = Instant::now() + RUNS_WITHIN;
        loop {
            if let Some(ended) = self.ended()? {
                return Err(self.failure(&format!("the daemon ended ({ended})")));
            }
            match self.status().await {
                Some(status) if status.state == "RUNNING" => return Ok(()),
                Some(status) if Instant::now() >= deadline => {
                    let reason = status.reason.unwrap_or_default();
                    return Err(self.failure(&format!("the daemon is {}: {reason}", status.state)));
                }
                None if Instant::now() >= deadline => {
                    return Err(self.failure("the daemon does not answer"));
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Starts it again if somebody has killed it, and says so; an error if it ended by itself.
    pub fn see_to(&mut self) -> Result<Option<String>> {
        let Some(ended) = self.ended()? else { return Ok(None) };
        if ended.code().is_some() || self.started.elapsed() < TOO_SOON {
            return Err(self.failure(&format!("the daemon ended by itself ({ended})")));
        }
        self.child = spawn(&self.binary, &self.file, &self.log)?;
        self.started = Instant::now();
        Ok(Some(format!("the daemon ended ({ended}) and is started again as process {}", self.pid())))
    }

    /// `None` while it does not answer.
    pub async fn status(&self) -> Option<Status> {
        let url = format!("{}/connectors/{NAME}/status", self.rest);
        let answer = self.http.get(url).send().await.ok()?.text().await.ok()?;
        let answer: Json = serde_json::from_str(&answer).ok()?;
        let own = &answer["millrace"];
        Some(Status {
            state: own["state"].as_str()?.to_owned(),
            reason: own["reason"].as_str().map(str::to_owned),
            hint: own["hint"].as_str().map(str::to_owned),
            delivered: own["delivered"].as_u64()?,
            records: own["delivered_records"].as_u64()?,
            lag_seconds: own["lag_seconds"].as_f64()?,
        })
    }

    /// SIGTERM, and its orderly end.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // It may have been killed a moment ago; then its status says so.
            let _ = kill_process(pid, Signal::TERM);
        }
        match tokio::time::timeout(STOPS_WITHIN, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failure(&format!("the daemon ended with {status}"))),
            Ok(Err(e)) => Err(self.failure(&format!("the daemon cannot be waited for: {e}"))),
            Err(_) => Err(self.failure("the daemon did not end")),
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context(|| "the daemon's process".to_owned())
    }

    fn failure(&self, what: &str) -> Error {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.iter().skip(lines.len().saturating_sub(25)).copied().collect::<Vec<_>>().join("\n");
        Error::new(format!("{what}; its last words:\n{last}"))
    }
}

/// setpriv has the kernel kill it when we end, however we end, and then becomes the daemon: one process id.
/// A group of its own: Ctrl-C in the terminal is ours to handle.
fn spawn(binary: &Path, file: &Path, log: &Path) -> Result<Child> {
    let open = File::options().create(true).append(true).open(log);
    let open = open.context(|| log.display().to_string())?;
    let errors = open.try_clone().context(|| log.display().to_string())?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(binary).arg("run").arg(file);
    command.stdin(Stdio::null()).stdout(open).stderr(errors).process_group(0).kill_on_drop(true);
    command.spawn().context(|| format!("{} cannot be started", binary.display()))
}

fn text(services: &Services, shop: &Shop, listen: &str) -> String {
    let tables = TABLES.map(|table| format!("\"public.{table}\"")).join(", ");
    let source = format!("[source.postgres]\nurl = \"{}\"\ntables = [{tables}]", shop.url());
    connector(&source, &services.kafka.bootstrap(), &services.registry.url(), listen)
}

/// The connector's file; `source` is the table of its source, which does not say what becomes of rows that are there.
pub fn connector(source: &str, bootstrap: &str, registry: &str, listen: &str) -> String {
    format!(
        r#"# Written by `cargo xtask demo`; gone when it ends.
name = "{NAME}"

{source}
# The demo counts changes.
snapshot = "no_data"

[format]
encoding = "avro"
registry = "{registry}"

[sink.kafka]
bootstrap = ["{bootstrap}"]

[sink.kafka.topic_defaults]
partitions = 3
replication = 1

[rest]
listen = "{listen}"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str) -> Status {
        let reason = Some("slot shop is gone".to_owned());
        Status { state: state.into(), reason, hint: None, delivered: 0, records: 0, lag_seconds: 0.0 }
    }

    #[test]
    fn a_connector_that_mends_itself_is_waited_for_and_another_one_is_not() {
        for state in ["STARTING", "RUNNING", "DEGRADED", "STALLED"] {
            assert!(status(state).must_deliver().is_ok(), "{state}");
        }
        for state in ["POSITION_LOST", "POSITION_AHEAD", "FENCED", "FAILED", "STOPPED"] {
            let error = status(state).must_deliver().unwrap_err().to_string();
            assert!(error.contains(state) && error.contains("slot shop is gone"), "{error}");
        }
    }
}
