//! F17: one transaction larger than what the daemon may hold, and a death in the middle of it.

use std::time::{Duration, Instant};

use millrace_ledger::Result;
use millrace_ledger::run::{Stage, Struck};
use millrace_ledger::writers::write_large;

/// Above it a source transaction is cut; small, so that a large one is cut often.
pub const CUT_BYTES: u64 = 4_000_000;
/// What every other transaction of a run stays below.
pub const UNCUT_CHANGES_MAX: u64 = 4_500;
/// The whole daemon, in its debug build.
pub const MEMORY_KB_MAX: u64 = 512 * 1024;
const DIES_WITHIN: Duration = Duration::from_secs(120);

pub async fn strike(stage: &mut Stage, rows: u64) -> Result<Struck> {
    stage.kill_and_settle().await?;
    stage.daemon.kill().await?;
    let cut = 1 + stage.random.below(4);
    stage.daemon.start_ordered(Some(&format!("crash:cut-committed:{cut}")))?;
    let seed = stage.random.draw();
    let bytes = write_large(&stage.config.postgres_url, seed, rows).await?;
    stage.daemon.died(DIES_WITHIN).await?;
    // Part of it is there, so nobody may call it torn.
    stage.daemon.start()?;
    let free = Instant::now();
    stage.position_after(stage.positions(), DIES_WITHIN).await?;
    let peak = stage.daemon.memory_peak_kb().unwrap_or(0);
    if peak > MEMORY_KB_MAX {
        return Err(format!("the daemon took {peak} kB of memory").into());
    }
    let what =
        format!("a transaction of {rows} rows, {} MB, with a death after its cut {cut}", bytes / 1_000_000);
    Ok(Struck { what: format!("{what}; {} MB of memory", peak / 1024), free_since: Some(free) })
}
