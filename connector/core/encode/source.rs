//! The source block of an envelope. Most of it is the same for all rows that one transaction has in one
//! table, so it is kept, and only what changes from row to row is written anew.

use super::plan::{Plan, SourceField};
use super::short::Short;
use super::value::Writer;
use crate::batch::{Change, Transaction};

/// The block of the newest transaction and relation.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// What the rest was built for: relation version and index of the transaction.
    built_for: Option<(u64, u32)>,
    bytes: Vec<u8>,
    /// The fields that change from row to row, and where in `bytes` each belongs.
    cuts: Vec<(usize, Cut)>,
}

/// A field that changes from row to row.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Sequence,
    Place,
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
        change: &Change,
        transaction: &Transaction,
        out: &mut Vec<u8>,
    ) {
        let wanted = Some((plan.version, change.transaction));
        if self.built_for != wanted {
            self.build::<W>(plan, transaction);
            self.built_for = wanted;
        }
        let mut start = 0;
        for (end, field) in &self.cuts {
            out.extend_from_slice(self.bytes.get(start..*end).unwrap_or_default());
            start = *end;
            match field {
                Cut::Sequence => put_sequence::<W>(transaction, change.mark.change, out),
                // Places beyond 2^63 come out negative, as in Java.
                Cut::Place => W::long(out, change.mark.change.cast_signed()),
            }
        }
        out.extend_from_slice(self.bytes.get(start..).unwrap_or_default());
    }

    fn build<W: Writer>(&mut self, plan: &Plan, transaction: &Transaction) {
        self.bytes.clear();
        self.cuts.clear();
        let commit_us = transaction.commit_ts_us;
        for step in &plan.envelope.source {
            step.lead.put(&mut self.bytes);
            match step.field {
                SourceField::CommitMs => W::long(&mut self.bytes, commit_us.div_euclid(1000)),
                SourceField::CommitUs => W::long(&mut self.bytes, commit_us),
                SourceField::CommitNs => W::long(&mut self.bytes, commit_us.saturating_mul(1000)),
                SourceField::TransactionId => W::long(&mut self.bytes, transaction.id),
                SourceField::Sequence => self.cuts.push((self.bytes.len(), Cut::Sequence)),
                SourceField::Place => self.cuts.push((self.bytes.len(), Cut::Place)),
            }
        }
    }
}

#[inline]
fn put_sequence<W: Writer>(transaction: &Transaction, change: u64, out: &mut Vec<u8>) {
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
    W::string(out, text.as_slice());
}
