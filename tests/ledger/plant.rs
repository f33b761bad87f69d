//! Faults planted into what was read, to show that the checker finds them.

use serde::Serialize;

use crate::checker::Counts;
use crate::events::{Body, Cell, Event, Op};
use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Dropped,
    Doubled,
    Swapped,
    Torn,
    FieldChanged,
    Phantom,
}

impl Fault {
    pub const ALL: [Fault; 6] =
        [Fault::Dropped, Fault::Doubled, Fault::Swapped, Fault::Torn, Fault::FieldChanged, Fault::Phantom];

    /// The count that must not be zero once the fault is planted.
    pub fn shows_in(self, counts: &Counts) -> u64 {
        match self {
            Fault::Dropped => counts.lost,
            Fault::Doubled => counts.doubled,
            Fault::Swapped => counts.reordered,
            Fault::Torn => counts.torn,
            Fault::FieldChanged => counts.hash_mismatch,
            Fault::Phantom => counts.phantom,
        }
    }
}

/// The events with one fault in them, and where; `None` if they hold no place for it.
pub fn plant(events: &[Event], fault: Fault, random: &mut Random) -> Option<(Vec<Event>, String)> {
    if events.is_empty() {
        return None;
    }
    let start = random.below_usize(events.len());
    let at = (0..events.len()).map(|i| (start + i) % events.len()).find(|at| fits(events, *at, fault))?;
    let mut planted = events.to_vec();
    let place = events[at].place.to_string();
    match fault {
        Fault::Dropped => {
            planted.remove(at);
        }
        Fault::Doubled => planted.insert(at + 1, events[at].clone()),
        Fault::Swapped => planted.swap(at, next_of_key(events, at)?),
        Fault::Torn => {
            // All that the transaction has after this event: as if it had been cut in two.
            let xid = events[at].change()?.xid;
            let mut index = 0;
            planted.retain(|event| {
                index += 1;
                index <= at + 1 || event.change().is_none_or(|change| change.xid != xid)
            });
        }
        Fault::FieldChanged => {
            if let Body::Change(change) = &mut planted[at].body
                && let Some(Cell::Hash(hash)) = change.after.as_mut().and_then(|row| row.last_mut())
            {
                *hash ^= 1;
            }
        }
        Fault::Phantom => {
            let mut event = events[at].clone();
            if let Body::Change(change) = &mut event.body {
                change.seq = change.seq.map(|seq| -seq);
            }
            planted.insert(at + 1, event);
        }
    }
    Some((planted, place))
}

fn fits(events: &[Event], at: usize, fault: Fault) -> bool {
    let event = &events[at];
    let Some(change) = event.change() else { return fault == Fault::Dropped };
    match fault {
        Fault::Dropped | Fault::Doubled => true,
        Fault::Swapped => change.op != Op::Delete && next_of_key(events, at).is_some(),
        Fault::Torn => {
            let rest = &events[at + 1..];
            change.xid.is_some() && rest.iter().any(|e| e.change().is_some_and(|c| c.xid == change.xid))
        }
        Fault::FieldChanged => matches!(change.after.as_deref(), Some([.., Cell::Hash(_)])),
        Fault::Phantom => change.seq.is_some(),
    }
}

/// The next event of the same key, if it can be told from this one by its order alone.
fn next_of_key(events: &[Event], at: usize) -> Option<usize> {
    let event = &events[at];
    let next =
        (at + 1..events.len()).find(|i| events[*i].table == event.table && events[*i].key == event.key)?;
    events[next].change().is_some().then_some(next)
}
