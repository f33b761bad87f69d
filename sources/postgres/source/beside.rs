//! What the query connection does beside the stream: heartbeats, a look at the slot, a look for a promotion.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_core::error::{Error, Result};
use millrace_core::progress::{Progress, State};
use tokio::runtime::Handle;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{PostgresSource, QUERY_PATIENCE, no_answer};
use crate::config::WalPolicy;
use crate::lsn::Lsn;
use crate::reselect::Reselect;
use crate::stream::Told;
use crate::{server, slot};

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
        let query = move |sql: &str| {
            let asked = tokio::time::timeout(QUERY_PATIENCE, client.simple_query(sql));
            let answer = runtime.block_on(asked).map_err(|_| no_answer(&settings))?;
            let what = "cannot read a value that was not sent";
            let messages = answer.map_err(|error| crate::errors::query(what, error))?;
            let row = messages.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            Ok(row.map(|row| (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()))
        };
        Some(Reselect::new(columns, Box::new(query)))
    }

    /// What the file asks for at every heartbeat: its own query, or a message.
    pub(super) async fn heartbeat(&self, client: &Client) -> Result<()> {
        let Some(query) = &self.settings.heartbeat_query else { return self.beat(client).await.map(drop) };
        match tokio::time::timeout(QUERY_PATIENCE, client.batch_execute(query)).await {
            Ok(done) => done.map_err(|error| crate::errors::query("cannot run heartbeat_query", error)),
            Err(_) => Err(no_answer(&self.settings)),
        }
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

    pub(super) async fn sample(&self, client: &Client, progress: &Progress) -> Result<()> {
        let found = tokio::time::timeout(QUERY_PATIENCE, slot::read(client, &self.settings.slot)).await;
        let slot = found.unwrap_or_else(|_| Err(no_answer(&self.settings)))?;
        let Some(slot) = slot else { return Ok(()) };
        let kept = slot.retained.unwrap_or(0);
        progress.retained_bytes.store(kept, Ordering::Relaxed);
        let end = slot.restart_lsn.map_or(0, |restart| restart.0.saturating_add(kept));
        progress.source_end.fetch_max(end, Ordering::Relaxed);
        match slot.lost() {
            None => self.limit(kept),
            // The next start begins anew.
            Some(why) if self.settings.snapshot.on_loss => {
                Err(Error::transient(format!("slot {} lost the log that it kept: {why}", slot.name)))
            }
            Some(why) => Err(Error::fatal(format!("slot {} lost the log that it kept: {why}", slot.name))
                .hint("changes are gone for good; raise max_slot_wal_keep_size, then copy the tables anew")
                .state(State::PositionLost)),
        }
    }
}

impl PostgresSource {
    /// How much log may be kept is for the file to say.
    fn limit(&self, kept: u64) -> Result<()> {
        let Some(limit) = self.settings.wal_limit.filter(|limit| kept > *limit) else { return Ok(()) };
        let (kept, limit) = (kept >> 30, limit >> 30);
        match self.settings.wal_policy {
            WalPolicy::ProtectData => {
                tracing::warn!(
                    kept_gb = kept,
                    limit_gb = limit,
                    "the server keeps more log than wal_limit_gb"
                );
                Ok(())
            }
            WalPolicy::ProtectSource => {
                self.over_limit.store(true, Ordering::Relaxed);
                Err(Error::fatal(format!(
                    "the server keeps {kept} GB of log for this connector, more than {limit}: the slot is dropped to save its disk"
                ))
                    .hint("mend what held the connector up, copy the tables anew, then `millrace position <file> reset --yes`")
                    .state(State::PositionLost))
            }
        }
    }
}
