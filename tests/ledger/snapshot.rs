//! Where a connector begins with each table: what its notes beside the position say of the first snapshots.
//!
//! Transactions that a table's first snapshot saw are in its rows and come as nothing else; all others come as
//! changes. The daemon says which snapshot that was, and everything else follows from it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;

use crate::Result;
use crate::reader::{Isolation, Reader, Record};
use crate::tables::{Form, TABLES, table_index};

/// The position itself; notes are elsewhere.
const STREAM: i32 = 0;
const PATIENCE: Duration = Duration::from_secs(60);

/// `xmin:xmax:xip,xip,...`, as Postgres prints a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    pub fn parse(text: &str) -> Option<Snapshot> {
        let (xmin, rest) = text.split_once(':')?;
        let (xmax, running) = rest.split_once(':')?;
        let running = running.split(',').filter(|xid| !xid.is_empty()).map(str::parse);
        Some(Snapshot {
            xmin: xmin.parse().ok()?,
            xmax: xmax.parse().ok()?,
            running: running.collect::<std::result::Result<_, _>>().ok()?,
        })
    }

    /// Whether it saw what the transaction did.
    pub fn saw(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && !self.running.contains(&xid))
    }
}

/// What a connector delivers of its tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Begins {
    /// Every change there ever was, and no rows.
    #[default]
    Empty,
    /// The rows that each table's first snapshot saw, and the changes that it did not; nothing at all of a table
    /// that has none yet.
    Rows(BTreeMap<usize, Snapshot>),
}

impl Begins {
    /// Whether a change of this transaction comes as a change.
    pub fn emits(&self, table: usize, xid: u64) -> bool {
        match self {
            Begins::Empty => true,
            Begins::Rows(firsts) => firsts.get(&table).is_some_and(|first| !first.saw(xid)),
        }
    }
}

/// The notes as they are committed now.
#[derive(Debug, Default)]
pub struct Notes {
    firsts: BTreeMap<usize, Snapshot>,
    done: BTreeMap<usize, bool>,
}

impl Notes {
    pub async fn read(bootstrap: &str, position_topic: &str) -> Result<Notes> {
        let mut reader = Reader::new(bootstrap, Isolation::ReadCommitted, PATIENCE);
        let read = reader.read_all(&[position_topic]).await?;
        let mut notes = Notes::default();
        for record in read.records.iter().filter(|record| record.partition != STREAM) {
            notes.add(record)?;
        }
        Ok(notes)
    }

    fn add(&mut self, record: &Record) -> Result<()> {
        let Some((table, note)) = note(record) else { return Ok(()) };
        self.done.insert(table, note["state"] == "done");
        let Some(text) = note["first"].as_str() else { return Ok(()) };
        let first = Snapshot::parse(text).ok_or_else(|| format!("{text} is no snapshot of Postgres"))?;
        let before = self.firsts.insert(table, first.clone());
        // Rows without a key may be begun anew: the last reading counts, see `checker::attempts`.
        let keyless = TABLES[table].form == Form::Keyless;
        match before.filter(|before| *before != first && !keyless) {
            None => Ok(()),
            Some(before) => {
                Err(format!("{} has two first snapshots: {before:?}, {first:?}", TABLES[table].name).into())
            }
        }
    }

    pub fn begins(&self) -> Begins {
        Begins::Rows(self.firsts.clone())
    }

    /// The tables of which rows are still to come.
    pub fn unread(&self) -> Vec<&'static str> {
        let unread = |(index, _): &(usize, &crate::tables::Table)| self.done.get(index) != Some(&true);
        let tables = TABLES.iter().enumerate().filter(|(_, table)| table.form != Form::Outbox);
        tables.filter(unread).map(|(_, table)| table.name).collect()
    }
}

/// The table that a note is of, and what it says: the key is `["<connector>",{"note":"snapshot \"schema\".\"table\""}]`.
fn note(record: &Record) -> Option<(usize, Json)> {
    let key: Json = serde_json::from_slice(record.key.as_deref()?).ok()?;
    let name = key.get(1)?.get("note")?.as_str()?.strip_prefix("snapshot ")?;
    let name = name.strip_prefix("\"ledger\".\"")?.strip_suffix('"')?;
    Some((table_index(name)?, serde_json::from_slice(record.value.as_deref()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_saw_what_had_ended_when_it_was_taken() {
        let snapshot = Snapshot::parse("100:110:100,105").unwrap();
        assert_eq!([99, 100, 101, 105, 110].map(|xid| snapshot.saw(xid)), [true, false, true, false, false]);
        assert!(Snapshot::parse("5:5:").unwrap().saw(4));
        assert_eq!([Snapshot::parse("5"), Snapshot::parse("5:6:x")], [None, None]);
    }

    #[test]
    fn nothing_comes_of_a_table_that_was_not_looked_at_yet() {
        let firsts = [(0, Snapshot::parse("5:5:").unwrap())].into();
        let begins = Begins::Rows(firsts);
        assert_eq!([begins.emits(0, 4), begins.emits(0, 5), begins.emits(1, 5)], [false, true, false]);
        assert!(Begins::Empty.emits(1, 4));
    }

    #[test]
    fn a_note_names_its_table_and_another_record_is_none() {
        let record = |key: &str, value: &str| Record {
            topic: "t".into(),
            partition: 1,
            offset: 0,
            timestamp_ms: 0,
            key: Some(key.as_bytes().to_vec().into()),
            value: Some(value.as_bytes().to_vec().into()),
            headers: Vec::new(),
            tx: None,
        };
        let key = r#"["c",{"note":"snapshot \"ledger\".\"wide\""}]"#;
        let mut notes = Notes::default();
        notes.add(&record(key, r#"{"v":1,"state":"reading","first":"5:5:"}"#)).unwrap();
        notes.add(&record(r#"["c",{"topic":"x"}]"#, r#"{"v":1,"partitions":4}"#)).unwrap();
        assert_eq!(notes.begins(), Begins::Rows([(1, Snapshot::parse("5:5:").unwrap())].into()));
        assert!(notes.unread().contains(&"wide"));
        notes.add(&record(key, r#"{"v":1,"state":"done"}"#)).unwrap();
        assert!(!notes.unread().contains(&"wide"));
        assert!(notes.add(&record(key, r#"{"v":1,"state":"reading","first":"6:6:"}"#)).is_err());
    }
}
