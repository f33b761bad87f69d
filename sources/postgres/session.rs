//! What a replication session remembers between messages: relations, the transaction under way, and what
//! of it was delivered before. Pure: messages in, changes in the batch and positions out.
//!
//! Start at `Session::apply`. The rules are those of a position (`position`): a transaction that was
//! delivered is skipped by the place of its commit; inside the one that was cut, changes are skipped by
//! their LSN and their index among the changes of that LSN. What is skipped is decoded all the same.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_core::batch::{Before, Change, ChangeBatch, Op, Row, SnapshotMark, Transaction};
use millrace_core::error::{Error, Result};
use millrace_core::position::Mark;
use millrace_core::progress::State;
use millrace_core::relation::Relation;

use crate::lsn::Lsn;
use crate::pgoutput::{self, Malformed, Message, OldKind, RelationMessage, Tuple};
use crate::position::{Open, Streamed};

/// What a message came to.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing that the reader has to act on.
    Quiet,
    /// A transaction ended: the batch is whole here.
    Ended,
    /// The table must be looked up and handed to `define` before the next message.
    Relation(RelationMessage),
}

struct Entry {
    relation: Arc<Relation>,
    /// Tables that the publication holds beyond the configured ones count, and are not captured.
    captured: bool,
    /// Its index in the batch with this number.
    in_batch: Option<(u64, u32)>,
}

/// Which changes of a transaction were delivered before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    Nothing,
    Everything,
    /// Up to and including this change.
    UpTo(Lsn, u32),
}

#[derive(Debug)]
struct OpenTransaction {
    final_lsn: Lsn,
    xid: u32,
    commit_ts_us: i64,
    skip: Skip,
    /// The last change that was counted, skipped ones too.
    last: Option<(Lsn, u32)>,
    /// Its index in the batch with this number. `None` while none of its changes was emitted.
    in_batch: Option<(u64, u32)>,
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
}

impl Session {
    pub fn new(from: Streamed) -> Self {
        Self {
            relations: HashMap::new(),
            batch_number: 0,
            opened_at: from.end_lsn,
            reopened: from.open,
            whole: from,
            transaction: None,
        }
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
        position
    }

    /// The server goes on under another timeline: a standby was promoted, with its walsenders.
    pub fn on_timeline(&mut self, timeline: u32) {
        self.whole.timeline = self.whole.timeline.max(timeline);
    }

    /// The end of what is whole.
    pub fn end_lsn(&self) -> Lsn {
        self.whole.end_lsn
    }

    /// A place with nothing undelivered before it: a keepalive's end, between transactions only. One at or
    /// below the position is normal after a reconnect, and says nothing.
    pub fn advance(&mut self, to: Lsn) -> Result<()> {
        if self.transaction.is_some() || to <= self.whole.end_lsn {
            return Ok(());
        }
        if let Some(open) = self.reopened
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
                let change = (Op::Insert, None, Some(&new));
                self.change(relation, lsn, change, batch)?;
            }
            Message::Update { relation, old, new } => {
                let old = old.as_ref().map(|(kind, tuple)| (*kind, tuple));
                self.change(relation, lsn, (Op::Update, old, Some(&new)), batch)?;
            }
            Message::Delete { relation, kind, old } => {
                self.change(relation, lsn, (Op::Delete, Some((kind, &old)), None), batch)?;
            }
            Message::Truncate { relations, .. } => {
                if let Some(mark) = self.count(lsn)? {
                    for relation in relations.iter() {
                        self.truncate(relation, mark, batch)?;
                    }
                }
            }
            Message::Begin { final_lsn, commit_ts_us, xid } => {
                self.begin(Lsn(final_lsn), commit_ts_us, xid)?;
            }
            Message::Commit { end_lsn, .. } => {
                self.commit(Lsn(end_lsn))?;
                return Ok(Step::Ended);
            }
            Message::Message { transactional: true, .. } => {
                // It can share its LSN with the next change, so it counts although nothing is emitted yet.
                self.count(lsn)?;
            }
            Message::Message { transactional: false, lsn, .. } => {
                // It carries the end of its record, and a commit record may start exactly there.
                self.advance(Lsn(lsn))?;
            }
            Message::Relation(message) => return Ok(Step::Relation(message)),
            // Sent once a session, so they must never count.
            Message::Type { .. } | Message::Origin { .. } => {}
        }
        Ok(Step::Quiet)
    }

    /// The answer to `Step::Relation`. An unchanged relation keeps its version, so that nothing is planned
    /// anew after a reconnect or an invalidation that changed nothing.
    pub fn define(&mut self, oid: u32, relation: Relation, captured: bool) {
        if let Some(entry) = self.relations.get_mut(&oid)
            && same_shape(&entry.relation, &relation)
        {
            entry.captured = captured;
            return;
        }
        let relation = Arc::new(relation);
        self.relations.insert(oid, Entry { relation, captured, in_batch: None });
    }

    fn begin(&mut self, final_lsn: Lsn, commit_ts_us: i64, xid: u32) -> Result<()> {
        if let Some(open) = &self.transaction {
            return Err(Error::fatal(format!(
                "postgres began transaction {xid} inside transaction {}",
                open.xid
            )));
        }
        let skip = match self.reopened {
            _ if final_lsn < self.opened_at => Skip::Everything,
            Some(open) if final_lsn < open.final_lsn => Skip::Everything,
            Some(open) if (final_lsn, xid) == (open.final_lsn, open.xid) => {
                self.reopened = None;
                Skip::UpTo(open.change_lsn, open.n)
            }
            Some(open) => return Err(lost_open(open, "another transaction came in its place")),
            None => Skip::Nothing,
        };
        let transaction = OpenTransaction { final_lsn, xid, commit_ts_us, skip, last: None, in_batch: None };
        self.transaction = Some(transaction);
        Ok(())
    }

    fn commit(&mut self, end_lsn: Lsn) -> Result<()> {
        let Some(done) = self.transaction.take() else {
            return Err(Error::fatal(format!("postgres committed at {end_lsn} outside a transaction")));
        };
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

    /// Counts a change of the open transaction; `None` when it was delivered before.
    fn count(&mut self, lsn: Lsn) -> Result<Option<Mark>> {
        let Some(transaction) = &mut self.transaction else {
            return Err(Error::fatal(format!("postgres sent a change at {lsn} outside a transaction")));
        };
        let n = match transaction.last {
            Some((last, n)) if last == lsn => n + 1,
            _ => 0,
        };
        transaction.last = Some((lsn, n));
        let skipped = match transaction.skip {
            Skip::Nothing => false,
            Skip::Everything => true,
            Skip::UpTo(to, index) => (lsn, n) <= (to, index),
        };
        Ok((!skipped).then_some(Mark { commit: transaction.final_lsn.0, change: lsn.0, n }))
    }

    fn change(
        &mut self,
        oid: u32,
        lsn: Lsn,
        (op, old, new): (Op, Option<(OldKind, &Tuple<'_>)>, Option<&Tuple<'_>>),
        batch: &mut ChangeBatch,
    ) -> Result<()> {
        let Some(mark) = self.count(lsn)? else { return Ok(()) };
        let Some((relation, columns)) = self.relation_in(oid, batch)? else { return Ok(()) };
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
        batch.changes.push(Change { op, has_before, relation, transaction, mark, before, after });
        Ok(())
    }

    fn truncate(&mut self, oid: u32, mark: Mark, batch: &mut ChangeBatch) -> Result<()> {
        let Some((relation, _)) = self.relation_in(oid, batch)? else { return Ok(()) };
        let transaction = self.transaction_in(batch);
        let (has_before, row) = (Before::None, Row::default());
        let op = Op::Truncate;
        batch.changes.push(Change { op, has_before, relation, transaction, mark, before: row, after: row });
        Ok(())
    }

    /// The relation's index in the batch and its number of columns; `None` when it is not captured.
    fn relation_in(&mut self, oid: u32, batch: &mut ChangeBatch) -> Result<Option<(u32, usize)>> {
        let Some(entry) = self.relations.get_mut(&oid) else {
            return Err(Error::fatal(format!("postgres sent a row of relation {oid} before describing it")));
        };
        if !entry.captured {
            return Ok(None);
        }
        let columns = entry.relation.columns.len();
        if let Some((number, index)) = entry.in_batch
            && number == self.batch_number
        {
            return Ok(Some((index, columns)));
        }
        let index = u32::try_from(batch.relations.len()).unwrap_or(u32::MAX);
        batch.relations.push(entry.relation.clone());
        entry.in_batch = Some((self.batch_number, index));
        Ok(Some((index, columns)))
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
        batch.transactions.push(Transaction {
            id: i64::from(transaction.xid),
            commit_ts_us: transaction.commit_ts_us,
            previous_commit: self.whole.lsn_commit,
            snapshot: SnapshotMark::No,
        });
        transaction.in_batch = Some((self.batch_number, index));
        index
    }
}

impl OpenTransaction {
    /// The last change that is delivered or on its way: what was skipped counts as delivered to its end.
    fn furthest(&self) -> Option<(Lsn, u32)> {
        match self.skip {
            Skip::UpTo(lsn, n) => Some(self.last.unwrap_or_default().max((lsn, n))),
            Skip::Nothing | Skip::Everything => self.last,
        }
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
}

fn malformed(error: Malformed) -> Error {
    Error::fatal("postgres sent a malformed pgoutput message")
        .hint("nothing was skipped; report this with the server's version and the table's definition")
        .source(error)
}

fn lost_open(open: Open, why: &str) -> Error {
    Error::fatal(format!(
        "transaction {} with its commit at {} was delivered in part, and the rest is gone: {why}",
        open.xid, open.final_lsn
    ))
    .hint("the slot was changed behind this connector; compare the table with its topic, then set the position anew with `millrace position`")
    .state(State::PositionLost)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
