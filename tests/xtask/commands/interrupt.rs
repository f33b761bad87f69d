//! Ctrl-C and its relatives: the first ends a command in good order, a second one cuts that short.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use xtask::{Context, Result};

/// As shells answer Ctrl-C.
pub const EXIT_INTERRUPTED: u8 = 130;

/// How often we were asked to end.
#[derive(Clone)]
pub struct Interrupt {
    times: watch::Receiver<u32>,
}

impl Interrupt {
    /// From now on the signals no longer end the process by themselves.
    pub fn listen() -> Result<Self> {
        let on = |kind| signal(kind).context(|| "signals cannot be listened for".to_owned());
        let signals = [on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?];
        let (count, times) = watch::channel(0);
        tokio::spawn(count_all(signals, count));
        Ok(Self { times })
    }

    pub fn times(&self) -> u32 {
        *self.times.borrow()
    }

    /// Waits until we were asked so often. Cancel-safe.
    pub async fn asked(&self, times: u32) {
        // The counting task ends with the process only.
        let _ = self.times.clone().wait_for(|so_far| *so_far >= times).await;
    }
}

async fn count_all([mut first, mut second, mut third]: [Signal; 3], count: watch::Sender<u32>) {
    loop {
        tokio::select! {
            _ = first.recv() => {}
            _ = second.recv() => {}
            _ = third.recv() => {}
        }
        count.send_modify(|times| *times += 1);
    }
}
