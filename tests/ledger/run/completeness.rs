//! How many events of each source transaction have been seen, and which are there in part.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::events::{Body, Event, Op};

#[derive(Default)]
pub struct Completeness {
    counted: HashMap<u64, u64>,
    /// Transactions with new events since the last comparison, or incomplete at it.
    doubtful: BTreeSet<u64>,
    /// The delete that was last in a partition, with its transaction: a tombstone has none.
    deletes: HashMap<(usize, i32), (Box<str>, u64)>,
}

impl Completeness {
    /// Events come in the order of their partition.
    pub fn count(&mut self, event: &Event) {
        let partition = (event.table, event.place.partition);
        let delete = self.deletes.remove(&partition);
        let xid = match &event.body {
            Body::Tombstone => delete.filter(|(key, _)| *key == event.key).map(|(_, xid)| xid),
            Body::Change(change) => {
                if let (None, Some(xid)) = (&change.after, change.xid) {
                    self.deletes.insert(partition, (event.key.clone(), xid));
                }
                // A row of a snapshot is of no transaction.
                change.xid.filter(|_| change.op != Op::Read)
            }
        };
        if let Some(xid) = xid {
            *self.counted.entry(xid).or_default() += 1;
            self.doubtful.insert(xid);
        }
    }

    /// The transactions to compare with the journal.
    pub fn doubtful(&self) -> impl Iterator<Item = u64> {
        self.doubtful.iter().copied()
    }

    /// Those that are there in part, given how many events each must have.
    pub fn torn(&mut self, due: &BTreeMap<u64, u64>) -> Vec<String> {
        self.doubtful.retain(|xid| due.get(xid) != self.counted.get(xid));
        let text = |xid: &u64| {
            let (there, due) = (self.counted.get(xid).copied().unwrap_or(0), due.get(xid));
            format!("transaction {xid}: {there} events, and the journal says {due:?}")
        };
        self.doubtful.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Change, Place};

    fn event(partition: i32, key: &str, body: Body) -> Event {
        let place = Place { topic: "t".into(), partition, offset: 0 };
        Event { place, table: 0, key: key.into(), position: None, tx: None, attempt: 1, body }
    }

    fn change(op: Op, xid: u64) -> Body {
        let after = (op != Op::Delete).then(|| Box::from([]));
        Body::Change(Change { op, xid: Some(xid), seq: None, before: None, after })
    }

    #[test]
    fn a_transaction_with_all_its_events_is_complete() {
        let mut seen = Completeness::default();
        seen.count(&event(0, "a", change(Op::Create, 7)));
        seen.count(&event(1, "b", change(Op::Delete, 7)));
        seen.count(&event(0, "c", change(Op::Create, 8)));
        seen.count(&event(1, "b", Body::Tombstone));
        assert_eq!(seen.torn(&[(7, 3), (8, 1)].into()), Vec::<String>::new());
        assert_eq!(seen.doubtful().count(), 0);
    }

    #[test]
    fn a_transaction_with_a_part_of_its_events_is_torn_until_the_rest_is_there() {
        let mut seen = Completeness::default();
        seen.count(&event(0, "a", change(Op::Create, 7)));
        assert_eq!(seen.torn(&[(7, 2)].into()).len(), 1);
        seen.count(&event(1, "b", change(Op::Update, 7)));
        assert!(seen.torn(&[(7, 2)].into()).is_empty());
    }

    #[test]
    fn a_transaction_that_the_journal_does_not_have_is_never_complete() {
        let mut seen = Completeness::default();
        seen.count(&event(0, "a", change(Op::Create, 7)));
        assert_eq!(seen.torn(&BTreeMap::new()).len(), 1);
    }
}
