//! Several instances of one connector that stand by for each other: one is active, and the next one takes over.

use std::time::{Duration, Instant};

use millrace_e2e::{Archive, Daemon, Orders, Origin, Shelves, Shop, Site, TRUST_COMMITS, id, until, within};

use super::mongodb_snapshots::assert_once;

/// What is promised after an end that nobody announced; 6 s of it pass before it is noticed.
const TAKEN_OVER: Duration = Duration::from_secs(10);
/// The same while other tests run on the machine: below any timeout of Kafka's transactions or of the source.
const TAKEN_OVER_BESIDE_OTHERS: Duration = Duration::from_secs(25);
/// A limit for what is promised at no time.
const SLOW: Duration = Duration::from_secs(120);
/// A stopped instance keeps the slot until the server gives its walsender up.
const SERVER_GIVES_UP: &str = "5s";

/// Two instances; the first is the active one.
struct Pair<O: Origin> {
    // Before the site, whose database and slot they use.
    active: Daemon,
    waiting: Daemon,
    site: Site<O>,
}

/// On a database of tables.
async fn pair(name: &str) -> Pair<Orders> {
    let shop = Shop::open(name).await;
    let database = shop.database().to_owned();
    let gives_up = format!("ALTER DATABASE {database} SET wal_sender_timeout = '{SERVER_GIVES_UP}'");
    shop.sql.run(&gives_up).await;
    let mut pair = Pair::of(shop).await;
    pair.site.rows(1..=1).await.wait_for_events("public.orders", 1).await;
    pair
}

/// On a database of documents.
async fn pair_over_documents(name: &str) -> Pair<Shelves> {
    let mut pair = Pair::of(Archive::open(name).await).await;
    pair.site.docs(1..=1).await.wait_for_events("papers", 1).await;
    pair
}

impl<O: Origin> Pair<O> {
    async fn of(mut site: Site<O>) -> Self {
        site.file.set("high_availability", true);
        let active = site.start_another().await;
        active.wait_for_state(&site.name, "RUNNING").await;
        let waiting = site.start_another().await;
        waiting.wait_for_state(&site.name, "STANDBY").await;
        Self { site, active, waiting }
    }

    /// The other one has taken over; from now on it is the active one.
    async fn swapped(&mut self, limit: Duration) {
        self.waiting.wait_for_state_within(limit, &self.site.name, "RUNNING").await;
        std::mem::swap(&mut self.active, &mut self.waiting);
    }

    /// Whichever is active is stopped and goes on when the other has taken over.
    async fn stop_each_in_turn(&mut self) {
        for _ in 0..2 {
            self.active.pause();
            self.swapped(SLOW).await;
            self.waiting.resume();
            self.expect_peace().await;
        }
    }

    async fn states(&self) -> Option<[String; 2]> {
        let name = &self.site.name;
        Some([self.active.state(name).await?, self.waiting.state(name).await?])
    }

    /// Whose turn it is, where both say the same, the active one works on it, and the other one stands by.
    async fn turn(&self) -> Option<String> {
        let name = &self.site.name;
        let [active, waiting] = [self.active.own_status(name).await?, self.waiting.own_status(name).await?];
        let turn = waiting["active_instance"].as_str()?;
        let parted = active["state"] != "STANDBY" && waiting["state"] == "STANDBY";
        (parted && active["active_instance"] == turn).then(|| turn.to_owned())
    }

    /// Fails if the turn moves within a few sessions' time. The active one may begin anew meanwhile, after a slow
    /// commit: it keeps its turn.
    async fn expect_peace(&self) {
        until("each knows its part", async || (self.states().await? == ["RUNNING", "STANDBY"]).then_some(()))
            .await;
        let turn = until("both say whose turn it is", async || self.turn().await).await;
        let since = Instant::now();
        while since.elapsed() < TAKEN_OVER {
            assert_eq!(self.turn().await.as_ref(), Some(&turn), "{:?}", self.states().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn the_one_that_stands_by_is_ready_and_says_who_is_active() {
    let pair = pair("ha-status").await;
    let name = &pair.site.name;
    until("both are ready", async || (pair.waiting.ready().await && pair.active.ready().await).then_some(()))
        .await;
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
async fn after_kill_9_of_the_active_one_the_other_delivers_before_any_timeout_of_others() {
    let mut pair = pair("ha-kill").await;
    let load = pair.site.load(2..=20_000, 20).await;
    pair.site.wait_for_events("public.orders", 500).await;
    pair.active.kill();
    let killed = Instant::now();
    let seen = pair.site.events("public.orders").await.len();
    pair.swapped(SLOW).await;
    within(SLOW, "the first event of the new one", async || {
        (pair.site.events("public.orders").await.len() > seen).then_some(())
    })
    .await;
    let took = killed.elapsed();
    load.await.expect("the load is written");
    pair.site.expect_rows_within(SLOW, 1..=20_000).await;
    assert!(took < TAKEN_OVER_BESIDE_OTHERS, "it took {took:?}");
}

#[tokio::test]
async fn after_kill_9_of_the_active_one_the_other_delivers_documents_before_any_timeout_of_others() {
    let mut pair = pair_over_documents("ha-documents-kill").await;
    let load = pair.site.load(2..=2_000, 20).await;
    pair.site.wait_for_events("papers", 500).await;
    pair.active.kill();
    let killed = Instant::now();
    // All of the load may have come before the end.
    pair.site.docs(2_001..=2_001).await;
    within(SLOW, "a document of after the end", async || {
        pair.site.events("papers").await.iter().any(|event| id(event) == Some(2_001)).then_some(())
    })
    .await;
    let took = killed.elapsed();
    load.await.expect("the load is written");
    pair.swapped(SLOW).await;
    // The late one may stand anywhere among those of the load.
    let events = pair.site.settled_within(SLOW).await;
    assert_once(&events);
    let mut ids: Vec<_> = events.iter().filter(|event| event.op() == "c").filter_map(id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=2_001).collect::<Vec<_>>());
    assert!(took < TAKEN_OVER_BESIDE_OTHERS, "it took {took:?}");
}

#[tokio::test]
async fn one_that_was_stopped_stands_by_and_its_documents_come_once() {
    let mut pair = pair_over_documents("ha-documents-stop").await;
    let load = pair.site.load(2..=20_000, 20).await;
    pair.site.wait_for_events("papers", 200).await;
    pair.stop_each_in_turn().await;
    load.await.expect("the load is written");
    pair.site.expect_docs_within(SLOW, 1..=20_000).await;
}

#[tokio::test]
async fn an_active_one_that_ends_in_good_order_hands_over_at_once() {
    let mut pair = pair("ha-term").await;
    assert!(pair.active.term().await.success());
    let ended = Instant::now();
    within(SLOW, "the other one has the turn", async || {
        (pair.waiting.state(&pair.site.name).await? != "STANDBY").then_some(())
    })
    .await;
    let took = ended.elapsed();
    pair.swapped(SLOW).await;
    pair.site.rows(2..=100).await.expect_rows(1..=100).await;
    // Heard of each second, it would be missed 6 s later.
    assert!(took < Duration::from_secs(5), "it was missed and did not leave: {took:?}");
}

#[tokio::test]
async fn one_that_was_stopped_and_goes_on_stands_by_and_the_turn_does_not_come_back_to_it() {
    let mut pair = pair("ha-stop").await;
    let load = pair.site.load(2..=60_000, 20).await;
    pair.site.wait_for_events("public.orders", 200).await;
    pair.stop_each_in_turn().await;
    // Shorter than anybody notices, and of the one that only waits.
    pair.active.pause();
    tokio::time::sleep(Duration::from_secs(2)).await;
    pair.active.resume();
    pair.waiting.pause();
    tokio::time::sleep(TAKEN_OVER).await;
    pair.waiting.resume();
    pair.expect_peace().await;
    load.await.expect("the load is written");
    pair.site.expect_rows_within(SLOW, 1..=60_000).await;
}

#[tokio::test]
async fn of_two_that_start_at_the_same_time_one_works_and_one_stands_by() {
    let mut shop = Shop::open("ha-starts").await;
    shop.file.set("high_availability", true);
    let (path, dir) = (shop.write_file(), shop.dir().to_owned());
    let files = [path.as_path()];
    let start = |name| Daemon::start_ordered(&files, &dir, name, Some(TRUST_COMMITS));
    let (one, two) = tokio::join!(start("one"), start("two"));
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
    let mut pair = pair("ha-topic").await;
    let topic = format!("{}-turn", pair.site.position_topic());
    pair.site.broker().delete_topic(&topic).await;
    within(SLOW, "the topic is there again", async || {
        (pair.site.broker().partitions(&topic).await == 1).then_some(())
    })
    .await;
    within(SLOW, "one works and one stands by", async || {
        let mut states = pair.states().await?;
        states.sort();
        (states == ["RUNNING", "STANDBY"]).then_some(())
    })
    .await;
    pair.site.rows(2..=1_000).await.expect_rows(1..=1_000).await;
}
