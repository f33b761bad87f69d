//! What a replication session remembers between messages: relations, the transaction under way, and what
//! of it was delivered before. Pure: messages in, changes in the batch and positions out.
//!
//! Start at `Session::apply`. The rules are those of a position (`position`): a transaction that was
//! delivered is skipped by the place of its commit; inside the one that was cut, changes are skipped by
//! their LSN and their index among the changes of that LSN. What is skipped is decoded all the same. The
//! transaction under way is `open`.

mod held;
mod labels;
mod logical;
mod open;

use std::collections::HashMap;
use std::sync::Arc;

use millrace_core::batch::{Before, Change, ChangeBatch, Op, Row, SnapshotMark, Transaction};
use millrace_core::error::{Error, Result};
use millrace_core::position::Mark;
use millrace_core::relation::Relation;
use tokio::sync::mpsc;

use self::held::Holding;
use self::labels::Labels;
use self::open::{OpenTransaction, Skip, lost_open};
use crate::lsn::Lsn;
use crate::messages::Messages;
use crate::pgoutput::{self, Malformed, Message, OldKind, RelationMessage, Tuple};
use crate::position::{Open, Streamed};
use crate::signals::SignalTable;
use crate::snapshot::chunk::{Outcome, Placing};
use crate::snapshot::table::Unread;
use crate::snapshot::tracker::Tracker;

/// What a message came to.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing that the reader has to act on.
    Quiet,
    /// A transaction ended: the batch is whole here.
    Ended,
    /// The table must be looked up and handed to `define` before the next message.
    Relation(RelationMessage),
    /// The newest change has a label that its table's enumeration has not: the table must be looked up again and
    /// handed to `redefine` before the next message.
    Outgrown(RelationMessage),
}

/// What becomes of a table's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capture {
    /// They count, and are not emitted: the publication holds more tables than the file names.
    No,
    Yes,
    /// A snapshot of the table is under way, the one with this index.
    Watched(usize),
}

struct Entry {
    relation: Arc<Relation>,
    capture: Capture,
    has_labels: bool,
    /// Its index in the batch with this number.
    in_batch: Option<(u64, u32)>,
    /// Why its rows cannot be told.
    unfit: Option<Error>,
}

/// A relation as a change of it needs it.
struct Place {
    /// Its index in the batch.
    relation: u32,
    columns: usize,
    /// The snapshot of its table that is under way.
    watched: Option<usize>,
    has_labels: bool,
}

pub struct Session {
    relations: HashMap<u32, Entry>,
    /// The batch being filled, counted here: indexes into an older one are stale.
    batch_number: u64,
    /// The constant part of every position, and its newest whole place.
    whole: Streamed,
    /// Transactions that committed before this place were delivered before the session began. Never moves.
    opened_at: Lsn,
    /// The transaction that was cut, until it has been seen again.
    reopened: Option<Open>,
    transaction: Option<OpenTransaction>,
    /// Of the rows that are read beside the stream.
    tracker: Option<Tracker>,
    /// The relations that were read last, by oid: the stream describes the same ones.
    read_relations: HashMap<u32, Arc<Relation>>,
    /// Of captured logical messages, by prefix.
    messages: Messages,
    signals: SignalTable,
    labels: Labels,
    /// What waits, where something does.
    holding: Option<Holding>,
}

impl Session {
    pub fn new(from: Streamed, messages: Messages, tracker: Option<Tracker>) -> Self {
        Self {
            messages,
            signals: SignalTable::default(),
            labels: Labels::default(),
            holding: None,
            tracker,
            read_relations: HashMap::new(),
            relations: HashMap::new(),
            batch_number: 0,
            opened_at: from.end_lsn,
            reopened: from.open,
            // It goes on: more is to come after all.
            whole: Streamed { drained: None, ..from },
            transaction: None,
        }
    }

    /// What is inserted into this table is heard.
    pub fn listening(self, signals: SignalTable) -> Self {
        Self { signals, ..self }
    }

    pub fn signals(&mut self) -> &mut SignalTable {
        &mut self.signals
    }

    /// A new batch is being filled: places in the one before mean nothing any more.
    pub fn begin_batch(&mut self) {
        self.batch_number += 1;
    }

    /// True where no transaction has been delivered in part: between two, and inside one of which nothing
    /// was emitted, because it holds no captured table so far or was delivered before.
    pub fn is_whole(&self) -> bool {
        self.transaction.as_ref().is_none_or(|open| match open.skip {
            Skip::Nothing => open.in_batch.is_none(),
            Skip::Everything => true,
            Skip::UpTo(..) => false,
        })
    }

    /// Where the session stands after the last message.
    pub fn position(&self) -> Streamed {
        let mut position = self.whole.clone();
        position.open = self.reopened;
        if let Some(transaction) = &self.transaction
            && !self.is_whole()
            && let Some((change_lsn, n)) = transaction.furthest()
        {
            position.open =
                Some(Open { final_lsn: transaction.final_lsn, xid: transaction.xid, change_lsn, n });
            position.lsn = Some(change_lsn.0);
            position.tx_id = Some(transaction.xid);
            position.ts_usec = Some(transaction.commit_ts_us);
        }
        match &self.holding {
            Some(holding) => holding.position(position),
            None => position,
        }
    }

    /// The server goes on under another timeline: a standby was promoted, with its walsenders.
    pub fn on_timeline(&mut self, timeline: u32) {
        self.whole.timeline = self.whole.timeline.max(timeline);
    }

    /// The end of what is whole.
    pub fn end_lsn(&self) -> Lsn {
        let running = self.whole.end_lsn;
        self.holding.as_ref().map_or(running, |holding| holding.end_lsn(running))
    }

    /// A place with nothing undelivered before it: a keepalive's end, between transactions only. One at or
    /// below the position is normal after a reconnect, and says nothing.
    pub fn advance(&mut self, to: Lsn) -> Result<()> {
        if self.transaction.is_some() || to <= self.whole.end_lsn {
            return Ok(());
        }
        if let Some(open) = self.reopened.or(self.awaited())
            && to > open.final_lsn
        {
            return Err(lost_open(open, "the server passed it without sending it"));
        }
        self.whole.end_lsn = to;
        Ok(())
    }

    /// Takes one pgoutput message. `lsn` is the one in the XLogData header, 0 for Relation and Type.
    pub fn apply(&mut self, data: &[u8], lsn: Lsn, batch: &mut ChangeBatch) -> Result<Step> {
        match pgoutput::parse(data).map_err(malformed)? {
            Message::Insert { relation, new } => {
                return self.change(relation, lsn, (Op::Insert, None, Some(&new)), batch);
            }
            Message::Update { relation, old, new } => {
                let old = old.as_ref().map(|(kind, tuple)| (*kind, tuple));
                return self.change(relation, lsn, (Op::Update, old, Some(&new)), batch);
            }
            Message::Delete { relation, kind, old } => {
                return self.change(relation, lsn, (Op::Delete, Some((kind, &old)), None), batch);
            }
            Message::Truncate { relations, .. } => {
                if let Some(mark) = self.count(lsn)? {
                    for relation in relations.iter() {
                        self.truncate(relation, mark, batch)?;
                    }
                }
            }
            Message::Begin { final_lsn, commit_ts_us, xid } => {
                self.begin(Lsn(final_lsn), commit_ts_us, xid, lsn)?;
            }
            Message::Commit { end_lsn, .. } => {
                self.end_in(lsn, batch);
                self.commit(Lsn(end_lsn))?;
                return Ok(Step::Ended);
            }
            Message::Message { transactional: true, prefix, content, .. } => {
                // It can share its LSN with the next change, so it counts whether it is captured or not.
                let mark = self.count(lsn)?;
                if let Some(tracker) = &mut self.tracker {
                    tracker.message(prefix, content);
                }
                if let Some(mark) = mark {
                    self.message(prefix, content, mark, batch)?;
                }
            }
            Message::Message { transactional: false, lsn, prefix, content, .. } => {
                self.outside(Lsn(lsn), prefix, content, batch)?;
            }
            Message::Relation(message) => {
                self.labels.described(&message);
                return Ok(Step::Relation(message));
            }
            // Right behind the begin.
            Message::Origin { commit_lsn, name } => {
                if let Some(open) = &mut self.transaction {
                    open.origin = Some((name.to_owned(), commit_lsn));
                }
            }
            // Sent once a session, so it must never count.
            Message::Type { .. } => {}
        }
        Ok(Step::Quiet)
    }

    /// The answer to `Step::Relation`. An unchanged relation keeps its version, so that nothing is planned
    /// anew after a reconnect or an invalidation that changed nothing.
    pub fn define(&mut self, oid: u32, relation: Relation, captured: bool) {
        self.signals.define(oid, &relation.namespace, &relation.name);
        let watched = || self.tracker.as_ref()?.table(&relation.namespace, &relation.name);
        let capture = match captured {
            false => Capture::No,
            true => watched().map_or(Capture::Yes, Capture::Watched),
        };
        let has_labels = self.labels.define(oid, &relation);
        if let Some(entry) = self.relations.get_mut(&oid)
            && same_shape(&entry.relation, &relation)
        {
            (entry.capture, entry.has_labels, entry.unfit) = (capture, has_labels, None);
            return;
        }
        let read = self.read_relations.get(&oid).filter(|read| same_shape(read, &relation)).cloned();
        let relation = read.unwrap_or_else(|| Arc::new(relation));
        self.relations.insert(oid, Entry { relation, capture, has_labels, in_batch: None, unfit: None });
    }

    /// The relation of a chunk, in the version that the stream has if it is the same.
    fn share(&mut self, oid: u32, relation: Relation) -> Arc<Relation> {
        let streamed = self.relations.get(&oid).map(|entry| &entry.relation);
        let known = [streamed, self.read_relations.get(&oid)];
        let same = known.into_iter().flatten().find(|known| same_shape(known, &relation)).cloned();
        let relation = same.unwrap_or_else(|| Arc::new(relation));
        self.read_relations.insert(oid, relation.clone());
        relation
    }

    /// Between two transactions: where a chunk may be placed, and where the stream may stand still.
    pub fn is_between(&self) -> bool {
        self.transaction.is_none()
    }

    /// What is known of the snapshots under way.
    pub fn tracker(&mut self) -> Option<&mut Tracker> {
        self.tracker.as_mut()
    }

    /// Whether a chunk waits for the next end of a transaction.
    pub fn has_chunk(&self) -> bool {
        self.tracker.as_ref().is_some_and(Tracker::is_ready)
    }

    /// Moves the chunk whose turn has come into an empty batch; says what became of it, and whom to tell.
    pub fn place(&mut self, batch: &mut ChangeBatch) -> Option<(Outcome, mpsc::Sender<Outcome>)> {
        let ready = self.tracker.as_mut()?.take_ready()?;
        let reader = ready.tell();
        let relation = self.share(ready.read.oid, ready.read.relation.clone());
        let tracker = self.tracker.as_mut()?;
        if ready.spoiled {
            return Some((tracker.spoiled(ready), reader));
        }
        let number = self.whole.snapshot_chunk.unwrap_or(0) + 1;
        self.whole.snapshot_chunk = Some(number);
        self.whole.snapshot_lsn = Some(self.whole.end_lsn);
        let at = Placing { end: self.whole.end_lsn.0, number, previous_commit: self.whole.lsn_commit };
        let outcome = tracker.place(ready, at, &relation, batch);
        // A table's topic and its schemas are made at its first row: of ten thousand tables, many have none.
        if !batch.changes.is_empty() {
            batch.relations.push(relation);
        }
        if outcome.done {
            self.unwatch();
        }
        Some((outcome, reader))
    }

    /// What has to be noted with the batch that is sent now.
    pub fn take_notes(&mut self, batch: &mut ChangeBatch) {
        if let Some(tracker) = &mut self.tracker {
            tracker.take_notes(&mut batch.notes);
        }
        self.signals.rows.take_notes(&mut batch.notes);
    }

    /// Rows of these tables are about to be read.
    pub fn watch(&mut self, unread: Vec<Unread>) {
        let Some(tracker) = &mut self.tracker else { return };
        tracker.add(unread);
        for entry in self.relations.values_mut().filter(|entry| entry.capture == Capture::Yes) {
            if let Some(table) = tracker.table(&entry.relation.namespace, &entry.relation.name) {
                entry.capture = Capture::Watched(table);
            }
        }
    }

    /// No more rows of this table.
    pub fn give_up(&mut self, table: usize) {
        let Some(tracker) = &mut self.tracker else { return };
        tracker.drop_table(table);
        self.unwatch();
    }

    /// Changes of tables that are through need not be watched, unless the same table was asked for once more.
    fn unwatch(&mut self) {
        let Some(tracker) = &self.tracker else { return };
        for entry in self.relations.values_mut() {
            if let Capture::Watched(table) = entry.capture
                && tracker.is_done(table)
            {
                let again = tracker.table(&entry.relation.namespace, &entry.relation.name);
                entry.capture = again.map_or(Capture::Yes, Capture::Watched);
            }
        }
    }

    /// Rows are being read.
    pub fn is_reading(&self) -> bool {
        self.tracker.as_ref().is_some_and(Tracker::is_active)
    }

    /// Of the transaction under way.
    pub fn xid(&self) -> Option<u32> {
        self.transaction.as_ref().map(|open| open.xid)
    }

    /// Nothing that begins now is wanted.
    fn is_over(&self) -> bool {
        self.tracker.as_ref().is_some_and(Tracker::is_over)
    }

    fn begin(&mut self, final_lsn: Lsn, commit_ts_us: i64, xid: u32, begin: Lsn) -> Result<()> {
        if let Some(open) = &self.transaction {
            return Err(Error::fatal(format!(
                "postgres began transaction {xid} inside transaction {}",
                open.xid
            )));
        }
        self.must_come(final_lsn, xid)?;
        // One that was delivered in part comes whole.
        let is_over = self.reopened.is_none() && self.is_over();
        let is_passed = is_over || final_lsn < self.opened_at || self.is_too_early(commit_ts_us);
        let skip = match self.reopened {
            _ if is_passed => Skip::Everything,
            Some(open) if final_lsn < open.final_lsn => Skip::Everything,
            Some(open) if (final_lsn, xid) == (open.final_lsn, open.xid) => {
                self.reopened = None;
                Skip::UpTo(open.change_lsn, open.n)
            }
            Some(open) => return Err(lost_open(open, "another transaction came in its place")),
            None => Skip::Nothing,
        };
        let (origin, last, in_batch) = (None, None, None);
        self.transaction =
            Some(OpenTransaction { final_lsn, xid, commit_ts_us, begin, origin, skip, last, in_batch });
        Ok(())
    }

    fn commit(&mut self, end_lsn: Lsn) -> Result<()> {
        let Some(done) = self.transaction.take() else {
            return Err(Error::fatal(format!("postgres committed at {end_lsn} outside a transaction")));
        };
        if let Some(tracker) = &mut self.tracker {
            tracker.committed(done.xid);
        }
        self.signals.rows.committed();
        // A transaction from before the position ends before it: positions only rise (Invariant 3).
        if end_lsn > self.whole.end_lsn {
            self.whole.end_lsn = end_lsn;
            self.whole.lsn_commit = Some(end_lsn.0);
            self.whole.lsn_proc = Some(end_lsn.0);
            self.whole.lsn = Some(done.last.map_or(end_lsn, |(lsn, _)| lsn).0);
            self.whole.tx_id = Some(done.xid);
            self.whole.ts_usec = Some(done.commit_ts_us);
        }
        Ok(())
    }

    /// Tells the batch that the open transaction ends, if anything of it was emitted.
    fn end_in(&mut self, at: Lsn, batch: &mut ChangeBatch) {
        if self.transaction.as_ref().is_none_or(|open| open.in_batch.is_none()) {
            return;
        }
        let index = self.transaction_in(batch) as usize;
        if let Some(transaction) = batch.transactions.get_mut(index) {
            transaction.part.end = Some(at.0);
        }
    }

    /// Counts a change of the open transaction; `None` when the whole transaction was delivered before. In one
    /// that was delivered in part all changes are emitted, because those behind them are counted on from them.
    fn count(&mut self, lsn: Lsn) -> Result<Option<Mark>> {
        let Some(transaction) = &mut self.transaction else {
            return Err(Error::fatal(format!("postgres sent a change at {lsn} outside a transaction")));
        };
        let n = match transaction.last {
            Some((last, n)) if last == lsn => n + 1,
            _ => 0,
        };
        transaction.last = Some((lsn, n));
        let mark = Mark { commit: transaction.final_lsn.0, change: lsn.0, n };
        Ok((transaction.skip != Skip::Everything).then_some(mark))
    }

    fn change(
        &mut self,
        oid: u32,
        lsn: Lsn,
        (op, old, new): (Op, Option<(OldKind, &Tuple<'_>)>, Option<&Tuple<'_>>),
        batch: &mut ChangeBatch,
    ) -> Result<Step> {
        let Some(mark) = self.count(lsn)? else { return Ok(Step::Quiet) };
        if op == Op::Insert && self.signals.is(oid) && self.is_new(mark) {
            self.hear(oid, mark, new, batch)?;
        }
        let Some(place) = self.relation_in(oid, mark, batch)? else { return Ok(Step::Quiet) };
        let Place { relation, columns, watched, has_labels } = place;
        let transaction = self.transaction_in(batch);
        let (has_before, before) = match old {
            None => (Before::None, Row::default()),
            Some((OldKind::Key, tuple)) => (Before::Key, append(batch, tuple, columns)?),
            Some((OldKind::Full, tuple)) => (Before::Full, append(batch, tuple, columns)?),
        };
        let after = match new {
            None => Row::default(),
            Some(tuple) => append(batch, tuple, columns)?,
        };
        let change = Change { op, has_before, relation, transaction, mark, before, after };
        if let Some(table) = watched
            && let (Some(tracker), Some(open)) = (&mut self.tracker, &self.transaction)
            && tracker.has_waiting(table)
            && let Some(shape) = batch.relations.get(relation as usize).cloned()
        {
            // Below the change and above everything before it: no two of those that overtake rows share a place.
            let at = Mark { change: mark.change.saturating_sub(1), n: 0, ..mark };
            let previous = self.whole.lsn_commit;
            tracker.overtaken(table, open.xid, batch, (&change, &shape), (at, previous));
        }
        batch.changes.push(change);
        if let Some(table) = watched.filter(|_| self.is_new(mark))
            && let (Some(tracker), Some(open)) = (&mut self.tracker, &self.transaction)
            && open.delivered().is_none_or(|delivered| mark > delivered)
            && let Some(relation) = batch.relations.get(relation as usize)
        {
            tracker.changed(table, open.xid, batch, &change, &relation.identity);
        }
        Ok(if has_labels { self.labels.look(oid, batch) } else { Step::Quiet })
    }

    /// A row of the signal table, whether it makes events or not. One that was delivered counts too, as long as the
    /// end of its transaction was not.
    fn hear(&mut self, oid: u32, mark: Mark, new: Option<&Tuple<'_>>, batch: &mut ChangeBatch) -> Result<()> {
        let (Some(new), Some(entry)) = (new, self.relations.get(&oid)) else { return Ok(()) };
        let (bytes, cells) = (batch.bytes.len(), batch.cells.len());
        let row = append(batch, new, entry.relation.columns.len())?;
        self.signals.hear(batch, row, mark);
        batch.bytes.truncate(bytes);
        batch.cells.truncate(cells);
        Ok(())
    }

    fn truncate(&mut self, oid: u32, mark: Mark, batch: &mut ChangeBatch) -> Result<()> {
        let Some(Place { relation, watched, .. }) = self.relation_in(oid, mark, batch)? else {
            return Ok(());
        };
        if let Some(table) = watched.filter(|_| self.is_new(mark))
            && let (Some(tracker), Some(open)) = (&mut self.tracker, &self.transaction)
            && open.delivered().is_none_or(|delivered| mark > delivered)
        {
            tracker.truncated(table, open.xid);
        }
        let transaction = self.transaction_in(batch);
        let (has_before, row) = (Before::None, Row::default());
        let op = Op::Truncate;
        batch.changes.push(Change { op, has_before, relation, transaction, mark, before: row, after: row });
        Ok(())
    }

    /// The relation's place in the batch; `None` when this change of it is not emitted.
    fn relation_in(&mut self, oid: u32, mark: Mark, batch: &mut ChangeBatch) -> Result<Option<Place>> {
        let is_new = self.is_new(mark);
        let Some(entry) = self.relations.get_mut(&oid) else {
            return Err(Error::fatal(format!("postgres sent a row of relation {oid} before describing it")));
        };
        let watched = match entry.capture {
            Capture::No => return Ok(None),
            Capture::Yes => None,
            Capture::Watched(table) => {
                let xid = self.transaction.as_ref().map_or(0, |open| open.xid);
                // What is released is of before: no rows that are read later stand for it.
                if is_new && self.tracker.as_ref().is_some_and(|tracker| !tracker.emits(table, xid)) {
                    return Ok(None);
                }
                Some(table)
            }
        };
        if entry.unfit.is_some() {
            return self.unfit(oid, is_new);
        }
        let (columns, has_labels) = (entry.relation.columns.len(), entry.has_labels);
        if let Some((number, relation)) = entry.in_batch
            && number == self.batch_number
        {
            return Ok(Some(Place { relation, columns, watched, has_labels }));
        }
        let index = u32::try_from(batch.relations.len()).unwrap_or(u32::MAX);
        batch.relations.push(entry.relation.clone());
        entry.in_batch = Some((self.batch_number, index));
        Ok(Some(Place { relation: index, columns, watched, has_labels }))
    }

    /// The open transaction's index in the batch. Only called inside one: `count` has seen to that.
    fn transaction_in(&mut self, batch: &mut ChangeBatch) -> u32 {
        let Some(transaction) = &mut self.transaction else { return 0 };
        if let Some((number, index)) = transaction.in_batch
            && number == self.batch_number
        {
            return index;
        }
        let index = u32::try_from(batch.transactions.len()).unwrap_or(u32::MAX);
        let origin = transaction.origin_in(batch);
        batch.transactions.push(Transaction {
            id: i64::from(transaction.xid),
            commit_ts_us: transaction.commit_ts_us,
            previous_commit: self.whole.lsn_commit,
            snapshot: SnapshotMark::No,
            again: 0,
            origin,
            part: transaction.part(),
        });
        transaction.in_batch = Some((self.batch_number, index));
        index
    }
}

fn append(batch: &mut ChangeBatch, tuple: &Tuple<'_>, columns: usize) -> Result<Row> {
    pgoutput::append_tuple(batch, tuple, columns).map_err(malformed)
}

fn same_shape(one: &Relation, other: &Relation) -> bool {
    one.namespace == other.namespace
        && one.name == other.name
        && one.columns == other.columns
        && one.key == other.key
        && one.identity == other.identity
}

fn malformed(error: Malformed) -> Error {
    Error::fatal("postgres sent a malformed pgoutput message")
        .hint("nothing was skipped; report this with the server's version and the table's definition")
        .source(error)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod tests;
