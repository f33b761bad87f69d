//! The topic of an operator log: records that nobody takes out again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_core::error::{Error, Result};

use crate::admin::Presence;
use crate::compacted;
use crate::config::Settings;
use crate::topics::Topics;

/// What the topic is made with where the file declares nothing for it: one order of all entries, kept for ever.
const PARTITIONS: u32 = 1;
const CONFIG: [(&str, &str); 2] = [("cleanup.policy", "delete"), ("retention.ms", "-1")];

/// A new topic's partition has a leader within milliseconds.
const LEADERS_POLL: Duration = Duration::from_millis(20);
const LEADERS_POLLS: u32 = 250;

/// Puts entries behind the others; they are durable when this returns.
pub async fn append(settings: &Settings, topic: &str, key: &str, entries: &[String]) -> Result<()> {
    let topics = Topics::new(Arc::new(settings.clone()), Arc::default());
    if topics.admin.presence(topic).await? == Presence::Missing {
        let declared = settings.declared(topic);
        let usual: BTreeMap<String, String> =
            CONFIG.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let config = usual.into_iter().chain(declared.config.clone()).collect();
        let partitions = declared.partitions.or(Some(PARTITIONS));
        topics.admin.create(topic, partitions, declared.replication, &config).await?;
    }
    for _ in 0..LEADERS_POLLS {
        if let Presence::Ready { .. } = topics.admin.presence(topic).await? {
            return compacted::write(settings, topic, (key, entries), "operators").await;
        }
        tokio::time::sleep(LEADERS_POLL).await;
    }
    Err(Error::transient(format!("topic {topic} has no leader")))
}
