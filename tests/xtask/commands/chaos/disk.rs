//! F14: the broker's disk is full, and has room again. The disk is a small one in memory, which only root can
//! mount.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use millrace_ledger::run::{Stage, Struck};
use xtask::services::Home;
use xtask::{Context, Error, Result};

use super::scene::Scene;

/// Room for some runs' topics.
const SIZE: &str = "size=1500m";
const FULL_FOR_MS: u64 = 4_000;

/// Mounted until it is dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount() -> Result<SmallDisk> {
        let dir = Home::temporary()?.dir;
        let mut mount = Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(&dir).status();
        match status.context(|| "mount".to_owned())?.success() {
            true => Ok(SmallDisk(dir)),
            false => Err(Error::new("F14 needs a small disk, and only root can mount one")),
        }
    }

    pub fn dir(&self) -> PathBuf {
        self.0.clone()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server may be on its way out of it. What cannot be taken away is told by the system.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

pub async fn strike(scene: &Scene, stage: &mut Stage) -> millrace_ledger::Result<Struck> {
    let disk = scene.disk.as_ref().ok_or("the broker has no small disk")?;
    let filler = disk.dir().join("filler");
    let mut fill = Command::new("dd");
    // It ends with an error, because there is no room: that is what it is for.
    fill.args(["if=/dev/zero", "bs=1M", "status=none"]).arg(format!("of={}", filler.display()));
    tokio::task::spawn_blocking(move || fill.status()).await??;
    tokio::time::sleep(Duration::from_millis(1_000) + stage.millis(FULL_FOR_MS)).await;
    let died = !scene.kafka.brokers().iter().all(|broker| broker.alive());
    std::fs::remove_file(&filler)?;
    if died {
        scene.kafka.start().await?;
    }
    Ok(Struck::now(format!(
        "the broker's disk full, the broker {}",
        if died { "died of it" } else { "lived" }
    )))
}
