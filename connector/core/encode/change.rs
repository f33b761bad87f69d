//! From changes to records: which records a change makes, and the envelope around its rows.

use super::header;
use super::json::Json;
use super::plan::{Plan, RowPlan};
use super::row::{Notes, RowCells, RowFault, write_row};
use super::source::Source;
use super::value::{Scratch, Writer};
use super::{Dialect, Format, reject};
use crate::batch::{
    Before, Cell, Change, ChangeBatch, EncodedBatch, Op, Record, Span, Tag, Transaction, Value,
};
use crate::error::Error;
use crate::progress::{OpCounts, op_index};
use crate::route;

/// Memory used again for every batch.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub scratch: Scratch,
    pub before: Notes,
    pub after: Notes,
    pub source: Source,
    /// What follows the operation's letter in every envelope of the batch, of rows and of documents.
    pub tail: Vec<u8>,
    pub document_tail: Vec<u8>,
}

pub(crate) enum Fault {
    Error(Error),
    /// A NULL where the plan has none.
    Widen,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Error(error)
    }
}

/// One pass over one batch.
pub(crate) struct Pass<'a> {
    pub format: &'a Format,
    pub batch: &'a ChangeBatch,
    pub plans: &'a [Plan],
    /// Index into `plans` by the batch's relation.
    pub slots: &'a [usize],
    pub room: &'a mut Room,
    pub out: &'a mut EncodedBatch,
}

/// One change with all that its records need.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub plan: &'a Plan,
    pub change: &'a Change,
    pub transaction: &'a Transaction,
}

/// The rest of a record, once its key is written.
struct Event<'a> {
    op: u8,
    before: Option<RowCells<'a>>,
    after: Option<RowCells<'a>>,
}

/// The other key of a row that changed its key.
#[derive(Clone, Copy)]
struct Moved<'a> {
    header: &'static str,
    key: RowCells<'a>,
}

impl<'a> Pass<'a> {
    /// Writes every change. `counts` has a place for each of the batch's relations.
    pub(crate) fn run<W: Writer>(&mut self, counts: &mut [OpCounts]) -> Result<(), Fault> {
        let batch = self.batch;
        for change in &batch.changes {
            let relation = change.relation as usize;
            let plan = self.slots.get(relation).and_then(|slot| self.plans.get(*slot));
            let transaction = batch.transactions.get(change.transaction as usize);
            let (Some(plan), Some(transaction)) = (plan, transaction) else {
                return Err(
                    Error::fatal("a change names a relation or transaction that its batch lacks").into()
                );
            };
            if self.format.skipped.covers(change.op) {
                continue;
            }
            let context = Context { plan, change, transaction };
            let written = self.out.records.len();
            match &plan.update {
                None => self.change::<W>(context)?,
                Some(update) => self.document::<W>(context, update)?,
            }
            let count = counts.get_mut(relation).and_then(|c| c.get_mut(op_index(change.op)));
            if let Some(count) = count.filter(|_| self.out.records.len() > written) {
                *count += 1;
            }
        }
        Ok(())
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
                    Some(old) if self.format.skip_unchanged && self.is_same(context.plan, old, cells) => {
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
            Op::Truncate if self.format.truncates => self.truncate::<W>(context),
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

    /// Whether the row's key is another one now. A key column that was not sent did not change.
    fn key_moved(&self, plan: &Plan, old: RowCells<'_>, new: &[Cell]) -> bool {
        plan.key_columns.iter().any(|index| {
            let (Some(before), Some(after)) = (old.cells.get(*index), new.get(*index)) else {
                return false;
            };
            match (self.batch.value(*before), self.batch.value(*after)) {
                (Value::Null, _) if old.is_identity => false,
                (Value::Unchanged, _) | (_, Value::Unchanged) => false,
                (before, after) => before != after,
            }
        })
    }

    /// Whether no column that events show is another one now, as far as the old row was sent.
    fn is_same(&self, plan: &Plan, old: RowCells<'_>, new: &[Cell]) -> bool {
        !old.is_identity
            && plan.row.columns.iter().all(|column| {
                let (Some(before), Some(after)) = (old.cells.get(column.index), new.get(column.index)) else {
                    return false;
                };
                after.tag == Tag::Unchanged || self.batch.value(*before) == self.batch.value(*after)
            })
    }

    /// The row leaves its old key and appears under the new one.
    fn moved<W: Writer>(
        &mut self,
        context: Context<'a>,
        old: RowCells<'a>,
        new: RowCells<'a>,
    ) -> Result<(), Fault> {
        let away = Moved { header: "__debezium.newkey", key: new };
        let sub = self.delete::<W>(context, old, Some(away))?;
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
        let event = Event { op: b'd', before: Some(old), after: None };
        let key = self.record::<W>(context, 0, event, moved)?;
        if !self.format.tombstones || key.is_none() {
            return Ok(1);
        }
        self.room.before.clear();
        self.room.after.clear();
        let headers = self.headers(context, 1, moved)?;
        self.push(context, key, None, headers)?;
        Ok(2)
    }

    fn truncate<W: Writer>(&mut self, context: Context<'a>) -> Result<(), Fault> {
        self.room.before.clear();
        self.room.after.clear();
        let value = self.value::<W>(context, &Event { op: b't', before: None, after: None })?;
        let headers = self.headers(context, 0, None)?;
        self.push(context, None, Some(value), headers)
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
        let key = match (&context.plan.key, event.after.or(event.before)) {
            (Some(plan), Some(row)) => Some(self.key::<W>(context, plan, row)?),
            _ => None,
        };
        self.room.before.clear();
        self.room.after.clear();
        let value = self.value::<W>(context, &event)?;
        let headers = self.headers(context, sub, moved)?;
        self.push(context, key, Some(value), headers)?;
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
        envelope.op_lead.put(out);
        out.push(event.op);
        out.extend_from_slice(&self.room.tail);
        self.span(context, start)
    }

    /// The headers of a record. Those about its rows tell what the notes hold.
    #[inline]
    fn headers(&mut self, context: Context<'_>, sub: u32, moved: Option<Moved<'_>>) -> Result<Span, Fault> {
        let out = &mut self.out.bytes;
        let start = out.len();
        let row = &context.plan.row;
        if self.format.dialect == Dialect::Millrace {
            header::put_position(out, context.change.mark, sub);
            header::put_unchanged(out, row, &self.room.after);
        }
        header::put_special(out, "special", row, &self.room.after, self.batch);
        header::put_special(out, "special.before", row, &self.room.before, self.batch);
        if let (Some(moved), Some(plan)) = (moved, &context.plan.header_key) {
            let scratch = &mut self.room.scratch;
            let mut result = Ok(());
            header::put(out, moved.header, |out| {
                result = write_row::<Json>(plan, self.batch, moved.key, out, scratch, None);
            });
            result.map_err(|fault| row_fault(context, fault))?;
        }
        self.out.bytes.extend_from_slice(&context.plan.context);
        self.span(context, start)
    }

    #[inline]
    pub(crate) fn push(
        &mut self,
        context: Context<'_>,
        key: Option<Span>,
        value: Option<Span>,
        headers: Span,
    ) -> Result<(), Fault> {
        let len = |span: Option<Span>| span.map_or(0, |span| span.len as usize);
        let size = len(key) + len(value) + headers.len as usize;
        if size > context.plan.record_bytes_max {
            return Err(reject::too_large(context.plan, context.change.mark, size).into());
        }
        let topic = context.plan.topic;
        let partition = route::partition(key.map(|span| self.out.slice(span)), topic.partitions);
        let mark = context.change.mark;
        self.out.records.push(Record { topic: topic.index, partition, key, value, headers, mark });
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

fn row_fault(context: Context<'_>, fault: RowFault) -> Fault {
    let (plan, mark) = (context.plan, context.change.mark);
    match fault {
        RowFault::Widen => Fault::Widen,
        RowFault::Bad(index, bad) => reject::bad_value(plan, mark, index, bad).into(),
        RowFault::KeyNotSent(index) => reject::key_not_sent(plan, mark, index).into(),
    }
}

/// Adds the columns of the batch in which a NULL stands where the plans have none, to each plan's `widened`.
pub(crate) fn widen(batch: &ChangeBatch, plans: &mut [Plan], slots: &[usize]) -> bool {
    let mut any = false;
    for change in &batch.changes {
        let plan = slots.get(change.relation as usize).and_then(|slot| plans.get_mut(*slot));
        let Some(plan) = plan else { continue };
        let whole_old = if change.has_before == Before::Full { batch.cells_of(change.before) } else { &[] };
        for cells in [batch.cells_of(change.after), whole_old] {
            for column in plan.row.columns.iter().chain(plan.key.iter().flat_map(|key| &key.columns)) {
                let Some(cell) = cells.get(column.index) else { continue };
                let is_new = column.null.is_none() && !plan.widened.contains(&column.index);
                if cell.tag == Tag::Null && is_new {
                    plan.widened.push(column.index);
                    plan.is_stale = true;
                    any = true;
                }
            }
        }
    }
    any
}
