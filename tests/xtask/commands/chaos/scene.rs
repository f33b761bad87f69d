//! The servers of the runs, and the links between them and the daemon, each through a proxy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_ledger::proxy::{Mode, Proxy};
use millrace_ledger::run::{self, Links};
use xtask::services::{Config, Home, Kafka, KafkaConfig, Postgres, Proxied, Registry, Server, free_port};
use xtask::{Context, Result};

use super::disk::SmallDisk;
use super::row::Row;
use super::{large, read_rows, rotation};

/// Short, so that the trials that wait for it are many.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(8);
/// A request held back longer than this is asked again.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(2);
/// Enough to be always at work on two cores, beside servers and checker.
const CHANGES_PER_SECOND: u64 = 1_000;
const CHANGES_MAX: u64 = 4_000;

/// A soak goes on for long, and is about time, not about many trials.
const BETWEEN_IN_A_SOAK: Duration = Duration::from_secs(10);

/// Enough for the daemon to have something under way.
const BETWEEN: Duration = Duration::from_millis(700);

pub struct Scene {
    pub kafka: Kafka,
    pub registry: Registry,
    pub postgres: Postgres,
    pub kafka_link: Proxy,
    pub registry_link: Proxy,
    pub postgres_link: Proxy,
    /// The broker's, where it has one. After the broker: it goes last.
    pub disk: Option<SmallDisk>,
    /// The daemon logs in to its servers.
    pub has_logins: bool,
    binary: PathBuf,
    dir: PathBuf,
}

impl Scene {
    pub async fn set(binary: &Path, dir: &Path, transaction_version: Option<u8>, row: Row) -> Result<Scene> {
        let proxied = Proxied { port: free_port()?, advertised: free_port()? };
        // The broker looks for transactions that ran out of their time every 10 s, and that stays so: looked for
        // within a second of a start, their abort markers are left out, because the broker does not know its
        // own partitions yet and takes them for deleted; what was aborted is then committed with what follows.
        let kafka = KafkaConfig { proxied: vec![proxied], transaction_version, ..KafkaConfig::default() };
        let mut config = Config { kafka, ..Config::default() };
        // A reader that went silent loses its slot this soon.
        config.postgres.settings = vec![("wal_sender_timeout".into(), "5s".into())];
        let has_logins = row == Row::F16;
        if has_logins {
            rotation::secure(&mut config.kafka);
        }
        let disk = if row == Row::F14 { Some(SmallDisk::mount()?) } else { None };
        let home = Home::temporary()?;
        let of_kafka = match &disk {
            Some(disk) => Home { dir: disk.dir(), lifetime: home.lifetime },
            None => home.clone(),
        };
        let (kafka, registry, postgres) = tokio::join!(
            Kafka::start_new(&config.kafka, &of_kafka),
            Registry::start_new(&config.registry, &home),
            Postgres::start_new(&config.postgres, &home),
        );
        let (kafka, registry, postgres) = (kafka?, registry?, postgres?);
        let link = || "a proxy cannot be started".to_owned();
        Ok(Scene {
            kafka_link: Proxy::before_broker(proxied.advertised, proxied.port).await.context(link)?,
            registry_link: Proxy::start(registry.port()).await.context(link)?,
            postgres_link: Proxy::start(postgres.port()).await.context(link)?,
            kafka,
            registry,
            postgres,
            disk,
            has_logins,
            binary: binary.to_owned(),
            dir: dir.to_owned(),
        })
    }

    pub fn servers(&self) -> Vec<&Server> {
        let others: [&Server; 2] = [&self.registry, &self.postgres];
        self.kafka.brokers().iter().chain(others).collect()
    }

    /// Where the daemon's logins lie.
    pub fn logins(&self) -> PathBuf {
        self.dir.join(format!("logins-{}", self.postgres.port()))
    }

    /// A run of so many trials; the daemon goes through the proxies, the checker does not.
    pub fn config(&self, row: Row, trials: u32, seed: u64) -> run::Config {
        let (postgres, kafka, registry) = (self.postgres.url(), self.kafka.bootstrap(), self.registry.url());
        let mut config =
            run::Config::new(&postgres, &kafka, &registry, self.binary.clone(), self.dir.clone());
        let through = |url: &str, from: u16, to: u16| url.replace(&format!(":{from}"), &format!(":{to}"));
        config.links = Links {
            postgres_url: through(&postgres, self.postgres.port(), self.postgres_link.port()),
            bootstrap: format!("127.0.0.1:{}", self.kafka_link.port()),
            registry_url: through(&registry, self.registry.port(), self.registry_link.port()),
        };
        config.connector = format!("{}_{}", row.name().replace('-', "_").to_lowercase(), config.connector);
        config.trials = trials;
        config.seed = seed;
        config.between = if row == Row::F19 { BETWEEN_IN_A_SOAK } else { BETWEEN };
        config.changes_max = CHANGES_MAX;
        config.changes_per_second = Some(CHANGES_PER_SECOND);
        config.transaction_timeout = Some(TRANSACTION_TIMEOUT);
        config.socket_timeout = Some(SOCKET_TIMEOUT);
        config.planted = false;
        config.high_availability = row == Row::F11;
        config.snapshot_chunk_rows = (row == Row::F1Rows).then_some(read_rows::CHUNK_ROWS);
        if row == Row::F16 {
            config.links.postgres_url = rotation::url(self.postgres_link.port());
            config.login = rotation::login(&self.logins());
        }
        if row == Row::F17 {
            config.drains_within = large::DRAINS_WITHIN;
            config.cut_bytes = Some(large::CUT_BYTES);
            config.changes_max = large::OTHER_CHANGES_MAX;
            config.limits.uncut_changes_max = large::OTHER_CHANGES_MAX * 3;
        }
        config
    }

    pub fn links_pass(&self) {
        for link in [&self.kafka_link, &self.registry_link, &self.postgres_link] {
            link.set(Mode::Pass);
        }
    }
}
