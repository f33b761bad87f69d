//! The flat envelope of documents: a record's value is the document itself, as Debezium's ExtractNewDocumentState
//! makes it. Start at `Pass::flat_document`; what the record says beside the document is `added`.
//!
//! Rows are `rows`. `node` reads a document's JSON, `shape` makes a schema of it, `write` writes it. Without a schema (JSON, in our
//! own dialect) documents are as they are. With one every document has the schema of its own fields, so Avro
//! registers each new shape under the topic's subject before the batch is written (`FlatPlan::learn`).

mod added;
pub(super) mod node;
pub(super) mod rows;
pub(super) mod shape;
pub(super) mod write;

use std::collections::HashMap;

pub use self::added::{Added, Part};

use self::added::{Facts, Taken};
use self::node::{Members, Node};
use self::shape::Misfit;
use super::change::{Context, Fault, Pass};
use super::connect::{Base, Field, Schema};
use super::lexical::Bad;
use super::plan::frame;
use super::steps::Made;
use super::target::View;
use super::value::Writer;
use super::{Dialect, Encoding, Format, Spelling, avro_schema, reject};
use crate::batch::{Cell, Change, ChangeBatch, Op, Span, Tag, document};
use crate::error::Result;
use crate::relation::Relation;
use crate::sink::{SchemaType, Targets};

/// Shapes that are remembered: one that is asked for again is registered again, which changes nothing.
const SHAPES_MAX: usize = 10_000;

/// How rows and documents become records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flat {
    /// Of documents.
    pub arrays: Arrays,
    /// Of documents: between the names of nested fields, where they are put into the document itself.
    pub delimiter: Option<String>,
    pub deletes: Deletes,
    /// Parts of the envelope that stand behind the fields of the row or document, and those that stand in headers.
    pub fields: Vec<Added>,
    pub headers: Vec<Added>,
}

/// What an array becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrays {
    /// With a schema, all elements have one type.
    #[default]
    Lists,
    /// A document whose fields are `_0`, `_1`.
    Members,
}

/// What a delete becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deletes {
    /// A record without a value.
    #[default]
    Tombstone,
    Drop,
    /// What was there before, as far as it was sent, with `__deleted`, which every other record has too.
    Rewrite,
    /// That, and a record without a value behind it.
    RewriteWithTombstone,
}

impl Deletes {
    fn rewrites(self) -> bool {
        matches!(self, Self::Rewrite | Self::RewriteWithTombstone)
    }
}

/// Says whether a row or a document is gone, where deletes are rewritten.
const DELETED: &str = "__deleted";

/// What is decided once per collection.
#[derive(Debug)]
pub(crate) struct FlatPlan {
    settings: Flat,
    encoding: Encoding,
    dialect: Dialect,
    names: Spelling,
    /// What schema names begin with.
    logical: String,
    /// The topic, for subjects.
    topic: String,
    fields: Vec<(Field, Taken)>,
    headers: Vec<(String, Taken)>,
    /// Ids by subject and text.
    known: HashMap<(&'static str, String), u32>,
}

/// What a key or a value is made of; without a schema there are no fields.
struct Shaped {
    fields: Vec<Field>,
    members: Members,
}

/// Why there is none.
enum Why {
    Malformed,
    Misfit(Misfit),
}

impl From<Misfit> for Why {
    fn from(misfit: Misfit) -> Self {
        Self::Misfit(misfit)
    }
}

impl FlatPlan {
    /// Fails where a part is asked for that events of this collection do not have.
    pub(crate) fn new(
        format: &Format,
        relation: &Relation,
        made: &Made,
        logical: &str,
        topic: &str,
    ) -> Result<Self> {
        let told = |added: &&Added| !made.drops_header(&added.name);
        let settings = format.flat.clone();
        let taken = |added: &Added| Taken::of(added, relation, format.dialect);
        let field = |added: &Added| {
            let (schema, taken) = taken(added)?;
            Ok((Field::new(added.name.clone(), schema), taken))
        };
        let header = |added: &Added| Ok((added.name.clone(), taken(added)?.1));
        Ok(Self {
            fields: settings.fields.iter().map(field).collect::<Result<_>>()?,
            headers: settings.headers.iter().filter(told).map(header).collect::<Result<_>>()?,
            settings,
            encoding: format.encoding,
            dialect: format.dialect,
            names: format.field_names,
            logical: logical.to_owned(),
            topic: topic.to_owned(),
            known: HashMap::new(),
        })
    }

    /// Debezium's values always have a schema, even where it is not written.
    fn is_typed(&self) -> bool {
        self.encoding != Encoding::Json { schemas: false } || self.dialect == Dialect::Debezium
    }

    fn key(&self, id: &[u8]) -> std::result::Result<Shaped, Why> {
        let mut node = node::value(id).ok_or(Why::Malformed)?;
        spell(&mut node, self.names);
        let members = vec![("id".to_owned(), node)];
        let own = format!("{}.Key", self.logical);
        let name = (self.dialect == Dialect::Millrace).then_some(own.as_str());
        Ok(Shaped { fields: self.schema_of(&members, name)?, members })
    }

    fn schema_of(&self, members: &Members, name: Option<&str>) -> std::result::Result<Vec<Field>, Misfit> {
        if self.is_typed() { shape::fields(members, name, self.settings.arrays) } else { Ok(Vec::new()) }
    }

    /// The value of a change; `None`: there is no document and nothing to say.
    fn value(&self, facts: &Facts<'_>) -> std::result::Result<Option<Shaped>, Why> {
        let deletes = self.settings.deletes;
        let is_gone = facts.change.op == Op::Delete;
        let Some(mut members) = self.document(facts)? else { return Ok(None) };
        if deletes.rewrites() {
            members.retain(|(name, _)| name != DELETED);
            members.push((DELETED.to_owned(), Node::Bool(is_gone)));
        }
        let mut fields = self.schema_of(&members, Some(&self.logical))?;
        for (field, taken) in &self.fields {
            members.push((field.name.clone(), taken.node(facts)));
            if self.is_typed() {
                fields.push(field.clone());
            }
        }
        let Some(delimiter) = &self.settings.delimiter else { return Ok(Some(Shaped { fields, members })) };
        let mut flat = Shaped { fields: Vec::new(), members: Vec::new() };
        match self.is_typed() {
            true => flat.flatten(fields, &members, "", delimiter),
            false => flat.flatten_plain(members, "", delimiter, self.settings.arrays),
        }
        Ok(Some(flat))
    }

    fn document(&self, facts: &Facts<'_>) -> std::result::Result<Option<Members>, Why> {
        let read = |cell: Cell| {
            let mut node = Node::Document(node::document(facts.batch.text(cell)).ok_or(Why::Malformed)?);
            spell(&mut node, self.names);
            match node {
                Node::Document(members) => Ok(members),
                _ => Err(Why::Malformed),
            }
        };
        if facts.change.op == Op::Delete {
            if !self.settings.deletes.rewrites() {
                return Ok(None);
            }
            return facts.part(document::BEFORE).map_or_else(|| Ok(Members::new()), read).map(Some);
        }
        if let Some(after) = facts.part(document::AFTER) {
            return read(after).map(Some);
        }
        // Only what an update set: what it removed is not there, and the id always is.
        let updated = facts.part(document::UPDATED).map_or_else(|| Ok(Members::new()), read)?;
        let mut members = updated;
        if !members.iter().any(|(name, _)| name == "_id")
            && let Some(id) = facts.part(document::ID)
        {
            members.push(("_id".to_owned(), node::value(facts.batch.text(id)).ok_or(Why::Malformed)?));
        }
        if let Some(delimiter) = &self.settings.delimiter {
            for (name, _) in &mut members {
                *name = name.replace('.', delimiter);
            }
        }
        Ok(Some(members))
    }

    /// To be called before a batch is learned: what is forgotten is only asked for again.
    pub(crate) fn make_room(&mut self) {
        if self.known.len() > SHAPES_MAX {
            self.known.clear();
        }
    }

    /// Registers the schemas that a change needs, where a schema has an id.
    pub(crate) async fn learn<T: Targets>(
        &mut self,
        targets: &T,
        batch: &ChangeBatch,
        change: &Change,
    ) -> Result<()> {
        if self.encoding != Encoding::Avro || change.op == Op::Truncate {
            return Ok(());
        }
        let Some(transaction) = batch.transactions.get(change.transaction as usize) else { return Ok(()) };
        let facts = Facts { batch, change, op: change.op, transaction, now_us: 0, numbers: None };
        // What is no document is told of when it is encoded.
        let key = facts.part(document::ID).and_then(|id| self.key(batch.text(id)).ok());
        let value = self.value(&facts).ok().flatten();
        for (side, shaped) in [("key", key), ("value", value)] {
            let Some(shaped) = shaped else { continue };
            let entry = (side, self.text(side, shaped.fields));
            if !self.known.contains_key(&entry) {
                let id =
                    targets.schema(SchemaType::Avro, &format!("{}-{side}", self.topic), &entry.1).await?;
                self.known.insert(entry, id);
            }
        }
        Ok(())
    }

    fn schema(&self, side: &str, fields: Vec<Field>) -> Schema {
        let name = match (side, self.dialect) {
            ("key", Dialect::Debezium) => None,
            ("key", Dialect::Millrace) => Some(format!("{}.Key", self.logical)),
            _ => Some(self.logical.clone()),
        };
        Schema { name, ..Schema::new(Base::Struct(fields)) }
    }

    fn text(&self, side: &str, fields: Vec<Field>) -> String {
        avro_schema::text(&self.schema(side, fields), self.dialect == Dialect::Millrace)
    }

    /// Writes a key or a value; false where its schema has no id yet.
    fn put<W: Writer>(
        &self,
        side: &'static str,
        shaped: Shaped,
        out: &mut Vec<u8>,
    ) -> std::result::Result<bool, Bad> {
        let Shaped { fields, members } = shaped;
        if !self.is_typed() {
            return write::put_plain(&members, out).map(|()| true);
        }
        let id = match self.encoding {
            Encoding::Json { .. } => 0,
            Encoding::Avro => {
                let entry = (side, self.text(side, fields.clone()));
                let Some(id) = self.known.get(&entry) else { return Ok(false) };
                *id
            }
        };
        let schema = self.schema(side, fields);
        let (head, foot) = frame(self.encoding, &schema, id);
        out.extend_from_slice(&head);
        if let Base::Struct(fields) = &schema.base {
            write::put_struct::<W>(fields, &members, self.settings.arrays, out)?;
        }
        out.extend_from_slice(foot);
        Ok(true)
    }
}

impl Shaped {
    /// Puts the fields of nested structs beside their neighbours, their names behind those of what they stood in.
    fn flatten(&mut self, fields: Vec<Field>, members: &Members, before: &str, delimiter: &str) {
        for Field { name, schema } in fields {
            let node = members.iter().find(|(of, _)| *of == name).map(|(_, node)| node);
            let full = format!("{before}{name}");
            let Base::Struct(inner) = schema.base else {
                self.members.extend(node.map(|node| (full.clone(), node.clone())));
                self.fields.push(Field { name: full, schema });
                continue;
            };
            let below = match node {
                Some(Node::Document(members) | Node::Named(_, members)) => members.clone(),
                Some(Node::Array(items)) => shape::numbered(items),
                _ => Members::new(),
            };
            self.flatten(inner, &below, &format!("{full}{delimiter}"), delimiter);
        }
    }

    fn flatten_plain(&mut self, members: Members, before: &str, delimiter: &str, arrays: Arrays) {
        for (name, node) in members {
            let full = format!("{before}{name}");
            let below = match node {
                Node::Document(members) | Node::Named(_, members) => members,
                Node::Array(items) if arrays == Arrays::Members => shape::numbered(&items),
                node => {
                    self.members.push((full, node));
                    continue;
                }
            };
            self.flatten_plain(below, &format!("{full}{delimiter}"), delimiter, arrays);
        }
    }
}

/// Gives every field the name that the format wants.
fn spell(node: &mut Node, names: Spelling) {
    if names == Spelling::AsTheyAre {
        return;
    }
    match node {
        Node::Document(members) => {
            for (name, node) in members {
                *name = names.field(name).into_owned();
                spell(node, names);
            }
        }
        Node::Array(items) => items.iter_mut().for_each(|item| spell(item, names)),
        _ => {}
    }
}

impl<'a> Pass<'a> {
    pub(crate) fn flat_document<W: Writer>(
        &mut self,
        context: Context<'a>,
        flat: &'a FlatPlan,
    ) -> Result<(), Fault> {
        let Context { change, transaction, plan } = context;
        if change.op == Op::Truncate {
            return Ok(());
        }
        let cells = self.cells(context, change.after)?;
        let numbers = self.number(context).map(|numbers| (numbers, self.transaction_name(context)));
        let facts =
            Facts { batch: self.batch, change, op: change.op, transaction, now_us: self.now_us, numbers };
        let refused = |why: Why| Fault::Error(reject::flat(plan, change.mark, &why.to_string()));
        let value = flat.value(&facts).map_err(refused)?;
        let deletes = flat.settings.deletes;
        if value.is_none() && deletes == Deletes::Drop {
            return Ok(());
        }
        let id = facts.part(document::ID).map(|id| flat.key(self.batch.text(id)));
        let key = match id.transpose().map_err(refused)? {
            Some(key) => Some(self.put_flat::<W>(context, flat, ("key", key))?),
            None => None,
        };
        let value = match value {
            Some(value) => Some(self.put_flat::<W>(context, flat, ("value", value))?),
            None => None,
        };
        let mut added = Vec::new();
        for (name, taken) in &flat.headers {
            taken.put_header(&facts, name, &mut added);
        }
        let row = View { bytes: &self.batch.bytes, cells };
        let headers = self.document_headers(context, cells, (0, &added), value)?;
        self.push(context, row, key, value, headers)?;
        if change.op == Op::Delete
            && deletes == Deletes::RewriteWithTombstone
            && plan.format.tombstones
            && key.is_some()
        {
            // With all that the delete has: in Debezium the two records have their headers in common.
            let headers = self.document_headers(context, &[], (1, &added), None)?;
            self.push(context, row, key, None, headers)?;
        }
        Ok(())
    }

    fn put_flat<W: Writer>(
        &mut self,
        context: Context<'_>,
        flat: &FlatPlan,
        (side, shaped): (&'static str, Shaped),
    ) -> Result<Span, Fault> {
        let start = self.out.bytes.len();
        match flat.put::<W>(side, shaped, &mut self.out.bytes) {
            Ok(true) => self.span(context, start),
            Ok(false) => Err(Fault::Unlearned),
            Err(_) => {
                let what = "it holds a number that is none";
                Err(reject::flat(context.plan, context.change.mark, what).into())
            }
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed => f.write_str("it is no JSON document"),
            Self::Misfit(misfit) => misfit.fmt(f),
        }
    }
}

impl Facts<'_> {
    fn part(&self, index: usize) -> Option<Cell> {
        let cells = self.batch.cells_of(self.change.after);
        cells.get(index).copied().filter(|cell| cell.tag == Tag::Text)
    }
}
