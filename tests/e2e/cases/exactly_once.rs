//! Exactly-once where a rule of its own holds it up: each of these fails without that rule.

use std::collections::BTreeSet;

use millrace_e2e::{Own, Servers, Shop, until};
use std::sync::Arc;
use std::time::Duration;

/// The broker looks for transactions that ran out of their time every 10 s.
const TIMED_OUT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_daemon_stopped_past_the_transaction_timeout_resumes_by_itself() {
    let mut shop = Shop::open("stopped").await;
    shop.file.set("sink/kafka/transaction/timeout_ms", 5_000);
    shop.start().await.rows(1..=1).await.wait_for_events("public.orders", 1).await;
    let load = shop.load(2..=200_000, 50_000).await;
    shop.pause_past_the_transaction_timeout(TIMED_OUT).await;
    load.await.expect("the load is written");
    shop.daemon().resume();
    shop.expect_rows_within(TIMED_OUT, 1..=200_000).await;
    shop.wait_for_state("RUNNING").await;
}

#[tokio::test]
async fn a_relation_inside_a_cut_transaction_does_not_shift_what_is_skipped_on_replay() {
    let mut shop = Shop::open("cut-relation").await;
    shop.file
        .set("source/postgres/batch_rows_max", 200)
        .set("sink/kafka/transaction/cut_bytes", 50_000)
        .set("sink/kafka/transaction/records_max", 200);
    shop.start().await.rows(1..=1).await.wait_for_events("public.orders", 1).await;
    shop.term().await;
    shop.sql
        .run(
            // COPY writes many rows under one LSN, so that cuts fall between rows that only their index tells.
            "BEGIN; COPY orders FROM PROGRAM 'seq -f %.0f,before 2 15000' (DELIMITER ',');
             ALTER TABLE orders ADD colour text;
             COPY orders FROM PROGRAM 'seq -f %.0f,after,red 15001 30000' (DELIMITER ','); COMMIT",
        )
        .await;
    let mut seen = Vec::new();
    for (parts, delivered) in [(1, 100), (60, 5_000), (25, 15_100)] {
        // Cut: a part of the source's transaction is committed, and the rest is not.
        shop.start_to_die_at(&format!("cut-committed:{parts}")).await;
        seen.push(shop.wait_for_events("public.orders", delivered).await.len());
    }
    assert!(seen[1] < 15_000 && seen[2] < 30_000, "not one on each side of the relation: {seen:?}");
    shop.start_in_any_state().await;
    shop.sql.run("ALTER TABLE orders ADD size int").await;
    shop.expect_rows(1..=30_000).await;
    let events = shop.events("public.orders").await;
    assert_eq!(
        (events[20_000].after("note"), events[20_000].after("colour")),
        (&"after".into(), &"red".into())
    );
    assert_eq!(events[10_000].after("note"), "before");
    let parts: BTreeSet<_> = events[1..30_000].iter().map(|event| event.kafka_transaction).collect();
    assert!(parts.len() > 3, "the transaction was not cut: {parts:?}");
}

#[tokio::test]
async fn a_crash_between_slot_creation_and_the_first_position_is_a_first_start() {
    let mut shop = Shop::open("creating").await;
    shop.start().await.kill();
    let records = shop.position_records().await;
    let creating = records.iter().find(|record| record.value["state"] == "creating").expect("the mark");
    let (topic, key) = (shop.position_topic(), creating.key.to_string());
    // As a crash leaves it: the mark is the newest position, and the slot is there.
    shop.broker().produce(&topic, 0, key.as_bytes(), creating.value.to_string().as_bytes()).await;
    shop.wait_for_slot(false).await;
    let old = shop.confirmed().await;
    shop.rows(1..=1).await;
    shop.sql.run("DELETE FROM orders").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    assert!(shop.confirmed().await > old, "the slot is the old one");
    assert!(shop.position().await.value["state"].is_null(), "the mark is still there");
}

#[tokio::test]
async fn a_heartbeat_right_before_a_commit_hides_no_transaction() {
    // Alone, so that nothing else writes between the message and the commit.
    let quiet = [("autovacuum", "off"), ("checkpoint_timeout", "1h"), ("max_wal_size", "4GB")];
    let servers = Arc::new(Servers::with(Own::postgres_with(&quiet)).await);
    let mut shop = Shop::on(&servers, "heartbeat-commit").await;
    shop.file.set("source/postgres/heartbeat_interval_s", 0);
    shop.start().await.rows(1..=1).await.wait_for_events("public.orders", 1).await;
    let mut commits = Vec::new();
    for id in 2..=12 {
        let message = message_before_commit(&mut shop, id).await;
        let events = shop.wait_for_events("public.orders", usize::try_from(id).expect("small")).await;
        let row = events.last().expect("just waited for");
        assert_eq!(row.id(), Some(id));
        commits.push((format!("{message:X}"), format!("{:X}", row.position()[0])));
        if row.position()[0] == message {
            break;
        }
    }
    assert!(
        commits.iter().any(|(message, commit)| message == commit),
        "the server wrote something between message and commit each time: {commits:?}"
    );
    let newest = i64::try_from(shop.events("public.orders").await.len()).expect("small");
    shop.expect_rows(1..=newest).await;
}

/// Inserts a row so that a message which is not part of its transaction ends where its commit begins; the
/// daemon delivers the message, dies, and finds the commit at its next start. Answers the message's place.
async fn message_before_commit(shop: &mut Shop, id: i64) -> u64 {
    shop.sql.run(&format!("BEGIN; INSERT INTO orders VALUES ({id}, 'order {id}')")).await;
    // From a session of its own, as the daemon's heartbeat: at the end of that session's transaction the
    // server remembers to flush the message, without writing anything after it.
    let heartbeat = shop.sql.another().await;
    let message = heartbeat.lsn("SELECT pg_logical_emit_message(false, 'test', 'beat')").await;
    until("the message is delivered", async || (shop.confirmed().await >= message).then_some(())).await;
    shop.kill();
    shop.sql.run("COMMIT").await;
    shop.start().await;
    message
}
