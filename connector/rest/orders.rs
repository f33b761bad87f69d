//! What Kafka Connect lets operators do with a connector: pause, resume, stop, restart. It holds as long as the
//! process; what is to hold for good stands in the connector's file.

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};

use super::{Daemon, connect, refusal, shapes};
use crate::supervisor::Wanted;

pub async fn pause(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    want(&daemon, &name, Wanted::Paused, StatusCode::ACCEPTED)
}

pub async fn resume(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    want(&daemon, &name, Wanted::Running, StatusCode::ACCEPTED)
}

pub async fn stop(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    want(&daemon, &name, Wanted::Stopped, StatusCode::NO_CONTENT)
}

/// Connect's codes differ.
fn want(daemon: &Daemon, name: &str, wanted: Wanted, done: StatusCode) -> Response {
    let Some(connector) = daemon.find(name) else { return connect::unknown(name) };
    tracing::info!(connector = name, ?wanted, "asked for by REST");
    connector.orders.want(wanted);
    done.into_response()
}

/// `?onlyFailed=true` leaves alone what works; `?includeTasks=true` changes nothing but the answer: a connector and
/// its task are one here.
pub async fn restart(
    State(daemon): State<Daemon>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(connector) = daemon.find(&name) else { return connect::unknown(&name) };
    let query = query.unwrap_or_default();
    let is_asked = |key: &str| query.split('&').any(|pair| pair.strip_prefix(key) == Some("=true"));
    let only_failed = is_asked("onlyFailed");
    if !only_failed || connector.has_failed() {
        tracing::info!(connector = name, "restart asked for by REST");
        connector.orders.begin_anew();
    }
    match only_failed || is_asked("includeTasks") {
        true => {
            let status = shapes::status(&connector, &daemon.worker_id);
            (StatusCode::ACCEPTED, Json(status)).into_response()
        }
        false => StatusCode::NO_CONTENT.into_response(),
    }
}

pub async fn restart_task(
    State(daemon): State<Daemon>,
    Path((name, task)): Path<(String, String)>,
) -> Response {
    let Some(connector) = daemon.find(&name) else { return connect::unknown(&name) };
    if task != "0" || !shapes::has_task(&connector) {
        return refusal(StatusCode::NOT_FOUND, format!("Unknown task: {name}-{task}"));
    }
    tracing::info!(connector = name, "restart asked for by REST");
    connector.orders.begin_anew();
    StatusCode::NO_CONTENT.into_response()
}
