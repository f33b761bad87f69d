//! MongoDB: random documents of every type, read by both sides at the same time. Start at [`run`].

mod sides;
pub mod takeover;
mod values;

use millrace_ledger::mongodb::connect;
use millrace_ledger::random::Random;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, ClientSession, Database};

use crate::allowed::Allowed;
use crate::compare::{Report, compare};
use crate::sides::{Sides, list};
use crate::{Encoding, Place, Result};

const COLLECTIONS: [&str; 3] = ["plain", "dotted.name", "third"];
/// Written until both sides show it, and last of all; not compared.
const WARM: &str = "warm";
const END: &str = "the_end";

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Config {
    pub place: Place,
    pub url: String,
    pub encoding: Encoding,
    pub seed: u64,
    pub transactions: usize,
    pub images: Images,
}

/// What stands beside a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {
    /// Only what an update set.
    None,
    /// The document before and after each change. Looked up ones differ from side to side by chance.
    Both,
}

/// Makes collections, starts both sides, writes, waits until both have everything, and compares.
pub async fn run(config: &Config, allowed: &mut Allowed) -> Result<Report> {
    let kind = format!("{:?}_{:?}", config.encoding, config.images).to_lowercase();
    let name = format!("diff_{kind}_{}_{}", config.seed, std::process::id());
    let client = connect(&config.url).await?;
    let database = client.database(&name);
    for collection in COLLECTIONS.iter().chain(&[WARM, END]) {
        let images = doc! { "enabled": true };
        let create = doc! { "create": *collection, "changeStreamPreAndPostImages": images };
        database.run_command(create).await?;
    }
    let mut sides = sides::start(config, &name).await?;
    let outcome = write_and_compare(config, &client, &database, &mut sides, allowed).await;
    let removed = sides.stop().await;
    let report = outcome?;
    removed?;
    database.drop().await?;
    Ok(report)
}

async fn write_and_compare(
    config: &Config,
    client: &Client,
    database: &Database,
    sides: &mut Sides,
    allowed: &mut Allowed,
) -> Result<Report> {
    let mut random = Random::new(config.seed);
    let mut number = 0;
    let warm = database.collection::<Document>(WARM);
    let write = async || {
        number += 1;
        warm.insert_one(doc! { "_id": number }).await?;
        Ok(())
    };
    sides.both_show(&format!(".{WARM}"), write).await?;
    let mut session = client.start_session().await?;
    let mut ids: Vec<(usize, Bson)> = Vec::new();
    for _ in 0..config.transactions {
        let within = random.percent(50);
        if within {
            session.start_transaction().await?;
        }
        for _ in 0..=random.below(5) {
            change(database, within.then_some(&mut session), &mut ids, &mut random).await?;
        }
        if within {
            session.commit_transaction().await?;
        }
    }
    let end = database.collection::<Document>(END);
    end.insert_one(doc! { "_id": 1 }).await?;
    let (mut theirs, mut ours) = sides.both_show(&format!(".{END}"), async || Ok(())).await?;
    for topics in [&mut theirs, &mut ours] {
        topics.retain(|(topic, _), _| !topic.ends_with(&format!(".{WARM}")));
    }
    list(&config.place.dir, "-mongodb", &theirs, &ours)?;
    compare(&theirs, &ours, allowed)
}

/// One change of one document.
async fn change(
    database: &Database,
    session: Option<&mut ClientSession>,
    ids: &mut Vec<(usize, Bson)>,
    random: &mut Random,
) -> Result<()> {
    let known = (!ids.is_empty()).then(|| random.below_usize(ids.len()));
    let (verb, at) = (random.below(10), known);
    let Some(at) = at.filter(|_| verb > 3) else {
        let of = random.below_usize(COLLECTIONS.len());
        let mut document = values::document(random);
        let id = values::id(random);
        document.insert("_id", id.clone());
        let to = database.collection::<Document>(COLLECTIONS[of]);
        let insert = to.insert_one(document);
        match session {
            Some(session) => insert.session(session).await?,
            None => insert.await?,
        };
        ids.push((of, id));
        return Ok(());
    };
    let (of, id) = ids[at].clone();
    let (to, filter) = (database.collection::<Document>(COLLECTIONS[of]), doc! { "_id": id });
    match verb {
        4..=7 => {
            let update = to.update_one(filter, values::update(random));
            match session {
                Some(session) => update.session(session).await?,
                None => update.await?,
            };
        }
        8 => {
            let replace = to.replace_one(filter, values::document(random));
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
