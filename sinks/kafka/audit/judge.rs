//! What the records of a connector prove about themselves: pure. Start at `Judge::see`.
//!
//! They come in the order of their places in the source's log, merged from all partitions; a record that lies
//! before one that came earlier in its own partition is out of place there.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use millrace_core::position::Mark;
use millrace_core::route;

use super::decode::Op;
use super::reading::{Place, Sighted};

/// Where a record lies in Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    pub topic: Arc<str>,
    pub partition: u32,
    pub offset: i64,
}

impl At {
    pub fn of(sighted: &Sighted) -> Self {
        Self { topic: sighted.topic.clone(), partition: sighted.partition, offset: sighted.offset }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}@{}", self.topic, self.partition, self.offset)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The same record of the same change.
    Double(At, At),
    /// The second lies behind the first in a partition and before it in the source's log.
    Disordered(At, At, Place),
    /// Records of a change are missing between the two, or, without the first, before the second.
    Gap(Option<At>, At),
    /// Its key belongs into another partition, where its other changes are.
    Astray(At, u32),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Double(one, other) => write!(f, "double: {one} and {other} are the same record"),
            Violation::Disordered(one, other, _) => {
                write!(f, "order: {other} comes behind {one} and happened before it")
            }
            Violation::Gap(Some(before), after) => {
                write!(f, "gap: a record of the change of {before} is missing, and {after} came")
            }
            Violation::Gap(None, at) => write!(f, "gap: a record of the change of {at} is missing"),
            Violation::Astray(at, partition) => {
                write!(f, "order: {at} has a key that belongs into partition {partition}")
            }
        }
    }
}

/// The change whose records are being seen.
struct Change {
    mark: Mark,
    next_sub: u32,
    /// Records that have to follow yet.
    due: u32,
    last: At,
    settled: bool,
}

pub struct Judge {
    /// Whether a delete is followed by a record without a value.
    tombstones: bool,
    /// Whether keys say which partition their records are in.
    by_key: bool,
    last_in: HashMap<(Arc<str>, u32), (Place, i64)>,
    last: Option<(Place, At)>,
    change: Option<Change>,
    pub records: u64,
    pub changes: u64,
}

impl Judge {
    pub fn new(tombstones: bool, by_key: bool) -> Self {
        let (last_in, last, change) = (HashMap::new(), None, None);
        Self { tombstones, by_key, last_in, last, change, records: 0, changes: 0 }
    }

    pub fn see(&mut self, sighted: &Sighted, place: Place, op: Op) -> Option<Violation> {
        self.records += 1;
        let at = At::of(sighted);
        let lane = (at.topic.clone(), at.partition);
        if let Some((before, offset)) = self.last_in.insert(lane, (place, at.offset)) {
            let earlier = At { offset, ..at.clone() };
            if place == before {
                return Some(Violation::Double(earlier, at));
            }
            if place < before {
                return Some(Violation::Disordered(earlier, at, place));
            }
        }
        if let Some((before, earlier)) = self.last.replace((place, at.clone()))
            && before == place
        {
            return Some(Violation::Double(earlier, at));
        }
        let due = route::partition(sighted.key.as_deref(), sighted.partitions);
        if self.by_key && due != at.partition {
            return Some(Violation::Astray(at, due));
        }
        self.follow(sighted, place, op, at)
    }

    /// Everything has been seen.
    pub fn end(&mut self) -> Option<Violation> {
        self.change.take().and_then(Change::unfinished)
    }

    fn follow(&mut self, sighted: &Sighted, place: Place, op: Op, at: At) -> Option<Violation> {
        let has_tombstone = self.tombstones && sighted.key.is_some();
        let due = match op {
            Op::Delete => u32::from(has_tombstone) + u32::from(sighted.key_left),
            // Of a flat row that left its key too.
            Op::Tombstone | Op::Other => u32::from(sighted.key_left),
        };
        match &mut self.change {
            Some(change) if change.mark == place.mark => {
                if place.sub != change.next_sub && sighted.complete {
                    return Some(Violation::Gap(Some(change.last.clone()), at));
                }
                change.next_sub = place.sub + 1;
                change.due = due;
                change.settled &= sighted.settled && sighted.complete;
                change.last = at;
                None
            }
            _ => {
                self.changes += 1;
                let settled = sighted.settled && sighted.complete;
                let next_sub = place.sub + 1;
                let new = Change { mark: place.mark, next_sub, due, last: at.clone(), settled };
                let unfinished = self.change.replace(new).and_then(Change::unfinished);
                let headless = place.sub > 0 && sighted.complete;
                unfinished.or(headless.then_some(Violation::Gap(None, at)))
            }
        }
    }
}

impl Change {
    fn unfinished(self) -> Option<Violation> {
        (self.due > 0 && self.settled).then_some(Violation::Gap(None, self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = b"one";

    fn record(partition: u32, offset: i64, change: u64, sub: u32, key_left: bool) -> Sighted {
        Sighted {
            topic: "t".into(),
            partition,
            offset,
            partitions: 1,
            place: Some(Place { mark: Mark { commit: 9, change, n: 0 }, sub }),
            key: Some(ONE.to_vec()),
            value: None,
            is_event: false,
            signature: None,
            key_left,
            settled: true,
            complete: true,
        }
    }

    fn judged(records: &[(Sighted, Op)]) -> Option<String> {
        let mut judge = Judge::new(true, true);
        for (sighted, op) in records {
            let place = sighted.place.expect("a place");
            if let Some(violation) = judge.see(sighted, place, *op) {
                return Some(violation.to_string());
            }
        }
        judge.end().map(|violation| violation.to_string())
    }

    #[test]
    fn changes_with_all_their_records_in_order_pass() {
        let records = [
            (record(0, 0, 1, 0, false), Op::Other),
            (record(0, 1, 2, 0, true), Op::Delete),
            (record(0, 2, 2, 1, true), Op::Tombstone),
            (record(0, 3, 2, 2, false), Op::Other),
            (record(0, 5, 3, 0, false), Op::Delete),
            (record(0, 6, 3, 1, false), Op::Tombstone),
        ];
        assert_eq!(judged(&records), None);
    }

    #[test]
    fn each_fault_is_told_with_both_places() {
        let insert = |offset, change| (record(0, offset, change, 0, false), Op::Other);
        let delete = |offset, change, left| (record(0, offset, change, 0, left), Op::Delete);
        let mut astray = record(1, 0, 1, 0, false);
        astray.partitions = 64;
        for (records, expected) in [
            (vec![insert(0, 1), insert(1, 1)], "double: t-0@0 and t-0@1 are the same record"),
            (vec![insert(0, 2), insert(1, 1)], "order: t-0@1 comes behind t-0@0 and happened before it"),
            (vec![delete(0, 1, false), insert(1, 2)], "gap: a record of the change of t-0@0 is missing"),
            (vec![delete(0, 1, false)], "gap: a record of the change of t-0@0 is missing"),
            (
                vec![(record(0, 4, 1, 1, false), Op::Tombstone)],
                "gap: a record of the change of t-0@4 is missing",
            ),
            (
                vec![delete(0, 1, true), (record(0, 1, 1, 2, false), Op::Other)],
                "gap: a record of the change of t-0@0 is missing, and t-0@1 came",
            ),
            (
                vec![delete(0, 1, true), (record(0, 1, 1, 1, true), Op::Tombstone)],
                "gap: a record of the change of t-0@1 is missing",
            ),
            (vec![(astray, Op::Other)], "order: t-1@0 has a key that belongs into partition"),
        ] {
            let found = judged(&records).unwrap_or_default();
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn a_key_in_two_partitions_is_a_double_when_the_change_is_the_same() {
        let records = [(record(0, 0, 1, 0, false), Op::Other), (record(1, 0, 1, 0, false), Op::Other)];
        assert_eq!(judged(&records).as_deref(), Some("double: t-0@0 and t-1@0 are the same record"));
    }

    #[test]
    fn what_compaction_or_retention_took_away_is_no_gap_and_a_double_is_one_still() {
        let thin = |offset, change, sub| Sighted { complete: false, ..record(0, offset, change, sub, false) };
        let records = [
            // Its delete was the older record of the key.
            (thin(4, 1, 1), Op::Tombstone),
            (thin(5, 2, 0), Op::Delete),
            (thin(9, 3, 0), Op::Other),
            (thin(11, 3, 2), Op::Other),
        ];
        assert_eq!(judged(&records), None);
        let twice = [(thin(4, 1, 0), Op::Other), (thin(5, 1, 0), Op::Other)];
        assert_eq!(judged(&twice).as_deref(), Some("double: t-0@4 and t-0@5 are the same record"));
    }

    #[test]
    fn what_may_still_become_visible_is_no_gap() {
        let mut newest = record(0, 0, 1, 0, false);
        newest.settled = false;
        assert_eq!(judged(&[(newest, Op::Delete)]), None);
    }
}
