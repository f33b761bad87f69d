//! What the decoder knows of the snapshots under way: which documents were overtaken by changes, when those that
//! are left may be placed, and what has to be noted. Pure. Start at `Tracker`; the rules are in `snapshot`.

use std::collections::{HashMap, HashSet, VecDeque};

use millrace_core::batch::{Before, Change, ChangeBatch, Op, Part, Row, SnapshotMark, Transaction};
use millrace_core::position::{Mark, Note};
use millrace_core::snapshot::{KEY_OVERHEAD, LISTED_AT_ONCE, Marks, Phase, TOUCHED_BYTES_MAX};

use crate::collections::Name;
use crate::resume_token::ClusterTime;
use crate::snapshot::collection::{CollectionNote, IdPart, Unread, listed};
use crate::snapshot::id::Id;

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
    /// The id behind which the range begins, where it is not the beginning of its part.
    pub after: Option<Id>,
    /// Its part has no document after these.
    pub ended: bool,
    /// Its last document is the last of all collections'.
    pub is_last_collection: bool,
    /// The rows are placed when the stream has passed this.
    pub until: ClusterTime,
}

/// What became of a chunk.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Its number.
    pub chunk: u64,
    /// Too much changed under it, or it came after one of which that is true: to be read again after this id.
    pub spoiled: bool,
    /// How far its part is.
    pub last: Option<Id>,
    pub ended: bool,
    /// Every part has ended and no chunk of the collection is under way: whoever learns this sees to what is listed.
    pub whole: bool,
    /// Documents of the chunk that are on their way.
    pub placed: u64,
    /// Of the collection that are on their way or delivered, all in all.
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
    part: usize,
    /// Its rows are as of this time.
    seen: ClusterTime,
    /// Ids of later changes, and whether the newest of each left something out.
    touched: HashMap<Id, bool>,
    /// The collection was dropped after it.
    dropped: bool,
    spoiled: bool,
    read: Option<Read>,
}

impl Chunk {
    fn touched_bytes(&self) -> usize {
        self.touched.keys().map(|id| id.len() + KEY_OVERHEAD).sum()
    }
}

struct Collection {
    name: Name,
    note: CollectionNote,
    parts: Vec<IdPart>,
    /// Ids of documents that were dropped for a change that did not carry all of them.
    listed: HashSet<Id>,
}

impl Collection {
    fn new(Unread { name, note, parts, listed }: Unread) -> Self {
        Self { name, note, parts, listed: listed.into_iter().collect() }
    }

    fn is_done(&self) -> bool {
        self.note.state == Phase::Done
    }

    /// A range may only go on where its part stands: one that was read behind a chunk that came to nothing would
    /// leave that one's documents out.
    fn goes_on_with(&self, part: usize, read: &Read) -> bool {
        let at = self.parts.get(part);
        !self.is_done() && (read.requested.is_some() || at.is_some_and(|part| part.last == read.after))
    }
}

pub struct Tracker {
    /// Each is one reading of a collection: the first, or one that was asked for. Those of the same collection are
    /// read one after the other.
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

    /// A collection of which nothing was read is read in these parts.
    pub fn cut(&mut self, index: usize, parts: Vec<IdPart>) {
        if let Some(collection) = self.collections.get_mut(index) {
            collection.parts = parts;
        }
    }

    /// Watches a chunk of what is there at `seen`, of a part of a collection: its number.
    pub fn open(&mut self, (collection, part): (usize, usize), seen: ClusterTime) -> u64 {
        self.newest_id += 1;
        self.chunks.push_back(Chunk {
            id: self.newest_id,
            collection,
            part,
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
        if self.touched_bytes > TOUCHED_BYTES_MAX
            && let Some(heaviest) = self.heaviest()
        {
            self.spoil(heaviest);
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

    /// Another collection took its name. Of what that one brought the server tells nothing, so the ranges of the chunks
    /// from before are read again.
    pub fn replaced(&mut self, index: usize, time: ClusterTime) {
        self.dropped(index, time);
        if self.chunks.iter().any(|chunk| chunk.collection == index && chunk.seen < time) {
            self.spoil(index);
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
        self.touched_bytes = self.chunks.iter().map(Chunk::touched_bytes).sum();
    }

    /// The collection with the most ids of changes.
    fn heaviest(&self) -> Option<usize> {
        let of = |collection: usize| {
            let own = self.chunks.iter().filter(move |chunk| chunk.collection == collection);
            own.map(Chunk::touched_bytes).sum::<usize>()
        };
        self.chunks.iter().map(|chunk| chunk.collection).max_by_key(|collection| of(*collection))
    }

    /// Whether the turn of a chunk has come. Every change up to `passed` was taken.
    pub fn is_ready(&self, passed: ClusterTime) -> bool {
        self.ready(passed).is_some()
    }

    /// Where the first chunk is that is here and may be placed. Only the oldest one of a part may: where it is slow,
    /// those of other parts and collections go past it.
    fn ready(&self, passed: ClusterTime) -> Option<usize> {
        let may_go = |chunk: &Chunk| {
            chunk.read.as_ref().is_some_and(|read| chunk.spoiled || read.until.max(chunk.seen) <= passed)
        };
        let is_oldest = |at: usize, chunk: &Chunk| {
            let is_same = |other: &Chunk| (other.collection, other.part) == (chunk.collection, chunk.part);
            !self.chunks.iter().take(at).any(is_same)
        };
        self.chunks
            .iter()
            .enumerate()
            .find(|(at, chunk)| may_go(chunk) && is_oldest(*at, chunk))
            .map(|(at, _)| at)
    }

    /// Takes the chunk whose turn has come.
    pub fn take_ready(&mut self, passed: ClusterTime) -> Option<Ready> {
        let mut chunk = self.chunks.remove(self.ready(passed)?)?;
        let read = chunk.read.take()?;
        let collection = self.collections.get(chunk.collection);
        chunk.spoiled |= !collection.is_some_and(|collection| collection.goes_on_with(chunk.part, &read));
        self.weigh();
        Some(Ready { chunk, read })
    }

    /// The names of the collection that a chunk is of.
    pub fn name_of(&self, ready: &Ready) -> Option<&Name> {
        self.collections.get(ready.chunk.collection).map(|collection| &collection.name)
    }

    /// What becomes of a chunk that was spoiled.
    pub fn spoiled(&self, ready: Ready) -> Outcome {
        let Ready { chunk, read } = ready;
        let buffer = read.rows;
        match self.collections.get(chunk.collection) {
            Some(collection) => Outcome { spoiled: true, ..self.outcome(&chunk, collection, buffer) },
            None => Outcome { chunk: chunk.id, spoiled: true, buffer, ..Outcome::default() },
        }
    }

    /// Where the collection of a chunk is, and the chunk's part.
    fn outcome(&self, chunk: &Chunk, collection: &Collection, buffer: ChangeBatch) -> Outcome {
        let part = collection.parts.get(chunk.part).cloned().unwrap_or_default();
        let is_open = self.chunks.iter().any(|other| other.collection == chunk.collection);
        Outcome {
            chunk: chunk.id,
            spoiled: false,
            last: part.last,
            ended: part.ended,
            whole: collection.note.ended && !is_open,
            placed: 0,
            rows: collection.note.rows,
            listed: collection.listed.iter().take(LISTED_AT_ONCE).cloned().collect(),
            done: collection.is_done(),
            buffer,
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
            return Outcome { chunk: chunk.id, spoiled: true, buffer: read.rows, ..Outcome::default() };
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
        if read.requested.is_none()
            && let Some(part) = collection.parts.get_mut(chunk.part)
        {
            part.last = read.ids.pop().or(part.last.take());
            part.ended |= read.ended;
            collection.note.put_parts(&collection.parts);
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
        let placed = batch.changes.len() as u64;
        match self.collections.get(chunk.collection) {
            Some(collection) => Outcome { placed, ..self.outcome(&chunk, collection, read.rows) },
            None => Outcome { chunk: chunk.id, ..Outcome::default() },
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
        origin: None,
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
