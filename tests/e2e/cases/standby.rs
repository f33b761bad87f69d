//! A primary with a standby: the standby is promoted, or is what changes are streamed from.

use std::sync::Arc;

use millrace_e2e::{Event, Own, Servers, Shop, Sql, run_to_end, until};
use xtask::services::{Home, Postgres, PostgresConfig, PostgresVersion};

use super::snapshots::{ORDERS, fill, read_through};

/// A shop on a primary that has a standby.
async fn pair(name: &str, version: PostgresVersion) -> (Shop, Postgres) {
    let settings = vec![("wal_sender_timeout".to_owned(), "5s".to_owned())];
    let config = PostgresConfig { settings, ..PostgresConfig::default() };
    let own = Own { postgres: Some(config), version: Some(version), ..Own::default() };
    let servers = Arc::new(Servers::with(own).await);
    let mut shop = Shop::on(&servers, name).await;
    let home = Home::temporary().expect("a temporary directory");
    let standby = servers.postgres.standby(&home).await.expect("a standby starts");
    shop.reconnect().await;
    (shop, standby)
}

/// Both servers in one url, the one that takes writes first come.
fn both(shop: &mut Shop, standby: &Postgres) {
    let url = shop.servers.postgres.url_of(shop.database());
    let port = format!(":{}/", shop.servers.postgres.port());
    let hosts = format!("{},127.0.0.1:{}/", port.trim_end_matches('/'), standby.port());
    let url = format!("{}?target_session_attrs=read-write", url.replace(&port, &hosts));
    shop.file.set("source/postgres/url", url);
}

/// Writes order after order until the server is gone; which ones it acknowledged does not matter here.
async fn write_until_the_end(sql: Sql) {
    for id in 1_001.. {
        if sql.try_run(&format!("INSERT INTO orders VALUES ({id}, 'under way')")).await.is_none() {
            return;
        }
    }
}

async fn ids(sql: &Sql) -> Vec<i64> {
    sql.one("SELECT array_agg(id ORDER BY id) FROM orders WHERE id > 0").await
}

fn sorted(events: &[Event]) -> Vec<i64> {
    let mut ids: Vec<i64> = events.iter().filter_map(Event::id).collect();
    ids.sort_unstable();
    ids
}

/// What `check` says.
fn checked(shop: &Shop) -> String {
    let file = shop.write_file();
    run_to_end(&["check", file.to_str().expect("a path")], shop.dir()).text()
}

#[tokio::test]
async fn check_names_what_a_promotion_would_lack() {
    let servers = Arc::new(Servers::with(Own::postgres_of(PostgresVersion::V17)).await);
    let mut shop = Shop::on(&servers, "failover-check").await;
    assert!(checked(&shop).contains("no standby has a slot here"), "{}", checked(&shop));
    shop.sql.run("SELECT pg_create_physical_replication_slot('one', true)").await;
    let typed = "ALTER SYSTEM SET synchronized_standby_slots = 'one'";
    assert!(checked(&shop).contains(typed), "{}", checked(&shop));
    // Whoever sets it has to name slots that are there; later they may be gone.
    shop.sql.run("SELECT pg_create_physical_replication_slot('two', true)").await;
    for (name, words) in [("two", "is on two before"), ("one", "is on one before")] {
        shop.sql.run(&format!("ALTER SYSTEM SET synchronized_standby_slots = '{name}'")).await;
        shop.sql.run("SELECT pg_reload_conf()").await;
        until(words, async || checked(&shop).contains(words).then_some(())).await;
    }
    shop.sql.run("SELECT pg_drop_replication_slot('one')").await;
    assert!(checked(&shop).contains("sends nothing until slot one"), "{}", checked(&shop));
    shop.sql.run("ALTER SYSTEM RESET synchronized_standby_slots").await;
    shop.sql.run("SELECT pg_reload_conf()").await;
    shop.file.set("source/postgres/failover_slot", false);
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    shop.file.set("source/postgres/failover_slot", true);
    let typed = format!("ALTER_REPLICATION_SLOT {} (FAILOVER true)", shop.slot());
    assert!(checked(&shop).contains(&typed), "{}", checked(&shop));
}

#[tokio::test]
async fn a_promoted_standby_goes_on_with_the_slot_and_nothing_is_lost_or_doubled() {
    let (mut shop, standby) = pair("promotion", PostgresVersion::V17).await;
    both(&mut shop, &standby);
    shop.start().await.rows(1..=1_000).await.expect_rows(1..=1_000).await;
    let (slot, on_standby) = (shop.slot(), Sql::connect(&standby.url()).await);
    let kept = format!(
        "SELECT count(*) FROM pg_replication_slots
         WHERE slot_name = '{slot}' AND synced AND NOT temporary AND invalidation_reason IS NULL"
    );
    until("the standby keeps the slot", async || {
        // It takes a slot over at such a record.
        shop.sql.run("SELECT pg_log_standby_snapshot()").await;
        (on_standby.one::<i64>(&kept).await == 1).then_some(())
    })
    .await;

    let load = tokio::spawn(write_until_the_end(shop.sql.another().await));
    shop.wait_for_events(ORDERS, 1_500).await;
    shop.servers.postgres.kill();
    load.await.expect("the load ends with its server");
    standby.promote().await.expect("a promotion");
    shop.sql = Sql::connect(&standby.url_of(shop.database())).await;
    shop.wait_for_state("RUNNING").await;
    shop.rows(100_001..=100_100).await;
    let events = shop.settled().await;
    assert_eq!(sorted(&events), ids(&shop.sql).await);
    assert_eq!(shop.position().await.value["timeline"], 2);
    // And a restart finds its place on the new timeline.
    shop.term().await.start().await.rows(100_101..=100_200).await;
    let events = shop.settled().await;
    assert_eq!(sorted(&events), ids(&shop.sql).await);
}

#[tokio::test]
async fn changes_are_streamed_from_a_standby_while_rows_are_read_on_the_primary() {
    let (mut shop, standby) = pair("on-standby", PostgresVersion::V16).await;
    fill(&shop, 500).await;
    let publication = shop.slot();
    shop.file
        .set("source/postgres/url", standby.url_of(shop.database()))
        .set("source/postgres/primary_hosts", vec![format!("127.0.0.1:{}", shop.servers.postgres.port())])
        .set("source/postgres/snapshot", "initial")
        .set("source/postgres/snapshot_chunk_rows", 50);
    assert!(checked(&shop).contains("hot_standby_feedback"), "{}", checked(&shop));
    shop.start_in_any_state().await;
    let typed = "CREATE PUBLICATION";
    shop.not_ready("FAILED").await.expect_reason(&["standby"]).expect_hint(&["on the primary", typed]);
    shop.sql.run(&format!("CREATE PUBLICATION {publication} FOR TABLE orders")).await;
    let replayed = format!("SELECT count(*) FROM pg_publication WHERE pubname = '{publication}'");
    let on_standby = Sql::connect(&standby.url_of(shop.database())).await;
    until("the standby has it", async || (on_standby.one::<i64>(&replayed).await == 1).then_some(())).await;

    let load = shop.load(1_001..=3_000, 10).await;
    shop.kill().start_in_any_state().await;
    until("the slot is made", async || {
        // What a slot on a standby begins at.
        shop.sql.run("SELECT pg_log_standby_snapshot()").await;
        (shop.daemon().state(&shop.name).await? == "RUNNING").then_some(())
    })
    .await;
    assert_eq!(
        shop.sql.one::<i64>("SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical'").await,
        0
    );
    read_through(&shop, ORDERS).await;
    load.await.expect("the load is written");
    shop.kill().start().await.rows(5_001..=5_010).await;
    let events = shop.settled().await;
    // A row that was changed before its chunk was read comes as its change and then as it is.
    let of_rows: std::collections::BTreeSet<i64> = events.iter().filter_map(Event::id).collect();
    assert_eq!(of_rows.into_iter().collect::<Vec<_>>(), ids_with_zero(&shop.sql).await);
    for op in ["r", "c"] {
        let mut ids: Vec<_> = events.iter().filter(|e| e.op() == op).filter_map(Event::id).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "an event of {op} came twice");
    }

    // It becomes the primary under the running daemon.
    standby.promote().await.expect("a promotion");
    shop.sql = Sql::connect(&standby.url_of(shop.database())).await;
    shop.rows(6_001..=6_010).await;
    let events = shop.settled().await;
    assert_eq!(events.iter().filter(|event| event.id() > Some(6_000)).count(), 10);
}

async fn ids_with_zero(sql: &Sql) -> Vec<i64> {
    sql.one("SELECT array_agg(id ORDER BY id) FROM orders WHERE id >= 0").await
}
