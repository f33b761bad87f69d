//! Each uncut source transaction is complete or absent, and lies in one Kafka transaction.
//!
//! A partition tells its Kafka transactions apart, but not which of them is which in another
//! partition. The position topic does: every Kafka transaction with data writes a position there,
//! and a source transaction lies in the one whose position first passes its final LSN. So each
//! Kafka transaction of a data partition must belong to exactly one of the position topic, of the
//! same producer, and no two to the same.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::alignment::Aligned;
use super::expectation::Expectation;
use super::{Evidence, Findings, Mark};
use crate::events::{Event, Op};
use crate::reader::KafkaTx;

type Partition = (usize, i32);

pub fn whole(
    evidence: &Evidence<'_>,
    expectation: &Expectation<'_>,
    aligned: &Aligned,
    findings: &mut Findings,
) {
    complete(evidence, expectation, aligned, findings);
    if evidence.limits.positions {
        undivided(evidence, expectation, aligned, findings);
    }
}

fn complete(
    evidence: &Evidence<'_>,
    expectation: &Expectation<'_>,
    aligned: &Aligned,
    findings: &mut Findings,
) {
    let mut met: HashMap<u64, HashSet<(usize, u8, usize)>> = HashMap::new();
    let mut spread: HashMap<u64, HashSet<Partition>> = HashMap::new();
    for (event, item) in evidence.events.iter().zip(aligned) {
        let Some(item) = item.as_ref().filter(|_| !is_row(event)) else { continue };
        let xid = expectation.entry(*item).xid;
        met.entry(xid).or_default().insert((item.entry, item.part as u8, event.table));
        spread.entry(xid).or_default().insert((event.table, event.place.partition));
    }
    findings.seen.source_transactions = u64::try_from(expectation.events_due.len()).unwrap_or(u64::MAX);
    let spread = spread.values().filter(|partitions| partitions.len() > 1).count();
    findings.seen.spread_transactions = u64::try_from(spread).unwrap_or(u64::MAX);
    for (xid, met) in met {
        let due = expectation.events_due.get(&xid).copied().unwrap_or(0);
        let there = u64::try_from(met.len()).unwrap_or(u64::MAX);
        if there < due {
            findings.counts.torn += 1;
            findings.note("torn", None, || format!("transaction {xid}: {there} of {due} events are there"));
        }
    }
}

fn undivided(
    evidence: &Evidence<'_>,
    expectation: &Expectation<'_>,
    aligned: &Aligned,
    findings: &mut Findings,
) {
    let marks = evidence.marks.unwrap_or_default();
    let mut owner: BTreeMap<(Partition, KafkaTx), KafkaTx> = BTreeMap::new();
    let mut owned: HashMap<(Partition, KafkaTx), KafkaTx> = HashMap::new();
    for (event, item) in evidence.events.iter().zip(aligned) {
        let (Some(item), Some(tx), Some(position)) = (item, event.tx, event.position) else { continue };
        if is_row(event) {
            continue;
        }
        let changes = expectation.events_due.get(&expectation.entry(*item).xid).copied().unwrap_or(0);
        if changes > evidence.limits.uncut_changes_max {
            continue;
        }
        let partition = (event.table, event.place.partition);
        let Some(mark) = covering(marks, position.final_lsn) else {
            divided(event, "no committed position covers it".to_owned(), findings);
            continue;
        };
        let here = *owner.entry((partition, tx)).or_insert(mark.tx);
        let there = *owned.entry((partition, mark.tx)).or_insert(tx);
        if (mark.tx.producer_id, mark.tx.producer_epoch) != (tx.producer_id, tx.producer_epoch) {
            let text = format!("its position was written by another producer ({:?}, not {tx:?})", mark.tx);
            divided(event, text, findings);
        } else if here != mark.tx || there != tx {
            divided(event, "its position was written in another Kafka transaction".to_owned(), findings);
        }
    }
    let used: HashSet<KafkaTx> = owner.into_values().collect();
    findings.seen.kafka_transactions = u64::try_from(used.len()).unwrap_or(u64::MAX);
}

/// A row of a snapshot belongs to no transaction of the source.
fn is_row(event: &Event) -> bool {
    event.change().is_some_and(|change| change.op == Op::Read)
}

/// The first position that has passed a transaction's final LSN.
fn covering(marks: &[Mark], final_lsn: u64) -> Option<&Mark> {
    marks.get(marks.partition_point(|mark| mark.end_lsn <= final_lsn))
}

fn divided(event: &Event, text: String, findings: &mut Findings) {
    findings.counts.torn += 1;
    findings.note("torn", Some(&event.place), || text);
}
