//! The log of what operators did: before an action is carried out a line says who wants what, and behind it another one
//! what came of it. Start at `recorded`; `file` and `topic` are where it lies.
//!
//! Each connector's file says where its log is, so that REST and the verbs of the command line write the same one. An
//! action that cannot be written is refused. A topic beside a file is a copy: Kafka that is away must not keep
//! anybody from stopping what writes to it.

mod file;
mod topic;
mod who;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use serde_json::{Map, Value, json};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

pub use who::Who;

use crate::config::Connector;

/// Service managers wait for the end of a daemon, and other things have had their time by then.
const SETTLED_WITHIN: Duration = Duration::from_secs(3);
const SETTLED_POLL: Duration = Duration::from_millis(10);

const ONLY_IN_FILE: &str = "an entry of the operator log is in its file and not on its topic";

/// Where the actions on one connector are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub file: Option<PathBuf>,
    pub topic: Option<String>,
}

/// Something that somebody wants of a connector.
#[derive(Clone, Debug)]
pub struct Action {
    pub who: Who,
    /// `pause`, `position set`
    pub name: String,
    pub arguments: Value,
}

/// An action whose intent is written.
pub struct Intended {
    id: String,
    action: Action,
}

/// Carries something out that was asked for on the command line, between its two lines.
pub async fn recorded<T>(
    connector: &Connector,
    name: &str,
    arguments: Value,
    act: impl Future<Output = Result<T>>,
) -> Result<T> {
    let action = Action { who: Who::of_process(), name: name.to_owned(), arguments };
    let intended = intend(connector, action).await?;
    let done = act.await;
    outcome(connector, intended, done.as_ref().err().map(ToString::to_string)).await;
    done
}

/// Writes what is about to be done; `None` where there is no log. An error: it must not be done.
pub async fn intend(connector: &Connector, action: Action) -> Result<Option<Intended>> {
    let Some(log) = &connector.operator_log else { return Ok(None) };
    let id = uuid::Uuid::new_v4().to_string();
    let mut entry = entry(connector, &id, "intent", &action);
    entry.insert("arguments".to_owned(), action.arguments.clone());
    let written = log.write(connector, &action.who, entry).await;
    written.map_err(|error| {
        let name = &action.name;
        Error::new(
            error.kind(),
            format!("{name} was not carried out, because the operator log cannot be written"),
        )
        .hint("mend what the log lies on, or take [operator_log] out of the connector's file")
        .source(error)
    })?;
    Ok(Some(Intended { id, action }))
}

/// Writes what came of it. `failed`: why it was not done.
pub async fn outcome(connector: &Connector, intended: Option<Intended>, failed: Option<String>) {
    let (Some(log), Some(Intended { id, action })) = (&connector.operator_log, intended) else { return };
    let mut entry = entry(connector, &id, "outcome", &action);
    entry.insert("outcome".to_owned(), json!(if failed.is_some() { "failed" } else { "done" }));
    entry.extend(failed.map(|why| ("error".to_owned(), json!(why))));
    if let Err(error) = log.write(connector, &action.who, entry).await {
        // It is done; that it was begun is written.
        tracing::error!(
            connector = connector.name,
            action = action.name,
            hint = error.hint_text(),
            "what came of an operator's action cannot be written: {error}"
        );
    }
}

fn entry(connector: &Connector, id: &str, phase: &str, action: &Action) -> Map<String, Value> {
    let mut time = String::new();
    // Into a string: it cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let fields = [
        ("time", json!(time)),
        ("id", json!(id)),
        ("phase", json!(phase)),
        ("who", action.who.shown()),
        ("action", json!(action.name)),
        ("connector", json!(connector.name)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl Log {
    async fn write(&self, connector: &Connector, who: &Who, entry: Map<String, Value>) -> Result<()> {
        let line = Value::Object(entry).to_string();
        if let Some(path) = self.file.clone() {
            let line = line.clone();
            let appended = tokio::task::spawn_blocking(move || file::append(&path, &line)).await;
            appended
                .map_err(|panic| Error::fatal("the operator log broke a rule of its own").source(panic))??;
        }
        let Some(topic) = self.topic.clone() else { return Ok(()) };
        match (&self.file, who) {
            (None, _) => topic::send(connector, &topic, line).await,
            // Nobody who asks the daemon waits for Kafka.
            (Some(_), Who::Peer(_)) => {
                let connector = connector.clone();
                PENDING.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    copied(&connector, &topic, line).await;
                    PENDING.fetch_sub(1, Ordering::Relaxed);
                });
                Ok(())
            }
            (Some(_), Who::User { .. }) => {
                copied(connector, &topic, line).await;
                Ok(())
            }
        }
    }
}

async fn copied(connector: &Connector, topic: &str, line: String) {
    if let Err(error) = topic::send(connector, topic, line).await {
        let connector = &connector.name;
        tracing::warn!(connector, hint = error.hint_text(), "{ONLY_IN_FILE}: {error}");
    }
}

/// Entries on their way to topics.
static PENDING: AtomicUsize = AtomicUsize::new(0);

/// Before the daemon ends: until all of them are there, as long as Kafka takes them soon.
pub async fn settled() {
    let deadline = Instant::now() + SETTLED_WITHIN;
    while PENDING.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
        tokio::time::sleep(SETTLED_POLL).await;
    }
}
