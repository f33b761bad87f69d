//! What the decoder knows of the snapshots under way: which changes are in the rows, which rows were overtaken
//! by changes, and what has to be noted. Pure. Start at `Tracker`; the rules are in `snapshot`.

use std::collections::{HashMap, HashSet, VecDeque};

use millrace_core::batch::{Change, ChangeBatch, Op, SnapshotMark};
use millrace_core::position::{Mark, Note};
use millrace_core::relation::Relation;

use crate::snapshot::chunk::{
    Chunk, Marks, Of, Opened, Outcome, Placing, Read, Ready, Turn, copied, is_whole, transaction,
};
use crate::snapshot::key::{self, Key};
use crate::snapshot::sight::Sight;
use crate::snapshot::table::{Part, Phase, TableNote, Unread, listed};
use crate::snapshot::visibility::Visibility;
use crate::snapshot::window::{Block, Touched, Window, touch, weight};
use crate::tables::TableName;

/// Prefix of the messages that say how far the stream is.
pub const MESSAGE_PREFIX: &str = "millrace.chunk";

/// Keys of rows that changed under an open chunk. Above it the chunk is read again, smaller.
const TOUCHED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Listed keys that are read again at once.
pub const LISTED_AT_ONCE: usize = 500;

/// Keys of a table that wait to be read again: some megabytes. Above it they are forgotten, and the whole table is
/// read once more.
const LISTED_MAX: usize = 50_000;

struct Table {
    name: TableName,
    /// The number of the first table that is read for the same reason.
    group: usize,
    note: TableNote,
    /// The first snapshot and the number of its message, until that has come.
    first: Option<(Visibility, u64)>,
    /// Keys whose rows were dropped, or moved there, by a change that did not carry the whole row.
    listed: HashSet<Key>,
}

pub struct Tracker {
    tables: Vec<Table>,
    /// How many of them are not through.
    left: usize,
    /// No change is wanted behind the rows.
    only_rows: bool,
    /// Streamed transactions that no snapshot has shown as ended yet.
    streamed: Vec<u32>,
    /// In the order of their snapshots.
    chunks: VecDeque<Chunk>,
    touched_bytes: usize,
    /// Of the blocking snapshot under way.
    window: Option<Window>,
    notes: Vec<Note>,
    /// What makes our messages ours.
    token: String,
    /// Messages of ours in the transaction under way.
    arrived: Vec<u64>,
}

impl Tracker {
    /// `token` must be another one in every session.
    pub fn new(unread: Vec<Unread>, notes: Vec<Note>, token: String) -> Self {
        Self {
            left: unread.len(),
            only_rows: false,
            tables: unread.into_iter().map(|unread| Table::new(unread, 0)).collect(),
            streamed: Vec::new(),
            chunks: VecDeque::new(),
            touched_bytes: 0,
            window: None,
            notes,
            token,
            arrived: Vec::new(),
        }
    }

    /// Whether changes are wanted behind the rows.
    pub fn followed(self, by_changes: bool) -> Self {
        Self { only_rows: !by_changes, ..self }
    }

    /// Nothing that begins now is wanted.
    pub fn is_over(&self) -> bool {
        self.only_rows && !self.is_active()
    }

    /// More tables, behind those that are known.
    pub fn add(&mut self, unread: Vec<Unread>) {
        let group = self.tables.len();
        for table in unread.into_iter().map(|unread| Table::new(unread, group)) {
            self.notes.push(table.note.to_note(&table.name));
            self.tables.push(table);
            self.left += 1;
        }
    }

    /// No more of this table: its open chunks come to nothing.
    pub fn drop_table(&mut self, index: usize) {
        let Some(table) = self.tables.get_mut(index).filter(|table| table.note.state != Phase::Done) else {
            return;
        };
        table.unlist_all(&mut self.notes);
        table.end();
        self.left = self.left.saturating_sub(1);
        self.notes.push(table.note.to_note(&table.name));
        self.spoil(index);
    }

    /// The index of a table that is not through.
    pub fn table(&self, schema: &str, table: &str) -> Option<usize> {
        let is_it = |t: &Table| t.name.schema == schema && t.name.table == table;
        self.tables.iter().position(|table| is_it(table) && table.note.state != Phase::Done)
    }

    pub fn is_done(&self, table: usize) -> bool {
        self.tables.get(table).is_none_or(|table| table.note.state == Phase::Done)
    }

    /// Some table is not through.
    pub fn is_active(&self) -> bool {
        self.left > 0
    }

    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
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

    /// How a table is cut, before it is read.
    pub fn cut(&mut self, index: usize, key: Vec<String>, parts: Vec<Part>) {
        if let Some(table) = self.tables.get_mut(index) {
            (table.note.key, table.note.parts) = (key, parts);
        }
    }

    /// What the snapshot of an outbox saw.
    pub fn saw(&mut self, index: usize, sight: Sight) {
        if let Some(table) = self.tables.get_mut(index) {
            table.note.sight = Some(sight);
            self.notes.push(table.note.to_note(&table.name));
        }
    }

    /// An emitted change of a row.
    pub fn changed(&mut self, index: usize, xid: u32, batch: &ChangeBatch, change: &Change, columns: &[u16]) {
        if columns.is_empty() {
            let newer = self.window.as_mut().filter(|window| window.is_newer(index, xid));
            if let Some(window) = newer.filter(|_| change.op != Op::Insert) {
                window.spoil();
            }
            return;
        }
        let Some(table) = self.tables.get_mut(index) else { return };
        // The rows of an outbox are out before any change of it.
        if table.note.sight.is_some() {
            return;
        }
        let (old, new) = key::touched(batch, change, columns);
        let whole = is_whole(batch, change);
        let has_moved = old.is_some() && old != new;
        if let Some(old) = old.as_ref().filter(|_| has_moved) {
            table.unlist(old, &mut self.notes);
        }
        if let Some(new) = &new {
            if whole {
                table.unlist(new, &mut self.notes);
            } else if has_moved {
                // To where the rows may have been read already.
                table.list(new, &mut self.notes);
            }
        }
        let gone = old.as_ref().filter(|_| has_moved).map(|key| (key, true));
        let left = new.as_ref().map(|key| (key, whole));
        let watching = self.chunks.iter_mut();
        for chunk in watching.filter(|chunk| chunk.opened.table == index && !chunk.opened.seen.sees(xid)) {
            for (key, whole) in gone.into_iter().chain(left) {
                self.touched_bytes += touch(&mut chunk.touched, key, whole);
            }
        }
        if let Some(window) = self.window.as_mut().filter(|window| window.is_newer(index, xid)) {
            for (key, whole) in gone.into_iter().chain(left) {
                window.touch(index, key, whole, TOUCHED_BYTES_MAX);
            }
        }
        if self.touched_bytes > TOUCHED_BYTES_MAX {
            self.spoil(index);
        }
    }

    /// Whether rows of the table may have to go out before a change.
    pub fn has_waiting(&self, index: usize) -> bool {
        self.chunks.iter().any(|chunk| chunk.opened.table == index && !chunk.waiting.is_empty())
    }

    /// Before a change that is about to be emitted and of which the batch has the cells: puts the rows there
    /// that it would overtake. `at` is the place just before the change.
    pub fn overtaken(
        &mut self,
        index: usize,
        xid: u32,
        batch: &mut ChangeBatch,
        (change, relation): (&Change, &Relation),
        (at, previous_commit): (Mark, Option<u64>),
    ) {
        let (old, new) = key::touched(batch, change, &relation.identity);
        let Some(table) = self.tables.get_mut(index) else { return };
        let waiting = self.chunks.iter_mut();
        for chunk in waiting.filter(|chunk| chunk.opened.table == index && !chunk.opened.seen.sees(xid)) {
            let Some(read) = &chunk.read else { continue };
            for (key, n) in [&old, &new].into_iter().flatten().zip(at.n..) {
                let Some(place) = chunk.waiting.remove(key) else { continue };
                // The table was altered since: the row is dropped, and read once more.
                if read.relation.columns != relation.columns {
                    continue;
                }
                let Some(row) = read.rows.changes.get(place) else { continue };
                let Some(after) = copied(&read.rows, row.after, batch) else { continue };
                let number = u32::try_from(batch.transactions.len()).unwrap_or(u32::MAX);
                let seen = &chunk.opened.seen;
                let word =
                    if table.note.is_incremental() { SnapshotMark::Incremental } else { SnapshotMark::Row };
                let stands_for = transaction(seen, read.read_at_us, previous_commit, word);
                batch.transactions.push(stands_for);
                let (relation, mark) = (change.relation, Mark { n, ..at });
                batch.changes.push(Change { relation, transaction: number, mark, after, ..*row });
                table.note.rows += 1;
                table.unlist(key, &mut self.notes);
                chunk.out.insert(key.clone());
            }
        }
    }

    /// An emitted TRUNCATE: the rows of chunks that did not see it are gone.
    pub fn truncated(&mut self, index: usize, xid: u32) {
        let chunks = self.chunks.iter_mut();
        for chunk in chunks.filter(|chunk| chunk.opened.table == index && !chunk.opened.seen.sees(xid)) {
            chunk.truncated = true;
            chunk.waiting.clear();
        }
        if let Some(window) = self.window.as_mut().filter(|window| window.is_newer(index, xid)) {
            window.truncate(index);
        }
        if let Some(table) = self.tables.get_mut(index) {
            table.unlist_all(&mut self.notes);
        }
    }

    /// A later chunk of the same table must not be placed before this one's range was read again.
    fn spoil(&mut self, table: usize) {
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.opened.table == table) {
            chunk.spoiled = true;
            chunk.touched = HashMap::new();
            chunk.waiting = HashMap::new();
        }
        self.weigh();
    }

    fn weigh(&mut self) {
        let keys = self.chunks.iter().flat_map(|chunk| chunk.touched.keys());
        self.touched_bytes = keys.map(weight).sum();
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
        if self.is_active() {
            self.streamed.push(xid);
        } else {
            self.streamed.clear();
        }
        for id in std::mem::take(&mut self.arrived) {
            if let Some(window) = &mut self.window {
                window.arrived(id);
            }
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
                Turn::Message | Turn::Overtaken | Turn::Standing => opened.id,
                Turn::AtOnce { last } => last,
            };
            table.first = Some((opened.seen.clone(), message));
            self.notes.push(table.note.to_note(&table.name));
        }
        self.chunks.push_back(Chunk::new(opened));
    }

    /// A snapshot was taken behind which the stream is to stand still.
    pub fn block(&mut self, block: Block) {
        self.seen(&block.seen);
        self.window = Some(Window::new(block));
    }

    /// Between two transactions: whom to tell where the stream has to stand still, and whether the rows may come.
    pub fn stand(&mut self) -> Option<(tokio::sync::oneshot::Sender<bool>, bool)> {
        self.window.as_mut()?.stand()
    }

    /// The stream goes on.
    pub fn unblock(&mut self) {
        self.window = None;
    }

    pub fn read(&mut self, read: Read) {
        let Some(chunk) = self.chunks.iter_mut().find(|chunk| chunk.opened.id == read.id) else { return };
        if chunk.opened.turn == Turn::Overtaken && !chunk.spoiled && !chunk.truncated {
            let mut bytes = Vec::new();
            for (place, row) in read.rows.changes.iter().enumerate() {
                let key = key::of_row(&read.rows, row, &read.relation.identity, &mut bytes);
                if let Some(key) = key.filter(|key| !chunk.touched.contains_key(*key)) {
                    chunk.waiting.insert(key.into(), place);
                }
            }
        }
        chunk.read = Some(read);
    }

    /// The oldest chunk whose turn has come. Those of one table keep their order.
    fn ready(&self) -> Option<usize> {
        let is_first = |index: usize, chunk: &Chunk| {
            !self.chunks.iter().take(index).any(|older| older.opened.table == chunk.opened.table)
        };
        let mut all = self.chunks.iter().enumerate();
        all.find(|(index, chunk)| chunk.is_ready() && is_first(*index, chunk)).map(|(index, _)| index)
    }

    /// Something waits for the next end of a transaction: a chunk, or that the stream stands still.
    pub fn is_ready(&self) -> bool {
        self.ready().is_some() || self.window.as_ref().is_some_and(Window::is_passed)
    }

    /// Takes the chunk whose turn has come.
    pub fn take_ready(&mut self) -> Option<Ready> {
        let index = self.ready()?;
        let Chunk { opened, touched, out, truncated, spoiled, read, .. } = self.chunks.remove(index)?;
        let read = read?;
        let table = self.tables.get(opened.table);
        // It was begun before its reader heard that the one before it has to be read again.
        let follows =
            table.and_then(|table| table.note.part(&read.of)).is_none_or(|part| part.last == read.after);
        let is_over = self.is_done(opened.table);
        Some(Ready { opened, touched, out, truncated, spoiled: spoiled || !follows || is_over, read })
    }

    /// What becomes of a chunk that was spoiled.
    pub fn spoiled(&mut self, ready: Ready) -> Outcome {
        self.weigh();
        let table = self.tables.get(ready.opened.table);
        let part = table.and_then(|table| table.note.part(&ready.read.of));
        Outcome {
            spoiled: true,
            last: part.and_then(|part| part.last.clone()),
            ended: part.is_none_or(|part| part.ended),
            listed: table.map(Table::some_listed).unwrap_or_default(),
            is_alone: self.is_alone(ready.opened.table),
            done: self.is_done(ready.opened.table),
            buffer: ready.read.rows,
            ..Outcome::default()
        }
    }

    /// Nothing of the table is left but what is listed.
    fn is_alone(&self, index: usize) -> bool {
        let ended = self.tables.get(index).is_some_and(|table| table.note.ended());
        ended && !self.chunks.iter().any(|chunk| chunk.opened.table == index)
    }

    /// No row has come of any table that is read for the same reason.
    fn is_first_row(&self, index: usize) -> bool {
        let group = self.tables.get(index).map_or(0, |table| table.group);
        self.tables.iter().all(|table| table.group != group || table.note.rows == 0)
    }

    /// Moves the chunk's rows into an empty batch that already has its relation, and notes how far the table is.
    pub fn place(
        &mut self,
        ready: Ready,
        at: Placing,
        relation: &Relation,
        batch: &mut ChangeBatch,
    ) -> Outcome {
        self.weigh();
        let is_first_row = self.is_first_row(ready.opened.table);
        let is_open = self.chunks.iter().any(|chunk| chunk.opened.table == ready.opened.table);
        let Ready { opened, touched, out, truncated, mut read, .. } = ready;
        std::mem::swap(&mut batch.bytes, &mut read.rows.bytes);
        std::mem::swap(&mut batch.cells, &mut read.rows.cells);
        let Some(table) = self.tables.get_mut(opened.table) else {
            return Outcome { spoiled: true, buffer: read.rows, ..Outcome::default() };
        };
        let standing = self.window.as_ref().filter(|_| opened.turn == Turn::Standing);
        let (before, emptied) = standing.map_or((None, truncated), |window| window.of(opened.table));
        let touched = before.unwrap_or(&touched);
        if !emptied {
            table.put(&read, (touched, &out), (at, &relation.identity), batch, &mut self.notes);
        }
        if let Some(part) = table.note.part_mut(&read.of) {
            part.last = read.last.take().or(part.last.take());
            part.ended |= read.ended;
        }
        let placed = batch.changes.len() as u64;
        let is_first_of_table = table.note.rows == 0;
        table.note.rows += placed;
        let is_alone = table.note.ended() && !is_open;
        let is_last = is_alone && table.listed.is_empty();
        let again = is_last && table.note.repeat;
        // Without a key, changes in the snapshot may still come after the last row.
        let done = is_last && !again && table.first.is_none();
        let (is_incremental, begun_before) = (table.note.is_incremental(), table.note.again);
        if done {
            table.end();
            self.left = self.left.saturating_sub(1);
        } else if again {
            table.note.repeat = false;
            table.note.parts = vec![Part::default()];
        }
        self.notes.push(table.note.to_note(&table.name));
        let marks = Marks {
            first: if is_first_row { SnapshotMark::First } else { SnapshotMark::FirstOfTable },
            is_first: is_first_of_table,
            last: if read.is_last_table { SnapshotMark::Last } else { SnapshotMark::LastOfTable },
            is_last: is_last && !again,
            again: begun_before,
        };
        if is_incremental {
            let (seen, previous) = (&opened.seen, at.previous_commit);
            batch.transactions.push(transaction(seen, read.read_at_us, previous, SnapshotMark::Incremental));
        } else {
            marks.put(at, &opened.seen, read.read_at_us, batch);
        }
        let part = table.note.part(&read.of);
        Outcome {
            spoiled: false,
            last: part.and_then(|part| part.last.clone()),
            ended: part.is_none_or(|part| part.ended),
            placed,
            listed: table.some_listed(),
            is_alone,
            done,
            rows: table.note.rows,
            again,
            buffer: read.rows,
        }
    }
}

impl Table {
    /// `group`: the number of the first table that is read for the same reason.
    fn new(unread: Unread, group: usize) -> Self {
        let first = unread.note.first.as_deref().and_then(Visibility::parse);
        Self {
            name: unread.table,
            group,
            // Its old message may have passed unseen: a new one is sent, with the number 0.
            first: first.map(|seen| (seen, 0)),
            note: unread.note,
            listed: unread.listed.into_iter().collect(),
        }
    }

    /// Its rows are out, or no longer wanted.
    fn end(&mut self) {
        let (rows, asked) = (self.note.rows, self.note.asked.take());
        self.note = TableNote { rows, asked, ..TableNote::new(Phase::Done) };
    }

    /// Puts the rows that nothing overtook into the batch.
    fn put(
        &mut self,
        read: &Read,
        (touched, out): (&Touched, &HashSet<Key>),
        (at, columns): (Placing, &[u16]),
        batch: &mut ChangeBatch,
        notes: &mut Vec<Note>,
    ) {
        let mut bytes = Vec::new();
        for (change, n) in read.rows.changes.iter().zip(0_u32..) {
            // Nothing is looked up where nothing changed.
            if !touched.is_empty() || !self.listed.is_empty() || !out.is_empty() {
                let Some(row) = key::of_row(batch, change, columns, &mut bytes) else { continue };
                if out.contains(row) {
                    continue;
                }
                if let Some((row, whole)) = touched.get_key_value(row) {
                    if !whole {
                        self.list(row, notes);
                    }
                    continue;
                }
                if let Some(row) = self.listed.get(row).cloned() {
                    self.unlist(&row, notes);
                }
            }
            let mark = Mark { commit: at.end, change: at.number, n };
            batch.changes.push(Change { mark, ..*change });
        }
        if let Of::Keys(keys) = &read.of {
            // Rows that are gone are whole.
            for row in keys.iter().filter(|row| !touched.contains_key(*row)) {
                self.unlist(row, notes);
            }
        }
    }

    /// The row has to be read again.
    fn list(&mut self, row: &Key, notes: &mut Vec<Note>) {
        if self.note.repeat || self.listed.contains(row) {
            return;
        }
        if self.listed.len() >= LISTED_MAX {
            self.unlist_all(notes);
            self.note.repeat = true;
            notes.push(self.note.to_note(&self.name));
            return;
        }
        notes.push(listed(&self.name, row, true));
        self.listed.insert(row.clone());
    }

    fn unlist(&mut self, row: &Key, notes: &mut Vec<Note>) {
        if self.listed.remove(row) {
            notes.push(listed(&self.name, row, false));
        }
    }

    fn unlist_all(&mut self, notes: &mut Vec<Note>) {
        for row in std::mem::take(&mut self.listed) {
            notes.push(listed(&self.name, &row, false));
        }
    }

    fn some_listed(&self) -> Vec<Key> {
        self.listed.iter().take(LISTED_AT_ONCE).cloned().collect()
    }
}
