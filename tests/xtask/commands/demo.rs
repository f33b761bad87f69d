//! `cargo xtask demo`: from a bare machine to events. Servers, a shop under a small load, the daemon, and an
//! independent consumer, all on this machine; in the end what came out is compared with what was committed.
//! Start at [`run`]; [`check`] is what decides, `shop.sql` what is captured.

mod check;
mod daemon;
mod follow;
mod mongodb;
mod shop;
mod system;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use xtask::services::{Config, Home, Services};
use xtask::{Error, Result};

use super::binary::{self, Profile};
use super::interrupt::{EXIT_INTERRUPTED, Interrupt};
use daemon::{Daemon, Status};
use follow::Follower;
use shop::{Load, Shop};

const STATUS_EVERY: Duration = Duration::from_secs(2);
/// Behind on everything that was written while you had stopped a server.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub struct Arguments {
    /// Ends by itself after so many events.
    #[arg(long, value_name = "N")]
    events: Option<u64>,
    /// Documents of MongoDB instead of rows of Postgres.
    #[arg(long)]
    mongodb: bool,
    /// One of the systems of `configs/`, with its own files.
    #[arg(long, value_enum, conflicts_with = "mongodb")]
    system: Option<system::System>,
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    if let Some(system) = arguments.system {
        return system::run(system, arguments.events).await;
    }
    if arguments.mongodb {
        return mongodb::run(arguments.events).await;
    }
    let interrupt = Interrupt::listen()?;
    let asked = || {
        println!("-- stopped");
        Ok(ExitCode::from(EXIT_INTERRUPTED))
    };
    let mut scene = tokio::select! {
        biased;
        () = interrupt.asked(1) => return asked(),
        scene = Scene::set() => scene?,
    };
    scene.welcome();
    tokio::select! {
        biased;
        // Whoever asks twice does not want to wait for the check.
        () = interrupt.asked(2) => asked(),
        outcome = scene.play(arguments.events, &interrupt) => outcome,
    }
}

/// Everything that runs. Dropped in this order: the daemon, its servers, what is left of their files.
struct Scene {
    daemon: Daemon,
    follower: Follower,
    shop: Shop,
    services: Services,
    _folder: Folder,
    /// Of the last status line: when, and how many records had been delivered.
    shown: (Instant, u64),
}

/// Is deleted with all that is in it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // The servers delete what is theirs and may have been the last in it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Scene {
    async fn set() -> Result<Self> {
        let binary = binary::build(Profile::Release).await?;
        println!("-- starting Kafka, the schema registry and Postgres");
        let home = Home::temporary()?;
        let folder = Folder(home.dir.clone());
        let services = Services::start_new(&Config::default(), &home).await?;
        let shop = Shop::build(&services.postgres).await?;
        let follower = Follower::new(&services.kafka.bootstrap(), &services.registry.url(), daemon::NAME)?;
        let mut daemon = Daemon::start(binary, &home.dir, &services, &shop)?;
        daemon.runs().await?;
        Ok(Self { daemon, follower, shop, services, _folder: folder, shown: (Instant::now(), 0) })
    }

    fn welcome(&self) {
        let (daemon, rest, file) = (&self.daemon, self.daemon.rest(), self.daemon.file().display());
        println!();
        println!("postgres   {}", self.shop.url());
        println!("kafka      {}", self.services.kafka.bootstrap());
        println!("registry   {}", self.services.registry.url());
        println!("connector  {file}");
        println!("daemon     process {}, {rest}, log {}", daemon.pid(), daemon.log().display());
        println!();
        println!("Things to try in another terminal:");
        println!("  curl -s {rest}/connectors/{}/status", daemon::NAME);
        println!("  curl -s {rest}/ready");
        println!("  curl -s {rest}/metrics");
        println!("  {} position {file} show", daemon.binary().display());
        println!("  psql {} -c \"UPDATE customers SET name = upper(name)\"", self.shop.url());
        println!("  kill -9 {}   it is started again, and the check in the end still holds", daemon.pid());
        println!("Ctrl-C stops the load, checks, and takes everything down; twice: at once.");
        println!();
        println!("topic, key, op (c u d, - for a tombstone), fields, position");
    }

    /// Until enough was seen or somebody wants it to end; then the check.
    async fn play(&mut self, events: Option<u64>, interrupt: &Interrupt) -> Result<ExitCode> {
        let mut load = Load::start(self.shop.url()).await?;
        while interrupt.times() == 0 && events.is_none_or(|enough| self.follower.changes() < enough) {
            load.must_run()?;
            let status = self.step().await?;
            // Who only looks on may want to see how it stands, and mend it.
            if let Some(status) = status.filter(|_| events.is_some()) {
                status.must_deliver()?;
            }
        }
        let totals = load.stop().await?;
        println!(
            "-- the load has stopped: {} transactions committed, {} rolled back",
            totals.committed, totals.rolled_back
        );
        let (journal, end) = self.shop.journal().await?;
        self.drain(end).await?;
        self.daemon.stop().await?;
        self.follower.print_rest().await?;
        let findings = check::compare(&journal, self.follower.before(end));
        println!(
            "-- {} changes committed, {} events seen: {findings}",
            journal.len(),
            self.follower.changes()
        );
        for example in &findings.examples {
            println!("   {example}");
        }
        println!("-- {}", if findings.passed() { "exactly once" } else { "NOT exactly once" });
        Ok(if findings.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Waits until everything before that place in the log is in Kafka.
    async fn drain(&mut self, end: u64) -> Result<()> {
        let deadline = Instant::now() + DRAINED_WITHIN;
        loop {
            self.step().await?;
            if let Some(status) = self.daemon.status().await {
                if status.delivered >= end {
                    return Ok(());
                }
                status.must_deliver()?;
            }
            if Instant::now() >= deadline {
                let limit = DRAINED_WITHIN.as_secs();
                return Err(Error::new(format!("the daemon has not delivered everything after {limit} s")));
            }
        }
    }

    /// Shows what is new, of the events and now and then of the daemon.
    async fn step(&mut self) -> Result<Option<Status>> {
        self.follower.print_new().await?;
        if let Some(news) = self.daemon.see_to()? {
            println!("-- {news}");
        }
        let (when, before) = self.shown;
        if when.elapsed() < STATUS_EVERY {
            return Ok(None);
        }
        let status = self.daemon.status().await;
        let records = status.as_ref().map_or(0, |status| status.records);
        // A daemon that was started again counts from 0.
        let more = records.checked_sub(before).unwrap_or(records);
        let rate = more as f64 / when.elapsed().as_secs_f64();
        self.shown = (Instant::now(), records);
        match &status {
            None => println!("-- the daemon does not answer"),
            Some(status) => println!("-- {}", line(status, rate)),
        }
        Ok(status)
    }
}

fn line(status: &Status, records_per_second: f64) -> String {
    let Status { state, reason, records, lag_seconds, .. } = status;
    let reason = reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    format!(
        "{state}{reason}, {records} delivered, {lag_seconds:.1} s behind, {records_per_second:.0} a second"
    )
}
