//! One process of a server: started, found again, signalled and watched by its process id.
//! A server may be several processes (Postgres is one per session), so signals reach the whole tree.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::{Context, Error, Result};

/// How a process is started; kept on disk so that another process can start it again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub cwd: PathBuf,
    /// Where standard output and standard error go, appended.
    pub log: PathBuf,
    /// The numeric user and group to run as, when it is not ours.
    pub user: Option<(u32, u32)>,
}

/// A process id together with the moment it was given out, so that a reused id is not taken for ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    /// Clock ticks between boot and the start of the process: field 22 of `/proc/<pid>/stat`.
    pub started: u64,
}

impl Identity {
    /// This very process.
    pub fn of_this_process() -> Self {
        let pid = std::process::id();
        Self { pid, started: Stat::read(pid).map_or(0, |stat| stat.started) }
    }

    /// Whether that process still runs; a zombie does not.
    pub fn alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.started == self.started && !stat.dead)
    }
}

/// A process that runs, has run, or will run.
#[derive(Debug, Default)]
pub struct Process {
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    identity: Option<Identity>,
    /// Only a parent can reap, and only the process that started it is the parent.
    child: Option<Child>,
}

impl Process {
    /// A handle to a process that somebody else started.
    pub fn found(identity: Option<Identity>) -> Self {
        Self { running: Mutex::new(Running { identity, child: None }) }
    }

    /// Starts it. `dies_with_us`: the kernel kills it when this process ends, however it ends.
    pub fn spawn(&self, launch: &Launch, dies_with_us: bool) -> Result<Identity> {
        let mut running = self.lock();
        let child = spawn_on_lasting_thread(command(launch, dies_with_us)?)
            .context(|| format!("{} cannot be started", launch.program.display()))?;
        let pid = child.id();
        let started = Stat::read(pid).map_or(0, |stat| stat.started);
        let identity = Identity { pid, started };
        *running = Running { identity: Some(identity), child: Some(child) };
        Ok(identity)
    }

    pub fn identity(&self) -> Option<Identity> {
        self.lock().identity
    }

    pub fn alive(&self) -> bool {
        let mut running = self.lock();
        if let Some(child) = running.child.as_mut()
            && matches!(child.try_wait(), Ok(Some(_)))
        {
            running.child = None;
        }
        running.identity.is_some_and(Identity::alive)
    }

    /// Signals the first process only; a server passes an orderly stop on by itself.
    pub fn signal(&self, signal: Signal) {
        if let Some(identity) = self.identity()
            && identity.alive()
        {
            send(identity.pid, signal);
        }
    }

    /// Signals the first process and all its descendants, parents before children: a parent that is
    /// stopped first cannot start another child behind the signal.
    pub fn signal_tree(&self, signal: Signal) {
        for pid in self.tree() {
            send(pid, signal);
        }
    }

    /// SIGSTOP to the whole tree; returns when all of it stands still. On a busy machine the first thread that
    /// takes the signal may wait for its turn, and the others answer until then.
    pub fn pause(&self) {
        self.signal_tree(Signal::STOP);
        let deadline = Instant::now() + Duration::from_secs(10);
        let moves = |pid: &u32| Stat::read(*pid).is_some_and(|stat| !stat.stopped && !stat.dead);
        while self.tree().iter().any(moves) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGKILL to the whole tree; returns when nothing of it is left.
    pub fn kill(&self) {
        // Stopped first, so that the list of children is complete when the killing begins.
        self.signal_tree(Signal::STOP);
        let mut dying: Vec<Identity> = self.tree().into_iter().filter_map(identity_of).collect();
        for process in &dying {
            send(process.pid, Signal::KILL);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let first = self.alive();
            dying.retain(|process| process.alive());
            if dying.is_empty() && !first {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the end; false when it still runs after `limit`.
    pub async fn ended(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.alive() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    fn tree(&self) -> Vec<u32> {
        match self.identity() {
            Some(identity) if identity.alive() => descendants(identity.pid),
            _ => Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a short command to its end, with nothing on standard input, and answers its standard output.
pub fn run_to_end(launch: &Launch) -> Result<()> {
    let mut command = command(launch, true)?;
    let status = command.status().context(|| format!("{} cannot be started", launch.program.display()))?;
    if status.success() {
        return Ok(());
    }
    let program = launch.program.display();
    Err(Error::new(format!("{program} ended with {status}; its last words:\n{}", last_lines(&launch.log))))
}

/// The end of a log, for an error message.
pub fn last_lines(log: &std::path::Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

fn command(launch: &Launch, dies_with_us: bool) -> Result<Command> {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&launch.log)
        .context(|| format!("{} cannot be written", launch.log.display()))?;
    let errors = log.try_clone().context(|| "a log cannot be opened twice".to_owned())?;
    // setpriv sets user and death signal and then becomes the program: same pid, and no unsafe here.
    let mut words: Vec<OsString> = Vec::new();
    if dies_with_us {
        words.extend(["--pdeathsig".into(), "KILL".into()]);
    }
    if let Some((uid, gid)) = launch.user {
        words.extend([format!("--reuid={uid}").into(), format!("--regid={gid}").into()]);
        words.push("--clear-groups".into());
    }
    let mut command = if words.is_empty() {
        Command::new(&launch.program)
    } else {
        words.push("--".into());
        words.push(launch.program.clone().into());
        let mut guarded = Command::new("setpriv");
        guarded.args(words);
        guarded
    };
    command.args(&launch.args).current_dir(&launch.cwd).env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    // A group of its own: Ctrl-C in the terminal is ours to handle, not the servers'.
    command.process_group(0);
    Ok(command)
}

type Order = (Command, SyncSender<io::Result<Child>>);

/// The death signal fires when the *thread* that forked ends (prctl(2), PR_SET_PDEATHSIG), and test
/// threads end long before the process does. So one thread that never ends does all the forking.
fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<SyncSender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = sync_channel::<Order>(8);
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // A caller that went away has no use for the answer.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = sync_channel(1);
    let gone = || io::Error::other("the thread that starts servers has ended");
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended a moment ago, which is what every signal but CONT is after.
        let _ = kill_process(pid, signal);
    }
}

fn identity_of(pid: u32) -> Option<Identity> {
    Stat::read(pid).map(|stat| Identity { pid, started: stat.started })
}

struct Stat {
    parent: u32,
    started: u64,
    dead: bool,
    stopped: bool,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, so the fields are counted from its end: proc(5).
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let state = *fields.first()?;
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
            dead: state == "Z" || state == "X",
            stopped: state == "T",
        })
    }
}

/// The process and everything below it, parents first.
fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&pid) = tree.get(next) {
        tree.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    tree
}
