//! The transaction under way: what of it was delivered before, and what metadata tells of it.

use millrace_core::batch::{Name, Part};
use millrace_core::position::Mark;

use crate::lsn::Lsn;

/// Which changes of a transaction were delivered before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skip {
    Nothing,
    Everything,
    /// Up to and including this change.
    UpTo(Lsn, u32),
}

#[derive(Debug)]
pub(super) struct OpenTransaction {
    pub final_lsn: Lsn,
    pub xid: u32,
    pub commit_ts_us: i64,
    /// In the header of its begin.
    pub begin: Lsn,
    pub skip: Skip,
    /// The last change that was counted, skipped ones too.
    pub last: Option<(Lsn, u32)>,
    /// Its index in the batch with this number. `None` while none of its changes was emitted.
    pub in_batch: Option<(u64, u32)>,
}

impl OpenTransaction {
    pub(super) fn delivered(&self) -> Option<Mark> {
        match self.skip {
            Skip::UpTo(lsn, n) => Some(Mark { commit: self.final_lsn.0, change: lsn.0, n }),
            Skip::Nothing | Skip::Everything => None,
        }
    }

    /// Of a batch in which it is not yet.
    pub(super) fn part(&self) -> Part {
        let is_first = self.in_batch.is_none() && self.skip == Skip::Nothing;
        Part {
            name: Name::Number { commit: self.final_lsn.0 },
            begin: is_first.then_some(self.begin.0),
            end: None,
            delivered: self.delivered(),
        }
    }

    /// The last change that is delivered or on its way: what was skipped counts as delivered to its end.
    pub(super) fn furthest(&self) -> Option<(Lsn, u32)> {
        match self.skip {
            Skip::UpTo(lsn, n) => Some(self.last.unwrap_or_default().max((lsn, n))),
            Skip::Nothing | Skip::Everything => self.last,
        }
    }
}
