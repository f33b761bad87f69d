//! Signals to a running connector, and what it has told of them.
//!
//! Only JSON is taken: a page of another origin cannot send that without asking first.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use millrace_core::progress::Notification;
use millrace_core::signal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Daemon, connect, refusal};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    id: Option<String>,
    r#type: String,
    #[serde(default)]
    data: Value,
}

/// `POST /connectors/{name}/signals`, the body as in Debezium's topic of signals. What becomes of it is told by
/// notifications.
pub async fn signal(
    State(daemon): State<Daemon>,
    Path(name): Path<String>,
    Json(body): Json<Body>,
) -> Response {
    let Some(connector) = daemon.find(&name) else { return connect::unknown(&name) };
    let id = body.id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let signal = match signal::parse(&*id, &body.r#type, &body.data) {
        Ok(signal) => signal,
        Err(error) => {
            let hint = error.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
            return refusal(StatusCode::BAD_REQUEST, format!("{error}{hint}"));
        }
    };
    match connector.signal(signal) {
        true => (StatusCode::ACCEPTED, Json(json!({"id": id}))).into_response(),
        false => refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "the connector takes no signals now: it has ended, or many wait",
        ),
    }
}

/// `GET /connectors/{name}/notifications`, oldest first.
pub async fn notifications(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    let Some(connector) = daemon.find(&name) else { return connect::unknown(&name) };
    let shape = |n: &Notification| {
        json!({
            "id": n.id,
            "type": n.kind,
            "aggregate_type": n.aggregate,
            "additional_data": n.data,
            "timestamp": n.at_ms,
        })
    };
    Json(connector.progress.notifications().iter().map(shape).collect::<Vec<_>>()).into_response()
}
