//! What a file says of the looks of records, for a connector and for each of its routes.

use super::disguise::Disguised;
use super::flat::Flat;
use super::heartbeat::Heartbeat;
use super::hidden::Worn;
use super::signature::Signature;
use super::spelling::Spelling;
use crate::batch::Op;
use crate::pattern::Pattern;
use crate::relation::Relation;
use crate::route::rename::Rename;
use crate::route::rule::{OnReject, Route};
use crate::route::step::{Does, Step};

/// How records look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// First part of every topic and schema name.
    pub topic_prefix: String,
    pub envelope: Envelope,
    pub encoding: Encoding,
    /// Topics of relations that go by other names, each rule after the one before.
    pub renames: Vec<Rename>,
    pub dialect: Dialect,
    pub decimals: Decimals,
    pub times: Times,
    pub intervals: Intervals,
    pub binary: Binary,
    pub hstore: Hstore,
    /// A record without a value after each delete, so that compacted topics forget the key.
    pub tombstones: bool,
    /// Records for truncated tables.
    pub truncates: bool,
    /// Operations that make no record. What they did counts as received all the same.
    pub skipped: Skipped,
    /// Updates that change nothing of what events show make no record, where the whole old row is sent.
    pub skip_unchanged: bool,
    /// Columns (`schema.table.column`) that are not in the events' rows. Keys keep theirs.
    pub columns_excluded: Vec<Pattern>,
    /// Where there are any, only these are.
    pub columns_included: Vec<Pattern>,
    /// Columns (`schema.table.column`) and types (`schema.table.type`) whose schemas tell the type in the
    /// database's own words.
    pub source_types: Vec<Pattern>,
    pub source_types_of: Vec<Pattern>,
    /// Schemas hold the columns' comments.
    pub comments: bool,
    /// Columns of text that are masked, hashed or cut off; the first that names a column decides.
    pub disguised: Vec<Disguised>,
    /// Columns that are disguised already.
    pub worn: Worn,
    /// Headers that name the connector, its task and its run, where the dialect has them.
    pub context_headers: bool,
    /// Stands for an unchanged TOAST value that the source did not send.
    pub placeholder: String,
    /// How names of schemas and of columns are spelled.
    pub schema_names: Spelling,
    pub field_names: Spelling,
    /// Largest record, key, value and headers together.
    pub record_bytes_max: u32,
    pub on_reject: OnReject,
    /// The topic of dead letters.
    pub dead_letters: String,
    /// Signs every value, in a header.
    pub signature: Option<Signature>,
    /// Events tell their transactions, whose begins and ends are told on this topic.
    pub transactions: Option<String>,
    pub heartbeat: Option<Heartbeat>,
    /// What happens to snapshots is told on this topic.
    pub notifications: Option<String>,
    /// How rows and documents become flat records.
    pub flat: Flat,
    /// Relations that look or go otherwise; the first that fits counts.
    pub routes: Vec<Route>,
    /// What is made of fields and headers, each step after the one before.
    pub steps: Vec<Step>,
}

impl Format {
    /// The defaults, under a topic prefix.
    pub fn new(topic_prefix: impl Into<String>) -> Self {
        let topic_prefix = topic_prefix.into();
        Self {
            dead_letters: format!("{topic_prefix}.dead-letters"),
            topic_prefix,
            envelope: Envelope::Debezium,
            encoding: Encoding::Avro,
            renames: Vec::new(),
            dialect: Dialect::Millrace,
            decimals: Decimals::Precise,
            times: Times::Adaptive,
            intervals: Intervals::Numeric,
            binary: Binary::Bytes,
            hstore: Hstore::Json,
            tombstones: true,
            truncates: false,
            skipped: Skipped::default(),
            skip_unchanged: false,
            columns_excluded: Vec::new(),
            columns_included: Vec::new(),
            source_types: Vec::new(),
            source_types_of: Vec::new(),
            comments: false,
            disguised: Vec::new(),
            worn: Worn::default(),
            context_headers: true,
            placeholder: "__debezium_unavailable_value".into(),
            schema_names: Spelling::AsTheyAre,
            field_names: Spelling::AsTheyAre,
            record_bytes_max: 1_000_000_000,
            on_reject: OnReject::Stop,
            signature: None,
            transactions: None,
            heartbeat: None,
            notifications: None,
            flat: Flat::default(),
            routes: Vec::new(),
            steps: Vec::new(),
        }
    }

    pub(super) fn has_context_headers(&self) -> bool {
        self.context_headers && self.dialect == Dialect::Debezium
    }

    /// The same for the rows of letters, which wear these disguises already.
    #[must_use]
    pub fn of_letters(&self, worn: &Worn) -> Self {
        let mut format = Self { worn: worn.clone(), ..self.clone() };
        for route in &mut format.routes {
            route.format.worn = worn.clone();
        }
        format
    }

    /// Rejects of some relation become dead letters.
    pub fn has_dead_letters(&self) -> bool {
        self.is_somewhere(|format| format.on_reject == OnReject::DeadLetter)
    }

    /// What cannot go out may wait alone. Where transactions are told of, all their changes have to be there.
    pub fn can_hold(&self) -> bool {
        self.transactions.is_none()
    }

    /// Whether records of some relation find their partition by other fields than those of their key.
    pub fn spreads(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.does, Does::Partition(_)))
    }

    /// Whether this holds for some relation.
    pub fn is_somewhere(&self, is: impl Fn(&Format) -> bool) -> bool {
        is(self) || self.routes.iter().any(|route| is(&route.format))
    }

    /// How the records of a relation look, and its route if it has one.
    pub(super) fn of(&self, relation: &Relation) -> (&Format, Option<&Route>) {
        let route = self.routes.iter().find(|route| route.fits(relation));
        (route.map_or(self, |route| &route.format), route)
    }
}

/// The shape around a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// Before, after, source and operation, as Debezium has it.
    Debezium,
    /// The new row alone, and what `flat` says besides; a tombstone for a delete unless that says otherwise.
    Flat,
    /// Each inserted row is an event that says itself what it holds and where it goes.
    Outbox,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Confluent's frame: a zero byte, the schema's id, Avro binary.
    Avro,
    /// As Kafka Connect's JsonConverter writes it, with or without the schema beside the payload.
    Json { schemas: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Debezium's envelope, with explicit marks in headers (`position`, `unchanged`) where it guesses:
    /// nulls stay null beside a default, and names are made legal for Avro.
    Millrace,
    /// As Debezium 3.6 with its defaults.
    Debezium,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decimals {
    Precise,
    Text,
    Double,
}

/// Operations, of those that change rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    pub inserts: bool,
    pub updates: bool,
    pub deletes: bool,
    /// Every other one besides: the relation makes no records.
    pub(super) all: bool,
}

impl Skipped {
    pub(super) fn covers(self, op: Op) -> bool {
        match op {
            _ if self.all => true,
            Op::Insert => self.inserts,
            Op::Update => self.updates,
            Op::Delete => self.deletes,
            Op::Truncate | Op::Read => false,
        }
    }
}

/// What dates, times and timestamps without a zone become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Milliseconds or microseconds, by the column's precision.
    Adaptive,
    /// The same, but times of day always in microseconds.
    AdaptiveTimeMicroseconds,
    /// Kafka Connect's own types, in milliseconds.
    Connect,
    IsoText,
    Microseconds,
    Nanoseconds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intervals {
    /// Microseconds; a month is a twelfth of a year of 365.25 days.
    Numeric,
    /// ISO 8601.
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Bytes,
    Base64,
    Base64UrlSafe,
    Hex,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hstore {
    Json,
    Map,
}
