//! Capped exponential backoff with jitter, shared by everything that waits for a peer.

use std::time::Duration;

/// First wait: long enough for a restarted process to listen again, short enough to go unnoticed.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait: an operator who mends a peer sees the connector back within this time.
const LONGEST: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
    noise: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(LONGEST)
    }
}

impl Backoff {
    pub fn up_to(longest: Duration) -> Self {
        // Jitter only has to differ between instances, so the hasher's per-process keys are noise enough.
        let noise = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u64);
        Self { next: FIRST.min(longest), longest, noise: noise | 1 }
    }

    /// The next wait: between half and all of a length that doubles up to the longest.
    pub fn next_wait(&mut self) -> Duration {
        let length = self.next;
        self.next = (length * 2).min(self.longest);
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        let half = length / 2;
        half + half.mul_f64((self.noise % 1024) as f64 / 1024.0)
    }

    /// Something worked: the next wait is short again.
    pub fn reset(&mut self) {
        self.next = FIRST.min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_again_after_a_reset() {
        let mut backoff = Backoff::up_to(Duration::from_secs(1));
        let waits: Vec<_> = (0..6).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits[5] >= Duration::from_millis(500) && waits[5] <= Duration::from_secs(1));
        backoff.reset();
        assert!(backoff.next_wait() <= FIRST);
    }
}
