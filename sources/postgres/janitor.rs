//! Deletes rows of an outbox, a while after they were delivered. Start at `plan` and `Janitor::run`.
//!
//! Whether a row was delivered is told by its transaction, not by a clock. A look at the server tells the oldest
//! transaction under way and, after that, the end of the log: what is older has ended before that end. Once all
//! the log up to there is delivered, rows of older transactions may go. Rows of transactions from before the first
//! look of all stay for ever: they may never have been sent. That first look is noted beside the position.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use millrace_core::position::{Note, Notes};
use millrace_core::progress::Progress;
use millrace_core::report::Report;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::catalog::TableInfo;
use crate::config::Settings;
use crate::tables::{TableName, quoted};
use crate::{control, errors};

/// What the key of a table's note begins with.
const NOTED: &str = "janitor ";
/// Few enough that nobody waits for their locks.
const ROWS_AT_ONCE: u64 = 1_000;
/// Between two looks; a table that keeps its rows for less time than this is looked at more often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(500);
/// After something went wrong: a missing right is not granted within seconds.
const PAUSE: Duration = Duration::from_secs(60);
/// Transactions that are further apart cannot be told to be older or newer by the 32 bits that rows keep.
const COMPARABLE: u64 = 1 << 30;
/// Below it numbers stand for something else than a transaction.
const FIRST_NORMAL: u32 = 3;

/// A table whose rows go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    pub table: TableName,
    /// How long rows stay at least; twice that at most, while the connector keeps up.
    pub keep: Duration,
    /// Rows of older transactions stay.
    from: u64,
}

#[derive(Serialize, Deserialize)]
struct SweptNote {
    from: u64,
}

/// Which tables are swept, from which transaction on, and what is to be noted of that. `is_first`: nothing was
/// delivered before this start, so what was noted says nothing.
pub async fn plan(
    client: &Client,
    settings: &Settings,
    tables: &[TableInfo],
    noted: &Notes,
    is_first: bool,
) -> Result<(Vec<Swept>, Vec<Note>)> {
    let wanted = tables.iter().map(TableInfo::name);
    let wanted: Vec<(TableName, Duration)> =
        wanted.filter_map(|table| settings.swept_after(&table).map(|keep| (table, keep))).collect();
    let next = if wanted.is_empty() { 0 } else { look(client).await?.next };
    Ok(planned(&wanted, noted, is_first, next))
}

fn planned(
    wanted: &[(TableName, Duration)],
    noted: &Notes,
    is_first: bool,
    next: u64,
) -> (Vec<Swept>, Vec<Note>) {
    let mut notes = Vec::new();
    let mut swept = Vec::new();
    for (table, keep) in wanted {
        let known = noted.get(&key_of(table)).and_then(|text| serde_json::from_str::<SweptNote>(text).ok());
        let from = known.filter(|_| !is_first).map_or(next, |note| note.from);
        let text = serde_json::to_string(&SweptNote { from }).unwrap_or_default();
        notes.push(Note { key: key_of(table).into(), text: Some(text.into()) });
        swept.push(Swept { table: table.clone(), keep: *keep, from });
    }
    // What is written while a table is not swept may not be captured either.
    let is_wanted = |key: &str| wanted.iter().any(|(table, _)| key_of(table) == key);
    let left = noted.keys().filter(|key| key.starts_with(NOTED) && !is_wanted(key));
    notes.extend(left.map(|key| Note { key: key.as_str().into(), text: None }));
    (swept, notes)
}

fn key_of(table: &TableName) -> String {
    format!("{NOTED}{}", table.sql())
}

/// The server at one moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Every older transaction has ended.
    oldest: u64,
    /// No transaction has this number or a later one yet.
    next: u64,
    /// The end of the log, after that.
    end: u64,
}

async fn look(client: &Client) -> Result<Look> {
    let what = "cannot ask which transactions are under way";
    let sql = "SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text, \
                      (pg_current_wal_insert_lsn() - '0/0')::text FROM pg_current_snapshot() s";
    let row = client.query_one(sql, &[]).await.map_err(|error| errors::query(what, error))?;
    let number = |index| {
        let text: String = row.try_get(index).map_err(|error| errors::query(what, error))?;
        text.parse().map_err(|_| Error::fatal(format!("{what}: {text} is no number")))
    };
    Ok(Look { oldest: number(0)?, next: number(1)?, end: number(2)? })
}

pub struct Janitor {
    settings: Settings,
    progress: Arc<Progress>,
    tables: Vec<(Swept, Option<(Look, Instant)>)>,
}

impl Janitor {
    /// `None` where there is nothing to do.
    pub fn new(settings: &Settings, progress: Arc<Progress>, tables: Vec<Swept>) -> Option<Self> {
        let tables: Vec<_> = tables.into_iter().map(|table| (table, None)).collect();
        (!tables.is_empty()).then(|| Self { settings: settings.clone(), progress, tables })
    }

    /// Until it is dropped. What goes wrong here is told and tried again: events go on meanwhile.
    pub async fn run(mut self) {
        let shortest = self.tables.iter().map(|(table, _)| table.keep / 2).min().unwrap_or(LOOK_EVERY);
        let every = shortest.clamp(LOOK_EVERY_MIN, LOOK_EVERY);
        loop {
            let Err(error) = self.work(every).await;
            let hint = error.hint_text().unwrap_or_default().to_owned();
            tracing::warn!(hint, "delivered rows are not deleted: {error}; tried again in a minute");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// On one connection, until something is wrong with it.
    async fn work(&mut self, every: Duration) -> Result<std::convert::Infallible> {
        let control = control::connect(&self.settings).await?;
        loop {
            let confirmed = self.progress.confirmed.load(Ordering::Relaxed);
            for (table, seen) in &mut self.tables {
                match seen {
                    None => *seen = Some((look(&control.client).await?, Instant::now())),
                    Some((look, at)) if at.elapsed() >= table.keep && confirmed >= look.end => {
                        let gone = sweep(&control.client, table, *look, &self.settings).await?;
                        if gone > 0 {
                            tracing::info!(table = %table.table, rows = gone, "deleted delivered rows");
                        }
                        *seen = None;
                    }
                    Some(_) => {}
                }
            }
            tokio::time::sleep(every).await;
        }
    }
}

/// Deletes the rows of transactions that are older than the look, some at a time.
async fn sweep(client: &Client, swept: &Swept, look: Look, settings: &Settings) -> Result<u64> {
    let table = swept.table.sql();
    // Parts of one table have rows at the same places.
    let sql = format!(
        "WITH gone AS (SELECT tableoid, ctid FROM {table} \
           WHERE age(xmin) > age($1::text::xid) AND age(xmin) <= age($2::text::xid) LIMIT {ROWS_AT_ONCE}) \
         DELETE FROM {table} t USING gone WHERE t.tableoid = gone.tableoid AND t.ctid = gone.ctid"
    );
    let from = swept.from.max(look.oldest.saturating_sub(COMPARABLE));
    let (oldest, from) = (short(look.oldest).to_string(), short(from).to_string());
    let mut all = 0;
    loop {
        let gone = client.execute(&sql, &[&oldest, &from]).await.map_err(|error| {
            errors::query(format!("cannot delete rows of {}", swept.table), error)
                .hint(grant(&swept.table, settings))
        })?;
        all += gone;
        if gone < ROWS_AT_ONCE {
            return Ok(all);
        }
    }
}

/// As rows keep it.
fn short(xid: u64) -> u32 {
    u32::try_from(xid & u64::from(u32::MAX)).unwrap_or(u32::MAX).max(FIRST_NORMAL)
}

fn grant(table: &TableName, settings: &Settings) -> String {
    format!("GRANT SELECT, DELETE ON {} TO {};", table.sql(), quoted(&settings.user))
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
        let what = format!("cannot look up who may delete rows of {name}");
        let sql = "SELECT has_table_privilege($1::oid, 'DELETE') AND has_table_privilege($1::oid, 'SELECT')";
        let row = client.query_one(sql, &[&table.oid]).await;
        let row = row.map_err(|error| errors::query(&what, error))?;
        let may: bool = row.try_get(0).map_err(|error| errors::query(&what, error))?;
        match may {
            true => report.pass(format!("delivered rows of {name}"), "may be deleted"),
            false => report.warn(
                format!("delivered rows of {name}"),
                format!("may not be deleted by {}", settings.user),
                grant(&name, settings),
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Vec<(TableName, Duration)> {
        vec![(TableName::new("public", "outbox"), Duration::from_secs(60))]
    }

    fn noted(from: u64) -> Notes {
        [(key_of(&wanted()[0].0), format!("{{\"from\":{from}}}"))].into()
    }

    #[test]
    fn a_table_is_swept_from_the_first_look_on_over_every_start_but_a_first_one() {
        for (noted, is_first, from) in
            [(Notes::new(), false, 900), (noted(700), false, 700), (noted(700), true, 900)]
        {
            let (swept, notes) = planned(&wanted(), &noted, is_first, 900);
            assert_eq!(swept[0].from, from);
            assert_eq!(notes[0].text.as_deref(), Some(&*format!("{{\"from\":{from}}}")));
        }
    }

    #[test]
    fn a_table_that_is_not_swept_any_more_is_forgotten() {
        let (swept, notes) = planned(&[], &noted(700), false, 900);
        assert!(swept.is_empty() && notes[0].text.is_none());
    }

    #[test]
    fn numbers_of_transactions_keep_off_those_that_mean_something_else() {
        assert_eq!([short((5 << 32) + 7), short(1 << 32), short(u64::from(u32::MAX))], [7, 3, u32::MAX]);
    }
}
