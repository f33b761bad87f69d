//! The position and the source no longer fit each other: the connector stops and says what to type, and
//! never guesses past a gap.

use millrace_e2e::{Own, PATIENCE, Servers, Shop, run_to_end, until};
use millrace_ledger::reader::{Isolation, Reader, Record};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use xtask::services::PostgresVersion;

/// A shop that has delivered ten orders and was stopped in good order.
async fn stopped_shop(name: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    shop.wait_for_slot(false).await;
    shop
}

#[tokio::test]
async fn a_dropped_slot_is_a_lost_position_and_is_not_made_again() {
    let mut shop = stopped_shop("slot-dropped").await;
    let slot = shop.slot();
    shop.sql.run(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    shop.start_in_any_state().await;
    shop.not_ready("POSITION_LOST").await.expect_reason(&[&slot, "gone"]).expect_hint(&["millrace position"]);
    let made: bool = shop
        .sql
        .one(&format!("SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')"))
        .await;
    assert!(!made, "a lost slot was quietly made again");
}

#[tokio::test]
async fn an_advanced_slot_is_a_lost_position() {
    let mut shop = stopped_shop("slot-advanced").await;
    shop.rows(11..=20).await;
    let slot = shop.slot();
    shop.sql.run(&format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")).await;
    shop.start_in_any_state().await;
    shop.not_ready("POSITION_LOST")
        .await
        .expect_reason(&[&slot, "moved"])
        .expect_hint(&["millrace position"]);
}

#[tokio::test]
async fn a_slot_created_anew_is_a_lost_position() {
    let mut shop = stopped_shop("slot-recreated").await;
    shop.rows(11..=20).await;
    let slot = shop.slot();
    shop.sql.run(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    shop.sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    shop.start_in_any_state().await;
    shop.not_ready("POSITION_LOST").await.expect_reason(&[&slot]).expect_hint(&["millrace position"]);
}

#[tokio::test]
async fn a_lost_position_is_still_lost_after_a_restart() {
    let mut shop = stopped_shop("lost-twice").await;
    let slot = shop.slot();
    shop.sql.run(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    shop.start_in_any_state().await.not_ready("POSITION_LOST").await;
    let refusal = shop.kill().start_in_any_state().await.not_ready("POSITION_LOST").await;
    refusal.expect_reason(&[&slot]);
}

#[tokio::test]
async fn a_server_restored_to_before_the_position_is_refused() {
    let servers = Arc::new(Servers::with(Own::postgres()).await);
    let mut shop = Shop::on(&servers, "restored").await;
    let data: String = shop.sql.one("SHOW data_directory").await;
    let backup = format!("{data}-backup");
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;

    servers.postgres.stop().await.expect("Postgres stops");
    copy(&data, &backup);
    servers.postgres.start().await.expect("Postgres starts");
    shop.reconnect().await.start().await.rows(11..=5_000).await.expect_rows(1..=5_000).await.term().await;

    servers.postgres.stop().await.expect("Postgres stops");
    std::fs::remove_dir_all(&data).expect("the data directory is ours");
    copy(&backup, &data);
    servers.postgres.start().await.expect("Postgres starts");
    shop.reconnect().await.start_in_any_state().await;
    shop.not_ready("POSITION_AHEAD").await.expect_reason(&["restored"]).expect_hint(&["millrace position"]);
    // Not confirmed either: the server could still be given its own log back.
    let rows: i64 = shop.sql.one("SELECT count(*) FROM orders WHERE id > 0").await;
    assert_eq!(rows, 10);
}

/// A cold copy, with owners and modes.
fn copy(from: &str, to: &str) {
    let copied = Command::new("cp").args(["-a", from, to]).status().expect("cp starts");
    assert!(copied.success() && Path::new(to).join("PG_VERSION").exists(), "{from} cannot be copied");
}

#[tokio::test]
async fn a_position_topic_made_anew_is_a_lost_position_and_not_a_first_start() {
    let mut shop = stopped_shop("topic-recreated").await;
    shop.rows(11..=20).await;
    let topic = shop.position_topic();
    shop.broker().delete_topic(&topic).await;
    until("the topic is gone", async || (!shop.broker().has_topic(&topic).await).then_some(())).await;
    shop.start_in_any_state().await;
    let refusal = shop.not_ready("POSITION_LOST").await;
    refusal.expect_reason(&[&shop.slot()]).expect_hint(&["millrace position", "set"]);
}

#[tokio::test]
async fn a_corrupt_position_record_is_named_by_its_offset() {
    let mut shop = stopped_shop("corrupt").await;
    let last = shop.position().await;
    let topic = shop.position_topic();
    let corrupt = b"{\"v\":1,\"end_lsn\":";
    shop.broker().produce(&topic, 0, last.key.to_string().as_bytes(), corrupt).await;
    // Not always the last one: the end of the daemon's last transaction may be written behind it.
    let mut reader = Reader::new(&shop.servers.kafka.bootstrap(), Isolation::ReadUncommitted, PATIENCE);
    let records = reader.read_all(&[&*topic]).await.expect("the topic can be read").records;
    let is_corrupt = |record: &&Record| record.value.as_deref() == Some(&corrupt[..]);
    let end = records.iter().find(is_corrupt).expect("the record is there").offset;
    shop.start_in_any_state().await;
    let refusal = shop.not_ready("POSITION_LOST").await;
    refusal.expect_reason(&[&format!("offset {end}"), &topic]).expect_hint(&["millrace position"]);
}

#[tokio::test]
async fn a_slot_without_any_position_is_nobody_s_first_start() {
    let mut shop = Shop::open("stray-slot").await;
    let slot = shop.slot();
    shop.sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    shop.start_in_any_state().await;
    shop.not_ready("POSITION_LOST").await.expect_reason(&[&slot]).expect_hint(&["millrace position", "set"]);
}

#[tokio::test]
async fn a_publication_younger_than_its_slot_is_said_and_left_behind_by_the_remedy() {
    expect_a_young_publication_to_be_said(Shop::open("young-publication").await).await;
}

/// Which would go on, and leave out what it cannot send.
#[tokio::test]
async fn a_publication_younger_than_its_slot_is_said_on_postgres_18_too() {
    let servers = Arc::new(Servers::with(Own::postgres_of(PostgresVersion::V18)).await);
    expect_a_young_publication_to_be_said(Shop::on(&servers, "young-publication-18").await).await;
}

async fn expect_a_young_publication_to_be_said(mut shop: Shop) {
    let slot = shop.slot();
    shop.sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    shop.rows(1..=10).await;
    shop.file.set("source/postgres/slot_made_beforehand", true);
    shop.start_in_any_state().await;
    shop.not_ready("POSITION_LOST")
        .await
        .expect_reason(&[&slot, "does not exist"])
        .expect_hint(&["set --to <SELECT pg_current_wal_lsn()> --yes"]);
    shop.kill().wait_for_slot(false).await;
    let now: String = shop.sql.one("SELECT pg_current_wal_lsn()::text").await;
    let file = shop.write_file();
    let file = file.to_str().expect("a readable path");
    let moved = run_to_end(&["position", file, "set", "--to", &now, "--yes"], shop.dir());
    assert_eq!(moved.code, Some(0), "{}", moved.text());
    shop.start().await.rows(11..=20).await.expect_rows(11..=20).await;
}

#[tokio::test]
async fn a_slot_made_beforehand_is_started_from_where_the_file_says_so() {
    let mut shop = Shop::open("made-beforehand").await;
    let slot = shop.slot();
    shop.sql.run(&format!("CREATE PUBLICATION {slot} FOR TABLE orders")).await;
    shop.sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    shop.rows(1..=10).await;
    shop.file.set("source/postgres/slot_made_beforehand", true);
    shop.start().await.rows(11..=20).await.expect_rows(1..=20).await;
}
