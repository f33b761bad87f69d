//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Far above what anything takes on two busy cores; only a test that fails waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks: below what a person notices, above what a probe costs.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Asks until there is an answer; fails the test when there is none in time.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe).await
}

/// As [`until`], with another deadline.
pub async fn within<T>(limit: Duration, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {} s", limit.as_secs());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
