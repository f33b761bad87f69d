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
    /// A column's old and new value; none where either row is shorter.
    fn pair(&self, old: RowCells<'_>, new: &[Cell], index: usize) -> Option<(Value<'_>, Value<'_>)> {
        Some((self.batch.value(*old.cells.get(index)?), self.batch.value(*new.get(index)?)))
    }

    /// Whether the row's key is another one now. A key column that was not sent did not change.
    pub(super) fn key_moved(&self, plan: &Plan, old: RowCells<'_>, new: &[Cell]) -> bool {
        plan.key_columns.iter().any(|index| match self.pair(old, new, *index) {
            None => false,
            Some((Value::Null, _)) if old.is_identity => false,
            Some((Value::Unchanged, _) | (_, Value::Unchanged)) => false,
            Some((before, after)) => before != after,
        })
    }

    /// Whether no column that events show is another one now, as far as the old row was sent.
    pub(super) fn is_same(&self, plan: &Plan, old: RowCells<'_>, new: &[Cell]) -> bool {
        let spread = plan.spread.iter().flat_map(SpreadPlan::columns);
        let mut elsewhere = plan.headers.iter().map(|(_, index)| *index).chain(spread);
        let mut in_row = plan.row.columns.iter();
        let is_kept = |index, r#type: Option<&Type>| match (self.pair(old, new, index), r#type) {
            (None, _) => false,
            (Some((_, Value::Unchanged)), _) => true,
            (Some((Value::Text(before), Value::Text(after))), Some(Type::Disguised(by))) => {
                by.shows_same(before, after)
            }
            (Some(_), Some(Type::Disguised(by))) if by.hides_null() => true,
            (Some((before, after)), _) => before == after,
        };
        !old.is_identity
            && elsewhere.all(|index| is_kept(index, None))
            && in_row.all(|column| is_kept(column.index, Some(&column.r#type)))
    }
}
