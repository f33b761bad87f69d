//! F19: whether the daemon's resident memory stays where it is. Start at `growth`.
//!
//! A process that has just started grows for good reasons, and a busy machine makes a busy process larger for a
//! while. So only the longest life of a process in a run is looked at, without its first five minutes: one held 60 MB
//! at its beginning, 80 after two and a half minutes, 84 after twelve and 76 after fourteen; another one began with 44
//! and held 62 after five. What is compared is how little it held at times in the first and in the last third of the
//! rest (the tenth percentile): work comes and goes, and what leaks stays. One run fails by a large growth; many runs
//! that each grow by a little fail together, unless the growth slows down in them, which a leak does not. Runs of 20
//! trials are too short to be judged: `--trials-a-run` makes longer ones.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_ledger::Result;

const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// Pools, caches and an allocator's arenas are filled by then.
const WARM_UP: Duration = Duration::from_secs(300);
/// Less than this beyond it tells nothing.
const JUDGED_LEAST: Duration = Duration::from_secs(120);
/// More than a broker's absence or a large transaction leaves in an allocator.
const GROWTH_MAX_KB: u64 = 16 * 1024;
/// Growth below it is noise even when it comes every time.
const CREEP_KB: u64 = 2 * 1024;
/// So many runs that all grew are no accident.
const CREEPING_RUNS: usize = 6;

/// One look at a process.
#[derive(Clone, Copy, Debug)]
struct Sample {
    pid: u32,
    at: Instant,
    kb: u64,
}

/// Looks at whichever process it was last told, until it is dropped.
pub struct Sampler {
    pid: Arc<AtomicU32>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Sampler {
    pub fn start() -> Result<Sampler> {
        let sampler = Sampler { pid: Arc::default(), samples: Arc::default() };
        let (pid, samples) = (Arc::downgrade(&sampler.pid), sampler.samples.clone());
        std::thread::Builder::new().name("memory".to_owned()).spawn(move || {
            while let Some(pid) = pid.upgrade().map(|pid| pid.load(Ordering::Relaxed)) {
                if let Some(kb) = resident_kb(pid) {
                    let sample = Sample { pid, at: Instant::now(), kb };
                    samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                }
                std::thread::sleep(SAMPLE_EVERY);
            }
        })?;
        Ok(sampler)
    }

    pub fn watch(&self, pid: Option<u32>) {
        self.pid.store(pid.unwrap_or(0), Ordering::Relaxed);
    }

    /// What the run showed; `None` where no process lived long enough.
    pub fn growth(&self) -> Option<Growth> {
        growth(&self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn resident_kb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    from_kb: u64,
    /// In the second third.
    mid_kb: u64,
    to_kb: u64,
    peak_kb: u64,
    /// Beyond the warm-up.
    over: Duration,
}

impl Growth {
    fn kb(&self) -> u64 {
        self.to_kb.saturating_sub(self.from_kb)
    }

    /// The second half of it was less than half of the first.
    fn slows_down(&self) -> bool {
        self.to_kb.saturating_sub(self.mid_kb) * 2 < self.mid_kb.saturating_sub(self.from_kb)
    }
}

fn growth(samples: &[Sample]) -> Option<Growth> {
    let lives = samples.chunk_by(|one, next| one.pid == next.pid);
    let age = |life: &[Sample]| match life {
        [first, .., last] => last.at.saturating_duration_since(first.at),
        _ => Duration::ZERO,
    };
    let life = lives.max_by_key(|life| age(life))?;
    let born = life.first()?.at;
    let warm = life.partition_point(|sample| sample.at < born + WARM_UP);
    let judged = life.get(warm..)?;
    let over = age(judged);
    if over < JUDGED_LEAST {
        return None;
    }
    let third = judged.len() / 3;
    let floor = |part: &[Sample]| {
        let mut sizes: Vec<u64> = part.iter().map(|sample| sample.kb).collect();
        sizes.sort_unstable();
        sizes.get(sizes.len() / 10).copied()
    };
    Some(Growth {
        from_kb: floor(judged.get(..third)?)?,
        mid_kb: floor(judged.get(third..judged.len() - third)?)?,
        to_kb: floor(judged.get(judged.len() - third..)?)?,
        peak_kb: life.iter().map(|sample| sample.kb).max()?,
        over,
    })
}

/// All runs of a command.
#[derive(Clone, Debug, Default)]
pub struct Judged(Vec<Growth>);

impl Judged {
    pub fn add(&mut self, growth: Growth) {
        self.0.push(growth);
    }

    /// What is wrong, if something is.
    pub fn finding(&self) -> Option<String> {
        let worst = self.0.iter().max_by_key(|growth| growth.kb())?;
        if worst.kb() > GROWTH_MAX_KB {
            return Some(format!("the daemon's memory grows: {}", told(worst)));
        }
        let creeps = self.0.iter().all(|growth| growth.kb() > CREEP_KB && !growth.slows_down());
        (creeps && self.0.len() >= CREEPING_RUNS)
            .then(|| format!("the daemon's memory grew in each of {} runs: {}", self.0.len(), told(worst)))
    }
}

fn told(growth: &Growth) -> String {
    let Growth { from_kb, to_kb, peak_kb, over, .. } = growth;
    let mb = |kb: &u64| *kb as f64 / 1024.0;
    format!(
        "{:.1} to {:.1} MB in {} s, {:.1} at its peak",
        mb(from_kb),
        mb(to_kb),
        over.as_secs(),
        mb(peak_kb)
    )
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.iter().max_by_key(|growth| growth.kb()) {
            None => f.write_str("memory not judged: no process lived long enough"),
            Some(worst) => write!(f, "memory in {} runs, at worst {}", self.0.len(), told(worst)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process of this age whose memory is as `kb` says, each half second.
    fn life(pid: u32, seconds: u32, kb: impl Fn(u32) -> u64) -> Vec<Sample> {
        let born = Instant::now();
        let sample = |half: u32| Sample { pid, at: born + SAMPLE_EVERY * half, kb: kb(half) };
        (0..=seconds * 2).map(sample).collect()
    }

    fn judged(samples: &[Sample]) -> Option<String> {
        let mut judged = Judged::default();
        judged.add(growth(samples)?);
        judged.finding()
    }

    #[test]
    fn a_leak_is_found_under_noise_and_noise_is_no_leak() {
        let noise = |half: u32| 80_000 + u64::from(half * 7919 % 97) * 500;
        assert_eq!(judged(&life(1, 600, noise)), None);
        let leak = |half: u32| noise(half) + u64::from(half) * 40;
        assert!(judged(&life(1, 900, leak)).is_some_and(|text| text.contains("grows")));
    }

    #[test]
    fn neither_the_warm_up_nor_a_peak_at_the_end_counts() {
        let warm = |half: u32| 40_000 + u64::from(half.min(160)) * 500;
        assert_eq!(judged(&life(1, 600, warm)), None);
        let peak = |half: u32| if half > 1_100 && !half.is_multiple_of(3) { 300_000 } else { 80_000 };
        assert_eq!(judged(&life(1, 600, peak)), None);
    }

    #[test]
    fn the_longest_life_is_judged_and_a_short_one_never() {
        let leak = |half: u32| 80_000 + u64::from(half) * 100;
        assert_eq!(growth(&life(1, 200, leak)), None);
        let lives = [life(1, 100, |_| 1), life(2, 600, |_| 70_000)].concat();
        let growth = growth(&lives).expect("the second lived long enough");
        assert_eq!((growth.from_kb, growth.to_kb), (70_000, 70_000));
    }

    #[test]
    fn growth_that_comes_every_time_is_a_leak_although_each_is_small() {
        let of = |kb: u64| Growth { mid_kb: 80_000 + kb / 2, to_kb: 80_000 + kb, ..level() };
        let mut judged = Judged::default();
        for _ in 1..CREEPING_RUNS {
            judged.add(of(4_000));
            assert_eq!(judged.finding(), None);
        }
        judged.add(of(4_000));
        assert!(judged.finding().is_some_and(|text| text.contains("each of 6 runs")));
        judged.add(of(0));
        assert_eq!(judged.finding(), None);
    }

    #[test]
    fn growth_that_slows_down_in_some_run_is_no_leak() {
        let mut judged = Judged::default();
        for mid_kb in [82_000, 82_000, 82_000, 82_000, 82_000, 83_500] {
            judged.add(Growth { mid_kb, to_kb: 84_000, ..level() });
        }
        assert_eq!(judged.finding(), None);
    }

    fn level() -> Growth {
        Growth { from_kb: 80_000, mid_kb: 80_000, to_kb: 80_000, peak_kb: 90_000, over: JUDGED_LEAST }
    }
}
