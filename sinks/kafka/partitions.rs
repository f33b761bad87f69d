//! Sees, while the sink runs, that a topic has got another number of partitions. Start at `Watch::changed`.

use std::sync::Arc;
use std::time::Duration;

use millrace_core::error::{Error, Kind, Result};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::topics::Topics;

/// One question about all topics. Until it is asked records still go where their keys always went, because
/// they carry their partition: this is about halting soon, not about halting in time.
const LOOK_EVERY: Duration = Duration::from_secs(15);

pub struct Watch {
    topics: Arc<Topics>,
    due: Instant,
    /// The look that is under way.
    look: Option<JoinHandle<Result<()>>>,
}

impl Watch {
    pub fn new(topics: Arc<Topics>) -> Self {
        Self { topics, due: Instant::now() + LOOK_EVERY, look: None }
    }

    /// The topics were looked at just now.
    pub fn opened(&mut self) {
        *self = Self::new(self.topics.clone());
    }

    /// Returns only with the reason to stop. Cancel-safe.
    pub async fn changed(&mut self) -> Error {
        loop {
            let look = match &mut self.look {
                Some(look) => look,
                None => {
                    sleep_until(self.due).await;
                    let topics = self.topics.clone();
                    self.look.insert(tokio::spawn(async move { topics.verify_counts().await }))
                }
            };
            let seen = look.await;
            self.look = None;
            self.due = Instant::now() + LOOK_EVERY;
            match seen {
                Ok(Err(error)) if error.kind() != Kind::Transient => return error,
                // Brokers that are away are told by whoever needs them.
                Ok(Err(error)) => tracing::debug!(%error, "cannot look at the partitions of the topics"),
                Ok(Ok(())) => (),
                Err(error) => tracing::debug!(%error, "a look at the topics did not finish"),
            }
        }
    }
}
