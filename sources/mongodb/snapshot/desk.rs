//! Where the reader of chunks and the stream's thread meet. Orders go to the stream, outcomes come back; both
//! queues are longer than what can be under way, so that nobody waits in them.

use tokio::sync::{mpsc, oneshot};

use crate::resume_token::ClusterTime;
use crate::snapshot::collection::Unread;
use crate::snapshot::tracker::{Outcome, Read};

/// More than the orders and outcomes of all chunks under way.
const PLACES: usize = 64;

/// What the reader asks of the stream's thread.
#[derive(Debug)]
pub enum Order {
    /// Watch a new chunk of this collection from now on, and say which one it is and of what time.
    Open { collection: usize, reply: oneshot::Sender<(u64, ClusterTime)> },
    /// The documents of a chunk.
    Read(Box<Read>),
    /// The chunk could not be read.
    Cancel(u64),
    /// More collections, behind those that are known.
    Add(Vec<Unread>),
    /// No more of this collection.
    Drop(usize),
}

/// The stream's side.
#[derive(Debug)]
pub struct Desk {
    pub orders: mpsc::Receiver<Order>,
    outcomes: mpsc::Sender<Outcome>,
}

/// The reader's side.
#[derive(Debug)]
pub struct Counter {
    pub orders: mpsc::Sender<Order>,
    pub outcomes: mpsc::Receiver<Outcome>,
}

pub fn desk() -> (Desk, Counter) {
    let (orders_in, orders) = mpsc::channel(PLACES);
    let (outcomes, outcomes_out) = mpsc::channel(PLACES);
    (Desk { orders, outcomes }, Counter { orders: orders_in, outcomes: outcomes_out })
}

impl Desk {
    pub fn tell(&self, outcome: Outcome) {
        // A reader that is gone ends the whole run by itself.
        let _ = self.outcomes.try_send(outcome);
    }
}
