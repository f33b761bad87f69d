//! The schema of one document, in Kafka Connect's model: every field optional, structs named by their path, as
//! Debezium's own transform makes them. Start at `fields`.

use super::Arrays;
use super::node::{Members, Node};
use crate::encode::connect::{Base, Field, Schema};

/// Why a document has no schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// An array of several kinds of values, at this path.
    Mixed(String),
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mixed(path) => write!(f, "the array {path} holds values of several types"),
        }
    }
}

/// The schemas of a document's fields. `name` is that of the struct that they stand in.
pub(crate) fn fields(members: &Members, name: Option<&str>, arrays: Arrays) -> Result<Vec<Field>, Misfit> {
    let mut found: Vec<Field> = Vec::with_capacity(members.len());
    for (field, node) in members {
        if let Some(schema) = schema(node, &path(name, field), arrays)?
            && !found.iter().any(|other| other.name == *field)
        {
            found.push(Field::new(field.clone(), schema));
        }
    }
    Ok(found)
}

/// A struct without a name calls itself null there.
fn path(name: Option<&str>, field: &str) -> String {
    format!("{}.{field}", name.unwrap_or("null"))
}

/// The schema of a value at this path; `None` where there is none.
pub(crate) fn schema(node: &Node, path: &str, arrays: Arrays) -> Result<Option<Schema>, Misfit> {
    let base = match node {
        Node::Undefined => return Ok(None),
        Node::Null | Node::Text(_) => Base::String,
        Node::Bool(_) => Base::Boolean,
        Node::Int32(_) => Base::Int32,
        Node::Int64(_) => Base::Int64,
        Node::Double(_) => Base::Float64,
        Node::Bytes(_) => Base::Bytes,
        Node::Time(_) => {
            let time = Schema::named(Base::Int64, "org.apache.kafka.connect.data.Timestamp");
            return Ok(Some(time.optional()));
        }
        Node::Named(name, members) => {
            let fields = fields(members, Some(name), arrays)?;
            return Ok(Some(Schema { name: Some((*name).to_owned()), ..structure(fields) }));
        }
        Node::Document(members) if members.is_empty() => return Ok(Some(structure(Vec::new()))),
        Node::Document(members) => return document(members, path, arrays).map(Some),
        Node::Array(items) => match arrays {
            Arrays::Members => {
                return document(&numbered(items), path, arrays).map(Some);
            }
            Arrays::Lists => Base::Array(Box::new(element(items, path, arrays)?)),
        },
    };
    Ok(Some(Schema::new(base).optional()))
}

fn document(members: &Members, path: &str, arrays: Arrays) -> Result<Schema, Misfit> {
    let fields = fields(members, Some(path), arrays)?;
    Ok(Schema { name: Some(path.to_owned()), ..structure(fields) })
}

fn structure(fields: Vec<Field>) -> Schema {
    Schema::new(Base::Struct(fields)).optional()
}

/// An array's elements as members: `_0`, `_1`.
pub(crate) fn numbered(items: &[Node]) -> Members {
    items.iter().enumerate().map(|(index, item)| (format!("_{index}"), item.clone())).collect()
}

/// The one schema of all elements. Documents have the fields of all of them.
fn element(items: &[Node], path: &str, arrays: Arrays) -> Result<Schema, Misfit> {
    let mut merged: Option<Schema> = None;
    for item in items.iter().filter(|item| !matches!(item, Node::Null)) {
        let Some(schema) = schema(item, path, arrays)? else { continue };
        merged = Some(match merged {
            None => schema,
            Some(merged) => merge(merged, schema).ok_or_else(|| Misfit::Mixed(path.to_owned()))?,
        });
    }
    Ok(merged.unwrap_or_else(|| Schema::new(Base::String).optional()))
}

/// One schema for what two say; `None` where no value can be of both.
fn merge(one: Schema, other: Schema) -> Option<Schema> {
    if one.name != other.name && !(is_empty(&one) || is_empty(&other)) {
        return None;
    }
    let name = one.name.clone().or(other.name);
    let base = match (one.base, other.base) {
        (Base::Struct(mut fields), Base::Struct(others)) => {
            for Field { name, schema } in others {
                match fields.iter_mut().find(|field| field.name == name) {
                    None => fields.push(Field { name, schema }),
                    Some(known) => known.schema = merge(known.schema.clone(), schema)?,
                }
            }
            Base::Struct(fields)
        }
        (Base::Array(one), Base::Array(other)) => Base::Array(Box::new(merge(*one, *other)?)),
        (one, other) if std::mem::discriminant(&one) == std::mem::discriminant(&other) => one,
        _ => return None,
    };
    Some(Schema { base, name, ..one })
}

fn is_empty(schema: &Schema) -> bool {
    matches!(&schema.base, Base::Struct(fields) if fields.is_empty())
}
