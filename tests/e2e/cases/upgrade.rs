//! A database moves to a new server: the connector is drained at the old one and adopted by the new one.

use std::sync::Arc;
use std::time::Duration;

use millrace_e2e::{Ended, Own, Servers, Shop, Sql, run_to_end, until};
use xtask::services::{Home, Postgres, PostgresConfig, PostgresVersion};

use super::snapshots::{ORDERS, read_through};

/// Runs a verb on the shop's file.
fn run(shop: &Shop, verb: &str, more: &[&str]) -> Ended {
    let file = shop.write_file();
    let words = [&[verb, file.to_str().expect("a readable path")], more].concat();
    run_to_end(&words, shop.dir())
}

fn home() -> Home {
    Home::temporary().expect("a temporary directory")
}

/// The shop's database is on that server from now on.
async fn move_to(shop: &mut Shop, server: &Postgres) {
    let url = server.url_of(shop.database());
    shop.sql = Sql::connect(&url).await;
    shop.file.set("source/postgres/url", url);
}

/// A shop with ten orders, delivered, and a server that it may move to, whose log is below the old one's.
async fn two_servers(name: &str) -> (Shop, Postgres) {
    let servers = Arc::new(Servers::with(Own::postgres()).await);
    let mut shop = Shop::on(&servers, name).await;
    for _ in 0..5 {
        shop.sql.run("SELECT pg_logical_emit_message(false, 'test', ''); SELECT pg_switch_wal()").await;
    }
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    shop.wait_for_slot(false).await;
    let config = PostgresConfig { version: PostgresVersion::V17, ..PostgresConfig::default() };
    let new = Postgres::start_new(&config, &home()).await.expect("another server starts");
    Sql::connect(&new.url()).await.run(&format!("CREATE DATABASE {}", shop.database())).await;
    (shop, new)
}

/// The new server's table of orders, with these rows.
async fn copy(shop: &Shop, new: &Postgres, ids: std::ops::RangeInclusive<i64>) {
    let sql = Sql::connect(&new.url_of(shop.database())).await;
    let (first, last) = (ids.start(), ids.end());
    let rows = format!("SELECT id, 'order ' || id FROM generate_series({first}, {last}) id");
    sql.run("CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY, note text)").await;
    sql.run(&format!("INSERT INTO orders {rows} ON CONFLICT DO NOTHING")).await;
    sql.run("INSERT INTO orders VALUES (-1, 'fence')").await;
}

#[tokio::test]
async fn a_server_upgraded_by_pg_upgrade_is_gone_on_from_without_a_gap_and_without_reading_rows_again() {
    let servers = Arc::new(Servers::with(Own::postgres_of(PostgresVersion::V16)).await);
    let mut shop = Shop::on(&servers, "upgrade").await;
    shop.file.set("source/postgres/snapshot", "initial");
    shop.rows(1..=100).await.start().await;
    read_through(&shop, ORDERS).await;
    shop.rows(101..=200).await;

    let rest = shop.daemon().rest().to_owned();
    let drained = run(&shop, "drain", &["--rest", &rest]);
    assert_eq!(drained.code, Some(0), "{}", drained.text());
    assert!(drained.stdout.contains("\"drained\":{\"at_ms\""), "{}", drained.text());
    shop.wait_for_state("STOPPED").await;
    shop.term().await;
    shop.start_in_any_state().await;
    shop.not_ready("STOPPED").await.expect_reason(&["drained"]).expect_hint(&["millrace adopt"]);
    shop.term().await;

    let new = servers.postgres.upgraded(&home()).await.expect("pg_upgrade");
    move_to(&mut shop, &new).await;
    let version: i32 = shop.sql.one("SELECT current_setting('server_version_num')::int").await;
    assert!(version >= 180_000, "{version}");
    shop.start_in_any_state().await;
    shop.not_ready("STOPPED").await.expect_hint(&["millrace adopt"]);
    shop.term().await;
    let adopted = run(&shop, "adopt", &[]);
    assert_eq!(adopted.code, Some(0), "{}", adopted.text());

    shop.start().await.rows(201..=300).await;
    shop.kill().start().await.rows(301..=310).await;
    let events = shop.settled().await;
    let found: Vec<(&str, Option<i64>)> = events.iter().map(|event| (event.op(), event.id())).collect();
    let read = found[..100].iter().map(|(op, id)| (*op, id.unwrap_or_default()));
    let mut read: Vec<_> = read.collect();
    read.sort_unstable_by_key(|(_, id)| *id);
    assert_eq!(read, (1..=100).map(|id| ("r", id)).collect::<Vec<_>>());
    assert_eq!(found[100..], (101..=310).map(|id| ("c", Some(id))).collect::<Vec<_>>());
    let audit = run(&shop, "audit", &[]);
    assert_eq!(audit.code, Some(0), "{}", audit.text());
}

#[tokio::test]
async fn a_new_server_is_refused_that_was_not_drained_for_or_holds_other_rows_or_a_lower_log() {
    let (mut shop, new) = two_servers("adopt-refused").await;
    copy(&shop, &new, 1..=10).await;
    let old = shop.servers.postgres.url_of(shop.database());
    move_to(&mut shop, &new).await;
    let refused = run(&shop, "adopt", &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    assert!(refused.text().contains("was not drained"), "{}", refused.text());

    shop.file.set("source/postgres/url", old);
    let drained = run(&shop, "drain", &["--rest", "127.0.0.1:1"]);
    assert_eq!(drained.code, Some(0), "{}", drained.text());
    let new_url = new.url_of(shop.database());
    shop.file.set("source/postgres/url", new_url);
    let refused = run(&shop, "adopt", &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    assert!(refused.text().contains("pg_resetwal -l 0000000100000000"), "{}", refused.text());

    shop.sql.run("UPDATE orders SET note = 'other' WHERE id = 7").await;
    let refused = run(&shop, "adopt", &["--lower-log"]);
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    assert!(refused.text().contains("public.orders has other rows"), "{}", refused.text());
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(shop.sql.one::<i64>(slots).await, 0, "a refused server keeps no slot");

    shop.sql.run("UPDATE orders SET note = 'order 7' WHERE id = 7").await;
    // As a crash in the middle leaves it.
    let slot = format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", shop.slot());
    shop.sql.run(&slot).await;
    let adopted = run(&shop, "adopt", &["--lower-log"]);
    assert_eq!(adopted.code, Some(0), "{}", adopted.text());
    shop.rows(11..=20).await.start().await.rows(21..=30).await;
    // Places in the log begin again: only the rows are compared.
    let events = shop.settled().await;
    let ids: Vec<Option<i64>> = events.iter().map(millrace_e2e::Event::id).collect();
    assert_eq!(ids, (1..=30).map(Some).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_drained_connector_goes_on_at_its_old_server_when_nothing_was_upgraded() {
    let mut shop = Shop::open("drain-undone").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    shop.wait_for_slot(false).await;
    shop.rows(11..=20).await;
    assert_eq!(run(&shop, "drain", &["--rest", "127.0.0.1:1"]).code, Some(0));
    shop.rows(21..=30).await;
    let adopted = run(&shop, "adopt", &[]);
    assert_eq!(adopted.code, Some(0), "{}", adopted.text());
    shop.start().await.rows(31..=40).await.expect_rows(1..=40).await;
}

#[tokio::test]
async fn what_is_still_being_written_when_a_drain_begins_is_delivered_before_it_ends() {
    let mut shop = Shop::open("drain-writers").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    shop.wait_for_slot(false).await;
    let late = shop.sql.another().await;
    late.run("BEGIN; INSERT INTO orders VALUES (11, 'late')").await;
    let (file, dir) = (shop.write_file(), shop.dir().to_owned());
    let draining = tokio::task::spawn_blocking(move || {
        run_to_end(&["drain", file.to_str().expect("a path"), "--rest", "127.0.0.1:1"], &dir)
    });
    // Another one may not come to an end before it is waited for.
    until("the drain is under way", async || {
        let streams = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_prepared_xacts%'
                       AND datname = current_database() AND pid <> pg_backend_pid()";
        (shop.sql.one::<i64>(streams).await > 0).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!draining.is_finished(), "it did not wait for the transaction");
    late.run("COMMIT").await;
    let drained = draining.await.expect("the drain ends");
    assert_eq!(drained.code, Some(0), "{}", drained.text());
    // Nobody else delivers it: ten, a fence, and this one.
    let events = shop.wait_for_events("public.orders", 12).await;
    assert!(events.iter().any(|event| event.id() == Some(11)), "it ended before the row was delivered");
}
