//! SIGTERM and SIGINT, with the exit code that each stands for, and SIGHUP, by which daemons read their files again.

use tokio::signal::unix::{Signal, SignalKind, signal};

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// With 128 and the signal's number, as shells do.
    End(u8),
    ReadFiles,
}

impl Signals {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        let Self { terminate, interrupt, hang_up } = self;
        tokio::select! {
            code = end(terminate, interrupt) => Asked::End(code),
            _ = hang_up.recv() => Asked::ReadFiles,
        }
    }

    /// Waits for one that ends the process; gives its exit code. Cancel-safe.
    pub async fn end(&mut self) -> u8 {
        end(&mut self.terminate, &mut self.interrupt).await
    }
}

async fn end(terminate: &mut Signal, interrupt: &mut Signal) -> u8 {
    tokio::select! {
        _ = terminate.recv() => 143,
        _ = interrupt.recv() => 130,
    }
}
