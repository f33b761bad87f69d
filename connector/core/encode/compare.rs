//! How the old and the new row of an update compare: whether its key moved, and whether readers see any change.

use super::change::Pass;
use super::plan::Plan;
use super::row::RowCells;
use super::steps::SpreadPlan;
use super::value::Type;
use crate::batch::{Before, Cell, Change, Op, Value};

/// Whether it may be more than an update: a row that takes another key is one that goes and one that comes.
pub(super) fn may_move(plan: &Plan, change: &Change) -> bool {
    change.op == Op::Update
        && change.has_before != Before::None
        && plan.outbox.is_none()
        && plan.update.is_none()
        && !plan.format.skipped.all
}

impl Pass<'_> {
    /// Whether the row's key is another one now. A key column that was not sent did not change.
    pub(super) fn key_moved(&self, plan: &Plan, old: RowCells<'_>, new: &[Cell]) -> bool {
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
    pub(super) fn is_same(&self, plan: &Plan, old: RowCells<'_>, new: &[Cell]) -> bool {
        let spread = plan.spread.iter().flat_map(SpreadPlan::columns);
        let mut elsewhere = plan.headers.iter().map(|(_, index)| *index).chain(spread);
        let is_kept = |index: usize| {
            let (Some(before), Some(after)) = (old.cells.get(index), new.get(index)) else { return false };
            let (before, after) = (self.batch.value(*before), self.batch.value(*after));
            after == Value::Unchanged || before == after
        };
        !old.is_identity
            && elsewhere.all(is_kept)
            && plan.row.columns.iter().all(|column| {
                let (Some(before), Some(after)) = (old.cells.get(column.index), new.get(column.index)) else {
                    return false;
                };
                let (before, after) = (self.batch.value(*before), self.batch.value(*after));
                match (&column.r#type, before, after) {
                    (_, _, Value::Unchanged) => true,
                    (Type::Disguised(by), Value::Text(before), Value::Text(after)) => {
                        by.shows_same(before, after)
                    }
                    (Type::Disguised(by), ..) if by.hides_null() => true,
                    (_, before, after) => before == after,
                }
            })
    }
}
