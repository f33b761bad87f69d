//! Cargo, as a command of ours runs it.

use std::process::Command;

use crate::services::repository;

/// Cargo itself tells the program that it runs which package it is of. Build scripts watch these variables: were they
/// handed on, everything above `ring` would be built anew by each command of another package.
const OF_THE_PACKAGE: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// Cargo with these words, in the repository.
pub fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository()).args(words);
    for (name, _) in std::env::vars_os() {
        if OF_THE_PACKAGE.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}
