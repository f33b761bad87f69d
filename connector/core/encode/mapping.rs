//! From a column's kind to what its values become and the schema that says so: Debezium's semantic types
//! with their defaults (`adaptive` times, `numeric` intervals, `bytes`).

use super::connect::{Base, Field, Literal, Schema};
use super::json::Json;
use super::lexical::decimal::{Decimal, Room};
use super::value::{Items, Scratch, Type, write};
use super::{Decimals, Dialect, Format};
use crate::relation::{Column, Kind};

/// The type and its schema, neither optional nor with a default.
pub(crate) fn map(kind: &Kind, format: &Format) -> (Type, Schema) {
    let plain = |r#type, base| (r#type, Schema::new(base));
    let named = |r#type, base, name| (r#type, Schema::named(base, name));
    match kind {
        Kind::Bool => plain(Type::Bool, Base::Boolean),
        Kind::Int16 => plain(Type::Int16, Base::Int16),
        Kind::Int32 => plain(Type::Int32, Base::Int32),
        Kind::Int64 => plain(Type::Int64, Base::Int64),
        Kind::Float32 => plain(Type::Float32, Base::Float32),
        Kind::Float64 => plain(Type::Float64, Base::Float64),
        Kind::Decimal { .. } | Kind::VariableDecimal => decimal(kind, format),
        Kind::Text | Kind::Other { .. } => plain(Type::Text, Base::String),
        Kind::Json => named(Type::Text, Base::String, "io.debezium.data.Json"),
        Kind::Uuid => named(Type::Text, Base::String, "io.debezium.data.Uuid"),
        Kind::Bytes => plain(Type::Bytes, Base::Bytes),
        Kind::Enum { labels } => {
            let schema = Schema::named(Base::String, "io.debezium.data.Enum");
            (Type::Text, schema.parameter("allowed", labels.join(",")))
        }
        Kind::Date => named(Type::Date, Base::Int32, "io.debezium.time.Date"),
        Kind::Time { precision: ..=3 } => named(Type::TimeMs, Base::Int32, "io.debezium.time.Time"),
        Kind::Time { .. } => named(Type::TimeUs, Base::Int64, "io.debezium.time.MicroTime"),
        Kind::TimeTz { .. } => named(Type::TimeTz, Base::String, "io.debezium.time.ZonedTime"),
        Kind::Timestamp { precision: ..=3 } => {
            named(Type::TimestampMs, Base::Int64, "io.debezium.time.Timestamp")
        }
        Kind::Timestamp { .. } => named(Type::TimestampUs, Base::Int64, "io.debezium.time.MicroTimestamp"),
        Kind::TimestampTz { precision } => {
            let r#type = Type::TimestampTz { precision: *precision };
            named(r#type, Base::String, "io.debezium.time.ZonedTimestamp")
        }
        Kind::Interval => named(Type::Interval, Base::Int64, "io.debezium.time.MicroDuration"),
        Kind::Array(element) => array(element, format),
    }
}

fn decimal(kind: &Kind, format: &Format) -> (Type, Schema) {
    match (format.decimals, kind) {
        (Decimals::Precise, Kind::Decimal { precision, scale }) => {
            let schema = Schema::named(Base::Bytes, "org.apache.kafka.connect.data.Decimal")
                .parameter("scale", scale)
                .parameter("connect.decimal.precision", precision);
            // Postgres allows a scale of 1000.
            (Type::Decimal { scale: usize::try_from(*scale).unwrap_or(usize::MAX) }, schema)
        }
        (Decimals::Precise, _) => {
            let fields = vec![
                Field::new("scale", Schema::new(Base::Int32)),
                Field::new("value", Schema::new(Base::Bytes)),
            ];
            let schema = Schema::named(Base::Struct(fields), "io.debezium.data.VariableScaleDecimal");
            (Type::VariableDecimal, Schema { doc: Some("Variable scaled decimal"), ..schema })
        }
        (Decimals::Text, _) => {
            let java = format.dialect == Dialect::Debezium;
            (Type::DecimalText { java }, Schema::new(Base::String))
        }
        (Decimals::Double, _) => (Type::Float64, Schema::new(Base::Float64)),
    }
}

/// Several dimensions are one type with a single one, so elements come in reading order.
fn array(element: &Kind, format: &Format) -> (Type, Schema) {
    if let Kind::Array(inner) = element {
        return array(inner, format);
    }
    // Debezium's elements of an enumeration are never null; a NULL there cannot be said in its schema.
    let optional = !(matches!(element, Kind::Enum { .. }) && format.dialect == Dialect::Debezium);
    // Boxes are the one type of Postgres whose arrays are not delimited by commas.
    let is_box = matches!(element, Kind::Other { type_name } if type_name == "box");
    let (r#type, schema) = map(element, format);
    let items = Items { element: r#type, optional, delimiter: if is_box { b';' } else { b',' } };
    (Type::Array(Box::new(items)), Schema::new(Base::Array(Box::new(Schema { optional, ..schema }))))
}

/// The column's schema and its default as text, where it has one that schemas can show.
///
/// As in Debezium, bytes, times with a zone, arrays, unknown types and decimals of variable scale show
/// none; nor does a default that is not a value of its own kind, or is not a number.
pub(crate) fn field<'a>(
    column: &'a Column,
    nullable: bool,
    format: &Format,
) -> (Type, Field, Option<&'a str>) {
    let (r#type, schema) = map(&column.kind, format);
    let without = matches!(r#type, Type::Bytes | Type::TimeTz | Type::Array(_) | Type::VariableDecimal)
        || matches!(column.kind, Kind::Other { .. });
    let text = column.default.as_deref().filter(|_| !without);
    let default = text.and_then(|text| literal(&r#type, text));
    let text = text.filter(|_| default.is_some());
    let schema = Schema { optional: nullable, default, ..schema };
    (r#type, Field::new(column.name.as_str(), schema), text)
}

fn literal(r#type: &Type, text: &str) -> Option<Literal> {
    let mut json = Vec::new();
    write::<Json>(r#type, text.as_bytes(), &mut json, &mut Scratch::default()).ok()?;
    let mut room = Room::default();
    let unscaled = match r#type {
        Type::Decimal { scale } => Decimal::parse(text.as_bytes()).ok()?.unscaled(*scale, &mut room).ok()?,
        _ => &[],
    };
    Literal::of(r#type, String::from_utf8(json).ok()?, unscaled)
}

/// The text of a type's zero: what a required column holds where the old row was not sent.
pub(crate) fn zero(r#type: &Type) -> &'static str {
    match r#type {
        Type::Bool => "f",
        Type::Int16 | Type::Int32 | Type::Int64 | Type::Float32 | Type::Float64 => "0",
        Type::Decimal { .. } | Type::VariableDecimal | Type::DecimalText { .. } => "0",
        Type::Text => "",
        Type::Bytes => "\\x",
        Type::Date => "1970-01-01",
        Type::TimeMs | Type::TimeUs | Type::Interval => "00:00:00",
        Type::TimeTz => "00:00:00+00",
        Type::TimestampMs | Type::TimestampUs => "1970-01-01 00:00:00",
        Type::TimestampTz { .. } => "1970-01-01 00:00:00+00",
        Type::Array(_) => "{}",
    }
}
