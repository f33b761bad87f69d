//! Documents that are read by several readers at once, beside a stream that goes on.

use millrace_e2e::{Archive, Event, until};
use mongodb::bson::{Bson, doc};

use super::mongodb_snapshots::{
    PAPERS, Writers, archive, assert_once, fill, fill_in, folded, key, mark, noted, read_through, read_twice,
    there,
};

const ITEMS: &str = "items";

/// Their documents keep images, so that versions tell the order of changes.
async fn with_images(name: &str, collections: &[&str], workers: i64) -> Archive {
    let mut archive = archive(name).await;
    for collection in collections {
        archive.with_images(collection).await;
    }
    archive.capture(collections);
    archive
        .file
        .set("source/mongodb/update_document", "post_image")
        // So few that nobody is through before the others have begun, and none before it is killed.
        .set("source/mongodb/snapshot_chunk_rows", 20)
        .set("source/mongodb/snapshot_workers", workers);
    archive
}

/// The ids of the documents that were read, in the order in which they were delivered.
fn read(events: &[Event]) -> Vec<i64> {
    let mut reads: Vec<&Event> = events.iter().filter(|event| event.op() == "r").collect();
    reads.sort_by_key(|event| event.position());
    reads.iter().map(|event| key(event).parse().expect("a number")).collect()
}

/// How often the next document comes before the one that was read last.
fn steps_back(ids: &[i64]) -> usize {
    ids.windows(2).filter(|pair| pair[1] < pair[0]).count()
}

#[tokio::test]
async fn parts_of_a_large_collection_are_read_at_once_and_by_one_reader_in_order() {
    for (workers, most_back) in [(1, 0), (2, usize::MAX)] {
        let name = format!("mongo-workers-{workers}");
        let mut archive = with_images(&name, &[PAPERS], workers).await;
        fill(&archive, 20_000).await;
        archive.start().await;
        read_through(&archive, PAPERS).await;
        let events = archive.settled().await;
        assert_once(&events);
        let ids = read(&events);
        assert_eq!(ids.len(), 20_000);
        let back = steps_back(&ids);
        // Of two halves one after the other, no chunk of the first comes behind one of the second.
        assert!(back <= most_back && (workers == 1 || back > 5), "{workers} readers, {back} steps back");
        let marks = [events.first(), events.last()].map(|event| event.map(mark));
        assert_eq!(marks, [Some("first"), Some("last")]);
    }
}

#[tokio::test]
async fn collections_read_at_once_under_writers_lose_nothing_and_double_nothing_over_kills() {
    let mut archive = with_images("mongo-workers-kills", &[PAPERS, ITEMS], 4).await;
    for collection in [PAPERS, ITEMS] {
        fill_in(&archive, collection, 12_000).await;
    }
    let writers = [Writers::on(&archive, PAPERS, 12_000).await, Writers::on(&archive, ITEMS, 12_000).await];
    let mut seen = 0;
    for part in 1..=4_usize {
        archive.start_in_any_state().await;
        seen = archive.wait_for_events(PAPERS, seen + 300 * part).await.len();
        archive.kill();
        let states = [noted(&archive, PAPERS).await, noted(&archive, ITEMS).await];
        assert!(
            states.iter().any(|state| state.as_deref() != Some("done")),
            "it was through before kill {part}"
        );
    }
    archive.start().await;
    for collection in [PAPERS, ITEMS] {
        read_through(&archive, collection).await;
    }
    for writers in writers {
        writers.stop().await;
    }
    let papers = archive.settled().await;
    archive.collection(ITEMS).insert_one(doc! { "_id": -1_i64 }).await.expect("a document behind all others");
    let items = until("the end of the items", async || {
        let events = archive.events(ITEMS).await;
        let end = events.iter().position(|event| key(event) == "-1")?;
        Some(events[..end].to_vec())
    })
    .await;
    for (events, collection) in [(papers, PAPERS), (items, ITEMS)] {
        assert_once(&events);
        assert_eq!(read_twice(&events), [] as [String; 0], "{collection}");
        assert_eq!(folded(&events), there(&archive.collection(collection)).await, "{collection}");
    }
}

#[tokio::test]
async fn ids_of_types_that_nobody_uses_any_more_are_read_in_parts_as_all_others() {
    let mut archive = archive("mongo-workers-types").await;
    archive.file.set("source/mongodb/snapshot_chunk_rows", 2).set("source/mongodb/snapshot_workers", 4);
    let mut ids: Vec<Bson> = vec![Bson::MinKey, Bson::MaxKey, 7.into(), 8.5.into(), false.into()];
    for letter in ["a", "b", "c", "d", "e"] {
        ids.push(letter.into());
        ids.push(Bson::Symbol(format!("s{letter}")));
        ids.push(Bson::JavaScriptCode(format!("f{letter}()")));
        let scope = doc! { "x": 1 };
        let code = format!("g{letter}()");
        ids.push(Bson::JavaScriptCodeWithScope(mongodb::bson::JavaScriptCodeWithScope { code, scope }));
    }
    for id in &ids {
        archive.papers().insert_one(doc! { "_id": id.clone(), "version": 0_i64 }).await.unwrap();
    }
    archive.start().await;
    read_through(&archive, PAPERS).await;
    let events = archive.wait_for_events(PAPERS, ids.len()).await;
    assert_eq!(events.len(), ids.len());
    assert_eq!(read_twice(&events), [] as [String; 0]);
    assert_once(&events);
    let keys: Vec<String> = events.iter().map(key).collect();
    for expected in [r#"{"$symbol": "sa"}"#, r#"{"$code": "fa()"}"#] {
        assert!(keys.iter().any(|key| key == expected), "{expected} in {keys:?}");
    }
}

#[tokio::test]
async fn a_document_near_the_server_s_limit_is_read() {
    let mut archive = archive("mongo-workers-large").await;
    archive
        .file
        .set("sink/kafka/topic_defaults/partitions", 1)
        .set("sink/kafka/topic_defaults/config/max.message.bytes", "40000000");
    let large = 16 * 1024 * 1024 - 200;
    for (id, bytes) in [(1_i64, 100), (2, large), (3, large), (4, 100)] {
        let document = doc! { "_id": id, "version": 0_i64, "text": "x".repeat(bytes) };
        archive.papers().insert_one(document).await.unwrap();
    }
    archive.start().await;
    read_through(&archive, PAPERS).await;
    let events = archive.wait_for_events(PAPERS, 4).await;
    let texts: Vec<usize> = events
        .iter()
        .map(|event| millrace_e2e::document(event, "after")["text"].as_str().map_or(0, str::len))
        .collect();
    assert_eq!(texts, [100, large, large, 100]);
}
