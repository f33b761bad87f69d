//! `/health`: the process lives, whatever its peers do. `/ready`: every connector does its work, or is
//! meant not to.

use axum::extract::{RawQuery, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use millrace_core::progress::State;
use serde_json::{Value, json};

use super::{Daemon, connect};

pub async fn health() -> Response {
    Json(json!({"status": "healthy", "message": "the process lives"})).into_response()
}

/// `?connector=x` for one.
pub async fn ready(Extract(daemon): Extract<Daemon>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    // Names hold no character that a query would escape.
    let only = query.split('&').find_map(|pair| pair.strip_prefix("connector="));
    if let Some(name) = only
        && daemon.find(name).is_none()
    {
        return connect::unknown(name);
    }
    let mut waiting: Vec<Value> = Vec::new();
    for connector in daemon.connectors.all().iter().filter(|c| only.is_none_or(|name| c.name() == name)) {
        let shown = connector.progress.shown();
        if !is_ready(shown.state) {
            waiting.push(json!({
                "connector": connector.name(),
                "state": shown.state.name(),
                "reason": shown.reason,
                "hint": shown.hint,
            }));
        }
    }
    let (status, word) = match waiting.is_empty() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    (status, Json(json!({"status": word, "connectors": waiting}))).into_response()
}

fn is_ready(state: State) -> bool {
    match state {
        // Another instance is active, or the operator wants it so.
        State::Running | State::Paused | State::Standby => true,
        State::Starting
        | State::Degraded
        | State::Stalled
        | State::PositionLost
        | State::PositionAhead
        | State::Fenced
        | State::Failed
        | State::Stopped => false,
    }
}
