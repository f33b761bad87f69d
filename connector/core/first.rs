//! The first position of a connector: made durable before anything is read from it. Start at `Feed::commit`.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::position::{Note, Position};
use crate::source::{Feed, Stopping};

/// A sink that takes longer than this to commit one small position is not there.
const COMMIT_PATIENCE: Duration = Duration::from_secs(60);

impl Feed {
    /// Sends an empty batch that ends at this position and waits until the sink has it. False when the pipeline
    /// is stopping.
    pub async fn commit(&mut self, position: Position) -> Result<bool> {
        self.commit_with(position, Vec::new()).await
    }

    /// The same, with what is remembered beside the position.
    pub async fn commit_with(&mut self, position: Position, notes: Vec<Note>) -> Result<bool> {
        let deadline = Instant::now() + COMMIT_PATIENCE;
        let mut batch = match tokio::task::block_in_place(|| self.empty_until(deadline)) {
            Ok(Some(batch)) => batch,
            Ok(None) => return Err(Error::transient("no batch came back from the sink in time")),
            Err(Stopping) => return Ok(false),
        };
        batch.end = Some(position.clone());
        batch.notes = notes;
        batch.whole = true;
        batch.drained = true;
        if self.send(batch).is_err() {
            return Ok(false);
        }
        let wait = async {
            loop {
                match self.delivered_next().await {
                    Ok(Some(delivered)) if delivered == position => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        tokio::time::timeout(COMMIT_PATIENCE, wait).await.map_err(|_| {
            let limit = COMMIT_PATIENCE.as_secs();
            Error::transient(format!("the sink did not make the first position durable within {limit} s"))
        })
    }
}
