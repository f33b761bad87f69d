//! What a sink must do.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::batch::EncodedBatch;
use crate::error::Result;
use crate::position::{Notes, Position};
use crate::report::Report;

pub trait Sink: Send {
    type Targets: Targets;

    /// Proves every precondition without changing anything.
    fn check(&self) -> impl Future<Output = Result<Report>> + Send;

    /// Shuts out any predecessor, then says how far this connector got. Every recovery begins here.
    fn open(&mut self) -> impl Future<Output = Result<Option<Position>>> + Send;

    /// What the source noted beside the position, as the last opening found it: asked once after each. A sink
    /// that keeps a position keeps these too.
    fn notes(&mut self) -> Notes;

    /// What the encoder asks before it encodes a relation's first row. Usable while this sink is busy.
    fn targets(&self) -> Self::Targets;

    /// Enqueues the batch; when it returns the buffer is free and nothing is promised yet. An empty batch
    /// with an `end` moves the position alone. `drained` batches are committed at once.
    fn send(&mut self, batch: &EncodedBatch) -> impl Future<Output = Result<()>> + Send;

    /// Waits for the newest durable position to move; never returns while nothing is under way. Cancel-safe.
    fn settled(&mut self) -> impl Future<Output = Result<Position>> + Send;

    /// Nothing more is coming now: commit what is open, if it ends at a transaction's end.
    fn idle(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Commits what is whole, waits for it and gives the newest durable position, if any. The last call but
    /// for `undisturbed`.
    fn close(&mut self) -> impl Future<Output = Result<Option<Position>>> + Send;

    /// Asked before a source's word that it cannot go on is believed: fails where another instance has moved
    /// the position, or taken over, since this one read it. A sink that nobody shares has nothing to look at.
    fn undisturbed(&mut self) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }
}

/// A place that records can go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// What a `Record` names it by.
    pub index: u32,
    pub partitions: u32,
    /// Largest record, key, value and headers together, that it takes.
    pub record_bytes_max: u32,
}

/// In what a schema is written, as registries tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaType {
    Avro,
    Json,
}

impl fmt::Display for SchemaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avro => "AVRO",
            Self::Json => "JSON",
        })
    }
}

/// A schema as the registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    pub id: u32,
    pub of: SchemaType,
    pub text: String,
}

/// Of the error that a registry refuses a schema with because of those before it.
pub const SCHEMA_INCOMPATIBLE: &str = "schema_incompatible";

/// Topics and schemas, made and looked up before a batch is encoded and never while encoding.
pub trait Targets: Clone + Send + Sync + 'static {
    /// Makes sure that the topic is there.
    fn topic(&self, name: &str) -> impl Future<Output = Result<Topic>> + Send;

    /// Registers a schema under a subject and gives its id. Waits, visibly, while the registry is away. An error with
    /// the code `SCHEMA_INCOMPATIBLE` where those before it do not allow it.
    fn schema(&self, of: SchemaType, subject: &str, text: &str) -> impl Future<Output = Result<u32>> + Send;

    /// The same, for what can wait alone: fails with the code `REGISTRY_AWAY` when a registry that has answered before is
    /// away for longer than this.
    fn hasty(&self, _patience: Duration) -> Self {
        self.clone()
    }

    /// Whether a registry that was away answers again.
    fn answers(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(true)
    }

    /// The newest schema under a subject; `None` where there is none. Waits like `schema`.
    fn registered(&self, _subject: &str) -> impl Future<Output = Result<Option<Registered>>> + Send {
        std::future::ready(Ok(None))
    }
}
