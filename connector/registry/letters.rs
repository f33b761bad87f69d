//! The dead letters of a connector's topic, and how they are encoded again: start at `dead_letters` and `replay`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use millrace_core::batch::EncodedBatch;
use millrace_core::encode::keys::Key;
use millrace_core::encode::{Encoded, Encoder, Format, Letter, Worn};
use millrace_core::error::{Error, Kind, Result};
use millrace_core::position::{Mark, Position};
use millrace_kafka::KafkaTargets;
use millrace_kafka::dead_letters::{Delivered, Doubt, Keyed, Newest, Replay};

use super::{Sink, Source};
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
    let mut letters = raw.into_iter().map(parse).collect::<Result<Vec<_>>>()?;
    letters.sort_by_key(|letter| letter.mark);
    Ok(letters)
}

/// Which letters are to be replayed.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// None: all.
    pub positions: &'a [String],
    /// Events of a key may come behind later ones: those that are delivered, and letters that are not asked for.
    pub out_of_order: bool,
}

/// What a replay did with a letter.
#[derive(Debug)]
pub enum Replayed {
    Delivered {
        records: usize,
    },
    /// It is a dead letter again, with one attempt more.
    Refused,
    /// Its rows were too large to be kept.
    LeftOut,
    /// It waits: something later of its key is in its topic, or may be.
    Overtaken {
        topic: String,
    },
    /// It waits: this does, which goes to its topic and may have its key.
    Held {
        thing: String,
    },
    /// It waits: this earlier letter of its key does.
    Behind {
        position: String,
    },
}

impl Replayed {
    /// Left alone for the order's sake, which can be waived.
    pub fn waits(&self) -> bool {
        matches!(self, Self::Overtaken { .. } | Self::Held { .. } | Self::Behind { .. })
    }
}

/// Encodes letters again by what the file says now, in the order of the source's log, each with its records and its
/// mark in one Kafka transaction. Letters of one key go out in that order or wait.
pub async fn replay(
    connector: &Connector,
    asked: Asked<'_>,
    mut told: impl FnMut(&Letter, &Replayed),
) -> Result<()> {
    let (to, registry) = with_letters(connector)?;
    let topic = &connector.format.dead_letters;
    let stored = super::position(connector).await?;
    let mut run = Run { connector, to, asked, stored, first: None, tried: HashSet::new(), delivered: None };
    let mut doubt = Doubt::default();
    loop {
        // Shuts out whoever else replays: what lies in the topic is read behind it, each time.
        let mut replay = Replay::open(to, registry.clone(), topic, &doubt).await?;
        let done = run.go(&mut replay, &mut told).await;
        replay.close(&mut doubt).await?;
        if done? {
            return Ok(());
        }
    }
}

/// A replay, over all the producers that it takes.
struct Run<'a> {
    connector: &'a Connector,
    to: &'a millrace_kafka::config::Settings,
    asked: Asked<'a>,
    stored: Option<Position>,
    /// Positions of the letters that are asked for, of those that were there at first. What comes meanwhile may have
    /// been overtaken by now, and nobody has looked.
    first: Option<HashSet<String>>,
    /// Positions of letters that had their turn.
    tried: HashSet<String>,
    /// What is there of the keys of the letters that are asked for, where that matters.
    delivered: Option<Delivered>,
}

impl Run<'_> {
    /// False: another producer has to go on.
    async fn go(&mut self, replay: &mut Replay, told: &mut impl FnMut(&Letter, &Replayed)) -> Result<bool> {
        let mut letters = dead_letters(self.connector).await?;
        self.must_be_there(&letters)?;
        self.first.get_or_insert_with(|| {
            let positions = self.asked.positions;
            let all = letters.iter().map(|letter| letter.position.clone());
            all.filter(|position| positions.is_empty() || positions.contains(position)).collect()
        });
        // Of each table, those behind the last one that is asked for hold nobody back.
        let asked_for = letters.iter().filter(|letter| self.is_asked_for(letter));
        let last: HashMap<String, Mark> =
            asked_for.map(|letter| (letter.relation.full_name(), letter.mark)).collect();
        letters
            .retain(|letter| last.get(&letter.relation.full_name()).is_some_and(|last| letter.mark <= *last));
        let mut encoders = Encoders::new(self.connector, replay);
        if self.delivered.is_none() && !self.asked.out_of_order {
            self.delivered = Some(self.delivered_of(&letters, replay, &mut encoders).await?);
        }
        let mut staying = Staying::default();
        for letter in &letters {
            let (is_asked_for, had_its_turn) =
                (self.is_asked_for(letter), self.tried.contains(&letter.position));
            if !is_asked_for && self.asked.out_of_order {
                continue;
            }
            let keys = match encoders.keys(letter).await {
                Ok(keys) => keys,
                // The file or the registry may not take this version of its table any more. Whoever asks for another
                // letter learns of it where that has to wait.
                Err(error) if !is_asked_for && error.kind() != Kind::Transient => {
                    staying.add_for_table(letter);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (mut stays, mut is_clean) = (true, true);
            if is_asked_for && !had_its_turn {
                let outcome = match staying.before(letter, &keys) {
                    Some(earlier) => Replayed::Behind { position: earlier.to_owned() },
                    None => {
                        let (outcome, clean) = self.replay(letter, replay, &mut encoders).await?;
                        is_clean = clean;
                        outcome
                    }
                };
                self.tried.insert(letter.position.clone());
                told(letter, &outcome);
                stays = !matches!(outcome, Replayed::Delivered { .. });
            }
            if !is_clean {
                return Ok(false);
            }
            if stays {
                staying.add(letter, keys);
            }
        }
        Ok(true)
    }

    fn is_asked_for(&self, letter: &Letter) -> bool {
        self.first.as_ref().is_some_and(|first| first.contains(&letter.position))
    }

    fn must_be_there(&self, letters: &[Letter]) -> Result<()> {
        let is_there = |wanted: &&String| {
            self.tried.contains(*wanted) || letters.iter().any(|letter| letter.position == **wanted)
        };
        match self.asked.positions.iter().find(|wanted| !is_there(wanted)) {
            None => Ok(()),
            Some(unknown) => Err(Error::config(format!("there is no dead letter {unknown}"))
                .hint("see `millrace dead-letters <file> list`")),
        }
    }

    async fn delivered_of(
        &self,
        letters: &[Letter],
        replay: &Replay,
        encoders: &mut Encoders,
    ) -> Result<Delivered> {
        let mut keys = HashSet::new();
        for letter in letters.iter().filter(|letter| self.is_asked_for(letter)) {
            if let Some(out) = encoders.encode(letter).await?.filter(|out| out.buried == 0) {
                keys.extend(replay.keyed(&out));
            }
        }
        millrace_kafka::dead_letters::delivered(self.to, keys).await
    }

    fn goes_before(&self, letter: &Letter, keyed: &[Keyed]) -> Option<String> {
        let stored = self.stored.as_ref().filter(|_| !self.asked.out_of_order)?;
        let topics = keyed.iter().map(|(topic, _)| topic.as_str());
        match self.connector.source {
            Source::Postgres(_) => {
                millrace_postgres::goes_before(stored, (&letter.relation.full_name(), letter.mark), topics)
            }
            Source::Mongodb(_) => None,
        }
    }

    /// What became of a letter, and whether the producer can go on.
    async fn replay(
        &self,
        letter: &Letter,
        replay: &mut Replay,
        encoders: &mut Encoders,
    ) -> Result<(Replayed, bool)> {
        let Some(out) = encoders.encode(letter).await? else { return Ok((Replayed::LeftOut, true)) };
        let refused = out.buried > 0;
        if !refused
            && let Some(delivered) = &self.delivered
            && let Some(topic) = overtaken(delivered, letter.mark, &replay.keyed(&out))
        {
            return Ok((Replayed::Overtaken { topic }, true));
        }
        if !refused && let Some(thing) = self.goes_before(letter, &replay.keyed(&out)) {
            return Ok((Replayed::Held { thing }, true));
        }
        let is_clean = replay.write(&letter.position, &out, !refused).await?;
        let records = out.records.len();
        Ok((if refused { Replayed::Refused } else { Replayed::Delivered { records } }, is_clean))
    }
}

/// The earliest letters that stay, which others have to wait for.
#[derive(Default)]
struct Staying<'a> {
    by_key: HashMap<Key, &'a str>,
    /// Their keys cannot be told.
    by_table: HashMap<String, &'a str>,
}

impl<'a> Staying<'a> {
    fn add(&mut self, letter: &'a Letter, keys: Vec<Key>) {
        for key in keys {
            self.by_key.entry(key).or_insert(&letter.position);
        }
    }

    fn add_for_table(&mut self, letter: &'a Letter) {
        self.by_table.entry(letter.relation.full_name()).or_insert(&letter.position);
    }

    /// The letter that this one waits for.
    fn before(&self, letter: &Letter, keys: &[Key]) -> Option<&'a str> {
        let of_table = self.by_table.get(&letter.relation.full_name());
        of_table.or_else(|| keys.iter().find_map(|key| self.by_key.get(key))).copied()
    }
}

/// The topic in which something later lies, or may lie: records that do not say where they come from may be later, and so
/// may those of a key that was not looked for.
fn overtaken(delivered: &Delivered, mark: Mark, keyed: &[Keyed]) -> Option<String> {
    let is_later = |keyed: &&Keyed| match delivered.get(*keyed) {
        Some(Newest::Nothing) => false,
        // At the same place it is the letter's own, sent after all.
        Some(Newest::At(newest)) => *newest >= mark,
        Some(Newest::Unsaid) | None => true,
    };
    keyed.iter().find(is_later).map(|(topic, _)| topic.clone())
}

/// One for letters that wear the same disguises.
struct Encoders {
    format: Format,
    targets: KafkaTargets,
    by: HashMap<Worn, Again>,
}

struct Again {
    encoder: Encoder<KafkaTargets>,
    /// Batches that it has encoded.
    seq: u64,
}

impl Encoders {
    fn new(connector: &Connector, replay: &Replay) -> Self {
        Self { format: connector.format.clone(), targets: replay.targets(), by: HashMap::new() }
    }

    fn of(&mut self, letter: &Letter) -> &mut Again {
        self.by.entry(letter.worn()).or_insert_with_key(|worn| {
            let format = self.format.of_letters(worn);
            Again { encoder: Encoder::new(format, self.targets.clone(), Arc::default()), seq: 0 }
        })
    }

    /// What a letter must not overtake. Nothing for one without its rows, of which nothing can come any more.
    async fn keys(&mut self, letter: &Letter) -> Result<Vec<Key>> {
        let again = self.of(letter);
        let Some(batch) = letter.to_batch(again.seq + 1) else { return Ok(Vec::new()) };
        again.encoder.prepare(&batch).await?;
        Ok(again.encoder.keys(&batch))
    }

    /// The records of a letter, or the letter that it becomes again; `None` for one without its rows.
    async fn encode(&mut self, letter: &Letter) -> Result<Option<EncodedBatch>> {
        let Again { encoder, seq } = self.of(letter);
        let Some(batch) = letter.to_batch(*seq + 1) else { return Ok(None) };
        let mut out = EncodedBatch::default();
        encoder.set_attempt(letter.attempt + 1);
        encoder.prepare(&batch).await?;
        while encoder.encode(&batch, &mut out)? == Encoded::NeedsPrepare {
            encoder.prepare(&batch).await?;
        }
        *seq += 1;
        Ok(Some(out))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_waits_behind_what_is_later_and_behind_what_nobody_knows() {
        let mark = |commit| Mark { commit, change: 1, n: 0 };
        let keyed = |key: &str| ("orders".to_owned(), key.as_bytes().to_vec());
        let known = [
            ("none", Newest::Nothing),
            ("earlier", Newest::At(mark(1))),
            ("the same", Newest::At(mark(2))),
            ("later", Newest::At(mark(3))),
            ("unsaid", Newest::Unsaid),
        ];
        let delivered: Delivered = known.into_iter().map(|(key, newest)| (keyed(key), newest)).collect();
        for (key, waits) in [
            ("none", false),
            ("earlier", false),
            ("the same", true),
            ("later", true),
            ("unsaid", true),
            ("not looked for", true),
        ] {
            let found = overtaken(&delivered, mark(2), &[keyed("none"), keyed(key)]);
            assert_eq!(found.as_deref(), waits.then_some("orders"), "{key}");
        }
    }
}
