//! Deletes rows of an outbox, a while after they were delivered. Start at `plan` and `Janitor::run`.
//!
//! A row that was not delivered is never deleted. So a table is swept only once it is known to be clean: every row
//! in it came after the server began to send the table's changes. It is, when it was empty at a start and no row of
//! a transaction that was under way then has come since; or when the file says that earlier rows may go. What was
//! clean is noted beside the position, by what the table and its place in the publication are: another one under
//! the same name, or one that was taken out of the publication for a while, is not clean.
//!
//! Which rows were delivered is told by their transactions, not by a clock. A look at the server tells the oldest
//! transaction under way and, after that, the end of the log: what is older has ended before that end, and is
//! delivered once the log up to there is.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use millrace_core::position::{Note, Notes};
use millrace_core::progress::Progress;
use millrace_core::report::Report;
use millrace_core::route::rule::FirstStart;
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use crate::catalog::{Form, TableInfo};
use crate::config::Settings;
use crate::snapshot::desk::Order;
use crate::snapshot::reader::Counter;
use crate::snapshot::table::{Phase, Unread};
use crate::tables::{TableName, quoted};
use crate::{control, errors};

/// What the key of a table's note begins with.
const NOTED: &str = "janitor ";
/// Few enough rows a statement that nobody waits long for their locks.
const PAGES_AT_ONCE: u32 = 100;
/// Between two looks; a table that keeps its rows for less time than this is looked at more often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(500);
/// After something went wrong: a missing right is not granted within seconds.
const PAUSE: Duration = Duration::from_secs(60);
/// Below it numbers stand for something else than a transaction.
const FIRST_NORMAL: u32 = 3;

/// How the rows of a table are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// At least so long after they were written.
    pub rows: Duration,
    /// Rows from before the first start may go as well.
    pub with_earlier: bool,
}

/// What the table is: any other one of its name is another table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    system: String,
    table: u32,
    publication: u32,
    /// The table's own place in the publication, where it has one.
    member: u32,
}

/// A table whose rows go.
#[derive(Clone, Debug)]
pub struct Swept {
    table: TableName,
    keep: Keep,
    identity: Identity,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Clean,
    /// It was empty; rows of transactions older than this may not have been sent.
    Empty {
        next: u64,
    },
    /// Rows that were there before are still to be sent.
    Draining,
    /// Nobody knows which of its rows were sent.
    Unknown,
}

/// What is noted of a table.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    #[serde(flatten)]
    identity: Identity,
    /// It is clean once the rows are sent that were there before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    drains: bool,
}

/// Which tables are swept, and what is to be noted and forgotten of that. `is_first`: nothing was delivered before
/// this start, so what was noted says nothing.
pub async fn plan(
    client: &Client,
    settings: &Settings,
    tables: &[TableInfo],
    (noted, unread): (&Notes, &[Unread]),
    is_first: bool,
) -> Result<(Vec<Swept>, Vec<Note>)> {
    let mut swept = Vec::new();
    for table in tables {
        let name = table.name();
        let Some(keep) = settings.swept_after(&name) else { continue };
        let Some(identity) = identity(client, settings, table).await? else {
            tracing::warn!(
                table = %name,
                "delivered rows are not deleted: the table is partitioned, or the publication leaves rows of it out"
            );
            continue;
        };
        let known = noted.get(&key_of(&name)).and_then(|text| serde_json::from_str::<Noted>(text).ok());
        let known = known.filter(|known| !is_first && known.identity == identity);
        let drains = matches!(settings.outbox(&name), Some(FirstStart::Drain { .. }));
        let unread = unread.iter().find(|unread| drains && unread.table == name);
        let state = match (unread, known) {
            (Some(unread), known) if known.is_some() || unread.note.state == Phase::Pending => {
                State::Draining
            }
            (Some(_), _) => State::Unknown,
            (None, Some(known)) if drains || !known.drains => State::Clean,
            (None, _) if keep.with_earlier => State::Clean,
            (None, _) => empty(client, &name).await?,
        };
        if state == State::Unknown {
            tracing::warn!(
                table = %name,
                hint = "delete them yourself and start again while the table is empty, or set delete_earlier = true \
                        in [route.outbox] if none of them is still to be sent",
                "delivered rows are not deleted: the table has rows from before, which may never have been sent"
            );
        }
        swept.push(Swept { table: name, keep, identity, state });
    }
    let notes = changed(&swept, noted);
    Ok((swept, notes))
}

fn changed(swept: &[Swept], noted: &Notes) -> Vec<Note> {
    let clean = |swept: &&Swept| matches!(swept.state, State::Clean | State::Draining);
    let mut notes: Vec<Note> = swept.iter().filter(clean).map(Swept::note).collect();
    let stays = |key: &str| swept.iter().filter(clean).any(|swept| key_of(&swept.table) == key);
    let gone = noted.keys().filter(|key| key.starts_with(NOTED) && !stays(key));
    notes.extend(gone.map(|key| Note { key: key.as_str().into(), text: None }));
    notes
}

/// `None`: what is sent of the table is not all of it, or is sent under other names.
async fn identity(client: &Client, settings: &Settings, table: &TableInfo) -> Result<Option<Identity>> {
    if table.form == Form::Partitioned || table.root.is_some() {
        return Ok(None);
    }
    let what = format!("cannot look up how {} is published", table.name());
    let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()), p.oid, coalesce(r.oid, 0::oid), \
                      coalesce(to_jsonb(r) ->> 'prqual', '') \
               FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = $2 \
               WHERE p.pubname = $1";
    let row = client.query_opt(sql, &[&settings.publication, &table.oid]).await;
    let Some(row) = row.map_err(|error| errors::query(&what, error))? else { return Ok(None) };
    let oid = |index| row.try_get::<_, u32>(index).map_err(|error| errors::query(&what, error));
    let identity =
        Identity { system: text(&row, 0, &what)?, table: table.oid, publication: oid(1)?, member: oid(2)? };
    Ok(text(&row, 3, &what)?.is_empty().then_some(identity))
}

async fn empty(client: &Client, table: &TableName) -> Result<State> {
    let what = format!("cannot look whether {table} is empty");
    let sql = format!(
        "SELECT pg_snapshot_xmax(pg_current_snapshot())::text, (NOT EXISTS (SELECT FROM ONLY {}))::text",
        table.sql()
    );
    let row = client.query_one(&sql, &[]).await.map_err(|error| refused(&what, error))?;
    Ok(match text(&row, 1, &what)?.as_str() {
        "true" => State::Empty { next: number(&row, 0, &what)? },
        _ => State::Unknown,
    })
}

fn key_of(table: &TableName) -> String {
    format!("{NOTED}{}", table.sql())
}

impl Swept {
    fn note(&self) -> Note {
        let noted = Noted { identity: self.identity.clone(), drains: self.state == State::Draining };
        let text = serde_json::to_string(&noted).unwrap_or_default();
        Note { key: key_of(&self.table).into(), text: Some(text.into()) }
    }
}

/// The server at one moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Every older transaction has ended.
    oldest: u64,
    /// The end of the log, after that.
    end: u64,
    at: Instant,
}

async fn look(client: &Client) -> Result<Look> {
    let what = "cannot ask which transactions are under way";
    let sql = "SELECT pg_snapshot_xmin(s)::text, (pg_current_wal_insert_lsn() - '0/0')::text \
               FROM pg_current_snapshot() s";
    let row = client.query_one(sql, &[]).await.map_err(|error| errors::query(what, error))?;
    Ok(Look { oldest: number(&row, 0, what)?, end: number(&row, 1, what)?, at: Instant::now() })
}

fn text(row: &Row, index: usize, what: &str) -> Result<String> {
    row.try_get(index).map_err(|error| errors::query(what, error))
}

fn number(row: &Row, index: usize, what: &str) -> Result<u64> {
    let text = text(row, index, what)?;
    text.parse().map_err(|_| Error::fatal(format!("{what}: {text} is no number")))
}

pub struct Janitor {
    settings: Settings,
    progress: Arc<Progress>,
    /// Where notes go.
    orders: SyncSender<Order>,
    tables: Vec<Swept>,
    /// Outboxes of which every row that was there is on its way.
    drained: Arc<Mutex<BTreeSet<TableName>>>,
}

/// A table that something went wrong with is left alone until then.
type Paused = HashMap<TableName, Instant>;

impl Janitor {
    /// `None` where there is nothing to do. `settings` name the one server that the stream is from.
    pub fn new(settings: &Settings, counter: &Counter, tables: Vec<Swept>) -> Option<Self> {
        let servers = vec![settings.server.clone()];
        let settings = Settings { servers, ..settings.clone() };
        let tables: Vec<Swept> = tables.into_iter().filter(|table| table.state != State::Unknown).collect();
        let Counter { progress, orders, drained, .. } = counter.clone();
        (!tables.is_empty()).then_some(Self { settings, progress, orders, tables, drained })
    }

    /// Until it is dropped. What goes wrong here is told and tried again: events go on meanwhile.
    pub async fn run(mut self) {
        let shortest = self.tables.iter().map(|table| table.keep.rows / 2).min().unwrap_or(LOOK_EVERY);
        let every = shortest.clamp(LOOK_EVERY_MIN, LOOK_EVERY);
        loop {
            let Err(error) = self.work(every).await;
            tell(&error);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// On one connection, until something is wrong with that.
    async fn work(&mut self, every: Duration) -> Result<std::convert::Infallible> {
        let control = control::connect(&self.settings).await?;
        let client = &control.client;
        let mut seen: HashMap<TableName, Look> = HashMap::new();
        let mut paused = Paused::new();
        loop {
            let confirmed = self.progress.confirmed.load(Ordering::Relaxed);
            paused.retain(|_, since| since.elapsed() < PAUSE);
            for table in &mut self.tables {
                if paused.contains_key(&table.table) {
                    continue;
                }
                if table.state == State::Draining {
                    let is_drained = self.drained.lock().is_ok_and(|drained| drained.contains(&table.table));
                    if is_drained {
                        table.state = State::Clean;
                        // As for one that was empty.
                        let _ = self.orders.try_send(Order::Note(table.note()));
                    }
                    continue;
                }
                let done = turn(client, table, &mut seen, confirmed, &self.orders).await;
                if let Err(error) = done {
                    if control.ended.is_finished() {
                        return Err(error);
                    }
                    tell(&error);
                    seen.remove(&table.table);
                    paused.insert(table.table.clone(), Instant::now());
                }
            }
            tokio::time::sleep(every).await;
        }
    }
}

fn tell(error: &Error) {
    let hint = error.hint_text().unwrap_or_default();
    tracing::warn!(hint, "delivered rows are not deleted: {error}; tried again in a minute");
}

/// What there is to do for one table now.
async fn turn(
    client: &Client,
    table: &mut Swept,
    seen: &mut HashMap<TableName, Look>,
    confirmed: u64,
    orders: &SyncSender<Order>,
) -> Result<()> {
    if let State::Empty { next } = table.state {
        return settle(client, table, next, orders).await;
    }
    match seen.get(&table.table).copied() {
        None => drop(seen.insert(table.table.clone(), look(client).await?)),
        Some(look) if look.at.elapsed() >= table.keep.rows && confirmed >= look.end => {
            let gone = sweep(client, table, look).await?;
            if gone > 0 {
                tracing::info!(table = %table.table, rows = gone, "deleted delivered rows");
            }
            seen.remove(&table.table);
        }
        Some(_) => {}
    }
    Ok(())
}

/// A table that was empty is clean once all that was under way then has ended and left no row in it.
async fn settle(client: &Client, table: &mut Swept, next: u64, orders: &SyncSender<Order>) -> Result<()> {
    if look(client).await?.oldest < next {
        return Ok(());
    }
    let what = format!("cannot look for rows of {} that may not have been sent", table.table);
    let sql = format!(
        "SELECT (NOT EXISTS (SELECT FROM ONLY {} WHERE age(xmin) > age($1::text::xid)))::text",
        table.table.sql()
    );
    let row = client.query_one(&sql, &[&short(next).to_string()]).await;
    let row = row.map_err(|error| refused(&what, error))?;
    if text(&row, 0, &what)? == "true" {
        table.state = State::Clean;
        // Lost with a stream that has ended; the next start looks again.
        let _ = orders.try_send(Order::Note(table.note()));
        return Ok(());
    }
    Err(Error::config(format!("{} has rows of transactions that were under way at the start", table.table))
        .hint("delete them if they were sent; or set delete_earlier = true in [route.outbox]"))
}

/// Deletes the rows of transactions that are older than the look, some pages at a time. Nothing goes where the
/// name means another table by now, or the table has left the publication since it was known to be clean.
async fn sweep(client: &Client, swept: &Swept, look: Look) -> Result<u64> {
    let what = format!("cannot delete rows of {}", swept.table);
    let (table, identity) = (swept.table.sql(), &swept.identity);
    let pages = format!(
        "SELECT (pg_relation_size('{}') / current_setting('block_size')::bigint + 1)::text",
        table.replace('\'', "''")
    );
    let row = client.query_one(&pages, &[]).await.map_err(|error| refused(&what, error))?;
    let pages = number(&row, 0, &what)?;
    let sql = format!(
        "DELETE FROM ONLY {table} \
         WHERE ctid >= $1::text::tid AND ctid < $2::text::tid AND age(xmin) > age($3::text::xid) AND tableoid = $4 \
           AND EXISTS (SELECT FROM pg_publication p WHERE p.oid = $5 AND ($6 = 0::oid \
             OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.oid = $6 AND r.prpubid = p.oid AND r.prrelid = $4)))"
    );
    let statement = client.prepare(&sql).await.map_err(|error| refused(&what, error))?;
    let (oldest, mut gone) = (short(look.oldest).to_string(), 0);
    for first in (0..pages).step_by(PAGES_AT_ONCE as usize) {
        let [from, until] = [first, first + u64::from(PAGES_AT_ONCE)].map(|page| format!("({page},0)"));
        let Identity { table, publication, member, .. } = identity;
        let deleted = client.execute(&statement, &[&from, &until, &oldest, table, publication, member]).await;
        gone += deleted.map_err(|error| refused(&what, error))?;
    }
    Ok(gone)
}

fn refused(what: &str, error: tokio_postgres::Error) -> Error {
    let is_right = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
    let error = errors::query(what, error);
    if is_right {
        error.hint("GRANT SELECT, DELETE on the table; `millrace check` prints the statement")
    } else {
        error
    }
}

/// As rows keep it.
fn short(xid: u64) -> u32 {
    u32::try_from(xid & u64::from(u32::MAX)).unwrap_or(u32::MAX).max(FIRST_NORMAL)
}

/// Whether what is to be deleted may be.
pub async fn check(
    report: &mut Report,
    client: &Client,
    tables: &[TableInfo],
    settings: &Settings,
) -> Result<()> {
    for table in tables.iter().filter(|table| settings.swept_after(&table.name()).is_some()) {
        let name = table.name();
        let subject = format!("delivered rows of {name}");
        let what = format!("cannot look up who may delete rows of {name}");
        let sql = "SELECT (has_table_privilege($1::oid, 'DELETE') AND has_table_privilege($1::oid, 'SELECT'))::text";
        let row = client.query_one(sql, &[&table.oid]).await;
        let row = row.map_err(|error| errors::query(&what, error))?;
        if table.form == Form::Partitioned || table.root.is_some() {
            report.warn(subject, "are not deleted: the table is partitioned", "drop old partitions instead");
        } else if text(&row, 0, &what)? != "true" {
            let grant = format!("GRANT SELECT, DELETE ON {} TO {};", name.sql(), quoted(&settings.user));
            report.warn(subject, format!("may not be deleted by {}", settings.user), grant);
        } else if !table.has_identity() {
            let identity = format!("ALTER TABLE {} REPLICA IDENTITY FULL;", name.sql());
            report.warn(subject, "cannot be deleted: the table has no replica identity", identity);
        } else {
            report.pass(subject, "may be deleted");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(state: State) -> Swept {
        let identity = Identity { system: "7".into(), table: 16_400, publication: 16_500, member: 16_501 };
        let keep = Keep { rows: Duration::from_secs(60), with_earlier: false };
        Swept { table: TableName::new("public", "outbox"), keep, identity, state }
    }

    #[test]
    fn only_a_clean_table_is_noted_and_any_other_is_forgotten() {
        let key = key_of(&swept(State::Clean).table);
        let noted: Notes =
            [(key.clone(), "{}".to_owned()), ("snapshot x".to_owned(), "{}".to_owned())].into();
        let texts = |tables: &[Swept]| {
            let notes = changed(tables, &noted);
            notes.into_iter().map(|note| (note.key.to_string(), note.text.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(texts(&[swept(State::Clean)]), [(key.clone(), true)]);
        for other in [vec![], vec![swept(State::Unknown)], vec![swept(State::Empty { next: 9 })]] {
            assert_eq!(texts(&other), [(key.clone(), false)]);
        }
    }

    #[test]
    fn a_note_says_which_table_it_is_of() {
        let clean = swept(State::Clean);
        let text = clean.note().text.expect("a text");
        assert_eq!(serde_json::from_str::<Noted>(&text).expect("it is read back").identity, clean.identity);
        let made_anew = Identity { table: 16_402, ..clean.identity.clone() };
        assert_ne!(made_anew, clean.identity);
    }

    #[test]
    fn numbers_of_transactions_keep_off_those_that_mean_something_else() {
        assert_eq!([short((5 << 32) + 7), short(1 << 32), short(u64::from(u32::MAX))], [7, 3, u32::MAX]);
    }
}
