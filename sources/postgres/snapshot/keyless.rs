//! Tables without a key: their rows are read under one snapshot, from the beginning to the end.
//!
//! Where rows are only ever inserted, rows and changes go side by side: nothing can overtake a row. Where the
//! whole old row identifies one (REPLICA IDENTITY FULL), a change cannot be told to be of a row that was read,
//! so the stream stands still at the place of the snapshot until the last row is out. In both cases changes in
//! the snapshot are not emitted until its message has come.

use futures_util::StreamExt;
use millrace_core::batch::ChangeBatch;
use millrace_core::error::{Error, Result};
use millrace_core::progress::now_us;

use crate::snapshot::copy;
use crate::snapshot::desk::Order;
use crate::snapshot::reader::{Range, Reader, Taken, UNDER_WAY_MAX, refused};
use crate::snapshot::select::{self, Rows};
use crate::snapshot::tracker::{Opened, Read, Turn, row};

impl Reader {
    /// Reads one table to its end, and waits until the stream has passed its snapshot.
    pub(super) async fn keyless(&mut self, index: usize) -> Result<()> {
        let Some(unread) = self.unread.get(index) else { return Ok(()) };
        let range = Range::of(index, unread, 0);
        self.figures.table = Some(range.name.to_string());
        let last = self.next_id();
        let taken = if range.ended {
            // Its rows were delivered before a crash, and only the message was left to come.
            let seen = self.look().await?;
            self.describe(last, seen, &range.name).await?
        } else {
            let taken = self.take(&range, Turn::AtOnce { last }).await?;
            if !taken.info.has_identity() {
                self.order(Order::Resume(None))?;
            }
            self.all_rows(&range, &taken, last).await?;
            self.execute("COMMIT", &range.name).await?;
            self.order(Order::Resume(None))?;
            taken
        };
        let opened = Opened { id: last, table: index, seen: taken.seen.clone(), turn: Turn::Message };
        self.order(Order::Open(Box::new(opened)))?;
        self.hand_over(&taken, last, ChangeBatch::default(), true, false)?;
        self.mark(last).await?;
        let outcome = self.outcome().await;
        tracing::info!(table = %range.name, rows = outcome.rows, "all rows of the table are read");
        Ok(())
    }

    async fn all_rows(&mut self, range: &Range, taken: &Taken, last: u64) -> Result<()> {
        let table = &range.name;
        self.execute("SET LOCAL enable_seqscan = on", table).await?;
        // Before the COPY: its rows would have to be read before another answer comes.
        let is_last_table = !self.has_rows_after(range.table).await?;
        let sql = select::copy(&taken.info, &taken.published, &taken.message, &[], Rows::All);
        let rows = self.control.client.copy_out(&sql).await.map_err(|error| refused(table, error))?;
        let mut rows = std::pin::pin!(rows);
        let (mut id, mut under_way) = (taken.id, 0);
        let before = self.figures.rows;
        let mut batch = self.empty();
        loop {
            let line = rows.next().await.transpose().map_err(|error| refused(table, error))?;
            let is_end = line.is_none();
            if let Some(line) = line {
                let columns = taken.message.columns.len();
                let after = copy::append_row(&mut batch, &line, columns).map_err(|error| {
                    Error::fatal(format!("postgres sent a malformed row of {table}")).source(error)
                })?;
                batch.changes.push(row(after));
                if !self.is_full(&batch) {
                    continue;
                }
            }
            if id != taken.id {
                let turn = Turn::AtOnce { last };
                let opened = Opened { id, table: range.table, seen: taken.seen.clone(), turn };
                self.order(Order::Open(Box::new(opened)))?;
            }
            self.hand_over(taken, id, std::mem::take(&mut batch), is_end, is_last_table)?;
            under_way += 1;
            while under_way >= UNDER_WAY_MAX || (is_end && under_way > 0) {
                let outcome = self.outcome().await;
                under_way -= 1;
                self.delivered(before + outcome.rows, outcome.buffer);
            }
            if is_end {
                return Ok(());
            }
            (id, batch) = (self.next_id(), self.empty());
        }
    }

    /// Rows without a key; none where only the message is waited for.
    fn hand_over(
        &self,
        taken: &Taken,
        id: u64,
        rows: ChangeBatch,
        ended: bool,
        is_last_table: bool,
    ) -> Result<()> {
        let relation = self.relation(taken)?;
        let read = Read {
            id,
            rows,
            oid: taken.info.oid,
            relation,
            requested: None,
            last: None,
            ended,
            is_last_table,
            read_at_us: now_us(),
        };
        self.order(Order::Read(Box::new(read)))
    }
}
