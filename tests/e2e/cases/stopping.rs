//! Ends of the daemon, in good order and not, and connectors that end alone.

use millrace_e2e::{Daemon, Servers, Shop, until, within};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn sigterm_delivers_what_was_read_and_the_next_start_doubles_nothing() {
    let mut shop = Shop::open("sigterm").await;
    shop.start().await.rows(1..=1).await.wait_for_events("public.orders", 1).await;
    let load = shop.load(2..=20_000, 100).await;
    shop.wait_for_events("public.orders", 3_000).await;
    shop.term().await;
    load.await.expect("the load is written");
    shop.start().await.expect_rows(1..=20_000).await;
}

#[tokio::test]
async fn a_stopped_daemon_leaves_no_open_transaction_behind() {
    let mut shop = Shop::open("sigterm-clean").await;
    shop.start().await.rows(1..=100).await.wait_for_events("public.orders", 100).await;
    let load = shop.load(101..=5_000, 50).await;
    shop.wait_for_events("public.orders", 500).await;
    shop.term().await;
    // The end of the last one is written a moment after it was acknowledged. One that is left open is ended by the
    // broker, after its 30 s.
    within(Duration::from_secs(10), "nothing is open that readers would wait for", async || {
        (!shop.has_open_transaction("public.orders").await).then_some(())
    })
    .await;
    load.await.expect("the load is written");
}

#[tokio::test]
async fn a_daemon_killed_under_load_loses_nothing_and_doubles_nothing() {
    let mut shop = Shop::open("kill-load").await;
    shop.start().await.rows(1..=1).await.wait_for_events("public.orders", 1).await;
    let load = shop.load(2..=40_000, 20).await;
    for seen in [500, 4_000, 9_000, 15_000] {
        shop.wait_for_events("public.orders", seen).await;
        shop.kill().start_in_any_state().await;
    }
    load.await.expect("the load is written");
    shop.expect_rows(1..=40_000).await;
}

#[tokio::test]
async fn a_daemon_killed_inside_a_large_transaction_delivers_it_whole_and_once() {
    let mut shop = Shop::open("kill-large").await;
    shop.start().await.rows(1..=1).await.wait_for_events("public.orders", 1).await;
    shop.rows(2..=60_000).await;
    until("a part of the transaction is in Kafka, and not committed", async || {
        shop.has_open_transaction("public.orders").await.then_some(())
    })
    .await;
    shop.kill().start().await.expect_rows(1..=60_000).await;
}

#[tokio::test]
async fn one_broken_connector_leaves_the_others_alone() {
    let servers = Arc::new(Servers::shared().await);
    let mut good = Shop::on(&servers, "good").await;
    let mut broken = Shop::on(&servers, "broken").await;
    broken.file.set("source/postgres/password", "not it");
    let url = servers.postgres.url_of(broken.database());
    broken.file.set("source/postgres/url", url.replace(&format!(":{}@", servers.postgres.password()), "@"));
    let (one, two) = (good.write_file(), broken.write_file());
    let daemon = Daemon::start(&[&one, &two], good.dir(), "both").await;
    daemon.not_ready(&broken.name, "FAILED").await;
    daemon.wait_for_state(&good.name, "RUNNING").await;
    good.rows(1..=100).await.expect_rows(1..=100).await;
    let path = format!("/ready?connector={}", good.name);
    until("the good one is ready", async || (daemon.get(&path).await.0 == 200).then_some(())).await;
    assert!(!daemon.ready().await, "one of two is not ready");
}

#[tokio::test]
async fn a_folder_of_files_is_a_daemon_of_as_many_connectors() {
    let servers = Arc::new(Servers::shared().await);
    let mut one = Shop::on(&servers, "folder-a").await;
    let mut two = Shop::on(&servers, "folder-b").await;
    let folder = one.dir().join("connectors");
    std::fs::create_dir(&folder).expect("a folder in a temporary directory");
    one.file.write(&folder.join("a.toml"));
    two.file.write(&folder.join("b.toml"));
    let daemon = Daemon::start(&[&folder], one.dir(), "folder").await;
    for shop in [&mut one, &mut two] {
        daemon.wait_for_state(&shop.name, "RUNNING").await;
        shop.rows(1..=20).await.expect_rows(1..=20).await;
    }
    until("both are ready", async || daemon.ready().await.then_some(())).await;
}
