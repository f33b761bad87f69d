//! The ledger's parts against real servers: the reader against transactions that commit, abort and
//! stay open; the writers against Postgres; the proxy
//! between two ends; the checker over what it cannot vouch for.

mod auditing;
mod judging;
mod producer;
mod proxying;
mod reading;
mod writing;
