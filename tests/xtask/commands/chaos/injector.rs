//! Strikes as a row says; each row's deed is a function of a module of its own.

use std::time::{Duration, Instant};

use millrace_ledger::Result;
use millrace_ledger::run::{Fault, Kills, Stage, Struck};
use millrace_ledger::writers::Large;
use xtask::services::Shutdown;

use super::memory::{Growth, Sampler};
use super::row::Row;
use super::scene::Scene;
use super::{away, clock, disk, large, late, links, pair, points, read_rows, registry, rotation};

/// Rows that a soak picks from.
const SOAK: [Row; 9] = [Row::F1, Row::F2, Row::F3, Row::F4, Row::F5, Row::F8, Row::F10, Row::F11, Row::F13];
/// Of these, after the first trials of a run, those that leave the daemon alive: only a process that lives for
/// a while shows whether its memory stays flat.
const SOAK_ALIVE: [Row; 4] = [Row::F3, Row::F5, Row::F8, Row::F10];
const KILLING_TRIALS: u32 = 5;
/// Beyond the transaction's timeout and the broker's next look.
const PAUSE_MIN_MS: u64 = 18_500;

pub struct Injector<'a> {
    pub row: Row,
    scene: &'a Scene,
    /// Which of several kinds of the row's fault comes next.
    turn: usize,
    /// Of the one large transaction.
    large: Large,
    /// How many times the time that it should take a recovery may take.
    slack: u32,
    /// Trials of this run that are done.
    done: u32,
    /// Of the daemon in a soak.
    memory: Option<Sampler>,
}

impl<'a> Injector<'a> {
    pub fn new(row: Row, scene: &'a Scene, turn: usize, large: Large, slack: u32) -> Injector<'a> {
        Injector { row, scene, turn, large, slack, done: 0, memory: None }
    }

    /// What a soak showed of the daemon's memory.
    pub fn memory(&self) -> Option<Growth> {
        self.memory.as_ref().and_then(Sampler::growth)
    }

    /// What a soak does next, and which of its kinds.
    fn pick(&self, stage: &mut Stage) -> (Row, usize) {
        if self.done < KILLING_TRIALS {
            return (*stage.random.pick(&SOAK), self.turn);
        }
        let alive = |nth: &usize| links::EACH[*nth].0 != links::Link::Registry;
        let turns: Vec<usize> = (0..links::EACH.len()).filter(alive).collect();
        match *stage.random.pick(&SOAK_ALIVE) {
            // The registry's link is met after a start only.
            Row::F8 => (Row::F8, *stage.random.pick(&turns)),
            row => (row, self.turn),
        }
    }

    async fn strike_as(&mut self, row: Row, turn: usize, stage: &mut Stage) -> Result<Struck> {
        match row {
            Row::F1 => Kills.strike(stage).await,
            Row::F1Rows => read_rows::strike(stage, turn).await,
            Row::F2 => points::strike(self.scene, stage, turn).await,
            Row::F3 => self.break_the_broker(stage, turn).await,
            Row::F3Long => away::strike(self.scene, stage).await,
            Row::F4 => self.kill_both(stage).await,
            Row::F5 => self.crash_postgres(stage).await,
            Row::F8 => links::strike(self.scene, stage, turn).await,
            Row::F9 | Row::F9Off => late::strike(self.scene, stage, turn).await,
            Row::F10 => pause_the_daemon(stage).await,
            Row::F11 => pair::strike(stage, self.slack).await,
            Row::F14 => disk::strike(self.scene, stage).await,
            Row::F15 => clock::strike(stage).await,
            Row::F16 => rotation::strike(self.scene, stage, turn).await,
            Row::F17 => large::strike(stage, self.large).await,
            Row::F13 => registry::strike(self.scene, stage, turn).await,
            Row::F6 | Row::F7 | Row::F12 | Row::F17Tables | Row::F19 => {
                Err(format!("{row} is no fault of a run that goes on").into())
            }
        }
    }

    async fn break_the_broker(&self, stage: &mut Stage, turn: usize) -> Result<Struck> {
        let kafka = &self.scene.kafka;
        if turn.is_multiple_of(2) {
            kafka.kill();
            tokio::time::sleep(stage.millis(2_000)).await;
            kafka.start().await?;
            return Ok(Struck::now("the broker killed and started again"));
        }
        // From a blink to past the transaction's timeout.
        let pause = Duration::from_millis(200) + stage.millis(12_000);
        kafka.pause();
        tokio::time::sleep(pause).await;
        kafka.resume();
        Ok(Struck::now(format!("the broker stopped for {:.1} s", pause.as_secs_f64())))
    }

    async fn kill_both(&self, stage: &mut Stage) -> Result<Struck> {
        let (kafka, gap) = (&self.scene.kafka, stage.millis(100));
        let broker_first = stage.random.percent(50);
        if broker_first {
            kafka.kill();
        } else {
            stage.daemon.kill().await?;
        }
        tokio::time::sleep(gap).await;
        if broker_first {
            stage.daemon.kill().await?;
        } else {
            kafka.kill();
        }
        let what =
            format!("{} first, {} ms apart", if broker_first { "broker" } else { "daemon" }, gap.as_millis());
        if stage.random.percent(50) {
            stage.daemon.start()?;
            kafka.start().await?;
            return Ok(Struck::now(format!("{what}, the daemon back first")));
        }
        kafka.start().await?;
        stage.after_death().await?;
        Ok(Struck::now(format!("{what}, the broker back first")))
    }

    async fn crash_postgres(&self, stage: &mut Stage) -> Result<Struck> {
        let postgres = &self.scene.postgres;
        postgres.stop_with(Shutdown::Immediate).await?;
        tokio::time::sleep(stage.millis(2_000)).await;
        postgres.start().await?;
        Ok(Struck::now("Postgres shut down immediately and started again"))
    }
}

async fn pause_the_daemon(stage: &mut Stage) -> Result<Struck> {
    let pause = Duration::from_millis(PAUSE_MIN_MS) + stage.millis(3_000);
    stage.daemon.pause()?;
    tokio::time::sleep(pause).await;
    stage.daemon.resume()?;
    Ok(Struck::now(format!("the daemon stopped for {:.1} s", pause.as_secs_f64())))
}

impl Fault for Injector<'_> {
    fn name(&self) -> &'static str {
        self.row.name()
    }

    fn recovery_max(&self) -> Duration {
        self.row.recovery_max() * self.slack
    }

    async fn first_start(&mut self, stage: &mut Stage) -> Result<()> {
        match self.row {
            Row::F1Rows => read_rows::first_start(stage).await,
            Row::F2 => points::first_start(stage).await,
            Row::F15 => {
                clock::prepare(stage)?;
                stage.first_start().await
            }
            Row::F16 => rotation::first_start(self.scene, stage).await,
            Row::F19 => {
                self.memory = Some(Sampler::start()?);
                stage.first_start().await
            }
            Row::F9Off => {
                stage.daemon.standing_order = Some("recycle-off".to_owned());
                stage.first_start().await
            }
            _ => stage.first_start().await,
        }
    }

    async fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let (row, turn) = match self.row {
            Row::F19 => self.pick(stage),
            row => (row, self.turn),
        };
        let began = Instant::now();
        let outcome = self.strike_as(row, turn, stage).await;
        self.turn = self.turn.wrapping_add(1);
        self.done += 1;
        if let Some(memory) = &self.memory {
            memory.watch(stage.daemon.pid());
        }
        self.scene.links_pass();
        let mut struck = outcome?;
        if self.row == Row::F19 {
            struck.what = format!("{row}, {}, {:.0} s", struck.what, began.elapsed().as_secs_f64());
        }
        Ok(struck)
    }
}
