//! The dead letters of a connector's topic, and how they are encoded again.

use std::sync::Arc;

use millrace_core::batch::EncodedBatch;
use millrace_core::encode::{Encoded, Encoder, Letter};
use millrace_core::error::{Error, Result};

use super::Sink;
use crate::config::Connector;

/// The dead letters that wait, oldest first.
pub async fn dead_letters(connector: &Connector) -> Result<Vec<Letter>> {
    let (to, _) = with_letters(connector)?;
    let topic = &connector.format.dead_letters;
    let raw = millrace_kafka::dead_letters::read(to, topic).await?;
    let parse = |(position, value): (String, Vec<u8>)| {
        Letter::parse(&value).map_err(|why| {
            Error::fatal(format!("the record {position} of topic {topic} is no dead letter: {why}"))
                .hint("name another topic in [dead_letters], one that nobody else writes to")
        })
    };
    raw.into_iter().map(parse).collect()
}

/// What a replay did with a letter.
pub enum Replayed {
    Delivered {
        records: usize,
    },
    /// It is a dead letter again, with one attempt more.
    Refused,
    /// Its rows were too large to be kept.
    LeftOut,
}

/// Encodes letters again by what the file says now, each with its records and its mark in one Kafka
/// transaction. All of them where `positions` is empty.
pub async fn replay(
    connector: &Connector,
    positions: &[String],
    mut told: impl FnMut(&Letter, &Replayed),
) -> Result<()> {
    let (to, registry) = with_letters(connector)?;
    let topic = &connector.format.dead_letters;
    let mut replay = millrace_kafka::dead_letters::Replay::open(to, registry.clone(), topic).await?;
    let letters = dead_letters(connector).await?;
    if let Some(unknown) = positions.iter().find(|wanted| !letters.iter().any(|l| l.position == **wanted)) {
        return Err(Error::config(format!("there is no dead letter {unknown}"))
            .hint("see `millrace dead-letters <file> list`"));
    }
    let encoder = |format| Encoder::new(format, replay.targets(), Arc::default());
    let mut encoders = [encoder(connector.format.clone()), encoder(connector.format.of_hidden_letters())];
    let mut out = EncodedBatch::default();
    let chosen = letters.iter().filter(|l| positions.is_empty() || positions.contains(&l.position));
    let mut seq = 0;
    for letter in chosen {
        let Some(batch) = letter.to_batch(seq + 1) else {
            told(letter, &Replayed::LeftOut);
            continue;
        };
        seq += 1;
        let [plain, hidden] = &mut encoders;
        let encoder = if letter.hidden { hidden } else { plain };
        encoder.set_attempt(letter.attempt + 1);
        encoder.prepare(&batch).await?;
        while encoder.encode(&batch, &mut out)? == Encoded::NeedsPrepare {
            encoder.prepare(&batch).await?;
        }
        let refused = out.buried > 0;
        replay.write(&letter.position, &out, !refused).await?;
        let outcome =
            if refused { Replayed::Refused } else { Replayed::Delivered { records: out.records.len() } };
        told(letter, &outcome);
    }
    Ok(())
}

/// Writes entries of the operator log onto its topic.
pub async fn tell_operators(connector: &Connector, topic: &str, entries: &[String]) -> Result<()> {
    match &connector.sink {
        Sink::Kafka(to, _) => millrace_kafka::operators::append(to, topic, &connector.name, entries).await,
        Sink::Stdout(_) => {
            Err(Error::config("standard output has no topics").hint("give operator_log a file"))
        }
    }
}

type WithLetters<'a> = (&'a millrace_kafka::config::Settings, &'a Option<millrace_kafka::registry::Settings>);

fn with_letters(connector: &Connector) -> Result<WithLetters<'_>> {
    match &connector.sink {
        Sink::Kafka(to, registry) => Ok((to, registry)),
        Sink::Stdout(_) => Err(Error::config("dead letters on standard output are not kept")
            .hint("read them from the output, or use [sink.kafka]")),
    }
}
