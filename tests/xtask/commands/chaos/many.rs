//! F17: a connector with very many tables, each with a row of its own, and a kill -9 when half of them have come.
//! A run of its own, with one topic for all: what is tested is what the daemon holds for each table.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_ledger::Result;
use millrace_ledger::daemon::Daemon;
use millrace_ledger::position::{self, Positions};
use millrace_ledger::reader::{Isolation, Reader, Start};
use millrace_ledger::run::Config;
use millrace_ledger::writers::connect;
use serde_json::Value as Json;
use tokio_postgres::Client;

use super::large::MEMORY_KB_MAX;

/// Made and written to in one transaction.
const TABLES_AT_ONCE: u32 = 500;
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One trial; what is wrong is an error.
pub async fn trial(config: &Config, tables: u32) -> Result<String> {
    let admin = connect(&config.postgres_url).await?;
    for from in (0..tables).step_by(TABLES_AT_ONCE as usize) {
        let until = tables.min(from + TABLES_AT_ONCE);
        let drop = if from == 0 { "DROP SCHEMA IF EXISTS many CASCADE; CREATE SCHEMA many;" } else { "" };
        let sql = for_each(from, until, "CREATE TABLE many.t%s (id int PRIMARY KEY, note text)");
        admin.batch_execute(&format!("{drop}{sql}")).await?;
    }
    let mut daemon = Daemon::with_file(&config.binary, &config.dir, &config.connector, &file(config))?;
    daemon.start()?;
    let mut positions = Positions::new(&config.bootstrap, config.position_topic(), PATIENCE);
    let began = Instant::now();
    while !daemon.state().await.is_some_and(|state| state.ready) || positions.newest().await?.is_none() {
        daemon.still_runs()?;
        within(began, "the first position")?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let opened = began.elapsed();
    write(&admin, 0, tables / 2).await?;
    let first = arrived(config, &mut daemon, tables / 2).await?;
    let peak = daemon.memory_peak_kb().unwrap_or(0);
    daemon.kill().await?;
    write(&admin, tables / 2, tables).await?;
    daemon.start()?;
    let seen = arrived(config, &mut daemon, tables).await?;
    let peak = peak.max(daemon.memory_peak_kb().unwrap_or(0));
    let orderly = daemon.stop().await?.success();
    let all = reader(config).read_all(&[&config.connector]).await?.records.len();
    if all != tables as usize {
        return Err(format!("{all} records of {tables} tables").into());
    }
    admin.batch_execute(&format!("SELECT pg_drop_replication_slot('{}')", config.slot())).await?;
    if let Some((table, times)) = seen.iter().chain(&first).find(|(_, times)| **times != 1) {
        return Err(format!("the row of table {table} came {times} times").into());
    }
    match (orderly, peak <= MEMORY_KB_MAX) {
        (true, true) => Ok(format!(
            "{tables} tables, at work after {:.1} s, {} MB of memory",
            opened.as_secs_f64(),
            peak / 1024
        )),
        (false, _) => Err("the daemon did not end orderly on SIGTERM".into()),
        (true, false) => Err(format!("the daemon took {peak} kB of memory").into()),
    }
}

/// The same statement for each of these tables, in one transaction.
fn for_each(from: u32, until: u32, statement: &str) -> String {
    format!(
        "DO $$ BEGIN FOR n IN {from}..{until} - 1 LOOP EXECUTE format('{statement}', n); END LOOP; END $$"
    )
}

async fn write(admin: &Client, from: u32, until: u32) -> Result<()> {
    for first in (from..until).step_by(TABLES_AT_ONCE as usize) {
        let last = until.min(first + TABLES_AT_ONCE);
        admin.batch_execute(&for_each(first, last, "INSERT INTO many.t%s VALUES (1, ''a'')")).await?;
    }
    Ok(())
}

fn reader(config: &Config) -> Reader {
    Reader::new(&config.bootstrap, Isolation::ReadCommitted, PATIENCE)
}

/// Waits for so many records; how often each table's row is there.
async fn arrived(config: &Config, daemon: &mut Daemon, count: u32) -> Result<BTreeMap<String, u32>> {
    let began = Instant::now();
    let mut reader = reader(config);
    reader.assign(&config.connector, Start::Earliest).await?;
    let mut seen = BTreeMap::new();
    let mut records = 0;
    while records < count {
        daemon.still_runs()?;
        within(began, "the tables' rows")?;
        for record in reader.poll(LOOK_EVERY).await?.records {
            let value: Json = serde_json::from_slice(record.value.as_deref().unwrap_or_default())?;
            let table = value["source"]["table"].as_str().ok_or("a record names no table")?;
            *seen.entry(table.to_owned()).or_default() += 1;
            records += 1;
        }
    }
    Ok(seen)
}

fn within(began: Instant, what: &str) -> Result<()> {
    match began.elapsed() < PATIENCE {
        true => Ok(()),
        false => Err(format!("{what} did not come within {PATIENCE:?}").into()),
    }
}

fn file(config: &Config) -> String {
    format!(
        r#"name = "{name}"

[source.postgres]
url = "{url}"
slot = "{slot}"
sslmode = "disable"
tables = ["many.*"]
snapshot = "no_data"

[format]
encoding = "json"

[[route]]
relations = ["many.*"]
topic = "{name}"

[sink.kafka]
bootstrap = ["{bootstrap}"]
position_topic = "{position_topic}"

[sink.kafka.topic_defaults]
partitions = 4
replication = 1

[rest]
listen = "127.0.0.1:0"
"#,
        name = config.connector,
        url = config.links.postgres_url,
        slot = config.slot(),
        bootstrap = config.links.bootstrap,
        position_topic = position::topic(&config.connector),
    )
}
