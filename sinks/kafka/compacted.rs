//! A small compacted topic, from outside of a running connector: the newest record of each key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use millrace_core::route;

use crate::admin::Presence;
use crate::config::{RETRY_BACKOFF, Settings};
use crate::errors::{self, Class, Code, Failure};
use crate::native::{self, Client, Read, Role};
use crate::opening::blocking;
use crate::producer::{self, Sizes};
use crate::rights::{self, On};
use crate::topics::Topics;

/// Such a topic is small, and an open transaction holds readers back for less.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// By key. A key without a value is not there.
pub type Newest = BTreeMap<String, Vec<u8>>;

/// The newest committed record of each key; `None` where there is no such topic.
pub async fn read(settings: &Settings, topic: &str) -> Result<Option<Newest>> {
    let settings = Arc::new(settings.clone());
    let topics = Topics::new(settings.clone(), Arc::default());
    let partitions = match topics.admin.presence(topic).await? {
        Presence::Missing => return Ok(None),
        Presence::Coming => 1,
        Presence::Ready { partitions, .. } => partitions,
    };
    let topic = topic.to_owned();
    blocking(move || read_all(&settings, &topic, partitions)).await.map(Some)
}

fn read_all(settings: &Settings, name: &str, partitions: u32) -> Result<Newest> {
    let failed = |failure: Failure| {
        rights::error(settings, format!("cannot read topic {name}"), failure, "Read", On::Topic(name))
    };
    let client = |isolation: &str| {
        let mut config = settings.client_config()?;
        config.set("isolation.level", isolation);
        config.set("enable.partition.eof", "true");
        config.set("auto.offset.reset", "error");
        Client::new(&config, Role::Consumer).map_err(|why| settings.refused(why))
    };
    let committed = client("read_committed")?.topic(name).map_err(failed)?;
    let ends = client("read_uncommitted")?.topic(name).map_err(failed)?;
    committed.look_up(READ_TIMEOUT).and_then(|()| ends.look_up(READ_TIMEOUT)).map_err(failed)?;
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut newest = Newest::new();
    for partition in 0..partitions.cast_signed() {
        let (low, end) = ends.offsets(partition, READ_TIMEOUT).map_err(failed)?;
        if low == end {
            continue;
        }
        let reader = committed.read(partition, low).map_err(failed)?;
        let mut is_over = false;
        while !is_over {
            if Instant::now() > deadline {
                return Err(Error::transient(format!("topic {name} could not be read to its end in time")));
            }
            is_over = reader
                .next(Duration::from_millis(100), |read| match read {
                    Read::Record { offset, .. } if offset >= end => true,
                    Read::Record { offset, key, value } => {
                        let key = String::from_utf8_lossy(key.unwrap_or_default()).into_owned();
                        match value {
                            Some(value) => newest.insert(key, value.to_vec()),
                            None => newest.remove(&key),
                        };
                        offset + 1 >= end
                    }
                    Read::End(offset) => offset >= end,
                    Read::Nothing => false,
                })
                .map_err(failed)?;
        }
    }
    Ok(newest)
}

/// How many times somebody else with the same transactional id may come between.
const FENCED_MAX: u32 = 5;

/// Writes records of one key, in a Kafka transaction of their own. `who`: what the transactional id ends in; of those
/// who share it each fences the one before, whose transaction is aborted then and made once more.
pub async fn write(
    settings: &Settings,
    topic: &str,
    (key, values): (&str, &[String]),
    who: &str,
) -> Result<()> {
    let settings = Arc::new(settings.clone());
    let topics = Topics::new(settings.clone(), Arc::default());
    let Presence::Ready { partitions, .. } = topics.admin.presence(topic).await? else {
        return Err(Error::config(format!("topic {topic} does not exist")));
    };
    let id = format!("{}-{who}", settings.transactional_id);
    let sizes: Sizes = topics.sizes();
    let config = producer::config(&settings, &id, RETRY_BACKOFF, sizes)?;
    let (topic, key, values) = (topic.to_owned(), key.to_owned(), values.to_vec());
    let partition = route::partition(Some(key.as_bytes()), partitions);
    let timeout = settings.limits.timeout;
    blocking(move || {
        let mut fenced = 0;
        loop {
            let client = Client::new(&config, Role::Producer).map_err(|why| settings.refused(why))?;
            let record = (partition, key.as_bytes(), values.as_slice());
            match write_with(&client, &topic, record, timeout) {
                Err(failure) if errors::class(failure.code) == Class::Fenced && fenced < FENCED_MAX => {
                    fenced += 1
                }
                written => {
                    return written.map_err(|failure| {
                        let on = match failure.code {
                            Code::TOPIC_REFUSED => On::Topic(&topic),
                            _ => On::TransactionalIds(&settings.transactional_id),
                        };
                        rights::error(
                            &settings,
                            format!("cannot write to topic {topic}"),
                            failure,
                            "Write",
                            on,
                        )
                    });
                }
            }
        }
    })
    .await
}

fn write_with(
    client: &Arc<Client>,
    topic: &str,
    (partition, key, values): (u32, &[u8], &[String]),
    timeout: Duration,
) -> std::result::Result<(), Failure> {
    client.init_transactions(timeout)?;
    let handle = client.topic(topic)?;
    client.begin_transaction()?;
    for value in values {
        handle
            .produce(partition, Some(key), Some(value.as_bytes()), std::iter::empty(), 0, 0)
            .map_err(|code| Failure { code, text: native::describe(code), retriable: false })?;
    }
    client.flush(timeout)?;
    client.commit_transaction(timeout)
}
