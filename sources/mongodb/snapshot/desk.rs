//! Where the readers of chunks and the stream's thread meet. Orders go to the stream, outcomes come back, each to
//! whoever read its chunk.

use std::collections::HashMap;

use millrace_core::signal::inserted::{self, Heard};
use tokio::sync::{mpsc, oneshot};

use crate::resume_token::ClusterTime;
use crate::snapshot::collection::{IdPart, Unread};
use crate::snapshot::tracker::{Outcome, Read};

/// More than the orders of all chunks under way. A reader waits where there is no place, the stream never does.
const PLACES: usize = 1024;

/// What the readers ask of the stream's thread.
#[derive(Debug)]
pub enum Order {
    /// How a collection is cut, before its first chunk.
    Cut { collection: usize, parts: Vec<IdPart> },
    /// Watch a new chunk of this collection's part from now on, and say which one it is and of what time.
    Open { collection: usize, part: usize, reply: oneshot::Sender<(u64, ClusterTime)> },
    /// The documents of a chunk; what becomes of them is to be told.
    Read { read: Box<Read>, reply: oneshot::Sender<Outcome> },
    /// The chunk could not be read.
    Cancel(u64),
    /// More collections, behind those that are known. Where a document of the signal collection asked for them, the
    /// key of its note: it is done.
    Add { unread: Vec<Unread>, heard: Option<String> },
    /// No more of this collection.
    Drop(usize),
}

/// The stream's side.
#[derive(Debug)]
pub struct Desk {
    pub orders: mpsc::Receiver<Order>,
    /// Where documents of the signal collection go.
    pub heard: mpsc::Sender<Heard>,
    /// Who waits for the outcome of a chunk.
    readers: HashMap<u64, oneshot::Sender<Outcome>>,
}

pub fn desk() -> (Desk, mpsc::Sender<Order>, mpsc::Receiver<Heard>) {
    let (orders_in, orders) = mpsc::channel(PLACES);
    let (heard, heard_out) = inserted::way();
    (Desk { orders, heard, readers: HashMap::new() }, orders_in, heard_out)
}

impl Desk {
    pub fn expect(&mut self, chunk: u64, reply: oneshot::Sender<Outcome>) {
        self.readers.insert(chunk, reply);
    }

    pub fn tell(&mut self, outcome: Outcome) {
        if let Some(reader) = self.readers.remove(&outcome.chunk) {
            // A reader that is gone ends the whole run by itself.
            let _ = reader.send(outcome);
        }
    }
}
