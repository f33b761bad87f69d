//! Postgres logical replication as a source of changes.
//!
//! Start at `source`: it opens the connections and hands the replication one to `stream`, which reads frames
//! (`wire`), decodes them (`pgoutput`) and lets `session` decide what is new. `start` says where to begin.

mod adopt;
mod blocker;
pub mod catalog;
pub mod check;
pub mod config;
mod contents;
pub mod control;
mod declared;
pub mod defaults;
mod described;
mod drain;
pub mod errors;
mod failover;
pub mod frames;
mod handshake;
mod held;
pub mod janitor;
pub mod lsn;
mod membership;
pub mod messages;
pub mod pgoutput;
pub mod position;
pub mod publication;
pub mod relation;
mod remove;
mod reselect;
pub mod server;
mod session;
mod signals;
pub mod slot;
mod snapshot;
mod socket;
pub mod source;
mod start;
mod stream;
pub mod tables;
mod takeover;
pub mod tls;
pub mod types;
mod wire;
mod writers;

pub use adopt::{Consent, adopted};
pub use drain::Wish as Drain;
pub use held::{goes_before, may_move, waiting};
pub use remove::{remnants, remove};
pub use snapshot::copy;
pub use source::PostgresSource;
pub use start::{chosen, forgotten};
pub use takeover::{handed_back, nobody_reads, taken};
