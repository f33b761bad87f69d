//! The shop: its database, the journal of what was committed, and the small steady load on it.

use std::time::Duration;

use millrace_ledger::random::Random;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, Transaction};
use xtask::services::Postgres;
use xtask::{Context, Error, Result};

use super::check::{Entry, Op};

/// The tables that the connector captures, all in the schema `public`.
pub const TABLES: [&str; 3] = ["customers", "orders", "order_items"];

const DATABASE: &str = "shop";
/// So many connections, each with a transaction every [`PACE`]: 20 transactions a second.
const WRITERS: u64 = 4;
const PACE: Duration = Duration::from_millis(200);

/// The database.
pub struct Shop {
    url: String,
    client: Client,
}

impl Shop {
    /// A new and empty one.
    pub async fn build(postgres: &Postgres) -> Result<Self> {
        let admin = connect(&postgres.url()).await?;
        admin.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await.context(database)?;
        let url = postgres.url_of(DATABASE);
        let client = connect(&url).await?;
        client.batch_execute(include_str!("shop.sql")).await.context(database)?;
        Ok(Self { url, client })
    }

    /// With the password in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Everything that was committed so far, and the place in the log behind it.
    pub async fn journal(&mut self) -> Result<(Vec<Entry>, u64)> {
        let transaction = self.client.transaction().await.context(database)?;
        // Nobody commits between the two answers: what lies behind the place is not in the journal.
        let lock = format!("LOCK TABLE {} IN SHARE MODE", TABLES.join(", "));
        transaction.batch_execute(&lock).await.context(database)?;
        let sql = "SELECT relation, key, operation, seq FROM journal ORDER BY id";
        let rows = transaction.query(sql, &[]).await.context(database)?;
        let end = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
        let end: i64 = transaction.query_one(end, &[]).await.context(database)?.get(0);
        transaction.commit().await.context(database)?;
        let entries = rows.iter().map(|row| {
            let op = Op::named(row.get(2)).ok_or_else(|| Error::new("the journal has a strange line"))?;
            Ok(Entry { table: row.get(0), key: row.get(1), op, seq: row.get(3) })
        });
        let end = u64::try_from(end).context(|| "the end of the log".to_owned())?;
        Ok((entries.collect::<Result<_>>()?, end))
    }
}

/// What the load has done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    pub committed: u64,
    pub rolled_back: u64,
}

/// Writers at work until they are stopped.
pub struct Load {
    stop: watch::Sender<bool>,
    writers: JoinSet<Result<Totals>>,
}

impl Load {
    /// Registers the first customers and goes on from there.
    pub async fn start(url: &str) -> Result<Self> {
        let mut first = connect(url).await?;
        let transaction = first.transaction().await.context(database)?;
        for _ in 0..10 {
            transaction.execute(NEW_CUSTOMER, &[]).await.context(database)?;
        }
        transaction.commit().await.context(database)?;
        let (stop, stopped) = watch::channel(false);
        let mut writers = JoinSet::new();
        for nth in 0..WRITERS {
            writers.spawn(write(connect(url).await?, Random::fork(seed(), nth), nth, stopped.clone()));
        }
        Ok(Self { stop, writers })
    }

    /// An error when a writer has ended by itself.
    pub fn must_run(&mut self) -> Result<()> {
        match self.writers.try_join_next() {
            None => Ok(()),
            Some(ended) => Err(ended
                .context(|| "a writer".to_owned())?
                .err()
                .unwrap_or_else(|| Error::new("a writer of the load has ended by itself"))),
        }
    }

    /// Lets every transaction end.
    pub async fn stop(mut self) -> Result<Totals> {
        self.stop.send_replace(true);
        let mut totals = Totals::default();
        while let Some(ended) = self.writers.join_next().await {
            let of_one = ended.context(|| "a writer".to_owned())??;
            totals.committed += of_one.committed;
            totals.rolled_back += of_one.rolled_back;
        }
        Ok(totals)
    }
}

async fn write(
    mut client: Client,
    mut random: Random,
    nth: u64,
    stopped: watch::Receiver<bool>,
) -> Result<Totals> {
    let offset = PACE * u32::try_from(nth).unwrap_or(0) / u32::try_from(WRITERS).unwrap_or(1);
    let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + offset, PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut totals = Totals::default();
    while !*stopped.borrow() {
        pace.tick().await;
        let deed = Deed::draw(&mut random);
        match once(&mut client, deed).await {
            Ok(()) if deed == Deed::ChangeOfMind => totals.rolled_back += 1,
            Ok(()) => totals.committed += 1,
            // Two transactions waited for each other, yours perhaps: the next one is another.
            Err(e) if e.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => totals.rolled_back += 1,
            Err(e) => return Err(e).context(database),
        }
    }
    Ok(totals)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Order,
    NextStatus,
    NewEmail,
    NewCustomer,
    DeleteOrder,
    /// An order that is rolled back: none of its rows may ever be seen.
    ChangeOfMind,
}

impl Deed {
    fn draw(random: &mut Random) -> Self {
        match random.below(100) {
            0..40 => Self::Order,
            40..72 => Self::NextStatus,
            72..82 => Self::NewEmail,
            82..86 => Self::NewCustomer,
            86..94 => Self::DeleteOrder,
            _ => Self::ChangeOfMind,
        }
    }
}

const NEW_CUSTOMER: &str = "
    WITH person AS (
        SELECT (ARRAY['Ada','Grace','Edsger','Barbara','Donald','Leslie','Radia'])[1 + floor(random() * 7)::int] AS name,
               floor(random() * 10000)::int AS number)
    INSERT INTO customers (name, email, profile)
    SELECT name, lower(name) || number || '@example.com',
           jsonb_build_object('newsletter', random() < 0.5, 'points', number % 100)
    FROM person";

/// An order with one to four items, in one statement.
const ORDER: &str = "
    WITH items AS MATERIALIZED (
        SELECT line, (ARRAY['tea','coffee','cup','kettle','sieve','honey'])[1 + floor(random() * 6)::int] AS product,
               1 + floor(random() * 3)::int AS quantity, round((1 + random() * 40)::numeric, 2) AS price
        FROM generate_series(1, 1 + floor(random() * 4)::int) AS line),
    placed AS (
        INSERT INTO orders (customer_id, total, details)
        SELECT id, (SELECT sum(quantity * price) FROM items), jsonb_build_object('gift', random() < 0.1)
        FROM customers ORDER BY random() LIMIT 1
        RETURNING id)
    INSERT INTO order_items (order_id, line, product, quantity, price)
    SELECT placed.id, items.* FROM placed, items";

const NEXT_STATUS: &str = "
    UPDATE orders
    SET status = CASE WHEN random() < 0.1 THEN 'cancelled' WHEN status = 'new' THEN 'paid' ELSE 'shipped' END::order_status
    WHERE id = (SELECT id FROM orders WHERE status IN ('new', 'paid') ORDER BY random() LIMIT 1
                FOR UPDATE SKIP LOCKED)";

const NEW_EMAIL: &str = "
    UPDATE customers SET email = lower(name) || floor(random() * 10000)::int || '@example.org'
    WHERE id = (SELECT id FROM customers ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED)";

const FINISHED: &str = "
    SELECT id FROM orders WHERE status IN ('cancelled', 'shipped') ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED";

async fn once(client: &mut Client, deed: Deed) -> std::result::Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    match deed {
        Deed::Order | Deed::ChangeOfMind => transaction.execute(ORDER, &[]).await.map(drop)?,
        Deed::NextStatus => transaction.execute(NEXT_STATUS, &[]).await.map(drop)?,
        Deed::NewEmail => transaction.execute(NEW_EMAIL, &[]).await.map(drop)?,
        Deed::NewCustomer => transaction.execute(NEW_CUSTOMER, &[]).await.map(drop)?,
        Deed::DeleteOrder => delete_order(&transaction).await?,
    }
    match deed {
        Deed::ChangeOfMind => transaction.rollback().await,
        _ => transaction.commit().await,
    }
}

async fn delete_order(transaction: &Transaction<'_>) -> std::result::Result<(), tokio_postgres::Error> {
    let Some(row) = transaction.query_opt(FINISHED, &[]).await? else { return Ok(()) };
    let id: i64 = row.get(0);
    transaction.execute("DELETE FROM order_items WHERE order_id = $1", &[&id]).await?;
    transaction.execute("DELETE FROM orders WHERE id = $1", &[&id]).await?;
    Ok(())
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context(database)?;
    // It ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

/// Another load each time.
fn seed() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs())
}

fn database() -> String {
    "the shop's database".to_owned()
}
