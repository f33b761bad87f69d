//! How long after its commit a consumer has a row, under steady loads. Start at [`run`].

use std::time::{Duration, Instant};

use millrace_ledger::avro::Registry;

use crate::daemon::{Connector, Daemon, From};
use crate::database::Database;
use crate::figures::{grouped, percentile};
use crate::observer::{Observer, Seen};
use crate::report::{self, Goal};
use crate::writers::{Load, Writers};
use crate::{Bench, Result, machine, topics, verify};

/// Of load, before the measured part: the first events make the topic and register the schemas, and a
/// broker that was just started compiles itself for half a minute.
const WARM_UP_SECONDS: u64 = 20;
/// What is on its way when the writers end.
const ALL_SEEN_WITHIN: Duration = Duration::from_secs(30);
const ACTIVE_WITHIN: Duration = Duration::from_secs(30);

const P50_MS: f64 = 5.0;
const P99_MS: f64 = 15.0;

#[derive(Clone, Debug)]
pub struct Options {
    pub seconds: u64,
    /// Commits a second.
    pub rates: Vec<u64>,
}

struct Measured {
    rate: u64,
    reached: f64,
    /// From commit to consumer, in milliseconds, rising.
    latencies_ms: Vec<f64>,
}

pub async fn run(bench: &Bench, options: &Options) -> Result<()> {
    let mut facts = None;
    let mut all = Vec::new();
    for rate in &options.rates {
        let database = Database::new(&bench.servers).await?;
        if facts.is_none() {
            facts = Some(machine::facts(bench, &database).await?);
        }
        let measured = measure(bench, &database, *rate, options.seconds).await?;
        println!(
            "{rate} commits/s: p50 {:.2} ms, p99 {:.2} ms",
            percentile(&measured.latencies_ms, 0.5),
            percentile(&measured.latencies_ms, 0.99)
        );
        all.push(measured);
        database.remove(&bench.servers).await?;
    }
    let body = format!(
        "{}\n{}\n{METHOD}\n{}",
        report::list(&facts.unwrap_or_default()),
        report::goals(&all.iter().flat_map(goals_of).collect::<Vec<_>>()),
        table(&all, options.seconds)
    );
    report::write(&bench.report, "latency", &body)
}

const METHOD: &str = "\
One-row commits at a fixed pace; the daemon with its default settings. Timed from the commit's timestamp \
(`source.ts_us`) to the answer of the fetch that brought the event to an independent `read_committed` \
consumer, which long-polls from its own thread; one clock for both. The first 20 seconds of load are left \
out. Every row is checked to be there once. For scale, on another machine of 2 cores: Debezium 3.6 on \
Kafka Connect, tuned for latency, p50 6 to 8 and p99 15 to 28 ms; with its defaults 400 to 550 and 960 ms.
";

async fn measure(bench: &Bench, database: &Database, rate: u64, seconds: u64) -> Result<Measured> {
    let name = format!("bench-latency-{rate}");
    let topic = format!("{name}.public.bench");
    let connector = Connector::new(&name, &database.url, From::Now, bench)?;
    let mut daemon = connector.start()?;
    until_reading(database, &daemon).await?;
    let observer = Observer::start(&bench.servers, &topic);
    let warm_up = rate * WARM_UP_SECONDS;
    let limit = warm_up + rate * seconds;
    let writers = Writers::start(&database.url, rate, limit);
    let load = tokio::task::spawn_blocking(move || writers.finish(false)).await??;
    until_seen(&observer, &daemon, load.rows).await?;
    let seen = observer.seen_from(0)?;
    drop(observer);
    daemon.terminate().await?;
    verify::exactly_once(&bench.servers, &topic, load.rows).await?;
    let latencies_ms = latencies(bench, &seen, warm_up).await?;
    topics::delete_of(&name, &bench.servers).await?;
    let Load { per_second: reached, .. } = load;
    Ok(Measured { rate, reached, latencies_ms })
}

/// Waits until the daemon reads from its slot: what is written from now on is in its log.
pub async fn until_reading(database: &Database, daemon: &Daemon) -> Result<()> {
    let deadline = Instant::now() + ACTIVE_WITHIN;
    loop {
        if let Some(slot) = database.only_slot().await?
            && database.walsender(&slot).await?.is_some()
        {
            return Ok(());
        }
        daemon.must_run()?;
        if Instant::now() >= deadline {
            return Err(daemon.failure("the daemon reads from no slot"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the consumer has so many records.
pub async fn until_seen(observer: &Observer, daemon: &Daemon, count: u64) -> Result<()> {
    let deadline = Instant::now() + ALL_SEEN_WITHIN;
    while (observer.count() as u64) < count {
        observer.seen_from(usize::MAX)?;
        daemon.must_run()?;
        if Instant::now() >= deadline {
            let got = observer.count();
            return Err(daemon.failure(&format!("the consumer has {got} of {count} records")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn latencies(bench: &Bench, seen: &[Seen], warm_up: u64) -> Result<Vec<f64>> {
    let mut registry = Registry::new(&bench.servers.registry)?;
    let mut latencies = Vec::with_capacity(seen.len());
    for record in seen {
        let id = verify::id_of_key(record.key.as_deref(), &mut registry).await?;
        if u64::try_from(id)? > warm_up {
            let commit_us = verify::commit_us(record.value.as_deref(), &mut registry).await?;
            latencies.push((record.at_us - commit_us) as f64 / 1000.0);
        }
    }
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}

fn goals_of(measured: &Measured) -> [Goal; 2] {
    let goal = |name: &str, share: f64, limit: f64| {
        let value = percentile(&measured.latencies_ms, share);
        Goal {
            what: format!("{} commits a second: {name}", grouped(measured.rate)),
            measured: format!("{value:.2} ms"),
            target: format!("under {limit:.0} ms"),
            met: value < limit,
        }
    };
    [goal("p50", 0.5, P50_MS), goal("p99", 0.99, P99_MS)]
}

fn table(all: &[Measured], seconds: u64) -> String {
    let head = [
        "commits/s asked",
        "commits/s reached",
        "seconds",
        "events",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for measured in all {
        let sorted = &measured.latencies_ms;
        let mut row = vec![
            grouped(measured.rate),
            format!("{:.0}", measured.reached),
            seconds.to_string(),
            grouped(sorted.len() as u64),
        ];
        row.extend([0.5, 0.9, 0.99, 0.999, 1.0].map(|share| format!("{:.2}", percentile(sorted, share))));
        rows.push(row);
    }
    report::table(&rows)
}
