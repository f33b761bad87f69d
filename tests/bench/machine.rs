//! Which machine a figure was measured on.

use std::fs;

use crate::database::Database;
use crate::{Bench, Result};

/// Date, machine, versions and command, as lines of a list.
pub async fn facts(bench: &Bench, database: &Database) -> Result<Vec<String>> {
    Ok(facts_with(bench, format!("PostgreSQL {}", database.version().await?)))
}

/// The same, of another database.
pub fn facts_with(bench: &Bench, database: String) -> Vec<String> {
    let mut versions: Vec<String> =
        bench.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    versions.push(database);
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    let mut lines = vec![
        format!("Date: {}; load average before the first run: {load}", now()),
        format!("Machine: {}", machine()),
        format!("Versions: {}", versions.join(", ")),
        format!("Command: `{}`", bench.command),
    ];
    lines.extend(bench.server_notes.iter().cloned());
    lines
}

/// As a report dates itself.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// Cores, memory, kernel.
pub fn machine() -> String {
    let cpus = read("/proc/cpuinfo");
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let kib: u64 = memory.trim().trim_end_matches(" kB").parse().unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} cores of {model}, {} GiB of memory, Linux {}; servers, daemon and load all on it, over \
         loopback",
        (kib + (1 << 19)) >> 20,
        kernel.trim()
    )
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default()
}
