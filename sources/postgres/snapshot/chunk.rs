//! A chunk on its way: opened under a snapshot, read, and placed between two transactions.

use std::collections::{HashMap, HashSet};

use millrace_core::batch::{
    Before, Cell, Change, ChangeBatch, Op, Part, Row, SnapshotMark, Tag, Transaction,
};
use millrace_core::position::Mark;
use millrace_core::relation::Relation;
use tokio::sync::mpsc;

use crate::snapshot::key::Key;
use crate::snapshot::visibility::Visibility;
use crate::snapshot::window::Touched;

/// A chunk whose snapshot was taken: from here on, until its rows are placed, changes of its table are watched.
#[derive(Debug)]
pub struct Opened {
    pub id: u64,
    /// Index of its table.
    pub table: usize,
    pub seen: Visibility,
    pub turn: Turn,
    /// Where to tell what became of it.
    pub outcomes: mpsc::Sender<Outcome>,
}

/// When the rows of a chunk may be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// When the message with the chunk's own number has come.
    Message,
    /// The same, and a row goes out before that where a change would overtake it: the stream stood still until
    /// the rows were here.
    Overtaken,
    /// As they come: rows without a key, which no change can be told to be of. The message with this number ends
    /// the table.
    AtOnce { last: u64 },
    /// As they come, too: the stream stands still, behind everything that the snapshot saw.
    Standing,
}

/// Which rows of its table a chunk holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// The next ones of this part of the table.
    Part(usize),
    /// Those with these keys.
    Keys(Vec<Key>),
}

/// What was read of a chunk.
#[derive(Debug)]
pub struct Read {
    pub id: u64,
    /// Its changes have no marks yet.
    pub rows: ChangeBatch,
    pub oid: u32,
    /// As of the chunk's snapshot.
    pub relation: Relation,
    pub of: Of,
    /// The row of its part that it comes after.
    pub after: Option<Vec<String>>,
    /// The last row of its part.
    pub last: Option<Vec<String>>,
    pub ended: bool,
    /// No other table's rows come after this one's.
    pub is_last_table: bool,
    /// Microseconds since 1970.
    pub read_at_us: i64,
}

/// What became of a chunk.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Too much changed under it, or it came after one of which that is true: to be read again after `last`.
    pub spoiled: bool,
    /// How far its part is.
    pub last: Option<Vec<String>>,
    pub ended: bool,
    /// Rows of it that are on their way.
    pub placed: u64,
    /// Some of the keys that are to be read again.
    pub listed: Vec<Key>,
    /// All parts have ended, and no other chunk of the table is under way.
    pub is_alone: bool,
    /// The table is through.
    pub done: bool,
    /// Rows of the table, all in all.
    pub rows: u64,
    /// The table has to be read once more from its beginning.
    pub again: bool,
    /// To be used again.
    pub buffer: ChangeBatch,
}

/// A chunk between its snapshot and its place.
pub(super) struct Chunk {
    pub opened: Opened,
    /// The stream has passed everything that its snapshot saw.
    pub passed: bool,
    pub touched: Touched,
    /// With `Turn::Overtaken`: the rows that no change has overtaken, by their place among those read.
    pub waiting: HashMap<Key, usize>,
    /// And those that went out before their changes.
    pub out: HashSet<Key>,
    pub truncated: bool,
    pub spoiled: bool,
    pub read: Option<Read>,
}

impl Chunk {
    pub fn new(opened: Opened) -> Self {
        Self {
            passed: matches!(opened.turn, Turn::AtOnce { .. } | Turn::Standing),
            opened,
            touched: HashMap::new(),
            waiting: HashMap::new(),
            out: HashSet::new(),
            truncated: false,
            spoiled: false,
            read: None,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.read.is_some() && (self.passed || self.spoiled)
    }
}

/// A chunk whose turn has come.
pub struct Ready {
    pub(super) opened: Opened,
    pub(super) touched: Touched,
    pub(super) out: HashSet<Key>,
    pub(super) truncated: bool,
    pub spoiled: bool,
    pub read: Read,
}

impl Ready {
    pub fn tell(&self) -> mpsc::Sender<Outcome> {
        self.opened.outcomes.clone()
    }
}

/// Where the stream stands when a chunk is placed.
#[derive(Clone, Copy, Debug)]
pub struct Placing {
    /// End of what was streamed.
    pub end: u64,
    /// The chunk's own number, above those of all that were placed before.
    pub number: u64,
    pub previous_commit: Option<u64>,
}

/// Which words the first and the last row of a chunk get.
pub(super) struct Marks {
    pub first: SnapshotMark,
    pub is_first: bool,
    pub last: SnapshotMark,
    pub is_last: bool,
    /// How often the table was begun before.
    pub again: u32,
}

impl Marks {
    pub fn put(&self, at: Placing, seen: &Visibility, read_at_us: i64, batch: &mut ChangeBatch) {
        let again = self.again;
        let transaction =
            |mark| Transaction { again, ..transaction(seen, read_at_us, at.previous_commit, mark) };
        batch.transactions.extend([SnapshotMark::Row, self.first, self.last].map(transaction));
        if let Some(first) = batch.changes.first_mut().filter(|_| self.is_first) {
            first.transaction = 1;
        }
        if let Some(last) = batch.changes.last_mut().filter(|_| self.is_last) {
            // The only row of a table: the last one's word is the stronger, but not than the first one's of all.
            let is_only = last.transaction == 1 && self.first == SnapshotMark::First;
            last.transaction = if is_only && self.last == SnapshotMark::LastOfTable { 1 } else { 2 };
        }
    }
}

/// What stands for a source transaction with rows that were read.
pub(super) fn transaction(
    seen: &Visibility,
    read_at_us: i64,
    previous_commit: Option<u64>,
    snapshot: SnapshotMark,
) -> Transaction {
    // Debezium's first rows know of no commit before them.
    let previous_commit = previous_commit.filter(|_| snapshot == SnapshotMark::Incremental);
    let part = Part::default();
    let id = i64::from(seen.newest());
    Transaction { id, commit_ts_us: read_at_us, previous_commit, snapshot, again: 0, origin: None, part }
}

/// Whether the row after a change is known whole: each value came with it, or with the old row.
pub(super) fn is_whole(batch: &ChangeBatch, change: &Change) -> bool {
    let old = if change.has_before == Before::Full { batch.cells_of(change.before) } else { &[] };
    batch.cells_of(change.after).iter().enumerate().all(|(index, cell)| {
        cell.tag != Tag::Unchanged || old.get(index).is_some_and(|cell| cell.tag != Tag::Unchanged)
    })
}

/// A row of a chunk, before it is placed.
pub fn row(after: Row) -> Change {
    Change {
        op: Op::Read,
        has_before: Before::None,
        relation: 0,
        transaction: 0,
        mark: Mark::default(),
        before: Row::default(),
        after,
    }
}

/// The same row in another batch; `None` where that is full.
pub(super) fn copied(from: &ChangeBatch, row: Row, into: &mut ChangeBatch) -> Option<Row> {
    let start = u32::try_from(into.cells.len()).ok()?;
    for cell in from.cells_of(row) {
        let place = u32::try_from(into.bytes.len()).ok()?;
        into.bytes.extend_from_slice(if cell.tag == Tag::Text { from.text(*cell) } else { &[] });
        into.cells.push(Cell { start: place, ..*cell });
    }
    Some(Row { start, len: row.len })
}
