//! Commands at the head of process groups of their own, so that a signal to us ends them and whatever they started:
//! cargo, the tests that cargo runs, and the daemons of those.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use xtask::Result;

use super::interrupt::Interrupt;

/// A daemon takes 10 s at most to end in good order.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// The groups that run. Clones are the same.
#[derive(Clone, Default)]
pub struct Groups {
    heads: Arc<Mutex<Vec<Pid>>>,
    interrupt: Option<Interrupt>,
}

impl Groups {
    /// From now on a signal that asks us to end is passed on to all that run, as SIGTERM; a second one, or time, as
    /// SIGKILL.
    pub fn listen() -> Result<Self> {
        let interrupt = Interrupt::listen()?;
        let groups = Self { heads: Arc::default(), interrupt: Some(interrupt.clone()) };
        let ending = groups.clone();
        tokio::spawn(async move {
            interrupt.asked(1).await;
            ending.signal(Signal::TERM);
            // Whether they were given the time or asked again is all one.
            let _ = tokio::time::timeout(ENDS_WITHIN, interrupt.asked(2)).await;
            ending.signal(Signal::KILL);
        });
        Ok(groups)
    }

    /// We were asked to end: nothing new is begun.
    pub fn are_ending(&self) -> bool {
        self.interrupt.as_ref().is_some_and(|interrupt| interrupt.times() > 0)
    }

    /// Waits until we are asked to end. Cancel-safe.
    pub async fn ending(&self) {
        match &self.interrupt {
            Some(interrupt) => interrupt.asked(1).await,
            None => std::future::pending().await,
        }
    }

    pub fn spawn(&self, command: &mut Command) -> io::Result<Head> {
        let mut heads = self.heads();
        // Asked under the lock, so that the signal finds it or it is not begun.
        if self.are_ending() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "we were asked to end"));
        }
        let child = command.process_group(0).spawn()?;
        let pid = Pid::from_child(&child);
        heads.push(pid);
        Ok(Head { child, pid, groups: self.clone() })
    }

    fn signal(&self, signal: Signal) {
        for pid in &*self.heads() {
            // It may have ended a moment ago.
            let _ = kill_process_group(*pid, signal);
        }
    }

    fn heads(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first process of a group; forgotten when it is dropped.
pub struct Head {
    pub child: Child,
    pid: Pid,
    groups: Groups,
}

impl Drop for Head {
    fn drop(&mut self) {
        self.groups.heads().retain(|pid| *pid != self.pid);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::process::Stdio;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_signal_ends_the_command_and_what_it_started() {
        let groups = Groups::default();
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 600 & echo $!; wait"]).stdout(Stdio::piped());
        let mut head = groups.spawn(&mut shell).unwrap();
        let mut line = String::new();
        BufReader::new(head.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started = format!("/proc/{}/stat", line.trim());
        let runs = || {
            let stat = std::fs::read_to_string(Path::new(&started)).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.trim_start().starts_with('Z'))
        };
        assert!(runs());
        groups.signal(Signal::TERM);
        assert!(!head.child.wait().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(10);
        while runs() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!runs(), "what the command started has outlived it");
        drop(head);
        assert!(groups.heads().is_empty());
    }
}
