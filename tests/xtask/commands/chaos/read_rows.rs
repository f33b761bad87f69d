//! F1 and F2 while the rows are read that were there before the connector was: killed at a random moment, or dead
//! with rows placed and not sent, in turn. Writers change the same rows all the time.

use std::time::{Duration, Instant};

use millrace_ledger::Result;
use millrace_ledger::run::{Stage, Struck};

use super::points::DIES_WITHIN;

/// Few, so that reading all of them lasts for many trials.
pub const CHUNK_ROWS: u64 = 40;
/// Of each table, for each writer.
const ROWS: u64 = 160;
/// Changes of rows that have not been read yet come first.
const WRITES_BEFORE: Duration = Duration::from_secs(1);
/// Chunks until it dies, at most.
const CHUNKS: u64 = 30;

pub async fn first_start(stage: &mut Stage) -> Result<()> {
    stage.fill(ROWS).await?;
    stage.set_writers_to_work().await?;
    tokio::time::sleep(WRITES_BEFORE).await;
    stage.first_start().await
}

pub async fn strike(stage: &mut Stage, turn: usize) -> Result<Struck> {
    let unread = stage.unread().await?.len();
    let what = if unread == 0 || turn.is_multiple_of(2) {
        stage.kill_and_settle().await?;
        "killed".to_owned()
    } else {
        stage.daemon.kill().await?;
        let chunk = 1 + stage.random.below(CHUNKS);
        stage.daemon.start_ordered(Some(&format!("crash:chunk-placed:{chunk}")))?;
        match stage.daemon.died(DIES_WITHIN).await {
            Ok(()) => {
                stage.after_death().await?;
                format!("died with chunk {chunk} placed")
            }
            Err(_) if stage.unread().await?.is_empty() => {
                stage.kill_and_settle().await?;
                "killed, for fewer chunks were left".to_owned()
            }
            Err(error) => return Err(error),
        }
    };
    let free_since = Some(stage.daemon.started().unwrap_or_else(Instant::now));
    Ok(Struck { what: format!("{what}, {unread} tables not through"), free_since })
}
