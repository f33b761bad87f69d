//! F1: kill -9 at a random moment, of work or of an opening.

use std::time::{Duration, Instant};

use super::{Fault, Stage, Struck};
use crate::Result;

/// So often a kill does not wait until the daemon is at work again: it hits the opening.
const EARLY_KILL_PERCENT: u64 = 25;
/// An opening takes about as long.
const EARLY_KILL_WITHIN_MS: u64 = 1_500;

#[derive(Debug, Default)]
pub struct Kills;

impl Fault for Kills {
    fn name(&self) -> &'static str {
        "F1"
    }

    async fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        stage.kill_and_settle().await?;
        if stage.random.percent(EARLY_KILL_PERCENT) {
            stage.early = Some(Duration::from_millis(stage.random.below(EARLY_KILL_WITHIN_MS)));
            return Ok(Struck { what: "killed".to_owned(), free_since: None });
        }
        Ok(Struck {
            what: "killed".to_owned(),
            free_since: Some(stage.daemon.started().unwrap_or_else(Instant::now)),
        })
    }
}
