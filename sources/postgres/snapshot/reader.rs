//! Reads tables in chunks, beside the stream: start at `Reader::run`.
//!
//! Every chunk has a transaction of its own and a snapshot that the stream's thread knows of before the first
//! row is read; nothing of it outlives a crash.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use millrace_core::batch::ChangeBatch;
use millrace_core::error::{Error, Kind, Result};
use millrace_core::progress::{Progress, SnapshotFigures, now_us};
use millrace_core::relation::Relation;
use tokio::sync::oneshot;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::catalog::{self, TableInfo};
use crate::config::Settings;
use crate::control::Control;
use crate::errors;
use crate::pgoutput::RelationMessage;
use crate::relation::{self, Origin};
use crate::snapshot::copy;
use crate::snapshot::desk::{Counter, Order};
use crate::snapshot::key::{self, Key};
use crate::snapshot::select::{self, Published, Rows};
use crate::snapshot::table::Unread;
use crate::snapshot::tracker::{MESSAGE_PREFIX, Opened, Outcome, Read, Turn, row};
use crate::snapshot::visibility::Visibility;
use crate::tables::TableName;
use crate::types::Types;

/// Chunks of one reader under way: one is read while the one before waits for the stream.
pub(super) const UNDER_WAY_MAX: usize = 2;

/// Rows of a table's first chunk, before it is known how large they are.
const ROWS_FIRST: u64 = 500;

/// Where a chunk is cut, whatever its rows: several batches' worth, twice that in memory.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// The stream stands still at most this long for a snapshot.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// For the end of a transaction on the stream. A longer one is not waited for with a lock in hand.
const BOUNDARY_PATIENCE: Duration = Duration::from_secs(5);

/// Before a snapshot that could not be taken is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often the log tells how far the rows are.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Between two looks at what is still under way.
const LOOK: Duration = Duration::from_millis(100);

/// One look at a commit that is in the log and not visible yet.
const GLANCE: Duration = Duration::from_millis(2);

/// What a reader's session is set to: rows hidden by a policy are an error and no gap, an index gives the
/// order, and its messages wait for nobody.
const SESSION: &str = "SET row_security = off; SET bytea_output = hex; SET lc_monetary = 'C'; SET synchronous_commit = local; \
    SET statement_timeout = 0; SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; \
    SET lock_timeout = '1s'";

pub struct Reader {
    settings: Settings,
    origin: Origin,
    /// A connection of its own.
    pub(super) control: Control,
    counter: Counter,
    /// What makes its messages its own.
    token: String,
    progress: Arc<Progress>,
    pub(super) unread: Vec<Unread>,
    /// One of them came later than the connector.
    joined: bool,
    types: Types,
    /// Number of the newest chunk.
    newest_id: u64,
    buffers: Vec<ChangeBatch>,
    pub(super) figures: SnapshotFigures,
    /// When the log was told how far it is.
    told_at: Instant,
}

/// Where the reading of one table is.
pub(super) struct Range {
    pub(super) table: usize,
    pub(super) name: TableName,
    pub(super) last: Option<Vec<String>>,
    pub(super) ended: bool,
    pub(super) rows_max: u64,
    /// The columns that `last` is of.
    pub(super) key: Vec<String>,
}

impl Range {
    pub(super) fn of(table: usize, unread: &Unread, rows_max: u64) -> Self {
        let note = &unread.note;
        let (last, key) = (note.last.clone(), note.key.clone());
        Self { table, name: unread.table.clone(), last, ended: note.ended, rows_max, key }
    }
}

/// A chunk with its snapshot.
pub(super) struct Taken {
    pub(super) id: u64,
    pub(super) seen: Visibility,
    pub(super) info: TableInfo,
    pub(super) published: Published,
    pub(super) message: RelationMessage,
}

impl Reader {
    pub fn new(
        settings: Settings,
        origin: Origin,
        control: Control,
        counter: Counter,
        token: String,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            settings,
            origin,
            control,
            counter,
            token,
            progress,
            unread: Vec::new(),
            joined: false,
            types: Types::default(),
            newest_id: 0,
            buffers: Vec::new(),
            figures: SnapshotFigures { started_ms: now_us() / 1000, ..SnapshotFigures::default() },
            told_at: Instant::now(),
        }
    }

    pub fn of(mut self, unread: Vec<Unread>, joined: bool) -> Self {
        self.figures.tables = unread.len() as u64;
        Self { unread, joined, ..self }
    }

    /// Ends when every table is through.
    pub async fn run(mut self) -> Result<()> {
        let client = &self.control.client;
        client
            .batch_execute(SESSION)
            .await
            .map_err(|error| errors::query("cannot prepare a snapshot", error))?;
        self.figures.rows_estimated = self.estimate().await?;
        self.show(None);
        tracing::info!(
            tables = self.unread.len(),
            rows = self.figures.rows_estimated,
            "reading the tables' rows"
        );
        self.wait_for_the_past().await?;
        self.mark(0).await?;
        for index in 0..self.unread.len() {
            match self.unread.get(index).is_some_and(|unread| unread.is_keyless) {
                true => self.keyless(index).await?,
                false => self.table(index).await?,
            }
            self.figures.tables_done += 1;
            self.show(None);
        }
        self.figures.finished_ms = Some(now_us() / 1000);
        self.figures.table = None;
        self.show(None);
        tracing::info!(rows = self.figures.rows, "all rows of the tables are read");
        Ok(())
    }

    /// Until everything that may have been streamed before this session began is visible to every snapshot, and
    /// where a table has joined, until no transaction is left that the publication did not send.
    async fn wait_for_the_past(&mut self) -> Result<()> {
        let began = self.look().await?;
        loop {
            let now = self.look().await?;
            let joined = self.joined && now.xmin() < began.xmax();
            let left = began.in_progress().iter().find(|xid| now.in_progress().contains(xid)).copied();
            let left = left.or_else(|| now.in_progress().first().copied().filter(|_| joined));
            self.order(Order::Seen(now))?;
            let Some(left) = left else { return Ok(()) };
            let who = self.who(left).await?;
            self.show(Some(format!("transaction {left}, which was there before: {who}")));
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) async fn look(&self) -> Result<Visibility> {
        visibility(&self.control.client).await
    }

    async fn who(&self, xid: u64) -> Result<String> {
        let sql = "SELECT coalesce(
            (SELECT format('process %s, for %s s', pid, extract(epoch FROM now() - xact_start)::bigint)
             FROM pg_stat_activity WHERE backend_xid::text::bigint = $1 % 4294967296 LIMIT 1),
            (SELECT format('prepared as %L', gid)
             FROM pg_prepared_xacts WHERE transaction::text::bigint = $1 % 4294967296 LIMIT 1),
            'nobody shows it')";
        let what = "cannot look up who holds a transaction";
        let xid = i64::try_from(xid).unwrap_or(i64::MAX);
        let row =
            self.control.client.query_one(sql, &[&xid]).await.map_err(|error| errors::query(what, error))?;
        row.try_get(0).map_err(|error| errors::query(what, error))
    }

    /// Rows of all tables, as the statistics have them.
    async fn estimate(&self) -> Result<u64> {
        let sql = "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint FROM pg_class c \
            JOIN pg_namespace n ON n.oid = c.relnamespace \
            WHERE (n.nspname::text, c.relname::text) IN (SELECT * FROM unnest($1::text[], $2::text[]))";
        let what = "cannot estimate the number of rows";
        let (schemas, names): (Vec<&str>, Vec<&str>) =
            self.unread.iter().map(|unread| (&*unread.table.schema, &*unread.table.table)).unzip();
        let row = self.control.client.query_one(sql, &[&schemas, &names]).await;
        let row = row.map_err(|error| errors::query(what, error))?;
        let rows: i64 = row.try_get(0).map_err(|error| errors::query(what, error))?;
        Ok(u64::try_from(rows).unwrap_or(0))
    }

    /// Reads one table to its end, and again what was listed meanwhile.
    async fn table(&mut self, index: usize) -> Result<()> {
        let Some(unread) = self.unread.get_mut(index) else { return Ok(()) };
        let mut range = Range::of(index, unread, ROWS_FIRST.min(self.settings.snapshot_chunk_rows));
        let before = unread.note.rows;
        let mut listed = std::mem::take(&mut unread.listed);
        let delivered = self.figures.rows;
        self.figures.table = Some(range.name.to_string());
        let mut under_way = 0;
        loop {
            while !range.ended && under_way < UNDER_WAY_MAX {
                self.chunk(&mut range, None).await?;
                under_way += 1;
            }
            if under_way == 0 {
                self.chunk(&mut range, Some(std::mem::take(&mut listed))).await?;
                under_way += 1;
            }
            let mut outcome = self.outcome().await;
            under_way -= 1;
            while outcome.spoiled && under_way > 0 {
                // Those behind it go the same way.
                self.buffers.push(outcome.buffer);
                outcome = self.outcome().await;
                under_way -= 1;
            }
            if outcome.spoiled {
                (range.last, range.ended) = (outcome.last, outcome.ended);
                range.rows_max = (range.rows_max / 2).max(1);
                tracing::warn!(table = %range.name, "too many rows changed under a chunk: it is read again, smaller");
            }
            self.delivered(delivered + outcome.rows.saturating_sub(before), outcome.buffer);
            listed = outcome.listed;
            if outcome.done {
                tracing::info!(table = %range.name, rows = outcome.rows, "all rows of the table are read");
                return Ok(());
            }
        }
    }

    /// Takes a snapshot, reads a chunk under it and hands it over.
    async fn chunk(&mut self, range: &mut Range, requested: Option<Vec<Key>>) -> Result<()> {
        let taken = self.take(range, Turn::Message).await?;
        let relation = self.relation(&taken)?;
        let names: Vec<String> = relation
            .identity
            .iter()
            .filter_map(|place| taken.message.columns.get(usize::from(*place)))
            .map(|column| column.name.clone())
            .collect();
        if names.is_empty() {
            return Err(Error::transient(format!(
                "table {} has lost its key while its rows were read",
                range.name
            ))
            .hint("give it a primary key again; its rows are then read from the beginning"));
        }
        if names != range.key {
            // Another order: what was read in the old one says nothing about it.
            range.last = None;
            range.key.clone_from(&names);
        }
        let rows = match &requested {
            Some(keys) => Rows::These(keys),
            // One more: so that the last chunk is known to be the last.
            None => Rows::After(range.last.as_deref(), range.rows_max + 1),
        };
        let sql = select::copy(&taken.info, &taken.published, &taken.message, &names, rows);
        let read_at_us = now_us();
        let rows_max = requested.as_ref().map_or(range.rows_max, |keys| keys.len() as u64);
        let (batch, cut) = self.copy(&range.name, &sql, taken.message.columns.len(), rows_max).await?;
        self.execute("COMMIT", &range.name).await?;
        let last = last_key(&batch, &relation.identity);
        let requested = match requested {
            // What did not fit is looked up another time.
            Some(_) if cut => Some(keys(&batch, &relation.identity)),
            whole => whole,
        };
        if requested.is_none() {
            range.ended = !cut;
            range.last = last.clone().or(range.last.take());
            range.rows_max = self.next_rows(&batch, range.rows_max);
        }
        let is_last_table = range.ended && !self.has_rows_after(range.table).await?;
        let (id, oid, ended) = (taken.id, taken.info.oid, range.ended);
        let read = Read { id, rows: batch, oid, relation, requested, last, ended, is_last_table, read_at_us };
        self.order(Order::Read(Box::new(read)))?;
        self.mark(id).await
    }

    /// As the stream would describe it.
    pub(super) fn relation(&self, taken: &Taken) -> Result<Relation> {
        let mut relation = relation::build(&self.types, Some(&taken.info), &taken.message, &self.origin);
        if let Some(names) = self.settings.message_key(&relation.namespace, &relation.name) {
            relation.key = relation::keyed_by(&relation, names)?;
        }
        Ok(relation)
    }

    /// As many rows as fit, by the size of those of the last chunk, and not many times more at once.
    fn next_rows(&self, batch: &ChangeBatch, now: u64) -> u64 {
        let rows = batch.changes.len().max(1);
        let fitting = CHUNK_BYTES / (batch.bytes.len() / rows).max(1);
        (fitting as u64).min(now.saturating_mul(8)).clamp(1, self.settings.snapshot_chunk_rows)
    }

    /// A transaction with a lock on the table and a snapshot that the stream's thread knows of.
    pub(super) async fn take(&mut self, range: &Range, turn: Turn) -> Result<Taken> {
        let id = self.next_id();
        loop {
            if !self.begin(&range.name).await? {
                self.wait(format!("a lock on {}, which somebody holds", range.name)).await;
                continue;
            }
            let Some(streamed) = self.pause().await? else {
                self.execute("ROLLBACK", &range.name).await?;
                self.wait("the end of a large transaction on the stream".to_owned()).await;
                continue;
            };
            match self.agree(&range.name, &streamed).await? {
                Ok(seen) => {
                    let opened = Box::new(Opened { id, table: range.table, seen: seen.clone(), turn });
                    self.order(match turn {
                        Turn::Message => Order::Resume(Some(opened)),
                        Turn::AtOnce { .. } => Order::Hold(opened),
                    })?;
                    self.show(None);
                    return self.describe(id, seen, &range.name).await;
                }
                Err(reason) => {
                    self.order(Order::Resume(None))?;
                    self.wait(reason).await;
                }
            }
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.newest_id += 1;
        self.newest_id
    }

    pub(super) fn empty(&mut self) -> ChangeBatch {
        let mut batch = self.buffers.pop().unwrap_or_default();
        batch.clear();
        batch
    }

    pub(super) fn is_full(&self, batch: &ChangeBatch) -> bool {
        batch.changes.len() as u64 >= self.settings.snapshot_chunk_rows || batch.bytes.len() >= CHUNK_BYTES
    }

    pub(super) fn delivered(&mut self, rows: u64, buffer: ChangeBatch) {
        self.buffers.push(buffer);
        self.figures.rows = rows;
        self.show(None);
        if self.told_at.elapsed() >= TELL_EVERY {
            self.told_at = Instant::now();
            let SnapshotFigures { rows, rows_estimated, .. } = self.figures;
            let seconds_left = self.figures.seconds_left(now_us() / 1000);
            let table = self.figures.table.as_deref();
            tracing::info!(table, rows, rows_estimated, seconds_left, "reading the tables' rows");
        }
    }

    async fn wait(&mut self, reason: String) {
        self.show(Some(reason));
        tokio::time::sleep(RETRY).await;
    }

    /// False where the lock cannot be had now. Before the snapshot: under an older one, a table that an ALTER
    /// TABLE wrote anew meanwhile looks empty.
    async fn begin(&self, table: &TableName) -> Result<bool> {
        let sql = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {} IN ACCESS SHARE MODE",
            table.sql()
        );
        match self.control.client.batch_execute(&sql).await {
            Ok(()) => Ok(true),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                self.execute("ROLLBACK", table).await?;
                Ok(false)
            }
            Err(error) => Err(refused(table, error)),
        }
    }

    pub(super) async fn execute(&self, sql: &str, table: &TableName) -> Result<()> {
        self.control.client.batch_execute(sql).await.map_err(|error| refused(table, error))
    }

    /// The transactions that the stream has had, once it stands still; `None` where that takes too long.
    async fn pause(&mut self) -> Result<Option<Vec<u32>>> {
        let (reply, mut answer) = oneshot::channel();
        self.order(Order::Pause(reply))?;
        if let Ok(answered) = tokio::time::timeout(BOUNDARY_PATIENCE, &mut answer).await {
            return match answered {
                Ok(streamed) => Ok(Some(streamed)),
                Err(_) => std::future::pending().await,
            };
        }
        answer.close();
        Ok(answer.try_recv().ok())
    }

    /// A snapshot that sees all that was streamed, or why there is none yet. A commit is in the log, and may be
    /// streamed, before it is visible.
    async fn agree(&mut self, table: &TableName, streamed: &[u32]) -> Result<Result<Visibility, String>> {
        let deadline = Instant::now() + PAUSE_MAX;
        loop {
            let seen = self.look().await?;
            let Some(unseen) = streamed.iter().find(|xid| !seen.sees(**xid)) else { return Ok(Ok(seen)) };
            self.execute("ROLLBACK", table).await?;
            if Instant::now() > deadline {
                return Ok(Err(format!(
                    "transaction {unseen}: its commit is in the log and not visible yet; a synchronous standby may be away"
                )));
            }
            tokio::time::sleep(GLANCE).await;
            if !self.begin(table).await? {
                return Ok(Err(format!("a lock on {table}, which somebody holds")));
            }
        }
    }

    pub(super) async fn describe(&mut self, id: u64, seen: Visibility, table: &TableName) -> Result<Taken> {
        let client = &self.control.client;
        let pattern = [crate::tables::TablePattern::One(table.clone())];
        let Some(info) = catalog::tables_by_pattern(client, &pattern).await?.pop() else {
            return Err(Error::transient(format!("table {table} was dropped while its rows were read")));
        };
        let published = select::published(client, &self.settings.publication, table).await?;
        let message = select::described(&info, &published);
        let oids: Vec<u32> = message.columns.iter().map(|column| column.type_oid).collect();
        catalog::load_types(client, &mut self.types, &oids).await?;
        Ok(Taken { id, seen, info, published, message })
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
            let after = copy::append_row(&mut batch, &line, columns).map_err(|error| {
                Error::fatal(format!("postgres sent a malformed row of {table}")).source(error)
            })?;
            batch.changes.push(row(after));
        }
        Ok((batch, false))
    }

    /// Whether a table that comes after this one has a row: where none has, this one's last row is the last.
    pub(super) async fn has_rows_after(&self, table: usize) -> Result<bool> {
        for unread in self.unread.iter().skip(table + 1) {
            let sql = format!("SELECT EXISTS (SELECT FROM {})", unread.table.sql());
            let row = self.control.client.query_one(&sql, &[]).await;
            let row = row.map_err(|error| refused(&unread.table, error))?;
            if row.try_get(0).map_err(|error| refused(&unread.table, error))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// When this comes on the stream, everything that a snapshot taken before it saw has come too. It also makes
    /// a quiet server send what it has.
    pub(super) async fn mark(&self, id: u64) -> Result<()> {
        let sql = "SELECT pg_logical_emit_message(true, $1::text, $2::text)";
        let content = format!("{} {id}", self.token);
        let sent = self.control.client.query(sql, &[&MESSAGE_PREFIX, &content]).await;
        sent.map(drop).map_err(|error| errors::query("cannot write a chunk's message", error))
    }

    pub(super) fn order(&self, order: Order) -> Result<()> {
        self.counter
            .orders
            .try_send(order)
            .map_err(|_| Error::transient("the stream has ended under a snapshot"))
    }

    /// Never, once the stream has ended: then the whole run does.
    pub(super) async fn outcome(&mut self) -> Outcome {
        match self.counter.outcomes.recv().await {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }

    fn show(&mut self, waits_for: Option<String>) {
        self.figures.waits_for = waits_for;
        self.progress.set_snapshot(self.figures.clone());
    }
}

/// The snapshot of the transaction under way, or of now.
async fn visibility(client: &Client) -> Result<Visibility> {
    let what = "cannot take a snapshot";
    let answer = client.simple_query("SELECT pg_current_snapshot()").await;
    let answer = answer.map_err(|error| errors::query(what, error))?;
    let text = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let seen = text.and_then(Visibility::parse);
    seen.ok_or_else(|| Error::fatal(format!("{what}: postgres answered {}", text.unwrap_or_default())))
}

fn keys(batch: &ChangeBatch, columns: &[u16]) -> Vec<Key> {
    let mut bytes = Vec::new();
    let of = |change| key::of_row(batch, change, columns, &mut bytes).map(Key::from);
    batch.changes.iter().filter_map(of).collect()
}

fn last_key(batch: &ChangeBatch, columns: &[u16]) -> Option<Vec<String>> {
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
