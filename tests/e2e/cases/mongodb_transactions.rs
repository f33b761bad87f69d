//! What is told beside documents: transactions, and that the connector lives.

use std::collections::BTreeMap;

use millrace_e2e::{Archive, Bare, wait_for_records};
use mongodb::bson::{Document, doc};
use serde_json::{Value as Json, json};

#[tokio::test]
async fn transactions_of_documents_and_heartbeats_are_told_on_topics_of_their_own() {
    let mut archive = Archive::open("told-documents").await;
    let name = archive.database_name().to_owned();
    for collection in ["papers", "notes"] {
        archive.database().create_collection(collection).await.unwrap();
    }
    archive.capture(&["papers", "notes"]);
    archive.file.set("format/encoding", "json").set("format/transactions", true);
    archive.file.set("format/heartbeat_topic_interval_s", 1);
    archive.start().await.docs(1..=1).await;
    let mut session = archive.client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for id in 2..=3_i64 {
        archive.papers().insert_one(doc! { "_id": id }).session(&mut session).await.unwrap();
    }
    archive.collection("notes").insert_one(doc! { "_id": 1 }).session(&mut session).await.unwrap();
    archive.papers().delete_one(doc! { "_id": 2_i64 }).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    let bootstrap = archive.servers.kafka.bootstrap();
    let topic = format!("{}.transaction", archive.name);
    let told = wait_for_records(&bootstrap, &[&topic], 2).await;
    let [begin, end] = [told[0].json(), told[1].json()];
    assert_eq!((&begin["status"], &begin["event_count"]), (&json!("BEGIN"), &Json::Null));
    assert_eq!((&end["status"], &end["event_count"], &end["id"]), (&json!("END"), &json!(4), &begin["id"]));
    assert_eq!(
        end["data_collections"],
        json!([
            {"data_collection": format!("{name}.papers"), "event_count": 3},
            {"data_collection": format!("{name}.notes"), "event_count": 1},
        ])
    );
    let note = &wait_for_records(&bootstrap, &[&archive.topic("notes")], 1).await[0].json();
    let block = json!({"id": begin["id"], "total_order": 3, "data_collection_order": 1});
    assert_eq!(note["transaction"], block);
    let (session_id, number) = begin["id"].as_str().unwrap().rsplit_once(':').unwrap();
    assert_eq!(
        (&note["source"]["lsid"], &note["source"]["txnNumber"]),
        (&json!(session_id), &json!(number.parse::<i64>().unwrap()))
    );
    let papers = wait_for_records(&bootstrap, &[&archive.topic("papers")], 5).await;
    let outside = papers.iter().filter(|paper| paper.json()["transaction"].is_null());
    assert_eq!(outside.count(), 2, "one was written outside of any, and a tombstone has no place for it");
    // An idle connector tells that it lives, again and again.
    let topic = format!("__debezium-heartbeat.{}", archive.name);
    let beats = wait_for_records(&bootstrap, &[&topic], 2).await;
    assert_eq!(beats[0].key.as_deref(), Some(json!({"serverName": archive.name}).to_string().as_str()));
    assert!(beats[1].json()["ts_ms"].as_i64() > beats[0].json()["ts_ms"].as_i64(), "{beats:?}");
}

#[tokio::test]
async fn numbers_in_a_cut_transaction_of_documents_go_on_after_a_kill() {
    const DOCUMENTS: usize = 12_000;
    let mut archive = Archive::open("numbered-documents").await;
    archive.file.set("format/encoding", "json").set("format/transactions", true);
    archive
        .file
        .set("source/mongodb/batch_rows_max", 200)
        .set("sink/kafka/transaction/cut_bytes", 50_000)
        .set("sink/kafka/transaction/records_max", 200);
    archive.docs(1..=1).await.start().await.docs(2..=2).await;
    let bootstrap = archive.servers.kafka.bootstrap();
    let papers = archive.topic("papers");
    wait_for_records(&bootstrap, &[&papers], 1).await;
    archive.term().await;
    let mut session = archive.client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let all: Vec<Document> = (0..DOCUMENTS as i64).map(|nth| doc! { "_id": nth + 10, "at": nth }).collect();
    for some in all.chunks(3_000) {
        archive.papers().insert_many(some).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    for (parts, delivered) in [(3, 500), (20, 3_000)] {
        archive.start_to_die_at(&format!("cut-committed:{parts}")).await;
        let seen = wait_for_records(&bootstrap, &[&papers], delivered).await.len();
        assert!(seen < DOCUMENTS, "the transaction was through before the kill");
    }
    archive.start().await;
    let records = wait_for_records(&bootstrap, &[&papers], DOCUMENTS + 1).await;
    assert_numbered(&records, DOCUMENTS);
    let ends = wait_for_records(&bootstrap, &[&format!("{}.transaction", archive.name)], 2).await;
    assert_told_once(&ends, DOCUMENTS);
}

/// One event outside any transaction, and those of one with so many documents, whose field `at` counts them.
pub(super) fn assert_numbered(records: &[Bare], documents: usize) {
    assert_eq!(records.len(), documents + 1, "an event came twice");
    let mut numbers = BTreeMap::new();
    for value in records.iter().map(|record| record.json()).filter(|value| !value["transaction"].is_null()) {
        let after: Json = serde_json::from_str(value["after"].as_str().unwrap()).unwrap();
        let at = after["at"]["$numberLong"].as_str().unwrap().parse::<u64>().unwrap();
        numbers.insert(value["transaction"]["total_order"].as_u64(), at);
    }
    let expected = (0..documents as u64).map(|at| (Some(at + 1), at));
    assert!(numbers.into_iter().eq(expected), "a number is missing, twice, or at another document");
}

/// The begin and the end of that transaction.
pub(super) fn assert_told_once(ends: &[Bare], documents: usize) {
    let counts: Vec<Json> = ends.iter().map(|end| end.json()["event_count"].clone()).collect();
    assert_eq!(counts, [Json::Null, json!(documents)], "a begin or an end came twice");
}
