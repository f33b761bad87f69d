//! Real servers for tests, demos and benches: Kafka, a schema registry, Postgres, MongoDB, on any Debian
//! machine and without a container engine. Each binds 127.0.0.1 on a free port and has a directory of its own.
//!
//! - One server: [`Kafka::start_new`], [`Registry::start_new`], [`Postgres::start_new`],
//!   [`Mongodb::start_new`] in a [`Home`].
//! - One of each: [`Services::start_new`]; in tests [`Services::for_tests`], which shares one set.
//! - What the daemon is compared with: [`Connect::start_new`], a worker with Debezium.
//! - What can be done to one: [`Server`] (start, stop, kill, pause, resume, restart, port, pid, log).

mod connect;
mod home;
mod install;
mod kafka;
mod mongodb;
mod postgres;
mod process;
mod registry;
mod server;
mod standby;
mod upgrade;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use crate::{Context, Result};

pub use connect::{Connect, ConnectConfig};
pub use home::{Home, Lifetime, cache, free_port, repository};
pub(crate) use install::{Download, Origin, output, program_of};
pub use install::{finish, on_path};
pub use kafka::{Kafka, KafkaConfig, KafkaVersion, Proxied};
pub use mongodb::{Mongodb, MongodbConfig};
pub use postgres::{Extension, Postgres, PostgresConfig, PostgresVersion, Shutdown};
pub use registry::{Registry, RegistryConfig};
pub use server::{Kind, Server};

/// Names the directory of a running set of servers that a test is to use instead of starting its own.
pub const SHARED: &str = "MILLRACE_TEST_SERVICES";

/// Names the major version of Postgres that a test is to start its own servers of.
pub const POSTGRES: &str = "MILLRACE_TEST_POSTGRES";

/// What a set of servers is to be like.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub kafka: KafkaConfig,
    pub registry: RegistryConfig,
    pub postgres: PostgresConfig,
    pub mongodb: MongodbConfig,
}

/// One of each.
#[derive(Debug)]
pub struct Services {
    pub kafka: Kafka,
    pub registry: Registry,
    pub postgres: Postgres,
    pub mongodb: Mongodb,
}

impl Services {
    /// Starts all at once and waits for them.
    pub async fn start_new(config: &Config, home: &Home) -> Result<Self> {
        let (kafka, registry, postgres, mongodb) = tokio::join!(
            Kafka::start_new(&config.kafka, home),
            Registry::start_new(&config.registry, home),
            Postgres::start_new(&config.postgres, home),
            Mongodb::start_new(&config.mongodb, home),
        );
        Ok(Self { kafka: kafka?, registry: registry?, postgres: postgres?, mongodb: mongodb? })
    }

    /// The set that lives in a home: what is missing is made as `config` says, what is dead is started
    /// again, what runs is left as it is.
    pub async fn up(config: &Config, home: &Home) -> Result<Self> {
        home::create(&home.dir)?;
        let lock = home.dir.with_extension("lock");
        let _one_at_a_time = home::Lock::take(&lock)?;
        let found = Found::in_home(home)?;
        let kafka = async {
            match found.kafka {
                Some(kafka) => kafka.start().await.map(|()| kafka),
                None => Kafka::start_new(&config.kafka, home).await,
            }
        };
        let registry = async {
            match found.registry {
                Some(registry) => registry.start().await.map(|()| registry),
                None => Registry::start_new(&config.registry, home).await,
            }
        };
        let postgres = async {
            match found.postgres {
                Some(postgres) => postgres.start().await.map(|()| postgres),
                None => Postgres::start_new(&config.postgres, home).await,
            }
        };
        let mongodb = async {
            match found.mongodb {
                Some(mongodb) => mongodb.start().await.map(|()| mongodb),
                None => Mongodb::start_new(&config.mongodb, home).await,
            }
        };
        let (kafka, registry, postgres, mongodb) = tokio::join!(kafka, registry, postgres, mongodb);
        Ok(Self { kafka: kafka?, registry: registry?, postgres: postgres?, mongodb: mongodb? })
    }

    /// Stops every server of a home and deletes their data. Answers how many there were.
    pub async fn down(home: &Home) -> Result<usize> {
        let lock = home.dir.with_extension("lock");
        if !home.dir.exists() {
            return Ok(0);
        }
        let _one_at_a_time = home::Lock::take(&lock)?;
        let servers = Server::all(home)?;
        let count = servers.len();
        let mut removals = tokio::task::JoinSet::new();
        for server in servers {
            removals.spawn(server.remove());
        }
        for outcome in removals.join_all().await {
            outcome?;
        }
        home::remove(&home.dir)?;
        fs::remove_file(&lock).context(|| format!("{}", lock.display()))?;
        Ok(count)
    }

    /// The servers for this test process: those of the directory in `MILLRACE_TEST_SERVICES`, else a set
    /// of its own, started once and killed by the kernel when the process ends.
    pub async fn for_tests() -> Result<&'static Self> {
        static SHARED_SET: tokio::sync::OnceCell<Services> = tokio::sync::OnceCell::const_new();
        let set = SHARED_SET.get_or_try_init(|| async {
            let postgres = PostgresConfig { version: version_of_tests()?, ..PostgresConfig::default() };
            let config = Config { postgres, ..Config::default() };
            match std::env::var_os(SHARED) {
                Some(dir) => Self::up(&config, &borrowed(dir)).await,
                None => Self::start_new(&config, &Home::temporary()?).await,
            }
        });
        set.await
    }
}

/// Of Postgres: the one that the run is about, where it is about one.
pub fn version_of_tests() -> Result<PostgresVersion> {
    std::env::var(POSTGRES).ok().map_or(Ok(PostgresVersion::default()), |version| version.parse())
}

fn borrowed(dir: OsString) -> Home {
    Home { dir: PathBuf::from(dir), lifetime: Lifetime::Borrowed }
}

/// What a home holds already.
#[derive(Default)]
struct Found {
    kafka: Option<Kafka>,
    registry: Option<Registry>,
    postgres: Option<Postgres>,
    mongodb: Option<Mongodb>,
}

impl Found {
    fn in_home(home: &Home) -> Result<Self> {
        let mut found = Self::default();
        let (mut brokers, mut members) = (Vec::new(), Vec::new());
        for server in Server::all(home)? {
            match server.kind() {
                Kind::Kafka => brokers.push(server),
                // Made for one run, never part of a set.
                Kind::Connect => {}
                Kind::Mongodb { .. } => members.push(server),
                Kind::Registry => found.registry = Some(Registry::from_server(server)),
                Kind::Postgres { password } => {
                    found.postgres = Some(Postgres::from_server(server, password));
                }
            }
        }
        found.kafka = Kafka::from_servers(brokers);
        found.mongodb = Mongodb::from_servers(members);
        Ok(found)
    }
}

/// Runs something that blocks where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context(|| "a step of the installation failed".to_owned())?
}

fn running_as_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// 32 hexadecimal digits that nobody can guess.
fn random_hex() -> Result<String> {
    let file = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(file).context(|| file.to_owned())?;
    Ok(text.trim().replace('-', ""))
}
