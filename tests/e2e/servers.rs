//! The servers of a test: shared ones that nobody breaks, or its own where it stops, kills or pauses them.
//!
//! At most two tests are at work at a time, and one with servers of its own works alone: more would measure
//! the machine.

use std::ops::Deref;

use tokio::sync::{Semaphore, SemaphorePermit};
use xtask::services::{Home, Kafka, KafkaConfig, Postgres, PostgresConfig, Registry, Services};

/// Tests at work at the same time.
const TURNS: u32 = 2;
static QUEUE: Semaphore = Semaphore::const_new(TURNS as usize);

/// Which servers a test is to have for itself.
#[derive(Default)]
pub struct Own {
    pub postgres: Option<PostgresConfig>,
    pub kafka: Option<KafkaConfig>,
}

impl Own {
    pub fn postgres() -> Self {
        Self { postgres: Some(PostgresConfig::default()), kafka: None }
    }

    /// A database server with these lines in `postgresql.conf`.
    pub fn postgres_with(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let config = PostgresConfig { settings: settings.collect(), ..PostgresConfig::default() };
        Self { postgres: Some(config), kafka: None }
    }

    pub fn kafka() -> Self {
        Self { postgres: None, kafka: Some(KafkaConfig::default()) }
    }

    pub fn both() -> Self {
        Self { postgres: Some(PostgresConfig::default()), kafka: Some(KafkaConfig::default()) }
    }
}

pub struct Servers {
    pub postgres: Held<Postgres>,
    pub kafka: Held<Kafka>,
    pub registry: &'static Registry,
    _turn: SemaphorePermit<'static>,
}

impl Servers {
    pub async fn shared() -> Self {
        Self::with(Own::default()).await
    }

    pub async fn with(own: Own) -> Self {
        let alone = own.postgres.is_some() || own.kafka.is_some();
        let turns = if alone { TURNS } else { 1 };
        let turn = QUEUE.acquire_many(turns).await.expect("the queue is never closed");
        let shared = Services::for_tests().await.expect("the servers of the tests start");
        let postgres = async {
            match own.postgres {
                None => Held::Shared(&shared.postgres),
                Some(config) => {
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
        let (postgres, kafka) = tokio::join!(postgres, kafka);
        Self { postgres, kafka, registry: &shared.registry, _turn: turn }
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
