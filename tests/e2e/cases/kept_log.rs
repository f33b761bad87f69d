//! How much log the server keeps for a connector whose sink is away.

use millrace_e2e::{Own, Servers, Shop, until};
use std::sync::Arc;
use std::time::Duration;

use super::snapshots::{ORDERS, fill, read_through};

/// A broker that was stopped is found by its clients again.
const BACK: Duration = Duration::from_secs(120);

/// A shop that soon notices that its broker is away.
async fn shop(servers: &Arc<Servers>, name: &str) -> Shop {
    let mut shop = Shop::on(servers, name).await;
    shop.file.set("sink/kafka/transaction/timeout_ms", 5_000);
    shop
}

/// One whose server may keep 50 MB of log.
async fn limited(servers: &Arc<Servers>, name: &str) -> Shop {
    let mut shop = shop(servers, name).await;
    shop.file.set("source/postgres/wal_limit_gb", 0.05).set("source/postgres/wal_policy", "protect_source");
    shop
}

/// The connector can do nothing without its sink; meanwhile the log grows past the limit.
async fn lose_the_sink(servers: &Servers, shop: &Shop) {
    servers.kafka.stop().await.expect("Kafka stops");
    // Something to deliver, so that it is noticed.
    shop.sql.run("INSERT INTO orders VALUES (1000000, 'not delivered')").await;
    shop.daemon().wait_for_state_within(BACK, &shop.name, "DEGRADED").await;
    shop.wait_for_slot(false).await;
    let much =
        "SELECT pg_logical_emit_message(false, 'much', repeat('x', 1000000)) FROM generate_series(1, 100)";
    shop.sql.run(much).await;
}

async fn slot_is_gone(shop: &Shop) {
    let query = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", shop.slot());
    until("the slot is gone", async || (shop.sql.one::<i64>(&query).await == 0).then_some(())).await;
}

#[tokio::test]
async fn the_server_s_disk_is_saved_while_the_sink_is_away() {
    let servers = Arc::new(Servers::with(Own::kafka()).await);
    let mut shop = limited(&servers, "kept-log").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    lose_the_sink(&servers, &shop).await;
    let refusal = shop.not_ready("POSITION_LOST").await;
    refusal.expect_reason(&["more than 0.05 GB", "dropped"]).expect_hint(&["reset --yes"]);
    slot_is_gone(&shop).await;
}

#[tokio::test]
async fn what_the_server_keeps_while_the_sink_is_away_is_shown() {
    let servers = Arc::new(Servers::with(Own::kafka()).await);
    let mut shop = shop(&servers, "kept-log-shown").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    lose_the_sink(&servers, &shop).await;
    until("the log that is kept is shown", async || {
        let kept = shop.daemon().own_status(&shop.name).await?["retained_bytes"].as_u64()?;
        (kept > 100_000_000).then_some(())
    })
    .await;
}

#[tokio::test]
async fn after_the_disk_was_saved_all_tables_are_read_anew_where_the_file_asks_for_it() {
    let servers = Arc::new(Servers::with(Own::kafka()).await);
    let mut shop = limited(&servers, "kept-log-anew").await;
    shop.file.set("source/postgres/snapshot", "when_needed");
    fill(&shop, 20).await;
    shop.start().await;
    read_through(&shop, ORDERS).await;
    shop.wait_for_events(ORDERS, 20).await;
    lose_the_sink(&servers, &shop).await;
    slot_is_gone(&shop).await;
    servers.kafka.start().await.expect("Kafka starts");
    shop.daemon().wait_for_state_within(BACK, &shop.name, "RUNNING").await;
    let events = shop.wait_for_events(ORDERS, 41).await;
    assert!(
        events[20..].iter().any(|event| event.op() == "r" && event.id() == Some(1_000_000)),
        "{events:?}"
    );
}
