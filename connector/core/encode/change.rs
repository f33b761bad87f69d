//! From changes to records: which records a change makes, and the envelope around its rows.

use super::avro::Avro;
use super::header;
use super::json::Json;
use super::plan::{Plan, RowPlan};
use super::row::{Notes, RowCells, RowFault, write_row};
use super::source::Source;
use super::target::{Choice, Place, Target, View};
use super::transaction::{Count, Ends};
use super::value::{Scratch, Writer};
use super::{Dialect, Encoding, compare, reject, signature};
use crate::batch::{Before, Cell, Change, ChangeBatch, EncodedBatch, Op, Record, Span, Tag, Transaction};
use crate::error::{Error, Kind};
use crate::hold::Lanes;
use crate::progress::{OpCounts, op_index};
use crate::route;
use crate::route::filter::Bound;
use crate::route::rule::OnReject;

/// In the place of the index of a plan: no change of the relation makes a record in this batch.
pub(crate) const NO_PLAN: usize = usize::MAX;

/// Memory used again for every batch.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub scratch: Scratch,
    pub before: Notes,
    pub after: Notes,
    pub source: Source,
    /// What follows the operation's letter in every envelope of the batch, in this encoding: of rows and of
    /// documents.
    pub tail: Vec<u8>,
    pub document_tail: Vec<u8>,
    pub tail_of: Option<Encoding>,
    /// The values by which a row chooses its topic.
    pub selector: Vec<u8>,
    /// An event that came as one document, as cells.
    pub members: Vec<Cell>,
    pub texts: Vec<u8>,
    /// A value as JSON before it is written by a schema.
    pub json: Vec<u8>,
    /// Headers that a flat record gets besides.
    pub added: Vec<u8>,
}

pub(crate) enum Fault {
    Error(Error),
    /// A NULL where the plan has none.
    Widen,
    /// A row chooses a topic or a schema that was not asked for yet.
    Unlearned,
    /// What it belongs to is held, or it was delivered before.
    Stopped,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Error(error)
    }
}

/// One pass over one batch.
pub(crate) struct Pass<'a> {
    pub now_us: i64,
    pub batch: &'a ChangeBatch,
    pub plans: &'a [Plan],
    /// Index into `plans` by the batch's relation.
    pub slots: &'a [usize],
    pub room: &'a mut Room,
    pub out: &'a mut EncodedBatch,
    /// Where dead letters go.
    pub dead: Option<&'a Place>,
    /// What dead letters call this attempt.
    pub attempt: u32,
    pub rejects: &'a mut Rejects,
    /// A relation may wait while the rest goes on.
    pub can_hold: bool,
    /// What is held.
    pub lanes: Option<&'a Lanes>,
    /// Where transactions are told of.
    pub ends: Option<&'a Ends>,
    /// Events of the transaction under way, where they are counted.
    pub count: Option<&'a mut Count>,
    /// Where the transaction under way begins, as long as nothing came of it.
    pub silent: Option<u64>,
    /// The transaction whose end is to be told, among the batch's.
    pub under_way: Option<usize>,
}

/// What became a dead letter in one batch.
#[derive(Debug, Default)]
pub(crate) struct Rejects {
    pub count: u64,
    pub first: Option<Error>,
}

/// One change with all that its records need.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub plan: &'a Plan,
    pub change: &'a Change,
    pub transaction: &'a Transaction,
}

/// The rest of a record, once its key is written.
pub(crate) struct Event<'a> {
    pub op: u8,
    pub before: Option<RowCells<'a>>,
    pub after: Option<RowCells<'a>>,
}

/// The other key of a row that changed its key.
#[derive(Clone, Copy)]
pub(crate) struct Moved<'a> {
    header: &'static str,
    key: RowCells<'a>,
}

impl<'a> Pass<'a> {
    /// Writes every change. `counts` has a place for each of the batch's relations.
    pub(crate) fn run(&mut self, counts: &mut [OpCounts]) -> Result<(), Fault> {
        let batch = self.batch;
        let mut opened = 0;
        for change in &batch.changes {
            if self.ends.is_some() {
                self.open_until(&mut opened, change.transaction as usize + 1)?;
            }
            let relation = change.relation as usize;
            let slot = self.slots.get(relation).copied();
            if slot == Some(NO_PLAN) {
                continue;
            }
            let plan = slot.and_then(|slot| self.plans.get(slot));
            let transaction = batch.transactions.get(change.transaction as usize);
            let (Some(plan), Some(transaction)) = (plan, transaction) else {
                return Err(
                    Error::fatal("a change names a relation or transaction that its batch lacks").into()
                );
            };
            let again = transaction.part.delivered.is_some_and(|delivered| change.mark <= delivered);
            if plan.gate.stops(change.mark)
                || (plan.format.skipped.covers(change.op) && !compare::may_move(plan, change))
                || (again && self.count.is_none())
            {
                continue;
            }
            let context = Context { plan, change, transaction };
            if plan.filter.as_ref().is_some_and(|filter| !self.takes(filter, context)) {
                continue;
            }
            let (bytes, records) = (self.out.bytes.len(), self.out.records.len());
            let written = match (&plan.outbox, plan.format.encoding) {
                (Some(outbox), _) => self.outbox(context, outbox),
                (None, Encoding::Avro) => self.table::<Avro>(context),
                (None, Encoding::Json { .. }) => self.table::<Json>(context),
            };
            if written.is_err() || again {
                self.out.bytes.truncate(bytes);
                self.out.records.truncate(records);
            }
            match written {
                Ok(()) => {}
                // Whatever became of it when it was delivered.
                Err(Fault::Error(_)) if again => continue,
                Err(Fault::Stopped) => continue,
                Err(fault) => self.reject(context, fault)?,
            }
            if self.out.records.len() > records {
                let count = counts.get_mut(relation).and_then(|c| c.get_mut(op_index(change.op)));
                count.into_iter().for_each(|count| *count += 1);
                self.announce(transaction, records)?;
            }
        }
        if self.ends.is_some() {
            self.open_until(&mut opened, batch.transactions.len())?;
            self.close()?;
        }
        Ok(())
    }

    /// Whether the route's filter takes the row: the new one, or the old one where there is no new one. A value that
    /// an update did not send is the old one's.
    fn takes(&self, filter: &Bound, context: Context<'_>) -> bool {
        let change = context.change;
        let (new, old) = (self.batch.cells_of(change.after), self.batch.cells_of(change.before));
        let op = match change.op {
            Op::Insert => "c",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Read => "r",
            Op::Truncate => "t",
        };
        filter.takes(op, |index| {
            let cell = new.get(index).filter(|cell| cell.tag != Tag::Unchanged).or_else(|| old.get(index))?;
            (cell.tag == Tag::Text).then(|| self.batch.text(*cell))
        })
    }

    /// A change of a table or of a collection.
    fn table<W: Writer>(&mut self, context: Context<'a>) -> Result<(), Fault> {
        self.tail::<W>(context);
        match (&context.plan.update, &context.plan.message, &context.plan.flat) {
            (Some(_), _, Some(flat)) => self.flat_document::<W>(context, flat),
            (Some(update), ..) => self.document::<W>(context, update),
            (None, Some(message), _) => self.message::<W>(context, message),
            (None, None, _) => self.change::<W>(context),
        }
    }

    /// The policy for what cannot be a record.
    #[cold]
    fn reject(&mut self, context: Context<'a>, fault: Fault) -> Result<(), Fault> {
        let Fault::Error(error) = fault else { return Err(fault) };
        if self.is_stopped(context) {
            return Ok(());
        }
        let is_buried = error.kind() == Kind::Record
            && error.strike().is_none()
            && context.plan.format.on_reject == OnReject::DeadLetter
            && self.bury(context, &error);
        if !is_buried {
            return Err(self.parked(context, error).into());
        }
        self.rejects.count += 1;
        self.rejects.first.get_or_insert(error);
        Ok(())
    }

    /// The topic of a row.
    #[inline]
    pub(crate) fn place(&mut self, context: Context<'a>, row: View<'_>) -> Result<&'a Place, Fault> {
        let target = &context.plan.target;
        match (target.choice(row, &mut self.room.selector), target) {
            (Choice::Place(place), Target::Chosen(chosen)) => self.gated(context, (chosen, place), row),
            (Choice::Place(place), Target::Fixed(_)) => Ok(place),
            (Choice::Unknown, target) => match target.stops(&self.room.selector, context.change.mark) {
                true => Err(Fault::Stopped),
                false => Err(Fault::Unlearned),
            },
            (Choice::Refused, Target::Chosen(chosen)) => {
                Err(chosen.refusal(&context.plan.table, &reject::place(context.change.mark)).into())
            }
            (Choice::Refused, Target::Fixed(place)) => Ok(place),
        }
    }

    /// What stands at the end of this plan's envelopes.
    #[inline]
    fn tail<W: Writer>(&mut self, context: Context<'_>) {
        let encoding = context.plan.format.encoding;
        if self.room.tail_of != Some(encoding) {
            context.plan.tail.write::<W>(self.now_us, &mut self.room.tail);
            context.plan.tail.write_document::<W>(self.now_us, &mut self.room.document_tail);
            self.room.tail_of = Some(encoding);
        }
    }

    fn change<W: Writer>(&mut self, context: Context<'a>) -> Result<(), Fault> {
        let change = context.change;
        let old = match change.has_before {
            Before::None => None,
            Before::Key | Before::Full => {
                let cells = self.cells(context, change.before)?;
                Some(RowCells { cells, old: &[], is_identity: change.has_before == Before::Key })
            }
        };
        match change.op {
            Op::Insert | Op::Read => {
                let op = if change.op == Op::Read { b'r' } else { b'c' };
                let new =
                    RowCells { cells: self.cells(context, change.after)?, old: &[], is_identity: false };
                self.record::<W>(context, 0, Event { op, before: None, after: Some(new) }, None)?;
                Ok(())
            }
            Op::Update => {
                let cells = self.cells(context, change.after)?;
                let new = RowCells { cells, old: old.map_or(&[], |old| old.cells), is_identity: false };
                match old {
                    Some(old) if self.key_moved(context.plan, old, cells) => {
                        self.moved::<W>(context, old, new)
                    }
                    _ if context.plan.format.skipped.updates => Ok(()),
                    Some(old)
                        if context.plan.format.skip_unchanged && self.is_same(context.plan, old, cells) =>
                    {
                        Ok(())
                    }
                    _ => {
                        let before = old.filter(|old| !old.is_identity);
                        let event = Event { op: b'u', before, after: Some(new) };
                        self.record::<W>(context, 0, event, None)?;
                        Ok(())
                    }
                }
            }
            Op::Delete => {
                let Some(old) = old else {
                    return Err(reject::no_old_row(context.plan, change.mark).into());
                };
                self.delete::<W>(context, old, None)?;
                Ok(())
            }
            Op::Truncate if context.plan.format.truncates => self.truncate::<W>(context),
            Op::Truncate => Ok(()),
        }
    }

    pub(crate) fn cells(&self, context: Context<'_>, row: crate::batch::Row) -> Result<&'a [Cell], Fault> {
        let cells = self.batch.cells_of(row);
        if cells.len() == context.plan.envelope.cells {
            return Ok(cells);
        }
        Err(reject::cell_count(context.plan, cells.len()).into())
    }

    /// The row leaves its old key and appears under the new one.
    fn moved<W: Writer>(
        &mut self,
        context: Context<'a>,
        old: RowCells<'a>,
        new: RowCells<'a>,
    ) -> Result<(), Fault> {
        let skipped = context.plan.format.skipped;
        let away = Moved { header: "__debezium.newkey", key: new };
        let sub = if skipped.deletes { 0 } else { self.delete::<W>(context, old, Some(away))? };
        if skipped.inserts {
            return Ok(());
        }
        let here = Moved { header: "__debezium.oldkey", key: old };
        self.record::<W>(context, sub, Event { op: b'c', before: None, after: Some(new) }, Some(here))?;
        Ok(())
    }

    /// A delete and its tombstone. A record without a key gets none: there is nothing to compact away.
    /// Gives the number of records.
    fn delete<W: Writer>(
        &mut self,
        context: Context<'a>,
        old: RowCells<'a>,
        moved: Option<Moved<'a>>,
    ) -> Result<u32, Fault> {
        if let Some(flat) = &context.plan.flat_row {
            return self.flat_delete::<W>(context, flat, old, moved);
        }
        let event = Event { op: b'd', before: Some(old), after: None };
        let key = self.record::<W>(context, 0, event, moved)?;
        if !context.plan.format.tombstones || key.is_none() {
            return Ok(1);
        }
        self.tombstone(context, 1, key, old, moved)?;
        Ok(2)
    }

    pub(crate) fn tombstone(
        &mut self,
        context: Context<'a>,
        sub: u32,
        key: Option<Span>,
        old: RowCells<'a>,
        moved: Option<Moved<'a>>,
    ) -> Result<(), Fault> {
        self.room.before.clear();
        self.room.after.clear();
        let row = self.view(old);
        let headers = self.headers(context, sub, row, moved, None)?;
        self.push(context, row, key, None, headers)
    }

    pub(crate) fn view(&self, row: RowCells<'a>) -> View<'a> {
        View { bytes: &self.batch.bytes, cells: row.cells }
    }

    fn truncate<W: Writer>(&mut self, context: Context<'a>) -> Result<(), Fault> {
        self.room.before.clear();
        self.room.after.clear();
        let none = View { bytes: &[], cells: &[] };
        if context.plan.flat_row.is_some() {
            // It has no row to show, and counts in its transaction all the same.
            let _ = self.number(context);
            return Ok(());
        }
        if matches!(context.plan.target, Target::Chosen(_)) {
            // It has no row to choose a topic by.
            return Ok(());
        }
        let value = self.value::<W>(context, &Event { op: b't', before: None, after: None })?;
        let headers = self.headers(context, 0, none, None, Some(value))?;
        // Nor one to choose a partition by.
        let place = self.place(context, none)?;
        self.push_to(context, place, (None, Some(value), headers), None, 0)
    }

    /// Writes a record with a value and gives the place of its key.
    #[inline]
    fn record<W: Writer>(
        &mut self,
        context: Context<'a>,
        sub: u32,
        event: Event<'a>,
        moved: Option<Moved<'a>>,
    ) -> Result<Option<Span>, Fault> {
        if let Some(flat) = &context.plan.flat_row {
            let op = match event.op {
                b'c' => Op::Insert,
                b'r' => Op::Read,
                _ => Op::Update,
            };
            return self.flat_record::<W>(context, flat, (sub, op), event, moved);
        }
        let key = match (&context.plan.key, event.after.or(event.before)) {
            (Some(plan), Some(row)) => Some(self.key::<W>(context, plan, row)?),
            _ => None,
        };
        self.room.before.clear();
        self.room.after.clear();
        let value = self.value::<W>(context, &event)?;
        let row = event.after.or(event.before).map_or(View { bytes: &[], cells: &[] }, |row| self.view(row));
        let headers = self.headers(context, sub, row, moved, Some(value))?;
        self.push(context, row, key, Some(value), headers)?;
        Ok(key)
    }

    #[inline]
    pub(crate) fn key<W: Writer>(
        &mut self,
        context: Context<'_>,
        plan: &RowPlan,
        row: RowCells<'_>,
    ) -> Result<Span, Fault> {
        let start = self.out.bytes.len();
        write_row::<W>(plan, self.batch, row, &mut self.out.bytes, &mut self.room.scratch, None)
            .map_err(|fault| row_fault(context, fault))?;
        self.span(context, start)
    }

    #[inline]
    fn value<W: Writer>(&mut self, context: Context<'_>, event: &Event<'_>) -> Result<Span, Fault> {
        let numbers = self.number(context);
        let (plan, envelope) = (context.plan, &context.plan.envelope);
        let out = &mut self.out.bytes;
        let start = out.len();
        let scratch = &mut self.room.scratch;
        match event.before {
            None => envelope.before_null.put(out),
            Some(row) => {
                envelope.before_lead.put(out);
                let notes = Some(&mut self.room.before);
                write_row::<W>(&plan.row, self.batch, row, out, scratch, notes)
                    .map_err(|fault| row_fault(context, fault))?;
            }
        }
        match event.after {
            None => envelope.after_null.put(out),
            Some(row) => {
                envelope.after_lead.put(out);
                let notes = Some(&mut self.room.after);
                write_row::<W>(&plan.row, self.batch, row, out, scratch, notes)
                    .map_err(|fault| row_fault(context, fault))?;
            }
        }
        self.room.source.put::<W>(context.plan, self.batch, context.change, context.transaction, out);
        match (&envelope.block, numbers) {
            (Some(block), Some(numbers)) => self.put_block::<W>(context, block, numbers),
            _ => envelope.op_lead.put(out),
        }
        self.out.bytes.push(event.op);
        self.out.bytes.extend_from_slice(&self.room.tail);
        self.span(context, start)
    }

    /// The headers of a record. Those about its rows tell what the notes hold.
    #[inline]
    pub(crate) fn headers(
        &mut self,
        context: Context<'_>,
        sub: u32,
        view: View<'_>,
        moved: Option<Moved<'_>>,
        value: Option<Span>,
    ) -> Result<Span, Fault> {
        let out = &mut self.out.bytes;
        let start = out.len();
        let row = &context.plan.row;
        if context.plan.format.dialect == Dialect::Millrace {
            header::put_position(out, context.change.mark, sub);
            header::put_unchanged(out, row, &self.room.after);
            if context.transaction.again > 0 {
                header::put_attempt(out, context.transaction.again + 1);
            }
        }
        header::put_special(out, "special", row, &self.room.after, self.batch);
        header::put_special(out, "special.before", row, &self.room.before, self.batch);
        out.extend_from_slice(&context.plan.texts);
        for (name, column) in &context.plan.headers {
            if let Some(text) = view.text(*column) {
                header::put(out, name, |out| out.extend_from_slice(text));
            }
        }
        let told =
            moved.filter(|moved| !context.plan.dropped_headers.iter().any(|name| name == moved.header));
        if let (Some(moved), Some(plan)) = (told, &context.plan.header_key) {
            let scratch = &mut self.room.scratch;
            let mut result = Ok(());
            header::put(out, moved.header, |out| {
                result = write_row::<Json>(plan, self.batch, moved.key, out, scratch, None);
            });
            result.map_err(|fault| row_fault(context, fault))?;
        }
        self.out.bytes.extend_from_slice(&context.plan.context);
        self.out.bytes.extend_from_slice(&self.room.added);
        self.sign(context, value);
        self.span(context, start)
    }

    /// Adds the header that says who wrote this value.
    #[inline]
    pub(crate) fn sign(&mut self, context: Context<'_>, value: Option<Span>) {
        if let (Some(signature), Some(value)) = (&context.plan.format.signature, value) {
            let text = signature.of(self.out.slice(value));
            header::put(&mut self.out.bytes, signature::HEADER, |out| out.extend_from_slice(&text));
        }
    }

    #[inline]
    pub(crate) fn push(
        &mut self,
        context: Context<'a>,
        row: View<'_>,
        key: Option<Span>,
        value: Option<Span>,
        headers: Span,
    ) -> Result<(), Fault> {
        let place = self.place(context, row)?;
        let partition = match &context.plan.spread {
            None => None,
            Some(spread) => spread
                .partition(row, place.topic.partitions, &mut self.room.selector)
                .map_err(|field| reject::not_spread(context.plan, context.change.mark, field))?,
        };
        self.push_to(context, place, (key, value, headers), partition, 0)
    }

    /// A record with its copies; the partition is the key's unless one is named.
    #[inline]
    pub(crate) fn push_to(
        &mut self,
        context: Context<'a>,
        place: &'a Place,
        (key, value, headers): (Option<Span>, Option<Span>, Span),
        partition: Option<u32>,
        time_ms: i64,
    ) -> Result<(), Fault> {
        let len = |span: Option<Span>| span.map_or(0, |span| span.len as usize);
        let size = len(key) + len(value) + headers.len as usize;
        let mark = context.change.mark;
        for (nth, place) in std::iter::once(place).chain(&context.plan.copies).enumerate() {
            if size > place.record_bytes_max {
                return Err(reject::too_large(context.plan, place, mark, size).into());
            }
            let topic = place.topic;
            let partition = match partition.filter(|_| nth == 0) {
                None => route::partition(key.map(|span| self.out.slice(span)), topic.partitions),
                Some(named) if named < topic.partitions => named,
                Some(named) => return Err(reject::partition(context.plan, place, mark, named).into()),
            };
            self.out.records.push(Record {
                topic: topic.index,
                partition,
                key,
                value,
                headers,
                mark,
                time_ms,
            });
        }
        Ok(())
    }

    /// From `start` to the end of what is written, if offsets still reach there.
    #[inline]
    pub(crate) fn span(&self, context: Context<'_>, start: usize) -> Result<Span, Fault> {
        let end = self.out.bytes.len();
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) => Ok(Span { start, len: end - start }),
            _ => Err(reject::batch_too_large(context.plan, context.change.mark).into()),
        }
    }
}

pub(crate) fn row_fault(context: Context<'_>, fault: RowFault) -> Fault {
    let (plan, mark) = (context.plan, context.change.mark);
    match fault {
        RowFault::Widen => Fault::Widen,
        RowFault::Bad(index, bad) => reject::bad_value(plan, mark, index, bad).into(),
        RowFault::KeyNotSent(index) => reject::key_not_sent(plan, mark, index).into(),
    }
}
