//! Parts of the envelope beside a flat row or document: which there are (`Added::parse`), and their values.

use super::node::Node;
use crate::batch::{Cell, Change, ChangeBatch, Op, SnapshotMark, Tag, Transaction, document};
use crate::encode::Dialect;
use crate::encode::connect::{Base, Schema, source_field};
use crate::encode::header;
use crate::encode::lexical::number;
use crate::encode::source::sequence;
use crate::encode::transaction::Numbers;
use crate::error::{Error, Result};
use crate::relation::{Relation, Shape, SourceValue};

/// A part, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    pub name: String,
    pub part: Part,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Op,
    /// When the event was processed.
    Processed(Unit),
    /// A field of the source block.
    Source(String),
    TransactionId,
    TotalOrder,
    CollectionOrder,
    /// What an update set, as JSON.
    Updated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl Added {
    /// Whether events of documents, or of rows, have it; of a field of the source block the relation knows.
    pub fn is_of(&self, documents: bool) -> bool {
        match self.part {
            Part::Processed(Unit::Microseconds | Unit::Nanoseconds) => !documents,
            Part::Updated => documents,
            _ => true,
        }
    }

    /// `op`, `source.ts_ms`, `transaction.id`, with another name behind a colon; a name alone is one of the source
    /// block. As Debezium reads them, and names them: the prefix, then the words with `_` between them.
    pub fn parse(text: &str, prefix: &str) -> std::result::Result<Self, String> {
        let (path, alias) = match text.split_once(':') {
            Some((path, alias)) => (path.trim(), Some(alias.trim())),
            None => (text.trim(), None),
        };
        let (block, field) = match path.split_once('.') {
            Some((block, field)) => (Some(block), field),
            None => (None, path),
        };
        let part = match (block, field) {
            (None, "op") => Part::Op,
            (None, "ts_ms") => Part::Processed(Unit::Milliseconds),
            (None, "ts_us") => Part::Processed(Unit::Microseconds),
            (None, "ts_ns") => Part::Processed(Unit::Nanoseconds),
            (Some("transaction") | None, "id") => Part::TransactionId,
            (Some("transaction") | None, "total_order") => Part::TotalOrder,
            (Some("transaction") | None, "data_collection_order") => Part::CollectionOrder,
            (Some("updateDescription"), "updatedFields") => Part::Updated,
            (Some("source") | None, field) if !field.is_empty() && block.is_some() | !is_block(field) => {
                Part::Source(field.to_owned())
            }
            _ => {
                return Err(format!(
                    "{text:?} is no part of an event: op, ts_ms, ts_us, ts_ns, source.<field>, transaction.<field> or, \
                     of documents, updateDescription.updatedFields"
                ));
            }
        };
        let own = alias.map_or_else(|| path.replace('.', "_"), str::to_owned);
        Ok(Self { name: format!("{prefix}{own}"), part })
    }
}

fn is_block(field: &str) -> bool {
    matches!(field, "source" | "transaction" | "updateDescription" | "before" | "after")
}

/// Where the value of a part comes from.
#[derive(Clone, Debug)]
pub(crate) enum Taken {
    Op,
    Processed(Unit),
    Source(SourceValue),
    /// Debezium's transform reads the mark without its default, which is all that a change has.
    SnapshotMark,
    /// What a row that somebody asked for does not have.
    OfTransaction(SourceValue),
    TransactionId,
    TotalOrder,
    CollectionOrder,
    Updated,
}

/// One change, with what is known of it.
pub(crate) struct Facts<'a> {
    pub batch: &'a ChangeBatch,
    pub change: &'a Change,
    /// What the record says of it: a row that changed its key is a delete and an insert.
    pub op: Op,
    pub transaction: &'a Transaction,
    pub now_us: i64,
    /// Its numbers in its transaction, and the name of that.
    pub numbers: Option<(Numbers, String)>,
}

impl Taken {
    /// With its schema, which is optional whatever it was.
    pub(crate) fn of(added: &Added, relation: &Relation, dialect: Dialect) -> Result<(Schema, Self)> {
        let has_documents = relation.shape == Shape::Documents;
        let (schema, taken) = match &added.part {
            Part::Op => (Schema::new(Base::String), Self::Op),
            Part::Processed(Unit::Microseconds | Unit::Nanoseconds) if has_documents => {
                return Err(lacks(relation, "ts_us and no ts_ns").hint("correct [format.flat]: take ts_ms"));
            }
            Part::Processed(unit) => (Schema::new(Base::Int64), Self::Processed(*unit)),
            Part::TransactionId => (Schema::new(Base::String), Self::TransactionId),
            Part::TotalOrder => (Schema::new(Base::Int64), Self::TotalOrder),
            Part::CollectionOrder => (Schema::new(Base::Int64), Self::CollectionOrder),
            Part::Updated if !has_documents => {
                return Err(lacks(relation, "updateDescription").hint("take it out of [format.flat]"));
            }
            Part::Updated => (Schema::named(Base::String, "io.debezium.data.Json"), Self::Updated),
            Part::Source(name) => {
                let field = relation.source.fields.iter().find(|field| field.name == name);
                let value = &field.ok_or_else(|| no_field(name, relation))?.value;
                let taken = match (value, dialect) {
                    (SourceValue::Snapshot, Dialect::Debezium) => Self::SnapshotMark,
                    (SourceValue::Place | SourceValue::TransactionId, Dialect::Debezium) => {
                        Self::OfTransaction(value.clone())
                    }
                    _ => Self::Source(value.clone()),
                };
                (Schema { default: None, ..source_field(value) }, taken)
            }
        };
        Ok((schema.optional(), taken))
    }

    pub(crate) fn node(&self, facts: &Facts<'_>) -> Node {
        let numbers = |of: fn(&Numbers) -> i64| {
            facts.numbers.as_ref().map_or(Node::Null, |(numbers, _)| Node::Int64(of(numbers)))
        };
        match self {
            Self::Op => Node::Text(letter(facts.op).to_owned()),
            Self::Processed(Unit::Milliseconds) => Node::Int64(facts.now_us.div_euclid(1000)),
            Self::Processed(Unit::Microseconds) => Node::Int64(facts.now_us),
            Self::Processed(Unit::Nanoseconds) => Node::Int64(facts.now_us.saturating_mul(1000)),
            Self::TransactionId => {
                facts.numbers.as_ref().map_or(Node::Null, |(_, name)| Node::Text(name.clone()))
            }
            Self::TotalOrder => numbers(|numbers| numbers.total),
            Self::CollectionOrder => numbers(|numbers| numbers.in_table),
            Self::Updated => facts.text(document::UPDATED),
            Self::Source(value) => facts.source(value),
            Self::SnapshotMark if facts.transaction.snapshot == SnapshotMark::No => Node::Null,
            Self::OfTransaction(_) if facts.transaction.snapshot == SnapshotMark::Incremental => Node::Null,
            Self::OfTransaction(value) => facts.source(value),
            Self::SnapshotMark => facts.source(&SourceValue::Snapshot),
        }
    }

    pub(crate) fn put_header(&self, facts: &Facts<'_>, name: &str, out: &mut Vec<u8>) {
        let text = match self.node(facts) {
            Node::Text(text) => text,
            Node::Int64(number) => number.to_string(),
            Node::Int32(number) => number.to_string(),
            _ => return header::put_null(out, name),
        };
        header::put(out, name, |out| out.extend_from_slice(text.as_bytes()));
    }
}

fn letter(op: Op) -> &'static str {
    match op {
        Op::Insert => "c",
        Op::Update => "u",
        Op::Delete => "d",
        Op::Truncate => "t",
        Op::Read => "r",
    }
}

impl Facts<'_> {
    fn cell(&self, index: usize) -> Option<&[u8]> {
        let cells = self.batch.cells_of(self.change.after);
        let cell: Option<&Cell> = cells.get(index).filter(|cell| cell.tag == Tag::Text);
        cell.map(|cell| self.batch.text(*cell))
    }

    fn text(&self, index: usize) -> Node {
        let text = self.cell(index).map(|text| String::from_utf8_lossy(text).into_owned());
        text.map_or(Node::Null, Node::Text)
    }

    fn source(&self, value: &SourceValue) -> Node {
        let commit_us = self.transaction.commit_ts_us;
        // A snapshot's row has no place of its own in the log.
        let mark = self.change.mark;
        let place = if self.change.op == Op::Read { mark.commit } else { mark.change };
        match value {
            SourceValue::Text(text) => Node::Text(text.clone()),
            SourceValue::CommitMs => Node::Int64(commit_us.div_euclid(1000)),
            SourceValue::CommitUs => Node::Int64(commit_us),
            SourceValue::CommitNs => Node::Int64(commit_us.saturating_mul(1000)),
            SourceValue::Snapshot => Node::Text(self.transaction.snapshot.name().to_owned()),
            SourceValue::Increment => Node::Int32((place as u32).cast_signed()),
            SourceValue::CellText(index) => self.text(*index),
            SourceValue::CellLong(index) => {
                let number = self.cell(*index).and_then(|text| number::int(text).ok());
                number.map_or(Node::Null, Node::Int64)
            }
            SourceValue::TransactionId => Node::Int64(self.transaction.id),
            SourceValue::Place => Node::Int64(place.cast_signed()),
            SourceValue::Sequence => {
                let text = sequence(self.transaction, place);
                Node::Text(String::from_utf8_lossy(text.as_slice()).into_owned())
            }
            SourceValue::Origin => self.transaction.origin.map_or(Node::Null, |origin| {
                Node::Text(String::from_utf8_lossy(self.batch.text(origin.name)).into_owned())
            }),
            SourceValue::OriginPlace => {
                let origin = self.transaction.origin;
                origin.map_or(Node::Null, |origin| Node::Int64(origin.commit.cast_signed()))
            }
            SourceValue::NoLong | SourceValue::NoText => Node::Null,
        }
    }
}

fn lacks(relation: &Relation, what: &str) -> Error {
    Error::config(format!("events of {} have no {what}", relation.full_name()))
}

fn no_field(name: &str, relation: &Relation) -> Error {
    let known: Vec<&str> = relation.source.fields.iter().map(|field| field.name).collect();
    lacks(relation, &format!("source.{name}"))
        .hint(format!("correct [format.flat]; the source block has {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_and_named_as_debezium_does() {
        let source = |name: &str| Part::Source(name.into());
        for (text, name, part) in [
            ("op", "__op", Part::Op),
            ("source.ts_ms", "__source_ts_ms", source("ts_ms")),
            ("ts_ms", "__ts_ms", Part::Processed(Unit::Milliseconds)),
            ("ts_ns", "__ts_ns", Part::Processed(Unit::Nanoseconds)),
            ("collection", "__collection", source("collection")),
            ("transaction.id", "__transaction_id", Part::TransactionId),
            ("total_order:nr", "__nr", Part::TotalOrder),
            ("updateDescription.updatedFields", "__updateDescription_updatedFields", Part::Updated),
        ] {
            assert_eq!(Added::parse(text, "__"), Ok(Added { name: name.into(), part }), "{text}");
        }
        for text in ["", "source.", "after", "after.x", "updateDescription.other"] {
            assert!(Added::parse(text, "__").is_err(), "{text}");
        }
    }
}
