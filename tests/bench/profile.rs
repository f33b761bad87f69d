//! Where the daemon's time goes, by the sampling of `perf`, in a run of its own: what is sampled is slower.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::process::{Program, command};
use crate::{Bench, Result, report};

/// Off every multiple of 100 and of the scheduler's tick, so that it does not beat with them.
const SAMPLES_PER_SECOND: &str = "997";
const SYMBOLS: usize = 25;
const WRITTEN_WITHIN: Duration = Duration::from_secs(60);

/// `perf record`, attached to the daemon.
pub struct Recorder {
    dir: tempfile::TempDir,
    perf: Option<Program>,
}

impl Recorder {
    /// `None`, with the reason, on a machine where it cannot be used.
    pub fn new(bench: &Bench) -> Result<std::result::Result<Recorder, String>> {
        let dir = tempfile::Builder::new().prefix("perf-").tempdir_in(&bench.scratch)?;
        let probe = Command::new("perf")
            .args(["record", "-q", "-g", "-o"])
            .arg(dir.path().join("probe"))
            .args(["--", "true"])
            .stdin(Stdio::null())
            .output();
        let why_not = match probe {
            Ok(output) if output.status.success() => return Ok(Ok(Recorder { dir, perf: None })),
            Ok(output) => {
                String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned()
            }
            Err(error) => error.to_string(),
        };
        Ok(Err(why_not))
    }

    pub fn start(&mut self, pid: u32) -> Result<()> {
        let log = File::create(self.dir.path().join("log"))?;
        let mut command = command("perf");
        command.args(["record", "-q", "-g", "-F", SAMPLES_PER_SECOND, "-p", &pid.to_string(), "-o"]);
        command.arg(self.dir.path().join("data"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.perf = Some(Program::start(&mut command)?);
        Ok(())
    }

    pub fn stop(&mut self) -> Result<()> {
        let Some(mut perf) = self.perf.take() else { return Ok(()) };
        perf.signal(Signal::INT)?;
        let deadline = Instant::now() + WRITTEN_WITHIN;
        while !perf.ended()? && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = perf.wait()?;
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let recorded = fs::metadata(self.dir.path().join("data")).is_ok_and(|data| data.len() > 0);
        if !recorded {
            return Err(format!("perf record ended with {status}: {log}").into());
        }
        Ok(())
    }

    /// Two tables: time by thread, and the symbols with the most time of their own.
    pub fn tables(&self) -> Result<String> {
        let threads = rows(&self.report("comm")?, usize::MAX);
        let symbols = rows(&self.report("comm,symbol")?, SYMBOLS);
        let with_head = |head: &[&str], body: Vec<Vec<String>>| {
            let mut all = vec![head.iter().map(|text| (*text).to_owned()).collect()];
            all.extend(body);
            report::table(&all)
        };
        let threads = with_head(&["share", "thread"], threads.into_iter().map(cells::<1>).collect());
        let symbols = with_head(
            &["share", "thread", "symbol (k: kernel)"],
            symbols.into_iter().map(cells::<2>).collect(),
        );
        Ok(format!("{threads}\n{symbols}"))
    }

    fn report(&self, sort: &str) -> Result<String> {
        let output = Command::new("perf")
            .args([
                "report",
                "--stdio",
                "--no-children",
                "--no-inline",
                "-g",
                "none",
                "--field-separator",
                "\t",
            ])
            .args(["--sort", sort, "-i"])
            .arg(self.dir.path().join("data"))
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The lines that hold a share, cut at the tabs.
fn rows(text: &str, most: usize) -> Vec<Vec<String>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && line.contains('%'));
    let cut = lines.map(|line| line.split('\t').map(|cell| cell.trim().to_owned()).collect());
    cut.take(most).collect()
}

/// The share and `N` cells behind it; a symbol may hold the table's own separator.
fn cells<const N: usize>(row: Vec<String>) -> Vec<String> {
    let mut cells: Vec<String> = row.into_iter().take(N + 1).collect();
    if let Some(symbol) = cells.get_mut(2) {
        let (kind, name) = match symbol.strip_prefix("[k] ") {
            Some(name) => ("k: ", name),
            None => ("", symbol.trim_start_matches("[.] ")),
        };
        *symbol = format!("{kind}`{}`", name.replace('|', "\\|"));
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_comments_are_not() {
        let text = "# Samples: 2  of event 'cpu-clock'\n# Overhead\tCommand\tSymbol\n\
                    18.57%\tencode\t[.] <a as b>::f\t-      -\n 6.07%\trdk:main\t[k] copy_to_user\n\n";
        let read: Vec<_> = rows(text, 25).into_iter().map(cells::<2>).collect();
        assert_eq!(read, [["18.57%", "encode", "`<a as b>::f`"], ["6.07%", "rdk:main", "k: `copy_to_user`"]]);
    }
}
