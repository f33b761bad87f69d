//! F8: the link to one server fails in one way.

use std::time::Duration;

use millrace_ledger::Result;
use millrace_ledger::proxy::{Mode, Proxy};
use millrace_ledger::run::{Stage, Struck};

use super::scene::Scene;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Postgres,
    Kafka,
    Registry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Cut,
    Reset,
    HalfOpen,
    Delay,
    Slow,
}

/// Each way of each link.
pub const EACH: [(Link, Way); 15] = {
    use Link::{Kafka, Postgres, Registry};
    use Way::{Cut, Delay, HalfOpen, Reset, Slow};
    [
        (Postgres, Cut),
        (Kafka, Cut),
        (Registry, Cut),
        (Postgres, Reset),
        (Kafka, Reset),
        (Registry, Reset),
        (Postgres, HalfOpen),
        (Kafka, HalfOpen),
        (Registry, HalfOpen),
        (Postgres, Delay),
        (Kafka, Delay),
        (Registry, Delay),
        (Postgres, Slow),
        (Kafka, Slow),
        (Registry, Slow),
    ]
};

/// More than the daemon has when it works in peace, also in its debug build.
const MEMORY_KB_MAX: u64 = 512 * 1024;

pub async fn strike(scene: &Scene, stage: &mut Stage, turn: usize) -> Result<Struck> {
    let (link, way) = EACH[turn % EACH.len()];
    let proxy = match link {
        Link::Postgres => &scene.postgres_link,
        Link::Kafka => &scene.kafka_link,
        Link::Registry => &scene.registry_link,
    };
    let mode = match way {
        Way::Cut => Mode::Cut,
        Way::Reset => Mode::Reset,
        Way::HalfOpen => Mode::HalfOpen,
        Way::Delay => Mode::Delay(Duration::from_millis(5) + stage.millis(400)),
        Way::Slow => Mode::Slow(u32::try_from(20_000 + stage.random.below(300_000))?),
    };
    let lasts = Duration::from_millis(100) + stage.millis(if way == Way::HalfOpen { 9_000 } else { 3_000 });
    through(proxy, mode, lasts, link == Link::Registry, stage).await?;
    let peak = stage.daemon.memory_peak_kb().unwrap_or(0);
    if peak > MEMORY_KB_MAX {
        return Err(format!("the daemon took {peak} kB of memory").into());
    }
    Ok(Struck::now(format!("{link:?} {mode:?} for {:.1} s", lasts.as_secs_f64())))
}

/// The registry is asked after a start only, so there the daemon is started anew meanwhile.
async fn through(proxy: &Proxy, mode: Mode, lasts: Duration, anew: bool, stage: &mut Stage) -> Result<()> {
    proxy.set(mode);
    if anew {
        stage.kill_and_settle().await?;
    }
    tokio::time::sleep(lasts).await;
    proxy.set(Mode::Pass);
    Ok(())
}
