//! Tables without a key: their rows are read under one snapshot, by ranges of blocks. Start at `Worker::keyless`.
//!
//! Whoever takes the snapshot lends it to others, who read ranges too. A range holds the rows in these blocks of the
//! table, or of each of its parts, so that each row is in one of them.
//!
//! Where rows are only ever inserted, rows and changes go side by side: nothing can overtake a row. Where the
//! whole old row identifies one (REPLICA IDENTITY FULL), a change cannot be told to be of a row that was read,
//! so the stream stands still at the place of the snapshot until the last row is out. In both cases changes in
//! the snapshot are not emitted until its message has come.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use millrace_core::batch::ChangeBatch;
use millrace_core::error::Result;
use millrace_core::progress::now_us;
use tokio::sync::watch;

use crate::control;
use crate::errors;
use crate::snapshot::chunk::{Of, Read, Turn};
use crate::snapshot::desk::Order;
use crate::snapshot::reader::End;
use crate::snapshot::select::{self, Blocks, Filter, Rows};
use crate::snapshot::table::{Part, Unread};
use crate::snapshot::visibility::Visibility;
use crate::snapshot::worker::{Described, UNDER_WAY_MAX, Worker, append, refused};
use crate::tables::TableName;

/// Blocks of a range: so many that a query is worth it, and not so many that the others wait for the last one.
const BLOCKS_MIN: u64 = 64;
const BLOCKS_MAX: u64 = 4_096;

/// Ranges for each worker.
const RANGES_EACH: u64 = 4;

/// A table that is read under one snapshot, by whoever has time.
#[derive(Debug)]
pub(super) struct Whole {
    index: usize,
    name: TableName,
    seen: Visibility,
    /// Of its chunks.
    turn: Turn,
    /// The snapshot, as the server calls it.
    exported: String,
    ranges: Mutex<VecDeque<Blocks>>,
    /// Ranges that are not handed over.
    left: watch::Sender<usize>,
    /// Rows that may be the last ones.
    kept: Mutex<Option<ChangeBatch>>,
}

impl Whole {
    /// How many nobody has begun.
    pub fn ranges(&self) -> usize {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn next(&self) -> Option<Blocks> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Keeps these rows, and gives those that were kept until now.
    fn keep(&self, rows: Option<ChangeBatch>) -> Option<ChangeBatch> {
        std::mem::replace(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner), rows)
    }

    /// Until all ranges are handed over.
    async fn handed_over(&self) {
        // The sender lives as long as `self`.
        let _ = self.left.subscribe().wait_for(|left| *left == 0).await;
    }
}

/// Those of one worker.
#[derive(Default)]
struct Chunks {
    /// Open, and without rows.
    opened: Option<u64>,
    under_way: usize,
}

impl Chunks {
    /// The number of one that is open for the next rows.
    fn next(&mut self, worker: &Worker, whole: &Whole) -> Result<u64> {
        if let Some(id) = self.opened.take() {
            return Ok(id);
        }
        let id = worker.shared.next_id();
        worker.open(id, whole.index, &whole.seen, whole.turn)?;
        Ok(id)
    }
}

/// A table of so many blocks, for so many workers. What is behind the last one is in the last range.
fn ranges(blocks: u64, workers: u64) -> Vec<Blocks> {
    let each = (blocks / (workers * RANGES_EACH)).clamp(BLOCKS_MIN, BLOCKS_MAX);
    let count = (blocks / each).max(1);
    let range = |n| Blocks { from: n * each, until: (n + 1 < count).then_some((n + 1) * each) };
    (0..count).map(range).collect()
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
            if shared.is_last(index) {
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
            } else {
                shared.hold(Some(format!("those of {name}, which has no key")), None);
            }
            let turn = Turn::AtOnce { last };
            self.whole(index, name, (&taken.seen, turn, Some(taken.id)), &taken.table).await?;
            self.execute("COMMIT", name).await?;
            if taken.held.is_some() {
                shared.hold(None, None);
                shared.order(Order::Resume(None))?;
            }
            (seen, table) = (taken.seen, taken.table);
        }
        self.open(last, index, &seen, Turn::Message)?;
        self.hand_over(last, (index, &table), ChangeBatch::default(), true)?;
        self.mark(last).await?;
        let outcome = self.outcome().await;
        self.give_back(outcome.buffer);
        tracing::info!(table = %name, "all rows of the table are read");
        shared.through(index, End::Read(outcome.rows));
        Ok(())
    }

    /// Reads all rows under the snapshot of the transaction under way, with the help of whoever has time; gives their
    /// number. `opened`: a chunk that is open for them.
    pub(super) async fn whole(
        &mut self,
        index: usize,
        name: &TableName,
        (seen, turn, opened): (&Visibility, Turn, Option<u64>),
        table: &Described,
    ) -> Result<u64> {
        let ranges = self.blocks(index, table).await?;
        let exported = match &self.standing {
            None if ranges.len() > 1 => self.export().await?,
            // Nobody has to join.
            _ => String::new(),
        };
        let whole = Arc::new(Whole {
            index,
            name: name.clone(),
            seen: seen.clone(),
            turn,
            exported,
            left: watch::Sender::new(ranges.len()),
            ranges: Mutex::new(ranges.into()),
            kept: Mutex::default(),
        });
        let mut chunks = Chunks { opened, under_way: 0 };
        if whole.ranges() > 1 {
            // Those of others wait behind it.
            self.hand_over(chunks.next(self, &whole)?, (index, table), ChangeBatch::default(), false)?;
            chunks.under_way = 1;
            self.shared.lend(whole.clone());
        }
        self.some_ranges(&whole, table, &mut chunks).await?;
        whole.handed_over().await;
        let rows = whole.keep(None).unwrap_or_default();
        self.hand_over(chunks.next(self, &whole)?, (index, table), rows, true)?;
        let outcome = self.outcome().await;
        self.shared.delivered(outcome.placed);
        self.give_back(outcome.buffer);
        Ok(outcome.rows)
    }

    /// How the table is cut. Only what Postgres stores itself, by blocks: a foreign part may have no places for rows.
    /// And not what a statement gives.
    async fn blocks(&self, index: usize, table: &Described) -> Result<Vec<Blocks>> {
        let what = || format!("cannot ask how large {} is", table.info.name());
        let sql = "SELECT coalesce(max(pg_relation_size(c.oid)) / current_setting('block_size')::bigint, 0),
                   coalesce(bool_and(c.relkind = 'r' AND a.amname = 'heap'), false)
            FROM (SELECT $1::oid UNION SELECT relid FROM pg_partition_tree($1::oid)) AS leaf(oid)
            JOIN pg_class c ON c.oid = leaf.oid LEFT JOIN pg_am a ON a.oid = c.relam WHERE c.relkind <> 'p'";
        let row = self.client().query_one(sql, &[&table.info.oid]).await;
        let row = row.map_err(|error| errors::query(what(), error))?;
        let blocks: i64 = row.try_get(0).map_err(|error| errors::query(what(), error))?;
        let is_stored: bool = row.try_get(1).map_err(|error| errors::query(what(), error))?;
        let is_statement = matches!(self.filter(index), Filter::Statement(_));
        let blocks = if is_stored && !is_statement { u64::try_from(blocks).unwrap_or(0) } else { 0 };
        Ok(ranges(blocks, self.shared.settings.snapshot_workers as u64))
    }

    /// Which rows of a table a signal wants.
    fn filter(&self, index: usize) -> Filter<'_> {
        Filter::of(self.shared.unread(index).and_then(|unread| unread.note.asked.as_ref()))
    }

    /// Reads ranges of a table that somebody else has begun.
    pub(super) async fn help(&mut self, whole: &Whole) -> Result<()> {
        // Where the stream stands still for a blocking snapshot, this reads under it already.
        let joins = self.standing.is_none();
        if joins && !self.join(&whole.exported, std::slice::from_ref(&whole.name)).await? {
            return Ok(());
        }
        // Chunks of its own may be under way.
        let own = self.other_outcomes();
        let table = self.describe(&whole.name).await?;
        self.some_ranges(whole, &table, &mut Chunks::default()).await?;
        self.own_outcomes(own);
        if joins { self.roll_back().await } else { Ok(()) }
    }

    /// Reads ranges until there are no more.
    async fn some_ranges(&mut self, whole: &Whole, table: &Described, chunks: &mut Chunks) -> Result<()> {
        let Whole { index, name, .. } = whole;
        self.execute(&format!("SET LOCAL enable_seqscan = on; {}", control::PATH_OF_ROLE), name).await?;
        let mut is_given_up = false;
        while let Some(blocks) = whole.next() {
            if is_given_up {
                // The others have to know that nothing is left.
            } else if self.shared.is_stopped(*index) {
                self.shared.order(Order::Drop(*index))?;
                self.shared.through(*index, End::Stopped);
                is_given_up = true;
            } else if self.standing.is_some() {
                self.execute("SAVEPOINT rows", name).await?;
                match self.range(whole, table, (blocks, &mut *chunks)).await {
                    Ok(()) => self.execute("RELEASE SAVEPOINT rows", name).await?,
                    Err(error) => {
                        let (unused, _) = self.without(*index, name, error).await?;
                        self.give_back(unused);
                        is_given_up = true;
                    }
                }
            } else {
                self.range(whole, table, (blocks, &mut *chunks)).await?;
            }
            whole.left.send_modify(|left| *left = left.saturating_sub(1));
        }
        self.execute("SET LOCAL enable_seqscan = off", name).await?;
        self.settled(std::mem::take(&mut chunks.under_way)).await;
        Ok(())
    }

    /// Reads a range, and hands over its rows but for the last ones, which are kept in the place of those before.
    async fn range(
        &mut self,
        whole: &Whole,
        table: &Described,
        (blocks, chunks): (Blocks, &mut Chunks),
    ) -> Result<()> {
        let (name, columns) = (&whole.name, table.message.columns.len());
        let filter = (&[][..], self.filter(whole.index));
        let sql = select::copy(&table.info, &table.published, &table.message, filter, Rows::Blocks(blocks));
        let rows = self.client().copy_out(&sql).await.map_err(|error| refused(name, error))?;
        let mut rows = std::pin::pin!(rows);
        let mut batch = self.empty();
        loop {
            let line = rows.next().await.transpose().map_err(|error| refused(name, error))?;
            let is_end = line.is_none();
            let ready = match line {
                Some(line) => {
                    append(&mut batch, &line, columns, name)?;
                    let is_full = self.is_full(&batch);
                    is_full.then(|| std::mem::replace(&mut batch, self.empty()))
                }
                None if batch.changes.is_empty() => None,
                None => whole.keep(Some(std::mem::take(&mut batch))),
            };
            if let Some(ready) = ready {
                self.hand_over(chunks.next(self, whole)?, (whole.index, table), ready, false)?;
                chunks.under_way += 1;
            }
            if chunks.under_way >= UNDER_WAY_MAX {
                self.settled(1).await;
                chunks.under_way -= 1;
            }
            if is_end {
                return Ok(());
            }
        }
    }

    /// Waits until so many chunks are out.
    async fn settled(&mut self, chunks: usize) {
        for _ in 0..chunks {
            let outcome = self.outcome().await;
            self.shared.delivered(outcome.placed);
            self.give_back(outcome.buffer);
        }
    }

    /// Rows without a key; none where only the message is waited for.
    fn hand_over(
        &self,
        id: u64,
        (index, table): (usize, &Described),
        rows: ChangeBatch,
        ended: bool,
    ) -> Result<()> {
        let read = Read {
            id,
            rows,
            oid: table.info.oid,
            relation: self.relation(table)?,
            of: Of::Part(0),
            after: None,
            last: None,
            ended,
            is_last_table: self.shared.is_last(index),
            read_at_us: now_us(),
        };
        self.shared.order(Order::Read(Box::new(read)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_a_table_follow_each_other_and_the_last_one_has_no_end() {
        for blocks in [0, 1, 63, 64, 65, 1_000, 100_000, 10_000_000] {
            for workers in [1, 2, 8] {
                let ranges = ranges(blocks, workers);
                assert_eq!(ranges.first().map(|range| range.from), Some(0));
                assert_eq!(ranges.last().map(|range| range.until), Some(None));
                for pair in ranges.windows(2) {
                    assert_eq!(pair[0].until, Some(pair[1].from));
                    assert!((BLOCKS_MIN..=BLOCKS_MAX).contains(&(pair[1].from - pair[0].from)));
                }
                assert!(ranges.len() as u64 >= (blocks / BLOCKS_MIN).min(workers), "{blocks} {workers}");
            }
        }
    }
}
