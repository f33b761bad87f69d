//! REST as tools for Kafka Connect read it, health, readiness and metrics.

use std::collections::BTreeSet;

use millrace_e2e::{Shop, until};
use serde_json::{Value as Json, json};

use super::monitoring;

#[tokio::test]
async fn the_reading_endpoints_have_the_shapes_of_kafka_connect() {
    let mut shop = Shop::open("rest").await;
    shop.start().await.rows(1..=3).await.expect_rows(1..=3).await;
    let (daemon, name) = (shop.daemon(), shop.name.as_str());
    let (_, root) = daemon.json("/").await;
    assert!(
        root["version"].is_string() && root["commit"].is_string() && root["kafka_cluster_id"].is_string()
    );
    assert_eq!(
        root["kafka_cluster_id"].as_str().map(str::len),
        Some(22),
        "the id that Kafka gave itself: {root}"
    );
    assert_eq!(daemon.json("/connectors").await, (200, json!([name])));

    let (_, status) = daemon.json(&format!("/connectors/{name}/status")).await;
    assert_eq!((&status["name"], &status["type"]), (&json!(name), &json!("source")));
    assert_eq!(status["connector"]["state"], "RUNNING");
    let worker = &status["connector"]["worker_id"];
    assert_eq!(status["tasks"], json!([{"id": 0, "state": "RUNNING", "worker_id": worker}]));

    let (_, info) = daemon.json(&format!("/connectors/{name}")).await;
    assert_eq!(info["tasks"], json!([{"connector": name, "task": 0}]));
    assert_eq!((&info["name"], &info["type"]), (&json!(name), &json!("source")));
    let (_, config) = daemon.json(&format!("/connectors/{name}/config")).await;
    assert_eq!((&config["name"], &config), (&json!(name), &info["config"]));
    assert!(config["connector.class"].is_string(), "{config}");
    let flat = config.as_object().is_some_and(|config| config.values().all(Json::is_string));
    assert!(flat, "not a flat map of strings: {config}");

    let (_, all) = daemon.json("/connectors?expand=status&expand=info").await;
    assert_eq!(all[name]["info"], info);
    assert_eq!(all[name]["status"]["tasks"], status["tasks"]);
    let (_, tasks) = daemon.json(&format!("/connectors/{name}/tasks")).await;
    assert_eq!(tasks, json!([{"id": {"connector": name, "task": 0}, "config": config}]));
    let (_, task) = daemon.json(&format!("/connectors/{name}/tasks/0/status")).await;
    assert_eq!(task, status["tasks"][0]);
    let (_, topics) = daemon.json(&format!("/connectors/{name}/topics")).await;
    assert_eq!(topics, json!({name: {"topics": [shop.topic("public.orders")]}}));
    let (_, plugins) = daemon.json("/connector-plugins").await;
    assert_eq!((&plugins[0]["type"], &plugins[0]["class"]), (&json!("source"), &config["connector.class"]));
}

#[tokio::test]
async fn offsets_show_what_is_durable_in_kafka() {
    let mut shop = Shop::open("offsets").await;
    shop.start().await.rows(1..=3).await.expect_rows(1..=3).await;
    let mut stored = shop.position().await.value;
    if let Some(stored) = stored.as_object_mut() {
        stored.remove("v");
    }
    // What is in Kafka is known to the daemon a moment later.
    let offset = until("REST shows the newest position", async || {
        let (status, offsets) = shop.daemon().json(&format!("/connectors/{}/offsets", shop.name)).await;
        assert_eq!(status, 200);
        assert_eq!(offsets["offsets"][0]["partition"], json!({"server": shop.name}));
        let offset = offsets["offsets"][0]["offset"].clone();
        (offset["txId"] == stored["txId"]).then_some(offset)
    })
    .await;
    assert_eq!(offset["slot"], stored["slot"]);
    let fields = |json: &Json| json.as_object().map(|json| json.keys().cloned().collect::<BTreeSet<_>>());
    assert_eq!(fields(&offset), fields(&stored));
}

#[tokio::test]
async fn what_is_not_there_is_answered_in_connect_s_words() {
    let mut shop = Shop::open("rest-404").await;
    shop.start().await;
    for path in ["/connectors/nobody", "/connectors/nobody/status", "/connectors/nobody/offsets"] {
        let (status, body) = shop.daemon().json(path).await;
        assert_eq!(
            (status, body),
            (404, json!({"error_code": 404, "message": "Connector nobody not found"}))
        );
    }
    let (status, body) = shop.daemon().json("/nothing/here").await;
    assert_eq!((status, &body["error_code"]), (404, &json!(404)));
    assert!(body["message"].is_string(), "{body}");
    let (status, _) = shop.daemon().json(&format!("/connectors/{}/tasks/7/status", shop.name)).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn health_says_that_the_process_lives_and_readiness_why_it_does_not_work() {
    let mut shop = Shop::open("health").await;
    shop.capture(&["public.missing"]).start_in_any_state().await;
    shop.degraded(&["public.missing"]).await;
    let (status, health) = shop.daemon().json("/health").await;
    assert_eq!((status, &health["status"]), (200, &json!("healthy")));
    let (status, body) = shop.daemon().json("/ready").await;
    assert_eq!((status, &body["connectors"][0]["connector"]), (503, &json!(shop.name)));
    let (status, _) = shop.daemon().json("/ready?connector=nobody").await;
    assert_eq!(status, 404);
    shop.table("missing", "id int PRIMARY KEY").await.wait_for_state("RUNNING").await;
    until("it is ready", async || shop.daemon().ready().await.then_some(())).await;
}

#[tokio::test]
async fn metrics_count_what_was_received_delivered_and_confirmed() {
    let mut shop = Shop::open("metrics").await;
    // What is sent once more after a slow commit is received, and encoded, once more.
    shop.trust_commits().start().await.rows(1..=100).await;
    shop.sql.run("UPDATE orders SET note = 'x' WHERE id <= 10; DELETE FROM orders WHERE id <= 5").await;
    shop.settled().await;
    let name = &shop.name;
    let running = format!("millrace_connector_state{{connector=\"{name}\",state=\"RUNNING\"}} 1");
    let delivered = format!("millrace_delivered_records_total{{connector=\"{name}\"}} 121");
    // A commit is seen in Kafka before the daemon is told of it.
    let page = until("everything is counted and the connector runs", async || {
        let (status, page) = shop.daemon().get("/metrics").await;
        assert_eq!(status, 200);
        [&running, &delivered].iter().all(|shown| page.lines().any(|line| line == *shown)).then_some(page)
    })
    .await;
    let value = |line: &str| {
        let found = page.lines().find_map(|shown| shown.strip_prefix(line)?.strip_prefix(' '));
        let found = found.unwrap_or_else(|| panic!("no {line} in\n{page}"));
        found.parse::<f64>().unwrap_or_else(|_| panic!("{line} is {found}"))
    };
    let of = |figure: &str| value(&format!("millrace_{figure}{{connector=\"{name}\"}}"));
    let events = |operation: &str| {
        value(&format!(
            "millrace_events_total{{connector=\"{name}\",table=\"public.orders\",operation=\"{operation}\"}}"
        ))
    };
    // With the fence.
    assert_eq!((events("create"), events("update"), events("delete")), (101.0, 10.0, 5.0));
    assert!(of("received_changes_total") >= 116.0);
    assert_eq!(of("failed_events_total"), 0.0);
    assert!(of("received_position") >= of("delivered_position"));
    assert!(of("delivered_position") >= of("confirmed_position"));
    for figure in ["retained_wal_bytes", "aborts_total", "recycles_total", "lag_bytes", "lag_seconds"] {
        assert!(of(figure) >= 0.0, "{figure}");
    }
    assert!(of("commit_latency_seconds_count") >= 3.0, "commits are timed");
    assert!(of("end_to_end_latency_seconds_count") >= 1.0, "events are timed");
    monitoring::expect_all_served(&page);
}
