//! One writer: its connection, the keys it owns, and its next transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio_postgres::Client;

use super::statements::{Statements, Verb};
use super::{Counters, Orders, SHARED_KEYS, Workload, connect, rows, shared_tables};
use crate::random::Random;
use crate::tables::{Form, TABLES, Table};
use crate::{Error, Result};

/// Far more than a writer ever inserts.
pub(super) const KEYS_PER_WRITER: i64 = 1_000_000_000;
/// Above so many rows a writer would rather delete.
const LIVE_MAX: usize = 4_000;
/// The loose table in [`TABLES`].
const LOOSE: usize = 5;
const OUTBOX: usize = 6;
/// Of each writer: few, so that each has many events.
const AGGREGATES: i64 = 12;
/// Columns that were added to it and not dropped again, at most.
const EXTRA_MAX: usize = 4;
const EXTRA_SQL: &str = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'ledger.scratch'::regclass \
     AND attnum > 4 AND NOT attisdropped";
const RECONNECT_PATIENCE: Duration = Duration::from_secs(120);
/// How long a writer that is ahead of its share sleeps before it looks again.
const PACE: Duration = Duration::from_millis(20);
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

type Key = Arc<[Json]>;

/// The keys of one table that a writer owns.
#[derive(Clone, Default)]
struct Keys {
    live: Vec<Key>,
    /// Deleted ones, which may come back.
    gone: Vec<Key>,
}

pub struct Writer {
    workload: Workload,
    index: i64,
    client: Client,
    statements: Statements,
    random: Random,
    keys: Vec<Keys>,
    /// Rises only: a key of a rolled-back insert is not used again.
    next_key: i64,
    counters: Arc<Counters>,
}

/// What is going on inside a transaction.
struct Open {
    txid: String,
    changes: u64,
    /// Shared rows are locked once a transaction, in order, so writers cannot wait in a circle.
    shared: bool,
}

impl Writer {
    pub async fn connect(workload: &Workload, index: usize, counters: Arc<Counters>) -> Result<Writer> {
        let client = connect(&workload.postgres_url).await?;
        let statements = Statements::prepare(&client).await?;
        let random = Random::fork(workload.seed, u64::try_from(index)? + 1);
        let index = i64::try_from(index)?;
        let mut writer = Writer {
            workload: workload.clone(),
            index,
            client,
            statements,
            random,
            keys: vec![Keys::default(); TABLES.len()],
            next_key: index * KEYS_PER_WRITER,
            counters,
        };
        // There may be rows for it.
        writer.reload().await?;
        Ok(writer)
    }

    pub async fn work(&mut self, orders: &Orders) -> Result<()> {
        let stopped = || orders.stop.load(Ordering::Relaxed);
        while !stopped() {
            if orders.pause.load(Ordering::Relaxed) {
                tokio::time::sleep(PACE).await;
                continue;
            }
            let began = Instant::now();
            let changes = match self.transaction().await {
                Ok(changes) => changes,
                Err(error) => {
                    self.counters.errors.fetch_add(1, Ordering::Relaxed);
                    self.recover(error).await?;
                    0
                }
            };
            if let Some(rate) = self.workload.changes_per_second {
                let writers = u32::try_from(self.workload.writers)?;
                let share = Duration::from_secs(1) * writers / u32::try_from(rate)?.max(1);
                let due = began + share * u32::try_from(changes)?;
                while Instant::now() < due && !stopped() {
                    tokio::time::sleep(PACE).await;
                }
            }
        }
        Ok(())
    }

    /// One transaction; the number of its changes.
    async fn transaction(&mut self) -> Result<u64> {
        let before = self.keys.clone();
        let mut open = Open { txid: self.random.uuid(), changes: 0, shared: self.random.percent(80) };
        let wanted = self.changes_wanted();
        self.client.batch_execute("BEGIN").await?;
        while open.changes < wanted {
            self.step(&mut open, wanted).await?;
        }
        if self.random.percent(12) {
            self.client.batch_execute("ROLLBACK").await?;
            self.keys = before;
            self.counters.rolled_back.fetch_add(1, Ordering::Relaxed);
        } else {
            self.client.batch_execute("COMMIT").await?;
            self.counters.committed.fetch_add(1, Ordering::Relaxed);
            self.counters.changes.fetch_add(open.changes, Ordering::Relaxed);
        }
        Ok(open.changes)
    }

    /// Skewed to small, with a long tail.
    fn changes_wanted(&mut self) -> u64 {
        let (from, to) = match self.random.below(100) {
            0..60 => (1, 4),
            60..85 => (5, 40),
            85..96 => (41, 400),
            96..99 => (401, 2_000),
            _ => (2_001, 10_000),
        };
        (from + self.random.below(to - from + 1)).min(self.workload.changes_max)
    }

    async fn step(&mut self, open: &mut Open, wanted: u64) -> Result<()> {
        if !self.random.percent(15) {
            return self.change(open, wanted).await;
        }
        let (before, changes) = (self.keys.clone(), open.changes);
        self.client.batch_execute("SAVEPOINT step").await?;
        self.change(open, wanted).await?;
        if self.random.percent(50) {
            self.client.batch_execute("ROLLBACK TO step").await?;
            self.keys = before;
            open.changes = changes;
            self.counters.savepoints_rolled_back.fetch_add(1, Ordering::Relaxed);
            Ok(())
        } else {
            Ok(self.client.batch_execute("RELEASE step").await?)
        }
    }

    async fn change(&mut self, open: &mut Open, wanted: u64) -> Result<()> {
        if !open.shared {
            open.shared = true;
            return self.change_shared(open).await;
        }
        let table = self.table();
        if TABLES[table].form == Form::Loose && self.random.percent(20) {
            return self.reshape(open).await;
        }
        let room = usize::try_from(wanted - open.changes)?;
        let live = self.keys[table].live.len();
        let verb = match self.random.below(100) {
            _ if TABLES[table].form == Form::Outbox => Verb::Insert,
            0..40 if live < LIVE_MAX => Verb::Insert,
            _ if live == 0 => Verb::Insert,
            0..60 => Verb::Update,
            60..75 => Verb::Touch,
            75..90 => Verb::Delete,
            _ if TABLES[table].form == Form::Keyless => Verb::Update,
            _ => Verb::Rekey,
        };
        let count = match verb {
            Verb::Insert => 1 + self.random.below_usize(room),
            _ => 1 + self.random.below_usize(room.min(live)),
        };
        let rows = self.rows(table, verb, count);
        open.changes += self.statements.run(&self.client, table, verb, rows, &open.txid).await?;
        Ok(())
    }

    fn table(&mut self) -> usize {
        match self.random.below(100) {
            0..50 => 0,
            50..65 => 1,
            65..78 => 2,
            78..86 => 3,
            86..93 if self.workload.outbox => OUTBOX,
            // Nobody else's picture of it would be right.
            _ if self.index == 0 && self.random.percent(60) => LOOSE,
            _ => 4,
        }
    }

    /// Truncates the loose table, or gives it another shape, both inside the transaction under way.
    async fn reshape(&mut self, open: &mut Open) -> Result<()> {
        if self.random.percent(30) {
            self.statements.truncate(&self.client, LOOSE, &open.txid).await?;
            self.keys[LOOSE] = Keys::default();
            open.changes += 1;
            return Ok(());
        }
        let extra = self.client.query(EXTRA_SQL, &[]).await?;
        let extra: Vec<String> =
            extra.iter().map(|row| row.try_get(0)).collect::<std::result::Result<_, _>>()?;
        let fresh = format!("x{}", self.random.below(1 << 40));
        let change = match (extra.as_slice(), self.random.below(3)) {
            ([], _) | (_, 0) if extra.len() < EXTRA_MAX => format!("ADD {fresh} text DEFAULT 'of {fresh}'"),
            (_, 1) => format!("RENAME {} TO {fresh}", self.random.pick(&extra)),
            _ => format!("DROP {}", self.random.pick(&extra)),
        };
        let name = TABLES[LOOSE].name;
        Ok(self.client.batch_execute(&format!("ALTER TABLE ledger.{name} {change}")).await?)
    }

    /// The rows for a verb; the writer's picture of its keys follows at once.
    fn rows(&mut self, table: usize, verb: Verb, count: usize) -> Vec<Json> {
        let shape = &TABLES[table];
        let crowded = count > 100;
        let live = self.keys[table].live.len();
        let from = self.random.below_usize(live.saturating_sub(count) + 1);
        let mut rows = Vec::with_capacity(count);
        match verb {
            Verb::Insert => {
                for _ in 0..count {
                    // An event is not changed again.
                    let is_event = shape.form == Form::Outbox;
                    let key = if is_event { self.aggregate() } else { self.key_to_insert(table) };
                    rows.push(rows::row(shape, &key, crowded, &mut self.random));
                    if !is_event {
                        self.keys[table].live.push(key);
                    }
                }
            }
            Verb::Update | Verb::Touch => {
                for key in self.keys[table].live.iter().skip(from).take(count) {
                    rows.push(rows::row(shape, key, crowded, &mut self.random));
                }
            }
            Verb::Delete => {
                let keys: Vec<Key> = self.keys[table].live.drain(from..from + count).collect();
                rows.extend(keys.iter().map(|key| key_object(shape, key, "")));
                self.keys[table].gone.extend(keys.into_iter().take(50));
            }
            Verb::Rekey => {
                for index in from..from + count {
                    let new = self.fresh_key(shape);
                    let old = std::mem::replace(&mut self.keys[table].live[index], new.clone());
                    let mut row = key_object(shape, &old, "");
                    if let (Json::Object(row), Json::Object(new)) =
                        (&mut row, key_object(shape, &new, "new_"))
                    {
                        row.extend(new);
                    }
                    rows.push(row);
                }
            }
        }
        rows
    }

    fn key_to_insert(&mut self, table: usize) -> Key {
        let again = if self.random.percent(20) { self.keys[table].gone.pop() } else { None };
        again.unwrap_or_else(|| self.fresh_key(&TABLES[table]))
    }

    /// One of its own, whose events nobody else writes: they come in the order of their numbers.
    fn aggregate(&mut self) -> Key {
        let nth = i64::try_from(self.random.below(AGGREGATES.unsigned_abs())).unwrap_or(0);
        [json!(self.index * KEYS_PER_WRITER + nth)].into()
    }

    fn fresh_key(&mut self, table: &Table) -> Key {
        self.next_key += 1;
        let number = json!(self.next_key);
        match table.keys {
            1 => [number].into(),
            _ => [number, json!(format!("{}-é😀'\"", rows::letters(6, &mut self.random)))].into(),
        }
    }

    /// Locks some of the rows that all writers share, in order, and updates them.
    async fn change_shared(&mut self, open: &mut Open) -> Result<()> {
        let tables: Vec<usize> = shared_tables().collect();
        let table = *self.random.pick(&tables);
        let shape = &TABLES[table];
        let first = -SHARED_KEYS + i64::try_from(self.random.below(6))?;
        let keys: Vec<i64> = (first..first + 3).collect();
        let key = shape.columns[0].name;
        let lock = format!(
            "SELECT {key} FROM ledger.{} WHERE {key} = ANY($1) ORDER BY {key} FOR UPDATE",
            shape.name
        );
        self.client.query(&lock, &[&keys]).await?;
        let verb = if self.random.percent(50) { Verb::Update } else { Verb::Touch };
        let rows = keys.iter().map(|key| rows::row(shape, &[json!(key)], false, &mut self.random)).collect();
        open.changes += self.statements.run(&self.client, table, verb, rows, &open.txid).await?;
        Ok(())
    }

    /// After an error nobody knows what was committed: the database says which keys there are. It may go away again
    /// meanwhile.
    async fn recover(&mut self, error: Error) -> Result<()> {
        let deadline = Instant::now() + RECONNECT_PATIENCE;
        while self.come_back().await.is_err() {
            if Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        Ok(())
    }

    async fn come_back(&mut self) -> Result<()> {
        if self.client.is_closed() || self.client.batch_execute("ROLLBACK").await.is_err() {
            let client = connect(&self.workload.postgres_url).await?;
            self.statements = Statements::prepare(&client).await?;
            self.client = client;
        }
        self.reload().await
    }

    async fn reload(&mut self) -> Result<()> {
        let (from, to) = (self.index * KEYS_PER_WRITER, (self.index + 1) * KEYS_PER_WRITER);
        let changed = TABLES.iter().enumerate().filter(|(_, table)| table.form != Form::Outbox);
        for (index, table) in changed {
            let columns: Vec<_> = table.key_columns().iter().map(|column| column.name).collect();
            let first = columns[0];
            let sql = format!(
                "SELECT json_build_array({})::text FROM ledger.{} WHERE {first} > $1 AND {first} <= $2",
                columns.join(", "),
                table.name
            );
            let mut live = Vec::new();
            for row in self.client.query(&sql, &[&from, &to]).await? {
                let key: Vec<Json> = serde_json::from_str(row.try_get(0)?)?;
                live.push(key.into());
            }
            self.keys[index] = Keys { live, gone: Vec::new() };
        }
        Ok(())
    }
}

fn key_object(table: &Table, key: &[Json], prefix: &str) -> Json {
    let columns = table.key_columns().iter().zip(key);
    Json::Object(columns.map(|(c, value)| (format!("{prefix}{}", c.name), value.clone())).collect())
}
