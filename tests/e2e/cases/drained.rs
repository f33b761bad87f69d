//! Outboxes that hold rows before the connector comes: drained in a declared order, each event once and before new ones.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_e2e::{Bare, Shop, committed, run_to_end, until, wait_for_records, within};
use tokio::task::JoinHandle;

use super::snapshots::{noted, read_through};

/// Keys say nothing of the order of events.
const OUTBOX: &str = "id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL DEFAULT 'order', \
                      aggregateid text NOT NULL, version bigint NOT NULL, payload jsonb NOT NULL DEFAULT '{}', note int";

/// Writers, each of events of its own aggregates.
const WRITERS: i64 = 3;
const AGGREGATES: i64 = 12;

const DRAINS: &str =
    "[route.outbox]\nfirst_start = \"drain_existing\"\norder_by = [\"aggregateid\", \"version\"]\n";

async fn shop(name: &str, options: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.table("outbox", OUTBOX).await;
    shop.capture(&["public.orders", "public.outbox"]);
    shop.file
        .remove("format/registry")
        .set("format/encoding", "json")
        .set("source/postgres/snapshot", "initial");
    shop.file.set("source/postgres/snapshot_chunk_rows", 100).set("sink/kafka/transaction/records_max", 100);
    shop.file.set("sink/kafka/topic_defaults/partitions", 4);
    let route = route(&shop, options);
    shop.file.lay(&route);
    shop
}

/// One whose outbox held so many versions of each aggregate, all of which are sent.
async fn drained(name: &str, versions: i64) -> Shop {
    let mut shop = shop(name, DRAINS).await;
    fill(&shop, versions).await;
    shop.start().await;
    read_through(&shop, "public.outbox").await;
    shop
}

fn route(shop: &Shop, options: &str) -> String {
    format!(
        "[[route]]\nrelations = [\"public.outbox\"]\nenvelope = \"outbox\"\ntopic = \"{}\"\n\
         headers = {{ version = \"version\" }}\n{options}",
        topic(shop)
    )
}

fn topic(shop: &Shop) -> String {
    format!("{}.events", shop.name)
}

/// Events of before, in no order that their keys or places have: so many versions of each aggregate, from 1 on.
async fn fill(shop: &Shop, versions: i64) {
    let rows = format!(
        "INSERT INTO outbox (aggregateid, version) SELECT 'a-' || a, v FROM generate_series(0, {}) a, \
         generate_series(1, {versions}) v ORDER BY random()",
        AGGREGATES - 1
    );
    shop.sql.run(&rows).await;
}

/// Keeps writing the next versions of every aggregate, by several sessions and in subtransactions, some rolled back,
/// until it is told to end.
fn write_on(shop: &Shop, after: i64) -> (tokio::sync::watch::Sender<bool>, Vec<JoinHandle<()>>) {
    let (end, ended) = tokio::sync::watch::channel(false);
    let url = shop.sql.url().to_owned();
    let writer = |own: i64| {
        let (url, ended) = (url.clone(), ended.clone());
        tokio::spawn(async move {
            let session = millrace_e2e::Sql::connect(&url).await;
            let mut version = after;
            while !*ended.borrow() {
                version += 1;
                for aggregate in (0..AGGREGATES).filter(|aggregate| aggregate % WRITERS == own) {
                    let insert = |v: i64| {
                        format!("INSERT INTO outbox (aggregateid, version) VALUES ('a-{aggregate}', {v})")
                    };
                    let lost = insert(-version);
                    session
                        .run(&format!(
                            "BEGIN; SAVEPOINT s; {lost}; ROLLBACK TO s; SAVEPOINT t; {}; RELEASE t; \
                             SELECT pg_sleep(0.003); COMMIT",
                            insert(version)
                        ))
                        .await;
                }
            }
        })
    };
    (end, (0..WRITERS).map(writer).collect())
}

async fn written(writers: (tokio::sync::watch::Sender<bool>, Vec<JoinHandle<()>>)) {
    writers.0.send_replace(true);
    for writer in writers.1 {
        writer.await.expect("a writer ends");
    }
}

fn version(event: &Bare) -> i64 {
    event.header("version").and_then(|version| version.parse().ok()).expect("a version")
}

fn versions(events: &[Bare]) -> BTreeMap<String, Vec<i64>> {
    let mut all: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for event in events {
        all.entry(event.key.clone().expect("a key")).or_default().push(version(event));
    }
    all
}

/// Waits until as many events are there as rows, and fails where one is there twice, or not in its aggregate's order.
async fn expect_each_once_and_in_order(shop: &Shop) {
    let rows: i64 = shop.sql.one("SELECT count(*) FROM outbox").await;
    let events = within(Duration::from_secs(60), &format!("{rows} events"), async || {
        let events = committed(&shop.servers.kafka.bootstrap(), &[&topic(shop)]).await;
        (events.len() as i64 >= rows).then_some(events)
    })
    .await;
    for (aggregate, versions) in versions(&events) {
        let expected: Vec<i64> = (1..=versions.len() as i64).collect();
        assert_eq!(versions, expected, "{aggregate}");
    }
    assert_eq!(events.len() as i64, rows);
}

#[tokio::test]
async fn an_outbox_is_drained_in_its_order_and_new_events_follow_while_others_write() {
    let mut shop = shop("drained", DRAINS).await;
    shop.rows(1..=300).await;
    fill(&shop, 100).await;
    let writers = write_on(&shop, 100);
    shop.start().await;
    read_through(&shop, "public.outbox").await;
    tokio::time::timeout(Duration::from_secs(30), read_through(&shop, "public.orders"))
        .await
        .expect("its rows");
    written(writers).await;
    expect_each_once_and_in_order(&shop).await;
    // What was drained is there in the whole order, partition by partition.
    let events = committed(&shop.servers.kafka.bootstrap(), &[&topic(&shop)]).await;
    for partition in 0..4 {
        let old = events.iter().filter(|event| event.partition == partition && version(event) <= 100);
        let places: Vec<_> = old.map(|event| (event.key.clone(), version(event))).collect();
        assert!(places.is_sorted(), "partition {partition}: {places:?}");
    }
    let orders = shop.wait_for_events("public.orders", 300).await;
    assert!(orders.iter().all(|event| event.op() == "r"), "the table beside it is read as ever");
}

#[tokio::test]
async fn an_outbox_whose_draining_is_killed_again_and_again_doubles_and_loses_nothing() {
    let mut shop = shop("drained-killed", DRAINS).await;
    fill(&shop, 200).await;
    let writers = write_on(&shop, 200);
    for point in ["chunk-placed:3", "committed:12", "chunk-placed:6", "flushed:9"] {
        shop.start_to_die_at(point).await;
    }
    assert_eq!(noted(&shop, "public.outbox").await.as_deref(), Some("reading"), "it died in the middle");
    let events = committed(&shop.servers.kafka.bootstrap(), &[&topic(&shop)]).await;
    assert!((100..2_400).contains(&events.len()), "{} events", events.len());
    let places: Vec<_> =
        events.iter().map(|event| (event.partition, event.key.clone(), version(event))).collect();
    assert!(places.is_sorted(), "nothing but what was drained is out, in its order: {places:?}");
    shop.start().await;
    read_through(&shop, "public.outbox").await;
    shop.kill().start().await;
    written(writers).await;
    expect_each_once_and_in_order(&shop).await;
}

#[tokio::test]
async fn an_outbox_that_is_stopped_while_it_is_drained_goes_on_where_it_was() {
    let mut shop = shop("drained-stopped", DRAINS).await;
    shop.file.set("source/postgres/snapshot_chunk_rows", 20);
    fill(&shop, 400).await;
    let writers = write_on(&shop, 400);
    for _ in 0..3 {
        shop.start().await;
        until("some rows are out", async || {
            let records = shop.position_records().await;
            let is_note = |key: &str| key == "snapshot \"public\".\"outbox\"";
            records.iter().any(|r| r.key[1]["note"].as_str().is_some_and(is_note)).then_some(())
        })
        .await;
        shop.term().await;
    }
    shop.start().await;
    read_through(&shop, "public.outbox").await;
    written(writers).await;
    expect_each_once_and_in_order(&shop).await;
}

#[tokio::test]
async fn rows_with_random_keys_are_drained_in_any_order_where_the_file_accepts_that() {
    let options = "[route.outbox]\nfirst_start = \"drain_existing\"\nany_order = true\n";
    let mut shop = shop("drained-any", options).await;
    fill(&shop, 100).await;
    shop.start_to_die_at("committed:8").await;
    fill(&shop, 1).await;
    shop.start().await;
    let events = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic(&shop)], 1_212).await;
    let mut ids: Vec<_> = events.iter().map(|event| event.header("id").expect("an id").to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((events.len(), ids.len()), (1_212, 1_212));
}

#[tokio::test]
async fn what_an_outbox_holds_stays_unread_by_default_while_tables_are_read() {
    let mut shop = shop("drained-not", "").await;
    shop.rows(1..=5).await;
    fill(&shop, 5).await;
    shop.start().await;
    read_through(&shop, "public.orders").await;
    shop.sql.run("INSERT INTO outbox (aggregateid, version) VALUES ('new', 1)").await;
    let events = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic(&shop)], 1).await;
    assert_eq!(versions(&events), BTreeMap::from([("new".to_owned(), vec![1])]));
    // The choice is made once.
    shop.term().await;
    let route = route(&shop, DRAINS);
    shop.file.lay(&route);
    shop.start().await;
    shop.sql.run("INSERT INTO outbox (aggregateid, version) VALUES ('new', 2)").await;
    let events = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic(&shop)], 2).await;
    assert_eq!(versions(&events), BTreeMap::from([("new".to_owned(), vec![1, 2])]));
}

#[tokio::test]
async fn an_order_that_cannot_be_had_is_refused_before_anything_is_made() {
    for (options, word, hint) in [
        ("", "route.outbox.order_by: is missing", "order_by = [\"aggregateid\", \"version\"]"),
        ("order_by = \"nowhere\"", "has no column nowhere", "correct order_by"),
        ("order_by = \"note\"", "column note of public.outbox may be NULL", "SET NOT NULL"),
        (
            "order_by = [\"version\"]\non_update = \"skip\"",
            "does not go with drain_existing",
            "on_update = \"reject\"",
        ),
    ] {
        let options = format!("[route.outbox]\nfirst_start = \"drain_existing\"\n{options}\n");
        let mut shop = shop("drained-refused", &options).await;
        let file = shop.write_file().display().to_string();
        let told = run_to_end(&["check", &file], shop.dir());
        assert_eq!(told.code, Some(2), "{}", told.text());
        assert!(told.text().contains(word) && told.text().contains(hint), "{}", told.text());
        if word.contains("column") {
            shop.start_in_any_state()
                .await
                .not_ready("FAILED")
                .await
                .expect_reason(&[word])
                .expect_hint(&[hint]);
            let slots =
                format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", shop.slot());
            assert_eq!(shop.sql.one::<i64>(&slots).await, 0);
        }
    }
}

#[tokio::test]
async fn an_order_of_values_that_have_none_is_refused() {
    let options = "[route.outbox]\nfirst_start = \"drain_existing\"\norder_by = \"body\"\n";
    let mut shop = shop("drained-unordered", options).await;
    shop.sql.run("ALTER TABLE outbox ADD body json NOT NULL DEFAULT '{}'").await;
    let refusal = shop.start_in_any_state().await.not_ready("FAILED").await;
    refusal.expect_reason(&["cannot be ordered by body"]).expect_hint(&["order_by"]);
}

#[tokio::test]
async fn drained_rows_are_deleted_once_they_are_delivered_and_not_before() {
    // Those of before may go by the file; not before they are sent, even so.
    let options = format!("{DRAINS}delete_after_s = 1\ndelete_earlier = true\n");
    let mut shop = shop("drained-swept", &options).await;
    shop.file.set("source/postgres/heartbeat_interval_s", 1);
    fill(&shop, 100).await;
    shop.start_to_die_at("committed:8").await;
    let rows: i64 = shop.sql.one("SELECT count(*) FROM outbox").await;
    assert_eq!(rows, 1_200, "nothing goes while it is drained");
    shop.start().await;
    let events = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic(&shop)], 1_200).await;
    within(Duration::from_secs(60), "delivered rows are gone", async || {
        (shop.sql.one::<i64>("SELECT count(*) FROM outbox").await == 0).then_some(())
    })
    .await;
    assert_eq!(events.len(), 1_200);
    // It is known to be clean from then on.
    shop.kill();
    shop.sql.run("INSERT INTO outbox (aggregateid, version) VALUES ('a-0', 101)").await;
    shop.start().await;
    let events = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic(&shop)], 1_201).await;
    assert!(versions(&events).values().all(|versions| versions.is_sorted()));
    within(Duration::from_secs(60), "the new one is gone too", async || {
        (shop.sql.one::<i64>("SELECT count(*) FROM outbox").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_outbox_that_is_written_anew_while_it_is_drained_halts_and_the_rest_can_be_left() {
    let mut shop = shop("drained-anew", DRAINS).await;
    fill(&shop, 100).await;
    shop.start_to_die_at("committed:8").await;
    shop.sql.run("ALTER TABLE outbox ALTER note TYPE bigint").await;
    let refusal = shop.start_in_any_state().await.not_ready("POSITION_LOST").await;
    refusal
        .expect_reason(&["was written anew", "public.outbox"])
        .expect_hint(&["from_now", "aggregateid, version"]);
    shop.kill();
    let before = committed(&shop.servers.kafka.bootstrap(), &[&topic(&shop)]).await.len();
    let route = route(&shop, "");
    shop.file.lay(&route);
    shop.sql.run("INSERT INTO outbox (aggregateid, version) VALUES ('a-0', 101)").await;
    shop.start().await;
    let events = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic(&shop)], before + 1).await;
    assert_eq!((events.len(), noted(&shop, "public.outbox").await.is_some()), (before + 1, true));
    assert!(events.iter().any(|event| version(event) == 101));
}

#[tokio::test]
async fn a_signal_that_wants_the_rows_of_an_outbox_again_is_passed_over() {
    let shop = drained("drained-signal", 3).await;
    let data = serde_json::json!({"data-collections": ["public.outbox"], "type": "incremental"});
    shop.daemon().ask(&shop.name, "once-more", "execute-snapshot", data).await;
    shop.daemon().wait_until_told(&shop.name, "once-more", "COMPLETED").await;
    shop.sql.run("INSERT INTO outbox (aggregateid, version) VALUES ('a-0', 4)").await;
    expect_each_once_and_in_order(&shop).await;
}

/// What it holds may be copies of what was sent long ago.
#[tokio::test]
async fn an_outbox_that_another_table_took_the_place_of_is_not_drained_again() {
    let mut shop = drained("drained-replaced", 5).await;
    expect_each_once_and_in_order(&shop).await;
    shop.term().await;
    let swap = "BEGIN; CREATE TABLE copied (LIKE outbox INCLUDING ALL); INSERT INTO copied SELECT * FROM outbox; \
                DROP TABLE outbox; ALTER TABLE copied RENAME TO outbox; COMMIT";
    shop.sql.run(swap).await;
    shop.start_in_any_state().await.not_ready("POSITION_LOST").await.expect_reason(&["public.outbox"]);
    expect_each_once_and_in_order(&shop).await;
}
