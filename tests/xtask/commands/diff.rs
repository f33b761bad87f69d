//! `cargo xtask diff`: the daemon and a live Debezium read the same database at the same time, and every
//! record of the one is compared with that of the other.

mod takeover;

use std::process::ExitCode;

use millrace_diff::allowed::Allowed;
use millrace_diff::compare::Report;
use millrace_diff::{Encoding, Place, mongodb, outbox, postgres};
use xtask::services::{Config, Connect, ConnectConfig, Home, PostgresConfig, Services};
use xtask::{Context, Error, Result};

use super::binary::{self, Profile};
use super::interrupt::{EXIT_INTERRUPTED, Interrupt};

#[derive(clap::Subcommand)]
pub enum Subject {
    /// Debezium's Postgres connector.
    Postgres(Arguments),
    /// Debezium's MongoDB connector.
    Mongodb(OfDocuments),
    /// Debezium's outbox event router, by one file for both.
    Outbox(OfEvents),
    /// Debezium and the daemon read one slot in turn, by each other's offsets, under a load.
    Takeover(takeover::Arguments),
}

#[derive(clap::Args)]
pub struct OfEvents {
    /// Decides options and rows; several, parted by commas, are as many runs.
    #[arg(long = "seed", value_delimiter = ',', default_values_t = [1])]
    seeds: Vec<u64>,
    /// Transactions of each run.
    #[arg(long, default_value_t = 120)]
    transactions: usize,
    /// The daemon's release build.
    #[arg(long)]
    release: bool,
}

#[derive(clap::Args)]
pub struct OfDocuments {
    /// Decides documents and changes; several, parted by commas, are as many runs.
    #[arg(long = "seed", value_delimiter = ',', default_values_t = [1])]
    seeds: Vec<u64>,
    /// json (with schemas) or avro; the one that the seed draws, where it is not given.
    #[arg(long)]
    encoding: Option<String>,
    /// Transactions, and changes outside of any, of each run.
    #[arg(long, default_value_t = 120)]
    transactions: usize,
    /// The daemon's release build.
    #[arg(long)]
    release: bool,
}

#[derive(clap::Args)]
pub struct Arguments {
    /// Decides tables, rows and modes; several, parted by commas, are as many runs.
    #[arg(long = "seed", value_delimiter = ',', default_values_t = [1])]
    seeds: Vec<u64>,
    /// json (with schemas) or avro; both, one after the other, where it is not given.
    #[arg(long)]
    encoding: Option<String>,
    /// Tables of each run.
    #[arg(long, default_value_t = 12)]
    tables: usize,
    /// Transactions of each run.
    #[arg(long, default_value_t = 120)]
    transactions: usize,
    /// Only types whose name holds one of these, parted by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The major version of the server, 14 to 18.
    #[arg(long, default_value = "15")]
    postgres: String,
    /// postgis or pgvector: types that the server has besides. It says which version the server is of.
    #[arg(long, conflicts_with = "postgres")]
    extension: Option<String>,
    /// A property of Debezium, key=value, instead of what the seed draws; given as often as there are some.
    #[arg(long)]
    property: Vec<String>,
    /// The daemon's release build.
    #[arg(long)]
    release: bool,
}

pub async fn run(subject: Subject) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    tokio::select! {
        biased;
        () = interrupt.asked(1) => {
            println!("stopped before the end: nothing is compared");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        outcome = compared(&subject) => outcome,
    }
}

async fn compared(subject: &Subject) -> Result<ExitCode> {
    match subject {
        Subject::Postgres(arguments) => against_debezium(arguments).await,
        Subject::Mongodb(arguments) => of_documents(arguments).await,
        Subject::Outbox(arguments) => of_events(arguments).await,
        Subject::Takeover(arguments) => takeover::in_turn(arguments).await,
    }
}

/// Every seed, in the modes that it draws.
async fn of_documents(arguments: &OfDocuments) -> Result<ExitCode> {
    let encoding = arguments.encoding.as_deref().map(encoding).transpose()?;
    let mut stand = Stand::set_up(&Config::default(), arguments.release).await?;
    for seed in &arguments.seeds {
        let modes = mongodb::Modes::of(*seed, encoding);
        let config = mongodb::Config {
            place: stand.place.clone(),
            url: stand.services.mongodb.url(),
            seed: *seed,
            transactions: arguments.transactions,
            modes,
        };
        let report = mongodb::run(&config, &mut stand.allowed).await;
        stand.note(&format!("seed {seed}, {modes}"), report);
    }
    Ok(stand.verdict())
}

/// Every seed, with the options that it draws.
async fn of_events(arguments: &OfEvents) -> Result<ExitCode> {
    let mut stand = Stand::set_up(&Config::default(), arguments.release).await?;
    for seed in &arguments.seeds {
        let modes = outbox::Modes::of(*seed);
        let config = outbox::Config {
            place: stand.place.clone(),
            url: stand.services.postgres.url(),
            seed: *seed,
            transactions: arguments.transactions,
            modes: modes.clone(),
        };
        let report = outbox::run(&config, &mut stand.allowed).await;
        stand.note(&format!("seed {seed}, {modes}"), report);
    }
    Ok(stand.verdict())
}

/// Every seed, in the modes that it draws, in each encoding.
async fn against_debezium(arguments: &Arguments) -> Result<ExitCode> {
    let encodings = encodings(arguments.encoding.as_deref())?;
    let postgres = match &arguments.extension {
        Some(extension) => PostgresConfig::with(extension.parse()?),
        None => PostgresConfig { version: arguments.postgres.parse()?, ..PostgresConfig::default() },
    };
    let config = Config { postgres, ..Config::default() };
    let given = properties(&arguments.property)?;
    let mut stand = Stand::set_up(&config, arguments.release).await?;
    for seed in &arguments.seeds {
        let modes = postgres::Modes::of(*seed, &given);
        println!("-- seed {seed}: {modes}");
        for encoding in &encodings {
            let config = postgres::Config {
                place: stand.place.clone(),
                url: stand.services.postgres.url(),
                encoding: *encoding,
                seed: *seed,
                tables: arguments.tables,
                transactions: arguments.transactions,
                only: arguments.only.clone(),
                modes: modes.clone(),
            };
            let report = postgres::run(&config, &mut stand.allowed).await;
            stand.note(&format!("seed {seed}, {encoding:?}"), report);
        }
    }
    Ok(stand.verdict())
}

/// The servers, and what the runs have shown so far.
struct Stand {
    services: Services,
    _connect: Connect,
    place: Place,
    allowed: Allowed,
    passed: bool,
}

impl Stand {
    async fn set_up(config: &Config, release: bool) -> Result<Self> {
        Self::set_up_with(config, &ConnectConfig::default(), release).await
    }

    async fn set_up_with(config: &Config, worker: &ConnectConfig, release: bool) -> Result<Self> {
        let binary = binary::build(if release { Profile::Release } else { Profile::Debug }).await?;
        println!("-- starting Kafka, the schema registry, the databases and Kafka Connect");
        let home = Home::temporary()?;
        let services = Services::start_new(config, &home).await?;
        let bootstrap = services.kafka.bootstrap();
        let connect = Connect::start_new(worker, &bootstrap, &home).await?;
        let place = Place {
            bootstrap,
            registry: services.registry.url(),
            connect: connect.url(),
            binary,
            dir: binary::target()?.join("diff"),
        };
        let allowed = Allowed::read().context(|| "the list of allowed differences".to_owned())?;
        Ok(Self { services, _connect: connect, place, allowed, passed: true })
    }

    /// A run that could not be finished has not passed, and the others go on.
    fn note(&mut self, run: &str, report: millrace_diff::Result<Report>) {
        match report {
            Ok(report) => {
                println!("-- {run}: {report}");
                self.passed &= report.passed();
            }
            Err(error) => {
                println!("-- {run}: could not be finished: {error}");
                self.passed = false;
            }
        }
    }

    fn verdict(&self) -> ExitCode {
        for (reason, count) in self.allowed.used() {
            println!("allowed {count} times: {reason}");
        }
        if self.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn encodings(name: Option<&str>) -> Result<Vec<Encoding>> {
    match name {
        None => Ok(vec![Encoding::Json, Encoding::Avro]),
        Some(name) => Ok(vec![encoding(name)?]),
    }
}

fn encoding(name: &str) -> Result<Encoding> {
    match name {
        "json" => Ok(Encoding::Json),
        "avro" => Ok(Encoding::Avro),
        other => Err(Error::new(format!("{other} is no encoding: json or avro"))),
    }
}

fn properties(given: &[String]) -> Result<Vec<(String, String)>> {
    let property = |text: &String| {
        let pair = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        pair.ok_or_else(|| Error::new(format!("{text} is no key=value")))
    };
    given.iter().map(property).collect()
}
