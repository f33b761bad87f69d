//! `millrace remove`: takes away what a connector leaves behind on its servers, after it was asked for by name.
//!
//! A slot that nobody reads makes its server keep log until the disk is full: what is removed here, and the slots
//! that look forgotten, are shown before anything is done.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use millrace_core::error::{Error, Kind, Result};
use serde_json::json;

use super::{EXIT_CONFIG, EXIT_FAILED, refuse};
use crate::operators::recorded;
use crate::registry::Remnants;
use crate::{config, registry};

pub async fn remove(file: PathBuf, yes: bool) -> u8 {
    let loaded = match config::load(&[file], &config::Environment::of_process()) {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(&problems),
    };
    for connector in &loaded.connectors {
        if let Err(error) = remove_one(connector, yes).await {
            eprintln!("millrace: {}: {error}", connector.name);
            if let Some(hint) = error.hint_text() {
                eprintln!("  hint: {hint}");
            }
            return if error.kind() == Kind::Config { EXIT_CONFIG } else { EXIT_FAILED };
        }
    }
    0
}

async fn remove_one(connector: &config::Connector, yes: bool) -> Result<()> {
    let Remnants { there, orphans } = registry::remnants(connector).await?;
    for orphan in &orphans {
        println!("not of this connector, and read by nobody: {orphan}");
    }
    println!("to be removed of {}:", connector.name);
    for line in there.iter().map(String::as_str).chain(["its position"]) {
        println!("  {line}");
    }
    if !yes && !is_sure(&connector.name) {
        return Err(Error::config("nothing was removed: what is removed cannot be had back")
            .hint("stop the connector, then add --yes, or type its name when you are asked"));
    }
    let removed = json!({"removes": there});
    recorded(connector, "remove", removed, registry::remove(connector)).await?;
    println!("removed {}", connector.name);
    Ok(())
}

/// Asks a person at a terminal.
fn is_sure(name: &str) -> bool {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return false;
    }
    print!("type {name} to remove it: ");
    let mut typed = String::new();
    // A terminal that takes no question gets no removal.
    std::io::stdout().flush().is_ok() && stdin.lock().read_line(&mut typed).is_ok() && typed.trim() == name
}
