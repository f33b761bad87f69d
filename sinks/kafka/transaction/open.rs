//! The transactions of a session: the one that records go into, and those that are being ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_core::position::Position;
use tokio::sync::oneshot;

use crate::closing::Standing;
use crate::producer::{Committed, Gate, Trouble};
use crate::traced::Traced;

/// The transaction that records go into.
pub struct Open {
    pub begun: Instant,
    pub newest_batch: Instant,
    pub records: u64,
    pub bytes: u64,
    /// Bytes of the source transaction that the newest record is of, and which one that is.
    pub source_bytes: u64,
    pub source: u64,
    pub end: Option<Position>,
    pub whole: bool,
    pub drained: bool,
    /// Where spans are wanted.
    pub traced: Option<Traced>,
}

impl Open {
    pub fn new(traced: Option<Traced>) -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            newest_batch: now,
            records: 0,
            bytes: 0,
            source_bytes: 0,
            source: 0,
            end: None,
            whole: false,
            drained: false,
            traced,
        }
    }

    /// The broker is about to end it: nothing more can come of it.
    pub fn is_overdue(&self, timeout: Duration) -> bool {
        self.begun.elapsed() > timeout * 9 / 10
    }

    pub fn standing(&self) -> Standing {
        Standing {
            records: self.records,
            bytes: self.bytes,
            source_bytes: self.source_bytes,
            age: self.begun.elapsed(),
            quiet: self.newest_batch.elapsed(),
            whole: self.whole,
            drained: self.drained,
            waits: false,
        }
    }
}

/// A transaction that is being ended.
pub struct Pending {
    pub nth: usize,
    pub given: Instant,
    /// Taken once it has answered: it must not be asked again.
    pub flushed: Option<oneshot::Receiver<()>>,
    pub is_flushed: bool,
    pub done: oneshot::Receiver<Result<Committed, Trouble>>,
    pub gate: Arc<Gate>,
    pub position: Option<Position>,
    pub records: u64,
    /// It ends inside a source transaction.
    pub cuts: bool,
    pub traced: Option<Traced>,
}
