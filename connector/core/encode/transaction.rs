//! Metadata of transactions: a block in each envelope that says the event's number in its transaction and in
//! its table, and a record at each begin and end, on a topic of their own. Start at `Pass::open_until`.
//!
//! An event is one record with a value: a changed key makes two, a tombstone none. What was delivered before
//! comes again from the source to be counted (`Part::delivered`), so that numbers survive a restart.

use std::collections::HashMap;

use super::aside::Aside;
use super::avro::Avro;
use super::change::{Context, Fault, Pass};
use super::connect::{Base, Field, Schema};
use super::json::Json;
use super::short::{Lead, Short};
use super::value::{Union, Writer};
use super::{Dialect, Encoding, Format, header};
use crate::batch::{Name, SnapshotMark, Transaction};
use crate::error::Result;
use crate::position::Mark;
use crate::relation::Shape;
use crate::sink::Targets;

/// Events of the transaction under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    total: i64,
    tables: HashMap<String, Tally>,
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    /// Which table it is, in the order of their first events.
    order: usize,
    events: i64,
}

/// An event's numbers, both from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub total: i64,
    pub in_table: i64,
}

/// The block in an envelope.
#[derive(Debug)]
pub(crate) struct BlockPlan {
    /// From the last changing field of the source block (of documents: from the time) to the id.
    id: Lead,
    total: Lead,
    in_table: Lead,
    /// To the operation's letter (of documents: to the block's end).
    after: Lead,
}

impl BlockPlan {
    /// `before` is what stands before the block, `after` what follows it.
    pub(crate) fn compile<W: Writer>(before: &[u8], after: &[u8]) -> Self {
        let open = [before, &W::lead("transaction", false, Union::NullFirst), W::STRUCT_OPEN].concat();
        Self {
            id: [open, W::lead("id", true, Union::Required)].concat().into(),
            total: W::lead("total_order", false, Union::Required).into(),
            in_table: W::lead("data_collection_order", false, Union::Required).into(),
            after: [W::STRUCT_CLOSE, after].concat().into(),
        }
    }

    /// For the envelope of a shape of relation; `constant` is what leads to the block there.
    pub(crate) fn of<W: Writer>(shape: Shape, constant: &[u8]) -> Self {
        match shape {
            Shape::Rows => {
                let op = [&W::lead("op", false, Union::Required), W::OP_OPEN].concat();
                Self::compile::<W>(constant, &op)
            }
            Shape::Messages => Self::compile::<W>(constant, &W::lead("message", false, Union::Required)),
            Shape::Documents => Self::compile::<W>(b"", b""),
        }
    }
}

/// Where begins and ends are told.
#[derive(Debug)]
pub(crate) struct Ends {
    aside: Aside,
    dialect: Dialect,
}

impl Ends {
    pub(crate) async fn of<T: Targets>(targets: &T, format: &Format, topic: &str) -> Result<Self> {
        let named = |fields, name| {
            Schema::named(
                Base::Struct(fields),
                &format!("io.debezium.connector.common.TransactionMetadata{name}"),
            )
        };
        let of = |name: &str, base| Field::new(name, Schema::new(base));
        let key = named(vec![of("id", Base::String)], "Key");
        let collection = vec![of("data_collection", Base::String), of("event_count", Base::Int64)];
        let collection = Schema::named(Base::Struct(collection), "event.collection").optional();
        let collections = Schema::new(Base::Array(Box::new(collection))).optional();
        let fields = vec![
            of("status", Base::String),
            of("id", Base::String),
            Field::new("event_count", Schema::new(Base::Int64).optional()),
            Field::new("data_collections", collections),
            of("ts_ms", Base::Int64),
        ];
        let aside = Aside::of(targets, format, topic, &key, &named(fields, "Value")).await?;
        Ok(Self { aside, dialect: format.dialect })
    }
}

impl Count {
    fn clear(&mut self) {
        self.total = 0;
        self.tables.clear();
    }

    fn next(&mut self, table: &str) -> Numbers {
        self.total += 1;
        let order = self.tables.len();
        let tally = match self.tables.get_mut(table) {
            Some(tally) => tally,
            None => self.tables.entry(table.to_owned()).or_insert(Tally { order, events: 0 }),
        };
        tally.events += 1;
        Numbers { total: self.total, in_table: tally.events }
    }

    /// By their first events; in Debezium's dialect in the order of its hash map.
    fn tables(&self, dialect: Dialect) -> Vec<(&str, i64)> {
        let mut tables: Vec<_> = self.tables.iter().collect();
        tables.sort_unstable_by_key(|(_, tally)| tally.order);
        if dialect == Dialect::Debezium {
            let places = java_places(tables.len());
            tables.sort_by_key(|(name, _)| java_spread(name) & (places - 1));
        }
        tables.into_iter().map(|(name, tally)| (name.as_str(), tally.events)).collect()
    }
}

/// Places of Java's hash map for so many keys: it begins with 16 and doubles when three quarters are taken.
fn java_places(keys: usize) -> u32 {
    let mut places = 16_u32;
    while keys > places as usize / 4 * 3 {
        places = places.saturating_mul(2);
    }
    places
}

/// Java's hash of a text, as its hash map spreads it.
fn java_spread(text: &str) -> u32 {
    let hash = text.encode_utf16().fold(0_u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    hash ^ (hash >> 16)
}

impl Pass<'_> {
    /// Tells the begins of the batch's transactions before this one, and the ends before those. `opened` is
    /// how many were opened. One that is here as a whole is told of with its first record.
    pub(crate) fn open_until(&mut self, opened: &mut usize, until: usize) -> Result<(), Fault> {
        while *opened < until {
            let at = *opened;
            *opened += 1;
            let batch = self.batch;
            let Some(transaction) = batch.transactions.get(at) else { break };
            // A row that was read may stand inside of a transaction.
            if transaction.snapshot != SnapshotMark::No {
                continue;
            }
            self.close()?;
            self.under_way = Some(at);
            if let Some(begin) = transaction.part.begin {
                if let Some(count) = &mut self.count {
                    count.clear();
                }
                match transaction.part.end {
                    Some(_) => self.silent = Some(begin),
                    None => self.tell(transaction, "BEGIN", begin)?,
                }
            }
        }
        Ok(())
    }

    /// The first records of a transaction were written, from this one on: it is told of before them.
    pub(crate) fn announce(&mut self, transaction: &Transaction, first: usize) -> Result<(), Fault> {
        let Some(begin) = self.silent.take() else { return Ok(()) };
        self.tell(transaction, "BEGIN", begin)?;
        if let Some(records) = self.out.records.get_mut(first..) {
            records.rotate_right(1);
        }
        Ok(())
    }

    /// Tells the end of the transaction under way, if it is here, and something came of it: a record, or an event that
    /// was counted and then left out.
    pub(crate) fn close(&mut self) -> Result<(), Fault> {
        let batch = self.batch;
        let newest = self.under_way.take().and_then(|at| batch.transactions.get(at));
        if let Some(begin) = self.silent.take() {
            let counted = self.count.as_ref().is_some_and(|count| count.total > 0);
            let Some(transaction) = newest.filter(|_| counted) else { return Ok(()) };
            self.tell(transaction, "BEGIN", begin)?;
        }
        match newest.and_then(|transaction| Some((transaction, transaction.part.end?))) {
            Some((transaction, end)) => self.tell(transaction, "END", end),
            None => Ok(()),
        }
    }

    fn tell(&mut self, transaction: &Transaction, status: &str, at: u64) -> Result<(), Fault> {
        let Some(ends) = self.ends else { return Ok(()) };
        match ends.aside.encoding {
            Encoding::Avro => self.tell_as::<Avro>(ends, transaction, status, at),
            Encoding::Json { .. } => self.tell_as::<Json>(ends, transaction, status, at),
        }
    }

    fn tell_as<W: Writer>(
        &mut self,
        ends: &Ends,
        transaction: &Transaction,
        status: &str,
        at: u64,
    ) -> Result<(), Fault> {
        let mut id = Vec::new();
        self.put_id(transaction, at, ends.dialect, &mut id);
        let count = self.count.as_deref().filter(|_| status == "END");
        let commit = match transaction.part.name {
            Name::Number { commit } => commit,
            Name::None | Name::Text(_) => at,
        };
        // Before every change of the transaction, or behind them all. Those of a named one are all of one place.
        let (change, n) = match (status, transaction.part.name) {
            ("END", Name::Text(_)) => (at, u32::MAX),
            ("END", _) => (at, 0),
            _ => (0, 0),
        };
        let mark = Mark { commit, change, n };
        let key = |out: &mut Vec<u8>| {
            out.extend_from_slice(W::STRUCT_OPEN);
            out.extend(W::lead("id", true, Union::Required));
            W::string(out, &id);
            out.extend_from_slice(W::STRUCT_CLOSE);
        };
        let value = |out: &mut Vec<u8>| {
            out.extend_from_slice(W::STRUCT_OPEN);
            out.extend(W::lead("status", true, Union::Required));
            W::string(out, status.as_bytes());
            out.extend(W::lead("id", false, Union::Required));
            W::string(out, &id);
            put_count::<W>(count, ends.dialect, out);
            out.extend(W::lead("ts_ms", false, Union::Required));
            W::long(out, transaction.commit_ts_us.div_euclid(1000));
            out.extend_from_slice(W::STRUCT_CLOSE);
        };
        let headers = |out: &mut Vec<u8>| {
            if ends.dialect == Dialect::Millrace {
                header::put_position(out, mark, 0);
            }
        };
        Ok(ends.aside.push(self.out, (mark, None), key, value, headers)?)
    }

    fn put_id(&self, transaction: &Transaction, at: u64, dialect: Dialect, out: &mut Vec<u8>) {
        match (transaction.part.name, dialect) {
            (Name::None, _) => {}
            (Name::Text(cell), _) => out.extend_from_slice(self.batch.text(cell)),
            (Name::Number { commit }, dialect) => {
                let place = if dialect == Dialect::Debezium { at } else { commit };
                let mut text = Short::new();
                text.push(itoa::Buffer::new().format(transaction.id).as_bytes());
                text.push(b":");
                text.push_number(place);
                out.extend_from_slice(text.as_slice());
            }
        }
    }

    /// Counts an event, where events are counted.
    pub(crate) fn number(&mut self, context: Context<'_>) -> Option<Numbers> {
        let count = self.count.as_deref_mut()?;
        (context.transaction.part.name != Name::None).then(|| count.next(&context.plan.table))
    }

    /// What the metadata call the transaction of a change.
    pub(crate) fn transaction_name(&self, context: Context<'_>) -> String {
        let mut id = Vec::new();
        self.put_id(context.transaction, context.change.mark.change, context.plan.format.dialect, &mut id);
        String::from_utf8_lossy(&id).into_owned()
    }

    pub(crate) fn put_block<W: Writer>(&mut self, context: Context<'_>, block: &BlockPlan, numbers: Numbers) {
        let mut id = std::mem::take(&mut self.room.selector);
        id.clear();
        self.put_id(context.transaction, context.change.mark.change, context.plan.format.dialect, &mut id);
        let out = &mut self.out.bytes;
        block.id.put(out);
        W::string(out, &id);
        block.total.put(out);
        W::long(out, numbers.total);
        block.in_table.put(out);
        W::long(out, numbers.in_table);
        block.after.put(out);
        self.room.selector = id;
    }
}

fn put_count<W: Writer>(count: Option<&Count>, dialect: Dialect, out: &mut Vec<u8>) {
    let Some(count) = count else {
        out.extend(W::null("event_count", false, Union::NullFirst));
        out.extend(W::null("data_collections", false, Union::NullFirst));
        return;
    };
    out.extend(W::lead("event_count", false, Union::NullFirst));
    W::long(out, count.total);
    out.extend(W::lead("data_collections", false, Union::NullFirst));
    let tables = count.tables(dialect);
    W::array_start(out, tables.len());
    for (index, (table, events)) in tables.iter().enumerate() {
        W::element(out, index, Some(true));
        out.extend_from_slice(W::STRUCT_OPEN);
        out.extend(W::lead("data_collection", true, Union::Required));
        W::string(out, table.as_bytes());
        out.extend(W::lead("event_count", false, Union::Required));
        W::long(out, *events);
        out.extend_from_slice(W::STRUCT_CLOSE);
    }
    W::array_end(out, tables.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_s_hash_map_orders_its_keys_by_their_spread_hashes() {
        // "Aa" and "BB" have the same hash in Java, 2112.
        assert_eq!(java_spread("Aa"), java_spread("BB"));
        assert_eq!(java_spread("public.orders") & 15, {
            let hash = "public.orders".bytes().fold(0_i32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
            (hash.cast_unsigned() ^ (hash.cast_unsigned() >> 16)) & 15
        });
        assert_eq!([1, 12, 13, 24, 25].map(java_places), [16, 16, 32, 32, 64]);
    }
}
