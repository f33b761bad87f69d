//! F15: the daemon's wall clock is set forward and back while it works. A small library between it and the
//! system's adds what stands in a file; `clock.c` says what it reaches.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use millrace_ledger::Result;
use millrace_ledger::run::{Stage, Struck};

const LIBRARY: &str = include_str!("clock.c");
/// A second, a few minutes, a day, a year; forward and back, and the right time again.
const STEPS_S: [i64; 9] = [1, -1, 300, -300, 86_400, -86_400, 31_536_000, -31_536_000, 0];

/// Further ahead, a broker refuses records (`message.timestamp.after.max.ms`); behind, it refuses none.
const AHEAD_MAX_S: i64 = 3_600;
const REFUSED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Has every start of the daemon go through the library.
pub fn prepare(stage: &mut Stage) -> Result<()> {
    let (source, library) = (file(stage, "c"), file(stage, "so"));
    std::fs::write(&source, LIBRARY)?;
    let mut compiler = Command::new("cc");
    let built = compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status()?;
    if !built.success() {
        return Err(format!("cc ended with {built}").into());
    }
    set(stage, 0)?;
    let variables = [("LD_PRELOAD", library), ("MILLRACE_CLOCK", file(stage, "time"))];
    stage.daemon.variables =
        variables.map(|(name, path)| (name.to_owned(), path.display().to_string())).to_vec();
    Ok(())
}

pub async fn strike(stage: &mut Stage) -> Result<Struck> {
    let step = *stage.random.pick(&STEPS_S);
    set(stage, step)?;
    if step > AHEAD_MAX_S {
        return until_refused(stage, step).await;
    }
    if stage.random.percent(30) {
        stage.kill_and_settle().await?;
        return Ok(Struck::now(format!("the clock {step:+} s from the right time, and a kill")));
    }
    tokio::time::sleep(stage.millis(1_500)).await;
    Ok(Struck::now(format!("the clock {step:+} s from the right time")))
}

/// Nothing can be delivered with such a clock. The daemon has to say so, and to go on by itself when it is right again.
async fn until_refused(stage: &mut Stage, step: i64) -> Result<Struck> {
    let deadline = Instant::now() + REFUSED_WITHIN;
    loop {
        let state = stage.daemon.state().await;
        if state.as_ref().is_some_and(|state| !state.ready && state.hint.contains("clock")) {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("the clock {step:+} s from the right time; the daemon says {state:?}").into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    set(stage, 0)?;
    Ok(Struck::now(format!("the clock {step:+} s from the right time, refused, and right again")))
}

fn file(stage: &Stage, kind: &str) -> PathBuf {
    stage.config.dir.join(format!("{}.clock.{kind}", stage.config.connector))
}

/// In place: the daemon has the file in its memory.
fn set(stage: &Stage, step: i64) -> Result<()> {
    let file = std::fs::File::options().write(true).create(true).truncate(false).open(file(stage, "time"))?;
    Ok(std::os::unix::fs::FileExt::write_all_at(&file, &step.to_ne_bytes(), 0)?)
}
