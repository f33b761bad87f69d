//! `cargo xtask test`: everything that has to hold before a change is accepted. A failing stage does not
//! keep the later ones from running; the last line of the output is the summary of all. A signal ends what runs, with
//! everything below it, and nothing more is begun.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::binary::{self, Profile};
use super::group::Groups;
use super::interrupt::EXIT_INTERRUPTED;
use xtask::services::{
    Config, Home, POSTGRES, PostgresConfig, PostgresVersion, SHARED, Services, cache, finish, on_path,
    repository,
};
use xtask::{Context, Error, Result, cargo};

#[derive(clap::Args)]
pub struct Arguments {
    /// Leave out the tests on real servers.
    #[arg(long)]
    no_e2e: bool,
    /// Leave out the faults, a few times each, which take ten minutes.
    #[arg(long)]
    no_faults: bool,
    /// Only the tests of Postgres on real servers, on these major versions one after the other: 14 to 18, parted by
    /// commas, or `all`.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["no_e2e", "no_faults"])]
    postgres: Vec<String>,
    /// And of those only the ones whose name holds this.
    #[arg(long, requires = "postgres")]
    only: Option<String>,
}

impl Arguments {
    fn versions(&self) -> Result<Vec<PostgresVersion>> {
        if self.postgres.iter().any(|version| version == "all") {
            return Ok(PostgresVersion::ALL.to_vec());
        }
        self.postgres.iter().map(|version| version.parse()).collect()
    }
}

/// The module of the tests on real servers.
const ON_SERVERS: &str = "cases::";
/// Of those, the ones that have nothing to do with Postgres.
const OF_MONGODB: &str = "cases::mongodb";
/// How many of them run at once: on two cores, and most of their time is waiting.
const AT_ONCE: &str = "3";
/// Names the daemon to those tests, which would build it themselves.
const PROGRAM: &str = "MILLRACE_BINARY";

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut tally = Tally { groups: Groups::listen()?, ..Tally::default() };
    let versions = arguments.versions()?;
    if versions.is_empty() {
        everything(&mut tally, &arguments).await;
    }
    for version in versions {
        let mut filters = vec!["--skip", OF_MONGODB];
        filters.extend(arguments.only.as_deref());
        e2e(&mut tally, version, &filters).await;
    }
    for failure in &tally.failures {
        println!("failed: {failure}");
    }
    let is_cut = tally.groups.are_ending();
    if is_cut {
        println!("asked to end: what came later was left out");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if is_cut {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    }
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn everything(tally: &mut Tally, arguments: &Arguments) {
    // Asked for now, because the tests build this program again, and then its file is another one.
    let this = std::env::current_exe();
    tally.stage("format", cargo(&["fmt", "--all", "--check"]));
    tally.stage("clippy", cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    // All packages at once, though those on real servers come later: without one of them the features of its
    // dependencies would be others, and these built twice.
    let tests = ["test", "--workspace", "--no-fail-fast", "--", "--skip", ON_SERVERS];
    tally.tests("tests", cargo(&tests));
    deny(tally);
    if !arguments.no_e2e {
        e2e(tally, PostgresVersion::default(), &[]).await;
    }
    if !(arguments.no_e2e || arguments.no_faults) {
        faults(tally, this);
    }
}

/// The tests on real servers, against one set that is started here.
async fn e2e(tally: &mut Tally, version: PostgresVersion, filters: &[&str]) {
    let name = format!("e2e on Postgres {}", version.major());
    if tally.groups.are_ending() {
        return;
    }
    heading(&format!("{name}: servers"));
    let started = Instant::now();
    let outcome = async {
        let home = Home::temporary()?;
        let postgres = PostgresConfig { version, ..PostgresConfig::default() };
        let services = Services::start_new(&Config { postgres, ..Config::default() }, &home).await?;
        Ok((home, services))
    };
    let (home, services) = match outcome.await {
        Ok(set) => set,
        Err(e) => return tally.fail(&format!("{name}: servers"), &e),
    };
    println!("ready after {:.1} s", started.elapsed().as_secs_f32());
    // The tests run the daemon's binary; cargo builds it for the tests of its own package only.
    println!();
    let groups = tally.groups.clone();
    let built = tokio::select! {
        built = binary::build(Profile::Debug) => built,
        () = groups.ending() => Err(Error::new("asked to end")),
    };
    match built {
        Ok(daemon) => {
            let mut tests = cargo(&["test", "--workspace", "--test", "e2e", "--no-fail-fast"]);
            tests.args(["--", "--test-threads", AT_ONCE]).args(filters);
            tests.env(SHARED, &home.dir).env(PROGRAM, daemon).env(POSTGRES, version.major().to_string());
            tally.tests(&name, tests);
        }
        Err(e) => tally.fail(&format!("{name}: the daemon"), &e),
    }
    // The tests may have started some of them again, under process ids that only their records know.
    if let Err(e) = Services::down(&home).await {
        tally.fail(&format!("{name}: servers"), &e);
    }
    drop(services);
}

/// Every fault of the ledger's table, a few times each, in two processes with servers of their own: most of their time
/// is waiting. An interrupt ends them in good order. Whether anything is lost or comes twice is the question here; how
/// soon the daemon is back is measured where nothing else runs.
fn faults(tally: &mut Tally, this: std::io::Result<PathBuf>) {
    match this {
        Ok(this) => {
            let part = |part: &str| {
                let mut faults = Command::new(&this);
                faults.current_dir(repository()).args([
                    "chaos",
                    "--every-run",
                    "--slack",
                    "3",
                    "--part",
                    part,
                ]);
                faults
            };
            tally.stages("faults", ["1/2", "2/2"].map(part));
        }
        Err(e) => tally.fail("faults", &Error::new(e.to_string())),
    }
}

/// Licences, sources and bans always; known vulnerabilities when their database can be reached.
fn deny(tally: &mut Tally) {
    if tally.groups.are_ending() {
        return;
    }
    let program = match deny_program() {
        Ok(program) => program,
        Err(e) => return tally.fail("deny", &e),
    };
    let mut check = Command::new(&program);
    check.current_dir(repository()).arg("check");
    if within(Command::new(&program).current_dir(repository()).args(["fetch", "db"]), FETCHED_WITHIN) {
        check.arg("advisories");
    } else {
        println!("the advisory database cannot be fetched: advisories are not checked");
    }
    check.args(["bans", "licenses", "sources"]);
    tally.stage("deny", check);
}

const FETCHED_WITHIN: Duration = Duration::from_secs(90);
const DENY_VERSION: &str = "0.19.0";

/// `cargo-deny` from the PATH, else from our cache, where it is installed if need be.
fn deny_program() -> Result<PathBuf> {
    if on_path("cargo-deny") {
        return Ok("cargo-deny".into());
    }
    let root = cache()?.join(format!("cargo-deny-{DENY_VERSION}"));
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        println!("installing cargo-deny {DENY_VERSION} ...");
        let mut install = cargo(&["install", "cargo-deny", "--locked", "--version", DENY_VERSION, "--root"]);
        finish(install.arg(&root))?;
    }
    Ok(program)
}

/// Whether a command succeeds in time; what it prints is of no interest.
fn within(command: &mut Command, limit: Duration) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = quiet.spawn() else {
        return false;
    };
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => break,
        }
    }
    // It cannot be killed only if it has just ended by itself.
    let _ = child.kill();
    let _ = child.wait();
    false
}

fn heading(name: &str) {
    println!("\n== {name}");
    // Flushed, so that it stands above what the stage's own process writes.
    let _ = std::io::stdout().flush();
}

/// The sum of it all.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    failures: Vec<String>,
    groups: Groups,
}

impl Tally {
    /// Runs a command that counts as one.
    fn stage(&mut self, name: &str, command: Command) {
        self.stages(name, [command]);
    }

    /// Runs commands side by side, each of which counts.
    fn stages<const N: usize>(&mut self, name: &str, commands: [Command; N]) {
        if self.groups.are_ending() {
            return;
        }
        heading(name);
        let groups = self.groups.clone();
        for head in commands.map(|mut command| groups.spawn(command.stdin(Stdio::null()))) {
            match head.and_then(|mut head| head.child.wait()) {
                Ok(status) if status.success() => self.passed += 1,
                Ok(status) => self.fail(name, &Error::new(status.to_string())),
                Err(e) => self.fail(name, &Error::new(e.to_string())),
            }
        }
    }

    /// Runs test binaries and counts what they report.
    fn tests(&mut self, name: &str, command: Command) {
        if self.groups.are_ending() {
            return;
        }
        heading(name);
        let before = self.failed;
        match self.watch(command) {
            Err(e) => self.fail(name, &e),
            // It did not compile, or a test binary died before it could report.
            Ok(false) if self.failed == before => self.fail(name, &Error::new("ended without a result")),
            Ok(_) => {}
        }
    }

    fn watch(&mut self, mut command: Command) -> Result<bool> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut head = self.groups.spawn(command).context(|| "cargo".into())?;
        for line in head.child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).split(b'\n')) {
            let line = line.context(|| "the output of cargo cannot be read".into())?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            self.count(&line);
        }
        Ok(head.child.wait().context(|| "cargo".into())?.success())
    }

    /// `test result: ok. 5 passed; 0 failed; ...`, and `test name ... FAILED`.
    fn count(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let of = |word: &str| {
                let words: Vec<&str> = counts.split([' ', ';']).collect();
                let number = words.windows(2).find(|pair| pair.last() == Some(&word));
                number.and_then(|pair| pair.first()?.parse().ok()).unwrap_or(0)
            };
            self.passed += of("passed");
            self.failed += of("failed");
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"))
        {
            self.failures.push(format!("test {name}"));
        }
    }

    fn fail(&mut self, name: &str, error: &Error) {
        println!("{name}: {error}");
        self.failed += 1;
        self.failures.push(format!("{name}: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_two_test_binaries_are_added_up() {
        let mut tally = Tally::default();
        tally.count("running 8 tests");
        tally.count("test a::b ... ok");
        tally.count("test a::c ... FAILED");
        tally.count("test result: FAILED. 5 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out");
        tally.count("test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out");
        assert_eq!((tally.passed, tally.failed, tally.failures), (45, 1, vec!["test a::c".to_owned()]));
    }

    #[test]
    fn a_run_that_dies_without_a_result_counts_as_one_failure() {
        let mut tally = Tally::default();
        tally.tests("tests", Command::new("false"));
        assert_eq!((tally.passed, tally.failed), (0, 1));
    }

    #[test]
    fn a_failing_run_that_reported_its_failures_is_not_counted_again() {
        let mut tally = Tally::default();
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored'; exit 101"]);
        tally.tests("tests", command);
        assert_eq!((tally.passed, tally.failed), (1, 2));
    }

    #[test]
    fn a_command_that_hangs_is_given_up_after_the_limit() {
        let started = Instant::now();
        assert!(!within(Command::new("sleep").arg("60"), Duration::from_millis(100)));
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
