//! Proves exactly-once: writers, an independent reader of Kafka, and the checker.
//!
//! Nothing here shares code with the daemon. What the [`writers`] commit stands in a [`journal`]
//! of the same transaction; [`reader`], [`avro`] and [`events`] bring back what a consumer sees;
//! the [`checker`] compares the two, and [`plant`] shows that it would find a fault.
//! [`run::run`] is a whole run, and the place to start reading; [`proxy`] stands between the daemon and its
//! servers where the links themselves are to fail.
//! [`mongodb::run`] is the same for documents.

pub mod avro;
pub mod broker;
mod calendar;
pub mod checker;
pub mod daemon;
pub mod events;
pub mod journal;
pub mod mongodb;
pub mod plant;
pub mod position;
pub mod proxy;
pub mod random;
pub mod reader;
pub mod run;
pub mod snapshot;
pub mod tables;
pub mod watermark;
pub mod writers;

/// An error of a tool: whoever reads it is a person at a terminal.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Error>;
