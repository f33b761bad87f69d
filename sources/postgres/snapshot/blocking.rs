//! Reads the tables of a blocking snapshot: all under one snapshot S, while no change goes out. Start at `read`.
//!
//! One connection takes S with locks on all tables, and keeps both to the end; others read under it too. The stream
//! goes on until everything that S saw has come, and stands still there. Rows of which something newer has gone out on
//! the way are dropped (`window`). A few of those may have to be read again, because a change did not carry the whole
//! row: that is put off until the stream goes on, and done as it is beside the stream.
//!
//! A crash forgets S. The next start takes another one, stands still again, and goes on behind the last rows that
//! were delivered: what changed of those before it has been streamed.

use std::sync::Arc;

use millrace_core::batch::ChangeBatch;
use millrace_core::error::{Error, Result};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::errors;
use crate::snapshot::chunk::Turn;
use crate::snapshot::desk::Order;
use crate::snapshot::reader::{self, End, Job, Shared};
use crate::snapshot::table::Part;
use crate::snapshot::taking::names;
use crate::snapshot::visibility::Visibility;
use crate::snapshot::window::Block;
use crate::snapshot::worker::{Range, Taken, Worker};
use crate::tables::TableName;

/// The snapshot behind which the stream stands still.
#[derive(Debug)]
pub(super) struct Standing {
    /// As the server calls it.
    exported: String,
    seen: Visibility,
    tables: Vec<TableName>,
}

/// Ends when every table is through. `first` has caught up with the stream.
pub(super) async fn read(shared: &Arc<Shared>, mut first: Worker, order: Vec<usize>) -> Result<()> {
    let mut tables = Vec::new();
    for table in order {
        // Of one that had come so far before a crash only single rows are left.
        match shared.unread(table).is_some_and(|unread| unread.note.ended()) {
            true => shared.put_off(table, Job::Table(table)),
            false => tables.push(table),
        }
    }
    if let Some(standing) = first.stand(&mut tables).await? {
        let standing = Arc::new(standing);
        let asked = tables.first().and_then(|table| shared.unread(*table)?.note.asked.as_ref());
        let id = asked.map(|asked| asked.id.as_str()).unwrap_or_default();
        let rows = format!("those of blocking snapshot {id}, of {}", names(&standing.tables));
        shared.hold(Some(rows), Some("the signal stop-snapshot ends it"));
        first.standing = Some(standing.clone());
        let mut jobs = Vec::new();
        for unread in tables.iter().filter_map(|table| Some((*table, shared.unread(*table)?))) {
            match unread.1.is_keyless {
                true => jobs.push(Job::Table(unread.0)),
                false => jobs.extend(first.cut(unread.0, unread.1).await?.into_iter().map(Job::Part)),
            }
        }
        shared.share(jobs.into_iter());
        let mut helping = JoinSet::new();
        for _ in 1..shared.settings.snapshot_workers {
            helping.spawn(help(shared.clone(), standing.clone()).in_current_span());
        }
        with_help(first.read_standing(&standing), &mut helping).await?;
        first.standing = None;
        first.roll_back().await?;
        shared.hold(None, None);
        shared.order(Order::Unblock)?;
    }
    let left = shared.take_put_off();
    reader::beside(shared, first, left).await
}

/// Until all have ended, or one has failed: what a helper had in hand nobody else would come to.
async fn with_help(own: impl Future<Output = Result<()>>, helping: &mut JoinSet<Result<()>>) -> Result<()> {
    let mut own = std::pin::pin!(own);
    let mut has_ended = false;
    while !has_ended || !helping.is_empty() {
        tokio::select! {
            Some(ended) = helping.join_next() => {
                let broken = |panic| Error::fatal("a reader of rows broke a rule of its own").source(panic);
                ended.map_err(broken)??;
            }
            ended = &mut own, if !has_ended => {
                ended?;
                has_ended = true;
            }
        }
    }
    Ok(())
}

/// Another worker. One that comes too late has nothing to do.
async fn help(shared: Arc<Shared>, standing: Arc<Standing>) -> Result<()> {
    let mut worker = match Worker::connect(shared).await {
        Ok(worker) => worker,
        Err(error) => {
            tracing::warn!("fewer workers read the rows than snapshot_workers says: {error}");
            return Ok(());
        }
    };
    if !worker.join(&standing.exported, &standing.tables).await? {
        return Ok(());
    }
    worker.standing = Some(standing.clone());
    worker.read_standing(&standing).await?;
    worker.roll_back().await
}

impl Worker {
    /// Takes a snapshot of these tables, and waits until the stream stands still behind it. `None` where they are no
    /// longer wanted.
    async fn stand(&mut self, tables: &mut Vec<usize>) -> Result<Option<Standing>> {
        let shared = self.shared.clone();
        // Its message has to be committed while the snapshot lives.
        let mut messenger = None;
        loop {
            for table in tables.extract_if(.., |table| shared.is_stopped(*table)) {
                shared.order(Order::Drop(table))?;
                shared.through(table, End::Stopped);
            }
            let unread = tables.iter().filter_map(|table| shared.unread(*table));
            let names: Vec<TableName> = unread.map(|unread| unread.table.clone()).collect();
            if names.is_empty() {
                return Ok(None);
            }
            let messenger = match &mut messenger {
                Some(messenger) => messenger,
                None => messenger.insert(Worker::connect(shared.clone()).await?),
            };
            let Some((seen, pausing)) = self.snapshot(&names).await? else { continue };
            let (told, standing) = oneshot::channel();
            let id = shared.next_id();
            let block = Block { id, tables: shared.tables(), seen: seen.clone(), standing: Some(told) };
            shared.order(Order::Block(Box::new(block)))?;
            drop(pausing);
            let exported = self.export().await?;
            messenger.mark(id).await?;
            match standing.await {
                Ok(true) => return Ok(Some(Standing { exported, seen, tables: names })),
                Ok(false) => {
                    shared.order(Order::Unblock)?;
                    self.roll_back().await?;
                    let reason = "a moment in which less is changed, and no row of a table without a key";
                    self.wait(reason.to_owned()).await;
                }
                // The stream has ended: then the whole run does.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Lets others read under the snapshot of the transaction under way.
    pub(super) async fn export(&self) -> Result<String> {
        let what = "cannot share a snapshot";
        let row = self.client().query_one("SELECT pg_export_snapshot()", &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| errors::query(what, error))
    }

    /// Reads under a snapshot of somebody else. False where that is over, or where somebody waits for a lock on a
    /// table: whoever took the snapshot has its own, and waiting here would be for each other.
    pub(super) async fn join(&self, exported: &str, tables: &[TableName]) -> Result<bool> {
        let sql =
            format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{exported}'");
        if let Err(error) = self.client().batch_execute(&sql).await {
            if error.as_db_error().is_none() {
                return Err(errors::query("cannot share a snapshot", error));
            }
            self.roll_back().await?;
            return Ok(false);
        }
        self.lock(tables, "").await
    }

    async fn read_standing(&mut self, standing: &Standing) -> Result<()> {
        while let Some(job) = self.shared.next_job().await {
            match job {
                Job::Part(range) => {
                    self.shared.begun(range.table);
                    self.part(range).await?;
                }
                Job::Table(table) => self.keyless_standing(table, standing).await?,
                Job::Help(whole) => self.help(&whole).await?,
                // Only behind it.
                Job::Listed(_) => {}
            }
        }
        Ok(())
    }

    /// Reads a table without a key. Changes on the way to where the stream stands still were none but new rows.
    async fn keyless_standing(&mut self, index: usize, standing: &Standing) -> Result<()> {
        let shared = self.shared.clone();
        let Some(unread) = shared.unread(index) else { return Ok(()) };
        shared.begun(index);
        if shared.is_last(index) {
            shared.others_are_through().await;
        }
        shared.order(Order::Cut { table: index, key: Vec::new(), parts: vec![Part::default()] })?;
        let table = self.describe(&unread.table).await?;
        let rows = self.whole(index, &unread.table, (&standing.seen, Turn::Standing, None), &table).await?;
        shared.through(index, End::Read(rows));
        Ok(())
    }

    /// A chunk under the snapshot for which the stream stands still.
    pub(super) async fn under(&mut self, standing: &Standing, range: &Range) -> Result<Taken> {
        let id = self.shared.next_id();
        let table = self.describe(&range.name).await?;
        self.open(id, range.table, &standing.seen, Turn::Standing)?;
        self.execute("SAVEPOINT rows", &range.name).await?;
        Ok(Taken { id, seen: standing.seen.clone(), table, held: None })
    }

    /// A statement that fails ends the reading of its table, and neither that of others nor the stream: the rows
    /// that there are instead, which is none.
    pub(super) async fn without(
        &mut self,
        table: usize,
        name: &TableName,
        error: Error,
    ) -> Result<(ChangeBatch, bool)> {
        if self.execute("ROLLBACK TO SAVEPOINT rows", name).await.is_err() {
            return Err(error);
        }
        tracing::warn!(table = %name, "the rows of a blocking snapshot cannot be read: {error}");
        self.shared.order(Order::Drop(table))?;
        self.shared.through(table, End::Failed);
        Ok((self.empty(), false))
    }
}
