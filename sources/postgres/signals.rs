//! Signals that come as rows of a table of the database. Start at `SignalTable`.
//!
//! A row is heard where its transaction ends, and noted in the batch whose position covers it; what it asked for
//! is noted in the batch that takes that note away. So a crash at any place hears it again or finds it done.

use std::collections::VecDeque;

use millrace_core::batch::{ChangeBatch, Row, Value};
use millrace_core::position::{Mark, Note, Notes};
use millrace_core::signal::{self, Signal};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::sync::mpsc;

use crate::tables::TableName;

/// What the key of a row's note begins with.
const NOTED: &str = "signal ";

/// Rows on the way from the stream to the source.
const WAY: usize = 64;

/// Rows that wait for that way: many times more than somebody types while one is followed.
const WAITING_MAX: usize = 256;

/// A note has to fit into a record; Debezium's own table has 2048 characters for the data.
const ROW_BYTES_MAX: usize = 64 * 1024;

/// A row of the table, as it was inserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Of its note: its place in the log, because nothing keeps ids apart.
    #[serde(skip)]
    pub key: String,
    id: String,
    r#type: String,
    data: String,
}

impl Heard {
    /// Those that were heard before a crash and are not done, in their order.
    pub fn noted(notes: &Notes) -> VecDeque<Self> {
        let found = notes.range(NOTED.to_owned()..).take_while(|(key, _)| key.starts_with(NOTED));
        let row = |(key, text): (&String, &String)| {
            let heard = serde_json::from_str::<Self>(text).ok()?;
            Some(Self { key: key.clone(), ..heard })
        };
        found.filter_map(row).collect()
    }

    /// `None` where it is not understood: that is told here.
    pub fn signal(&self) -> Option<Signal> {
        let data = Json::String(self.data.clone());
        let signal = signal::parse(&*self.id, &self.r#type, &data);
        signal.inspect_err(|error| tracing::warn!("a row of signals is passed over: {error}")).ok()
    }

    fn note(&self) -> Note {
        // Texts: they can always be written as JSON.
        let text = serde_json::to_string(self).unwrap_or_default();
        Note { key: self.key.as_str().into(), text: Some(text.into()) }
    }
}

/// Which table it is, and what was inserted into it.
#[derive(Debug, Default)]
pub struct SignalTable {
    name: Option<TableName>,
    /// As the stream describes it; a table that was made anew has another one.
    oid: Option<u32>,
    /// Of the transaction under way.
    open: Vec<Heard>,
    waiting: VecDeque<Heard>,
    notes: Vec<Note>,
}

impl SignalTable {
    /// `waiting`: what is left over from before.
    pub fn new(name: Option<TableName>, waiting: VecDeque<Heard>) -> Self {
        Self { name, waiting, ..Self::default() }
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
        let key = format!("{NOTED}{:016x} {:016x} {:08x}", mark.commit, mark.change, mark.n);
        let heard = Heard { key, id: text(0), r#type: text(1), data: text(2) };
        let (id, bytes) = (&heard.id, heard.id.len() + heard.r#type.len() + heard.data.len());
        if bytes > ROW_BYTES_MAX {
            tracing::warn!(bytes, "a row of signals is too large and is passed over");
        } else if self.open.len() + self.waiting.len() >= WAITING_MAX {
            tracing::warn!(id, "more than {WAITING_MAX} rows of signals wait: this one is passed over");
        } else {
            self.open.push(heard);
        }
    }

    /// The transaction under way has come to its end.
    pub fn committed(&mut self) {
        self.notes.extend(self.open.iter().map(Heard::note));
        self.waiting.extend(self.open.drain(..));
    }

    /// What the row asked for is noted now.
    pub fn done(&mut self, key: &str) {
        self.notes.push(Note { key: key.into(), text: None });
    }

    pub fn take_notes(&mut self, into: &mut Vec<Note>) {
        into.append(&mut self.notes);
    }

    /// Hands over what was heard, as far as there is room.
    pub fn tell(&mut self, way: &mpsc::Sender<Heard>) {
        while let Some(heard) = self.waiting.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(heard)) = way.try_send(heard) {
                self.waiting.push_front(heard);
                return;
            }
        }
    }
}

/// From the stream to the source.
pub fn way() -> (mpsc::Sender<Heard>, mpsc::Receiver<Heard>) {
    mpsc::channel(WAY)
}

#[cfg(test)]
mod tests {
    use millrace_core::batch::{Cell, Tag};

    use super::*;

    /// The newest text of each note, after these.
    fn after(notes: &[Note]) -> Notes {
        let mut newest = Notes::new();
        for note in notes {
            match &note.text {
                Some(text) => drop(newest.insert(note.key.to_string(), text.to_string())),
                None => drop(newest.remove(&*note.key)),
            }
        }
        newest
    }

    fn ids(found: &VecDeque<Heard>) -> Vec<&str> {
        found.iter().map(|heard| heard.id.as_str()).collect()
    }

    fn rows() -> ChangeBatch {
        let mut batch = ChangeBatch { bytes: b"onelog{}".to_vec(), ..ChangeBatch::default() };
        for (start, len) in [(0, 3), (3, 3), (6, 2)] {
            batch.cells.push(Cell { start, len, tag: Tag::Text });
        }
        batch.cells.push(Cell { start: 0, len: 0, tag: Tag::Null });
        batch
    }

    fn table() -> SignalTable {
        let mut table = SignalTable::new(Some(TableName::new("public", "signals")), VecDeque::new());
        table.define(7, "public", "orders");
        table.define(8, "public", "signals");
        assert!(table.is(8) && !table.is(7));
        table
    }

    #[test]
    fn a_row_is_heard_at_the_end_of_its_transaction_and_noted_until_it_is_done() {
        let (batch, mut table, mut notes) = (rows(), table(), Vec::new());
        let (to, mut from) = way();
        // Two rows of one id, which nothing forbids, and data that is null.
        table.hear(&batch, Row { start: 0, len: 3 }, Mark { commit: 9, change: 1, n: 0 });
        table.hear(&batch, Row { start: 0, len: 3 }, Mark { commit: 9, change: 1, n: 1 });
        table.hear(&batch, Row { start: 1, len: 3 }, Mark { commit: 9, change: 10, n: 0 });
        table.tell(&to);
        table.take_notes(&mut notes);
        assert!(from.try_recv().is_err() && notes.is_empty());

        table.committed();
        table.tell(&to);
        table.take_notes(&mut notes);
        assert_eq!(ids(&Heard::noted(&after(&notes))), ["one", "one", "log"]);
        let first = from.try_recv().unwrap();
        assert_eq!(first.signal().map(|signal| signal.id), Some("one".to_owned()));
        table.done(&first.key);
        table.take_notes(&mut notes);
        let left = Heard::noted(&after(&notes));
        assert_eq!(ids(&left), ["one", "log"]);
        assert_eq!(left.front(), from.try_recv().ok().as_ref());
        assert!(left.back().and_then(Heard::signal).is_none(), "no such type");
    }

    #[test]
    fn more_rows_than_anybody_types_do_not_grow_what_waits() {
        let (batch, mut table) = (rows(), table());
        for n in 0..1000 {
            table.hear(&batch, Row { start: 0, len: 3 }, Mark { n, ..Mark::default() });
            if n % 100 == 0 {
                table.committed();
            }
        }
        assert_eq!(table.open.len() + table.waiting.len(), WAITING_MAX);
    }
}
