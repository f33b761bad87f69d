//! Where the readers of chunks and the stream's thread meet. Orders go to the stream, outcomes come back; all
//! queues are as long as there can be chunks and answers under way, so that nobody waits in them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use millrace_core::position::Note;
use millrace_core::signal::inserted::{self, Heard};
use tokio::sync::{mpsc, oneshot};

use crate::snapshot::chunk::{Opened, Read};
use crate::snapshot::sight::Sight;
use crate::snapshot::table::{Part, Unread};
use crate::snapshot::visibility::Visibility;
use crate::snapshot::window::Block;

/// More than the orders of all chunks under way.
const PLACES: usize = 1024;

/// A reader that says nothing for this long is gone: the stream must not stand still for it.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What the reader asks of the stream's thread.
#[derive(Debug)]
pub enum Order {
    /// Stop between two transactions and say which ones a snapshot has to see. Taken back by dropping the other
    /// end.
    Pause(oneshot::Sender<Vec<u32>>),
    /// Go on, watching a new chunk where a snapshot was taken.
    Resume(Option<Box<Opened>>),
    /// Watch a new chunk and stand still for as long as its table is read.
    Hold(Box<Opened>),
    /// Go on until everything has come that a snapshot of several tables saw, and stand still there.
    Block(Box<Block>),
    /// Go on behind that.
    Unblock,
    /// Another chunk under a snapshot that is known.
    Open(Box<Opened>),
    /// The rows of a chunk.
    Read(Box<Read>),
    /// How a table is cut, before its first chunk.
    Cut { table: usize, key: Vec<String>, parts: Vec<Part> },
    /// What its snapshot saw of an outbox, before the first of its rows.
    Saw { table: usize, sight: Sight },
    /// More tables, behind those that are known. Where a row of the signal table asked for them, the key of its
    /// note: it is done.
    Add { unread: Vec<Unread>, row: Option<String> },
    /// No more of this table.
    Drop(usize),
    /// These transactions have ended.
    Seen(Visibility),
    /// To be remembered with the next position.
    Note(Note),
}

/// The stream's side.
#[derive(Debug)]
pub struct Desk {
    pub orders: Receiver<Order>,
    /// Where rows of the signal table go.
    pub heard: mpsc::Sender<Heard>,
    /// Wants the stream to stop at the next end of a transaction.
    pub wanted: Option<oneshot::Sender<Vec<u32>>>,
    paused: Option<Instant>,
    /// Until it is told to go on.
    held: bool,
}

/// `is_held`: the stream stands still from its beginning, until it is told to go on.
pub fn desk(is_held: bool) -> (Desk, SyncSender<Order>, mpsc::Receiver<Heard>) {
    let (orders_in, orders) = sync_channel(PLACES);
    let (heard, heard_out) = inserted::way();
    (Desk { orders, heard, wanted: None, paused: None, held: is_held }, orders_in, heard_out)
}

impl Desk {
    pub fn is_paused(&mut self) -> bool {
        self.paused.take_if(|since| since.elapsed() > PAUSE_MAX);
        self.held || self.paused.is_some()
    }

    /// Stands still until `resume`. False where it went on already.
    pub fn hold(&mut self) -> bool {
        let stood = self.is_paused();
        self.held = stood;
        stood
    }

    /// At the end of a transaction: stands still until `resume`, if that is still waited for.
    pub fn stand(&mut self, (standing, may_come): (oneshot::Sender<bool>, bool)) {
        self.held = standing.send(may_come).is_ok() && may_come;
    }

    /// At the end of a transaction: stops, if that is wanted and still waited for.
    pub fn pause(&mut self, streamed: impl FnOnce() -> Vec<u32>) {
        if let Some(reply) = self.wanted.take()
            && reply.send(streamed()).is_ok()
        {
            self.paused = Some(Instant::now());
        }
    }

    /// Whether the stream stood still until now: otherwise it went on without knowing of the snapshot.
    pub fn resume(&mut self) -> bool {
        let stood = self.is_paused();
        (self.paused, self.held) = (None, false);
        stood
    }
}
