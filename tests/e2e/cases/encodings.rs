//! JSON in Kafka, with and without its schema, and JSON lines on standard output.

use millrace_e2e::{Shop, until};
use serde_json::{Value as Json, json};

#[tokio::test]
async fn json_without_a_schema_is_the_envelope_alone() {
    let mut shop = json_shop("json").await;
    shop.start().await.rows(1..=2).await;
    shop.sql.run("DELETE FROM orders WHERE id = 1").await;
    shop.expect_changes(&[("c", 1), ("c", 2), ("d", 1), ("-", 1)]).await;
    let events = shop.events("public.orders").await;
    assert_eq!(events[0].key, Some(json!({"id": 1})));
    let value = events[0].value.clone().unwrap_or_default();
    assert_eq!(value["after"], json!({"id": 1, "note": "order 1"}));
    assert_eq!(value["before"], Json::Null);
    assert_eq!(
        (&value["source"]["connector"], &value["source"]["schema"], &value["source"]["table"]),
        (&json!("postgresql"), &json!("public"), &json!("orders"))
    );
    assert_eq!(value["source"]["db"], shop.database());
    assert_eq!(value["source"]["name"], shop.name.as_str());
    assert!(value["ts_ms"].as_i64() >= value["source"]["ts_ms"].as_i64(), "{value}");
}

#[tokio::test]
async fn json_with_its_schema_has_schema_and_payload() {
    let mut shop = json_shop("json-schemas").await;
    shop.file.set("format/json_schemas", true);
    shop.start().await.rows(1..=1).await;
    let events = shop.wait_for_events("public.orders", 1).await;
    let key = events[0].key.clone().unwrap_or_default();
    assert_eq!(key["payload"], json!({"id": 1}));
    assert_eq!(
        key["schema"],
        json!({
            "type": "struct",
            "fields": [{"type": "int64", "optional": false, "field": "id"}],
            "optional": false,
            "name": format!("{}.public.orders.Key", shop.name),
        })
    );
    let value = events[0].value.clone().unwrap_or_default();
    assert_eq!(value["payload"]["after"], json!({"id": 1, "note": "order 1"}));
    assert_eq!(value["payload"]["op"], "c");
    let fields: Vec<&str> = value["schema"]["fields"]
        .as_array()
        .map(|fields| fields.iter().filter_map(|field| field["field"].as_str()).collect())
        .unwrap_or_default();
    assert_eq!(fields, ["before", "after", "source", "transaction", "op", "ts_ms", "ts_us", "ts_ns"]);
    assert_eq!(value["schema"]["name"], format!("{}.public.orders.Envelope", shop.name));
}

#[tokio::test]
async fn avro_subjects_and_schema_names_follow_the_topic() {
    let mut shop = Shop::open("subjects").await;
    shop.start().await.rows(1..=1).await.expect_rows(1..=1).await;
    let topic = shop.topic("public.orders");
    let value = shop.subjects().latest(&format!("{topic}-value")).await;
    assert_eq!((&value["type"], &value["name"]), (&json!("record"), &json!("Envelope")));
    // A hyphen is no part of an Avro name; the converter that Debezium's users have scrubs it like this.
    let namespace = topic.replace('-', "_");
    assert_eq!(value["namespace"], namespace);
    let key = shop.subjects().latest(&format!("{topic}-key")).await;
    assert_eq!((&key["name"], &key["namespace"]), (&json!("Key"), &json!(namespace)));
    assert_eq!(key["fields"][0]["type"], "long");
}

#[tokio::test]
async fn standard_output_gets_one_line_an_event_and_a_restart_goes_on_after_the_last() {
    let mut shop = json_shop("stdout").await;
    let state = shop.dir().display().to_string();
    shop.file.remove("sink/kafka").set("sink/stdout/state_dir", state);
    shop.start().await.rows(1..=20).await;
    wait_for_lines(&shop, 20).await;
    shop.sql.run("DELETE FROM orders WHERE id = 20").await;
    let lines = wait_for_lines(&shop, 22).await;
    assert_eq!(lines[0]["topic"], shop.topic("public.orders"));
    assert_eq!(lines[0]["key"], json!({"id": 1}));
    assert_eq!(lines[0]["value"]["after"], json!({"id": 1, "note": "order 1"}));
    assert!(lines[0]["headers"]["position"].is_string(), "{}", lines[0]);
    assert_eq!((&lines[20]["value"]["op"], &lines[21]["value"]), (&json!("d"), &Json::Null));

    shop.term().await.rows(21..=30).await.start().await;
    let lines = wait_for_lines(&shop, 10).await;
    let ids: Vec<i64> = lines.iter().filter_map(|line| line["key"]["id"].as_i64()).collect();
    assert_eq!(ids, (21..=30).collect::<Vec<_>>());
}

/// A shop without Avro.
async fn json_shop(name: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.file.remove("format/registry").set("format/encoding", "json");
    shop
}

async fn wait_for_lines(shop: &Shop, count: usize) -> Vec<Json> {
    until(&format!("{count} lines on standard output"), async || {
        let output = shop.daemon().output();
        // The last line may be half written.
        let lines: Vec<Json> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}
