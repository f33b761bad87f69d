//! What moves between the stages: batches of changes out of a source, batches of records into a sink.
//!
//! Both are flat vectors over one byte buffer, cleared and used again: a warm batch allocates nothing per
//! row. Offsets instead of references, so that a batch owns its bytes without lifetimes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::position::{Mark, Note, Position};
use crate::relation::Relation;

/// Offsets are 32 bits wide, so a batch's bytes end below this.
pub const BATCH_BYTES_LIMIT: usize = u32::MAX as usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    Null,
    /// An unchanged TOAST value that the source did not send: not a null.
    Unchanged,
    /// UTF-8, checked when it was decoded.
    Text,
}

/// One value: a tag and a place in the batch's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub start: u32,
    pub len: u32,
    pub tag: Tag,
}

/// A value as encoders see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    Unchanged,
    /// UTF-8.
    Text(&'a [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Insert,
    Update,
    Delete,
    Truncate,
    /// A row as a snapshot found it.
    Read,
}

/// What a snapshot's row is in its snapshot. In Debezium's words, of which a row gets the strongest: the last
/// one first, then the first, then the same of its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotMark {
    /// A streamed change.
    #[default]
    No,
    Row,
    First,
    FirstOfTable,
    LastOfTable,
    Last,
    /// Read on request, of a table that is streamed already.
    Incremental,
}

impl SnapshotMark {
    pub fn name(self) -> &'static str {
        match self {
            SnapshotMark::No => "false",
            SnapshotMark::Row => "true",
            SnapshotMark::First => "first",
            SnapshotMark::FirstOfTable => "first_in_data_collection",
            SnapshotMark::LastOfTable => "last_in_data_collection",
            SnapshotMark::Last => "last",
            SnapshotMark::Incremental => "incremental",
        }
    }
}

/// Which columns of an old row were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Before {
    /// No old row.
    None,
    /// Only the columns of the replica identity; the others hold `Null` without being null.
    Key,
    Full,
}

/// The cells of a document's change: `Change::after` is a row of these for every operation, and
/// `Change::before` is empty. A part that the source did not send is `Null`.
pub mod document {
    /// The id as JSON: the record's key.
    pub const ID: usize = 0;
    /// Documents as JSON.
    pub const BEFORE: usize = 1;
    pub const AFTER: usize = 2;
    /// What an update set, as JSON; an update without the three below has no description.
    pub const UPDATED: usize = 3;
    /// Names, as an array prints: `{"a","b.c"}`.
    pub const REMOVED: usize = 4;
    /// Names and sizes in turn, as an array prints: `{"a","3"}`.
    pub const TRUNCATED: usize = 5;
    /// The logical session, as JSON, and the transaction's number in it.
    pub const SESSION: usize = 6;
    pub const TRANSACTION: usize = 7;
    /// The server's clock at the change, milliseconds since 1970.
    pub const WALL_MS: usize = 8;
    /// Where the document after an update comes from.
    pub const IMAGE: usize = 9;
    /// What happened to a whole collection, as JSON.
    pub const OPERATION: usize = 10;
    /// How many there are.
    pub const CELLS: usize = 11;
}

/// A range of `ChangeBatch::cells`: one cell a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub start: u32,
    pub len: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub op: Op,
    pub has_before: Before,
    /// Index into `ChangeBatch::relations`.
    pub relation: u32,
    /// Index into `ChangeBatch::transactions`.
    pub transaction: u32,
    pub mark: Mark,
    pub before: Row,
    /// Empty for deletes and truncates of rows.
    pub after: Row,
}

/// Once per source transaction and batch, not per row. The rows of a snapshot have one that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    pub id: i64,
    pub commit_ts_us: i64,
    /// Where the commit before this one ended, for the `sequence` of the source block.
    pub previous_commit: Option<u64>,
    pub snapshot: SnapshotMark,
    /// How often the rows of a table without a key were begun before these: what of them was delivered by then
    /// comes again.
    #[serde(default)]
    pub again: u32,
    /// Where it was made, if not in the source itself; a letter has it in words.
    #[serde(skip)]
    pub origin: Option<ReplicationOrigin>,
    /// For the metadata of transactions; a letter has none, because it is read long after its transaction.
    #[serde(skip)]
    pub part: Part,
}

/// The database that a transaction was replicated from, before it was logged in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicationOrigin {
    /// A text in the batch's bytes.
    pub name: Cell,
    /// Where it committed there; 0 where that was not told.
    pub commit: u64,
}

/// What metadata calls a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Name {
    /// A change outside of any transaction, or a snapshot's row: it has no metadata.
    #[default]
    None,
    /// Its number, with the place of its commit, or in Debezium's dialect with that of each record.
    Number { commit: u64 },
    /// A text in the batch's bytes.
    Text(Cell),
}

/// Which part of a transaction a batch holds. A source keeps it for every transaction of which it emits a
/// change; the end may come in a batch without changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub name: Name,
    /// Where it begins, in the batch that has its first change.
    pub begin: Option<u64>,
    /// Where it ends, in the batch after whose changes it does.
    pub end: Option<u64>,
    /// Changes up to this one were delivered before: they are here to be counted, and make no records.
    pub delivered: Option<Mark>,
}

/// A buffer of this size is always kept: several times what a batch holds by default.
const KEPT_BYTES: usize = 8 * 1024 * 1024;

/// Small uses in a row after which a large buffer is given back: one large batch in so many pays for its
/// memory anew.
const SMALL_USES: u8 = 8;

/// Notices that a batch keeps the memory of a huge row that came once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waste {
    /// Uses in a row that needed little of a large buffer.
    small_uses: u8,
}

impl Waste {
    /// After a use: whether the memory is to be given back.
    fn after(&mut self, bytes: &Vec<u8>) -> bool {
        let is_small = bytes.capacity() > KEPT_BYTES && bytes.len() < bytes.capacity() / 4;
        self.small_uses = if is_small { self.small_uses + 1 } else { 0 };
        let waste = self.small_uses >= SMALL_USES;
        if waste {
            self.small_uses = 0;
        }
        waste
    }
}

fn empty<T>(buffer: &mut Vec<T>, give_back: bool) {
    buffer.clear();
    if give_back {
        buffer.shrink_to(KEPT_BYTES / size_of::<T>().max(1));
    }
}

/// When a source closes a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    pub bytes_max: usize,
    pub rows_max: usize,
}

impl BatchLimits {
    /// At a transaction's end, or anywhere a quarter above: so small transactions stay whole, and large ones
    /// do not grow the batch without bound.
    pub fn are_reached(&self, batch: &ChangeBatch, whole: bool) -> bool {
        let above = |have: usize, limit: usize| have >= if whole { limit } else { limit + limit / 4 };
        above(batch.bytes.len(), self.bytes_max) || above(batch.changes.len(), self.rows_max)
    }
}

/// Changes on their way from a source to the encoder.
#[derive(Debug, Default)]
pub struct ChangeBatch {
    pub bytes: Vec<u8>,
    pub cells: Vec<Cell>,
    pub changes: Vec<Change>,
    pub transactions: Vec<Transaction>,
    pub relations: Vec<Arc<Relation>>,
    /// What the source remembers from this batch on, beside its position.
    pub notes: Vec<Note>,
    /// Where the source stands after this batch. `None` only in an empty batch at rest.
    pub end: Option<Position>,
    /// The batch ends where a transaction ends (or between transactions).
    pub whole: bool,
    /// The source has nothing more to read now: commit at once.
    pub drained: bool,
    /// Rises by one a batch; checked by the encoder and the sink. Set by the feed.
    pub seq: u64,
    pub waste: Waste,
}

impl ChangeBatch {
    pub fn clear(&mut self) {
        let waste = self.waste.after(&self.bytes);
        empty(&mut self.bytes, waste);
        empty(&mut self.cells, waste);
        empty(&mut self.changes, waste);
        empty(&mut self.transactions, waste);
        self.relations.clear();
        self.notes.clear();
        self.end = None;
        self.whole = false;
        self.drained = false;
    }

    /// Nothing in it but a position: no change, and no end of a transaction whose changes went before.
    pub fn is_idle(&self) -> bool {
        self.changes.is_empty() && self.transactions.is_empty()
    }

    pub fn cells_of(&self, row: Row) -> &[Cell] {
        let start = row.start as usize;
        self.cells.get(start..start + row.len as usize).unwrap_or_default()
    }

    pub fn value(&self, cell: Cell) -> Value<'_> {
        match cell.tag {
            Tag::Null => Value::Null,
            Tag::Unchanged => Value::Unchanged,
            Tag::Text => Value::Text(self.text(cell)),
        }
    }

    /// The bytes of a cell that is `Tag::Text`.
    #[inline]
    pub fn text(&self, cell: Cell) -> &[u8] {
        let start = cell.start as usize;
        self.bytes.get(start..start + cell.len as usize).unwrap_or_default()
    }
}

/// A range of `EncodedBatch::bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

/// One record for the sink.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The `Topic::index` that `Targets::topic` gave.
    pub topic: u32,
    pub partition: u32,
    pub key: Option<Span>,
    /// `None` is a tombstone.
    pub value: Option<Span>,
    /// Headers one after another: name length u16, name, value length u32, value, all little endian.
    pub headers: Span,
    /// Where the change lies, for messages about this record.
    pub mark: Mark,
    /// The record's own time, milliseconds since 1970; 0: when it is sent.
    pub time_ms: i64,
}

/// Stands for the length of a header's value that is null.
pub(crate) const HEADER_NULL: u32 = u32::MAX;

/// Records on their way from the encoder to a sink.
#[derive(Debug, Default)]
pub struct EncodedBatch {
    pub bytes: Vec<u8>,
    pub records: Vec<Record>,
    /// Durable together with the position.
    pub notes: Vec<Note>,
    pub end: Option<Position>,
    pub whole: bool,
    pub drained: bool,
    pub seq: u64,
    /// Commit time of the newest transaction in the batch, microseconds since 1970; 0 in an empty one.
    pub commit_ts_us: i64,
    /// How many of the records are dead letters.
    pub buried: u64,
    /// Up to which notification they tell, where they tell one.
    pub told: u64,
    pub waste: Waste,
}

impl EncodedBatch {
    pub fn clear(&mut self) {
        let waste = self.waste.after(&self.bytes);
        empty(&mut self.bytes, waste);
        empty(&mut self.records, waste);
        self.notes.clear();
        self.end = None;
        self.whole = false;
        self.drained = false;
        self.commit_ts_us = 0;
        self.buried = 0;
        self.told = 0;
    }

    pub fn slice(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.bytes.get(start..start + span.len as usize).unwrap_or_default()
    }

    /// The headers of a record, name and value; `None` for a null.
    pub fn headers(&self, record: &Record) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let mut rest = self.slice(record.headers);
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first_chunk::<2>()?;
            let (name, tail) = tail.split_at_checked(u16::from_le_bytes(*len) as usize)?;
            let (len, tail) = tail.split_first_chunk::<4>()?;
            let (value, tail) = match u32::from_le_bytes(*len) {
                HEADER_NULL => (None, tail),
                len => tail.split_at_checked(len as usize).map(|(value, tail)| (Some(value), tail))?,
            };
            rest = tail;
            Some((std::str::from_utf8(name).ok()?, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_twelve_bytes() {
        assert_eq!(size_of::<Cell>(), 12);
    }

    #[test]
    fn a_batch_closes_at_a_transaction_s_end_or_a_quarter_above_its_limit() {
        let limits = BatchLimits { bytes_max: 1000, rows_max: 100 };
        for (bytes, whole, full) in
            [(999, true, false), (1000, true, true), (1000, false, false), (1250, false, true)]
        {
            let batch = ChangeBatch { bytes: vec![0; bytes], ..ChangeBatch::default() };
            assert_eq!(limits.are_reached(&batch, whole), full, "{bytes} bytes, whole {whole}");
        }
    }

    #[test]
    fn a_cleared_batch_keeps_its_memory() {
        let mut batch = ChangeBatch { bytes: vec![1; 100], ..ChangeBatch::default() };
        batch.clear();
        assert!(batch.bytes.is_empty() && batch.bytes.capacity() >= 100);
    }

    #[test]
    fn the_memory_of_a_huge_row_is_given_back_after_some_small_batches_and_steady_large_ones_keep_theirs() {
        let mut batch = ChangeBatch::default();
        let mut clear_after = |bytes: usize| {
            batch.bytes.resize(bytes, 1);
            batch.clear();
            batch.bytes.capacity()
        };
        let huge = 10 * KEPT_BYTES;
        for _ in 0..3 * SMALL_USES {
            assert!(clear_after(huge) >= huge);
        }
        for _ in 1..SMALL_USES {
            assert!(clear_after(1_000) >= huge);
        }
        assert!(clear_after(1_000) <= KEPT_BYTES);
        for _ in 0..2 * SMALL_USES {
            assert!(clear_after(1_000) >= 1_000);
        }
    }

    #[test]
    fn headers_come_back_as_they_were_written() {
        let mut batch = EncodedBatch::default();
        batch.bytes.extend_from_slice(&[1, 0, b'a', 2, 0, 0, 0, b'x', b'y', 1, 0, b'b', 0, 0, 0, 0]);
        batch.bytes.extend_from_slice(&[1, 0, b'c', 255, 255, 255, 255, 1, 0, b'd', 1, 0, 0, 0, b'z']);
        let headers = Span { start: 0, len: 31 };
        let record = Record {
            topic: 0,
            partition: 0,
            key: None,
            value: None,
            headers,
            mark: Mark::default(),
            time_ms: 0,
        };
        let seen: Vec<_> = batch.headers(&record).collect();
        let expected: [(_, Option<&[u8]>); 4] =
            [("a", Some(b"xy")), ("b", Some(b"")), ("c", None), ("d", Some(b"z"))];
        assert_eq!(seen, expected);
    }
}
