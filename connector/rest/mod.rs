//! The daemon over HTTP: Kafka Connect's reading endpoints (`connect`), health and readiness (`ready`), dead
//! letters (`letters`), metrics, and signals to connectors (`signals`), the only thing that changes anything. Start
//! at `router`.

mod connect;
mod letters;
mod listener;
mod ready;
mod shapes;
mod signals;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use millrace_core::error::{Error, Result};
use serde_json::json;
use tokio::net::TcpListener;

use crate::config;
use crate::supervisor::Connector;
use crate::telemetry;

/// What every handler reads.
#[derive(Clone)]
pub struct Daemon {
    connectors: Arc<[Arc<Connector>]>,
    /// Connect's name for a process: where it listens.
    worker_id: Arc<str>,
}

impl Daemon {
    fn find(&self, name: &str) -> Option<&Arc<Connector>> {
        self.connectors.iter().find(|connector| connector.name() == name)
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
    connectors: Arc<[Arc<Connector>]>,
) {
    let access = match (address.ip().is_loopback(), open_reading) {
        (true, _) => Access::All,
        (false, true) => Access::Reading,
        (false, false) => Access::Health,
    };
    let router = router(Daemon { connectors, worker_id: address.to_string().into() }, access);
    if let Err(error) = axum::serve(listener::Capped::new(listener), router).await {
        tracing::error!("rest stopped: {error}");
    }
}

/// What is given to whoever can connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Access {
    /// Health and readiness.
    Health,
    Reading,
    /// Signals, too.
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
    let signals = Router::new()
        .route("/connectors/{name}/signals", post(signals::signal))
        .route_layer(middleware::from_fn_with_state(access, signals_are_open));
    reading
        .merge(signals)
        .route("/health", get(ready::health))
        .route("/ready", get(ready::ready))
        .fallback(async || refusal(StatusCode::NOT_FOUND, "HTTP 404 Not Found"))
        .method_not_allowed_fallback(async || {
            refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "HTTP 405 Method Not Allowed: connectors are changed by their files",
            )
        })
        .with_state(daemon)
}

async fn signals_are_open(State(access): State<Access>, request: Request, next: Next) -> Response {
    if access == Access::All {
        return next.run(request).await;
    }
    refusal(StatusCode::FORBIDDEN, "signals are taken on loopback only")
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
    (kind, telemetry::render(&daemon.connectors)).into_response()
}

/// Connect's shape of an error.
fn refusal(status: StatusCode, message: impl Into<String>) -> Response {
    let body = json!({"error_code": status.as_u16(), "message": message.into()});
    (status, Json(body)).into_response()
}

#[cfg(test)]
mod tests;
