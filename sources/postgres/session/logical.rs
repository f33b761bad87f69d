//! Logical messages: what applications write into the log themselves, inside transactions and outside of any.

use millrace_core::batch::{Before, Change, ChangeBatch, Op, Part, Row, SnapshotMark, Transaction};
use millrace_core::error::Result;
use millrace_core::position::Mark;
use millrace_core::progress::now_us;

use super::Session;
use crate::lsn::Lsn;
use crate::messages;

impl Session {
    /// A message outside any transaction, a place of its own: it carries the end of its record, and a commit
    /// record may start exactly there. One at or below the position was delivered before.
    pub(super) fn outside(
        &mut self,
        end: Lsn,
        prefix: &str,
        content: &[u8],
        batch: &mut ChangeBatch,
    ) -> Result<()> {
        if self.transaction.is_some() || end <= self.whole.end_lsn {
            return Ok(());
        }
        self.advance(end)?;
        // It has no time of its own, and lies before the first transaction that is wanted, or behind the last.
        if self.whole.since_us.is_some() || self.is_over() {
            return Ok(());
        }
        // As Debezium counts it: a place up to which everything is committed.
        (self.whole.lsn, self.whole.lsn_proc, self.whole.lsn_commit) =
            (Some(end.0), Some(end.0), Some(end.0));
        let Some(captured) = self.messages.relation_in(prefix, false, self.batch_number, batch) else {
            return Ok(());
        };
        let transaction = u32::try_from(batch.transactions.len()).unwrap_or(u32::MAX);
        batch.transactions.push(Transaction {
            id: 0,
            commit_ts_us: now_us(),
            previous_commit: self.whole.lsn_commit,
            snapshot: SnapshotMark::No,
            again: 0,
            origin: None,
            part: Part::default(),
        });
        // Behind every change before it, and before those of a commit record that starts at its end.
        let mark = Mark { commit: end.0.saturating_sub(1), change: end.0, n: 0 };
        let after = messages::append(batch, prefix, content, captured.as_row)?;
        let (op, has_before, before) = (Op::Insert, Before::None, Row::default());
        let relation = captured.relation;
        batch.changes.push(Change { op, has_before, relation, transaction, mark, before, after });
        Ok(())
    }

    pub(super) fn message(
        &mut self,
        prefix: &str,
        content: &[u8],
        mark: Mark,
        batch: &mut ChangeBatch,
    ) -> Result<()> {
        let Some(captured) = self.messages.relation_in(prefix, true, self.batch_number, batch) else {
            return Ok(());
        };
        let transaction = self.transaction_in(batch);
        let (op, has_before, before) = (Op::Insert, Before::None, Row::default());
        let after = messages::append(batch, prefix, content, captured.as_row)?;
        let relation = captured.relation;
        batch.changes.push(Change { op, has_before, relation, transaction, mark, before, after });
        Ok(())
    }
}
