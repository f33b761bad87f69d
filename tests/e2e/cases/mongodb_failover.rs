//! The primary goes away inside a transaction that is being read: it stays one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use millrace_e2e::{Archive, Own, Servers, connect, until, wait_for_records, within};
use mongodb::bson::{Document, doc};

use super::mongodb_transactions::{assert_numbered, assert_told_once};

/// Elections on a busy machine, and what was written meanwhile.
const ELECTIONS: Duration = Duration::from_secs(150);

/// Documents of the transaction under which the primary is killed: more than the connector reads ahead.
const DOCUMENTS: usize = 12_000;

/// Whether a member learns what of its log is committed.
async fn learns(port: u16, does: bool) {
    let client = connect(&format!("mongodb://127.0.0.1:{port}/?directConnection=true")).await;
    let order =
        doc! { "configureFailPoint": "disableSnapshotting", "mode": if does { "off" } else { "alwaysOn" } };
    client.database("admin").run_command(order).await.expect("the member obeys");
}

async fn commit_documents(archive: &Archive) {
    let mut session = archive.client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let text = "x".repeat(2_000);
    let all: Vec<Document> =
        (0..DOCUMENTS as i64).map(|nth| doc! { "_id": nth + 10, "at": nth, "text": &text }).collect();
    for some in all.chunks(2_000) {
        archive.papers().insert_many(some).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
}

#[tokio::test]
async fn a_new_primary_that_does_not_know_yet_what_is_committed_tears_no_transaction() {
    let servers = Arc::new(Servers::with(Own::mongodb_with_failpoints(3)).await);
    let mut archive = Archive::on(&servers, "torn").await;
    archive.file.set("format/encoding", "json").set("format/transactions", true);
    archive
        .file
        .set("source/mongodb/batch_rows_max", 200)
        .set("sink/kafka/transaction/cut_bytes", 200_000)
        .set("sink/kafka/transaction/records_max", 200);
    archive.docs(1..=1).await.start().await.docs(2..=2).await;
    let bootstrap = archive.servers.kafka.bootstrap();
    let (papers, told) = (archive.topic("papers"), format!("{}.transaction", archive.name));
    wait_for_records(&bootstrap, &[&papers], 1).await;
    let primary = servers.mongodb.primary().await.unwrap();
    let others: Vec<u16> =
        servers.mongodb.members().iter().map(|m| m.port()).filter(|port| *port != primary.port()).collect();
    for port in &others {
        learns(*port, false).await;
    }
    commit_documents(&archive).await;
    let seen = wait_for_records(&bootstrap, &[&papers], 500).await.len();
    primary.kill();
    assert!(seen < DOCUMENTS, "the transaction was through before the kill");
    until("the stream breaks off", async || {
        archive.daemon().log().contains("opening it again where it stood").then_some(())
    })
    .await;
    servers.mongodb.primary().await.expect("another primary");
    // It has answered, and with nothing.
    archive.daemon().wait_for_state_within(ELECTIONS, &archive.name, "RUNNING").await;
    for port in &others {
        learns(*port, true).await;
    }
    let records = within(ELECTIONS, "every document of the transaction", async || {
        let records = wait_for_records(&bootstrap, &[&papers], 1).await;
        (records.len() > DOCUMENTS).then_some(records)
    })
    .await;
    assert_numbered(&records, DOCUMENTS);
    let ends = within(ELECTIONS, "the end of the transaction", async || {
        let ends = wait_for_records(&bootstrap, &[&told], 1).await;
        (ends.len() > 1).then_some(ends)
    })
    .await;
    assert_told_once(&ends, DOCUMENTS);
}

#[tokio::test]
async fn primaries_killed_under_large_transactions_tear_none() {
    const EACH: i64 = 5_000;
    const LAST: i64 = 12 * EACH;
    let servers = Arc::new(Servers::with(Own::mongodb(3)).await);
    let mut archive = Archive::on(&servers, "large-torn").await;
    archive.docs(0..=0).await.start().await;
    let load = archive.load(1..=LAST, EACH).await;
    for kill in 1..=3 {
        within(ELECTIONS, "the load goes on", async || {
            (archive.events("papers").await.len() >= kill * 3 * EACH as usize).then_some(())
        })
        .await;
        let primary = servers.mongodb.primary().await.expect("a primary");
        primary.kill();
        servers.mongodb.primary().await.expect("another primary");
        primary.start().await.expect("the killed member starts");
    }
    load.await.expect("the load is written");
    archive.expect_docs_within(ELECTIONS, 1..=LAST).await;
    let events = archive.events("papers").await;
    for transaction in
        events.iter().filter(|e| e.op() == "c").collect::<Vec<_>>()[..LAST as usize].chunks(EACH as usize)
    {
        let of_kafka: BTreeSet<_> = transaction.iter().map(|event| event.kafka_transaction).collect();
        assert_eq!(of_kafka.len(), 1, "a transaction lies in several of Kafka's: {of_kafka:?}");
    }
    archive.wait_for_state("RUNNING").await;
}
