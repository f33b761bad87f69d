//! The contract between sources and sinks, the encoders and the pipeline that joins them.
//!
//! Start at `pipeline::run`: it moves batches (`batch`) from a `source` through `route` and `encode` to a
//! `sink`, and hands the sink's settled `position` back. Knows no database, no broker, no HTTP.

pub mod batch;
pub mod chaos;
pub mod encode;
pub mod error;
mod first;
pub mod hold;
pub mod labels;
pub mod pattern;
pub mod pipeline;
pub mod position;
pub mod progress;
pub mod relation;
pub mod report;
pub mod requests;
pub mod retry;
pub mod route;
pub mod secret;
pub mod signal;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod takeover;
pub mod trace;
pub mod turn;
