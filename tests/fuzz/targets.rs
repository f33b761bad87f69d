//! Who gets the bytes, and what must hold of what is taken for sound.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use millrace_core::batch::{
    Before, Cell, Change, ChangeBatch, EncodedBatch, Op, Part, Row, SnapshotMark, Tag, Transaction,
};
use millrace_core::encode::{Dialect, Encoded, Encoder, Encoding, Format, Times};
use millrace_core::error::{Kind as ErrorKind, Result as CoreResult};
use millrace_core::position::{Mark, Position};
use millrace_core::progress::Progress;
use millrace_core::relation::{Column, Declared, Kind, Relation, Shape, SourceBlock};
use millrace_core::sink::{SchemaType, Targets, Topic};
use millrace_mongodb::bson::{Dialect as Json, Doc, Style, write_document};
use millrace_postgres::copy;
use millrace_postgres::frames::{Frame, Frames};
use millrace_postgres::pgoutput::{self, Message, append_tuple};
use millrace_postgres::position::Stored;

use crate::corpus;

/// Deeper than this in brackets, a reader of JSON gives up before the text is wrong.
const DEEP: usize = 100;

/// A parser, what it begins with, and one trial: whether the input was taken, or why that was unsound.
pub struct Target {
    pub name: &'static str,
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub try_it: fn(&[u8]) -> Result<bool, String>,
}

/// Every one.
pub const ALL: &[Target] = &[
    Target { name: "frames", seeds: corpus::frames, try_it: frames },
    Target { name: "pgoutput", seeds: corpus::pgoutput, try_it: message },
    Target { name: "copy", seeds: corpus::copied, try_it: copied },
    Target { name: "position", seeds: corpus::positions, try_it: position },
    Target { name: "values", seeds: corpus::values, try_it: values },
    Target { name: "arrays", seeds: corpus::arrays, try_it: arrays },
    Target { name: "bson", seeds: corpus::bson, try_it: bson },
];

/// However a stream is cut into reads, it is the same frames, up to the same end.
fn frames(input: &[u8]) -> Result<bool, String> {
    const FRAME_BYTES_MAX: usize = 1 << 16;
    let (first, pieces) = input.split_first().unwrap_or((&0, &[]));
    let read = |piece: usize| {
        let (mut frames, mut found, mut left) = (Frames::new(), Vec::new(), pieces);
        loop {
            match frames.next("fuzz", FRAME_BYTES_MAX) {
                Ok(Some(Frame::Data(data))) => found.push(data.to_vec()),
                Ok(Some(Frame::Done)) => return (found, "done".to_owned()),
                Err(error) => return (found, error.to_string()),
                Ok(None) if left.is_empty() => return (found, "more to come".to_owned()),
                Ok(None) => {
                    let space = frames.space();
                    let count = piece.min(left.len()).min(space.len());
                    let (now, later) = left.split_at(count);
                    space.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
                    frames.add(count);
                    left = later;
                }
            }
        }
    };
    let whole = read(usize::MAX);
    if whole != read(usize::from(*first % 16) + 1) {
        return Err("other reads give other frames".to_owned());
    }
    Ok(!whole.0.is_empty())
}

/// A row of COPY is put into a batch.
fn copied(input: &[u8]) -> Result<bool, String> {
    const COLUMNS: usize = 3;
    let mut batch = ChangeBatch::default();
    let Ok(row) = copy::append_row(&mut batch, input, COLUMNS) else { return Ok(false) };
    texts(&batch, row, COLUMNS)?;
    Ok(true)
}

/// The cells of a row: as many as it has columns, each a text of the batch.
fn texts(batch: &ChangeBatch, row: Row, columns: usize) -> Result<(), String> {
    let cells = batch.cells_of(row);
    if cells.len() != columns {
        return Err(format!("{columns} columns became {} cells", cells.len()));
    }
    for cell in cells.iter().filter(|cell| cell.tag == Tag::Text) {
        let text = batch.text(*cell);
        if text.len() != cell.len as usize || std::str::from_utf8(text).is_err() {
            return Err("a cell lies outside of the batch, or is no text".to_owned());
        }
    }
    Ok(())
}

/// A document becomes text in every dialect; but for the strict one, whose NaN is no JSON, JSON.
fn bson(input: &[u8]) -> Result<bool, String> {
    let Ok(doc) = Doc::new(input) else { return Ok(false) };
    for dialect in [Json::Strict, Json::Canonical, Json::Relaxed, Json::Plain] {
        let mut out = Vec::new();
        if write_document(Style::compact(dialect), doc, None, &mut out).is_err() {
            return Ok(false);
        }
        let text = std::str::from_utf8(&out).map_err(|error| format!("{dialect:?}: no text: {error}"))?;
        if dialect != Json::Strict && nesting(text) < DEEP {
            serde_json::from_str::<serde::de::IgnoredAny>(text)
                .map_err(|error| format!("{dialect:?}: no JSON: {error}"))?;
        }
    }
    Ok(true)
}

/// At least as deep as the brackets go; those in texts count too.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A message is parsed, and its rows are put into a batch.
fn message(input: &[u8]) -> Result<bool, String> {
    let Ok(message) = pgoutput::parse(input) else { return Ok(false) };
    let mut batch = ChangeBatch::default();
    let mut rows = Vec::new();
    match &message {
        Message::Insert { new, .. } => rows.push(new),
        Message::Update { old, new, .. } => rows.extend(old.iter().map(|(_, old)| old).chain([new])),
        Message::Delete { old, .. } => rows.push(old),
        Message::Truncate { relations, .. } => drop(relations.iter().count()),
        _ => {}
    }
    for row in rows {
        let columns = usize::from(row.columns());
        let Ok(placed) = append_tuple(&mut batch, row, columns) else { return Ok(false) };
        texts(&batch, placed, columns)?;
    }
    Ok(true)
}

/// What is read is written as it was.
fn position(input: &[u8]) -> Result<bool, String> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(false) };
    if !(text.starts_with('{') && text.ends_with('}')) {
        return Ok(false);
    }
    match Stored::parse(&Position::new(text)) {
        Err(_) => Ok(false),
        Ok(Stored::Creating { .. }) => Ok(true),
        Ok(Stored::Streamed(streamed)) => {
            let again = Stored::parse(&streamed.to_position()).map_err(|error| error.to_string())?;
            match again == Stored::Streamed(streamed) {
                true => Ok(true),
                false => Err("it comes back otherwise than it was written".to_owned()),
            }
        }
    }
}

/// A column of every kind, in every form that differs: what is written must be JSON.
fn values(input: &[u8]) -> Result<bool, String> {
    columns(input, kinds())
}

/// The same for arrays, of kinds that differ in how their elements are written.
fn arrays(input: &[u8]) -> Result<bool, String> {
    let elements = [Kind::Int32, Kind::Text, Kind::Date, Kind::VariableDecimal, Kind::Bytes, Kind::Bool];
    columns(input, elements.map(|kind| Kind::Array(Box::new(kind))))
}

fn columns(input: &[u8], kinds: impl IntoIterator<Item = Kind>) -> Result<bool, String> {
    // The reader of rows takes nothing else.
    let Ok(text) = std::str::from_utf8(input) else { return Ok(false) };
    let mut taken = false;
    for kind in kinds {
        for dialect in [Dialect::Millrace, Dialect::Debezium] {
            for encoding in [Encoding::Json { schemas: false }, Encoding::Avro] {
                let format = Format { dialect, encoding, times: Times::Adaptive, ..Format::new("f") };
                taken |= value(&kind, text, format)?;
            }
        }
        let format = Format {
            encoding: Encoding::Json { schemas: false },
            dialect: Dialect::Debezium,
            times: Times::IsoText,
            intervals: millrace_core::encode::Intervals::Text,
            hstore: millrace_core::encode::Hstore::Map,
            decimals: millrace_core::encode::Decimals::Text,
            ..Format::new("f")
        };
        taken |= value(&kind, text, format)?;
    }
    Ok(taken)
}

fn kinds() -> [Kind; 24] {
    [
        Kind::Bool,
        Kind::Int16,
        Kind::Int64,
        Kind::Float32,
        Kind::Float64,
        Kind::Decimal { precision: 10, scale: 2 },
        Kind::VariableDecimal,
        Kind::Text,
        Kind::Bytes,
        Kind::Date,
        Kind::Time { precision: 3 },
        Kind::Time { precision: 6 },
        Kind::TimeTz { precision: 6 },
        Kind::Timestamp { precision: 3 },
        Kind::Timestamp { precision: 6 },
        Kind::TimestampTz { precision: 6 },
        Kind::Interval,
        Kind::Bits { length: None },
        Kind::Money,
        Kind::Hstore,
        Kind::Point,
        Kind::Geometry,
        Kind::Vector { is_single: true },
        Kind::SparseVector,
    ]
}

fn value(kind: &Kind, text: &str, format: Format) -> Result<bool, String> {
    let is_json = format.encoding != Encoding::Avro;
    let batch = row(kind, text);
    let mut encoder = Encoder::new(format, Nowhere, Arc::new(Progress::default()));
    let mut out = EncodedBatch::default();
    for _ in 0..3 {
        match encoder.encode(&batch, &mut out) {
            Ok(Encoded::NeedsPrepare) => ready(encoder.prepare(&batch)).map_err(|error| error.to_string())?,
            Ok(Encoded::Done) => {
                for record in out.records.iter().filter(|_| is_json) {
                    let written = record.value.map(|value| out.slice(value)).unwrap_or_default();
                    serde_json::from_slice::<serde_json::Value>(written)
                        .map_err(|error| format!("{kind:?} became what is no JSON: {error}"))?;
                }
                return Ok(true);
            }
            Err(error) if error.kind() == ErrorKind::Record => return Ok(false),
            Err(error) => return Err(format!("{kind:?}: {error}")),
        }
    }
    Err(format!("{kind:?}: a plan that was just made does not fit"))
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("nobody is waited for here"),
    }
}

fn row(kind: &Kind, text: &str) -> ChangeBatch {
    let column = Column {
        name: "v".into(),
        kind: kind.clone(),
        nullable: true,
        default: None,
        declared: Declared::default(),
    };
    let relation = Relation {
        version: Relation::next_version(),
        namespace: "public".into(),
        name: "t".into(),
        columns: vec![column],
        key: Vec::new(),
        identity: Vec::new(),
        source: SourceBlock { schema_name: "x.Source", fields: Vec::new() },
        shape: Shape::Rows,
    };
    let len = u32::try_from(text.len()).unwrap_or(0);
    let (has_before, before, mark) = (Before::None, Row::default(), Mark::default());
    ChangeBatch {
        bytes: text.as_bytes().to_vec(),
        cells: vec![Cell { start: 0, len, tag: Tag::Text }],
        changes: vec![Change {
            op: Op::Insert,
            has_before,
            relation: 0,
            transaction: 0,
            mark,
            before,
            after: Row { start: 0, len: 1 },
        }],
        transactions: vec![Transaction {
            id: 1,
            commit_ts_us: 1,
            previous_commit: None,
            snapshot: SnapshotMark::No,
            again: 0,
            origin: None,
            part: Part::default(),
        }],
        relations: vec![Arc::new(relation)],
        end: Some(Position::new("{}")),
        whole: true,
        ..ChangeBatch::default()
    }
}

/// Takes every topic and every schema.
#[derive(Clone)]
struct Nowhere;

impl Targets for Nowhere {
    async fn topic(&self, _name: &str) -> CoreResult<Topic> {
        Ok(Topic { index: 0, partitions: 1, record_bytes_max: 1_000_000 })
    }

    async fn schema(&self, _of: SchemaType, _subject: &str, _text: &str) -> CoreResult<u32> {
        Ok(1)
    }
}
