//! The source block of an envelope. Most of it is the same for all rows that one transaction has in one
//! table, so it is kept, and only what changes from row to row is written anew.

use super::lexical::number;
use super::plan::{Plan, SourceField};
use super::short::{Lead, Short};
use super::value::Writer;
use crate::batch::{Change, ChangeBatch, Op, SnapshotMark, Tag, Transaction};

/// The block of the newest transaction and relation.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// What the rest was built for: relation version and index of the transaction.
    built_for: Option<(u64, u32)>,
    bytes: Vec<u8>,
    /// The fields that change from row to row: where in `bytes` each belongs, and its step in the plan.
    cuts: Vec<(usize, usize)>,
}

impl Source {
    /// To be called for every batch: transactions are known by their index in it.
    pub(crate) fn forget(&mut self) {
        self.built_for = None;
    }

    /// Writes the source block with what leads to it, up to its last field that is not constant.
    #[inline]
    pub(crate) fn put<W: Writer>(
        &mut self,
        plan: &Plan,
        batch: &ChangeBatch,
        change: &Change,
        transaction: &Transaction,
        out: &mut Vec<u8>,
    ) {
        let wanted = Some((plan.version, change.transaction));
        if self.built_for != wanted {
            self.build::<W>(plan, batch, transaction);
            self.built_for = wanted;
        }
        // A row of a snapshot has no place of its own in the log.
        let place = if change.op == Op::Read { change.mark.commit } else { change.mark.change };
        let mut start = 0;
        for (end, step) in &self.cuts {
            out.extend_from_slice(self.bytes.get(start..*end).unwrap_or_default());
            start = *end;
            match plan.envelope.source.get(*step).map(|step| &step.field) {
                Some(SourceField::Sequence) => put_sequence::<W>(transaction, place, out),
                // Places beyond 2^63 come out negative, as in Java.
                Some(SourceField::Place) => W::long(out, place.cast_signed()),
                // Half of the place, so nothing is lost; beyond 2^31 negative, as in Java.
                Some(SourceField::Increment) => W::int(out, (place as u32).cast_signed()),
                Some(SourceField::Cell { index, is_long, value, null }) => {
                    let cell = batch.cells_of(change.after).get(*index).filter(|cell| cell.tag == Tag::Text);
                    match cell.map(|cell| put_cell::<W>(batch.text(*cell), *is_long, value, out)) {
                        Some(()) => {}
                        None => null.put(out),
                    }
                }
                _ => {}
            }
        }
        out.extend_from_slice(self.bytes.get(start..).unwrap_or_default());
    }

    fn build<W: Writer>(&mut self, plan: &Plan, batch: &ChangeBatch, transaction: &Transaction) {
        self.bytes.clear();
        self.cuts.clear();
        let commit_us = transaction.commit_ts_us;
        let is_asked = transaction.snapshot == SnapshotMark::Incremental;
        for (index, step) in plan.envelope.source.iter().enumerate() {
            if let Some(null) = step.null.as_ref().filter(|_| is_asked) {
                null.put(&mut self.bytes);
                continue;
            }
            step.lead.put(&mut self.bytes);
            match &step.field {
                SourceField::Snapshot => W::string(&mut self.bytes, transaction.snapshot.name().as_bytes()),
                SourceField::CommitMs => W::long(&mut self.bytes, commit_us.div_euclid(1000)),
                SourceField::CommitUs => W::long(&mut self.bytes, commit_us),
                SourceField::CommitNs => W::long(&mut self.bytes, commit_us.saturating_mul(1000)),
                SourceField::TransactionId => W::long(&mut self.bytes, transaction.id),
                SourceField::Origin { is_place, value, null } => match &transaction.origin {
                    None => null.put(&mut self.bytes),
                    Some(origin) => {
                        value.put(&mut self.bytes);
                        match is_place {
                            true => W::long(&mut self.bytes, origin.commit.cast_signed()),
                            false => W::string(&mut self.bytes, batch.text(origin.name)),
                        }
                    }
                },
                SourceField::Sequence
                | SourceField::Place
                | SourceField::Increment
                | SourceField::Cell { .. } => self.cuts.push((self.bytes.len(), index)),
            }
        }
    }
}

fn put_cell<W: Writer>(text: &[u8], is_long: bool, lead: &Lead, out: &mut Vec<u8>) {
    lead.put(out);
    if is_long {
        // Printed by the source from a number.
        W::long(out, number::int(text).unwrap_or_default());
    } else {
        W::string(out, text);
    }
}

#[inline]
fn put_sequence<W: Writer>(transaction: &Transaction, change: u64, out: &mut Vec<u8>) {
    W::string(out, sequence(transaction, change).as_slice());
}

/// Where the transaction before ended, and the change, as Debezium's source block has them.
#[inline]
pub(crate) fn sequence(transaction: &Transaction, change: u64) -> Short {
    let mut text = Short::new();
    match transaction.previous_commit {
        Some(place) => {
            text.push(b"[\"");
            text.push_number(place);
            text.push(b"\",\"");
        }
        None => text.push(b"[null,\""),
    }
    text.push_number(change);
    text.push(b"\"]");
    text
}
