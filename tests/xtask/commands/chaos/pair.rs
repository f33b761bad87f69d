//! F11: two daemons with one file. Whatever is done to the one at work, in the end exactly one is, and the
//! other one knows it. With high availability, so that the other takes over by itself.

use std::time::{Duration, Instant};

use millrace_ledger::Result;
use millrace_ledger::daemon::{Daemon, State};
use millrace_ledger::run::{Stage, Struck};

/// Beyond the time after which the server gives a silent reader's slot away.
const PAUSE_MIN_MS: u64 = 5_500;
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(60);
/// After a kill -9.
const KILL_TAKEN_OVER_WITHIN: Duration = Duration::from_secs(10);
/// States of a daemon that is not the one at work, and says so.
const ASIDE: [&str; 4] = ["STANDBY", "FENCED", "DEGRADED", "STARTING"];

pub async fn strike(stage: &mut Stage, slack: u32) -> Result<Struck> {
    let mut rival = stage.daemon.twin()?;
    rival.start()?;
    wait_for(&rival, "the second one steps aside", |state| ASIDE.contains(&state)).await?;
    let killed = stage.random.percent(30);
    let began = Instant::now();
    let what = if killed {
        stage.daemon.kill().await?;
        "the one at work killed".to_owned()
    } else {
        let pause = Duration::from_millis(PAUSE_MIN_MS) + stage.millis(4_000);
        stage.daemon.pause()?;
        tokio::time::sleep(pause).await;
        stage.daemon.resume()?;
        format!("the one at work stopped for {:.1} s", pause.as_secs_f64())
    };
    if killed {
        wait_for(&rival, "the second one takes over", |state| state == "RUNNING").await?;
        let took = began.elapsed();
        stage.daemon = rival;
        if took > KILL_TAKEN_OVER_WITHIN * slack {
            return Err(format!("the second one took {:.1} s to take over", took.as_secs_f64()).into());
        }
        return Ok(Struck { what: format!("{what}, the other took over"), free_since: Some(began) });
    }
    let first_works = one_at_work(&stage.daemon, &rival).await?;
    if !first_works {
        std::mem::swap(&mut stage.daemon, &mut rival);
    }
    rival.kill().await?;
    Ok(Struck::now(format!("{what}, the {} went on", if first_works { "same" } else { "other" })))
}

/// Waits until exactly one works, and the other one is aside; whether it is the first.
async fn one_at_work(first: &Daemon, second: &Daemon) -> Result<bool> {
    let deadline = Instant::now() + TAKEN_OVER_WITHIN;
    let mut since = None;
    loop {
        let states = (first.state().await, second.state().await);
        let works = |state: &Option<State>| state.as_ref().is_some_and(|state| state.name == "RUNNING");
        let (one, two) = (works(&states.0), works(&states.1));
        match since {
            // It must last, for the one that was stopped may not know yet.
            Some((seen, at)) if seen == (one, two) && one != two => {
                let at: Instant = at;
                if at.elapsed() > Duration::from_secs(2) {
                    return Ok(one);
                }
            }
            _ => since = Some(((one, two), Instant::now())),
        }
        if Instant::now() >= deadline {
            return Err(format!("not exactly one works: {states:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn wait_for(daemon: &Daemon, what: &str, fits: impl Fn(&str) -> bool) -> Result<()> {
    let deadline = Instant::now() + TAKEN_OVER_WITHIN;
    loop {
        let state = daemon.state().await.unwrap_or_default();
        if fits(&state.name) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("{what}: the daemon says {state:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
