//! A load of overlapping transactions under which Debezium stops, the daemon takes over from its offsets, stops, and
//! hands back, again and again: everything is in the topic once and in order. Both are given the same file. Start at
//! [`run`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_ledger::random::Random;
use millrace_ledger::reader::{Isolation, Reader};
use serde_json::{Map, Value as Json, json};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::connect::Worker;
use crate::{Place, Result};

/// Of Kafka Connect.
const OFFSETS: &str = "connect-offsets";

/// Transactions overlap.
pub const WRITERS: usize = 4;

/// Debezium, the daemon, and so on; Debezium has the last one too.
const TURNS: usize = 5;

/// How long each of them has the load to itself, in milliseconds.
const TURN_MS: std::ops::Range<u64> = 1_500..3_500;

/// Numbers of one writer, and the first one of each.
const RANGE: i64 = 1_000_000_000;
const FIRSTS: [i64; WRITERS] = [1, RANGE + 1, 2 * RANGE + 1, 3 * RANGE + 1];

/// Few enough that Debezium is stopped inside of transactions.
const DEBEZIUM_BATCH: &str = "16";

/// Both are done with what is left of the load soon after its end, and Debezium streams soon after its start.
const DONE_WITHIN: Duration = Duration::from_secs(90);

/// A daemon that is told to stop is gone by then.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub rows: usize,
    pub lost: Vec<i64>,
    pub doubled: Vec<i64>,
    /// Before one of the same writer that was committed earlier.
    pub reordered: Vec<i64>,
    /// Rows that came in each turn.
    pub turns: Vec<usize>,
    /// Of Debezium's, from which the daemon took over.
    pub offsets: Vec<Json>,
}

impl Outcome {
    /// Nothing lost, doubled or reordered, and each had its part.
    pub fn passed(&self) -> bool {
        let wrong = [&self.lost, &self.doubled, &self.reordered];
        wrong.iter().all(|rows| rows.is_empty()) && self.turns.iter().all(|rows| *rows > 0)
    }
}

/// A transaction that a writer is to commit: rows of rising numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// By statement, each followed by a pause.
    pub statements: Vec<(std::ops::Range<i64>, Duration)>,
}

impl Transaction {
    /// Mostly short. The others commit between its rows, and between the last of them and its end.
    fn drawn(random: &mut Random, mut next: i64) -> Self {
        let is_long = random.percent(30);
        let (statements, pause_ms) =
            if is_long { (4 + random.below(25), 16) } else { (1 + random.below(3), 8) };
        let mut statement = || {
            let rows = next..next + 1 + i64::from(random.percent(40)) * 3;
            next = rows.end;
            (rows, Duration::from_millis(random.below(pause_ms)))
        };
        Self { statements: (0..statements).map(|_| statement()).collect() }
    }

    fn numbers(&self) -> impl Iterator<Item = i64> {
        self.statements.iter().flat_map(|(rows, _)| rows.clone())
    }
}

/// A session with the database.
pub trait Writer: Send + 'static {
    /// False where the server gave it up: it is tried again.
    fn commit(&mut self, transaction: &Transaction) -> impl Future<Output = Result<bool>> + Send;
}

/// What a load is told, and tells.
#[derive(Clone, Debug, Default)]
struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<Mutex<BTreeSet<i64>>>,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn wrote(&self, transaction: &Transaction) {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).extend(transaction.numbers());
    }
}

async fn write(mut writer: impl Writer, load: Load, mut random: Random, mut next: i64) -> Result<()> {
    while load.goes_on() {
        let transaction = Transaction::drawn(&mut random, next);
        if writer.commit(&transaction).await? {
            load.wrote(&transaction);
            next = transaction.numbers().last().unwrap_or(next) + 1;
        }
        tokio::time::sleep(Duration::from_millis(random.below(8))).await;
    }
    Ok(())
}

/// Where rows go, and come out.
pub struct Table<W> {
    /// What is particular to the source.
    pub properties: Json,
    pub topic: String,
    /// Which row a record's key is of.
    pub number: fn(&Json) -> Option<i64>,
    pub writers: [W; WRITERS],
}

/// Has the two take their turns.
pub async fn run<W: Writer>(place: &Place, name: &str, seed: u64, table: Table<W>) -> Result<Outcome> {
    let properties = whole(place, name, table.properties)?;
    std::fs::create_dir_all(&place.dir)?;
    let file = place.dir.join(format!("{name}.json"));
    std::fs::write(&file, json!({"name": name, "config": properties}).to_string())?;

    let worker = Worker::at(&place.connect)?;
    worker.start(name, properties).await?;
    let topic = Topic { place, name: &table.topic, number: table.number };
    let (load, mut writing, mut writers) = (Load::default(), JoinSet::new(), table.writers);
    topic.streams(&mut writers[0]).await?;
    for (writer, first) in writers.into_iter().zip(FIRSTS) {
        let random = Random::fork(seed, first.unsigned_abs());
        writing.spawn(write(writer, load.clone(), random, first));
    }
    let taken = take_turns((place, &worker, name, file.as_path()), &topic, &mut Random::new(seed)).await;
    load.stop.store(true, Ordering::Relaxed);
    while let Some(written) = writing.join_next().await {
        written??;
    }
    let (ends, offsets) = taken?;
    let committed = load.committed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let found = topic.all(&committed).await?;
    worker.remove(name).await?;
    Ok(Outcome { seed, offsets, ..judged(&committed, &found, &ends) })
}

/// Gives where the topic ended after each turn but the last, and Debezium's offsets of then.
async fn take_turns(
    (place, worker, name, file): (&Place, &Worker, &str, &Path),
    topic: &Topic<'_>,
    random: &mut Random,
) -> Result<(Vec<i64>, Vec<Json>)> {
    let (mut ends, mut offsets) = (Vec::new(), Vec::new());
    let mut ours = None;
    for turn in 0..TURNS {
        let ms = TURN_MS.start + random.below(TURN_MS.end - TURN_MS.start);
        tokio::time::sleep(Duration::from_millis(ms)).await;
        if turn + 1 == TURNS {
            break;
        }
        match ours.take() {
            None => {
                worker.ask(name, "stop").await?;
                offsets.push(worker.offset(name).await?);
                position(place, file, name, "take-over").await?;
                ends.push(topic.end().await?);
                ours = Some(daemon(place, file, name)?);
            }
            Some(mut daemon) => {
                end(&mut daemon).await?;
                position(place, file, name, "hand-back").await?;
                ends.push(topic.end().await?);
                worker.ask(name, "resume").await?;
            }
        }
    }
    Ok((ends, offsets))
}

fn whole(place: &Place, name: &str, mut own: Json) -> Result<Map<String, Json>> {
    let all = own.as_object_mut().ok_or("not an object")?;
    for (key, value) in [
        ("tasks.max", "1"),
        ("snapshot.mode", "no_data"),
        ("topic.prefix", name),
        ("poll.interval.ms", "20"),
        ("max.batch.size", DEBEZIUM_BATCH),
        ("max.queue.size", "64"),
        ("key.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ("key.converter.schemas.enable", "false"),
        ("value.converter.schemas.enable", "false"),
        ("topic.creation.default.partitions", "1"),
        ("topic.creation.default.replication.factor", "1"),
        ("producer.override.bootstrap.servers", place.bootstrap.as_str()),
    ] {
        all.insert(key.to_owned(), value.into());
    }
    Ok(all.clone())
}

/// `millrace position <file> <action>`.
async fn position(place: &Place, file: &Path, name: &str, action: &str) -> Result<()> {
    let mut command = Command::new(&place.binary);
    command.arg("position").arg(file).args([action, "--topic", OFFSETS, "--name", name, "--yes"]);
    let output = command.output().await?;
    let told = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{action} failed: {told}").into()) }
}

fn daemon(place: &Place, file: &Path, name: &str) -> Result<Child> {
    let log = place.dir.join(format!("{name}.log"));
    let log = std::fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(&place.binary);
    command.arg("run").arg(file).args(["--rest", "127.0.0.1:0"]).stderr(log).kill_on_drop(true);
    Ok(command.spawn()?)
}

async fn end(daemon: &mut Child) -> Result<()> {
    let pid = daemon.id().ok_or("the daemon ended by itself; see its log")?;
    Command::new("kill").arg(pid.to_string()).status().await?;
    let status = tokio::time::timeout(STOPPED_WITHIN, daemon.wait()).await??;
    if status.success() { Ok(()) } else { Err(format!("the daemon ended with {status}").into()) }
}

/// The topic that the rows come to. It has one partition.
struct Topic<'a> {
    place: &'a Place,
    name: &'a str,
    number: fn(&Json) -> Option<i64>,
}

impl Topic<'_> {
    fn reader(&self) -> Reader {
        Reader::new(&self.place.bootstrap, Isolation::ReadCommitted, Duration::from_secs(30))
    }

    async fn end(&self) -> Result<i64> {
        let extents = self.reader().extents_as(self.name, Isolation::ReadUncommitted).await?;
        Ok(extents.values().map(|extent| extent.end).sum())
    }

    /// Writes rows below zero until one has come: what was written before the stream was open is nobody's.
    async fn streams(&self, writer: &mut impl Writer) -> Result<()> {
        let deadline = Instant::now() + DONE_WITHIN;
        for row in 1.. {
            let rows = -row..1 - row;
            writer.commit(&Transaction { statements: vec![(rows, Duration::ZERO)] }).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            if !self.reader().topics(self.name).await?.is_empty() && !self.found().await?.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                return Err("Debezium does not stream".into());
            }
        }
        Ok(())
    }

    /// Offsets and rows, in order.
    async fn found(&self) -> Result<Vec<(i64, i64)>> {
        let mut found = Vec::new();
        for record in self.reader().read_all(&[self.name]).await?.records {
            let key: Json = serde_json::from_slice(record.key.as_deref().unwrap_or_default())?;
            found.push((record.offset, (self.number)(&key).ok_or("a key without id")?));
        }
        Ok(found)
    }

    /// The same, once the last rows are there.
    async fn all(&self, committed: &BTreeSet<i64>) -> Result<Vec<(i64, i64)>> {
        let deadline = Instant::now() + DONE_WITHIN;
        let newest = |first: i64| committed.range(first..first + RANGE).next_back().copied();
        let last = FIRSTS.into_iter().filter_map(newest);
        let mut missing: BTreeSet<i64> = last.collect();
        loop {
            let found = self.found().await?;
            for (_, row) in &found {
                missing.remove(row);
            }
            if missing.is_empty() || Instant::now() > deadline {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

fn judged(committed: &BTreeSet<i64>, found: &[(i64, i64)], ends: &[i64]) -> Outcome {
    let found: Vec<_> = found.iter().copied().filter(|(_, row)| *row > 0).collect();
    let mut times: BTreeMap<i64, usize> = BTreeMap::new();
    // By writer: the newest of its rows so far.
    let (mut newest, mut reordered) = (BTreeMap::new(), Vec::new());
    let mut turns = vec![0; ends.len() + 1];
    for (offset, row) in found {
        let is_first = *times.entry(row).and_modify(|times| *times += 1).or_insert(1) == 1;
        let newest = newest.entry((row - 1) / RANGE).or_insert(row);
        if is_first && row < *newest {
            reordered.push(row);
        }
        *newest = row.max(*newest);
        turns[ends.iter().filter(|end| **end <= offset).count()] += 1;
    }
    Outcome {
        seed: 0,
        rows: committed.len(),
        lost: committed.iter().filter(|row| !times.contains_key(row)).copied().collect(),
        doubled: times.into_iter().filter(|(_, times)| *times > 1).map(|(row, _)| row).collect(),
        reordered,
        turns,
        offsets: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_there_twice_or_out_of_order_is_told() {
        let committed = BTreeSet::from([1, 2, 3, 4, 5, RANGE + 1]);
        let found = [(0, -1), (1, 2), (2, RANGE + 1), (3, 3), (4, 3), (5, 1), (7, 5)];
        let outcome = judged(&committed, &found, &[3, 6]);
        assert_eq!((&*outcome.lost, &*outcome.doubled, &*outcome.reordered), (&[4][..], &[3][..], &[1][..]));
        assert_eq!(outcome.turns, [2, 3, 1]);
        assert!(!outcome.passed());
    }

    #[test]
    fn transactions_are_short_and_long_and_go_on_where_the_one_before_ended() {
        let mut random = Random::new(1);
        let (mut next, mut statements) = (1, Vec::new());
        for _ in 0..50 {
            let transaction = Transaction::drawn(&mut random, next);
            assert_eq!(transaction.numbers().next(), Some(next));
            next = transaction.numbers().last().unwrap() + 1;
            statements.push(transaction.statements.len());
        }
        assert!(statements.iter().any(|count| *count < 4) && statements.iter().any(|count| *count > 10));
    }
}
