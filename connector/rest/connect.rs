//! Kafka Connect's reading endpoints: paths, JSON and errors as its tools expect them.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Map, Value, json};

use super::{Daemon, refusal, shapes};
use crate::registry;
use crate::supervisor::Connector;

/// Connect shows its build's commit here; ours is the version.
const COMMIT: &str = env!("CARGO_PKG_VERSION");

pub async fn root(State(daemon): State<Daemon>) -> Response {
    // Connectors of one daemon may write to different clusters; tools expect one, so it is the first.
    let id = daemon.connectors.all().iter().find_map(|connector| connector.progress.kafka_cluster_id());
    let id = id.unwrap_or_default();
    Json(json!({"version": env!("CARGO_PKG_VERSION"), "commit": COMMIT, "kafka_cluster_id": id}))
        .into_response()
}

/// `?expand=status&expand=info`, the key as often as Connect's clients repeat it.
pub async fn list(State(daemon): State<Daemon>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let asked = |what: &str| {
        query.split('&').any(|pair| pair.strip_prefix("expand=").is_some_and(|value| value == what))
    };
    let (with_status, with_info) = (asked("status"), asked("info"));
    if !with_status && !with_info {
        let connectors = daemon.connectors.all();
        let names: Vec<&str> = connectors.iter().map(|connector| connector.name()).collect();
        return Json(names).into_response();
    }
    let mut all = Map::new();
    for connector in &daemon.connectors.all() {
        let mut one = Map::new();
        if with_status {
            one.insert("status".to_owned(), shapes::status(connector, &daemon.worker_id));
        }
        if with_info {
            one.insert("info".to_owned(), shapes::info(connector));
        }
        all.insert(connector.name().to_owned(), Value::Object(one));
    }
    Json(all).into_response()
}

pub async fn info(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    of(&daemon, &name, |connector| shapes::info(connector))
}

pub async fn config(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    of(&daemon, &name, |connector| json!(connector.settings().shown))
}

pub async fn status(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    of(&daemon, &name, |connector| shapes::status(connector, &daemon.worker_id))
}

pub async fn tasks(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    of(&daemon, &name, |connector| {
        if !shapes::has_task(connector) {
            return json!([]);
        }
        json!([{"id": {"connector": connector.name(), "task": 0}, "config": connector.settings().shown}])
    })
}

pub async fn task_status(
    State(daemon): State<Daemon>,
    Path((name, task)): Path<(String, String)>,
) -> Response {
    let Some(connector) = daemon.find(&name) else { return unknown(&name) };
    match shapes::task(&connector, &daemon.worker_id) {
        Some(status) if task == "0" => Json(status).into_response(),
        _ => refusal(StatusCode::NOT_FOUND, format!("No status found for task {name}-{task}")),
    }
}

pub async fn topics(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    of(&daemon, &name, |connector| json!({connector.name(): {"topics": connector.progress.topics()}}))
}

/// The newest position that is durable in the sink.
pub async fn offsets(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    of(&daemon, &name, |connector| {
        let partition = json!({"server": connector.settings().format.topic_prefix});
        let offset = connector.progress.position().and_then(|at| serde_json::from_str(at.as_str()).ok());
        let offsets: Vec<Value> = offset
            .map(|offset: Value| json!({"partition": partition, "offset": offset}))
            .into_iter()
            .collect();
        json!({"offsets": offsets})
    })
}

pub async fn plugins() -> Response {
    let plugin =
        |class: &&str| json!({"class": class, "type": "source", "version": env!("CARGO_PKG_VERSION")});
    Json(registry::CLASSES.iter().map(plugin).collect::<Vec<_>>()).into_response()
}

fn of(daemon: &Daemon, name: &str, shape: impl FnOnce(&Arc<Connector>) -> Value) -> Response {
    match daemon.find(name) {
        Some(connector) => Json(shape(&connector)).into_response(),
        None => unknown(name),
    }
}

pub(super) fn unknown(name: &str) -> Response {
    refusal(StatusCode::NOT_FOUND, format!("Connector {name} not found"))
}
