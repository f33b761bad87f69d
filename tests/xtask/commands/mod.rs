//! The commands, one module each.

pub mod services;
pub mod test;
