//! The figures of the README, measured: the daemon as it is shipped, against real servers.
//!
//! One module a question: [`throughput`], [`outbox`], [`mongodb`], [`latency`], [`recovery`], [`large`], [`snapshot`]. Each measures, has
//! what reached Kafka counted by a reader that shares no code with the daemon, and writes its own section of
//! the report. Nothing here starts a server: [`Bench`] says where they are.

mod daemon;
mod database;
mod figures;
pub mod large;
pub mod latency;
pub mod machine;
pub mod mongodb;
mod observer;
pub mod outbox;
mod process;
mod profile;
mod pulse;
pub mod recovery;
mod report;
pub mod snapshot;
pub mod throughput;
mod topics;
mod verify;
mod workload;
mod writers;

use std::path::PathBuf;

pub use millrace_ledger::{Error, Result};

/// The servers, all on this machine, and the programs that are measured.
#[derive(Clone, Debug)]
pub struct Servers {
    /// `postgres://user:password@host:port/database`, a superuser's.
    pub postgres: String,
    pub bootstrap: String,
    /// The url of a replica set, where documents are asked about.
    pub mongodb: Option<String>,
    /// The Confluent-compatible root of the schema registry.
    pub registry: String,
    /// For their CPU time.
    pub broker_pids: Vec<u32>,
    /// The daemon, built in release mode.
    pub millrace: PathBuf,
    pub pg_recvlogical: PathBuf,
}

/// Where to measure, and what to write beside the figures.
#[derive(Clone, Debug)]
pub struct Bench {
    pub servers: Servers,
    pub report: PathBuf,
    /// A directory for connector files, logs and samples; what is put there is deleted again.
    pub scratch: PathBuf,
    /// What was typed.
    pub command: String,
    /// Name and version of what took part; Postgres answers for itself.
    pub versions: Vec<(String, String)>,
    /// In words, how the servers differ from their defaults.
    pub server_notes: Vec<String>,
}
