//! The keys of changes before there is any record of them: what has to stay in order where some of them wait. Start
//! at `Encoder::keys`.

use super::Encoder;
use super::plan::Plan;
use super::target::View;
use crate::batch::{Cell, Change, ChangeBatch, Row, Tag};
use crate::sink::Targets;

/// A table or collection, and the texts of its key's columns.
pub type Key = (String, Vec<u8>);

impl<T: Targets> Encoder<T> {
    /// The keys that a batch's changes touch, once it is prepared: two of a row that changed its own, none of what has
    /// no key.
    pub fn keys(&self, batch: &ChangeBatch) -> Vec<Key> {
        let mut keys = Vec::new();
        for change in &batch.changes {
            let relation = batch.relations.get(change.relation as usize);
            let slot = relation.and_then(|relation| self.slot(relation.version));
            let Some(plan) = slot.and_then(|slot| self.plans.get(slot)) else { continue };
            let texts = match &plan.outbox {
                Some(outbox) => {
                    let row = View { bytes: &batch.bytes, cells: batch.cells_of(change.after) };
                    [outbox.key_text(row), None]
                }
                None => [change.before, change.after].map(|row| of_row(plan, batch, change, row)),
            };
            for text in texts.into_iter().flatten() {
                let key = (plan.table.clone(), text);
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        keys
    }
}

/// A value that an update did not send is the old row's.
fn of_row(plan: &Plan, batch: &ChangeBatch, change: &Change, row: Row) -> Option<Vec<u8>> {
    let (cells, old) = (batch.cells_of(row), batch.cells_of(change.before));
    if plan.key_columns.is_empty() || cells.is_empty() {
        return None;
    }
    let mut text = Vec::new();
    for index in &plan.key_columns {
        let is_sent = |cell: &&Cell| cell.tag != Tag::Unchanged;
        let cell = cells.get(*index).filter(is_sent).or_else(|| old.get(*index));
        let value = cell.filter(|cell| cell.tag == Tag::Text).map(|cell| batch.text(*cell));
        // With its length before it: two keys of several columns are never one text.
        text.extend_from_slice(&value.map_or(u64::MAX, |value| value.len() as u64).to_be_bytes());
        text.extend_from_slice(value.unwrap_or_default());
    }
    Some(text)
}
