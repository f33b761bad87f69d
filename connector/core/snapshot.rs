//! What the snapshots of all sources share: where one stands (`Phase`), how many rows a chunk asks for (`Pace`),
//! which words its rows get (`Marks`), what its workers have to do (`Jobs`), and how far all of it is, for people
//! (`Telling`).
//!
//! How a chunk is read so that rows and changes come once and in order is the matter of each source.

mod jobs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::batch::{ChangeBatch, SnapshotMark, Transaction};
use crate::progress::{Progress, SnapshotFigures, now_us};

pub use jobs::Jobs;

/// Chunks of one reader under way: one is read while the one before waits for the stream.
pub const UNDER_WAY_MAX: usize = 2;

/// Where a chunk is cut, whatever its rows: several batches' worth, twice that in memory.
pub const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Keys of rows that changed under an open chunk. Above it the chunk is read again, smaller.
pub const TOUCHED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a key costs beside its bytes.
pub const KEY_OVERHEAD: usize = 48;

/// Listed keys that are read again at once.
pub const LISTED_AT_ONCE: usize = 500;

/// Rows of a table's first chunk, before it is known how large they are.
const ROWS_FIRST: u64 = 500;

/// How often the log tells how far the rows are.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Where the snapshot of a table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing was read.
    Pending,
    Reading,
    Done,
    /// Its rows are not wanted.
    Skipped,
}

/// How many rows the next chunk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    rows: u64,
    rows_max: u64,
}

impl Pace {
    pub fn new(rows_max: u64) -> Self {
        let rows_max = rows_max.max(1);
        Self { rows: ROWS_FIRST.min(rows_max), rows_max }
    }

    pub fn rows(self) -> u64 {
        self.rows
    }

    /// As many rows as fit, by the size of those of the last chunk, and not many times more at once.
    pub fn after(&mut self, rows: usize, bytes: usize) {
        let fitting = CHUNK_BYTES / (bytes / rows.max(1)).max(1);
        self.rows = (fitting as u64).min(self.rows.saturating_mul(8)).clamp(1, self.rows_max);
    }

    /// Too much changed under a chunk of this size.
    pub fn halve(&mut self) {
        self.rows = (self.rows / 2).max(1);
    }
}

/// Which words the first and the last row of a chunk get.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// No table before this one had a row.
    pub of_all: bool,
    /// The chunk has its table's first row, and its last.
    pub is_first: bool,
    pub is_last: bool,
    /// No table after this one has a row.
    pub is_last_table: bool,
}

impl Marks {
    /// Adds the transactions that stand for the snapshot, each like `transaction` but for its word.
    pub fn put(self, transaction: Transaction, batch: &mut ChangeBatch) {
        let first = if self.of_all { SnapshotMark::First } else { SnapshotMark::FirstOfTable };
        let last = if self.is_last_table { SnapshotMark::Last } else { SnapshotMark::LastOfTable };
        let words = [SnapshotMark::Row, first, last];
        batch.transactions.extend(words.map(|snapshot| Transaction { snapshot, ..transaction }));
        if let Some(first) = batch.changes.first_mut().filter(|_| self.is_first) {
            first.transaction = 1;
        }
        if let Some(last) = batch.changes.last_mut().filter(|_| self.is_last) {
            // The only row of a table: the last one's word is the stronger, but not than the first one's of all.
            let is_only = last.transaction == 1 && self.of_all;
            last.transaction = if is_only && !self.is_last_table { 1 } else { 2 };
        }
    }
}

/// How far the snapshot is, for the status, the metrics and the log.
#[derive(Debug)]
pub struct Telling {
    pub figures: SnapshotFigures,
    progress: Arc<Progress>,
    /// When the log was told.
    told_at: Instant,
}

impl Telling {
    pub fn new(progress: Arc<Progress>) -> Self {
        let figures = SnapshotFigures { started_ms: now_us() / 1000, ..SnapshotFigures::default() };
        Self { figures, progress, told_at: Instant::now() }
    }

    /// `waits_for`: what it cannot go on without.
    pub fn show(&mut self, waits_for: Option<String>) {
        self.figures.waits_for = waits_for;
        self.progress.set_snapshot(self.figures.clone());
    }

    /// So many rows are handed over, all in all.
    pub fn rows(&mut self, rows: u64) {
        self.figures.rows = rows;
        self.show(None);
        if self.told_at.elapsed() >= TELL_EVERY {
            self.told_at = Instant::now();
            let SnapshotFigures { rows, rows_estimated, .. } = self.figures;
            let seconds_left = self.figures.seconds_left(now_us() / 1000);
            let table = self.figures.table.as_deref();
            tracing::info!(table, rows, rows_estimated, seconds_left, "reading the tables' rows");
        }
    }

    /// Every table is through.
    pub fn finished(&mut self) {
        self.figures.finished_ms = Some(now_us() / 1000);
        self.figures.table = None;
        self.show(None);
        tracing::info!(rows = self.figures.rows, "all rows of the tables are read");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Before, Change, Op, Row};
    use crate::position::Mark;

    fn marked(rows: usize, marks: Marks) -> Vec<&'static str> {
        let row = Change {
            op: Op::Read,
            has_before: Before::None,
            relation: 0,
            transaction: 0,
            mark: Mark::default(),
            before: Row::default(),
            after: Row::default(),
        };
        let mut batch = ChangeBatch { changes: vec![row; rows], ..ChangeBatch::default() };
        let transaction = Transaction {
            part: Default::default(),
            id: 0,
            commit_ts_us: 0,
            previous_commit: None,
            snapshot: SnapshotMark::Row,
            again: 0,
            origin: None,
        };
        marks.put(transaction, &mut batch);
        let word = |change: &Change| batch.transactions[change.transaction as usize].snapshot.name();
        batch.changes.iter().map(word).collect()
    }

    #[test]
    fn the_first_and_the_last_row_get_their_words() {
        let all = Marks { of_all: true, is_first: true, is_last: true, is_last_table: true };
        assert_eq!(marked(3, all), ["first", "true", "last"]);
        assert_eq!(marked(1, all), ["last"]);
        let first_table = Marks { is_last_table: false, ..all };
        assert_eq!(marked(1, first_table), ["first"]);
        let middle = Marks { of_all: false, ..first_table };
        assert_eq!(marked(2, middle), ["first_in_data_collection", "last_in_data_collection"]);
        assert_eq!(marked(1, middle), ["last_in_data_collection"]);
        assert_eq!(marked(2, Marks { is_first: false, is_last: false, ..all }), ["true", "true"]);
        assert_eq!(marked(0, all), [] as [&str; 0]);
    }

    #[test]
    fn a_chunk_asks_for_as_many_rows_as_fit_and_not_many_times_more_at_once() {
        let mut pace = Pace::new(10_000);
        assert_eq!(pace.rows(), 500);
        pace.after(500, 500 * 100);
        assert_eq!(pace.rows(), 4_000);
        pace.after(4_000, 4_000 * 100);
        assert_eq!(pace.rows(), 10_000);
        pace.after(100, 100 * 1024 * 1024);
        assert_eq!(pace.rows(), 4);
        pace.halve();
        pace.halve();
        pace.halve();
        assert_eq!(pace.rows(), 1);
        assert_eq!(Pace::new(7).rows(), 7);
    }
}
