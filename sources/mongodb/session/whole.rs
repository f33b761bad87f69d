//! What happens to a collection as a whole: it is dropped, renamed, or another one takes its place. Start at
//! `Session::of_a_whole`.

use millrace_core::batch::{ChangeBatch, Op, document};
use millrace_core::error::Result;
use millrace_core::position::Mark;

use super::{Session, full_name, malformed, too_large};
use crate::bson::{Malformed, write_text};
use crate::cells::{NULL, text};
use crate::event::{Event, Namespace, Operation};
use crate::resume_token::ClusterTime;

impl Session {
    /// A collection, or all of a database's, was dropped or renamed. Gives the mark of the last change that it made.
    pub(super) fn of_a_whole(
        &mut self,
        operation: Operation,
        event: &Event<'_>,
        mark: Mark,
        batch: &mut ChangeBatch,
    ) -> Result<Mark> {
        let namespace = event.namespace.ok_or_else(|| malformed(&Malformed::Field("ns")))?;
        let Some(to) = event.to.filter(|_| operation == Operation::Rename) else {
            self.was_dropped(operation, namespace, event, mark, batch)?;
            return Ok(mark);
        };
        let [from_name, to_name] = [namespace, to].map(full_name);
        let is_told =
            self.emptied(namespace, operation, Some(("to", to_name.as_str())), event, mark, batch)?;
        if is_told {
            tracing::info!(collection = %from_name, to = %to_name, "a captured collection was renamed");
        }
        // Two records of one event may not have one position.
        let next = Mark { n: mark.n + u32::from(is_told), ..mark };
        if !self.emptied(to, operation, Some(("from", from_name.as_str())), event, next, batch)? {
            return Ok(mark);
        }
        tracing::warn!(
            collection = %to_name,
            from = %from_name,
            "another collection took the name of a captured one: the server tells no changes for the documents that \
             came with it, nor for those that went; have them read by a signal execute-snapshot"
        );
        Ok(next)
    }

    fn was_dropped(
        &mut self,
        operation: Operation,
        namespace: Namespace<'_>,
        event: &Event<'_>,
        mark: Mark,
        batch: &mut ChangeBatch,
    ) -> Result<()> {
        let name = full_name(namespace);
        // A dropped database's collections were dropped one by one before.
        let is_database = namespace.collection.is_empty();
        if !is_database || self.settings.collections.iter().any(|p| p.database() == Some(name.as_str())) {
            tracing::info!(name = %name, operation = operation.word(), "captured documents were dropped");
        }
        if !is_database {
            self.emptied(namespace, operation, None, event, mark, batch)?;
        }
        Ok(())
    }

    /// Nothing is left of what was captured under this name. False where the name is not captured.
    fn emptied(
        &mut self,
        namespace: Namespace<'_>,
        operation: Operation,
        other: Option<(&str, &str)>,
        event: &Event<'_>,
        mark: Mark,
        batch: &mut ChangeBatch,
    ) -> Result<bool> {
        let Some(relation) = self.relation_in(namespace, batch)? else { return Ok(false) };
        let mut cells = [NULL; document::CELLS];
        cells[document::OPERATION] = text(batch, |out| {
            out.extend_from_slice(b"{\"operationType\":");
            write_text(operation.word().as_bytes(), out);
            if let Some((word, name)) = other {
                out.push(b',');
                write_text(word.as_bytes(), out);
                out.push(b':');
                write_text(name.as_bytes(), out);
            }
            out.push(b'}');
            Ok(())
        })
        .map_err(|fault| too_large(&fault))?;
        self.session_cells(event, &mut cells, batch)?;
        if let Some(index) = self.watched(namespace) {
            let time = ClusterTime(mark.commit);
            match other {
                Some(("from", _)) => self.tracker.replaced(index, time),
                _ => self.tracker.dropped(index, time),
            }
        }
        self.push(Op::Truncate, relation, &cells, event, mark, batch)?;
        Ok(true)
    }
}
