//! Deletes topics after a run, so that a long evening of them does not fill the disk.

use std::time::Duration;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{DeleteTopicsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use millrace_ledger::reader::{Connection, Isolation, Reader};

use crate::{Result, Servers};

const DELETED_WITHIN: Duration = Duration::from_secs(20);

/// Deletes every topic whose name holds the connector's.
pub async fn delete_of(connector: &str, servers: &Servers) -> Result<()> {
    let mut reader = Reader::new(&servers.bootstrap, Isolation::ReadCommitted, DELETED_WITHIN);
    let mut wanted = Vec::new();
    for topic in reader.topics("").await? {
        let names = topic.name.starts_with(&format!("{connector}."))
            || topic.name.starts_with(&format!("millrace-{connector}-"));
        if names {
            let name = TopicName(StrBytes::from_string(topic.name.to_string()));
            wanted.push(DeleteTopicState::default().with_name(Some(name)));
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let address = servers.bootstrap.split(',').next().unwrap_or_default();
    let mut connection = Connection::open(address).await?;
    let within = i32::try_from(DELETED_WITHIN.as_millis())?;
    let request = DeleteTopicsRequest::default().with_topics(wanted).with_timeout_ms(within);
    for result in connection.call(&request).await?.responses {
        if result.error_code != 0 {
            return Err(format!("a topic of {connector} was not deleted: code {}", result.error_code).into());
        }
    }
    Ok(())
}
