//! F15: the daemon's wall clock is set forward and back while it works. libfaketime stands between it and the
//! kernel and reads from a file what to add; its monotonic clock goes on as it is, as after a step of NTP.

use std::path::{Path, PathBuf};

use millrace_ledger::Result;
use millrace_ledger::run::{Stage, Struck};
use xtask::services::packages;

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// A second, a few minutes, a day, a year; forward and back, and the right time again.
const STEPS_S: [i64; 9] = [1, -1, 300, -300, 86_400, -86_400, 31_536_000, -31_536_000, 0];

/// Has every start of the daemon go through the library.
pub fn prepare(stage: &mut Stage) -> Result<()> {
    if !Path::new(LIBRARY).exists() {
        packages(&["faketime"])?;
    }
    let file = file(stage);
    set(&file, 0)?;
    let variables = [
        ("LD_PRELOAD", LIBRARY.to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    stage.daemon.variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
    Ok(())
}

pub async fn strike(stage: &mut Stage) -> Result<Struck> {
    let step = *stage.random.pick(&STEPS_S);
    set(&file(stage), step)?;
    if stage.random.percent(30) {
        stage.kill_and_settle().await?;
        return Ok(Struck::now(format!("the clock {step:+} s from the right time, and a kill")));
    }
    tokio::time::sleep(stage.millis(1_500)).await;
    Ok(Struck::now(format!("the clock {step:+} s from the right time")))
}

fn file(stage: &Stage) -> PathBuf {
    stage.config.dir.join(format!("{}.time", stage.config.connector))
}

fn set(file: &Path, step: i64) -> Result<()> {
    let next = file.with_extension("time.next");
    std::fs::write(&next, format!("{step:+}"))?;
    Ok(std::fs::rename(next, file)?)
}
