//! Several instances of one connector that stand by for each other: one is active, and the next one takes over.

use std::time::{Duration, Instant};

use millrace_e2e::{Daemon, Shop, until, within};

/// What is promised after an end that nobody announced.
const TAKEN_OVER: Duration = Duration::from_secs(10);
/// What the machine may add to a promise while other tests run on it.
const SLOW: Duration = Duration::from_secs(60);
/// A stopped instance keeps the slot until the server gives its walsender up.
const SERVER_GIVES_UP: &str = "5s";

/// Two instances; the first is the active one.
struct Pair {
    // Before the shop, whose database and slot they use.
    active: Daemon,
    waiting: Daemon,
    shop: Shop,
}

impl Pair {
    async fn start(name: &str) -> Self {
        let mut shop = Shop::open(name).await;
        shop.file.set("high_availability", true);
        let database = shop.database().to_owned();
        shop.sql
            .run(&format!("ALTER DATABASE {database} SET wal_sender_timeout = '{SERVER_GIVES_UP}'"))
            .await;
        let active = shop.start_another().await;
        active.wait_for_state(&shop.name, "RUNNING").await;
        let waiting = shop.start_another().await;
        waiting.wait_for_state(&shop.name, "STANDBY").await;
        let mut pair = Self { shop, active, waiting };
        pair.shop.rows(1..=1).await.wait_for_events("public.orders", 1).await;
        pair
    }

    /// The other one has taken over; from now on it is the active one.
    async fn swapped(&mut self, limit: Duration) {
        self.waiting.wait_for_state_within(limit, &self.shop.name, "RUNNING").await;
        std::mem::swap(&mut self.active, &mut self.waiting);
    }

    async fn states(&self) -> Option<[String; 2]> {
        let name = &self.shop.name;
        Some([self.active.state(name).await?, self.waiting.state(name).await?])
    }

    /// Fails if either of them changes its state within a few sessions' time.
    async fn expect_peace(&self) {
        until("each knows its part", async || (self.states().await? == ["RUNNING", "STANDBY"]).then_some(()))
            .await;
        let since = Instant::now();
        while since.elapsed() < TAKEN_OVER {
            assert_eq!(self.states().await.expect("both answer"), ["RUNNING", "STANDBY"]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn the_one_that_stands_by_is_ready_and_says_who_is_active() {
    let pair = Pair::start("ha-status").await;
    let name = &pair.shop.name;
    assert!(pair.waiting.ready().await && pair.active.ready().await);
    let at_work = pair.active.own_status(name).await.expect("it answers");
    let active = at_work["active_instance"].as_str().expect("the active one names itself").to_owned();
    let status = until("the waiting one knows the active one", async || {
        let status = pair.waiting.own_status(name).await?;
        status["active_instance"].is_string().then_some(status)
    })
    .await;
    assert_eq!(status["active_instance"], active.as_str());
    assert!(status["reason"].as_str().is_some_and(|reason| reason.contains(&active)), "{status}");
    let (_, status) = pair.waiting.json(&format!("/connectors/{name}/status")).await;
    assert_eq!(status["connector"]["state"], "PAUSED");
}

#[tokio::test]
async fn after_kill_9_of_the_active_one_the_other_delivers_within_ten_seconds() {
    let mut pair = Pair::start("ha-kill").await;
    let load = pair.shop.load(2..=20_000, 20).await;
    pair.shop.wait_for_events("public.orders", 500).await;
    pair.active.kill();
    let killed = Instant::now();
    let seen = pair.shop.events("public.orders").await.len();
    pair.swapped(SLOW).await;
    within(SLOW, "the first event of the new one", async || {
        (pair.shop.events("public.orders").await.len() > seen).then_some(())
    })
    .await;
    let took = killed.elapsed();
    load.await.expect("the load is written");
    pair.shop.expect_rows_within(SLOW, 1..=20_000).await;
    assert!(took < TAKEN_OVER, "it took {took:?}");
}

#[tokio::test]
async fn an_active_one_that_ends_in_good_order_hands_over_at_once() {
    let mut pair = Pair::start("ha-term").await;
    let ended = Instant::now();
    assert!(pair.active.term().await.success());
    pair.swapped(SLOW).await;
    let took = ended.elapsed();
    pair.shop.rows(2..=100).await.expect_rows(1..=100).await;
    assert!(took < Duration::from_secs(6), "it was missed and did not leave: {took:?}");
}

#[tokio::test]
async fn one_that_was_stopped_and_goes_on_stands_by_and_the_turn_does_not_come_back_to_it() {
    let mut pair = Pair::start("ha-stop").await;
    let load = pair.shop.load(2..=60_000, 20).await;
    pair.shop.wait_for_events("public.orders", 200).await;
    for _ in 0..2 {
        pair.active.pause();
        pair.swapped(SLOW).await;
        pair.waiting.resume();
        pair.expect_peace().await;
    }
    // Shorter than anybody notices, and of the one that only waits.
    pair.active.pause();
    tokio::time::sleep(Duration::from_secs(2)).await;
    pair.active.resume();
    pair.waiting.pause();
    tokio::time::sleep(TAKEN_OVER).await;
    pair.waiting.resume();
    pair.expect_peace().await;
    load.await.expect("the load is written");
    pair.shop.expect_rows_within(SLOW, 1..=60_000).await;
}

#[tokio::test]
async fn of_two_that_start_at_the_same_time_one_works_and_one_stands_by() {
    let mut shop = Shop::open("ha-starts").await;
    shop.file.set("high_availability", true);
    let (path, dir) = (shop.write_file(), shop.dir().to_owned());
    let files = [path.as_path()];
    let (one, two) = tokio::join!(Daemon::start(&files, &dir, "one"), Daemon::start(&files, &dir, "two"));
    let name = shop.name.clone();
    within(SLOW, "one works and one stands by", async || {
        let mut states = [one.state(&name).await?, two.state(&name).await?];
        states.sort();
        (states == ["RUNNING", "STANDBY"]).then_some(())
    })
    .await;
    shop.rows(1..=1_000).await.expect_rows(1..=1_000).await;
    let restarts =
        [one.metric("millrace_restarts_total", &name), two.metric("millrace_restarts_total", &name)];
    let [one, two] = restarts;
    assert_eq!((one.await, two.await), (Some(0.0), Some(0.0)), "they shut each other out");
}

#[tokio::test]
async fn a_turn_topic_that_somebody_deletes_is_made_again_and_one_of_the_two_works_on() {
    let mut pair = Pair::start("ha-topic").await;
    let topic = format!("{}-turn", pair.shop.position_topic());
    pair.shop.broker().delete_topic(&topic).await;
    within(SLOW, "the topic is there again", async || {
        (pair.shop.broker().partitions(&topic).await == 1).then_some(())
    })
    .await;
    within(SLOW, "one works and one stands by", async || {
        let mut states = pair.states().await?;
        states.sort();
        (states == ["RUNNING", "STANDBY"]).then_some(())
    })
    .await;
    pair.shop.rows(2..=1_000).await.expect_rows(1..=1_000).await;
}
