//! The source is not as it should be, or goes away: what is said, and what happens when it is mended.

use millrace_e2e::{Own, Servers, Shop, SlotHolder, until, wait_for_records};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xtask::services::Shutdown;

#[tokio::test]
async fn a_table_that_is_created_later_is_waited_for() {
    let mut shop = Shop::open("later").await;
    shop.capture(&["public.orders", "public.later"]).start_in_any_state().await;
    shop.degraded(&["public.later"]).await;
    shop.table("later", "id int PRIMARY KEY").await;
    shop.wait_for_state("RUNNING").await;
    shop.sql.run("INSERT INTO later VALUES (1)").await;
    let events = shop.wait_for_events("public.later", 1).await;
    assert_eq!(events[0].id(), Some(1));
}

#[tokio::test]
async fn a_table_without_replica_identity_is_refused_before_its_updates_are() {
    let mut shop = Shop::open("run-no-identity").await;
    shop.table("notes", "line int, words text").await;
    shop.capture(&["public.orders", "public.notes"]).start_in_any_state().await;
    let sql = "ALTER TABLE \"public\".\"notes\" REPLICA IDENTITY FULL";
    shop.not_ready("FAILED").await.expect_reason(&["public.notes", "replica identity"]).expect_hint(&[sql]);
    // Published, the table would take no update any more, and the shop would stand still.
    shop.sql.run("INSERT INTO notes VALUES (1, 'a'); UPDATE notes SET words = 'b'; DELETE FROM notes").await;
    shop.sql.run(sql).await;
    shop.kill().start().await;
    shop.sql.run("INSERT INTO notes VALUES (2, 'c'); UPDATE notes SET words = 'd'").await;
    let events = shop.wait_for_events("public.notes", 2).await;
    assert_eq!((events[1].op(), events[1].after("words")), ("u", &"d".into()));
}

#[tokio::test]
async fn a_publication_dropped_behind_our_back_halts_the_connector_and_confirms_nothing() {
    let mut shop = Shop::open("no-publication").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    let publication = shop.slot();
    shop.sql.run(&format!("DROP PUBLICATION {publication}")).await;
    shop.rows(11..=20).await;
    let rows_end = shop.sql.log_end().await;
    shop.start_in_any_state().await;
    let state = until("the connector halts", async || {
        let state = shop.daemon().state(&shop.name).await?;
        (state == "FAILED" || state == "POSITION_LOST").then_some(state)
    })
    .await;
    shop.not_ready(&state).await.expect_reason(&[&publication]).expect_hint(&["publication"]);
    assert!(shop.confirmed().await < rows_end, "rows that nobody sent were confirmed");
}

#[tokio::test]
async fn a_slot_that_somebody_else_reads_is_waited_for() {
    let mut shop = Shop::open("slot-active").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    shop.wait_for_slot(false).await;
    let holder = SlotHolder::start(&shop.servers.postgres, shop.database(), &shop.slot(), &shop.slot());
    shop.wait_for_slot(true).await;
    shop.start_in_any_state().await;
    shop.degraded(&[&shop.slot()]).await.expect_hint(&["pg_terminate_backend"]);
    holder.release();
    shop.wait_for_state("RUNNING").await;
    shop.rows(11..=20).await.expect_rows(1..=20).await;
}

#[tokio::test]
async fn the_first_of_several_hosts_that_takes_writes_is_used_over_its_local_socket_too() {
    let mut shop = Shop::open("hosts").await;
    let folder: String = shop.sql.one("SHOW unix_socket_directories").await;
    let url = shop.servers.postgres.url_of(shop.database());
    let (login, place) = url.rsplit_once("127.0.0.1").expect("the server is on this machine");
    let (port, database) = place.split_once('/').expect("a database");
    let folder = folder.replace('/', "%2F");
    // Nobody listens on port 1.
    let hosts = format!("{login}127.0.0.1:1,{folder}{port}/{database}?target_session_attrs=read-write");
    shop.file.set("source/postgres/url", hosts);
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    let local = format!(
        "SELECT count(*) FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid
         WHERE s.slot_name = '{}' AND r.client_addr IS NULL",
        shop.slot()
    );
    until("the stream runs over the local socket", async || {
        (shop.sql.one::<i64>(&local).await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_slot_of_another_plugin_is_refused() {
    let mut shop = Shop::open("slot-plugin").await;
    let slot = shop.slot();
    shop.sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')")).await;
    shop.start_in_any_state().await;
    // It holds somebody's place: nothing of it may be taken or dropped.
    let refusal = until("the slot is refused", async || {
        let state = shop.daemon().state(&shop.name).await?;
        (state == "FAILED" || state == "POSITION_LOST").then_some(state)
    })
    .await;
    let refusal = shop.not_ready(&refusal).await;
    refusal.expect_reason(&[&slot]).expect_hint(&["pg_drop_replication_slot"]);
    let plugin: String = shop
        .sql
        .one(&format!("SELECT plugin::text FROM pg_replication_slots WHERE slot_name = '{slot}'"))
        .await;
    assert_eq!(plugin, "test_decoding");
}

#[tokio::test]
async fn a_database_server_that_crashes_under_load_loses_nothing() {
    let servers = Arc::new(Servers::with(Own::postgres()).await);
    let mut shop = Shop::on(&servers, "pg-crash").await;
    shop.start().await.rows(1..=10_000).await;
    servers.postgres.stop_with(Shutdown::Immediate).await.expect("Postgres stops");
    shop.wait_for_state("DEGRADED").await;
    servers.postgres.start().await.expect("Postgres starts");
    shop.reconnect().await.wait_for_state("RUNNING").await;
    shop.rows(10_001..=10_100).await.expect_rows(1..=10_100).await;
}

#[tokio::test]
async fn a_fast_shutdown_of_postgres_ends_soon_though_kafka_is_down() {
    let servers = Arc::new(Servers::with(Own::both()).await);
    let mut shop = Shop::on(&servers, "fast-shutdown").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    servers.kafka.stop().await.expect("Kafka stops");
    shop.rows(11..=1_000).await;
    let started = Instant::now();
    servers.postgres.stop_with(Shutdown::Fast).await.expect("Postgres stops");
    let took = started.elapsed();
    // Left alone it waits until it gives its walsender up, after 60 s.
    assert!(took < Duration::from_secs(30), "the server waited {took:?} for us");
    servers.kafka.start().await.expect("Kafka starts");
    servers.postgres.start().await.expect("Postgres starts");
    shop.reconnect().await.wait_for_state("RUNNING").await;
    shop.expect_rows(1..=1_000).await;
}

#[tokio::test]
async fn a_transaction_that_touches_thousands_of_tables_does_not_make_the_server_give_up() {
    const TABLES: u32 = 4_000;
    // Less than all of it takes.
    let settings = [("wal_sender_timeout", "2s"), ("max_locks_per_transaction", "256")];
    let servers = Arc::new(Servers::with(Own::postgres_with(&settings)).await);
    let mut shop = Shop::on(&servers, "many-tables").await;
    // Another attempt is the sign of a server that gave up.
    shop.trust_commits();
    let each = |count: u32, statement: &str| {
        format!("DO $$ BEGIN FOR n IN 1..{count} LOOP EXECUTE format('{statement}', n); END LOOP; END $$")
    };
    shop.sql.run(&each(TABLES, "CREATE TABLE many_%s (id int PRIMARY KEY)")).await;
    shop.capture(&["public.*"]).file.remove("format/registry").set("format/encoding", "json");
    shop.file.lay("[[route]]\nrelations = [\"public.many_*\"]\ntopic = \"many-tables.all\"");
    shop.start().await;
    shop.sql.run(&each(TABLES, "INSERT INTO many_%s VALUES (1)")).await;
    let records = wait_for_records(&servers.kafka.bootstrap(), &["many-tables.all"], TABLES as usize).await;
    let tables: BTreeSet<String> = records.iter().map(|r| r.json()["source"]["table"].to_string()).collect();
    assert_eq!((records.len(), tables.len()), (TABLES as usize, TABLES as usize));
    let log = shop.daemon().log();
    assert!(!log.contains("trying again"), "{log}");
}
