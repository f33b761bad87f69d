//! A table of ten columns and a batch of its rows, for what is measured from outside of the crate.

use std::sync::Arc;

use millrace_core::batch::{
    Before, Cell, Change, ChangeBatch, EncodedBatch, Op, Part, Row, SnapshotMark, Tag, Transaction,
};
use millrace_core::encode::{Encoded, Encoder, Encoding, Format};
use millrace_core::error::Result;
use millrace_core::position::{Mark, Position};
use millrace_core::progress::Progress;
use millrace_core::relation::{Column, Kind, Relation, Shape, SourceBlock, SourceField, SourceValue};
use millrace_core::sink::{SchemaType, Targets, Topic};

/// Takes every topic and schema.
#[derive(Clone)]
pub struct Open;

impl Targets for Open {
    async fn topic(&self, _name: &str) -> Result<Topic> {
        Ok(Topic { index: 0, partitions: 6, record_bytes_max: 1 << 20 })
    }
    async fn schema(&self, _of: SchemaType, _subject: &str, _text: &str) -> Result<u32> {
        Ok(1)
    }
}

const COLUMNS: [(&str, Kind, &str); 10] = [
    ("id", Kind::Int64, "1234567"),
    ("customer", Kind::Int32, "4711"),
    ("status", Kind::Text, "shipped"),
    ("email", Kind::Text, "somebody@example.com"),
    ("note", Kind::Text, "leave it with the neighbours, please"),
    ("amount", Kind::Decimal { precision: 12, scale: 2 }, "1234.50"),
    ("weight", Kind::Float64, "12.625"),
    ("is_gift", Kind::Bool, "f"),
    ("created", Kind::Timestamp { precision: 6 }, "2024-01-02 03:04:05.123456"),
    ("updated", Kind::TimestampTz { precision: 6 }, "2024-01-02 03:04:05.123456+02"),
];

fn relation() -> Relation {
    let text = |text: &str| SourceValue::Text(text.into());
    let fields = [
        ("version", text("0.1.0")),
        ("connector", text("postgresql")),
        ("name", text("shop")),
        ("ts_ms", SourceValue::CommitMs),
        ("snapshot", SourceValue::Snapshot),
        ("db", text("shop")),
        ("sequence", SourceValue::Sequence),
        ("ts_us", SourceValue::CommitUs),
        ("ts_ns", SourceValue::CommitNs),
        ("schema", text("public")),
        ("table", text("orders")),
        ("txId", SourceValue::TransactionId),
        ("lsn", SourceValue::Place),
        ("xmin", SourceValue::NoLong),
        ("origin", SourceValue::Origin),
        ("origin_lsn", SourceValue::OriginPlace),
    ];
    let column = |(name, kind, _): (&str, Kind, &str)| Column::new(name, kind, name != "id");
    Relation {
        version: Relation::next_version(),
        namespace: "public".into(),
        name: "orders".into(),
        columns: COLUMNS.map(column).into(),
        key: vec![0],
        identity: vec![0],
        source: SourceBlock {
            schema_name: "io.debezium.connector.postgresql.Source",
            fields: fields.map(|(name, value)| SourceField { name, value }).into(),
        },
        shape: Shape::Rows,
    }
}

fn batch(rows: u32) -> ChangeBatch {
    let mut batch = ChangeBatch {
        relations: vec![Arc::new(relation())],
        transactions: vec![Transaction {
            id: 77,
            commit_ts_us: 1_700_000_000_123_456,
            previous_commit: Some(24_023_128),
            snapshot: SnapshotMark::No,
            again: 0,
            origin: None,
            part: Part::default(),
        }],
        end: Some(Position::new("{\"lsn\":24023999}")),
        whole: true,
        ..ChangeBatch::default()
    };
    for n in 0..rows {
        let after = Row { start: n * 10, len: 10 };
        for (_, _, text) in &COLUMNS {
            let (start, len) = (batch.bytes.len() as u32, text.len() as u32);
            batch.cells.push(Cell { start, len, tag: Tag::Text });
            batch.bytes.extend_from_slice(text.as_bytes());
        }
        batch.changes.push(Change {
            op: Op::Insert,
            has_before: Before::None,
            relation: 0,
            transaction: 0,
            mark: Mark { commit: 24_023_999, change: 24_023_128 + u64::from(n), n: 0 },
            before: Row::default(),
            after,
        });
    }
    batch
}

/// An encoder that has seen the batch once, the batch, and the warm output.
pub async fn warm(encoding: Encoding, rows: u32) -> (Encoder<Open>, ChangeBatch, EncodedBatch) {
    let format = Format { encoding, ..Format::new("shop") };
    let mut encoder = Encoder::new(format, Open, Arc::new(Progress::default()));
    let (batch, mut out) = (batch(rows), EncodedBatch::default());
    encoder.prepare(&batch).await.expect("this registry takes everything");
    assert_eq!(encoder.encode(&batch, &mut out).expect("these rows are sound"), Encoded::Done);
    (encoder, batch, out)
}
