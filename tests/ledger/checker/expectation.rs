//! The journal as the events that a consumer must see, per key and in order.

use std::collections::HashMap;

use crate::journal::{Did, Entry};
use crate::snapshot::Begins;
use crate::tables::{Form, TABLES};

/// One expected record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Index into the journal.
    pub entry: usize,
    pub part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Create,
    Update,
    Delete,
    Tombstone,
}

pub type Key<'a> = (usize, &'a str);

pub struct Expectation<'a> {
    pub journal: &'a [Entry],
    begins: &'a Begins,
    pub keys: HashMap<Key<'a>, Vec<Expected>>,
    /// For each journal entry the one that last wrote the same row before it.
    pub previous: Vec<Option<usize>>,
    /// The number of expected events of each source transaction.
    pub events_due: HashMap<u64, u64>,
    /// The last truncation of each table that had one.
    pub truncated: HashMap<usize, i64>,
}

impl<'a> Expectation<'a> {
    pub fn of(journal: &'a [Entry], begins: &'a Begins) -> Expectation<'a> {
        let mut keys: HashMap<Key<'a>, Vec<Expected>> = HashMap::new();
        let mut rows: HashMap<Key<'a>, usize> = HashMap::new();
        let mut previous = Vec::with_capacity(journal.len());
        let mut events_due: HashMap<u64, u64> = HashMap::new();
        let mut truncated = HashMap::new();
        for (index, entry) in journal.iter().enumerate() {
            let key = (entry.table, &*entry.key);
            previous.push(rows.remove(&key));
            if begins.emits(entry.table, entry.xid) {
                *events_due.entry(entry.xid).or_default() += entry.did.events(entry.table);
            }
            let mut expect = |key: Key<'a>, parts: &[Part]| {
                let parts = parts.iter().map(|part| Expected { entry: index, part: *part });
                keys.entry(key).or_default().extend(parts);
            };
            match entry.did {
                Did::Insert => expect(key, &[Part::Create]),
                Did::Update => expect(key, &[Part::Update]),
                Did::Delete if TABLES[entry.table].form == Form::Keyless => expect(key, &[Part::Delete]),
                Did::Delete => expect(key, &[Part::Delete, Part::Tombstone]),
                Did::Truncate => {
                    rows.retain(|(table, _), _| *table != entry.table);
                    truncated.insert(entry.table, entry.seq);
                    continue;
                }
                Did::Rekey => {
                    expect(key, &[Part::Delete, Part::Tombstone]);
                    expect((entry.table, entry.now_at()), &[Part::Create]);
                }
            }
            if entry.did != Did::Delete {
                rows.insert((entry.table, entry.now_at()), index);
            }
        }
        Expectation { journal, begins, keys, previous, events_due, truncated }
    }

    pub fn entry(&self, expected: Expected) -> &'a Entry {
        &self.journal[expected.entry]
    }

    /// It comes as itself. What does not is in the first snapshot of its table, and comes as a row at most.
    pub fn is_emitted(&self, expected: Expected) -> bool {
        let entry = self.entry(expected);
        self.begins.emits(entry.table, entry.xid)
    }

    /// The row as it was before the entry's change.
    pub fn row_before(&self, entry: usize) -> Option<&'a Entry> {
        self.previous.get(entry).copied().flatten().and_then(|index| self.journal.get(index))
    }
}

impl Entry {
    /// The key under which the row stands after the change.
    fn now_at(&self) -> &str {
        self.new_key.as_deref().unwrap_or(&self.key)
    }
}
