//! Faults planted into what was read, to show that the checker finds them.

use serde::Serialize;

use crate::checker::Counts;
use crate::events::{Body, Cell, Event, Op, Problem, ProblemKind};
use crate::random::Random;
use crate::tables::{Form, TABLES};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Dropped,
    Doubled,
    Swapped,
    Torn,
    FieldChanged,
    Phantom,
    /// One event in a Kafka transaction of its own.
    Divided,
    PositionFell,
    /// The events give another row than the table has.
    Folded,
    /// A record at a place where nothing was committed.
    Misplaced,
    Undecodable,
}

impl Fault {
    pub const ALL: [Fault; 11] = [
        Fault::Dropped,
        Fault::Doubled,
        Fault::Swapped,
        Fault::Torn,
        Fault::FieldChanged,
        Fault::Phantom,
        Fault::Divided,
        Fault::PositionFell,
        Fault::Folded,
        Fault::Misplaced,
        Fault::Undecodable,
    ];

    /// The count that must not be zero once the fault is planted.
    pub fn shows_in(self, counts: &Counts) -> u64 {
        match self {
            Fault::Dropped => counts.lost,
            Fault::Doubled => counts.doubled,
            Fault::Swapped => counts.reordered,
            Fault::Torn | Fault::Divided => counts.torn,
            Fault::PositionFell => counts.position_regression,
            Fault::Folded => counts.fold_mismatch,
            Fault::Misplaced => counts.uncommitted_extra,
            Fault::Undecodable => counts.unresolved_schema,
            Fault::FieldChanged => counts.hash_mismatch,
            Fault::Phantom => counts.phantom,
        }
    }
}

/// What was read, with a fault in it.
pub struct Planting {
    pub events: Vec<Event>,
    pub problems: Vec<Problem>,
    pub place: String,
}

/// The events with one fault in them, and where; `None` if they hold no place for it.
pub fn plant(events: &[Event], fault: Fault, random: &mut Random) -> Option<Planting> {
    if events.is_empty() {
        return None;
    }
    let start = random.below_usize(events.len());
    let at = (0..events.len()).map(|i| (start + i) % events.len()).find(|at| fits(events, *at, fault))?;
    let mut planted = events.to_vec();
    let place = events[at].place.clone();
    let mut problems = Vec::new();
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
        Fault::Divided => {
            if let Some(tx) = &mut planted[at].tx {
                tx.ordinal += 1 << 32;
            }
        }
        Fault::PositionFell => {
            if let Some(position) = &mut planted[at].position {
                (position.change_lsn, position.final_lsn) = (0, 0);
            }
        }
        Fault::Folded => {
            if let Body::Change(change) = &mut planted[at].body
                && let Some(Cell::Hash(hash)) = change.after.as_mut().and_then(|row| row.first_mut())
            {
                *hash ^= 1;
            }
        }
        Fault::Misplaced => planted[at].place.offset += 1 << 32,
        Fault::Undecodable => {
            planted.remove(at);
            let text = "its schema does not resolve".to_owned();
            problems.push(Problem { place: place.clone(), kind: ProblemKind::Unresolved, text });
        }
        Fault::Phantom => {
            let mut event = events[at].clone();
            if let Body::Change(change) = &mut event.body {
                change.seq = change.seq.map(|seq| -seq);
            }
            planted.insert(at + 1, event);
        }
    }
    Some(Planting { events: planted, problems, place: place.to_string() })
}

fn fits(events: &[Event], at: usize, fault: Fault) -> bool {
    let event = &events[at];
    let Some(change) = event.change() else {
        return matches!(fault, Fault::Dropped | Fault::Misplaced | Fault::Undecodable);
    };
    let lies = |e: &Event| (e.table, e.place.partition) == (event.table, event.place.partition);
    match fault {
        Fault::Dropped | Fault::Doubled | Fault::Misplaced | Fault::Undecodable => true,
        Fault::Divided => {
            let same = |e: &Event| e.place.offset != event.place.offset && lies(e) && e.tx == event.tx;
            event.position.is_some() && events.iter().any(same)
        }
        Fault::PositionFell => {
            let before = events.get(..at).unwrap_or_default();
            event.position.is_some() && before.iter().any(lies)
        }
        Fault::Folded => {
            let later = events.get(at + 1..).unwrap_or_default();
            let of_key = |e: &Event| e.table == event.table && e.key == event.key;
            // A truncation takes a row away without an event.
            let stays = TABLES[event.table].form != Form::Loose;
            stays && change.after.is_some() && !later.iter().any(of_key)
        }
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
