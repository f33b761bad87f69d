//! MongoDB: random documents of every type, read by both sides at the same time. Start at [`run`].

mod modes;
mod sides;
pub mod takeover;
mod values;

use std::collections::BTreeMap;

use millrace_ledger::mongodb::connect;
use millrace_ledger::random::Random;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, ClientSession, Database};

pub use self::modes::Modes;

use self::modes::Document as After;
use crate::allowed::Allowed;
use crate::compare::{Report, compare};
use crate::records::Topics;
use crate::sides::{Sides, list};
use crate::{Place, Result};

const COLLECTIONS: [&str; 3] = ["plain", "dotted.name", "third"];
/// Written to like the others, and read by nobody.
const UNSEEN: &str = "unseen";
/// Written until both sides show it, and last of all; not compared.
const WARM: &str = "warm";
const END: &str = "the_end";

/// Documents that are there before the start.
const BEFORE: usize = 60;
/// As large as a document may be, but for what an event adds to it.
const LARGE: usize = (16 << 20) - 8192;
const LARGE_DOCUMENTS: i32 = 3;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Config {
    pub place: Place,
    pub url: String,
    pub seed: u64,
    pub transactions: usize,
    pub modes: Modes,
}

/// The documents that are there, by collection and id.
type Ids = Vec<(&'static str, Bson)>;

/// Makes collections, starts both sides, writes, waits until both have everything, and compares.
pub async fn run(config: &Config, allowed: &mut Allowed) -> Result<Report> {
    let name = format!("diff_{}_{}", config.seed, std::process::id());
    let client = connect(&config.url).await?;
    let database = client.database(&name);
    for collection in COLLECTIONS.iter().chain(&[WARM, END, UNSEEN]) {
        let images = doc! { "enabled": true };
        let create = doc! { "create": *collection, "changeStreamPreAndPostImages": images };
        database.run_command(create).await?;
    }
    let mut random = Random::new(config.seed);
    let mut ids = Ids::new();
    let before = if config.modes.snapshot { BEFORE } else { 0 };
    while ids.iter().filter(|(of, _)| *of != UNSEEN).count() < before {
        insert(config, &database, None, &mut ids, &mut random).await?;
    }
    let mut sides = sides::start(config, &name).await?;
    let outcome = write_and_compare(config, &client, &mut sides, (ids, random, before), allowed).await;
    let report = sides.end(outcome).await?;
    database.drop().await?;
    Ok(report)
}

async fn write_and_compare(
    config: &Config,
    client: &Client,
    sides: &mut Sides,
    (mut ids, mut random, before): (Ids, Random, usize),
    allowed: &mut Allowed,
) -> Result<Report> {
    let database = &client.database(sides.name());
    let mut number = 0;
    let warm = database.collection::<Document>(WARM);
    let write = async || {
        number += 1;
        warm.insert_one(doc! { "_id": number }).await?;
        Ok(())
    };
    // What was there is read, and both stream.
    let is_read = |topics: &Topics| {
        let of = |topic: &str| COLLECTIONS.iter().any(|name| topic.ends_with(&format!(".{name}")));
        let read: usize = topics.iter().filter(|((topic, _), _)| of(topic)).map(|(_, r)| r.len()).sum();
        read >= before && topics.keys().any(|(topic, _)| topic.ends_with(&format!(".{WARM}")))
    };
    let (their_rows, our_rows) = sides.both(is_read, write).await?;
    let mut session = client.start_session().await?;
    for _ in 0..config.transactions {
        let within = random.percent(50);
        if within {
            session.start_transaction().await?;
        }
        for _ in 0..=random.below(5) {
            let session = within.then_some(&mut session);
            change(config, database, session, &mut ids, &mut random).await?;
        }
        if within {
            session.commit_transaction().await?;
        }
    }
    if config.modes.large {
        for id in 0..LARGE_DOCUMENTS {
            let text = "0123456789\"\\abcdef\n".repeat(LARGE / 19);
            let large = doc! { "_id": id, "text": text };
            database.collection::<Document>("plain").insert_one(large).await?;
        }
    }
    let end = database.collection::<Document>(END);
    end.insert_one(doc! { "_id": 1 }).await?;
    let (mut theirs, mut ours) = sides.both_show(&format!(".{END}"), async || Ok(())).await?;
    for (topics, rows) in [(&mut theirs, their_rows), (&mut ours, our_rows)] {
        topics.retain(|(topic, _), _| !topic.ends_with(&format!(".{WARM}")));
        if before > 0 {
            by_key(topics, &rows);
        }
    }
    list(&config.place.dir, "-mongodb", &theirs, &ours)?;
    compare(&theirs, &ours, allowed)
}

/// Documents that were there are read in an order and at a time of its own by each side: they are compared by their
/// keys, and without the time.
fn by_key(topics: &mut Topics, rows: &Topics) {
    let counts: BTreeMap<_, usize> = rows.iter().map(|(place, rows)| (place, rows.len())).collect();
    for (place, records) in topics {
        let count = counts.get(place).copied().unwrap_or(0);
        if let Some(rows) = records.get_mut(..count) {
            rows.sort_by(|one, other| one.key.cmp(&other.key));
            for row in rows {
                row.value = row.value.take().map(|value| without_time(&value));
            }
        }
    }
}

/// The numbers of these members become 0; as parts of a flat document their names begin otherwise.
fn without_time(value: &str) -> String {
    let mut value = value.to_owned();
    for name in ["ts_ms", "ts_us", "ts_ns", "ord", "x_nr"] {
        let end = format!("{name}\":");
        let mut parts = value.split(end.as_str());
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
            out += &end;
            out += if rest.len() < part.len() { "0" } else { "" };
            out += rest;
        }
        value = out;
    }
    value
}

async fn insert(
    config: &Config,
    database: &Database,
    session: Option<&mut ClientSession>,
    ids: &mut Ids,
    random: &mut Random,
) -> Result<()> {
    let of = *random.pick(&[COLLECTIONS[0], COLLECTIONS[1], COLLECTIONS[2], UNSEEN]);
    let kinds = config.modes.kinds();
    let mut document = values::document(random, kinds);
    values::add_odd_names(&mut document, random, kinds);
    let id = values::id(random);
    document.insert("_id", id.clone());
    let to = database.collection::<Document>(of);
    let insert = to.insert_one(document);
    match session {
        Some(session) => insert.session(session).await?,
        None => insert.await?,
    };
    ids.push((of, id));
    Ok(())
}

/// One change of one document.
async fn change(
    config: &Config,
    database: &Database,
    session: Option<&mut ClientSession>,
    ids: &mut Ids,
    random: &mut Random,
) -> Result<()> {
    let known = (!ids.is_empty()).then(|| random.below_usize(ids.len()));
    let (verb, at) = (random.below(10), known);
    let Some(at) = at.filter(|_| verb > 3) else {
        return insert(config, database, session, ids, random).await;
    };
    let (of, id) = ids[at].clone();
    let (to, filter) = (database.collection::<Document>(of), doc! { "_id": id });
    match verb {
        4..=7 => {
            let update = to.update_one(filter, values::update(random, config.modes.kinds()));
            match session {
                Some(session) => update.session(session).await?,
                None => update.await?,
            };
            if config.modes.document == After::Lookup {
                ids.swap_remove(at);
            }
        }
        8 => {
            let replace = to.replace_one(filter, values::document(random, config.modes.kinds()));
            match session {
                Some(session) => replace.session(session).await?,
                None => replace.await?,
            };
        }
        _ => {
            ids.swap_remove(at);
            let delete = to.delete_one(filter);
            match session {
                Some(session) => delete.session(session).await?,
                None => delete.await?,
            };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_time_of_a_row_is_taken_off_and_nothing_else_is() {
        let value = r#"{"a":"1","source":{"ts_ms":17,"ord":3,"lsid":null},"x_source_ts_ms":9}"#;
        let expected = r#"{"a":"1","source":{"ts_ms":0,"ord":0,"lsid":null},"x_source_ts_ms":0}"#;
        assert_eq!(super::without_time(value), expected);
    }
}
