//! An exhaustive search over the protocol by which the Kafka sink opens, delivers and opens again: every
//! interleaving of two or three instances, a few batches, a few faults, and requests that arrive late.
//!
//! Start at `search::search`, which walks every `state` that `instance`, `fault` and late arrivals lead to and
//! reports what went wrong on the way, and from where nobody can finish any more. The rules that can be
//! switched off are in `variant`; `table.rs` holds one test for each. The order of the steps, the choice of the
//! id and the judgement after a fence are the sink's own (`millrace_kafka::rules`): what is judged here runs
//! there.
//!
//! The model: a batch is one record of data and one of position, written apart and ended together. Brokers
//! know one epoch a transactional id; a request of an older one is refused. A commit may be applied and
//! answered; applied, with a second copy under way (doubtful); or be under way while its sender gives up. What
//! is under way arrives at any later time or never. Not in the model: time (a slow instance is one that
//! takes no step), the source, and how a batch is cut.

pub mod fault;
pub mod instance;
pub mod log;
pub mod search;
pub mod state;
pub mod variant;

pub use search::{Found, search};
pub use state::{Outcome, Size};
pub use variant::Variant;
