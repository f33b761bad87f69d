//! F17: one transaction larger than what the daemon may hold, and a death in the middle of it.

use std::time::{Duration, Instant};

use millrace_ledger::Result;
use millrace_ledger::run::{Stage, Struck};
use millrace_ledger::writers::{Large, connect, write_large};

/// Above it a source transaction is cut; small, so that a large one is cut often.
pub const CUT_BYTES: u64 = 4_000_000;
/// What every other transaction of a run has at most: few enough that their bytes stay below the cut too.
pub const OTHER_CHANGES_MAX: u64 = 200;
/// The whole daemon, in its debug build.
pub const MEMORY_KB_MAX: u64 = 512 * 1024;
const DIES_WITHIN: Duration = Duration::from_secs(120);
/// Much less than a server decodes, on a machine that does other work besides.
const BYTES_A_SECOND: u64 = 10_000_000;
/// What is left of the transaction after the first position may be most of it.
pub const DRAINS_WITHIN: Duration = Duration::from_secs(3_600);

pub async fn strike(stage: &mut Stage, large: Large) -> Result<Struck> {
    stage.kill_and_settle().await?;
    stage.daemon.kill().await?;
    let cut = 1 + stage.random.below(4);
    stage.daemon.start_ordered(Some(&format!("crash:cut-committed:{cut}")))?;
    let seed = stage.random.draw();
    let bytes = write_large(&stage.config.postgres_url, seed, large).await?;
    // The server reads it all before it sends the first of it, after each start.
    let within = DIES_WITHIN + Duration::from_secs(bytes / BYTES_A_SECOND);
    stage.daemon.died(within).await?;
    let end = end_of_the_log(&stage.config.postgres_url).await?;
    // Part of it is there, so nobody may call it torn.
    stage.daemon.start()?;
    let restarted = Instant::now();
    stage.position_after(stage.positions(), within).await?;
    // What it takes is known when all of it is through.
    stage.delivered(end, within).await?;
    let took = restarted.elapsed().as_secs();
    let peak = stage.daemon.memory_peak_kb().unwrap_or(0);
    if peak > MEMORY_KB_MAX {
        return Err(format!("the daemon took {peak} kB of memory").into());
    }
    let what = format!(
        "a transaction of {} rows, {} MB, with a death after its cut {cut}",
        large.rows,
        bytes / 1_000_000
    );
    // What lies behind it in the log waits for it: only from here on is nothing in the way.
    Ok(Struck::now(format!(
        "{what}, all of it delivered {took} s after the restart; {} MB of memory",
        peak / 1024
    )))
}

async fn end_of_the_log(url: &str) -> Result<u64> {
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::text";
    let text: String = connect(url).await?.query_one(sql, &[]).await?.try_get(0)?;
    Ok(text.parse()?)
}
