//! Signals that come by a table of the database or by a file. Start at `SignalTable` for what the stream hears,
//! and at `Ears` for what the source does with it.
//!
//! A row of the signal table is noted with the batch that passes it, and the note goes with what it asked for:
//! a crash between the two hears it again, and none is lost.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_core::batch::{ChangeBatch, Row, Value};
use millrace_core::position::{Note, Notes};
use millrace_core::signal::{self, Signal};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::tables::TableName;

/// What the note of a signal begins with.
const NOTED: &str = "signal ";

/// Rows that wait to be heard; the next ones wait in the stream.
const WAITING_MAX: usize = 64;

/// A row of the table, as it was inserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    pub id: String,
    pub kind: String,
    pub data: String,
}

impl Heard {
    fn key(id: &str) -> String {
        format!("{NOTED}{id}")
    }

    /// Those that were heard before a crash, and not done.
    pub fn noted(notes: &Notes) -> VecDeque<Self> {
        let found = notes.range(NOTED.to_owned()..).take_while(|(key, _)| key.starts_with(NOTED));
        found.filter_map(|(_, text)| serde_json::from_str(text).ok()).collect()
    }
}

/// The stream's side: which table it is, and what was inserted into it.
#[derive(Debug, Default)]
pub struct SignalTable {
    name: Option<TableName>,
    /// As the stream describes it; a table made anew has another one.
    oid: Option<u32>,
    heard: VecDeque<Heard>,
    notes: Vec<Note>,
}

impl SignalTable {
    /// `heard`: what was left over from a session before.
    pub fn new(name: Option<TableName>, heard: VecDeque<Heard>) -> Self {
        Self { name, heard, ..Self::default() }
    }

    pub fn define(&mut self, oid: u32, schema: &str, table: &str) {
        if self.name.as_ref().is_some_and(|name| name.schema == schema && name.table == table) {
            self.oid = Some(oid);
        }
    }

    pub fn is(&self, oid: u32) -> bool {
        self.oid == Some(oid)
    }

    /// Its columns are id, type and data, whatever their names.
    pub fn hear(&mut self, batch: &ChangeBatch, row: Row) {
        let text = |index: usize| {
            let cell = batch.cells_of(row).get(index).copied();
            match cell.map(|cell| batch.value(cell)) {
                Some(Value::Text(text)) => String::from_utf8_lossy(text).into_owned(),
                _ => String::new(),
            }
        };
        let heard = Heard { id: text(0), kind: text(1), data: text(2) };
        // Texts: serde_json cannot fail on them.
        let noted = serde_json::to_string(&heard).unwrap_or_default();
        self.notes.push(Note { key: Heard::key(&heard.id).into(), text: Some(noted.into()) });
        self.heard.push_back(heard);
    }

    /// What it asked for is noted now.
    pub fn done(&mut self, id: &str) {
        self.notes.push(Note { key: Heard::key(id).into(), text: None });
    }

    pub fn take_notes(&mut self, into: &mut Vec<Note>) {
        into.append(&mut self.notes);
    }

    /// Hands over what was heard, as far as there is room.
    pub fn tell(&mut self, ears: &mpsc::Sender<Heard>) {
        while let Some(heard) = self.heard.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(heard)) = ears.try_send(heard) {
                self.heard.push_front(heard);
                return;
            }
        }
    }
}

/// The way from the stream to the source.
pub fn way() -> (mpsc::Sender<Heard>, mpsc::Receiver<Heard>) {
    mpsc::channel(WAITING_MAX)
}

/// A signal, and the row to be forgotten once it is done.
pub struct Asked {
    pub signal: Option<Signal>,
    pub row: Option<String>,
}

/// Every way by which a signal comes to the source.
pub struct Ears {
    /// Of the daemon: REST.
    pub daemon: Option<mpsc::Receiver<Signal>>,
    table: mpsc::Receiver<Heard>,
    file: Option<(PathBuf, Interval)>,
    /// Lines of the file.
    lines: VecDeque<Signal>,
}

impl Ears {
    pub fn new(
        daemon: Option<mpsc::Receiver<Signal>>,
        table: mpsc::Receiver<Heard>,
        file: Option<(PathBuf, Duration)>,
    ) -> Self {
        let file = file.map(|(path, every)| {
            let mut every = interval(every);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            (path, every)
        });
        Self { daemon, table, file, lines: VecDeque::new() }
    }

    /// The next one that somebody asks for. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        loop {
            if let Some(signal) = self.lines.pop_front() {
                return Asked { signal: Some(signal), row: None };
            }
            let (daemon, file) = (&mut self.daemon, &mut self.file);
            tokio::select! {
                Some(signal) = async { Some(daemon.as_mut()?.recv().await?) } => {
                    return Asked { signal: Some(signal), row: None };
                }
                Some(heard) = self.table.recv() => {
                    let signal = signal::parse(&*heard.id, &heard.kind, &Json::String(heard.data));
                    let signal = signal.inspect_err(|error| tracing::warn!("{error}; the row is passed over"));
                    return Asked { signal: signal.ok(), row: Some(heard.id) };
                }
                Some(path) = async {
                    let (path, every) = file.as_mut()?;
                    every.tick().await;
                    Some(&*path)
                } => self.lines.extend(lines(path)),
                else => std::future::pending().await,
            }
        }
    }
}

#[derive(Deserialize)]
struct Line {
    id: Option<String>,
    r#type: String,
    #[serde(default)]
    data: Json,
}

/// Takes the lines out of the file, each a signal as in Debezium's topic of signals.
fn lines(path: &Path) -> Vec<Signal> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => return Vec::new(),
        Ok(text) => text,
        // Whoever has something to say makes it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(file = %path.display(), "the file of signals cannot be read: {error}");
            return Vec::new();
        }
    };
    if let Err(error) = std::fs::write(path, "") {
        tracing::warn!(file = %path.display(), "the file of signals cannot be emptied, so it is not heard: {error}");
        return Vec::new();
    }
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1_u32..).filter(|(line, _)| !line.trim().is_empty()) {
        let parsed = serde_json::from_str::<Line>(line).map_err(|error| error.to_string());
        let signal = parsed.and_then(|line| {
            let id = line.id.unwrap_or_else(|| format!("line {number}"));
            signal::parse(id, &line.r#type, &line.data).map_err(|error| error.to_string())
        });
        match signal {
            Ok(signal) => found.push(signal),
            Err(why) => {
                tracing::warn!(file = %path.display(), line = number, "a line is no signal and is passed over: {why}");
            }
        }
    }
    found
}

/// The newest text of each note, after these.
#[cfg(test)]
fn after(notes: Vec<Note>) -> Notes {
    let mut newest = BTreeMap::new();
    for note in notes {
        match note.text {
            Some(text) => drop(newest.insert(note.key.to_string(), text.to_string())),
            None => drop(newest.remove(&*note.key)),
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use millrace_core::batch::{Cell, Tag};

    use super::*;

    #[test]
    fn a_row_is_heard_again_after_a_crash_until_it_is_done() {
        let mut batch = ChangeBatch { bytes: b"oneloghi".to_vec(), ..ChangeBatch::default() };
        for (start, len) in [(0, 3), (3, 3), (6, 2)] {
            batch.cells.push(Cell { start, len, tag: Tag::Text });
        }
        let mut table = SignalTable::new(Some(TableName::new("public", "signals")), VecDeque::new());
        table.define(7, "public", "orders");
        assert!(!table.is(7));
        table.define(8, "public", "signals");
        assert!(table.is(8) && !table.is(7));
        table.hear(&batch, Row { start: 0, len: 3 });
        let mut notes = Vec::new();
        table.take_notes(&mut notes);
        let expected = Heard { id: "one".into(), kind: "log".into(), data: "hi".into() };
        assert_eq!(Heard::noted(&after(notes.clone())), [expected]);
        table.done("one");
        table.take_notes(&mut notes);
        assert_eq!(Heard::noted(&after(notes)), []);
    }

    #[test]
    fn lines_of_a_file_are_taken_once_and_nonsense_is_passed_over() {
        let path = std::env::temp_dir().join(format!("millrace-signals-{}", std::process::id()));
        let line = r#"{"id": "a", "type": "pause-snapshot", "data": {}}"#;
        std::fs::write(&path, format!("{line}\nnonsense\n\n{}\n", line.replace("\"a\"", "\"b\""))).expect("a file");
        let ids: Vec<String> = lines(&path).into_iter().map(|signal| signal.id).collect();
        assert_eq!(ids, ["a", "b"]);
        assert!(lines(&path).is_empty());
        std::fs::remove_file(&path).expect("the file");
    }
}
