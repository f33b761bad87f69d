//! `millrace position`: shows where a connector stands, or moves it by an operator's decision.
//!
//! Moving says that whatever lies between the old and the new position was dealt with by a person; nothing in
//! the daemon ever does it by itself.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use serde_json::json;

use super::{EXIT_CONFIG, EXIT_FAILED, refuse};
use crate::operators::recorded;
use crate::registry::{Move, Offsets};
use crate::{config, registry};

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Prints the stored position.
    Show,
    /// Goes on from a place that the slot still has; what lies before it is given up.
    Set {
        /// A log position of Postgres (16/B374D848), a resume token or cluster time of MongoDB (82..., or
        /// 1700000000.1), a time (2026-01-31T18:00:00Z: what was committed before it is passed over), or now;
        /// without it, the oldest place that the source can still give.
        #[arg(long, value_name = "PLACE")]
        to: Option<String>,
        /// Needed: nothing can take this back.
        #[arg(long)]
        yes: bool,
    },
    /// Goes on where Debezium stopped, by its offsets in Kafka Connect's topic; stop it first.
    TakeOver {
        #[command(flatten)]
        offsets: OffsetsOf,
        /// Needed: nothing can take this back.
        #[arg(long)]
        yes: bool,
    },
    /// Writes the position as an offset of Debezium's, so that it goes on from there; stop this connector first.
    HandBack {
        #[command(flatten)]
        offsets: OffsetsOf,
        /// Needed: Debezium's own offset is replaced.
        #[arg(long)]
        yes: bool,
    },
    /// Forgets the position and the slot: the next start is a first one, from then on.
    Reset {
        /// Needed: nothing can take this back.
        #[arg(long)]
        yes: bool,
    },
}

/// Where Debezium's offsets are.
#[derive(Debug, Args)]
pub struct OffsetsOf {
    /// Of the worker: its offset.storage.topic.
    #[arg(long, value_name = "TOPIC", default_value = "connect-offsets")]
    topic: String,
    /// The connector's name in Kafka Connect; this one's, if not given.
    #[arg(long)]
    name: Option<String>,
}

impl OffsetsOf {
    fn of(&self, connector: &config::Connector) -> Offsets {
        let name = self.name.clone().unwrap_or_else(|| connector.name.clone());
        Offsets { topic: self.topic.clone(), name }
    }
}

pub async fn position(file: PathBuf, action: Action) -> u8 {
    let loaded = match config::load(&[file], &config::Environment::of_process()) {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(&problems),
    };
    for connector in &loaded.connectors {
        let done = match &action {
            Action::Show => registry::position(connector).await,
            Action::Set { yes: false, .. }
            | Action::Reset { yes: false }
            | Action::TakeOver { yes: false, .. }
            | Action::HandBack { yes: false, .. } => Err(not_sure()),
            Action::TakeOver { offsets, yes: true } => {
                let offsets = offsets.of(connector);
                let arguments = json!({"topic": offsets.topic, "name": offsets.name});
                let act = registry::move_position(connector, Move::TakeOver(offsets));
                recorded(connector, "position take-over", arguments, act).await.map(Some)
            }
            Action::HandBack { offsets, yes: true } => {
                let offsets = offsets.of(connector);
                let arguments = json!({"topic": offsets.topic, "name": offsets.name});
                let act = registry::hand_back(connector, &offsets);
                recorded(connector, "position hand-back", arguments, act).await.map(Some)
            }
            Action::Set { to, yes: true } => {
                let act = given_up(connector, Move::To(to.clone()));
                recorded(connector, "position set", json!({"to": to}), act).await.map(Some)
            }
            Action::Reset { yes: true } => {
                let act = given_up(connector, Move::Forget);
                recorded(connector, "position reset", json!({}), act).await.map(Some)
            }
        };
        match done {
            Ok(Some(position)) => println!("{} {position}", connector.name),
            Ok(None) => println!("{} has no position yet", connector.name),
            Err(error) => {
                eprintln!("millrace: {}: {error}", connector.name);
                if let Some(hint) = error.hint_text() {
                    eprintln!("  hint: {hint}");
                }
                return if error.kind() == millrace_core::error::Kind::Config {
                    EXIT_CONFIG
                } else {
                    EXIT_FAILED
                };
            }
        }
    }
    0
}

/// Moves the position, and says what waited before it and was given up with its log.
async fn given_up(connector: &config::Connector, to: Move) -> Result<Position> {
    let waited = registry::waiting(connector).await;
    let position = registry::move_position(connector, to).await?;
    for what in waited {
        eprintln!("millrace: {}: no longer kept, unless it is sent again from there: {what}", connector.name);
    }
    Ok(position)
}

fn not_sure() -> Error {
    Error::config("moving a position gives up the changes that it passes over, and cannot be taken back")
        .hint("stop the connector, note what `millrace position <file> show` prints, then add --yes")
}
