//! A place in a source's log, as text that only its source reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A JSON object, written and read by the source alone; every other part stores it and hands it on.
/// One allocation per batch, none per row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(Arc<str>);

impl Position {
    /// `json` must be the text of one JSON object: sinks store it as it is, beside fields of their own.
    pub fn new(json: impl Into<Arc<str>>) -> Self {
        let json = json.into();
        debug_assert!(json.starts_with('{') && json.ends_with('}'), "a position is a JSON object: {json}");
        Self(json)
    }

    /// The JSON object, on one line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that a source remembers beside its position, by a key of its own, because it changes seldom and
/// would be too much for every position: how far the snapshot of a table is.
///
/// Durable in the same instant as the position of its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub key: Arc<str>,
    /// The text of one JSON object; `None` forgets the key.
    pub text: Option<Arc<str>>,
}

/// The newest text of each note.
pub type Notes = BTreeMap<String, String>;

/// Where a change lies in its source's log: equal on every replay, and rising in commit order.
///
/// For Postgres: LSN of the commit, LSN of the change, index among the changes that share it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// Where the transaction ends in the log.
    pub commit: u64,
    /// Where the change lies in the log.
    pub change: u64,
    /// Its index among the changes of that place.
    ///
    /// A snapshot's row lies where the stream stood: `commit` is the end of what was streamed before it,
    /// `change` the number of its chunk, below every place in a log, and `n` its index in the chunk.
    pub n: u32,
}
