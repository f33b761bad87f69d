//! Files to settings. Start at `load`: each file is read strictly on its own (`strict`), laid under the
//! `MILLRACE__...` variables (`environment`), its references are put in (`references`), and `settings`
//! applies defaults and checks. Every problem of every file is listed at once. Nothing else in the daemon
//! reads the environment. A `.json` file is Kafka Connect's, and `debezium` reads it into the same keys.

mod cloudevents;
mod debezium;
mod document;
mod environment;
mod fingerprint;
mod format;
mod load;
mod raw;
mod references;
mod rename;
mod route;
mod routed;
mod settings;
mod shown;
mod step;
mod strict;
mod traces;
mod typed;

pub use document::Problem;
pub use environment::Environment;
pub use load::{Loaded, load};
pub use raw::Format as RawFormat;
pub use settings::{Connector, Problems, Rest};

#[cfg(test)]
mod tests;
#[cfg(test)]
pub use tests::connector as test_connector;
