//! `millrace dead-letters`: lists what could not be delivered, shows a letter, and replays letters once their
//! cause is mended. The connector may run meanwhile.

use std::path::PathBuf;

use clap::Subcommand;
use millrace_core::encode::Letter;
use millrace_core::error::{Error, Kind, Result};
use serde_json::{Map, Value, json};

use super::{EXIT_CONFIG, EXIT_FAILED, refuse};
use crate::config::Connector;
use crate::operators::recorded;
use crate::registry::{Asked, Replayed};
use crate::{config, registry};

#[derive(Debug, Subcommand)]
pub enum Action {
    /// One line a letter: position, table, code, attempt, message.
    List,
    /// One letter with its rows, as JSON.
    Show {
        /// As `list` prints it.
        position: String,
    },
    /// Encodes letters again by what the file says now, oldest first. Those of one key keep their order, and one of
    /// whose key something later is delivered already waits.
    Replay {
        /// As `list` prints them; without any, all.
        positions: Vec<String>,
        /// Later events of a key may be delivered already, and earlier letters of it that are not named may wait.
        #[arg(long)]
        yes: bool,
    },
}

pub async fn dead_letters(file: PathBuf, action: Action) -> u8 {
    let loaded = match config::load(&[file], &config::Environment::of_process()) {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(&problems),
    };
    for connector in &loaded.connectors {
        if let Err(error) = act(connector, &action).await {
            eprintln!("millrace: {}: {error}", connector.name);
            if let Some(hint) = error.hint_text() {
                eprintln!("  hint: {hint}");
            }
            return if error.kind() == Kind::Config { EXIT_CONFIG } else { EXIT_FAILED };
        }
    }
    0
}

async fn act(connector: &Connector, action: &Action) -> Result<()> {
    match action {
        Action::List => {
            for letter in registry::dead_letters(connector).await? {
                println!("{}", line(&letter));
            }
            Ok(())
        }
        Action::Show { position } => {
            let letters = registry::dead_letters(connector).await?;
            let letter = letters.iter().find(|letter| letter.position == *position).ok_or_else(|| {
                Error::config(format!("there is no dead letter {position}"))
                    .hint("see `millrace dead-letters <file> list`")
            })?;
            println!("{:#}", shown(letter));
            Ok(())
        }
        Action::Replay { positions, yes } => {
            let asked = Asked { positions, out_of_order: *yes };
            let arguments = json!({"positions": positions, "out_of_order": yes});
            recorded(connector, "dead-letters replay", arguments, replayed(connector, asked)).await
        }
    }
}

async fn replayed(connector: &Connector, asked: Asked<'_>) -> Result<()> {
    let mut waiting = 0;
    registry::replay(connector, asked, |letter, outcome| {
        waiting += usize::from(outcome.waits());
        let what = match outcome {
            Replayed::Delivered { records } => format!("delivered, {records} records"),
            Replayed::Refused => "refused again".to_owned(),
            Replayed::LeftOut => "not kept: its rows were too large".to_owned(),
            Replayed::Overtaken { topic } => {
                format!("waits: topic {topic} has, or may have, something later of its key")
            }
            Replayed::Held { thing } => {
                format!("waits: {thing} waits since before it, and goes to its topic")
            }
            Replayed::Behind { position } => format!("waits: the earlier letter {position} of its key does"),
        };
        println!("{} {} {what}", letter.position, letter.relation.full_name());
    })
    .await?;
    match waiting {
        0 => Ok(()),
        _ => Err(Error::config(format!("{waiting} letters wait, for the order of their keys"))
            .hint("see that consumers can take them out of order, then name them and add --yes")),
    }
}

fn line(letter: &Letter) -> String {
    let Letter { position, relation, error, attempt, .. } = letter;
    format!("{position} {} {} attempt {attempt}: {}", relation.full_name(), error.code, error.message)
}

/// The letter with its rows by the names of their columns.
fn shown(letter: &Letter) -> Value {
    let row = |cells: &Option<Vec<Value>>| match cells.as_deref() {
        None | Some([]) => Value::Null,
        Some(cells) => {
            let names = letter.relation.columns.iter().map(|column| column.name.clone());
            Value::Object(names.zip(cells.iter().cloned()).collect::<Map<_, _>>())
        }
    };
    json!({
        "position": letter.position,
        "table": letter.relation.full_name(),
        "operation": format!("{:?}", letter.op).to_lowercase(),
        "code": letter.error.code,
        "message": letter.error.message,
        "schema_id": letter.error.schema_id,
        "attempt": letter.attempt,
        "transaction": letter.transaction.id,
        "commit_ts_us": letter.transaction.commit_ts_us,
        "before": row(&letter.before),
        "after": row(&letter.after),
        "left_out": letter.left_out,
    })
}
