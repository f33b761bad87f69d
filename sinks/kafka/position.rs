//! The position topic: what its records look like, and how they are read back.
//!
//! One compacted topic a connector. Partition 0 holds the position and the claim, partition 1 the slow keys.
//! Keys and values are JSON as Kafka Connect writes offsets, with a format version `v` of ours. The position
//! itself is the source's text and never looked into. Start at `read`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use millrace_core::position::{Notes, Position};
use millrace_core::progress::State;
use serde_json::{Map, Value};

use crate::config::Settings;
use crate::errors::Failure;
use crate::native::{Client, Read, Role, Topic};
use crate::rights::{self, On};

/// The stream's position, and the claims.
pub const STREAM: u32 = 0;
/// Everything that changes seldom.
pub const SLOW: u32 = 1;
pub const PARTITIONS: u32 = 2;

/// What the topic is created with: each commit leaves a control marker, which compaction removes only from
/// closed segments, so segments are small and cleaned early.
pub const TOPIC_CONFIG: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "16777216"),
    ("delete.retention.ms", "60000"),
    ("min.cleanable.dirty.ratio", "0.01"),
];

const VERSION: u64 = 1;

/// First step of the backward scan, in offsets; each step doubles it.
const STEP: i64 = 1_000;

/// The whole read. It waits for transactions of others to end, at most as long as those live, and a healthy
/// broker answers in milliseconds.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The broker ends a transaction that is over time when it looks next.
const READ_SLACK: Duration = Duration::from_secs(5);

/// How long a broker holds a fetch that finds nothing; the last fetch always does, so it delays each start.
const FETCH_WAIT_MS: &str = "2";

/// The keys of one connector's records.
#[derive(Clone, Debug)]
pub struct Keys {
    connector: String,
    /// `["<connector>",{"server":"<prefix>"}]`
    pub position: String,
    /// `["<connector>",{"claim":true}]`
    pub claim: String,
}

/// Who is, or was, at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub instance: String,
    pub id: String,
    pub time_ms: i64,
}

/// One record of ours, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `None`: taken away by an operator.
    Position(Option<Position>),
    Claim(Claim),
    Partitions {
        topic: String,
        count: u32,
    },
    /// What the source remembers under this key; `None`: nothing any more.
    Note {
        key: String,
        text: Option<String>,
    },
    /// Its partition count was taken away by an operator.
    Forgotten {
        topic: String,
    },
    /// Keeps a transactional id alive, or belongs to another connector or a take-over.
    Other,
}

impl Keys {
    pub fn new(connector: &str, topic_prefix: &str) -> Self {
        let key = |what: Value| serde_json::json!([connector, what]).to_string();
        Self {
            connector: connector.to_owned(),
            position: key(serde_json::json!({ "server": topic_prefix })),
            claim: key(serde_json::json!({ "claim": true })),
        }
    }

    pub fn partitions(&self, topic: &str) -> String {
        serde_json::json!([self.connector, { "topic": topic }]).to_string()
    }

    /// `["<connector>",{"note":"<key>"}]`
    pub fn note(&self, key: &str) -> String {
        serde_json::json!([self.connector, { "note": key }]).to_string()
    }

    pub fn keepalive(&self, id: &str) -> String {
        serde_json::json!([self.connector, { "keepalive": id }]).to_string()
    }

    /// What a record says; `Err` is what is wrong with it.
    pub fn parse(&self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Entry, &'static str> {
        let key = key.ok_or("it has no key")?;
        if key == self.position.as_bytes() {
            let Some(value) = value else { return Ok(Entry::Position(None)) };
            let fields = object(value)?;
            let json = Value::Object(fields).to_string();
            return Ok(Entry::Position(Some(Position::new(json))));
        }
        if key == self.claim.as_bytes() {
            let Some(value) = value else { return Ok(Entry::Other) };
            return claim_of(&object(value)?).ok_or("it is not a claim").map(Entry::Claim);
        }
        let key: Value = serde_json::from_slice(key).map_err(|_| "its key is not JSON")?;
        if let Some(key) = self.named(&key, "note") {
            let text = value.map(|value| object(value).map(|fields| Value::Object(fields).to_string()));
            let text = text.transpose()?;
            return Ok(Entry::Note { key, text });
        }
        let Some(topic) = self.named(&key, "topic") else { return Ok(Entry::Other) };
        let Some(value) = value else { return Ok(Entry::Forgotten { topic }) };
        let count = object(value)?.get("partitions").and_then(Value::as_u64);
        let count = count.and_then(|count| u32::try_from(count).ok()).ok_or("it has no partition count")?;
        Ok(Entry::Partitions { topic, count })
    }

    /// The name in a key `["<connector>",{"<kind>":"<name>"}]`.
    fn named(&self, key: &Value, kind: &str) -> Option<String> {
        let ours = key.get(0).and_then(Value::as_str) == Some(&self.connector);
        let name = key.get(1).and_then(|part| part.get(kind)).and_then(Value::as_str);
        name.filter(|_| ours).map(ToOwned::to_owned)
    }
}

/// The fields of a value without its version, which must be ours.
fn object(value: &[u8]) -> Result<Map<String, Value>, &'static str> {
    let value: Value = serde_json::from_slice(value).map_err(|_| "its value is not JSON")?;
    let Value::Object(mut fields) = value else { return Err("its value is not a JSON object") };
    match fields.shift_remove("v") {
        None => Err("its value has no format version"),
        Some(version) if version.as_u64() == Some(VERSION) => Ok(fields),
        Some(_) => Err("its format version is not known to this release"),
    }
}

fn claim_of(fields: &Map<String, Value>) -> Option<Claim> {
    let text = |name: &str| fields.get(name)?.as_str().map(ToOwned::to_owned);
    Some(Claim { instance: text("instance")?, id: text("id")?, time_ms: fields.get("time")?.as_i64()? })
}

/// The value of a position or a note: the source's own JSON object, with our version before its fields.
pub fn source_value(object: &str, out: &mut String) {
    out.clear();
    let fields = object.trim_start().strip_prefix('{').unwrap_or_default();
    out.push_str("{\"v\":1");
    if !fields.trim_start().starts_with('}') {
        out.push(',');
    }
    out.push_str(fields);
}

pub fn claim_value(claim: &Claim) -> String {
    let Claim { instance, id, time_ms } = claim;
    serde_json::json!({ "v": VERSION, "instance": instance, "id": id, "time": time_ms }).to_string()
}

pub fn partitions_value(count: u32) -> String {
    serde_json::json!({ "v": VERSION, "partitions": count }).to_string()
}

pub fn keepalive_value(time_ms: i64) -> String {
    serde_json::json!({ "v": VERSION, "time": time_ms }).to_string()
}

/// What the position topic holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub position: Option<Position>,
    /// The newest claim.
    pub claim: Option<Claim>,
    /// Partition counts of the data topics that were written to.
    pub partitions: BTreeMap<String, u32>,
    pub notes: Notes,
}

/// Reads everything that is committed now. Blocks its thread, for at most `READ_TIMEOUT` or a
/// transaction's timeout, whichever is longer, and one call.
pub fn read(settings: &Settings, keys: &Keys) -> Result<Found> {
    let reading = Reading::new(settings, keys)?;
    let mut found = Found::default();
    reading.backwards(&mut found)?;
    reading.slow(&mut found)?;
    Ok(found)
}

/// What changes seldom: partition counts and notes. Blocks its thread like `read`.
pub fn read_slow(settings: &Settings, keys: &Keys) -> Result<Found> {
    let mut found = Found::default();
    Reading::new(settings, keys)?.slow(&mut found)?;
    Ok(found)
}

/// The newest claim, and nothing else: who fenced us? Blocks its thread like `read`.
pub fn read_claim(settings: &Settings, keys: &Keys) -> Result<Option<Claim>> {
    let mut found = Found::default();
    Reading::new(settings, keys)?.backwards(&mut found)?;
    Ok(found.claim)
}

fn unread(settings: &Settings, what: String, failure: Failure) -> Error {
    rights::error(settings, what, failure, "Read", On::Topic(&settings.position_topic))
}

struct Reading<'a> {
    settings: &'a Settings,
    keys: &'a Keys,
    topic_name: &'a str,
    /// Reads what is committed.
    committed: Topic,
    /// Knows where the log ends, whatever is still open before its end.
    uncommitted: Topic,
    events: std::sync::Arc<Client>,
    patience: Duration,
    deadline: Instant,
}

impl<'a> Reading<'a> {
    fn new(settings: &'a Settings, keys: &'a Keys) -> Result<Self> {
        let client = |isolation: &str| {
            let mut config = settings.client_config()?;
            config.set("isolation.level", isolation);
            config.set("enable.partition.eof", "true");
            config.set("fetch.wait.max.ms", FETCH_WAIT_MS);
            // An offset that is gone is an error here, never a reason to begin somewhere else.
            config.set("auto.offset.reset", "error");
            config.set("queued.max.messages.kbytes", "1024");
            Client::new(&config, Role::Consumer).map_err(|why| settings.refused(why))
        };
        let name = &settings.position_topic;
        // A transaction of a rival holds back what is after it, until it ends or the broker ends it.
        let patience = READ_TIMEOUT.max(settings.limits.timeout + READ_SLACK);
        let deadline = Instant::now() + patience;
        let committed_client = client("read_committed")?;
        let handle = |client: &std::sync::Arc<Client>| {
            let left = deadline.saturating_duration_since(Instant::now()).max(READ_SLACK);
            let topic = client.topic(name).and_then(|topic| topic.look_up(left).map(|()| topic));
            topic.map_err(|failure| unread(settings, format!("cannot read topic {name}"), failure))
        };
        Ok(Self {
            settings,
            keys,
            topic_name: name,
            committed: handle(&committed_client)?,
            uncommitted: handle(&client("read_uncommitted")?)?,
            events: committed_client,
            patience,
            deadline,
        })
    }

    /// Partition 0 from the end, in growing steps, until a position and a claim are found. Later records win.
    /// A rival that took over long ago has many positions after its claim.
    fn backwards(&self, found: &mut Found) -> Result<()> {
        let (low, end) = self.range(STREAM)?;
        let (mut upper, mut step) = (end, STEP);
        let mut newest = None;
        while upper > low && (newest.is_none() || found.claim.is_none()) {
            let lower = (upper - step).max(low);
            let (mut position, mut claim) = (None, None);
            self.span(STREAM, lower, upper, |entry| match entry {
                Entry::Position(at) => position = Some(at),
                Entry::Claim(by) => claim = Some(by),
                Entry::Partitions { .. } | Entry::Note { .. } | Entry::Forgotten { .. } | Entry::Other => (),
            })?;
            // Steps further back hold older records only.
            found.claim = found.claim.take().or(claim);
            newest = newest.or(position);
            (upper, step) = (lower, step * 2);
        }
        found.position = newest.flatten();
        Ok(())
    }

    /// Partition 1 from its beginning.
    fn slow(&self, found: &mut Found) -> Result<()> {
        let (low, end) = self.range(SLOW)?;
        if low == end {
            return Ok(());
        }
        self.span(SLOW, low, end, |entry| match entry {
            Entry::Partitions { topic, count } => {
                found.partitions.insert(topic, count);
            }
            Entry::Forgotten { topic } => {
                found.partitions.remove(&topic);
            }
            Entry::Note { key, text: Some(text) } => {
                found.notes.insert(key, text);
            }
            Entry::Note { key, text: None } => {
                found.notes.remove(&key);
            }
            Entry::Position(_) | Entry::Claim(_) | Entry::Other => (),
        })
    }

    fn range(&self, partition: u32) -> Result<(i64, i64)> {
        self.uncommitted
            .offsets(partition.cast_signed(), self.left()?)
            .map_err(|failure| self.error(partition, failure))
    }

    /// Every committed record of ours in `[lower, upper)`. Ends when a record at `upper` or after it came,
    /// or when the reader itself stands there: control records and aborted ones take offsets too.
    fn span(&self, partition: u32, lower: i64, upper: i64, mut with: impl FnMut(Entry)) -> Result<()> {
        let reader = self
            .committed
            .read(partition.cast_signed(), lower)
            .map_err(|failure| self.error(partition, failure))?;
        loop {
            let wait = self.left()?.min(Duration::from_millis(100));
            let over = reader
                .next(wait, |read| match read {
                    Read::Record { offset, .. } if offset >= upper => Ok(true),
                    Read::Record { offset, key, value } => {
                        let entry = self.keys.parse(key, value);
                        with(entry.map_err(|why| self.corrupt(partition, offset, why))?);
                        Ok(offset + 1 >= upper)
                    }
                    // An end before `upper` is where an open transaction holds readers back: wait for it.
                    Read::End(offset) => Ok(offset >= upper),
                    Read::Nothing => Ok(false),
                })
                .map_err(|failure| self.error(partition, failure))??;
            if over {
                return Ok(());
            }
            self.events.poll(Duration::ZERO);
        }
    }

    /// Invariant 3: a timeout is an error, never the end.
    fn left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let why = self.events.events().trouble().map(|text| format!(": {text}")).unwrap_or_default();
            return Err(Error::transient(format!(
                "the position in topic {} could not be read within {} s{why}",
                self.topic_name,
                self.patience.as_secs()
            ))
            .hint(
                "check the brokers; a transaction that hangs is found by kafka-transactions.sh find-hanging",
            ));
        }
        Ok(left)
    }

    fn error(&self, partition: u32, failure: Failure) -> Error {
        let what = format!("cannot read partition {partition} of topic {}", self.topic_name);
        unread(self.settings, what, failure)
    }

    fn corrupt(&self, partition: u32, offset: i64, why: &str) -> Error {
        Error::fatal(format!(
            "the record at offset {offset} of partition {partition} of topic {} is not a position record: {why}",
            self.topic_name
        ))
        .state(State::PositionLost)
        .hint(
            "see what was delivered last, then give the position with `millrace position <file> set`, \
             or begin anew with `millrace position <file> reset`",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new("orders", "shop")
    }

    fn value(json: &str) -> String {
        let mut out = String::new();
        source_value(json, &mut out);
        out
    }

    #[test]
    fn keys_are_as_kafka_connect_writes_them() {
        assert_eq!(keys().position, r#"["orders",{"server":"shop"}]"#);
        assert_eq!(keys().claim, r#"["orders",{"claim":true}]"#);
        assert_eq!(keys().partitions("shop.public.a"), r#"["orders",{"topic":"shop.public.a"}]"#);
    }

    #[test]
    fn a_position_comes_back_as_the_source_wrote_it() {
        for json in [r#"{"lsn":18446744073709551615,"open":{"n":1},"z":"ä\"","a":null}"#, "{}"] {
            let value = value(json);
            let entry = keys().parse(Some(keys().position.as_bytes()), Some(value.as_bytes()));
            assert_eq!(entry, Ok(Entry::Position(Some(Position::new(json)))), "{value}");
        }
        assert_eq!(value(r#"{"lsn":1}"#), r#"{"v":1,"lsn":1}"#);
    }

    #[test]
    fn a_claim_comes_back() {
        let claim = Claim { instance: "i".to_owned(), id: "millrace-orders-0".to_owned(), time_ms: 5 };
        let entry = keys().parse(Some(keys().claim.as_bytes()), Some(claim_value(&claim).as_bytes()));
        assert_eq!(entry, Ok(Entry::Claim(claim)));
    }

    #[test]
    fn a_partition_count_comes_back() {
        let key = keys().partitions("shop.public.a");
        let entry = keys().parse(Some(key.as_bytes()), Some(partitions_value(6).as_bytes()));
        assert_eq!(entry, Ok(Entry::Partitions { topic: "shop.public.a".to_owned(), count: 6 }));
    }

    #[test]
    fn a_note_comes_back_as_the_source_wrote_it_and_an_emptied_one_is_forgotten() {
        let key = keys().note("snapshot \"a\"");
        let note = |text: Option<&str>| {
            Ok(Entry::Note { key: "snapshot \"a\"".to_owned(), text: text.map(Into::into) })
        };
        let written = value(r#"{"z":1,"a":[2]}"#);
        let entry = keys().parse(Some(key.as_bytes()), Some(written.as_bytes()));
        assert_eq!(entry, note(Some(r#"{"z":1,"a":[2]}"#)));
        assert_eq!(keys().parse(Some(key.as_bytes()), None), note(None));
    }

    #[test]
    fn an_emptied_position_is_no_position() {
        assert_eq!(keys().parse(Some(keys().position.as_bytes()), None), Ok(Entry::Position(None)));
    }

    #[test]
    fn a_record_of_another_connector_is_passed_over() {
        let key = Keys::new("items", "shop").partitions("t");
        assert_eq!(keys().parse(Some(key.as_bytes()), Some(b"what?")), Ok(Entry::Other));
        let key = Keys::new("items", "shop").position;
        assert_eq!(keys().parse(Some(key.as_bytes()), Some(b"what?")), Ok(Entry::Other));
    }

    #[test]
    fn a_corrupt_record_is_told_and_never_guessed() {
        let position = keys().position;
        let table: [(Option<&str>, &str, &str); 6] = [
            (None, "{}", "it has no key"),
            (Some("nonsense"), "{}", "its key is not JSON"),
            (Some(&position), "lsn 5", "its value is not JSON"),
            (Some(&position), "[1]", "its value is not a JSON object"),
            (Some(&position), r#"{"lsn":1}"#, "its value has no format version"),
            (Some(&position), r#"{"v":2,"lsn":1}"#, "its format version is not known to this release"),
        ];
        for (key, value, why) in table {
            let entry = keys().parse(key.map(str::as_bytes), Some(value.as_bytes()));
            assert_eq!(entry, Err(why), "{key:?} {value}");
        }
    }
}
