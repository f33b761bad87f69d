//! What is kept of a run that failed: the servers go, and with them their logs and the broker's records.

use std::fs;
use std::path::{Path, PathBuf};

use xtask::services::Server;
use xtask::{Context, Result};

/// Copies each server's log and data into a directory below this one. The daemon's log is beside it anyway.
pub fn keep(servers: &[&Server], below: &Path, name: &str) -> Result<PathBuf> {
    let into = below.join(format!("failed-{name}"));
    for server in servers {
        let place = into.join(server.name());
        fs::create_dir_all(&place).context(|| place.display().to_string())?;
        copy(&server.log(), &place.join("log"))?;
        copy_records(&server.dir().join("data"), &place)?;
    }
    Ok(into)
}

/// A broker's records, one directory a partition. Its indexes are sparse files, which would fill the disk.
fn copy_records(from: &Path, to: &Path) -> Result<()> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for partition in entries(from) {
        let records = entries(&partition).filter(|file| file.extension().is_some_and(|kind| kind == "log"));
        for file in records {
            let place = to.join(partition.file_name().unwrap_or_default());
            fs::create_dir_all(&place).context(|| place.display().to_string())?;
            copy(&file, &place.join(file.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).context(|| format!("{} cannot be kept", from.display())).map(drop)
}
