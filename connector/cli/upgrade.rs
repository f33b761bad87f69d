//! `millrace drain` and `millrace adopt`: what a connector needs around a major upgrade of its Postgres server, which
//! leaves its slot behind.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use millrace_core::error::{Kind, Result};
use millrace_core::position::Position;
use serde_json::json;

use super::{EXIT_CONFIG, EXIT_FAILED, health, refuse};
use crate::operators::recorded;
use crate::registry::Consent;
use crate::{config, registry};

#[derive(Debug, Args)]
pub struct Drain {
    /// A connector's file.
    file: PathBuf,
    /// Where the REST of a daemon on this machine listens, which is told to stop the connector.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8083")]
    rest: SocketAddr,
    /// Does not read the tables: nobody can compare them after the upgrade.
    #[arg(long)]
    unseen: bool,
}

#[derive(Debug, Args)]
pub struct Adopt {
    /// A connector's file, with the new server in it.
    file: PathBuf,
    /// Does not compare the tables with what they held: you have seen to it that nobody wrote.
    #[arg(long)]
    unseen: bool,
    /// Takes a server whose log is below the old one's: positions in headers go back.
    #[arg(long)]
    lower_log: bool,
}

pub async fn drain(asked: Drain) -> u8 {
    let rest = asked.rest;
    each(asked.file, async |connector| {
        let is_held = health::stop(rest, &connector.name).await;
        if is_held {
            tracing::info!(connector = connector.name, %rest, "the daemon was told to stop the connector");
        }
        let act = registry::drain(connector, !asked.unseen);
        let drained = recorded(connector, "drain", json!({"unseen": asked.unseen}), act).await;
        if is_held && drained.is_err() {
            tracing::warn!(
                connector = connector.name,
                hint = "run the drain again, or PUT /connectors/<name>/resume",
                "the daemon keeps the connector stopped, and the server keeps its log"
            );
        }
        drained
    })
    .await
}

pub async fn adopt(asked: Adopt) -> u8 {
    let consent = Consent { unseen: asked.unseen, lower_log: asked.lower_log };
    let arguments = json!({"unseen": asked.unseen, "lower_log": asked.lower_log});
    each(asked.file, async |connector| {
        recorded(connector, "adopt", arguments.clone(), registry::adopt(connector, consent)).await
    })
    .await
}

/// Does it for every connector of the file, and prints the new positions.
async fn each(file: PathBuf, act: impl AsyncFn(&config::Connector) -> Result<Position>) -> u8 {
    let loaded = match config::load(&[file], &config::Environment::of_process()) {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(&problems),
    };
    for connector in &loaded.connectors {
        match act(connector).await {
            // Records go to standard output there.
            Ok(position) if connector.sink.takes_standard_output() => {
                eprintln!("{} {position}", connector.name)
            }
            Ok(position) => println!("{} {position}", connector.name),
            Err(error) => {
                eprintln!("millrace: {}: {error}", connector.name);
                if let Some(hint) = error.hint_text() {
                    eprintln!("  hint: {hint}");
                }
                return if error.kind() == Kind::Config { EXIT_CONFIG } else { EXIT_FAILED };
            }
        }
    }
    0
}
