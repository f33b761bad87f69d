//! The daemon as a program of its own: its file, its start, its end, and what its REST interface says.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::process::{Program, command};
use crate::workload::Load;
use crate::{Bench, Result, outbox};

/// A daemon says where it listens before it opens anything.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// A connector's file and the directory of its logs.
pub struct Connector {
    pub name: String,
    millrace: PathBuf,
    dir: tempfile::TempDir,
    starts: std::cell::Cell<u32>,
}

/// A running daemon.
pub struct Daemon {
    pub program: Program,
    name: String,
    log: PathBuf,
    rest: Option<String>,
    http: reqwest::Client,
}

/// Where a connector begins to read.
pub enum From<'a> {
    /// A slot of its own, made at the first start: the shortest useful file.
    Now,
    /// A slot that was made before the rows of this load were written.
    Slot(&'a str, Load),
    /// The rows that these tables have.
    Rows(&'a [String]),
}

impl Connector {
    pub fn new(name: &str, database_url: &str, from: From<'_>, bench: &Bench) -> Result<Connector> {
        let load = if let From::Slot(_, load) = from { load } else { Load::Table };
        let written = [format!("public.{}", load.table())];
        let (tables, snapshot) = match from {
            From::Now | From::Slot(..) => (&written[..], "no_data"),
            From::Rows(tables) => (tables, "initial"),
        };
        let mut source = format!(
            "[source.postgres]\nurl = {database_url:?}\ntables = {tables:?}\nsnapshot = {snapshot:?}\n"
        );
        if let From::Slot(slot, _) = from {
            write!(
                source,
                "slot = {slot:?}\nslot_made_beforehand = true\ncreate_slot = false\n\
                 publication = \"bench\"\ncreate_publication = false\n"
            )?;
        }
        if load == Load::Outbox {
            source += &outbox::route(name);
        }
        Self::of_source(name, &source, bench)
    }

    /// A connector with these tables of its file.
    pub fn of_source(name: &str, source: &str, bench: &Bench) -> Result<Connector> {
        let dir = tempfile::Builder::new().prefix("connector-").tempdir_in(&bench.scratch)?;
        let brokers: Vec<&str> = bench.servers.bootstrap.split(',').collect();
        let file = format!(
            "name = {name:?}\n\n{source}\n\
             [format]\nencoding = \"avro\"\nregistry = {:?}\n\n\
             [sink.kafka]\nbootstrap = {brokers:?}\n\n\
             [rest]\nlisten = \"127.0.0.1:0\"\n",
            bench.servers.registry
        );
        fs::write(dir.path().join("connector.toml"), file)?;
        let starts = std::cell::Cell::new(0);
        Ok(Connector { name: name.to_owned(), millrace: bench.servers.millrace.clone(), dir, starts })
    }

    /// Moves its position, as an operator would.
    pub fn set_position(&self, to: &str) -> Result<()> {
        let file = self.dir.path().join("connector.toml");
        let mut command = std::process::Command::new(&self.millrace);
        let ended = command.arg("position").arg(file).args(["set", "--to", to, "--yes"]).output()?;
        if ended.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        Err(format!("millrace position: {said}{}", String::from_utf8_lossy(&ended.stdout)).into())
    }

    /// Starts the daemon; returns as soon as the process is there.
    pub fn start(&self) -> Result<Daemon> {
        self.starts.set(self.starts.get() + 1);
        let log = self.dir.path().join(format!("{}.log", self.starts.get()));
        let out = File::create(&log)?;
        let mut command = command(&self.millrace);
        command.args(["run", "--exit-on-failure"]).arg(self.dir.path().join("connector.toml"));
        command.stdin(std::process::Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let program = Program::start(&mut command)?;
        // The client is built with TLS in it, and without a provider it does not start.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        Ok(Daemon { program, name: self.name.clone(), log, rest: None, http })
    }
}

impl Daemon {
    /// A failure, with the end of the daemon's log.
    pub fn failure(&self, what: &str) -> crate::Error {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(25)..].join("\n");
        format!("{what}; the daemon's last words:\n{last}").into()
    }

    /// An error when it has ended by itself.
    pub fn must_run(&self) -> Result<()> {
        match self.program.ended()? {
            true => Err(self.failure("the daemon has ended")),
            false => Ok(()),
        }
    }

    /// Whether it has said that it reads the source's log.
    pub fn streams(&self) -> Result<bool> {
        Ok(fs::read_to_string(&self.log)?.contains("streaming"))
    }

    /// The newest place in the source's log that is durable in Kafka; 0 while it is not known.
    pub async fn delivered(&mut self) -> Result<u64> {
        let place = self.metric("delivered_position").await?;
        place.ok_or_else(|| self.failure("/metrics shows no delivered position"))
    }

    /// A figure of the connector; `None` while it is not shown.
    pub async fn metric(&mut self, name: &str) -> Result<Option<u64>> {
        let label = format!("millrace_{name}{{connector=\"{}\"}} ", self.name);
        let page = self.get("/metrics").await?;
        let value = page.lines().find_map(|line| line.strip_prefix(&label));
        Ok(value.map(|value| value.trim().parse()).transpose()?)
    }

    async fn get(&mut self, path: &str) -> Result<String> {
        let base = match &self.rest {
            Some(base) => base.clone(),
            None => self.find_rest().await?,
        };
        let answer = self.http.get(format!("{base}{path}")).send().await;
        match answer.and_then(reqwest::Response::error_for_status) {
            Ok(answer) => Ok(answer.text().await?),
            Err(error) => Err(self.failure(&format!("{path}: {error}"))),
        }
    }

    async fn find_rest(&mut self) -> Result<String> {
        let deadline = Instant::now() + LISTENS_WITHIN;
        loop {
            let text = fs::read_to_string(&self.log)?;
            if let Some((_, rest)) = text.split_once("listening on http://") {
                let address: String =
                    rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
                let base = format!("http://{address}");
                self.rest = Some(base.clone());
                return Ok(base);
            }
            self.must_run()?;
            if Instant::now() >= deadline {
                return Err(self.failure("the daemon does not say where it listens"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGTERM, and its end; an error unless it drains and exits by itself.
    pub async fn terminate(&mut self) -> Result<()> {
        self.must_run()?;
        self.program.signal(Signal::TERM)?;
        let deadline = Instant::now() + STOPS_WITHIN;
        while !self.program.ended()? {
            if Instant::now() >= deadline {
                return Err(self.failure("the daemon does not stop"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        match self.program.wait()? {
            status if status.success() => Ok(()),
            status => Err(self.failure(&format!("the daemon ended with {status}"))),
        }
    }
}
