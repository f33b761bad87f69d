//! Enumerations grow without a word in the stream: no Relation message follows ALTER TYPE ... ADD VALUE. So new rows are
//! looked at for labels that their table is not known to have, and one that has some is described again.

use std::collections::{HashMap, HashSet};

use millrace_core::batch::{Change, ChangeBatch, Value};
use millrace_core::error::Result;
use millrace_core::labels::{has_labels, strange_label};
use millrace_core::relation::Relation;

use super::{Place, Session, Step};
use crate::pgoutput::RelationMessage;

/// The tables with enumerations, by oid.
#[derive(Default)]
pub(super) struct Labels(HashMap<u32, Labelled>);

struct Labelled {
    /// How the stream described the table.
    message: RelationMessage,
    /// The columns with labels.
    columns: Vec<usize>,
    /// Labels that the catalog does not have any more: they were renamed after the rows were written.
    former: HashSet<Vec<u8>>,
}

impl Labels {
    /// Every table comes by here.
    pub(super) fn described(&mut self, message: &RelationMessage) {
        let (message, columns) = (message.clone(), Vec::new());
        let former = self.0.remove(&message.id).map(|table| table.former).unwrap_or_default();
        self.0.insert(message.id, Labelled { message, columns, former });
    }

    /// Whether its rows are to be looked at.
    pub(super) fn define(&mut self, oid: u32, relation: &Relation) -> bool {
        let Some(table) = self.0.get_mut(&oid) else { return false };
        let columns = relation.columns.iter().enumerate();
        table.columns = columns.filter(|(_, column)| has_labels(&column.kind)).map(|(at, _)| at).collect();
        // One without labels stays too: what is known of it now may be older than the stream.
        !table.columns.is_empty()
    }

    /// At the newest change.
    pub(super) fn look(&self, oid: u32, batch: &ChangeBatch) -> Step {
        match (self.0.get(&oid), self.strange(oid, batch)) {
            (Some(table), Some(_)) => Step::Outgrown(table.message.clone()),
            _ => Step::Quiet,
        }
    }

    /// The catalog was asked: what is still not there is not asked for again.
    fn accept(&mut self, oid: u32, batch: &ChangeBatch) {
        while let Some(label) = self.strange(oid, batch) {
            let Some(table) = self.0.get_mut(&oid) else { return };
            table.former.insert(label);
        }
    }

    fn strange(&self, oid: u32, batch: &ChangeBatch) -> Option<Vec<u8>> {
        let Labelled { columns, former, .. } = self.0.get(&oid)?;
        let change: &Change = batch.changes.last()?;
        let relation = batch.relations.get(change.relation as usize)?;
        let cells = batch.cells_of(change.after);
        columns.iter().find_map(|at| match batch.value(*cells.get(*at)?) {
            Value::Text(text) => {
                strange_label(&relation.columns.get(*at)?.kind, text, |label| former.contains(label))
            }
            Value::Null | Value::Unchanged => None,
        })
    }
}

impl Session {
    /// The answer to `Step::Outgrown`: the newest change is one of the table as it is described now.
    pub fn redefine(
        &mut self,
        (oid, relation, captured): (u32, Relation, bool),
        batch: &mut ChangeBatch,
    ) -> Result<()> {
        self.define(oid, relation, captured);
        let mark = batch.changes.last().map(|change| change.mark).unwrap_or_default();
        if let Some(Place { relation, .. }) = self.relation_in(oid, mark, batch)?
            && let Some(change) = batch.changes.last_mut()
        {
            change.relation = relation;
        }
        self.labels.accept(oid, batch);
        Ok(())
    }
}
