//! The records of an outbox as Debezium's event router makes them and Kafka Connect's converters write them. Start at
//! `Pass::routed`.
//!
//! Keys and values have the schemas of their columns (`cell`), of documents those of each event (`event`); `expand` gives a
//! payload one of its own. What a text of Connect looks like is in `plain`.

mod cell;
mod changed;
pub(super) mod event;
mod expand;
mod plain;

use std::borrow::Cow;
use std::collections::HashMap;

use super::avro::{Avro, SECOND};
use super::change::{Context, Fault, Pass};
use super::connect::{Base, Field, Schema};
use super::flat::Arrays;
use super::flat::node::Members;
use super::flat::write::put_struct;
use super::json::Json;
use super::lexical::Bad;
use super::outbox::{Names, OutboxPlan, Poison, misfit, moment_ms, number, poison, put_tracing};
use super::plan::{Draft, Plan, frame};
use super::target::View;
use super::value::{Scratch, Type, Union, Writer};
use super::{Encoding, avro_schema, header, reject};
use crate::batch::Span;
use crate::error::{Error, Result};
use crate::relation::{Relation, Shape};
use crate::route::rule::{Converter, FieldForm, Outbox, Placement, Route, Routed};
use crate::sink::{SCHEMA_INCOMPATIBLE, SchemaType, Targets};

use self::cell::{Cell, Held};
use self::changed::changed;
use self::expand::expanded;
use self::plain::has_text;

/// Schemas that are remembered; what is asked for again is registered again, which changes nothing.
const SCHEMAS_MAX: usize = 10_000;

/// Which columns of a relation go where, and how they are written.
#[derive(Debug)]
pub(crate) struct RoutedPlan {
    settings: Routed,
    cells: Cells,
    /// Names the outermost struct of an expanded payload.
    payload_column: String,
    /// What the cells hold is known with each event only.
    is_document: bool,
    partition: Option<usize>,
    /// The index of the column that holds the version of the value's schema.
    version: Option<usize>,
    /// The column that chooses the topic gives its value to the name of the value's schema.
    routed_by: Option<usize>,
    /// What schema names begin with.
    logical: String,
    tombstone_on_empty: bool,
    /// The value is the payload alone.
    is_bare: bool,
    /// By subject and text.
    known: HashMap<(String, String), Known>,
}

/// What a record is made of.
#[derive(Clone, Debug)]
struct Cells {
    key: Cell,
    payload: Cell,
    headers: Vec<Cell>,
    envelope: Vec<Cell>,
}

/// What the registry said of a schema.
#[derive(Debug)]
enum Known {
    Id(u32),
    /// It does not go with those before it: as it was told in the batch of this number.
    Refused {
        why: String,
        asked: u64,
    },
}

/// Why there is no key or no value.
enum Why {
    Unlearned,
    /// The schema that its payload would have, and what the registry says of it.
    Refused {
        subject: String,
        why: String,
    },
    /// A NULL where the plan has none.
    Widen,
    Poison(Poison),
}

impl From<Bad> for Why {
    fn from(_: Bad) -> Self {
        Self::Poison(Poison::BadField)
    }
}

/// The value of a record, before it is written.
enum Made<'a> {
    None,
    /// The payload as it is.
    Bare(Option<Held<'a>>),
    /// The payload as a value of its own.
    Expanded(Schema, Members),
    /// The payload with its neighbours.
    Envelope(Schema, Inner<'a>),
}

enum Inner<'a> {
    Held(Option<Held<'a>>),
    Struct(Members),
}

fn cannot(relation: &Relation, column: &str, what: &str) -> Error {
    let table = relation.full_name();
    Error::config(format!("table {table}: column {column} {what}"))
        .hint("choose another converter, or another column for it")
}

impl RoutedPlan {
    /// Fails where the relation lacks a column, or has one of a type that its converter does not take.
    pub(crate) fn compile(
        draft: &Draft<'_>,
        route: &Route,
        (outbox, settings): (&Outbox, &Routed),
        names: &mut Names<'_>,
    ) -> Result<Self> {
        let relation = draft.relation;
        let is_document = relation.shape == Shape::Documents;
        if relation.shape == Shape::Messages || outbox.document.is_some() {
            return Err(Error::config(
                "an outbox by converters of Kafka Connect is a table of columns or a collection",
            )
            .hint("take [route.outbox.routed] out of the file"));
        }
        let mut find = |column: &str, name: &str| match is_document {
            true => names.field(column, FieldForm::ByType).map(|(index, _)| Cell::of_member(index, name)),
            false => Cell::of(draft, column, name),
        };
        let (mut headers, mut envelope, mut partition) = (Vec::new(), Vec::new(), None);
        for placed in &settings.placed {
            let found = match find(&placed.column, &placed.name) {
                None if settings.skips_missing => continue,
                None => return Err(misfit(relation, &placed.column)),
                Some(found) => found,
            };
            match placed.at {
                Placement::Header if !has_text(&found.schema.base) => {
                    return Err(cannot(relation, &placed.column, "has a type that cannot be a header"));
                }
                Placement::Header => headers.push(found),
                Placement::Envelope => envelope.push(found),
                Placement::Partition => partition = Some(placed.column.as_str()),
            }
        }
        let mut cell = |column: &str, name: &str| find(column, name).ok_or_else(|| misfit(relation, column));
        let key = cell(route.key.first().unwrap_or(&outbox.aggregate), "key")?;
        let payload = cell(&outbox.payload, "payload")?;
        let is_bare = settings.placed.iter().all(|placed| placed.at != Placement::Envelope);
        let mut index = |column: &str| names.find(column).ok_or_else(|| misfit(relation, column));
        let routed_by = draft.choice().and_then(|rule| rule.columns().first().map(|name| index(name)));
        let plan = Self {
            version: settings.schema_version.as_deref().map(&mut index).transpose()?,
            routed_by: routed_by.transpose()?,
            settings: settings.clone(),
            cells: Cells { key, payload, headers, envelope },
            payload_column: outbox.payload.clone(),
            is_document,
            partition: partition.map(&mut index).transpose()?,
            logical: draft.logical.clone(),
            tombstone_on_empty: outbox.tombstone_on_empty,
            is_bare,
            known: HashMap::new(),
        };
        plan.must_fit(relation)?;
        Ok(plan)
    }

    fn must_fit(&self, relation: &Relation) -> Result<()> {
        let both = [(self.settings.key, &self.cells.key), (self.settings.value, &self.cells.payload)];
        for (by, cell) in both.into_iter().filter(|_| !self.is_document) {
            let column = relation.columns.get(cell.index).map_or("", |column| column.name.as_str());
            let is_bytes = matches!(cell.r#type, Type::Bytes);
            let is_text = has_text(&cell.schema.base) && !is_bytes;
            match by {
                Converter::Text if !is_text => {
                    return Err(cannot(relation, column, "has no text for the converter of strings"));
                }
                Converter::Bytes if !is_bytes => {
                    return Err(cannot(relation, column, "is no bytea, and its converter takes bytes only"));
                }
                _ => {}
            }
        }
        let is_whole = self.is_bare && !self.settings.expand;
        match self.settings.value {
            Converter::Text | Converter::Bytes if !is_whole => Err(Error::config(
                "a value of several members needs a converter to JSON or Avro",
            )
            .hint("take envelope placements and the expansion out of the file, or change the converter")),
            _ => Ok(()),
        }
    }

    /// The cells of a row.
    fn cells(&self, row: View<'_>) -> Result<Cow<'_, Cells>, Poison> {
        if !self.is_document {
            return Ok(Cow::Borrowed(&self.cells));
        }
        event::of_event(&self.cells, row, (&self.payload_column, self.settings.expand)).map(Cow::Owned)
    }

    /// To be called before a batch is learned.
    pub(crate) fn make_room(&mut self) {
        if self.known.len() > SCHEMAS_MAX {
            self.known.clear();
        }
    }

    /// Registers the schemas of a row's record in this topic.
    pub(crate) async fn learn<T: Targets>(
        &mut self,
        targets: &T,
        topic: &str,
        (row, seq): (View<'_>, u64),
    ) -> Result<()> {
        let mut wanted = Vec::new();
        // What is no event has no schema, and is told of when it is encoded.
        let Ok(cells) = self.cells(row) else { return Ok(()) };
        if self.settings.key == Converter::Avro && cells.key.held(row).is_some() {
            wanted.push(("key", text(&cells.key.schema), self.is_document));
        }
        if self.settings.value == Converter::Avro {
            // With the expansion on it is the event that says what its schema is, even where it stays a text.
            let is_inferred = self.settings.expand || self.is_document;
            match self.made(&cells, row) {
                Made::None | Made::Bare(None) => {}
                Made::Bare(Some(_)) => wanted.push(("value", text(&cells.payload.schema), is_inferred)),
                Made::Expanded(schema, _) | Made::Envelope(schema, _) => {
                    wanted.push(("value", text(&schema), is_inferred));
                }
            }
        }
        drop(cells);
        for (side, text, is_inferred) in wanted {
            let entry = (format!("{topic}-{side}"), text);
            match self.known.get(&entry) {
                Some(Known::Id(_)) => continue,
                Some(Known::Refused { asked, .. }) if *asked == seq => continue,
                // Somebody may have lowered the subject's level since.
                Some(Known::Refused { .. }) | None => {}
            }
            let known = match targets.schema(SchemaType::Avro, &entry.0, &entry.1).await {
                Ok(id) => Known::Id(id),
                // One event's doing, and no other's: the rest has the schemas that are there.
                Err(why) if is_inferred && why.code_text() == Some(SCHEMA_INCOMPATIBLE) => {
                    let newest = targets.registered(&entry.0).await?;
                    let member = newest.and_then(|newest| changed(&newest.text, &entry.1));
                    let member = member.map(|member| member + "; ").unwrap_or_default();
                    Known::Refused { why: member + why.message(), asked: seq }
                }
                Err(error) => return Err(error),
            };
            self.known.insert(entry, known);
        }
        Ok(())
    }

    /// What the value of a row's record is.
    fn made<'a>(&self, cells: &'a Cells, row: View<'a>) -> Made<'a> {
        let payload = cells.payload.held(row);
        let is_text = matches!(cells.payload.schema.base, Base::String);
        let is_empty = payload.is_none_or(|held| is_text && held.is_blank());
        if is_empty && self.tombstone_on_empty {
            return Made::None;
        }
        let found = match payload.filter(|_| self.settings.expand && is_text) {
            Some(Held::Text(text)) => expanded(text, &self.payload_column, self.settings.keeps_nulls),
            // Debezium expands a document, and no text that looks like one.
            Some(Held::Node(_)) | None => None,
        };
        match (found, self.is_bare) {
            (Some((schema, members)), true) => Made::Expanded(schema, members),
            (None, true) => Made::Bare(payload),
            (Some((schema, members)), false) => {
                Made::Envelope(self.envelope_schema(cells, row, schema), Inner::Struct(members))
            }
            (None, false) => {
                let schema = self.envelope_schema(cells, row, cells.payload.schema.clone());
                Made::Envelope(schema, Inner::Held(payload))
            }
        }
    }

    fn envelope_schema(&self, cells: &Cells, row: View<'_>, payload: Schema) -> Schema {
        let routed = self.routed_by.and_then(|index| row.text(index)).unwrap_or_default();
        let routed = String::from_utf8_lossy(routed);
        let name = match self.is_document {
            true => event::value_name(&routed),
            false => format!("{}.{routed}.Value", self.logical),
        };
        let mut fields = vec![Field::new("payload", payload)];
        fields.extend(cells.envelope.iter().map(|cell| Field::new(cell.name.clone(), cell.schema.clone())));
        let version = self.version.and_then(|index| number(row.text(index)?));
        Schema { name: Some(name), version, ..Schema::new(Base::Struct(fields)) }
    }

    /// What stands before a key or a value, and behind it.
    fn head(
        &self,
        by: Converter,
        (topic, side, seq): (&str, &str, u64),
        schema: &Schema,
        out: &mut Vec<u8>,
    ) -> Result<&'static [u8], Why> {
        let (encoding, id) = match by {
            Converter::Text | Converter::Bytes => return Ok(b""),
            Converter::Json { schemas } => (Encoding::Json { schemas }, 0),
            Converter::Avro => {
                let entry = (format!("{topic}-{side}"), text(schema));
                match self.known.get(&entry) {
                    Some(Known::Id(id)) => (Encoding::Avro, *id),
                    Some(Known::Refused { why, asked }) if *asked == seq => {
                        return Err(Why::Refused { subject: entry.0, why: why.clone() });
                    }
                    Some(Known::Refused { .. }) | None => return Err(Why::Unlearned),
                }
            }
        };
        let (head, foot) = frame(encoding, schema, id);
        out.extend_from_slice(&head);
        Ok(foot)
    }

    fn put_key(
        &self,
        (cells, row): (&Cells, View<'_>),
        (topic, seq): (&str, u64),
        out: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<(), Why> {
        let by = self.settings.key;
        let held = cells.key.held(row).ok_or(Why::Poison(Poison::EmptyKey))?;
        let foot = self.head(by, (topic, "key", seq), &cells.key.schema, out)?;
        cells.key.put(by, Some(held), out, scratch)?;
        out.extend_from_slice(foot);
        Ok(())
    }

    /// False where the record has no value.
    fn put_value(
        &self,
        (cells, row): (&Cells, View<'_>),
        (topic, seq): (&str, u64),
        out: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<bool, Why> {
        let (by, at) = (self.settings.value, (topic, "value", seq));
        match self.made(cells, row) {
            Made::None => return Ok(false),
            // Of Connect's converters the one to JSON alone writes a null.
            Made::Bare(None) if !matches!(by, Converter::Json { .. }) => return Ok(false),
            Made::Bare(held) => {
                let foot = self.head(by, at, &cells.payload.schema, out)?;
                cells.payload.put(by, held, out, scratch)?;
                out.extend_from_slice(foot);
            }
            Made::Expanded(schema, members) => {
                let foot = self.head(by, at, &schema, out)?;
                match by {
                    Converter::Avro => {
                        // The struct is optional.
                        out.push(SECOND);
                        put_members::<Avro>(&schema, &members, out)?;
                    }
                    _ => put_members::<Json>(&schema, &members, out)?,
                }
                out.extend_from_slice(foot);
            }
            Made::Envelope(schema, inner) => {
                let foot = self.head(by, at, &schema, out)?;
                match by {
                    Converter::Avro => put_envelope::<Avro>((cells, row), &schema, &inner, out, scratch)?,
                    _ => put_envelope::<Json>((cells, row), &schema, &inner, out, scratch)?,
                }
                out.extend_from_slice(foot);
            }
        }
        Ok(true)
    }
}

fn put_envelope<W: Writer>(
    (cells, row): (&Cells, View<'_>),
    schema: &Schema,
    inner: &Inner<'_>,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Result<(), Why> {
    out.extend_from_slice(W::STRUCT_OPEN);
    match inner {
        Inner::Held(held) => cells.payload.put_member::<W>(*held, true, out, scratch)?,
        Inner::Struct(members) => {
            out.extend(W::lead("payload", true, Union::NullFirst));
            let Base::Struct(fields) = &schema.base else { return Err(Bad::Malformed.into()) };
            let payload = fields.first().ok_or(Bad::Malformed)?;
            put_members::<W>(&payload.schema, members, out)?;
        }
    }
    for cell in &cells.envelope {
        cell.put_member::<W>(cell.held(row), false, out, scratch)?;
    }
    out.extend_from_slice(W::STRUCT_CLOSE);
    Ok(())
}

fn put_members<W: Writer>(schema: &Schema, members: &Members, out: &mut Vec<u8>) -> Result<(), Bad> {
    let Base::Struct(fields) = &schema.base else { return Err(Bad::Malformed) };
    put_struct::<W>(fields, members, Arrays::Lists, out)
}

/// As Confluent's converter registers it.
fn text(schema: &Schema) -> String {
    avro_schema::text(schema, false)
}

impl Plan {
    /// Records are those of Debezium's event router.
    pub(crate) fn is_routed(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.routed.is_some())
    }
}

impl<'a> Pass<'a> {
    /// The record of a row.
    pub(crate) fn routed(
        &mut self,
        context: Context<'a>,
        plan: &OutboxPlan,
        routed: &RoutedPlan,
        row: View<'_>,
    ) -> Result<(), Fault> {
        let (place, seq) = (self.place(context, row)?, self.batch.seq);
        self.number(context);
        let fault = |why: Why| match why {
            Why::Unlearned => Fault::Unlearned,
            Why::Widen => Fault::Widen,
            Why::Refused { subject, why } => {
                reject::inferred(context.plan, context.change.mark, &subject, &why).into()
            }
            Why::Poison(why) => poison(context, why).into(),
        };
        let cells = routed.cells(row).map_err(|why| poison(context, why))?;
        let cells = cells.as_ref();
        let id = row.text(plan.id()).ok_or_else(|| poison(context, Poison::EmptyId))?;
        let start = self.out.bytes.len();
        let scratch = &mut self.room.scratch;
        routed.put_key((cells, row), (&place.name, seq), &mut self.out.bytes, scratch).map_err(fault)?;
        let key = self.span(context, start)?;
        let start = self.out.bytes.len();
        let scratch = &mut self.room.scratch;
        let has_value = routed
            .put_value((cells, row), (&place.name, seq), &mut self.out.bytes, scratch)
            .map_err(fault)?;
        let value = if has_value { Some(self.span(context, start)?) } else { None };
        let headers = self.routed_headers(context, plan, (cells, row, id), value)?;
        let partition = match routed.partition.and_then(|index| row.text(index)) {
            None => None,
            Some(text) => Some(number(text).ok_or_else(|| poison(context, Poison::BadPartition))?),
        };
        let time_ms = match plan.timestamp().and_then(|index| row.text(index)) {
            None => 0,
            Some(text) => moment_ms(text).ok_or_else(|| poison(context, Poison::BadTimestamp))?,
        };
        self.push_to(context, place, (Some(key), value, headers), partition, time_ms)
    }

    /// Those of every record of Debezium, the id, and what is placed there.
    fn routed_headers(
        &mut self,
        context: Context<'a>,
        plan: &OutboxPlan,
        (cells, row, id): (&Cells, View<'_>, &[u8]),
        value: Option<Span>,
    ) -> Result<Span, Fault> {
        let start = self.out.bytes.len();
        let (out, scratch) = (&mut self.out.bytes, &mut self.room.scratch);
        out.extend_from_slice(&context.plan.context);
        header::put(out, "id", |out| out.extend_from_slice(id));
        for cell in &cells.headers {
            let Some(held) = cell.held(row) else {
                header::put_null(out, &cell.name);
                continue;
            };
            let mut written = Ok(());
            header::put(out, &cell.name, |out| {
                written = cell.put_plain(held, out, scratch);
            });
            written.map_err(|_| poison(context, Poison::BadField))?;
        }
        out.extend_from_slice(&context.plan.texts);
        if let Some(text) = plan.tracing().and_then(|index| row.text(index)) {
            put_tracing(text, out);
        }
        self.sign(context, value);
        self.span(context, start)
    }
}
