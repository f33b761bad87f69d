//! Values of a document: by the schema that was made of it (`put_fields`), or as plain JSON (`put_plain`).

use super::Arrays;
use super::node::{Members, Node};
use super::shape::numbered;
use crate::encode::connect::{Base, Field, Schema};
use crate::encode::json::Json;
use crate::encode::lexical::Bad;
use crate::encode::value::{Union, Writer};

/// Writes a struct: the fields of the schema in their order, null where the document lacks one.
pub(crate) fn put_struct<W: Writer>(
    fields: &[Field],
    members: &Members,
    arrays: Arrays,
    out: &mut Vec<u8>,
) -> Result<(), Bad> {
    out.extend_from_slice(W::STRUCT_OPEN);
    for (index, field) in fields.iter().enumerate() {
        let node = members.iter().find(|(name, _)| *name == field.name).map(|(_, node)| node);
        put_field::<W>(field, index == 0, node, arrays, out)?;
    }
    out.extend_from_slice(W::STRUCT_CLOSE);
    Ok(())
}

pub(crate) fn put_field<W: Writer>(
    field: &Field,
    is_first: bool,
    node: Option<&Node>,
    arrays: Arrays,
    out: &mut Vec<u8>,
) -> Result<(), Bad> {
    match node.filter(|node| is_there(node)) {
        None => {
            out.extend(W::null(&field.name, is_first, Union::NullFirst));
            Ok(())
        }
        Some(node) => {
            out.extend(W::lead(&field.name, is_first, Union::NullFirst));
            put::<W>(&field.schema, node, arrays, out)
        }
    }
}

fn is_there(node: &Node) -> bool {
    !matches!(node, Node::Null | Node::Undefined)
}

/// Writes a value that is there.
pub(crate) fn put<W: Writer>(
    schema: &Schema,
    node: &Node,
    arrays: Arrays,
    out: &mut Vec<u8>,
) -> Result<(), Bad> {
    match (&schema.base, node) {
        (Base::Struct(fields), Node::Document(members) | Node::Named(_, members)) => {
            put_struct::<W>(fields, members, arrays, out)
        }
        (Base::Struct(fields), Node::Array(items)) => put_struct::<W>(fields, &numbered(items), arrays, out),
        (Base::Array(element), Node::Array(items)) => {
            let items: Vec<&Node> = items.iter().filter(|item| !matches!(item, Node::Undefined)).collect();
            W::array_start(out, items.len());
            for (index, item) in items.iter().enumerate() {
                W::element(out, index, element.optional.then(|| is_there(item)));
                if is_there(item) {
                    put::<W>(element, item, arrays, out)?;
                }
            }
            W::array_end(out, items.len());
            Ok(())
        }
        _ => put_scalar::<W>(node, out),
    }
}

pub(crate) fn put_scalar<W: Writer>(node: &Node, out: &mut Vec<u8>) -> Result<(), Bad> {
    match node {
        Node::Bool(value) => W::boolean(out, *value),
        Node::Int32(value) => W::int(out, *value),
        Node::Int64(value) | Node::Time(value) => W::long(out, *value),
        Node::Double(text) => W::double(out, text.as_bytes())?,
        Node::Text(text) => W::string(out, text.as_bytes()),
        Node::Bytes(bytes) => W::bytes(out, bytes),
        // Their schemas are made of them.
        Node::Null | Node::Undefined | Node::Array(_) | Node::Document(_) | Node::Named(..) => {
            return Err(Bad::Malformed);
        }
    }
    Ok(())
}

/// Writes an object without a schema: what is not there is left out, and an array may hold anything.
pub(crate) fn put_plain(members: &Members, out: &mut Vec<u8>) -> Result<(), Bad> {
    out.push(b'{');
    let there = members.iter().filter(|(_, node)| !matches!(node, Node::Undefined));
    for (index, (name, node)) in there.enumerate() {
        Json::member(out, index, name, Some(true));
        put_plain_value(node, out)?;
    }
    out.push(b'}');
    Ok(())
}

pub(crate) fn put_plain_value(node: &Node, out: &mut Vec<u8>) -> Result<(), Bad> {
    match node {
        Node::Null | Node::Undefined => out.extend_from_slice(b"null"),
        Node::Document(members) | Node::Named(_, members) => put_plain(members, out)?,
        Node::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                Json::element(out, index, Some(true));
                put_plain_value(item, out)?;
            }
            out.push(b']');
        }
        // Digits that a double would lose are kept.
        Node::Double(text) if text.ends_with(|c: char| c.is_ascii_digit()) => {
            out.extend_from_slice(text.as_bytes());
        }
        _ => put_scalar::<Json>(node, out)?,
    }
    Ok(())
}
