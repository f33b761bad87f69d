//! A connector and what it is tried on: its file, its daemon, and what has come out of it. Of what the source is,
//! [`crate::shop`] and [`crate::archive`] know.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use millrace_ledger::broker::Broker;
use millrace_ledger::reader::{Extent, Isolation, Reader};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::daemon::{Daemon, Refusal, TRUST_COMMITS};
use crate::event::Event;
use crate::file::File;
use crate::records::Records;
use crate::servers::Servers;
use crate::wait::{until, within};

/// What is read by the connector. It takes itself away when it is dropped, which is after the daemon has ended.
pub trait Origin {
    /// The topic of what every site of this kind captures, and where fences are written.
    fn fenced_topic(&self, connector: &str) -> String;
    /// Writes something whose id is this negative number.
    fn write_fence(&mut self, id: i64) -> impl Future<Output = ()>;
    /// The id that an event of the fenced topic is about.
    fn id(event: &Event) -> Option<i64>;
}

/// How long the position topic's end may hold what is not yet decided. What a daemon left open when it was killed
/// is decided when the next one begins.
const DECIDED_WITHIN: Duration = Duration::from_secs(2);

pub struct Site<O: Origin> {
    pub name: String,
    /// What the connector's file will say at the next start.
    pub file: File,
    pub servers: Arc<Servers>,
    origin: O,
    records: Records,
    fences: i64,
    starts: u32,
    /// What each daemon is told.
    standing_order: Option<&'static str>,
    daemon: Option<Daemon>,
    dir: TempDir,
}

/// The name of a connector and that of its database. The servers may outlive this process, and what was made in them
/// before must not be met again.
pub fn names(name: &str) -> (String, String) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let name = format!("{name}-{process}-{count}");
    let database = name.replace('-', "_");
    (name, database)
}

impl<O: Origin> Site<O> {
    pub fn new(servers: &Arc<Servers>, name: String, origin: O) -> Self {
        let registry = servers.registry.url();
        let mut file = File::new(&name);
        file.set("format/registry", registry.clone())
            .set("sink/kafka/bootstrap", vec![servers.kafka.bootstrap()]);
        Self {
            records: Records::new(&servers.kafka.bootstrap(), &registry),
            dir: tempfile::tempdir().expect("a temporary directory"),
            servers: servers.clone(),
            name,
            file,
            origin,
            fences: 0,
            starts: 0,
            standing_order: None,
            daemon: None,
        }
    }

    pub fn position_topic(&self) -> String {
        format!("millrace-{}-position", self.name)
    }

    /// Where the files of the site lie.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn broker(&self) -> Broker {
        Broker::at(&self.servers.kafka.bootstrap())
    }

    /// Has every daemon from now on take slow commits for good ones; see [`TRUST_COMMITS`] for when that is right.
    pub fn trust_commits(&mut self) -> &mut Self {
        self.standing_order = Some(TRUST_COMMITS);
        self
    }

    /// Writes the connector's file and answers its path.
    pub fn write_file(&self) -> PathBuf {
        let path = self.dir().join(format!("{}.toml", self.file.name()));
        self.file.write(&path);
        path
    }

    /// Starts the daemon and waits until the connector runs.
    pub async fn start(&mut self) -> &mut Self {
        self.start_in_any_state().await;
        self.wait_for_state("RUNNING").await;
        self
    }

    /// Starts the daemon and waits until it answers, whatever becomes of the connector.
    pub async fn start_in_any_state(&mut self) -> &mut Self {
        assert!(self.daemon.is_none(), "the daemon runs already");
        self.daemon = Some(self.start_another().await);
        self
    }

    /// Starts the daemon with a terminal for its standard error, and waits until it runs.
    pub async fn start_on_a_terminal(&mut self) -> &mut Self {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let (path, name) = self.next_start();
        self.daemon =
            Some(Daemon::start_on_a_terminal(&[&path], self.dir(), &name, self.standing_order).await);
        self.wait_for_state("RUNNING").await;
        self
    }

    /// Starts another daemon with the same file, beside the one that may run.
    pub async fn start_another(&mut self) -> Daemon {
        let (path, name) = self.next_start();
        Daemon::start_ordered(&[&path], self.dir(), &name, self.standing_order).await
    }

    /// Starts a daemon that is told to die at a point, and waits until it has.
    pub async fn start_to_die_at(&mut self, point: &str) {
        let (path, name) = self.next_start();
        let standing = self.standing_order.map(|order| format!(",{order}")).unwrap_or_default();
        let order = format!("crash:{point}{standing}");
        let mut daemon = Daemon::launch_ordered(&[&path], self.dir(), &name, Some(&order));
        let died = daemon.wait_ended().await;
        assert!(!died.success(), "{died}");
    }

    /// The file as it is now, and what the next daemon's log is called after.
    fn next_start(&mut self) -> (PathBuf, String) {
        self.starts += 1;
        (self.write_file(), format!("daemon-{}", self.starts))
    }

    /// The daemon that runs.
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon runs")
    }

    /// Takes the running daemon away, to be looked after by the test.
    pub fn take_daemon(&mut self) -> Daemon {
        self.daemon.take().expect("the daemon runs")
    }

    pub fn give_daemon(&mut self, daemon: Daemon) {
        self.daemon = Some(daemon);
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> &mut Self {
        self.take_daemon().kill();
        self
    }

    /// SIGTERM, an end in good order: the daemon's exit code says whether it was one, and within its 10 s.
    pub async fn term(&mut self) -> &mut Self {
        let status = self.take_daemon().term().await;
        assert!(status.success(), "SIGTERM ended the daemon with {status}");
        self
    }

    pub async fn wait_for_state(&self, state: &str) {
        self.daemon().wait_for_state(&self.name, state).await;
    }

    /// Waits for a state that is not ready and stays; answers why and what to type.
    pub async fn not_ready(&self, state: &str) -> Refusal {
        self.daemon().not_ready(&self.name, state).await
    }

    /// Waits until it is not at work for a reason with these words.
    pub async fn degraded(&self, words: &[&str]) -> Refusal {
        self.daemon().degraded(&self.name, words).await
    }

    /// Everything in a topic that a committed reader sees by now.
    pub async fn seen_in(&mut self, topic: &str) -> Vec<Event> {
        self.records.of(topic).await.to_vec()
    }

    /// Waits for at least so many events of a topic, and answers all.
    pub async fn events_of_topic(&mut self, topic: &str, count: usize) -> Vec<Event> {
        let records = &mut self.records;
        until(&format!("{count} events in {topic}"), async || {
            let events = records.of(topic).await;
            (events.len() >= count).then(|| events.to_vec())
        })
        .await
    }

    /// As [`Site::events_of_topic`], in a topic that was deleted and made again since it was read.
    pub async fn events_of_topic_anew(&mut self, topic: &str, count: usize) -> Vec<Event> {
        self.records.forget(topic);
        self.events_of_topic(topic, count).await
    }

    /// Writes a fence, waits for it, and answers the events before it, other fences left out. What is committed after
    /// it in the same partition is not looked at.
    pub async fn settled(&mut self) -> Vec<Event> {
        self.settled_within(crate::wait::PATIENCE).await
    }

    pub async fn settled_within(&mut self, limit: Duration) -> Vec<Event> {
        self.fences += 1;
        let fence = -self.fences;
        self.origin.write_fence(fence).await;
        let topic = self.origin.fenced_topic(&self.name);
        let records = &mut self.records;
        within(limit, &format!("everything before the fence in {topic}"), async || {
            let events = records.of(&topic).await;
            let end = events.iter().position(|event| O::id(event) == Some(fence))?;
            Some(
                events[..end].iter().filter(|event| O::id(event).is_none_or(|id| id >= 0)).cloned().collect(),
            )
        })
        .await
    }

    /// Fails unless what settles is exactly one insert for each id, in this order.
    pub async fn expect_inserts_within(
        &mut self,
        limit: Duration,
        ids: std::ops::RangeInclusive<i64>,
    ) -> &mut Self {
        let events = self.settled_within(limit).await;
        let mut found = events.iter().map(|event| (event.op(), O::id(event).unwrap_or(i64::MIN)));
        for (nth, expected) in ids.map(|id| ("c", id)).enumerate() {
            let found = found.next();
            assert_eq!(found, Some(expected), "event {nth} of {}", events.len());
        }
        assert_eq!(found.next(), None, "an event too many");
        // Strictly: two equal positions are one change delivered twice.
        for pair in events.windows(2) {
            if let [one, next] = pair {
                assert!(one.position() < next.position(), "{one:?} stands before {next:?}");
            }
        }
        self
    }

    /// The committed records of the position topic, by partition.
    pub async fn position_records(&self) -> Vec<PositionRecord> {
        position_records(&self.servers.kafka.bootstrap(), &self.position_topic()).await
    }

    /// The newest position of the stream.
    pub async fn position(&self) -> PositionRecord {
        let records = self.position_records().await;
        let mut of_stream = records.into_iter().filter(|record| record.key[1]["server"].is_string());
        of_stream.next_back().expect("a position")
    }
}

impl<O: Origin> Deref for Site<O> {
    type Target = O;

    fn deref(&self) -> &O {
        &self.origin
    }
}

impl<O: Origin> DerefMut for Site<O> {
    fn deref_mut(&mut self) -> &mut O {
        &mut self.origin
    }
}

impl<O: Origin> Drop for Site<O> {
    fn drop(&mut self) {
        // First: it keeps the slot.
        drop(self.daemon.take());
    }
}

/// The committed records of a position topic. A commit is durable before its marker is written: what stands at the
/// end is waited for until it is decided.
pub async fn position_records(bootstrap: &str, topic: &str) -> Vec<PositionRecord> {
    let mut reader = Reader::new(bootstrap, Isolation::ReadCommitted, crate::wait::PATIENCE);
    let all = reader.extents_as(topic, Isolation::ReadUncommitted).await.expect("the topic can be asked");
    let deadline = Instant::now() + DECIDED_WITHIN;
    loop {
        let stable =
            reader.extents_as(topic, Isolation::ReadCommitted).await.expect("the topic can be asked");
        let decided = |(key, end): (_, &Extent)| stable.get(key).is_some_and(|stable| stable.end >= end.end);
        if all.iter().all(decided) || Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let read = reader.read_all(&[topic]).await.expect("the position topic can be read");
    let json = |bytes: Option<&[u8]>| {
        let bytes = bytes.unwrap_or(b"null");
        serde_json::from_slice(bytes).expect("a position record is JSON")
    };
    let records = read.records.iter().map(|record| PositionRecord {
        partition: record.partition,
        offset: record.offset,
        key: json(record.key.as_deref()),
        value: json(record.value.as_deref()),
    });
    records.collect()
}

/// A record of the position topic.
#[derive(Clone, Debug)]
pub struct PositionRecord {
    pub partition: i32,
    pub offset: i64,
    pub key: Json,
    pub value: Json,
}
