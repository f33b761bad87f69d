//! What a change stream's reader remembers between events: collections, the transaction under way, and the
//! place of the last event. Pure: events in, changes in the batch and positions out. Start at `Session::apply`.
//!
//! A position is only good where everything before it is in a batch: after an event, or at the place that the
//! server names after a reply (`reply_ended`). The events of a transaction share its session and number; it
//! has ended with the first event of another one, or with a place past its cluster time.

use std::sync::Arc;

use millrace_core::batch::{
    Before, Cell, Change, ChangeBatch, Op, Part, Row, SnapshotMark, Transaction, document,
};
use millrace_core::error::{Error, Result};
use millrace_core::position::{Mark, Note};
use millrace_core::relation::Relation;
use mongodb::bson::rawdoc;

use crate::bson::{Dialect, Doc, Fault, FieldRules, Malformed, Style};
use crate::by_namespace::ByNamespace;
use crate::cells::{CELLS, NULL, copied, description, of_document, of_id};
use crate::config::{Settings, UpdateDocument};
use crate::event::{Event, Namespace, Operation};
use crate::position::Streamed;
use crate::relation::{Origin, build};
use crate::resume_token::{ClusterTime, ResumeToken, cluster_time_of};
use crate::signals::SignalCollection;
use crate::snapshot::tracker::{Outcome, Tracker};
use crate::transaction::{Begun, Open, Replay};

/// What an event means for the batch that it would go into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// A part of the transaction that is being read.
    Inside,
    /// The batch is whole before it.
    Apart,
}

struct Collection {
    relation: Arc<Relation>,
    captured: bool,
    rules: Option<FieldRules>,
    /// It was told that an image is missing.
    lacks_images: bool,
    /// The reading of its documents that is under way, as the tracker of this version knows it.
    watched: (u64, Option<usize>),
    /// Its index in the batch with this number.
    in_batch: Option<(u64, u32)>,
}

pub struct Session {
    settings: Arc<Settings>,
    origin: Origin,
    /// By the namespace as events spell it.
    collections: ByNamespace<Collection>,
    /// The batch being filled, counted here: indexes into an older one are stale.
    batch_number: u64,
    /// The constant part of every position, and the newest place.
    at: Streamed,
    /// The token of the newest place, where it is newer than the one in `at`.
    token: Vec<u8>,
    open: Option<Open>,
    /// One that has ended, until a batch is told of it.
    ended: Option<Open>,
    /// While events come again that were delivered before.
    replay: Option<Replay>,
    fragments: Vec<Vec<u8>>,
    /// Every change up to here was taken.
    passed: ClusterTime,
    /// What is known of the documents that are read beside the stream.
    pub tracker: Tracker,
    pub signals: SignalCollection,
}

impl Session {
    pub fn new(settings: Arc<Settings>, origin: Origin, from: Streamed, tracker: Tracker) -> Self {
        Self {
            passed: from.cluster_time.before(),
            replay: Replay::of(&from),
            tracker,
            signals: SignalCollection::default(),
            settings,
            origin,
            collections: ByNamespace::default(),
            batch_number: 0,
            at: from,
            token: Vec::new(),
            open: None,
            ended: None,
            fragments: Vec::new(),
        }
    }

    /// What is inserted into this collection is heard.
    pub fn listening(self, signals: SignalCollection) -> Self {
        Self { signals, ..self }
    }

    /// A new batch is being filled: places in the one before mean nothing any more.
    pub fn begin_batch(&mut self) {
        self.batch_number += 1;
    }

    /// True where no transaction and no event has been taken in part.
    pub fn is_whole(&self) -> bool {
        self.open.is_none() && self.replay.is_none() && self.fragments.is_empty()
    }

    /// Whether a transaction has ended of which no batch was told yet.
    pub fn has_end(&self) -> bool {
        self.ended.as_ref().is_some_and(Open::is_told)
    }

    /// Tells the batch of the transaction that has ended.
    pub fn tell_end(&mut self, batch: &mut ChangeBatch) -> Result<()> {
        let Some(ended) = self.ended.take() else { return Ok(()) };
        let told = ended.end_in(self.settings.json, (self.batch_number, batch));
        told.map_err(|fault| too_large(&fault))
    }

    fn end(&mut self) {
        if let Some(open) = self.open.take() {
            self.ended = Some(open);
        }
    }

    /// True where a position can be told: not between the fragments of an event.
    pub fn has_position(&self) -> bool {
        self.fragments.is_empty()
    }

    /// The newest place.
    pub fn cluster_time(&self) -> ClusterTime {
        self.at.cluster_time
    }

    /// The time up to which everything has come, and after which nothing has. Not the newest place: that of a stream
    /// that begins now lies a step beyond all that the server has, which cannot be read as of.
    pub fn seen(&self) -> ClusterTime {
        self.passed.max(self.at.event_time)
    }

    /// Where the session stands after the last event.
    pub fn position(&mut self) -> Result<Streamed> {
        self.keep_token()?;
        // While events come again it stays where it was.
        if self.replay.is_none() {
            self.at.open = self.open.is_some();
            self.at.begun = self.open.as_ref().map(|open| open.begun.clone());
        }
        Ok(self.at.clone())
    }

    fn keep_token(&mut self) -> Result<()> {
        if !self.token.is_empty() {
            let token =
                ResumeToken::read(Doc::of_elements(&self.token)).map_err(|error| malformed(&error))?;
            self.at.resume_token = Some(token);
            self.token.clear();
        }
        Ok(())
    }

    /// Whether an event goes on with the transaction that is being read. One that does not ends it.
    pub fn fit(&mut self, event: Doc<'_>) -> Result<Fit> {
        if !self.fragments.is_empty() {
            return Ok(Fit::Inside);
        }
        let Some(open) = &self.open else { return Ok(Fit::Apart) };
        let event = read(&[event])?;
        if event.session().is_some_and(|session| open.has(session)) {
            return Ok(Fit::Inside);
        }
        self.end();
        Ok(Fit::Apart)
    }

    /// Takes one event, or the next fragment of one. Names the collection that something happened to as a
    /// whole.
    pub fn apply(&mut self, doc: Doc<'_>, batch: &mut ChangeBatch) -> Result<()> {
        let event = read(&[doc])?;
        if event.fragment.is_none() && self.fragments.is_empty() {
            return self.whole_event(&event, batch);
        }
        self.fragments.push(doc.as_bytes().to_vec());
        let fragments = std::mem::take(&mut self.fragments);
        let parts: Vec<Doc<'_>> = fragments.iter().map(|fragment| Doc::of_elements(fragment)).collect();
        let event = read(&parts)?;
        if event.is_partial() {
            self.fragments = fragments;
            return Ok(());
        }
        self.whole_event(&event, batch)
    }

    /// The server names the place after a reply: everything before it is read. `drained`: the reply was
    /// empty, of a server that has shown more than the place at which it was asked, so nothing of a transaction that
    /// was read in part is still to come.
    pub fn reply_ended(&mut self, token: Option<Doc<'_>>, drained: bool) -> Result<()> {
        let Some(token) = token.filter(|_| self.fragments.is_empty()) else { return Ok(()) };
        let time = cluster_time_of(token).map_err(|error| malformed(&error))?;
        let is_past = self.open.as_ref().is_some_and(|open| drained || time > open.cluster_time);
        let mut was_delivered = false;
        if let Some(replay) = &self.replay {
            was_delivered = replay.covers(token).map_err(|error| malformed(&error))?;
            // The one that was cut is the last that comes again.
            let is_of_cut = self.open.as_ref().is_some_and(|open| open.cluster_time >= self.at.event_time);
            if was_delivered && !(is_past && is_of_cut) {
                return Ok(());
            }
            self.replay = None;
        }
        // Between events a place says that everything before its time has come, and an empty reply that all of
        // that time has.
        self.passed = self.passed.max(if drained { time } else { time.before() });
        if is_past {
            self.end();
        }
        // Inside a transaction the token of its last event says the same, and never more; and never back.
        if self.open.is_none() && !was_delivered {
            self.place(token, time);
        }
        Ok(())
    }

    fn place(&mut self, token: Doc<'_>, time: ClusterTime) {
        self.token.clear();
        self.token.extend_from_slice(token.as_bytes());
        // A place behind the last event's time would be an answer of a server that was restored meanwhile; the
        // token decides, the time is for people.
        self.at.cluster_time = self.at.cluster_time.max(time);
    }

    fn whole_event(&mut self, event: &Event<'_>, batch: &mut ChangeBatch) -> Result<()> {
        let needed = |what| malformed(&Malformed::Field(what));
        let operation = event.operation.ok_or_else(|| needed("operationType"))?;
        let time = ClusterTime(event.cluster_time.ok_or_else(|| needed("clusterTime"))?);
        let mut mark = self.mark(event, time)?;
        self.note_transaction(event, time)?;
        self.tell_end(batch)?;
        match operation {
            Operation::Insert | Operation::Update | Operation::Replace | Operation::Delete => {
                self.change(operation, event, mark, batch)?;
            }
            Operation::Drop | Operation::Rename | Operation::DropDatabase => {
                mark = self.of_a_whole(operation, event, mark, batch)?;
            }
            Operation::Invalidate => tracing::info!(at = %time, "the stream was invalidated, and goes on"),
        }
        self.passed = self.passed.max(time.before());
        if self.replay.is_some() {
            return Ok(());
        }
        self.at.event_time = time;
        self.at.event_n = mark.n;
        self.at.sec = time.seconds();
        self.at.ord = time.timestamp().increment;
        self.place(event.token, time);
        Ok(())
    }

    /// The place of an event. Ends the replay with the first event that is new.
    fn mark(&mut self, event: &Event<'_>, time: ClusterTime) -> Result<Mark> {
        let last = (self.at.event_time, self.at.event_n);
        if let Some(replay) = &self.replay
            && !replay.covers(event.token).map_err(|error| malformed(&error))?
        {
            self.replay = None;
        }
        let n = match &mut self.replay {
            Some(replay) => replay.number(time, last),
            None if time == last.0 => last.1 + 1,
            None => 0,
        };
        Ok(Mark { n, ..at_time(time) })
    }

    fn note_transaction(&mut self, event: &Event<'_>, time: ClusterTime) -> Result<()> {
        let session = event.session();
        let goes_on = match (&self.open, session) {
            (Some(open), Some(session)) => open.has(session),
            (None, None) => return Ok(()),
            _ => false,
        };
        if goes_on {
            return Ok(());
        }
        self.end();
        let Some(session) = session else { return Ok(()) };
        self.keep_token()?;
        let begun = match (&self.replay, &self.at.begun) {
            (Some(_), Some(begun)) => begun.clone(),
            _ => Begun::at(&self.at),
        };
        self.open = Some(Open::new(session, time, clock_us(event, time), begun));
        Ok(())
    }

    fn change(
        &mut self,
        operation: Operation,
        event: &Event<'_>,
        mark: Mark,
        batch: &mut ChangeBatch,
    ) -> Result<()> {
        let namespace = event.namespace.ok_or_else(|| malformed(&Malformed::Field("ns")))?;
        let key = event.key.ok_or_else(|| malformed(&Malformed::Field("documentKey")))?;
        // One that comes again was noted with the position.
        if operation == Operation::Insert && self.replay.is_none() {
            let heard = self.signals.hear(namespace, event.after, mark);
            heard.map_err(|fault| unwritable(&full_name(namespace), ClusterTime(mark.commit), fault))?;
        }
        let Some(relation) = self.relation_in(namespace, batch)? else { return Ok(()) };
        let mut cells = [NULL; document::CELLS];
        let id = key.need("_id").map_err(|error| malformed(&error))?;
        cells[document::ID] = of_id(batch, self.settings.json_keys, id)
            .map_err(|fault| unwritable(&full_name(namespace), ClusterTime(mark.commit), fault))?;
        self.documents(namespace, operation, event, &mut cells, batch)
            .map_err(|fault| unwritable(&full_name(namespace), ClusterTime(mark.commit), fault))?;
        self.session_cells(event, &mut cells, batch)?;
        let op = match operation {
            Operation::Insert => Op::Insert,
            Operation::Delete => Op::Delete,
            _ => Op::Update,
        };
        self.push(op, relation, &cells, event, mark, batch)?;
        self.look_for_images(namespace, operation, event);
        if let Some(index) = self.watched(namespace) {
            let id = key.nameless("_id").map_err(|error| malformed(&error))?;
            let is_whole = op == Op::Delete || event.after.is_some();
            self.tracker.changed(index, ClusterTime(mark.commit), &id, is_whole);
        }
        Ok(())
    }

    /// The reading of this collection's documents that is under way.
    fn watched(&mut self, namespace: Namespace<'_>) -> Option<usize> {
        let collection = self.collections.get_mut(namespace.raw.as_bytes())?;
        if collection.watched.0 != self.tracker.version() {
            let index = self.tracker.index_of(namespace.database, namespace.collection);
            collection.watched = (self.tracker.version(), index);
        }
        collection.watched.1
    }

    /// The JSON of the documents and of the description of an update.
    fn documents(
        &self,
        namespace: Namespace<'_>,
        operation: Operation,
        event: &Event<'_>,
        cells: &mut [Cell; document::CELLS],
        batch: &mut ChangeBatch,
    ) -> std::result::Result<(), Fault> {
        let rules = self.collections.get(namespace.raw.as_bytes()).and_then(|entry| entry.rules.as_ref());
        let dialect = self.settings.json;
        if let Some(before) = event.before {
            cells[document::BEFORE] = of_document(batch, dialect, before, rules)?;
        }
        if let Some(after) = event.after {
            cells[document::AFTER] = of_document(batch, dialect, after, rules)?;
        }
        let Some(update) = event.update.filter(|_| operation == Operation::Update) else { return Ok(()) };
        let image = match (event.after, self.settings.update_document) {
            (None, _) | (_, UpdateDocument::None) => "none",
            (Some(_), UpdateDocument::Lookup) => "lookup",
            (Some(_), UpdateDocument::PostImage) => "post_image",
        };
        cells[document::IMAGE] = copied(batch, image.as_bytes())?;
        // The driver's own form, with blanks, is what Debezium hands on here.
        let style = match self.settings.json {
            Dialect::Strict => Style { dialect: Dialect::Relaxed, spaced: true },
            _ => Style::compact(dialect),
        };
        description(style, update, rules, cells, batch)
    }

    fn session_cells(
        &mut self,
        event: &Event<'_>,
        cells: &mut [Cell; document::CELLS],
        batch: &mut ChangeBatch,
    ) -> Result<()> {
        if let Some(ms) = event.wall_ms {
            let written = copied(batch, itoa::Buffer::new().format(ms).as_bytes());
            cells[document::WALL_MS] = written.map_err(|fault| too_large(&fault))?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let written = open.session_cells(self.settings.json, cells, (self.batch_number, batch));
        written.map_err(|fault| too_large(&fault))
    }

    fn push(
        &mut self,
        op: Op,
        relation: u32,
        cells: &[Cell; document::CELLS],
        event: &Event<'_>,
        mark: Mark,
        batch: &mut ChangeBatch,
    ) -> Result<()> {
        let transaction = self.transaction_in(event, mark, batch);
        let start = u32::try_from(batch.cells.len()).map_err(|_| too_large(&"too many cells"))?;
        batch.cells.extend_from_slice(cells);
        let after = Row { start, len: CELLS };
        let (has_before, before) = (Before::None, Row::default());
        batch.changes.push(Change { op, has_before, relation, transaction, mark, before, after });
        Ok(())
    }

    /// The index of the event's transaction in the batch; an event outside of one is its own.
    fn transaction_in(&mut self, event: &Event<'_>, mark: Mark, batch: &mut ChangeBatch) -> u32 {
        let delivered = Mark { n: self.at.event_n, ..at_time(self.at.event_time) };
        let delivered = self.replay.as_ref().map(|_| delivered);
        if let Some(open) = &mut self.open {
            return open.index_in((self.batch_number, batch), delivered);
        }
        let index = u32::try_from(batch.transactions.len()).unwrap_or(u32::MAX);
        batch.transactions.push(Transaction {
            id: 0,
            commit_ts_us: clock_us(event, ClusterTime(mark.commit)),
            previous_commit: None,
            snapshot: SnapshotMark::No,
            again: 0,
            origin: None,
            part: Part { delivered, ..Part::default() },
        });
        index
    }

    fn define(&mut self, key: &[u8], database: &str, name: &str) -> Arc<Relation> {
        let captured = self.settings.wants(database, name);
        let rules = self.settings.rules(database, name);
        let watched = (self.tracker.version(), self.tracker.index_of(database.as_bytes(), name.as_bytes()));
        let relation = Arc::new(build(&self.origin, database, name));
        let collection = Collection {
            relation: relation.clone(),
            captured,
            rules,
            lacks_images: false,
            watched,
            in_batch: None,
        };
        self.collections.insert(key.to_vec(), collection);
        relation
    }

    /// Whether a chunk may be placed at the next end of a transaction.
    pub fn has_chunk(&self) -> bool {
        self.tracker.is_ready(self.passed)
    }

    /// Moves the chunk whose turn has come into an empty batch.
    pub fn place_chunk(&mut self, batch: &mut ChangeBatch) -> Option<Outcome> {
        let ready = self.tracker.take_ready(self.passed)?;
        if ready.is_spoiled() {
            return Some(self.tracker.spoiled(ready));
        }
        let number = self.next_number();
        let name = self.tracker.name_of(&ready)?.clone();
        // Behind every event so far, and before whatever comes next.
        let outcome = self.tracker.place(ready, self.at.cluster_time.0 + 1, number, batch);
        // A collection's topic and its schemas are made at its first document.
        if batch.changes.is_empty() {
            return Some(outcome);
        }
        let namespace = rawdoc! { "db": name.database.as_str(), "coll": name.collection.as_str() };
        let key = Doc::new(namespace.as_bytes()).map_err(|error| malformed(&error)).ok()?.as_bytes();
        let known = self.collections.get(key).map(|entry| entry.relation.clone());
        batch.relations.push(known.unwrap_or_else(|| self.define(key, &name.database, &name.collection)));
        Some(outcome)
    }

    /// Something is to be noted though no change goes out with it.
    pub fn has_notes(&self) -> bool {
        self.tracker.has_notes() || self.signals.documents.has_notes()
    }

    pub fn take_notes(&mut self, into: &mut Vec<Note>) {
        self.tracker.take_notes(into);
        self.signals.documents.take_notes(into);
    }

    /// Makes the next position another one, though no event came.
    pub fn next_number(&mut self) -> u64 {
        let number = self.at.snapshot_chunk.unwrap_or(0) + 1;
        self.at.snapshot_chunk = Some(number);
        number
    }

    /// The collection's index in the batch; `None` when it is not captured.
    fn relation_in(&mut self, namespace: Namespace<'_>, batch: &mut ChangeBatch) -> Result<Option<u32>> {
        let key = namespace.raw.as_bytes();
        if self.collections.get(key).is_none() {
            let [database, name] = [namespace.database, namespace.collection]
                .map(|name| String::from_utf8_lossy(name).into_owned());
            self.define(key, &database, &name);
        }
        let Some(entry) = self.collections.get_mut(key).filter(|entry| entry.captured) else {
            return Ok(None);
        };
        if let Some((number, index)) = entry.in_batch
            && number == self.batch_number
        {
            return Ok(Some(index));
        }
        let index = u32::try_from(batch.relations.len()).map_err(|_| too_large(&"too many collections"))?;
        batch.relations.push(entry.relation.clone());
        entry.in_batch = Some((self.batch_number, index));
        Ok(Some(index))
    }
}

/// A document that cannot be written as the file asks for.
pub fn unwritable(collection: &str, at: ClusterTime, fault: Fault) -> Error {
    match fault {
        Fault::Malformed(error) => malformed(&error),
        Fault::NameTaken(field) => Error::record(format!(
            "collection {collection}: the document at {at} already has a field {field:?}"
        ))
        .hint("correct rename_fields in [source.mongodb]: a renamed field would stand there twice"),
    }
}

fn read<'a>(parts: &[Doc<'a>]) -> Result<Event<'a>> {
    let mut event = Event::default();
    for part in parts {
        event.read(*part).map_err(|error| malformed(&error))?;
    }
    Ok(event)
}

fn full_name(namespace: Namespace<'_>) -> String {
    let [database, name] = [namespace.database, namespace.collection].map(String::from_utf8_lossy);
    if name.is_empty() { database.into_owned() } else { format!("{database}.{name}") }
}

/// The server's clock at an event, or what its place in the log says of that, in microseconds.
fn clock_us(event: &Event<'_>, time: ClusterTime) -> i64 {
    let ms = event.wall_ms.unwrap_or_else(|| i64::try_from(time.seconds()).unwrap_or(0) * 1000);
    ms.saturating_mul(1000)
}

fn at_time(time: ClusterTime) -> Mark {
    Mark { commit: time.0, change: time.0, n: 0 }
}

pub fn malformed(error: &Malformed) -> Error {
    Error::fatal(format!("mongodb sent a malformed change event: {error}"))
        .hint("nothing was skipped; report this with the server's version")
}

fn too_large(what: &impl std::fmt::Debug) -> Error {
    Error::fatal(format!("a batch of changes is beyond what its offsets reach: {what:?}"))
        .hint("lower batch_bytes_max in [source.mongodb]")
}

mod images;
mod whole;

#[cfg(test)]
mod tests;
