//! Signals that are inserted into the source itself, as rows or documents. Start at `Inserted`.
//!
//! One is heard where its transaction ends, and noted in the batch whose position covers it; what it asked for is
//! noted in the batch that takes that note away. So a crash at any place hears it again or finds it done.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::sync::mpsc;

use crate::position::{Mark, Note, Notes};
use crate::signal::{self, Signal};

/// What the key of its note begins with.
const NOTED: &str = "signal ";

/// On the way from the stream to the source.
const WAY: usize = 64;

/// Those that wait for that way: many times more than somebody types while one is followed.
const WAITING_MAX: usize = 256;

/// A note has to fit into a record; Debezium's own table has 2048 characters for the data.
const BYTES_MAX: usize = 64 * 1024;

/// As it was inserted.
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
    pub fn new(mark: Mark, id: String, kind: String, data: String) -> Self {
        let key = format!("{NOTED}{:016x} {:016x} {:08x}", mark.commit, mark.change, mark.n);
        Self { key, id, r#type: kind, data }
    }

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
        signal.inspect_err(|error| tracing::warn!("an inserted signal is passed over: {error}")).ok()
    }

    fn note(&self) -> Note {
        // Texts: they can always be written as JSON.
        let text = serde_json::to_string(self).unwrap_or_default();
        Note { key: self.key.as_str().into(), text: Some(text.into()) }
    }
}

/// What was inserted and is not handed over.
#[derive(Debug, Default)]
pub struct Inserted {
    /// Of the transaction under way.
    open: Vec<Heard>,
    waiting: VecDeque<Heard>,
    notes: Vec<Note>,
}

impl Inserted {
    /// `waiting`: what is left over from before.
    pub fn new(waiting: VecDeque<Heard>) -> Self {
        Self { waiting, ..Self::default() }
    }

    /// Takes one of the transaction under way.
    pub fn hear(&mut self, heard: Heard) {
        let (id, bytes) = (&heard.id, heard.id.len() + heard.r#type.len() + heard.data.len());
        if bytes > BYTES_MAX {
            tracing::warn!(bytes, "an inserted signal is too large and is passed over");
        } else if self.open.len() + self.waiting.len() >= WAITING_MAX {
            tracing::warn!(id, "more than {WAITING_MAX} inserted signals wait: this one is passed over");
        } else {
            self.open.push(heard);
        }
    }

    /// The transaction under way has come to its end.
    pub fn committed(&mut self) {
        self.notes.extend(self.open.iter().map(Heard::note));
        self.waiting.extend(self.open.drain(..));
    }

    /// What it asked for is noted now.
    pub fn done(&mut self, key: &str) {
        self.notes.push(Note { key: key.into(), text: None });
    }

    pub fn has_notes(&self) -> bool {
        !self.notes.is_empty()
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

    fn heard(id: &str, mark: Mark) -> Heard {
        Heard::new(mark, id.to_owned(), "log".to_owned(), "{}".to_owned())
    }

    #[test]
    fn one_is_heard_at_the_end_of_its_transaction_and_noted_until_it_is_done() {
        let (mut inserted, mut notes) = (Inserted::default(), Vec::new());
        let (to, mut from) = way();
        // Two of one id, which nothing forbids, and one of no type that is known.
        inserted.hear(heard("one", Mark { commit: 9, change: 1, n: 0 }));
        inserted.hear(heard("one", Mark { commit: 9, change: 1, n: 1 }));
        let dance = Mark { commit: 9, change: 10, n: 0 };
        inserted.hear(Heard { r#type: "dance".to_owned(), ..heard("two", dance) });
        inserted.tell(&to);
        inserted.take_notes(&mut notes);
        assert!(from.try_recv().is_err() && notes.is_empty());

        inserted.committed();
        inserted.tell(&to);
        inserted.take_notes(&mut notes);
        assert_eq!(ids(&Heard::noted(&after(&notes))), ["one", "one", "two"]);
        let first = from.try_recv().unwrap();
        assert_eq!(first.signal().map(|signal| signal.id), Some("one".to_owned()));
        inserted.done(&first.key);
        inserted.take_notes(&mut notes);
        let left = Heard::noted(&after(&notes));
        assert_eq!(ids(&left), ["one", "two"]);
        assert_eq!(left.front(), from.try_recv().ok().as_ref());
        assert!(left.back().and_then(Heard::signal).is_none(), "no such type");
    }

    #[test]
    fn more_than_anybody_types_do_not_grow_what_waits() {
        let mut inserted = Inserted::default();
        for n in 0..1000 {
            inserted.hear(heard("one", Mark { n, ..Mark::default() }));
            if n % 100 == 0 {
                inserted.committed();
            }
        }
        assert_eq!(inserted.open.len() + inserted.waiting.len(), WAITING_MAX);
    }
}
