//! kafka-ui with Millrace as a Connect cluster: every call that its client for Connect has, as it makes them, and what
//! it takes out of the answers. Of kafka-ui 1.3, and 1.5 which asks for all connectors at once.

use millrace_e2e::{Daemon, Shop, http, until};
use reqwest::Method;
use serde_json::{Value as Json, json};

/// What kafka-ui's classes are made of. It passes over members that it does not know; a word that is none of a list's
/// is an error of the whole answer.
fn shapes() -> Json {
    let text = json!({"type": "string"});
    let states = ["RUNNING", "FAILED", "PAUSED", "UNASSIGNED", "RESTARTING"];
    let of_connector = [&states[..], &["STOPPED"]].concat();
    let object = |required: &[&str], properties: Json| json!({"type": "object", "required": required, "properties": properties});
    let map_of = |shape: Json| json!({"type": "object", "minProperties": 1, "additionalProperties": shape});
    let list_of = |shape: Json| json!({"type": "array", "items": shape});
    let named = |name: &str| json!({"$ref": format!("#/$defs/{name}")});
    json!({
        "root": object(&["version", "commit", "kafka_cluster_id"],
            json!({"version": text, "commit": text, "kafka_cluster_id": text})),
        "names": list_of(text.clone()),
        "config": object(&["connector.class"], json!({"connector.class": text})),
        "task-id": object(&["connector", "task"], json!({"connector": text, "task": {"type": "integer"}})),
        "connector": object(&["name", "config", "tasks", "type"], json!({
            "name": text, "config": named("config"), "tasks": list_of(named("task-id")),
            "type": {"enum": ["source", "sink"]},
        })),
        "task-status": object(&["id", "state", "worker_id"], json!({
            "id": {"type": "integer"}, "state": {"enum": states}, "worker_id": text, "trace": text,
        })),
        "status": object(&["name", "connector", "tasks"], json!({
            "name": text,
            "connector": object(&["state", "worker_id"],
                json!({"state": {"enum": of_connector}, "worker_id": text, "trace": text})),
            "tasks": list_of(named("task-status")),
        })),
        "expanded": map_of(object(&["info", "status"],
            json!({"info": named("connector"), "status": named("status")}))),
        "tasks": list_of(object(&["id", "config"], json!({"id": named("task-id"), "config": named("config")}))),
        "topics": map_of(object(&["topics"], json!({"topics": list_of(text.clone())}))),
        "plugins": list_of(object(&["class"], json!({"class": text}))),
        "error": object(&["error_code", "message"],
            json!({"error_code": {"type": "integer"}, "message": text})),
        "any": {},
    })
}

struct KafkaUi<'a> {
    daemon: &'a Daemon,
    http: reqwest::Client,
    shapes: Json,
}

impl<'a> KafkaUi<'a> {
    fn beside(daemon: &'a Daemon) -> Self {
        Self { daemon, http: http(), shapes: shapes() }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Json>) -> (u16, reqwest::Response) {
        let url = format!("http://{}{path}", self.daemon.rest());
        let mut request = self.http.request(method, url).header("accept", "application/json");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{path} does not answer: {error}"));
        (answer.status().as_u16(), answer)
    }

    /// An answer of this shape, and of the one kind that its client decodes.
    async fn shaped(&self, shape: &str, path: &str, answer: reqwest::Response) -> Json {
        assert_eq!(answer.headers()["content-type"], "application/json", "{path}");
        let answer: Json = answer.json().await.unwrap_or_else(|error| panic!("{path}: {error}"));
        let schema = json!({"$ref": format!("#/$defs/{shape}"), "$defs": self.shapes});
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let misfits: Vec<String> = validator
            .iter_errors(&answer)
            .map(|misfit| format!("{}: {misfit}", misfit.instance_path()))
            .collect();
        assert!(misfits.is_empty(), "{path} is no {shape}: {misfits:?} in {answer}");
        answer
    }

    async fn get(&self, shape: &str, path: &str) -> Json {
        let (status, answer) = self.call(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}");
        self.shaped(shape, path, answer).await
    }

    /// Something that it does by a button; its client wants success and nothing more.
    async fn press(&self, method: Method, path: &str) {
        let (status, _) = self.call(method, path, None).await;
        assert!((200..300).contains(&status), "{path}: {status}");
    }

    /// Something that is done otherwise: not missing, which it would take for a connector that is gone, nor a
    /// conflict, after which it tries again.
    async fn refused(&self, method: Method, path: &str, body: Option<Json>) {
        let what = format!("{method} {path}");
        let (status, answer) = self.call(method, path, body).await;
        let error = self.shaped("error", &what, answer).await;
        assert_eq!((status, &error["error_code"]), (405, &json!(405)), "{what}");
        let message = error["message"].as_str().unwrap_or_default();
        for word in ["files", "millrace check", "millrace position"] {
            assert!(message.contains(word), "{what}: {message}");
        }
    }
}

#[tokio::test]
async fn kafka_ui_reads_all_that_it_shows_of_a_connect_cluster() {
    let mut shop = Shop::open("ui-reads").await;
    shop.start().await.rows(1..=3).await.expect_rows(1..=3).await;
    let (ui, name) = (KafkaUi::beside(shop.daemon()), &shop.name);
    let one = |path: &str| format!("/connectors/{name}{path}");
    ui.get("root", "/").await;
    assert_eq!(ui.get("names", "/connectors").await, json!([name]));
    let all = ui.get("expanded", "/connectors?expand=info&expand=status").await;
    let connector = ui.get("connector", &one("")).await;
    assert_eq!(all[name]["info"], connector);
    assert_eq!(ui.get("config", &one("/config")).await, connector["config"]);
    let status = ui.get("status", &one("/status")).await;
    assert_eq!(status["connector"]["state"], "RUNNING");
    for task in ui.get("tasks", &one("/tasks")).await.as_array().expect("tasks") {
        let status_of = one(&format!("/tasks/{}/status", task["id"]["task"]));
        assert_eq!(ui.get("task-status", &status_of).await, status["tasks"][0]);
    }
    let topics = ui.get("topics", &one("/topics")).await;
    assert_eq!(topics[name]["topics"], json!([shop.topic("public.orders")]));
    ui.get("any", &one("/offsets")).await;
    let plugins = ui.get("plugins", "/connector-plugins").await;
    let class = &connector["config"]["connector.class"];
    assert!(plugins.as_array().expect("plugins").iter().any(|plugin| plugin["class"] == *class), "{plugins}");
}

#[tokio::test]
async fn kafka_ui_s_buttons_work_and_what_files_are_for_is_refused_in_words() {
    let mut shop = Shop::open("ui-presses").await;
    shop.start().await.rows(1..=3).await.expect_rows(1..=3).await;
    let (ui, name) = (KafkaUi::beside(shop.daemon()), shop.name.clone());
    let one = |path: &str| format!("/connectors/{name}{path}");
    let shows = async |state: &str, tasks: usize| {
        until(&format!("kafka-ui shows {state}"), async || {
            let status = ui.get("status", &one("/status")).await;
            let is_shown = status["connector"]["state"] == state;
            (is_shown && status["tasks"].as_array().map(Vec::len) == Some(tasks)).then_some(())
        })
        .await;
    };
    for (verb, state, tasks) in [("/pause", "PAUSED", 1), ("/stop", "STOPPED", 0), ("/resume", "RUNNING", 1)]
    {
        ui.press(Method::PUT, &one(verb)).await;
        shows(state, tasks).await;
        assert_eq!(ui.get("tasks", &one("/tasks")).await.as_array().map(Vec::len), Some(tasks));
    }
    shop.wait_for_state("RUNNING").await;
    // Restart, restart all tasks, restart those that failed.
    ui.press(Method::POST, &one("/restart?includeTasks=false&onlyFailed=false")).await;
    shop.wait_for_state("RUNNING").await;
    ui.press(Method::POST, &one("/tasks/0/restart")).await;

    let config = json!({"connector.class": "millrace.source.postgres"});
    ui.refused(Method::POST, "/connectors", Some(json!({"name": "another", "config": config}))).await;
    ui.refused(Method::PUT, &one("/config"), Some(config.clone())).await;
    let validate = "/connector-plugins/millrace.source.postgres/config/validate";
    ui.refused(Method::PUT, validate, Some(config)).await;
    ui.refused(Method::DELETE, &one("/offsets"), None).await;
    ui.refused(Method::DELETE, &one(""), None).await;
    shop.rows(4..=6).await.expect_rows(1..=6).await.wait_for_state("RUNNING").await;
}
