//! How much a producer has enqueued that is not acknowledged, by partition.
//!
//! librdkafka has one request of a partition under way at a time, and while the next one is due its thread polls
//! without pause until the answer comes: measured, half of all CPU time of a drained backlog. So records wait in
//! it until a batch is full or it is made to send, by a push or by a commit; and neither is done while an answer is
//! on its way, which is what is counted here for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Without an answer for so long, what is on its way is not waited for, and a push is made again: it may not have
/// been sent at all.
const STILL: Duration = Duration::from_millis(20);

/// Of one producer. Bytes are those of keys and values, as librdkafka counts them when it fills its batches.
#[derive(Debug)]
pub struct Outstanding {
    /// A partition that holds as many is sent without being asked.
    batch_bytes: u64,
    /// All together are sent when they hold as many.
    push_bytes: u64,
    enqueued: AtomicU64,
    acknowledged: AtomicU64,
    /// Partitions that hold a whole batch and more.
    full: AtomicUsize,
    /// What was enqueued at the newest push, and when that was.
    pushed: AtomicU64,
    pushed_us: AtomicU64,
    since: Instant,
}

impl Outstanding {
    pub fn new(batch_bytes: u64, push_bytes: u64) -> Self {
        Self {
            batch_bytes,
            push_bytes,
            enqueued: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            full: AtomicUsize::new(0),
            pushed: AtomicU64::new(0),
            pushed_us: AtomicU64::new(0),
            since: Instant::now(),
        }
    }

    /// Whether a push is due now. One that is, is taken for done.
    pub fn takes_push(&self) -> bool {
        let enqueued = self.enqueued.load(Ordering::Relaxed);
        if enqueued.saturating_sub(self.acknowledged()) < self.push_bytes || self.has_full() {
            return false;
        }
        let now = self.since.elapsed();
        let newest = Duration::from_micros(self.pushed_us.load(Ordering::Relaxed));
        if self.has_pushed() && now.saturating_sub(newest) < STILL {
            return false;
        }
        self.pushed.store(enqueued, Ordering::Relaxed);
        self.pushed_us.store(now.as_micros() as u64, Ordering::Relaxed);
        true
    }

    /// Waits, by `poll`, until no answer is on its way that would have to come first; not for one that does not come.
    pub fn settle(&self, deadline: Instant, poll: impl Fn(Duration)) {
        let (mut acknowledged, mut moved) = (self.acknowledged(), Instant::now());
        while self.has_full() || self.has_pushed() {
            let now = Instant::now();
            if now >= deadline || now.duration_since(moved) >= STILL {
                return;
            }
            poll(STILL);
            if self.acknowledged() != acknowledged {
                (acknowledged, moved) = (self.acknowledged(), Instant::now());
            }
        }
    }

    /// Since the producer was made; what failed is in it.
    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn has_full(&self) -> bool {
        self.full.load(Ordering::Relaxed) > 0
    }

    /// Less is acknowledged than was enqueued at the newest push.
    fn has_pushed(&self) -> bool {
        self.acknowledged() < self.pushed.load(Ordering::Relaxed)
    }
}

/// A topic's share of it.
#[derive(Debug)]
pub struct Share {
    partitions: Box<[AtomicU64]>,
    of: Arc<Outstanding>,
}

impl Share {
    pub fn new(of: Arc<Outstanding>, partitions: u32) -> Self {
        Self { partitions: (0..partitions).map(|_| AtomicU64::new(0)).collect(), of }
    }

    /// Before the record is handed over: it may be acknowledged before that call returns.
    pub fn add(&self, partition: usize, bytes: u64) {
        let Some(held) = self.partitions.get(partition) else { return };
        self.of.enqueued.fetch_add(bytes, Ordering::Relaxed);
        let before = held.fetch_add(bytes, Ordering::Relaxed);
        if !self.is_full(before) && self.is_full(before + bytes) {
            self.of.full.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn remove(&self, partition: usize, bytes: u64) {
        let Some(held) = self.partitions.get(partition) else { return };
        self.of.acknowledged.fetch_add(bytes, Ordering::Relaxed);
        let before = held.fetch_sub(bytes, Ordering::Relaxed);
        if self.is_full(before) && !self.is_full(before - bytes) {
            self.of.full.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn is_full(&self, bytes: u64) -> bool {
        bytes >= self.of.batch_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(push_bytes: u64) -> (Arc<Outstanding>, Share, Share) {
        let all = Arc::new(Outstanding::new(100, push_bytes));
        (all.clone(), Share::new(all.clone(), 2), Share::new(all, 1))
    }

    #[test]
    fn a_partition_is_full_while_it_holds_a_batch() {
        let (all, a, b) = shares(u64::MAX);
        a.add(0, 60);
        b.add(0, 60);
        a.add(1, 99);
        assert!(!all.has_full());
        a.add(0, 60);
        b.add(0, 40);
        assert!(all.has_full());
        a.remove(0, 60);
        assert!(all.has_full());
        b.remove(0, 60);
        assert!(!all.has_full());
        assert_eq!(all.acknowledged(), 120);
        // Nobody counts a partition that came later.
        a.add(7, 1_000);
        assert!(!all.has_full());
    }

    #[test]
    fn a_push_is_due_when_enough_waits_and_the_one_before_it_is_answered() {
        let (all, a, b) = shares(100);
        a.add(0, 60);
        assert!(!all.takes_push());
        b.add(0, 60);
        assert!(all.takes_push());
        a.add(1, 60);
        assert!(!all.takes_push(), "the first is on its way");
        a.remove(0, 60);
        assert!(!all.takes_push());
        b.remove(0, 60);
        assert!(!all.takes_push(), "too little waits");
        b.add(0, 60);
        assert!(all.takes_push());
        // A batch that is full goes by itself.
        a.remove(1, 60);
        b.remove(0, 60);
        b.add(0, 100);
        assert!(!all.takes_push());
    }

    #[test]
    fn a_push_that_nobody_answers_is_made_again_and_not_waited_for() {
        let (all, a, _) = shares(50);
        a.add(0, 60);
        assert!(all.takes_push());
        let deadline = Instant::now() + 100 * STILL;
        all.settle(deadline, std::thread::sleep);
        assert!(Instant::now() < deadline && all.has_pushed());
        assert!(all.takes_push());
    }

    #[test]
    fn what_is_on_its_way_is_waited_for_while_answers_come() {
        let (all, a, _) = shares(u64::MAX);
        (0..50).for_each(|_| a.add(0, 10));
        all.settle(Instant::now() + 100 * STILL, |_| a.remove(0, 10));
        assert!(!all.has_full());
        assert_eq!(all.acknowledged(), 410);
    }
}
