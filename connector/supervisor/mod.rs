//! Starts every connector as a task of its own, sees to it while it runs, and says how it ended. Start at
//! `Supervisor::start`; `attempts` is the loop of one connector, `watchdog` what watches its progress.

mod attempts;
mod watchdog;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_core::error::Kind;
use millrace_core::progress::{Progress, State};
use millrace_core::signal::{self, Signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{Instrument, error, info_span};

pub use attempts::{failed, run as attempts};

use crate::config;
use crate::{registry, telemetry};

/// One connector as the rest of the daemon sees it.
#[derive(Debug)]
pub struct Connector {
    pub settings: config::Connector,
    pub progress: Arc<Progress>,
    /// For what is asked of it while it runs.
    pub signals: mpsc::Sender<Signal>,
    /// The connector's end, until it is started.
    pub heard: Mutex<Option<mpsc::Receiver<Signal>>>,
}

impl Connector {
    pub fn new(settings: config::Connector) -> Self {
        let (signals, heard) = signal::signals();
        Self { settings, progress: Arc::default(), signals, heard: Mutex::new(Some(heard)) }
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }
}

/// How a connector ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As it was asked to.
    Stopped,
    Failed(Kind),
}

pub struct Supervisor {
    pub connectors: Arc<[Arc<Connector>]>,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<Ended>,
    ended: Vec<Ended>,
}

impl Supervisor {
    pub fn start(connectors: Vec<config::Connector>) -> Self {
        let (stopping, listen) = watch::channel(false);
        let connectors: Arc<[_]> = connectors.into_iter().map(|c| Arc::new(Connector::new(c))).collect();
        let mut tasks = JoinSet::new();
        for connector in connectors.iter() {
            let span = info_span!("connector", connector = connector.name());
            tasks.spawn(see_to(connector.clone(), listen.clone()).instrument(span));
        }
        Self { connectors, stopping, tasks, ended: Vec::new() }
    }

    /// Waits until every connector has ended. Cancel-safe.
    pub async fn all_ended(&mut self) -> &[Ended] {
        while let Some(ended) = self.tasks.join_next().await {
            // Only a bug in this file ends a task without a word; the others go on.
            self.ended.push(ended.unwrap_or(Ended::Failed(Kind::Fatal)));
        }
        &self.ended
    }

    /// Asks every connector to deliver what is whole and to end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Connectors that are still at work.
    pub fn running(&self) -> usize {
        self.tasks.len()
    }
}

/// Runs one connector and watches its progress meanwhile.
async fn see_to(connector: Arc<Connector>, stopping: watch::Receiver<bool>) -> Ended {
    let progress = connector.progress.clone();
    let drive = async move {
        let signals = connector.heard.lock().unwrap_or_else(PoisonError::into_inner).take();
        registry::drive(&connector.settings, connector.progress.clone(), signals, stopping).await
    };
    let watching = async {
        let mut watchdog = watchdog::Watchdog::new(watchdog::PATIENCE);
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            watchdog.look(&progress);
        }
    };
    tokio::select! {
        biased;
        ended = contain(drive, &progress) => ended,
        never = watching => never,
    }
}

/// Runs it in a task of its own, so that a panic ends this connector and no other.
async fn contain(drive: impl Future<Output = Ended> + Send + 'static, progress: &Progress) -> Ended {
    tokio::spawn(drive.in_current_span()).await.unwrap_or_else(|_| panicked(progress))
}

/// Often enough for a state that means "for a minute", cheap enough to forget.
const WATCH_EVERY: Duration = Duration::from_secs(1);

fn panicked(progress: &Progress) -> Ended {
    let reason = match telemetry::last_panic() {
        Some(place) => format!("a broken rule inside the daemon: panic at {place}"),
        None => "a broken rule inside the daemon: panic".to_owned(),
    };
    let hint = "nothing is lost: what was not delivered comes again after a restart; please report the place";
    error!(hint, "{reason}");
    progress.show(State::Failed, Some(reason), Some(hint.to_owned()));
    Ended::Failed(Kind::Fatal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_connector_and_says_so() {
        let (broken, healthy) = (Progress::default(), Progress::default());
        let panics = async { panic!("a rule is broken") };
        assert_eq!(contain(panics, &broken).await, Ended::Failed(Kind::Fatal));
        assert_eq!(contain(async { Ended::Stopped }, &healthy).await, Ended::Stopped);
        assert_eq!(broken.shown().state, State::Failed);
        assert!(broken.shown().reason.is_some_and(|reason| reason.contains("panic")));
        assert_eq!(healthy.shown().state, State::Starting);
    }
}
