//! The commands, one module each.

pub mod bench;
pub mod services;
pub mod test;
