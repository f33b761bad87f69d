//! Counts what a `read_committed` consumer finds: every row once. Keys and values are decoded through the
//! registry by a library that the daemon does not use.

use std::time::Duration;

use apache_avro::types::Value;
use millrace_ledger::avro::Registry;
use millrace_ledger::reader::{Isolation, Reader, Record, Start};

use crate::{Error, Result, Servers};

const PATIENCE: Duration = Duration::from_secs(30);
/// Every so many events the value is decoded too, and compared with its key.
const VALUE_EVERY: u64 = 100;

/// An error unless the topic holds the rows 1 to `rows`, each as one insert, and nothing else.
pub async fn exactly_once(servers: &Servers, topic: &str, rows: u64) -> Result<()> {
    exactly_once_as("c", servers, topic, rows).await
}

/// The same for events of this operation.
pub async fn exactly_once_as(op: &'static str, servers: &Servers, topic: &str, rows: u64) -> Result<()> {
    let mut registry = Registry::new(&servers.registry)?;
    let mut count = Count::new(rows)?;
    each(servers, topic, async |record| count.take(op, &record, &mut registry).await).await?;
    count.verdict(topic)
}

/// Every committed record of a topic, up to where it ends now.
pub async fn each(
    servers: &Servers,
    topic: &str,
    mut take: impl AsyncFnMut(Record) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader::new(&servers.bootstrap, Isolation::ReadCommitted, PATIENCE);
    reader.topics(topic).await?;
    let extents = reader.extents(topic).await?;
    reader.assign(topic, Start::Earliest).await?;
    while reader.next_offsets().iter().any(|(key, next)| extents.get(key).is_some_and(|e| *next < e.end)) {
        for record in reader.poll(Duration::from_millis(100)).await?.records {
            take(record).await?;
        }
    }
    Ok(())
}

/// How often each row was seen.
pub struct Count {
    seen: Vec<bool>,
    pub events: u64,
    doubled: u64,
    foreign: u64,
}

impl Count {
    pub fn new(rows: u64) -> Result<Count> {
        Ok(Count { seen: vec![false; usize::try_from(rows)?], events: 0, doubled: 0, foreign: 0 })
    }

    async fn take(&mut self, op: &str, record: &Record, registry: &mut Registry) -> Result<()> {
        self.events += 1;
        let id = id_of_key(record.key.as_deref(), registry).await?;
        let value = record.value.as_deref().ok_or("an insert became a tombstone")?;
        if self.events % VALUE_EVERY == 1 {
            let value = decode(value, registry).await?;
            let after = match field(&value, "after") {
                // Of a document: JSON, with its id before the other fields.
                Some(Value::String(json)) => json.split([' ', '}', ',']).find_map(|word| word.parse().ok()),
                after => after.and_then(|after| field(after, "id")).and_then(long),
            };
            if after != Some(id) || text(field(&value, "op")) != Some(op) {
                return Err(format!("the event of row {id} does not show this row as {op:?}").into());
            }
        }
        self.mark(id);
        Ok(())
    }

    pub fn mark(&mut self, id: i64) {
        let place = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        match place.and_then(|place| self.seen.get_mut(place)) {
            None => self.foreign += 1,
            Some(seen) if *seen => self.doubled += 1,
            Some(seen) => *seen = true,
        }
    }

    pub fn verdict(&self, topic: &str) -> Result<()> {
        let lost = self.seen.iter().filter(|seen| !**seen).count();
        if lost == 0 && self.doubled == 0 && self.foreign == 0 {
            return Ok(());
        }
        let (events, doubled, foreign, rows) = (self.events, self.doubled, self.foreign, self.seen.len());
        Err(format!(
            "{topic} does not hold {rows} rows once each: {events} events, {lost} rows lost, \
             {doubled} events doubled, {foreign} of no such row"
        )
        .into())
    }
}

pub async fn id_of_key(key: Option<&[u8]>, registry: &mut Registry) -> Result<i64> {
    let key = decode(key.ok_or("an event without a key")?, registry).await?;
    let id = field(&key, "id").and_then(|id| match id {
        // Of a document: its id as JSON.
        Value::String(text) => text.parse().ok(),
        id => long(id),
    });
    Ok(id.ok_or("a key without an id")?)
}

/// The database's commit time of an event, in microseconds since 1970.
pub async fn commit_us(value: Option<&[u8]>, registry: &mut Registry) -> Result<i64> {
    let value = decode(value.ok_or("an insert became a tombstone")?, registry).await?;
    let commit = field(&value, "source").and_then(|source| field(source, "ts_us")).and_then(long);
    Ok(commit.ok_or("an event without source.ts_us")?)
}

async fn decode(frame: &[u8], registry: &mut Registry) -> Result<Value> {
    let decoded = registry.decode(frame).await;
    Ok(decoded.map_err(|error| Error::from(format!("a record cannot be decoded: {error:?}")))?.value)
}

fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::Record(fields) = plain(value) else { return None };
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| plain(value))
}

fn plain(value: &Value) -> &Value {
    match value {
        Value::Union(_, inner) => inner,
        other => other,
    }
}

fn long(value: &Value) -> Option<i64> {
    match value {
        Value::Long(number) => Some(*number),
        _ => None,
    }
}

fn text(value: Option<&Value>) -> Option<&str> {
    match value {
        Some(Value::String(text) | Value::Enum(_, text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(ids: &[i64]) -> String {
        let mut count = Count::new(3).unwrap();
        for id in ids {
            count.events += 1;
            count.mark(*id);
        }
        count.verdict("t").map_or_else(|error| error.to_string(), |()| "right".to_owned())
    }

    #[test]
    fn every_row_once_in_any_order_is_right() {
        assert_eq!(verdict(&[3, 1, 2]), "right");
    }

    #[test]
    fn a_lost_row_is_seen() {
        assert!(verdict(&[1, 3]).contains("2 events, 1 rows lost, 0 events doubled"));
    }

    #[test]
    fn a_doubled_event_is_seen() {
        assert!(verdict(&[1, 2, 3, 2]).contains("4 events, 0 rows lost, 1 events doubled"));
    }

    #[test]
    fn an_event_of_no_row_is_seen() {
        assert!(verdict(&[1, 2, 3, 4, 0, -1]).contains("3 of no such row"));
    }
}
