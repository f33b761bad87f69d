//! Postgres logical replication as a source of changes.

pub mod config;
pub mod lsn;
pub mod pgoutput;
pub mod tables;
