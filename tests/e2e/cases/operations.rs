//! What an operator does with a connector that is loaded: pause, stop, resume, restart, and files read again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_e2e::{Daemon, Servers, Shop, until};
use reqwest::Method;
use serde_json::json;

use super::snapshots::{self, ORDERS};

async fn order(daemon: &Daemon, method: Method, connector: &str, verb: &str) -> u16 {
    daemon.request(method, &format!("/connectors/{connector}/{verb}")).await
}

#[tokio::test]
async fn a_paused_connector_lets_go_of_its_slot_and_goes_on_where_it_was() {
    let mut shop = Shop::open("paused").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    for (verb, code, state) in [("pause", 202, "PAUSED"), ("stop", 204, "STOPPED")] {
        assert_eq!(order(shop.daemon(), Method::PUT, &shop.name, verb).await, code);
        shop.wait_for_state(state).await;
        let (_, status) = shop.daemon().json(&format!("/connectors/{}/status", shop.name)).await;
        assert_eq!(status["connector"]["state"], state);
    }
    shop.wait_for_slot(false).await;
    let before = shop.events("public.orders").await.len();
    shop.rows(11..=20).await;
    assert_eq!(shop.events("public.orders").await.len(), before);
    assert_eq!(order(shop.daemon(), Method::PUT, &shop.name, "resume").await, 202);
    shop.expect_rows(1..=20).await.wait_for_state("RUNNING").await;
}

#[tokio::test]
async fn a_restart_under_load_loses_and_doubles_nothing() {
    let mut shop = Shop::open("restarted").await;
    shop.start().await;
    let mut seen = 0;
    for round in 0..4 {
        let load = shop.load(round * 5_000 + 1..=(round + 1) * 5_000, 50).await;
        seen = shop.wait_for_events("public.orders", seen + 1).await.len();
        assert_eq!(order(shop.daemon(), Method::POST, &shop.name, "restart").await, 204);
        load.await.expect("the load ends");
    }
    shop.expect_rows(1..=20_000).await;
}

#[tokio::test]
async fn a_connector_that_failed_is_at_work_again_after_a_restart_by_rest() {
    let mut shop = Shop::open("failed").await;
    let role = format!("{}_role", shop.database());
    shop.sql.run(&format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'first'")).await;
    let url = format!("postgres://{role}@127.0.0.1:{}/{}", shop.servers.postgres.port(), shop.database());
    shop.file.set("source/postgres/url", url).set("source/postgres/password", "first");
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    shop.sql.run(&format!("ALTER ROLE {role} PASSWORD 'second'")).await;
    let sessions = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
    shop.sql.run(&sessions).await;
    shop.wait_for_state("FAILED").await;
    shop.rows(11..=20).await;
    shop.sql.run(&format!("ALTER ROLE {role} PASSWORD 'first'")).await;
    let restart = "restart?includeTasks=true&onlyFailed=true";
    assert_eq!(order(shop.daemon(), Method::POST, &shop.name, restart).await, 202);
    shop.expect_rows(1..=20).await.wait_for_state("RUNNING").await;
}

#[tokio::test]
async fn how_far_the_rows_are_is_told_on_a_terminal_by_rest_and_in_the_metrics() {
    let mut shop = snapshots::shop("bar").await;
    // Rows are counted from where an attempt began.
    shop.trust_commits();
    shop.capture(&[ORDERS]).file.set("source/postgres/snapshot_chunk_rows", 20);
    snapshots::fill(&shop, 3_000).await;
    shop.sql.run("ANALYZE orders").await;
    shop.start_on_a_terminal().await;
    snapshots::read_through(&shop, ORDERS).await;
    let figures = until("the snapshot has ended", async || {
        let status = shop.daemon().own_status(&shop.name).await?;
        status["snapshot"]["finished_ms"].as_i64().map(|_| status["snapshot"].clone())
    })
    .await;
    assert_eq!(
        (&figures["tables_done"], &figures["rows"], &figures["rows_estimated"]),
        (&json!(1), &json!(3_000), &json!(3_000))
    );
    for (metric, expected) in [
        ("millrace_snapshot_tables_done", 1.0),
        ("millrace_snapshot_rows", 3_000.0),
        ("millrace_snapshot_running", 0.0),
    ] {
        assert_eq!(shop.daemon().metric(metric, &shop.name).await, Some(expected), "{metric}");
    }
    // Drawn over itself, with the log above it, and gone in the end.
    let bar = format!("\r\u{1b}[K{}: 0 of 1 tables, [", shop.name);
    let screen = until("the bar is gone", async || {
        let screen = shop.daemon().log();
        let (_, last) = screen.rsplit_once("\u{1b}[K")?;
        (!last.contains(" tables, [")).then_some(screen)
    })
    .await;
    assert!(screen.contains(&bar), "{screen:?}");
    assert!(screen.contains("% of about 3000 rows"), "{screen:?}");
}

/// A folder with the files of two shops, and a daemon on it.
async fn two_shops(name: &str) -> (Shop, Shop, PathBuf, Daemon) {
    let servers = Arc::new(Servers::shared().await);
    let mut one = Shop::on(&servers, &format!("{name}-a")).await;
    let two = Shop::on(&servers, &format!("{name}-b")).await;
    one.file.set("source/postgres/snapshot", "initial");
    let folder = one.dir().join("connectors");
    std::fs::create_dir(&folder).expect("a folder in a temporary directory");
    write(&one, &folder);
    write(&two, &folder);
    let daemon = Daemon::start(&[&folder], one.dir(), name).await;
    for shop in [&one, &two] {
        daemon.wait_for_state(&shop.name, "RUNNING").await;
    }
    until("the rows are read", async || {
        daemon.own_status(&one.name).await?["snapshot"]["finished_ms"].as_i64()
    })
    .await;
    (one, two, folder, daemon)
}

fn write(shop: &Shop, folder: &Path) {
    shop.file.write(&folder.join(format!("{}.toml", shop.name)));
}

async fn reader_of_the_slot(shop: &Shop) -> i32 {
    let query = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", shop.slot());
    shop.sql.one::<i32>(&query).await
}

#[tokio::test]
async fn a_table_added_to_a_file_is_read_and_streamed_while_the_other_connectors_go_on() {
    let (mut one, mut two, folder, daemon) = two_shops("reread").await;
    let (pid, reader) = (daemon.pid(), reader_of_the_slot(&two).await);
    one.rows(1..=10).await.expect_rows(1..=10).await;
    one.table("items", "id bigint PRIMARY KEY, note text").await;
    one.sql.run("INSERT INTO items SELECT n, 'before' FROM generate_series(1, 50) n").await;
    one.capture(&["public.orders", "public.items"]);
    write(&one, &folder);
    daemon.hang_up();
    let found = one.wait_for_events("public.items", 50).await;
    assert!(found.iter().all(|event| event.op() == "r"), "rows that were there");
    one.sql.run("INSERT INTO items VALUES (51, 'after')").await;
    let found = one.wait_for_events("public.items", 51).await;
    assert_eq!((found.len(), found[50].op()), (51, "c"));
    one.rows(11..=20).await.expect_rows(1..=20).await;
    two.rows(1..=10).await.expect_rows(1..=10).await;
    assert_eq!(reader_of_the_slot(&two).await, reader, "the other connector was not touched");
    assert_eq!(daemon.pid(), pid);
}

#[tokio::test]
async fn a_file_that_is_wrong_when_it_is_read_again_changes_nothing() {
    let (mut one, mut two, folder, daemon) = two_shops("wrong").await;
    one.file.set("source/postgres/tabels", vec!["public.items"]);
    write(&one, &folder);
    daemon.hang_up();
    until("it says so", async || daemon.log().contains("everything goes on as before").then_some(())).await;
    let log = daemon.log();
    assert!(log.contains("tabels") && log.contains("did you mean"), "{log}");
    for shop in [&mut one, &mut two] {
        shop.rows(1..=10).await.expect_rows(1..=10).await;
    }
}

#[tokio::test]
async fn what_a_file_says_of_rest_is_not_taken_up_while_the_daemon_runs_and_that_is_said() {
    let (mut one, _two, folder, daemon) = two_shops("rest-changed").await;
    one.file.set("rest/open_reading", true);
    write(&one, &folder);
    daemon.hang_up();
    until("it says so", async || daemon.log().contains("[rest] has changed").then_some(())).await;
    one.rows(1..=10).await.expect_rows(1..=10).await;
}

#[tokio::test]
async fn a_file_that_is_gone_ends_its_connector_and_a_new_one_starts_another() {
    let (mut one, mut two, folder, daemon) = two_shops("gone").await;
    one.rows(1..=10).await.expect_rows(1..=10).await;
    let file = folder.join(format!("{}.toml", one.name));
    std::fs::remove_file(&file).expect("the file is there");
    daemon.hang_up();
    one.wait_for_slot(false).await;
    until("it is no longer listed", async || {
        let (code, _) = daemon.get(&format!("/connectors/{}/status", one.name)).await;
        (code == 404).then_some(())
    })
    .await;
    one.rows(11..=20).await;
    two.rows(1..=10).await.expect_rows(1..=10).await;
    write(&one, &folder);
    daemon.hang_up();
    one.expect_rows(1..=20).await;
}

#[tokio::test]
async fn a_connector_whose_file_says_paused_waits_to_be_resumed() {
    let mut shop = Shop::open("initially").await;
    shop.file.set("initial_state", "paused");
    shop.start_in_any_state().await;
    shop.wait_for_state("PAUSED").await;
    shop.rows(1..=5).await;
    assert_eq!(order(shop.daemon(), Method::PUT, &shop.name, "resume").await, 202);
    shop.wait_for_state("RUNNING").await;
    shop.rows(6..=10).await.expect_rows(6..=10).await;
}
