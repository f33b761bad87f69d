//! The daemon's program: where it lies, and runs of it that end by themselves.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use xtask::cargo;

/// Names the program to test; without it the one beside this test is built and used.
const PROGRAM: &str = "MILLRACE_BINARY";

/// A verb like `check` connects to two servers at most, each with a timeout of its own.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

/// How a run ended and what it said.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Both outputs, for a search.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs `millrace` with these words to its end.
pub fn run_to_end(words: &[&str], dir: &Path) -> Ended {
    run_ordered(words, dir, None)
}

/// The same, told to die at a point, which it must pass.
pub fn run_to_die_at(words: &[&str], dir: &Path, point: &str) -> Ended {
    let ended = run_ordered(words, dir, Some(&format!("crash:{point}")));
    assert!(ended.code.is_none(), "{words:?} did not die at {point}: {}", ended.text());
    ended
}

fn run_ordered(words: &[&str], dir: &Path, order: Option<&str>) -> Ended {
    let mut child = command(words)
        .envs(order.map(|order| ("MILLRACE_CHAOS", order)))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("millrace starts");
    let deadline = Instant::now() + ENDS_WITHIN;
    while child.try_wait().expect("a child can be waited for").is_none() {
        if Instant::now() >= deadline {
            let _ = child.kill();
            panic!("millrace {words:?} did not end within {} s", ENDS_WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().expect("the output of an ended child");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `millrace` with these words. It dies with the thread that starts it, which is the test's own, so that
/// nothing outlives a test that is stopped from the keyboard.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program()).args(words);
    // A test's connectors are what its files say.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_overlay(name)) {
        command.env_remove(name);
    }
    command
}

fn is_overlay(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("MILLRACE__") || name.starts_with("OTEL_")
}

/// Where it lies.
pub fn program() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os(PROGRAM) {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// Builds the daemon in the profile of this test: `target/<profile>/deps/e2e-...` is where it runs from.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test.ancestors().nth(2).expect("a test lies two folders deep");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(profile) => profile,
    };
    // Of the whole workspace, as this test was: with other features librdkafka would be built once more.
    let status = cargo(&["build", "--quiet", "--workspace", "--bin", "millrace", "--profile", profile])
        .status()
        .expect("cargo starts");
    assert!(status.success(), "the daemon does not build");
    folder.join("millrace")
}
