//! `cargo xtask ledger --source mongodb`: a replica set of three, whose primary is killed too.

use std::path::Path;
use std::time::Duration;

use millrace_ledger::mongodb::{self, Report};
use xtask::{Context, Result};

use super::{Arguments, report};
use crate::commands::binary::Profile;
use crate::commands::chaos::primary::Set;

/// Enough for the daemon to be at work again, and for some transactions more.
const SECONDS_A_KILL: u32 = 5;
const PRIMARY_KILLS: u32 = 3;

/// Whether every run passed.
pub async fn prove(arguments: &Arguments, profile: Profile, binary: &Path, dir: &Path) -> Result<bool> {
    let set = Set::start().await?;
    let mut reports = Vec::new();
    for seed in &arguments.seeds {
        let mut config = set.config(binary, dir);
        config.kills = arguments.kills;
        config.primary_strikes = PRIMARY_KILLS.min(arguments.kills / 2);
        config.seed = *seed;
        config.duration = Duration::from_secs(u64::from(SECONDS_A_KILL * arguments.kills.max(1)));
        println!("-- seed {seed}: {} kills; the daemon's log: {}", arguments.kills, dir.display());
        let ran = mongodb::run(&config, |news| println!("{news}"), async |_| set.kill().await);
        let report: Report =
            ran.await.context(|| format!("the run with seed {seed} could not be finished"))?;
        println!("{report}");
        reports.push(report);
    }
    if arguments.report {
        println!("written: {}", report::write_documents(profile, &reports)?.display());
    }
    Ok(reports.iter().all(Report::passed))
}
