//! `cargo xtask ledger --source mongodb`: a replica set of three, and its primary is killed too.

use std::path::Path;
use std::time::Duration;

use millrace_ledger::mongodb::{self, Report};
use xtask::services::{Home, Kafka, KafkaConfig, Mongodb, MongodbConfig, Registry, RegistryConfig};
use xtask::{Context, Result};

use super::Arguments;

/// Enough for the daemon to be at work again, and for some transactions more.
const SECONDS_A_KILL: u32 = 5;
/// So that one of the three can be away.
const MEMBERS: u16 = 3;
const PRIMARY_KILLS: u32 = 3;

/// Whether every run passed.
pub async fn prove(arguments: &Arguments, binary: &Path, dir: &Path) -> Result<bool> {
    println!("-- starting Kafka, the schema registry and a MongoDB replica set of {MEMBERS}");
    let home = Home::temporary()?;
    // A transaction that lost its session with the primary keeps its documents locked for so long.
    let args = ["--setParameter", "transactionLifetimeLimitSeconds=5"].map(String::from).to_vec();
    let members = MongodbConfig { members: MEMBERS, args, ..MongodbConfig::default() };
    let (kafka, registry) = (KafkaConfig::default(), RegistryConfig::default());
    let (kafka, registry, set) = tokio::join!(
        Kafka::start_new(&kafka, &home),
        Registry::start_new(&registry, &home),
        Mongodb::start_new(&members, &home),
    );
    let (kafka, registry, set) = (kafka?, registry?, set?);
    let mut passed = true;
    for seed in &arguments.seeds {
        let (binary, dir) = (binary.to_owned(), dir.to_owned());
        let mut config =
            mongodb::Config::new(&set.url(), &kafka.bootstrap(), &registry.url(), binary, dir.clone());
        config.kills = arguments.kills;
        config.primary_kills = PRIMARY_KILLS.min(arguments.kills / 2);
        config.seed = *seed;
        config.duration = Duration::from_secs(u64::from(SECONDS_A_KILL * arguments.kills.max(1)));
        println!("-- seed {seed}: {} kills; the daemon's log: {}", arguments.kills, dir.display());
        let ran = mongodb::run(
            &config,
            |news| println!("{news}"),
            async || kill_primary(&set).await.map_err(|error| error.to_string().into()),
        );
        let report: Report =
            ran.await.context(|| format!("the run with seed {seed} could not be finished"))?;
        println!("{report}");
        passed &= report.passed();
    }
    Ok(passed)
}

/// Another one is elected before the killed one comes back.
async fn kill_primary(set: &Mongodb) -> Result<()> {
    let primary = set.primary().await?;
    primary.kill();
    set.primary().await?;
    primary.start().await
}
