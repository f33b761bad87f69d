//! What the decoder knows of the snapshots under way: which changes are in the rows, which rows were overtaken
//! by changes, and what has to be noted. Pure. Start at `Tracker`; the rules are in `snapshot`.

use std::collections::{HashSet, VecDeque};

use millrace_core::batch::{Before, Change, ChangeBatch, Op, Row, SnapshotMark, Tag, Transaction};
use millrace_core::position::{Mark, Note};
use millrace_core::relation::Relation;

use crate::snapshot::key::{self, Key};
use crate::snapshot::table::{Phase, TableNote, Unread, listed};
use crate::snapshot::visibility::Visibility;
use crate::tables::TableName;

/// Prefix of the messages that say how far the stream is.
pub const MESSAGE_PREFIX: &str = "millrace.chunk";

/// Keys of rows that changed under an open chunk. Above it the chunk is read again, smaller.
const TOUCHED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a key costs beside its bytes.
const KEY_OVERHEAD: usize = 48;

/// Listed keys that are read again at once.
const LISTED_AT_ONCE: usize = 500;

/// A chunk whose snapshot was taken: from here on, until its rows are placed, changes of its table are watched.
#[derive(Debug)]
pub struct Opened {
    pub id: u64,
    /// Index of its table.
    pub table: usize,
    pub seen: Visibility,
    pub turn: Turn,
}

/// When the rows of a chunk may be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// When the message with the chunk's own number has come.
    Message,
    /// As they come: rows without a key, which no change can be told to be of. The message with this number ends
    /// the table.
    AtOnce { last: u64 },
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
    /// Keys that were looked up, where it is not a range.
    pub requested: Option<Vec<Key>>,
    /// The last row of the range.
    pub last: Option<Vec<String>>,
    pub ended: bool,
    /// No table after this one has a row.
    pub is_last_table: bool,
    /// Microseconds since 1970.
    pub read_at_us: i64,
}

/// What became of a chunk.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Too much changed under it, or it came after one of which that is true: to be read again after this row.
    pub spoiled: bool,
    pub last: Option<Vec<String>>,
    pub ended: bool,
    /// Rows of the table that are on their way or delivered, all in all.
    pub rows: u64,
    /// Some of the keys that are to be read again.
    pub listed: Vec<Key>,
    /// The table is through.
    pub done: bool,
    /// To be used again.
    pub buffer: ChangeBatch,
}

struct Chunk {
    opened: Opened,
    /// The stream has passed everything that its snapshot saw.
    passed: bool,
    touched: HashSet<Key>,
    truncated: bool,
    spoiled: bool,
    read: Option<Read>,
}

struct Table {
    name: TableName,
    note: TableNote,
    /// The first snapshot and the number of its message, until that has come.
    first: Option<(Visibility, u64)>,
    /// Keys whose newest change did not carry the whole row.
    listed: HashSet<Key>,
}

pub struct Tracker {
    tables: Vec<Table>,
    /// Streamed transactions that no snapshot has shown as ended yet.
    streamed: Vec<u32>,
    /// In the order of their snapshots.
    chunks: VecDeque<Chunk>,
    touched_bytes: usize,
    notes: Vec<Note>,
    /// What makes our messages ours.
    token: String,
    /// Messages of ours in the transaction under way.
    arrived: Vec<u64>,
}

impl Tracker {
    /// `token` must be another one in every session.
    pub fn new(unread: Vec<Unread>, notes: Vec<Note>, token: String) -> Self {
        let table = |unread: Unread| {
            let first = unread.note.first.as_deref().and_then(Visibility::parse);
            Table {
                name: unread.table,
                // Its old message may have passed unseen: a new one is sent, with the number 0.
                first: first.map(|seen| (seen, 0)),
                note: unread.note,
                listed: unread.listed.into_iter().collect(),
            }
        };
        Self {
            tables: unread.into_iter().map(table).collect(),
            streamed: Vec::new(),
            chunks: VecDeque::new(),
            touched_bytes: 0,
            notes,
            token,
            arrived: Vec::new(),
        }
    }

    /// The index of a table that is not through.
    pub fn table(&self, schema: &str, table: &str) -> Option<usize> {
        let is_it = |t: &Table| t.name.schema == schema && t.name.table == table;
        let index = self.tables.iter().position(is_it)?;
        (!self.is_done(index)).then_some(index)
    }

    pub fn is_done(&self, table: usize) -> bool {
        self.tables.get(table).is_none_or(|table| table.note.state == Phase::Done)
    }

    /// Every table is through, and nothing is left to be noted.
    pub fn is_over(&self) -> bool {
        self.notes.is_empty() && (0..self.tables.len()).all(|index| self.is_done(index))
    }

    pub fn take_notes(&mut self, into: &mut Vec<Note>) {
        into.append(&mut self.notes);
    }

    /// Whether a change of this transaction is emitted: those that the first snapshot saw are in the rows.
    pub fn emits(&self, table: usize, xid: u32) -> bool {
        let Some(table) = self.tables.get(table) else { return true };
        match (table.note.state, &table.first) {
            (Phase::Pending, _) => false,
            (_, Some((seen, _))) => !seen.sees(xid),
            (_, None) => true,
        }
    }

    /// An emitted change of a row.
    pub fn changed(&mut self, index: usize, xid: u32, batch: &ChangeBatch, change: &Change, columns: &[u16]) {
        let Some(table) = self.tables.get_mut(index).filter(|_| !columns.is_empty()) else { return };
        let (old, new) = key::touched(batch, change, columns);
        if let Some(new) = &new {
            // Listed until it is whole again: a row that is dropped for this change would be lost otherwise.
            let listing = !is_whole(batch, change);
            let moved = if listing { table.listed.insert(new.clone()) } else { table.listed.remove(new) };
            if moved {
                self.notes.push(listed(&table.name, new, listing));
            }
        }
        if let Some(old) = &old
            && Some(old) != new.as_ref()
            && table.listed.remove(old)
        {
            self.notes.push(listed(&table.name, old, false));
        }
        let watching = self.chunks.iter_mut();
        for chunk in watching.filter(|chunk| chunk.opened.table == index && !chunk.opened.seen.sees(xid)) {
            for key in [&old, &new].into_iter().flatten() {
                if !chunk.touched.contains(key) {
                    self.touched_bytes += key.len() + KEY_OVERHEAD;
                    chunk.touched.insert(key.clone());
                }
            }
        }
        if self.touched_bytes > TOUCHED_BYTES_MAX {
            self.spoil(index);
        }
    }

    /// An emitted TRUNCATE: the rows of chunks that did not see it are gone.
    pub fn truncated(&mut self, index: usize, xid: u32) {
        let chunks = self.chunks.iter_mut();
        for chunk in chunks.filter(|chunk| chunk.opened.table == index && !chunk.opened.seen.sees(xid)) {
            chunk.truncated = true;
        }
        let Some(table) = self.tables.get_mut(index) else { return };
        for key in std::mem::take(&mut table.listed) {
            self.notes.push(listed(&table.name, &key, false));
        }
    }

    /// A later chunk of the same table must not be placed before this one's range was read again.
    fn spoil(&mut self, table: usize) {
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.opened.table == table) {
            chunk.spoiled = true;
            chunk.touched = HashSet::new();
        }
        self.weigh();
    }

    fn weigh(&mut self) {
        let keys = self.chunks.iter().flat_map(|chunk| &chunk.touched);
        self.touched_bytes = keys.map(|key| key.len() + KEY_OVERHEAD).sum();
    }

    /// A logical message of the transaction under way.
    pub fn message(&mut self, prefix: &str, content: &[u8]) {
        if prefix != MESSAGE_PREFIX {
            return;
        }
        let text = std::str::from_utf8(content).unwrap_or_default();
        if let Some((token, id)) = text.rsplit_once(' ')
            && token == self.token
            && let Ok(id) = id.parse()
        {
            self.arrived.push(id);
        }
    }

    /// The transaction under way has ended on the stream.
    pub fn committed(&mut self, xid: u32) {
        self.streamed.push(xid);
        for id in std::mem::take(&mut self.arrived) {
            for chunk in self.chunks.iter_mut().filter(|chunk| chunk.opened.id == id) {
                chunk.passed = true;
            }
            for table in &mut self.tables {
                if table.first.take_if(|(_, message)| *message == id).is_some() {
                    table.note.first = None;
                    self.notes.push(table.note.to_note(&table.name));
                }
            }
        }
    }

    /// Streamed transactions that a new snapshot has to see.
    pub fn streamed(&self) -> Vec<u32> {
        self.streamed.clone()
    }

    pub fn seen(&mut self, seen: &Visibility) {
        self.streamed.retain(|xid| !seen.sees(*xid));
    }

    pub fn open(&mut self, opened: Opened) {
        self.seen(&opened.seen);
        if let Some(table) = self.tables.get_mut(opened.table)
            && table.note.state == Phase::Pending
        {
            table.note.state = Phase::Reading;
            table.note.first = Some(opened.seen.to_string());
            let message = match opened.turn {
                Turn::Message => opened.id,
                Turn::AtOnce { last } => last,
            };
            table.first = Some((opened.seen.clone(), message));
            self.notes.push(table.note.to_note(&table.name));
        }
        let chunk = Chunk {
            passed: opened.turn != Turn::Message,
            opened,
            touched: HashSet::new(),
            truncated: false,
            spoiled: false,
            read: None,
        };
        self.chunks.push_back(chunk);
    }

    pub fn read(&mut self, read: Read) {
        if let Some(chunk) = self.chunks.iter_mut().find(|chunk| chunk.opened.id == read.id) {
            chunk.read = Some(read);
        }
    }

    /// Whether the oldest chunk is here and its turn has come.
    pub fn is_ready(&self) -> bool {
        self.chunks.front().is_some_and(|chunk| chunk.read.is_some() && (chunk.passed || chunk.spoiled))
    }

    /// Takes the chunk whose turn has come.
    pub fn take_ready(&mut self) -> Option<Ready> {
        if !self.is_ready() {
            return None;
        }
        let Chunk { opened, touched, truncated, spoiled, read, .. } = self.chunks.pop_front()?;
        Some(Ready { opened, touched, truncated, spoiled, read: read? })
    }

    /// What becomes of a chunk that was spoiled.
    pub fn spoiled(&mut self, ready: Ready) -> Outcome {
        self.weigh();
        let table = self.tables.get(ready.opened.table);
        Outcome {
            spoiled: true,
            last: table.and_then(|table| table.note.last.clone()),
            ended: table.is_some_and(|table| table.note.ended),
            rows: table.map_or(0, |table| table.note.rows),
            buffer: ready.read.rows,
            ..Outcome::default()
        }
    }

    /// Moves the chunk's rows into an empty batch that already has its relation, and notes how far the table is.
    pub fn place(
        &mut self,
        ready: Ready,
        at: Placing,
        relation: &Relation,
        batch: &mut ChangeBatch,
    ) -> Outcome {
        let columns = relation.identity.as_slice();
        self.weigh();
        let is_first_row = self.tables.iter().all(|table| table.note.rows == 0);
        let is_open = self.chunks.iter().any(|chunk| chunk.opened.table == ready.opened.table);
        let Ready { opened, touched, truncated, mut read, .. } = ready;
        std::mem::swap(&mut batch.bytes, &mut read.rows.bytes);
        std::mem::swap(&mut batch.cells, &mut read.rows.cells);
        let Some(table) = self.tables.get_mut(opened.table) else {
            return Outcome { spoiled: true, buffer: read.rows, ..Outcome::default() };
        };
        let mut bytes = Vec::new();
        for (change, n) in read.rows.changes.iter().zip(0_u32..).filter(|_| !truncated) {
            // Nothing is looked up where nothing changed.
            if !touched.is_empty() || !table.listed.is_empty() {
                let Some(row) = key::of_row(batch, change, columns, &mut bytes) else { continue };
                if touched.contains(row) {
                    continue;
                }
                self.notes.extend(table.listed.take(row).map(|row| listed(&table.name, &row, false)));
            }
            let mark = Mark { commit: at.end, change: at.number, n };
            batch.changes.push(Change { mark, ..*change });
        }
        // Rows that are gone are whole.
        for row in read.requested.iter().flatten().filter(|row| !touched.contains(*row)) {
            if table.listed.remove(row) {
                self.notes.push(listed(&table.name, row, false));
            }
        }
        if read.requested.is_none() {
            table.note.last = read.last.take().or(table.note.last.take());
            table.note.ended |= read.ended;
            let names = columns.iter().filter_map(|place| relation.columns.get(usize::from(*place)));
            table.note.key = names.map(|column| column.name.clone()).collect();
        }
        let is_first_of_table = table.note.rows == 0;
        table.note.rows += batch.changes.len() as u64;
        let is_last = table.note.ended && table.listed.is_empty() && !is_open;
        // Without a key, changes in the snapshot may still come after the last row.
        let done = is_last && table.first.is_none();
        if done {
            table.note = TableNote { rows: table.note.rows, ..TableNote::new(Phase::Done) };
        }
        self.notes.push(table.note.to_note(&table.name));
        let marks = Marks {
            first: if is_first_row { SnapshotMark::First } else { SnapshotMark::FirstOfTable },
            is_first: is_first_of_table,
            last: if read.is_last_table { SnapshotMark::Last } else { SnapshotMark::LastOfTable },
            is_last,
        };
        marks.put(at, &opened.seen, read.read_at_us, batch);
        Outcome {
            spoiled: false,
            last: table.note.last.clone(),
            ended: table.note.ended,
            rows: table.note.rows,
            listed: table.listed.iter().take(LISTED_AT_ONCE).cloned().collect(),
            done,
            buffer: read.rows,
        }
    }
}

/// A chunk whose turn has come.
pub struct Ready {
    opened: Opened,
    touched: HashSet<Key>,
    truncated: bool,
    pub spoiled: bool,
    pub read: Read,
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
struct Marks {
    first: SnapshotMark,
    is_first: bool,
    last: SnapshotMark,
    is_last: bool,
}

impl Marks {
    fn put(&self, at: Placing, seen: &Visibility, read_at_us: i64, batch: &mut ChangeBatch) {
        let transaction = |snapshot| Transaction {
            id: i64::from(seen.newest()),
            commit_ts_us: read_at_us,
            previous_commit: at.previous_commit,
            snapshot,
        };
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

/// Whether the row after a change is known whole: each value came with it, or with the old row.
fn is_whole(batch: &ChangeBatch, change: &Change) -> bool {
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
