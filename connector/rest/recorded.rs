//! Between whoever asks for a change and what changes something: the operator log of the connector that it is about.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{RawPathParams, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Value, json};
use tracing::Instrument;

use super::peer::Peer;
use super::{Daemon, refusal};
use crate::config::Connector;
use crate::operators::{self, Action, Who};

/// Of a signal's data, what says which rows it is about. Conditions may hold values of rows.
const SHOWN: [&str; 4] = ["data-collections", "type", "surrogate-key", "id"];

/// Writes what is wanted of a connector before it is done, and what came of it behind. The name is the one that the
/// route found, as whoever acts on it reads it: in a path it may be spelled with escapes.
pub async fn recorded(
    State(daemon): State<Daemon>,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let name = params.iter().find(|(param, _)| *param == "name").map(|(_, name)| name);
    let Some(settings) = name.and_then(|name| daemon.find(name)).map(|connector| connector.settings()) else {
        return next.run(request).await;
    };
    let action = async move {
        match settings.operator_log {
            None => next.run(request).await,
            Some(_) => done(settings, request, next).await,
        }
    };
    // On its own: what was begun is ended and written, though whoever asked may hang up.
    let done = tokio::spawn(action.in_current_span()).await;
    done.unwrap_or_else(|_| {
        refusal(StatusCode::INTERNAL_SERVER_ERROR, "a panic: the daemon's log has its place")
    })
}

async fn done(settings: Arc<Connector>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let words = path.trim_matches('/').split('/').skip(2);
    let peer = Peer::of(&request).map(|peer| peer.address);
    let (parts, body) = request.into_parts();
    // It is in memory by now, and was small enough for that.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let name = words.collect::<Vec<_>>().join(" ");
    let action = Action { who: Who::Peer(peer), name, arguments: arguments(parts.uri.query(), &body) };
    let intended = match operators::intend(&settings, action).await {
        Ok(intended) => intended,
        Err(error) => {
            let why = std::error::Error::source(&error).map(|why| format!(": {why}")).unwrap_or_default();
            let hint = error.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
            tracing::error!(connector = settings.name, "{error}{why}");
            return refusal(StatusCode::SERVICE_UNAVAILABLE, format!("{error}{why}{hint}"));
        }
    };
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let status = response.status();
    let failed = (!status.is_success()).then(|| format!("answered {status}"));
    operators::outcome(&settings, intended, failed).await;
    response
}

fn arguments(query: Option<&str>, body: &[u8]) -> Value {
    let mut arguments = serde_json::Map::new();
    arguments.extend(query.map(|query| ("query".to_owned(), json!(query))));
    if let Ok(Value::Object(mut body)) = serde_json::from_slice(body) {
        for key in ["id", "type", "positions", "out_of_order"] {
            arguments.extend(body.remove(key).map(|value| (key.to_owned(), value)));
        }
        let mut data = body.remove("data").unwrap_or_default();
        // Debezium's signals hold it as the text of JSON.
        if let Some(inner) = data.as_str().and_then(|text| serde_json::from_str(text).ok()) {
            data = inner;
        }
        if let Value::Object(data) = data {
            let shown = data.into_iter().map(|(key, value)| match SHOWN.contains(&key.as_str()) {
                true => (key, value),
                false => (key, json!("not shown")),
            });
            arguments.insert("data".to_owned(), Value::Object(shown.collect()));
        }
    }
    Value::Object(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_signal_is_about_is_told_and_no_value_that_it_holds() {
        let body = json!({"id": "one", "type": "execute-snapshot", "data": {
            "data-collections": ["public.users"],
            "additional-conditions": [{"data-collection": "public.users", "filter": "phone = '555'"}]}});
        let told = arguments(Some("onlyFailed=true"), body.to_string().as_bytes());
        let data = json!({"data-collections": ["public.users"], "additional-conditions": "not shown"});
        let expected =
            json!({"query": "onlyFailed=true", "id": "one", "type": "execute-snapshot", "data": data});
        assert_eq!(told, expected);
        let as_text = json!({"type": "log", "data": "{\"message\": \"secret\"}"}).to_string();
        assert_eq!(
            arguments(None, as_text.as_bytes()),
            json!({"type": "log", "data": {"message": "not shown"}})
        );
        assert_eq!(arguments(None, b""), json!({}));
    }
}
