//! The schema block beside a JSON payload, as Kafka Connect's JsonConverter prints it.

use std::fmt::Write;

use super::connect::{Base, Schema};
use super::json::quoted;

pub(crate) fn text(schema: &Schema) -> String {
    let mut out = String::new();
    put(schema, None, &mut out);
    out
}

fn put(schema: &Schema, field: Option<&str>, out: &mut String) {
    let name = match &schema.base {
        Base::Boolean => "boolean",
        Base::Int16 => "int16",
        Base::Int32 => "int32",
        Base::Int64 => "int64",
        Base::Float32 => "float",
        Base::Float64 => "double",
        Base::String => "string",
        Base::Bytes => "bytes",
        Base::Array(_) => "array",
        Base::Map(_) => "map",
        Base::Struct(_) => "struct",
    };
    let _ = write!(out, "{{\"type\":\"{name}\"");
    match &schema.base {
        Base::Array(items) => {
            out.push_str(",\"items\":");
            put(items, None, out);
        }
        Base::Map(inner) => {
            out.push_str(",\"keys\":");
            put(&inner.0, None, out);
            out.push_str(",\"values\":");
            put(&inner.1, None, out);
        }
        Base::Struct(fields) => {
            out.push_str(",\"fields\":[");
            for (index, field) in fields.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                put(&field.schema, Some(&field.name), out);
            }
            out.push(']');
        }
        _ => {}
    }
    let _ = write!(out, ",\"optional\":{}", schema.optional);
    if let Some(name) = &schema.name {
        let _ = write!(out, ",\"name\":{}", quoted(name));
    }
    if let Some(version) = schema.version {
        let _ = write!(out, ",\"version\":{version}");
    }
    if let Some(doc) = &schema.doc {
        let _ = write!(out, ",\"doc\":{}", quoted(doc));
    }
    for (index, (name, value)) in schema.parameters.iter().enumerate() {
        out.push_str(if index == 0 { ",\"parameters\":{" } else { "," });
        let _ = write!(out, "{}:{}", quoted(name), quoted(value));
    }
    if !schema.parameters.is_empty() {
        out.push('}');
    }
    if let Some(default) = &schema.default {
        let _ = write!(out, ",\"default\":{}", default.json);
    }
    if let Some(field) = field {
        let _ = write!(out, ",\"field\":{}", quoted(field));
    }
    out.push('}');
}
