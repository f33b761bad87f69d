//! A load under which Debezium stops, the daemon takes over from its offsets, stops, and hands back: everything is in
//! the topic once. Both are given the same file. Start at [`run`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use millrace_ledger::reader::{Isolation, Reader};
use serde_json::{Map, Value as Json, json};
use tokio::process::{Child, Command};

use crate::connect::Worker;
use crate::{Place, Result};

/// Of Kafka Connect.
const OFFSETS: &str = "connect-offsets";

/// How long each of the three has the load to itself.
const TURN: Duration = Duration::from_secs(6);

/// The last rows are there soon after the load has ended.
const DONE_WITHIN: Duration = Duration::from_secs(90);

/// A daemon that is told to stop is gone by then.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub rows: i64,
    pub lost: Vec<i64>,
    pub doubled: Vec<i64>,
    /// Rows by whose turn they came in: of Debezium, of the daemon, of Debezium again.
    pub turns: [usize; 3],
}

impl Outcome {
    /// Nothing lost, nothing doubled, and each had its part.
    pub fn passed(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.turns.iter().all(|rows| *rows > 0)
    }
}

/// What a load is told, and tells.
#[derive(Clone, Debug, Default)]
pub struct Load {
    stop: Arc<AtomicBool>,
    newest: Arc<AtomicI64>,
}

impl Load {
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Everything up to this number is written.
    pub fn wrote(&self, number: i64) {
        self.newest.store(number, Ordering::Relaxed);
    }

    fn newest(&self) -> i64 {
        self.newest.load(Ordering::Relaxed)
    }
}

/// Has the three take their turns. `properties`: what is particular to the source. `topic`: where the load's rows come
/// to. `number`: which one a record's key is of. `write` ends soon after its load does not go on.
pub async fn run(
    place: &Place,
    name: &str,
    (properties, topic): (Json, &str),
    number: fn(&Json) -> Option<i64>,
    write: impl Future<Output = Result<()>> + Send + 'static,
    load: Load,
) -> Result<Outcome> {
    let properties = whole(place, name, properties)?;
    std::fs::create_dir_all(&place.dir)?;
    let file = place.dir.join(format!("{name}.json"));
    std::fs::write(&file, json!({"name": name, "config": properties}).to_string())?;

    let worker = Worker::at(&place.connect)?;
    worker.start(name, properties).await?;
    let writing = tokio::spawn(write);
    let turns = take_turns(place, &worker, name, &file, &load).await;
    load.stop.store(true, Ordering::Relaxed);
    writing.await??;
    let turns = turns?;
    let rows = load.newest();
    let found = all(place, topic, number, rows).await?;
    worker.remove(name).await?;
    Ok(judged(rows, &found, turns))
}

/// Debezium, the daemon, Debezium: gives the newest row when each of the first two stopped.
async fn take_turns(
    place: &Place,
    worker: &Worker,
    name: &str,
    file: &Path,
    load: &Load,
) -> Result<[i64; 2]> {
    tokio::time::sleep(TURN).await;
    worker.ask(name, "stop").await?;
    let first = load.newest();
    position(place, file, name, "take-over").await?;
    let mut daemon = daemon(place, file, name)?;
    tokio::time::sleep(TURN).await;
    end(&mut daemon).await?;
    let second = load.newest();
    position(place, file, name, "hand-back").await?;
    worker.ask(name, "resume").await?;
    tokio::time::sleep(TURN).await;
    Ok([first, second])
}

fn whole(place: &Place, name: &str, mut own: Json) -> Result<Map<String, Json>> {
    let all = own.as_object_mut().ok_or("not an object")?;
    for (key, value) in [
        ("tasks.max", "1"),
        ("snapshot.mode", "no_data"),
        ("topic.prefix", name),
        ("poll.interval.ms", "20"),
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
    let log = std::fs::File::create(place.dir.join(format!("{name}.log")))?;
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

/// How often each row is in the topic, once the last one is there.
async fn all(
    place: &Place,
    topic: &str,
    number: fn(&Json) -> Option<i64>,
    rows: i64,
) -> Result<BTreeMap<i64, usize>> {
    let deadline = Instant::now() + DONE_WITHIN;
    loop {
        let mut reader = Reader::new(&place.bootstrap, Isolation::ReadCommitted, Duration::from_secs(30));
        let mut found = BTreeMap::new();
        for record in reader.read_all(&[topic]).await?.records {
            let key: Json = serde_json::from_slice(record.key.as_deref().unwrap_or_default())?;
            *found.entry(number(&key).ok_or("a key without id")?).or_insert(0) += 1;
        }
        if found.contains_key(&rows) || Instant::now() > deadline {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn judged(rows: i64, found: &BTreeMap<i64, usize>, [first, second]: [i64; 2]) -> Outcome {
    let within = |from: i64, to: i64| found.range(from + 1..=to).count();
    // What was written before Debezium's stream was open, though its task was said to run, is nobody's.
    let begun = found.keys().next().copied().unwrap_or(1);
    Outcome {
        rows,
        lost: (begun..=rows).filter(|id| !found.contains_key(id)).collect(),
        doubled: found.iter().filter(|(_, times)| **times > 1).map(|(id, _)| *id).collect(),
        turns: [within(0, first), within(first, second), within(second, rows)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_is_there_twice_is_told() {
        let found = BTreeMap::from([(2, 1), (3, 2), (5, 1), (6, 1)]);
        let outcome = judged(6, &found, [3, 5]);
        assert_eq!((outcome.lost.as_slice(), outcome.doubled.as_slice()), ([4].as_slice(), [3].as_slice()));
        assert_eq!(outcome.turns, [2, 1, 1]);
        assert!(!outcome.passed());
    }
}
