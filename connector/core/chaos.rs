//! Faults that a test orders from inside the process: a place where it dies, and rules that are switched off.
//!
//! [`Point`] is the one list of places; the code passes each with [`pass`]. An order ([`arm`]) is obeyed in
//! builds with debug assertions only: a release build refuses it, and its `pass` is empty.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// Declares the places and their names in orders, once.
macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)+) => {
        /// A place where the process can be told to die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $point,)+
        }

        impl Point {
            pub const ALL: &[Point] = &[$(Point::$point),+];

            pub fn name(self) -> &'static str {
                match self {
                    $(Point::$point => $name,)+
                }
            }
        }
    };
}

points! {
    /// A first start, on its way to the first position.
    CreatingCommitted = "creating-committed",
    SlotCreated = "slot-created",
    FirstPositionCommitted = "first-position-committed",
    TopicCreated = "topic-created",
    SchemaRegistered = "schema-registered",
    /// Every opening: each of these is passed once a producer, the last two once.
    BeforeInit = "before-init",
    AfterInit = "after-init",
    Claimed = "claimed",
    PositionRead = "position-read",
    SlotChecked = "slot-checked",
    /// A Kafka transaction on its way: each record, the end of a batch, the position, and everything
    /// acknowledged but not yet committed.
    RecordEnqueued = "record-enqueued",
    BatchEnqueued = "batch-enqueued",
    PositionEnqueued = "position-enqueued",
    Flushed = "flushed",
    /// Committed, and nobody but the producer's thread knows it.
    Committed = "committed",
    /// Inside a source transaction.
    CutCommitted = "cut-committed",
    /// A position without data.
    IdleCommitted = "idle-committed",
    /// Rows of a snapshot are in their batch, which is not sent.
    ChunkPlaced = "chunk-placed",
    /// A dead letter is in its batch, which is not sent.
    LetterPlaced = "letter-placed",
    /// A replay of dead letters has a letter's records and its mark acknowledged, or committed.
    ReplayFlushed = "replay-flushed",
    ReplayCommitted = "replay-committed",
    /// The source knows of the delivery and has not confirmed it.
    Unconfirmed = "unconfirmed",
    ConfirmSent = "confirm-sent",
    BeforeAbort = "before-abort",
    Aborted = "aborted",
    Fenced = "fenced",
    /// An orderly end: asked for, and with everything delivered.
    Stopping = "stopping",
    Closed = "closed",
}

const NOBODY: usize = usize::MAX;
static ARMED: AtomicUsize = AtomicUsize::new(NOBODY);
static LEFT: AtomicU32 = AtomicU32::new(0);
static RECYCLE_OFF: AtomicBool = AtomicBool::new(false);

/// Takes an order: words parted by commas, `crash:<point>:<k>` to die when the point is passed for the k-th
/// time, `recycle-off` to keep producers after a doubtful commit. An error says what can be ordered.
pub fn arm(order: &str) -> Result<(), String> {
    if !cfg!(debug_assertions) {
        return Err("this build takes no orders for faults: build the daemon with debug assertions".into());
    }
    for word in order.split(',') {
        match word.split(':').collect::<Vec<_>>().as_slice() {
            ["recycle-off"] => RECYCLE_OFF.store(true, Ordering::Relaxed),
            ["crash", name, times] => {
                let point = Point::ALL.iter().position(|point| point.name() == *name);
                let times = times.parse().ok().filter(|times| *times > 0);
                let (Some(point), Some(times)) = (point, times) else { return Err(known(word)) };
                LEFT.store(times, Ordering::Relaxed);
                ARMED.store(point, Ordering::Relaxed);
            }
            _ => return Err(known(word)),
        }
    }
    Ok(())
}

fn known(word: &str) -> String {
    let names: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
    format!("no fault is called {word}; crash:<point>:<k> takes the points {}", names.join(" "))
}

/// Dies here if that was ordered: no destructor runs, nothing is flushed, as with SIGKILL.
#[inline]
pub fn pass(point: Point) {
    if cfg!(debug_assertions)
        && ARMED.load(Ordering::Relaxed) == point as usize
        && LEFT.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

/// Whether a doubtful commit is to be taken for a good one.
#[inline]
pub fn recycle_off() -> bool {
    cfg!(debug_assertions) && RECYCLE_OFF.load(Ordering::Relaxed)
}

/// A rule of the pipeline that a test breaks, to see that the breach is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A source goes on where the sink's position is.
    Begin,
    /// Every batch is encoded.
    Every,
    /// Each batch is sent once.
    Once,
    /// A position is told when it is settled.
    Settled,
    /// A batch that could not be sent ends the attempt.
    Stop,
}

thread_local! {
    static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
}

/// Breaks a rule in every pipeline of this thread, or none any more.
pub fn break_rule(rule: Option<Rule>) {
    BROKEN.set(rule);
}

#[inline]
pub fn is_broken(rule: Rule) -> bool {
    cfg!(debug_assertions) && BROKEN.get() == Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_nobody_knows_is_refused_with_the_names_of_all_points() {
        for order in ["crash:nowhere:1", "crash:claimed:0", "crash:claimed", "sleep"] {
            let error = arm(order).unwrap_err();
            assert!(Point::ALL.iter().all(|point| error.contains(point.name())), "{error}");
        }
    }

    #[test]
    fn a_point_is_found_by_its_place_in_the_list() {
        for (index, point) in Point::ALL.iter().enumerate() {
            assert_eq!(*point as usize, index);
        }
    }
}
