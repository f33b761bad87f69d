//! Writes the columns of one row by their plan: the innermost loop, and what is rare in it.

use super::lexical::Bad;
use super::plan::{ColumnPlan, Plan, RowPlan};
use super::value::{Scratch, Writer, write};
use crate::batch::{Before, Cell, ChangeBatch, Tag};

/// The cells of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowCells<'a> {
    pub cells: &'a [Cell],
    /// The old row, for values that the new one leaves unchanged; empty where there is none.
    pub old: &'a [Cell],
    /// Only the columns of the replica identity were sent: a NULL says nothing.
    pub is_identity: bool,
}

/// What a row had that its record only hints at: for the headers.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Indexes of columns whose value was neither changed nor sent.
    pub unchanged: Vec<usize>,
    /// Columns that hold null in place of a NaN or an infinity.
    pub special: Vec<(usize, Cell)>,
}

impl Notes {
    pub(crate) fn clear(&mut self) {
        self.unchanged.clear();
        self.special.clear();
    }
}

/// Why a row cannot be written, and at which column of the relation.
#[derive(Debug)]
pub(crate) enum RowFault {
    Bad(usize, Bad),
    /// A NULL where the plan has none.
    Widen,
    /// The key's value is not in what was sent.
    KeyNotSent(usize),
}

/// Writes the columns of a row or, without notes, of a key.
#[inline]
pub(crate) fn write_row<W: Writer>(
    plan: &RowPlan,
    batch: &ChangeBatch,
    row: RowCells<'_>,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
    mut notes: Option<&mut Notes>,
) -> Result<(), RowFault> {
    plan.open.put(out);
    for column in &plan.columns {
        // A row has as many cells as its relation has columns; checked once per change.
        let cell = row.cells.get(column.index).copied().unwrap_or(ABSENT);
        if cell.tag == Tag::Text {
            let start = out.len();
            column.lead.put(out);
            let written = write::<W>(&column.r#type, batch.text(cell), out, scratch);
            if let Err(bad) = written {
                out.truncate(start);
                put_bad(column, cell, bad, out, notes.as_deref_mut())?;
            }
        } else {
            put_rare::<W>(column, batch, row, cell.tag, out, scratch, notes.as_deref_mut())?;
        }
    }
    plan.close.put(out);
    Ok(())
}

const ABSENT: Cell = Cell { start: 0, len: 0, tag: Tag::Null };

/// A number that is none becomes null, and the record says so; everything else is an error.
#[cold]
fn put_bad(
    column: &ColumnPlan,
    cell: Cell,
    bad: Bad,
    out: &mut Vec<u8>,
    notes: Option<&mut Notes>,
) -> Result<(), RowFault> {
    match (&column.null, bad) {
        (Some(null), Bad::Special) => {
            null.put(out);
            if let Some(notes) = notes {
                notes.special.push((column.index, cell));
            }
            Ok(())
        }
        _ => Err(RowFault::Bad(column.index, bad)),
    }
}

/// A NULL, or a value that was not sent.
fn put_rare<W: Writer>(
    column: &ColumnPlan,
    batch: &ChangeBatch,
    row: RowCells<'_>,
    tag: Tag,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
    notes: Option<&mut Notes>,
) -> Result<(), RowFault> {
    if tag == Tag::Null {
        match (&column.null, row.is_identity, notes) {
            (Some(null), false, _) | (Some(null), true, None) => null.put(out),
            (_, true, Some(_)) => column.absent.put(out),
            (None, true, None) => return Err(RowFault::KeyNotSent(column.index)),
            (None, false, _) => return Err(RowFault::Widen),
        }
        return Ok(());
    }
    if let Some(old) = row.old.get(column.index).copied().filter(|old| old.tag == Tag::Text) {
        let start = out.len();
        column.lead.put(out);
        return match write::<W>(&column.r#type, batch.text(old), out, scratch) {
            Ok(()) => Ok(()),
            Err(bad) => {
                out.truncate(start);
                put_bad(column, old, bad, out, notes)
            }
        };
    }
    let Some(notes) = notes else {
        return Err(RowFault::KeyNotSent(column.index));
    };
    column.unchanged.put(out);
    notes.unchanged.push(column.index);
    Ok(())
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
