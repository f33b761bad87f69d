//! Which table's new rows are signals, and what they hold. Start at `SignalTable`.

use std::collections::VecDeque;

use millrace_core::batch::{ChangeBatch, Row, Value};
use millrace_core::position::Mark;
use millrace_core::signal::inserted::{Heard, Inserted};

use crate::tables::TableName;

/// Which table it is, and what was inserted into it.
#[derive(Debug, Default)]
pub struct SignalTable {
    name: Option<TableName>,
    /// As the stream describes it; a table that was made anew has another one.
    oid: Option<u32>,
    pub rows: Inserted,
}

impl SignalTable {
    /// `waiting`: what is left over from before.
    pub fn new(name: Option<TableName>, waiting: VecDeque<Heard>) -> Self {
        Self { name, oid: None, rows: Inserted::new(waiting) }
    }

    pub fn define(&mut self, oid: u32, schema: &str, table: &str) {
        if self.name.as_ref().is_some_and(|name| name.schema == schema && name.table == table) {
            self.oid = Some(oid);
        }
    }

    pub fn is(&self, oid: u32) -> bool {
        self.oid == Some(oid)
    }

    /// Its columns are the id, the type and the data, whatever their names.
    pub fn hear(&mut self, batch: &ChangeBatch, row: Row, mark: Mark) {
        let text = |index: usize| {
            let cell = batch.cells_of(row).get(index).copied();
            match cell.map(|cell| batch.value(cell)) {
                Some(Value::Text(text)) => String::from_utf8_lossy(text).into_owned(),
                Some(Value::Null | Value::Unchanged) | None => String::new(),
            }
        };
        self.rows.hear(Heard::new(mark, text(0), text(1), text(2)));
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::batch::{Cell, Tag};
    use millrace_core::signal::inserted;

    use super::*;

    #[test]
    fn a_row_of_the_table_is_a_signal_and_data_may_be_null() {
        let mut batch = ChangeBatch { bytes: b"onepause-snapshot".to_vec(), ..ChangeBatch::default() };
        for (start, len, tag) in [(0, 3, Tag::Text), (3, 14, Tag::Text), (0, 0, Tag::Null)] {
            batch.cells.push(Cell { start, len, tag });
        }
        let mut table = SignalTable::new(Some(TableName::new("public", "signals")), VecDeque::new());
        table.define(7, "public", "orders");
        table.define(8, "public", "signals");
        assert!(table.is(8) && !table.is(7));
        table.hear(&batch, Row { start: 0, len: 3 }, Mark::default());
        table.rows.committed();
        let (to, mut from) = inserted::way();
        table.rows.tell(&to);
        assert_eq!(from.try_recv().unwrap().signal().map(|signal| signal.id), Some("one".to_owned()));
    }
}
