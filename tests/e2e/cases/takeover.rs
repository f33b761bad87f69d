//! Two daemons with one file: at most one delivers, and what the other still does doubles nothing.

use millrace_e2e::{Daemon, Shop, until, within};
use std::time::Duration;

/// A stopped instance keeps the slot until the server gives its walsender up.
const SERVER_GIVES_UP: &str = "5s";
const TAKEN_OVER: Duration = Duration::from_secs(150);

#[tokio::test]
async fn an_old_instance_that_goes_on_after_a_new_one_took_over_doubles_nothing() {
    let mut shop = Shop::open("takeover").await;
    let database = shop.database().to_owned();
    shop.sql.run(&format!("ALTER DATABASE {database} SET wal_sender_timeout = '{SERVER_GIVES_UP}'")).await;
    shop.start().await.rows(1..=1).await.wait_for_events("public.orders", 1).await;
    let load = shop.load(2..=60_000, 50).await;
    shop.wait_for_events("public.orders", 2_000).await;
    let old = shop.take_daemon();
    old.pause();
    let before = shop.events("public.orders").await.len();

    shop.start_in_any_state().await;
    let name = shop.name.clone();
    within(TAKEN_OVER, "the new instance delivers", async || {
        (shop.events("public.orders").await.len() > before + 1_000).then_some(())
    })
    .await;
    old.resume();
    shop.wait_for_events("public.orders", 10_000).await;
    load.await.expect("the load is written");
    shop.expect_rows_within(TAKEN_OVER, 1..=60_000).await;

    // One of the two works, and the other one knows it: it was shut out, or waits for the slot.
    let new = shop.take_daemon();
    let states = until("one works and the other does not", async || {
        let states = [old.state(&name).await?, new.state(&name).await?];
        (states.iter().filter(|state| *state == "RUNNING").count() == 1).then_some(states)
    })
    .await;
    let active = states.iter().position(|state| state == "RUNNING").expect("just counted");
    assert!(["FENCED", "DEGRADED"].contains(&states[1 - active].as_str()), "{states:?}");
    let (mut active, mut idle) = if active == 0 { (old, new) } else { (new, old) };
    idle.kill();
    shop.rows(60_001..=60_100).await;
    shop.expect_rows(1..=60_100).await;
    assert_eq!(active.ended(), None, "the one that works goes on");
    active.kill();
}

#[tokio::test]
async fn two_simultaneous_starts_leave_one_at_work() {
    let mut shop = Shop::open("two-starts").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    shop.wait_for_slot(false).await;
    let path = shop.write_file();
    let dir = shop.dir().to_owned();
    let files = [path.as_path()];
    let (one, two) = tokio::join!(Daemon::start(&files, &dir, "one"), Daemon::start(&files, &dir, "two"));
    shop.rows(11..=1_000).await.expect_rows_within(TAKEN_OVER, 1..=1_000).await;
    let name = shop.name.clone();
    until("exactly one runs", async || {
        let states = [one.state(&name).await?, two.state(&name).await?];
        (states.iter().filter(|state| *state == "RUNNING").count() == 1).then_some(())
    })
    .await;
    shop.rows(1_001..=1_100).await.expect_rows(1..=1_100).await;
}
