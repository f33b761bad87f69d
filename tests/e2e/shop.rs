//! A shop: a database with a table of orders, a connector for it, and what has come out of it.
//!
//! Its table `public.orders (id bigint primary key, note text)` is captured unless the test says otherwise.
//! Rows with negative ids are fences: written to know that everything before them has come through.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use millrace_ledger::broker::Broker;
use millrace_ledger::reader::{Isolation, Outcome, Reader};
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::daemon::{Daemon, Refusal};
use crate::event::Event;
use crate::file::File;
use crate::records::Records;
use crate::registry::Subjects;
use crate::servers::Servers;
use crate::sql::Sql;
use crate::wait::{PATIENCE, until, within};

/// The table that every shop has.
const ORDERS: &str = "public.orders";

pub struct Shop {
    pub name: String,
    /// What the connector's file will say at the next start.
    pub file: File,
    pub sql: Sql,
    pub servers: Arc<Servers>,
    records: Records,
    database: String,
    fences: i64,
    starts: u32,
    daemon: Option<Daemon>,
    dir: TempDir,
}

impl Shop {
    /// A shop on the shared servers.
    pub async fn open(name: &str) -> Self {
        Self::on(&Arc::new(Servers::shared().await), name).await
    }

    /// A shop on these servers; several may share them.
    pub async fn on(servers: &Arc<Servers>, name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The servers may outlive this process, and what was made in them before must not be met again.
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("{name}-{process}-{count}");
        let database = name.replace('-', "_");
        Sql::connect(&servers.postgres.url()).await.run(&format!("CREATE DATABASE {database}")).await;
        let sql = Sql::connect(&servers.postgres.url_of(&database)).await;
        sql.run("CREATE TABLE orders (id bigint PRIMARY KEY, note text)").await;
        let registry = servers.registry.url();
        let mut file = File::new(&name);
        file.set("source/postgres/url", servers.postgres.url_of(&database))
            .set("source/postgres/tables", vec![ORDERS])
            .set("source/postgres/snapshot", "no_data")
            .set("format/registry", registry.clone())
            .set("sink/kafka/bootstrap", vec![servers.kafka.bootstrap()]);
        Self {
            records: Records::new(&servers.kafka.bootstrap(), &registry),
            dir: tempfile::tempdir().expect("a temporary directory"),
            servers: servers.clone(),
            name,
            file,
            sql,
            database,
            fences: 0,
            starts: 0,
            daemon: None,
        }
    }

    /// Makes a table beside the orders and has it captured too.
    pub async fn table(&mut self, name: &str, columns: &str) -> &mut Self {
        self.sql.run(&format!("CREATE TABLE {name} ({columns})")).await;
        self
    }

    /// Which tables the connector's file names.
    pub fn capture(&mut self, tables: &[&str]) -> &mut Self {
        self.file.set("source/postgres/tables", tables.to_vec());
        self
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    pub fn slot(&self) -> String {
        format!("millrace_{}", self.database)
    }

    pub fn topic(&self, table: &str) -> String {
        format!("{}.{table}", self.name)
    }

    pub fn position_topic(&self) -> String {
        format!("millrace-{}-position", self.name)
    }

    /// Where the shop's files lie.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn broker(&self) -> Broker {
        Broker::at(&self.servers.kafka.bootstrap())
    }

    pub fn subjects(&self) -> Subjects {
        Subjects::at(&self.servers.registry.url())
    }

    /// Writes the connector's file and answers its path.
    pub fn write_file(&self) -> std::path::PathBuf {
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
        self.daemon = Some(self.start_another().await);
        self
    }

    /// Starts another daemon with the same file, beside the one that may run.
    pub async fn start_another(&mut self) -> Daemon {
        self.starts += 1;
        let (path, name) = (self.write_file(), format!("daemon-{}", self.starts));
        Daemon::start(&[&path], self.dir(), &name).await
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

    /// SIGTERM, an end in good order within 10 s.
    pub async fn term(&mut self) -> &mut Self {
        let status = self.take_daemon().term().await;
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

    /// Inserts orders in one transaction.
    pub async fn rows(&mut self, ids: std::ops::RangeInclusive<i64>) -> &mut Self {
        self.sql.run(&insertion(&ids)).await;
        self
    }

    /// Keeps inserting orders from another session, `each` in a transaction, until all ids are used.
    pub async fn load(&self, ids: std::ops::RangeInclusive<i64>, each: i64) -> JoinHandle<()> {
        let session = self.sql.another().await;
        tokio::spawn(async move {
            let mut first = *ids.start();
            while first <= *ids.end() {
                let last = (first + each - 1).min(*ids.end());
                session.run(&insertion(&(first..=last))).await;
                first = last + 1;
            }
        })
    }

    /// Opens the session anew, after the server was restarted.
    pub async fn reconnect(&mut self) -> &mut Self {
        self.sql = Sql::connect(&self.servers.postgres.url_of(&self.database)).await;
        self
    }

    /// Where the server may let go of the log, as the slot has it.
    pub async fn confirmed(&self) -> u64 {
        let slot = self.slot();
        let query =
            format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
        self.sql.lsn(&query).await
    }

    /// Waits until nobody reads the slot, or somebody does.
    pub async fn wait_for_slot(&self, active: bool) {
        let slot = self.slot();
        let query = format!(
            "SELECT coalesce((SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'), false)"
        );
        until(&format!("slot {slot} is active: {active}"), async || {
            (self.sql.one::<bool>(&query).await == active).then_some(())
        })
        .await;
    }

    /// Everything of a table that a committed reader sees by now.
    pub async fn events(&mut self, table: &str) -> Vec<Event> {
        let topic = self.topic(table);
        self.records.of(&topic).await.to_vec()
    }

    /// Waits for at least so many events of a table, and answers all.
    pub async fn wait_for_events(&mut self, table: &str, count: usize) -> Vec<Event> {
        let topic = self.topic(table);
        let records = &mut self.records;
        until(&format!("{count} events in {topic}"), async || {
            let events = records.of(&topic).await;
            (events.len() >= count).then(|| events.to_vec())
        })
        .await
    }

    /// As [`Shop::wait_for_events`], in a topic that was deleted and made again since it was read.
    pub async fn wait_for_events_anew(&mut self, table: &str, count: usize) -> Vec<Event> {
        self.records.forget(&self.topic(table));
        self.wait_for_events(table, count).await
    }

    /// Writes a fence, waits for it, and answers the events of the orders before it, other fences left out.
    /// What is committed after it in the same partition is not looked at.
    pub async fn settled(&mut self) -> Vec<Event> {
        self.settled_within(PATIENCE).await
    }

    pub async fn settled_within(&mut self, limit: Duration) -> Vec<Event> {
        self.fences += 1;
        let fence = -self.fences;
        self.sql.run(&format!("INSERT INTO orders VALUES ({fence}, 'fence')")).await;
        let topic = self.topic(ORDERS);
        let records = &mut self.records;
        within(limit, &format!("everything before the fence in {topic}"), async || {
            let events = records.of(&topic).await;
            let end = events.iter().position(|event| event.id() == Some(fence))?;
            Some(events[..end].iter().filter(|event| event.id().is_none_or(|id| id >= 0)).cloned().collect())
        })
        .await
    }

    /// Fails unless the orders' events are exactly one insert for each id, in this order.
    pub async fn expect_rows(&mut self, ids: std::ops::RangeInclusive<i64>) -> &mut Self {
        self.expect_rows_within(PATIENCE, ids).await
    }

    pub async fn expect_rows_within(
        &mut self,
        limit: Duration,
        ids: std::ops::RangeInclusive<i64>,
    ) -> &mut Self {
        let events = self.settled_within(limit).await;
        assert_rows(&events, ids);
        assert_positions_rise(&events);
        self
    }

    /// Fails unless the orders' events are exactly these operations on these ids, in this order.
    pub async fn expect_changes(&mut self, expected: &[(&str, i64)]) -> &mut Self {
        let events = self.settled().await;
        let found: Vec<(&str, i64)> =
            events.iter().map(|event| (event.op(), event.id().unwrap_or(i64::MIN))).collect();
        assert_eq!(found, expected);
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

    /// Stops the daemon (SIGSTOP) so that the broker has to abort its transaction, and waits for that.
    pub async fn pause_past_the_transaction_timeout(&mut self, limit: Duration) {
        let bootstrap = self.servers.kafka.bootstrap();
        loop {
            until("a transaction is open", async || self.has_open_transaction(ORDERS).await.then_some(()))
                .await;
            self.daemon().pause();
            within(limit, "the transaction ends", async || {
                (!self.has_open_transaction(ORDERS).await).then_some(())
            })
            .await;
            if newest_end(&bootstrap, &self.topic(ORDERS)).await == Some(Outcome::Abort) {
                return;
            }
            // Its commit was under way already.
            self.daemon().resume();
        }
    }

    /// Whether a Kafka transaction is open in the topic of a table: something lies behind what is stable.
    pub async fn has_open_transaction(&self, table: &str) -> bool {
        let topic = self.topic(table);
        let mut reader = Reader::new(&self.servers.kafka.bootstrap(), Isolation::ReadCommitted, PATIENCE);
        let mut ends = async |isolation| {
            let extents = reader.extents_as(&topic, isolation).await.expect("the topic can be asked");
            extents.values().map(|extent| extent.end).sum::<i64>()
        };
        // The stable end first: it may only rise meanwhile, which hides an open one and invents none.
        let all = ends(Isolation::ReadUncommitted).await;
        ends(Isolation::ReadCommitted).await < all
    }
}

/// The end of a Kafka transaction in the topic of a table, the newest.
async fn newest_end(bootstrap: &str, topic: &str) -> Option<Outcome> {
    let mut reader = Reader::new(bootstrap, Isolation::ReadUncommitted, PATIENCE);
    let read = reader.read_all(&[topic]).await.expect("the topic can be read");
    read.markers.last().map(|marker| marker.outcome)
}

/// The committed records of a position topic.
pub async fn position_records(bootstrap: &str, topic: &str) -> Vec<PositionRecord> {
    let mut reader = Reader::new(bootstrap, Isolation::ReadCommitted, PATIENCE);
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

/// One statement, one transaction.
fn insertion(ids: &std::ops::RangeInclusive<i64>) -> String {
    let (first, last) = (ids.start(), ids.end());
    format!("INSERT INTO orders SELECT id, 'order ' || id FROM generate_series({first}, {last}) id")
}

fn assert_rows(events: &[Event], ids: std::ops::RangeInclusive<i64>) {
    let expected = ids.map(|id| ("c", id));
    let mut found = events.iter().map(|event| (event.op(), event.id().unwrap_or(i64::MIN)));
    for (nth, expected) in expected.enumerate() {
        let found = found.next();
        assert_eq!(found, Some(expected), "event {nth} of {}", events.len());
    }
    assert_eq!(found.next(), None, "an event too many");
}

/// Strictly: two equal positions are one change delivered twice.
fn assert_positions_rise(events: &[Event]) {
    for pair in events.windows(2) {
        if let [one, next] = pair {
            assert!(one.position() < next.position(), "{one:?} stands before {next:?}");
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        // First: its walsender keeps the slot.
        drop(self.daemon.take());
        if self.servers.postgres.is_shared() {
            clear(self.servers.postgres.url(), self.database.clone());
        }
    }
}

/// Takes database and slots away, so that a server shared by many tests never runs out of slots. A thread
/// of its own, because the test's runtime may be gone or busy.
fn clear(url: String, database: String) {
    let clearing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        runtime.block_on(async {
            let sql = Sql::try_connect(&url).await.ok()?;
            until("the shop's slots and database are gone", async || {
                sql.try_run(&format!(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
                     WHERE database = '{database}' AND active"
                ))
                .await?;
                sql.try_run(&format!(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                     WHERE database = '{database}'"
                ))
                .await?;
                sql.try_run(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")).await
            })
            .await;
            Some(())
        })
    });
    // A test that failed has said why; one that left its database behind has harmed nobody.
    let _ = clearing.join();
}
