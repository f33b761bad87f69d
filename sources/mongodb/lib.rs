//! MongoDB change streams as a source of changes.
//!
//! Start at `source`: it opens the client and has the stream read by two halves, `reader` (asks the server)
//! and `stream` (decodes, with `session` and `bson`). `start` says where to begin; what is there already is
//! read beside the stream by `snapshot`.

pub mod bson;
mod by_namespace;
mod cells;
pub mod check;
mod client;
mod collections;
pub mod config;
pub mod errors;
mod event;
mod oplog;
mod pipeline;
pub mod position;
mod reader;
mod relation;
pub mod resume_token;
mod session;
mod signals;
mod snapshot;
pub mod source;
mod start;
mod stream;
mod takeover;
mod transaction;

pub use source::MongodbSource;
pub use start::{chosen, forget};
pub use takeover::{handed_back, taken};
