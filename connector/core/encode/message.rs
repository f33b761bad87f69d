//! Messages that an application wrote into the log itself: a record is keyed by the prefix, and its value is
//! Debezium's envelope of them. Start at `Pass::message`.

use super::change::{Context, Fault, Pass, row_fault};
use super::row::{RowCells, write_row};
use super::short::Lead;
use super::target::View;
use super::value::{Union, Writer};
use crate::batch::{Cell, Span};

/// Around a message: before its time, and after it.
#[derive(Debug)]
pub(crate) struct MessagePlan {
    pub open: Lead,
    pub close: Lead,
}

impl MessagePlan {
    pub(crate) fn compile<W: Writer>(head: &[u8], foot: &[u8]) -> Self {
        let op = [&W::lead("op", true, Union::Required), W::OP_OPEN, b"m", W::OP_CLOSE].concat();
        let time = W::lead("ts_ms", false, Union::NullFirst);
        Self {
            open: [head, W::STRUCT_OPEN, &op, &time].concat().into(),
            close: [W::STRUCT_CLOSE, foot].concat().into(),
        }
    }
}

impl<'a> Pass<'a> {
    pub(crate) fn message<W: Writer>(
        &mut self,
        context: Context<'a>,
        message: &'a MessagePlan,
    ) -> Result<(), Fault> {
        let cells = self.cells(context, context.change.after)?;
        let row = RowCells { cells, old: &[], is_identity: false };
        let key = match &context.plan.key {
            Some(plan) => Some(self.key::<W>(context, plan, row)?),
            None => None,
        };
        let value = self.message_value::<W>(context, message, row)?;
        let view = View { bytes: &self.batch.bytes, cells: &[] as &[Cell] };
        let headers = self.headers(context, 0, view, None, Some(value))?;
        self.push(context, view, key, Some(value), headers)
    }

    fn message_value<W: Writer>(
        &mut self,
        context: Context<'_>,
        message: &MessagePlan,
        row: RowCells<'_>,
    ) -> Result<Span, Fault> {
        self.room.before.clear();
        self.room.after.clear();
        let numbers = self.number(context);
        let envelope = &context.plan.envelope;
        let start = self.out.bytes.len();
        let out = &mut self.out.bytes;
        message.open.put(out);
        W::long(out, self.now_us / 1000);
        self.room.source.put::<W>(context.plan, self.batch, context.change, context.transaction, out);
        match (&envelope.block, numbers) {
            (Some(block), Some(numbers)) => self.put_block::<W>(context, block, numbers),
            _ => envelope.op_lead.put(out),
        }
        let (out, scratch) = (&mut self.out.bytes, &mut self.room.scratch);
        write_row::<W>(&context.plan.row, self.batch, row, out, scratch, None)
            .map_err(|fault| row_fault(context, fault))?;
        message.close.put(out);
        self.span(context, start)
    }
}
