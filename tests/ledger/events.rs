//! Records of a topic to events of a ledger table. Start at [`Decoder::event`].
//!
//! What cannot be an event is a [`Problem`], never left out: the checker refuses to pass over it.

use std::sync::Arc;

use apache_avro::types::Value;
use serde::Serialize;

use crate::avro::{Registry, Undecodable};
use crate::reader::{KafkaTx, Record};
use crate::tables::{Canonical, Form, TABLES, Table, canonical, extra_text, key_text, short_hash};

/// Where a record lies in Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The header `position`: `final_lsn/change_lsn/n/sub`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub final_lsn: u64,
    pub change_lsn: u64,
    pub n: u64,
    pub sub: u64,
}

impl Position {
    pub fn parse(text: &str) -> Option<Position> {
        let mut parts = text.split('/');
        let lsn = |part: Option<&str>| {
            let part = part.filter(|part| part.len() == 16)?;
            u64::from_str_radix(part, 16).ok()
        };
        let position = Position {
            final_lsn: lsn(parts.next())?,
            change_lsn: lsn(parts.next())?,
            n: parts.next()?.parse().ok()?,
            sub: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(position)
    }

    /// The change that a record belongs to: a key update makes three records of one.
    pub fn change(&self) -> (u64, u64, u64) {
        (self.final_lsn, self.change_lsn, self.n)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    Update,
    Delete,
    /// A row of a snapshot.
    Read,
}

/// One column as the consumer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    Hash(u32),
    Unavailable,
}

#[derive(Clone, Debug)]
pub struct Change {
    pub op: Op,
    /// `source.txId`; absent in snapshots.
    pub xid: Option<u64>,
    /// The sequence number that stands in the row; a delete's old row may lack it.
    pub seq: Option<i64>,
    pub before: Option<Box<[Cell]>>,
    pub after: Option<Box<[Cell]>>,
}

#[derive(Clone, Debug)]
pub enum Body {
    Tombstone,
    Change(Change),
}

#[derive(Clone, Debug)]
pub struct Event {
    pub place: Place,
    /// Index into [`TABLES`].
    pub table: usize,
    pub key: Box<str>,
    pub position: Option<Position>,
    pub tx: Option<KafkaTx>,
    /// The header `snapshot.attempt`: which reading of a table without a key the row is of, 1 without it.
    pub attempt: u32,
    pub body: Body,
}

impl Event {
    pub fn change(&self) -> Option<&Change> {
        match &self.body {
            Body::Change(change) => Some(change),
            Body::Tombstone => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The registry does not know the schema, or the bytes do not fit it.
    Unresolved,
    /// Decodes, but holds something that no ledger row can hold.
    Unfit,
    /// Not a record of this run.
    Foreign,
    /// The registry could not be asked.
    Unreachable,
}

#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    pub place: Place,
    pub kind: ProblemKind,
    pub text: String,
}

/// The events of a read in its order, and what was none.
#[derive(Debug, Default)]
pub struct Events {
    pub events: Vec<Event>,
    pub problems: Vec<Problem>,
}

pub struct Decoder {
    registry: Registry,
    /// `<prefix>.ledger.`: what stands before the table's name in a topic.
    topic_prefix: String,
}

impl Decoder {
    pub fn new(registry_url: &str, topic_prefix: &str) -> crate::Result<Decoder> {
        Ok(Decoder {
            registry: Registry::new(registry_url)?,
            topic_prefix: format!("{topic_prefix}.ledger."),
        })
    }

    /// The topic of each ledger table.
    pub fn topics(&self) -> Vec<String> {
        TABLES.iter().map(|table| format!("{}{}", self.topic_prefix, table.name)).collect()
    }

    pub async fn events(&mut self, records: &[Record]) -> Events {
        let mut found = Events::default();
        for record in records {
            match self.event(record).await {
                Ok(event) => found.events.push(event),
                Err((kind, text)) => found.problems.push(Problem { place: place(record), kind, text }),
            }
        }
        found
    }

    pub async fn event(&mut self, record: &Record) -> Result<Event, (ProblemKind, String)> {
        let foreign = |text: String| (ProblemKind::Foreign, text);
        let name = record.topic.strip_prefix(self.topic_prefix.as_str());
        let index = name
            .and_then(crate::tables::table_index)
            .ok_or_else(|| foreign("the topic is of no ledger table".to_owned()))?;
        let table = &TABLES[index];
        let tx = Some(record.tx.ok_or_else(|| foreign("written outside any Kafka transaction".to_owned()))?);
        if table.form == Form::Outbox {
            return event_of_outbox(record, index, tx).map_err(|text| (ProblemKind::Unfit, text));
        }
        let keyless = table.form == Form::Keyless;
        let key = match record.key.as_deref() {
            None if keyless => None,
            None => return Err(foreign("the record has no key".to_owned())),
            Some(_) if keyless => return Err(foreign("the record has a key, and the table none".to_owned())),
            Some(key) => {
                let key = self.decode(key).await?;
                Some(key_of(table, &key).map_err(|text| (ProblemKind::Unfit, format!("key: {text}")))?)
            }
        };
        let (key, body) = match (key, record.value.as_deref()) {
            (Some(key), None) => (key, Body::Tombstone),
            (None, None) => return Err(foreign("the record has neither key nor value".to_owned())),
            (key, Some(value)) => {
                let value = self.decode(value).await?;
                let unfit = |text| (ProblemKind::Unfit, text);
                let (row_key, change) = change(table, key.as_deref(), &value).map_err(unfit)?;
                (row_key, Body::Change(change))
            }
        };
        let position = position(record).map_err(|text| (ProblemKind::Unfit, text))?;
        let attempt = attempt(record).map_err(|text| (ProblemKind::Unfit, text))?;
        if attempt > 1 && !keyless {
            return Err(foreign("the record is of a second reading, and the table has a key".to_owned()));
        }
        Ok(Event { place: place(record), table: index, key: key.into(), position, tx, attempt, body })
    }

    async fn decode(&mut self, frame: &[u8]) -> Result<Value, (ProblemKind, String)> {
        match self.registry.decode(frame).await {
            Ok(decoded) => Ok(decoded.value),
            Err(Undecodable::NotFramed) => Err((ProblemKind::Foreign, "no Avro frame".to_owned())),
            Err(Undecodable::UnknownSchema(id)) => {
                Err((ProblemKind::Unresolved, format!("schema {id} does not resolve")))
            }
            Err(Undecodable::Malformed { schema_id, reason }) => {
                Err((ProblemKind::Unresolved, format!("does not decode with schema {schema_id}: {reason}")))
            }
            Err(Undecodable::Unreachable(error)) => Err((ProblemKind::Unreachable, error)),
        }
    }
}

fn position(record: &Record) -> Result<Option<Position>, String> {
    let Some(bytes) = record.header("position") else { return Ok(None) };
    let text = String::from_utf8_lossy(bytes);
    Position::parse(&text).map(Some).ok_or_else(|| format!("header position is {text}"))
}

fn attempt(record: &Record) -> Result<u32, String> {
    let Some(bytes) = record.header("snapshot.attempt") else { return Ok(1) };
    let text = String::from_utf8_lossy(bytes);
    text.parse()
        .ok()
        .filter(|attempt| *attempt > 1)
        .ok_or_else(|| format!("header snapshot.attempt is {text}"))
}

/// Key and payload as they are, the rest from headers: in the order of the table's columns.
fn event_of_outbox(record: &Record, table: usize, tx: Option<KafkaTx>) -> Result<Event, String> {
    let text = |what: &str, bytes: Option<&[u8]>| {
        let bytes = bytes.ok_or_else(|| format!("the event has no {what}"))?;
        String::from_utf8(bytes.to_vec()).map_err(|error| format!("{what}: {error}"))
    };
    let (key, seq) = (text("key", record.key.as_deref())?, text("seq", record.header("seq"))?);
    let txid = text("txid", record.header("txid"))?;
    let payload = text("payload", record.value.as_deref())?;
    let after = [&key, &seq, &txid, &payload].map(|text| Cell::Hash(short_hash(text)));
    let seq = Some(seq.parse().map_err(|_| format!("seq is {seq}"))?);
    let change = Change { op: Op::Create, xid: None, seq, before: None, after: Some(Box::new(after)) };
    let (position, body) = (position(record)?, Body::Change(change));
    Ok(Event { place: place(record), table, key: key.into(), position, tx, attempt: 1, body })
}

fn place(record: &Record) -> Place {
    Place { topic: record.topic.clone(), partition: record.partition, offset: record.offset }
}

fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    let value = match value {
        Value::Union(_, inner) => inner,
        other => other,
    };
    let Value::Record(fields) = value else { return None };
    match fields.iter().find(|(field, _)| field == name)? {
        (_, Value::Union(_, inner)) => Some(inner),
        (_, other) => Some(other),
    }
}

fn key_of(table: &Table, value: &Value) -> Result<String, String> {
    let columns = canonical_row(table.key_columns(), value)?;
    Ok(key_text(columns.iter().map(Canonical::text)))
}

fn canonical_row(columns: &[crate::tables::Column], row: &Value) -> Result<Vec<Canonical>, String> {
    let Value::Record(fields) = row else { return Err(format!("the row is {row:?}")) };
    if fields.len() != columns.len() {
        return Err(format!("{} columns instead of {}", fields.len(), columns.len()));
    }
    let pairs = columns.iter().zip(fields);
    pairs
        .map(|(column, (name, value))| match name == column.name {
            true => canonical(column, value),
            false => Err(format!("column {name} stands where {} belongs", column.name)),
        })
        .collect()
}

/// The change, and the key of its row; `key` is that of the record.
fn change(table: &'static Table, key: Option<&str>, envelope: &Value) -> Result<(String, Change), String> {
    let op = match field(envelope, "op") {
        Some(Value::String(op)) => match op.as_str() {
            "c" => Op::Create,
            "u" => Op::Update,
            "d" => Op::Delete,
            "r" => Op::Read,
            other => return Err(format!("op is {other}")),
        },
        other => return Err(format!("op is {other:?}")),
    };
    let source = field(envelope, "source").ok_or("the envelope has no source")?;
    match (field(source, "schema"), field(source, "table")) {
        (Some(Value::String(s)), Some(Value::String(t))) if s == "ledger" && t == table.name => {}
        (schema, name) => return Err(format!("source names {schema:?}.{name:?}")),
    }
    let xid = match field(source, "txId") {
        Some(Value::Long(xid)) => Some(u64::try_from(*xid).map_err(|_| format!("txId is {xid}"))?),
        _ => None,
    };
    let after = image(table, envelope, "after")?;
    // Without full identity an old row has its key and fillers, which say nothing.
    let before = if table.full { image(table, envelope, "before")? } else { None };
    if (op == Op::Delete) != after.is_none() {
        return Err(format!("an event of op {op:?} has after = {}", after.is_some()));
    }
    let mut seq = None;
    let of_row = |row: &Vec<Canonical>| key_text(row.iter().take(table.keys).map(Canonical::text));
    let row_key = match (after.as_ref().map(of_row), key) {
        (Some(row_key), Some(key)) if row_key != key => {
            return Err(format!("the row's key is {row_key}, the record's {key}"));
        }
        (Some(row_key), _) => row_key,
        (None, Some(key)) => key.to_owned(),
        (None, None) => before.as_ref().map(of_row).ok_or("a delete without key and old row")?,
    };
    if let Some(row) = &after {
        let text = table.column_index("seq").and_then(|index| row.get(index)).map(Canonical::text);
        seq = text.and_then(|text| text.parse().ok());
    }
    let (before, after) = (before.map(|row| cells(&row)), after.map(|row| cells(&row)));
    Ok((row_key, Change { op, xid, seq, before, after }))
}

fn image(table: &Table, envelope: &Value, name: &str) -> Result<Option<Vec<Canonical>>, String> {
    match field(envelope, name) {
        None => Err(format!("the envelope has no {name}")),
        Some(Value::Null) => Ok(None),
        Some(row) => whole_row(table, row).map(Some).map_err(|text| format!("{name}: {text}")),
    }
}

/// The table's own columns and, of a loose one, all the others as one.
fn whole_row(table: &Table, row: &Value) -> Result<Vec<Canonical>, String> {
    if table.form != Form::Loose {
        return canonical_row(table.columns, row);
    }
    let Value::Record(fields) = row else { return Err(format!("the row is {row:?}")) };
    let (own, extra) = fields.split_at_checked(table.columns.len()).ok_or("columns are missing")?;
    let mut columns = canonical_row(table.columns, &Value::Record(own.to_vec()))?;
    let mut texts = Vec::new();
    for (name, value) in extra {
        match value {
            Value::Union(_, inner) => match &**inner {
                Value::Null => {}
                Value::String(text) => texts.push((name.as_str(), text.as_str())),
                other => return Err(format!("column {name} is {other:?}")),
            },
            Value::String(text) => texts.push((name.as_str(), text.as_str())),
            other => return Err(format!("column {name} is {other:?}")),
        }
    }
    columns.push(Canonical::Text(extra_text(texts.into_iter())));
    Ok(columns)
}

fn cells(row: &[Canonical]) -> Box<[Cell]> {
    row.iter()
        .map(|column| match column {
            Canonical::Unavailable => Cell::Unavailable,
            other => Cell::Hash(short_hash(other.text())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_compare_as_numbers() {
        let parse = |text| Position::parse(text).unwrap();
        let nine = parse("00000000016B3748/00000000016B3700/9/0");
        let ten = parse("00000000016B3748/00000000016B3700/10/0");
        assert!(nine < ten);
        assert_eq!(nine.change(), (0x16B_3748, 0x16B_3700, 9));
    }

    #[test]
    fn a_position_of_another_form_is_refused() {
        for text in [
            "",
            "16B3748/16B3700/9/0",
            "00000000016B3748/00000000016B3700/9",
            "00000000016B3748/00000000016B3700/9/0/1",
        ] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
    }
}
