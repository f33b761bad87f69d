//! What a MongoDB position says, and its JSON form.

use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::progress::State;
use serde::{Deserialize, Serialize};

use crate::resume_token::{ClusterTime, ResumeToken};
use crate::transaction::Begun;

/// Everything up to here is delivered. The stream goes on after `resume_token`, or, where an operator chose
/// a time, at `cluster_time`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streamed {
    /// The name of the replica set; empty behind mongos.
    pub replica_set: String,
    /// Its own id, where it could be read: a name is soon used twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_set_id: Option<String>,
    /// What the stream is opened on: a token is only good for the same.
    pub scope: String,
    /// Fingerprint of the pipeline behind the stream.
    pub pipeline: String,
    pub resume_token: Option<ResumeToken>,
    pub cluster_time: ClusterTime,
    /// A transaction was cut: the rest of it comes next.
    pub open: bool,
    /// Where that transaction began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
    /// The last event that was delivered, and its number among those of the same cluster time.
    pub event_time: ClusterTime,
    pub event_n: u32,
    // Debezium's names for the halves of the last event's cluster time.
    pub sec: u64,
    pub ord: u32,
    /// Number of the newest chunk of a snapshot, so that two positions of a quiet deployment differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_chunk: Option<u64>,
}

impl Streamed {
    /// The position in which nothing has been delivered before `cluster_time`.
    pub fn starting_at(
        replica_set: &str,
        scope: &str,
        pipeline: &str,
        resume_token: Option<ResumeToken>,
        cluster_time: ClusterTime,
    ) -> Self {
        Self {
            replica_set: replica_set.to_owned(),
            replica_set_id: None,
            scope: scope.to_owned(),
            pipeline: pipeline.to_owned(),
            resume_token,
            cluster_time,
            open: false,
            begun: None,
            event_time: ClusterTime::default(),
            event_n: 0,
            sec: cluster_time.seconds(),
            ord: cluster_time.timestamp().increment,
            snapshot_chunk: None,
        }
    }

    pub fn to_position(&self) -> Position {
        // A plain struct of numbers and strings: serde_json cannot fail on it.
        Position::new(serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned()))
    }

    /// A position that nothing says "never ran" of.
    fn parse(position: &Position) -> Result<Self> {
        serde_json::from_str(position.as_str()).map_err(|error| {
            Error::fatal(format!("the stored position is not one of a mongodb source: {position}"))
                .hint(
                    "was this connector's name used with another source? choose another name, or reset the \
                     position",
                )
                .state(State::PositionLost)
                .source(error)
        })
    }
}

/// What was found in the sink at opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// An operator wants the connector to begin as if it had never run.
    Forgotten,
    Streamed(Box<Streamed>),
}

#[derive(Serialize, Deserialize)]
struct ForgottenRecord {
    state: String,
}

const FORGOTTEN: &str = "forgotten";

/// The position of a connector that is to begin anew.
pub fn forgotten() -> Position {
    Position::new(format!(r#"{{"state":"{FORGOTTEN}"}}"#))
}

impl Stored {
    pub fn parse(position: &Position) -> Result<Self> {
        match serde_json::from_str::<ForgottenRecord>(position.as_str()) {
            Ok(record) if record.state == FORGOTTEN => Ok(Self::Forgotten),
            _ => Streamed::parse(position).map(|streamed| Self::Streamed(Box::new(streamed))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_as_it_was_written() {
        let token = ResumeToken::typed("826553F100000000052B").unwrap();
        let time = ClusterTime(1_700_000_000 << 32 | 5);
        let mut position = Streamed::starting_at("rs0", "database shop", "ab", Some(token), time);
        (position.open, position.event_time, position.event_n) = (true, time, 3);
        let stored = Stored::parse(&position.to_position()).unwrap();
        assert_eq!(stored, Stored::Streamed(Box::new(position.clone())));
        assert!(position.to_position().as_str().contains(r#""cluster_time":"1700000000.5""#));
    }

    #[test]
    fn a_position_from_before_sets_were_told_apart_by_their_ids_is_understood() {
        let position = Streamed::starting_at("rs0", "database shop", "ab", None, ClusterTime(5));
        assert!(!position.to_position().as_str().contains("replica_set_id"));
        let with_id = Streamed { replica_set_id: Some("ab12".into()), ..position.clone() };
        for position in [position, with_id] {
            let stored = Stored::parse(&position.to_position()).unwrap();
            assert_eq!(stored, Stored::Streamed(Box::new(position)));
        }
    }

    #[test]
    fn another_source_s_position_is_refused() {
        let error = Stored::parse(&Position::new(r#"{"end_lsn":"0/10"}"#)).unwrap_err();
        assert_eq!(error.shown_state(), State::PositionLost);
    }

    #[test]
    fn a_forgotten_position_is_told_from_one() {
        assert_eq!(Stored::parse(&forgotten()).unwrap(), Stored::Forgotten);
    }
}
