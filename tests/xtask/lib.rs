//! What the commands of the README are made of, as a library for the tests that need the same things.
//! Start with [`services`]: it installs and runs real Kafka, schema registry, Postgres and
//! MongoDB. [`manifests`] reads and judges the files of `docker/`.

pub mod cargo;
pub mod error;
pub mod manifests;
pub mod services;

pub use cargo::cargo;
pub use error::{Context, Error, Result};
