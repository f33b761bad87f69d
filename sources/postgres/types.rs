//! What a Postgres type means: from an oid and its modifier to a `Kind`. Start at `Types::kind`.
//!
//! Built-in types are known by their oid, which never changes; everything else (enums, domains, arrays of
//! them, types of extensions) is read from `pg_type` and held here.

use std::collections::HashMap;

use millrace_core::relation::{Declared, Kind};
use serde::Deserialize;
use tokio_postgres::types as builtin;
use tokio_postgres::types::Type;

use crate::declared;

/// Domains over domains over arrays: deeper than anybody nests, and an end to any cycle.
const DEPTH_MAX: usize = 32;

/// A row of `pg_type`, as the catalog query gives it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PgType {
    pub oid: u32,
    pub name: String,
    #[serde(flatten)]
    pub shape: Shape,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case")]
pub enum Shape {
    Enum {
        /// In sort order.
        labels: Vec<String>,
    },
    Domain {
        base: u32,
        typmod: i32,
    },
    /// A true array: its text is `{...}`, with this between the elements.
    Array {
        element: u32,
        delimiter: char,
    },
    /// Of an extension, made by functions of its own.
    Base,
    /// Composites, ranges: whatever their names are.
    Other,
}

/// The types that are not built in, by oid.
#[derive(Clone, Debug, Default)]
pub struct Types(HashMap<u32, PgType>);

impl Types {
    /// Takes a type in, or anew: an enum may have grown.
    pub fn insert(&mut self, found: PgType) {
        self.0.insert(found.oid, found);
    }

    /// Whether `kind` can answer without asking the catalog.
    pub fn knows(&self, oid: u32) -> bool {
        is_builtin(oid) || self.0.contains_key(&oid)
    }

    /// A type that is known nowhere is `Other`: its values are kept as text, never dropped.
    pub fn kind(&self, oid: u32, typmod: i32) -> Kind {
        self.nested(oid, typmod, DEPTH_MAX)
    }

    /// The type in the server's words, with the lengths that its drivers tell.
    pub fn declared(&self, oid: u32, typmod: i32, comment: Option<String>) -> Declared {
        let known = self.0.get(&oid);
        let type_name = match (Type::from_oid(oid), known) {
            (Some(known), _) => known.name().to_owned(),
            (None, Some(known)) => known.name.clone(),
            (None, None) => String::new(),
        };
        let size = self.size(oid, typmod, DEPTH_MAX);
        Declared { type_name, length: Some(size.0), scale: Some(size.1), comment }
    }

    /// Length and scale; those of a domain are its base's.
    fn size(&self, oid: u32, typmod: i32, depth: usize) -> (i32, i32) {
        match (self.0.get(&oid).map(|known| &known.shape), depth.checked_sub(1)) {
            (Some(Shape::Domain { base, typmod: own }), Some(depth)) if typmod < 0 => {
                self.size(*base, *own, depth)
            }
            _ => declared::size(oid, typmod),
        }
    }

    fn nested(&self, oid: u32, typmod: i32, depth: usize) -> Kind {
        let Some(depth) = depth.checked_sub(1) else { return unknown(oid) };
        if let Some(known) = Type::from_oid(oid) {
            return match known.kind() {
                // These two print as `1 2 3`, not as `{1,2,3}`.
                builtin::Kind::Array(_) if known == Type::INT2_VECTOR || known == Type::OID_VECTOR => {
                    Kind::Other { type_name: known.name().to_owned() }
                }
                // A modifier of an array is the one of its elements.
                builtin::Kind::Array(element) => {
                    // The one built-in type that has no comma there.
                    array(scalar(element, typmod), if *element == Type::BOX { ';' } else { ',' })
                }
                _ => scalar(&known, typmod),
            };
        }
        match self.0.get(&oid) {
            None => unknown(oid),
            Some(PgType { shape: Shape::Enum { labels }, .. }) => Kind::Enum { labels: labels.clone() },
            Some(PgType { shape: Shape::Domain { base, typmod }, .. }) => self.nested(*base, *typmod, depth),
            Some(PgType { shape: Shape::Array { element, delimiter }, .. }) => {
                array(self.nested(*element, typmod, depth), *delimiter)
            }
            Some(PgType { shape: Shape::Base, name, .. }) => of_extension(name, typmod),
            Some(PgType { shape: Shape::Other, name, .. }) => Kind::Other { type_name: name.clone() },
        }
    }
}

fn array(element: Kind, delimiter: char) -> Kind {
    let element = Box::new(element);
    match u8::try_from(delimiter) {
        Ok(delimiter) if delimiter != b',' => Kind::Delimited { element, delimiter },
        _ => Kind::Array(element),
    }
}

/// Types of extensions have no oid of their own: they are known by their names.
fn of_extension(name: &str, typmod: i32) -> Kind {
    match name {
        "hstore" => Kind::Hstore,
        "ltree" => Kind::Ltree,
        "citext" | "isbn" => Kind::Verbatim,
        "geometry" => Kind::Geometry,
        "geography" => Kind::Geography,
        "vector" => Kind::Vector { is_single: false },
        "halfvec" => Kind::Vector { is_single: true },
        // The modifier is the number of dimensions; without one there is no limit but the type's own.
        "sparsevec" if (1..=i32::from(i16::MAX)).contains(&typmod) => Kind::SparseVector,
        "sparsevec" => Kind::LongSparseVector,
        _ => Kind::Other { type_name: name.to_owned() },
    }
}

/// Whether the meaning of an oid is built in here.
pub fn is_builtin(oid: u32) -> bool {
    Type::from_oid(oid).is_some()
}

fn unknown(oid: u32) -> Kind {
    Kind::Other { type_name: format!("oid {oid}") }
}

fn scalar(known: &Type, typmod: i32) -> Kind {
    match *known {
        Type::BOOL => Kind::Bool,
        Type::INT2 => Kind::Int16,
        Type::INT4 => Kind::Int32,
        Type::INT8 | Type::OID => Kind::Int64,
        Type::FLOAT4 => Kind::Float32,
        Type::FLOAT8 => Kind::Float64,
        Type::NUMERIC => numeric(typmod),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::CHAR | Type::NAME => Kind::Text,
        Type::JSON | Type::JSONB => Kind::Json,
        Type::UUID => Kind::Uuid,
        Type::BYTEA => Kind::Bytes,
        Type::DATE => Kind::Date,
        Type::TIME => Kind::Time { precision: fraction(typmod) },
        Type::TIMETZ => Kind::TimeTz { precision: fraction(typmod) },
        Type::TIMESTAMP => Kind::Timestamp { precision: fraction(typmod) },
        Type::TIMESTAMPTZ => Kind::TimestampTz { precision: fraction(typmod) },
        Type::INTERVAL => Kind::Interval,
        Type::BIT => Kind::Bits { length: u32::try_from(typmod).ok().or(Some(1)) },
        Type::VARBIT => Kind::Bits { length: u32::try_from(typmod).ok() },
        Type::MONEY => Kind::Money,
        Type::XML => Kind::Xml,
        Type::TS_VECTOR => Kind::Tsvector,
        Type::POINT => Kind::Point,
        Type::INET | Type::CIDR | Type::MACADDR | Type::MACADDR8 => Kind::Verbatim,
        Type::INT4_RANGE
        | Type::INT8_RANGE
        | Type::NUM_RANGE
        | Type::TS_RANGE
        | Type::TSTZ_RANGE
        | Type::DATE_RANGE => Kind::Verbatim,
        _ => Kind::Other { type_name: known.name().to_owned() },
    }
}

/// The modifier is 4 more than precision * 65536 + scale, the scale in 11 bits with a sign
/// (`numeric_typmod_scale` in the server).
fn numeric(typmod: i32) -> Kind {
    let Ok(packed) = u32::try_from(i64::from(typmod) - 4) else { return Kind::VariableDecimal };
    let precision = packed >> 16 & 0xFFFF;
    let scale = packed & 0x7FF;
    if scale < 0x400 {
        // `numeric(2,4)` holds 0.0012: four digits, as readers count them.
        Kind::Decimal { precision: precision.max(scale), scale }
    } else {
        // `numeric(2,-3)` rounds to thousands: whole numbers of up to five digits.
        Kind::Decimal { precision: precision + (0x800 - scale), scale: 0 }
    }
}

/// Digits of a second's fraction; six where none are declared.
fn fraction(typmod: i32) -> u8 {
    u8::try_from(typmod).ok().filter(|digits| *digits <= 6).unwrap_or(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(oid: u32, typmod: i32) -> Kind {
        Types::default().kind(oid, typmod)
    }

    fn other(name: &str) -> Kind {
        Kind::Other { type_name: name.to_owned() }
    }

    #[test]
    fn every_served_scalar_has_its_kind() {
        for (oid, expected) in [
            (16, Kind::Bool),
            (21, Kind::Int16),
            (23, Kind::Int32),
            (20, Kind::Int64),
            (26, Kind::Int64),
            (700, Kind::Float32),
            (701, Kind::Float64),
            (1700, Kind::VariableDecimal),
            (25, Kind::Text),
            (1043, Kind::Text),
            (1042, Kind::Text),
            (18, Kind::Text),
            (19, Kind::Text),
            (114, Kind::Json),
            (3802, Kind::Json),
            (2950, Kind::Uuid),
            (17, Kind::Bytes),
            (1082, Kind::Date),
            (1083, Kind::Time { precision: 6 }),
            (1266, Kind::TimeTz { precision: 6 }),
            (1114, Kind::Timestamp { precision: 6 }),
            (1184, Kind::TimestampTz { precision: 6 }),
            (1186, Kind::Interval),
            (869, Kind::Verbatim),
            (3904, Kind::Verbatim),
            (600, Kind::Point),
            (603, other("box")),
            (790, Kind::Money),
            (1560, Kind::Bits { length: Some(1) }),
            (1562, Kind::Bits { length: None }),
            (22, other("int2vector")),
            (4_000_000, other("oid 4000000")),
        ] {
            assert_eq!(kind(oid, -1), expected, "{oid}");
        }
    }

    #[test]
    fn modifiers_give_precision_and_scale() {
        let typmod = |precision: i32, scale: i32| (precision << 16 | scale & 0x7FF) + 4;
        for (precision, scale, expected) in
            [(10, 2, (10, 2)), (12, 0, (12, 0)), (1000, 1000, (1000, 1000)), (2, 4, (4, 4)), (2, -3, (5, 0))]
        {
            let (digits, after) = expected;
            let expected = Kind::Decimal { precision: digits, scale: after };
            assert_eq!(kind(1700, typmod(precision, scale)), expected);
        }
        assert_eq!(kind(1184, 3), Kind::TimestampTz { precision: 3 });
        assert_eq!(kind(1083, 0), Kind::Time { precision: 0 });
    }

    #[test]
    fn arrays_pass_their_modifier_to_their_elements() {
        assert_eq!(kind(1007, -1), Kind::Array(Box::new(Kind::Int32)));
        assert_eq!(kind(1231, 655_366), Kind::Array(Box::new(Kind::Decimal { precision: 10, scale: 2 })));
        assert_eq!(kind(1041, -1), Kind::Array(Box::new(Kind::Verbatim)));
    }

    #[test]
    fn domains_and_arrays_lead_to_what_they_are_made_of() {
        let mut types = Types::default();
        let mood = Shape::Enum { labels: vec!["sad".into(), "glad".into()] };
        for (oid, name, shape) in [
            (90_000, "mood", mood),
            (90_001, "_mood", Shape::Array { element: 90_000, delimiter: ',' }),
            (90_002, "moods", Shape::Domain { base: 90_001, typmod: -1 }),
            (90_003, "more_moods", Shape::Domain { base: 90_002, typmod: -1 }),
            (90_004, "price", Shape::Domain { base: 1700, typmod: 655_366 }),
            (90_005, "citext", Shape::Base),
            (90_006, "loop", Shape::Domain { base: 90_006, typmod: -1 }),
        ] {
            types.insert(PgType { oid, name: name.into(), shape });
        }
        let mood = Kind::Enum { labels: vec!["sad".into(), "glad".into()] };
        assert_eq!(types.kind(90_003, -1), Kind::Array(Box::new(mood)));
        assert_eq!(types.kind(90_004, -1), Kind::Decimal { precision: 10, scale: 2 });
        assert_eq!(types.kind(90_005, -1), Kind::Verbatim);
        assert_eq!(types.kind(90_006, -1), other("oid 90006"));
        assert!(types.knows(90_000) && types.knows(25) && !types.knows(90_009));
    }

    #[test]
    fn a_type_of_a_user_s_own_is_not_taken_for_one_of_an_extension() {
        let mut types = Types::default();
        for (oid, name, shape) in [
            (1, "vector", Shape::Other),
            (2, "geometry", Shape::Domain { base: 25, typmod: -1 }),
            (3, "geometry", Shape::Base),
        ] {
            types.insert(PgType { oid: 90_000 + oid, name: name.into(), shape });
        }
        assert_eq!(types.kind(90_001, -1), other("vector"));
        assert_eq!(types.kind(90_002, -1), Kind::Text);
        assert_eq!(types.kind(90_003, -1), Kind::Geometry);
    }

    #[test]
    fn what_stands_between_the_elements_of_an_array_is_what_their_type_says() {
        let delimited = |element, delimiter| Kind::Delimited { element: Box::new(element), delimiter };
        assert_eq!(kind(1020, -1), delimited(other("box"), b';'));
        let mut types = Types::default();
        let shape = Shape::Array { element: 90_001, delimiter: ':' };
        types.insert(PgType { oid: 90_002, name: "_geometry".into(), shape });
        types.insert(PgType { oid: 90_001, name: "geometry".into(), shape: Shape::Base });
        assert_eq!(types.kind(90_002, -1), delimited(Kind::Geometry, b':'));
    }

    #[test]
    fn a_sparse_vector_of_more_dimensions_than_a_short_counts_is_of_another_kind() {
        let mut types = Types::default();
        types.insert(PgType { oid: 90_001, name: "sparsevec".into(), shape: Shape::Base });
        let kinds = [5, 32_767, 32_768, -1].map(|typmod| types.kind(90_001, typmod));
        assert_eq!(kinds[..2], [Kind::SparseVector, Kind::SparseVector]);
        assert_eq!(kinds[2..], [Kind::LongSparseVector, Kind::LongSparseVector]);
    }
}
