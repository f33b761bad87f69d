//! What a source must do, and all that it sees of us: the feed.

use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::batch::ChangeBatch;
use crate::error::{Error, Result};
use crate::hold::{Holds, Lanes};
use crate::position::{Notes, Position};
use crate::progress::Progress;
use crate::relation::Relation;
use crate::report::Report;

pub trait Source: Send {
    /// Proves every precondition without changing anything.
    fn check(&self) -> impl Future<Output = Result<Report>> + Send;

    /// Proves that it can stream, or says in a classified error why not: asked before the sink is opened,
    /// because a daemon that cannot reach its database must not shut out a healthy one.
    /// What it sees meanwhile is shown in `progress`.
    fn preconditions(&self, progress: &Progress) -> impl Future<Output = Result<()>> + Send;

    /// What is captured, as it would be described now; nothing of what is known by its rows alone. Asked to judge whether
    /// a file fits, before there is a row.
    fn relations(&self) -> impl Future<Output = Result<Vec<Relation>>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Whether a part of what is captured can wait while the rest goes on.
    fn can_hold(&self) -> bool {
        false
    }

    /// The position with what waits from there on besides, and what the attempt that begins there holds and releases.
    fn hold(&self, from: Option<Position>, _holds: &Holds) -> Result<(Option<Position>, Lanes)> {
        Ok((from, Lanes::default()))
    }

    /// Fills batches in log order from `from` until told to stop. Confirms to the database only what
    /// `Feed::delivered` reports. Returns `Ok` only because the feed is stopping.
    fn run(&mut self, from: Option<Position>, feed: Feed) -> impl Future<Output = Result<()>> + Send;
}

/// An idle reader looks up this often for a stop, a delivery or a timer.
pub const TICK: Duration = Duration::from_millis(100);

/// Wait for a reusable batch before looking at the timers again.
pub const BATCH_WAIT: Duration = Duration::from_millis(20);

/// Whole rows go down after this long even when more is always there to read: a flood of transactions that
/// nobody captures must not hold them up.
pub const BATCH_AGE_MAX: Duration = Duration::from_millis(50);

/// A stop waits this long for the open transaction's end, and then for the last delivery. The daemon as a
/// whole has 10 s, and the sink's end wants some of them. What is not delivered by then comes again.
pub const STOP_OPEN_PATIENCE: Duration = Duration::from_secs(2);
pub const STOP_DELIVERY_PATIENCE: Duration = Duration::from_secs(4);

/// The pipeline is going down; the source ends its run with `Ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping;

/// Why a reader's loop ended.
#[derive(Debug)]
pub enum Ended {
    Stopping,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Stopping> for Ended {
    fn from(_: Stopping) -> Self {
        Self::Stopping
    }
}

/// The source's end of the shuttle. There are as many places in each direction as batches, so sending
/// never waits, and an empty batch coming back is the only back-pressure. Callable from a plain thread.
#[derive(Debug)]
pub struct Feed {
    pub(crate) empties: mpsc::Receiver<ChangeBatch>,
    pub(crate) full: tokio::sync::mpsc::Sender<ChangeBatch>,
    pub(crate) delivered: watch::Receiver<Option<Position>>,
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) seq: u64,
    /// What is held and released.
    pub lanes: Arc<Lanes>,
    /// What the source noted in earlier runs.
    pub notes: Notes,
    pub progress: Arc<Progress>,
}

impl Feed {
    /// Waits for a reusable batch, cleared; `Ok(None)` at the deadline. Blocks its thread.
    pub fn empty_until(&mut self, deadline: Instant) -> Result<Option<ChangeBatch>, Stopping> {
        match self.empties.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(mut batch) => {
                batch.clear();
                Ok(Some(batch))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(Stopping),
        }
    }

    /// Hands a full batch over. Never waits.
    pub fn send(&mut self, mut batch: ChangeBatch) -> Result<(), Stopping> {
        debug_assert!(batch.end.is_some(), "every batch carries a position");
        self.seq += 1;
        batch.seq = self.seq;
        self.full.try_send(batch).map_err(|_| Stopping)
    }

    /// The newest position that is durable in the sink, if any was settled in this run.
    pub fn delivered(&self) -> Option<Position> {
        self.delivered.borrow().clone()
    }

    /// True once after each move of `delivered`.
    pub fn delivered_moved(&mut self) -> bool {
        if !self.delivered.has_changed().unwrap_or(false) {
            return false;
        }
        self.delivered.mark_unchanged();
        true
    }

    /// Waits, on the async side, for `delivered` to move.
    pub async fn delivered_next(&mut self) -> Result<Option<Position>, Stopping> {
        self.delivered.changed().await.map_err(|_| Stopping)?;
        Ok(self.delivered.borrow_and_update().clone())
    }

    /// The daemon asks for an orderly end: send what is whole, wait for it to be delivered, then return.
    pub fn stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Ready once `stopping` is true: for what waits on the async side before the first batch.
    pub fn stop(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopping = self.stopping.clone();
        async move {
            // Whoever could ask is gone: the pipeline ends by other means.
            if stopping.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The pipeline has broken further down: nothing that is sent can be delivered any more.
    pub fn broken(&self) -> bool {
        // The watermark's sender falls with the sink's task, the receiver of batches with the encoder.
        self.full.is_closed() || self.delivered.has_changed().is_err()
    }
}
