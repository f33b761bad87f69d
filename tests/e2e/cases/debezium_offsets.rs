//! Debezium's offsets, taken over and handed back: what an offset alone cannot say is refused, and nothing comes twice.

use millrace_e2e::{Archive, Ended, Origin, Shop, Site, run_to_end};
use serde_json::{Value as Json, json};

use super::mongodb_snapshots::{self, PAPERS};
use super::snapshots::{self, ORDERS};

/// `millrace position <file> <action>`.
fn exchange<O: Origin>(site: &Site<O>, action: &str) -> Ended {
    let file = site.write_file().display().to_string();
    run_to_end(&["position", &file, action, "--topic", &offsets(site), "--yes"], site.dir())
}

fn exchanged<O: Origin>(site: &Site<O>, action: &str) -> String {
    let ended = exchange(site, action);
    assert_eq!(ended.code, Some(0), "{}", ended.text());
    ended.stdout
}

fn refused<O: Origin>(site: &Site<O>, action: &str, words: &[&str]) {
    let ended = exchange(site, action);
    assert!(ended.code != Some(0), "{}", ended.text());
    for word in words {
        assert!(ended.text().contains(word), "{word}: {}", ended.text());
    }
}

/// Stands for Kafka Connect's.
fn offsets<O: Origin>(site: &Site<O>) -> String {
    format!("{}-offsets", site.name)
}

/// As Kafka Connect writes them.
async fn write_offset<O: Origin>(site: &Site<O>, partition: Json, offset: &Json) {
    let key = json!([site.name, partition]).to_string();
    let (broker, topic) = (site.broker(), offsets(site));
    broker.create_topic(&topic, 1).await;
    broker.produce(&topic, 0, key.as_bytes(), offset.to_string().as_bytes()).await;
}

#[tokio::test]
async fn a_transaction_that_another_one_overtook_is_gone_on_with_behind_debezium_s_last_row() {
    let mut shop = Shop::open("take-over-overtaken").await;
    let slot = shop.slot();
    shop.sql.run(&format!("CREATE PUBLICATION {slot} FOR TABLE orders")).await;
    shop.sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    let slow = shop.sql.another().await;
    slow.run("BEGIN; INSERT INTO orders VALUES (1, 'of the slow one')").await;
    shop.rows(2..=2).await;
    slow.run("INSERT INTO orders VALUES (3, 'of the slow one'); COMMIT").await;
    let log: String = shop
        .sql
        .one(&format!(
            "SELECT json_agg(json_build_array(chr(get_byte(data, 0)), (lsn - '0/0')::bigint, xid::text::bigint))::text
             FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, 'proto_version', '1',
                                                      'publication_names', '{slot}')"
        ))
        .await;
    let log: Vec<(char, u64, u64)> = serde_json::from_str(&log).expect("kinds, places and transactions");
    let of = |kind: char| log.iter().filter(move |message| message.0 == kind);
    let ((_, commit, _), (_, row, slow)) = (of('C').next().expect("2's"), of('I').nth(1).expect("1"));
    assert!(row < commit, "the slow one's row is older than the other one's commit: {log:?}");

    let offset =
        json!({"lsn_proc": row, "messageType": "INSERT", "lsn_commit": commit, "lsn": row, "txId": slow});
    write_offset(&shop, json!({"server": shop.name}), &offset).await;
    exchanged(&shop, "take-over");
    shop.start().await.rows(4..=5).await.expect_rows(3..=5).await;
}

#[tokio::test]
async fn rows_that_are_not_read_yet_are_not_handed_back_and_a_connector_at_work_is_not_either() {
    let mut shop = snapshots::shop("hand-back").await;
    // Between two attempts nobody reads the slot.
    shop.trust_commits();
    shop.file.set("source/postgres/snapshot_chunk_rows", 100).set("sink/kafka/transaction/records_max", 100);
    shop.rows(1..=2_000).await;
    shop.broker().create_topic(&offsets(&shop), 1).await;
    shop.start_to_die_at("chunk-placed:5").await;
    shop.wait_for_slot(false).await;
    refused(&shop, "hand-back", &["orders", "not finished", "to the end"]);

    shop.start().await;
    snapshots::read_through(&shop, ORDERS).await;
    shop.rows(2_001..=2_010).await.wait_for_events(ORDERS, 2_010).await;
    shop.wait_for_slot(true).await;
    refused(&shop, "hand-back", &[&shop.slot(), "is being read", "stop"]);
    shop.term().await;
    shop.wait_for_slot(false).await;
    let offset = exchanged(&shop, "hand-back");
    assert!(offset.contains(r#""messageType":"COMMIT""#) && !offset.contains("lsn_proc"), "{offset}");

    exchanged(&shop, "take-over");
    shop.start().await.rows(2_011..=2_020).await.wait_for_events(ORDERS, 2_020).await;
    snapshots::assert_once(&shop.settled().await);
}

#[tokio::test]
async fn documents_that_are_not_read_yet_are_not_handed_back_and_whoever_still_reads_is_shut_out() {
    let mut archive = Archive::open("mongo-hand-back").await;
    archive
        .file
        .set("source/mongodb/snapshot", "initial")
        .set("source/mongodb/json", "relaxed")
        .set("source/mongodb/snapshot_chunk_rows", 100)
        .set("sink/kafka/transaction/records_max", 100);
    mongodb_snapshots::fill(&archive, 2_000).await;
    archive.broker().create_topic(&offsets(&archive), 1).await;
    archive.start_to_die_at("chunk-placed:5").await;
    refused(&archive, "hand-back", &[PAPERS, "not finished", "to the end"]);

    archive.start().await;
    archive.wait_for_events(PAPERS, 2_000).await;
    mongodb_snapshots::read_through(&archive, PAPERS).await;
    let offset = exchanged(&archive, "hand-back");
    assert!(offset.contains("resume_token"), "{offset}");
    archive.docs(10_001..=10_010).await.not_ready("FENCED").await;
    archive.kill();

    exchanged(&archive, "take-over");
    archive.start().await;
    let events = archive.wait_for_events(PAPERS, 2_010).await;
    assert_eq!(events.len(), 2_010, "each came once");
}

#[tokio::test]
async fn an_offset_of_an_older_debezium_that_names_the_replica_set_is_found() {
    let mut archive = Archive::open("mongo-offset-rs").await;
    let now = archive.server_seconds().await;
    let offset = json!({"sec": now, "ord": 1});
    write_offset(&archive, json!({"rs": "rs0", "server_id": archive.name}), &offset).await;
    let taken = exchanged(&archive, "take-over");
    assert!(taken.contains(&format!("{now}.1")), "{taken}");
    archive.docs(1..=5).await.start().await;
    archive.expect_docs(1..=5).await;
}

#[tokio::test]
async fn nothing_is_handed_back_while_an_instance_could_take_the_turn() {
    let mut shop = Shop::open("hand-back-in-turns").await;
    shop.file.set("high_availability", true);
    shop.start().await.rows(1..=1).await.expect_rows(1..=1).await;
    shop.broker().create_topic(&offsets(&shop), 1).await;
    refused(&shop, "hand-back", &["still runs", "stop every instance"]);
    shop.term().await;
    shop.wait_for_slot(false).await;
    exchanged(&shop, "hand-back");
}
