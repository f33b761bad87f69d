//! Programs under measurement, and what the kernel counts for a process.

use std::ffi::OsStr;
use std::fs;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::Result;

/// Clock ticks a second in `/proc/<pid>/stat`: USER_HZ, 100 on every architecture that Millrace is
/// built for.
const TICKS: f64 = 100.0;

/// A program that is killed when its handle is dropped, and by the kernel when this process dies first.
/// To be started from the main thread: the kernel's promise ends with the thread that started it.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

impl Program {
    pub fn start(command: &mut Command) -> Result<Program> {
        let child = command.spawn().map_err(|error| format!("setpriv cannot be started: {error}"))?;
        Ok(Program { child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended. It stays a zombie, so that its CPU time can still be read.
    pub fn ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.id()?), options)?.is_some())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.id()?, signal)?)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    fn id(&self) -> Result<Pid> {
        Ok(Pid::from_child(&self.child))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail on a program that has ended and been waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command for [`Program::start`]: setpriv arranges for the kernel's part and then becomes the program,
/// with the same process id.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// User and system time of all threads of a process in seconds, in steps of 10 ms; of a zombie too.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so the fields are counted from its end: proc(5).
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS)
}

/// The same for a process with one thread, as its scheduler counts it: in nanoseconds.
pub fn scheduled_seconds(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let nanos: u64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos).as_secs_f64())
}

/// The most memory that was ever resident (VmHWM), in bytes.
pub fn memory_peak_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_an_ended_program_can_be_read_until_it_is_waited_for() {
        let mut command = command("sh");
        command.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]);
        let mut program = Program::start(&mut command).unwrap();
        while !program.ended().unwrap() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(cpu_seconds(program.pid()).unwrap() > 0.0);
        assert!(program.wait().unwrap().success());
        assert_eq!(cpu_seconds(program.pid()), None);
    }

    #[test]
    fn a_process_has_a_peak_of_memory() {
        assert!(memory_peak_bytes(std::process::id()).unwrap() > 1 << 20);
        assert!(scheduled_seconds(std::process::id()).unwrap() > 0.0);
    }
}
