//! What happens to a document becomes events: operations, keys, images, in commit order.

use millrace_e2e::{Archive, document, id, until};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{self, Bson, DateTime, Decimal128, Document, Regex, Timestamp, doc, oid::ObjectId};
use serde_json::{Value as Json, json};

fn field<'a>(event: &'a millrace_e2e::Event, path: &str) -> &'a Json {
    event.value.as_ref().and_then(|value| value.pointer(path)).unwrap_or(&Json::Null)
}

#[tokio::test]
async fn inserted_documents_arrive_once_and_in_order() {
    let mut archive = Archive::open("documents").await;
    archive.start().await.docs(1..=100).await.docs(101..=150).await.expect_docs(1..=150).await;
}

#[tokio::test]
async fn what_was_there_before_the_first_start_is_not_captured() {
    let mut archive = Archive::open("no-data").await;
    archive.docs(1..=10).await.start().await.docs(11..=20).await.expect_docs(11..=20).await;
}

#[tokio::test]
async fn each_operation_has_debezium_s_envelope_and_key() {
    let mut archive = Archive::open("operations").await;
    archive.start().await;
    let papers = archive.papers();
    papers.insert_one(doc! { "_id": "p1", "title": "a", "pages": 3_i64 }).await.unwrap();
    let update = doc! { "$set": { "title": "b", "by.name": "me" }, "$unset": { "pages": "" } };
    papers.update_one(doc! { "_id": "p1" }, update).await.unwrap();
    // The server looks the document up as it is when the change is read.
    archive.wait_for_events("papers", 2).await;
    papers.replace_one(doc! { "_id": "p1" }, doc! { "title": "c" }).await.unwrap();
    papers.delete_one(doc! { "_id": "p1" }).await.unwrap();
    let events = archive.wait_for_events("papers", 5).await;
    assert_eq!(events.iter().map(|event| event.op()).collect::<Vec<_>>(), ["c", "u", "u", "d", "-"]);
    // The key is the id as JSON, a string of a string here.
    assert!(events.iter().all(|event| event.key == Some(json!({"id": "\"p1\""}))), "{events:?}");
    assert_eq!(field(&events[0], "/after"), r#"{"_id": "p1","title": "a","pages": {"$numberLong": "3"}}"#);
    assert_eq!(field(&events[0], "/updateDescription"), &Json::Null);
    assert_eq!(
        field(&events[1], "/updateDescription"),
        &json!({
            "removedFields": ["pages"],
            "updatedFields": r#"{"title": "b", "by": {"name": "me"}}"#,
            "truncatedArrays": null,
        })
    );
    assert_eq!(events[1].header("image"), Some("lookup"));
    assert_eq!(field(&events[2], "/after"), r#"{"_id": "p1","title": "c"}"#);
    assert_eq!(field(&events[2], "/updateDescription"), &Json::Null);
    assert_eq!((field(&events[3], "/after"), field(&events[3], "/before")), (&Json::Null, &Json::Null));
    let source = field(&events[0], "/source");
    assert_eq!((&source["connector"], &source["collection"]), (&json!("mongodb"), &json!("papers")));
    assert_eq!((&source["db"], &source["name"]), (&json!(archive.database_name()), &json!(archive.name)));
    assert_eq!((&source["snapshot"], &source["sequence"]), (&json!("false"), &Json::Null));
    assert!(source["wallTime"].as_i64() > Some(1_700_000_000_000), "{source}");
    assert_eq!(source["ts_ms"], source["wallTime"]);
    assert!(source["ord"].as_i64() > Some(0) && source["lsid"].is_null(), "{source}");
}

#[tokio::test]
async fn a_delta_stream_has_no_document_after_an_update() {
    let mut archive = Archive::open("delta").await;
    archive.file.set("source/mongodb/update_document", "none");
    archive.start().await.docs(1..=1).await;
    archive.papers().update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "note": "x" } }).await.unwrap();
    let events = archive.wait_for_events("papers", 2).await;
    assert_eq!(field(&events[1], "/after"), &Json::Null);
    assert_eq!(field(&events[1], "/updateDescription/updatedFields"), r#"{"note": "x"}"#);
}

#[tokio::test]
async fn images_show_the_document_as_each_change_found_and_left_it() {
    let mut archive = Archive::open("images").await;
    archive.with_images("papers").await;
    archive.file.set("source/mongodb/update_document", "post_image").set("source/mongodb/pre_images", true);
    archive.start().await.docs(1..=1).await;
    for note in ["x", "y"] {
        let update = doc! { "$set": { "note": note } };
        archive.papers().update_one(doc! { "_id": 1_i64 }, update).await.unwrap();
    }
    archive.papers().delete_one(doc! { "_id": 1_i64 }).await.unwrap();
    let events = archive.wait_for_events("papers", 5).await;
    let notes: Vec<(Json, Json)> = events[..4]
        .iter()
        .map(|event| (document(event, "before")["note"].take(), document(event, "after")["note"].take()))
        .collect();
    let expected = [
        (Json::Null, json!("paper 1")),
        (json!("paper 1"), json!("x")),
        (json!("x"), json!("y")),
        (json!("y"), Json::Null),
    ];
    assert_eq!(notes, expected);
    assert_eq!(events[1].header("image"), Some("post_image"));
}

#[tokio::test]
async fn a_truncated_array_is_told_with_its_new_size() {
    let mut archive = Archive::open("truncated").await;
    archive.start().await;
    let papers = archive.papers();
    papers.insert_one(doc! { "_id": 1, "list": (1..=50).collect::<Vec<i32>>() }).await.unwrap();
    let cut = vec![doc! { "$set": { "list": { "$slice": ["$list", 3] } } }];
    papers.update_one(doc! { "_id": 1 }, cut).await.unwrap();
    let events = archive.wait_for_events("papers", 2).await;
    assert_eq!(
        field(&events[1], "/updateDescription/truncatedArrays"),
        &json!([{"field": "list", "size": 3}])
    );
}

#[tokio::test]
async fn ids_of_every_type_are_keys() {
    let mut archive = Archive::open("ids").await;
    archive.start().await;
    let oid = ObjectId::parse_str("65f0aa0102030405060708ff").unwrap();
    let binary = bson::Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] };
    let ids: Vec<(Bson, &str)> = vec![
        (1.into(), "1"),
        (2_i64.into(), "2"),
        (2.5.into(), "2.5"),
        ("s\"q".into(), r#""s\"q""#),
        (oid.into(), r#"{"$oid": "65f0aa0102030405060708ff"}"#),
        (doc! { "b": 1, "a": [] , "c": "x" }.into(), r#"{"b": 1,"a": [],"c": "x"}"#),
        (Bson::Binary(binary), r#"{"$binary": {"base64": "BwcHBwcHBwcHBwcHBwcHBw==","subType": "04"}}"#),
        (true.into(), "true"),
        (DateTime::from_millis(0).into(), r#"{"$date": "1970-01-01T00:00:00Z"}"#),
        (Bson::Null, "null"),
        (Timestamp { time: 5, increment: 6 }.into(), r#"{"$timestamp": {"t": 5,"i": 6}}"#),
        ("1.50".parse::<Decimal128>().unwrap().into(), r#"{"$numberDecimal": "1.50"}"#),
        (Bson::MinKey, r#"{"$minKey": 1}"#),
    ];
    for (id, _) in &ids {
        archive.papers().insert_one(doc! { "_id": id.clone() }).await.unwrap();
        archive.papers().delete_one(doc! { "_id": id.clone() }).await.unwrap();
    }
    let events = archive.wait_for_events("papers", 3 * ids.len()).await;
    for (of_id, (_, text)) in events.chunks(3).zip(&ids) {
        assert!(of_id.iter().all(|event| event.key == Some(json!({"id": text}))), "{text}: {of_id:?}");
    }
}

fn every_type() -> Document {
    doc! {
        "_id": 1, "double": 1.5, "nan": f64::NAN, "text": "zażółć \u{1} \"q\" 😀", "doc": { "a": { "b": 1 } },
        "array": [1, [2, { "c": 3 }]], "date": DateTime::from_millis(1_700_000_000_123),
        "null": null, "regex": Regex { pattern: "a+".try_into().unwrap(), options: "i".try_into().unwrap() },
        "code": Bson::JavaScriptCode("f()".into()), "symbol": Bson::Symbol("s".into()), "int": 7,
        "ts": Timestamp { time: 5, increment: 6 }, "long": i64::MAX,
        "decimal": "1.50".parse::<Decimal128>().unwrap(), "min": Bson::MinKey, "max": Bson::MaxKey,
        "undefined": Bson::Undefined, "a.b": 1, "$dollar": 2, "": 3,
    }
}

#[tokio::test]
async fn every_bson_type_arrives_in_each_dialect() {
    for (dialect, expected) in [
        (
            "relaxed",
            json!({"nan": {"$numberDouble": "NaN"}, "date": {"$date": "2023-11-14T22:13:20.123Z"}, "long": i64::MAX,
                "a.b": 1, "$dollar": 2, "": 3, "ts": {"$timestamp": {"t": 5, "i": 6}}}),
        ),
        (
            "canonical",
            json!({"int": {"$numberInt": "7"}, "double": {"$numberDouble": "1.5"}, "symbol": {"$symbol": "s"},
                "long": {"$numberLong": "9223372036854775807"}, "undefined": {"$undefined": true}}),
        ),
        (
            "plain",
            json!({"nan": "NaN", "date": "2023-11-14T22:13:20.123Z", "long": i64::MAX, "regex": "/a+/i",
                "min": "MinKey", "ts": {"t": 5, "i": 6}, "code": "f()", "text": "zażółć \u{1} \"q\" 😀"}),
        ),
    ] {
        let mut archive = Archive::open(dialect).await;
        archive.file.set("source/mongodb/json", dialect);
        archive.start().await;
        archive.papers().insert_one(every_type()).await.unwrap();
        let events = archive.wait_for_events("papers", 1).await;
        let after = document(&events[0], "after");
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&after[name], value, "{dialect}: {name} in {after}");
        }
        assert_eq!(after.as_object().unwrap().len(), every_type().len());
    }
}

#[tokio::test]
async fn a_document_near_16_megabytes_arrives_whole() {
    let mut archive = Archive::open("large").await;
    archive
        .file
        .set("sink/kafka/topic_defaults/config/max.message.bytes", "40000000")
        .set("format/encoding", "json");
    archive.file.remove("format/registry");
    archive.start().await;
    let text = "x".repeat(16_700_000);
    archive.papers().insert_one(doc! { "_id": 1, "text": &text }).await.unwrap();
    archive.docs(2..=2).await;
    let events = archive.wait_for_events("papers", 2).await;
    assert_eq!(document(&events[0], "after")["text"].as_str().map(str::len), Some(text.len()));
}

#[tokio::test]
async fn only_captured_collections_arrive_and_fields_follow_the_rules() {
    let mut archive = Archive::open("filters").await;
    let database = archive.database_name().to_owned();
    archive
        .capture(&["*"])
        .file
        .set("source/mongodb/exclude_collections", vec![format!("{database}.notes")])
        .set("source/mongodb/exclude_fields", vec![format!("{database}.papers.secret.pin")])
        .set(
            "source/mongodb/rename_fields",
            toml::Table::from_iter([(format!("{database}.papers.name"), "title".into())]),
        );
    archive.start().await;
    archive.collection("notes").insert_one(doc! { "_id": 1 }).await.unwrap();
    archive.collection("more.dots").insert_one(doc! { "_id": 1 }).await.unwrap();
    let papers = archive.papers();
    papers.insert_one(doc! { "_id": 1, "name": "a", "secret": { "pin": 1, "hint": 2 } }).await.unwrap();
    let update = doc! { "$set": { "secret.pin": 3, "name": "b" } };
    papers.update_one(doc! { "_id": 1 }, update).await.unwrap();
    let events = archive.wait_for_events("papers", 2).await;
    assert_eq!(field(&events[0], "/after"), r#"{"_id": 1,"secret": {"hint": 2},"title": "a"}"#);
    assert_eq!(field(&events[1], "/updateDescription/updatedFields"), r#"{"title": "b"}"#);
    assert_eq!(archive.wait_for_events("more.dots", 1).await.len(), 1);
    assert!(!archive.broker().has_topic(&archive.topic("notes")).await);
}

#[tokio::test]
async fn a_transaction_lies_in_one_kafka_transaction_and_is_told_in_each_event() {
    let mut archive = Archive::open("transaction").await;
    // A write of its own, so that the next test of it is not the first of the collection.
    archive.docs(0..=0).await.start().await;
    archive.load(1..=500, 500).await.await.unwrap();
    let events = archive.settled().await;
    assert_eq!(events.len(), 500);
    assert!(events.iter().all(|event| event.kafka_transaction == events[0].kafka_transaction));
    let (lsid, number) = (field(&events[0], "/source/lsid"), field(&events[0], "/source/txnNumber"));
    assert!(lsid.as_str().is_some_and(|lsid| lsid.starts_with("{\"id\": ")), "{lsid}");
    assert!(number.is_i64(), "{number}");
    assert!(events.iter().all(|event| field(event, "/source/lsid") == lsid));
    let order: Vec<u64> = events.iter().map(|event| event.position()[2]).collect();
    assert_eq!(order, (0..500).collect::<Vec<u64>>());
}

#[tokio::test]
async fn an_aborted_transaction_leaves_nothing() {
    let mut archive = Archive::open("aborted").await;
    archive.docs(0..=0).await.start().await;
    let mut session = archive.client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    archive.papers().insert_one(doc! { "_id": 99 }).session(&mut session).await.unwrap();
    session.abort_transaction().await.unwrap();
    archive.docs(1..=2).await.expect_docs(1..=2).await;
}

#[tokio::test]
async fn a_dropped_and_a_renamed_collection_are_survived_and_shown() {
    for scope in ["deployment", "database", "collection"] {
        let mut archive = Archive::open(&format!("dropped-{scope}")).await;
        archive.file.set("source/mongodb/scope", scope).set("format/truncates", true);
        archive.start().await.docs(1..=1).await;
        archive.papers().drop().await.unwrap();
        archive.docs(2..=2).await;
        let [from, to] = ["papers", "old"].map(|name| format!("{}.{name}", archive.database_name()));
        let rename = doc! { "renameCollection": &from, "to": &to };
        archive.client.database("admin").run_command(rename).await.unwrap();
        archive.docs(3..=3).await;
        let events = archive.wait_for_events("papers", 5).await;
        let seen: Vec<(&str, Option<i64>)> = events.iter().map(|event| (event.op(), id(event))).collect();
        assert_eq!(
            seen,
            [("c", Some(1)), ("t", None), ("c", Some(2)), ("t", None), ("c", Some(3))],
            "{scope}"
        );
        assert_eq!(events[1].header("operation"), Some(r#"{"operationType":"drop"}"#));
        assert!(events[3].header("operation").is_some_and(|o| o.contains(&to)), "{:?}", events[3].headers);
        archive.wait_for_state("RUNNING").await;
    }
}

#[tokio::test]
async fn a_position_has_the_token_the_time_and_the_question() {
    let mut archive = Archive::open("position").await;
    archive.start().await.docs(1..=5).await.expect_docs(1..=5).await;
    let position = archive.position().await.value;
    assert_eq!((&position["v"], &position["replica_set"]), (&json!(1), &json!("rs0")));
    assert_eq!((&position["scope"], &position["open"]), (&json!("deployment"), &json!(false)));
    assert!(position["resume_token"]["_data"].as_str().is_some_and(|data| data.starts_with("82")));
    assert_eq!(position["pipeline"].as_str().map(str::len), Some(16));
    assert!(position["sec"].as_u64() > Some(1_700_000_000), "{position}");
}

#[tokio::test]
async fn an_idle_stream_s_position_stays_young() {
    let mut archive = Archive::open("idle").await;
    archive.file.set("source/mongodb/heartbeat_interval_s", 1);
    archive.start().await;
    let first = archive.position().await.value["cluster_time"].clone();
    // Of another collection: the server's log grows, and nothing of it is for us.
    archive.collection("notes").insert_one(doc! { "_id": 1 }).await.unwrap();
    until("the position moves", async || {
        let position = archive.position().await.value;
        (position["cluster_time"] != first).then_some(())
    })
    .await;
    let headroom = until("the headroom is shown", async || {
        archive.daemon().metric("millrace_log_headroom_seconds", &archive.name).await
    });
    assert!(headroom.await >= 0.0);
}

#[tokio::test]
async fn kills_of_the_daemon_lose_and_double_nothing() {
    let mut archive = Archive::open("kills").await;
    archive.docs(0..=0).await.start().await;
    let load = archive.load(1..=6_000, 40).await;
    for round in 1..=4 {
        archive.wait_for_events("papers", round * 600).await;
        archive.kill().start_in_any_state().await;
    }
    load.await.unwrap();
    archive.expect_docs(1..=6_000).await;
}

#[tokio::test]
async fn a_transaction_above_the_cut_size_is_cut_and_goes_on_after_a_kill() {
    let mut archive = Archive::open("cut").await;
    archive
        .file
        .set("source/mongodb/batch_rows_max", 200)
        .set("sink/kafka/transaction/cut_bytes", 50_000)
        .set("sink/kafka/transaction/records_max", 200);
    archive.docs(0..=0).await.start().await.term().await;
    archive.load(1..=20_000, 20_000).await.await.unwrap();
    archive.start_to_die_at("cut-committed:3").await;
    let seen = archive.wait_for_events("papers", 100).await.len();
    assert!(seen < 20_000, "the transaction was through before the kill");
    archive.start_in_any_state().await;
    archive.expect_docs(1..=20_000).await;
    let cut = archive.daemon().metric("millrace_cut_transactions_total", &archive.name).await;
    assert!(cut > Some(0.0), "{cut:?}");
}
