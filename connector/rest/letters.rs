//! The dead letters of a connector, to be read; replaying them is `millrace dead-letters`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use millrace_core::encode::Letter;
use millrace_core::error::Kind;
use serde_json::{Value, json};

use super::{Daemon, connect, refusal};
use crate::registry;

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

fn entry(letter: &Letter) -> Value {
    json!({
        "position": letter.position,
        "relation": letter.relation.full_name(),
        "code": letter.error.code,
        "message": letter.error.message,
        "attempt": letter.attempt,
    })
}

async fn read(daemon: &Daemon, name: &str) -> Result<Vec<Letter>, Response> {
    let Some(connector) = daemon.find(name) else {
        return Err(connect::unknown(name));
    };
    registry::dead_letters(&connector.settings()).await.map_err(|error| {
        let status = match error.kind() {
            Kind::Config => StatusCode::CONFLICT,
            Kind::Transient => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Record | Kind::Fenced | Kind::Fatal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        refusal(status, error.to_string())
    })
}
