//! The dead letters of a connector: to be read, and to be replayed as by `millrace dead-letters`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use millrace_core::encode::Letter;
use millrace_core::error::{Error, Kind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Daemon, connect, refusal};
use crate::registry::{self, Asked, Replayed};

/// One entry a letter, oldest first, without its rows.
pub async fn list(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    match read(&daemon, &name).await {
        Ok(letters) => Json(letters.iter().map(entry).collect::<Vec<_>>()).into_response(),
        Err(refusal) => refusal,
    }
}

/// One letter with its rows, as it lies in its topic.
pub async fn show(State(daemon): State<Daemon>, Path((name, position)): Path<(String, String)>) -> Response {
    let letters = match read(&daemon, &name).await {
        Ok(letters) => letters,
        Err(refusal) => return refusal,
    };
    match letters.iter().find(|letter| letter.position == position) {
        Some(letter) => Json(letter).into_response(),
        None => refusal(StatusCode::NOT_FOUND, format!("Dead letter {position} not found")),
    }
}

/// Connectors whose letters are being replayed.
#[derive(Clone, Debug, Default)]
pub struct Replays(Arc<Mutex<HashSet<String>>>);

impl Replays {
    /// `None` while another one runs: a second replay would shut out the first.
    pub fn begin(&self, connector: &str) -> Option<Running> {
        let is_first = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(connector.to_owned());
        is_first.then(|| Running { replays: self.clone(), connector: connector.to_owned() })
    }
}

/// Ends when it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Running {
    replays: Replays,
    connector: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.replays.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.connector);
    }
}

/// What a replay is asked for; without a body, all letters.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    positions: Vec<String>,
    out_of_order: bool,
}

/// One entry a letter that was asked for, with what became of it.
pub async fn replay(State(daemon): State<Daemon>, Path(name): Path<String>, body: Bytes) -> Response {
    let Some(connector) = daemon.find(&name) else { return connect::unknown(&name) };
    let wanted = match body.is_empty() {
        true => Ok(Wanted::default()),
        false => serde_json::from_slice::<Wanted>(&body),
    };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(why) => return refusal(StatusCode::BAD_REQUEST, format!("not what a replay is asked by: {why}")),
    };
    let Some(_running) = daemon.replays.begin(&name) else {
        let why = format!("letters of connector {name} are being replayed; ask again when that has ended");
        return refusal(StatusCode::CONFLICT, why);
    };
    let asked = Asked { positions: &wanted.positions, out_of_order: wanted.out_of_order };
    let mut outcomes = Vec::new();
    let done = registry::replay(&connector.settings(), asked, |letter, outcome| {
        outcomes.push(told(letter, outcome));
    })
    .await;
    match done {
        Ok(()) => Json(outcomes).into_response(),
        Err(error) => failed(&error),
    }
}

fn told(letter: &Letter, outcome: &Replayed) -> Value {
    let (word, more) = match outcome {
        Replayed::Delivered { records } => ("delivered", Some(("records", json!(records)))),
        Replayed::Refused => ("refused", None),
        Replayed::LeftOut => ("left_out", None),
        Replayed::Overtaken { topic } => ("overtaken", Some(("topic", json!(topic)))),
        Replayed::Held { thing } => ("held", Some(("held", json!(thing)))),
        Replayed::Behind { position } => ("behind", Some(("earlier", json!(position)))),
    };
    let mut told = json!({
        "position": letter.position,
        "relation": letter.relation.full_name(),
        "outcome": word,
    });
    if let Some((key, value)) = more {
        told[key] = value;
    }
    told
}

fn entry(letter: &Letter) -> Value {
    json!({
        "position": letter.position,
        "relation": letter.relation.full_name(),
        "code": letter.error.code,
        "message": letter.error.message,
        "schema_id": letter.error.schema_id,
        "attempt": letter.attempt,
    })
}

async fn read(daemon: &Daemon, name: &str) -> Result<Vec<Letter>, Response> {
    let Some(connector) = daemon.find(name) else {
        return Err(connect::unknown(name));
    };
    registry::dead_letters(&connector.settings()).await.map_err(|error| failed(&error))
}

fn failed(error: &Error) -> Response {
    let status = match error.kind() {
        Kind::Config => StatusCode::CONFLICT,
        Kind::Transient => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Record | Kind::Fenced | Kind::Fatal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let hint = error.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
    refusal(status, format!("{error}{hint}"))
}
