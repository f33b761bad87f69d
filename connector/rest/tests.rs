//! The real server on a port of its own, asked over HTTP.

use millrace_core::position::Position;
use millrace_core::progress::State as Shown;
use serde_json::Value;

use crate::supervisor::{Ended, Wanted};
use millrace_core::error::Kind;

use super::*;

struct Server {
    address: SocketAddr,
    replays: letters::Replays,
    connector: Arc<Connector>,
}

async fn server_with(access: Access) -> Server {
    let connector = Arc::new(Connector::new(config::test_connector("orders")));
    let connectors = Arc::new(Connectors::from(vec![connector.clone()]));
    let replays = letters::Replays::default();
    let daemon = Daemon { connectors, worker_id: "127.0.0.1:8083".into(), replays: replays.clone() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(daemon, access)).await });
    Server { address, replays, connector }
}

async fn server() -> Server {
    server_with(Access::All).await
}

impl Server {
    async fn request(&self, method: &str, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    async fn post(&self, path: &str, kind: &str, body: &str) -> u16 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}");
        let request = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text.split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.request("GET", path).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}")))
    }
}

#[tokio::test]
async fn status_has_the_shape_of_connect_and_our_own_beside_it() {
    let server = server().await;
    server.connector.progress.show(Shown::Running, None, None);
    let (code, status) = server.get("/connectors/orders/status").await;
    assert_eq!(code, 200);
    assert_eq!(status["name"], "orders");
    assert_eq!(status["connector"], json!({"state": "RUNNING", "worker_id": "127.0.0.1:8083"}));
    assert_eq!(status["tasks"], json!([{"id": 0, "state": "RUNNING", "worker_id": "127.0.0.1:8083"}]));
    assert_eq!(status["type"], "source");
    assert_eq!(status["millrace"]["state"], "RUNNING");
    assert_eq!(status["millrace"]["lag_seconds"], 0.0);
}

#[tokio::test]
async fn a_failed_connector_is_a_failed_task_with_a_trace() {
    let server = server().await;
    server.connector.progress.show(
        Shown::PositionLost,
        Some("slot is gone".into()),
        Some("type this".into()),
    );
    let (_, status) = server.get("/connectors/orders/status").await;
    assert_eq!(status["connector"]["state"], "RUNNING");
    assert_eq!(status["tasks"][0]["state"], "FAILED");
    assert_eq!(status["tasks"][0]["trace"], "POSITION_LOST: slot is gone\nhint: type this");
    let (code, task) = server.get("/connectors/orders/tasks/0/status").await;
    assert_eq!((code, &task), (200, &status["tasks"][0]));
}

#[tokio::test]
async fn a_fenced_connector_is_stopped_without_tasks() {
    let server = server().await;
    server.connector.progress.show(Shown::Fenced, Some("taken over by b".into()), None);
    let (_, status) = server.get("/connectors/orders/status").await;
    assert_eq!(status["connector"]["state"], "STOPPED");
    assert_eq!(status["connector"]["trace"], "FENCED: taken over by b");
    assert_eq!(status["tasks"], json!([]));
    assert_eq!(server.get("/connectors/orders/tasks").await.1, json!([]));
    assert_eq!(server.get("/connectors/orders").await.1["tasks"], json!([]));
    assert_eq!(server.get("/connectors/orders/tasks/0/status").await.0, 404);
}

#[tokio::test]
async fn connectors_are_listed_by_name_or_with_what_is_asked_for() {
    let server = server().await;
    assert_eq!(server.get("/connectors").await.1, json!(["orders"]));
    let (_, both) = server.get("/connectors?expand=status&expand=info").await;
    assert_eq!(both["orders"]["status"]["name"], "orders");
    assert_eq!(both["orders"]["info"]["tasks"], json!([{"connector": "orders", "task": 0}]));
    let (_, one) = server.get("/connectors?expand=info").await;
    assert!(one["orders"].get("status").is_none());
}

#[tokio::test]
async fn configuration_is_a_flat_map_of_strings_without_secrets() {
    let server = server().await;
    let (_, config) = server.get("/connectors/orders/config").await;
    assert_eq!(config["name"], "orders");
    assert_eq!(config["source.postgres.tables"], "public.orders");
    assert_eq!(config["source.postgres.password"], "[hidden]");
    assert_eq!(config["connector.class"], "millrace.source.postgres");
    assert!(config.as_object().unwrap().values().all(Value::is_string), "{config}");
    let (_, tasks) = server.get("/connectors/orders/tasks").await;
    assert_eq!(tasks[0]["id"], json!({"connector": "orders", "task": 0}));
    assert_eq!(tasks[0]["config"], config);
}

#[tokio::test]
async fn offsets_show_the_delivered_position() {
    let server = server().await;
    assert_eq!(server.get("/connectors/orders/offsets").await.1, json!({"offsets": []}));
    server.connector.progress.set_position(Position::new(r#"{"lsn":7}"#));
    assert_eq!(
        server.get("/connectors/orders/offsets").await.1,
        json!({"offsets": [{"partition": {"server": "orders"}, "offset": {"lsn": 7}}]})
    );
}

#[tokio::test]
async fn topics_are_those_that_records_went_to() {
    let server = server().await;
    server.connector.progress.use_topic("orders.public.orders");
    assert_eq!(
        server.get("/connectors/orders/topics").await.1,
        json!({"orders": {"topics": ["orders.public.orders"]}})
    );
}

#[tokio::test]
async fn root_and_plugins_answer_as_connect_does() {
    let server = server().await;
    let (_, root) = server.get("/").await;
    let keys: Vec<_> = root.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["version", "commit", "kafka_cluster_id"]);
    let (_, plugins) = server.get("/connector-plugins").await;
    assert_eq!(plugins[0]["class"], "millrace.source.postgres");
    assert_eq!(plugins[0]["type"], "source");
}

#[tokio::test]
async fn what_is_not_there_is_answered_in_the_shape_of_connect() {
    let server = server().await;
    let missing = json!({"error_code": 404, "message": "Connector items not found"});
    for path in ["", "/config", "/status", "/tasks", "/tasks/0/status", "/topics", "/offsets"] {
        assert_eq!(server.get(&format!("/connectors/items{path}")).await, (404, missing.clone()), "{path}");
    }
    assert_eq!(server.get("/nowhere").await.1["error_code"], 404);
}

#[tokio::test]
async fn nothing_can_be_changed() {
    let server = server().await;
    for (method, path) in [
        ("POST", "/connectors"),
        ("DELETE", "/connectors/orders"),
        ("PUT", "/connectors/orders/config"),
        ("PATCH", "/connectors/orders/offsets"),
        ("DELETE", "/connectors/orders/offsets"),
        ("PUT", "/connector-plugins/millrace.source.postgres/config/validate"),
    ] {
        let (status, body) = server.request(method, path).await;
        assert_eq!(status, 405, "{method} {path}");
        assert!(body.contains("\"error_code\":405"), "{body}");
    }
}

#[tokio::test]
async fn health_does_not_depend_on_any_peer() {
    let server = server().await;
    server.connector.progress.show(Shown::Failed, None, None);
    let (code, health) = server.get("/health").await;
    assert_eq!((code, &health["status"]), (200, &json!("healthy")));
}

#[tokio::test]
async fn readiness_follows_the_state_and_names_the_reason() {
    let server = server().await;
    for (state, expected) in [
        (Shown::Starting, 503),
        (Shown::Running, 200),
        (Shown::Degraded, 503),
        (Shown::Stalled, 503),
        (Shown::PositionLost, 503),
        (Shown::PositionAhead, 503),
        (Shown::Standby, 200),
        (Shown::Paused, 200),
        (Shown::Fenced, 503),
        (Shown::Failed, 503),
    ] {
        server.connector.progress.show(state, Some("because".into()), None);
        let (code, body) = server.get("/ready").await;
        assert_eq!(code, expected, "{state:?}");
        if code == 503 {
            assert_eq!(body["connectors"][0]["reason"], "because");
            assert_eq!(body["connectors"][0]["state"], state.name());
        }
    }
    assert_eq!(server.get("/ready?connector=orders").await.0, 503);
    assert_eq!(server.get("/ready?connector=items").await.0, 404);
}

#[tokio::test]
async fn off_loopback_only_health_and_readiness_are_open() {
    let server = server_with(Access::Health).await;
    server.connector.progress.show(Shown::Running, None, None);
    for path in ["/", "/connectors", "/connectors/orders/status", "/connectors/orders/config", "/metrics"] {
        let (code, body) = server.get(path).await;
        assert_eq!(code, 403, "{path}");
        assert!(body["message"].as_str().unwrap().contains("open_reading = true"), "{body}");
    }
    assert_eq!(server.get("/health").await.0, 200);
    assert_eq!(server.get("/ready").await.0, 200);
}

#[tokio::test]
async fn metrics_are_a_page_of_text() {
    let server = server().await;
    let (code, page) = server.request("GET", "/metrics").await;
    assert_eq!(code, 200);
    assert!(page.contains("millrace_delivered_position{connector=\"orders\"} 0"), "{page}");
}

#[tokio::test]
async fn an_address_that_is_taken_says_what_to_set() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rest = config::Rest { listen: taken.local_addr().unwrap(), open_reading: false };
    let error = bind(&rest).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on 127.0.0.1:"), "{error}");
    assert!(error.hint_text().unwrap().contains("[rest]"));
}

const SIGNALS: &str = "/connectors/orders/signals";
const SIGNAL: &str =
    r#"{"id": "one", "type": "execute-snapshot", "data": {"data-collections": ["public.orders"]}}"#;

#[tokio::test]
async fn a_signal_is_handed_to_the_connector_and_nonsense_is_not() {
    let server = server().await;
    assert_eq!(server.post(SIGNALS, "application/json", SIGNAL).await, 503, "nobody hears it yet");
    let (_, mut heard) = server.connector.hear();
    assert_eq!(server.post(SIGNALS, "application/json", SIGNAL).await, 202);
    assert_eq!(heard.try_recv().unwrap().id, "one");
    assert_eq!(server.post(SIGNALS, "application/json", r#"{"type": "dance"}"#).await, 400);
    assert_eq!(server.post("/connectors/other/signals", "application/json", SIGNAL).await, 404);
    // What any page of the web may send.
    assert_eq!(server.post(SIGNALS, "text/plain", SIGNAL).await, 415);
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn off_loopback_nobody_may_signal_even_where_reading_is_open() {
    let server = server_with(Access::Reading).await;
    assert_eq!(server.post(SIGNALS, "application/json", SIGNAL).await, 403);
    assert_eq!(server.get("/connectors/orders/notifications").await.0, 200);
}

#[tokio::test]
async fn connect_s_orders_are_given_to_the_connector_with_connect_s_answers() {
    let server = server().await;
    let (stopping, listen) = tokio::sync::watch::channel(false);
    let told = server.connector.orders.told(listen);
    for (method, verb, code, wanted) in [
        ("PUT", "pause", 202, Wanted::Paused),
        ("PUT", "stop", 204, Wanted::Stopped),
        ("PUT", "resume", 202, Wanted::Running),
        ("PUT", "resume", 202, Wanted::Running),
    ] {
        let path = format!("/connectors/orders/{verb}");
        assert_eq!(server.request(method, &path).await.0, code, "{verb}");
        assert_eq!(told.wanted(), wanted, "{verb}");
        assert_eq!(server.request(method, &path.replace("orders", "items")).await.0, 404);
    }
    server.connector.progress.show(Shown::Running, None, None);
    assert_eq!(server.request("POST", "/connectors/orders/restart?onlyFailed=true").await.0, 202);
    assert!(!told.is_over(), "it had not failed");
    assert_eq!(server.request("POST", "/connectors/orders/tasks/1/restart").await.0, 404);
    assert!(!told.is_over());
    assert_eq!(server.request("POST", "/connectors/orders/tasks/0/restart").await.0, 204);
    assert!(told.is_over() && !told.is_stopped());
    let told = server.connector.orders.told(stopping.subscribe());
    assert_eq!(server.request("POST", "/connectors/orders/restart").await.0, 204);
    assert!(told.is_over());
    let told = server.connector.orders.told(stopping.subscribe());
    server.connector.ended.send_replace(Some(Ended::Failed(Kind::Fatal)));
    assert_eq!(
        server.request("POST", "/connectors/orders/restart?includeTasks=true&onlyFailed=true").await.0,
        202
    );
    assert!(told.is_over());
}

#[tokio::test]
async fn a_web_page_may_not_change_a_connector() {
    let server = server().await;
    let path = "/connectors/orders/restart HTTP/1.1\r\norigin: http://evil.example\r\nx:";
    assert_eq!(server.request("POST", path).await.0, 403);
    let server = server_with(Access::Reading).await;
    assert_eq!(server.request("PUT", "/connectors/orders/pause").await.0, 403);
}

#[tokio::test]
async fn a_second_replay_of_a_connector_is_refused_while_one_runs() {
    let server = server().await;
    let running = server.replays.begin("orders").unwrap();
    assert!(server.replays.begin("items").is_some());
    let (code, why) = server.request("POST", "/connectors/orders/dead-letters/replay").await;
    assert_eq!(code, 409);
    assert!(why.contains("are being replayed"), "{why}");
    drop(running);
    assert!(server.replays.begin("orders").is_some());
}
