//! Compares what the daemon writes with what a live Debezium writes of the same database at the same time.
//!
//! [`postgres::run`] is a whole run, and the place to start reading: it makes random tables with rows, has both sides
//! read them, writes, and hands both sides' topics to [`compare`]. [`connect`] talks to Kafka
//! Connect, [`sides`] runs the two, [`records`] reads topics, [`tokens`] takes JSON apart without losing a byte, and [`allowed`] is
//! the short list of differences that are meant to be. [`mongodb::run`] is the same for documents, [`outbox::run`]
//! for the event router, where both sides are given one file.

pub mod allowed;
pub mod compare;
pub mod connect;
pub mod mongodb;
pub mod outbox;
pub mod postgres;
pub mod records;
pub mod sides;
pub mod tokens;
pub mod turns;

pub use millrace_ledger::{Error, Result};

/// How the records are written by both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Avro,
    /// With the schema beside every payload.
    Json,
    /// Whatever the bytes are.
    Plain,
}

/// How the two parts of a record are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encodings {
    pub key: Encoding,
    pub value: Encoding,
}

impl From<Encoding> for Encodings {
    fn from(encoding: Encoding) -> Self {
        Self { key: encoding, value: encoding }
    }
}

/// The servers that a run uses, and the program under test.
#[derive(Clone, Debug)]
pub struct Place {
    pub bootstrap: String,
    /// Of the registry, Confluent's interface.
    pub registry: String,
    /// Of the Connect worker.
    pub connect: String,
    pub binary: std::path::PathBuf,
    /// For the daemon's file and log.
    pub dir: std::path::PathBuf,
}
