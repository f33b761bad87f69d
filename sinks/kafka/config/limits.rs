//! `[sink.kafka.transaction]`: when a Kafka transaction ends, and how long each wait may last.

use std::time::Duration;

use millrace_core::error::Error;
use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTransaction {
    pub records_max: Option<u64>,
    pub bytes_max: Option<u64>,
    pub age_max_ms: Option<u64>,
    pub cut_bytes: Option<u64>,
    pub timeout_ms: Option<u64>,
}

/// Beyond librdkafka's own timeouts: a call that takes longer does not come back.
const WATCH_SLACK: Duration = Duration::from_secs(5);

/// When a Kafka transaction is committed. See `transaction::close_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub records_max: u64,
    pub bytes_max: u64,
    pub age_max: Duration,
    /// A source transaction above this many bytes is cut over several Kafka transactions.
    pub cut_bytes: u64,
    /// After this long the broker aborts a transaction that nobody ended.
    pub timeout: Duration,
}

/// Each of these lies within the one after it, so that what is slow fails where it can be told why.
impl Limits {
    /// A record that is not delivered by then fails, while its transaction can still be ended in order.
    pub fn delivery(&self) -> Duration {
        self.timeout * 2 / 3
    }

    /// One call and its repetitions.
    pub fn call(&self) -> Duration {
        self.timeout * 9 / 10
    }

    /// Ending a transaction, from the order on: the flush, the wait for the one before it, and the commit
    /// call together. The broker ends it by then anyway.
    pub fn ending(&self) -> Duration {
        self.timeout
    }

    /// Whoever waits for one of the above gives up.
    pub fn watch(&self) -> Duration {
        self.ending() + WATCH_SLACK
    }

    pub(super) fn are_nested(&self) -> bool {
        self.delivery() < self.call() && self.call() < self.ending() && self.ending() < self.watch()
    }
}

pub(super) fn limits(raw: &RawTransaction, wrong: &mut Vec<Error>) -> Limits {
    let limits = Limits {
        records_max: raw.records_max.unwrap_or(20_000),
        bytes_max: raw.bytes_max.unwrap_or(8 * 1024 * 1024),
        // Well below the age of a transaction that anybody notices, well above a commit.
        age_max: Duration::from_millis(raw.age_max_ms.unwrap_or(50)),
        cut_bytes: raw.cut_bytes.unwrap_or(64 * 1024 * 1024),
        // Also how long committed readers wait when we die and nobody takes over.
        timeout: Duration::from_millis(raw.timeout_ms.unwrap_or(30_000)),
    };
    let positive = [
        ("records_max", limits.records_max),
        ("bytes_max", limits.bytes_max),
        ("cut_bytes", limits.cut_bytes),
    ];
    for (name, value) in positive {
        if value == 0 {
            wrong.push(
                Error::config(format!("sink.kafka.transaction.{name} is 0"))
                    .hint("give a positive number or leave it out"),
            );
        }
    }
    if !(Duration::from_secs(5)..=Duration::from_secs(900)).contains(&limits.timeout) {
        wrong.push(
            Error::config(format!(
                "sink.kafka.transaction.timeout_ms is {}, outside 5000 to 900000",
                limits.timeout.as_millis()
            ))
            .hint("timeout_ms = 30000 in [sink.kafka.transaction]; brokers refuse more than their transaction.max.timeout.ms"),
        );
    } else if limits.age_max > limits.timeout / 3 {
        wrong.push(
            Error::config(format!(
                "sink.kafka.transaction.age_max_ms is {}, above a third of timeout_ms",
                limits.age_max.as_millis()
            ))
            .hint("age_max_ms = 50 in [sink.kafka.transaction]"),
        );
    } else {
        assert!(limits.are_nested(), "a wait ends after the one around it: {limits:?}");
    }
    limits
}
