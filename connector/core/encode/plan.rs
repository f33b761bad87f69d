//! What is decided once per relation version: where every record goes, and for every field the bytes around
//! its value and those that stand for null, for a row that was not sent and for an unchanged value.

mod envelope;

use super::avro::Avro;
use super::connect::{Base, Field, Names, Schema};
use super::disguise::Disguise;
use super::document::UpdatePlan;
use super::flat::FlatPlan;
use super::flat::rows::{FlatRowPlan, RowParts};
use super::hidden::{Hidden, disguise, hidden};
use super::json::Json;
use super::mapping::{field, scaled_zero, told, zero};
use super::message::MessagePlan;
use super::outbox::{self, Names as RowNames, OutboxPlan};
use super::routed::RoutedPlan;
use super::short::Lead;
use super::steps::{Made, Member, SpreadPlan, is_unnamed_key};
use super::tail::Tail;
use super::target::{Place, Target};
use super::typed::Typed;
use super::value::{Rare, Scratch, Type, Union, Writer, write, write_placeholder};
use super::{Dialect, Encoding, Envelope, Format, Skipped, avro_schema, header, json_schema};
use crate::error::{Error, Result};
use crate::hold::Gate;
use crate::relation::{Column, Kind, Relation, Shape};
use crate::route::filter::{Bound, Filter};
use crate::route::rename::{Renamed, renamed};
use crate::route::rule::{Route, TopicRule};
use crate::route::step::Inserted;
use crate::route::{is_topic_name, topic_name};

pub(crate) use self::envelope::{EnvelopePlan, SourceField};

#[derive(Debug)]
pub(crate) struct Plan {
    pub version: u64,
    /// `schema.table`
    pub table: String,
    pub format: Format,
    pub target: Target,
    /// Where every record goes too.
    pub copies: Vec<Place>,
    pub outbox: Option<OutboxPlan>,
    /// Schemas that events are written by, where somebody else says them.
    pub typed: Option<Typed>,
    /// Headers that hold a column's value.
    pub headers: Vec<(String, usize)>,
    /// Headers that are the same for every record.
    pub texts: Vec<u8>,
    pub filter: Option<Bound>,
    /// By what records find their partition, if not by their key.
    pub spread: Option<SpreadPlan>,
    /// Names of headers that records do without.
    pub dropped_headers: Vec<String>,
    pub row: RowPlan,
    pub key: Option<RowPlan>,
    /// The key as a JSON object, for headers.
    pub header_key: Option<RowPlan>,
    pub key_columns: Vec<usize>,
    /// Headers that say where every record comes from; none in our own dialect.
    pub context: Vec<u8>,
    pub envelope: EnvelopePlan,
    /// For documents.
    pub update: Option<UpdatePlan>,
    /// For messages.
    pub message: Option<MessagePlan>,
    pub flat: Option<FlatPlan>,
    pub flat_row: Option<FlatRowPlan>,
    pub tail: Tail,
    /// What letters do not show of a row.
    pub hidden: Vec<Hidden>,
    /// Columns that are nullable only because a NULL was seen in them.
    pub widened: Vec<usize>,
    /// A NULL was seen where this plan has none: to be compiled anew.
    pub is_stale: bool,
    /// Of the schema that all its values are by, if there is one.
    pub schema_id: Option<u32>,
    /// Of all its rows; those that choose a topic may have others.
    pub gate: Gate,
}

/// A struct of columns: the row, or the key.
#[derive(Debug)]
pub(crate) struct RowPlan {
    pub open: Lead,
    pub columns: Vec<ColumnPlan>,
    pub close: Lead,
}

#[derive(Debug)]
pub(crate) struct ColumnPlan {
    /// Index among the relation's columns.
    pub index: usize,
    pub name: String,
    pub r#type: Type,
    /// Before a value.
    pub lead: Lead,
    /// The whole field for a NULL; `None` where the column is never null.
    pub null: Option<Lead>,
    /// The whole field in an old row of which it was not sent.
    pub absent: Lead,
    /// The whole field for an unchanged TOAST value that was not sent.
    pub unchanged: Lead,
}

/// What the schemas of a relation are, before they have ids.
pub(crate) struct Draft<'a> {
    pub(super) format: &'a Format,
    route: Option<&'a Route>,
    pub(super) relation: &'a Relation,
    pub(super) widened: Vec<usize>,
    /// The topic of the relation, where no route says another.
    topic_name: String,
    /// What the names of its schemas begin with.
    pub(super) logical: String,
    pub(super) made: Made,
    /// Behind the key's columns: fields that are the same in every key.
    key_fields: Vec<Inserted>,
    key: Option<Schema>,
    envelope: Schema,
    /// Its schemas are those of its documents, one by one.
    pub(crate) flat: Option<FlatPlan>,
    flat_row: Option<RowParts>,
}

/// What a route asks of each row of one relation.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    /// The rule by which rows choose their topic, and the columns that it looks at.
    pub choice: Option<(TopicRule, Vec<usize>)>,
    pub headers: Vec<(String, usize)>,
    pub outbox: Option<OutboxPlan>,
    pub typed: Option<Typed>,
    pub texts: Vec<u8>,
    pub filter: Option<Bound>,
}

/// Ids of registered schemas; JSON needs none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SchemaIds {
    pub key: u32,
    pub value: u32,
}

impl<'a> Draft<'a> {
    /// Fails where the relation's route or a step names a column that it does not have, or a column is to keep a secret
    /// and cannot.
    pub(crate) fn new(
        format: &'a Format,
        route: Option<&'a Route>,
        relation: &'a Relation,
        widened: Vec<usize>,
    ) -> Result<Self> {
        let first_name = topic_name(&format.topic_prefix, relation);
        let Renamed { topic: topic_name, schemas, key_fields } = renamed(&format.renames, first_name.clone());
        if !is_topic_name(&topic_name) {
            return Err(Error::config(format!("{first_name} cannot be called {topic_name:?}"))
                .hint("correct format.rename_topics: a topic has letters, digits, `.`, `_` and `-`"));
        }
        let made = Made::of(format, route, relation, &first_name)?;
        let logical = schemas.unwrap_or_else(|| match format.dialect {
            Dialect::Millrace => format!("{}.{}", format.topic_prefix, relation.full_name()),
            Dialect::Debezium => first_name,
        });
        let names = Names { logical: format.schema_names.full(&logical).into_owned() };
        let schema = |(member, column): (&Member, &Column)| {
            let nullable = is_nullable(relation, &widened, member.index, format);
            field(column, nullable, format).1.schema
        };
        let row = |(member, column): (&Member, &Column)| {
            let schema = told(schema((member, column)), relation, column, format);
            Field::new(&member.name, member.tell(schema))
        };
        let mut row: Vec<Field> = columns_of(relation, &made.row).map(row).collect();
        let has_flat_rows = (relation.shape, format.envelope) == (Shape::Rows, Envelope::Flat);
        let flat_row = has_flat_rows.then(|| RowParts::new(format, relation, &made, &row)).transpose()?;
        row.extend(flat_row.iter().flat_map(RowParts::fields));
        row.extend(made.inserted.iter().map(constant));
        let key_field = |(name, text)| Inserted { name, text, optional: false };
        let key_fields: Vec<Inserted> = key_fields.into_iter().map(key_field).collect();
        let key_column = |(member, column): (&Member, &Column)| {
            Field::new(&member.name, member.tell(schema((member, column))))
        };
        let mut key: Vec<Field> = columns_of(relation, &made.key).map(key_column).collect();
        if !key.is_empty() {
            key.extend(key_fields.iter().map(constant));
        }
        let key = (!key.is_empty()).then(|| match relation.shape {
            _ if is_unnamed_key(&made, format) => Schema::new(Base::Struct(key)),
            Shape::Rows | Shape::Documents => names.key(key),
            Shape::Messages => Names::message("Key", key),
        });
        let envelope = envelope(format, relation, &names, row)?;
        let mut draft = Self {
            logical: names.logical.clone(),
            format,
            route,
            relation,
            widened,
            topic_name,
            made,
            key_fields,
            key,
            envelope,
            flat: None,
            flat_row,
        };
        if (relation.shape, format.envelope) == (Shape::Documents, Envelope::Flat) {
            let (made, topic) = (&draft.made, draft.topic_name());
            draft.flat = Some(FlatPlan::new(format, relation, made, &names.logical, topic)?);
        }
        Ok(draft)
    }

    /// The topic of every record or, where rows choose, the name that stands for all of them.
    pub(crate) fn topic_name(&self) -> &str {
        match self.route.and_then(|route| route.topic.as_ref()) {
            Some(TopicRule::Fixed(name)) => name,
            _ => &self.topic_name,
        }
    }

    pub(crate) fn key_text(&self) -> Option<String> {
        self.key.as_ref().map(|schema| avro_schema::text(schema, self.adjusts_names()))
    }

    pub(crate) fn value_text(&self) -> String {
        avro_schema::text(&self.envelope, self.adjusts_names())
    }

    fn adjusts_names(&self) -> bool {
        self.format.dialect == Dialect::Millrace
    }

    /// How rows choose their topic; `None` where there is one for all.
    pub(crate) fn choice(&self) -> Option<TopicRule> {
        match self.route.and_then(Route::rule)?.into_owned() {
            TopicRule::Fixed(_) => None,
            rule => Some(rule),
        }
    }

    /// What the route asks of each row.
    pub(crate) fn asks(&self) -> Result<Asks> {
        let relation = self.relation;
        let headers = self.made.headers.clone();
        let Some(route) = self.route else { return Ok(Asks { headers, ..Asks::default() }) };
        self.must_not_show(route)?;
        let filter = route.filter.as_ref().map(|filter| self.filter(filter)).transpose()?;
        let mut texts = Vec::new();
        for (name, text) in route.header_texts.iter().filter(|(name, _)| !self.made.drops_header(name)) {
            header::put(&mut texts, name, |out| out.extend_from_slice(text.as_bytes()));
        }
        let mut names = RowNames::of(route, relation);
        let mut find = |name: &str| names.find(name).ok_or_else(|| outbox::misfit(relation, name));
        let rule = self.choice();
        let columns = rule.iter().flat_map(TopicRule::columns).map(&mut find).collect::<Result<Vec<_>>>()?;
        let choice = rule.map(|rule| (rule, columns));
        let Some(settings) = route.outbox.as_ref() else {
            let mut headers = headers;
            for header in route.headers.iter().filter(|header| !self.made.drops_header(&header.name)) {
                match find(&header.column) {
                    Ok(index) => headers.push((header.name.clone(), index)),
                    Err(_) if header.optional => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(Asks { choice, headers, texts, filter, ..Asks::default() });
        };
        let subject = settings.schemas.iter().flat_map(|schemas| schemas.subject.columns());
        let subject = subject.map(&mut find).collect::<Result<Vec<_>>>()?;
        let mut plan = OutboxPlan::compile(route, settings, relation, &mut names)?;
        if let Some(routed) = &settings.routed {
            plan.routed = Some(Box::new(RoutedPlan::compile(self, route, (settings, routed), &mut names)?));
        }
        let plan = plan.with_document(settings, relation, names)?;
        let typed = settings.schemas.as_ref().map(|schemas| Typed::new(schemas, subject, plan.derived()));
        Ok(Asks { choice, headers: Vec::new(), outbox: Some(plan), typed, texts, filter })
    }

    fn filter(&self, filter: &Filter) -> Result<Bound> {
        let (relation, name) = (self.relation, self.relation.full_name());
        if relation.shape == Shape::Documents {
            return Err(Error::config(format!("collection {name} has no columns to filter by"))
                .hint("take `filter` out of its [[route]]"));
        }
        filter.bind(relation).map_err(|column| outbox::misfit(relation, &column))
    }

    /// Headers, topics, payloads and the keys of events are made of whole values.
    fn must_not_show(&self, route: &Route) -> Result<()> {
        let columns = self.relation.columns.iter().enumerate();
        for (index, column) in columns.filter(|(_, column)| route.names(&column.name)) {
            let in_row = self.made.row.iter().find(|member| member.index == index);
            let by_step = in_row.and_then(|member| member.disguise.clone());
            let by = by_step.or(disguise(self.format, self.relation, column)?);
            if by.is_some_and(|by| by.is_secret()) {
                let (table, name) = (self.relation.full_name(), &column.name);
                return Err(Error::config(format!(
                    "column {table}.{name} is masked or encrypted, and its [[route]] shows it"
                ))
                .hint("let the route name another column, or take this one out of the columns to hide in [format]"));
            }
        }
        Ok(())
    }

    pub(crate) fn compile(self, ids: SchemaIds, target: Target, copies: Vec<Place>, asks: Asks) -> Plan {
        match self.format.encoding {
            Encoding::Avro => self.compile_for::<Avro>(ids, target, copies, asks),
            Encoding::Json { .. } => self.compile_for::<Json>(ids, target, copies, asks),
        }
    }

    fn compile_for<W: Writer>(self, ids: SchemaIds, target: Target, copies: Vec<Place>, asks: Asks) -> Plan {
        let relation = self.relation;
        let key = self.key.as_ref().map(|schema| {
            let (head, foot) = frame(self.format.encoding, schema, ids.key);
            RowPlan::compile::<W>(&self, &self.made.key, &head).closed::<W>(&self.key_fields, foot)
        });
        let header_key = key.is_some().then(|| RowPlan::for_header(&self, &self.made.key_columns));
        let (head, foot) = frame(self.format.encoding, &self.envelope, ids.value);
        // A flat value is the row with the frame around it; in an envelope the frame is the envelope's.
        let row_head: &[u8] = if self.flat_row.is_some() { &head } else { b"" };
        let mut row = RowPlan::compile::<W>(&self, &self.made.row, row_head);
        if self.flat_row.is_none() {
            row = row.closed::<W>(&self.made.inserted, b"");
        }
        let is_empty = row.columns.is_empty();
        let flat_row = self.flat_row.map(|parts| parts.compile::<W>(is_empty, &self.made, foot));
        Plan {
            version: relation.version,
            table: relation.full_name(),
            format: Format {
                routes: Vec::new(),
                // A message is none of the operations that can be skipped.
                skipped: Skipped {
                    all: self.made.is_discarded,
                    ..if relation.shape == Shape::Messages { Skipped::default() } else { self.format.skipped }
                },
                ..self.format.clone()
            },
            row,
            // Debezium's monitor of messages is beside whatever adds these.
            context: {
                let has_context = self.format.has_context_headers() && relation.shape != Shape::Messages;
                header::beside(self.format, relation, &self.made, has_context)
            },
            key,
            header_key,
            key_columns: self.made.key_columns.iter().map(|member| member.index).collect(),
            envelope: EnvelopePlan::compile::<W>(
                relation,
                &head,
                self.format.transactions.is_some(),
                self.format.dialect,
            ),
            update: (relation.shape == Shape::Documents).then(UpdatePlan::compile::<W>),
            message: (relation.shape == Shape::Messages).then(|| MessagePlan::compile::<W>(&head, foot)),
            flat: self.flat,
            flat_row,
            tail: Tail::new(self.format.encoding),
            target,
            copies,
            hidden: hidden(self.format, relation, &self.made),
            spread: self.made.spread,
            dropped_headers: self.made.dropped_headers,
            outbox: asks.outbox,
            typed: asks.typed,
            texts: asks.texts,
            filter: asks.filter,
            headers: asks.headers,
            widened: self.widened,
            schema_id: (ids.value > 0).then_some(ids.value),
            is_stale: false,
            gate: Gate::Open,
        }
    }
}

/// What stands before and after a key or a value.
pub(crate) fn frame(encoding: Encoding, schema: &Schema, id: u32) -> (Vec<u8>, &'static [u8]) {
    match encoding {
        Encoding::Avro => ([&[0][..], &id.to_be_bytes()].concat(), b""),
        Encoding::Json { schemas: false } => (Vec::new(), b""),
        Encoding::Json { schemas: true } => {
            (format!("{{\"schema\":{},\"payload\":", json_schema::text(schema)).into_bytes(), b"}")
        }
    }
}

/// Whether the schema lets a column be null.
pub(super) fn is_nullable(relation: &Relation, widened: &[usize], index: usize, format: &Format) -> bool {
    let column = relation.columns.get(index);
    column.is_some_and(|column| column.nullable || is_always_nullable(column, format))
        || widened.contains(&index)
}

/// Debezium's schemas let every `geometry` be null, whatever the table says, and no other type.
fn is_always_nullable(column: &Column, format: &Format) -> bool {
    format.dialect == Dialect::Debezium && column.kind == Kind::Geometry
}

/// The schema of a value.
fn envelope(format: &Format, relation: &Relation, names: &Names, row: Vec<Field>) -> Result<Schema> {
    Ok(match (relation.shape, format.envelope) {
        (Shape::Rows, Envelope::Debezium) => names.envelope(row, &relation.source),
        (Shape::Documents, Envelope::Debezium) => names.document_envelope(&relation.source),
        // There is no row in a message that could stand alone: it is passed as it is, as by Debezium's transform.
        (Shape::Messages, Envelope::Debezium | Envelope::Flat) => {
            Names::message_envelope(row, &relation.source)
        }
        (Shape::Messages, Envelope::Outbox) => {
            return Err(Error::config("events of logical messages take no envelope but Debezium's")
                .hint("name the prefix in messages of [source.postgres] to have its messages as rows"));
        }
        // Of documents never written: an event is its own value, and so is a flat document.
        (Shape::Rows | Shape::Documents, Envelope::Flat | Envelope::Outbox) => names.value(row),
    })
}

/// Members with their columns.
fn columns_of<'a>(
    relation: &'a Relation,
    members: &'a [Member],
) -> impl Iterator<Item = (&'a Member, &'a Column)> {
    members.iter().filter_map(|member| Some((member, relation.columns.get(member.index)?)))
}

/// A field that is the same in every row.
fn constant(field: &Inserted) -> Field {
    Field::new(&field.name, Schema { optional: field.optional, ..Schema::new(Base::String) })
}

/// The end of a struct, with these fields before it. `is_first`: it has no others.
pub(super) fn closing<W: Writer>(fields: &[Inserted], is_first: bool, foot: &[u8]) -> Lead {
    let mut close = Vec::new();
    for (place, field) in fields.iter().enumerate() {
        let union = if field.optional { Union::NullFirst } else { Union::Required };
        close.extend(W::lead(&field.name, is_first && place == 0, union));
        W::string(&mut close, field.text.as_bytes());
    }
    [&close, W::STRUCT_CLOSE, foot].concat().into()
}

impl RowPlan {
    /// Open, until it is closed.
    fn compile<W: Writer>(draft: &Draft<'_>, members: &[Member], head: &[u8]) -> Self {
        let column = |(place, (member, column)): (usize, (&Member, &Column))| {
            let nullable = is_nullable(draft.relation, &draft.widened, member.index, draft.format);
            let mut plan = ColumnPlan::compile::<W>(draft.format, member, column, nullable, place == 0);
            if let Some(r#type) = &member.r#type {
                plan.r#type.clone_from(r#type);
            }
            // Puts on the disguises that the file asks for.
            let is_key = draft.made.is_of_key(member.index);
            let lacks = |disguise: &&Disguise| draft.format.worn.lacks(&column.name, is_key, disguise);
            if let Some(disguise) = member.disguise.as_ref().filter(lacks) {
                let default = field(column, nullable, draft.format).2;
                plan.disguise::<W>(disguise.clone(), draft.format, default);
            }
            plan
        };
        Self {
            open: [head, W::STRUCT_OPEN].concat().into(),
            columns: columns_of(draft.relation, members).enumerate().map(column).collect(),
            close: Lead::from(Vec::new()),
        }
    }
}

impl RowPlan {
    /// A key as a header shows it: Connect's simple converter prints a decimal as it reads.
    fn for_header(draft: &Draft<'_>, key: &[Member]) -> Self {
        let mut plan = Self::compile::<Json>(draft, key, b"").closed::<Json>(&[], b"");
        if draft.format.dialect == Dialect::Debezium {
            for column in
                plan.columns.iter_mut().filter(|column| matches!(column.r#type, Type::Decimal { .. }))
            {
                column.r#type = Type::Rare(Rare::Digits);
            }
        }
        plan
    }

    /// With these fields behind its columns.
    fn closed<W: Writer>(self, fields: &[Inserted], foot: &[u8]) -> Self {
        Self { close: closing::<W>(fields, self.columns.is_empty(), foot), ..self }
    }
}

impl ColumnPlan {
    fn disguise<W: Writer>(&mut self, disguise: Disguise, format: &Format, default: Option<&str>) {
        let field = |text: &str| {
            let mut out = Vec::new();
            self.lead.put(&mut out);
            disguise.write::<W>(text.as_bytes(), &mut out, &mut Vec::new());
            Lead::from(out)
        };
        self.unchanged = field(&format.placeholder);
        if disguise.hides_null() {
            self.absent = field("");
            self.null = self.null.is_some().then(|| field(""));
        }
        // Whoever opens what is no NULL opens what stands for a value that is not there, too.
        if matches!(disguise, Disguise::Encrypt(_)) {
            match (self.null.is_some(), default, format.dialect) {
                (true, None, _) | (true, _, Dialect::Millrace) => {}
                (true, Some(default), Dialect::Debezium) => {
                    (self.null, self.absent) = (Some(field(default)), field(default));
                }
                (false, default, _) => self.absent = field(default.unwrap_or_default()),
            }
        }
        self.r#type = Type::Disguised(Box::new(disguise));
    }

    fn compile<W: Writer>(
        format: &Format,
        member: &Member,
        column: &Column,
        nullable: bool,
        is_first: bool,
    ) -> Self {
        let (r#type, _, default) = field(column, nullable, format);
        let union = match (nullable, default) {
            (false, _) => Union::Required,
            (true, None) => Union::NullFirst,
            (true, Some(_)) => Union::NullLast,
        };
        let name = member.name.as_str();
        let lead = W::lead(name, is_first, union);
        let value = |r#type: &Type, text: &str| {
            let mut out = lead.clone();
            let written = write::<W>(r#type, text.as_bytes(), &mut out, &mut Scratch::default());
            debug_assert!(written.is_ok(), "{text} is no {type:?}");
            out
        };
        let null = match (nullable, default, format.dialect) {
            (false, ..) => None,
            // Debezium's converters write the default for a null.
            (true, Some(default), Dialect::Debezium) => Some(value(&r#type, default)),
            (true, ..) => Some(W::null(name, is_first, union)),
        };
        let absent = match (&null, default, &r#type) {
            // Where the table does not let it be null, the zero is written all the same.
            (Some(_), None, _) if !column.nullable && is_always_nullable(column, format) => {
                value(&r#type, zero(&r#type))
            }
            (Some(null), ..) => null.clone(),
            (None, Some(default), _) => value(&r#type, default),
            // Debezium's zero has no fraction.
            (None, None, Type::TimestampTz { .. }) => {
                value(&Type::TimestampTz { precision: 0 }, zero(&r#type))
            }
            // And this one the column's scale.
            (None, None, Type::DecimalText { java: true }) => value(&r#type, &scaled_zero(&column.kind)),
            (None, None, _) => value(&r#type, zero(&r#type)),
        };
        let mut unchanged = lead.clone();
        if !write_placeholder::<W>(&r#type, &format.placeholder, &mut unchanged) {
            unchanged.clone_from(&absent);
        }
        Self {
            index: member.index,
            name: name.into(),
            lead: lead.into(),
            null: null.map(Into::into),
            absent: absent.into(),
            unchanged: unchanged.into(),
            r#type,
        }
    }
}
