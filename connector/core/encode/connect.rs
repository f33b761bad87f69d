//! Schemas in Kafka Connect's model: what both schema texts, Avro's and JSON's, are printed from.

use std::borrow::Cow;

use super::json;
use super::lexical::number;
use super::value::Type;
use crate::relation::{SourceBlock, SourceValue};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schema {
    pub base: Base,
    pub optional: bool,
    pub name: Option<String>,
    pub version: Option<u32>,
    pub doc: Option<Cow<'static, str>>,
    pub parameters: Vec<(Cow<'static, str>, String)>,
    pub default: Option<Literal>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Base {
    Boolean,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    String,
    Bytes,
    Array(Box<Schema>),
    Map(Box<(Schema, Schema)>),
    Struct(Vec<Field>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub name: String,
    pub schema: Schema,
}

/// A default, as the two schema texts print it. They differ in bytes: characters of ISO 8859-1 in Avro,
/// base64 in JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Literal {
    pub avro: String,
    pub json: String,
}

impl Schema {
    pub(crate) fn new(base: Base) -> Self {
        let parameters = Vec::new();
        Self { base, optional: false, name: None, version: None, doc: None, parameters, default: None }
    }
    /// A named type of version 1.
    pub(crate) fn named(base: Base, name: &str) -> Self {
        Self { name: Some(name.into()), version: Some(1), ..Self::new(base) }
    }
    pub(crate) fn parameter(mut self, name: &'static str, value: impl ToString) -> Self {
        self.parameters.push((name.into(), value.to_string()));
        self
    }
    pub(crate) fn optional(self) -> Self {
        Self { optional: true, ..self }
    }
}

impl Field {
    pub(crate) fn new(name: impl Into<String>, schema: Schema) -> Self {
        Self { name: name.into(), schema }
    }
}

impl Literal {
    /// From the value as JSON prints it; `None` where Avro has no default for it (NaN, the infinities).
    pub(crate) fn of(r#type: &Type, json: String, unscaled: &[u8]) -> Option<Self> {
        let avro = match r#type {
            Type::Decimal { .. } => {
                json::quoted(&unscaled.iter().map(|b| char::from(*b)).collect::<String>())
            }
            Type::Float32 => number::java_single(json.parse().ok()?),
            Type::Float64 => number::java_double(json.parse().ok()?),
            _ => return Some(Self { avro: json.clone(), json }),
        };
        Some(Self { avro, json })
    }
}

/// Names of the schemas of one table.
#[derive(Debug)]
pub(crate) struct Names {
    /// What the names begin with.
    pub logical: String,
}

impl Names {
    pub(crate) fn key(&self, fields: Vec<Field>) -> Schema {
        let name = Some(format!("{}.Key", self.logical));
        Schema { name, ..Schema::new(Base::Struct(fields)) }
    }

    /// The row alone.
    pub(crate) fn value(&self, row: Vec<Field>) -> Schema {
        Schema { name: Some(format!("{}.Value", self.logical)), ..Schema::new(Base::Struct(row)) }
    }

    /// Documents travel as JSON text. No version, the operation optional and the block last: as Debezium.
    pub(crate) fn document_envelope(&self, source: &SourceBlock) -> Schema {
        let json = || Schema::named(Base::String, "io.debezium.data.Json").optional();
        let array = |items| Schema::new(Base::Array(Box::new(items))).optional();
        let truncated = vec![
            Field::new("field", Schema::new(Base::String)),
            Field::new("size", Schema::new(Base::Int32)),
        ];
        let truncated = Schema::named(
            Base::Struct(truncated),
            "io.debezium.connector.mongodb.changestream.truncatedarray",
        );
        let description = vec![
            Field::new("removedFields", array(Schema::new(Base::String))),
            Field::new("updatedFields", json()),
            Field::new("truncatedArrays", array(truncated)),
        ];
        let description = Schema::named(
            Base::Struct(description),
            "io.debezium.connector.mongodb.changestream.updatedescription",
        );
        let fields = vec![
            Field::new("before", json()),
            Field::new("after", json()),
            Field::new("updateDescription", description.optional()),
            Field::new("source", source_schema(source)),
            Field::new("op", Schema::new(Base::String).optional()),
            Field::new("ts_ms", Schema::new(Base::Int64).optional()),
            Field::new("transaction", transaction_block()),
        ];
        let name = Some(format!("{}.Envelope", self.logical));
        Schema { name, ..Schema::new(Base::Struct(fields)) }
    }

    /// A message that an application wrote into the log: the same names for every connector, as Debezium has it.
    pub(crate) fn message(part: &str, fields: Vec<Field>) -> Schema {
        Schema::named(Base::Struct(fields), &format!("io.debezium.connector.postgresql.Message{part}"))
    }

    pub(crate) fn message_envelope(message: Vec<Field>, source: &SourceBlock) -> Schema {
        let fields = vec![
            Field::new("op", Schema::new(Base::String)),
            Field::new("ts_ms", Schema::new(Base::Int64).optional()),
            Field::new("source", source_schema(source)),
            Field::new("transaction", transaction_block()),
            Field::new("message", Self::message("", message)),
        ];
        Self::message("Value", fields)
    }

    pub(crate) fn envelope(&self, row: Vec<Field>, source: &SourceBlock) -> Schema {
        let row_name = Some(format!("{}.Value", self.logical));
        let row = Schema { name: row_name, optional: true, ..Schema::new(Base::Struct(row)) };
        let long = || Schema::new(Base::Int64);
        let fields = vec![
            Field::new("before", row.clone()),
            Field::new("after", row),
            Field::new("source", source_schema(source)),
            Field::new("transaction", transaction_block()),
            Field::new("op", Schema::new(Base::String)),
            Field::new("ts_ms", long().optional()),
            Field::new("ts_us", long().optional()),
            Field::new("ts_ns", long().optional()),
        ];
        let name = Some(format!("{}.Envelope", self.logical));
        Schema { name, version: Some(2), ..Schema::new(Base::Struct(fields)) }
    }
}

fn transaction_block() -> Schema {
    let block = vec![
        Field::new("id", Schema::new(Base::String)),
        Field::new("total_order", Schema::new(Base::Int64)),
        Field::new("data_collection_order", Schema::new(Base::Int64)),
    ];
    Schema::named(Base::Struct(block), "event.block").optional()
}

fn source_schema(source: &SourceBlock) -> Schema {
    let fields = source.fields.iter().map(|field| Field::new(field.name, source_field(&field.value)));
    Schema::named(Base::Struct(fields.collect()), source.schema_name)
}

pub(crate) fn source_field(value: &SourceValue) -> Schema {
    const SNAPSHOT_MARKS: &str =
        "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental";
    match value {
        SourceValue::Text(_) => Schema::new(Base::String),
        SourceValue::CommitMs => Schema::new(Base::Int64),
        SourceValue::CommitUs
        | SourceValue::CommitNs
        | SourceValue::TransactionId
        | SourceValue::Place
        | SourceValue::CellLong(_)
        | SourceValue::OriginPlace
        | SourceValue::NoLong => Schema::new(Base::Int64).optional(),
        SourceValue::Increment => Schema::new(Base::Int32),
        SourceValue::Sequence | SourceValue::CellText(_) | SourceValue::Origin | SourceValue::NoText => {
            Schema::new(Base::String).optional()
        }
        SourceValue::Snapshot => {
            let text = json::quoted("false");
            let mark =
                Schema::named(Base::String, "io.debezium.data.Enum").parameter("allowed", SNAPSHOT_MARKS);
            Schema { default: Some(Literal { avro: text.clone(), json: text }), ..mark.optional() }
        }
    }
}
