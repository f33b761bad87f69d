//! The loop with a scripted source and a sink of nothing.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_core::batch::EncodedBatch;
use millrace_core::error::Result;
use millrace_core::position::{Notes, Position};
use millrace_core::report::Report;
use millrace_core::sink::{SchemaType, Targets, Topic};
use millrace_core::source::Feed;
use millrace_core::turn::{self, Standing};

use super::super::orders::Orders;
use super::*;

/// Fails as scripted, attempt by attempt; then streams nothing until it is told to stop.
struct Script(VecDeque<Error>);

impl Source for Script {
    async fn check(&self) -> Result<Report> {
        Ok(Report::default())
    }
    async fn preconditions(&self, _progress: &Progress) -> Result<()> {
        Ok(())
    }
    async fn run(&mut self, _from: Option<Position>, feed: Feed) -> Result<()> {
        if let Some(error) = self.0.pop_front() {
            return Err(error);
        }
        feed.progress.show(State::Running, None, None);
        while !feed.stopping() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

struct Nothing;

#[derive(Clone)]
struct NoTargets;

impl Targets for NoTargets {
    async fn topic(&self, _name: &str) -> Result<Topic> {
        Ok(Topic { index: 0, partitions: 1, record_bytes_max: 1000 })
    }
    async fn schema(&self, _of: SchemaType, _subject: &str, _text: &str) -> Result<u32> {
        Ok(1)
    }
}

impl Sink for Nothing {
    type Targets = NoTargets;
    async fn check(&self) -> Result<Report> {
        Ok(Report::default())
    }
    async fn open(&mut self) -> Result<Option<Position>> {
        Ok(None)
    }
    fn notes(&mut self) -> Notes {
        Notes::default()
    }
    fn targets(&self) -> NoTargets {
        NoTargets
    }
    async fn send(&mut self, _batch: &EncodedBatch) -> Result<()> {
        Ok(())
    }
    async fn settled(&mut self) -> Result<Position> {
        std::future::pending().await
    }
    async fn idle(&mut self) -> Result<()> {
        Ok(())
    }
    async fn close(&mut self) -> Result<Option<Position>> {
        Ok(None)
    }
}

struct Running {
    task: tokio::task::JoinHandle<Ended>,
    progress: Arc<Progress>,
    stopping: watch::Sender<bool>,
    orders: Orders,
}

fn start(script: impl IntoIterator<Item = Error>) -> Running {
    start_in_turn(script, None)
}

fn start_in_turn(script: impl IntoIterator<Item = Error>, turn: Option<Turn>) -> Running {
    let progress = Arc::new(Progress::default());
    let (stopping, listen) = watch::channel(false);
    let script = Script(script.into_iter().collect());
    let orders = Orders::new(Wanted::Running);
    let told = orders.told(listen);
    let task = tokio::spawn(run(script, Nothing, Format::new("shop"), progress.clone(), told, turn));
    Running { task, progress, stopping, orders }
}

async fn until(progress: &Progress, state: State) {
    while progress.shown().state != state {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_comes_back_is_found_again_and_the_attempts_are_counted() {
    let away = || Error::transient("cannot reach db:5432");
    let running = start([away(), away(), away()]);
    until(&running.progress, State::Running).await;
    assert_eq!(running.progress.restarts.load(Ordering::Relaxed), 3);
    running.stopping.send_replace(true);
    assert_eq!(running.task.await.unwrap(), Ended::Stopped);
    assert_eq!(running.progress.shown().state, State::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_away_shows_degraded_with_reason_and_hint() {
    let running = start((0..50).map(|_| Error::transient("cannot reach db:5432").hint("start it")));
    until(&running.progress, State::Degraded).await;
    let shown = running.progress.shown();
    assert_eq!(shown.reason.as_deref(), Some("cannot reach db:5432"));
    assert_eq!(shown.hint.as_deref(), Some("start it"));
    running.stopping.send_replace(true);
    assert_eq!(running.task.await.unwrap(), Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_lost_position_ends_the_connector_in_its_own_state() {
    let lost = Error::fatal("slot orders is gone").state(State::PositionLost).hint("resnapshot");
    let running = start([lost]);
    assert_eq!(running.task.await.unwrap(), Ended::Failed(Kind::Fatal));
    let shown = running.progress.shown();
    assert_eq!((shown.state, shown.hint.as_deref()), (State::PositionLost, Some("resnapshot")));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_stops_the_connector_is_counted() {
    let running = start([Error::transient("away"), Error::record("table public.orders: too large")]);
    assert_eq!(running.progress.failed_events.load(Ordering::Relaxed), 0);
    let progress = running.progress.clone();
    assert_eq!(running.task.await.unwrap(), Ended::Failed(Kind::Record));
    assert_eq!(progress.failed_events.load(Ordering::Relaxed), 1);
}

#[test]
fn only_what_may_pass_by_itself_is_tried_again() {
    for (kind, expected) in [
        (Kind::Config, Next::End),
        (Kind::Transient, Next::Again),
        (Kind::Record, Next::End),
        (Kind::Fenced, Next::End),
        (Kind::Fatal, Next::End),
    ] {
        assert_eq!(next(kind, false), expected, "{kind:?}");
        let standing_by = if kind == Kind::Fenced { Next::Again } else { expected };
        assert_eq!(next(kind, true), standing_by, "{kind:?}");
    }
}

/// Proves every turn that it gives.
fn give(mut giver: turn::Giver, mut mine: watch::Receiver<bool>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let standing = Standing {
                mine: *mine.borrow_and_update(),
                active: Some("somebody".to_owned()),
                trouble: None,
            };
            giver.standing.send_replace(standing);
            tokio::select! {
                proof = giver.proofs.recv() => match proof {
                    Some(proof) => proof.send(*mine.borrow()).expect("somebody waits for it"),
                    None => return,
                },
                _ = mine.changed() => {}
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_connector_works_only_in_its_turn_and_leaves_when_it_stops() {
    let (turn, giver) = turn::turn();
    let (mine, told) = watch::channel(false);
    let membership = give(giver, told);
    let running = start_in_turn([], Some(turn));
    for _ in 0..2 {
        until(&running.progress, State::Standby).await;
        mine.send_replace(true);
        until(&running.progress, State::Running).await;
        mine.send_replace(false);
    }
    until(&running.progress, State::Standby).await;
    assert_eq!(running.progress.restarts.load(Ordering::Relaxed), 0);
    running.stopping.send_replace(true);
    assert_eq!(running.task.await.unwrap(), Ended::Stopped);
    membership.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_lost_for_a_moment_is_no_end_without_a_reason() {
    let (turn, mut giver) = turn::turn();
    let running = start_in_turn([], Some(turn));
    let standing = |mine| Standing { mine, active: Some("me".to_owned()), trouble: None };
    giver.standing.send_replace(standing(true));
    giver.proofs.recv().await.unwrap().send(true).unwrap();
    until(&running.progress, State::Running).await;
    giver.standing.send_replace(standing(false));
    // The attempt is told, and its turn is back before it has ended.
    tokio::task::yield_now().await;
    giver.standing.send_replace(standing(true));
    giver.proofs.recv().await.unwrap().send(true).unwrap();
    until(&running.progress, State::Running).await;
    assert_eq!(running.progress.restarts.load(Ordering::Relaxed), 0);
    assert_eq!(running.progress.shown().reason, None);
    running.stopping.send_replace(true);
    drop(giver);
    assert_eq!(running.task.await.unwrap(), Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_was_fenced_in_its_turn_tries_again() {
    let (turn, giver) = turn::turn();
    let (_mine, told) = watch::channel(true);
    give(giver, told);
    let running = start_in_turn([Error::fenced("another instance took over")], Some(turn));
    until(&running.progress, State::Running).await;
    assert_eq!(running.progress.restarts.load(Ordering::Relaxed), 1);
    running.stopping.send_replace(true);
    assert_eq!(running.task.await.unwrap(), Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_paused_connector_waits_without_an_attempt_and_goes_on_when_it_is_resumed() {
    let running = start([]);
    until(&running.progress, State::Running).await;
    running.orders.want(Wanted::Paused);
    until(&running.progress, State::Paused).await;
    running.orders.want(Wanted::Stopped);
    until(&running.progress, State::Stopped).await;
    running.orders.want(Wanted::Running);
    until(&running.progress, State::Running).await;
    assert_eq!(running.progress.restarts.load(Ordering::Relaxed), 0, "nothing failed");
    running.stopping.send_replace(true);
    assert_eq!(running.task.await.unwrap(), Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_connector_whose_peer_is_away_can_be_paused_all_the_same() {
    let running = start((0..1_000).map(|_| Error::transient("cannot reach db:5432")));
    until(&running.progress, State::Degraded).await;
    running.orders.want(Wanted::Paused);
    until(&running.progress, State::Paused).await;
    running.stopping.send_replace(true);
    assert_eq!(running.task.await.unwrap(), Ended::Stopped);
    assert_eq!(running.progress.shown().state, State::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_when_it_is_to_begin_anew_and_shows_no_end() {
    let running = start([]);
    until(&running.progress, State::Running).await;
    running.orders.begin_anew();
    assert_eq!(running.task.await.unwrap(), Ended::Stopped);
    assert_ne!(running.progress.shown().state, State::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_pause_keeps_the_turn() {
    let (turn, giver) = turn::turn();
    let (mine, told) = watch::channel(true);
    let membership = give(giver, told);
    let running = start_in_turn([], Some(turn));
    until(&running.progress, State::Running).await;
    running.orders.want(Wanted::Paused);
    until(&running.progress, State::Paused).await;
    assert!(!membership.is_finished(), "it left");
    mine.send_replace(false);
    until(&running.progress, State::Standby).await;
    mine.send_replace(true);
    until(&running.progress, State::Paused).await;
    running.stopping.send_replace(true);
    assert_eq!(running.task.await.unwrap(), Ended::Stopped);
    membership.await.unwrap();
}
