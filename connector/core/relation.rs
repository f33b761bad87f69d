//! A table or collection as its rows are to be read: columns, key, and the constant part of its source
//! block. Built by a source once per relation version, shared by every batch that holds its rows.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Deserializer, Serialize};

/// What a column's text means. Values stay lexical in a batch: the text that the database prints (ISO
/// dates, `t`/`f`, `\x` hexadecimal bytes, `{...}` arrays). An encoder parses only what its format needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// `t` or `f`
    Bool,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    /// Declared precision and scale; may still print `NaN` or `Infinity`.
    Decimal {
        precision: u32,
        scale: u32,
    },
    /// A numeric without a declared scale.
    VariableDecimal,
    Text,
    Json,
    Uuid,
    /// `\x` and hexadecimal digits.
    Bytes,
    /// Labels in sort order.
    Enum {
        labels: Vec<String>,
    },
    Date,
    /// Fraction digits, 0 to 6.
    Time {
        precision: u8,
    },
    TimeTz {
        precision: u8,
    },
    Timestamp {
        precision: u8,
    },
    TimestampTz {
        precision: u8,
    },
    /// As printed with `IntervalStyle = postgres`.
    Interval,
    /// `0`s and `1`s; no length where none is declared.
    Bits {
        length: Option<u32>,
    },
    /// As printed with `lc_monetary = C`: `-$1,234.50`.
    Money,
    Xml,
    Ltree,
    Tsvector,
    /// `"key"=>"value", "other"=>NULL`
    Hstore,
    /// `(x,y)`
    Point,
    /// PostGIS: hexadecimal EWKB.
    Geometry,
    Geography,
    /// pgvector: `[1,2.5]`; the elements of `halfvec` are of single precision.
    Vector {
        is_single: bool,
    },
    /// pgvector: `{1:1.5,3:-2}/5`, of no more dimensions than an `i16` counts.
    SparseVector,
    /// The same of any number of dimensions.
    LongSparseVector,
    /// A type whose text is all there is to it: addresses, ranges, text without regard to case.
    Verbatim,
    /// Elements as in the database's array text, with NULLs and dimensions.
    Array(Box<Kind>),
    /// The same, where something else than a comma stands between the elements.
    Delimited {
        element: Box<Kind>,
        delimiter: u8,
    },
    /// A type without a mapping of its own: kept as text, never dropped.
    Other {
        type_name: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    pub nullable: bool,
    /// The default in the same lexical form as a value, where the schema is to show one.
    pub default: Option<String>,
    #[serde(default)]
    pub declared: Declared,
}

impl Column {
    /// Without a default, and without the database's own words.
    pub fn new(name: impl Into<String>, kind: Kind, nullable: bool) -> Self {
        Self { name: name.into(), kind, nullable, default: None, declared: Declared::default() }
    }
}

/// A column in the database's own words, for those who make tables of events. Schemas show it on request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// The type's name, in lower case; empty where it is not known.
    pub type_name: String,
    pub length: Option<i32>,
    pub scale: Option<i32>,
    pub comment: Option<String>,
}

/// A name that is a constant of a source. A name of its own, because serde would borrow a plain `&str` from
/// what it reads.
type Constant = &'static str;

/// One field of the envelope's `source` record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceField {
    #[serde(deserialize_with = "kept")]
    pub name: Constant,
    pub value: SourceValue,
}

/// Where a field of the source block comes from, and with it its type in the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceValue {
    /// Required string, the same for every row of the relation.
    Text(String),
    /// Required long: commit time in milliseconds.
    CommitMs,
    /// Optional long: commit time in microseconds.
    CommitUs,
    /// Optional long: commit time in nanoseconds.
    CommitNs,
    /// Debezium's enumeration of snapshot marks; `false` while streaming.
    Snapshot,
    /// Optional string: `["<place of the last commit before>","<place of the change>"]`.
    Sequence,
    /// Optional long.
    TransactionId,
    /// Optional long: the place of the change, `Mark::change`.
    Place,
    /// Required int: the low half of the change's place (the increment of a cluster time).
    Increment,
    /// Optional string, or optional long, in this cell of a `batch::document`.
    CellText(usize),
    CellLong(usize),
    /// Optional long that is never set.
    NoLong,
    /// Optional string that is never set.
    NoText,
    /// Optional string, and optional long: `Transaction::origin`, and where it committed there.
    Origin,
    OriginPlace,
}

/// The block that every event of a relation carries about its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceBlock {
    /// Full name of the record in the schema, `io.debezium.connector.postgresql.Source`.
    #[serde(deserialize_with = "kept")]
    pub schema_name: Constant,
    pub fields: Vec<SourceField>,
}

/// What a change of a relation is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// One cell a column.
    #[default]
    Rows,
    /// The cells of `batch::document`; the only column is the id.
    Documents,
    /// What an application wrote into the log itself: a prefix and a content, both in cells of their own.
    Messages,
}

/// A name that is a constant of some source, read back from a dead letter: by a command that handles a few
/// and ends, so that it may stay for as long as the process does.
fn kept<'de, D: Deserializer<'de>>(from: D) -> Result<Constant, D::Error> {
    String::deserialize(from).map(|name| &*name.leak())
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Relation {
    /// Unique in this process: a new version of a table is a new one.
    #[serde(skip, default = "Relation::next_version")]
    pub version: u64,
    /// Schema of a table, database of a collection.
    pub namespace: String,
    pub name: String,
    pub columns: Vec<Column>,
    /// Indexes into `columns`, in the key's own order; empty where there is no key.
    pub key: Vec<u16>,
    /// The same of what tells its rows apart in the source, where events are keyed by something else.
    pub identity: Vec<u16>,
    pub source: SourceBlock,
    pub shape: Shape,
}

impl Relation {
    /// A number that no relation of this process has had before.
    pub fn next_version() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// `namespace.name`, as events, filters and metrics name it.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }
}
