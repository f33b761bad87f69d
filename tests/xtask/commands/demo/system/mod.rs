//! `cargo xtask demo --system <name>`: one of the systems of `configs/` with its own files. Servers, the system's
//! databases, a small load that writes what its services would write, the daemon, and an independent consumer. In
//! the end every event's id is looked for: each once. Start at [`run`]; what is written is in `services`.

mod file;
mod services;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use millrace_ledger::avro::Registry;
use millrace_ledger::reader::{Isolation, Reader, Record, Start};
use tokio::process::{Child, Command};
use xtask::services::{Config, Home, KafkaConfig, Services, free_port, repository};
use xtask::{Context, Error, Result};

use super::super::binary::{self, Profile};
use super::super::interrupt::{EXIT_INTERRUPTED, Interrupt};
use super::Folder;
pub use services::System;
use services::Writer;

/// Enough to watch, little enough to read.
const LOAD_EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(system: System, events: Option<u64>) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    tokio::select! {
        biased;
        () = interrupt.asked(2) => {
            println!("-- stopped");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        outcome = play(system, events, &interrupt) => outcome,
    }
}

async fn play(system: System, enough: Option<u64>, interrupt: &Interrupt) -> Result<ExitCode> {
    let binary = binary::build(Profile::Release).await?;
    let (home, name) = (Home::temporary()?, system.name());
    println!("-- starting the servers of {name}");
    let folder = Folder(home.dir.clone());
    let kafka = KafkaConfig { brokers: system.brokers(), heap_mb: 384, ..KafkaConfig::default() };
    let config = Config { kafka, ..Config::default() };
    let services = Services::start_new(&config, &home).await?;
    let mut writer = Writer::set_up(system, &services).await?;
    // Before the daemon's: the registry's client chooses how TLS is done.
    let mut follower = Follower::new(system, &services)?;
    let mut daemon = Daemon::start(&binary, system, &services, &folder.0)?;
    daemon.runs().await?;
    println!("kafka      {}", services.kafka.bootstrap());
    println!("registry   {}", services.registry.url());
    println!("daemon     {}, files {}", daemon.rest, daemon.files.display());
    println!("Ctrl-C stops the load, checks, and takes everything down; twice: at once.");
    println!();

    while interrupt.times() == 0 && enough.is_none_or(|enough| follower.count() < enough) {
        let began = Instant::now();
        writer.step().await?;
        while began.elapsed() < LOAD_EVERY {
            follower.print_new().await?;
        }
        daemon.must_run()?;
    }
    let deadline = Instant::now() + PATIENCE;
    while follower.count() < writer.written && Instant::now() < deadline {
        follower.print_new().await?;
    }
    // Whatever came too often comes now.
    for _ in 0..5 {
        follower.print_new().await?;
    }
    let doubles = follower.seen.values().filter(|count| **count > 1).count();
    let (written, seen) = (writer.written, follower.count());
    println!("-- {written} events committed, {seen} arrived, {doubles} of them more than once");
    let is_right = seen == written && doubles == 0;
    println!("-- {}", if is_right { "exactly once" } else { "NOT exactly once" });
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Daemon {
    child: Child,
    log: PathBuf,
    files: PathBuf,
    rest: String,
    http: reqwest::Client,
}

impl Daemon {
    /// The system's own files, with the addresses of these servers.
    fn start(binary: &Path, system: System, services: &Services, dir: &Path) -> Result<Self> {
        let (files, log) = (dir.join("connectors"), dir.join("millrace.log"));
        fs::create_dir_all(&files).context(|| files.display().to_string())?;
        let own = repository().join("configs").join(system.name());
        for entry in fs::read_dir(&own).context(|| own.display().to_string())? {
            let path = entry.context(|| own.display().to_string())?.path();
            let (Some(file), true) = (path.file_name(), path.extension().is_some_and(|end| end == "toml"))
            else {
                continue;
            };
            let text = fs::read_to_string(&path).context(|| path.display().to_string())?;
            let place = files.join(file);
            fs::write(&place, file::for_demo(&text, services)).context(|| place.display().to_string())?;
        }
        let out = File::create(&log).context(|| log.display().to_string())?;
        let errors = out.try_clone().context(|| log.display().to_string())?;
        // The kernel ends it when we end, however we end.
        let rest = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary).arg("run").arg(&files);
        command.args(["--rest", &rest, "--log-format", "text"]).current_dir(repository());
        command.stdin(Stdio::null()).stdout(out).stderr(errors).process_group(0).kill_on_drop(true);
        let child = command.spawn().context(|| binary.display().to_string())?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build();
        let http = http.context(|| "the REST client".to_owned())?;
        Ok(Self { child, log, files, rest: format!("http://{rest}"), http })
    }

    /// Waits until every connector streams.
    async fn runs(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let ready = format!("{}/ready", self.rest);
        while !self.http.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
            self.must_run()?;
            if Instant::now() >= deadline {
                return Err(Error::new(format!("the daemon does not stream:\n{}", self.log())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait().context(|| "the daemon's process".to_owned())? {
            None => Ok(()),
            Some(status) => Err(Error::new(format!("the daemon ended with {status}:\n{}", self.log()))),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// What a consumer sees, by a reader that shares nothing with the daemon.
struct Follower {
    reader: Reader,
    registry: Registry,
    waiting: Vec<&'static str>,
    /// How often each event was seen, by its id.
    seen: BTreeMap<String, u64>,
}

impl Follower {
    fn new(system: System, services: &Services) -> Result<Self> {
        Ok(Self {
            reader: Reader::new(&services.kafka.bootstrap(), Isolation::ReadCommitted, PATIENCE),
            registry: Registry::new(&services.registry.url())
                .context(|| "the registry's client".to_owned())?,
            waiting: system.topics().to_vec(),
            seen: BTreeMap::new(),
        })
    }

    fn count(&self) -> u64 {
        u64::try_from(self.seen.len()).unwrap_or(u64::MAX)
    }

    async fn print_new(&mut self) -> Result<()> {
        let failed = || "Kafka".to_owned();
        let mut later = Vec::new();
        for topic in std::mem::take(&mut self.waiting) {
            // A topic appears with its first event.
            match self.reader.topics(topic).await.context(failed)?.iter().any(|found| &*found.name == topic) {
                true => self.reader.assign(topic, Start::Earliest).await.context(failed)?,
                false => later.push(topic),
            }
        }
        self.waiting = later;
        let read = self.reader.poll(Duration::from_millis(50)).await.context(failed)?;
        for record in &read.records {
            let key = record.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            // A row of a table has no id; each is written once.
            let id = match record.header("id") {
                Some(id) => String::from_utf8_lossy(id).into_owned(),
                None => format!("{} {key}", record.topic),
            };
            *self.seen.entry(id).or_default() += 1;
            println!("{} {key} {}", record.topic, self.value(record).await);
        }
        Ok(())
    }

    async fn value(&mut self, record: &Record) -> String {
        let bytes = record.value.as_deref().unwrap_or_default();
        match bytes.first() {
            Some(0) => match self.registry.decode(bytes).await {
                Ok(decoded) => decoded.json().to_string(),
                Err(error) => format!("{error:?}"),
            },
            _ => String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}
