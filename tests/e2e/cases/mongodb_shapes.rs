//! Which documents become events, and what they look like: names by expressions, fields left out and renamed, flat
//! records, JSON in each dialect.

use millrace_e2e::{Archive, document, wait_for_records};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Decimal128, doc};
use serde_json::{Value as Json, json};

#[tokio::test]
async fn collections_are_chosen_by_expressions() {
    let mut archive = Archive::open("expressions").await;
    let database = archive.database_name().to_owned();
    archive
        .file
        .set("format/encoding", "json")
        .set("source/mongodb/collections", vec![format!("/{database}\\.(papers|notes_\\d+)/")])
        .set("source/mongodb/exclude_collections", vec!["/.*\\.notes_2/"]);
    archive.start().await;
    for collection in ["other", "notes_2", "notes_x", "notes_1", "Notes_3", "papers"] {
        archive.collection(collection).insert_one(doc! { "_id": 1_i64 }).await.unwrap();
    }
    for collection in ["notes_1", "Notes_3", "papers"] {
        assert_eq!(archive.wait_for_events(collection, 1).await.len(), 1, "{collection}");
    }
    for collection in ["other", "notes_2", "notes_x"] {
        assert!(!archive.broker().has_topic(&archive.topic(collection)).await, "{collection}");
    }
}

#[tokio::test]
async fn fields_are_left_out_and_renamed_wherever_a_document_is_told() {
    let mut archive = Archive::open("fields").await;
    let name = archive.database_name().to_owned();
    archive.with_images("papers").await;
    archive.file.set("source/mongodb/snapshot", "initial").set("source/mongodb/json", "plain");
    archive.file.set("source/mongodb/update_document", "post_image").set("source/mongodb/pre_images", true);
    archive
        .file
        .set(
            "source/mongodb/exclude_fields",
            vec![format!("{name}.papers.card.number"), format!("{name}.*.pin")],
        )
        .set(&format!("source/mongodb/rename_fields/{name}.papers.cust"), "customer");
    let papers = archive.papers();
    let before = doc! { "_id": 1_i64, "pin": 1, "cust": "a", "card": { "number": "4", "till": 5 }, "z": 0 };
    papers.insert_one(before).await.unwrap();
    archive.start().await;
    let read = archive.wait_for_events("papers", 1).await.remove(0);
    let seen = json!({"_id": 1, "card": {"till": 5}, "z": 0, "customer": "a"});
    assert_eq!((read.op(), document(&read, "after")), ("r", seen.clone()));
    let update = doc! { "$set": { "cust": "b", "card.number": "6", "z": 1 }, "$unset": { "pin": "" } };
    papers.update_one(doc! { "_id": 1_i64 }, update).await.unwrap();
    let update = archive.wait_for_events("papers", 2).await.remove(1);
    assert_eq!(document(&update, "before"), seen);
    assert_eq!(document(&update, "after"), json!({"_id": 1, "card": {"till": 5}, "z": 1, "customer": "b"}));
    let description = &update.value.as_ref().unwrap()["updateDescription"];
    assert_eq!(description["updatedFields"], r#"{"z":1,"customer":"b"}"#);
    assert_eq!(description["removedFields"], Json::Null);
    // A name that a document has already cannot be given.
    papers.insert_one(doc! { "_id": 2_i64, "cust": "a", "customer": "b" }).await.unwrap();
    archive.not_ready("FAILED").await.expect_reason(&["customer", "papers"]).expect_hint(&["rename_fields"]);
}

#[tokio::test]
async fn flat_documents_are_the_documents_themselves() {
    let mut archive = Archive::open("flat-documents").await;
    archive.file.set("source/mongodb/json", "plain").set("source/mongodb/update_document", "lookup");
    archive.file.set("format/encoding", "json").set("format/envelope", "flat");
    archive.file.set("format/flat/add_fields", vec!["op", "source.collection:of"]);
    archive.file.set("format/flat/add_headers", vec!["op"]);
    archive.start().await;
    let id = ObjectId::parse_str("65f0aa0102030405060708ff").unwrap();
    let papers = archive.papers();
    let at = DateTime::from_millis(1_700_000_000_123);
    papers.insert_one(doc! { "_id": id, "at": at, "any": [1, "a", { "b": 2.5 }] }).await.unwrap();
    papers.delete_one(doc! { "_id": id }).await.unwrap();
    let bootstrap = archive.servers.kafka.bootstrap();
    let seen = wait_for_records(&bootstrap, &[&archive.topic("papers")], 2).await;
    assert_eq!(seen[0].key.as_deref(), Some(r#"{"id":"65f0aa0102030405060708ff"}"#));
    let expected = r#"{"_id":"65f0aa0102030405060708ff","at":"2023-11-14T22:13:20.123Z","any":[1,"a",{"b":2.5}],"__op":"c","__of":"papers"}"#;
    assert_eq!(seen[0].value.as_deref(), Some(expected));
    assert_eq!((seen[0].header("__op"), seen[1].header("__op")), (Some("c"), Some("d")));
    assert_eq!((&seen[1].key, &seen[1].value, seen.len()), (&seen[0].key, &None, 2));
}

#[tokio::test]
async fn flat_documents_in_avro_have_a_schema_for_each_shape() {
    let mut archive = Archive::open("flat-avro").await;
    archive.with_images("papers").await;
    archive.file.set("source/mongodb/pre_images", true).set("format/envelope", "flat");
    archive.file.set("format/flat/deletes", "rewrite").set("format/flat/flatten", true);
    archive.start().await;
    let papers = archive.papers();
    papers.insert_one(doc! { "_id": 1, "in": { "n": 5_i64 } }).await.unwrap();
    papers
        .insert_one(doc! { "_id": "b", "in": { "n": "five", "d": "1.50".parse::<Decimal128>().unwrap() } })
        .await
        .unwrap();
    papers.delete_one(doc! { "_id": 1 }).await.unwrap();
    let events = archive.wait_for_events("papers", 3).await;
    let mut values: Vec<(Json, Json)> =
        events.iter().map(|event| (event.key.clone().unwrap(), event.value.clone().unwrap())).collect();
    values.sort_by_key(|(key, value)| (key.to_string(), value["__deleted"].as_bool()));
    assert_eq!(
        values,
        [
            (json!({"id": "b"}), json!({"_id": "b", "in_n": "five", "in_d": "1.50", "__deleted": false})),
            (json!({"id": 1}), json!({"_id": 1, "in_n": 5, "__deleted": false})),
            (json!({"id": 1}), json!({"_id": 1, "in_n": 5, "__deleted": true})),
        ]
    );
    let mut schemas: Vec<_> = events.iter().map(|event| event.schema_ids.1).collect();
    schemas.sort_unstable();
    schemas.dedup();
    assert_eq!(schemas.len(), 2, "one for each shape");
}

#[tokio::test]
async fn documents_and_keys_are_written_in_the_chosen_dialect() {
    let id = ObjectId::parse_str("65f0aa0102030405060708ff").unwrap();
    let at = DateTime::from_millis(1_700_000_000_123);
    for (dialect, key, expected) in [
        (
            "canonical",
            r#"{"$oid": "65f0aa0102030405060708ff"}"#,
            r#"{"_id": {"$oid": "65f0aa0102030405060708ff"},"n": {"$numberInt": "1"},"at": {"$date": {"$numberLong": "1700000000123"}}}"#,
        ),
        (
            "relaxed",
            r#"{"$oid": "65f0aa0102030405060708ff"}"#,
            r#"{"_id": {"$oid": "65f0aa0102030405060708ff"},"n": 1,"at": {"$date": "2023-11-14T22:13:20.123Z"}}"#,
        ),
        (
            "plain",
            r#""65f0aa0102030405060708ff""#,
            r#"{"_id":"65f0aa0102030405060708ff","n":1,"at":"2023-11-14T22:13:20.123Z"}"#,
        ),
    ] {
        let mut archive = Archive::open(&format!("in-{dialect}")).await;
        archive.file.set("source/mongodb/json", dialect).set("source/mongodb/json_keys", dialect);
        archive.start().await;
        archive.papers().insert_one(doc! { "_id": id, "n": 1, "at": at }).await.unwrap();
        let event = archive.wait_for_events("papers", 1).await.remove(0);
        assert_eq!(event.key, Some(json!({ "id": key })), "{dialect}");
        assert_eq!(event.value.unwrap()["after"], expected, "{dialect}");
    }
}
