//! What `[sink.kafka]` becomes, and what is refused.

use super::*;

fn raw(json: serde_json::Value) -> Raw {
    serde_json::from_value(json).expect("the table parses")
}

fn problems(json: serde_json::Value) -> Vec<String> {
    Settings::resolve(raw(json), "orders").err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn a_list_of_brokers_is_enough() {
    let settings = Settings::resolve(raw(serde_json::json!({"bootstrap": ["a:1"]})), "orders").unwrap();
    assert_eq!(settings.position_topic, "millrace-orders-position");
    assert_eq!(settings.transactional_id, "millrace-orders");
}

#[test]
fn a_cluster_s_name_parts_ids_and_topics_from_those_of_another_deployment() {
    let raw = raw(serde_json::json!({"bootstrap": ["a:1"], "cluster": "blue"}));
    let settings = Settings::resolve(raw, "orders").unwrap();
    assert_eq!(settings.transactional_id, "millrace-blue.orders");
    assert_eq!(settings.position_topic, "millrace-blue.orders-position");
    let found = problems(serde_json::json!({"bootstrap": ["a:1"], "cluster": "Blue.1"}));
    assert!(found.len() == 1 && found[0].starts_with("sink.kafka.cluster"), "{found:?}");
}

#[test]
fn every_wait_lies_within_the_one_around_it() {
    for timeout_ms in [5_000, 30_000, 900_000] {
        let raw = raw(serde_json::json!({"bootstrap": ["a:1"], "transaction": {"timeout_ms": timeout_ms}}));
        let limits = Settings::resolve(raw, "orders").unwrap().limits;
        assert!(limits.are_nested(), "{limits:?}");
    }
}

#[test]
fn every_problem_is_listed_at_once() {
    let found = problems(serde_json::json!({
        "transaction": {"records_max": 0, "timeout_ms": 10},
        "client": {"acks": 1, "no.such.key": true},
        "topic_defaults": {"partitions": 0},
    }));
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn a_topic_is_made_as_its_name_says_then_as_its_pattern_then_as_the_defaults_say() {
    let settings = Settings::resolve(
        raw(serde_json::json!({
            "bootstrap": ["a:1"],
            "topic_defaults": {"partitions": 3, "replication": 2, "config": {"retention.ms": 1}},
            "topics": {
                "order-*": {"partitions": 12},
                "order-events": {"partitions": 8, "config": {"cleanup.policy": "compact"}},
            },
        })),
        "orders",
    )
    .unwrap();
    let named = settings.declared("order-events");
    assert_eq!((named.partitions, named.replication), (Some(8), Some(2)));
    let config: Vec<_> = named.config.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(config, [("cleanup.policy", "compact"), ("retention.ms", "1")]);
    assert_eq!(settings.declared("order-audit").partitions, Some(12));
    assert_eq!(settings.declared("users").partitions, Some(3));
}

#[test]
fn an_owned_key_is_refused_with_its_reason() {
    let found = problems(serde_json::json!({
        "bootstrap": ["a:1"], "client": {"queue.buffering.max.kbytes": 5},
    }));
    assert_eq!(
        found,
        [
            "sink.kafka.client must not hold \"queue.buffering.max.kbytes\": it is `memory_bytes` in [sink.kafka]"
        ]
    );
}

#[test]
fn a_secret_prints_nowhere() {
    let raw = raw(serde_json::json!({
        "bootstrap": ["a:1"], "security": "sasl_ssl", "client": {"ssl.key.password": "hush"},
        "sasl": {"mechanism": "PLAIN", "username": "u", "password": "hush"},
    }));
    assert!(!format!("{raw:?}").contains("hush"));
    let settings = Settings::resolve(raw, "orders").unwrap();
    assert!(!format!("{settings:?}").contains("hush"));
    assert_eq!(settings.client_value("sasl.password").as_deref(), Some("hush"));
}

#[test]
fn a_bad_value_is_named_without_being_quoted() {
    let found = problems(serde_json::json!({"bootstrap": ["a:1"], "client": {"linger.ms": "hush"}}));
    assert_eq!(found, ["sink.kafka.client: librdkafka does not take \"linger.ms\" as it stands"]);
}
