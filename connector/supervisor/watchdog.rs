//! Sees when a connector that is at work delivers nothing, and when it moves again.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millrace_core::progress::{Progress, State};
use tracing::{info, warn};

/// Longer than any commit, any leader election and any one batch takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What only a working sink moves.
type Moved = [u64; 3];

#[derive(Debug)]
pub struct Watchdog {
    patience: Duration,
    seen: Moved,
    seen_at: Instant,
}

/// What the state becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Stalled,
    Running,
}

impl Watchdog {
    pub fn new(patience: Duration) -> Self {
        Self { patience, seen: Moved::default(), seen_at: Instant::now() }
    }

    /// Looks once; changes the state shown where it must.
    pub fn look(&mut self, progress: &Progress) {
        self.look_at(progress, Instant::now());
    }

    fn look_at(&mut self, progress: &Progress, now: Instant) {
        // What is released moves the position alone, and where there is much in between makes no records for long.
        let moved = [&progress.delivered, &progress.delivered_records, &progress.moves]
            .map(|count| count.load(Ordering::Relaxed));
        // A stream that stands still for rows says so itself, however long they take to be sorted.
        let is_held = progress.snapshot().is_some_and(|figures| figures.holds_stream.is_some());
        let moves = moved != self.seen;
        if moves || is_held {
            self.seen = moved;
            self.seen_at = now;
        }
        let still = now.saturating_duration_since(self.seen_at);
        let waiting = progress.lag();
        // What waits alone is no reason for the rest to stand still.
        let state = if progress.is_at_work() { State::Running } else { progress.shown().state };
        match judge(state, moves, still.min(waiting), self.patience) {
            Verdict::Keep => {}
            Verdict::Stalled => {
                let reason = format!("changes wait, and none was delivered for {} s", still.as_secs());
                let hint = "see the log for what the source and the sink wait for; \
                            compare received and delivered in the status";
                warn!(hint, "stalled: {reason}");
                progress.show(State::Stalled, Some(reason), Some(hint.to_owned()));
            }
            Verdict::Running => {
                info!("delivering again");
                progress.show_at_work();
            }
        }
    }
}

/// `unmoved`: for how long a change has waited without anything being delivered; zero when drained.
fn judge(state: State, moves: bool, unmoved: Duration, patience: Duration) -> Verdict {
    match state {
        State::Running if unmoved >= patience => Verdict::Stalled,
        State::Stalled if moves || unmoved.is_zero() => Verdict::Running,
        // Every other state has a cause of its own.
        State::Starting
        | State::Running
        | State::Degraded
        | State::Stalled
        | State::PositionLost
        | State::PositionAhead
        | State::Standby
        | State::Paused
        | State::Fenced
        | State::Failed
        | State::Stopped => Verdict::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_core::hold::{Thing, Waiting};
    use millrace_core::progress::{SnapshotFigures, now_us};

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn only_a_running_connector_stalls_and_only_a_stalled_one_recovers() {
        let zero = Duration::ZERO;
        for (state, moves, unmoved, expected) in [
            (State::Running, false, MINUTE, Verdict::Stalled),
            (State::Running, false, MINUTE - Duration::from_secs(1), Verdict::Keep),
            (State::Running, true, zero, Verdict::Keep),
            (State::Stalled, true, zero, Verdict::Running),
            (State::Stalled, true, Duration::from_secs(5), Verdict::Running),
            (State::Stalled, false, zero, Verdict::Running),
            (State::Stalled, false, MINUTE * 2, Verdict::Keep),
            (State::Degraded, false, MINUTE * 2, Verdict::Keep),
            (State::Failed, true, zero, Verdict::Keep),
        ] {
            assert_eq!(judge(state, moves, unmoved, MINUTE), expected, "{state:?} {moves} {unmoved:?}");
        }
    }

    #[test]
    fn a_connector_that_catches_up_on_old_changes_does_not_stall() {
        let progress = Progress::default();
        progress.show(State::Running, None, None);
        progress.pending_since_us.store(now_us() - 3_600_000_000, Ordering::Relaxed);
        let mut watchdog = Watchdog::new(MINUTE);
        let start = Instant::now();
        for minute in 1..10 {
            progress.delivered.store(u64::from(minute), Ordering::Relaxed);
            watchdog.look_at(&progress, start + MINUTE * minute);
            assert_eq!(progress.shown().state, State::Running);
        }
    }

    #[test]
    fn changes_that_wait_without_delivery_stall_and_the_next_delivery_ends_it() {
        let progress = Progress::default();
        progress.show(State::Running, None, None);
        progress.pending_since_us.store(now_us() - 120_000_000, Ordering::Relaxed);
        let mut watchdog = Watchdog::new(MINUTE);
        let start = Instant::now();
        watchdog.look_at(&progress, start + MINUTE * 2);
        assert_eq!(progress.shown().state, State::Stalled);
        progress.delivered.store(7, Ordering::Relaxed);
        watchdog.look_at(&progress, start + MINUTE * 2 + Duration::from_secs(1));
        assert_eq!(progress.shown().state, State::Running);
    }

    #[test]
    fn a_connector_that_is_degraded_because_something_is_held_stalls_and_is_degraded_again() {
        let progress = Progress::default();
        let thing = Thing { relation: "a.b".into(), columns: Vec::new(), values: Vec::new() };
        let (since, why) = ("0/10".to_owned(), "refused".to_owned());
        progress.holds.stand(vec![Waiting {
            thing,
            topics: Vec::new(),
            since_ms: 1,
            since,
            why,
            hint: None,
        }]);
        progress.show_at_work();
        assert_eq!(progress.shown().state, State::Degraded);
        progress.pending_since_us.store(now_us() - 120_000_000, Ordering::Relaxed);
        let mut watchdog = Watchdog::new(MINUTE);
        let start = Instant::now();
        watchdog.look_at(&progress, start + MINUTE * 2);
        assert_eq!(progress.shown().state, State::Stalled);
        progress.delivered.store(7, Ordering::Relaxed);
        watchdog.look_at(&progress, start + MINUTE * 2 + Duration::from_secs(1));
        assert_eq!(progress.shown().state, State::Degraded);
        // Another trouble says so itself.
        progress.show(State::Degraded, Some("the database is away".to_owned()), None);
        watchdog.look_at(&progress, start + MINUTE * 5);
        assert_eq!(progress.shown().state, State::Degraded);
    }

    #[test]
    fn a_stream_that_stands_still_for_rows_is_not_stalled() {
        let progress = Progress::default();
        progress.show(State::Running, None, None);
        progress.pending_since_us.store(now_us() - 600_000_000, Ordering::Relaxed);
        let hold = |holds_stream| {
            progress.set_snapshot(SnapshotFigures { holds_stream, ..SnapshotFigures::default() })
        };
        let mut watchdog = Watchdog::new(MINUTE);
        let start = Instant::now();
        hold(Some("the events that an outbox holds".to_owned()));
        watchdog.look_at(&progress, start + MINUTE * 5);
        assert_eq!(progress.shown().state, State::Running);
        hold(None);
        watchdog.look_at(&progress, start + MINUTE * 5 + Duration::from_secs(59));
        assert_eq!(progress.shown().state, State::Running);
        watchdog.look_at(&progress, start + MINUTE * 6);
        assert_eq!(progress.shown().state, State::Stalled);
    }
}
