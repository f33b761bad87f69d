//! What a consumer of the shop's topics sees: records read with `read_committed` by a reader that shares
//! nothing with the daemon, decoded through the registry.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_ledger::avro::Registry;
use millrace_ledger::events::Position;
use millrace_ledger::reader::{Isolation, Reader, Record, Start, TopicPartition};
use serde_json::Value as Json;
use xtask::{Context, Error, Result};

use super::check::{Op, Seen};
use super::shop::TABLES;

/// A broker that you restart for the fun of it is back within this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Topics appear with the first event of their table.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Once the daemon has ended, its last transaction is over at once.
const CLOSED_WITHIN: Duration = Duration::from_secs(30);

pub struct Follower {
    reader: Reader,
    registry: Registry,
    /// `<prefix>.public.`
    prefix: String,
    looked: Option<Instant>,
    topics: Vec<String>,
    seen: Vec<(Seen, Position)>,
}

impl Follower {
    pub fn new(bootstrap: &str, registry: &str, prefix: &str) -> Result<Self> {
        Ok(Self {
            reader: Reader::new(bootstrap, Isolation::ReadCommitted, PATIENCE),
            registry: Registry::new(registry).context(|| "the registry's client".to_owned())?,
            prefix: format!("{prefix}.public."),
            looked: None,
            topics: Vec::new(),
            seen: Vec::new(),
        })
    }

    /// Changes so far, tombstones not counted.
    pub fn changes(&self) -> u64 {
        let changes = self.seen.iter().filter(|(record, _)| record.op != Op::Tombstone).count();
        u64::try_from(changes).unwrap_or(u64::MAX)
    }

    /// Records of transactions that were committed before that place in the log.
    pub fn before(&self, end: u64) -> impl Iterator<Item = &Seen> {
        self.seen.iter().filter(move |(_, position)| position.final_lsn < end).map(|(seen, _)| seen)
    }

    /// Prints what is new; waits a moment for it.
    pub async fn print_new(&mut self) -> Result<()> {
        self.find_topics().await?;
        if self.topics.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
            return Ok(());
        }
        let read = self.reader.poll(Duration::from_millis(50)).await.context(|| "Kafka".to_owned())?;
        self.print(&read.records).await
    }

    /// Prints the rest, up to where every topic ends. Nobody may be writing any more.
    pub async fn print_rest(&mut self) -> Result<()> {
        let deadline = Instant::now() + CLOSED_WITHIN;
        self.looked = None;
        self.find_topics().await?;
        loop {
            let committed = self.ends(Isolation::ReadCommitted).await?;
            if committed == self.ends(Isolation::ReadUncommitted).await? {
                let read = self.reader.poll_until(&committed).await.context(|| "Kafka".to_owned())?;
                return self.print(&read.records).await;
            }
            if Instant::now() >= deadline {
                return Err(Error::new("a Kafka transaction stays open although the daemon has ended"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ends(&mut self, isolation: Isolation) -> Result<BTreeMap<TopicPartition, i64>> {
        let mut ends = BTreeMap::new();
        for topic in &self.topics {
            let extents = self.reader.extents_as(topic, isolation).await.context(|| topic.clone())?;
            ends.extend(extents.into_iter().map(|(key, extent)| (key, extent.end)));
        }
        Ok(ends)
    }

    async fn find_topics(&mut self) -> Result<()> {
        let due = self.looked.is_none_or(|when| when.elapsed() >= LOOK_EVERY);
        if !due || self.topics.len() == TABLES.len() {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let found = self.reader.topics(&self.prefix).await.context(|| "Kafka".to_owned())?;
        for topic in found {
            let ours = TABLES.iter().any(|table| topic.name.strip_prefix(&self.prefix) == Some(table));
            if ours && !self.topics.iter().any(|known| **known == *topic.name) {
                self.reader.assign(&topic.name, Start::Earliest).await.context(|| topic.name.to_string())?;
                self.topics.push(topic.name.to_string());
            }
        }
        Ok(())
    }

    async fn print(&mut self, records: &[Record]) -> Result<()> {
        for record in records {
            let (seen, position, line) = self.event(record).await.context(|| {
                let Record { topic, partition, offset, .. } = record;
                format!("the record {topic}/{partition}@{offset} cannot be read")
            })?;
            println!("{line}");
            self.seen.push((seen, position));
        }
        Ok(())
    }

    async fn event(&mut self, record: &Record) -> Result<(Seen, Position, String)> {
        let table = record.topic.strip_prefix(&self.prefix).unwrap_or_default().to_owned();
        let header = record.header("position").ok_or_else(|| Error::new("it has no header position"))?;
        let header = String::from_utf8_lossy(header).into_owned();
        let position =
            Position::parse(&header).ok_or_else(|| Error::new(format!("its position is {header}")))?;
        let key = record.key.as_deref().ok_or_else(|| Error::new("it has no key"))?;
        let key = self.decode(key).await?;
        let value = match record.value.as_deref() {
            Some(value) => Some(self.decode(value).await?),
            None => None,
        };
        let op = match &value {
            None => Op::Tombstone,
            Some(value) => {
                let name = value["op"].as_str().unwrap_or_default();
                Op::named(name).ok_or_else(|| Error::new(format!("its op is {name:?}")))?
            }
        };
        let seq = value.as_ref().and_then(|value| value["after"]["seq"].as_i64());
        let words = value.as_ref().map_or_else(|| "tombstone".to_owned(), |value| words(&table, op, value));
        let topic = &record.topic;
        let line = format!("{topic:<24} {:<24} {} {words:<44} @{header}", key.to_string(), op.letter());
        let seen = Seen { table, key: key_text(&key), op, seq, partition: record.partition };
        Ok((seen, position, line))
    }

    async fn decode(&mut self, frame: &[u8]) -> Result<Json> {
        let decoded = self.registry.decode(frame).await;
        decoded.map(|decoded| decoded.json()).map_err(|e| Error::new(format!("not decodable: {e:?}")))
    }
}

/// The key's values as the journal joins them.
fn key_text(key: &Json) -> String {
    let fields = key.as_object().into_iter().flatten();
    fields.map(|(_, value)| plain(value)).collect::<Vec<_>>().join("/")
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The few fields that say most about an event.
fn words(table: &str, op: Op, event: &Json) -> String {
    let (before, after) = (&event["before"], &event["after"]);
    if op == Op::Delete {
        return "deleted".to_owned();
    }
    match table {
        "customers" => format!("{} <{}>", plain(&after["name"]), plain(&after["email"])),
        "order_items" => format!(
            "{} x {} at {}",
            plain(&after["quantity"]),
            plain(&after["product"]),
            plain(&after["price"])
        ),
        _ if before["status"] != after["status"] && !before.is_null() => format!(
            "{} -> {}, total {}",
            plain(&before["status"]),
            plain(&after["status"]),
            plain(&after["total"])
        ),
        _ => format!("{}, total {}", plain(&after["status"]), plain(&after["total"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_reads_as_the_journal_writes_it() {
        assert_eq!(key_text(&json!({"order_id": 7, "line": 2})), "7/2");
        assert_eq!(key_text(&json!({"id": 41})), "41");
    }

    #[test]
    fn an_order_shows_where_its_status_came_from() {
        let event = json!({"before": {"status": "new"}, "after": {"status": "paid", "total": "12.50"}});
        assert_eq!(words("orders", Op::Update, &event), "new -> paid, total 12.50");
        let event = json!({"before": null, "after": {"status": "new", "total": "12.50"}});
        assert_eq!(words("orders", Op::Create, &event), "new, total 12.50");
    }
}
