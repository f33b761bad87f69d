//! The daemon over HTTP: Kafka Connect's reading endpoints (`connect`), health and readiness (`ready`), dead
//! letters (`letters`), metrics; and what changes something: Connect's pause, resume, stop and restart (`orders`),
//! signals to connectors (`signals`) and replays of dead letters, each in the log of its connector (`recorded`).
//! Connections are held by `listener` and `peer`. Start at `router`.

mod connect;
mod letters;
mod listener;
mod orders;
mod peer;
mod ready;
mod recorded;
mod shapes;
mod signals;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodRouter, get, post, put};
use millrace_core::error::{Error, Result};
use serde_json::json;
use tokio::net::TcpListener;

use crate::config;
use crate::supervisor::{Connector, Connectors};
use crate::telemetry;

/// What every handler reads.
#[derive(Clone)]
pub struct Daemon {
    connectors: Arc<Connectors>,
    /// Connect's name for a process: where it listens.
    worker_id: Arc<str>,
    replays: letters::Replays,
}

impl Daemon {
    fn find(&self, name: &str) -> Option<Arc<Connector>> {
        self.connectors.find(name)
    }
}

/// Takes the address, before any connector starts.
pub async fn bind(rest: &config::Rest) -> Result<(TcpListener, SocketAddr)> {
    let cannot = |error| {
        Error::config(format!("cannot listen on {}", rest.listen))
            .source(error)
            .hint("set listen in [rest], or --rest 127.0.0.1:0 for any free port")
    };
    let listener = TcpListener::bind(rest.listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    Ok((listener, address))
}

/// Serves until the process ends.
pub async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    open_reading: bool,
    connectors: Arc<Connectors>,
) {
    let access = match (address.ip().is_loopback(), open_reading) {
        (true, _) => Access::All,
        (false, true) => Access::Reading,
        (false, false) => Access::Health,
    };
    let worker_id = address.to_string().into();
    let router = router(Daemon { connectors, worker_id, replays: letters::Replays::default() }, access);
    let service = router.into_make_service_with_connect_info::<peer::Peer>();
    if let Err(error) = axum::serve(listener::Capped::new(listener), service).await {
        tracing::error!("rest stopped: {error}");
    }
}

/// What is given to whoever can connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Access {
    /// Health and readiness.
    Health,
    Reading,
    /// What changes something, too.
    All,
}

fn router(daemon: Daemon, access: Access) -> Router {
    let reading = Router::new()
        .route("/", get(connect::root))
        .route("/connectors", get(connect::list))
        .route("/connectors/{name}", get(connect::info))
        .route("/connectors/{name}/config", get(connect::config))
        .route("/connectors/{name}/status", get(connect::status))
        .route("/connectors/{name}/tasks", get(connect::tasks))
        .route("/connectors/{name}/tasks/{task}/status", get(connect::task_status))
        .route("/connectors/{name}/topics", get(connect::topics))
        .route("/connectors/{name}/offsets", get(connect::offsets))
        .route("/connectors/{name}/dead-letters", get(letters::list))
        .route("/connectors/{name}/dead-letters/{*position}", get(letters::show))
        .route("/connectors/{name}/notifications", get(signals::notifications))
        .route("/connector-plugins", get(connect::plugins))
        .route("/metrics", get(metrics))
        .route_layer(middleware::from_fn_with_state(access, reading_is_open));
    let changing = Router::new()
        .route("/connectors/{name}/signals", post(signals::signal))
        .route("/connectors/{name}/dead-letters/replay", post(letters::replay))
        .route("/connectors/{name}/pause", put(orders::pause))
        .route("/connectors/{name}/resume", put(orders::resume))
        .route("/connectors/{name}/stop", put(orders::stop))
        .route("/connectors/{name}/restart", post(orders::restart))
        .route("/connectors/{name}/tasks/{task}/restart", post(orders::restart_task))
        .route_layer(middleware::from_fn_with_state(daemon.clone(), recorded::recorded))
        // The outermost: what is not allowed is no action.
        .route_layer(middleware::from_fn_with_state(access, changing_is_open));
    reading
        .merge(changing)
        // Tools ask it before they send a connector, and are to be told the same then.
        .route("/connector-plugins/{plugin}/config/validate", MethodRouter::new())
        .route("/health", get(ready::health))
        .route("/ready", get(ready::ready))
        .fallback(async || refusal(StatusCode::NOT_FOUND, "HTTP 404 Not Found"))
        .method_not_allowed_fallback(async || {
            refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "HTTP 405 Method Not Allowed: connectors are made, changed and removed by their files, which \
                 `millrace check` tries; their positions by `millrace position`",
            )
        })
        .layer(middleware::from_fn(peer::waiting))
        .with_state(daemon)
}

async fn changing_is_open(State(access): State<Access>, request: Request, next: Next) -> Response {
    if access != Access::All {
        return refusal(
            StatusCode::FORBIDDEN,
            "connectors are paused, restarted and told on loopback only, and letters replayed",
        );
    }
    // Only browsers name one, and a page there may send a POST to any port of its reader's machine.
    if request.headers().contains_key(header::ORIGIN) {
        return refusal(StatusCode::FORBIDDEN, "a web page may not change connectors");
    }
    next.run(request).await
}

async fn reading_is_open(State(access): State<Access>, request: Request, next: Next) -> Response {
    if access >= Access::Reading {
        return next.run(request).await;
    }
    refusal(
        StatusCode::FORBIDDEN,
        "off loopback only /health and /ready are open; set open_reading = true in [rest] to open the rest",
    )
}

async fn metrics(State(daemon): State<Daemon>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, telemetry::render(&daemon.connectors.all())).into_response()
}

/// Connect's shape of an error.
fn refusal(status: StatusCode, message: impl Into<String>) -> Response {
    let body = json!({"error_code": status.as_u16(), "message": message.into()});
    (status, Json(body)).into_response()
}

#[cfg(test)]
mod tests;
