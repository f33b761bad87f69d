//! What becomes of the rows that are there, by the mode that the file names.

use millrace_e2e::{Shop, until};

use super::snapshots::{ORDERS, fill, read_through};

async fn shop(name: &str, mode: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.file.set("source/postgres/snapshot", mode).set("source/postgres/snapshot_chunk_rows", 50);
    fill(&shop, 200).await;
    shop
}

async fn slots(shop: &Shop) -> i64 {
    shop.sql.one("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()").await
}

#[tokio::test]
async fn the_rows_and_nothing_after_them_and_no_slot_that_keeps_the_log() {
    let mut shop = shop("mode-initial-only", "initial_only").await;
    shop.start().await;
    for part in 1..=2 {
        read_through(&shop, ORDERS).await;
        shop.sql.run(&format!("INSERT INTO orders VALUES ({}, 'behind the rows')", 2_000 + part)).await;
        until("all rows are delivered", async || {
            let status = shop.daemon().own_status(&shop.name).await?;
            status["reason"].as_str().is_some_and(|reason| reason.contains("wants no changes")).then_some(())
        })
        .await;
        assert_eq!(slots(&shop).await, 0, "start {part}");
        shop.sql.run(&format!("INSERT INTO orders VALUES ({}, 'later')", 1_000 + part)).await;
        shop.term().await;
        shop.start().await;
    }
    let events = shop.wait_for_events(ORDERS, 200).await;
    assert!(events.len() == 200 && events.iter().all(|event| event.op() == "r"));
}

#[tokio::test]
async fn the_rows_are_read_again_at_every_start_of_the_daemon() {
    let mut shop = shop("mode-always", "always").await;
    shop.start().await;
    read_through(&shop, ORDERS).await;
    shop.wait_for_events(ORDERS, 200).await;
    shop.term().await;
    shop.sql.run("UPDATE orders SET note = 'changed' WHERE id = 7").await;
    shop.start().await;
    let events = shop.wait_for_events(ORDERS, 401).await;
    let of_seven: Vec<&str> =
        events.iter().filter(|event| event.id() == Some(7)).map(|event| event.op()).collect();
    assert_eq!(of_seven, ["r", "u", "r"]);
}

#[tokio::test]
async fn a_slot_that_is_gone_has_all_rows_read_anew_where_the_file_asks_for_it() {
    let mut shop = shop("mode-when-needed", "when_needed").await;
    shop.start().await;
    read_through(&shop, ORDERS).await;
    shop.wait_for_events(ORDERS, 200).await;
    shop.term().await;
    shop.wait_for_slot(false).await;
    shop.sql.run(&format!("SELECT pg_drop_replication_slot('{}')", shop.slot())).await;
    shop.sql.run("INSERT INTO orders VALUES (200, 'in the gap')").await;
    shop.start().await;
    let events = shop.wait_for_events(ORDERS, 401).await;
    assert_eq!(events[200..].iter().filter(|event| event.op() == "r" && event.id() == Some(200)).count(), 1);
    shop.sql.run("INSERT INTO orders VALUES (201, 'streamed')").await;
    let events = shop.wait_for_events(ORDERS, 402).await;
    assert_eq!((events[401].op(), events[401].id()), ("c", Some(201)));
}

#[tokio::test]
async fn rows_and_changes_are_chosen_by_themselves() {
    let mut shop = shop("mode-configured", "configuration_based").await;
    shop.file.set("source/postgres/snapshot_stream", true);
    shop.start().await.rows(200..=210).await;
    let events = shop.settled().await;
    assert!(events.len() == 11 && events.iter().all(|event| event.op() == "c"));
}
