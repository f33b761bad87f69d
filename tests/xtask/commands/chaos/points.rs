//! F2: the daemon dies at a named point. [`POINTS`] says of each point how the daemon is brought to it; the
//! names are those of the daemon's own list.

use std::time::{Duration, Instant};

use millrace_ledger::Result;
use millrace_ledger::broker::Broker;
use millrace_ledger::proxy::Mode;
use millrace_ledger::run::{Stage, Struck};
use millrace_ledger::writers::{Large, write_large};

use super::late::transactional_id;
use super::scene::Scene;

/// What has to be done so that the daemon passes a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing was there before: only on the way to the first position, or to a table's first row.
    First,
    /// It passes it by itself, at the latest at this many times.
    Often(u64),
    /// It passes it when nothing is written.
    Idle,
    /// Its connection to the database is taken away while a transaction is open.
    Abort,
    /// Somebody else takes over its transactional id.
    Fence,
    Term,
    /// Not by itself: the proxy keeps the broker's answer back, and then the daemon is killed.
    Unanswered,
}

/// Every point, and the way to it; the first ones in the order in which a first start passes them. Those of snapshots and dead letters come with what they are of.
pub const POINTS: &[(&str, How)] = &[
    ("topic-created", How::First),
    ("creating-committed", How::First),
    ("slot-created", How::First),
    ("first-position-committed", How::First),
    ("before-init", How::Often(2)),
    ("after-init", How::Often(2)),
    ("claimed", How::Often(2)),
    ("position-read", How::Often(1)),
    ("slot-checked", How::Often(1)),
    ("schema-registered", How::Often(6)),
    ("record-enqueued", How::Often(3_000)),
    ("batch-enqueued", How::Often(40)),
    ("position-enqueued", How::Often(40)),
    ("flushed", How::Often(40)),
    ("committed", How::Often(40)),
    ("unconfirmed", How::Often(20)),
    ("confirm-sent", How::Often(4)),
    ("idle-committed", How::Idle),
    ("before-abort", How::Abort),
    ("aborted", How::Abort),
    ("fenced", How::Fence),
    ("stopping", How::Term),
    ("closed", How::Term),
    ("commit-unanswered", How::Unanswered),
];

/// Passed inside a source transaction that is larger than the cut size, and while rows are read: rows of their own
/// do that; and where something cannot be delivered or is replayed, which tests of the dead letters do.
#[cfg(test)]
const ELSEWHERE: &[&str] =
    &["cut-committed", "chunk-placed", "letter-placed", "replay-flushed", "replay-committed"];

pub const DIES_WITHIN: Duration = Duration::from_secs(60);
/// It may take some tries to meet an open transaction.
const ABORTS_WITHIN: Duration = Duration::from_secs(240);
/// A transaction of many batches, which the daemon is at for a second or more; it is cut off at a moment in that time.
const ABORTED_ROWS: u64 = 40_000;
const ABORTED_AFTER_MS: u64 = 1_500;
/// Between two looks whether the daemon reads.
const ABORT_EVERY: Duration = Duration::from_millis(100);

/// A first start that dies at each place on its way, and one more that dies at a data topic's creation.
pub async fn first_start(stage: &mut Stage) -> Result<()> {
    for (name, _) in POINTS.iter().filter(|(_, how)| *how == How::First) {
        stage.daemon.start_ordered(Some(&format!("crash:{name}:1")))?;
        stage.daemon.died(DIES_WITHIN).await?;
    }
    stage.first_start().await?;
    stage.daemon.kill().await?;
    let table = 1 + stage.random.below(3);
    stage.daemon.start_ordered(Some(&format!("crash:topic-created:{table}")))?;
    stage.set_writers_to_work().await?;
    stage.daemon.died(DIES_WITHIN).await?;
    stage.after_death().await
}

/// The points that a daemon at work passes.
pub fn each() -> impl Iterator<Item = &'static (&'static str, How)> {
    POINTS.iter().filter(|(_, how)| *how != How::First)
}

pub async fn strike(scene: &Scene, stage: &mut Stage, turn: usize) -> Result<Struck> {
    let points: Vec<_> = each().collect();
    let (name, how) = points[turn % points.len()];
    if *how == How::Unanswered {
        return unanswered(scene, stage).await;
    }
    stage.daemon.kill().await?;
    let times = match how {
        How::Often(most) => 1 + stage.random.below(*most),
        _ => 1,
    };
    stage.writers_pause(*how == How::Idle);
    stage.daemon.start_ordered(Some(&format!("crash:{name}:{times}")))?;
    match how {
        How::First | How::Often(_) | How::Idle | How::Unanswered => {}
        How::Abort => {
            stage.running(DIES_WITHIN).await?;
            cut_off_until_dead(scene, stage).await?;
            scene.postgres_link.set(Mode::Pass);
        }
        How::Fence => {
            stage.running(DIES_WITHIN).await?;
            let broker = Broker::at(&stage.config.bootstrap);
            let nth = stage.random.below_usize(2);
            broker.fence(&transactional_id(stage, nth)).await;
        }
        How::Term => {
            stage.running(DIES_WITHIN).await?;
            stage.daemon.term()?;
        }
    }
    let died = stage.daemon.died(DIES_WITHIN).await;
    stage.writers_pause(false);
    if let Err(error) = died {
        let state = stage.daemon.state().await;
        return Err(format!("{name}, at the {times}. time: {error}; the daemon says {state:?}").into());
    }
    stage.after_death().await?;
    let free_since = Some(stage.daemon.started().unwrap_or_else(Instant::now));
    Ok(Struck { what: format!("died at {name}, the {times}. time"), free_since })
}

/// The commit has reached the broker, and the daemon never hears of it.
async fn unanswered(scene: &Scene, stage: &mut Stage) -> Result<Struck> {
    let ends = scene.kafka_link.ends().ok_or("the broker's proxy knows Kafka")?;
    ends.withhold();
    ends.withheld(DIES_WITHIN).await?;
    stage.kill_and_settle().await?;
    let free_since = Some(stage.daemon.started().unwrap_or_else(Instant::now));
    Ok(Struck { what: "killed with its commit unanswered".to_owned(), free_since })
}

/// Cuts its connections to the database again and again: sooner or later a transaction is open then. What is whole
/// is committed also then, so each time there is one that takes a while to come. Cut on the way, because what the
/// server has sent arrives, also when the server goes away.
async fn cut_off_until_dead(scene: &Scene, stage: &mut Stage) -> Result<()> {
    let admin = stage.admin().await?;
    let reads = "SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active";
    let deadline = Instant::now() + ABORTS_WITHIN;
    while stage.daemon.still_runs().is_ok() && Instant::now() < deadline {
        scene.postgres_link.set(Mode::Cut);
        write_large(
            &stage.config.postgres_url,
            stage.random.draw(),
            Large { rows: ABORTED_ROWS, text_bytes: 0 },
        )
        .await?;
        scene.postgres_link.set(Mode::Pass);
        while admin.query_opt(reads, &[&stage.config.slot()]).await?.is_none()
            && stage.daemon.still_runs().is_ok()
            && Instant::now() < deadline
        {
            tokio::time::sleep(ABORT_EVERY).await;
        }
        tokio::time::sleep(stage.millis(ABORTED_AFTER_MS)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The daemon names its points when it is given an order that it does not know.
    #[test]
    fn there_is_a_way_to_every_point_of_the_daemon() {
        let binary = crate::commands::binary::target().unwrap().join("debug/millrace");
        if !binary.exists() {
            return assert!(!POINTS.is_empty(), "the daemon is not built: its own list cannot be asked for");
        }
        let output =
            Command::new(binary).args(["run", "nowhere.toml"]).env("MILLRACE_CHAOS", "?").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let (_, list) = text.split_once("takes the points ").expect("the daemon lists its points");
        let known = |name: &str| POINTS.iter().any(|(point, _)| *point == name) || ELSEWHERE.contains(&name);
        for name in list.split_whitespace() {
            assert!(known(name), "no way leads to {name}");
        }
    }
}
