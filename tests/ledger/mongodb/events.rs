//! Records of the collections' topics to events for the checker, and the connector's positions.
//!
//! A consumer knows a transaction by session and number; the journal by the number that its writer drew, which
//! stands in every document that the transaction wrote. Each transaction inserts at least one document, and
//! images are exact, so the two are brought together here.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value as Json;

use super::documents::hash;
use crate::Result;
use crate::avro::{Registry, Undecodable};
use crate::checker::Mark;
use crate::events::{Body, Cell, Change, Event, Events, Op, Place, Position, Problem, ProblemKind};
use crate::reader::{Isolation, Reader, Record, Start};

const READER_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// Session and number of a transaction.
type Transaction = (String, i64);

/// What is none is a problem.
type Decoded<T> = std::result::Result<T, (ProblemKind, String)>;

pub struct Decoder {
    registry: Registry,
}

/// One record, decoded, before its transaction is known.
struct Raw {
    key: String,
    envelope: Option<Json>,
}

impl Decoder {
    pub fn new(registry_url: &str) -> Result<Decoder> {
        Ok(Decoder { registry: Registry::new(registry_url)? })
    }

    /// The id in a record's key.
    pub async fn key(&mut self, record: &Record) -> Option<String> {
        let key = self.json(record.key.as_deref()?).await.ok()?;
        key["id"].as_str().map(str::to_owned)
    }

    /// All events of a whole read; what is none is a problem.
    pub async fn events(&mut self, records: &[Record], topics: &[String]) -> Events {
        let mut found = Events::default();
        let mut raws = Vec::with_capacity(records.len());
        let mut drawn: HashMap<Transaction, u64> = HashMap::new();
        for record in records {
            let raw = self.raw(record).await;
            if let Ok(Raw { envelope: Some(envelope), .. }) = &raw
                && let (Some(transaction), Some(xid)) = (transaction(envelope), drawn_number(envelope))
            {
                drawn.insert(transaction, xid);
            }
            raws.push(raw);
        }
        for (record, raw) in records.iter().zip(raws) {
            match raw.and_then(|raw| event(record, raw, topics, &drawn)) {
                Ok(event) => found.events.push(event),
                Err((kind, text)) => found.problems.push(Problem { place: place(record), kind, text }),
            }
        }
        found
    }

    async fn raw(&mut self, record: &Record) -> Decoded<Raw> {
        let key = record.key.as_deref().ok_or((ProblemKind::Foreign, "the record has no key".to_owned()))?;
        let key = self.json(key).await?;
        let key = key["id"].as_str().ok_or_else(|| (ProblemKind::Unfit, format!("key {key}")))?.to_owned();
        let envelope = match record.value.as_deref() {
            None => None,
            Some(value) => Some(self.json(value).await?),
        };
        Ok(Raw { key, envelope })
    }

    async fn json(&mut self, frame: &[u8]) -> Decoded<Json> {
        match self.registry.decode(frame).await {
            Ok(decoded) => Ok(decoded.json()),
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

fn transaction(envelope: &Json) -> Option<Transaction> {
    let source = &envelope["source"];
    Some((source["lsid"].as_str()?.to_owned(), source["txnNumber"].as_i64()?))
}

fn drawn_number(envelope: &Json) -> Option<u64> {
    image(envelope, "after").ok()??["tx"].as_u64()
}

fn image(envelope: &Json, field: &str) -> Decoded<Option<Json>> {
    let Some(text) = envelope[field].as_str() else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|error| (ProblemKind::Unfit, format!("{field}: {error}")))
}

fn event(record: &Record, raw: Raw, topics: &[String], drawn: &HashMap<Transaction, u64>) -> Decoded<Event> {
    let foreign = |text: &str| (ProblemKind::Foreign, text.to_owned());
    let table = topics.iter().position(|topic| **topic == *record.topic);
    let header = record.header("position").map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let position = match &header {
        None => None,
        Some(text) => Some(
            Position::parse(text)
                .ok_or_else(|| (ProblemKind::Unfit, format!("header position is {text}")))?,
        ),
    };
    let body = match &raw.envelope {
        None => Body::Tombstone,
        Some(envelope) => Body::Change(change(envelope, &raw.key, drawn)?),
    };
    Ok(Event {
        place: place(record),
        table: table.ok_or_else(|| foreign("the topic is of no ledger collection"))?,
        key: raw.key.into(),
        position,
        tx: Some(record.tx.ok_or_else(|| foreign("written outside any Kafka transaction"))?),
        attempt: 1,
        body,
    })
}

fn change(envelope: &Json, key: &str, drawn: &HashMap<Transaction, u64>) -> Decoded<Change> {
    let unfit = |text: String| (ProblemKind::Unfit, text);
    let op = match envelope["op"].as_str() {
        Some("c") => Op::Create,
        Some("u") => Op::Update,
        Some("d") => Op::Delete,
        Some("r") => Op::Read,
        other => return Err(unfit(format!("op is {other:?}"))),
    };
    let (before, after) = (image(envelope, "before")?, image(envelope, "after")?);
    if (op == Op::Delete) != after.is_none() {
        return Err(unfit(format!("an event of op {op:?} has after = {}", after.is_some())));
    }
    if let Some(after) = &after
        && after["_id"].as_i64().map(|id| id.to_string()).as_deref() != Some(key)
    {
        return Err(unfit(format!("the document's id is {}, the record's {key}", after["_id"])));
    }
    let xid = transaction(envelope).and_then(|transaction| drawn.get(&transaction).copied());
    let cells = |document: Json| -> Box<[Cell]> { Box::new([Cell::Hash(hash(&document))]) };
    let seq = after.as_ref().and_then(|after| after["seq"].as_i64());
    Ok(Change { op, xid, seq, before: before.map(cells), after: after.map(cells) })
}

fn place(record: &Record) -> Place {
    Place { topic: record.topic.clone(), partition: record.partition, offset: record.offset }
}

/// Follows the committed positions of a connector.
pub struct Positions {
    reader: Reader,
    topic: String,
    pub marks: Vec<Mark>,
}

impl Positions {
    pub fn new(bootstrap: &str, topic: String) -> Positions {
        let reader = Reader::new(bootstrap, Isolation::ReadCommitted, READER_PATIENCE);
        Positions { reader, topic, marks: Vec::new() }
    }

    /// Reads up to what is committed now.
    pub async fn newest(&mut self) -> Result<()> {
        self.reader.assign(&self.topic, Start::Earliest).await?;
        let extents = self.reader.extents(&self.topic).await?;
        let until = extents.into_iter().map(|(key, extent)| (key, extent.end)).collect();
        self.reader.limit_to(&until);
        while self.reader.behind() {
            let read = self.reader.poll(POLL).await?;
            self.marks.extend(read.records.iter().filter_map(mark));
        }
        Ok(())
    }
}

/// A position covers the events up to its cluster time and with it, unless a transaction of that time is cut.
fn mark(record: &Record) -> Option<Mark> {
    if record.partition != 0 {
        return None;
    }
    let value: Json = serde_json::from_slice(record.value.as_deref()?).ok()?;
    let (seconds, increment) = value["cluster_time"].as_str()?.split_once('.')?;
    let half = |text: &str| text.parse::<u32>().ok().map(u64::from);
    let time = half(seconds)? << 32 | half(increment)?;
    let end_lsn = time + u64::from(value["open"] == false);
    Some(Mark { offset: record.offset, end_lsn, tx: record.tx? })
}
