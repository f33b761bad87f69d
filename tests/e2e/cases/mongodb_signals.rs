//! Documents that are read again on request, while the connector streams.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_e2e::{Archive, Event, Own, Servers, within};
use mongodb::bson::doc;
use serde_json::{Value as Json, json};

use super::mongodb_snapshots::{
    PAPERS, THROUGH, Writers, assert_once, fill, folded, images, key, mark, read_twice, there,
};
use super::signals::until_acknowledged;

/// An archive that streams, and has read nothing.
async fn streaming(archive: Archive, papers: i64, chunk_rows: i64) -> Archive {
    let mut archive = archive;
    archive.file.set("source/mongodb/json", "relaxed").set("source/mongodb/snapshot_chunk_rows", chunk_rows);
    fill(&archive, papers).await;
    archive.start().await;
    archive
}

async fn ask(archive: &Archive, id: &str, kind: &str, data: Json) {
    archive.daemon().ask(&archive.name, id, kind, data).await;
}

async fn told(archive: &Archive, id: &str) -> Vec<String> {
    archive.daemon().told(&archive.name, id).await
}

async fn wait_until_told(archive: &Archive, id: &str, kind: &str) {
    let told = async || told(archive, id).await.iter().any(|k| k == kind).then_some(());
    within(THROUGH, &format!("{id} is {kind}"), told).await;
}

/// A request for the papers, or for those of them that a condition lets through.
fn papers(archive: &Archive, filter: Option<&str>) -> Json {
    let name = format!("{}.{PAPERS}", archive.database_name());
    let mut data = json!({"data-collections": [name]});
    if let Some(filter) = filter {
        data["additional-conditions"] = json!([{"data-collection": name, "filter": filter}]);
    }
    data
}

fn read_ids(events: &[Event]) -> BTreeSet<i64> {
    let reads = events.iter().filter(|event| event.op() == "r");
    reads.map(|event| key(event).parse().expect("the id is a number")).collect()
}

#[tokio::test]
async fn documents_that_a_condition_lets_through_are_read_again_beside_the_changes() {
    let mut archive = Archive::open("mongo-signal").await;
    images(&mut archive).await;
    // Each attempt tells once more what it begins.
    archive.trust_commits();
    let mut archive = streaming(archive, 4_000, 100).await;
    let writers = Writers::at_work(&archive, 4_000).await;
    let half = r#"{"_id": {"$gte": 1000, "$lt": {"$numberLong": "3000"}}}"#;
    ask(&archive, "half", "execute-snapshot", papers(&archive, Some(half))).await;
    wait_until_told(&archive, "half", "COMPLETED").await;
    writers.stop().await;
    assert_eq!(told(&archive, "half").await, ["STARTED", "IN_PROGRESS", "TABLE_SCAN_COMPLETED", "COMPLETED"]);
    let events = archive.settled_within(THROUGH).await;
    assert_once(&events);
    assert_eq!(read_twice(&events), [] as [String; 0]);
    let read = read_ids(&events);
    assert!(read.len() > 500 && read.iter().all(|id| (1_000..3_000).contains(id)), "{} ids", read.len());
    assert!(events.iter().filter(|event| event.op() == "r").all(|event| mark(event) == "incremental"));
    let middle = |rows: BTreeMap<String, i64>| {
        let rows = rows.into_iter().map(|(id, version)| (id.parse::<i64>().expect("a number"), version));
        rows.filter(|(id, _)| (1_000..3_000).contains(id)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(middle(folded(&events)), middle(there(&archive.papers()).await));
}

#[tokio::test]
async fn a_request_for_documents_outlives_a_kill_and_ends_where_it_is_stopped() {
    let mut archive = streaming(Archive::open("mongo-signal-kill").await, 6_000, 5).await;
    ask(&archive, "all", "execute-snapshot", papers(&archive, None)).await;
    archive.wait_for_events(PAPERS, 500).await;
    archive.kill().start().await;
    wait_until_told(&archive, "all", "COMPLETED").await;
    let events = archive.settled_within(THROUGH).await;
    assert_once(&events);
    assert_eq!(read_ids(&events), (0..6_000).collect());
    assert_eq!(read_twice(&events), [] as [String; 0]);

    ask(&archive, "again", "execute-snapshot", papers(&archive, None)).await;
    ask(&archive, "wait", "pause-snapshot", json!({})).await;
    wait_until_told(&archive, "wait", "PAUSED").await;
    ask(&archive, "behind", "execute-snapshot", papers(&archive, None)).await;
    wait_until_told(&archive, "behind", "STARTED").await;
    ask(&archive, "no-more", "stop-snapshot", papers(&archive, None)).await;
    wait_until_told(&archive, "behind", "COMPLETED").await;
    let events = archive.settled_within(THROUGH).await;
    assert!(events.len() < 12_000, "nothing was stopped");
    // What was stopped is not begun anew.
    archive.term().await.start().await;
    archive.papers().update_one(doc! { "_id": 5 }, doc! { "$set": { "version": 1_i64 } }).await.unwrap();
    let after = archive.settled().await;
    assert_eq!(after.len(), events.len() + 1);
    assert_eq!(after.last().map(|event| (event.op(), key(event))), Some(("u", "5".to_owned())));
}

#[tokio::test]
async fn a_request_for_documents_waits_while_it_is_paused_and_goes_on_after_it() {
    let mut archive = streaming(Archive::open("mongo-signal-pause").await, 300, 100).await;
    ask(&archive, "wait", "pause-snapshot", json!({})).await;
    ask(&archive, "all", "execute-snapshot", papers(&archive, None)).await;
    wait_until_told(&archive, "all", "STARTED").await;
    archive.docs(1_000..=1_010).await;
    assert_eq!(read_ids(&archive.settled().await), BTreeSet::new());
    ask(&archive, "now", "resume-snapshot", json!({})).await;
    wait_until_told(&archive, "all", "COMPLETED").await;
    assert_eq!(read_ids(&archive.settled().await).len(), 311);
}

#[tokio::test]
async fn what_no_query_can_be_made_of_is_told_and_the_connector_goes_on() {
    let mut archive = Archive::open("mongo-signal-refused").await;
    archive.trust_commits();
    let mut archive = streaming(archive, 10, 100).await;
    for (id, filter) in [("words", "id > 5"), ("operator", r#"{"$nothing": 1}"#)] {
        ask(&archive, id, "execute-snapshot", papers(&archive, Some(filter))).await;
        wait_until_told(&archive, id, "COMPLETED").await;
        assert_eq!(told(&archive, id).await, ["STARTED", "TABLE_SCAN_COMPLETED", "COMPLETED"]);
    }
    let mut blocking = papers(&archive, None);
    blocking["type"] = "blocking".into();
    ask(&archive, "blocking", "execute-snapshot", blocking).await;
    wait_until_told(&archive, "blocking", "COMPLETED").await;
    assert!(archive.daemon().log().contains("use type incremental"));
    archive.docs(11..=20).await;
    assert_eq!(read_ids(&archive.settled().await), BTreeSet::new());
    archive.wait_for_state("RUNNING").await;
}

#[tokio::test]
async fn a_request_for_documents_outlives_the_primary() {
    let servers = Arc::new(Servers::with(Own::mongodb(3)).await);
    let mut archive = streaming(Archive::on(&servers, "mongo-signal-primary").await, 10_000, 20).await;
    ask(&archive, "all", "execute-snapshot", papers(&archive, None)).await;
    archive.wait_for_events(PAPERS, 500).await;
    let primary = servers.mongodb.primary().await.expect("a primary");
    primary.kill();
    servers.mongodb.primary().await.expect("another primary");
    primary.start().await.expect("the killed member starts");
    wait_until_told(&archive, "all", "COMPLETED").await;
    let events = archive.settled_within(THROUGH).await;
    assert_once(&events);
    assert_eq!(read_ids(&events), (0..10_000).collect());
    assert_eq!(read_twice(&events), [] as [String; 0]);
}

#[tokio::test]
async fn documents_of_the_signal_collection_are_heard_once_and_make_no_events() {
    let mut archive = Archive::open("mongo-signal-collection").await;
    let signals = archive.collection("signals");
    let name = format!("{}.signals", archive.database_name());
    archive.file.set("source/mongodb/signal_collection", name);
    // Where its events would be.
    archive.broker().create_topic(&archive.topic("signals"), 1).await;
    let mut archive = streaming(archive, 500, 100).await;
    let data = doc! { "data-collections": [format!("{}.{PAPERS}", archive.database_name())] };
    let insert = async |id: &str| {
        let document = doc! { "_id": id, "type": "execute-snapshot", "data": data.clone() };
        signals.insert_one(document).await.expect("the signal is inserted");
    };
    insert("one").await;
    wait_until_told(&archive, "one", "COMPLETED").await;
    assert_eq!(read_ids(&archive.settled().await), (0..500).collect());

    insert("killed").await;
    archive.kill();
    signals.insert_one(doc! { "_id": "nonsense", "type": "dance" }).await.expect("it is inserted");
    insert("meanwhile").await;
    archive.start().await;
    wait_until_told(&archive, "meanwhile", "COMPLETED").await;
    let reads = archive.settled().await.iter().filter(|event| event.op() == "r").count();
    assert_eq!(reads, 3 * 500, "each was heard once");
    // What was done is not done again, and nothing of it is left.
    archive.term().await.start().await;
    let reads = archive.settled().await.iter().filter(|event| event.op() == "r").count();
    assert_eq!(reads, 3 * 500);
    let notes = archive.position_records().await;
    let mut newest = BTreeMap::new();
    for record in notes {
        newest.insert(record.key.to_string(), record.value);
    }
    let left = newest.iter().filter(|(key, value)| key.contains("\"signal ") && !value.is_null());
    assert_eq!(left.count(), 0, "{newest:?}");
    let events = archive.events("signals").await;
    assert!(events.is_empty(), "{events:?}");
}

#[tokio::test]
async fn records_of_a_topic_have_documents_read_and_one_that_comes_while_the_daemon_is_down_too() {
    let mut archive = Archive::open("mongo-signal-topic").await;
    let topic = format!("{}.signals", archive.name);
    let broker = archive.broker();
    broker.create_topic(&topic, 1).await;
    archive.file.set("sink/kafka/signal_topic", topic.as_str());
    let mut archive = streaming(archive, 500, 100).await;
    let (name, data) = (archive.name.clone(), papers(&archive, None));
    let say = async |id: &str| {
        let value = json!({"id": id, "type": "execute-snapshot", "data": data}).to_string();
        broker.produce(&topic, 0, name.as_bytes(), value.as_bytes()).await;
    };
    let is_heard = async || archive.daemon().log().contains("signals are heard").then_some(());
    within(THROUGH, "signals are heard", is_heard).await;
    say("first").await;
    wait_until_told(&archive, "first", "COMPLETED").await;
    assert_eq!(read_ids(&archive.settled().await), (0..500).collect());
    until_acknowledged(&archive.servers, &name, &topic).await;
    archive.kill();
    say("meanwhile").await;
    archive.start().await;
    wait_until_told(&archive, "meanwhile", "COMPLETED").await;
    let reads = archive.settled().await.iter().filter(|event| event.op() == "r").count();
    assert_eq!(reads, 2 * 500, "each was heard once");
}
