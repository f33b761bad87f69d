//! A steady load: one-row commits at a fixed rate, spread evenly over the second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{Result, database, workload};

/// A writer waits for its commit before the next one, which takes well below 2 ms.
const RATE_OF_ONE: u64 = 500;

/// Rows 1, 2, 3 and on, until stopped. Each writer is a thread: a sleep in a runtime ends on the
/// millisecond, which would make bursts.
pub struct Writers {
    stop: Arc<AtomicBool>,
    /// Rows that are given out, which are all committed once the writers have ended.
    rows: Arc<AtomicU64>,
    threads: Vec<JoinHandle<std::result::Result<(), String>>>,
    begun: Instant,
}

/// What was written.
pub struct Load {
    /// Their ids are 1 to this.
    pub rows: u64,
    pub per_second: f64,
}

impl Writers {
    /// `rate` rows a second; `limit` ends them by themselves after so many rows.
    pub fn start(url: &str, rate: u64, limit: u64) -> Writers {
        let count = rate.div_ceil(RATE_OF_ONE).max(1);
        let (stop, rows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let begun = Instant::now();
        let start = |nth: u64| {
            let (url, stop, rows) = (url.to_owned(), stop.clone(), rows.clone());
            let pace = Pace { begun, nth, count, rate };
            thread::spawn(move || {
                write(&url, &pace, limit, &stop, &rows).map_err(|error| format!("a writer failed: {error}"))
            })
        };
        let threads = (0..count).map(start).collect();
        Writers { stop, rows, threads, begun }
    }

    /// Lets them end, by themselves when they have a limit.
    pub fn finish(mut self, now: bool) -> Result<Load> {
        if now {
            self.stop.store(true, Ordering::Relaxed);
        }
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| "a writer panicked")??;
        }
        let rows = self.rows.load(Ordering::Relaxed);
        Ok(Load { rows, per_second: rows as f64 / self.begun.elapsed().as_secs_f64() })
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Pace {
    begun: Instant,
    nth: u64,
    count: u64,
    /// Of all writers together.
    rate: u64,
}

impl Pace {
    /// When the writer's `turn`th row is due; those of the other writers lie evenly in between.
    fn due(&self, turn: u64) -> Instant {
        let nth = turn * self.count + self.nth;
        self.begun + Duration::from_nanos(nth * 1_000_000_000 / self.rate)
    }
}

fn write(url: &str, pace: &Pace, limit: u64, stop: &AtomicBool, rows: &AtomicU64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(database::connect(url))?;
    let insert = runtime.block_on(client.prepare(workload::INSERT_ONE))?;
    for turn in 0.. {
        thread::sleep(pace.due(turn).saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let id = rows.fetch_add(1, Ordering::Relaxed) + 1;
        if id > limit {
            rows.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        runtime.block_on(client.execute(&insert, &[&i64::try_from(id)?]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_all_writers_lie_evenly_apart() {
        let begun = Instant::now();
        let due = |nth, turn| Pace { begun, nth, count: 4, rate: 2000 }.due(turn) - begun;
        let all: Vec<Duration> = (0..8).map(|row| due(row % 4, row / 4)).collect();
        assert!(all.windows(2).all(|pair| pair[1] - pair[0] == Duration::from_micros(500)), "{all:?}");
    }
}
