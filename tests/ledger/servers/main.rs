//! The ledger's parts against real servers: the reader against transactions that commit, abort and
//! stay open; the writers against Postgres.

mod auditing;
mod producer;
mod reading;
mod writing;
