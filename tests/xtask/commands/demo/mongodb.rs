//! `cargo xtask demo --mongodb`: the same scene with documents. A replica set, a shop under a small load that
//! writes a journal in each of its transactions, the daemon, and an independent consumer. Start at [`run`].

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use millrace_ledger::avro::Registry;
use millrace_ledger::daemon::Daemon;
use millrace_ledger::random::Random;
use millrace_ledger::reader::{Isolation, Reader, Record, Start};
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use serde_json::Value as Json;
use xtask::services::{Home, Kafka, KafkaConfig, Mongodb, MongodbConfig, RegistryConfig};
use xtask::{Context, Error, Result};

use super::super::binary::{self, Profile};
use super::super::interrupt::{EXIT_INTERRUPTED, Interrupt};
use super::Folder;
use super::check::{self, Entry, Op, Seen};
use super::daemon::{NAME, connector};

const DATABASE: &str = "shop";
const ORDERS: &str = "orders";
const JOURNAL: &str = "journal";
const PATIENCE: Duration = Duration::from_secs(60);
const DRAINED_WITHIN: Duration = Duration::from_secs(120);
/// Enough to watch, little enough to read.
const LOAD_EVERY: Duration = Duration::from_millis(150);

pub async fn run(events: Option<u64>) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    tokio::select! {
        biased;
        () = interrupt.asked(2) => {
            println!("-- stopped");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        outcome = play(events, &interrupt) => outcome,
    }
}

async fn play(enough: Option<u64>, interrupt: &Interrupt) -> Result<ExitCode> {
    let binary = binary::build(Profile::Release).await?;
    println!("-- starting Kafka, the schema registry and MongoDB");
    let home = Home::temporary()?;
    let _folder = Folder(home.dir.clone());
    let (kafka, registry, members) =
        (KafkaConfig::default(), RegistryConfig::default(), MongodbConfig::default());
    let (kafka, registry, set) = tokio::join!(
        Kafka::start_new(&kafka, &home),
        xtask::services::Registry::start_new(&registry, &home),
        Mongodb::start_new(&members, &home),
    );
    let (kafka, registry, set) = (kafka?, registry?, set?);
    let shop = Shop::build(&set.url()).await?;
    let source =
        format!("[source.mongodb]\nurl = \"{}\"\ncollections = [\"{DATABASE}.{ORDERS}\"]", set.url());
    let text = connector(&source, &kafka.bootstrap(), &registry.url(), "127.0.0.1:0");
    let mut daemon = started(&binary, &home.dir, &text)?;
    let mut follower = Follower::new(&kafka, &registry.url())?;
    wait_until_it_runs(&mut daemon, &kafka).await?;
    println!();
    println!("mongodb    {}", set.url());
    println!("kafka      {}", kafka.bootstrap());
    println!("registry   {}", registry.url());
    println!("daemon     log {}", daemon.log().display());
    println!("Ctrl-C stops the load, checks, and takes everything down; twice: at once.");
    println!();

    let mut shop = shop;
    while interrupt.times() == 0 && enough.is_none_or(|enough| follower.changes() < enough) {
        let began = Instant::now();
        shop.step().await?;
        while began.elapsed() < LOAD_EVERY {
            follower.print_new().await?;
        }
        daemon.still_runs().context(|| "the daemon".to_owned())?;
    }
    let journal = shop.journal().await?;
    let wanted: usize = journal.iter().map(|entry| if entry.op == Op::Delete { 2 } else { 1 }).sum();
    let deadline = Instant::now() + DRAINED_WITHIN;
    while follower.seen.len() < wanted {
        follower.print_new().await?;
        if Instant::now() >= deadline {
            return Err(Error::new("the daemon has not delivered everything in time"));
        }
    }
    daemon.stop().await.context(|| "the daemon".to_owned())?;
    // Whatever came too often comes now.
    for _ in 0..5 {
        follower.print_new().await?;
    }
    let findings = check::compare(&journal, &follower.seen);
    println!("-- {} changes committed, {} events seen: {findings}", journal.len(), follower.seen.len());
    for example in &findings.examples {
        println!("   {example}");
    }
    println!("-- {}", if findings.passed() { "exactly once" } else { "NOT exactly once" });
    Ok(if findings.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn started(binary: &Path, dir: &Path, text: &str) -> Result<Daemon> {
    let dir = dir.join("daemon");
    fs::create_dir_all(&dir).context(|| dir.display().to_string())?;
    let mut daemon =
        Daemon::with_file(binary, &dir, NAME, text).context(|| "the daemon's file".to_owned())?;
    daemon.start().context(|| "the daemon".to_owned())?;
    Ok(daemon)
}

/// The first position stands in Kafka before anything is read.
async fn wait_until_it_runs(daemon: &mut Daemon, kafka: &Kafka) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let topic = format!("millrace-{NAME}-position");
    let mut reader = Reader::new(&kafka.bootstrap(), Isolation::ReadCommitted, PATIENCE);
    reader.assign(&topic, Start::Earliest).await.context(|| topic.clone())?;
    while Instant::now() < deadline {
        daemon.still_runs().context(|| "the daemon".to_owned())?;
        let read = reader.poll(Duration::from_millis(100)).await.context(|| topic.clone())?;
        let is_position = |record: &Record| {
            record.value.as_deref().is_some_and(|value| {
                serde_json::from_slice::<Json>(value).is_ok_and(|json| json["cluster_time"].is_string())
            })
        };
        if read.records.iter().any(is_position) {
            return Ok(());
        }
    }
    Err(Error::new(format!("the daemon does not stream; its last words:\n{}", daemon.log_tail())))
}

/// The database, and what is done to it.
struct Shop {
    client: Client,
    database: Database,
    random: Random,
    next: i64,
    seq: i64,
    orders: Vec<i64>,
}

impl Shop {
    async fn build(url: &str) -> Result<Self> {
        let failed = || "the shop cannot be built".to_owned();
        let client = Client::with_uri_str(url).await.context(failed)?;
        let database = client.database(DATABASE);
        for name in [ORDERS, JOURNAL] {
            database.create_collection(name).await.context(failed)?;
        }
        Ok(Self { client, database, random: Random::new(1), next: 0, seq: 0, orders: Vec::new() })
    }

    /// One transaction: an order more, another one paid, a third gone, and what was done in the journal.
    async fn step(&mut self) -> Result<()> {
        let mut entries = vec![(Op::Create, self.next + 1)];
        self.next += 1;
        for op in [Op::Update, Op::Delete] {
            if self.orders.len() > 5 && self.random.percent(60) {
                let at = self.random.below_usize(self.orders.len());
                entries.push((op, self.orders.swap_remove(at)));
            }
        }
        let first = self.seq;
        self.seq += 1 + i64::try_from(entries.len()).unwrap_or(0);
        let (orders, journal) =
            (self.database.collection::<Document>(ORDERS), self.database.collection::<Document>(JOURNAL));
        let mut session = self.client.start_session().await.context(|| "a session".to_owned())?;
        let work = session.start_transaction().and_run2(async |session| {
            for ((op, id), seq) in entries.iter().zip(first..) {
                let of = doc! { "_id": id };
                match op {
                    Op::Create => {
                        let order = doc! { "_id": id, "seq": seq, "status": "new", "total": 10 + id % 90 };
                        orders.insert_one(order).session(&mut *session).await?;
                    }
                    Op::Update => {
                        let paid = doc! { "$set": { "seq": seq, "status": "paid" } };
                        orders.update_one(of, paid).session(&mut *session).await?;
                    }
                    Op::Delete | Op::Tombstone => {
                        orders.delete_one(of).session(&mut *session).await?;
                    }
                }
                let line = doc! { "_id": seq, "op": op.letter().to_string(), "key": id };
                journal.insert_one(line).session(&mut *session).await?;
            }
            Ok(())
        });
        work.await.context(|| "a transaction of the shop".to_owned())?;
        self.orders.extend(entries.iter().filter(|(op, _)| *op != Op::Delete).map(|(_, id)| *id));
        Ok(())
    }

    async fn journal(&self) -> Result<Vec<Entry>> {
        let failed = || "the journal cannot be read".to_owned();
        let lines = self.database.collection::<Document>(JOURNAL);
        let mut cursor = lines.find(doc! {}).sort(doc! { "_id": 1 }).await.context(failed)?;
        let mut entries = Vec::new();
        while cursor.advance().await.context(failed)? {
            let line: Document = cursor.deserialize_current().context(failed)?;
            let op = line.get_str("op").ok().and_then(Op::named);
            entries.push(Entry {
                table: ORDERS.to_owned(),
                key: line.get_i64("key").context(failed)?.to_string(),
                op: op.ok_or_else(|| Error::new("the journal names an unknown operation"))?,
                seq: line.get_i64("_id").context(failed)?,
            });
        }
        Ok(entries)
    }
}

/// What a consumer sees, by a reader that shares nothing with the daemon.
struct Follower {
    reader: Reader,
    registry: Registry,
    topic: String,
    assigned: bool,
    seen: Vec<Seen>,
}

impl Follower {
    fn new(kafka: &Kafka, registry: &str) -> Result<Self> {
        Ok(Self {
            reader: Reader::new(&kafka.bootstrap(), Isolation::ReadCommitted, PATIENCE),
            registry: Registry::new(registry).context(|| "the registry's client".to_owned())?,
            topic: format!("{NAME}.{DATABASE}.{ORDERS}"),
            assigned: false,
            seen: Vec::new(),
        })
    }

    fn changes(&self) -> u64 {
        let changes = self.seen.iter().filter(|seen| seen.op != Op::Tombstone).count();
        u64::try_from(changes).unwrap_or(u64::MAX)
    }

    async fn print_new(&mut self) -> Result<()> {
        let failed = || "Kafka".to_owned();
        if !self.assigned {
            // The topic appears with the first event.
            if self.reader.topics(&self.topic).await.context(failed)?.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                return Ok(());
            }
            self.reader.assign(&self.topic, Start::Earliest).await.context(failed)?;
            self.assigned = true;
        }
        let read = self.reader.poll(Duration::from_millis(50)).await.context(failed)?;
        for record in &read.records {
            let (seen, line) = self.event(record).await?;
            println!("{line}");
            self.seen.push(seen);
        }
        Ok(())
    }

    async fn event(&mut self, record: &Record) -> Result<(Seen, String)> {
        let key = self.decode(record.key.as_deref().unwrap_or_default()).await?;
        let key = key["id"].as_str().unwrap_or_default().to_owned();
        let value = match record.value.as_deref() {
            Some(value) => Some(self.decode(value).await?),
            None => None,
        };
        let name = value.as_ref().and_then(|value| value["op"].as_str());
        let op = match name {
            None => Op::Tombstone,
            Some(name) => Op::named(name).ok_or_else(|| Error::new(format!("its op is {name:?}")))?,
        };
        let text = |field: &str| value.as_ref().and_then(|value| value.pointer(field)?.as_str());
        // A later update may stand in `after`; what this one set is in its description.
        let own = match op {
            Op::Update => text("/updateDescription/updatedFields"),
            _ => text("/after"),
        };
        let own: Json = own.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let number = &own["seq"];
        let seq = number.as_i64().or_else(|| number["$numberLong"].as_str()?.parse().ok());
        let header = record.header("position").map(String::from_utf8_lossy).unwrap_or_default();
        let line = format!("{} {key:<6} {} {own} @{header}", record.topic, op.letter());
        let partition = record.partition;
        Ok((Seen { table: ORDERS.to_owned(), key, op, seq, partition }, line))
    }

    async fn decode(&mut self, frame: &[u8]) -> Result<Json> {
        let decoded = self.registry.decode(frame).await;
        decoded.map(|decoded| decoded.json()).map_err(|e| Error::new(format!("not decodable: {e:?}")))
    }
}
