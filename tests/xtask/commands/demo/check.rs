//! Whether the events are what was committed: once each, and per key in its order. Start at [`compare`].

use std::collections::BTreeMap;
use std::fmt;

/// So many findings are kept for reading; all are counted.
const EXAMPLES_MAX: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Create,
    Update,
    Delete,
    /// The record without a value after each delete.
    Tombstone,
}

impl Op {
    /// As the journal and the events spell it.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "c" => Some(Self::Create),
            "u" => Some(Self::Update),
            "d" => Some(Self::Delete),
            _ => None,
        }
    }

    pub fn letter(self) -> char {
        match self {
            Self::Create => 'c',
            Self::Update => 'u',
            Self::Delete => 'd',
            Self::Tombstone => '-',
        }
    }
}

/// A line of the journal: a change that was committed.
#[derive(Debug, Clone)]
pub struct Entry {
    pub table: String,
    pub key: String,
    pub op: Op,
    pub seq: i64,
}

/// A record as a consumer saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub table: String,
    pub key: String,
    pub op: Op,
    /// The row's own number; old rows and tombstones have none to go by.
    pub seq: Option<i64>,
    pub partition: i32,
}

/// What does not hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub keys: usize,
    pub lost: usize,
    pub doubled: usize,
    pub phantom: usize,
    pub reordered: usize,
    pub examples: Vec<String>,
}

impl Findings {
    pub fn passed(&self) -> bool {
        self.lost + self.doubled + self.phantom + self.reordered == 0
    }

    fn note(&mut self, what: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what);
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, lost, doubled, phantom, reordered, .. } = self;
        write!(
            f,
            "{lost} lost, {doubled} doubled, {phantom} never committed, {reordered} keys out of order, \
             in {keys} keys"
        )
    }
}

/// What tells one change of a key from another; a delete is known by its place in the order only.
type Step = (Op, Option<i64>);

#[derive(Default)]
struct History {
    expected: Vec<Step>,
    seen: Vec<Step>,
    partitions: Vec<i32>,
}

/// `journal` in the order of its writing, `seen` in the order of each partition.
pub fn compare<'a>(journal: &'a [Entry], seen: impl IntoIterator<Item = &'a Seen>) -> Findings {
    let mut histories: BTreeMap<(&str, &str), History> = BTreeMap::new();
    for entry in journal {
        let steps = &mut histories.entry((&entry.table, &entry.key)).or_default().expected;
        match entry.op {
            Op::Delete => steps.extend([(Op::Delete, None), (Op::Tombstone, None)]),
            op => steps.push((op, Some(entry.seq))),
        }
    }
    for record in seen {
        let history = histories.entry((&record.table, &record.key)).or_default();
        let seq = record.seq.filter(|_| matches!(record.op, Op::Create | Op::Update));
        history.seen.push((record.op, seq));
        if !history.partitions.contains(&record.partition) {
            history.partitions.push(record.partition);
        }
    }
    let mut findings = Findings { keys: histories.len(), ..Findings::default() };
    for ((table, key), history) in histories {
        judge(&format!("{table} {key}"), &history, &mut findings);
    }
    findings
}

fn judge(name: &str, history: &History, findings: &mut Findings) {
    let mut counts: BTreeMap<Step, (usize, usize)> = BTreeMap::new();
    for step in &history.expected {
        counts.entry(*step).or_default().0 += 1;
    }
    for step in &history.seen {
        counts.entry(*step).or_default().1 += 1;
    }
    let complete = counts.values().all(|(expected, seen)| expected == seen);
    for ((op, seq), (expected, seen)) in counts {
        let seq = seq.map_or_else(String::new, |seq| format!(" {seq}"));
        let what =
            format!("{name}: {}{seq} was committed {expected} times and seen {seen} times", op.letter());
        if expected == seen {
            continue;
        }
        match (expected, seen) {
            (expected, seen) if seen < expected => findings.lost += expected - seen,
            (0, seen) => findings.phantom += seen,
            (expected, seen) => findings.doubled += seen - expected,
        }
        findings.note(what);
    }
    // With something missing or too much, the order says nothing more.
    let in_order = !complete || history.expected == history.seen;
    if !in_order || history.partitions.len() > 1 {
        findings.reordered += 1;
        let partitions = &history.partitions;
        findings.note(format!("{name}: not in the order of the commits, in partitions {partitions:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> Vec<Entry> {
        let entry = |key: &str, op, seq| Entry { table: "orders".into(), key: key.into(), op, seq };
        vec![
            entry("1", Op::Create, 1),
            entry("2", Op::Create, 1),
            entry("1", Op::Update, 2),
            entry("1", Op::Update, 3),
            entry("1", Op::Delete, 3),
        ]
    }

    fn record(key: &str, op: Op, seq: Option<i64>) -> Seen {
        Seen { table: "orders".into(), key: key.into(), op, seq, partition: 0 }
    }

    fn all() -> Vec<Seen> {
        vec![
            record("1", Op::Create, Some(1)),
            record("1", Op::Update, Some(2)),
            record("1", Op::Update, Some(3)),
            record("1", Op::Delete, Some(3)),
            record("1", Op::Tombstone, None),
            record("2", Op::Create, Some(1)),
        ]
    }

    fn after(change: impl FnOnce(&mut Vec<Seen>)) -> Findings {
        let mut seen = all();
        change(&mut seen);
        compare(&journal(), &seen)
    }

    #[test]
    fn what_was_committed_and_nothing_else_passes() {
        let findings = after(|_| {});
        assert!(findings.passed(), "{findings:?}");
        assert_eq!(findings.keys, 2);
    }

    #[test]
    fn a_missing_event_is_lost() {
        for at in 0..all().len() {
            let findings = after(|seen| drop(seen.remove(at)));
            assert_eq!((findings.lost, findings.doubled, findings.phantom), (1, 0, 0), "{at}");
        }
    }

    #[test]
    fn an_event_that_comes_twice_is_doubled() {
        for at in 0..all().len() {
            let findings = after(|seen| seen.insert(at, seen[at].clone()));
            assert_eq!((findings.lost, findings.doubled, findings.phantom), (0, 1, 0), "{at}");
        }
    }

    #[test]
    fn two_events_of_a_key_that_changed_places_are_out_of_order() {
        let findings = after(|seen| seen.swap(1, 2));
        assert_eq!((findings.reordered, findings.lost, findings.doubled), (1, 0, 0));
        assert!(!findings.passed());
    }

    #[test]
    fn events_of_different_keys_may_change_places() {
        assert!(after(|seen| seen.rotate_right(1)).passed());
    }

    #[test]
    fn a_key_in_two_partitions_has_no_order() {
        let findings = after(|seen| seen[2].partition = 1);
        assert_eq!(findings.reordered, 1);
    }

    #[test]
    fn an_event_of_a_rolled_back_transaction_was_never_committed() {
        let findings = after(|seen| seen.push(record("3", Op::Create, Some(1))));
        assert_eq!((findings.phantom, findings.lost), (1, 0));
    }

    #[test]
    fn a_key_that_is_deleted_and_comes_again_is_followed_through_both_lives() {
        let lives = ["c", "d", "c", "d"].map(|op| Entry {
            table: "orders".into(),
            key: "7".into(),
            op: Op::named(op).unwrap(),
            seq: 1,
        });
        let life = [
            record("7", Op::Create, Some(1)),
            record("7", Op::Delete, None),
            record("7", Op::Tombstone, None),
        ];
        let twice = [life.clone(), life.clone()].concat();
        assert!(compare(&lives, &twice).passed());
        assert_eq!(compare(&lives, &life).lost, 3);
    }
}
