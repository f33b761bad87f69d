//! F7: the primary of a MongoDB replica set dies by kill -9, or is told to step down, in turn. A run and servers of
//! its own.

use std::path::Path;
use std::time::Duration;

use millrace_ledger::mongodb::{self as mongodb_ledger, Report};
use mongodb::Client;
use mongodb::bson::doc;
use xtask::services::{Home, Kafka, KafkaConfig, Mongodb, MongodbConfig, Registry, RegistryConfig};
use xtask::{Context, Result};

/// So that one of the three can be away.
const MEMBERS: u16 = 3;
/// Enough for the daemon and the writers to go on for a while.
const SECONDS_A_STRIKE: u32 = 2;
/// A primary that stepped down stays down for so long.
const DOWN_S: i32 = 8;

/// A replica set, and what the daemon needs beside it.
pub struct Set {
    mongodb: Mongodb,
    kafka: Kafka,
    registry: Registry,
}

impl Set {
    pub async fn start() -> Result<Set> {
        println!("-- starting Kafka, the schema registry and a MongoDB replica set of {MEMBERS}");
        let home = Home::temporary()?;
        // A transaction that lost its session with the primary keeps its documents locked for so long. On a busy
        // machine a large one takes some seconds, and would never come to its end within five.
        let args = ["--setParameter", "transactionLifetimeLimitSeconds=20"].map(String::from).to_vec();
        let members = MongodbConfig { members: MEMBERS, args, ..MongodbConfig::default() };
        let (kafka, registry) = (KafkaConfig::default(), RegistryConfig::default());
        let (kafka, registry, mongodb) = tokio::join!(
            Kafka::start_new(&kafka, &home),
            Registry::start_new(&registry, &home),
            Mongodb::start_new(&members, &home),
        );
        Ok(Set { mongodb: mongodb?, kafka: kafka?, registry: registry? })
    }

    pub fn config(&self, binary: &Path, dir: &Path) -> mongodb_ledger::Config {
        let (url, kafka, registry) = (self.mongodb.url(), self.kafka.bootstrap(), self.registry.url());
        mongodb_ledger::Config::new(&url, &kafka, &registry, binary.to_owned(), dir.to_owned())
    }

    /// Another one is elected before the killed one comes back.
    pub async fn kill(&self) -> millrace_ledger::Result<String> {
        let primary = self.mongodb.primary().await?;
        primary.kill();
        self.mongodb.primary().await?;
        primary.start().await?;
        Ok("the primary was killed, and another one elected".to_owned())
    }

    async fn step_down(&self) -> millrace_ledger::Result<String> {
        let port = self.mongodb.primary().await?.port();
        let primary =
            Client::with_uri_str(format!("mongodb://127.0.0.1:{port}/?directConnection=true")).await?;
        let order =
            doc! { "replSetStepDown": DOWN_S, "secondaryCatchUpPeriodSecs": DOWN_S / 2, "force": true };
        primary.database("admin").run_command(order).await?;
        self.mongodb.primary().await?;
        Ok("the primary stepped down, and another one was elected".to_owned())
    }

    /// One run of so many strikes.
    pub async fn run(&self, binary: &Path, dir: &Path, strikes: u32, seed: u64) -> Result<Report> {
        let mut config = self.config(binary, dir);
        config.connector = format!("f7_{seed}_{}", config.connector);
        (config.kills, config.primary_strikes, config.seed) = (0, strikes, seed);
        config.duration = Duration::from_secs(u64::from(SECONDS_A_STRIKE * strikes));
        let strike = async |nth: u32| match nth.is_multiple_of(2) {
            false => self.kill().await,
            true => self.step_down().await,
        };
        let ran = mongodb_ledger::run(&config, |news| println!("{news}"), strike).await;
        ran.context(|| format!("the run with seed {seed} could not be finished"))
    }
}
