//! Documents that were there before the connector, beside a stream that goes on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use millrace_e2e::{Archive, Event, Own, Servers, document, run_to_end, within};
use millrace_ledger::mongodb::{Ended, abort, commit};
use mongodb::Collection;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};
use tokio::task::JoinHandle;

/// Long enough for some hundred chunks on a busy machine.
pub(super) const THROUGH: Duration = Duration::from_secs(180);

pub(super) const PAPERS: &str = "papers";

pub(super) async fn archive(name: &str) -> Archive {
    with_snapshot(Archive::open(name).await)
}

pub(super) fn with_snapshot(mut archive: Archive) -> Archive {
    // In which numbers are numbers.
    archive.file.set("source/mongodb/snapshot", "initial").set("source/mongodb/json", "relaxed");
    archive
}

/// What the connector notes of a collection: `pending`, `reading`, `done`.
pub(super) async fn noted(archive: &Archive, collection: &str) -> Option<String> {
    let key = format!("snapshot {}.{collection}", archive.database_name());
    let records = archive.position_records().await;
    let newest = records.iter().rfind(|record| record.key[1]["note"] == key.as_str())?;
    newest.value["state"].as_str().map(ToOwned::to_owned)
}

pub(super) async fn read_through(archive: &Archive, collection: &str) {
    within(THROUGH, &format!("all documents of {collection} are read"), async || {
        (noted(archive, collection).await.as_deref() == Some("done")).then_some(())
    })
    .await;
}

pub(super) fn mark(event: &Event) -> &str {
    event.value.as_ref().and_then(|value| value["source"]["snapshot"].as_str()).unwrap_or("?")
}

/// The id as the key has it.
pub(super) fn key(event: &Event) -> String {
    event.key.as_ref().and_then(|key| key["id"].as_str()).expect("a key").to_owned()
}

/// The version in a document, which rises with each of its changes; 0 where it is as it was filled in.
fn version(event: &Event) -> Option<i64> {
    document(event, "after")["version"].as_i64()
}

/// The newest version of each document, as the events tell it.
pub(super) fn folded(events: &[Event]) -> BTreeMap<String, i64> {
    let mut rows = BTreeMap::new();
    for event in events {
        match event.op() {
            "d" => drop(rows.remove(&key(event))),
            "-" => {}
            _ => drop(rows.insert(key(event), version(event).expect("a version"))),
        }
    }
    rows
}

/// The same, of the collection. Keys are JSON in the relaxed dialect, and those of these tests are numbers.
pub(super) async fn there(papers: &Collection<Document>) -> BTreeMap<String, i64> {
    let documents = all(papers, doc! { "_id": { "$gte": 0 } }).await;
    let pair = |d: &Document| (d.get_i64("_id").unwrap().to_string(), d.get_i64("version").unwrap());
    documents.iter().map(pair).collect()
}

/// In the order of their ids.
async fn all(papers: &Collection<Document>, filter: Document) -> Vec<Document> {
    let mut found = papers.find(filter).sort(doc! { "_id": 1 }).await.unwrap();
    let mut documents = Vec::new();
    while found.advance().await.unwrap() {
        documents.push(found.deserialize_current().unwrap());
    }
    documents
}

/// Fails where an event came twice or out of order. A document's versions rise; only one that was read may repeat
/// the version that its change brought.
pub(super) fn assert_once(events: &[Event]) {
    let mut positions = BTreeSet::new();
    let mut newest: HashMap<i32, [u64; 4]> = HashMap::new();
    let mut versions: HashMap<String, i64> = HashMap::new();
    for event in events {
        let position = event.position();
        assert!(positions.insert((event.partition, position)), "twice: {event:?}");
        let before = newest.insert(event.partition, position);
        assert!(before.is_none_or(|before| before < position), "out of order after {before:?}: {event:?}");
        match event.op() {
            "d" | "-" => drop(versions.remove(&key(event))),
            op => {
                let Some(version) = version(event) else { continue };
                let before = versions.insert(key(event), version);
                let least = before.map_or(0, |before| if op == "r" { before } else { before + 1 });
                assert!(version >= least, "version {version} after {before:?}: {event:?}");
            }
        }
    }
}

/// Ids that came as documents of a snapshot more than once.
pub(super) fn read_twice(events: &[Event]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let ids = events.iter().filter(|event| event.op() == "r").map(key);
    ids.filter(|id| !seen.insert(id.clone())).collect()
}

pub(super) async fn fill(archive: &Archive, documents: i64) {
    fill_in(archive, PAPERS, documents).await;
}

pub(super) async fn fill_in(archive: &Archive, collection: &str, documents: i64) {
    let all = (0..documents).map(|id| doc! { "_id": id, "version": 0_i64, "text": "x".repeat(80) });
    archive.collection(collection).insert_many(all).await.expect("the documents are inserted");
}

/// Changes papers from several sessions until it is told to stop.
pub(super) struct Writers {
    stop: tokio::sync::watch::Sender<bool>,
    tasks: Vec<JoinHandle<i64>>,
}

impl Writers {
    /// Each changes documents of its own among so many, one after another.
    pub(super) async fn at_work(archive: &Archive, documents: i64) -> Self {
        Self::on(archive, PAPERS, documents).await
    }

    /// The same in a collection of this name.
    pub(super) async fn on(archive: &Archive, collection: &str, documents: i64) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut tasks = Vec::new();
        for writer in 0..4_i64 {
            let (client, papers, stopped) =
                (archive.client.clone(), archive.collection(collection), stopped.clone());
            tasks.push(tokio::spawn(async move {
                let mut session = client.start_session().await.expect("a session");
                let mut version = 1;
                while !*stopped.borrow() {
                    // Far apart, so that documents before, in and after the open chunk are changed.
                    let id = (version * 7_919 + writer) % documents / 4 * 4 + writer;
                    let filter = doc! { "_id": id };
                    let set = doc! { "$set": { "version": version } };
                    let written = match version % 5 {
                        0 => papers.delete_one(filter).await.map(drop),
                        1 => papers.update_one(filter, set).upsert(true).await.map(drop),
                        2 => {
                            let whole = doc! { "version": version, "text": "replaced" };
                            papers.replace_one(filter, whole).upsert(true).await.map(drop)
                        }
                        3 => {
                            session.start_transaction().await.expect("a transaction");
                            let changed = papers.update_one(filter, set).session(&mut session).await;
                            let ended = match changed {
                                Ok(_) if version % 2 == 0 => commit(&mut session).await,
                                Ok(_) => session.abort_transaction().await.map(|()| Ended::Committed),
                                Err(error) => abort(&mut session, error).await,
                            };
                            // As drivers do where the server gave it up for another one's sake.
                            if matches!(ended, Ok(Ended::Again)) {
                                continue;
                            }
                            ended.map(drop)
                        }
                        _ => papers.update_one(filter, set).await.map(drop),
                    };
                    written.expect("a change is written");
                    version += 1;
                }
                version
            }));
        }
        Self { stop, tasks }
    }

    pub(super) async fn stop(self) -> i64 {
        self.stop.send_replace(true);
        let mut written = 0;
        for task in self.tasks {
            written += task.await.expect("a writer writes");
        }
        written
    }
}

#[tokio::test]
async fn documents_that_were_there_come_once_in_id_order_and_then_the_changes() {
    let mut archive = archive("mongo-snapshot").await;
    archive.capture(&[PAPERS, "zero"]).file.set("source/mongodb/snapshot_chunk_rows", 100);
    // Several would read parts of it at once.
    archive.file.set("source/mongodb/snapshot_workers", 1);
    fill(&archive, 1_000).await;
    archive.start().await;
    read_through(&archive, PAPERS).await;
    read_through(&archive, "zero").await;
    archive.collection("zero").insert_one(doc! { "_id": 7 }).await.unwrap();
    archive.papers().update_one(doc! { "_id": 5 }, doc! { "$set": { "version": 1_i64 } }).await.unwrap();
    let events = archive.wait_for_events(PAPERS, 1_001).await;
    let ids: Vec<_> = events[..1_000].iter().map(key).collect();
    assert_eq!(ids, (0..1_000).map(|id| id.to_string()).collect::<Vec<_>>());
    assert!(events[..1_000].iter().all(|event| event.op() == "r"));
    assert_eq!((events[1_000].op(), key(&events[1_000]).as_str()), ("u", "5"));
    let marks: Vec<_> = [0, 1, 998, 999, 1_000].map(|n| mark(&events[n]).to_owned()).into();
    // The collection after it is empty, so that its last document is the last of all.
    assert_eq!(marks, ["first", "true", "true", "last", "false"]);
    assert_once(&events);
    let events = archive.wait_for_events("zero", 1).await;
    assert_eq!((events[0].op(), key(&events[0]).as_str()), ("c", "7"));
}

#[tokio::test]
async fn ids_of_mixed_types_are_read_across_their_borders() {
    let mut archive = archive("mongo-snapshot-types").await;
    archive.file.set("source/mongodb/snapshot_chunk_rows", 2).set("source/mongodb/snapshot_workers", 1);
    let ids: Vec<Bson> = vec![
        Bson::MinKey,
        Bson::Null,
        1.into(),
        1.5.into(),
        2_i64.into(),
        "3".parse::<mongodb::bson::Decimal128>().unwrap().into(),
        "a".into(),
        "b".into(),
        doc! { "a": 1 }.into(),
        doc! { "a": "x" }.into(),
        Bson::Binary(mongodb::bson::Binary {
            subtype: mongodb::bson::spec::BinarySubtype::Uuid,
            bytes: vec![1; 16],
        }),
        ObjectId::from_bytes([1; 12]).into(),
        ObjectId::from_bytes([2; 12]).into(),
        false.into(),
        true.into(),
        DateTime::from_millis(5).into(),
        mongodb::bson::Timestamp { time: 5, increment: 1 }.into(),
        Bson::MaxKey,
    ];
    for id in ids.iter().rev() {
        archive.papers().insert_one(doc! { "_id": id.clone(), "version": 0_i64 }).await.unwrap();
    }
    archive.start().await;
    read_through(&archive, PAPERS).await;
    let events = archive.wait_for_events(PAPERS, ids.len()).await;
    let sorted = all(&archive.papers(), doc! {}).await;
    let in_order = sorted.iter().map(|d| d.get("_id").cloned().unwrap()).collect::<Vec<_>>();
    assert_eq!(in_order, ids, "the order of these ids is BSON's");
    assert_eq!(events.len(), ids.len());
    assert_eq!(read_twice(&events), [] as [String; 0]);
    assert_eq!((key(&events[2]).as_str(), key(&events[6]).as_str()), ("1", "\"a\""));
    assert_once(&events);
}

#[tokio::test]
async fn documents_read_under_writers_give_the_collection_and_no_event_twice() {
    let mut archive = archive("mongo-snapshot-writers").await;
    archive.file.set("source/mongodb/snapshot_chunk_rows", 100);
    images(&mut archive).await;
    fill(&archive, 8_000).await;
    let writers = Writers::at_work(&archive, 8_000).await;
    archive.start().await;
    read_through(&archive, PAPERS).await;
    assert!(writers.stop().await > 100, "the writers wrote");
    let events = archive.settled().await;
    assert_once(&events);
    assert_eq!(read_twice(&events), [] as [String; 0]);
    assert_eq!(folded(&events), there(&archive.papers()).await);
}

/// A document that is looked up is of a later time, and so are its versions.
pub(super) async fn images(archive: &mut Archive) {
    archive.with_images(PAPERS).await;
    archive.file.set("source/mongodb/update_document", "post_image");
}

#[tokio::test]
async fn kills_in_the_middle_of_a_snapshot_of_documents_lose_nothing_and_double_nothing() {
    let mut archive = archive("mongo-snapshot-kills").await;
    // So few that it is not through before the last kill.
    archive.file.set("source/mongodb/snapshot_chunk_rows", 10);
    images(&mut archive).await;
    fill(&archive, 12_000).await;
    let writers = Writers::at_work(&archive, 12_000).await;
    let mut seen = 0;
    for part in 1..=5_usize {
        archive.start_in_any_state().await;
        seen = archive.wait_for_events(PAPERS, seen + 200 * part).await.len();
        archive.kill();
        assert_ne!(
            noted(&archive, PAPERS).await.as_deref(),
            Some("done"),
            "it was through before kill {part}"
        );
    }
    archive.start().await;
    read_through(&archive, PAPERS).await;
    writers.stop().await;
    let events = archive.settled().await;
    assert_once(&events);
    assert_eq!(read_twice(&events), [] as [String; 0]);
    assert_eq!(folded(&events), there(&archive.papers()).await);
}

#[tokio::test]
async fn a_document_of_which_a_change_told_only_a_part_is_read_again() {
    let mut archive = archive("mongo-snapshot-delta").await;
    archive.file.set("source/mongodb/snapshot_chunk_rows", 50).set("source/mongodb/update_document", "none");
    fill(&archive, 3_000).await;
    let writers = Writers::at_work(&archive, 3_000).await;
    archive.start().await;
    read_through(&archive, PAPERS).await;
    writers.stop().await;
    let events = archive.settled().await;
    let mut whole = BTreeSet::new();
    for event in &events {
        match event.op() {
            "d" => drop(whole.remove(&key(event))),
            _ if !document(event, "after").is_null() => drop(whole.insert(key(event))),
            _ => {}
        }
    }
    let there = there(&archive.papers()).await;
    let missing: Vec<_> = there.keys().filter(|id| !whole.contains(*id)).collect();
    assert_eq!(missing, [] as [&String; 0], "documents were dropped for changes that did not carry them");
    let deltas = events.iter().filter(|event| event.op() == "u" && document(event, "after").is_null());
    assert!(deltas.count() > 0, "no update was told in part");
    assert_once(&events);
}

#[tokio::test]
async fn a_collection_that_joins_later_is_read_and_one_that_came_into_being_is_not() {
    let mut archive = archive("mongo-snapshot-joins").await;
    archive.capture(&["papers"]);
    fill(&archive, 100).await;
    let items = (1..=300).map(|id| doc! { "_id": id, "version": 0_i64 });
    archive.collection("items").insert_many(items).await.unwrap();
    archive.start().await;
    read_through(&archive, PAPERS).await;
    archive.term().await;
    archive.capture(&["*"]).start().await;
    read_through(&archive, "items").await;
    archive.collection("items").insert_one(doc! { "_id": 301, "version": 0_i64 }).await.unwrap();
    archive.collection("born").insert_one(doc! { "_id": 1, "version": 0_i64 }).await.unwrap();
    let items = archive.wait_for_events("items", 301).await;
    assert_eq!(items.iter().filter(|event| event.op() == "r").count(), 300);
    assert_eq!((items[300].op(), key(&items[300]).as_str()), ("c", "301"));
    archive.wait_for_events("born", 1).await;
    archive.term().await.start().await;
    archive.collection("born").insert_one(doc! { "_id": 2, "version": 0_i64 }).await.unwrap();
    let born = archive.wait_for_events("born", 2).await;
    assert_eq!(born.iter().map(Event::op).collect::<Vec<_>>(), ["c", "c"]);
    let papers = archive.settled().await;
    assert_eq!(papers.iter().filter(|event| event.op() == "r").count(), 100);
}

#[tokio::test]
async fn a_collection_dropped_under_its_snapshot_leaves_what_was_written_after() {
    let mut archive = archive("mongo-snapshot-drop").await;
    // So few that it is not through before the drop.
    archive.file.set("source/mongodb/snapshot_chunk_rows", 5).set("format/truncates", true);
    fill(&archive, 6_000).await;
    archive.start().await;
    archive.wait_for_events(PAPERS, 500).await;
    assert_ne!(noted(&archive, PAPERS).await.as_deref(), Some("done"), "it was through before the drop");
    archive.papers().drop().await.unwrap();
    let after = (3_000..3_100).map(|id: i64| doc! { "_id": id, "version": 1_i64 });
    archive.papers().insert_many(after).await.unwrap();
    read_through(&archive, PAPERS).await;
    let events = archive.settled().await;
    let dropped = events.iter().position(|event| event.op() == "t").expect("the drop is told");
    assert_eq!(folded(&events[dropped + 1..]), there(&archive.papers()).await);
}

#[tokio::test]
async fn a_capped_collection_is_read_though_no_time_of_it_can_be() {
    let mut archive = archive("mongo-snapshot-capped").await;
    let create = doc! { "create": PAPERS, "capped": true, "size": 10_000_000 };
    archive.database().run_command(create).await.unwrap();
    fill(&archive, 700).await;
    archive.file.set("source/mongodb/snapshot_chunk_rows", 100);
    archive.start().await;
    read_through(&archive, PAPERS).await;
    let events = archive.wait_for_events(PAPERS, 700).await;
    assert_eq!(read_twice(&events), [] as [String; 0]);
    assert_eq!(folded(&events), there(&archive.papers()).await);
}

#[tokio::test]
async fn a_primary_killed_under_a_snapshot_loses_and_doubles_nothing() {
    let servers = Arc::new(Servers::with(Own::mongodb(3)).await);
    let mut archive = with_snapshot(Archive::on(&servers, "mongo-snapshot-primary").await);
    archive.file.set("source/mongodb/snapshot_chunk_rows", 50);
    fill(&archive, 10_000).await;
    archive.start().await;
    archive.wait_for_events(PAPERS, 500).await;
    let primary = servers.mongodb.primary().await.expect("a primary");
    primary.kill();
    servers.mongodb.primary().await.expect("another primary");
    primary.start().await.expect("the killed member starts");
    read_through(&archive, PAPERS).await;
    let events = archive.settled_within(THROUGH).await;
    assert_once(&events);
    assert_eq!(read_twice(&events), [] as [String; 0]);
    assert_eq!(folded(&events), there(&archive.papers()).await);
}

#[tokio::test]
async fn a_connector_that_begins_anew_reads_everything_anew() {
    let mut archive = archive("mongo-snapshot-anew").await;
    fill(&archive, 50).await;
    archive.start().await;
    read_through(&archive, PAPERS).await;
    archive.wait_for_events(PAPERS, 50).await;
    archive.term().await;
    let file = archive.write_file().display().to_string();
    let ended = run_to_end(&["position", &file, "reset", "--yes"], archive.dir());
    assert_eq!(ended.code, Some(0), "{}", ended.text());
    archive.start().await;
    let events = archive.wait_for_events(PAPERS, 100).await;
    assert!(events.iter().all(|event| event.op() == "r"));
}

#[tokio::test]
async fn the_documents_of_an_idle_set_are_read_as_of_one_time() {
    let servers = Arc::new(Servers::with(Own::mongodb(1)).await);
    let mut archive = with_snapshot(Archive::on(&servers, "as-of").await);
    archive.docs(1..=100).await;
    archive.database().run_command(doc! { "profile": 2 }).await.unwrap();
    archive.start().await;
    read_through(&archive, PAPERS).await;
    let chunks = doc! { "op": "query", "command.find": PAPERS, "command.hint": { "_id": 1 } };
    let found = all(&archive.collection("system.profile"), chunks).await;
    assert!(!found.is_empty(), "no chunk was seen");
    for chunk in &found {
        let concern = chunk.get_document("command").unwrap().get_document("readConcern").unwrap();
        assert_eq!(concern.get_str("level").unwrap(), "snapshot", "{chunk}");
        assert!(concern.contains_key("atClusterTime") && !chunk.contains_key("errCode"), "{chunk}");
    }
}
