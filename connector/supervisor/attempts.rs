//! The life of one connector: attempt after attempt, each from `Sink::open`, until it is told to stop or an
//! error says that trying again cannot help.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_core::encode::Format;
use millrace_core::error::{Error, Kind};
use millrace_core::pipeline;
use millrace_core::progress::{Progress, State};
use millrace_core::retry::Backoff;
use millrace_core::sink::Sink;
use millrace_core::source::Source;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::Ended;

/// Runs one source into one sink; ends only when told to or when trying again cannot help.
pub async fn run<S: Source, K: Sink>(
    mut source: S,
    mut sink: K,
    format: Format,
    progress: Arc<Progress>,
    mut stopping: watch::Receiver<bool>,
) -> Ended {
    let mut backoff = Backoff::default();
    let mut trouble = Trouble::default();
    info!("starting");
    loop {
        let before = delivered(&progress);
        let attempt =
            pipeline::run(&mut source, &mut sink, format.clone(), progress.clone(), stopping.clone()).await;
        let moved = delivered(&progress) != before;
        if moved {
            backoff.reset();
            trouble.over();
        }
        let error = match attempt {
            Ok(()) if *stopping.borrow() => return stopped(&progress),
            Ok(()) => Error::transient("the pipeline ended without a reason").hint("it is started anew"),
            Err(error) => error,
        };
        if error.kind() == Kind::Record {
            progress.failed_events.fetch_add(1, Ordering::Relaxed);
        }
        match next(error.kind()) {
            Next::Again => trouble.tell(&error),
            Next::End => return failed(&error, &progress),
        }
        progress.show(error.shown_state(), Some(error.to_string()), error.hint_text().map(str::to_owned));
        // `wait_for` also ends when the daemon has gone.
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => return stopped(&progress),
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
        progress.restarts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Anything that only a working sink moves.
fn delivered(progress: &Progress) -> (u64, u64) {
    (progress.delivered.load(Ordering::Relaxed), progress.delivered_records.load(Ordering::Relaxed))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Again,
    End,
}

/// What an error of each kind means for the connector.
fn next(kind: Kind) -> Next {
    match kind {
        Kind::Transient => Next::Again,
        // The policy for rejects was applied before: what arrives here is to stop at.
        Kind::Record => Next::End,
        // The rival is at work: opening again would only fence it in turn.
        Kind::Fenced => Next::End,
        Kind::Config | Kind::Fatal => Next::End,
    }
}

fn stopped(progress: &Progress) -> Ended {
    info!("stopped");
    progress.show(State::Stopped, None, None);
    Ended::Stopped
}

/// Shows and logs an end for good.
pub fn failed(error: &Error, progress: &Progress) -> Ended {
    let state = error.shown_state();
    error!(state = state.name(), hint = error.hint_text(), "stopped for good: {error}");
    progress.show(state, Some(error.to_string()), error.hint_text().map(str::to_owned));
    Ended::Failed(error.kind())
}

/// Keeps a peer that is away from filling the log: each distinct message once, then counted.
#[derive(Debug, Default)]
struct Trouble {
    message: Option<String>,
    times: u64,
}

impl Trouble {
    fn tell(&mut self, error: &Error) {
        let message = error.to_string();
        self.times += 1;
        if self.message.as_deref() == Some(&message) {
            return;
        }
        warn!(hint = error.hint_text(), attempts = self.times, "trying again: {message}");
        self.message = Some(message);
    }

    /// Something was delivered: the next trouble is told again.
    fn over(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests;
