//! Reads chunks, one after the other, on a connection of its own: start at `Worker::table`.
//!
//! Every chunk has a transaction of its own and a snapshot that the stream's thread knows of before the first
//! row is read; nothing of it outlives a crash.

use std::sync::Arc;

use futures_util::StreamExt;
use millrace_core::batch::ChangeBatch;
use millrace_core::error::{Error, Kind, Result};
use millrace_core::progress::now_us;
use millrace_core::relation::Relation;
use millrace_core::requests::Asked;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::catalog::{self, TableInfo};
use crate::control::{self, Control};
use crate::errors;
use crate::pgoutput::RelationMessage;
use crate::relation;
use crate::snapshot::blocking::Standing;
use crate::snapshot::chunk::{Of, Opened, Outcome, Read, Turn, row};
use crate::snapshot::copy;
use crate::snapshot::desk::Order;
use crate::snapshot::key::{self, Key};
use crate::snapshot::reader::{End, Job, Shared};
use crate::snapshot::select::{self, Filter, Published, Rows};
use crate::snapshot::statements::Statements;
use crate::snapshot::table::{Part, Unread};
use crate::snapshot::visibility::Visibility;
use crate::tables::TableName;
use crate::types::Types;

/// Chunks of one worker under way: one is read while the one before waits for the stream.
pub(super) const UNDER_WAY_MAX: usize = 2;

/// More outcomes than one worker has chunks under way.
const OUTCOMES: usize = 16;

/// Rows of a table's first chunk, before it is known how large they are.
const ROWS_FIRST: u64 = 500;

/// Where a chunk is cut, whatever its rows: several batches' worth, twice that in memory.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Chunks of a table below which nobody else is asked to help.
const CHUNKS_WORTH_A_PART: u64 = 2;

/// So often rows are read again beside the stream. Those that are changed all the time need it to stand still.
const ROUNDS_BESIDE: u32 = 3;

/// What a worker's session is set to: rows hidden by a policy are an error and no gap, an index gives the
/// order, and its messages wait for nobody. `transaction_timeout` is there from Postgres 17 on.
const SESSION: &str = "SET row_security = off; SET bytea_output = hex; SET lc_monetary = 'C'; SET synchronous_commit = local; \
    SET statement_timeout = 0; SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; \
    SET lock_timeout = '1s'; SET idle_in_transaction_session_timeout = 0; \
    SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('transaction_timeout', true) IS NOT NULL";

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    control: Control,
    pub(super) statements: Statements,
    types: Types,
    buffers: Vec<ChangeBatch>,
    outcomes: mpsc::Receiver<Outcome>,
    /// For whoever places its chunks.
    outcomes_in: mpsc::Sender<Outcome>,
    /// What it reads under, while the stream stands still for a blocking snapshot.
    pub(super) standing: Option<Arc<Standing>>,
}

type Outcomes = (mpsc::Sender<Outcome>, mpsc::Receiver<Outcome>);

/// Where the reading of a part of a table is.
pub(super) struct Range {
    pub(super) table: usize,
    pub(super) name: TableName,
    /// The columns that give the order.
    pub(super) key: Vec<String>,
    pub(super) number: usize,
    pub(super) part: Part,
    pub(super) rows_max: u64,
}

/// A chunk with its snapshot.
pub(super) struct Taken {
    pub(super) id: u64,
    pub(super) seen: Visibility,
    pub(super) table: Described,
    /// The stream stands still until this is dropped and it is told to go on.
    pub(super) held: Option<OwnedMutexGuard<()>>,
}

/// A table as it is now, or as of a snapshot.
pub(super) struct Described {
    pub(super) info: TableInfo,
    pub(super) published: Published,
    pub(super) message: RelationMessage,
}

impl Worker {
    pub async fn connect(shared: Arc<Shared>) -> Result<Self> {
        let control = control::connect(&shared.settings).await?;
        Self::new(shared, control).await
    }

    pub async fn new(shared: Arc<Shared>, control: Control) -> Result<Self> {
        let prepared = control.client.batch_execute(SESSION).await;
        prepared.map_err(|error| errors::query("cannot prepare a snapshot", error))?;
        let (outcomes_in, outcomes) = mpsc::channel(OUTCOMES);
        let statements = Statements::prepare(&control.client).await?;
        let (types, buffers, standing) = (Types::default(), Vec::new(), None);
        Ok(Self { shared, control, statements, types, buffers, outcomes, outcomes_in, standing })
    }

    pub fn client(&self) -> &Client {
        &self.control.client
    }

    /// Reads one table, with the help of others where it is large.
    pub async fn table(&mut self, index: usize) -> Result<()> {
        let shared = self.shared.clone();
        let Some(unread) = shared.unread(index) else { return Ok(()) };
        shared.begun(index);
        if let Some(order_by) = &unread.order_by {
            return self.outbox(index, unread, order_by).await;
        }
        if unread.is_keyless {
            return self.keyless(index, unread).await;
        }
        let mut ranges = self.cut(index, unread).await?;
        let own = ranges.remove(0);
        if own.part.ended {
            return self.listed(own, unread.listed.clone()).await;
        }
        shared.share(ranges.into_iter().map(Job::Part));
        self.part(own).await
    }

    /// What is left to be read of a table, by parts; one that has ended where only listed rows are left.
    pub(super) async fn cut(&mut self, index: usize, unread: &Unread) -> Result<Vec<Range>> {
        let name = &unread.table;
        let table = self.describe(name).await?;
        let key = self.key(name, &table, unread.note.asked.as_ref())?;
        let note = &unread.note;
        // In another order, what was read in the old one says nothing.
        let parts = match note.key == key && !note.parts.is_empty() {
            true => note.parts.clone(),
            false => self.parts(name, &key).await?,
        };
        let rows_max = ROWS_FIRST.min(self.shared.settings.snapshot_chunk_rows);
        let range = |(number, part)| {
            let (name, key) = (name.clone(), key.clone());
            Range { table: index, name, key, number, part, rows_max }
        };
        let ended = Part { ended: true, ..Part::default() };
        let mut ranges: Vec<Range> = parts.iter().cloned().enumerate().map(range).collect();
        ranges.retain(|range| !range.part.ended);
        if ranges.is_empty() {
            ranges.push(range((0, ended)));
        }
        self.shared.order(Order::Cut { table: index, key: key.clone(), parts })?;
        Ok(ranges)
    }

    /// Reads only what is listed of a table.
    pub(super) async fn listed(&mut self, mut range: Range, keys: Vec<Key>) -> Result<()> {
        self.chunk(&mut range, Some(keys), Turn::Message).await?;
        self.outcomes(range, 1).await
    }

    /// Reads one part of a table to its end, and again what was listed meanwhile if it is the last one.
    pub async fn part(&mut self, range: Range) -> Result<()> {
        self.outcomes(range, 0).await
    }

    /// With so many chunks under way.
    async fn outcomes(&mut self, mut range: Range, mut under_way: usize) -> Result<()> {
        let mut rounds = 0;
        loop {
            if self.standing.is_none() {
                self.shared.counter.requests.go_on().await;
            }
            if self.shared.is_stopped(range.table) {
                self.shared.order(Order::Drop(range.table))?;
                for _ in 0..under_way {
                    let outcome = self.outcome().await;
                    self.buffers.push(outcome.buffer);
                }
                self.shared.through(range.table, End::Stopped);
                return Ok(());
            }
            while !range.part.ended && under_way < UNDER_WAY_MAX {
                self.chunk(&mut range, None, Turn::Message).await?;
                under_way += 1;
            }
            if under_way == 0 {
                return Ok(());
            }
            let mut outcome = self.outcome().await;
            under_way -= 1;
            while outcome.spoiled && under_way > 0 {
                // Those behind it go the same way.
                self.buffers.push(outcome.buffer);
                outcome = self.outcome().await;
                under_way -= 1;
            }
            if outcome.spoiled && !outcome.done {
                (range.part.last, range.part.ended) = (outcome.last, outcome.ended);
                range.rows_max = (range.rows_max / 2).max(1);
                tracing::warn!(table = %range.name, "too many rows changed under a chunk: it is read again, smaller");
            }
            self.buffers.push(outcome.buffer);
            self.shared.delivered(outcome.placed);
            if outcome.done {
                tracing::info!(table = %range.name, "all rows of the table are read");
                self.shared.through(range.table, End::Read(outcome.rows));
                return Ok(());
            }
            if outcome.again {
                tracing::warn!(table = %range.name, "too many rows were changed in part: all are read once more");
                (range.number, range.part, rounds) = (0, Part::default(), 0);
                if self.standing.is_some() {
                    self.shared.put_off(range.table, Job::Part(range));
                    return Ok(());
                }
            } else if outcome.is_alone && self.standing.is_some() {
                self.shared.put_off(range.table, Job::Listed(range));
                return Ok(());
            } else if outcome.is_alone {
                let turn = if rounds < ROUNDS_BESIDE { Turn::Message } else { Turn::Overtaken };
                self.chunk(&mut range, Some(outcome.listed), turn).await?;
                (under_way, rounds) = (under_way + 1, rounds + 1);
            }
        }
    }

    /// Takes a snapshot, reads a chunk under it and hands it over.
    async fn chunk(&mut self, range: &mut Range, requested: Option<Vec<Key>>, turn: Turn) -> Result<()> {
        let taken = match self.standing.clone() {
            Some(standing) => self.under(&standing, range).await?,
            None => self.take(range.table, &range.name, turn).await?,
        };
        let shared = self.shared.clone();
        let asked = shared.unread(range.table).and_then(|unread| unread.note.asked.as_ref());
        let names = self.key(&range.name, &taken.table, asked)?;
        if names != range.key {
            return Err(Error::transient(format!("table {} got another key while it was read", range.name))
                .hint("its rows are read from the beginning, in the new order"));
        }
        let rows = match &requested {
            Some(keys) => Rows::These(keys),
            // One more: so that the last chunk is known to be the last.
            None => Rows::Next(&range.part, range.rows_max + 1),
        };
        let Described { info, published, message } = &taken.table;
        // Listed rows are known by what tells them apart alone, whatever the order is that was asked for.
        let by = if requested.is_some() { self.key(&range.name, &taken.table, None)? } else { names.clone() };
        let sql = select::copy(info, published, message, (&by, Filter::of(asked)), rows);
        self.execute(control::PATH_OF_ROLE, &range.name).await?;
        let read_at_us = now_us();
        let rows_max = requested.as_ref().map_or(range.rows_max, |keys| keys.len() as u64);
        let copied = self.copy(&range.name, &sql, message.columns.len(), rows_max).await;
        // A condition may stumble over a row: that must not be the connector's end.
        let (rows, cut) = match (copied, asked) {
            (Ok(copied), _) => copied,
            (Err(error), Some(_)) if self.standing.is_some() => {
                self.without(range.table, &range.name, error).await?
            }
            (Err(error), Some(Asked { id, .. })) => {
                return Err(Error::transient(format!("the snapshot that signal {id} asked for fails"))
                    .hint("correct the table, or end it with the signal stop-snapshot")
                    .source(error));
            }
            (Err(error), None) => return Err(error),
        };
        let end = if self.standing.is_some() { "RELEASE SAVEPOINT rows" } else { "COMMIT" };
        self.execute(end, &range.name).await?;
        let relation = self.relation(&taken.table)?;
        let after = range.part.last.clone();
        let last = last_key(&rows, &places(message, &names));
        let of = match requested {
            // What did not fit is looked up another time.
            Some(_) if cut => Of::Keys(keys(&rows, &relation.identity)),
            Some(keys) => Of::Keys(keys),
            None => {
                range.part.ended = !cut;
                range.part.last = last.clone().or(range.part.last.take());
                range.rows_max = self.next_rows(&rows, range.rows_max);
                Of::Part(range.number)
            }
        };
        if shared.is_last(range.table) && range.part.ended {
            self.until_others_are_through().await?;
        }
        let is_last_table = shared.is_last(range.table);
        let (id, oid, ended) = (taken.id, taken.table.info.oid, range.part.ended);
        let read = Read { id, rows, oid, relation, of, after, last, ended, is_last_table, read_at_us };
        self.shared.order(Order::Read(Box::new(read)))?;
        if self.standing.is_some() {
            return Ok(());
        }
        if taken.held.is_some() {
            self.shared.order(Order::Resume(None))?;
        }
        drop(taken.held);
        self.mark(id).await
    }

    /// Helps with what others read, meanwhile.
    async fn until_others_are_through(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        loop {
            tokio::select! {
                biased;
                () = shared.others_are_through() => return Ok(()),
                whole = shared.help_wanted() => self.help(&whole).await?,
            }
        }
    }

    /// The names of the columns that give the order of rows: those that tell them apart, behind the one that was
    /// asked for.
    fn key(&self, name: &TableName, table: &Described, asked: Option<&Asked>) -> Result<Vec<String>> {
        let relation = self.relation(table)?;
        let columns = &table.message.columns;
        let names = relation.identity.iter().filter_map(|place| columns.get(usize::from(*place)));
        let names: Vec<String> = names.map(|column| column.name.clone()).collect();
        if names.is_empty() {
            return Err(Error::transient(format!("table {name} has lost its key while its rows were read"))
                .hint("give it a primary key again; its rows are then read from the beginning"));
        }
        let first =
            asked.and_then(|asked| asked.surrogate_key.clone()).filter(|first| !names.contains(first));
        Ok(first.into_iter().chain(names).collect())
    }

    /// As the stream would describe it.
    pub(super) fn relation(&self, table: &Described) -> Result<Relation> {
        let Described { info, message, .. } = table;
        let mut relation = relation::build(&self.types, Some(info), message, &self.shared.origin);
        if let Some(names) = self.shared.settings.message_key(&relation.namespace, &relation.name) {
            relation.key = relation::keyed_by(&relation, names)?;
        }
        Ok(relation)
    }

    /// A part for each worker, with about as many rows: by what the statistics know of the key's first column.
    async fn parts(&self, name: &TableName, key: &[String]) -> Result<Vec<Part>> {
        let settings = &self.shared.settings;
        let first = key.first().map(String::as_str).unwrap_or_default();
        let (rows, bounds) = self.statements.statistics(self.client(), name, first).await?;
        let worth = CHUNKS_WORTH_A_PART * settings.snapshot_chunk_rows;
        let count = usize::try_from(rows / worth).unwrap_or(usize::MAX).min(settings.snapshot_workers);
        Ok(select::parts(&bounds, count))
    }

    /// As many rows as fit, by the size of those of the last chunk, and not many times more at once.
    fn next_rows(&self, batch: &ChangeBatch, now: u64) -> u64 {
        let rows = batch.changes.len().max(1);
        let fitting = CHUNK_BYTES / (batch.bytes.len() / rows).max(1);
        (fitting as u64).min(now.saturating_mul(8)).clamp(1, self.shared.settings.snapshot_chunk_rows)
    }

    /// A transaction with a lock on the table and a snapshot that the stream's thread knows of.
    pub(super) async fn take(&mut self, table: usize, name: &TableName, turn: Turn) -> Result<Taken> {
        let id = self.shared.next_id();
        let (seen, pausing) = loop {
            if let Some(taken) = self.snapshot(std::slice::from_ref(name)).await? {
                break taken;
            }
        };
        let outcomes = self.outcomes_in.clone();
        let opened = Box::new(Opened { id, table, seen: seen.clone(), turn, outcomes });
        let held = match turn {
            Turn::Message | Turn::Standing => {
                self.shared.order(Order::Resume(Some(opened)))?;
                None
            }
            Turn::AtOnce { .. } | Turn::Overtaken => {
                self.shared.order(Order::Hold(opened))?;
                Some(pausing)
            }
        };
        let table = self.describe(name).await?;
        Ok(Taken { id, seen, table, held })
    }

    /// Another chunk under a snapshot that is known.
    pub(super) fn open(&self, id: u64, table: usize, seen: &Visibility, turn: Turn) -> Result<()> {
        let (seen, outcomes) = (seen.clone(), self.outcomes_in.clone());
        self.shared.order(Order::Open(Box::new(Opened { id, table, seen, turn, outcomes })))
    }

    pub(super) fn empty(&mut self) -> ChangeBatch {
        let mut batch = self.buffers.pop().unwrap_or_default();
        batch.clear();
        batch
    }

    pub(super) fn give_back(&mut self, buffer: ChangeBatch) {
        self.buffers.push(buffer);
    }

    pub(super) fn is_full(&self, batch: &ChangeBatch) -> bool {
        batch.changes.len() as u64 >= self.shared.settings.snapshot_chunk_rows
            || batch.bytes.len() >= CHUNK_BYTES
    }

    pub(super) async fn execute(&self, sql: &str, table: &TableName) -> Result<()> {
        self.control.client.batch_execute(sql).await.map_err(|error| refused(table, error))
    }

    /// The table as the transaction under way sees it, or as it is now.
    pub(super) async fn describe(&mut self, table: &TableName) -> Result<Described> {
        let client = &self.control.client;
        let Some(info) = self.statements.table(client, table).await? else {
            return Err(Error::transient(format!("table {table} was dropped while its rows were read")));
        };
        let published = self.statements.published(client, &self.shared.settings.publication, table).await?;
        let message = select::described(&info, &published);
        let oids: Vec<u32> = message.columns.iter().map(|column| column.type_oid).collect();
        catalog::load_types(client, &mut self.types, &oids).await?;
        Ok(Described { info, published, message })
    }

    /// The rows, and whether there are more than a chunk may hold.
    async fn copy(
        &mut self,
        table: &TableName,
        sql: &str,
        columns: usize,
        rows_max: u64,
    ) -> Result<(ChangeBatch, bool)> {
        let mut batch = self.empty();
        let rows = self.control.client.copy_out(sql).await.map_err(|error| refused(table, error))?;
        let mut rows = std::pin::pin!(rows);
        while let Some(line) = rows.next().await {
            let line = line.map_err(|error| refused(table, error))?;
            if batch.changes.len() as u64 >= rows_max || batch.bytes.len() >= CHUNK_BYTES {
                return Ok((batch, true));
            }
            append(&mut batch, &line, columns, table)?;
        }
        Ok((batch, false))
    }

    /// What is placed from now on is told by itself, until `own_outcomes`.
    pub(super) fn other_outcomes(&mut self) -> Outcomes {
        let (outcomes_in, outcomes) = mpsc::channel(OUTCOMES);
        let before = std::mem::replace(&mut self.outcomes_in, outcomes_in);
        (before, std::mem::replace(&mut self.outcomes, outcomes))
    }

    pub(super) fn own_outcomes(&mut self, own: Outcomes) {
        (self.outcomes_in, self.outcomes) = own;
    }

    /// Never, once the stream has ended: then the whole run does.
    pub(super) async fn outcome(&mut self) -> Outcome {
        match self.outcomes.recv().await {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }
}

/// One line of a COPY.
pub(super) fn append(batch: &mut ChangeBatch, line: &[u8], columns: usize, table: &TableName) -> Result<()> {
    let after = copy::append_row(batch, line, columns)
        .map_err(|error| Error::fatal(format!("postgres sent a malformed row of {table}")).source(error))?;
    batch.changes.push(row(after));
    Ok(())
}

fn keys(batch: &ChangeBatch, columns: &[u16]) -> Vec<Key> {
    let mut bytes = Vec::new();
    let of = |change| key::of_row(batch, change, columns, &mut bytes).map(Key::from);
    batch.changes.iter().filter_map(of).collect()
}

/// Where the columns of these names are.
pub(super) fn places(message: &RelationMessage, names: &[String]) -> Vec<u16> {
    let place = |name: &String| {
        (0_u16..).zip(&message.columns).find(|(_, column)| column.name == *name).map(|(place, _)| place)
    };
    names.iter().filter_map(place).collect()
}

pub(super) fn last_key(batch: &ChangeBatch, columns: &[u16]) -> Option<Vec<String>> {
    let mut bytes = Vec::new();
    Some(key::texts(key::of_row(batch, batch.changes.last()?, columns, &mut bytes)?))
}

pub(super) fn refused(table: &TableName, error: tokio_postgres::Error) -> Error {
    let code = error.code().cloned();
    let classified = errors::query(format!("cannot read the rows of {table}"), error);
    let name = table.sql();
    match code {
        Some(SqlState::INSUFFICIENT_PRIVILEGE) => classified.hint(format!(
            "GRANT SELECT ON {name} TO <the role of source.postgres.url>; and where the table has row security, \
             ALTER ROLE ... BYPASSRLS; or set snapshot = \"no_data\""
        )),
        // Dropped or renamed just now: the next start sees what is there.
        Some(SqlState::UNDEFINED_TABLE) => {
            Error::new(Kind::Transient, format!("table {table} is gone while its rows were read")).source(classified)
        }
        _ => classified,
    }
}
