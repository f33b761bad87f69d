//! What becomes of topics, keys and schemas of tables that share a topic.

use serde_json::{Value as Json, json};

use super::scene::{Desk, add, batch, column, debezium, insert, json as in_json, relation, t};
use super::*;
use crate::batch::{Before, Op};
use crate::relation::Kind;
use crate::route::rename::Rename;

fn shards(with_key: bool) -> Format {
    let shards = Rename::new("(test_server\\.public)\\.(t)", "$1.all_$2").unwrap();
    let shards = match with_key {
        true => shards.with_schemas(true).with_key_field("table", Some((".*\\.(.)", "$1"))).unwrap(),
        false => shards,
    };
    Format { renames: vec![shards], ..debezium() }
}

fn changes(key: &[u16]) -> ChangeBatch {
    let mut batch = batch(&relation(vec![column("id", Kind::Int32), column("n?", Kind::Int32)], key));
    insert(&mut batch, &[t("1"), t("2")]);
    add(&mut batch, Op::Delete, Before::Key, &[t("1"), t("0")], &[]);
    batch
}

/// The names of its schemas that are of its own making.
fn names(schema: &str) -> Vec<String> {
    let schema: Json = serde_json::from_str(schema).unwrap();
    let mut found = vec![schema["connect.name"].as_str().unwrap_or_default().to_owned()];
    let before = &schema["fields"][0]["type"][1]["connect.name"];
    found.extend(before.as_str().map(str::to_owned));
    found
}

#[test]
fn tables_that_share_a_topic_share_schemas_and_their_keys_tell_them_apart() {
    let mut desk = Desk::new(shards(true));
    let seen = desk.encode(&changes(&[0]));
    let key = json!({"id": 1, "table": "t"});
    // An insert, a delete and its tombstone.
    assert_eq!(seen.iter().map(|seen| seen.key.clone()).collect::<Vec<_>>(), vec![Some(key.clone()); 3]);
    assert_eq!(*desk.registry.topics.lock().unwrap(), ["test_server.public.all_t"]);
    let schemas = desk.registry.schemas.lock().unwrap().clone();
    let subjects: Vec<&str> = schemas.iter().map(|(subject, _)| subject.as_str()).collect();
    assert_eq!(subjects, ["test_server.public.all_t-key", "test_server.public.all_t-value"]);
    let of = |word: &str| format!("test_server.public.all_t.{word}");
    assert_eq!(names(&schemas[0].1), [of("Key")]);
    assert_eq!(names(&schemas[1].1), [of("Envelope"), of("Value")]);

    let seen = Desk::new(in_json(false, shards(true))).encode(&changes(&[0]));
    assert_eq!(seen[0].key, Some(key));
    let without_key = Desk::new(in_json(false, shards(true))).encode(&changes(&[]));
    assert_eq!(without_key[0].key, None);
}

#[test]
fn a_topic_that_is_only_renamed_keeps_its_schemas_and_its_keys() {
    let mut desk = Desk::new(shards(false));
    let seen = desk.encode(&changes(&[0]));
    assert_eq!(seen[0].key, Some(json!({"id": 1})));
    let schemas = desk.registry.schemas.lock().unwrap().clone();
    assert_eq!(schemas[1].0, "test_server.public.all_t-value");
    assert_eq!(names(&schemas[1].1), ["test_server.public.t.Envelope", "test_server.public.t.Value"]);
}

#[test]
fn a_name_that_kafka_does_not_take_stops_and_says_which() {
    let renames = vec![Rename::new("test_server\\.(.*)", "a/$1").unwrap()];
    let mut desk = Desk::new(in_json(false, Format { renames, ..debezium() }));
    let batch = changes(&[0]);
    let error = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| desk.prepare(&batch)));
    let said = error.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("a/public.t"), "{said}");
}
