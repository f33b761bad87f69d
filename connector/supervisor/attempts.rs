//! The life of one connector: attempt after attempt, each from `Sink::open`, until it is told to stop or an
//! error says that trying again cannot help. Where instances stand by for each other, each attempt waits for
//! its turn and ends with it. A connector that is paused or stopped holds its turn and makes no attempt.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_core::encode::Format;
use millrace_core::error::{Error, Kind, Result};
use millrace_core::pipeline;
use millrace_core::progress::{Progress, State};
use millrace_core::retry::Backoff;
use millrace_core::sink::Sink;
use millrace_core::source::Source;
use millrace_core::turn::Turn;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{Ended, Told, Wanted};

/// Runs one source into one sink; ends only when told to or when trying again cannot help. `turn`: other
/// instances stand by, and one at a time is at work.
pub async fn run<S: Source, K: Sink>(
    source: S,
    sink: K,
    format: Format,
    progress: Arc<Progress>,
    told: Told,
    mut turn: Option<Turn>,
) -> Ended {
    let ended = attempts(source, sink, format, progress, told, &mut turn).await;
    if let Some(turn) = turn {
        // The next one need not wait until this one is missed.
        turn.leave().await;
    }
    ended
}

async fn attempts<S: Source, K: Sink>(
    mut source: S,
    mut sink: K,
    format: Format,
    progress: Arc<Progress>,
    mut told: Told,
    turn: &mut Option<Turn>,
) -> Ended {
    let mut backoff = Backoff::default();
    let mut trouble = Trouble::default();
    info!("starting");
    // Whoever starts it anew may have mended what something waits for.
    progress.holds.try_now();
    loop {
        if !ready(&mut told, turn.as_mut(), &progress).await {
            return over(&told, &progress);
        }
        let before = delivered(&progress);
        let (end, ending) = watch::channel(false);
        let running = pipeline::run(&mut source, &mut sink, format.clone(), progress.clone(), ending);
        let (attempt, why) = until_told(running, end, &mut told, turn.as_mut()).await;
        let moved = delivered(&progress) != before;
        if moved {
            backoff.reset();
            trouble.over();
        }
        let error = match attempt {
            Ok(()) if told.is_over() => return over(&told, &progress),
            // It is held now, or was and is no longer.
            Ok(()) if why == Why::Told => continue,
            // The turn may be back by now; it was lost all the same, and has to be proved anew.
            Ok(()) if why == Why::TurnOver => {
                info!("the turn was lost");
                continue;
            }
            Ok(()) => Error::transient("the pipeline ended without a reason").hint("it is started anew"),
            Err(error) => error,
        };
        if error.kind() == Kind::Record {
            progress.failed_events.fetch_add(1, Ordering::Relaxed);
        }
        match next(error.kind(), turn.is_some()) {
            Next::Again => trouble.tell(&error),
            Next::End => return failed(&error, &progress),
        }
        let state = match error.kind() {
            // Whoever took over is the active one now, or this one's turn comes again.
            Kind::Fenced => State::Standby,
            Kind::Config | Kind::Transient | Kind::Record | Kind::Fatal => error.shown_state(),
        };
        progress.show(state, Some(error.to_string()), error.hint_text().map(str::to_owned));
        tokio::select! {
            biased;
            () = told.no_longer(Wanted::Running) => {}
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
        if told.is_over() {
            return over(&told, &progress);
        }
        progress.restarts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until it is this instance's turn and the connector is wanted at work; `false` where the run is over.
async fn ready(told: &mut Told, mut turn: Option<&mut Turn>, progress: &Progress) -> bool {
    loop {
        if let Some(turn) = &mut turn {
            tokio::select! {
                biased;
                () = told.over() => return false,
                () = turn.come(progress) => {}
            }
            if progress.shown().state == State::Standby {
                info!("it is this instance's turn");
                // Another one may have delivered it meanwhile.
                progress.holds.try_now();
                progress.show(State::Starting, None, None);
            }
        }
        if told.is_over() {
            return false;
        }
        if !hold(told, turn.as_deref_mut(), progress).await {
            return true;
        }
    }
}

/// Waits while the connector is held, and says whether it was; its turn stays with it meanwhile.
async fn hold(told: &mut Told, turn: Option<&mut Turn>, progress: &Progress) -> bool {
    let wanted = told.wanted();
    let Some(state) = wanted.held() else { return false };
    info!(state = state.name(), "held");
    progress.show(state, None, None);
    tokio::select! {
        () = told.no_longer(wanted) => {}
        () = turn_over(turn) => {}
    }
    if told.wanted() == Wanted::Running {
        progress.show(State::Starting, None, None);
    }
    true
}

async fn turn_over(turn: Option<&mut Turn>) {
    match turn {
        Some(turn) => turn.over().await,
        None => std::future::pending().await,
    }
}

/// Why an attempt was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    ByItself,
    Told,
    TurnOver,
}

/// Runs one attempt. It ends in good order when it is told to, and when its turn is over.
async fn until_told(
    attempt: impl Future<Output = Result<()>>,
    end: watch::Sender<bool>,
    told: &mut Told,
    turn: Option<&mut Turn>,
) -> (Result<()>, Why) {
    let mut attempt = pin!(attempt);
    let why = tokio::select! {
        biased;
        ended = &mut attempt => return (ended, Why::ByItself),
        () = told.no_longer(Wanted::Running) => Why::Told,
        () = turn_over(turn) => Why::TurnOver,
    };
    end.send_replace(true);
    (attempt.await, why)
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

/// What an error of each kind means for the connector. `stands_by`: one of several instances.
fn next(kind: Kind, stands_by: bool) -> Next {
    match kind {
        Kind::Fenced if stands_by => Next::Again,
        Kind::Transient => Next::Again,
        // The policy for rejects was applied before: what arrives here is to stop at.
        Kind::Record => Next::End,
        // The rival is at work: opening again would only fence it in turn.
        Kind::Fenced => Next::End,
        Kind::Config | Kind::Fatal => Next::End,
    }
}

fn over(told: &Told, progress: &Progress) -> Ended {
    if told.is_stopped() {
        info!("stopped");
        progress.show(State::Stopped, None, None);
    }
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
