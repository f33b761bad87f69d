//! What the encoder's tests are made of: relations, batches, a registry that remembers, and `apache-avro` as
//! the independent reader of what was written.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use serde_json::{Value as Json, json};

use super::*;
use crate::batch::{Before, Cell, Change, Op, Part, Row, SnapshotMark, Span, Tag, Transaction};
use crate::pattern::Pattern;
use crate::position::{Mark, Position};
use crate::relation::{Column, Kind, Shape, SourceBlock, SourceField, SourceValue};
use crate::route::rule::Route;
use crate::sink::{Registered, SCHEMA_INCOMPATIBLE, Topic};

/// One cell: text, NULL, or an unchanged value that was not sent.
#[derive(Clone, Debug)]
pub enum C {
    T(String),
    N,
    U,
}

pub fn t(text: &str) -> C {
    C::T(text.into())
}

/// Marks a column as nullable by a `?` at the end of its name.
pub fn column(name: &str, kind: Kind) -> Column {
    let nullable = name.ends_with('?');
    Column::new(name.trim_end_matches('?'), kind, nullable)
}

pub fn with_default(column: Column, default: &str) -> Column {
    Column { default: Some(default.into()), ..column }
}

/// `public.t`, keyed by its first column unless `key` says otherwise.
pub fn relation(columns: Vec<Column>, key: &[u16]) -> Arc<Relation> {
    let text = |text: &str| SourceValue::Text(text.into());
    let fields = [
        ("version", text("0.1.0")),
        ("connector", text("postgresql")),
        ("name", text("test_server")),
        ("ts_ms", SourceValue::CommitMs),
        ("snapshot", SourceValue::Snapshot),
        ("db", text("shop")),
        ("sequence", SourceValue::Sequence),
        ("ts_us", SourceValue::CommitUs),
        ("ts_ns", SourceValue::CommitNs),
        ("schema", text("public")),
        ("table", text("t")),
        ("txId", SourceValue::TransactionId),
        ("lsn", SourceValue::Place),
        ("xmin", SourceValue::NoLong),
        ("origin", SourceValue::Origin),
        ("origin_lsn", SourceValue::OriginPlace),
    ];
    let fields = fields.map(|(name, value)| SourceField { name, value }).into();
    Arc::new(Relation {
        version: Relation::next_version(),
        namespace: "public".into(),
        name: "t".into(),
        columns,
        key: key.into(),
        identity: key.into(),
        source: SourceBlock { schema_name: "io.debezium.connector.postgresql.Source", fields },
        shape: Shape::Rows,
    })
}

/// A batch of changes of one relation in one transaction.
pub fn batch(relation: &Arc<Relation>) -> ChangeBatch {
    let transaction = Transaction {
        id: 77,
        commit_ts_us: 1_700_000_000_123_456,
        previous_commit: Some(90),
        snapshot: SnapshotMark::No,
        again: 0,
        origin: None,
        part: Part::default(),
    };
    ChangeBatch {
        relations: vec![relation.clone()],
        transactions: vec![transaction],
        end: Some(Position::new("{\"lsn\":1}")),
        whole: true,
        ..ChangeBatch::default()
    }
}

pub fn add(batch: &mut ChangeBatch, op: Op, has_before: Before, old: &[C], new: &[C]) {
    let mut row = |cells: &[C]| {
        let start = batch.cells.len() as u32;
        for cell in cells {
            let (tag, text) = match cell {
                C::T(text) => (Tag::Text, text.as_str()),
                C::N => (Tag::Null, ""),
                C::U => (Tag::Unchanged, ""),
            };
            batch.cells.push(Cell { start: batch.bytes.len() as u32, len: text.len() as u32, tag });
            batch.bytes.extend_from_slice(text.as_bytes());
        }
        Row { start, len: cells.len() as u32 }
    };
    let (before, after) = (row(old), row(new));
    let mark = Mark { commit: 0xABC, change: 100 + batch.changes.len() as u64, n: 2 };
    batch.changes.push(Change { op, has_before, relation: 0, transaction: 0, mark, before, after });
}

pub fn insert(batch: &mut ChangeBatch, new: &[C]) {
    add(batch, Op::Insert, Before::None, &[], new);
}

/// Gives each schema text the next id and every topic four partitions.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    pub schemas: Arc<Mutex<Vec<(String, String)>>>,
    pub topics: Arc<Mutex<Vec<String>>>,
    /// Subjects of JSON Schema.
    pub json: Arc<Mutex<Vec<String>>>,
    /// Texts with this in them do not go with those before them.
    pub refuses: Arc<Mutex<Option<&'static str>>>,
}

impl Targets for Registry {
    async fn topic(&self, name: &str) -> Result<Topic> {
        let mut topics = self.topics.lock().unwrap();
        topics.push(name.into());
        Ok(Topic { index: topics.len() as u32 - 1, partitions: 4, record_bytes_max: 1_000_000 })
    }

    async fn schema(&self, of: SchemaType, subject: &str, schema: &str) -> Result<u32> {
        if self.refuses.lock().unwrap().is_some_and(|part| schema.contains(part)) {
            return Err(Error::config("a field has another type").code(SCHEMA_INCOMPATIBLE));
        }
        if of == SchemaType::Json {
            self.json.lock().unwrap().push(subject.into());
        }
        let mut schemas = self.schemas.lock().unwrap();
        schemas.push((subject.into(), schema.into()));
        Ok(schemas.len() as u32)
    }

    async fn registered(&self, subject: &str) -> Result<Option<Registered>> {
        let schemas = self.schemas.lock().unwrap();
        let newest = (1..).zip(schemas.iter()).filter(|(_, (of, _))| of == subject).last();
        let is_json = self.json.lock().unwrap().iter().any(|of| of == subject);
        let of = if is_json { SchemaType::Json } else { SchemaType::Avro };
        Ok(newest.map(|(id, (_, text))| Registered { id, of, text: text.clone() }))
    }
}

impl Registry {
    pub fn text(&self, id: u32) -> String {
        self.schemas.lock().unwrap()[id as usize - 1].1.clone()
    }
}

/// An encoder with its registry.
pub struct Desk {
    pub encoder: Encoder<Registry>,
    pub registry: Registry,
    pub progress: Arc<Progress>,
    format: Format,
}

/// One record as a reader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub key: Option<Json>,
    pub value: Option<Json>,
    pub headers: Vec<(String, String)>,
    pub partition: u32,
}

impl Desk {
    pub fn new(format: Format) -> Self {
        let (registry, progress) = (Registry::default(), Arc::new(Progress::default()));
        let encoder = Encoder::new(format.clone(), registry.clone(), progress.clone());
        Self { encoder, registry, progress, format }
    }

    pub fn format(&self) -> &Format {
        &self.format
    }

    pub fn prepare(&mut self, batch: &ChangeBatch) {
        ready(self.encoder.prepare(batch)).unwrap();
    }

    /// The news, as the next batch has them.
    pub fn tell(&mut self) -> (EncodedBatch, Vec<Seen>) {
        ready(self.encoder.prepare_beside()).unwrap();
        let mut out = EncodedBatch::default();
        self.encoder.tell(&mut out).unwrap();
        let seen = out.records.iter().map(|record| self.seen(&out, record)).collect();
        (out, seen)
    }

    pub fn try_encode(&mut self, batch: &ChangeBatch) -> Result<EncodedBatch> {
        let mut out = EncodedBatch::default();
        for _ in 0..3 {
            match self.encoder.encode(batch, &mut out)? {
                Encoded::Done => return Ok(out),
                Encoded::NeedsPrepare => self.prepare(batch),
            }
        }
        panic!("a plan that was just compiled does not fit");
    }

    pub fn encode(&mut self, batch: &ChangeBatch) -> Vec<Seen> {
        let out = self.try_encode(batch).unwrap();
        out.records.iter().map(|record| self.seen(&out, record)).collect()
    }

    fn seen(&self, out: &EncodedBatch, record: &crate::batch::Record) -> Seen {
        let headers = out.headers(record);
        let headers = headers
            .map(|(n, v)| (n.into(), String::from_utf8(v.unwrap_or(b"null").to_vec()).unwrap()))
            .collect();
        let decode = |span: Span| self.decode(out.slice(span));
        Seen {
            key: record.key.map(decode),
            value: record.value.map(decode),
            headers,
            partition: record.partition,
        }
    }

    fn decode(&self, bytes: &[u8]) -> Json {
        if self.format.encoding != Encoding::Avro {
            return serde_json::from_slice(bytes).unwrap();
        }
        self.decode_avro(bytes)
    }

    /// By the schema that the frame names.
    pub fn decode_avro(&self, bytes: &[u8]) -> Json {
        let (frame, mut rest) = bytes.split_at(5);
        assert_eq!(frame[0], 0);
        let id = u32::from_be_bytes(frame[1..].try_into().unwrap());
        let schema = apache_avro::Schema::parse_str(&self.registry.text(id)).unwrap();
        let reader = GenericDatumReader::builder(&schema).build().unwrap();
        let value = reader.read_value(&mut rest).unwrap();
        assert!(rest.is_empty(), "{} bytes are left over", rest.len());
        shown(&value)
    }
}

pub fn ready<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("this registry never waits"),
    }
}

/// An Avro value as JSON: bytes and decimals in hexadecimal, floats that are no numbers as strings.
fn shown(value: &Avro) -> Json {
    let hex = |bytes: &[u8]| Json::String(bytes.iter().map(|b| format!("{b:02x}")).collect());
    match value {
        Avro::Null => Json::Null,
        Avro::Boolean(value) => json!(value),
        Avro::Int(value) => json!(value),
        Avro::Long(value) => json!(value),
        Avro::Float(value) if !value.is_finite() => json!(value.to_string()),
        Avro::Double(value) if !value.is_finite() => json!(value.to_string()),
        Avro::Float(value) => json!(value),
        Avro::Double(value) => json!(value),
        Avro::Bytes(bytes) => hex(bytes),
        Avro::Decimal(decimal) => hex(&Vec::try_from(decimal).unwrap()),
        Avro::String(text) => json!(text),
        Avro::Enum(_, symbol) => json!(symbol),
        Avro::Fixed(_, bytes) => hex(bytes),
        Avro::Date(days) => json!(days),
        Avro::TimestampMillis(time) | Avro::TimestampMicros(time) | Avro::TimeMicros(time) => json!(time),
        Avro::TimeMillis(time) => json!(time),
        Avro::Uuid(uuid) => json!(uuid.to_string()),
        Avro::Map(members) => members.iter().map(|(name, value)| (name.clone(), shown(value))).collect(),
        Avro::Union(_, inner) => shown(inner),
        Avro::Array(items) => items.iter().map(shown).collect(),
        Avro::Record(fields) => fields.iter().map(|(name, value)| (name.clone(), shown(value))).collect(),
        other => panic!("no schema of ours has {other:?}"),
    }
}

/// The names of a record's headers.
pub fn header<'a>(seen: &'a Seen, name: &str) -> Option<&'a str> {
    seen.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

pub fn debezium() -> Format {
    Format { dialect: Dialect::Debezium, ..Format::new("test_server") }
}

pub fn millrace() -> Format {
    Format::new("test_server")
}

pub fn json(schemas: bool, format: Format) -> Format {
    Format { encoding: Encoding::Json { schemas }, ..format }
}

/// A route that says nothing but which relations it is of, and how they look.
pub fn route(relations: &str, format: Format) -> Route {
    Route {
        relations: vec![Pattern::new(relations)],
        format,
        topic: None,
        allow: Vec::new(),
        key: Vec::new(),
        headers: Vec::new(),
        header_texts: Vec::new(),
        filter: None,
        copies: Vec::new(),
        outbox: None,
    }
}
