//! The log that the server keeps for a slot: who is told, who is protected, and what cannot be had back.

use std::sync::Arc;
use std::time::Duration;

use millrace_e2e::{Own, Servers, Shop, Sql, run_to_end, until, within};

/// The slot's log is looked at every few seconds.
const NOTICED: Duration = Duration::from_secs(120);

/// So many segments of 16 MB.
async fn write_log(sql: &Sql, segments: u32) {
    for _ in 0..segments {
        sql.run("SELECT pg_logical_emit_message(false, 'test', ''); SELECT pg_switch_wal()").await;
    }
}

/// A shop that runs, with a limit of 1 GB, whose server keeps more than that because of a transaction that is open.
async fn above_the_limit(name: &str, policy: &str) -> (Shop, Sql) {
    let servers = Arc::new(Servers::with(Own::postgres()).await);
    let mut shop = Shop::on(&servers, name).await;
    shop.file.set("source/postgres/wal_limit_gb", 1).set("source/postgres/wal_policy", policy);
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    let open = shop.sql.another().await;
    open.run("BEGIN; INSERT INTO orders VALUES (11, 'open')").await;
    write_log(&shop.sql, 70).await;
    (shop, open)
}

#[tokio::test]
async fn a_slot_whose_log_the_server_removed_is_a_lost_position_and_is_not_made_again() {
    let limit = [("max_slot_wal_keep_size", "32MB")];
    let servers = Arc::new(Servers::with(Own::postgres_with(&limit)).await);
    let mut shop = Shop::on(&servers, "slot-invalidated").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    shop.rows(11..=20).await;
    write_log(&shop.sql, 8).await;
    shop.sql.run("CHECKPOINT").await;
    shop.start_in_any_state().await;
    let refusal = shop.not_ready("POSITION_LOST").await;
    refusal.expect_reason(&[&shop.slot(), "lost"]).expect_hint(&["copy the tables", "reset --yes"]);
    let file = shop.write_file();
    let checked = run_to_end(&["check", file.to_str().expect("a path")], shop.dir());
    assert_eq!(checked.code, Some(2), "{}", checked.text());
    assert!(checked.text().contains("is lost"), "{}", checked.text());
}

#[tokio::test]
async fn a_running_connector_whose_slot_is_invalidated_says_so() {
    let limit = [("max_slot_wal_keep_size", "32MB"), ("wal_sender_timeout", "3s")];
    let servers = Arc::new(Servers::with(Own::postgres_with(&limit)).await);
    let mut shop = Shop::on(&servers, "slot-invalidated-running").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    let open = shop.sql.another().await;
    open.run("BEGIN; INSERT INTO orders VALUES (11, 'open')").await;
    write_log(&shop.sql, 8).await;
    // Ends the walsender of a slot that keeps too much, and takes its log.
    shop.sql.run("CHECKPOINT").await;
    shop.daemon().wait_for_state_within(NOTICED, &shop.name, "POSITION_LOST").await;
    shop.not_ready("POSITION_LOST").await.expect_reason(&[&shop.slot(), "lost"]);
}

#[tokio::test]
async fn above_the_limit_the_source_is_protected_by_giving_its_slot_up() {
    let (shop, open) = above_the_limit("protect-source", "protect_source").await;
    shop.daemon().wait_for_state_within(NOTICED, &shop.name, "POSITION_LOST").await;
    let refusal = shop.not_ready("POSITION_LOST").await;
    refusal.expect_reason(&["1.00 GB", "dropped"]).expect_hint(&["copy the tables anew", "reset --yes"]);
    until("the slot is gone", async || {
        let slots = "SELECT count(*) FROM pg_replication_slots";
        (shop.sql.one::<i64>(slots).await == 0).then_some(())
    })
    .await;
    open.run("COMMIT").await;
}

#[tokio::test]
async fn above_the_limit_the_data_is_protected_and_the_log_says_what_is_kept() {
    let (mut shop, open) = above_the_limit("protect-data", "protect_data").await;
    within(NOTICED, "it is said", async || {
        shop.daemon().log().contains("keeps more log than wal_limit_gb").then_some(())
    })
    .await;
    open.run("COMMIT").await;
    shop.wait_for_state("RUNNING").await;
    shop.rows(12..=20).await.expect_rows(1..=20).await;
}
