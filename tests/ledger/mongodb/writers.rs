//! The writers: sessions that change documents in transactions and say so in the journal.
//!
//! Each owns a range of keys, and all meet at a few shared ones, where the server lets one of them win. An
//! attempt that the server aborts is made again from the beginning, with new numbers; what became of a commit
//! that was never answered is read from the database.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mongodb::bson::{Document, deserialize_from_document, doc, serialize_to_document};
use mongodb::{Client, ClientSession, Database};
use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use super::documents::{COLLECTIONS, JOURNAL, Noted, database, hash, journal};
use super::{Ended, abort, commit};
use crate::Result;
use crate::journal::Did;
use crate::random::Random;

/// Below zero: shared by all, and those that end a run.
const SHARED_KEYS: i64 = 8;
const FINAL_KEY: i64 = -1_000;
/// Keys of one writer.
const RANGE: i64 = 1_000_000_000;
const ROLLBACK_PERCENT: u64 = 12;
/// Attempts at a transaction as it was drawn.
const ATTEMPTS_SHARED: u32 = 3;
/// An election, and some more.
const READ_BACK_WITHIN: Duration = Duration::from_secs(60);

/// Numbers of changes and of transactions, of all writers together: what a key's later change has is higher.
static SEQ: AtomicI64 = AtomicI64::new(1);
static TRANSACTION: AtomicI64 = AtomicI64::new(1);

#[derive(Clone, Debug)]
pub struct Workload {
    pub mongodb_url: String,
    pub seed: u64,
    pub writers: u32,
    pub changes_max: u64,
    /// What all writers together try not to exceed.
    pub changes_per_second: u64,
}

#[derive(Debug, Default)]
struct Counters {
    committed: AtomicU64,
    rolled_back: AtomicU64,
    retried: AtomicU64,
    changes: AtomicU64,
    errors: AtomicU64,
}

/// What the writers did; changes are those of committed transactions.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Totals {
    pub committed: u64,
    pub rolled_back: u64,
    /// Attempts beyond the first: conflicts and elections.
    pub retried: u64,
    pub changes: u64,
    /// Transactions of which the end was not told.
    pub errors: u64,
}

pub struct Writers {
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    tasks: JoinSet<Result<()>>,
}

impl Writers {
    /// Inserts the shared documents and sets the writers to work, until [`Writers::stop`].
    pub async fn start(workload: &Workload) -> Result<Writers> {
        let client = super::connect(&workload.mongodb_url).await?;
        insert_all(&client, &(1..=SHARED_KEYS).map(|n| -n).collect::<Vec<_>>()).await?;
        let (stop, counters) = (Arc::new(AtomicBool::new(false)), Arc::new(Counters::default()));
        let mut tasks = JoinSet::new();
        for index in 0..workload.writers {
            let mut writer = Writer {
                client: client.clone(),
                session: client.start_session().await?,
                ledger: database(&client),
                random: Random::fork(workload.seed, u64::from(index)),
                first_key: i64::from(index) * RANGE,
                next_key: i64::from(index) * RANGE,
                mine: BTreeMap::new(),
                changes_max: workload.changes_max,
                // Each has its share of the rate.
                pause_us: u64::from(workload.writers) * 1_000_000 / workload.changes_per_second.max(1),
                counters: counters.clone(),
            };
            let stop = stop.clone();
            tasks.spawn(async move { writer.work(&stop).await });
        }
        Ok(Writers { stop, counters, tasks })
    }

    pub fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            committed: read(&self.counters.committed),
            rolled_back: read(&self.counters.rolled_back),
            retried: read(&self.counters.retried),
            changes: read(&self.counters.changes),
            errors: read(&self.counters.errors),
        }
    }

    /// Lets each writer end its transaction; an error that stopped one is an error here.
    pub async fn stop(&mut self) -> Result<Totals> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(self.totals())
    }
}

/// One document in each collection that nothing comes after; their places and keys.
pub async fn write_finals(client: &Client) -> Result<Vec<(usize, String)>> {
    insert_all(client, &[FINAL_KEY]).await?;
    Ok((0..COLLECTIONS.len()).map(|index| (index, FINAL_KEY.to_string())).collect())
}

/// The keys in every collection, in one transaction that is in the journal too.
async fn insert_all(client: &Client, keys: &[i64]) -> Result<()> {
    let mut session = client.start_session().await?;
    let ledger = database(client);
    let mut random = Random::new(7);
    let mut changes = Vec::new();
    for collection in 0..COLLECTIONS.len() {
        changes.extend(keys.iter().map(|key| (collection, *key)));
    }
    let texts: Vec<String> = changes.iter().map(|_| text(&mut random)).collect();
    let inserting = session.start_transaction().and_run2(async |session| {
        let number = TRANSACTION.fetch_add(1, Ordering::Relaxed);
        let mut noted = Vec::new();
        for ((collection, key), text) in changes.iter().zip(&texts) {
            let seq = SEQ.fetch_add(1, Ordering::Relaxed);
            let document = fresh(*key, seq, number, text);
            noted.push(Noted {
                seq,
                collection: *collection,
                did: Did::Insert,
                key: *key,
                hash: hash(&document),
            });
            insert(&ledger, session, *collection, &document).await?;
        }
        let journal = journal(number, &noted);
        ledger.collection::<Document>(JOURNAL).insert_one(journal).session(session).await?;
        Ok(())
    });
    Ok(inserting.await?)
}

type Model = BTreeMap<(usize, i64), Json>;

struct Writer {
    client: Client,
    session: ClientSession,
    ledger: Database,
    random: Random,
    first_key: i64,
    next_key: i64,
    /// The documents in the writer's own range, as they stand.
    mine: Model,
    changes_max: u64,
    pause_us: u64,
    counters: Arc<Counters>,
}

/// What a transaction is to do, drawn before its first attempt.
#[derive(Clone, Debug)]
enum Plan {
    Insert(usize, i64, String),
    /// A document of the writer's own.
    Update(usize, i64, String),
    Delete(usize, i64),
    /// A document that others change too.
    UpdateShared(usize, i64, String),
}

impl Writer {
    async fn work(&mut self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let plans = self.draw();
            let pause = Duration::from_micros(self.pause_us * u64::try_from(plans.len())?);
            self.transaction(&plans).await?;
            // Slept in parts, so that a stop does not wait for the largest transaction's share.
            while began.elapsed() < pause && !stop.load(Ordering::Relaxed) {
                tokio::time::sleep((pause - began.elapsed().min(pause)).min(Duration::from_millis(50))).await;
            }
        }
        Ok(())
    }

    /// Mostly small; one in fifty large.
    fn draw(&mut self) -> Vec<Plan> {
        let size = match self.random.below(50) {
            0 => 1 + self.random.below(self.changes_max),
            1..=10 => 1 + self.random.below(40),
            _ => 1 + self.random.below(6),
        };
        let mut taken = std::collections::BTreeSet::new();
        // By its document the transaction is known to a consumer.
        let mut plans = vec![self.draw_insert()];
        for _ in 1..size {
            let known = self.draw_known().filter(|key| taken.insert(*key));
            let plan = match (self.random.below(10), known) {
                (0..=3, _) | (_, None) => self.draw_insert(),
                (4..=6, Some((collection, key))) => Plan::Update(collection, key, text(&mut self.random)),
                (7..=8, Some((collection, key))) => Plan::Delete(collection, key),
                (_, Some(_)) => {
                    let collection = self.random.below_usize(COLLECTIONS.len());
                    let key = -1 - i64::try_from(self.random.below(8)).unwrap_or(0);
                    match taken.insert((collection, key)) {
                        true => Plan::UpdateShared(collection, key, text(&mut self.random)),
                        false => self.draw_insert(),
                    }
                }
            };
            plans.push(plan);
        }
        plans
    }

    fn draw_insert(&mut self) -> Plan {
        self.next_key += 1;
        let collection = self.random.below_usize(COLLECTIONS.len());
        Plan::Insert(collection, self.next_key, text(&mut self.random))
    }

    fn draw_known(&mut self) -> Option<(usize, i64)> {
        if self.mine.is_empty() {
            return None;
        }
        let from = (
            self.random.below_usize(COLLECTIONS.len()),
            self.first_key
                + i64::try_from(self.random.below(1 + (self.next_key - self.first_key).unsigned_abs()))
                    .ok()?,
        );
        self.mine.range(from..).next().or_else(|| self.mine.iter().next()).map(|(key, _)| *key)
    }

    async fn transaction(&mut self, plans: &[Plan]) -> Result<()> {
        let roll_back = self.random.percent(ROLLBACK_PERCENT);
        let outcome = self.attempts(plans, roll_back).await;
        let count = |counter: &AtomicU64, by: u64| counter.fetch_add(by, Ordering::Relaxed);
        match outcome {
            Ok(None) => {
                count(&self.counters.rolled_back, 1);
            }
            Ok(Some((changes, changed))) => {
                count(&self.counters.committed, 1);
                count(&self.counters.changes, changes);
                for (key, document) in changed {
                    match document {
                        Some(document) => self.mine.insert(key, document),
                        None => self.mine.remove(&key),
                    };
                }
            }
            Err(error) => {
                count(&self.counters.errors, 1);
                eprintln!("a writer begins anew: {error}");
                // What became of the old session's transaction is the server's business now.
                self.session = self.client.start_session().await?;
                self.read_back().await?;
            }
        }
        Ok(())
    }

    /// Until one is committed; `None` for one that was not meant.
    async fn attempts(&mut self, plans: &[Plan], roll_back: bool) -> mongodb::error::Result<Option<Done>> {
        let own: Vec<Plan> =
            plans.iter().filter(|plan| !matches!(plan, Plan::UpdateShared(..))).cloned().collect();
        for number in 1.. {
            // Who has lost often enough leaves the shared ones alone: a large transaction would never win.
            let plans = if number > ATTEMPTS_SHARED { &own } else { plans };
            self.session.start_transaction().await?;
            let ended = match attempt(&self.ledger, &mut self.session, plans, &self.mine).await {
                Ok(_) if roll_back => {
                    self.session.abort_transaction().await?;
                    return Ok(None);
                }
                Ok(done) => match commit(&mut self.session).await? {
                    Ended::Committed => return Ok(Some(done)),
                    again => again,
                },
                Err(error) => abort(&mut self.session, error).await?,
            };
            debug_assert_eq!(ended, Ended::Again);
            self.counters.retried.fetch_add(1, Ordering::Relaxed);
        }
        Ok(None)
    }

    /// After an end that was not told: what stands in the database is what happened.
    async fn read_back(&mut self) -> Result<()> {
        let deadline = Instant::now() + READ_BACK_WITHIN;
        while let Err(error) = self.read_mine().await {
            if Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn read_mine(&mut self) -> Result<()> {
        self.mine.clear();
        for (index, name) in COLLECTIONS.iter().enumerate() {
            let range = doc! { "_id": { "$gt": self.first_key, "$lt": self.first_key + RANGE } };
            let mut cursor = self.ledger.collection::<Document>(name).find(range).await?;
            while cursor.advance().await? {
                let document: Document = cursor.deserialize_current()?;
                let key = document.get_i64("_id")?;
                self.mine.insert((index, key), deserialize_from_document(document)?);
            }
        }
        Ok(())
    }
}

/// What an attempt did: how many changes, and the writer's own documents as they stand after it.
type Done = (u64, Vec<((usize, i64), Option<Json>)>);

async fn attempt(
    ledger: &Database,
    session: &mut ClientSession,
    plans: &[Plan],
    mine: &Model,
) -> mongodb::error::Result<Done> {
    let number = TRANSACTION.fetch_add(1, Ordering::Relaxed);
    let (mut noted, mut changed) = (Vec::new(), Vec::new());
    for plan in plans {
        let seq = SEQ.fetch_add(1, Ordering::Relaxed);
        let (collection, key, did, hash) = match plan {
            Plan::Insert(collection, key, text) => {
                let document = fresh(*key, seq, number, text);
                insert(ledger, session, *collection, &document).await?;
                let hashed = hash(&document);
                changed.push(((*collection, *key), Some(document)));
                (*collection, *key, Did::Insert, hashed)
            }
            Plan::Update(collection, key, text) => {
                let Some(mut document) = mine.get(&(*collection, *key)).cloned() else { continue };
                update(ledger, session, *collection, *key, seq, number, text).await?;
                set(&mut document, seq, number, text);
                let hashed = hash(&document);
                changed.push(((*collection, *key), Some(document)));
                (*collection, *key, Did::Update, hashed)
            }
            Plan::Delete(collection, key) => {
                let Some(document) = mine.get(&(*collection, *key)) else { continue };
                let to = ledger.collection::<Document>(name(*collection));
                to.delete_one(doc! { "_id": key }).session(&mut *session).await?;
                changed.push(((*collection, *key), None));
                (*collection, *key, Did::Delete, hash(document))
            }
            Plan::UpdateShared(collection, key, text) => {
                let document = update(ledger, session, *collection, *key, seq, number, text).await?;
                (*collection, *key, Did::Update, hash(&document))
            }
        };
        noted.push(Noted { seq, collection, did, key, hash });
    }
    let journal = journal(number, &noted);
    ledger.collection::<Document>(JOURNAL).insert_one(journal).session(session).await?;
    Ok((u64::try_from(noted.len()).unwrap_or(u64::MAX), changed))
}

fn name(collection: usize) -> &'static str {
    COLLECTIONS.get(collection).copied().unwrap_or_default()
}

async fn insert(
    ledger: &Database,
    session: &mut ClientSession,
    collection: usize,
    document: &Json,
) -> mongodb::error::Result<()> {
    let document = serialize_to_document(document)?;
    ledger.collection::<Document>(name(collection)).insert_one(document).session(session).await?;
    Ok(())
}

/// Gives the document as it stands after the update.
async fn update(
    ledger: &Database,
    session: &mut ClientSession,
    collection: usize,
    key: i64,
    seq: i64,
    number: i64,
    text: &str,
) -> mongodb::error::Result<Json> {
    let set = doc! { "$set": { "seq": seq, "tx": number, "deep.text": text } };
    let to = ledger.collection::<Document>(name(collection));
    let found = to
        .find_one_and_update(doc! { "_id": key }, set)
        .return_document(mongodb::options::ReturnDocument::After)
        .session(session)
        .await?;
    Ok(deserialize_from_document(found.unwrap_or_default())?)
}

fn fresh(key: i64, seq: i64, number: i64, text: &str) -> Json {
    json!({ "_id": key, "seq": seq, "tx": number, "deep": { "text": text, "list": [1, "two", null, 2.5] } })
}

/// As `update` has the server do it.
fn set(document: &mut Json, seq: i64, number: i64, text: &str) {
    document["seq"] = seq.into();
    document["tx"] = number.into();
    document["deep"]["text"] = text.into();
}

/// Some of what text can hold.
fn text(random: &mut Random) -> String {
    let odd = ["", "plain", "\"quoted\" \\ back", "line\nbreak\ttab \u{1}", "zażółć 漢字 😀 e\u{301}"];
    let word = *random.pick(&odd);
    let filler = "x".repeat(random.below_usize(200));
    format!("{word}{filler}{}", random.draw())
}
