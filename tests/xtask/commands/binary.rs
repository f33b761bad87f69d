//! The daemon's binary, built by cargo when it is needed.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;
use xtask::{Context, Error, Result, cargo};

/// How it is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Release,
    Debug,
}

impl Profile {
    pub fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
        }
    }
}

/// Builds it where it is out of date; cargo says how far it has come. Ends with this future.
pub async fn build(profile: Profile) -> Result<PathBuf> {
    println!("-- building the daemon ({} mode)", profile.name());
    let mut command = Command::from(cargo(&["build"]));
    match profile {
        Profile::Release => command.args(["--package", "millrace", "--release"]),
        // As the tests have built it: with other features librdkafka would be built once more.
        Profile::Debug => command.args(["--workspace", "--bin", "millrace"]),
    };
    let status = command.stdin(Stdio::null()).kill_on_drop(true).status().await;
    match status.context(|| "cargo build".to_owned())? {
        status if status.success() => Ok(target()?.join(profile.name()).join("millrace")),
        status => Err(Error::new(format!("cargo build ended with {status}"))),
    }
}

/// The target directory that this very program lies in.
pub fn target() -> Result<PathBuf> {
    let this = std::env::current_exe().context(|| "this program's own path".to_owned())?;
    let target = this.ancestors().nth(2).map(PathBuf::from);
    target.ok_or_else(|| Error::new("this program lies in no target directory"))
}
