//! An archive: a database of documents with a collection of papers, a connector for it, and what has come out
//! of it. What a [`Shop`](crate::Shop) is for Postgres.
//!
//! Its collection `papers` is captured unless the test says otherwise. Documents with negative ids are
//! fences: written to know that everything before them has come through.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use millrace_ledger::mongodb::{Ended, abort, commit};
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection, Database};
use serde_json::Value as Json;
use tokio::task::JoinHandle;

use crate::event::Event;
use crate::servers::Servers;
use crate::site::{Origin, Site, names};
use crate::wait::PATIENCE;

const PAPERS: &str = "papers";

pub type Archive = Site<Shelves>;

/// The database of an archive.
pub struct Shelves {
    pub client: Client,
    database: String,
    servers: Arc<Servers>,
}

impl Archive {
    /// An archive on the shared servers.
    pub async fn open(name: &str) -> Self {
        Self::on(&Arc::new(Servers::shared().await), name).await
    }

    /// An archive on these servers; several may share them.
    pub async fn on(servers: &Arc<Servers>, name: &str) -> Self {
        let (name, database) = names(name);
        let url = servers.mongodb.url();
        let client = connect(&url).await;
        let captured = vec![format!("{database}.{PAPERS}")];
        let mut archive = Self::new(servers, name, Shelves { client, database, servers: servers.clone() });
        archive
            .file
            .set("source/mongodb/url", url)
            .set("source/mongodb/collections", captured)
            .set("source/mongodb/snapshot", "no_data");
        archive
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
        self.seen_in(&self.topic(collection)).await
    }

    /// Waits for at least so many events of a collection, and answers all.
    pub async fn wait_for_events(&mut self, collection: &str, count: usize) -> Vec<Event> {
        self.events_of_topic(&self.topic(collection), count).await
    }

    /// Fails unless the papers' events are exactly one insert for each id, in this order.
    pub async fn expect_docs(&mut self, ids: RangeInclusive<i64>) -> &mut Self {
        self.expect_docs_within(PATIENCE, ids).await
    }

    pub async fn expect_docs_within(&mut self, limit: Duration, ids: RangeInclusive<i64>) -> &mut Self {
        self.expect_inserts_within(limit, ids).await
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

impl Origin for Shelves {
    fn fenced_topic(&self, connector: &str) -> String {
        format!("{connector}.{}.{PAPERS}", self.database)
    }

    async fn write_fence(&mut self, fence: i64) {
        let papers: Collection<Document> = self.client.database(&self.database).collection(PAPERS);
        papers.insert_many(self::papers(fence..=fence)).await.expect("the fence is inserted");
    }

    fn id(event: &Event) -> Option<i64> {
        id(event)
    }
}

impl Drop for Shelves {
    fn drop(&mut self) {
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
