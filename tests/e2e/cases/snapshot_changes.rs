//! What may happen to a table while its rows are read: its values, its shape, its identity, and commits that
//! nobody can see yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_e2e::{Event, Own, PATIENCE, Servers, Shop, until};
use millrace_ledger::reader::{Isolation, Reader};
use serde_json::{Value as Json, json};
use tokio::task::JoinHandle;

use super::snapshots::{
    CHANGES, ORDERS, Writers, assert_once, fill, folded, noted, read_through, read_twice, shop, table,
};

/// A column and a value of each type that is written in a way of its own.
const KINDS: &[(&str, &str)] = &[
    ("bool", "true"),
    ("int2", "-32768"),
    ("int4", "2147483647"),
    ("int8", "-9223372036854775808"),
    ("oid", "4294967295"),
    ("float4", "3.4028235e38"),
    ("float8", "5e-324"),
    ("float8", "'-Infinity'"),
    ("numeric", "-0.10"),
    ("numeric(38,10)", "9999999999999999999999999999.9999999999"),
    ("numeric", "'NaN'"),
    ("money", "-1234.5"),
    ("text", r"E'tab\t line\n return\r slash\\ \u0001 zażółć 漢字 🚀'"),
    ("text", r"'\N'"),
    ("text", "''"),
    ("varchar(3)", "'abc'"),
    ("char(5)", "'ab'"),
    ("name", "'a name'"),
    ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"),
    ("json", r#"'{"b":  1, "a": [null, 1e400]}'"#),
    ("jsonb", r#"'{"b":  1, "a": [null]}'"#),
    ("bytea", r"'\x00ff10'"),
    ("mood", "'so so'"),
    ("short", "'abc'"),
    ("date", "'4713-01-01 BC'"),
    ("date", "'infinity'"),
    ("time", "'24:00:00'"),
    ("timetz", "'23:59:59.5+02'"),
    ("timestamp", "'1582-10-04 12:00:00.000001'"),
    ("timestamp", "'-infinity'"),
    ("timestamptz", "'2026-01-02 03:04:05.678901+02'"),
    ("timestamptz(0)", "'0044-03-15 12:00:00+00 BC'"),
    ("interval", "'-1 year 2 mons -3 days 04:05:06.789'"),
    ("int4[]", "'{1,NULL,-3}'"),
    ("text[]", r#"ARRAY['a,"b"', NULL, E'tab\t']"#),
    ("numeric(5,2)[]", "'{1.5,-2}'"),
    ("timestamptz[]", "'{2026-01-02 03:04:05+00}'"),
    ("inet", "'10.0.0.1/8'"),
    ("macaddr", "'08:00:2b:01:02:03'"),
    ("path", "'((0,0),(1,1))'"),
    ("point", "'(1.5,-2)'"),
    ("int4range", "'[1,5)'"),
    ("tstzrange", "'[2026-01-01 00:00:00+00,)'"),
    ("xml", "'<a>1</a>'"),
    ("pair", "ROW(1, 'x y')"),
    ("tsvector", "'a fat cat'"),
    ("bit", "B'1'"),
    ("bit(3)", "B'101'"),
    ("bit varying", "B'1000000001'"),
];

#[tokio::test]
async fn a_row_is_the_same_bytes_whether_it_was_read_or_streamed() {
    let mut shop = shop("snapshot-bytes").await;
    shop.sql
        .run(
            "CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE DOMAIN short AS varchar(3);
             CREATE TYPE pair AS (one int, two text)",
        )
        .await;
    let columns = KINDS.iter().enumerate().map(|(nth, (kind, _))| format!("c{nth} {kind}"));
    let columns: Vec<String> = columns.collect();
    shop.table("kinds", &format!("id int PRIMARY KEY, {}", columns.join(", "))).await;
    let values: Vec<&str> = KINDS.iter().map(|(_, value)| *value).collect();
    shop.sql
        .run(&format!(
            "INSERT INTO kinds VALUES (1, {}); INSERT INTO kinds (id) VALUES (2); CREATE TABLE copy AS TABLE kinds",
            values.join(", ")
        ))
        .await;
    // The row alone, so that nothing else is in its bytes.
    shop.file.set("format/envelope", "flat");
    shop.capture(&["public.kinds"]).start().await;
    read_through(&shop, "public.kinds").await;
    for id in [1, 2] {
        shop.sql.run(&format!("DELETE FROM kinds WHERE id = {id}")).await;
        shop.sql.run(&format!("INSERT INTO kinds SELECT * FROM copy WHERE id = {id}")).await;
    }
    // Each row, its tombstone, and the row again.
    let events = shop.wait_for_events("public.kinds", 6).await;
    assert_eq!(events.len(), 6);
    let topic = shop.topic("public.kinds");
    let mut reader = Reader::new(&shop.servers.kafka.bootstrap(), Isolation::ReadCommitted, PATIENCE);
    let records = reader.read_all(&[&*topic]).await.expect("the topic can be read").records;
    let mut rows: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for record in &records {
        if let (Some(key), Some(value)) = (&record.key, &record.value) {
            rows.entry(key.to_vec()).or_default().push(value.to_vec());
        }
    }
    assert_eq!(rows.len(), 2);
    for (key, values) in rows {
        assert_eq!(values.len(), 2, "{key:?}");
        assert!(
            values[0] == values[1],
            "the row {key:?} is read as {:?}, and streamed as {:?}",
            values[0],
            values[1]
        );
    }
}

#[tokio::test]
async fn a_table_that_is_written_anew_while_its_rows_are_read_loses_none() {
    let mut shop = shop("snapshot-rewrite").await;
    // So few that it is not through before the last of them.
    shop.file.set("source/postgres/snapshot_chunk_rows", 10);
    fill(&shop, 8_000).await;
    let writers = Writers::at_work(&shop, 8_000, CHANGES).await;
    shop.start().await;
    for (seen, rewrite) in [
        (300, "ALTER TABLE orders ADD filler uuid DEFAULT gen_random_uuid()"),
        (1_200, "VACUUM FULL orders"),
        (2_000, "ALTER TABLE orders ALTER note TYPE varchar(200)"),
    ] {
        shop.wait_for_events(ORDERS, seen).await;
        assert_ne!(noted(&shop, ORDERS).await.as_deref(), Some("done"), "it was through before {rewrite}");
        shop.sql.run(rewrite).await;
    }
    read_through(&shop, ORDERS).await;
    writers.stop().await;
    let events = shop.settled().await;
    assert_once(&events);
    assert_eq!(folded(&events), table(&shop).await);
}

/// The notes that events leave, by their codes.
fn left(events: &[Event]) -> BTreeMap<String, Json> {
    let mut rows = BTreeMap::new();
    for event in events {
        let key = event.key.as_ref().and_then(|key| key["code"].as_str()).expect("a code").to_owned();
        match event.op() {
            "d" => drop(rows.remove(&key)),
            "-" => {}
            _ => drop(rows.insert(key, event.after("note").clone())),
        }
    }
    rows
}

#[tokio::test]
async fn rows_that_an_index_tells_apart_are_followed_by_it_under_a_snapshot() {
    let mut shop = shop("snapshot-by-index").await;
    shop.file.set("source/postgres/snapshot_chunk_rows", 50);
    shop.table("coded", "id bigint PRIMARY KEY, code text NOT NULL UNIQUE, note text").await;
    shop.sql
        .run(
            "ALTER TABLE coded REPLICA IDENTITY USING INDEX coded_code_key;
             INSERT INTO coded SELECT n, 'code ' || n, 'row 0' FROM generate_series(0, 1499) n",
        )
        .await;
    let writers = Writers::at_work(
        &shop,
        1_500,
        &[
            "UPDATE coded SET note = 'update {version}' WHERE id = {id}",
            "UPDATE coded SET code = 'moved ' || id || ' {version}' WHERE id = {id}",
            "DELETE FROM coded WHERE id = {id}",
            "INSERT INTO coded VALUES ({id}, 'new {id} {version}', 'insert {version}') ON CONFLICT (id) DO NOTHING",
            "UPDATE coded SET id = {id} + 1500 * {version} WHERE id = {id}",
        ],
    )
    .await;
    shop.capture(&[ORDERS, "public.coded"]).start().await;
    read_through(&shop, "public.coded").await;
    writers.stop().await;
    shop.settled().await;
    let text: String = shop.sql.one("SELECT json_object_agg(code, note)::text FROM coded").await;
    let expected: BTreeMap<String, Json> = serde_json::from_str(&text).expect("codes and notes");
    let events = until("the events give the table", async || {
        let events = shop.events("public.coded").await;
        (left(&events) == expected).then_some(events)
    })
    .await;
    let ops: Vec<&str> = events.iter().map(Event::op).collect();
    assert!(ops.contains(&"r") && ops.contains(&"d"), "{ops:?}");
}

#[tokio::test]
async fn a_row_that_is_changed_all_the_time_and_never_in_whole_is_read_all_the_same() {
    let mut shop = shop("snapshot-hot").await;
    shop.sql.run("ALTER TABLE orders ADD big text; ALTER TABLE orders ALTER big SET STORAGE EXTERNAL").await;
    let fill =
        "INSERT INTO orders SELECT n, 'row 0', repeat(n::text || ' ', 1000) FROM generate_series(0, 3) n";
    shop.sql.run(fill).await;
    let change: &[&str] = &["UPDATE orders SET note = 'update {version}' WHERE id = {id}"];
    let writers = Writers::at_work(&shop, 4, change).await;
    shop.start().await;
    read_through(&shop, ORDERS).await;
    writers.stop().await;
    let events = shop.settled().await;
    let whole = events.iter().filter(|event| event.op() == "r");
    let whole: BTreeMap<_, _> = whole.map(|event| (event.id(), event.after("big").as_str())).collect();
    let expected: Vec<String> = (0..4).map(|id| format!("{id} ").repeat(1_000)).collect();
    assert_eq!(whole.into_values().map(Option::unwrap_or_default).collect::<Vec<_>>(), expected);
    assert_once(&events);
    assert_eq!(read_twice(&events), [] as [i64; 0]);
    assert_eq!(folded(&events), table(&shop).await);
}

/// From now on commits wait for a standby of this name, as soon as the server has taken it up: its sessions do so
/// before its checkpointer, and no commit waits until that has.
pub async fn wait_for_standby(shop: &Shop, name: &str) {
    shop.sql.run(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'")).await;
    shop.sql.run("SELECT pg_reload_conf()").await;
    until("the standby is waited for", async || {
        let names: String = shop.sql.another().await.one("SHOW synchronous_standby_names").await;
        (names == name).then_some(())
    })
    .await;
}

/// From now on commits wait for nobody.
pub async fn hold_commits(shop: &Shop) {
    wait_for_standby(shop, "nobody").await;
    until("a commit waits", async || {
        let session = shop.sql.another().await;
        let pid: i32 = session.one("SELECT pg_backend_pid()").await;
        // It is in the log and changes nothing; a transaction that wrote nothing would not wait.
        let write = "SELECT pg_logical_emit_message(true, 'probe', '')";
        let probe = tokio::spawn(async move { session.run(write).await });
        let cancel = format!(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'"
        );
        let waited = until("the commit waits or is through", async || {
            let ended = probe.is_finished();
            let cancelled = shop.sql.maybe::<bool>(&cancel).await;
            (ended || cancelled.is_some()).then_some(cancelled)
        })
        .await;
        probe.await.expect("it is committed");
        waited.map(drop)
    })
    .await;
}

/// A change whose commit waits for the standby.
async fn held_commit(shop: &Shop, change: &'static str) -> JoinHandle<()> {
    let session = shop.sql.another().await;
    let held = tokio::spawn(async move { session.run(change).await });
    // The heartbeat may wait too.
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = ";
    let waiting = format!("{waiting}$query${change}$query$");
    until("the commit waits", async || (shop.sql.one::<i64>(&waiting).await == 1).then_some(())).await;
    held
}

async fn wait_for_status(shop: &Shop, part: &str) {
    until(part, async || {
        let (_, status) = shop.daemon().json(&format!("/connectors/{}/status", shop.name)).await;
        status.to_string().contains(part).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_waits_for_a_standby_holds_the_snapshot_up_and_is_not_lost() {
    let servers = Arc::new(Servers::with(Own::postgres()).await);
    let mut shop = Shop::on(&servers, "snapshot-standby").await;
    shop.file.set("source/postgres/snapshot_chunk_rows", 20);
    fill(&shop, 400).await;
    shop.start().await;
    // The stream knows the table: what describes one is waited for too, before its first row.
    shop.sql.run("UPDATE orders SET note = 'known 1' WHERE id = 3").await;
    shop.wait_for_events(ORDERS, 1).await;
    hold_commits(&shop).await;
    // Commits that are in the log, and streamed, and that nobody sees: one from before the snapshot, and one that
    // comes while it waits.
    let before = held_commit(&shop, "UPDATE orders SET note = 'held 1' WHERE id IN (7, 390)").await;
    let data = json!({ "data-collections": [ORDERS] });
    shop.daemon().ask(&shop.name, "all", "execute-snapshot", data).await;
    wait_for_status(&shop, "which was there before: process").await;
    let meanwhile = held_commit(&shop, "UPDATE orders SET note = 'held 1' WHERE id IN (8, 391)").await;
    let release = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
        WHERE wait_event = 'SyncRep' AND query LIKE '%(7, 390)'";
    assert!(shop.sql.one::<bool>(release).await);
    before.await.expect("the update is committed");
    wait_for_status(&shop, "a synchronous standby may be away").await;
    assert!(!shop.daemon().told(&shop.name, "all").await.contains(&"COMPLETED".to_owned()));
    shop.sql.run("ALTER SYSTEM RESET synchronous_standby_names").await;
    shop.sql.run("SELECT pg_reload_conf()").await;
    meanwhile.await.expect("the update is committed");
    shop.daemon().wait_until_told(&shop.name, "all", "COMPLETED").await;
    let events = shop.settled().await;
    assert_once(&events);
    assert_eq!(folded(&events), table(&shop).await);
    assert_eq!([390, 391].map(|id| folded(&events)[&id].clone()), ["held 1", "held 1"]);
}
