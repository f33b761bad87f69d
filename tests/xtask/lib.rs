//! What the commands of the README are made of, as a library for the tests that need the same things.
//! Start with [`services`]: it installs and runs real Kafka, schema registry, Postgres and
//! MongoDB.

pub mod cargo;
pub mod error;
pub mod services;

pub use cargo::cargo;
pub use error::{Context, Error, Result};
