//! A shop: a database with a table of orders, a connector for it, and what has come out of it.
//!
//! Its table `public.orders (id bigint primary key, note text)` is captured unless the test says otherwise.
//! Rows with negative ids are fences: written to know that everything before them has come through.

use std::sync::Arc;
use std::time::Duration;

use millrace_ledger::reader::{Isolation, Outcome, Reader};
use tokio::task::JoinHandle;

use crate::event::Event;
use crate::registry::Subjects;
use crate::servers::Servers;
use crate::site::{Origin, Site, names};
use crate::sql::Sql;
use crate::wait::{PATIENCE, until, within};

/// The table that every shop has.
const ORDERS: &str = "public.orders";

pub type Shop = Site<Orders>;

/// The database of a shop.
pub struct Orders {
    pub sql: Sql,
    database: String,
    servers: Arc<Servers>,
}

impl Shop {
    /// A shop on the shared servers.
    pub async fn open(name: &str) -> Self {
        Self::on(&Arc::new(Servers::shared().await), name).await
    }

    /// A shop on these servers; several may share them.
    pub async fn on(servers: &Arc<Servers>, name: &str) -> Self {
        let (name, database) = names(name);
        Sql::connect(&servers.postgres.url()).await.run(&format!("CREATE DATABASE {database}")).await;
        let url = servers.postgres.url_of(&database);
        let sql = Sql::connect(&url).await;
        sql.run("CREATE TABLE orders (id bigint PRIMARY KEY, note text)").await;
        let mut shop = Self::new(servers, name, Orders { sql, database, servers: servers.clone() });
        shop.file
            .set("source/postgres/url", url)
            .set("source/postgres/tables", vec![ORDERS])
            .set("source/postgres/snapshot", "no_data");
        shop
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

    pub fn subjects(&self) -> Subjects {
        Subjects::at(&self.servers.registry.url())
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
        self.seen_in(&self.topic(table)).await
    }

    /// All events of a table without a key up to now; a row with the id -1 marks their end, and stays.
    pub async fn events_to_the_end(&mut self, table: &str) -> Vec<Event> {
        self.sql.run(&format!("INSERT INTO {table} (id, note) VALUES (-1, 'the end')")).await;
        until("the end of the events", async || {
            let events = self.events(table).await;
            let end = events.iter().position(|event| event.id() == Some(-1))?;
            Some(events[..end].to_vec())
        })
        .await
    }

    /// Waits for at least so many events of a table, and answers all.
    pub async fn wait_for_events(&mut self, table: &str, count: usize) -> Vec<Event> {
        self.events_of_topic(&self.topic(table), count).await
    }

    /// As [`Shop::wait_for_events`], in a topic that was deleted and made again since it was read.
    pub async fn wait_for_events_anew(&mut self, table: &str, count: usize) -> Vec<Event> {
        self.events_of_topic_anew(&self.topic(table), count).await
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
        self.expect_inserts_within(limit, ids).await
    }

    /// Fails unless the orders' events are exactly these operations on these ids, in this order.
    pub async fn expect_changes(&mut self, expected: &[(&str, i64)]) -> &mut Self {
        let events = self.settled().await;
        let found: Vec<(&str, i64)> =
            events.iter().map(|event| (event.op(), event.id().unwrap_or(i64::MIN))).collect();
        assert_eq!(found, expected);
        self
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

/// One statement, one transaction.
fn insertion(ids: &std::ops::RangeInclusive<i64>) -> String {
    let (first, last) = (ids.start(), ids.end());
    format!("INSERT INTO orders SELECT id, 'order ' || id FROM generate_series({first}, {last}) id")
}

impl Origin for Orders {
    fn fenced_topic(&self, connector: &str) -> String {
        format!("{connector}.{ORDERS}")
    }

    async fn write_fence(&mut self, id: i64) {
        self.sql.run(&format!("INSERT INTO orders VALUES ({id}, 'fence')")).await;
    }

    fn id(event: &Event) -> Option<i64> {
        event.id()
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
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
