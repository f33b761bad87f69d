//! The writers: many connections that change the tables and say so in the journal.
//!
//! Each writer owns a range of keys, and a few rows are shared under row locks. What a writer does
//! follows from the seed; how far it comes follows from the clock. [`Writers::start`] is the entry;
//! one transaction is `writer::Writer::transaction`.

mod rows;
mod statements;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use crate::random::Random;
use crate::tables::{Form, TABLES, Table, key_text};
use crate::{Error, Result, journal};
use statements::{Statements, Verb};
use writer::{KEYS_PER_WRITER, Writer};

/// Keys below zero are shared by all writers, and these mark the end of a run.
const FINAL_KEY: i64 = -1_000;
/// Above those of every writer; each large transaction has its own part of what lies there.
const LARGE_KEYS: i64 = 1 << 50;
const LARGE_ROWS_AT_ONCE: usize = 5_000;
/// Of the table with large texts.
const WIDE: usize = 1;
const WIDE_ROWS_AT_ONCE: usize = 500;
/// Few enough that writers meet at them.
const SHARED_KEYS: i64 = 8;

#[derive(Clone, Debug)]
pub struct Workload {
    /// `postgres://user:password@host:port/database`, reached without TLS.
    pub postgres_url: String,
    pub seed: u64,
    pub writers: usize,
    /// The largest transaction.
    pub changes_max: u64,
    /// What all writers together try not to exceed; `None` is as fast as they can.
    pub changes_per_second: Option<u64>,
    /// Whether they write events into the outbox too.
    pub outbox: bool,
}

#[derive(Debug, Default)]
struct Counters {
    committed: AtomicU64,
    rolled_back: AtomicU64,
    savepoints_rolled_back: AtomicU64,
    changes: AtomicU64,
    errors: AtomicU64,
}

/// What the writers did; changes are those of committed transactions.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Totals {
    pub committed: u64,
    pub rolled_back: u64,
    pub savepoints_rolled_back: u64,
    pub changes: u64,
    /// Transactions that ended by an error of the server or of the connection.
    pub errors: u64,
}

/// What the writers are told.
#[derive(Debug, Default)]
struct Orders {
    stop: AtomicBool,
    /// After the transaction under way.
    pause: AtomicBool,
}

pub struct Writers {
    orders: Arc<Orders>,
    counters: Arc<Counters>,
    /// Aborted when the handle is dropped.
    tasks: JoinSet<Result<()>>,
}

/// A connection, and the task that drives it.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Its end shows at the client: every later call fails.
    tokio::spawn(connection);
    Ok(client)
}

/// Drops what an earlier run left and creates the schema `ledger` with empty tables.
pub async fn create_schema(client: &Client) -> Result<()> {
    let tables: String = TABLES.iter().map(crate::tables::Table::create_sql).collect();
    let sql = format!(
        "DROP SCHEMA IF EXISTS ledger CASCADE; CREATE SCHEMA ledger; \
         CREATE SEQUENCE ledger.change; {tables} {}",
        journal::CREATE_SQL
    );
    Ok(client.batch_execute(&sql).await?)
}

impl Writers {
    /// Inserts the shared rows and sets the writers to work, until [`Writers::stop`].
    pub async fn start(workload: &Workload) -> Result<Writers> {
        insert_shared(&workload.postgres_url, workload.seed).await?;
        let orders = Arc::new(Orders::default());
        let counters = Arc::new(Counters::default());
        let mut tasks = JoinSet::new();
        for index in 0..workload.writers {
            let mut writer = Writer::connect(workload, index, counters.clone()).await?;
            let orders = orders.clone();
            tasks.spawn(async move { writer.work(&orders).await });
        }
        Ok(Writers { orders, counters, tasks })
    }

    pub fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            committed: read(&self.counters.committed),
            rolled_back: read(&self.counters.rolled_back),
            savepoints_rolled_back: read(&self.counters.savepoints_rolled_back),
            changes: read(&self.counters.changes),
            errors: read(&self.counters.errors),
        }
    }

    pub fn pause(&self, paused: bool) {
        self.orders.pause.store(paused, Ordering::Relaxed);
    }

    /// Lets each writer end its transaction; an error that stopped one is an error here.
    pub async fn stop(&mut self) -> Result<Totals> {
        self.orders.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(Error::from)??;
        }
        Ok(self.totals())
    }
}

async fn insert_shared(url: &str, seed: u64) -> Result<()> {
    let client = connect(url).await?;
    let statements = Statements::prepare(&client).await?;
    let mut random = Random::fork(seed, u64::MAX);
    let txid = random.uuid();
    client.batch_execute("BEGIN").await?;
    for table in shared_tables() {
        let rows: Vec<_> =
            (1..=SHARED_KEYS).map(|n| rows::row(&TABLES[table], &[json!(-n)], false, &mut random)).collect();
        statements.run(&client, table, Verb::Insert, rows, &txid).await?;
    }
    Ok(client.batch_execute("COMMIT").await?)
}

/// Tables whose key is one number.
fn shared_tables() -> impl Iterator<Item = usize> {
    let ours = |table: &Table| table.keys == 1 && !matches!(table.form, Form::Loose | Form::Outbox);
    TABLES.iter().enumerate().filter(move |(_, table)| ours(table)).map(|(index, _)| index)
}

/// Inserts so many rows in each table for each writer that is to come, who takes them for its own.
pub async fn fill(url: &str, seed: u64, writers: usize, rows: u64) -> Result<()> {
    let client = connect(url).await?;
    let statements = Statements::prepare(&client).await?;
    let mut random = Random::fork(seed, u64::MAX - 3);
    for (index, table) in TABLES.iter().enumerate().filter(|(_, table)| table.form != Form::Outbox) {
        let owners = if table.form == Form::Loose { 1 } else { i64::try_from(writers)? };
        for owner in 0..owners {
            let first = owner * KEYS_PER_WRITER + KEYS_PER_WRITER / 2;
            let row = |n: u64, random: &mut Random| -> Result<_> {
                let key = [json!(first + i64::try_from(n)?), json!(format!("é-{n}"))];
                // A few have large values.
                Ok(rows::row(table, key.split_at(table.keys).0, !n.is_multiple_of(16), random))
            };
            let rows = (0..rows).map(|n| row(n, &mut random)).collect::<Result<Vec<_>>>()?;
            let txid = random.uuid();
            client.batch_execute("BEGIN").await?;
            statements.run(&client, index, Verb::Insert, rows, &txid).await?;
            client.batch_execute("COMMIT").await?;
        }
    }
    Ok(())
}

/// Writes the last row of each table, in one transaction, after the writers have stopped. When a
/// consumer has seen these keys it has seen everything.
pub async fn write_final_rows(url: &str, outbox: bool) -> Result<Vec<(usize, String)>> {
    let client = connect(url).await?;
    let statements = Statements::prepare(&client).await?;
    let mut random = Random::new(0);
    let txid = random.uuid();
    let mut keys = Vec::new();
    client.batch_execute("BEGIN").await?;
    let written = TABLES.iter().enumerate().filter(|(_, table)| outbox || table.form != Form::Outbox);
    for (index, table) in written {
        let key: Vec<_> =
            (0..table.keys).map(|n| if n == 0 { json!(FINAL_KEY) } else { json!("end") }).collect();
        let row = rows::row(table, &key, false, &mut random);
        statements.run(&client, index, Verb::Insert, vec![row], &txid).await?;
        let texts: Vec<String> =
            key.iter().map(|k| k.as_str().map_or(k.to_string(), str::to_owned)).collect();
        keys.push((index, key_text(texts.iter().map(String::as_str))));
    }
    client.batch_execute("COMMIT").await?;
    Ok(keys)
}

/// One transaction of many rows.
#[derive(Clone, Copy, Debug)]
pub struct Large {
    pub rows: u64,
    /// Of a text in each row; 0 is a narrow row.
    pub text_bytes: usize,
}

/// Inserts the rows in one transaction, beside the writers; answers how many bytes they are as text.
pub async fn write_large(url: &str, seed: u64, large: Large) -> Result<u64> {
    let rows = large.rows;
    let (table, rows_at_once) = match large.text_bytes {
        0 => (0, LARGE_ROWS_AT_ONCE),
        _ => (WIDE, WIDE_ROWS_AT_ONCE),
    };
    let client = connect(url).await?;
    let statements = Statements::prepare(&client).await?;
    let mut random = Random::new(seed);
    let txid = random.uuid();
    let first = LARGE_KEYS + i64::try_from(seed % (1 << 30))? * (1 << 24);
    let mut bytes = 0;
    client.batch_execute("BEGIN").await?;
    for chunk in (0..rows).step_by(rows_at_once) {
        let until = rows.min(chunk + u64::try_from(rows_at_once)?);
        let keys = (chunk..until).map(|n| i64::try_from(n).map(|n| json!(first + n)));
        let keys = keys.collect::<std::result::Result<Vec<_>, _>>()?;
        let rows: Vec<_> = keys
            .iter()
            .map(|key| {
                let mut row = rows::row(&TABLES[table], std::slice::from_ref(key), true, &mut random);
                if large.text_bytes > 0 {
                    row["body"] = json!(rows::letters(large.text_bytes, &mut random));
                }
                row
            })
            .collect();
        bytes += rows.iter().map(|row| row.to_string().len()).sum::<usize>();
        statements.run(&client, table, Verb::Insert, rows, &txid).await?;
    }
    client.batch_execute("COMMIT").await?;
    Ok(u64::try_from(bytes)?)
}
