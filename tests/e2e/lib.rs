//! The harness: starts the real daemon against real servers and looks at it from outside.
//!
//! A test opens a [`Shop`] (a database, a connector file and a place in the queue for the machine), starts
//! the daemon on it, changes rows, breaks one thing, and says what a committed reader must see:
//!
//! ```ignore
//! let mut shop = Shop::open("orders").await;
//! shop.start().await.rows(1..=100).await.kill().start().await.expect_rows(1..=100).await;
//! ```
//!
//! Nothing here shares code with the daemon: Kafka is read by the ledger's reader, Avro by `apache-avro`.
//! Every wait is for a condition and has a deadline ([`until`]).

mod archive;
mod bare;
mod binary;
mod daemon;
mod event;
mod file;
mod gate;
mod papers;
mod records;
mod registry;
mod segments;
mod servers;
mod shop;
mod site;
mod slot_holder;
mod sql;
mod tools;
mod wait;

pub use archive::{Archive, Shelves, connect, document, id};
pub use bare::{Bare, committed, expect_one_transaction, wait_for_records};
pub use binary::{Ended, program, run_to_die_at, run_to_end};
pub use daemon::{Daemon, Refusal, TRUST_COMMITS, http};
pub use event::Event;
pub use file::File;
pub use gate::Gate;
pub use millrace_ledger::broker::Broker;
pub use papers::Papers;
pub use records::Records;
pub use registry::Subjects;
pub use segments::codecs;
pub use servers::{Own, Servers};
pub use shop::{Orders, Shop};
pub use site::{Origin, PositionRecord, Site};
pub use slot_holder::SlotHolder;
pub use sql::Sql;
pub use tools::{openssl, signing_key};
pub use wait::{PATIENCE, until, within};
