//! Kafka as a sink: data and position in one Kafka transaction.

pub mod config;
pub mod registry;
mod waiting;

use std::sync::Arc;

use millrace_core::batch::EncodedBatch;
use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::progress::Progress;
use millrace_core::report::Report;
use millrace_core::sink::{Sink, Targets, Topic};

pub use config::{Raw, Settings};

pub struct KafkaSink {
    targets: KafkaTargets,
}

impl KafkaSink {
    /// `instance` is drawn once per process and connector; `topic_prefix` names the position's key.
    pub fn new(
        _settings: Settings,
        registry: Option<registry::Settings>,
        _topic_prefix: &str,
        _instance: String,
        progress: Arc<Progress>,
    ) -> Result<Self> {
        let registry = registry.map(|r| registry::Registry::new(r, progress)).transpose()?.map(Arc::new);
        Ok(Self { targets: KafkaTargets { registry } })
    }
}

/// The position that the sink holds, read without shutting anybody out.
pub async fn read_position(_settings: &Settings, _topic_prefix: &str) -> Result<Option<Position>> {
    Err(Error::fatal("not built"))
}

#[derive(Clone)]
pub struct KafkaTargets {
    registry: Option<Arc<registry::Registry>>,
}

impl Targets for KafkaTargets {
    async fn topic(&self, _name: &str) -> Result<Topic> {
        Err(Error::fatal("not built"))
    }

    async fn schema(&self, subject: &str, schema: &str) -> Result<u32> {
        match &self.registry {
            Some(registry) => registry.register(subject, schema).await,
            None => Err(Error::config("Avro needs a schema registry, and none is configured")
                .hint("registry = \"http://host:8081\" in [format], or encoding = \"json\"")),
        }
    }
}

impl Sink for KafkaSink {
    type Targets = KafkaTargets;

    async fn check(&self) -> Result<Report> {
        Err(Error::fatal("not built"))
    }
    async fn open(&mut self) -> Result<Option<Position>> {
        Err(Error::fatal("not built"))
    }
    fn targets(&self) -> KafkaTargets {
        self.targets.clone()
    }
    async fn send(&mut self, _batch: &EncodedBatch) -> Result<()> {
        Err(Error::fatal("not built"))
    }
    async fn settled(&mut self) -> Result<Position> {
        Err(Error::fatal("not built"))
    }
    async fn idle(&mut self) -> Result<()> {
        Err(Error::fatal("not built"))
    }
    async fn close(&mut self) -> Result<Option<Position>> {
        Err(Error::fatal("not built"))
    }
}
