//! Waiting for a peer where nothing is open: backoff, and a state that says for whom.

use std::pin::pin;
use std::time::Duration;

use millrace_core::error::Error;
use millrace_core::progress::{Progress, Shown, State};
use millrace_core::retry::Backoff;

/// Healthy brokers answer in milliseconds; a call that takes longer shows as waiting.
const SILENCE: Duration = Duration::from_secs(1);

/// One wait, over several tries. Dropped when it is over, it shows what was shown before.
pub struct Waiting<'a> {
    progress: &'a Progress,
    backoff: Backoff,
    before: Option<Shown>,
    reason: String,
}

impl<'a> Waiting<'a> {
    pub fn new(progress: &'a Progress) -> Self {
        Self { progress, backoff: Backoff::default(), before: None, reason: String::new() }
    }

    /// Shows why, says it once in the log, and waits until it is worth another try.
    pub async fn after(&mut self, error: &Error) {
        self.show(error);
        tokio::time::sleep(self.backoff.next_wait()).await;
    }

    /// Runs a call that may take its time, and shows `silent` once it does.
    pub async fn during<T>(&mut self, call: impl Future<Output = T>, silent: impl Fn() -> Error) -> T {
        let mut call = pin!(call);
        tokio::select! {
            biased;
            answer = &mut call => return answer,
            () = tokio::time::sleep(SILENCE) => self.show(&silent()),
        }
        call.await
    }

    fn show(&mut self, error: &Error) {
        self.reason = error.to_string();
        if self.before.is_none() {
            self.before = Some(self.progress.shown());
            tracing::warn!(reason = %error, hint = error.hint_text(), "waiting, and trying again");
        }
        self.progress.show(
            State::Degraded,
            Some(self.reason.clone()),
            error.hint_text().map(ToOwned::to_owned),
        );
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(before) = self.before.take() else { return };
        // Somebody else may have had more to say meanwhile.
        let shown = self.progress.shown();
        if shown.state == State::Degraded && shown.reason.as_deref() == Some(&self.reason) {
            self.progress.show(before.state, before.reason, before.hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_shown_before_comes_back_when_the_wait_is_over() {
        let progress = Progress::default();
        progress.show(State::Running, None, None);
        let mut waiting = Waiting::new(&progress);
        waiting.after(&Error::transient("the registry is away").hint("start it")).await;
        assert_eq!(progress.shown().state, State::Degraded);
        assert_eq!(progress.shown().hint.as_deref(), Some("start it"));
        drop(waiting);
        assert_eq!(progress.shown().state, State::Running);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_answered_shows_while_it_lasts() {
        let progress = Progress::default();
        let mut waiting = Waiting::new(&progress);
        let silent = || Error::transient("kafka is silent").hint("start it");
        assert_eq!(waiting.during(async { 1 }, silent).await, 1);
        assert_eq!(progress.shown().state, State::Starting);
        let slow = async {
            tokio::time::sleep(SILENCE * 2).await;
            progress.shown().reason
        };
        assert_eq!(waiting.during(slow, silent).await.as_deref(), Some("kafka is silent"));
        drop(waiting);
        assert_eq!(progress.shown().state, State::Starting);
    }
}
