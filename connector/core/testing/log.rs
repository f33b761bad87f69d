//! The source's log: what was committed there, in order, and how it comes over the wire.

use std::sync::Arc;

use millrace_core::batch::{
    Before, Cell, Change, ChangeBatch, Op, Part, Row, SnapshotMark, Tag, Transaction,
};
use millrace_core::position::Mark;
use millrace_core::relation::{Column, Kind, Relation, Shape, SourceBlock};

use crate::random::Random;

/// One message of the log. Numbers of transactions and of changes count from 0 over the whole log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Begin {
        transaction: usize,
    },
    Change {
        transaction: usize,
        change: usize,
    },
    Commit {
        transaction: usize,
    },
    /// Nothing undelivered lies before this place.
    Alive {
        place: u64,
    },
}

#[derive(Clone, Debug)]
pub struct Committed {
    pub xid: u32,
    /// Where its commit record begins and ends.
    pub commit: u64,
    pub end: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Log {
    pub transactions: Vec<Committed>,
    /// Where each change lies. Its row's id is its number.
    pub changes: Vec<Mark>,
    pub events: Vec<Event>,
}

impl Log {
    pub fn new(random: &mut Random) -> Self {
        let mut log = Self::default();
        let mut place = 100;
        for transaction in 0..(3 + random.below(12)) as usize {
            log.events.push(Event::Begin { transaction });
            let from = log.changes.len();
            for _ in 0..random.below(9) {
                // COPY puts several changes at one place.
                let shares = log.changes.len() > from && random.chance(30);
                place += if shares { 0 } else { 10 };
                let n = if shares { log.changes.last().map_or(0, |last| last.n + 1) } else { 0 };
                log.events.push(Event::Change { transaction, change: log.changes.len() });
                log.changes.push(Mark { commit: 0, change: place, n });
            }
            let commit = place + 10;
            // Sometimes the next transaction's commit begins exactly where this one ends.
            place = commit + 10;
            for mark in log.changes.iter_mut().skip(from) {
                mark.commit = commit;
            }
            log.events.push(Event::Commit { transaction });
            let xid = 700 + transaction as u32;
            log.transactions.push(Committed { xid, commit, end: place });
            if random.chance(20) {
                place += 5;
                log.events.push(Event::Alive { place });
            }
        }
        log
    }

    /// The first message that a server sends to whoever asks from a place: it passes over transactions that
    /// end there or before.
    pub fn from(&self, place: u64) -> usize {
        let first = self.transactions.iter().position(|transaction| transaction.end > place);
        let begins = |event: &Event| match (event, first) {
            (Event::Begin { transaction }, Some(first)) => *transaction >= first,
            _ => false,
        };
        self.events.iter().position(begins).unwrap_or(self.events.len())
    }
}

/// A table of one column, the number of the change; each call makes a new version of it.
pub fn relation() -> Relation {
    let id = Column::new("id", Kind::Int64, false);
    Relation {
        version: Relation::next_version(),
        namespace: "public".to_owned(),
        name: "t".to_owned(),
        columns: vec![id],
        key: vec![0],
        identity: vec![0],
        shape: Shape::Rows,
        source: SourceBlock { schema_name: "Source", fields: Vec::new() },
    }
}

/// Adds a change to a batch, as a source does.
pub fn append(
    log: &Log,
    change: usize,
    transaction: usize,
    relation: &Arc<Relation>,
    batch: &mut ChangeBatch,
) {
    let version = |known: &Arc<Relation>| known.version == relation.version;
    let at = batch.relations.iter().position(version).unwrap_or_else(|| {
        batch.relations.push(relation.clone());
        batch.relations.len() - 1
    });
    let committed = &log.transactions[transaction];
    let id = i64::from(committed.xid);
    if batch.transactions.last().is_none_or(|last| last.id != id) {
        batch.transactions.push(Transaction {
            id,
            commit_ts_us: 1,
            previous_commit: None,
            snapshot: SnapshotMark::No,
            again: 0,
            origin: None,
            part: Part::default(),
        });
    }
    let text = change.to_string();
    let (start, len) = (batch.bytes.len() as u32, text.len() as u32);
    batch.bytes.extend_from_slice(text.as_bytes());
    let after = Row { start: batch.cells.len() as u32, len: 1 };
    batch.cells.push(Cell { start, len, tag: Tag::Text });
    batch.changes.push(Change {
        op: Op::Insert,
        has_before: Before::None,
        relation: at as u32,
        transaction: batch.transactions.len() as u32 - 1,
        mark: log.changes[change],
        before: Row::default(),
        after,
    });
}
