//! An outbox of documents, as a connector of Kafka Connect with Debezium's MongoEventRouter has it.

use millrace_e2e::{Archive, Bare, Daemon, run_to_end, wait_for_records};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, doc};
use serde_json::{Value as Json, json};

/// The connector as Kafka Connect is given it, on the collection `outbox`.
fn connect(archive: &Archive, more: &Json) -> Json {
    let mut config = json!({
        "connector.class": "io.debezium.connector.mongodb.MongoDbConnector",
        "mongodb.connection.string": archive.servers.mongodb.url(),
        "topic.prefix": archive.name,
        "collection.include.list": format!("{}\\.outbox", archive.database_name()),
        "snapshot.mode": "no_data",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": "1",
        "producer.override.bootstrap.servers": archive.servers.kafka.bootstrap(),
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.connector.mongodb.transforms.outbox.MongoEventRouter",
        "transforms.outbox.route.topic.replacement": format!("{}.${{routedByValue}}", archive.name),
    });
    for (property, value) in more.as_object().expect("properties") {
        config[property] = value.clone();
    }
    json!({"name": archive.name, "config": config})
}

/// Starts it, writes events of three kinds, and gives their records.
async fn events(archive: &mut Archive, connector: &Json) -> (ObjectId, Vec<Bare>) {
    let path = archive.dir().join("connector.json");
    std::fs::write(&path, connector.to_string()).expect("a file in a temporary directory");
    let daemon = Daemon::start(&[&path], archive.dir(), "connect").await;
    archive.give_daemon(daemon);
    archive.wait_for_state("RUNNING").await;
    let outbox = archive.collection("outbox");
    let id = ObjectId::new();
    let payload = doc! { "n": 1, "big": 5_i64, "d": 1.5, "none": Bson::Null, "empty": [], "in": { "at": DateTime::from_millis(5) },
    "list": [{ "x": 1 }, { "x": 2 }] };
    let event = doc! { "_id": id, "aggregatetype": "Order", "aggregateid": "a", "payload": payload, "team": "red", "v": 3 };
    outbox.insert_one(event).await.expect("an event");
    let text = doc! { "_id": "second", "aggregatetype": "Order", "aggregateid": 9_i64, "payload": "{\"n\": 2}", "team": "blue", "v": 4 };
    outbox.insert_one(text).await.expect("an event");
    outbox.update_one(doc! { "_id": "second" }, doc! { "$set": { "v": 5 } }).await.expect("it is updated");
    outbox.delete_one(doc! { "_id": "second" }).await.expect("it is deleted");
    let empty = doc! { "_id": 3, "aggregatetype": "Order", "aggregateid": "a", "payload": Bson::Null, "team": "red", "v": 4 };
    outbox.insert_one(empty).await.expect("an event");
    let topic = format!("{}.Order", archive.name);
    let records = wait_for_records(&archive.servers.kafka.bootstrap(), &[&topic], 3).await;
    (id, records)
}

#[tokio::test]
async fn payloads_that_are_documents_are_expanded_with_their_nulls_and_empty_lists() {
    let mut archive = Archive::open("mongo-expanded").await;
    let connector = connect(
        &archive,
        &json!({
            "transforms.outbox.collection.expand.json.payload": "true",
            "transforms.outbox.collection.fields.additional.placement": "team:header,v:header:version",
            "transforms.outbox.route.tombstone.on.empty.payload": "true",
        }),
    );
    let (id, records) = events(&mut archive, &connector).await;
    let keys: Vec<_> = records.iter().map(|record| record.key.as_deref()).collect();
    assert_eq!(keys, [Some("a"), Some("9"), Some("a")]);
    let ids: Vec<_> = records.iter().map(|record| record.header("id")).collect();
    assert_eq!(ids, [Some(id.to_hex().as_str()), Some("second"), Some("3")]);
    let expanded = json!({"n": 1, "big": 5, "d": 1.5, "none": null, "empty": [], "in": {"at": 5},
                          "list": [{"x": 1}, {"x": 2}]});
    assert_eq!(records[0].json(), expanded);
    // A text stays one, whatever it looks like.
    assert_eq!(records[1].json(), json!("{\"n\": 2}"));
    assert_eq!(records[2].value, None);
    let placed: Vec<_> = records.iter().map(|one| (one.header("team"), one.header("version"))).collect();
    assert_eq!(placed, [(Some("red"), Some("3")), (Some("blue"), Some("4")), (Some("red"), Some("4"))]);
}

#[tokio::test]
async fn an_expanded_payload_has_the_schema_that_debezium_makes_of_it() {
    let mut archive = Archive::open("mongo-schema").await;
    let connector = connect(
        &archive,
        &json!({
            "value.converter.schemas.enable": "true",
            "transforms.outbox.collection.expand.json.payload": "true",
            "transforms.outbox.collection.fields.additional.placement": "v:envelope:version",
        }),
    );
    let (_, records) = events(&mut archive, &connector).await;
    let value = records[0].json();
    assert_eq!(value["schema"]["name"], "io.debezium.data.Order.Json");
    let payload = &value["schema"]["fields"][0];
    assert_eq!(
        (&payload["name"], &payload["optional"]),
        (&json!("io.debezium.data.Json.payload"), &json!(true))
    );
    let fields: Vec<String> = payload["fields"]
        .as_array()
        .expect("fields")
        .iter()
        .map(|field| format!("{}:{}", field["field"].as_str().unwrap(), field["type"].as_str().unwrap()))
        .collect();
    assert_eq!(
        fields,
        ["n:int32", "big:int64", "d:double", "none:string", "empty:array", "in:struct", "list:array"]
    );
    let at = &payload["fields"][5];
    assert_eq!(at["name"], "io.debezium.data.Json.payload.in");
    assert_eq!(at["fields"][0]["name"], "org.apache.kafka.connect.data.Timestamp");
    assert_eq!(
        (&value["payload"]["payload"]["in"]["at"], &value["payload"]["version"]),
        (&json!(5), &json!(3))
    );
    let empty = records[2].json();
    assert_eq!(empty["payload"], json!({"payload": null, "version": 4}));
}

#[tokio::test]
async fn payloads_that_are_documents_are_their_text_where_they_are_not_expanded() {
    let mut archive = Archive::open("mongo-text").await;
    let text = "org.apache.kafka.connect.storage.StringConverter";
    let connector = connect(&archive, &json!({"value.converter": text}));
    let (_, records) = events(&mut archive, &connector).await;
    let values: Vec<Option<&str>> = records.iter().map(|record| record.value.as_deref()).collect();
    let document =
        "{\n  \"n\": {\n    \"$numberInt\": \"1\"\n  },\n  \"big\": {\n    \"$numberLong\": \"5\"\n  },\n";
    assert!(values[0].is_some_and(|text| text.starts_with(document)), "{:?}", values[0]);
    assert!(
        values[0].is_some_and(|text| text.contains("\n  \"none\": null,\n  \"empty\": [],\n")),
        "{:?}",
        values[0]
    );
    assert_eq!(&values[1..], [Some("{\"n\": 2}"), None]);
}

#[tokio::test]
async fn an_option_of_the_router_that_it_does_not_have_is_refused_with_the_one_that_is_meant() {
    let archive = Archive::open("mongo-router-refused").await;
    let connector = connect(
        &archive,
        &json!({
            "transforms.outbox.collection.expand.json.payloads": "true",
            "transforms.outbox.table.expand.json.payload": "true",
            "transforms.outbox.predicate": "some",
        }),
    );
    std::fs::write(archive.dir().join("connector.json"), connector.to_string()).expect("a file");
    let ended = run_to_end(&["check", "connector.json"], archive.dir());
    assert_eq!(ended.code, Some(2), "{}", ended.text());
    for part in [
        "did you mean transforms.outbox.collection.expand.json.payload?",
        "transforms.outbox.table.expand.json.payload: is not a property",
        "transforms.outbox.predicate: cannot be had",
    ] {
        assert!(ended.text().contains(part), "{part}: {}", ended.text());
    }
}
