//! What was asked of the readers of rows while they run, and what they tell of it. Start at `Requests::take`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_core::error::Result;
use millrace_core::progress::{Notification, Progress, now_us};
use millrace_core::signal::{Action, Execute, Signal, Wanted};
use tokio::sync::watch;
use tokio_postgres::Client;

use crate::config::Settings;
use crate::publication;
use crate::snapshot::table::{Asked, Phase, TableNote, Unread};
use crate::tables::TableName;

/// Shared by a session and its readers.
#[derive(Debug)]
pub struct Requests {
    paused: watch::Sender<bool>,
    stopped: Mutex<Vec<Wanted>>,
    progress: Arc<Progress>,
    connector: String,
}

impl Requests {
    pub fn new(connector: &str, progress: Arc<Progress>) -> Self {
        Self {
            paused: watch::Sender::new(false),
            stopped: Mutex::default(),
            progress,
            connector: connector.to_owned(),
        }
    }

    /// Waits while nothing is to be read.
    pub async fn go_on(&self) {
        // The sender lives as long as `self`.
        let _ = self.paused.subscribe().wait_for(|paused| !*paused).await;
    }

    pub fn is_stopped(&self, table: &str) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.iter().any(|wanted| wanted.fits(table))
    }

    fn stop(&self, wanted: Vec<Wanted>) {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        *stopped = wanted;
    }

    /// Says what happened to a snapshot: to the one that was asked for, or to the first one.
    pub fn notify<const N: usize>(
        &self,
        asked: Option<&Asked>,
        kind: &'static str,
        data: [(&'static str, String); N],
    ) {
        let mut data = BTreeMap::from(data);
        data.insert("connector_name", self.connector.clone());
        self.progress.notify(Notification {
            id: asked.map_or_else(|| "initial".to_owned(), |asked| asked.id.clone()),
            aggregate: if asked.is_some() { "Incremental Snapshot" } else { "Initial Snapshot" },
            kind,
            data,
            at_ms: now_us() / 1000,
        });
    }

    /// Does what a signal says; gives the tables that it wants read.
    pub async fn take(&self, signal: Signal, settings: &Settings, client: &Client) -> Result<Vec<Unread>> {
        let asked = Asked { id: signal.id, ..Asked::default() };
        match signal.action {
            Action::Log(message) => tracing::info!(id = %asked.id, "{message}"),
            Action::Pause => {
                self.paused.send_replace(true);
                self.notify(Some(&asked), "PAUSED", []);
            }
            Action::Resume => {
                self.paused.send_replace(false);
                self.notify(Some(&asked), "RESUMED", []);
            }
            Action::Stop(wanted) => {
                // Of none named: of all.
                let all = || Wanted::parse(".*").into_iter().collect();
                self.stop(if wanted.is_empty() { all() } else { wanted });
                self.paused.send_replace(false);
                self.notify(Some(&asked), "ABORTED", []);
            }
            Action::Execute(execute) => return self.execute(asked, &execute, settings, client).await,
        }
        Ok(Vec::new())
    }

    async fn execute(
        &self,
        asked: Asked,
        execute: &Execute,
        settings: &Settings,
        client: &Client,
    ) -> Result<Vec<Unread>> {
        self.stop(Vec::new());
        let tables = publication::wanted(client, settings).await?.tables;
        let mut unread = Vec::new();
        for table in &tables {
            let (name, table_name) = (table.name().to_string(), table.name());
            if !execute.collections.iter().any(|wanted| wanted.fits(&name)) {
                continue;
            }
            let surrogate = execute.surrogate_key.as_ref();
            let has_column = |key: &String| table.columns.iter().any(|c| c.name == *key && c.not_null);
            let filter = execute.filter(&name).map(str::to_owned);
            let refused = match surrogate {
                _ if table.key().is_empty() => Some("NO_PRIMARY_KEY"),
                Some(key) if !has_column(key) => Some("SQL_EXCEPTION"),
                _ if !is_condition(client, &table_name, filter.as_deref()).await => Some("SQL_EXCEPTION"),
                _ => None,
            };
            if let Some(status) = refused {
                let data = [("scanned_collection", name), ("status", status.to_owned())];
                self.notify(Some(&asked), "TABLE_SCAN_COMPLETED", data);
                continue;
            }
            let of_table = Asked { id: asked.id.clone(), filter, surrogate_key: surrogate.cloned() };
            let note = TableNote { asked: Some(of_table), ..TableNote::new(Phase::Reading) };
            unread.push(Unread { table: table_name, note, listed: Vec::new(), is_keyless: false });
        }
        let names: Vec<String> = unread.iter().map(|unread| unread.table.to_string()).collect();
        self.notify(Some(&asked), "STARTED", [("data_collections", names.join(", "))]);
        if unread.is_empty() {
            self.notify(Some(&asked), "COMPLETED", []);
        }
        Ok(unread)
    }
}

/// Whether the server understands a condition; without running it.
async fn is_condition(client: &Client, table: &TableName, filter: Option<&str>) -> bool {
    let Some(filter) = filter else { return true };
    let prepared = client.prepare(&format!("SELECT FROM {} WHERE ({filter})", table.sql())).await;
    prepared
        .inspect_err(|error| tracing::warn!(%table, filter, "a signal's filter is refused: {error}"))
        .is_ok()
}
