//! How a snapshot is taken that the stream knows of: start at `Worker::snapshot`.

use std::time::{Duration, Instant};

use millrace_core::error::Result;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio_postgres::error::SqlState;

use crate::errors;
use crate::snapshot::desk::Order;
use crate::snapshot::visibility::Visibility;
use crate::snapshot::worker::{Worker, refused};
use crate::tables::TableName;

/// The stream stands still at most this long for a snapshot.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// For the end of a transaction on the stream. A longer one is not waited for with a lock in hand.
const BOUNDARY_PATIENCE: Duration = Duration::from_secs(5);

/// Before a snapshot that could not be taken is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// One look at a commit that is in the log and not visible yet.
const GLANCE: Duration = Duration::from_millis(2);

impl Worker {
    pub async fn look(&self) -> Result<Visibility> {
        Visibility::of(self.client()).await
    }

    /// Until the stream has heard of everything that was ordered so far.
    pub async fn catch_up(&mut self) -> Result<()> {
        while self.pause().await?.is_none() {
            self.wait("the end of a large transaction on the stream".to_owned()).await;
        }
        self.shared.order(Order::Resume(None))
    }

    /// A snapshot that sees all that was streamed, in a transaction with locks on these tables. The stream stands
    /// still, and for nobody else before the guard is dropped. `None` after a while where there is none to be had.
    pub(super) async fn snapshot(
        &mut self,
        tables: &[TableName],
    ) -> Result<Option<(Visibility, OwnedMutexGuard<()>)>> {
        let shared = self.shared.clone();
        let pausing = tokio::select! {
            biased;
            // Its stream may stand still until all of it is read.
            whole = shared.help_wanted() => {
                self.help(&whole).await?;
                return Ok(None);
            }
            pausing = shared.pausing.clone().lock_owned() => pausing,
        };
        // Behind the wait, which may be for all that an outbox holds: a lock that nobody needs yet would keep others
        // from altering the table, and behind them everybody from writing to it.
        if !self.begin(tables).await? {
            drop(pausing);
            self.wait(held_by_somebody(tables)).await;
            return Ok(None);
        }
        let Some(streamed) = self.pause().await? else {
            drop(pausing);
            self.roll_back().await?;
            self.wait("the end of a large transaction on the stream".to_owned()).await;
            return Ok(None);
        };
        match self.agree(tables, &streamed).await? {
            Ok(seen) => Ok(Some((seen, pausing))),
            Err(reason) => {
                self.shared.order(Order::Resume(None))?;
                drop(pausing);
                self.wait(reason).await;
                Ok(None)
            }
        }
    }

    pub(super) async fn wait(&mut self, reason: String) {
        self.shared.show(|figures| figures.waits_for = Some(reason));
        tokio::time::sleep(RETRY).await;
    }

    /// False where the locks cannot be had now. Before the snapshot: under an older one, a table that an ALTER
    /// TABLE wrote anew meanwhile looks empty.
    pub(super) async fn begin(&self, tables: &[TableName]) -> Result<bool> {
        self.lock(tables, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ").await
    }

    /// False, and no transaction any more, where the locks cannot be had now.
    /// `before`: what comes before the first one.
    pub(super) async fn lock(&self, tables: &[TableName], mut before: &str) -> Result<bool> {
        for table in tables {
            let sql = format!("{before}LOCK TABLE {} IN ACCESS SHARE MODE", table.sql());
            before = "";
            match self.client().batch_execute(&sql).await {
                Ok(()) => {}
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    self.roll_back().await?;
                    return Ok(false);
                }
                Err(error) => return Err(refused(table, error)),
            }
        }
        Ok(true)
    }

    pub(super) async fn roll_back(&self) -> Result<()> {
        let done = self.client().batch_execute("ROLLBACK").await;
        done.map_err(|error| errors::query("cannot end a snapshot", error))
    }

    /// The transactions that the stream has had, once it stands still; `None` where that takes too long.
    pub(super) async fn pause(&mut self) -> Result<Option<Vec<u32>>> {
        let (reply, mut answer) = oneshot::channel();
        self.shared.order(Order::Pause(reply))?;
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
    async fn agree(&mut self, tables: &[TableName], streamed: &[u32]) -> Result<Result<Visibility, String>> {
        let deadline = Instant::now() + PAUSE_MAX;
        loop {
            let seen = self.look().await?;
            let Some(unseen) = streamed.iter().find(|xid| !seen.sees(**xid)) else { return Ok(Ok(seen)) };
            self.roll_back().await?;
            if Instant::now() > deadline {
                return Ok(Err(format!(
                    "transaction {unseen}: its commit is in the log and not visible yet; a synchronous standby may be away"
                )));
            }
            tokio::time::sleep(GLANCE).await;
            if !self.begin(tables).await? {
                return Ok(Err(held_by_somebody(tables)));
            }
        }
    }

    /// When this comes on the stream, everything that a snapshot taken before it saw has come too. It also makes
    /// a quiet server send what it has.
    pub(super) async fn mark(&self, id: u64) -> Result<()> {
        let content = format!("{} {id}", self.shared.counter.token);
        self.statements.message(self.client(), &content).await
    }
}

pub(super) fn held_by_somebody(tables: &[TableName]) -> String {
    format!("a lock on {}, which somebody holds", names(tables))
}

/// For people.
pub(super) fn names(tables: &[TableName]) -> String {
    let names: Vec<String> = tables.iter().map(TableName::to_string).collect();
    names.join(", ")
}
