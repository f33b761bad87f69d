//! The truth: what the committed transactions of the writers say they did.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Row};

use crate::Result;
use crate::snapshot::Begins;
use crate::tables::{Form, TABLES, parse_payload, table_index};

/// Read so many journal rows at once: the whole journal may be millions.
const PAGE_ROWS: i64 = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    Insert,
    Update,
    Delete,
    /// An update that gives the row another key.
    Rekey,
    /// All rows go, and no event says so.
    Truncate,
}

impl Did {
    pub const ALL: [Did; 5] = [Did::Insert, Did::Update, Did::Delete, Did::Rekey, Did::Truncate];

    pub fn code(self) -> &'static str {
        match self {
            Did::Insert => "c",
            Did::Update => "u",
            Did::Delete => "d",
            Did::Rekey => "k",
            Did::Truncate => "t",
        }
    }

    /// How many events a consumer sees of it: a delete has a tombstone where there is a key, a rekey both and a
    /// create.
    pub fn events(self, table: usize) -> u64 {
        match self {
            Did::Insert | Did::Update => 1,
            Did::Delete if TABLES[table].form == Form::Keyless => 1,
            Did::Delete => 2,
            Did::Rekey => 3,
            Did::Truncate => 0,
        }
    }
}

/// One committed change of one row.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Rises with every change of a key, and over all keys of a transaction.
    pub seq: i64,
    pub xid: u64,
    pub table: usize,
    pub did: Did,
    pub key: Box<str>,
    pub new_key: Option<Box<str>>,
    /// The row after the change, for a delete before it: a hash per column.
    pub payload: Box<[u32]>,
}

/// The tables' rows as they stand now.
pub type Content = BTreeMap<(usize, Box<str>), Box<[u32]>>;

pub const CREATE_SQL: &str = "
    CREATE TABLE ledger.journal (
        seq bigint PRIMARY KEY, txid uuid NOT NULL, xid bigint NOT NULL, tbl text NOT NULL,
        op text NOT NULL, key text NOT NULL, new_key text, payload text NOT NULL);
    CREATE INDEX ON ledger.journal (xid);";

pub async fn read_journal(client: &Client) -> Result<Vec<Entry>> {
    let sql = "SELECT seq, xid, tbl, op, key, new_key, payload FROM ledger.journal \
               WHERE seq > $1 ORDER BY seq LIMIT $2";
    let statement = client.prepare(sql).await?;
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let after = entries.last().map_or(i64::MIN, |entry| entry.seq);
        let rows = client.query(&statement, &[&after, &PAGE_ROWS]).await?;
        if rows.is_empty() {
            return Ok(entries);
        }
        for row in &rows {
            entries.push(entry(row)?);
        }
    }
}

fn entry(row: &Row) -> Result<Entry> {
    let op: &str = row.try_get(3)?;
    let name: &str = row.try_get(2)?;
    let payload: &str = row.try_get(6)?;
    Ok(Entry {
        seq: row.try_get(0)?,
        xid: u64::try_from(row.try_get::<_, i64>(1)?)?,
        table: table_index(name).ok_or_else(|| format!("the journal names the table {name}"))?,
        did: Did::ALL
            .into_iter()
            .find(|did| did.code() == op)
            .ok_or_else(|| format!("the journal names the operation {op}"))?,
        key: row.try_get::<_, &str>(4)?.into(),
        new_key: row.try_get::<_, Option<&str>>(5)?.map(Into::into),
        payload: parse_payload(payload).ok_or("the journal holds a broken payload")?,
    })
}

/// Of an aggregate's events the last, as whoever folds them has it.
pub async fn read_content(client: &Client) -> Result<Content> {
    let mut content = Content::new();
    for (index, table) in TABLES.iter().enumerate() {
        let sql = format!(
            "SELECT {}, {} FROM ledger.{} t ORDER BY t.seq",
            table.key_sql("t."),
            table.payload_sql("t"),
            table.name
        );
        for row in client.query(&sql, &[]).await? {
            let payload = parse_payload(row.try_get(1)?).ok_or("a table gives a broken payload")?;
            content.insert((index, row.try_get::<_, &str>(0)?.into()), payload);
        }
    }
    Ok(content)
}

/// For transactions by xid: how many events a consumer must see of each.
pub async fn events_due(client: &Client, xids: &[i64], begins: &Begins) -> Result<BTreeMap<u64, u64>> {
    let sql = "SELECT xid, op, count(*), tbl FROM ledger.journal WHERE xid = ANY($1) GROUP BY xid, op, tbl";
    let mut due = BTreeMap::new();
    for row in client.query(sql, &[&xids]).await? {
        let op: &str = row.try_get(1)?;
        let did = Did::ALL.into_iter().find(|did| did.code() == op).ok_or("unknown operation")?;
        let changes = u64::try_from(row.try_get::<_, i64>(2)?)?;
        let table = table_index(row.try_get(3)?).ok_or("the journal names an unknown table")?;
        let xid = u64::try_from(row.try_get::<_, i64>(0)?)?;
        // An event of the outbox does not say which transaction it is of.
        if begins.emits(table, xid) && TABLES[table].form != Form::Outbox {
            *due.entry(xid).or_default() += changes * did.events(table);
        }
    }
    Ok(due)
}
