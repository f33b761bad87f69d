//! Tables without a key: their rows are read under one snapshot, from the beginning to the end.
//!
//! Where rows are only ever inserted, rows and changes go side by side: nothing can overtake a row. Where the
//! whole old row identifies one (REPLICA IDENTITY FULL), a change cannot be told to be of a row that was read,
//! so the stream stands still at the place of the snapshot until the last row is out. In both cases changes in
//! the snapshot are not emitted until its message has come.

use futures_util::StreamExt;
use millrace_core::batch::ChangeBatch;
use millrace_core::error::Result;
use millrace_core::progress::now_us;

use crate::snapshot::chunk::{Of, Read, Turn};
use crate::snapshot::desk::Order;
use crate::snapshot::select::{self, Rows};
use crate::snapshot::table::{Part, Unread};
use crate::snapshot::visibility::Visibility;
use crate::snapshot::worker::{Described, UNDER_WAY_MAX, Worker, append, refused};
use crate::tables::TableName;

/// A table that is read under one snapshot.
struct Whole<'a> {
    index: usize,
    name: &'a TableName,
    table: &'a Described,
    seen: &'a Visibility,
    /// The message that ends it.
    last: u64,
}

impl Worker {
    /// Reads one table to its end, and waits until the stream has passed its snapshot.
    pub(super) async fn keyless(&mut self, index: usize, unread: &Unread) -> Result<()> {
        let (shared, name) = (self.shared.clone(), &unread.table);
        let last = shared.next_id();
        let (seen, table);
        if unread.note.ended() {
            // Its rows were delivered before a crash, and only the message was left to come.
            (seen, table) = (self.look().await?, self.describe(name).await?);
        } else {
            if shared.last_table == Some(index) {
                // Before the stream stands still, which the others need.
                shared.others_are_through().await;
            }
            let parts = vec![Part::default()];
            shared.order(Order::Cut { table: index, key: Vec::new(), parts })?;
            let mut taken = self.take(index, name, Turn::AtOnce { last }).await?;
            // Begun again, even rows that are only inserted wait: what came before is then told apart by its place.
            if !taken.table.info.has_identity() && unread.note.again == 0 {
                shared.order(Order::Resume(None))?;
                taken.held = None;
            }
            let whole = Whole { index, name, table: &taken.table, seen: &taken.seen, last };
            self.all_rows(taken.id, &whole).await?;
            self.execute("COMMIT", name).await?;
            if taken.held.is_some() {
                shared.order(Order::Resume(None))?;
            }
            (seen, table) = (taken.seen, taken.table);
        }
        self.open(last, index, &seen, Turn::Message)?;
        let whole = Whole { index, name, table: &table, seen: &seen, last };
        self.hand_over(last, &whole, ChangeBatch::default(), true)?;
        self.mark(last).await?;
        let outcome = self.outcome().await;
        self.give_back(outcome.buffer);
        tracing::info!(table = %name, "all rows of the table are read");
        shared.through(index, false);
        Ok(())
    }

    async fn all_rows(&mut self, first: u64, whole: &Whole<'_>) -> Result<()> {
        let Whole { name, table: Described { info, published, message }, last, .. } = whole;
        self.execute("SET LOCAL enable_seqscan = on", name).await?;
        let sql = select::copy(info, published, message, (&[], None), Rows::All);
        let rows = self.client().copy_out(&sql).await.map_err(|error| refused(name, error))?;
        let mut rows = std::pin::pin!(rows);
        let (mut id, mut under_way) = (first, 0);
        let mut batch = self.empty();
        loop {
            let line = rows.next().await.transpose().map_err(|error| refused(name, error))?;
            let is_end = line.is_none();
            if let Some(line) = line {
                append(&mut batch, &line, message.columns.len(), name)?;
                if !self.is_full(&batch) {
                    continue;
                }
            }
            if id != first {
                self.open(id, whole.index, whole.seen, Turn::AtOnce { last: *last })?;
            }
            self.hand_over(id, whole, std::mem::take(&mut batch), is_end)?;
            under_way += 1;
            while under_way >= UNDER_WAY_MAX || (is_end && under_way > 0) {
                let outcome = self.outcome().await;
                under_way -= 1;
                self.shared.delivered(outcome.placed);
                self.give_back(outcome.buffer);
            }
            if is_end {
                return Ok(());
            }
            (id, batch) = (self.shared.next_id(), self.empty());
        }
    }

    /// Rows without a key; none where only the message is waited for.
    fn hand_over(&self, id: u64, whole: &Whole<'_>, rows: ChangeBatch, ended: bool) -> Result<()> {
        let is_last_table = self.shared.last_table == Some(whole.index);
        let read = Read {
            id,
            rows,
            oid: whole.table.info.oid,
            relation: self.relation(whole.table)?,
            of: Of::Part(0),
            after: None,
            last: None,
            ended,
            is_last_table,
            read_at_us: now_us(),
        };
        self.shared.order(Order::Read(Box::new(read)))
    }
}
