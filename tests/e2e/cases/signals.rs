//! Rows that are read again on request, while the connector streams.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_e2e::{Event, Own, Servers, Shop, until, wait_for_records};
use serde_json::{Value as Json, json};

use super::snapshots::{CHANGES, ORDERS, Writers, assert_once, fill, folded, read_through, table};

const GROUPS_TOOL: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";

/// A shop that streams, and has read nothing.
async fn streaming(name: &str, rows: i64, chunk_rows: i64) -> Shop {
    let mut shop = Shop::open(name).await;
    // Each attempt tells once more what it begins.
    shop.trust_commits();
    shop.file.set("source/postgres/snapshot_chunk_rows", chunk_rows);
    fill(&shop, rows).await;
    shop.start().await;
    shop
}

async fn signal(shop: &Shop, id: &str, kind: &str, data: Json) {
    shop.daemon().ask(&shop.name, id, kind, data).await;
}

/// The kinds of notification that there are for a signal.
async fn told(shop: &Shop, id: &str) -> Vec<String> {
    shop.daemon().told(&shop.name, id).await
}

async fn wait_until_told(shop: &Shop, id: &str, kind: &str) {
    shop.daemon().wait_until_told(&shop.name, id, kind).await;
}

fn read_ids(events: &[Event]) -> BTreeSet<i64> {
    events.iter().filter(|event| event.op() == "r").filter_map(Event::id).collect()
}

#[tokio::test]
async fn rows_that_a_condition_lets_through_are_read_again_beside_the_changes() {
    let mut shop = streaming("signal", 4_000, 100).await;
    let writers = Writers::at_work(&shop, 4_000, CHANGES).await;
    let data = json!({
        "data-collections": ["public.orders"],
        "additional-conditions": [{"data-collection": "public.orders", "filter": "id >= 1000 AND id < 3000"}],
    });
    signal(&shop, "half", "execute-snapshot", data).await;
    wait_until_told(&shop, "half", "COMPLETED").await;
    writers.stop().await;
    assert_eq!(told(&shop, "half").await, ["STARTED", "IN_PROGRESS", "TABLE_SCAN_COMPLETED", "COMPLETED"]);
    let events = shop.settled().await;
    assert_once(&events);
    let read = read_ids(&events);
    assert!(read.len() > 500 && read.iter().all(|id| (1_000..3_000).contains(id)));
    let word =
        |event: &&Event| event.value.as_ref().is_some_and(|v| v["source"]["snapshot"] == "incremental");
    assert!(events.iter().filter(|event| event.op() == "r").all(|event| word(&event)));
    let half = |rows: std::collections::BTreeMap<i64, String>| {
        rows.into_iter().filter(|(id, _)| (1_000..3_000).contains(id)).collect::<Vec<_>>()
    };
    assert_eq!(half(folded(&events)), half(table(&shop).await));
}

#[tokio::test]
async fn in_the_order_of_another_column_rows_are_looked_up_by_their_key_where_a_change_left_a_value_out() {
    let mut shop = Shop::open("signal-order").await;
    shop.file.set("source/postgres/snapshot_chunk_rows", 50);
    shop.sql.run("ALTER TABLE orders ADD nth bigint NOT NULL DEFAULT 0, ADD big text").await;
    shop.sql.run("ALTER TABLE orders ALTER big SET STORAGE EXTERNAL; CREATE INDEX ON orders (nth)").await;
    let rows = "SELECT n, 'row 0', 2000 - n, repeat(n::text || ' ', 1000) FROM generate_series(0, 1999) n";
    shop.sql.run(&format!("INSERT INTO orders {rows}")).await;
    shop.start().await;
    let writers =
        Writers::at_work(&shop, 2_000, &["UPDATE orders SET note = 'update {version}' WHERE id = {id}"])
            .await;
    let data = json!({ "data-collections": ["public.orders"], "surrogate-key": "nth" });
    signal(&shop, "ordered", "execute-snapshot", data).await;
    wait_until_told(&shop, "ordered", "COMPLETED").await;
    writers.stop().await;
    let events = shop.settled().await;
    let is_whole = |event: &&Event| event.after("big").as_str().is_some_and(|big| big.ends_with(' '));
    assert_eq!(events.iter().filter(is_whole).filter_map(Event::id).collect::<BTreeSet<_>>().len(), 2_000);
    assert!(events.iter().any(|event| event.op() == "u" && !is_whole(&event)), "no value was left out");
    assert_eq!(folded(&events), table(&shop).await);
}

#[tokio::test]
async fn a_request_outlives_a_kill_and_ends_where_it_is_stopped() {
    let mut shop = streaming("signal-kill", 6_000, 5).await;
    let all = json!({"data-collections": ["public\\..*"]});
    signal(&shop, "all", "execute-snapshot", all.clone()).await;
    shop.wait_for_events(ORDERS, 500).await;
    shop.kill().start().await;
    wait_until_told(&shop, "all", "COMPLETED").await;
    let events = shop.settled().await;
    assert_once(&events);
    assert_eq!(read_ids(&events), (0..6_000).collect());

    signal(&shop, "again", "execute-snapshot", all).await;
    signal(&shop, "wait", "pause-snapshot", json!({})).await;
    wait_until_told(&shop, "wait", "PAUSED").await;
    signal(&shop, "no-more", "stop-snapshot", json!({"data-collections": ["public.orders"]})).await;
    wait_until_told(&shop, "again", "COMPLETED").await;
    let events = shop.settled().await;
    assert!(events.len() < 12_000, "nothing was stopped");
    shop.sql.run("UPDATE orders SET note = 'after 1' WHERE id = 5").await;
    let after = shop.settled().await;
    assert_eq!(after.last().map(|event| (event.op(), event.id())), Some(("u", Some(5))));
}

/// What came by REST stands nowhere until a position says that rows are being read.
#[tokio::test]
async fn a_request_that_an_attempt_could_not_write_down_is_taken_up_by_the_next_one() {
    let servers = Arc::new(Servers::with(Own::kafka()).await);
    let mut shop = Shop::on(&servers, "signal-unwritten").await;
    fill(&shop, 200).await;
    shop.start().await;
    servers.kafka.pause();
    signal(&shop, "all", "execute-snapshot", json!({"data-collections": ["public.orders"]})).await;
    wait_until_told(&shop, "all", "STARTED").await;
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    shop.sql.run(&format!("{end} AND slot_name = '{}'", shop.slot())).await;
    shop.degraded(&[]).await;
    servers.kafka.resume();
    wait_until_told(&shop, "all", "COMPLETED").await;
    assert_eq!(read_ids(&shop.settled().await), (0..200).collect());
}

/// Our own queries have a search path of their own, which is nobody else's.
#[tokio::test]
async fn conditions_and_the_heartbeat_s_query_find_what_the_role_s_search_path_shows() {
    let mut shop = Shop::open("signal-path").await;
    shop.sql.run("CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.beats (n int); INSERT INTO elsewhere.beats VALUES (0)").await;
    shop.sql
        .run("CREATE FUNCTION elsewhere.is_wanted(id bigint) RETURNS bool LANGUAGE sql AS 'SELECT id < 3'")
        .await;
    let path = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = elsewhere, public', current_database()); END $$";
    shop.sql.run(path).await;
    // As some have it, with a path of its own and an end.
    let query = "SET search_path = elsewhere; UPDATE beats SET n = n + 1; -- done";
    shop.file.set("source/postgres/heartbeat_interval_s", 1).set("source/postgres/heartbeat_query", query);
    shop.start().await;
    shop.rows(1..=10).await;
    let beats = "SELECT n FROM elsewhere.beats";
    until("the query is run twice", async || (shop.sql.one::<i32>(beats).await > 1).then_some(())).await;
    let data = json!({
        "data-collections": ["public.orders"],
        "additional-conditions": [{"data-collection": "public.orders", "filter": "is_wanted(id)"}],
    });
    signal(&shop, "some", "execute-snapshot", data).await;
    wait_until_told(&shop, "some", "COMPLETED").await;
    let events = shop.settled().await;
    assert_eq!(read_ids(&events), BTreeSet::from([1, 2]));
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_the_connector_goes_on() {
    let mut shop = streaming("signal-refused", 10, 100).await;
    let wrong = json!({
        "data-collections": ["public.orders"],
        "additional-conditions": [{"data-collection": "public.orders", "filter": "no_such_column = 1"}],
    });
    signal(&shop, "wrong", "execute-snapshot", wrong).await;
    wait_until_told(&shop, "wrong", "COMPLETED").await;
    shop.rows(11..=20).await;
    let events = shop.settled().await;
    assert_eq!(read_ids(&events), BTreeSet::new());
    shop.wait_for_state("RUNNING").await;
}

#[tokio::test]
async fn rows_of_the_signal_table_and_lines_of_a_file_are_heard_and_none_is_lost_while_the_daemon_is_down() {
    let mut shop = Shop::open("signal-ways").await;
    shop.sql
        .run("CREATE TABLE signals (id varchar(42) PRIMARY KEY, type varchar(32), data varchar(2048))")
        .await;
    let file = shop.dir().join("signals");
    shop.file
        .set("source/postgres/signal_table", "public.signals")
        .set("source/postgres/signal_file", file.display().to_string())
        .set("source/postgres/signal_file_interval_s", 1);
    fill(&shop, 500).await;
    shop.start().await;
    let data = r#"{"data-collections": ["public.orders"]}"#;
    let insert = |id: &str| format!("INSERT INTO signals VALUES ('{id}', 'execute-snapshot', '{data}')");
    shop.sql.run(&insert("row")).await;
    wait_until_told(&shop, "row", "COMPLETED").await;
    assert_eq!(read_ids(&shop.settled().await), (0..500).collect());

    let line = format!(r#"{{"id": "line", "type": "execute-snapshot", "data": {data}}}"#);
    std::fs::write(&file, line + "\n").expect("the file of signals");
    wait_until_told(&shop, "line", "COMPLETED").await;
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "");
    std::fs::remove_file(&file).expect("the file");
    // A line is out of the file before its rows are delivered.
    shop.settled().await;

    shop.sql.run(&insert("killed")).await;
    shop.kill();
    shop.sql.run("INSERT INTO signals VALUES ('nonsense', 'dance', NULL)").await;
    shop.sql.run(&insert("meanwhile")).await;
    shop.start().await;
    wait_until_told(&shop, "meanwhile", "COMPLETED").await;
    let reads = shop.settled().await.iter().filter(|event| event.op() == "r").count();
    assert_eq!(reads, 4 * 500, "each was heard once");
}

/// Until what a connector was asked for by a topic is in Kafka transactions that are over: before, it would be heard
/// again.
pub(super) async fn until_acknowledged(servers: &Servers, connector: &str, topic: &str) {
    let group = format!("millrace-{connector}-signals");
    until("the group has moved behind it", async || {
        let all = servers.kafka.tool(GROUPS_TOOL, &["--describe", "--group", &group]).await.ok()?;
        let line = all.lines().find(|line| line.contains(topic))?;
        (line.split_whitespace().nth(5) == Some("0")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn records_of_a_topic_are_heard_once_each_by_the_connector_of_their_key_and_after_a_time_away() {
    let mut shop = Shop::open("signal-topic").await;
    let topic = format!("{}.signals", shop.name);
    let broker = shop.broker();
    broker.create_topic(&topic, 1).await;
    let value = |id: &str| {
        let data = json!({"data-collections": ["public.orders"]});
        json!({"id": id, "type": "execute-snapshot", "data": data}).to_string()
    };
    let say = async |key: &str, value: &str| {
        broker.produce(&topic, 0, key.as_bytes(), value.as_bytes()).await;
    };
    let name = shop.name.clone();
    say(&name, &value("before")).await;
    shop.file.set("sink/kafka/signal_topic", topic.as_str());
    fill(&shop, 500).await;
    shop.start().await;
    shop.wait_for_state("RUNNING").await;
    // Where it begins is noted before anything is heard.
    until("signals are heard", async || shop.daemon().log().contains("signals are heard").then_some(()))
        .await;
    say("another", &value("foreign")).await;
    say(&name, "nonsense").await;
    say(&name, &value("first")).await;
    wait_until_told(&shop, "first", "COMPLETED").await;
    assert_eq!(read_ids(&shop.settled().await), (0..500).collect());
    for id in ["before", "foreign"] {
        assert_eq!(told(&shop, id).await, [""; 0], "{id}");
    }

    until_acknowledged(&shop.servers, &name, &topic).await;
    shop.kill();
    say(&name, &value("meanwhile")).await;
    shop.start().await;
    wait_until_told(&shop, "meanwhile", "COMPLETED").await;
    say(&name, &value("last")).await;
    wait_until_told(&shop, "last", "COMPLETED").await;
    let reads = shop.settled().await.iter().filter(|event| event.op() == "r").count();
    assert_eq!(reads, 3 * 500, "each was heard once");
}

#[tokio::test]
async fn what_happens_to_snapshots_is_told_once_on_a_topic_of_its_own() {
    let mut shop = Shop::open("notices").await;
    // The one other attempt is to be the test's own.
    shop.trust_commits();
    let topic = format!("{}.notices", shop.name);
    shop.file
        .set("format/encoding", "json")
        .set("format/notification_topic", topic.as_str())
        .set("source/postgres/snapshot", "initial")
        // Nothing else sends a batch.
        .set("source/postgres/heartbeat_interval_s", 0);
    fill(&shop, 50).await;
    shop.start().await;
    let bootstrap = shop.servers.kafka.bootstrap();
    let kinds = async |count: usize| {
        let told = wait_for_records(&bootstrap, &[&topic], count).await;
        let kind = |value: Json| (value["id"].to_string(), value["type"].to_string());
        let mut kinds: Vec<_> = told.iter().map(|record| kind(record.json())).collect();
        kinds.sort();
        kinds
    };
    let sorted = |mut kinds: Vec<(String, String)>| {
        kinds.sort();
        kinds
    };
    let all = |id: &str| {
        let kinds = ["STARTED", "IN_PROGRESS", "TABLE_SCAN_COMPLETED", "COMPLETED"];
        kinds.map(|kind| (format!("{id:?}"), format!("{kind:?}")))
    };
    let initial: Vec<_> = all("initial").into();
    assert_eq!(kinds(4).await, sorted(initial.clone()));

    // Another attempt of the same process. One that finds the rows unfinished would tell of them again.
    read_through(&shop, ORDERS).await;
    let of_slot = format!("FROM pg_replication_slots WHERE slot_name = '{}'", shop.slot());
    let reader = format!("SELECT coalesce((SELECT active_pid {of_slot}), 0)");
    let before = shop.sql.one::<i32>(&reader).await;
    shop.sql.run(&format!("SELECT pg_terminate_backend(active_pid) {of_slot}")).await;
    until("another attempt reads", async || {
        let now = shop.sql.one::<i32>(&reader).await;
        (now != 0 && now != before).then_some(())
    })
    .await;
    signal(&shop, "again", "execute-snapshot", json!({"data-collections": ["public.orders"]})).await;
    let mut expected: Vec<_> = initial.into_iter().chain(all("again")).collect();
    assert_eq!(kinds(8).await, sorted(expected.clone()));
    signal(&shop, "wait", "pause-snapshot", json!({})).await;
    expected.push(("\"wait\"".into(), "\"PAUSED\"".into()));
    assert_eq!(kinds(9).await, sorted(expected));
    let reads = shop.settled().await.iter().filter(|event| event.op() == "r").count();
    assert_eq!(reads, 2 * 50);
}
