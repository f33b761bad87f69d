//! Rows of tables without a key, read by several workers under one snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_e2e::{Event, Shop, until, within};

use super::snapshots::{Writers, left, read_through, shop};

const WHOLE: &str = "public.whole";

/// Long enough for some ten thousand rows and their changes on a busy machine.
const THROUGH: Duration = Duration::from_secs(180);

const CHANGES: &[&str] = &[
    "UPDATE whole SET note = 'update {version}' WHERE id = {id}",
    "DELETE FROM whole WHERE id = {id}",
    "INSERT INTO whole VALUES ({id}, 'insert {version}', 'new')",
];

/// A shop with a table of some thousand blocks, whose rows only their own values tell apart.
async fn large(name: &str, rows: i64) -> Shop {
    let mut shop = shop(name).await;
    // Each attempt reads the table once more.
    shop.trust_commits();
    shop.table("whole", "id bigint, note text, filler text").await.capture(&[WHOLE]);
    shop.file.set("source/postgres/snapshot_chunk_rows", 20).set("source/postgres/snapshot_workers", 3);
    shop.sql
        .run(&format!(
            "ALTER TABLE whole REPLICA IDENTITY FULL; CREATE INDEX ON whole (id);
             INSERT INTO whole SELECT n, 'row 0', repeat('x', 1000) FROM generate_series(0, {}) n",
            rows - 1
        ))
        .await;
    shop
}

/// Sessions that have read ranges of blocks of a table, so far as they are still there.
async fn readers(shop: &Shop, table: &str) -> i64 {
    shop.sql
        .one(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND pid <> pg_backend_pid() AND query LIKE 'COPY%{table}%ctid%'"
        ))
        .await
}

/// Waits until the events make the table.
async fn made(shop: &mut Shop, count: impl Fn(&Event) -> bool) -> Vec<Event> {
    let rows = "array_agg(id || ' ' || note ORDER BY (id || ' ' || note) COLLATE \"C\")";
    let expected: Vec<String> = shop.sql.one(&format!("SELECT {rows} FROM whole")).await;
    within(THROUGH, "the events make the table", async || {
        let events: Vec<Event> = shop.events(WHOLE).await.into_iter().filter(&count).collect();
        (left(&events) == expected).then_some(events)
    })
    .await
}

#[tokio::test]
async fn several_workers_read_a_large_table_while_its_changes_wait() {
    let mut shop = large("keyless-workers", 12_000).await;
    let writers = Writers::at_work(&shop, 12_000, CHANGES).await;
    shop.start().await;
    let held = until("more than one session reads", async || {
        let status = shop.daemon().own_status(&shop.name).await?;
        let held = status["snapshot"]["holds_stream"].as_str()?.to_owned();
        (readers(&shop, "whole").await > 1).then_some(held)
    })
    .await;
    assert!(held.contains(WHOLE), "{held}");
    read_through(&shop, WHOLE).await;
    writers.stop().await;
    let events = made(&mut shop, |_| true).await;
    let rows = events.iter().position(|event| event.op() == "r").expect("rows");
    let end = events.iter().rposition(|event| event.op() == "r").expect("rows");
    assert!(events[rows..=end].iter().all(|event| event.op() == "r"), "changes came among the rows");
    let mut marks: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &events[rows..=end] {
        let word = row.value.as_ref().and_then(|value| value["source"]["snapshot"].as_str());
        *marks.entry(word.expect("a word")).or_default() += 1;
    }
    assert_eq!((marks["first"], marks["last"], marks.len()), (1, 1, 3), "{marks:?}");
    let status = shop.daemon().own_status(&shop.name).await.expect("a status");
    assert!(status["snapshot"]["holds_stream"].is_null() && status["reason"].is_null(), "{status}");
}

#[tokio::test]
async fn a_kill_while_several_workers_read_begins_the_table_again_and_says_so() {
    let mut shop = large("keyless-kill", 12_000).await;
    // A Kafka transaction for each batch.
    shop.file.set("sink/kafka/transaction/records_max", 200);
    let writers = Writers::at_work(&shop, 12_000, CHANGES).await;
    shop.start().await;
    until("more than one session reads", async || (readers(&shop, "whole").await > 1).then_some(())).await;
    shop.wait_for_events(WHOLE, 1_000).await;
    shop.kill().start().await;
    read_through(&shop, WHOLE).await;
    writers.stop().await;
    let all = shop.events_to_the_end(WHOLE).await;
    let is_second = |event: &Event| event.header("snapshot.attempt") == Some("2");
    assert!(all.iter().any(|event| event.op() == "r" && !is_second(event)), "nothing came before the kill");
    // What came before the first row of the second reading is forgotten.
    let second = all.iter().filter(|event| is_second(event)).map(Event::position);
    let place = second.min().expect("a second reading");
    made(&mut shop, |event| event.position() >= place).await;
}

#[tokio::test]
async fn a_root_without_a_key_is_read_by_blocks_of_all_its_parts() {
    let mut shop = shop("keyless-parts").await;
    shop.trust_commits();
    shop.sql
        .run(
            "CREATE TABLE log (id bigint, day int, note text) PARTITION BY RANGE (day);
             CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (1);
             CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM (1) TO (2) PARTITION BY RANGE (id);
             CREATE TABLE log_2_1 (note text, gone int, day int, id bigint);
             ALTER TABLE log_2_1 DROP COLUMN gone;
             ALTER TABLE log_2 ATTACH PARTITION log_2_1 FOR VALUES FROM (0) TO (100000);
             CREATE TABLE log_3 PARTITION OF log DEFAULT;
             INSERT INTO log SELECT n, n % 7 % 3, repeat('x', 1000) FROM generate_series(1, 6000) n;
             INSERT INTO log SELECT n, 1, 'small' FROM generate_series(6001, 6100) n;",
        )
        .await;
    let publication =
        format!("CREATE PUBLICATION {} FOR TABLE log WITH (publish_via_partition_root = true)", shop.slot());
    shop.sql.run(&publication).await;
    shop.capture(&["public.log"]);
    shop.file.set("source/postgres/snapshot_chunk_rows", 100).set("source/postgres/snapshot_workers", 3);
    shop.start().await;
    read_through(&shop, "public.log").await;
    let events = shop.wait_for_events("public.log", 6_100).await;
    let mut ids: Vec<i64> = events.iter().filter_map(Event::id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=6_100).collect::<Vec<_>>());
    assert!(events.iter().all(|event| event.op() == "r" && event.topic == shop.topic("public.log")));
}
