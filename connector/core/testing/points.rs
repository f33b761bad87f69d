//! The hand-overs of one instance: at each it may be slow, or its process may end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::world::World;

/// At most every so many hand-overs, in percent: one that is slow.
const SLOW: u64 = 15;
const SLOW_MS: u64 = 40;
/// And one at which the process is killed, while faults are left.
const CRASH: u64 = 2;

#[derive(Clone)]
pub struct Points {
    pub world: Arc<World>,
    /// For messages.
    pub instance: u64,
    pub crashed: Arc<Notify>,
}

impl Points {
    pub async fn here(&self, place: &'static str) {
        if self.world.strikes(CRASH) {
            self.world.note(format!("{}: killed at {place}", self.instance));
            self.crashed.notify_one();
            std::future::pending::<()>().await;
        }
        if self.world.chance(SLOW) {
            tokio::time::sleep(Duration::from_millis(1 + self.world.below(SLOW_MS))).await;
        }
    }
}
