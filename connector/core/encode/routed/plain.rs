//! Values as texts, as Kafka Connect's StringConverter and its SimpleHeaderConverter print them.

use crate::encode::connect::Base;
use crate::encode::json::Json;
use crate::encode::lexical::{Bad, hex};
use crate::encode::value::{Rare, Type, Union, Writer};

/// Without quotes and escapes; of single values alone.
pub(crate) enum Plain {}

/// Whether a value of this schema has such a text.
pub(crate) fn has_text(base: &Base) -> bool {
    match base {
        Base::Boolean | Base::Int16 | Base::Int32 | Base::Int64 | Base::String => true,
        Base::Float32 | Base::Float64 | Base::Bytes => true,
        Base::Array(_) | Base::Map(_) | Base::Struct(_) => false,
    }
}

/// A decimal is printed as it reads; everything else as JSON has it, without quotes.
pub(crate) fn shown(r#type: &Type) -> Type {
    match r#type {
        Type::Decimal { .. } => Type::Rare(Rare::Digits),
        other => other.clone(),
    }
}

fn unquoted(out: &mut Vec<u8>, start: usize) {
    if out.get(start) == Some(&b'"') {
        out.remove(start);
        out.pop();
    }
}

impl Writer for Plain {
    fn boolean(out: &mut Vec<u8>, value: bool) {
        Json::boolean(out, value);
    }
    fn int(out: &mut Vec<u8>, value: i32) {
        Json::int(out, value);
    }
    fn long(out: &mut Vec<u8>, value: i64) {
        Json::long(out, value);
    }
    fn float(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Bad> {
        let start = out.len();
        Json::float(out, text)?;
        unquoted(out, start);
        Ok(())
    }
    fn double(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Bad> {
        let start = out.len();
        Json::double(out, text)?;
        unquoted(out, start);
        Ok(())
    }
    fn string(out: &mut Vec<u8>, text: &[u8]) {
        out.extend_from_slice(text);
    }
    fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
        hex::base64(bytes, out);
    }

    // What has several parts is refused before it comes here, and is JSON otherwise.

    fn member(out: &mut Vec<u8>, index: usize, name: &str, present: Option<bool>) {
        Json::member(out, index, name, present);
    }
    fn map_start(out: &mut Vec<u8>, count: usize) {
        Json::map_start(out, count);
    }
    fn map_key(out: &mut Vec<u8>, index: usize, key: &[u8], present: Option<bool>) {
        Json::map_key(out, index, key, present);
    }
    fn map_end(out: &mut Vec<u8>, count: usize) {
        Json::map_end(out, count);
    }
    const ENTRY_OPEN: &[u8] = Json::ENTRY_OPEN;
    const ENTRY_MIDDLE: &[u8] = Json::ENTRY_MIDDLE;
    const ENTRY_CLOSE: &[u8] = Json::ENTRY_CLOSE;
    fn array_start(out: &mut Vec<u8>, count: usize) {
        Json::array_start(out, count);
    }
    fn element(out: &mut Vec<u8>, index: usize, present: Option<bool>) {
        Json::element(out, index, present);
    }
    fn array_end(out: &mut Vec<u8>, count: usize) {
        Json::array_end(out, count);
    }
    const STRUCT_OPEN: &[u8] = Json::STRUCT_OPEN;
    const STRUCT_CLOSE: &[u8] = Json::STRUCT_CLOSE;
    fn lead(name: &str, is_first: bool, union: Union) -> Vec<u8> {
        Json::lead(name, is_first, union)
    }
    fn null(name: &str, is_first: bool, union: Union) -> Vec<u8> {
        Json::null(name, is_first, union)
    }
    const OP_OPEN: &[u8] = Json::OP_OPEN;
    const OP_CLOSE: &[u8] = Json::OP_CLOSE;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::value::{Scratch, write};

    #[test]
    fn values_are_printed_as_java_prints_them() {
        for (r#type, text, expected) in [
            (Type::Text, "a \"b\"\n", "a \"b\"\n"),
            (Type::Bool, "t", "true"),
            (Type::Int64, "-5", "-5"),
            (Type::Float64, "1e+20", "1.0E20"),
            (Type::Float64, "NaN", "NaN"),
            (Type::Bytes, "\\x0001", "AAE="),
            (shown(&Type::Decimal { scale: 2 }), "1.50", "1.50"),
        ] {
            let mut out = Vec::new();
            write::<Plain>(&r#type, text.as_bytes(), &mut out, &mut Scratch::default()).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
