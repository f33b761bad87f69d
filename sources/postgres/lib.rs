//! Postgres logical replication as a source of changes.

pub mod catalog;
pub mod check;
pub mod config;
pub mod control;
pub mod defaults;
pub mod errors;
pub mod lsn;
pub mod pgoutput;
pub mod publication;
pub mod relation;
pub mod server;
pub mod slot;
pub mod tables;
pub mod tls;
pub mod types;
