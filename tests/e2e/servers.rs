//! The servers of a test: shared ones that nobody breaks, or its own where it stops, kills or pauses them.
//!
//! At most two tests are at work at a time, and one with servers of its own works alone: more would measure
//! the machine.

use std::ops::Deref;

use tokio::sync::{Semaphore, SemaphorePermit};
use xtask::services::{
    Extension, Home, Kafka, KafkaConfig, Mongodb, MongodbConfig, Postgres, PostgresConfig, PostgresVersion,
    Registry, Services, version_of_tests,
};

/// Tests at work at the same time.
const TURNS: u32 = 2;
static QUEUE: Semaphore = Semaphore::const_new(TURNS as usize);

/// Which servers a test is to have for itself.
#[derive(Default)]
pub struct Own {
    pub postgres: Option<PostgresConfig>,
    /// Which the database server is, whatever version the run is about.
    pub version: Option<PostgresVersion>,
    pub kafka: Option<KafkaConfig>,
    pub mongodb: Option<MongodbConfig>,
}

impl Own {
    pub fn postgres() -> Self {
        Self { postgres: Some(PostgresConfig::default()), ..Self::default() }
    }

    /// A database server with these lines in `postgresql.conf`.
    pub fn postgres_with(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let config = PostgresConfig { settings: settings.collect(), ..PostgresConfig::default() };
        Self { postgres: Some(config), ..Self::default() }
    }

    /// A database server in which this extension can be created.
    pub fn postgres_with_types_of(extension: Extension) -> Self {
        let config = PostgresConfig::with(extension);
        Self { version: Some(config.version), postgres: Some(config), ..Self::default() }
    }

    /// A database server of this version.
    pub fn postgres_of(version: PostgresVersion) -> Self {
        Self { version: Some(version), ..Self::postgres() }
    }

    pub fn kafka() -> Self {
        Self { kafka: Some(KafkaConfig::default()), ..Self::default() }
    }

    /// A replica set of so many members.
    pub fn mongodb(members: u16) -> Self {
        let config = MongodbConfig { members, ..MongodbConfig::default() };
        Self { mongodb: Some(config), ..Self::default() }
    }

    /// A replica set of one member that wants users, or has more arguments.
    pub fn mongodb_with(auth: bool, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { mongodb: Some(MongodbConfig { members: 1, auth, args }), ..Self::default() }
    }

    /// A replica set of so many members that can be told to fail, by `configureFailPoint`.
    pub fn mongodb_with_failpoints(members: u16) -> Self {
        let args = ["--setParameter", "enableTestCommands=1"].map(str::to_owned).into();
        Self { mongodb: Some(MongodbConfig { members, auth: false, args }), ..Self::default() }
    }

    pub fn both() -> Self {
        Self {
            postgres: Some(PostgresConfig::default()),
            kafka: Some(KafkaConfig::default()),
            ..Self::default()
        }
    }
}

pub struct Servers {
    pub postgres: Held<Postgres>,
    pub kafka: Held<Kafka>,
    pub mongodb: Held<Mongodb>,
    pub registry: &'static Registry,
    _turn: SemaphorePermit<'static>,
}

impl Servers {
    pub async fn shared() -> Self {
        Self::with(Own::default()).await
    }

    pub async fn with(own: Own) -> Self {
        let alone = own.postgres.is_some() || own.kafka.is_some() || own.mongodb.is_some();
        let turns = if alone { TURNS } else { 1 };
        let turn = QUEUE.acquire_many(turns).await.expect("the queue is never closed");
        let shared = Services::for_tests().await.expect("the servers of the tests start");
        let postgres = async {
            match own.postgres {
                None => Held::Shared(&shared.postgres),
                Some(config) => {
                    let of_run = version_of_tests().expect("a major version of Postgres");
                    let version = own.version.unwrap_or(of_run);
                    let config = PostgresConfig { version, ..config };
                    Held::Own(Postgres::start_new(&config, &home()).await.expect("Postgres starts"))
                }
            }
        };
        let kafka = async {
            match own.kafka {
                None => Held::Shared(&shared.kafka),
                Some(config) => Held::Own(Kafka::start_new(&config, &home()).await.expect("Kafka starts")),
            }
        };
        let mongodb = async {
            match own.mongodb {
                None => Held::Shared(&shared.mongodb),
                Some(config) => {
                    Held::Own(Mongodb::start_new(&config, &home()).await.expect("MongoDB starts"))
                }
            }
        };
        let (postgres, kafka, mongodb) = tokio::join!(postgres, kafka, mongodb);
        Self { postgres, kafka, mongodb, registry: &shared.registry, _turn: turn }
    }
}

fn home() -> Home {
    Home::temporary().expect("a temporary directory")
}

/// A server that is shared, or that goes with this handle.
pub enum Held<T: 'static> {
    Shared(&'static T),
    Own(T),
}

impl<T> Held<T> {
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Shared(server) => server,
            Self::Own(server) => server,
        }
    }
}
