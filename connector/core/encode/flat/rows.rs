//! The flat envelope of rows: a record's value is the row itself with what the file adds to it, as Debezium's
//! ExtractNewRecordState makes it. Start at `Pass::flat_record` and `Pass::flat_delete`.

use super::added::{Facts, Taken};
use super::node::Node;
use super::{DELETED, Deletes, write};
use crate::batch::{Op, Span};
use crate::encode::change::{Context, Event, Fault, Moved, Pass, row_fault};
use crate::encode::connect::{Base, Field, Schema};
use crate::encode::plan::closing;
use crate::encode::row::{RowCells, write_row};
use crate::encode::short::Lead;
use crate::encode::steps::Made;
use crate::encode::value::{Union, Writer};
use crate::encode::{Dialect, Format, reject};
use crate::error::{Error, Result};
use crate::relation::Relation;

/// What stands beside the row, before it is known how it is written.
pub(crate) struct RowParts {
    deletes: Deletes,
    fields: Vec<(Field, Taken)>,
    headers: Vec<(String, Taken)>,
}

/// What is decided once per relation.
#[derive(Debug)]
pub(crate) struct FlatRowPlan {
    deletes: Deletes,
    /// The field that says whether the row is gone: `false`, `true`.
    deleted: Option<[Lead; 2]>,
    fields: Vec<FieldPlan>,
    close: Lead,
    headers: Vec<(String, Taken)>,
}

#[derive(Debug)]
struct FieldPlan {
    lead: Lead,
    null: Lead,
    taken: Taken,
}

impl RowParts {
    /// Fails where a part is asked for that events of this table do not have, or a name that a column has.
    pub(crate) fn new(format: &Format, relation: &Relation, made: &Made, row: &[Field]) -> Result<Self> {
        let mut parts = Self { deletes: format.flat.deletes, fields: Vec::new(), headers: Vec::new() };
        for added in &format.flat.fields {
            let (schema, taken) = Taken::of(added, relation, format.dialect)?;
            parts.fields.push((Field::new(added.name.clone(), schema), taken));
        }
        for added in format.flat.headers.iter().filter(|added| !made.drops_header(&added.name)) {
            parts.headers.push((added.name.clone(), Taken::of(added, relation, format.dialect)?.1));
        }
        let mut names: Vec<&str> = row.iter().map(|field| field.name.as_str()).collect();
        names.extend(made.inserted.iter().map(|field| field.name.as_str()));
        for name in parts.deletes.rewrites().then_some(DELETED).into_iter().chain(parts.names()) {
            if names.contains(&name) {
                return Err(Error::config(format!(
                    "table {} has a field {name} already, and [format.flat] adds one",
                    relation.full_name()
                ))
                .hint("give it another name: `source.ts_ms:at`, or add_fields_prefix"));
            }
            names.push(name);
        }
        Ok(parts)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(field, _)| field.name.as_str())
    }

    /// The fields behind those of the row.
    pub(crate) fn fields(&self) -> impl Iterator<Item = Field> {
        let deleted = || Field::new(DELETED, Schema::new(Base::String).optional());
        let added = self.fields.iter().map(|(field, _)| field.clone());
        self.deletes.rewrites().then(deleted).into_iter().chain(added)
    }

    /// `is_first`: the row has no columns of its own.
    pub(crate) fn compile<W: Writer>(self, is_first: bool, made: &Made, foot: &[u8]) -> FlatRowPlan {
        let deleted = self.deletes.rewrites().then(|| {
            [b"false".as_slice(), b"true"].map(|text| {
                let mut out = W::lead(DELETED, is_first, Union::NullFirst);
                W::string(&mut out, text);
                Lead::from(out)
            })
        });
        let mut is_first = is_first && deleted.is_none();
        let field = |(field, taken): (Field, Taken)| {
            let first = std::mem::replace(&mut is_first, false);
            FieldPlan {
                lead: W::lead(&field.name, first, Union::NullFirst).into(),
                null: W::null(&field.name, first, Union::NullFirst).into(),
                taken,
            }
        };
        let fields = self.fields.into_iter().map(field).collect();
        FlatRowPlan {
            deletes: self.deletes,
            deleted,
            fields,
            close: closing::<W>(&made.inserted, is_first, foot),
            headers: self.headers,
        }
    }
}

impl FlatRowPlan {
    fn put<W: Writer>(&self, facts: &Facts<'_>, out: &mut Vec<u8>) {
        if let Some([there, gone]) = &self.deleted {
            if facts.op == Op::Delete { gone.put(out) } else { there.put(out) }
        }
        for field in &self.fields {
            let start = out.len();
            field.lead.put(out);
            let node = field.taken.node(facts);
            // Nulls, and nothing else, are no scalars here.
            if matches!(node, Node::Null) || write::put_scalar::<W>(&node, out).is_err() {
                out.truncate(start);
                field.null.put(out);
            }
        }
        self.close.put(out);
    }
}

impl<'a> Pass<'a> {
    /// A row as it is now; of a delete, as it was. Gives the place of its key.
    pub(crate) fn flat_record<W: Writer>(
        &mut self,
        context: Context<'a>,
        flat: &'a FlatRowPlan,
        (sub, op): (u32, Op),
        event: Event<'a>,
        moved: Option<Moved<'a>>,
    ) -> std::result::Result<Option<Span>, Fault> {
        let facts = self.facts(context, op);
        self.flat_record_of::<W>(context, flat, (sub, &facts), event, moved)
    }

    fn flat_record_of<W: Writer>(
        &mut self,
        context: Context<'a>,
        flat: &'a FlatRowPlan,
        (sub, facts): (u32, &Facts<'a>),
        event: Event<'a>,
        moved: Option<Moved<'a>>,
    ) -> std::result::Result<Option<Span>, Fault> {
        let Some(row) = event.after.or(event.before) else { return Ok(None) };
        let key = self.flat_key::<W>(context, row)?;
        let start = self.out.bytes.len();
        let notes = if event.after.is_some() { &mut self.room.after } else { &mut self.room.before };
        let (out, scratch) = (&mut self.out.bytes, &mut self.room.scratch);
        write_row::<W>(&context.plan.row, self.batch, row, out, scratch, Some(notes))
            .map_err(|fault| row_fault(context, fault))?;
        flat.put::<W>(facts, out);
        let value = self.span(context, start)?;
        self.add_headers(flat, facts);
        let view = self.view(row);
        let headers = self.headers(context, sub, view, moved, Some(value));
        // They are of this record alone, whatever became of it.
        self.room.added.clear();
        self.push(context, view, key, Some(value), headers?)?;
        Ok(key)
    }

    /// What the file makes of a row that is gone. Gives the number of records.
    pub(crate) fn flat_delete<W: Writer>(
        &mut self,
        context: Context<'a>,
        flat: &'a FlatRowPlan,
        old: RowCells<'a>,
        moved: Option<Moved<'a>>,
    ) -> std::result::Result<u32, Fault> {
        match flat.deletes {
            Deletes::Drop => {
                // It counts in its transaction all the same.
                let _ = self.number(context);
                Ok(0)
            }
            Deletes::Tombstone => {
                let key = self.flat_key::<W>(context, old)?;
                if key.is_none() && context.plan.format.dialect == Dialect::Millrace {
                    return Err(reject::no_key(context.plan, context.change.mark).into());
                }
                let facts = self.facts(context, Op::Delete);
                self.add_headers(flat, &facts);
                self.flat_tombstone(context, 0, key, old, moved)?;
                Ok(1)
            }
            Deletes::Rewrite | Deletes::RewriteWithTombstone => {
                let event = Event { op: b'd', before: Some(old), after: None };
                let facts = self.facts(context, Op::Delete);
                let key = self.flat_record_of::<W>(context, flat, (0, &facts), event, moved)?;
                let has_tombstone = flat.deletes == Deletes::RewriteWithTombstone;
                if !has_tombstone || !context.plan.format.tombstones || key.is_none() {
                    return Ok(1);
                }
                // In Debezium the two records have their headers in common.
                self.add_headers(flat, &facts);
                self.flat_tombstone(context, 1, key, old, moved)?;
                Ok(2)
            }
        }
    }

    fn flat_tombstone(
        &mut self,
        context: Context<'a>,
        sub: u32,
        key: Option<Span>,
        old: RowCells<'a>,
        moved: Option<Moved<'a>>,
    ) -> std::result::Result<(), Fault> {
        let pushed = self.tombstone(context, sub, key, old, moved);
        self.room.added.clear();
        pushed
    }

    fn flat_key<W: Writer>(
        &mut self,
        context: Context<'a>,
        row: RowCells<'a>,
    ) -> std::result::Result<Option<Span>, Fault> {
        self.room.before.clear();
        self.room.after.clear();
        context.plan.key.as_ref().map(|plan| self.key::<W>(context, plan, row)).transpose()
    }

    fn facts(&mut self, context: Context<'a>, op: Op) -> Facts<'a> {
        let numbers = self.number(context).map(|numbers| (numbers, self.transaction_name(context)));
        Facts {
            batch: self.batch,
            change: context.change,
            op,
            transaction: context.transaction,
            now_us: self.now_us,
            numbers,
        }
    }

    fn add_headers(&mut self, flat: &FlatRowPlan, facts: &Facts<'_>) {
        self.room.added.clear();
        for (name, taken) in &flat.headers {
            taken.put_header(facts, name, &mut self.room.added);
        }
    }
}
