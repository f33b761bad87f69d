//! How long no new event arrives when the daemon is killed, and when it is started. Start at [`run`].

use std::time::{Duration, Instant};

use millrace_ledger::avro::Registry;
use millrace_ledger::random::Random;
use rustix::process::Signal;

use crate::daemon::{Connector, Daemon, From};
use crate::database::Database;
use crate::figures::{greatest, grouped, least, median};
use crate::latency::{until_reading, until_seen};
use crate::observer::{Observer, now_us};
use crate::report::{self, Goal};
use crate::writers::Writers;
use crate::{Bench, Result, machine, topics, verify};

/// A kill falls somewhere in here after the last recovery.
const QUIET_MS: (u64, u64) = (1500, 3500);
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);

const AFTER_KILL_SECONDS: f64 = 2.0;
const COLD_START_SECONDS: f64 = 1.0;

#[derive(Clone, Debug)]
pub struct Options {
    pub kills: u32,
    pub cold_starts: u32,
    /// Commits a second, all along.
    pub rate: u64,
    /// Of the moments of the kills.
    pub seed: u64,
}

/// A connector under load, and its consumer.
struct Scene<'a> {
    connector: Connector,
    daemon: Daemon,
    observer: Observer,
    registry: Registry,
    /// Records of the consumer that were looked at.
    looked_at: usize,
    random: Random,
    bench: &'a Bench,
}

pub async fn run(bench: &Bench, options: &Options) -> Result<()> {
    let database = Database::new(&bench.servers).await?;
    let facts = machine::facts(bench, &database).await?;
    let name = "bench-recovery";
    let topic = format!("{name}.public.bench");
    let connector = Connector::new(name, &database.url, From::Now, bench)?;
    let launched_us = now_us();
    let daemon = connector.start()?;
    until_reading(&database, &daemon).await?;
    let observer = Observer::start(&bench.servers, &topic);
    let registry = Registry::new(&bench.servers.registry)?;
    let random = Random::new(options.seed);
    let mut scene = Scene { connector, daemon, observer, registry, looked_at: 0, random, bench };

    let writers = Writers::start(&database.url, options.rate, u64::MAX);
    let first_ever = scene.first_event_after(launched_us).await?;
    println!("first start of all: {first_ever:.3} s");
    let mut kills = Vec::new();
    for _ in 0..options.kills {
        kills.push(scene.kill().await?);
    }
    let mut colds = Vec::new();
    for _ in 0..options.cold_starts {
        colds.push(scene.cold_start().await?);
    }
    let load = tokio::task::spawn_blocking(move || writers.finish(true)).await??;
    until_seen(&scene.observer, &scene.daemon, load.rows).await?;
    scene.end(&topic, load.rows).await?;
    topics::delete_of(name, &bench.servers).await?;
    database.remove(&bench.servers).await?;

    let body = format!(
        "{}\n{}\n{METHOD}\n{}\nThe first start of all (topics made, slot made, schemas registered) took {first_ever:.2} s \
         to its first event. In the end {} rows were written ({:.0} a second), and each is in Kafka once.\n",
        report::list(&facts),
        report::goals(&goals(&kills, &colds)),
        table(&kills, &colds, options.seed),
        grouped(load.rows),
        load.per_second,
    );
    report::write(&bench.report, "recovery", &body)
}

const METHOD: &str = "\
A steady load of one-row commits. *kill -9*: the daemon is killed at a random moment and started again at \
once; from the kill to the moment when an independent `read_committed` consumer has the first event whose \
commit is later than the kill. *Cold start*: the daemon is stopped in good order and started again; from \
the start of the process to the first event whose commit is later than that. For scale, on another machine \
of 2 cores: Kafka Connect 9 to 11 s after kill -9, 5 s from a cold start.
";

impl Scene<'_> {
    async fn kill(&mut self) -> Result<f64> {
        let (least, most) = QUIET_MS;
        let quiet = least + self.random.below(most - least);
        tokio::time::sleep(Duration::from_millis(quiet)).await;
        self.daemon.must_run()?;
        let killed_us = now_us();
        self.daemon.program.signal(Signal::KILL)?;
        self.daemon = self.connector.start()?;
        let seconds = self.first_event_after(killed_us).await?;
        println!("kill -9 to the first new event: {seconds:.3} s");
        Ok(seconds)
    }

    async fn cold_start(&mut self) -> Result<f64> {
        let (least, _) = QUIET_MS;
        tokio::time::sleep(Duration::from_millis(least)).await;
        self.daemon.terminate().await?;
        let launched_us = now_us();
        self.daemon = self.connector.start()?;
        let seconds = self.first_event_after(launched_us).await?;
        println!("cold start to the first new event: {seconds:.3} s");
        Ok(seconds)
    }

    /// Seconds from `since_us` to the arrival of the first event that was committed later.
    async fn first_event_after(&mut self, since_us: i64) -> Result<f64> {
        let deadline = Instant::now() + RECOVERED_WITHIN;
        loop {
            let seen = self.observer.seen_from(self.looked_at)?;
            self.looked_at += seen.len();
            for record in &seen {
                let commit_us = verify::commit_us(record.value.as_deref(), &mut self.registry).await?;
                if commit_us > since_us {
                    return Ok((record.at_us - since_us) as f64 / 1e6);
                }
            }
            self.daemon.must_run()?;
            if Instant::now() >= deadline {
                return Err(self.daemon.failure("no new event arrives"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(mut self, topic: &str, rows: u64) -> Result<()> {
        self.daemon.terminate().await?;
        verify::exactly_once(&self.bench.servers, topic, rows).await
    }
}

fn goals(kills: &[f64], colds: &[f64]) -> Vec<Goal> {
    let goal = |what: &str, values: &[f64], limit: f64| Goal {
        what: what.to_owned(),
        measured: format!(
            "{:.2} s (median), {:.2} s (max of {})",
            median(values),
            greatest(values),
            values.len()
        ),
        target: format!("under {limit:.0} s"),
        met: greatest(values) < limit,
    };
    vec![
        goal("kill -9 to the first new event visible", kills, AFTER_KILL_SECONDS),
        goal("cold start to the first new event visible", colds, COLD_START_SECONDS),
    ]
}

fn table(kills: &[f64], colds: &[f64], seed: u64) -> String {
    let mut rows = vec![["", "median s", "min s", "max s", "each, in seconds"].map(str::to_owned).to_vec()];
    for (name, values) in [(format!("kill -9 (seed {seed})"), kills), ("cold start".to_owned(), colds)] {
        let each: Vec<String> = values.iter().map(|value| format!("{value:.2}")).collect();
        let mut row = vec![name];
        row.extend([median(values), least(values), greatest(values)].map(|value| format!("{value:.2}")));
        row.push(each.join(", "));
        rows.push(row);
    }
    report::table(&rows)
}
