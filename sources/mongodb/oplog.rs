//! How far back the server's log reaches, and with it how long a connector may stand still.

use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::error::Result;

use crate::resume_token::ClusterTime;

/// The oldest and the newest entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub first: ClusterTime,
    pub last: ClusterTime,
}

impl Window {
    /// Of the member that takes writes; `None` behind mongos, whose shards have logs of their own.
    pub async fn read(client: &Client) -> Result<Option<Self>> {
        let log = client.database("local").collection::<Document>("oplog.rs");
        let end = async |order: i32| {
            let found = log.find_one(doc! {}).sort(doc! { "$natural": order }).projection(doc! { "ts": 1 });
            let found = found.await?;
            mongodb::error::Result::Ok(found.and_then(|entry| entry.get_timestamp("ts").ok()))
        };
        match (end(1).await?, end(-1).await?) {
            (Some(first), Some(last)) => Ok(Some(Self { first: first.into(), last: last.into() })),
            _ => Ok(None),
        }
    }

    pub fn length(self) -> Duration {
        Duration::from_secs(self.last.seconds().saturating_sub(self.first.seconds()))
    }

    /// How long what is delivered has until the log no longer reaches back to it.
    pub fn headroom(self, delivered: ClusterTime) -> Duration {
        Duration::from_secs(delivered.seconds().saturating_sub(self.first.seconds()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headroom_is_what_lies_between_the_log_s_beginning_and_the_position() {
        let at = |seconds: u64| ClusterTime(seconds << 32);
        let window = Window { first: at(100), last: at(400) };
        assert_eq!(window.length(), Duration::from_secs(300));
        assert_eq!(window.headroom(at(250)), Duration::from_secs(150));
        assert_eq!(window.headroom(at(50)), Duration::ZERO);
    }
}
