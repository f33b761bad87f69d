//! Postgres: random tables over every type, in modes that the seed draws, read by both sides at the same time.
//! Start at [`run`].

mod changes;
mod modes;
mod rows;
pub(crate) mod sides;
mod tables;
pub mod takeover;
mod values;

use millrace_ledger::random::Random;
use tokio_postgres::{Client, NoTls};

use crate::allowed::Allowed;
use crate::compare::{Report, compare};
use crate::records::Topics;
use crate::sides::{Sides, list};
use crate::{Encoding, Place, Result};

pub use modes::Modes;
use tables::Table;

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
    pub modes: Modes,
}

/// A run under way.
struct Run<'a> {
    config: &'a Config,
    client: Client,
    database: String,
    url: String,
    tables: Vec<Table>,
    random: Random,
    /// Rows of `the_end`.
    ends: usize,
    /// What snapshots have read.
    rows: usize,
}

/// Makes tables and rows, starts both sides, writes, waits until both have everything, and compares.
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
    let families = values::available(&client, &config.only, &config.modes).await?;
    let tables: Vec<Table> =
        (0..config.tables).map(|number| Table::random(number, &families, &mut random)).collect();
    for table in &tables {
        client.batch_execute(&table.create()).await.map_err(|error| said(&table.create(), &error))?;
    }
    rows::prepare(&client, &tables, &mut random).await?;
    let publication = sides::publication_of_inserts(config, &database);
    client.batch_execute(&publication).await.map_err(|error| said(&publication, &error))?;
    let mut sides = sides::start(config, &database, &url, &tables).await?;
    let mut run = Run { config, client, database, url, tables, random, ends: 0, rows: 0 };
    let outcome = run.compared(&mut sides, allowed).await;
    let report = sides.end(outcome).await;
    run.drop_slots().await?;
    report
}

impl Run<'_> {
    async fn compared(&mut self, sides: &mut Sides, allowed: &mut Allowed) -> Result<Report> {
        let modes = &self.config.modes;
        if modes.reads_rows() {
            self.rows = rows::count(self.config, &self.client, &self.tables).await?;
            rows::are_read(sides, self.rows).await?;
        }
        if modes.streams() {
            sides::both_stream(sides, &self.url).await?;
            self.end(sides).await?;
        }
        self.write(self.config.transactions).await?;
        if modes.streams() {
            self.steps(sides).await?;
            self.end(sides).await?;
        }
        if modes.signals() {
            self.signal(sides).await?;
        }
        if modes.restarts() {
            self.restart(sides).await?;
        }
        if sides::beats(self.config) {
            let sql = format!("SELECT min(n) FROM {}", sides::PULSES);
            let count: i32 = self.client.query_one(&sql, &[]).await?.get(0);
            assert_beats(count)?;
        }
        let is_end =
            |topics: &Topics| !modes.streams() || topics.keys().any(|(topic, _)| topic.ends_with(".the_end"));
        let (mut theirs, ours) = sides.both(is_end, async || Ok(())).await?;
        rows::without_empty(&mut theirs);
        let suffix = format!("-{}-{:?}", self.config.seed, self.config.encoding);
        list(&self.config.place.dir, &suffix, &theirs, &ours)?;
        compare(&theirs, &ours, allowed)
    }

    /// A row that comes last, and waits until both have written it.
    async fn end(&mut self, sides: &mut Sides) -> Result<()> {
        self.ends += 1;
        self.client.batch_execute(&format!("INSERT INTO the_end VALUES ({})", self.ends)).await?;
        sides.both_hold("public.the_end", self.ends).await
    }

    async fn write(&mut self, transactions: usize) -> Result<()> {
        let (client, random, mut refused) = (&self.client, &mut self.random, 0);
        for _ in 0..transactions {
            client.batch_execute("BEGIN").await?;
            for _ in 0..=random.below(6) {
                let statement = random.pick(&self.tables).statement(random);
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
        if refused > 2 * transactions {
            return Err(format!("{refused} statements were refused").into());
        }
        Ok(())
    }

    /// Those of `changes`, each once both sides have written all before it.
    async fn steps(&mut self, sides: &mut Sides) -> Result<()> {
        let publications = ["theirs", "ours"].map(|side| sides::publication(side, &self.database));
        let mut steps = changes::steps(&publications, &self.config.modes);
        steps.extend(changes::from_elsewhere(&self.database));
        for step in steps {
            self.end(sides).await?;
            self.client.batch_execute(&step).await.map_err(|error| said(&step, &error))?;
        }
        Ok(())
    }

    async fn signal(&mut self, sides: &mut Sides) -> Result<()> {
        let signals = rows::signals(&self.client, &self.tables).await?;
        for ((data, rows), number) in signals.iter().zip(1..) {
            rows::signal(&self.client, &format!("ask-{number}"), data).await?;
            self.rows += rows;
            rows::are_read(sides, self.rows).await?;
            self.end(sides).await?;
        }
        Ok(())
    }

    /// What is written while both are down comes later, or as rows.
    async fn restart(&mut self, sides: &mut Sides) -> Result<()> {
        let modes = &self.config.modes;
        sides.stop().await?;
        if modes.loses_slots() {
            self.drop_slots().await?;
        }
        // What is written now Debezium only has in the rows that it reads anew, and ours in changes too.
        if !modes.reads_all_again() {
            self.write(self.config.transactions / 4).await?;
        }
        if modes.reads_again() {
            rows::in_order(&self.client).await?;
            self.rows += rows::count(self.config, &self.client, &self.tables).await?;
        }
        sides.resume().await?;
        if modes.reads_again() {
            rows::are_read(sides, self.rows).await?;
        }
        sides::both_stream(sides, &self.url).await?;
        self.end(sides).await?;
        self.write(self.config.transactions / 4).await?;
        self.end(sides).await
    }

    /// A server has a number of slots, and a command may be of many runs.
    async fn drop_slots(&self) -> Result<()> {
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                   WHERE database = current_database() AND NOT active";
        self.client.execute(sql, &[]).await?;
        Ok(())
    }
}

fn assert_beats(count: i32) -> Result<()> {
    if count > 0 { Ok(()) } else { Err("a side's heartbeats have not written to the database".into()) }
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
