//! An archive: a database of documents with a collection of papers, a connector for it, and what has come out
//! of it. What a [`Shop`](crate::Shop) is for Postgres.
//!
//! Its collection `papers` is captured unless the test says otherwise. Documents with negative ids are
//! fences: written to know that everything before them has come through.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use millrace_ledger::broker::Broker;
use millrace_ledger::mongodb::{Ended, abort, commit};
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection, Database};
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::daemon::{Daemon, Refusal};
use crate::event::Event;
use crate::file::File;
use crate::records::Records;
use crate::servers::Servers;
use crate::shop::{PositionRecord, position_records};
use crate::wait::{PATIENCE, until, within};

const PAPERS: &str = "papers";

pub struct Archive {
    pub name: String,
    /// What the connector's file will say at the next start.
    pub file: File,
    pub client: Client,
    pub servers: Arc<Servers>,
    records: Records,
    database: String,
    fences: i64,
    starts: u32,
    daemon: Option<Daemon>,
    dir: TempDir,
}

impl Archive {
    /// An archive on the shared servers.
    pub async fn open(name: &str) -> Self {
        Self::on(&Arc::new(Servers::shared().await), name).await
    }

    /// An archive on these servers; several may share them.
    pub async fn on(servers: &Arc<Servers>, name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The servers may outlive this process, and what was made in them before must not be met again.
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("{name}-{process}-{count}");
        let database = name.replace('-', "_");
        let url = servers.mongodb.url();
        let registry = servers.registry.url();
        let mut file = File::new(&name);
        file.set("source/mongodb/url", url.clone())
            .set("source/mongodb/collections", vec![format!("{database}.{PAPERS}")])
            .set("source/mongodb/snapshot", "no_data")
            .set("format/registry", registry.clone())
            .set("sink/kafka/bootstrap", vec![servers.kafka.bootstrap()]);
        Self {
            records: Records::new(&servers.kafka.bootstrap(), &registry),
            dir: tempfile::tempdir().expect("a temporary directory"),
            client: connect(&url).await,
            servers: servers.clone(),
            name,
            file,
            database,
            fences: 0,
            starts: 0,
            daemon: None,
        }
    }

    pub fn database_name(&self) -> &str {
        &self.database
    }

    pub fn database(&self) -> Database {
        self.client.database(&self.database)
    }

    pub fn papers(&self) -> Collection<Document> {
        self.collection(PAPERS)
    }

    pub fn collection(&self, name: &str) -> Collection<Document> {
        self.database().collection(name)
    }

    /// Makes a collection that keeps images of its documents.
    pub async fn with_images(&mut self, name: &str) -> &mut Self {
        let create = doc! { "create": name, "changeStreamPreAndPostImages": { "enabled": true } };
        self.database().run_command(create).await.expect("the collection is made");
        self
    }

    /// Which collections of the archive the connector's file names.
    pub fn capture(&mut self, collections: &[&str]) -> &mut Self {
        let full: Vec<String> = collections.iter().map(|name| format!("{}.{name}", self.database)).collect();
        self.file.set("source/mongodb/collections", full);
        self
    }

    pub fn topic(&self, collection: &str) -> String {
        format!("{}.{}.{collection}", self.name, self.database)
    }

    pub fn position_topic(&self) -> String {
        format!("millrace-{}-position", self.name)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn broker(&self) -> Broker {
        Broker::at(&self.servers.kafka.bootstrap())
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
        self.daemon().wait_for_state(&self.name, "RUNNING").await;
        self
    }

    /// Starts the daemon and waits until it answers, whatever becomes of the connector.
    pub async fn start_in_any_state(&mut self) -> &mut Self {
        assert!(self.daemon.is_none(), "the daemon runs already");
        self.starts += 1;
        let (path, name) = (self.write_file(), format!("daemon-{}", self.starts));
        self.daemon = Some(Daemon::start(&[&path], self.dir(), &name).await);
        self
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon runs")
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> &mut Self {
        self.daemon.take().expect("the daemon runs").kill();
        self
    }

    /// SIGTERM, an end in good order within 10 s.
    pub async fn term(&mut self) -> &mut Self {
        let status = self.daemon.take().expect("the daemon runs").term().await;
        assert!(status.success(), "SIGTERM ended the daemon with {status}");
        self
    }

    pub async fn wait_for_state(&self, state: &str) {
        self.daemon().wait_for_state(&self.name, state).await;
    }

    /// Waits for a state that is not ready; answers why and what to type.
    pub async fn not_ready(&self, state: &str) -> Refusal {
        self.daemon().not_ready(&self.name, state).await
    }

    /// Inserts papers, each on its own.
    pub async fn docs(&mut self, ids: RangeInclusive<i64>) -> &mut Self {
        self.papers().insert_many(papers(ids)).await.expect("the papers are inserted");
        self
    }

    /// Keeps inserting papers, `each` in a transaction, until all ids are used. A transaction that an election
    /// aborts is tried again, as drivers do.
    pub async fn load(&self, ids: RangeInclusive<i64>, each: i64) -> JoinHandle<()> {
        let client = self.client.clone();
        let papers_of = self.papers();
        tokio::spawn(async move {
            let mut session = client.start_session().await.expect("a session");
            let mut first = *ids.start();
            while first <= *ids.end() {
                let last = (first + each - 1).min(*ids.end());
                session.start_transaction().await.expect("a transaction");
                let inserted = papers_of.insert_many(papers(first..=last)).session(&mut session).await;
                let ended = match inserted {
                    Ok(_) => commit(&mut session).await,
                    Err(error) => abort(&mut session, error).await,
                };
                if ended.expect("the transaction is committed") == Ended::Again {
                    continue;
                }
                first = last + 1;
            }
        })
    }

    /// Everything of a collection that a committed reader sees by now.
    pub async fn events(&mut self, collection: &str) -> Vec<Event> {
        let topic = self.topic(collection);
        self.records.of(&topic).await.to_vec()
    }

    /// Waits for at least so many events of a collection, and answers all.
    pub async fn wait_for_events(&mut self, collection: &str, count: usize) -> Vec<Event> {
        self.events_of_topic(&self.topic(collection), count).await
    }

    pub async fn events_of_topic(&mut self, topic: &str, count: usize) -> Vec<Event> {
        let records = &mut self.records;
        until(&format!("{count} events in {topic}"), async || {
            let events = records.of(topic).await;
            (events.len() >= count).then(|| events.to_vec())
        })
        .await
    }

    /// Writes a fence, waits for it, and answers the events of the papers before it, other fences left out.
    pub async fn settled_within(&mut self, limit: Duration) -> Vec<Event> {
        self.fences += 1;
        let fence = -self.fences;
        self.docs(fence..=fence).await;
        let topic = self.topic(PAPERS);
        let records = &mut self.records;
        within(limit, &format!("everything before the fence in {topic}"), async || {
            let events = records.of(&topic).await;
            let end = events.iter().position(|event| id(event) == Some(fence))?;
            Some(events[..end].iter().filter(|event| id(event).is_none_or(|id| id >= 0)).cloned().collect())
        })
        .await
    }

    pub async fn settled(&mut self) -> Vec<Event> {
        self.settled_within(PATIENCE).await
    }

    /// Fails unless the papers' events are exactly one insert for each id, in this order.
    pub async fn expect_docs(&mut self, ids: RangeInclusive<i64>) -> &mut Self {
        self.expect_docs_within(PATIENCE, ids).await
    }

    pub async fn expect_docs_within(&mut self, limit: Duration, ids: RangeInclusive<i64>) -> &mut Self {
        let events = self.settled_within(limit).await;
        let mut found = events.iter().map(|event| (event.op(), id(event).unwrap_or(i64::MIN)));
        for (nth, expected) in ids.map(|id| ("c", id)).enumerate() {
            let found = found.next();
            assert_eq!(found, Some(expected), "event {nth} of {}", events.len());
        }
        assert_eq!(found.next(), None, "an event too many");
        for pair in events.windows(2) {
            if let [one, next] = pair {
                assert!(one.position() < next.position(), "{one:?} stands before {next:?}");
            }
        }
        self
    }

    /// Everything that the connector has remembered, oldest first.
    pub async fn position_records(&self) -> Vec<PositionRecord> {
        position_records(&self.servers.kafka.bootstrap(), &self.position_topic()).await
    }

    /// The newest position of the stream.
    pub async fn position(&self) -> PositionRecord {
        let records = self.position_records().await;
        let mut of_stream = records.into_iter().filter(|record| record.key[1]["server"].is_string());
        of_stream.next_back().expect("a position")
    }

    /// The server's newest cluster time, in seconds.
    pub async fn server_seconds(&self) -> u32 {
        let hello = self.client.database("admin").run_command(doc! { "hello": 1 }).await.expect("an answer");
        hello.get_timestamp("operationTime").expect("a cluster time").time
    }
}

/// A client with a session of its own, that waits for an election to end.
pub async fn connect(url: &str) -> Client {
    let mut options = ClientOptions::parse(url).await.expect("a connection string");
    options.server_selection_timeout = Some(PATIENCE);
    Client::with_options(options).expect("a client")
}

/// The number in the key of a paper.
pub fn id(event: &Event) -> Option<i64> {
    event.key.as_ref()?["id"].as_str()?.parse().ok()
}

/// A document of an envelope as JSON: `after`, `before`.
pub fn document(event: &Event, field: &str) -> Json {
    let text = event.value.as_ref().and_then(|value| value[field].as_str());
    text.map_or(Json::Null, |text| serde_json::from_str(text).expect("a document is JSON"))
}

fn papers(ids: RangeInclusive<i64>) -> Vec<Document> {
    ids.map(|id| doc! { "_id": Bson::Int64(id), "note": format!("paper {id}") }).collect()
}

impl Drop for Archive {
    fn drop(&mut self) {
        drop(self.daemon.take());
        if self.servers.mongodb.is_shared() {
            clear(self.servers.mongodb.url(), self.database.clone());
        }
    }
}

/// A thread of its own, because the test's runtime may be gone or busy.
fn clear(url: String, database: String) {
    let clearing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        runtime.block_on(async { connect(&url).await.database(&database).drop().await.ok() })
    });
    // A test that failed has said why; one that left its database behind has harmed nobody.
    let _ = clearing.join();
}
