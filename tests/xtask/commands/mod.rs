//! The commands, one module each.

pub mod bench;
mod binary;
pub mod chaos;
pub mod demo;
pub mod diff;
pub mod fuzz;
mod group;
mod interrupt;
pub mod ledger;
pub mod services;
pub mod test;
