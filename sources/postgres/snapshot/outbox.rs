//! Drains an outbox: reads the rows that are there as events, in a declared order. Start at `Worker::outbox`.
//!
//! An event comes once, so rows and changes must not overlap: a row is read where a first snapshot S saw it, and
//! streamed where not. And a new event must not overtake an old one of its aggregate: the stream stands still where S
//! was taken until the last row is out. From then on changes in S are not emitted, until its message has come.
//!
//! One query gives the rows, in one transaction. After a crash S is gone. Then the stream stands still from its first
//! moment, and the rows behind the last one that was delivered are read which S saw, told by who wrote them (`sight`).

use futures_util::StreamExt;
use millrace_core::batch::ChangeBatch;
use millrace_core::error::{Error, Result};
use millrace_core::progress::State;
use millrace_core::progress::now_us;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::catalog::{Form, TableInfo};
use crate::control;
use crate::snapshot::chunk::{Of, Read, Turn};
use crate::snapshot::desk::Order;
use crate::snapshot::reader::{End, lock};
use crate::snapshot::select::{self, Filter, Rows};
use crate::snapshot::sight::Sight;
use crate::snapshot::table::{Part, Unread};
use crate::snapshot::taking::held_by_somebody;
use crate::snapshot::visibility::Visibility;
use crate::snapshot::worker::{Described, UNDER_WAY_MAX, Worker, append, last_key, places, refused};
use crate::tables::{TableName, quoted};

/// What ends a wait for the rows of an outbox.
const GIVE_UP: &str = "first_start = \"from_now\" in [route.outbox] leaves the rest of them unread";

/// The columns that the rows are read in the order of: those that are declared and, where these leave rows equal, the
/// key. An error says what to type.
pub async fn order(client: &Client, table: &TableInfo, order_by: &[String]) -> Result<Vec<String>> {
    let names = columns(table, order_by)?;
    let list: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let only = if table.form == Form::Partitioned { "" } else { "ONLY " };
    let sql = format!("SELECT FROM {only}{} ORDER BY {}", table.name().sql(), list.join(", "));
    match client.prepare(&sql).await {
        Ok(_) => Ok(names),
        // There are types without an order, like json.
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => Err(Error::config(format!(
            "the rows of {} cannot be ordered by {}",
            table.name(),
            names.join(", ")
        ))
        .source(error)
        .hint("name other columns in order_by of its [route.outbox]")),
        Err(error) => Err(refused(&table.name(), error)),
    }
}

fn columns(table: &TableInfo, order_by: &[String]) -> Result<Vec<String>> {
    let name = table.name();
    for wanted in order_by {
        let what = match table.columns.iter().find(|column| column.name == *wanted) {
            None => format!("table {name} has no column {wanted}, which order_by names"),
            Some(column) if column.generated => {
                format!("column {wanted} of {name} is generated, so that postgres does not send it")
            }
            Some(column) if !column.not_null => {
                format!(
                    "column {wanted} of {name} may be NULL, and rows without a value have no place in an order"
                )
            }
            Some(_) => continue,
        };
        let others: Vec<&str> = table
            .columns
            .iter()
            .filter(|column| column.not_null && !column.generated)
            .map(|column| column.name.as_str())
            .collect();
        return Err(Error::config(what).hint(format!(
            "correct order_by in its [route.outbox], or ALTER TABLE {} ALTER COLUMN {} SET NOT NULL; the columns \
             that are never NULL are {}",
            name.sql(),
            quoted(wanted),
            others.join(", ")
        )));
    }
    let mut unique = table.indexes.iter().filter(|index| index.not_null);
    if unique.any(|index| index.columns.iter().all(|column| order_by.contains(column))) {
        return Ok(order_by.to_vec());
    }
    if table.key().is_empty() {
        return Err(Error::config(format!(
            "the rows of {name} cannot be read in an order: it has no key that tells apart what order_by leaves equal"
        ))
        .hint(format!("ALTER TABLE {} ADD PRIMARY KEY (...)", name.sql())));
    }
    let key = table.key().iter().filter(|column| !order_by.contains(column));
    Ok(order_by.iter().chain(key).cloned().collect())
}

/// The reading of one outbox.
struct Draining {
    index: usize,
    table: Described,
    order: Vec<String>,
    seen: Visibility,
    turn: Turn,
    /// A chunk that is open for the first rows.
    opened: Option<u64>,
    /// The row that was handed over last.
    last: Option<Vec<String>>,
    under_way: usize,
}

impl Worker {
    /// Reads one outbox to its end, and waits until the stream has passed its snapshot.
    pub(super) async fn outbox(&mut self, index: usize, unread: &Unread, order_by: &[String]) -> Result<()> {
        let message = self.shared.next_id();
        let last = match unread.note.ended() {
            // Its rows were delivered before a crash, and only the message was left to come.
            true => last_of(unread),
            false => self.drain(index, unread, order_by, message).await?,
        };
        self.passed(index, unread, (message, last)).await
    }

    /// Under a first snapshot; gives the last row.
    async fn drain(
        &mut self,
        index: usize,
        unread: &Unread,
        order_by: &[String],
        message: u64,
    ) -> Result<Option<Vec<String>>> {
        let (shared, name) = (self.shared.clone(), &unread.table);
        let table = self.describe(name).await?;
        let order = self.order(&table, order_by).await?;
        shared.order(Order::Cut { table: index, key: order.clone(), parts: vec![Part::default()] })?;
        let turn = Turn::AtOnce { last: message };
        let taken = self.take(index, name, turn).await?;
        shared.hold(Some(words(name)), Some(GIVE_UP));
        let sight = Sight::of(self.client(), &taken.table.info, &taken.seen).await?;
        shared.order(Order::Saw { table: index, sight })?;
        let (table, seen, opened) = (taken.table, taken.seen, Some(taken.id));
        let draining = Draining { index, table, order, seen, turn, opened, last: None, under_way: 0 };
        let last = self.in_order(draining, None).await?;
        self.execute("COMMIT", name).await?;
        shared.hold(None, None);
        shared.order(Order::Resume(None))?;
        drop(taken.held);
        Ok(last)
    }

    /// Reads on where a crash met the reading; the stream has stood still since it began. Gives the last row.
    pub(super) async fn drain_on(&mut self, index: usize, unread: &Unread) -> Result<Option<Vec<String>>> {
        let (shared, name, note) = (self.shared.clone(), &unread.table, &unread.note);
        let seen = note.first.as_deref().and_then(Visibility::parse);
        let (Some(seen), Some(sight)) = (seen, &note.sight) else {
            return Err(Error::fatal(format!(
                "what was noted of the rows of {name} does not say what was seen"
            )));
        };
        shared.hold(Some(words(name)), Some(GIVE_UP));
        let tables = std::slice::from_ref(name);
        while !self.begin(tables).await? {
            self.wait(held_by_somebody(tables)).await;
        }
        let table = self.describe(name).await?;
        let order = self.order(&table, unread.order_by.as_deref().unwrap_or_default()).await?;
        if order != note.key {
            let (was, is) = (note.key.join(", "), order.join(", "));
            return Err(Error::config(format!(
                "the rows of {name} were read in the order of {was} until now, and the file says {is}"
            ))
            .hint(format!("put order_by back until all of them are read; or {GIVE_UP}")));
        }
        if !sight.holds(self.client(), &table.info).await? {
            return Err(Error::fatal(format!(
                "table {name} was written anew (by TRUNCATE, VACUUM FULL, CLUSTER or ALTER TABLE) before all rows of it \
                 were read, and nothing tells those of before from new ones"
            ))
            .hint(format!(
                "{GIVE_UP}: those behind ({}) = ({})",
                order.join(", "),
                last_of(unread).unwrap_or_default().join(", ")
            ))
            .state(State::PositionLost));
        }
        let only = sight.condition(&seen, &self.look().await?);
        let (turn, last) = (Turn::AtOnce { last: 0 }, last_of(unread));
        let draining = Draining { index, table, order, seen, turn, opened: None, last, under_way: 0 };
        let last = self.in_order(draining, Some(&only)).await?;
        self.execute("COMMIT", name).await?;
        shared.hold(None, None);
        Ok(last)
    }

    /// Waits for the message behind all that the snapshot saw.
    pub(super) async fn passed(
        &mut self,
        index: usize,
        unread: &Unread,
        (message, last): (u64, Option<Vec<String>>),
    ) -> Result<()> {
        let (shared, name) = (self.shared.clone(), &unread.table);
        let (table, seen) = (self.describe(name).await?, self.look().await?);
        self.open(message, index, &seen, Turn::Message)?;
        let read = self.events((index, &table), message, (last.clone(), last), ChangeBatch::default())?;
        shared.order(Order::Read(Box::new(Read { ended: true, ..read })))?;
        self.mark(message).await?;
        let outcome = self.outcome().await;
        self.give_back(outcome.buffer);
        tracing::info!(table = %name, events = outcome.rows, "the outbox is drained: all that it held is sent");
        lock(&shared.counter.drained).insert(name.clone());
        shared.through(index, End::Read(outcome.rows));
        Ok(())
    }

    /// Those that the publication sends, too: the place of a row is read from it.
    async fn order(&self, table: &Described, order_by: &[String]) -> Result<Vec<String>> {
        let order = order(self.client(), &table.info, order_by).await?;
        let is_sent = |name: &&String| table.message.columns.iter().any(|column| column.name == **name);
        match order.iter().find(|name| !is_sent(name)) {
            None => Ok(order),
            Some(unsent) => Err(Error::config(format!(
                "the rows of {} cannot be read in the order of {unsent}: the publication does not send that column",
                table.info.name()
            ))
            .hint("add it to the publication's list of columns, or take it out of order_by")),
        }
    }

    /// Hands the rows over as the server gives them; gives the last one.
    async fn in_order(&mut self, mut draining: Draining, only: Option<&str>) -> Result<Option<Vec<String>>> {
        let Draining { table, order, last, .. } = &draining;
        let (name, columns) = (table.info.name(), table.message.columns.len());
        let at = places(&table.message, order);
        let rows = Rows::Ordered { after: last.as_deref(), only };
        let sql = select::copy(&table.info, &table.published, &table.message, (order, Filter::None), rows);
        // Once for all rows: whatever is fastest then.
        let plain =
            "SET LOCAL enable_seqscan = on; SET LOCAL enable_sort = on; SET LOCAL enable_bitmapscan = on";
        self.execute(&format!("{plain}; {}", control::PATH_OF_ROLE), &name).await?;
        let rows = self.client().copy_out(&sql).await.map_err(|error| refused(&name, error))?;
        let mut rows = std::pin::pin!(rows);
        let mut batch = self.empty();
        while let Some(line) = rows.next().await {
            append(&mut batch, &line.map_err(|error| refused(&name, error))?, columns, &name)?;
            if self.is_full(&batch) {
                let full = std::mem::replace(&mut batch, self.empty());
                self.hand_events(&mut draining, &at, full, false)?;
            }
            if draining.under_way >= UNDER_WAY_MAX {
                self.placed(&mut draining).await?;
            }
        }
        self.hand_events(&mut draining, &at, batch, true)?;
        while draining.under_way > 0 {
            self.placed(&mut draining).await?;
        }
        Ok(draining.last)
    }

    fn hand_events(
        &mut self,
        draining: &mut Draining,
        at: &[u16],
        rows: ChangeBatch,
        ended: bool,
    ) -> Result<()> {
        let id = match draining.opened.take() {
            Some(id) => id,
            None => {
                let id = self.shared.next_id();
                self.open(id, draining.index, &draining.seen, draining.turn)?;
                id
            }
        };
        let after = draining.last.clone();
        draining.last = last_key(&rows, at).or(draining.last.take());
        let places = (after, draining.last.clone());
        let read = self.events((draining.index, &draining.table), id, places, rows)?;
        draining.under_way += 1;
        self.shared.order(Order::Read(Box::new(Read { ended, ..read })))
    }

    /// Waits until a chunk is on its way.
    async fn placed(&mut self, draining: &mut Draining) -> Result<()> {
        let outcome = self.outcome().await;
        draining.under_way -= 1;
        self.shared.delivered(outcome.placed);
        self.give_back(outcome.buffer);
        match outcome.spoiled {
            false => Ok(()),
            true => Err(Error::transient("the rows of an outbox do not follow those that were delivered")),
        }
    }

    fn events(
        &self,
        (index, table): (usize, &Described),
        id: u64,
        (after, last): (Option<Vec<String>>, Option<Vec<String>>),
        rows: ChangeBatch,
    ) -> Result<Read> {
        Ok(Read {
            id,
            rows,
            oid: table.info.oid,
            relation: self.relation(table)?,
            of: Of::Part(0),
            after,
            last,
            ended: false,
            is_last_table: self.shared.is_last(index),
            read_at_us: now_us(),
        })
    }
}

/// The row that was delivered last.
fn last_of(unread: &Unread) -> Option<Vec<String>> {
    unread.note.parts.first()?.last.clone()
}

fn words(name: &TableName) -> String {
    format!("the events that outbox {name} holds")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{ColumnInfo, Identity, IndexInfo};

    fn outbox(indexes: &[&[&str]]) -> TableInfo {
        let column = |(name, not_null, generated): (&str, bool, bool)| ColumnInfo {
            number: 1,
            name: name.into(),
            type_oid: 25,
            typmod: -1,
            not_null,
            generated,
            is_toasted: false,
            default: None,
            comment: None,
        };
        let columns = [
            ("id", true, false),
            ("aggregate", true, false),
            ("version", true, false),
            ("note", false, false),
            ("sum", true, true),
        ];
        let index = |columns: &&[&str]| IndexInfo {
            name: "i".into(),
            is_primary: columns == &["id"],
            is_identity: false,
            not_null: true,
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
        };
        TableInfo {
            oid: 1,
            schema: "public".into(),
            table: "outbox".into(),
            form: Form::Table,
            is_logged: true,
            identity: Identity::Default,
            root: None,
            columns: columns.map(column).into(),
            indexes: indexes.iter().map(index).collect(),
        }
    }

    fn ordered(indexes: &[&[&str]], order_by: &[&str]) -> std::result::Result<String, String> {
        let order_by: Vec<String> = order_by.iter().map(|&name| name.to_owned()).collect();
        let names = columns(&outbox(indexes), &order_by);
        names.map(|names| names.join(" ")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_key_completes_an_order_that_leaves_rows_equal_and_no_other() {
        let keyed: &[&[&str]] = &[&["id"]];
        assert_eq!(ordered(keyed, &["aggregate", "version"]).as_deref(), Ok("aggregate version id"));
        assert_eq!(ordered(keyed, &["version", "id"]).as_deref(), Ok("version id"));
        assert_eq!(ordered(keyed, &[]).as_deref(), Ok("id"));
        let unique: &[&[&str]] = &[&["id"], &["version", "aggregate"]];
        assert_eq!(ordered(unique, &["aggregate", "version"]).as_deref(), Ok("aggregate version"));
    }

    #[test]
    fn an_order_that_is_none_is_refused_with_the_column() {
        for (indexes, order_by, part) in [
            (&[&["id"][..]][..], "nowhere", "has no column nowhere"),
            (&[&["id"]], "note", "may be NULL"),
            (&[&["id"]], "sum", "is generated"),
            (&[], "aggregate", "has no key that tells apart"),
        ] {
            let told = ordered(indexes, &[order_by]).expect_err("it is refused");
            assert!(told.contains(part), "{told}");
        }
    }
}
