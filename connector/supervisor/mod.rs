//! Starts every connector as a task of its own, sees to it while it runs, and says how it ended. Start at
//! `Supervisor::start`; `connectors` is what the rest of the daemon sees of them, `orders` what is wanted of each,
//! `attempts` the loop of one, `watchdog` what watches its progress.

mod attempts;
mod connectors;
mod orders;
mod watchdog;

use std::sync::Arc;
use std::time::Duration;

use millrace_core::error::Kind;
use millrace_core::progress::{Progress, State};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{Instrument, error, info, info_span, warn};

pub use attempts::{failed, run as attempts};
pub use connectors::{Connector, Connectors};
pub use orders::{Told, Wanted};

use crate::config;
use crate::{registry, telemetry};

/// How a connector ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As it was asked to.
    Stopped,
    Failed(Kind),
}

pub struct Supervisor {
    pub connectors: Arc<Connectors>,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Supervisor {
    pub fn start(connectors: Vec<config::Connector>) -> Self {
        let mut supervisor =
            Self { connectors: Arc::default(), stopping: watch::Sender::new(false), tasks: JoinSet::new() };
        supervisor.load(connectors);
        supervisor
    }

    /// Has the connectors be these: new ones start, those whose files say something else begin anew from their
    /// positions, those that are gone end. The others are not touched.
    pub fn load(&mut self, loaded: Vec<config::Connector>) {
        let before = self.connectors.all();
        let mut after = Vec::with_capacity(loaded.len());
        for settings in loaded {
            let Some(known) = before.iter().find(|known| known.name() == settings.name) else {
                let connector = Arc::new(Connector::new(settings));
                let span = info_span!("connector", connector = connector.name());
                let stopping = self.stopping.subscribe();
                self.tasks.spawn(see_to(connector.clone(), stopping).instrument(span));
                after.push(connector);
                continue;
            };
            if known.settings().fingerprint != settings.fingerprint {
                info!(connector = known.name(), file = settings.file, "its file has changed: it begins anew");
                known.set_settings(settings);
                known.orders.begin_anew();
            }
            after.push(known.clone());
        }
        for gone in before.iter().filter(|old| after.iter().all(|new| new.name() != old.name())) {
            let name = gone.name();
            warn!(
                connector = name,
                hint = "its position and what the source keeps for it stay: put the file back, or remove them \
                        with `millrace remove`",
                "its file is gone: it ends"
            );
            gone.orders.dismiss();
        }
        self.connectors.set(after);
    }

    /// Waits until every connector has ended by itself. Cancel-safe.
    pub async fn all_ended(&self) -> Vec<Ended> {
        loop {
            let all = self.connectors.all();
            let ended: Vec<_> = all.iter().filter_map(|connector| *connector.ended.borrow()).collect();
            if ended.len() == all.len() {
                return ended;
            }
            // The next one to wait for; whether the others are still at their ends is asked again after it.
            if let Some(working) = all.iter().find(|connector| connector.ended.borrow().is_none()) {
                let mut ended = working.ended.subscribe();
                let _ = tokio::time::timeout(WATCH_EVERY, ended.wait_for(Option::is_some)).await;
            }
        }
    }

    /// Asks every connector to deliver what is whole and to end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits until all have done so. Cancel-safe.
    pub async fn drained(&mut self) {
        // Only a bug in this file ends a task without a word.
        while self.tasks.join_next().await.is_some() {}
    }

    /// Connectors that are still at work.
    pub fn running(&self) -> usize {
        self.tasks.len()
    }
}

/// Sees to one connector until it is no longer wanted: run after run, where it is to begin anew.
async fn see_to(connector: Arc<Connector>, stopping: watch::Receiver<bool>) {
    loop {
        let mut told = connector.orders.told(stopping.clone());
        connector.ended.send_replace(None);
        let ended = one_run(&connector, told.clone()).await;
        if !told.is_over() {
            connector.ended.send_replace(Some(ended));
            told.over().await;
        }
        if told.is_stopped() {
            return;
        }
        connector.progress.show(State::Starting, None, None);
    }
}

/// Runs one connector and watches its progress meanwhile.
async fn one_run(connector: &Arc<Connector>, told: Told) -> Ended {
    let progress = connector.progress.clone();
    let (settings, signals, own) = (connector.settings(), connector.hear(), progress.clone());
    let drive = async move { registry::drive(&settings, own, signals, told).await };
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
