//! Rows that were there before the connector, beside a stream that goes on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use millrace_e2e::{Event, Shop, until, within};
use tokio::task::JoinHandle;

/// Long enough for some hundred chunks on a busy machine.
const THROUGH: Duration = Duration::from_secs(180);

pub(super) const ORDERS: &str = "public.orders";

pub(super) async fn shop(name: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.file.set("source/postgres/snapshot", "initial");
    shop
}

/// What the connector notes of a table: `pending`, `reading`, `done`.
pub(super) async fn noted(shop: &Shop, table: &str) -> Option<String> {
    let (schema, name) = table.split_once('.').expect("a schema");
    let key = format!("snapshot \"{schema}\".\"{name}\"");
    let records = shop.position_records().await;
    let newest = records.iter().rfind(|record| record.key[1]["note"] == key.as_str())?;
    newest.value["state"].as_str().map(ToOwned::to_owned)
}

pub(super) async fn read_through(shop: &Shop, table: &str) {
    within(THROUGH, &format!("all rows of {table} are read"), async || {
        (noted(shop, table).await.as_deref() == Some("done")).then_some(())
    })
    .await;
}

fn mark(event: &Event) -> &str {
    event.value.as_ref().and_then(|value| value["source"]["snapshot"].as_str()).unwrap_or("?")
}

/// The newest note of each order, as the events tell it.
pub(super) fn folded(events: &[Event]) -> BTreeMap<i64, String> {
    let mut rows = BTreeMap::new();
    for event in events {
        match event.op() {
            "t" => rows.clear(),
            "d" => drop(rows.remove(&event.id().expect("an id"))),
            "-" => {}
            _ => {
                drop(rows.insert(
                    event.id().expect("an id"),
                    event.after("note").as_str().unwrap_or_default().into(),
                ))
            }
        }
    }
    rows
}

pub(super) async fn table(shop: &Shop) -> BTreeMap<i64, String> {
    let text: String = shop
        .sql
        .one("SELECT coalesce(json_object_agg(id, note), '{}')::text FROM orders WHERE id >= 0")
        .await;
    serde_json::from_str(&text).expect("ids and notes")
}

/// Fails where an event came twice or out of order. Notes that end in a number tell a row's versions: they rise,
/// and only a row that was read may repeat the version that its change brought.
pub(super) fn assert_once(events: &[Event]) {
    let mut positions = BTreeSet::new();
    let mut newest: HashMap<i32, [u64; 4]> = HashMap::new();
    let mut versions: HashMap<i64, i64> = HashMap::new();
    for event in events {
        let position = event.position();
        assert!(positions.insert((event.partition, position)), "twice: {event:?}");
        let before = newest.insert(event.partition, position);
        assert!(before.is_none_or(|before| before < position), "out of order after {before:?}: {event:?}");
        let Some(id) = event.id() else {
            versions.clear();
            continue;
        };
        match event.op() {
            "d" | "-" => drop(versions.remove(&id)),
            op => {
                let note = event.after("note").as_str().unwrap_or_default();
                let version = note.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
                let before = versions.insert(id, version);
                let least = before.map_or(0, |before| if op == "r" { before } else { before + 1 });
                assert!(version >= least, "version {version} after {before:?}: {event:?}");
            }
        }
    }
}

/// Keys that came as rows more than once.
pub(super) fn read_twice(events: &[Event]) -> Vec<i64> {
    let mut seen = BTreeSet::new();
    let ids = events.iter().filter(|event| event.op() == "r").filter_map(Event::id);
    ids.filter(|id| !seen.insert(*id)).collect()
}

/// Changes orders from several sessions until it is told to stop.
pub(super) struct Writers {
    stop: tokio::sync::watch::Sender<bool>,
    tasks: Vec<JoinHandle<i64>>,
}

impl Writers {
    /// Each changes rows of its own among `rows`, one after another, by these statements; `{id}` and `{version}`
    /// are put in.
    pub(super) async fn at_work(shop: &Shop, rows: i64, statements: &'static [&'static str]) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut tasks = Vec::new();
        for writer in 0..4_i64 {
            let (session, stopped) = (shop.sql.another().await, stopped.clone());
            tasks.push(tokio::spawn(async move {
                let mut version = 1;
                while !*stopped.borrow() {
                    // Far apart, so that rows before, in and after the open chunk are changed.
                    let id = (version * 7_919 + writer) % rows / 4 * 4 + writer;
                    let nth = usize::try_from(version).expect("small") % statements.len();
                    let (id, text) = (id.to_string(), version.to_string());
                    session.run(&statements[nth].replace("{id}", &id).replace("{version}", &text)).await;
                    version += 1;
                }
                version
            }));
        }
        Self { stop, tasks }
    }

    pub(super) async fn stop(self) -> i64 {
        self.stop.send_replace(true);
        let mut written = 0;
        for task in self.tasks {
            written += task.await.expect("a writer writes");
        }
        written
    }
}

pub(super) const CHANGES: &[&str] = &[
    "UPDATE orders SET note = 'update {version}' WHERE id = {id}",
    "INSERT INTO orders VALUES ({id}, 'insert {version}') ON CONFLICT (id) DO UPDATE SET note = 'upsert {version}'",
    "DELETE FROM orders WHERE id = {id}",
    "BEGIN; UPDATE orders SET note = 'undone {version}' WHERE id = {id}; ROLLBACK",
];

pub(super) async fn fill(shop: &Shop, rows: i64) {
    shop.sql
        .run(&format!("INSERT INTO orders SELECT n, 'row 0' FROM generate_series(0, {}) n", rows - 1))
        .await;
}

#[tokio::test]
async fn a_table_without_rows_has_no_topic_before_its_first_event() {
    let mut shop = shop("snap-no-rows").await;
    shop.start().await;
    read_through(&shop, ORDERS).await;
    let topic = shop.topic(ORDERS);
    assert!(!shop.broker().has_topic(&topic).await);
    shop.rows(1..=1).await.wait_for_events(ORDERS, 1).await;
    assert!(shop.broker().has_topic(&topic).await);
}

#[tokio::test]
async fn rows_that_were_there_come_once_in_key_order_and_then_the_changes() {
    let mut shop = shop("snapshot").await;
    shop.table("zero", "id bigint PRIMARY KEY").await.capture(&[ORDERS, "public.zero"]);
    shop.file.set("source/postgres/snapshot_chunk_rows", 100);
    fill(&shop, 1_000).await;
    shop.start().await;
    read_through(&shop, ORDERS).await;
    read_through(&shop, "public.zero").await;
    shop.sql.run("INSERT INTO zero VALUES (7)").await;
    shop.sql.run("UPDATE orders SET note = 'new 1' WHERE id = 5").await;
    let events = shop.wait_for_events(ORDERS, 1_001).await;
    let ids: Vec<_> = events[..1_000].iter().filter_map(Event::id).collect();
    assert_eq!(ids, (0..1_000).collect::<Vec<_>>());
    assert!(events[..1_000].iter().all(|event| event.op() == "r"));
    assert_eq!((events[1_000].op(), events[1_000].id()), ("u", Some(5)));
    let marks: Vec<_> = [0, 1, 998, 999, 1_000].map(|n| mark(&events[n]).to_owned()).into();
    // The table after it is empty, so that its last row is the last of all.
    assert_eq!(marks, ["first", "true", "true", "last", "false"]);
    assert_once(&events);
    let events = shop.wait_for_events("public.zero", 1).await;
    assert_eq!((events[0].op(), events[0].id()), ("c", Some(7)));
}

#[tokio::test]
async fn rows_read_under_writers_give_the_table_and_no_event_twice() {
    let mut shop = shop("snapshot-writers").await;
    shop.file.set("source/postgres/snapshot_chunk_rows", 100);
    fill(&shop, 8_000).await;
    let writers = Writers::at_work(&shop, 8_000, CHANGES).await;
    shop.start().await;
    read_through(&shop, ORDERS).await;
    assert!(writers.stop().await > 100, "the writers wrote");
    let events = shop.settled().await;
    assert_once(&events);
    assert_eq!(read_twice(&events), [] as [i64; 0]);
    assert_eq!(folded(&events), table(&shop).await);
}

#[tokio::test]
async fn kills_in_the_middle_of_a_snapshot_lose_nothing_and_double_nothing() {
    let mut shop = shop("snapshot-kills").await;
    // So few that it is not through before the last kill.
    shop.file.set("source/postgres/snapshot_chunk_rows", 10);
    fill(&shop, 12_000).await;
    let writers = Writers::at_work(&shop, 12_000, CHANGES).await;
    let mut seen = 0;
    for part in 1..=5_usize {
        shop.start_in_any_state().await;
        seen = shop.wait_for_events(ORDERS, seen + 200 * part).await.len();
        shop.kill();
        assert_ne!(noted(&shop, ORDERS).await.as_deref(), Some("done"), "it was through before kill {part}");
    }
    shop.start().await;
    read_through(&shop, ORDERS).await;
    writers.stop().await;
    let events = shop.settled().await;
    assert_once(&events);
    assert_eq!(read_twice(&events), [] as [i64; 0]);
    assert_eq!(folded(&events), table(&shop).await);
}

#[tokio::test]
async fn a_large_value_that_a_change_left_out_is_read_again() {
    let mut shop = shop("snapshot-toast").await;
    shop.file.set("source/postgres/snapshot_chunk_rows", 50);
    shop.sql.run("ALTER TABLE orders ADD big text; ALTER TABLE orders ALTER big SET STORAGE EXTERNAL").await;
    let fill =
        "INSERT INTO orders SELECT n, 'row 0', repeat(n::text || ' ', 1000) FROM generate_series(0, 1999) n";
    shop.sql.run(fill).await;
    let writers =
        Writers::at_work(&shop, 2_000, &["UPDATE orders SET note = 'update {version}' WHERE id = {id}"])
            .await;
    shop.start().await;
    read_through(&shop, ORDERS).await;
    writers.stop().await;
    let events = shop.settled().await;
    let mut large = BTreeMap::new();
    for event in &events {
        let text = event.after("big").as_str().unwrap_or_default();
        if text != "__debezium_unavailable_value" {
            large.insert(event.id().expect("an id"), text.to_owned());
        }
    }
    let left_out = events.iter().filter(|event| event.after("big") == "__debezium_unavailable_value").count();
    assert!(left_out > 0, "no update left its value out");
    assert_eq!(large.len(), 2_000, "a row was dropped for a change that did not carry all of it");
    assert!(large.iter().all(|(id, text)| *text == format!("{id} ").repeat(1_000)));
    assert_eq!(folded(&events), table(&shop).await);
}

#[tokio::test]
async fn a_table_that_joins_later_is_read_and_the_others_are_not() {
    let mut shop = shop("snapshot-joins").await;
    shop.table("items", "id bigint PRIMARY KEY, note text").await;
    shop.sql.run("INSERT INTO items SELECT n, 'item' FROM generate_series(1, 300) n").await;
    fill(&shop, 100).await;
    shop.start().await;
    read_through(&shop, ORDERS).await;
    shop.term().await;
    shop.capture(&[ORDERS, "public.items"]);
    // Under way since before the publication sends the table: its row was never sent, and must be read.
    let open = shop.sql.another().await;
    open.run("BEGIN; INSERT INTO items VALUES (1000, 'open')").await;
    shop.start().await;
    until("the connector waits for the open transaction", async || {
        let (_, status) = shop.daemon().json(&format!("/connectors/{}/status", shop.name)).await;
        status.to_string().contains("which was there before").then_some(())
    })
    .await;
    shop.rows(100..=100).await;
    shop.wait_for_events(ORDERS, 101).await;
    // Begun and committed while the one is open that was there before: older servers decode it as if the table
    // were not published.
    shop.sql.run("INSERT INTO items VALUES (1001, 'meanwhile')").await;
    open.run("COMMIT").await;
    read_through(&shop, "public.items").await;
    shop.sql.run("INSERT INTO items VALUES (301, 'new')").await;
    let items = shop.wait_for_events("public.items", 303).await;
    let rows: BTreeSet<_> = items.iter().filter(|event| event.op() == "r").filter_map(Event::id).collect();
    assert_eq!(rows, (1..=300).chain([1_000, 1_001]).collect());
    assert_eq!((items[302].op(), items[302].id()), ("c", Some(301)));
    let orders = shop.events(ORDERS).await;
    assert_eq!(orders.iter().filter(|event| event.op() == "r").count(), 100);
    assert_eq!(read_twice(&orders), [] as [i64; 0]);
}

#[tokio::test]
async fn rows_without_a_key_come_once_with_the_stream_held_or_beside_it() {
    let mut shop = shop("snapshot-keyless").await;
    // Each attempt reads such a table once more.
    shop.trust_commits();
    shop.table("whole", "id bigint, note text").await.table("appended", "id bigint, note text").await;
    shop.capture(&[ORDERS, "public.whole", "public.appended"]);
    shop.file.set("source/postgres/snapshot_chunk_rows", 100);
    shop.sql
        .run(
            "ALTER TABLE whole REPLICA IDENTITY FULL;
             INSERT INTO whole SELECT n, 'row 0' FROM generate_series(0, 2999) n;
             INSERT INTO appended SELECT n, 'row 0' FROM generate_series(0, 2999) n;",
        )
        .await;
    // Without an identity: the daemon would not publish it by itself, because updates of it are refused then.
    let publication = format!("CREATE PUBLICATION {} FOR TABLE appended", shop.slot());
    shop.sql.run(&publication).await;
    let writers = Writers::at_work(
        &shop,
        3_000,
        &[
            "UPDATE whole SET note = 'update {version}' WHERE id = {id}",
            "INSERT INTO appended VALUES ({id}, 'insert {version}')",
            "DELETE FROM whole WHERE id = {id}",
            "INSERT INTO whole VALUES ({id}, 'insert {version}')",
        ],
    )
    .await;
    shop.start().await;
    read_through(&shop, "public.whole").await;
    read_through(&shop, "public.appended").await;
    writers.stop().await;
    shop.settled().await;
    for table in ["whole", "appended"] {
        let rows = "array_agg(id || ' ' || note ORDER BY (id || ' ' || note) COLLATE \"C\")";
        let expected: Vec<String> = shop.sql.one(&format!("SELECT {rows} FROM {table}")).await;
        within(THROUGH, &format!("the events make {table}"), async || {
            let events = shop.events(&format!("public.{table}")).await;
            (left(&events) == expected).then_some(())
        })
        .await;
        let events = shop.events(&format!("public.{table}")).await;
        assert!(events.iter().any(|event| event.op() == "r") && left(&events) == expected);
    }
}

#[tokio::test]
async fn rows_without_a_key_whose_reading_was_broken_off_come_again_and_say_so() {
    let mut shop = shop("snapshot-attempts").await;
    // One attempt after the death, and no more.
    shop.trust_commits();
    shop.table("whole", "id bigint, note text").await;
    shop.capture(&["public.whole"]);
    // Many batches, and a Kafka transaction for each.
    shop.file.set("source/postgres/snapshot_chunk_rows", 100).set("sink/kafka/transaction/records_max", 100);
    shop.sql
        .run(
            "ALTER TABLE whole REPLICA IDENTITY FULL;
             INSERT INTO whole SELECT n, 'row 0' FROM generate_series(0, 2999) n;",
        )
        .await;
    shop.start_to_die_at("chunk-placed:20").await;
    shop.sql.run("UPDATE whole SET note = 'update 1' WHERE id < 10").await;
    shop.start().await;
    read_through(&shop, "public.whole").await;
    let expected: Vec<String> = shop
        .sql
        .one("SELECT array_agg(id || ' ' || note ORDER BY (id || ' ' || note) COLLATE \"C\") FROM whole")
        .await;
    let (first, second) = within(THROUGH, "both readings", async || {
        let events = shop.events("public.whole").await;
        let (second, first): (Vec<Event>, Vec<Event>) =
            events.into_iter().partition(|event| event.header("snapshot.attempt") == Some("2"));
        (left(&second) == expected).then_some((first, second))
    })
    .await;
    assert!((100..3_000).contains(&first.len()), "{} rows of the first reading", first.len());
    assert!(first.iter().all(|event| event.header("snapshot.attempt").is_none()));
    assert!(first.iter().chain(&second).all(|event| event.op() == "r"));
}

/// The rows that events without a key leave, each as often as it is there.
pub(super) fn left(events: &[Event]) -> Vec<String> {
    let mut rows: BTreeMap<String, i64> = BTreeMap::new();
    for event in events {
        let value = event.value.as_ref().expect("no tombstones without a key");
        for (row, count) in [(&value["before"], -1), (&value["after"], 1)] {
            if let (Some(id), Some(note)) = (row["id"].as_i64(), row["note"].as_str()) {
                *rows.entry(format!("{id} {note}")).or_default() += count;
            }
        }
    }
    rows.into_iter().flat_map(|(row, count)| (0..count).map(move |_| row.clone())).collect()
}

#[tokio::test]
async fn a_truncate_and_changed_keys_under_a_snapshot_leave_what_the_table_holds() {
    let mut shop = shop("snapshot-truncate").await;
    // So few that it is not through before the TRUNCATE.
    shop.file.set("source/postgres/snapshot_chunk_rows", 5).set("format/truncates", true);
    fill(&shop, 6_000).await;
    shop.start().await;
    shop.wait_for_events(ORDERS, 500).await;
    for id in [0, 2_500, 5_990] {
        shop.sql.run(&format!("UPDATE orders SET id = id + 10000 WHERE id = {id}")).await;
        shop.sql.run(&format!("UPDATE orders SET id = {id} WHERE id = {}", 5_000 - id / 2)).await;
    }
    shop.wait_for_events(ORDERS, 1_000).await;
    assert_ne!(noted(&shop, ORDERS).await.as_deref(), Some("done"), "it was through before the TRUNCATE");
    shop.sql.run("TRUNCATE orders").await;
    shop.sql.run("INSERT INTO orders SELECT n, 'after 0' FROM generate_series(3000, 3100) n").await;
    read_through(&shop, ORDERS).await;
    let events = shop.settled().await;
    assert!(events.iter().any(|event| event.op() == "t"));
    assert_eq!(folded(&events), table(&shop).await);
}
