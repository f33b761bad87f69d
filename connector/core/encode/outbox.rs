//! The records of an outbox: each row that is inserted is an event, and its columns say where it goes and
//! what it holds. Start at `Pass::outbox`.
//!
//! The value is the payload as it stands, or an object with the payload among its members. Where one column
//! holds the whole event as a JSON object, or the row is a document, its members stand for columns.

mod derived;

use std::borrow::Cow;

use super::change::{Context, Fault, Pass, Room};
use super::json::Json;
use super::lexical::{hex, time};
use super::routed::{self, RoutedPlan};
use super::target::View;
use super::typed::{Outcome, Typed};
use super::value::Writer;
use super::{Dialect, header, json, object, reject};
use crate::batch::{Cell, Op, Span, Tag, document};
use crate::error::{Error, Result};
use crate::relation::{Kind, Relation, Shape};
use crate::route::rule::{FieldForm, FieldFrom, OnUpdate, Outbox, PayloadForm, Route};

/// Columns that tracing writes into one text, and headers that consumers read.
const TRACING_HEADERS: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// Which cells of a row are what. Indexes into the relation's columns or, where the event is one document,
/// into the members that the route names.
#[derive(Debug)]
pub(crate) struct OutboxPlan {
    /// The cell that holds the event, and the members that are looked for in it.
    document: Option<(usize, Vec<Member>)>,
    id: usize,
    key: usize,
    payload: usize,
    payload_form: PayloadForm,
    payload_is_hex: bool,
    timestamp: Option<usize>,
    partition: Option<usize>,
    tracing: Option<usize>,
    headers: Vec<(String, usize, Form)>,
    tombstone_on_empty: bool,
    on_update: OnUpdate,
    fields: Vec<FieldPlan>,
    /// Records are made there.
    pub routed: Option<Box<RoutedPlan>>,
}

#[derive(Debug)]
struct FieldPlan {
    name: String,
    /// The comma before it, its name and the colon.
    lead: Vec<u8>,
    from: From,
}

#[derive(Debug)]
enum From {
    /// Quoted.
    Text(Vec<u8>),
    Payload,
    Column(usize, Form),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    /// A number; `whole` ones have neither fraction nor NaN.
    Bare {
        whole: bool,
    },
    /// JSON for certain.
    Raw,
    Bool,
    Json,
    Time {
        zoned: bool,
    },
}

/// The names that a route may use of a relation: its columns, or any member of the document in one of them, or
/// of the document that each row is.
pub(crate) enum Names<'a> {
    Columns(&'a Relation),
    Members(Vec<Member>),
}

/// A member of a document that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Of one inside another one, both with a dot between them.
    name: String,
    /// As it is written, and not the text that it stands for.
    is_raw: bool,
}

impl Names<'_> {
    pub(crate) fn of<'a>(route: &Route, relation: &'a Relation) -> Names<'a> {
        match &route.outbox {
            Some(outbox) if outbox.document.is_some() || relation.shape == Shape::Documents => {
                Names::Members(Vec::new())
            }
            _ => Names::Columns(relation),
        }
    }

    pub(crate) fn find(&mut self, name: &str) -> Option<usize> {
        match self {
            Names::Columns(relation) => relation.columns.iter().position(|column| column.name == name),
            Names::Members(members) => Some(look_for(members, name, false)),
        }
    }

    /// Where a field's value is, and how it is written.
    pub(super) fn field(&mut self, name: &str, form: FieldForm) -> Option<(usize, Form)> {
        match (self, form) {
            (Names::Members(members), FieldForm::ByType) => Some((look_for(members, name, true), Form::Raw)),
            (names, _) => {
                let index = names.find(name)?;
                Some((index, self::form(form, &names.kind(index))))
            }
        }
    }

    fn kind(&self, index: usize) -> Kind {
        match self {
            Names::Columns(relation) => {
                relation.columns.get(index).map_or(Kind::Text, |column| column.kind.clone())
            }
            Names::Members(_) => Kind::Text,
        }
    }
}

fn look_for(members: &mut Vec<Member>, name: &str, is_raw: bool) -> usize {
    let known = members.iter().position(|member| member.name == name && member.is_raw == is_raw);
    known.unwrap_or_else(|| {
        members.push(Member { name: name.to_owned(), is_raw });
        members.len() - 1
    })
}

/// What is said of a route that does not fit a relation.
pub(crate) fn misfit(relation: &Relation, name: &str) -> Error {
    let columns: Vec<&str> = relation.columns.iter().map(|column| column.name.as_str()).collect();
    let table = relation.full_name();
    Error::config(format!("table {table} has no column {name}, which its [[route]] names")).hint(format!(
        "correct the route; the columns are {}. A header from a column that may be missing ends in ?",
        columns.join(", ")
    ))
}

impl OutboxPlan {
    pub(crate) fn compile(
        route: &Route,
        outbox: &Outbox,
        relation: &Relation,
        names: &mut Names<'_>,
    ) -> Result<Self> {
        let mut headers = Vec::new();
        for header in &route.headers {
            let form = if header.is_time { FieldForm::Time } else { FieldForm::Text };
            match names.field(&header.column, form) {
                Some((index, form)) => headers.push((header.name.clone(), index, form)),
                None if header.optional => {}
                None => return Err(misfit(relation, &header.column)),
            }
        }
        let mut find = |name: &str| names.find(name).ok_or_else(|| misfit(relation, name));
        let default_id = if relation.shape == Shape::Documents { "_id" } else { "id" };
        let id = find(outbox.id.as_deref().unwrap_or(default_id))?;
        let payload = find(&outbox.payload)?;
        let key = find(route.key.first().unwrap_or(&outbox.aggregate))?;
        let timestamp = outbox.timestamp.as_deref().map(&mut find).transpose()?;
        let partition = outbox.partition.as_deref().map(&mut find).transpose()?;
        let tracing = find(&outbox.tracing).ok();
        let mut fields = Vec::new();
        for (nth, field) in outbox.fields.iter().enumerate() {
            let from = match &field.from {
                FieldFrom::Text(text) => From::Text(json::quoted(text).into_bytes()),
                FieldFrom::Column { name, .. } if *name == outbox.payload => From::Payload,
                FieldFrom::Column { name, form } => {
                    let (index, form) = names.field(name, *form).ok_or_else(|| misfit(relation, name))?;
                    From::Column(index, form)
                }
            };
            let open = if nth == 0 { "{" } else { "," };
            let lead = format!("{open}{}:", json::quoted(&field.name)).into();
            fields.push(FieldPlan { name: field.name.clone(), lead, from });
        }
        Ok(Self {
            document: None,
            id,
            key,
            payload,
            payload_form: outbox.payload_form,
            payload_is_hex: names.kind(payload) == Kind::Bytes,
            timestamp,
            partition,
            tracing,
            headers,
            tombstone_on_empty: outbox.tombstone_on_empty,
            on_update: outbox.on_update,
            fields,
            routed: None,
        })
    }

    pub(crate) fn id(&self) -> usize {
        self.id
    }

    pub(crate) fn timestamp(&self) -> Option<usize> {
        self.timestamp
    }

    pub(crate) fn tracing(&self) -> Option<usize> {
        self.tracing
    }

    /// Once every name is known: those of the document that are looked for.
    pub(crate) fn with_document(
        self,
        outbox: &Outbox,
        relation: &Relation,
        names: Names<'_>,
    ) -> Result<Self> {
        let Names::Members(members) = names else { return Ok(self) };
        let at = match (relation.shape, &outbox.document) {
            (Shape::Documents, None) => document::AFTER,
            (Shape::Documents, Some(_)) => {
                let name = relation.full_name();
                return Err(Error::config(format!("an event of collection {name} is the document itself"))
                    .hint("remove `document` from its [route.outbox]"));
            }
            (Shape::Rows | Shape::Messages, None) => return Ok(self),
            (Shape::Rows | Shape::Messages, Some(document)) => {
                let at = relation.columns.iter().position(|column| column.name == *document);
                at.ok_or_else(|| misfit(relation, document))?
            }
        };
        Ok(Self { document: Some((at, members)), ..self })
    }

    /// By what the event is ordered; `None` where it has no key, or the row is no event.
    pub(crate) fn key_text(&self, row: View<'_>) -> Option<Vec<u8>> {
        let (mut cells, mut bytes) = (Vec::new(), Vec::new());
        let row = self.view(row, &mut cells, &mut bytes).ok()?;
        filled(row, self.key).map(<[u8]>::to_vec)
    }

    /// Whether the record is made of this operation; for the look ahead.
    pub(crate) fn takes(&self, op: Op) -> bool {
        matches!(op, Op::Insert | Op::Read)
    }

    /// The row as the plan sees it. `cells` and `bytes` are memory used again for documents.
    pub(crate) fn view<'a>(
        &self,
        row: View<'a>,
        cells: &'a mut Vec<Cell>,
        bytes: &'a mut Vec<u8>,
    ) -> Result<View<'a>, Poison> {
        let Some((column, wanted)) = &self.document else { return Ok(row) };
        let text = row.text(*column).filter(|text| object::is_json(text)).ok_or(Poison::BadJson)?;
        let members = object::members(text).ok_or(Poison::BadJson)?;
        cells.clear();
        bytes.clear();
        for Member { name, is_raw } in wanted {
            let start = bytes.len();
            let value = object::member(&members, name).filter(|value| *value != b"null");
            let tag = if value.is_some() { Tag::Text } else { Tag::Null };
            match (value, is_raw) {
                (None, _) => {}
                (Some(value), true) => bytes.extend_from_slice(value),
                (Some(value), false) if self.routed.is_some() => routed::event::put_text(value, bytes),
                (Some(value), false) => object::put_text(value, bytes),
            }
            let (Ok(start), Ok(len)) = (u32::try_from(start), u32::try_from(bytes.len() - start)) else {
                return Err(Poison::BadJson);
            };
            cells.push(Cell { start, len, tag });
        }
        Ok(View { bytes, cells })
    }
}

fn form(wanted: FieldForm, kind: &Kind) -> Form {
    match (wanted, kind) {
        (FieldForm::Text, _) => Form::Text,
        (FieldForm::Json, _) | (FieldForm::ByType, Kind::Json) => Form::Json,
        (FieldForm::Time | FieldForm::ByType, Kind::Timestamp { .. }) => Form::Time { zoned: false },
        (FieldForm::Time, _) | (FieldForm::ByType, Kind::TimestampTz { .. }) => Form::Time { zoned: true },
        (FieldForm::ByType, Kind::Bool) => Form::Bool,
        (FieldForm::ByType, Kind::Int16 | Kind::Int32 | Kind::Int64) => Form::Bare { whole: true },
        (FieldForm::ByType, Kind::Float32 | Kind::Float64) => Form::Bare { whole: false },
        (FieldForm::ByType, Kind::Decimal { .. } | Kind::VariableDecimal) => Form::Bare { whole: false },
        (FieldForm::ByType, _) => Form::Text,
    }
}

/// Why a row is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Poison {
    BadJson,
    EmptyId,
    EmptyKey,
    EmptyPayload,
    BadPartition,
    BadTimestamp,
    BadField,
    Update,
}

impl<'a> Pass<'a> {
    pub(crate) fn outbox(&mut self, context: Context<'a>, plan: &'a OutboxPlan) -> Result<(), Fault> {
        match (context.change.op, plan.on_update) {
            // A row that was there before the stream is an event that nobody has sent yet.
            (Op::Insert | Op::Read, _) => self.event(context, plan),
            // Rows are deleted once they have done their work.
            (Op::Delete | Op::Truncate, _) | (Op::Update, OnUpdate::Skip) => Ok(()),
            (Op::Update, OnUpdate::Reject) => Err(poison(context, Poison::Update).into()),
            (Op::Update, OnUpdate::Stop) => {
                Err(Error::fatal(poison(context, Poison::Update).message().to_owned())
                    .hint("write events once; or set on_update = \"reject\" in [route.outbox]")
                    .into())
            }
        }
    }

    fn event(&mut self, context: Context<'a>, plan: &'a OutboxPlan) -> Result<(), Fault> {
        let cells = self.cells(context, context.change.after)?;
        let row = View { bytes: &self.batch.bytes, cells };
        // Taken out, because the rest of the room is needed beside them.
        let mut members = std::mem::take(&mut self.room.members);
        let mut texts = std::mem::take(&mut self.room.texts);
        let result = match plan.view(row, &mut members, &mut texts) {
            Ok(view) => match &plan.routed {
                Some(routed) => self.routed(context, plan, routed, view),
                None => self.event_of(context, plan, view),
            },
            Err(why) => Err(poison(context, why).into()),
        };
        self.room.members = members;
        self.room.texts = texts;
        result
    }

    fn event_of(&mut self, context: Context<'a>, plan: &OutboxPlan, row: View<'_>) -> Result<(), Fault> {
        let place = self.place(context, row)?;
        self.number(context);
        let id = filled(row, plan.id).ok_or_else(|| poison(context, Poison::EmptyId))?;
        let key_text = filled(row, plan.key).ok_or_else(|| poison(context, Poison::EmptyKey))?;
        let start = self.out.bytes.len();
        self.out.bytes.extend_from_slice(key_text);
        let key = self.span(context, start)?;
        let (value, schema) = self.payload(context, plan, row)?;
        let headers = self.event_headers(context, plan, row, (id, schema), value)?;
        let partition = match plan.partition.and_then(|index| row.text(index)) {
            None => None,
            Some(text) => Some(number(text).ok_or_else(|| poison(context, Poison::BadPartition))?),
        };
        let time_ms = match plan.timestamp.and_then(|index| row.text(index)) {
            None => 0,
            Some(text) => moment_ms(text).ok_or_else(|| poison(context, Poison::BadTimestamp))?,
        };
        self.push_to(context, place, (Some(key), value, headers), partition, time_ms)
    }

    /// The record's value, `None` for a tombstone; and the id of its schema, where it has one.
    fn payload(
        &mut self,
        context: Context<'a>,
        plan: &OutboxPlan,
        row: View<'_>,
    ) -> Result<(Option<Span>, Option<u32>), Fault> {
        let payload = row.text(plan.payload).unwrap_or_default();
        if payload.trim_ascii().is_empty() {
            return match plan.tombstone_on_empty {
                true => Ok((None, None)),
                false => Err(poison(context, Poison::EmptyPayload).into()),
            };
        }
        if plan.payload_form == PayloadForm::Json && !object::is_json(payload) {
            return Err(poison(context, Poison::BadJson).into());
        }
        let (start, mut schema) = (self.out.bytes.len(), None);
        let put = |out: &mut Vec<u8>| match plan.fields.is_empty() {
            true => put_bare(plan, payload, out),
            false => put_object(plan, row, payload, out),
        };
        match &context.plan.typed {
            None => put(&mut self.out.bytes).map_err(|why| poison(context, why))?,
            Some(typed) => {
                self.room.json.clear();
                put(&mut self.room.json).map_err(|why| poison(context, why))?;
                let Room { json, selector, .. } = &mut *self.room;
                match typed.put(row, json, self.batch.seq, selector, &mut self.out.bytes) {
                    Outcome::Written(id) => schema = Some(id),
                    Outcome::Unknown => return Err(Fault::Unlearned),
                    Outcome::Refused(refusal) => {
                        return Err(reject::schema(context.plan, context.change.mark, &refusal).into());
                    }
                }
            }
        }
        Ok((Some(self.span(context, start)?), schema))
    }

    fn event_headers(
        &mut self,
        context: Context<'a>,
        plan: &OutboxPlan,
        row: View<'_>,
        (id, schema): (&[u8], Option<u32>),
        value: Option<Span>,
    ) -> Result<Span, Fault> {
        let out = &mut self.out.bytes;
        let start = out.len();
        header::put(out, "id", |out| out.extend_from_slice(id));
        let id_header = context.plan.typed.as_ref().and_then(Typed::id_header);
        if let (Some(name), Some(schema)) = (id_header, schema) {
            let mut digits = itoa::Buffer::new();
            header::put(out, name, |out| out.extend_from_slice(digits.format(schema).as_bytes()));
        }
        if context.plan.format.dialect == Dialect::Millrace {
            header::put_position(out, context.change.mark, 0);
        }
        out.extend_from_slice(&context.plan.texts);
        for (name, index, form) in &plan.headers {
            let Some(text) = row.text(*index) else { continue };
            let time = match form {
                Form::Time { zoned } => Some(moment(text, *zoned).map_err(|why| poison(context, why))?),
                _ => None,
            };
            header::put(out, name, |out| out.extend_from_slice(time.as_deref().unwrap_or(text)));
        }
        if let Some(text) = plan.tracing.and_then(|index| row.text(index)) {
            put_tracing(text, out);
        }
        self.sign(context, value);
        self.span(context, start)
    }
}

/// The headers of a trace, out of lines as Java writes properties.
pub(crate) fn put_tracing(text: &[u8], out: &mut Vec<u8>) {
    for line in text.split(|byte| *byte == b'\n') {
        let Some(at) = line.iter().position(|byte| *byte == b'=' || *byte == b':') else { continue };
        let (name, value) = line.split_at(at);
        let known = TRACING_HEADERS.iter().find(|known| known.as_bytes() == name.trim_ascii());
        if let Some(known) = known {
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            header::put(out, known, |out| out.extend_from_slice(value));
        }
    }
}

fn put_bare(plan: &OutboxPlan, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Poison> {
    if plan.payload_form == PayloadForm::Bytes && plan.payload_is_hex {
        return hex::decode(payload, out).map_err(|_| Poison::BadField);
    }
    out.extend_from_slice(payload);
    Ok(())
}

fn put_object(plan: &OutboxPlan, row: View<'_>, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Poison> {
    for field in &plan.fields {
        out.extend_from_slice(&field.lead);
        match &field.from {
            From::Text(quoted) => out.extend_from_slice(quoted),
            From::Payload => match plan.payload_form {
                PayloadForm::Json => out.extend_from_slice(payload.trim_ascii()),
                PayloadForm::Text => json::put_string(out, payload),
                PayloadForm::Bytes if plan.payload_is_hex => {
                    Json::hex(out, payload, &mut Vec::new()).map_err(|_| Poison::BadField)?;
                }
                PayloadForm::Bytes => Json::bytes(out, payload),
            },
            From::Column(index, form) => match row.text(*index) {
                None => out.extend_from_slice(b"null"),
                Some(text) => put_field(*form, text, out)?,
            },
        }
    }
    out.push(b'}');
    Ok(())
}

fn put_field(form: Form, text: &[u8], out: &mut Vec<u8>) -> Result<(), Poison> {
    match form {
        Form::Text => json::put_string(out, text),
        Form::Bool => Json::boolean(out, text == b"t" || text == b"true"),
        // NaN and the infinities are no JSON.
        Form::Bare { .. } if object::is_json(text) => out.extend_from_slice(text),
        Form::Bare { .. } => json::put_string(out, text),
        Form::Raw => out.extend_from_slice(text),
        Form::Json if object::is_json(text) => out.extend_from_slice(text.trim_ascii()),
        Form::Json => return Err(Poison::BadJson),
        Form::Time { zoned } => json::put_string(out, &moment(text, zoned)?),
    }
    Ok(())
}

/// A time as RFC 3339 in UTC.
fn moment(text: &[u8], zoned: bool) -> Result<Vec<u8>, Poison> {
    // Microseconds, as Postgres keeps them, without zeros that say nothing.
    let moment = time::zoned_timestamp(&spaced(text, zoned), 6).map_err(|_| Poison::BadTimestamp)?;
    Ok(shortest(moment.as_slice()).into_owned())
}

/// `2024-01-02T03:04:05.120000Z` without the zeros at the end of its fraction.
fn shortest(moment: &[u8]) -> Cow<'_, [u8]> {
    let Some(clock) = moment.strip_suffix(b"Z").filter(|clock| clock.contains(&b'.')) else {
        return Cow::Borrowed(moment);
    };
    let zeros = clock.iter().rev().take_while(|byte| **byte == b'0').count();
    let kept = clock.get(..clock.len() - zeros).unwrap_or_default();
    Cow::Owned([kept.strip_suffix(b".").unwrap_or(kept), b"Z"].concat())
}

/// RFC 3339 in the database's own form.
fn spaced(text: &[u8], zoned: bool) -> Vec<u8> {
    let mut out: Vec<u8> = text.to_vec();
    if let Some(t) = out.get_mut(10).filter(|byte| **byte == b'T' || **byte == b't') {
        *t = b' ';
    }
    if out.ends_with(b"Z") {
        out.pop();
        out.extend_from_slice(b"+00");
    } else if !zoned {
        out.extend_from_slice(b"+00");
    }
    out
}

/// Milliseconds since 1970 of a time as the database prints it, of RFC 3339, or of that number itself.
pub(crate) fn moment_ms(text: &[u8]) -> Option<i64> {
    if let Ok(number) = super::lexical::number::int(text) {
        return Some(number);
    }
    let has_zone = text.get(10..).is_some_and(|rest| rest.iter().any(|b| matches!(b, b'+' | b'-' | b'Z')));
    time::rfc3339_us(&spaced(text, has_zone)).ok().map(|micros| micros.div_euclid(1000))
}

pub(crate) fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A value with something in it.
fn filled<'a>(row: View<'a>, index: usize) -> Option<&'a [u8]> {
    row.text(index).filter(|text| !text.trim_ascii().is_empty())
}

#[cold]
pub(crate) fn poison(context: Context<'_>, why: Poison) -> Error {
    reject::poison(context.plan, context.change.mark, why)
}
