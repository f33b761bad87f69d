//! The real pipeline between a scripted source and a scripted sink, with faults at every hand-over.
//!
//! Start at `drive::run`: one seed decides the source's `log`, how it is cut into batches, how slow everybody
//! is and what goes wrong. A `world` holds what outlives a crash: the brokers with what is visible, and the
//! place that the source was told; it checks the contract at every commit and at every confirmation, and
//! its first violation ends the run. How a source finds its place again is a `reading`: one that counts is
//! here, a real one lies with its source. `Plant` breaks a rule on purpose: the check must see it.
//!
//! Time is tokio's paused clock, so that thousands of seeds take seconds. Nothing here is for the daemon.

pub mod drive;
pub mod log;
pub mod points;
pub mod random;
pub mod reading;
mod sink;
mod source;
pub mod world;

pub use drive::run;
pub use log::{Event, Log};
pub use reading::{Counted, Reading};
pub use world::Plant;
