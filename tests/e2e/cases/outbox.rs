//! Outboxes: rows of a table, and logical messages, as events with the key of their aggregate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_e2e::{
    Bare, Own, Servers, Shop, Sql, expect_one_transaction, run_to_end, wait_for_records, within,
};
use serde_json::json;
use tokio::task::JoinHandle;

/// Debezium's table.
const OUTBOX: &str = "id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, \
                      aggregateid text NOT NULL, type text NOT NULL, payload jsonb";

async fn shop(name: &str, columns: &str, route: &str) -> Shop {
    with_outbox(Shop::open(name).await, columns, route).await
}

async fn with_outbox(mut shop: Shop, columns: &str, route: &str) -> Shop {
    shop.table("outbox", columns).await;
    shop.capture(&["public.orders", "public.outbox"]);
    shop.file.remove("format/registry").set("format/encoding", "json").lay(route);
    shop.file.set("sink/kafka/topic_defaults/partitions", 4);
    shop
}

async fn records(shop: &Shop, topic: &str, count: usize) -> Vec<Bare> {
    wait_for_records(&shop.servers.kafka.bootstrap(), &[topic], count).await
}

/// A route with topics of its own, since servers are shared.
fn route(shop: &str, more: &str) -> String {
    format!(
        "[[route]]\nrelations = [\"public.outbox\"]\nenvelope = \"outbox\"\n\
         topic = \"{shop}.{{aggregatetype}}\"\nheaders = {{ eventType = \"type\" }}\n{more}"
    )
}

#[tokio::test]
async fn an_outbox_and_tables_share_a_connector_and_each_aggregate_keeps_its_order() {
    let mut shop = shop("outbox", OUTBOX, &route("outbox-a", "")).await;
    shop.start().await;
    shop.sql
        .run(
            "BEGIN; INSERT INTO orders VALUES (1, 'a');
             INSERT INTO outbox VALUES ('11111111-1111-4111-8111-111111111111', 'order', 'o-1', 'created',
                '{\"n\": null, \"list\": [], \"deep\": [[1, {}]], \"amount\": 12.500}'); COMMIT;
             BEGIN; INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
                VALUES ('order', 'o-1', 'lost', '{}'); ROLLBACK;",
        )
        .await;
    // What was one transaction is one.
    records(&shop, "outbox-a.order", 1).await;
    shop.wait_for_events("public.orders", 1).await;
    let topics = ["outbox-a.order", &shop.topic("public.orders")];
    expect_one_transaction(&shop.servers.kafka.bootstrap(), &topics).await;
    shop.sql
        .run(
            "BEGIN; INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
             SELECT 'order', 'o-' || (n % 7), 'step', jsonb_build_object('n', n) FROM generate_series(1, 300) n;
             DELETE FROM outbox; COMMIT",
        )
        .await;
    let events = records(&shop, "outbox-a.order", 301).await;
    let orders = shop.wait_for_events("public.orders", 1).await;
    assert_eq!((orders[0].op(), orders[0].id(), orders.len()), ("c", Some(1), 1));
    assert_eq!(events.len(), 301, "deletes and what was rolled back are no events");
    let first = events.iter().find(|event| event.header("eventType") == Some("created")).expect("the first");
    assert_eq!(first.key.as_deref(), Some("o-1"));
    // The text as jsonb prints it, not as somebody would build it anew.
    let text = r#"{"n": null, "deep": [[1, {}]], "list": [], "amount": 12.500}"#;
    assert_eq!(first.value.as_deref(), Some(text));
    assert_eq!(first.header("id"), Some("11111111-1111-4111-8111-111111111111"));
    assert!(first.header("position").is_some(), "{first:?}");
    for aggregate in 0..7 {
        let key = format!("o-{aggregate}");
        let own: Vec<&Bare> = events
            .iter()
            .filter(|event| event.key.as_deref() == Some(&key) && event.json()["n"].is_u64())
            .collect();
        let numbers: Vec<_> = own.iter().map(|event| event.json()["n"].as_u64()).collect();
        assert!(numbers.is_sorted() && numbers.len() >= 42, "{key}: {numbers:?}");
        assert!(own.iter().all(|event| event.partition == own[0].partition), "{key} has several partitions");
    }
}

#[tokio::test]
async fn every_option_of_the_event_router_has_its_effect() {
    let columns = "event_id bigint PRIMARY KEY, kind text, agg int, body text, at timestamptz, part int, \
                   tracingspancontext text, note text, trace text";
    let options = r#"
[[route]]
relations = ["public.*box"]
envelope = "outbox"
topic_by = "kind"
topic_regex = "(?<what>[a-z]+)s"
topic_replacement = "outbox-b.$what"
headers = { note = "note", absent = "nowhere?" }
[route.outbox]
id = "event_id"
aggregate = "agg"
payload = "body"
timestamp = "at"
partition = "part"
tombstone_on_empty = true
on_update = "skip"
[[route.outbox.fields]]
name = "eventId"
column = "event_id"
[[route.outbox.fields]]
name = "source"
text = "order-service"
[[route.outbox.fields]]
name = "timestamp"
column = "at"
[[route.outbox.fields]]
name = "data"
column = "body"
[[route.outbox.fields]]
name = "correlationId"
column = "note"
[[route.outbox.fields]]
name = "traceparent"
column = "trace"
"#;
    let mut shop = shop("outbox-options", columns, options).await;
    shop.start().await;
    shop.sql
        .run(
            "INSERT INTO outbox VALUES (1, 'payments', 5, ' {\"a\":[]} ', '2024-01-02 03:04:05.25+02', 3,
                E'traceparent=00-ab-cd-01\\nother=1', 'n', '00-ab-cd-01');
             UPDATE outbox SET note = 'm';
             INSERT INTO outbox VALUES (2, 'payments', 5, '  ', now(), NULL, NULL, NULL);
             INSERT INTO outbox VALUES (3, 'outbox-b.Other', 6, '[]', NULL, 0, NULL, NULL);",
        )
        .await;
    let events = records(&shop, "outbox-b.payment", 2).await;
    let [first, empty] = &events[..] else { panic!("{events:?}") };
    let (first, empty) = if first.value.is_some() { (first, empty) } else { (empty, first) };
    let text = r#"{"eventId":1,"source":"order-service","timestamp":"2024-01-02T01:04:05.25Z","data":{"a":[]},"correlationId":"n","traceparent":"00-ab-cd-01"}"#;
    assert_eq!((first.value.as_deref(), first.key.as_deref()), (Some(text), Some("5")));
    assert_eq!((first.partition, first.timestamp_ms), (3, 1_704_157_445_250));
    assert_eq!((first.header("id"), first.header("note")), (Some("1"), Some("n")));
    assert_eq!((first.header("traceparent"), first.header("other")), (Some("00-ab-cd-01"), None));
    assert_eq!((empty.value.as_deref(), empty.key.as_deref(), empty.header("note")), (None, Some("5"), None));
    // A value that does not fit the expression is the topic itself.
    let other = records(&shop, "outbox-b.Other", 1).await;
    assert_eq!(other[0].json()["data"], json!([]));
    assert_eq!(other[0].json()["timestamp"], json!(null));
}

#[tokio::test]
async fn events_are_cloudevents_in_both_modes() {
    let route = |table: &str, mode: &str| {
        format!(
            "[[route]]\nrelations = [\"public.{table}\"]\nenvelope = \"outbox\"\ntopic = \"outbox-cloud.{mode}\"\n\
             outbox = {{ cloudevents = {{ mode = \"{mode}\", source = \"/shop\", time = \"at\" }} }}\n"
        )
    };
    let columns = "id uuid PRIMARY KEY, aggregateid text, type text, at timestamptz, payload jsonb";
    let routes = route("outbox", "structured") + &route("other", "binary");
    let mut shop = shop("outbox-cloud", columns, &routes).await;
    shop.table("other", columns).await;
    shop.capture(&["public.outbox", "public.other"]).start().await;
    let row =
        "('11111111-1111-4111-8111-111111111111', 'o-1', 'paid', '2024-01-02 03:04:05.25+02', '{\"n\": 1}')";
    shop.sql.run(&format!("INSERT INTO outbox VALUES {row}; INSERT INTO other VALUES {row}")).await;
    let (id, time) = ("11111111-1111-4111-8111-111111111111", "2024-01-02T01:04:05.25Z");
    let structured = &records(&shop, "outbox-cloud.structured", 1).await[0];
    assert_eq!(structured.header("content-type"), Some("application/cloudevents+json"));
    let event = json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": "paid", "subject": "o-1",
        "datacontenttype": "application/json", "time": time, "data": {"n": 1}
    });
    assert_eq!(structured.json(), event);
    let binary = &records(&shop, "outbox-cloud.binary", 1).await[0];
    assert_eq!((binary.value.as_deref(), binary.key.as_deref()), (Some("{\"n\": 1}"), Some("o-1")));
    let headers =
        ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "content-type"];
    let expected = ["1.0", id, "/shop", "paid", "o-1", time, "application/json"].map(Some);
    assert_eq!(headers.map(|name| binary.header(name)), expected);
}

#[tokio::test]
async fn bytes_and_text_go_through_as_they_are() {
    let route = r#"
[[route]]
relations = ["public.outbox"]
envelope = "outbox"
topic = "outbox-bytes.a"
outbox = { payload_form = "bytes" }
[[route]]
relations = ["public.notes"]
envelope = "outbox"
topic = "outbox-text.a"
key = "id"
outbox = { payload_form = "text" }
"#;
    let mut shop = shop("outbox-bytes", "id int PRIMARY KEY, aggregateid text, payload bytea", route).await;
    shop.table("notes", "id int PRIMARY KEY, aggregateid text, payload text").await;
    shop.capture(&["public.outbox", "public.notes"]).start().await;
    shop.sql.run("INSERT INTO outbox VALUES (1, 'a', '\\x48695c00'); INSERT INTO notes VALUES (1, 'a', 'no {json')").await;
    assert_eq!(records(&shop, "outbox-bytes.a", 1).await[0].value.as_deref(), Some("Hi\\\0"));
    let text = &records(&shop, "outbox-text.a", 1).await[0];
    // The key may be another column than the aggregate's.
    assert_eq!((text.value.as_deref(), text.key.as_deref()), (Some("no {json"), Some("1")));
}

#[tokio::test]
async fn a_logical_message_is_an_event_without_a_table_and_survives_a_kill() {
    let route = r#"
[[route]]
relations = ["pg_logical_emit_message.events"]
envelope = "outbox"
topic_by = "type"
topics = { "user.*" = "outbox-users" }
fallback = "outbox-unknown"
headers = { eventType = "type" }
[route.outbox]
document = "content"
"#;
    let mut shop = shop("outbox-messages", OUTBOX, route).await;
    shop.file.set("source/postgres/messages", vec!["events"]);
    shop.start().await;
    let emit = |n: i32, kind: &str| {
        format!(
            "SELECT pg_logical_emit_message(true, 'events', json_build_object('id', {n}, 'aggregateid', 'u-{}',
             'type', '{kind}', 'payload', json_build_object('n', {n}, 'none', null, 'text', E'q\"\\n'))::text);",
            n % 3
        )
    };
    let transaction = |numbers: std::ops::Range<i32>, end: &str| {
        let all: String = numbers.map(|n| emit(n, "user.changed")).collect();
        format!("BEGIN; {all} SELECT pg_logical_emit_message(true, 'foreign', 'x'); {end};")
    };
    shop.sql.run(&transaction(0..50, "COMMIT")).await;
    shop.sql.run(&transaction(900..910, "ROLLBACK")).await;
    shop.kill();
    shop.sql.run(&transaction(50..100, "COMMIT")).await;
    shop.sql.run(&emit(100, "other")).await;
    shop.start().await;
    let unknown = records(&shop, "outbox-unknown", 1).await;
    assert_eq!((unknown[0].key.as_deref(), unknown[0].header("eventType")), (Some("u-1"), Some("other")));
    let events = records(&shop, "outbox-users", 100).await;
    assert_eq!(events.len(), 100);
    assert_eq!(events[0].json()["text"], json!("q\"\n"));
    for aggregate in 0..3 {
        let key = format!("u-{aggregate}");
        let own = events.iter().filter(|event| event.key.as_deref() == Some(&key));
        let numbers: Vec<_> = own.map(|event| event.json()["n"].as_i64()).collect();
        let expected: Vec<_> = (0..100).filter(|n| n % 3 == aggregate).map(Some).collect();
        assert_eq!(numbers, expected, "{key}");
    }
}

#[tokio::test]
async fn consumers_of_debezium_s_event_router_find_its_records() {
    let route = r#"
[[route]]
relations = ["public.outbox"]
envelope = "outbox"
topic_by = "aggregatetype"
topic_regex = "(.*)"
topic_replacement = "outbox-routed.$1"
[route.outbox]
tombstone_on_empty = true
on_update = "skip"
[route.outbox.routed]
key = "json"
value = "json"
expand = true
placed = ["type:header:eventType", "note:header", "note:envelope", "part:partition", "absent:header"]
missing = "ignore"
"#;
    let mut shop = shop("outbox-routed", &format!("{OUTBOX}, note int, part int"), route).await;
    shop.start().await;
    shop.sql
        .run(
            "INSERT INTO outbox VALUES ('11111111-1111-4111-8111-111111111111', 'order', 'o-1', 'made',
                '{\"n\": null, \"list\": [], \"amount\": 12.50}', 7, 3);
             UPDATE outbox SET note = 8;
             INSERT INTO outbox (aggregatetype, aggregateid, type, part) VALUES ('order', 'o-1', 'gone', 3);",
        )
        .await;
    let events = records(&shop, "outbox-routed.order", 2).await;
    assert_eq!(events[0].key.as_deref(), Some("\"o-1\""));
    assert_eq!(events[0].value.as_deref(), Some(r#"{"payload":{"amount":12.5},"note":7}"#));
    assert_eq!((events[0].header("eventType"), events[0].header("note")), (Some("made"), Some("7")));
    assert_eq!((events[1].value.as_deref(), events[1].header("eventType")), (None, Some("gone")));
    assert!(
        events.iter().all(|event| event.partition == 3 && event.header("absent").is_none()),
        "{events:?}"
    );
}

/// Rows go a second after they were written, once they are delivered.
const SWEPT: &str = "[route.outbox]\ndelete_after_s = 1";

async fn write(shop: &Shop, kind: &str, count: u64) {
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)";
    let rows = format!("SELECT 'order', 'o-' || n, '{kind}', '{{}}' FROM generate_series(1, {count}) n");
    shop.sql.run(&format!("{insert} {rows}")).await;
}

async fn kept(shop: &Shop) -> Vec<String> {
    shop.sql.one("SELECT coalesce(array_agg(DISTINCT type || ' ' || aggregateid), '{}') FROM outbox").await
}

async fn wait_until_swept(shop: &Shop) {
    within(Duration::from_secs(120), "delivered rows are gone", async || {
        kept(shop).await.is_empty().then_some(())
    })
    .await;
}

/// Several times as long as a row stays that is swept.
async fn expect_kept(shop: &Shop, count: usize) {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(6) {
        assert_eq!(kept(shop).await.len(), count);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn swept_shop(name: &str) -> Shop {
    let mut shop = shop(name, OUTBOX, &route(name, SWEPT)).await;
    shop.file.set("source/postgres/heartbeat_interval_s", 1);
    shop
}

/// One whose outbox is known to be clean: rows came and are gone.
async fn swept_once(name: &str) -> Shop {
    let mut shop = swept_shop(name).await;
    shop.start().await;
    write(&shop, "sent", 5).await;
    records(&shop, &format!("{name}.order"), 5).await;
    wait_until_swept(&shop).await;
    shop
}

#[tokio::test]
async fn delivered_rows_of_an_outbox_are_deleted_and_come_once() {
    let mut shop = swept_shop("outbox-swept").await;
    shop.start().await;
    // Many pages.
    write(&shop, "new", 20_000).await;
    records(&shop, "outbox-swept.order", 20_000).await;
    wait_until_swept(&shop).await;
    // What was written while it was away is sent first, and the table is known to be clean.
    shop.kill();
    write(&shop, "newer", 10).await;
    shop.start().await;
    records(&shop, "outbox-swept.order", 20_010).await;
    wait_until_swept(&shop).await;
    let events = records(&shop, "outbox-swept.order", 20_010).await;
    assert_eq!(events.len(), 20_010, "deletes are no events");
}

#[tokio::test]
async fn an_outbox_with_rows_from_before_the_first_start_is_not_swept_until_it_was_empty() {
    let mut shop = swept_shop("outbox-earlier").await;
    write(&shop, "old", 2).await;
    shop.start().await;
    write(&shop, "new", 3).await;
    records(&shop, "outbox-earlier.order", 3).await;
    expect_kept(&shop, 5).await;
    assert!(shop.daemon().log().contains("may never have been sent"), "{}", shop.daemon().log());
    shop.kill();
    shop.sql.run("DELETE FROM outbox").await;
    shop.start().await;
    write(&shop, "newer", 4).await;
    records(&shop, "outbox-earlier.order", 7).await;
    wait_until_swept(&shop).await;
}

#[tokio::test]
async fn rows_of_a_table_that_took_the_outbox_s_name_are_not_deleted() {
    let shop = swept_once("outbox-renamed").await;
    // The publication goes on with the old one.
    shop.sql
        .run(&format!("ALTER TABLE outbox RENAME TO outbox_before; CREATE TABLE outbox ({OUTBOX})"))
        .await;
    write(&shop, "unsent", 3).await;
    expect_kept(&shop, 3).await;
}

#[tokio::test]
async fn rows_of_an_outbox_that_left_the_publication_for_a_while_are_not_deleted() {
    let mut shop = swept_once("outbox-unpublished").await;
    let publication = shop.slot();
    shop.sql.run(&format!("ALTER PUBLICATION {publication} DROP TABLE outbox")).await;
    write(&shop, "unsent", 3).await;
    shop.sql.run(&format!("ALTER PUBLICATION {publication} ADD TABLE outbox")).await;
    shop.not_ready("POSITION_LOST").await.expect_reason(&["public.outbox"]);
    expect_kept(&shop, 3).await;
    shop.kill().wait_for_slot(false).await;
    let file = shop.write_file();
    let accepted = run_to_end(&["position", file.to_str().expect("a path"), "set", "--yes"], shop.dir());
    assert_eq!(accepted.code, Some(0), "{}", accepted.text());
    shop.start().await;
    expect_kept(&shop, 3).await;
}

/// How long Kafka is away: `cargo xtask chaos --fault F3-long` does this for two minutes.
const AWAY: Duration = Duration::from_secs(6);
const WRITERS: u64 = 4;
const AGGREGATES: u64 = 3;

/// Several sessions, each with aggregates of its own, whose events it keeps writing in transactions with a row of
/// another table, until it is told to end. Every fifth is rolled back. Answers how many events of each it committed.
fn write_on(shop: &Shop) -> (tokio::sync::watch::Sender<bool>, Vec<JoinHandle<u64>>) {
    let (end, ended) = tokio::sync::watch::channel(false);
    let url = shop.sql.url().to_owned();
    let writer = |own: u64| {
        let (url, ended) = (url.clone(), ended.clone());
        tokio::spawn(async move {
            let session = Sql::connect(&url).await;
            let (mut attempts, mut committed) = (0, 0);
            while !*ended.borrow() {
                attempts += 1;
                let is_lost = attempts % 5 == 0;
                let event = |nth| format!("('order', 'w-{own}-{nth}', 'step', '{{\"n\": {committed}}}')");
                let events: Vec<String> = (0..AGGREGATES).map(event).collect();
                let statements = format!(
                    "BEGIN; INSERT INTO orders VALUES ({own} * 1000000 + {attempts}, 'order');
                     INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES {}; SELECT pg_sleep(0.01); {}",
                    events.join(", "),
                    if is_lost { "ROLLBACK" } else { "COMMIT" }
                );
                session.run(&statements).await;
                committed += u64::from(!is_lost);
            }
            committed
        })
    };
    (end, (0..WRITERS).map(writer).collect())
}

#[tokio::test]
async fn events_written_while_kafka_is_stopped_stay_in_the_outbox_and_arrive_once_and_in_order() {
    let servers = Arc::new(Servers::with(Own::kafka()).await);
    let shop = Shop::on(&servers, "outbox-unswept").await;
    let mut shop = with_outbox(shop, OUTBOX, &route("outbox-unswept", SWEPT)).await;
    shop.file.set("source/postgres/heartbeat_interval_s", 1);
    shop.start().await;
    write(&shop, "first", 10).await;
    wait_until_swept(&shop).await;
    let (end, writers) = write_on(&shop);
    records(&shop, "outbox-unswept.order", 100).await;
    servers.kafka.stop().await.expect("Kafka stops");
    let stopped = shop.sql.log_end().await;
    write(&shop, "waiting", 100).await;
    let since = Instant::now();
    while since.elapsed() < AWAY {
        let waiting = "SELECT count(*) FROM outbox WHERE type = 'waiting'";
        assert_eq!(shop.sql.one::<i64>(waiting).await, 100);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(shop.confirmed().await < stopped, "the log of what waits is kept");
    servers.kafka.start().await.expect("Kafka starts");
    end.send(true).expect("the writers write");
    let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (writer, written) in writers.into_iter().enumerate() {
        let written = written.await.expect("a writer ends");
        assert!(written > 10, "writer {writer} wrote {written} transactions");
        expected.extend((0..AGGREGATES).map(|nth| (format!("w-{writer}-{nth}"), (0..written).collect())));
    }
    let count: usize = expected.values().map(Vec::len).sum();
    let events = records(&shop, "outbox-unswept.order", count + 110).await;
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.header("eventType") == Some("step")) {
        let key = event.key.clone().expect("an aggregate");
        found.entry(key).or_default().push(event.json()["n"].as_u64().expect("a number"));
    }
    assert_eq!(found, expected, "each event once, and each aggregate's in their order");
    assert_eq!(events.len(), count + 110);
    wait_until_swept(&shop).await;
}

#[tokio::test]
async fn check_names_the_right_that_deleting_delivered_rows_needs() {
    let mut shop = shop("outbox-unswept-check", OUTBOX, &route("outbox-unswept-check", SWEPT)).await;
    let role = "sweeper_without_rights";
    let make = format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'sweeps'");
    shop.sql.run(&format!("{make}; GRANT SELECT ON outbox, orders TO {role}")).await;
    let url = shop.servers.postgres.url_of(shop.database());
    let (_, place) = url.split_once('@').expect("a user");
    shop.file.set("source/postgres/url", format!("postgres://{role}:sweeps@{place}"));
    let file = shop.write_file().display().to_string();
    let told = run_to_end(&["check", &file], shop.dir()).text();
    shop.sql.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    let grant = format!("GRANT SELECT, DELETE ON \"public\".\"outbox\" TO \"{role}\";");
    assert!(told.contains(&grant), "{told}");
}
