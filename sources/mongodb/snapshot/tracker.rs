//! What the decoder knows of the snapshots under way: which documents were overtaken by changes, when those that
//! are left may be placed, and what has to be noted. Pure. Start at `Tracker`; the rules are in `snapshot`.

use std::collections::{HashMap, HashSet, VecDeque};

use millrace_core::batch::{Before, Change, ChangeBatch, Op, Part, Row, SnapshotMark, Transaction};
use millrace_core::position::{Mark, Note};
use millrace_core::snapshot::{KEY_OVERHEAD, LISTED_AT_ONCE, Marks, Phase, TOUCHED_BYTES_MAX};

use crate::collections::Name;
use crate::resume_token::ClusterTime;
use crate::snapshot::collection::{CollectionNote, Unread, listed};
use crate::snapshot::id::{Id, to_text};

/// What was read of a chunk.
#[derive(Debug)]
pub struct Read {
    pub id: u64,
    /// Its changes have no marks yet.
    pub rows: ChangeBatch,
    /// One for each row.
    pub ids: Vec<Id>,
    /// Ids that were looked up, where it is not a range.
    pub requested: Option<Vec<Id>>,
    /// The range has no document after these.
    pub ended: bool,
    /// No collection after this one has a document.
    pub is_last_collection: bool,
    /// The rows are placed when the stream has passed this.
    pub until: ClusterTime,
}

/// What became of a chunk.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Too much changed under it, or it came after one of which that is true: to be read again after this id.
    pub spoiled: bool,
    pub last: Option<Id>,
    pub ended: bool,
    /// Documents of the collection that are on their way or delivered, all in all.
    pub rows: u64,
    /// Some of the ids that are to be read again.
    pub listed: Vec<Id>,
    /// The collection is through.
    pub done: bool,
    /// To be used again.
    pub buffer: ChangeBatch,
}

struct Chunk {
    id: u64,
    collection: usize,
    /// Its rows are as of this time.
    seen: ClusterTime,
    /// Ids of later changes, and whether the newest of each left something out.
    touched: HashMap<Id, bool>,
    /// The collection was dropped after it.
    dropped: bool,
    spoiled: bool,
    read: Option<Read>,
}

struct Collection {
    name: Name,
    note: CollectionNote,
    last: Option<Id>,
    /// Ids of documents that were dropped for a change that did not carry all of them.
    listed: HashSet<Id>,
}

impl Collection {
    fn new(Unread { name, note, last, listed }: Unread) -> Self {
        Self { name, note, last, listed: listed.into_iter().collect() }
    }

    fn is_done(&self) -> bool {
        self.note.state == Phase::Done
    }
}

pub struct Tracker {
    /// Each is one reading of a collection: the first, or one that was asked for. They are read one after the other.
    collections: Vec<Collection>,
    /// Rises when one of them is added or is through.
    version: u64,
    /// In the order in which they were opened.
    chunks: VecDeque<Chunk>,
    newest_id: u64,
    touched_bytes: usize,
    notes: Vec<Note>,
}

/// A chunk whose turn has come.
pub struct Ready {
    chunk: Chunk,
    read: Read,
}

impl Ready {
    pub fn is_spoiled(&self) -> bool {
        self.chunk.spoiled
    }
}

impl Tracker {
    pub fn new(unread: Vec<Unread>, notes: Vec<Note>) -> Self {
        Self {
            collections: unread.into_iter().map(Collection::new).collect(),
            version: 0,
            chunks: VecDeque::new(),
            newest_id: 0,
            touched_bytes: 0,
            notes,
        }
    }

    /// More of them, behind those that are known.
    pub fn add(&mut self, unread: Vec<Unread>) {
        for unread in unread {
            self.notes.push(unread.note.to_note(&unread.name.to_string()));
            self.collections.push(Collection::new(unread));
        }
        self.version += 1;
    }

    /// No more of this collection: its open chunks come to nothing.
    pub fn drop_collection(&mut self, index: usize) {
        let Some(collection) = self.collections.get_mut(index).filter(|collection| !collection.is_done())
        else {
            return;
        };
        let name = collection.name.to_string();
        for id in std::mem::take(&mut collection.listed) {
            self.notes.push(listed(&name, &id, false));
        }
        collection.note.state = Phase::Done;
        self.notes.push(collection.note.to_note(&name));
        self.version += 1;
        self.spoil(index);
    }

    /// The reading of a collection that is under way, or the next one. Good for as long as the version is the same.
    pub fn index_of(&self, database: &[u8], collection: &[u8]) -> Option<usize> {
        let is_it = |c: &Collection| {
            c.name.database.as_bytes() == database && c.name.collection.as_bytes() == collection
        };
        self.collections.iter().position(|collection| is_it(collection) && !collection.is_done())
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Something is to be noted though no documents go out with it.
    pub fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    pub fn take_notes(&mut self, into: &mut Vec<Note>) {
        into.append(&mut self.notes);
    }

    /// Watches a chunk of what is there at `seen`: its number.
    pub fn open(&mut self, collection: usize, seen: ClusterTime) -> u64 {
        self.newest_id += 1;
        self.chunks.push_back(Chunk {
            id: self.newest_id,
            collection,
            seen,
            touched: HashMap::new(),
            dropped: false,
            spoiled: false,
            read: None,
        });
        self.newest_id
    }

    pub fn cancel(&mut self, id: u64) {
        self.chunks.retain(|chunk| chunk.id != id);
        self.weigh();
    }

    pub fn read(&mut self, read: Read) {
        if let Some(chunk) = self.chunks.iter_mut().find(|chunk| chunk.id == read.id) {
            chunk.read = Some(read);
        }
    }

    /// A change of a document. `is_whole`: nothing is left of it that the change did not carry.
    pub fn changed(&mut self, index: usize, time: ClusterTime, id: &[u8], is_whole: bool) {
        let Some(collection) = self.collections.get_mut(index) else { return };
        if is_whole && collection.listed.remove(id) {
            self.notes.push(listed(&collection.name.to_string(), id, false));
        }
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.collection == index && chunk.seen < time) {
            match chunk.touched.get_mut(id) {
                Some(left_out) => *left_out = !is_whole,
                None => {
                    self.touched_bytes += id.len() + KEY_OVERHEAD;
                    chunk.touched.insert(id.into(), !is_whole);
                }
            }
        }
        if self.touched_bytes > TOUCHED_BYTES_MAX {
            self.spoil(index);
        }
    }

    /// The collection was dropped or renamed: what chunks before that read is gone.
    pub fn dropped(&mut self, index: usize, time: ClusterTime) {
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.collection == index && chunk.seen < time) {
            chunk.dropped = true;
        }
        let Some(collection) = self.collections.get_mut(index) else { return };
        for id in std::mem::take(&mut collection.listed) {
            self.notes.push(listed(&collection.name.to_string(), &id, false));
        }
    }

    /// A later chunk of the same collection must not be placed before this one's range was read again.
    fn spoil(&mut self, collection: usize) {
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.collection == collection) {
            chunk.spoiled = true;
            chunk.touched = HashMap::new();
        }
        self.weigh();
    }

    fn weigh(&mut self) {
        let ids = self.chunks.iter().flat_map(|chunk| chunk.touched.keys());
        self.touched_bytes = ids.map(|id| id.len() + KEY_OVERHEAD).sum();
    }

    /// Whether the oldest chunk is here and its turn has come. Every change up to `passed` was taken.
    pub fn is_ready(&self, passed: ClusterTime) -> bool {
        self.chunks.front().is_some_and(|chunk| {
            chunk.read.as_ref().is_some_and(|read| chunk.spoiled || read.until.max(chunk.seen) <= passed)
        })
    }

    /// Takes the chunk whose turn has come.
    pub fn take_ready(&mut self, passed: ClusterTime) -> Option<Ready> {
        if !self.is_ready(passed) {
            return None;
        }
        let mut chunk = self.chunks.pop_front()?;
        let read = chunk.read.take()?;
        self.weigh();
        Some(Ready { chunk, read })
    }

    /// The names of the collection that a chunk is of.
    pub fn name_of(&self, ready: &Ready) -> Option<&Name> {
        self.collections.get(ready.chunk.collection).map(|collection| &collection.name)
    }

    /// What becomes of a chunk that was spoiled.
    pub fn spoiled(&self, ready: Ready) -> Outcome {
        let collection = self.collections.get(ready.chunk.collection);
        Outcome {
            spoiled: true,
            last: collection.and_then(|collection| collection.last.clone()),
            ended: collection.is_some_and(|collection| collection.note.ended),
            rows: collection.map_or(0, |collection| collection.note.rows),
            buffer: ready.read.rows,
            ..Outcome::default()
        }
    }

    /// Moves the chunk's rows into an empty batch, and notes how far the collection is.
    ///
    /// `end`: the first place after what was streamed; `number`: the chunk's own, above those of all that were
    /// placed before.
    pub fn place(&mut self, ready: Ready, end: u64, number: u64, batch: &mut ChangeBatch) -> Outcome {
        let of_all = self.collections.iter().all(|other| other.note.asked.is_some() || other.note.rows == 0);
        let Ready { chunk, mut read } = ready;
        let is_open = self.chunks.iter().any(|other| other.collection == chunk.collection);
        std::mem::swap(&mut batch.bytes, &mut read.rows.bytes);
        std::mem::swap(&mut batch.cells, &mut read.rows.cells);
        let Some(collection) = self.collections.get_mut(chunk.collection) else {
            return Outcome { spoiled: true, buffer: read.rows, ..Outcome::default() };
        };
        let name = collection.name.to_string();
        let rows = read.rows.changes.iter().zip(&read.ids).zip(0_u32..);
        for ((change, id), n) in rows.filter(|_| !chunk.dropped) {
            match chunk.touched.get(id) {
                None => {
                    let mark = Mark { commit: end, change: number, n };
                    batch.changes.push(Change { mark, ..*change });
                }
                Some(true) if collection.listed.insert(id.clone()) => {
                    self.notes.push(listed(&name, id, true));
                }
                Some(_) => {}
            }
        }
        // Read again, or gone meanwhile.
        for id in read.requested.iter().flatten().filter(|id| !chunk.touched.contains_key(*id)) {
            if collection.listed.remove(id) {
                self.notes.push(listed(&name, id, false));
            }
        }
        if read.requested.is_none() {
            collection.last = read.ids.pop().or(collection.last.take());
            collection.note.last = collection.last.as_deref().map(to_text);
            collection.note.ended |= read.ended;
            collection.note.state = Phase::Reading;
        }
        let is_first = collection.note.rows == 0;
        collection.note.rows += batch.changes.len() as u64;
        let done = collection.note.ended && collection.listed.is_empty() && !is_open;
        if done {
            let CollectionNote { rows, asked, .. } =
                std::mem::replace(&mut collection.note, CollectionNote::new(Phase::Done));
            (collection.note.rows, collection.note.asked) = (rows, asked);
            self.version += 1;
        }
        self.notes.push(collection.note.to_note(&name));
        let transaction = as_of(chunk.seen);
        if collection.note.asked.is_some() {
            batch.transactions.push(Transaction { snapshot: SnapshotMark::Incremental, ..transaction });
        } else {
            let is_last_table = read.is_last_collection;
            Marks { of_all, is_first, is_last: done, is_last_table }.put(transaction, batch);
        }
        Outcome {
            spoiled: false,
            last: collection.last.clone(),
            ended: collection.note.ended,
            rows: collection.note.rows,
            listed: collection.listed.iter().take(LISTED_AT_ONCE).cloned().collect(),
            done,
            buffer: read.rows,
        }
    }
}

/// What stands for the rows of that time.
fn as_of(seen: ClusterTime) -> Transaction {
    Transaction {
        id: 0,
        commit_ts_us: i64::try_from(seen.seconds()).unwrap_or(0).saturating_mul(1_000_000),
        previous_commit: None,
        snapshot: SnapshotMark::Row,
        again: 0,
        part: Part::default(),
    }
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

#[cfg(test)]
mod tests;
