//! Rows that are read again on request, while no change goes out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_e2e::{Event, Shop, until, within};
use serde_json::{Value as Json, json};

use super::snapshots::{CHANGES, ORDERS, Writers, assert_once, fill, folded, left, read_twice, table};

const ITEMS: &str = "public.items";
/// Long enough for thousands of chunks on a busy machine.
const THROUGH: Duration = Duration::from_secs(180);

/// A shop with two tables that streams, and has read nothing.
async fn streaming(name: &str, rows: i64, chunk_rows: i64) -> Shop {
    let mut shop = Shop::open(name).await;
    // Each attempt is one more run of rows, told once more, and a moment without the state RUNNING.
    shop.trust_commits();
    shop.table("items", "id bigint PRIMARY KEY, note text").await.capture(&[ORDERS, ITEMS]);
    shop.file.set("source/postgres/snapshot_chunk_rows", chunk_rows);
    fill(&shop, rows).await;
    let items = "INSERT INTO items SELECT n, 'item 0' FROM generate_series(0, 999) n; ANALYZE";
    shop.sql.run(items).await;
    shop.start().await;
    shop
}

async fn block(shop: &Shop, id: &str, mut data: Json) {
    data["type"] = "blocking".into();
    shop.daemon().ask(&shop.name, id, "execute-snapshot", data).await;
}

async fn through(shop: &Shop, id: &str) {
    let what = format!("{id} is through");
    within(THROUGH, &what, async || {
        shop.daemon().told(&shop.name, id).await.iter().any(|kind| kind == "COMPLETED").then_some(())
    })
    .await;
}

/// What the status says of a stream that stands still.
async fn held(shop: &Shop) -> Option<String> {
    let status = shop.daemon().own_status(&shop.name).await?;
    Some(status["snapshot"]["holds_stream"].as_str()?.to_owned())
}

/// The notifications of a signal.
async fn notices(shop: &Shop, id: &str) -> Vec<Json> {
    let (_, all) = shop.daemon().json(&format!("/connectors/{}/notifications", shop.name)).await;
    all.as_array().expect("a list").iter().filter(|one| one["id"] == id).cloned().collect()
}

fn reads(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|event| event.op() == "r").collect()
}

/// How often rows begin behind a change, by the places of both: in all topics together.
fn runs(events: &[Event]) -> usize {
    let mut order: Vec<_> = events.iter().filter(|event| event.op() != "-").collect();
    order.sort_by_key(|event| event.position());
    let is_row = |event: &&Event| event.op() == "r";
    order.chunk_by(|one, other| is_row(one) == is_row(other)).filter(|run| run.iter().all(is_row)).count()
}

#[tokio::test]
async fn rows_of_several_tables_come_together_with_no_change_among_them_while_writers_write() {
    let mut shop = streaming("blocking", 6_000, 100).await;
    let writers = Writers::at_work(&shop, 6_000, CHANGES).await;
    shop.wait_for_events(ORDERS, 50).await;
    block(&shop, "all", json!({"data-collections": ["public.orders", "public.items"]})).await;
    through(&shop, "all").await;
    let seen = shop.events(ORDERS).await.len();
    shop.wait_for_events(ORDERS, seen + 50).await;
    writers.stop().await;
    let mut events = shop.settled().await;
    assert_once(&events);
    assert_eq!(read_twice(&events), [] as [i64; 0]);
    assert_eq!(folded(&events), table(&shop).await);
    let items = shop.wait_for_events(ITEMS, 1_000).await;
    assert_eq!(reads(&items).len(), 1_000);
    events.extend(items);
    assert_eq!(runs(&events), 1, "changes came among the rows");
    let mut marks: BTreeMap<&str, usize> = BTreeMap::new();
    for row in reads(&events) {
        *marks
            .entry(row.value.as_ref().expect("a row")["source"]["snapshot"].as_str().expect("a word"))
            .or_default() += 1;
    }
    let one = |word| marks.get(word).copied();
    assert_eq!((one("first"), one("last"), one("incremental")), (Some(1), Some(1), None), "{marks:?}");
    assert_eq!((one("first_in_data_collection"), one("last_in_data_collection")), (Some(1), Some(1)));
    assert_eq!(reads(&shop.wait_for_events(ITEMS, 1_000).await).len(), 1_000);

    let notices = notices(&shop, "all").await;
    assert!(notices.iter().all(|notice| notice["aggregate_type"] == "Initial Snapshot"), "{notices:?}");
    let kinds: Vec<_> = notices.iter().filter_map(|notice| notice["type"].as_str()).collect();
    assert_eq!((kinds[0], kinds[1], kinds[5]), ("STARTED", "IN_PROGRESS", "COMPLETED"));
    for kind in ["IN_PROGRESS", "TABLE_SCAN_COMPLETED"] {
        assert_eq!(kinds.iter().filter(|one| **one == kind).count(), 2, "{kinds:?}");
    }
    let scanned = |notice: &&Json| notice["additional_data"]["scanned_collection"] == ITEMS;
    let items = notices.iter().find(scanned).expect("the items");
    assert_eq!(items["additional_data"]["total_rows_scanned"], "1000");
}

#[tokio::test]
async fn a_kill_in_the_middle_goes_on_behind_the_last_row_and_loses_and_doubles_nothing() {
    let mut shop = streaming("blocking-kill", 8_000, 4).await;
    let writers = Writers::at_work(&shop, 8_000, CHANGES).await;
    block(&shop, "all", json!({"data-collections": ["public\\..*"]})).await;
    let mut seen = 0;
    for _ in 0..3 {
        until("some more rows are out", async || {
            let rows = reads(&shop.events(ORDERS).await).len();
            (rows >= seen + 200).then(|| seen = rows)
        })
        .await;
        shop.kill().start().await;
    }
    through(&shop, "all").await;
    writers.stop().await;
    let mut events = shop.settled().await;
    assert_once(&events);
    assert_eq!(read_twice(&events), [] as [i64; 0]);
    assert_eq!(folded(&events), table(&shop).await);
    let items = shop.wait_for_events(ITEMS, 1_000).await;
    assert_eq!((reads(&items).len(), read_twice(&items)), (1_000, vec![]));
    events.extend(items);
    assert!((2..=4).contains(&runs(&events)), "{} runs of rows, and three kills", runs(&events));
}

#[tokio::test]
async fn changes_wait_for_the_rows_until_somebody_stops_them() {
    let mut shop = streaming("blocking-stop", 20_000, 1).await;
    block(&shop, "slow", json!({"data-collections": ["public.orders"]})).await;
    until("the stream stands still", async || held(&shop).await).await;
    shop.sql.run("UPDATE orders SET note = 'after 1' WHERE id = 5").await;
    let seen = shop.events(ORDERS).await.len();
    let events = shop.wait_for_events(ORDERS, seen + 300).await;
    assert!(events.iter().all(|event| event.op() == "r"), "a change came among the rows");
    let reason = held(&shop).await.expect("the rows are not out yet");
    assert!(reason.contains("slow") && reason.contains("public.orders"), "{reason}");
    let status = shop.daemon().own_status(&shop.name).await.expect("a status");
    assert_eq!((&status["state"], &status["reason"]), (&"RUNNING".into(), &reason.as_str().into()));

    shop.daemon().ask(&shop.name, "no-more", "stop-snapshot", json!({})).await;
    through(&shop, "slow").await;
    let after = shop.settled().await;
    assert_eq!(after.last().map(|event| (event.op(), event.id())), Some(("u", Some(5))));
    assert!(after.len() < 20_000, "nothing was stopped");
    assert_eq!(held(&shop).await, None);
    let status = shop.daemon().own_status(&shop.name).await.expect("a status");
    assert_eq!((&status["state"], &status["reason"]), (&"RUNNING".into(), &Json::Null));
}

#[tokio::test]
async fn rows_are_chosen_by_a_condition_or_by_a_whole_statement_and_a_wrong_one_holds_nothing_up() {
    let mut shop = streaming("blocking-filter", 2_000, 100).await;
    let chosen = |filter: &str| {
        let condition = json!({"data-collection": "public.orders", "filter": filter});
        json!({"data-collections": ["public.orders"], "additional-conditions": [condition]})
    };
    let mut ids = BTreeSet::new();
    for (id, filter, from) in [
        ("condition", "id >= 100 AND id < 400", 100),
        ("statement", "SELECT * FROM public.orders WHERE id >= 500 AND id < 800 ORDER BY id DESC;", 500),
    ] {
        block(&shop, id, chosen(filter)).await;
        through(&shop, id).await;
        ids.extend(from..from + 300);
        let events = shop.settled().await;
        let read: BTreeSet<_> = reads(&events).into_iter().filter_map(Event::id).collect();
        assert_eq!((read, read_twice(&events)), (ids.clone(), vec![]), "{id}");
    }
    let statuses = async |id: &str| {
        let all = notices(&shop, id).await;
        let status = |one: &Json| one["additional_data"]["status"].as_str().map(str::to_owned);
        all.iter().filter_map(status).collect::<Vec<_>>()
    };
    for (id, filter) in [
        ("no-such-column", "no_such_column = 1"),
        ("fewer-columns", "SELECT id FROM public.orders"),
        ("other-types", "SELECT id::int AS id, note FROM public.orders"),
        ("fails-on-a-row", "1 / (id - 1500) < 5"),
    ] {
        block(&shop, id, chosen(filter)).await;
        through(&shop, id).await;
        assert_eq!(statuses(id).await, ["SQL_EXCEPTION"], "{id}");
    }
    shop.sql.run("UPDATE orders SET note = 'after 1' WHERE id = 5").await;
    let events = shop.settled().await;
    assert_eq!(events.last().map(|event| (event.op(), event.id())), Some(("u", Some(5))));
    shop.wait_for_state("RUNNING").await;
    assert_eq!(shop.daemon().metric("millrace_restarts_total", &shop.name).await, Some(0.0));
}

#[tokio::test]
async fn rows_that_change_all_the_time_and_never_in_whole_come_all_the_same() {
    let mut shop = Shop::open("blocking-hot").await;
    shop.sql.run("ALTER TABLE orders ADD big text; ALTER TABLE orders ALTER big SET STORAGE EXTERNAL").await;
    let fill =
        "INSERT INTO orders SELECT n, 'row 0', repeat(n::text || ' ', 1000) FROM generate_series(0, 3) n";
    shop.sql.run(fill).await;
    shop.start().await;
    let change: &[&str] = &["UPDATE orders SET note = 'update {version}' WHERE id = {id}"];
    let writers = Writers::at_work(&shop, 4, change).await;
    for id in ["one", "two", "three"] {
        block(&shop, id, json!({"data-collections": ["public.orders"]})).await;
        through(&shop, id).await;
    }
    writers.stop().await;
    let events = shop.settled().await;
    let mut whole: BTreeMap<_, usize> = BTreeMap::new();
    for event in reads(&events) {
        let id = event.id().expect("an id");
        assert_eq!(event.after("big").as_str(), Some(format!("{id} ").repeat(1_000)).as_deref());
        *whole.entry(id).or_default() += 1;
    }
    assert_eq!(whole, (0..4).map(|id| (id, 3)).collect());
    assert_once(&events);
    assert_eq!(folded(&events), table(&shop).await);
}

#[tokio::test]
async fn rows_without_a_key_come_together_and_once_each() {
    let mut shop = Shop::open("blocking-keyless").await;
    // Each attempt reads such a table once more.
    shop.trust_commits();
    shop.table("whole", "id bigint, note text, filler text").await.capture(&[ORDERS, "public.whole"]);
    shop.file.set("source/postgres/snapshot_chunk_rows", 100).set("source/postgres/snapshot_workers", 3);
    shop.sql
        .run(
            "ALTER TABLE whole REPLICA IDENTITY FULL;
             INSERT INTO whole SELECT n, 'row 0', repeat('x', 1000) FROM generate_series(0, 2999) n",
        )
        .await;
    fill(&shop, 500).await;
    shop.start().await;
    let inserts: &[&str] = &["INSERT INTO whole VALUES ({id}, 'insert {version}')"];
    let writers = Writers::at_work(&shop, 3_000, inserts).await;
    // What has come by now was there before the snapshot is.
    let asked = shop.wait_for_events("public.whole", 50).await.len();
    block(&shop, "all", json!({"data-collections": ["public.whole", "public.orders"]})).await;
    through(&shop, "all").await;
    let seen = shop.events("public.whole").await.len();
    shop.wait_for_events("public.whole", seen + 20).await;
    writers.stop().await;
    let events = shop.events_to_the_end("public.whole").await;
    let first = events.iter().position(|event| event.op() == "r").expect("rows");
    let last = events.iter().rposition(|event| event.op() == "r").expect("rows");
    assert!(events[first..=last].iter().all(|event| event.op() == "r"), "changes came among the rows");
    // Those that were there when the snapshot was taken: some came after it, and are changes alone.
    let mut missing: BTreeSet<String> = (0..3_000).map(|id| format!("{id} row 0")).collect();
    missing.extend(left(&events[..first]));
    for row in left(&events[first..=last]) {
        assert!(missing.remove(&row), "{row} was not there, or came twice");
    }
    let newest = left(&events[asked..first]);
    assert!(missing.iter().all(|row| newest.contains(row)), "{missing:?}");
    assert_eq!(reads(&shop.wait_for_events(ORDERS, 500).await).len(), 500);
    let all = shop.events(ORDERS).await.into_iter().chain(events).filter(|event| event.id() >= Some(0));
    assert_eq!(runs(&all.collect::<Vec<_>>()), 1);
    // A row is changed in between or not: then it is tried again until it is not.
    let writers =
        Writers::at_work(&shop, 40, &["UPDATE whole SET note = 'update {version}' WHERE id = {id}"]).await;
    shop.wait_for_events("public.whole", seen + 50).await;
    block(&shop, "busy", json!({"data-collections": ["public.whole"]})).await;
    until("rows come, or a pause is waited for", async || {
        let status = shop.daemon().own_status(&shop.name).await?;
        let waits =
            status["snapshot"]["waits_for"].as_str().is_some_and(|reason| reason.contains("without a key"));
        let told = shop.daemon().told(&shop.name, "busy").await;
        (waits || told.iter().any(|kind| kind == "COMPLETED")).then_some(())
    })
    .await;
    writers.stop().await;
    through(&shop, "busy").await;
    shop.wait_for_state("RUNNING").await;
}
