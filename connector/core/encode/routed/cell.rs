//! One column of an outbox's row, or one member of an event's document, with its schema and its value.

use crate::encode::avro::{Avro, FIRST, SECOND};
use crate::encode::connect::{Base, Field, Schema};
use crate::encode::flat::Arrays;
use crate::encode::flat::node::Node;
use crate::encode::flat::write::put as put_node;
use crate::encode::json::Json;
use crate::encode::lexical::{Bad, hex};
use crate::encode::mapping::field;
use crate::encode::plan::{Draft, is_nullable};
use crate::encode::target::View;
use crate::encode::value::{Scratch, Type, Union, Writer, write};
use crate::route::rule::Converter;

use super::Why;
use super::plain::{Plain, has_text, shown};

#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// Among the relation's columns, or the members that are looked for.
    pub index: usize,
    pub name: String,
    pub r#type: Type,
    pub schema: Schema,
    /// Stands for a NULL, as Connect's structs have it.
    default: Option<Vec<u8>>,
    /// Of a document: what this event has there, whose type is known with the event only.
    of_event: Option<Node>,
}

/// What a cell holds.
#[derive(Clone, Copy)]
pub(super) enum Held<'a> {
    Text(&'a [u8]),
    Node(&'a Node),
}

impl Held<'_> {
    /// A text in which nothing can be seen.
    pub(super) fn is_blank(self) -> bool {
        let text = match self {
            Self::Text(text) => text,
            Self::Node(Node::Text(text)) => text.as_bytes(),
            Self::Node(_) => return false,
        };
        text.iter().all(|byte| *byte <= b' ')
    }
}

impl Cell {
    pub(super) fn of(draft: &Draft<'_>, column: &str, name: &str) -> Option<Self> {
        let relation = draft.relation;
        let index = relation.columns.iter().position(|known| known.name == column)?;
        let nullable = is_nullable(relation, &draft.widened, index, draft.format);
        let (r#type, Field { schema, .. }, default) =
            field(relation.columns.get(index)?, nullable, draft.format);
        let default = default.map(|text| text.as_bytes().to_vec());
        Some(Self { index, name: name.to_owned(), r#type, schema, default, of_event: None })
    }

    /// A member of documents; without a value, it is an optional text.
    pub(super) fn of_member(index: usize, name: &str) -> Self {
        let schema = Schema::new(Base::String).optional();
        Self { index, name: name.to_owned(), r#type: Type::Text, schema, default: None, of_event: None }
    }

    /// What an event has for a member.
    pub(super) fn with(&self, schema: Schema, node: Node) -> Self {
        Self { schema, of_event: Some(node), ..self.clone() }
    }

    pub(super) fn held<'a>(&'a self, row: View<'a>) -> Option<Held<'a>> {
        match &self.of_event {
            Some(node) => Some(Held::Node(node)),
            None => row.text(self.index).or(self.default.as_deref()).map(Held::Text),
        }
    }

    fn union(&self) -> Union {
        match (self.schema.optional, &self.default) {
            (false, _) => Union::Required,
            (true, None) => Union::NullFirst,
            (true, Some(_)) => Union::NullLast,
        }
    }

    fn write<W: Writer>(&self, held: Held<'_>, out: &mut Vec<u8>, scratch: &mut Scratch) -> Result<(), Bad> {
        match held {
            Held::Text(text) => write::<W>(&self.r#type, text, out, scratch),
            Held::Node(node) => put_node::<W>(&self.schema, node, Arrays::Lists, out),
        }
    }

    /// As Java prints it, without quotes. What a document holds may have no such text.
    pub(super) fn put_plain(
        &self,
        held: Held<'_>,
        out: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<(), Bad> {
        match held {
            Held::Text(text) => write::<Plain>(&shown(&self.r#type), text, out, scratch),
            Held::Node(Node::Time(_)) => Err(Bad::Malformed),
            Held::Node(_) if !has_text(&self.schema.base) => Err(Bad::Malformed),
            Held::Node(_) => self.write::<Plain>(held, out, scratch),
        }
    }

    /// As one of several members.
    pub(super) fn put_member<W: Writer>(
        &self,
        held: Option<Held<'_>>,
        is_first: bool,
        out: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<(), Why> {
        match held {
            Some(held) => {
                out.extend(W::lead(&self.name, is_first, self.union()));
                Ok(self.write::<W>(held, out, scratch)?)
            }
            None if self.schema.optional => {
                out.extend(W::null(&self.name, is_first, self.union()));
                Ok(())
            }
            None => Err(Why::Widen),
        }
    }

    /// Alone, without anything around it.
    pub(super) fn put(
        &self,
        by: Converter,
        held: Option<Held<'_>>,
        out: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<(), Why> {
        match (by, held) {
            (_, None) if !self.schema.optional => return Err(Why::Widen),
            (Converter::Text | Converter::Bytes | Converter::Avro, None) => {}
            (Converter::Json { .. }, None) => out.extend_from_slice(b"null"),
            (Converter::Text, Some(held)) => self.put_plain(held, out, scratch)?,
            (Converter::Bytes, Some(Held::Text(text))) => hex::decode(text, out)?,
            (Converter::Bytes, Some(Held::Node(Node::Bytes(bytes)))) => out.extend_from_slice(bytes),
            (Converter::Bytes, Some(Held::Node(_))) => return Err(Bad::Malformed.into()),
            (Converter::Json { .. }, Some(held)) => self.write::<Json>(held, out, scratch)?,
            (Converter::Avro, Some(held)) => {
                match self.union() {
                    Union::Required => {}
                    Union::NullFirst => out.push(SECOND),
                    Union::NullLast => out.push(FIRST),
                }
                self.write::<Avro>(held, out, scratch)?;
            }
        }
        Ok(())
    }
}
