//! Proves exactly-once: writers, an independent reader of Kafka, and the checker.
//!
//! Nothing here shares code with the daemon. What the writers commit stands in a journal table of
//! the same transaction; [`reader`] and [`avro`] bring back what a consumer sees; [`checker`]
//! compares the two.

pub mod avro;
mod calendar;
pub mod checker;
pub mod events;
pub mod journal;
pub mod plant;
pub mod random;
pub mod reader;
pub mod tables;
pub mod writers;

/// An error of a tool: whoever reads it is a person at a terminal.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Error>;
