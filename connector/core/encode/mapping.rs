//! From a column's kind to what its values become and the schema that says so: Debezium's semantic types
//! with their defaults (`adaptive` times, `numeric` intervals, `bytes`).

use std::borrow::Cow;

use super::connect::{Base, Field, Literal, Schema};
use super::json::Json;
use super::lexical::decimal::{Decimal, Room};
use super::value::{Clock, Items, Rare, Scratch, Type, write};
use super::{Binary, Decimals, Dialect, Format, Hstore, Intervals, Times};
use crate::pattern::Pattern;
use crate::relation::{Column, Declared, Kind, Relation};

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
        Kind::Decimal { .. } | Kind::VariableDecimal | Kind::Money => decimal(kind, format),
        Kind::Text | Kind::Verbatim | Kind::Other { .. } => plain(Type::Text, Base::String),
        Kind::Json => named(Type::Text, Base::String, "io.debezium.data.Json"),
        Kind::Xml => named(Type::Text, Base::String, "io.debezium.data.Xml"),
        Kind::Ltree => named(Type::Text, Base::String, "io.debezium.data.Ltree"),
        Kind::Tsvector => named(Type::Text, Base::String, "io.debezium.data.Tsvector"),
        Kind::Uuid => named(Type::Text, Base::String, "io.debezium.data.Uuid"),
        Kind::Bytes => binary(format),
        Kind::Bits { length: Some(1) } => plain(Type::Rare(Rare::Bit), Base::Boolean),
        Kind::Bits { length } => {
            let schema = Schema::named(Base::Bytes, "io.debezium.data.Bits");
            // Java's greatest integer where there is no limit.
            let length = length.map_or(i32::MAX.unsigned_abs(), |length| length);
            (Type::Rare(Rare::Bits), schema.parameter("length", length))
        }
        Kind::Hstore => match format.hstore {
            Hstore::Json => named(Type::Rare(Rare::HstoreJson), Base::String, "io.debezium.data.Json"),
            Hstore::Map => {
                let inner = (Schema::new(Base::String), Schema::new(Base::String).optional());
                plain(Type::Rare(Rare::HstoreMap), Base::Map(Box::new(inner)))
            }
        },
        Kind::Point | Kind::Geometry | Kind::Geography => spatial(kind),
        Kind::LongSparseVector if format.dialect == Dialect::Millrace => plain(Type::Text, Base::String),
        Kind::Vector { .. } | Kind::SparseVector | Kind::LongSparseVector => vector(kind),
        Kind::Enum { labels } => {
            let schema = Schema::named(Base::String, "io.debezium.data.Enum");
            (Type::Text, schema.parameter("allowed", labels.join(",")))
        }
        Kind::Date | Kind::Time { .. } | Kind::Timestamp { .. } => time(kind, format),
        Kind::TimeTz { .. } => named(Type::TimeTz, Base::String, "io.debezium.time.ZonedTime"),
        Kind::TimestampTz { precision } => {
            let r#type = Type::TimestampTz { precision: *precision };
            named(r#type, Base::String, "io.debezium.time.ZonedTimestamp")
        }
        Kind::Interval => match format.intervals {
            Intervals::Numeric => named(Type::Interval, Base::Int64, "io.debezium.time.MicroDuration"),
            Intervals::Text => {
                named(Type::Rare(Rare::IntervalIso), Base::String, "io.debezium.time.Interval")
            }
        },
        Kind::Array(element) => array(element, b',', format),
        Kind::Delimited { element, delimiter } => array(element, *delimiter, format),
    }
}

/// Whether a column is in the events. Debezium leaves out what it has no mapping for.
pub(crate) fn is_shown(column: &Column, format: &Format) -> bool {
    format.dialect == Dialect::Millrace || is_mapped(&column.kind, &column.declared.type_name)
}

/// Whether Debezium maps a type: this kind, under the name that the database has for it.
fn is_mapped(kind: &Kind, type_name: &str) -> bool {
    match kind {
        Kind::Other { .. } => false,
        Kind::Array(element) | Kind::Delimited { element, .. } => match element.as_ref() {
            Kind::Money | Kind::Interval | Kind::Point | Kind::Xml | Kind::Geometry | Kind::Geography => {
                false
            }
            // Arrays of `name` and of `bit varying`; those of `text` and of `bit` are there.
            Kind::Text => type_name != "_name",
            Kind::Bits { .. } => type_name != "_varbit",
            element => is_mapped(element, type_name),
        },
        _ => true,
    }
}

fn time(kind: &Kind, format: &Format) -> (Type, Schema) {
    let of = |r#type, base, name: &str| (r#type, Schema::named(base, &format!("io.debezium.time.{name}")));
    let kafka = |r#type, base, name: &str| {
        (r#type, Schema::named(base, &format!("org.apache.kafka.connect.data.{name}")))
    };
    let rare = Type::Rare;
    match (format.times, kind) {
        (Times::IsoText, Kind::Date) => {
            let java = format.dialect == Dialect::Debezium;
            of(rare(Rare::DateIso { java }), Base::String, "IsoDate")
        }
        (Times::IsoText, Kind::Time { .. }) => of(rare(Rare::TimeIso), Base::String, "IsoTime"),
        (Times::IsoText, _) => of(rare(Rare::TimestampIso), Base::String, "IsoTimestamp"),
        (Times::Connect, Kind::Date) => kafka(Type::Date, Base::Int32, "Date"),
        (Times::Connect, Kind::Time { .. }) => kafka(Type::TimeMs, Base::Int32, "Time"),
        (Times::Connect, _) => kafka(rare(Rare::TimestampConnect), Base::Int64, "Timestamp"),
        (_, Kind::Date) => of(Type::Date, Base::Int32, "Date"),
        (Times::Nanoseconds, Kind::Time { .. }) => of(rare(Rare::TimeNs), Base::Int64, "NanoTime"),
        (Times::Nanoseconds, _) => of(rare(Rare::TimestampNs), Base::Int64, "NanoTimestamp"),
        (Times::Adaptive, Kind::Time { precision: ..=3 }) => of(Type::TimeMs, Base::Int32, "Time"),
        (_, Kind::Time { .. }) => of(Type::TimeUs, Base::Int64, "MicroTime"),
        (Times::Adaptive | Times::AdaptiveTimeMicroseconds, Kind::Timestamp { precision: ..=3 }) => {
            of(Type::TimestampMs, Base::Int64, "Timestamp")
        }
        (_, _) => of(Type::TimestampUs, Base::Int64, "MicroTimestamp"),
    }
}

fn binary(format: &Format) -> (Type, Schema) {
    let text = |rare| (Type::Rare(rare), Schema::new(Base::String));
    match format.binary {
        Binary::Bytes => (Type::Bytes, Schema::new(Base::Bytes)),
        Binary::Base64 => text(Rare::Base64 { url_safe: false }),
        Binary::Base64UrlSafe => text(Rare::Base64 { url_safe: true }),
        Binary::Hex => text(Rare::Hex),
    }
}

fn spatial(kind: &Kind) -> (Type, Schema) {
    let field = |name: &str, base| Field::new(name, Schema::new(base));
    let optional = |name: &str, base| Field::new(name, Schema::new(base).optional());
    let named = |fields, name: &str, doc| {
        let name = format!("io.debezium.data.geometry.{name}");
        Schema { doc: Some(Cow::Borrowed(doc)), ..Schema::named(Base::Struct(fields), &name) }
    };
    let wkb = || vec![field("wkb", Base::Bytes), optional("srid", Base::Int32)];
    match kind {
        Kind::Geography => (Type::Rare(Rare::Geometry), named(wkb(), "Geography", "Geography")),
        Kind::Geometry => (Type::Rare(Rare::Geometry), named(wkb(), "Geometry", "Geometry")),
        _ => {
            let (x, y) = (field("x", Base::Float64), field("y", Base::Float64));
            let fields = vec![x, y, optional("wkb", Base::Bytes), optional("srid", Base::Int32)];
            (Type::Rare(Rare::Point), named(fields, "Point", "Geometry (POINT)"))
        }
    }
}

fn vector(kind: &Kind) -> (Type, Schema) {
    let of = |base| Base::Array(Box::new(Schema::new(base)));
    match kind {
        Kind::Vector { is_single: false } => {
            let schema = Schema::named(of(Base::Float64), "io.debezium.data.DoubleVector");
            (Type::Rare(Rare::Vector { is_single: false }), schema)
        }
        Kind::Vector { is_single: true } => {
            let schema = Schema::named(of(Base::Float32), "io.debezium.data.FloatVector");
            (Type::Rare(Rare::Vector { is_single: true }), schema)
        }
        _ => {
            let entries = Base::Map(Box::new((Schema::new(Base::Int16), Schema::new(Base::Float64))));
            let fields = vec![
                Field::new("dimensions", Schema::new(Base::Int16)),
                Field::new("vector", Schema::new(entries)),
            ];
            let schema = Schema::named(Base::Struct(fields), "io.debezium.data.SparseDoubleVector");
            (Type::Rare(Rare::SparseVector), Schema { doc: Some("Sparse double vector".into()), ..schema })
        }
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
        (Decimals::Precise, Kind::Money) => {
            let schema = Schema::named(Base::Bytes, "org.apache.kafka.connect.data.Decimal");
            (Type::Rare(Rare::Money), schema.parameter("scale", 2))
        }
        (Decimals::Text, Kind::Money) => (Type::Rare(Rare::MoneyText), Schema::new(Base::String)),
        (Decimals::Double, Kind::Money) => (Type::Rare(Rare::MoneyDouble), Schema::new(Base::Float64)),
        (Decimals::Precise, _) => {
            let fields = vec![
                Field::new("scale", Schema::new(Base::Int32)),
                Field::new("value", Schema::new(Base::Bytes)),
            ];
            let schema = Schema::named(Base::Struct(fields), "io.debezium.data.VariableScaleDecimal");
            let stripped = format.dialect == Dialect::Debezium;
            (
                Type::VariableDecimal { stripped },
                Schema { doc: Some("Variable scaled decimal".into()), ..schema },
            )
        }
        (Decimals::Text, _) => {
            let java = format.dialect == Dialect::Debezium;
            (Type::DecimalText { java }, Schema::new(Base::String))
        }
        (Decimals::Double, _) => (Type::Float64, Schema::new(Base::Float64)),
    }
}

/// Several dimensions are one type with a single one, so elements come in reading order.
fn array(element: &Kind, delimiter: u8, format: &Format) -> (Type, Schema) {
    match element {
        Kind::Array(inner) => return array(inner, b',', format),
        Kind::Delimited { element, delimiter } => return array(element, *delimiter, format),
        _ => {}
    }
    // Debezium's elements of an enumeration are never null; a NULL there cannot be said in its schema.
    let optional = !(matches!(element, Kind::Enum { .. }) && format.dialect == Dialect::Debezium);
    let (r#type, schema) = map(element, format);
    let items = Items { element: r#type, optional, delimiter };
    (Type::Array(Box::new(items)), Schema::new(Base::Array(Box::new(Schema { optional, ..schema }))))
}

/// The column's schema and its default as text, where it has one that schemas can show.
///
/// As in Debezium, bytes, times with a zone, arrays, unknown types, decimals of variable scale and Postgres's one-byte
/// `"char"` show none; nor does a default that is not a value of its own kind, or is not a number.
pub(crate) fn field<'a>(
    column: &'a Column,
    nullable: bool,
    format: &Format,
) -> (Type, Field, Option<&'a str>) {
    let (r#type, schema) = map(&column.kind, format);
    let without = matches!(r#type, Type::Bytes | Type::TimeTz | Type::Array(_) | Type::VariableDecimal { .. })
            || matches!(
                column.kind,
                Kind::Other { .. }
                    | Kind::Verbatim
                    | Kind::Bytes
                    | Kind::Money
                    | Kind::Hstore
                    | Kind::Bits { .. }
            )
            // `char(n)` is bpchar in the catalog.
            || column.declared.type_name == "char";
    let text = column.default.as_deref().filter(|_| !without);
    let default = text.and_then(|text| literal(&r#type, text));
    let text = text.filter(|_| default.is_some());
    let schema = Schema { optional: nullable, default, ..schema };
    (r#type, Field::new(format.field_names.field(&column.name), schema), text)
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

/// What the schema tells of the column in the database's own words, where that is asked for.
pub(crate) fn told(schema: Schema, relation: &Relation, column: &Column, format: &Format) -> Schema {
    let is_one = |patterns: &[Pattern], last: &str| {
        !patterns.is_empty() && {
            let name = format!("{}.{last}", relation.full_name());
            patterns.iter().any(|pattern| pattern.matches(&name))
        }
    };
    let Declared { type_name, length, scale, comment } = &column.declared;
    let mut schema = schema;
    let tells = is_one(&format.source_types, &column.name) || is_one(&format.source_types_of, type_name);
    if tells && !type_name.is_empty() {
        let of = |name| format!("__debezium.source.column.{name}");
        let number = |number: &Option<i32>| number.map(|number| number.to_string());
        let all = [
            ("type", Some(type_name.to_uppercase())),
            ("length", number(length)),
            ("scale", number(scale)),
            ("comment", comment.clone().filter(|_| format.comments)),
            ("name", Some(column.name.clone())),
        ];
        let told = all.into_iter().filter_map(|(name, value)| Some((of(name).into(), value?)));
        schema.parameters.extend(told);
    }
    if format.comments && comment.is_some() {
        schema.doc = comment.clone().map(Cow::Owned);
    }
    schema
}

/// Zero as a number of this kind is printed.
pub(crate) fn scaled_zero(kind: &Kind) -> String {
    match kind {
        Kind::Decimal { scale, .. } if *scale > 0 => {
            format!("0.{:0<1$}", "", usize::try_from(*scale).unwrap_or(0))
        }
        _ => "0".to_owned(),
    }
}

/// The text of a type's zero: what a required column holds where the old row was not sent.
pub(crate) fn zero(r#type: &Type) -> &'static str {
    match r#type {
        Type::Bool => "f",
        Type::Int16 | Type::Int32 | Type::Int64 | Type::Float32 | Type::Float64 => "0",
        Type::Decimal { .. } | Type::VariableDecimal { .. } | Type::DecimalText { .. } => "0",
        Type::Text | Type::Disguised(_) => "",
        Type::Bytes => "\\x",
        Type::Date => "1970-01-01",
        Type::TimeMs | Type::TimeUs | Type::Interval => "00:00:00",
        Type::TimeTz => "00:00:00+00",
        Type::TimestampMs | Type::TimestampUs => "1970-01-01 00:00:00",
        Type::TimestampTz { .. } => "1970-01-01 00:00:00+00",
        Type::Zoned(zoned) => match zoned.of {
            Clock::Text { .. } => "1970-01-01 00:00:00+00",
            Clock::Milliseconds | Clock::Microseconds => "1970-01-01 00:00:00",
        },
        Type::Array(_) => "{}",
        Type::Rare(rare) => match rare {
            Rare::Bit => "0",
            Rare::Bits | Rare::HstoreJson | Rare::HstoreMap => "",
            Rare::Money | Rare::MoneyText | Rare::MoneyDouble => "$0.00",
            Rare::Digits => "0",
            Rare::Hex | Rare::Base64 { .. } => "\\x",
            Rare::Point => "(0,0)",
            // An empty collection of geometries.
            Rare::Geometry => "010700000000000000",
            Rare::Vector { .. } => "[]",
            Rare::SparseVector => "{}/0",
            Rare::TimeNs | Rare::TimeIso | Rare::IntervalIso => "00:00:00",
            Rare::TimestampNs | Rare::TimestampConnect | Rare::TimestampIso => "1970-01-01 00:00:00",
            Rare::DateIso { .. } => "1970-01-01",
        },
    }
}
