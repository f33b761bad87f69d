//! What was asked of the readers of rows while they run, and what they tell of it, whatever the source. Start at
//! `Requests::hear`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::position::Notes;
use crate::progress::{Notification, Progress, now_us};
use crate::signal::file::SignalFile;
use crate::signal::{Action, Execute, Signal, Wanted};

/// Collections that a notification about one of them names.
pub const NAMED_MAX: usize = 100;

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
    /// No change goes out while its rows do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blocking: bool,
}

impl Asked {
    /// As Debezium says it: a blocking snapshot is told of, and its rows are marked, like the first one.
    pub fn is_incremental(&self) -> bool {
        !self.blocking
    }
}

/// Shared by a session and its readers.
#[derive(Debug)]
pub struct Requests {
    paused: watch::Sender<bool>,
    stopped: Mutex<Vec<Wanted>>,
    progress: Arc<Progress>,
    connector: String,
    /// Something was told of rows that nobody asked for.
    began: AtomicBool,
    /// Signals that nothing but this process knows of, and whose snapshots no position may know of yet.
    taken: Mutex<Vec<Signal>>,
}

impl Requests {
    pub fn new(connector: &str, progress: Arc<Progress>) -> Self {
        Self {
            paused: watch::Sender::new(false),
            stopped: Mutex::default(),
            progress,
            connector: connector.to_owned(),
            began: AtomicBool::new(false),
            taken: Mutex::default(),
        }
    }

    /// Rows will be read for a signal that came by no row of the source: until a position says so, an attempt that
    /// ends takes that with it.
    pub fn taken(&self, signal: Signal) {
        self.all_taken().push(signal);
    }

    /// Of those that were taken, the ones that a new attempt's notes do not know: to be heard once more.
    fn untold(&self, notes: &Notes) -> Vec<Signal> {
        let mut taken = self.all_taken();
        if taken.is_empty() {
            return Vec::new();
        }
        let known: Vec<String> = notes.values().filter_map(|text| asked_id(text)).collect();
        taken.extract_if(.., |signal| !known.contains(&signal.id)).collect()
    }

    fn all_taken(&self) -> MutexGuard<'_, Vec<Signal>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub fn notify(
        &self,
        asked: Option<&Asked>,
        kind: &'static str,
        data: impl IntoIterator<Item = (&'static str, String)>,
    ) {
        self.began.fetch_or(asked.is_none(), Ordering::Relaxed);
        let mut data: BTreeMap<&str, String> = data.into_iter().collect();
        data.insert("connector_name", self.connector.clone());
        self.progress.notify(Notification {
            id: asked.map_or_else(|| "initial".to_owned(), |asked| asked.id.clone()),
            aggregate: match asked.is_some_and(Asked::is_incremental) {
                true => "Incremental Snapshot",
                false => "Initial Snapshot",
            },
            kind,
            data,
            at_ms: now_us() / 1000,
        });
    }

    /// The rows of this one are read now, among those of others.
    pub fn in_progress(&self, asked: Option<&Asked>, name: &str, all: Vec<String>) {
        let current = ("current_collection_in_progress", name.to_owned());
        self.notify(asked, "IN_PROGRESS", [Some(current), listed(&all)].into_iter().flatten());
    }

    /// The rows of a collection are out, so many, or will not be: `status` says how it ended. `all`: what the request
    /// was for, or of an incremental one what is left of it.
    pub fn scanned(&self, asked: Option<&Asked>, name: String, (status, rows): (&str, u64), all: &[String]) {
        let data = [
            ("scanned_collection", name),
            ("status", status.to_owned()),
            ("total_rows_scanned", rows.to_string()),
        ];
        self.notify(asked, "TABLE_SCAN_COMPLETED", data.into_iter().chain(listed(all)));
    }

    /// No rows are read at this start: told once, and not where some were.
    pub fn skipped(&self) {
        if !self.began.load(Ordering::Relaxed) {
            self.notify(None, "SKIPPED", []);
        }
    }

    /// A request was taken up: the rows of all these will be read, but for those of which it is said why not.
    pub fn started(&self, asked: &Asked, all: &[String], refused: &[(String, &str)]) {
        self.notify(Some(asked), "STARTED", [("data_collections", all.join(","))]);
        for (name, status) in refused {
            self.scanned(Some(asked), name.clone(), (status, 0), all);
        }
        if all.len() == refused.len() {
            self.notify(Some(asked), "COMPLETED", []);
        }
    }

    /// Every request among these is through.
    pub fn completed<'a>(&self, of_each: impl Iterator<Item = Option<&'a Asked>>) {
        let mut told: Vec<Option<&str>> = Vec::new();
        for asked in of_each {
            let id = asked.map(|asked| asked.id.as_str());
            if !told.contains(&id) {
                self.all_taken().retain(|signal| Some(signal.id.as_str()) != id);
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
                if wanted.is_empty() {
                    self.all_taken().clear();
                }
                // Of none named: of all.
                let all = || Wanted::parse(".*").into_iter().collect();
                self.stop(if wanted.is_empty() { all() } else { wanted });
                self.paused.send_replace(false);
                self.notify(Some(&asked), "ABORTED", []);
            }
            // By the signal topic it comes once more, too, until its offset is committed.
            Action::Execute(_) if self.all_taken().iter().any(|taken| taken.id == asked.id) => {
                tracing::info!(id = %asked.id, "these rows are being read already");
            }
            Action::Execute(execute) => {
                self.stop(Vec::new());
                return Some((Asked { blocking: execute.blocking, ..asked }, execute));
            }
        }
        None
    }
}

/// The ways by which signals come that are not the source's own.
#[derive(Debug, Default)]
pub struct Ears {
    /// Given back by attempts that could not do what they say.
    again: VecDeque<Signal>,
    /// The daemon passes on what REST takes.
    daemon: Option<mpsc::Receiver<Signal>>,
    file: Option<SignalFile>,
    /// What was heard, in this attempt or in one before.
    requests: Option<Arc<Requests>>,
}

impl Ears {
    pub fn daemon(self, signals: mpsc::Receiver<Signal>) -> Self {
        Self { daemon: Some(signals), ..self }
    }

    pub fn file(self, file: Option<SignalFile>) -> Self {
        Self { file, ..self }
    }

    /// What was asked for until now. Of what an attempt before took up, it is heard once more what the notes of this
    /// one do not know.
    pub fn requests(&mut self, connector: &str, progress: &Arc<Progress>, notes: &Notes) -> Arc<Requests> {
        let new = || Arc::new(Requests::new(connector, progress.clone()));
        let requests = self.requests.get_or_insert_with(new).clone();
        self.again.extend(requests.untold(notes));
        requests
    }

    /// The next signal; never, where nobody can send one. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        if let Some(signal) = self.again.pop_front() {
            return signal;
        }
        let daemon = async {
            match &mut self.daemon {
                Some(signals) => signals.recv().await,
                None => None,
            }
        };
        let file = async {
            match &mut self.file {
                Some(file) => file.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(signal) = daemon => signal,
            signal = file => signal,
        }
    }

    /// It comes once more, in the next attempt.
    pub fn again(&mut self, signal: Signal) {
        self.again.push_back(signal);
    }
}

/// The request that a note is about. One that is through says nothing: somebody may ask by the same id again.
fn asked_id(note: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Of {
        asked: Asked,
        state: String,
    }
    serde_json::from_str::<Of>(note).ok().filter(|of| of.state != "done").map(|of| of.asked.id)
}

/// Very many are not named each time.
fn listed(all: &[String]) -> Option<(&'static str, String)> {
    (all.len() <= NAMED_MAX).then(|| ("data_collections", all.join(",")))
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
    async fn a_signal_that_an_attempt_could_not_follow_comes_again_and_before_others() {
        let (sender, receiver) = signal::signals();
        let mut ears = Ears::default().daemon(receiver);
        for id in ["one", "two"] {
            sender.try_send(signal::parse(id, "pause-snapshot", &json!({})).unwrap()).unwrap();
        }
        let first = ears.next().await;
        ears.again(first);
        assert_eq!((ears.next().await.id, ears.next().await.id), ("one".into(), "two".into()));
    }

    #[test]
    fn a_request_is_heard_once_more_unless_a_position_knows_it_or_it_is_through() {
        let requests = Requests::new("orders", Arc::new(Progress::default()));
        let take = |id: &str| {
            let data = json!({"data-collections": ["s.a"]});
            requests.taken(signal::parse(id, "execute-snapshot", &data).unwrap());
        };
        let asked = |id: &str| Asked { id: id.to_owned(), ..Asked::default() };
        let ids = |notes: &Notes| requests.untold(notes).into_iter().map(|s| s.id).collect::<Vec<_>>();
        ["known", "lost", "through"].iter().for_each(|id| take(id));
        requests.completed([Some(&asked("through"))].into_iter());
        let note = |state: &str, id: &str| json!({"state": state, "asked": asked(id)}).to_string();
        let notes = [("a", note("reading", "known")), ("b", note("done", "lost")), ("c", "{}".to_owned())];
        let notes = Notes::from(notes.map(|(key, text)| (key.to_owned(), text)));
        assert_eq!(ids(&notes), ["lost"]);
        assert!(ids(&notes).is_empty(), "given twice");
        // One that is open is not taken up a second time, whatever way it comes.
        let again =
            signal::parse("known", "execute-snapshot", &json!({"data-collections": ["s.a"]})).unwrap();
        assert!(requests.hear(again).is_none());
        take("stopped");
        assert!(heard(&requests, "stop-snapshot", json!({"data-collections": ["s.b"]})).is_none());
        assert_eq!(ids(&Notes::new()), ["known", "stopped"]);
        take("stopped");
        assert!(heard(&requests, "stop-snapshot", json!({})).is_none());
        assert!(ids(&Notes::new()).is_empty());
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
        requests.started(&asked, &[], &[]);
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
