//! Postgres: random tables over every type, read by both sides at the same time. Start at [`run`].

mod changes;
pub(crate) mod sides;
mod tables;
pub mod takeover;
mod values;

use std::collections::BTreeSet;

use millrace_ledger::random::Random;
use serde_json::Value as Json;
use tokio_postgres::{Client, NoTls};

use crate::allowed::Allowed;
use crate::compare::{Report, compare};
use crate::records::Topics;
use crate::sides::{Sides, list};
use crate::{Encoding, Place, Result};

use tables::Table;
pub use values::families;

/// The property by which Debezium tells transactions.
const METADATA: &str = "provide.transaction.metadata";

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Config {
    pub place: Place,
    /// Of the server; the run makes a database of its own.
    pub url: String,
    pub encoding: Encoding,
    pub seed: u64,
    pub tables: usize,
    pub transactions: usize,
    /// Only types whose name holds one of these; all where there is none.
    pub only: Vec<String>,
    /// Lines for the daemon's `[source.postgres]` and `[format]`, and Debezium's properties for the same.
    pub modes: Modes,
}

/// The same choices in both sides' words.
#[derive(Clone, Debug, Default)]
pub struct Modes {
    pub source: Vec<String>,
    pub format: Vec<String>,
    pub debezium: Vec<(String, String)>,
}

/// Makes tables, starts both sides, writes, waits until both have everything, and compares.
pub async fn run(config: &Config, allowed: &mut Allowed) -> Result<Report> {
    let encoding = format!("{:?}", config.encoding).to_lowercase();
    let database = format!("diff_{encoding}_{}_{}", config.seed, std::process::id());
    connect(&config.url).await?.batch_execute(&format!("CREATE DATABASE {database}")).await?;
    let url = format!("{}/{database}", config.url.rsplit_once('/').ok_or("a url without a database")?.0);
    let client = connect(&url).await?;
    // A commit is streamed once it is in the log on disk, which is before others see it; Debezium asks the catalog then,
    // and now and then has the definition of before. Not waiting for the disk turns the two around.
    client.batch_execute("SET synchronous_commit = off").await?;
    let mut random = Random::new(config.seed);
    client.batch_execute(values::PREPARE).await?;
    client.batch_execute(changes::PREPARE).await.map_err(|error| said(changes::PREPARE, &error))?;
    let families = values::available(&client, &config.only).await?;
    let tables: Vec<Table> =
        (0..config.tables).map(|number| Table::random(number, &families, &mut random)).collect();
    for table in &tables {
        client.batch_execute(&table.create()).await.map_err(|error| said(&table.create(), &error))?;
    }
    let mut sides = sides::start(config, &database, &url, &tables).await?;
    let outcome = match write(config, &client, &tables, &mut random).await {
        Ok(()) => compared(config, &client, &database, &mut sides, allowed).await,
        Err(error) => Err(error),
    };
    let report = sides.end(outcome).await;
    // A server has a number of slots, and a command may be of many runs.
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
               WHERE database = current_database() AND NOT active";
    client.execute(sql, &[]).await?;
    report
}

async fn write(config: &Config, client: &Client, tables: &[Table], random: &mut Random) -> Result<()> {
    let mut refused = 0;
    for _ in 0..config.transactions {
        client.batch_execute("BEGIN").await?;
        for _ in 0..=random.below(6) {
            let statement = random.pick(tables).statement(random);
            client.batch_execute("SAVEPOINT s").await?;
            if let Err(error) = client.batch_execute(&statement).await {
                // A key that is there already is chance; anything else would hide a hole in the workload.
                if error.code() != Some(&tokio_postgres::error::SqlState::UNIQUE_VIOLATION) {
                    return Err(said(&statement, &error));
                }
                refused += 1;
                client.batch_execute("ROLLBACK TO s").await?;
            }
        }
        client.batch_execute(if random.percent(5) { "ROLLBACK" } else { "COMMIT" }).await?;
    }
    if refused > config.transactions {
        return Err(format!("{refused} statements were refused").into());
    }
    Ok(())
}

/// The steps of `changes`, each once both sides have written all before it, and then the comparison.
async fn compared(
    config: &Config,
    client: &Client,
    database: &str,
    sides: &mut Sides,
    allowed: &mut Allowed,
) -> Result<Report> {
    let publications = [format!("theirs_{database}"), format!("millrace_{database}")];
    let tells = |(property, value): &(String, String)| property == METADATA && value == "true";
    let steps = changes::steps(&publications, !config.modes.debezium.iter().any(tells));
    for (step, number) in steps.iter().zip(1_usize..) {
        client.batch_execute(&format!("INSERT INTO the_end VALUES ({number})")).await?;
        sides.both_hold("public.the_end", number).await?;
        client.batch_execute(step).await.map_err(|error| said(step, &error))?;
    }
    let last = steps.len() + 1;
    client.batch_execute(&format!("INSERT INTO the_end VALUES ({last})")).await?;
    sides.both_hold("public.the_end", last).await?;
    let (mut theirs, ours) = sides.both_show(".the_end", async || Ok(())).await?;
    without_empty(&mut theirs);
    list(&config.place.dir, "", &theirs, &ours)?;
    compare(&theirs, &ours, allowed)
}

/// Before 15 the server sends transactions in which nothing is published, and Debezium tells that they begin and
/// end. The daemon tells of those that it has events of, whatever the server.
fn without_empty(topics: &mut Topics) {
    let told = |text: &Option<String>| {
        let value: Json = serde_json::from_str(text.as_deref()?).ok()?;
        let value = if value["payload"].is_null() { value } else { value["payload"].clone() };
        let number = value["id"].as_str()?.split(':').next()?.to_owned();
        Some((number, value["event_count"].as_i64() == Some(0)))
    };
    let transactions = |topic: &str| topic == "transaction";
    let of = topics.iter().filter(|((topic, _), _)| transactions(topic)).flat_map(|(_, records)| records);
    let empty: BTreeSet<String> = of
        .filter_map(|record| told(&record.value))
        .filter(|(_, is_empty)| *is_empty)
        .map(|(number, _)| number)
        .collect();
    for ((topic, _), records) in topics.iter_mut() {
        if transactions(topic) {
            records.retain(|record| told(&record.value).is_none_or(|(number, _)| !empty.contains(&number)));
        }
    }
}

pub(crate) fn said(statement: &str, error: &tokio_postgres::Error) -> crate::Error {
    let what = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
    format!("{statement}\n{what}").into()
}

pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
