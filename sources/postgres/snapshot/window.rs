//! A blocking snapshot as the decoder sees it. Several tables are read under one snapshot S, and their rows go out
//! while the stream stands still. Until it has passed S, it goes on: what it changes on the way is newer than the rows.
//! Start at `Window`.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use tokio::sync::oneshot;

use crate::snapshot::key::Key;
use crate::snapshot::visibility::Visibility;

/// What a key costs beside its bytes.
const KEY_OVERHEAD: usize = 48;

pub fn weight(key: &Key) -> usize {
    key.len() + KEY_OVERHEAD
}

/// A snapshot of several tables that was taken.
#[derive(Debug)]
pub struct Block {
    /// Number of the message behind which the stream has passed the snapshot.
    pub id: u64,
    /// Numbers of the tables.
    pub tables: Range<usize>,
    pub seen: Visibility,
    /// Told when the stream stands still there. False: too much was changed on the way.
    pub standing: Option<oneshot::Sender<bool>>,
}

/// Keys of rows that changed under a snapshot, and whether the newest change of each left the whole row behind, or
/// none.
pub type Touched = HashMap<Key, bool>;

/// Notes a key; gives the bytes that this costs.
pub fn touch(touched: &mut Touched, key: &Key, whole: bool) -> usize {
    if let Some(newest) = touched.get_mut(key) {
        *newest = whole;
        return 0;
    }
    touched.insert(key.clone(), whole);
    weight(key)
}

/// From S to where the stream goes on.
pub struct Window {
    block: Block,
    passed: bool,
    bytes: usize,
    spoiled: bool,
    touched: HashMap<usize, Touched>,
    truncated: HashSet<usize>,
}

impl Window {
    pub fn new(block: Block) -> Self {
        let (touched, truncated) = (HashMap::new(), HashSet::new());
        Self { block, passed: false, bytes: 0, spoiled: false, touched, truncated }
    }

    /// Whether a transaction's changes of this table are newer than the rows.
    pub fn is_newer(&self, table: usize, xid: u32) -> bool {
        self.block.tables.contains(&table) && !self.block.seen.sees(xid)
    }

    /// A key that such a transaction changed.
    pub fn touch(&mut self, table: usize, key: &Key, whole: bool, bytes_max: usize) {
        if self.spoiled {
            return;
        }
        self.bytes += touch(self.touched.entry(table).or_default(), key, whole);
        if self.bytes > bytes_max {
            self.spoil();
        }
    }

    /// A row of a table without a key was changed: nothing tells which of the rows that is.
    pub fn spoil(&mut self) {
        (self.spoiled, self.touched) = (true, HashMap::new());
    }

    pub fn truncate(&mut self, table: usize) {
        self.truncated.insert(table);
        self.touched.remove(&table);
    }

    /// The message with this number has come on the stream.
    pub fn arrived(&mut self, id: u64) {
        self.passed |= self.block.id == id;
    }

    /// The stream has to stand still at the next end of a transaction.
    pub fn is_passed(&self) -> bool {
        self.passed
    }

    /// Whom to tell of that, and whether the rows may come.
    pub fn stand(&mut self) -> Option<(oneshot::Sender<bool>, bool)> {
        if !std::mem::take(&mut self.passed) {
            return None;
        }
        Some((self.block.standing.take()?, !self.spoiled))
    }

    /// What the stream changed of a table on the way, and whether it emptied it.
    pub fn of(&self, table: usize) -> (Option<&Touched>, bool) {
        (self.touched.get(&table), self.truncated.contains(&table))
    }
}
