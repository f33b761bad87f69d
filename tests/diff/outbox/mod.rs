//! An outbox of Postgres: random options of Debezium's event router, one file for both sides. Start at [`run`].

mod modes;
mod rows;

use millrace_ledger::random::Random;
use tokio_postgres::Client;

pub use self::modes::Modes;

use crate::allowed::Allowed;
use crate::compare::{Report, compare};
use crate::postgres::sides::both_stream;
use crate::postgres::{connect, said};
use crate::sides::{Sides, list};
use crate::{Place, Result};

/// The topic of the last row ends so.
const END: &str = "the_end";

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Config {
    pub place: Place,
    /// Of the server; the run makes a database of its own.
    pub url: String,
    pub seed: u64,
    pub transactions: usize,
    pub modes: Modes,
}

/// Makes the table, starts both sides, writes, waits until both have everything, and compares.
pub async fn run(config: &Config, allowed: &mut Allowed) -> Result<Report> {
    let name = format!("diff_outbox_{}_{}", config.seed, std::process::id());
    connect(&config.url).await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    let url = format!("{}/{name}", config.url.rsplit_once('/').ok_or("a url without a database")?.0);
    let client = connect(&url).await?;
    let create = config.modes.create();
    client.batch_execute(&create).await.map_err(|error| said(&create, &error))?;
    let file = config.modes.file(&config.place, &name, &url)?;
    let own = |side: &str| {
        let slot = format!("{side}_{name}");
        serde_json::json!({ "slot.name": slot, "publication.name": slot })
    };
    let both = [own("theirs"), own("ours")];
    let mut sides = Sides::start_with(&config.place, config.modes.encodings(), &name, &file, both).await?;
    let outcome = match both_stream(&mut sides, &url).await {
        Ok(()) => written_and_compared(config, &client, &mut sides, allowed).await,
        Err(error) => Err(error),
    };
    sides.end(outcome).await
}

async fn written_and_compared(
    config: &Config,
    client: &Client,
    sides: &mut Sides,
    allowed: &mut Allowed,
) -> Result<Report> {
    let modes = &config.modes;
    let mut random = Random::new(config.seed);
    let mut number = 0;
    for _ in 0..config.transactions {
        client.batch_execute("BEGIN").await?;
        for _ in 0..=random.below(5) {
            number += 1;
            let insert = modes.insert(number, sides.name(), &mut random);
            client.batch_execute(&insert).await.map_err(|error| said(&insert, &error))?;
        }
        for other in modes.others(number, &mut random) {
            client.batch_execute(&other).await.map_err(|error| said(&other, &error))?;
        }
        client.batch_execute(if random.percent(5) { "ROLLBACK" } else { "COMMIT" }).await?;
    }
    let last = modes.insert_into(&format!("{}.{END}", sides.name()), number + 1, &mut random);
    client.batch_execute(&last).await.map_err(|error| said(&last, &error))?;
    sides.has_times = modes.timestamp;
    let (theirs, ours) = sides.both_show(END, async || Ok(())).await?;
    list(&config.place.dir, "-outbox", &theirs, &ours)?;
    compare(&theirs, &ours, allowed)
}
