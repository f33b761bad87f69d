//! The transaction under way: what of it was delivered before, and what metadata tells of it.

use millrace_core::batch::{Cell, ChangeBatch, Name, Part, ReplicationOrigin, Tag};
use millrace_core::error::Error;
use millrace_core::position::Mark;
use millrace_core::progress::State;

use super::Session;
use crate::lsn::Lsn;
use crate::position::Open;

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
    /// The replication origin by name, and where it committed there.
    pub origin: Option<(String, u64)>,
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

    /// The replication origin, its name added to a batch in which it is not yet.
    pub(super) fn origin_in(&self, batch: &mut ChangeBatch) -> Option<ReplicationOrigin> {
        let (name, commit) = self.origin.as_ref()?;
        let (start, len) = (u32::try_from(batch.bytes.len()).ok()?, u32::try_from(name.len()).ok()?);
        batch.bytes.extend_from_slice(name.as_bytes());
        Some(ReplicationOrigin { name: Cell { start, len, tag: Tag::Text }, commit: *commit })
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

impl Session {
    /// Whether a transaction was committed before the time that an operator chose. The first one that was not is a
    /// place in the log, and all that lies behind it is wanted: a clock that is set back hides nothing later.
    pub(super) fn is_too_early(&mut self, commit_ts_us: i64) -> bool {
        let Some(since_us) = self.whole.since_us else { return false };
        if commit_ts_us < since_us {
            return true;
        }
        self.whole.since_us = None;
        false
    }
}

pub(super) fn lost_open(open: Open, why: &str) -> Error {
    Error::fatal(format!(
        "transaction {} with its commit at {} was delivered in part, and the rest is gone: {why}",
        open.xid, open.final_lsn
    ))
    .hint("the slot was changed behind this connector; compare the table with its topic, then set the position anew with `millrace position`")
    .state(State::PositionLost)
}
