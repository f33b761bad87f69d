//! When a Kafka transaction is committed: pure, so that the test is a table. Start at `close_reason`.

use std::time::Duration;

use crate::config::Limits;

/// Why a transaction is committed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// It holds nothing but a position.
    PositionOnly,
    /// The source has nothing more to read, or nothing more is coming for now.
    Drained,
    Records,
    Bytes,
    Age,
    /// Inside a source transaction that is larger than the cut size.
    Cut,
    /// Inside a source transaction whose rest does not come, or comes so slowly that the broker would end
    /// the transaction first.
    Stuck,
}

impl Close {
    /// It tears a source transaction.
    pub fn cuts(self) -> bool {
        match self {
            Close::Cut | Close::Stuck => true,
            Close::PositionOnly | Close::Drained | Close::Records | Close::Bytes | Close::Age => false,
        }
    }

    /// Says so of one that cuts, and what would keep such a transaction whole.
    pub fn tell_cut(self, records: u64, age: Duration) {
        let seconds = age.as_secs();
        match self {
            Close::Stuck => tracing::warn!(
                records,
                seconds,
                hint = "raise timeout_ms in [sink.kafka.transaction] to keep such ones whole",
                "a transaction of the source is delivered in parts: its end did not come in kafka's time"
            ),
            Close::Cut => tracing::info!(
                records,
                seconds,
                hint = "raise cut_bytes in [sink.kafka.transaction] to keep such ones whole",
                "a transaction of the source is delivered in parts: it is larger than cut_bytes"
            ),
            Close::PositionOnly | Close::Drained | Close::Records | Close::Bytes | Close::Age => {}
        }
    }
}

/// How an open transaction stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    pub records: u64,
    pub bytes: u64,
    /// Of these, the bytes of the newest source transaction.
    pub source_bytes: u64,
    /// Since it was begun.
    pub age: Duration,
    /// Since the newest batch.
    pub quiet: Duration,
    /// The newest batch ends where a source transaction ends.
    pub whole: bool,
    pub drained: bool,
    /// The transaction before it is still being committed, so that this one could not be yet either.
    pub waits: bool,
}

pub fn close_reason(standing: &Standing, limits: &Limits) -> Option<Close> {
    let s = standing;
    if s.whole {
        return match () {
            () if s.records >= limits.records_max => Some(Close::Records),
            () if s.bytes >= limits.bytes_max => Some(Close::Bytes),
            // What comes meanwhile goes into the same commit; asked again once the one before is through.
            () if s.waits => None,
            () if s.records == 0 => Some(Close::PositionOnly),
            () if s.drained => Some(Close::Drained),
            () if s.age >= limits.age_max => Some(Close::Age),
            () => None,
        };
    }
    if s.source_bytes >= limits.cut_bytes {
        return Some(Close::Cut);
    }
    if s.quiet >= quiet_max(limits) || s.age >= age_max(limits) {
        return Some(Close::Stuck);
    }
    None
}

/// How long from now until time alone may give a reason to close.
pub fn look_after(standing: &Standing, limits: &Limits) -> Duration {
    if standing.whole {
        return limits.age_max.saturating_sub(standing.age);
    }
    let quiet = quiet_max(limits).saturating_sub(standing.quiet);
    quiet.min(age_max(limits).saturating_sub(standing.age))
}

fn quiet_max(limits: &Limits) -> Duration {
    limits.timeout / 3
}

/// Leaves a third of the timeout to the commit. Without it, a source that drips batches without ever
/// ending its transaction would let the broker time ours out, at each replay anew.
fn age_max(limits: &Limits) -> Duration {
    limits.timeout * 2 / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        records_max: 100,
        bytes_max: 1_000,
        age_max: Duration::from_millis(50),
        cut_bytes: 10_000,
        timeout: Duration::from_secs(30),
    };

    #[test]
    fn a_transaction_is_committed_for_the_first_reason_that_holds() {
        let ms = Duration::from_millis;
        let whole = Standing { records: 1, bytes: 1, source_bytes: 1, whole: true, ..Standing::default() };
        let torn = Standing { whole: false, ..whole };
        let table = [
            ("nothing yet", whole, None),
            ("only a position", Standing { records: 0, ..whole }, Some(Close::PositionOnly)),
            ("drained", Standing { drained: true, ..whole }, Some(Close::Drained)),
            ("drained, behind a commit", Standing { drained: true, waits: true, ..whole }, None),
            ("full, behind a commit", Standing { bytes: 1_000, waits: true, ..whole }, Some(Close::Bytes)),
            ("drained inside a source transaction", Standing { drained: true, ..torn }, None),
            ("records", Standing { records: 100, ..whole }, Some(Close::Records)),
            ("one record less", Standing { records: 99, ..whole }, None),
            ("records inside a source transaction", Standing { records: 100, ..torn }, None),
            ("bytes", Standing { bytes: 1_000, ..whole }, Some(Close::Bytes)),
            (
                "bytes inside a source transaction",
                Standing { bytes: 9_999, source_bytes: 9_999, ..torn },
                None,
            ),
            ("many small source transactions, the last one open", Standing { bytes: 50_000, ..torn }, None),
            ("cut size", Standing { source_bytes: 10_000, ..torn }, Some(Close::Cut)),
            ("cut size, but whole", Standing { source_bytes: 10_000, bytes: 999, ..whole }, None),
            ("age", Standing { age: ms(50), ..whole }, Some(Close::Age)),
            ("age inside a source transaction", Standing { age: ms(50), ..torn }, None),
            (
                "rest does not come",
                Standing { quiet: ms(10_000), age: ms(10_000), ..torn },
                Some(Close::Stuck),
            ),
            ("rest may still come", Standing { quiet: ms(9_999), age: ms(9_999), ..torn }, None),
            ("rest drips", Standing { quiet: ms(1), age: ms(20_000), ..torn }, Some(Close::Stuck)),
        ];
        for (name, standing, expected) in table {
            assert_eq!(close_reason(&standing, &LIMITS), expected, "{name}");
        }
    }

    #[test]
    fn looking_again_when_told_finds_a_reason() {
        for whole in [true, false] {
            for (age, quiet) in [(0, 0), (49, 3), (15_000, 0), (19_990, 5)] {
                let (age, quiet) = (Duration::from_millis(age), Duration::from_millis(quiet));
                let mut standing = Standing { records: 1, whole, age, quiet, ..Standing::default() };
                let after = look_after(&standing, &LIMITS);
                standing.age += after;
                standing.quiet += after;
                assert!(close_reason(&standing, &LIMITS).is_some(), "{whole} {age:?} {quiet:?}");
            }
        }
    }
}
