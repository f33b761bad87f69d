//! What the query connection does beside the stream: heartbeats, a look at the slot, a look for a promotion.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::TrySendError;

use millrace_core::error::{Error, Result};
use millrace_core::progress::{Progress, State};
use tokio::runtime::Handle;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::{PostgresSource, QUERY_PATIENCE, no_answer};
use crate::config::{WalPolicy, gigabytes};
use crate::control::{self, OWN_PATH, PATH_OF_ROLE};
use crate::lsn::Lsn;
use crate::membership::Membership;
use crate::reselect::{Found, Query, Reselect};
use crate::server;
use crate::slot::{self, Slot};
use crate::snapshot::desk::Order;
use crate::snapshot::reader::Counter;
use crate::snapshot::visibility::Visibility;
use crate::stream::Told;

/// Prefix of the logical messages that keep an idle database's slot moving.
const HEARTBEAT_PREFIX: &str = "millrace";

impl PostgresSource {
    /// The walsenders of a promoted standby go on, on the new timeline, and so must the position: one that
    /// named the old timeline past the place where the server left it would look like a restored server's.
    pub(super) async fn follow(&self, client: &Client, told: &Told) -> Result<bool> {
        let facts = tokio::time::timeout(QUERY_PATIENCE, server::facts(client)).await;
        let facts = facts.unwrap_or_else(|_| Err(no_answer(&self.settings)))?;
        if told.timeline.swap(facts.timeline, Ordering::Relaxed) < facts.timeline && !facts.in_recovery {
            tracing::info!(timeline = facts.timeline, "the standby was promoted; streaming goes on from it");
        }
        Ok(facts.in_recovery)
    }

    /// Whoever completes rows, where the file names columns for that. Called on the stream's thread.
    pub(super) fn reselect(&self, client: Arc<Client>) -> Option<Reselect> {
        let (runtime, settings) = (Handle::current(), self.settings.clone());
        let columns = Some(self.settings.reselected.clone()).filter(|columns| !columns.is_off())?;
        let query: Query = Box::new(move |sql, transaction| {
            let what = "cannot read a value that was not sent";
            // One after another: the row is looked for in no older a snapshot.
            let sql = format!("{PATH_OF_ROLE}; SELECT pg_current_snapshot(); {sql}");
            let asked = tokio::time::timeout(QUERY_PATIENCE, client.simple_query(&sql));
            let messages = match runtime.block_on(asked).map_err(|_| no_answer(&settings))? {
                Ok(messages) => messages,
                Err(error) => match refusal(&error) {
                    Some(why) => return Ok(Found::Refused(why)),
                    None => return Err(crate::errors::query(what, error)),
                },
            };
            let mut rows = messages.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            let visible = rows.next().and_then(|row| row.get(0)).and_then(Visibility::parse);
            let visible =
                visible.ok_or_else(|| Error::fatal(format!("{what}: postgres shows no snapshot")))?;
            if !visible.sees(transaction) {
                return Ok(Found::Unseen);
            }
            let values =
                |row: &SimpleQueryRow| (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect();
            Ok(Found::Row(rows.next().map(values)))
        });
        Some(Reselect::new(columns, query))
    }

    /// What the file asks for at every heartbeat: its own query, or a message.
    pub(super) async fn heartbeat(&self, client: &Client) -> Result<()> {
        let Some(query) = &self.settings.heartbeat_query else { return self.beat(client).await.map(drop) };
        // One message: nothing else of this connection comes in between, whatever path the query sets.
        let query = format!("{PATH_OF_ROLE};\n{query}\n;{OWN_PATH}");
        match tokio::time::timeout(QUERY_PATIENCE, client.batch_execute(&query)).await {
            Ok(done) => done.map_err(|error| crate::errors::query("cannot run heartbeat_query", error)),
            Err(_) => Err(no_answer(&self.settings)),
        }
    }

    /// A place behind the last rows that were read, written where they were.
    pub(super) async fn last_beat(&self, client: &Client, is_standby: bool) -> Result<Lsn> {
        if !is_standby {
            return self.beat(client).await;
        }
        self.beat(&control::connect(&self.settings.on_primary()).await?.client).await
    }

    /// A place in the log that is not of anybody else; where it is.
    pub(super) async fn beat(&self, client: &Client) -> Result<Lsn> {
        let (sql, what) = (
            "SELECT pg_logical_emit_message(false, $1::text, '')::text",
            "cannot write the heartbeat's message",
        );
        let beat = client.query_one(sql, &[&HEARTBEAT_PREFIX]);
        match tokio::time::timeout(QUERY_PATIENCE, beat).await {
            Ok(Ok(row)) => {
                let place: &str = row.try_get(0).map_err(|error| crate::errors::query(what, error))?;
                place.parse().map_err(|error| Error::fatal(what).source(error))
            }
            Ok(Err(error)) => Err(crate::errors::query(what, error)),
            Err(_) => Err(no_answer(&self.settings)),
        }
    }

    /// A look at the slot and at the publication.
    pub(super) async fn sample(
        &self,
        client: &Client,
        counter: &Counter,
        membership: &mut Option<Membership>,
    ) -> Result<()> {
        let found = tokio::time::timeout(QUERY_PATIENCE, slot::read(client, &self.settings.slot)).await;
        let slot = found.unwrap_or_else(|_| Err(no_answer(&self.settings)))?;
        if let Some(slot) = slot {
            let kept = note_kept(&slot, &counter.progress);
            match slot.lost() {
                None => self
                    .limit(kept, &counter.progress)
                    .inspect_err(|_| self.over_limit.store(true, Ordering::Relaxed))?,
                Some(why) => return Err(self.lost(&slot, why)),
            }
        }
        let Some(membership) = membership else { return Ok(()) };
        let moved = tokio::time::timeout(QUERY_PATIENCE, membership.moved(client, &self.settings)).await;
        for note in moved.unwrap_or_else(|_| Err(no_answer(&self.settings)))? {
            // Lost with a stream that has ended; the next start looks again.
            if let Err(TrySendError::Full(_)) = counter.orders.try_send(Order::Note(note)) {
                return Err(Error::transient(
                    "more tables changed in the publication than are noted at once",
                ));
            }
        }
        Ok(())
    }

    fn lost(&self, slot: &Slot, why: &str) -> Error {
        let what = format!("slot {} lost the log that it kept: {why}", slot.name);
        // Then the next start begins anew.
        if self.settings.snapshot.on_loss {
            return Error::transient(what);
        }
        Error::fatal(what)
            .hint("changes are gone for good; raise max_slot_wal_keep_size, then copy the tables anew")
            .state(State::PositionLost)
    }

    /// A slot that nobody reads: while the sink is away, no stream looks at what the server keeps.
    pub(super) async fn watch_kept(&self, client: &Client, slot: &Slot, progress: &Progress) -> Result<()> {
        let over = self.limit(note_kept(slot, progress), progress);
        if over.is_err() {
            self.let_go(client).await?;
        }
        over
    }

    /// How much log may be kept is for the file to say. After an error the slot has to go.
    fn limit(&self, kept: u64, progress: &Progress) -> Result<()> {
        let Some(limit) = self.settings.wal_limit.filter(|limit| kept > *limit) else { return Ok(()) };
        let (kept, limit) = (gigabytes(kept), gigabytes(limit));
        let because = progress.holds.words().map(|(reason, _)| format!("; {reason}")).unwrap_or_default();
        if self.settings.wal_policy == WalPolicy::ProtectData {
            tracing::warn!(kept, limit, "the server keeps more log than wal_limit_gb{because}");
            return Ok(());
        }
        let what = format!(
            "the server keeps {kept} of log for this connector, more than {limit}: the slot is dropped to save its disk{because}"
        );
        if self.settings.snapshot.on_loss {
            return Err(Error::transient(what).hint("all tables are read anew once the sink takes records"));
        }
        let hint = "mend what held the connector up, copy the tables anew, then `millrace position <file> reset --yes`";
        Err(Error::fatal(what).hint(hint).state(State::PositionLost))
    }
}

/// Shows what the server keeps for us; gives the bytes.
fn note_kept(slot: &Slot, progress: &Progress) -> u64 {
    let kept = slot.retained.unwrap_or(0);
    progress.retained_bytes.store(kept, Ordering::Relaxed);
    let end = slot.restart_lsn.map_or(0, |restart| restart.0.saturating_add(kept));
    progress.source_end.fetch_max(end, Ordering::Relaxed);
    kept
}

/// What the server says where a table is not now as the stream described it: no such table or column, no right to
/// read it, a key that is no value of its type. Trying again would not help, nor would stopping.
fn refusal(error: &tokio_postgres::Error) -> Option<String> {
    let db = error.as_db_error()?;
    let code = db.code().code();
    matches!(code.get(..2), Some("22" | "42")).then(|| format!("{} (SQLSTATE {code})", db.message()))
}
