//! What must hold at every moment: in each partition positions rise, and for each key the sequence numbers.

use std::collections::HashMap;

use crate::events::{Event, Op, Position};

/// So many are kept; one is enough to fail.
const KEPT: usize = 20;

#[derive(Default)]
pub struct Order {
    positions: HashMap<(usize, i32), Position>,
    seqs: HashMap<(usize, Box<str>), i64>,
    pub events: u64,
    pub found: Vec<String>,
}

impl Order {
    /// Events come in the order of their partition.
    pub fn see(&mut self, event: &Event) {
        self.events += 1;
        if let Some(position) = event.position {
            let before = self.positions.insert((event.table, event.place.partition), position);
            if let Some(before) = before.filter(|before| *before >= position) {
                self.note(|| format!("{} stands at {position:x?} after {before:x?}", event.place));
            }
        }
        let Some((change, seq)) = event.change().and_then(|change| Some((change, change.seq?))) else {
            return;
        };
        if change.op == Op::Read {
            return;
        }
        let before = self.seqs.insert((event.table, event.key.clone()), seq);
        if let Some(before) = before.filter(|before| *before >= seq) {
            self.note(|| format!("{}: key {} has seq {seq} after {before}", event.place, event.key));
        }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.found.len() < KEPT {
            self.found.push(text());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Body, Change, Place};

    fn event(offset: i64, change_lsn: u64, seq: i64) -> Event {
        let change = Change { op: Op::Update, xid: Some(7), seq: Some(seq), before: None, after: None };
        Event {
            place: Place { topic: "t".into(), partition: 0, offset },
            table: 0,
            key: "a".into(),
            position: Some(Position { final_lsn: 9, change_lsn, n: 0, sub: 0 }),
            tx: None,
            attempt: 1,
            body: Body::Change(change),
        }
    }

    #[test]
    fn rising_positions_and_sequences_are_in_order() {
        let mut order = Order::default();
        [event(0, 1, 1), event(1, 2, 2)].iter().for_each(|event| order.see(event));
        assert_eq!((order.events, order.found.len()), (2, 0));
    }

    #[test]
    fn an_event_seen_twice_is_out_of_order_by_position_and_by_sequence() {
        let mut order = Order::default();
        [event(0, 1, 1), event(1, 1, 1)].iter().for_each(|event| order.see(event));
        assert_eq!(order.found.len(), 2, "{:?}", order.found);
    }
}
