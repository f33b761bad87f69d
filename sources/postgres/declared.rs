//! How long a type's values are, as the server's Java driver tells it: what Debezium puts into schemas beside a
//! type's name. Pure.

use tokio_postgres::types::{Kind, Type};

/// What the driver says where there is no limit.
const UNLIMITED: i32 = i32::MAX;

/// Of a numeric without a precision, as text.
const NUMERIC_DIGITS: i32 = 131_089;

/// Length and scale of a type with this modifier.
pub fn size(oid: u32, typmod: i32) -> (i32, i32) {
    let Some(known) = Type::from_oid(oid) else { return (UNLIMITED, 0) };
    match known.kind() {
        // A modifier of an array is the one of its elements.
        Kind::Array(element) => of_scalar(element, typmod),
        _ => of_scalar(&known, typmod),
    }
}

fn of_scalar(known: &Type, typmod: i32) -> (i32, i32) {
    let fraction = if typmod < 0 { 6 } else { typmod };
    // A point and the digits behind it; one digit is shown as two.
    let digits = match fraction {
        0 => 0,
        1 => 3,
        more => more + 1,
    };
    let less = |header: i32| if typmod < 0 { UNLIMITED } else { typmod - header };
    match *known {
        Type::INT2 => (5, 0),
        Type::INT4 | Type::OID => (10, 0),
        Type::INT8 => (19, 0),
        Type::FLOAT4 => (8, 8),
        Type::FLOAT8 => (17, 17),
        Type::NUMERIC if typmod < 0 => (NUMERIC_DIGITS, 0),
        Type::NUMERIC => ((typmod - 4) >> 16 & 0xffff, (typmod - 4) & 0xffff),
        Type::BOOL | Type::CHAR => (1, 0),
        Type::BPCHAR | Type::VARCHAR => (less(4), 0),
        Type::DATE => (13, 0),
        Type::TIME => (8 + digits, fraction),
        Type::TIMETZ => (14 + digits, fraction),
        Type::TIMESTAMP => (22 + digits, fraction),
        Type::TIMESTAMPTZ => (28 + digits, fraction),
        Type::INTERVAL => (49, fraction & 0xffff),
        Type::BIT => (typmod, 0),
        Type::VARBIT => (less(0), 0),
        _ => (UNLIMITED, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_that_the_java_driver_tells() {
        for (of, typmod, expected) in [
            (Type::INT4, -1, (10, 0)),
            (Type::NUMERIC, -1, (131_089, 0)),
            (Type::NUMERIC, (10 << 16 | 2) + 4, (10, 2)),
            (Type::NUMERIC_ARRAY, (10 << 16 | 2) + 4, (10, 2)),
            (Type::VARCHAR, 24, (20, 0)),
            (Type::TEXT, -1, (i32::MAX, 0)),
            (Type::TIMESTAMPTZ, -1, (35, 6)),
            (Type::TIME, 0, (8, 0)),
            (Type::BIT, 3, (3, 0)),
        ] {
            assert_eq!(size(of.oid(), typmod), expected, "{of} {typmod}");
        }
    }
}
