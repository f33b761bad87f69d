//! What a Postgres position says, and its JSON form.
//!
//! Debezium's field names stand beside ours, so that whoever reads offsets today can go on reading them;
//! only ours decide anything.

use std::collections::BTreeMap;

use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::progress::State;
use serde::{Deserialize, Serialize};

use crate::held::Held;
use crate::lsn::Lsn;

/// How far a transaction has been delivered that had to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Where the transaction's commit record lies.
    pub final_lsn: Lsn,
    pub xid: u32,
    /// The last delivered change, and its index among those of the same LSN.
    pub change_lsn: Lsn,
    pub n: u32,
}

/// Everything up to here is delivered. Never "the LSN of the last event": those are neither unique nor
/// ordered across transactions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streamed {
    /// As the server prints it: 64 bits do not fit a JSON number everywhere.
    pub system_identifier: String,
    pub timeline: u32,
    pub slot: String,
    /// End of the last transaction that is delivered whole, or a later place with nothing before it.
    pub end_lsn: Lsn,
    pub open: Option<Open>,
    // Debezium's names, as numbers.
    pub lsn: Option<u64>,
    pub lsn_proc: Option<u64>,
    pub lsn_commit: Option<u64>,
    #[serde(rename = "txId")]
    pub tx_id: Option<u32>,
    pub ts_usec: Option<i64>,
    /// Number of the newest chunk of a snapshot that was placed before this position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_chunk: Option<u64>,
    /// Where that chunk was placed: what its rows show was committed before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_lsn: Option<Lsn>,
    /// An operator chose a time: transactions that were committed before it are passed over, until the first one that
    /// was not. Microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_us: Option<i64>,
    /// Nothing more is to come from this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<Drained>,
    /// What waits while the rest goes on. Everything else that a position says is of the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Held>,
    /// By an operator, who accepted what is missing before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chosen: bool,
}

/// That everything was delivered when nobody wrote any more: what an upgrade of the server waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// What the captured tables held, by name. `None`: nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<BTreeMap<String, Contents>>,
}

/// What a table holds, so that it can be told from what it holds later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    pub rows: i64,
    /// Of the hashes of all rows, in whatever order they come; larger than any integer of JSON.
    pub sum: String,
}

/// What was found in the sink at opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A first start was under way: the slot may exist, nothing was delivered from it.
    Creating {
        slot: String,
    },
    Streamed(Box<Streamed>),
}

#[derive(Serialize, Deserialize)]
struct CreatingRecord {
    state: String,
    slot: String,
}

const CREATING: &str = "creating";

/// The mark that a first start leaves before it creates the slot.
pub fn creating(slot: &str) -> Position {
    let record = CreatingRecord { state: CREATING.to_owned(), slot: slot.to_owned() };
    to_position(&record)
}

impl Streamed {
    /// The position in which nothing has been delivered before `end_lsn`.
    pub fn starting_at(system_identifier: &str, timeline: u32, slot: &str, end_lsn: Lsn) -> Self {
        Self {
            system_identifier: system_identifier.to_owned(),
            timeline,
            slot: slot.to_owned(),
            end_lsn,
            open: None,
            lsn: None,
            lsn_proc: None,
            lsn_commit: None,
            tx_id: None,
            ts_usec: None,
            snapshot_chunk: None,
            snapshot_lsn: None,
            since_us: None,
            drained: None,
            held: Vec::new(),
            chosen: false,
        }
    }

    pub fn to_position(&self) -> Position {
        to_position(self)
    }

    /// The furthest place in the log that this position speaks of.
    pub fn furthest(&self) -> Lsn {
        self.open.map_or(self.end_lsn, |open| open.final_lsn.max(self.end_lsn))
    }

    /// The furthest place of which something was delivered; between it and the position the log was only
    /// passed. Without it, nothing was.
    pub fn delivered(&self) -> Option<Lsn> {
        if self.snapshot_chunk.is_some() && self.snapshot_lsn.is_none() {
            // Written before the place of a chunk was noted.
            return Some(self.furthest());
        }
        let open = self.open.map(|open| open.final_lsn);
        open.max(self.lsn_commit.map(Lsn)).max(self.snapshot_lsn)
    }
}

impl Stored {
    pub fn parse(position: &Position) -> Result<Self> {
        if let Ok(record) = serde_json::from_str::<CreatingRecord>(position.as_str())
            && record.state == CREATING
        {
            return Ok(Self::Creating { slot: record.slot });
        }
        serde_json::from_str(position.as_str()).map(Self::Streamed).map_err(|error| {
            Error::fatal(format!("the stored position is not one of a postgres source: {position}"))
                .hint("was this connector's name used with another source? choose another name, or reset the position")
                .state(State::PositionLost)
                .source(error)
        })
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn to_position(record: &impl Serialize) -> Position {
    // Plain structs of numbers and strings: serde_json cannot fail on them.
    Position::new(serde_json::to_string(record).unwrap_or_else(|_| "{}".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streamed() -> Streamed {
        let mut streamed = Streamed::starting_at("7", 1, "s", Lsn(0x10));
        streamed.open = Some(Open { final_lsn: Lsn(0x30), xid: 5, change_lsn: Lsn(0x20), n: 2 });
        streamed
    }

    #[test]
    fn a_position_comes_back_as_it_was_written() {
        let stored = Stored::parse(&streamed().to_position()).expect("parse");
        assert_eq!(stored, Stored::Streamed(Box::new(streamed())));
    }

    #[test]
    fn a_first_start_under_way_is_told_from_a_position() {
        let stored = Stored::parse(&creating("s")).expect("parse");
        assert_eq!(stored, Stored::Creating { slot: "s".to_owned() });
    }

    #[test]
    fn the_open_transaction_counts_for_the_furthest_place() {
        assert_eq!(streamed().furthest(), Lsn(0x30));
    }

    #[test]
    fn another_source_s_position_is_refused() {
        assert!(Stored::parse(&Position::new(r#"{"resume_token":"x"}"#)).is_err());
    }

    #[test]
    fn lsns_are_written_as_postgres_prints_them() {
        assert!(streamed().to_position().as_str().contains(r#""end_lsn":"0/10""#));
    }
}
