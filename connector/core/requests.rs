//! What was asked of the readers of rows while they run, and what they tell of it, whatever the source. Start at
//! `Requests::hear`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::progress::{Notification, Progress, now_us};
use crate::signal::{Action, Execute, Signal, Wanted};

/// What somebody asked for, while the connector ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Of the signal.
    pub id: String,
    /// A condition on the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The column to read in the order of, before the key's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surrogate_key: Option<String>,
}

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

    /// Whether the rows of a collection are no longer wanted.
    pub fn is_stopped(&self, name: &str) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.iter().any(|wanted| wanted.fits(name))
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

    /// The rows of a collection are out, or will not be: `status` says how it ended.
    pub fn scanned(&self, asked: Option<&Asked>, name: String, status: &str) {
        let data = [("scanned_collection", name), ("status", status.to_owned())];
        self.notify(asked, "TABLE_SCAN_COMPLETED", data);
    }

    /// A request was taken up: these will be read.
    pub fn started(&self, asked: &Asked, names: &[String]) {
        self.notify(Some(asked), "STARTED", [("data_collections", names.join(", "))]);
        if names.is_empty() {
            self.notify(Some(asked), "COMPLETED", []);
        }
    }

    /// Every request among these is through.
    pub fn completed<'a>(&self, of_each: impl Iterator<Item = Option<&'a Asked>>) {
        let mut told: Vec<Option<&str>> = Vec::new();
        for asked in of_each {
            let id = asked.map(|asked| asked.id.as_str());
            if !told.contains(&id) {
                self.notify(asked, "COMPLETED", []);
                told.push(id);
            }
        }
    }

    /// Does what a signal says; one that wants rows read is given back.
    pub fn hear(&self, signal: Signal) -> Option<(Asked, Execute)> {
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
            Action::Execute(execute) => {
                self.stop(Vec::new());
                return Some((asked, execute));
            }
        }
        None
    }
}

/// The next signal; never, where nobody can send one.
pub async fn next_signal(signals: &mut Option<mpsc::Receiver<Signal>>) -> Option<Signal> {
    match signals {
        Some(signals) => signals.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signal;

    fn heard(requests: &Requests, kind: &str, data: serde_json::Value) -> Option<(Asked, Execute)> {
        requests.hear(signal::parse("one", kind, &data).unwrap())
    }

    #[tokio::test]
    async fn a_stop_ends_a_pause_and_the_next_request_begins_afresh() {
        let progress = Arc::new(Progress::default());
        let requests = Requests::new("orders", progress.clone());
        assert!(heard(&requests, "pause-snapshot", json!({})).is_none());
        let paused = tokio::time::timeout(std::time::Duration::from_millis(1), requests.go_on());
        assert!(paused.await.is_err());
        assert!(heard(&requests, "stop-snapshot", json!({"data-collections": ["s.a"]})).is_none());
        requests.go_on().await;
        assert!(requests.is_stopped("s.a") && !requests.is_stopped("s.ab"));
        let (asked, _) = heard(&requests, "execute-snapshot", json!({"data-collections": ["s.a"]})).unwrap();
        assert!(!requests.is_stopped("s.a"));
        requests.started(&asked, &[]);
        requests.completed([Some(&asked), None, Some(&asked)].into_iter());
        let told: Vec<_> = progress.notifications().iter().map(|n| (n.kind, n.aggregate)).collect();
        let of_request = "Incremental Snapshot";
        let expected = [
            ("PAUSED", of_request),
            ("ABORTED", of_request),
            ("STARTED", of_request),
            ("COMPLETED", of_request),
            ("COMPLETED", of_request),
            ("COMPLETED", "Initial Snapshot"),
        ];
        assert_eq!(told, expected);
    }
}
