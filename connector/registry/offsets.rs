//! Offsets of Debezium's in Kafka Connect's topic: read at a take-over (`stored`), written at a `hand_back`.

use std::sync::Arc;

use millrace_core::error::{Error, Result};
use millrace_core::position::{Notes, Position};
use millrace_core::progress::Progress;
use millrace_core::sink::Sink as _;
use millrace_kafka::compacted::{self, Newest};
use serde_json::{Map, Value as Json};

use super::{Sink, Source, instance, kafka};
use crate::config::Connector;

/// Where a connector of Kafka Connect has its offsets.
#[derive(Clone, Debug)]
pub struct Offsets {
    pub topic: String,
    /// The connector's name there.
    pub name: String,
}

/// Writes the connector's position as an offset of Debezium's, so that it goes on from there. Refuses where an instance is
/// seen at work; one that is not seen is shut out, and where that has left it, nobody moves the position any more.
pub async fn hand_back(connector: &Connector, offsets: &Offsets) -> Result<Position> {
    let Sink::Kafka(to, registry) = &connector.sink else { return Err(not_kafka()) };
    if connector.high_availability {
        none_at_work(&millrace_kafka::group::members(to).await?)?;
    }
    if let Source::Postgres(from) = &connector.source {
        millrace_postgres::nobody_reads(from).await?;
    }
    let newest = newest(to, offsets).await?;
    let key = written_under(&newest, connector, offsets)?;

    let mut sink = kafka(connector, to, registry, &instance(), Arc::new(Progress::default()))?;
    let position = sink.open().await?;
    let notes = sink.notes();
    let offset = offset_at(connector, position, &notes).await?;
    sink.close().await?;
    compacted::write(to, &offsets.topic, (&key, std::slice::from_ref(&offset)), "offsets").await?;
    Ok(Position::new(offset))
}

/// A standby would take the turn of whoever is shut out.
fn none_at_work(members: &[String]) -> Result<()> {
    if members.is_empty() {
        return Ok(());
    }
    Err(Error::config(format!("the connector still runs, on {}", members.join(", ")))
        .hint("stop every instance of it, wait a few seconds, and hand back then"))
}

async fn offset_at(connector: &Connector, position: Option<Position>, notes: &Notes) -> Result<String> {
    let Some(position) = position else {
        return Err(Error::config("the connector has no position yet: there is nothing to hand back"));
    };
    match &connector.source {
        Source::Postgres(from) => millrace_postgres::handed_back(from, &position, notes).await,
        Source::Mongodb(_) => millrace_mongodb::handed_back(&position, notes),
    }
}

/// The newest offset of the connector that is taken over.
pub(super) async fn stored(connector: &Connector, offsets: &Offsets) -> Result<String> {
    let Sink::Kafka(to, _) = &connector.sink else { return Err(not_kafka()) };
    let newest = newest(to, offsets).await?;
    match found(&newest, connector, offsets)? {
        Some((_, offset)) => Ok(String::from_utf8_lossy(offset).into_owned()),
        None => {
            let known: Vec<&str> = newest.keys().take(20).map(String::as_str).collect();
            let hint = format!("it has {}; see --name, and topic_prefix in [format]", known.join(" "));
            let key = key(connector, offsets);
            Err(Error::config(format!("topic {} has no offset {key}", offsets.topic)).hint(hint))
        }
    }
}

async fn newest(to: &millrace_kafka::Settings, offsets: &Offsets) -> Result<Newest> {
    let topic = &offsets.topic;
    compacted::read(to, topic).await?.ok_or_else(|| {
        Error::config(format!("topic {topic} does not exist"))
            .hint("it is offset.storage.topic in the worker's file")
    })
}

/// Debezium goes on reading the key that it has written.
fn written_under(newest: &Newest, connector: &Connector, offsets: &Offsets) -> Result<String> {
    let known = found(newest, connector, offsets)?.map(|(key, _)| key.to_owned());
    Ok(known.unwrap_or_else(|| key(connector, offsets)))
}

/// The connector's offset, with its key: as releases of today write that, or, with more in it, as older ones did, whose
/// MongoDB connector names the replica set too.
fn found<'a>(
    newest: &'a Newest,
    connector: &Connector,
    offsets: &Offsets,
) -> Result<Option<(&'a str, &'a [u8])>> {
    let (server, prefix) = partition(connector);
    let is_of = |key: &str| {
        let key: Option<(String, Map<String, Json>)> = serde_json::from_str(key).ok();
        let (name, partition) = key?;
        let is_it = name == offsets.name && partition.get(server)?.as_str() == Some(prefix);
        is_it.then_some(partition.len())
    };
    let mut known: Vec<_> = newest.iter().filter_map(|(key, at)| Some((is_of(key)?, key, at))).collect();
    known.sort_by_key(|(parts, ..)| *parts);
    match known.as_slice() {
        [(1, key, at), ..] | [(_, key, at)] => Ok(Some((key, at))),
        [] => Ok(None),
        several => {
            let keys: Vec<&str> = several.iter().map(|(_, key, _)| key.as_str()).collect();
            Err(Error::config(format!(
                "topic {} has an offset for each of {}",
                offsets.topic,
                keys.join(" ")
            ))
            .hint("start Debezium 2.5 or a newer one once: it makes one of them"))
        }
    }
}

/// As Kafka Connect names the offsets of a connector of Debezium's.
fn key(connector: &Connector, offsets: &Offsets) -> String {
    let (server, prefix) = partition(connector);
    serde_json::json!([offsets.name, { server: prefix }]).to_string()
}

/// What Debezium tells its offsets apart by.
fn partition(connector: &Connector) -> (&'static str, &str) {
    let server = match &connector.source {
        Source::Postgres(_) => "server",
        Source::Mongodb(_) => "server_id",
    };
    (server, &connector.format.topic_prefix)
}

fn not_kafka() -> Error {
    Error::config("offsets are exchanged with Debezium through Kafka only")
        .hint("use a file with [sink.kafka]: there Debezium's offsets are, and the position has to be")
}
