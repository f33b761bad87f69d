//! Changes of documents: a record's key is the id, its value Debezium's envelope around JSON text, and its
//! headers say what the envelope has no field for (`image`, `operation`, in our own dialect; which connector
//! and which run of it, in Debezium's).

use super::change::{Context, Fault, Pass};
use super::lexical::number;
use super::reject;
use super::row::RowCells;
use super::short::Lead;
use super::target::View;
use super::value::{Union, Writer};
use super::{Dialect, header};
use crate::batch::{Cell, Op, Span, Tag, document};

/// What an update of a document set, removed and cut off.
#[derive(Debug)]
pub(crate) struct UpdatePlan {
    pub null: Lead,
    pub removed: OptionPlan,
    pub updated: OptionPlan,
    pub truncated: OptionPlan,
    pub close: Lead,
    /// Around each truncated array: before its name, before its size, after it.
    pub array: [Lead; 3],
}

/// An optional field.
#[derive(Debug)]
pub(crate) struct OptionPlan {
    pub value: Lead,
    pub null: Lead,
}

impl UpdatePlan {
    pub(crate) fn compile<W: Writer>() -> Self {
        let option = |before: &[u8], name, is_first| OptionPlan {
            value: [before, &W::lead(name, is_first, Union::NullFirst)].concat().into(),
            null: [before, &W::null(name, is_first, Union::NullFirst)].concat().into(),
        };
        let open = [&W::lead("updateDescription", false, Union::NullFirst), W::STRUCT_OPEN].concat();
        Self {
            null: W::null("updateDescription", false, Union::NullFirst).into(),
            removed: option(&open, "removedFields", true),
            updated: option(b"", "updatedFields", false),
            truncated: option(b"", "truncatedArrays", false),
            close: W::STRUCT_CLOSE.to_vec().into(),
            array: [
                [W::STRUCT_OPEN, &W::lead("field", true, Union::Required)].concat().into(),
                W::lead("size", false, Union::Required).into(),
                W::STRUCT_CLOSE.to_vec().into(),
            ],
        }
    }
}

impl<'a> Pass<'a> {
    pub(crate) fn document<W: Writer>(
        &mut self,
        context: Context<'a>,
        update: &'a UpdatePlan,
    ) -> Result<(), Fault> {
        let change = context.change;
        let cells = self.cells(context, change.after)?;
        let op = match change.op {
            Op::Insert => b'c',
            Op::Update => b'u',
            Op::Delete => b'd',
            Op::Read => b'r',
            Op::Truncate if context.plan.format.truncates => b't',
            Op::Truncate => return Ok(()),
        };
        let key = match (&context.plan.key, change.op) {
            (_, Op::Truncate) | (None, _) => None,
            (Some(plan), _) => {
                let row = RowCells { cells, old: &[], is_identity: false };
                Some(self.key::<W>(context, plan, row)?)
            }
        };
        let value = self.document_value::<W>(context, update, cells, op)?;
        let headers = self.document_headers(context, cells, (0, &[]), Some(value))?;
        let row = View { bytes: &self.batch.bytes, cells };
        self.push(context, row, key, Some(value), headers)?;
        if change.op == Op::Delete && context.plan.format.tombstones && key.is_some() {
            let headers = self.document_headers(context, &[], (1, &[]), None)?;
            self.push(context, row, key, None, headers)?;
        }
        Ok(())
    }

    fn document_value<W: Writer>(
        &mut self,
        context: Context<'_>,
        update: &UpdatePlan,
        cells: &[Cell],
        op: u8,
    ) -> Result<Span, Fault> {
        let envelope = &context.plan.envelope;
        let numbers = self.number(context);
        let start = self.out.bytes.len();
        let out = &mut self.out.bytes;
        for (index, lead, null) in [
            (document::BEFORE, &envelope.before_lead, &envelope.before_null),
            (document::AFTER, &envelope.after_lead, &envelope.after_null),
        ] {
            match part(cells, index) {
                None => null.put(out),
                Some(cell) => {
                    lead.put(out);
                    W::string(out, self.batch.text(cell));
                }
            }
        }
        self.description::<W>(context, update, cells)?;
        let out = &mut self.out.bytes;
        self.room.source.put::<W>(context.plan, self.batch, context.change, context.transaction, out);
        envelope.op_lead.put(out);
        out.push(op);
        out.extend_from_slice(&self.room.document_tail);
        match (&envelope.block, numbers) {
            (Some(block), Some(numbers)) => {
                self.put_block::<W>(context, block, numbers);
                context.plan.tail.document_close.put(&mut self.out.bytes);
            }
            _ => context.plan.tail.document_end.put(out),
        }
        self.span(context, start)
    }

    fn description<W: Writer>(
        &mut self,
        context: Context<'_>,
        plan: &UpdatePlan,
        cells: &[Cell],
    ) -> Result<(), Fault> {
        let [updated, removed, truncated] =
            [document::UPDATED, document::REMOVED, document::TRUNCATED].map(|index| part(cells, index));
        if updated.is_none() && removed.is_none() && truncated.is_none() {
            plan.null.put(&mut self.out.bytes);
            return Ok(());
        }
        self.list::<W>(context, &plan.removed, removed, 1, |out, names| {
            W::string(out, names.first().copied().unwrap_or_default());
        })?;
        match updated {
            None => plan.updated.null.put(&mut self.out.bytes),
            Some(cell) => {
                plan.updated.value.put(&mut self.out.bytes);
                W::string(&mut self.out.bytes, self.batch.text(cell));
            }
        }
        let [before_name, before_size, after] = &plan.array;
        self.list::<W>(context, &plan.truncated, truncated, 2, |out, pair| {
            let [name, size] = pair else { return };
            before_name.put(out);
            W::string(out, name);
            before_size.put(out);
            // Printed by the source from a number that fits.
            W::int(out, number::int(size).ok().and_then(|size| i32::try_from(size).ok()).unwrap_or_default());
            after.put(out);
        })?;
        plan.close.put(&mut self.out.bytes);
        Ok(())
    }

    /// A list of which each element takes `width` texts.
    fn list<W: Writer>(
        &mut self,
        context: Context<'_>,
        plan: &OptionPlan,
        cell: Option<Cell>,
        width: usize,
        mut put: impl FnMut(&mut Vec<u8>, &[&[u8]]),
    ) -> Result<(), Fault> {
        let out = &mut self.out.bytes;
        let Some(cell) = cell else {
            plan.null.put(out);
            return Ok(());
        };
        plan.value.put(out);
        let elements = &mut self.room.scratch.elements;
        elements
            .parse(self.batch.text(cell), b',')
            .map_err(|_| reject::malformed_list(context.plan, context.change.mark))?;
        let texts: Vec<&[u8]> = elements.iter().map(Option::unwrap_or_default).collect();
        let count = texts.len() / width;
        W::array_start(out, count);
        for (index, element) in texts.chunks_exact(width).enumerate() {
            W::element(out, index, None);
            put(out, element);
        }
        W::array_end(out, count);
        Ok(())
    }

    /// `added` are headers that the format asks for.
    pub(crate) fn document_headers(
        &mut self,
        context: Context<'_>,
        cells: &[Cell],
        (sub, added): (u32, &[u8]),
        value: Option<Span>,
    ) -> Result<Span, Fault> {
        let start = self.out.bytes.len();
        if context.plan.format.dialect == Dialect::Millrace {
            header::put_position(&mut self.out.bytes, context.change.mark, sub);
            for (index, name) in [(document::IMAGE, "image"), (document::OPERATION, "operation")] {
                if let Some(cell) = part(cells, index) {
                    let text = self.batch.text(cell);
                    header::put(&mut self.out.bytes, name, |out| out.extend_from_slice(text));
                }
            }
        }
        self.out.bytes.extend_from_slice(&context.plan.texts);
        self.out.bytes.extend_from_slice(&context.plan.context);
        self.out.bytes.extend_from_slice(added);
        self.sign(context, value);
        self.span(context, start)
    }
}

fn part(cells: &[Cell], index: usize) -> Option<Cell> {
    cells.get(index).copied().filter(|cell| cell.tag == Tag::Text)
}
