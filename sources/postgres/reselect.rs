//! Values that an update left as they were and the server did not send again (TOAST), read from the table as they
//! are now. Start at `Reselect::fill`.
//!
//! What is not known stays as it was sent: of a table that is another one by now, or of a transaction that the
//! database does not show yet, of which it would give the values of before.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use millrace_core::batch::{Before, Cell, Change, ChangeBatch, Op, Row, Tag, Value};
use millrace_core::error::{Error, Result};
use millrace_core::relation::{Relation, Shape};

use crate::config::Reselected;
use crate::snapshot::key::literal;
use crate::tables::{TableName, quoted};

/// What a statement came to.
#[derive(Clone, Debug)]
pub enum Found {
    /// The values of the row as texts; `None` where there is none.
    Row(Option<Vec<Option<String>>>),
    /// The transaction is in the log, and other sessions do not see it yet.
    Unseen,
    /// The table is not as it was when the row was changed: the server's words.
    Refused(String),
}

/// Runs a statement that finds one row at most, as they are after the transaction of this number.
pub type Query = Box<dyn FnMut(&str, u32) -> Result<Found> + Send>;

/// A commit is in the log a little before it is visible. With a synchronous standby away it may take for ever.
const UNSEEN_MAX: Duration = Duration::from_secs(1);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(2);

/// Versions of tables whose columns are remembered.
const RELATIONS_MAX: usize = 4096;

pub struct Reselect {
    columns: Reselected,
    query: Query,
    /// Of each relation version, the places of the columns that are meant.
    meant: HashMap<u64, Vec<usize>>,
    /// The relation versions that were told to be refused.
    refused: HashSet<u64>,
    /// The transaction that was waited for in vain.
    unseen: Option<u32>,
}

impl Reselect {
    pub fn new(columns: Reselected, query: Query) -> Self {
        Self { columns, query, meant: HashMap::new(), refused: HashSet::new(), unseen: None }
    }

    /// Completes the newest change of a batch. What is not found stays as it was sent.
    pub fn fill(&mut self, batch: &mut ChangeBatch) -> Result<()> {
        let Some(change) = batch.changes.last().copied() else { return Ok(()) };
        let is_new = match change.op {
            Op::Update => true,
            // Nothing of a new row is left out.
            Op::Insert => self.columns.nulls,
            Op::Delete | Op::Truncate | Op::Read => false,
        };
        if !is_new || was_delivered(batch, &change) {
            return Ok(());
        }
        let Some(relation) = batch.relations.get(change.relation as usize).cloned() else { return Ok(()) };
        let nulls = self.columns.nulls;
        let lacking = self.meant(&relation).iter().copied().filter(|at| lacks(batch, &change, *at, nulls));
        let lacking: Vec<usize> = lacking.collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let Some(sql) = select(batch, &change, &relation, &lacking) else { return Ok(()) };
        let transaction = batch.transactions.get(change.transaction as usize).map_or(0, |of| of.id);
        match self.ask(&sql, u32::try_from(transaction).unwrap_or_default(), &relation)? {
            Found::Row(Some(values)) => {
                for (at, value) in lacking.into_iter().zip(values) {
                    put(batch, change.after, at, value.as_deref())?;
                }
            }
            Found::Refused(why) if self.refused.insert(relation.version) => tracing::warn!(
                table = relation.full_name(),
                why,
                "the table has changed since its rows did: what reselect_columns asks for cannot be read, and stays \
                 as it was sent"
            ),
            Found::Row(None) | Found::Refused(_) | Found::Unseen => {}
        }
        Ok(())
    }

    /// Waits a little for a transaction that is not visible yet, and once for each.
    fn ask(&mut self, sql: &str, transaction: u32, relation: &Relation) -> Result<Found> {
        let since = Instant::now();
        loop {
            let found = (self.query)(sql, transaction)?;
            if !matches!(found, Found::Unseen) || self.unseen == Some(transaction) {
                return Ok(found);
            }
            if since.elapsed() >= UNSEEN_MAX {
                self.unseen = Some(transaction);
                tracing::warn!(
                    table = relation.full_name(),
                    transaction,
                    hint = "a synchronous standby may be away: see synchronous_standby_names",
                    "a commit is in the log and not visible: what reselect_columns asks for of its rows stays as it \
                     was sent"
                );
                return Ok(found);
            }
            std::thread::sleep(GLANCE);
        }
    }

    fn meant(&mut self, relation: &Relation) -> &[usize] {
        if self.meant.len() >= RELATIONS_MAX {
            self.meant.clear();
            self.refused.clear();
        }
        let (table, chosen) = (relation.full_name(), &self.columns);
        self.meant.entry(relation.version).or_insert_with(|| {
            let columns = relation.columns.iter().enumerate().filter(|_| relation.shape == Shape::Rows);
            let named = columns.filter(|(_, column)| chosen.names(&format!("{table}.{}", column.name)));
            named.map(|(at, _)| at).collect()
        })
    }
}

/// It is here to be counted, and makes no event.
fn was_delivered(batch: &ChangeBatch, change: &Change) -> bool {
    let transaction = batch.transactions.get(change.transaction as usize);
    transaction.and_then(|t| t.part.delivered).is_some_and(|delivered| change.mark <= delivered)
}

/// Not sent, and not in the whole old row either.
fn lacks(batch: &ChangeBatch, change: &Change, at: usize, nulls: bool) -> bool {
    let tag = |row| batch.cells_of(row).get(at).map(|cell: &Cell| cell.tag);
    let is_in_old = change.has_before == Before::Full && tag(change.before) != Some(Tag::Unchanged);
    match tag(change.after) {
        Some(Tag::Unchanged) => !is_in_old,
        Some(Tag::Null) => nulls,
        Some(Tag::Text) | None => false,
    }
}

/// By the replica identity; `None` where a part of it is not known of this row.
fn select(batch: &ChangeBatch, change: &Change, relation: &Relation, lacking: &[usize]) -> Option<String> {
    let name = |at: usize| relation.columns.get(at).map(|column| quoted(&column.name));
    let mut conditions = Vec::new();
    for at in relation.identity.iter().map(|at| usize::from(*at)) {
        let cell = batch.cells_of(change.after).get(at)?;
        let Value::Text(text) = batch.value(*cell) else { return None };
        conditions.push(format!("{} = {}", name(at)?, literal(std::str::from_utf8(text).ok()?)));
    }
    if conditions.is_empty() {
        return None;
    }
    let names = lacking.iter().map(|at| name(*at)).collect::<Option<Vec<_>>>()?;
    let table = TableName::new(relation.namespace.as_str(), relation.name.as_str()).sql();
    Some(format!("SELECT {} FROM {table} WHERE {} LIMIT 1", names.join(", "), conditions.join(" AND ")))
}

fn put(batch: &mut ChangeBatch, row: Row, at: usize, value: Option<&str>) -> Result<()> {
    let place = |at: usize| u32::try_from(at).map_err(|_| Error::fatal("a batch of changes exceeds 4 GiB"));
    let (start, text) = (place(batch.bytes.len())?, value.unwrap_or_default());
    let len = place(text.len())?;
    batch.bytes.extend_from_slice(text.as_bytes());
    if let Some(cell) = batch.cells.get_mut(row.start as usize + at) {
        *cell = Cell { start, len, tag: if value.is_some() { Tag::Text } else { Tag::Null } };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use millrace_core::batch::{Part, SnapshotMark, Transaction};
    use millrace_core::position::Mark;
    use millrace_core::relation::{Column, Kind, SourceBlock};

    use super::*;

    /// `public.papers (id, body, note)`, and one change of it.
    fn batch(op: Op, old: Option<[Option<&str>; 3]>, new: [Option<&str>; 3]) -> ChangeBatch {
        let columns = ["id", "body", "note"].map(|name| Column::new(name, Kind::Text, true));
        let relation = Relation {
            version: Relation::next_version(),
            namespace: "public".to_owned(),
            name: "papers".to_owned(),
            columns: columns.into(),
            key: vec![0],
            identity: vec![0],
            source: SourceBlock { schema_name: "Source", fields: Vec::new() },
            shape: Shape::Rows,
        };
        let mut batch = ChangeBatch { relations: vec![Arc::new(relation)], ..ChangeBatch::default() };
        let transaction = Transaction {
            id: 1,
            commit_ts_us: 0,
            previous_commit: None,
            snapshot: SnapshotMark::No,
            again: 0,
            origin: None,
            part: Part::default(),
        };
        batch.transactions.push(transaction);
        let mut row = |values: [Option<&str>; 3]| {
            let start = batch.cells.len() as u32;
            for value in values {
                let (text, tag) = match value {
                    None => ("", Tag::Null),
                    Some("-") => ("", Tag::Unchanged),
                    Some(text) => (text, Tag::Text),
                };
                batch.cells.push(Cell { start: batch.bytes.len() as u32, len: text.len() as u32, tag });
                batch.bytes.extend_from_slice(text.as_bytes());
            }
            Row { start, len: 3 }
        };
        let before = old.map(&mut row).unwrap_or_default();
        let after = row(new);
        let has_before = if old.is_some() { Before::Full } else { Before::None };
        let mark = Mark { commit: 5, change: 4, n: 0 };
        batch.changes.push(Change { op, has_before, relation: 0, transaction: 0, mark, before, after });
        batch
    }

    /// What was asked, and the row after the change as it is then.
    fn filled(
        columns: Reselected,
        mut batch: ChangeBatch,
        found: Option<[Option<&str>; 2]>,
    ) -> (Vec<String>, Vec<String>) {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (told, found) = (asked.clone(), found.map(|row| row.map(|value| value.map(str::to_owned))));
        let query = move |sql: &str, _: u32| {
            told.lock().unwrap().push(sql.to_owned());
            Ok(Found::Row(found.clone().map(Vec::from)))
        };
        Reselect::new(columns, Box::new(query)).fill(&mut batch).unwrap();
        let asked = asked.lock().unwrap().clone();
        (asked, row_after(&batch))
    }

    fn row_after(batch: &ChangeBatch) -> Vec<String> {
        let cells = batch.cells_of(batch.changes[0].after).iter();
        let shown = cells.map(|cell| match batch.value(*cell) {
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Value::Null => "null".to_owned(),
            Value::Unchanged => "-".to_owned(),
        });
        shown.collect()
    }

    /// The row after the change, where the queries come to these one after another, the last one for ever.
    fn filled_by(batch: &mut ChangeBatch, answers: Vec<Found>) -> Vec<String> {
        let last = answers.last().cloned().expect("an answer");
        let mut answers = answers.into_iter();
        let query = move |_: &str, _: u32| Ok(answers.next().unwrap_or_else(|| last.clone()));
        Reselect::new(Reselected::of("*", true), Box::new(query)).fill(batch).unwrap();
        row_after(batch)
    }

    #[test]
    fn a_transaction_that_is_not_visible_yet_is_waited_for_and_not_for_ever() {
        let update = || batch(Op::Update, None, [Some("1"), None, Some("-")]);
        let row = || Found::Row(Some(vec![None, Some("note".to_owned())]));
        assert_eq!(filled_by(&mut update(), vec![Found::Unseen, row()]), ["1", "null", "note"]);
        assert_eq!(filled_by(&mut update(), vec![Found::Unseen]), ["1", "null", "-"]);
    }

    #[test]
    fn a_table_that_has_changed_since_leaves_the_row_as_it_was_sent() {
        let mut update = batch(Op::Update, None, [Some("1"), None, Some("-")]);
        assert_eq!(filled_by(&mut update, vec![Found::Refused("no column".to_owned())]), ["1", "null", "-"]);
    }

    #[test]
    fn a_value_that_was_not_sent_is_asked_for_by_the_key() {
        let update = || batch(Op::Update, None, [Some("it's"), Some("-"), Some("-")]);
        let sql = r#"SELECT "body" FROM "public"."papers" WHERE "id" = 'it''s' LIMIT 1"#;
        let body = || Reselected::of("public.papers.body", false);
        let (asked, row) = filled(body(), update(), Some([Some("text"), None]));
        assert_eq!((asked, row), (vec![sql.to_owned()], vec!["it's".into(), "text".into(), "-".into()]));
        // The row is gone by now.
        assert_eq!(filled(body(), update(), None).1, ["it's", "-", "-"]);
        // It is null by now.
        assert_eq!(
            filled(Reselected::of("*", false), update(), Some([None, Some("n")])).1,
            ["it's", "null", "n"]
        );
    }

    #[test]
    fn what_is_there_or_was_delivered_is_not_asked_for() {
        let all = || Reselected::of("*", false);
        let none: &[String] = &[];
        let of_old = batch(Op::Update, Some([Some("1"), Some("b"), None]), [Some("1"), Some("-"), None]);
        assert_eq!(filled(all(), of_old, None).0, none);
        let whole = || batch(Op::Update, None, [Some("1"), Some("b"), None]);
        assert_eq!(filled(all(), whole(), None).0, none);
        let other = batch(Op::Update, None, [Some("1"), Some("-"), None]);
        assert_eq!(filled(Reselected::of("public.other.*", false), other, None).0, none);
        let mut delivered = batch(Op::Update, None, [Some("1"), Some("-"), None]);
        delivered.transactions[0].part.delivered = Some(Mark { commit: 5, change: 4, n: 0 });
        assert_eq!(filled(all(), delivered, None).0, none);
        let keyless = batch(Op::Update, None, [None, Some("-"), None]);
        assert_eq!(filled(all(), keyless, None).0, none);
        assert_eq!(filled(Reselected::of("*", true), whole(), Some([Some("n"), None])).1, ["1", "b", "n"]);
        let inserted = || batch(Op::Insert, None, [Some("1"), Some("b"), None]);
        assert_eq!(filled(all(), inserted(), None).0, none);
        assert_eq!(filled(Reselected::of("*", true), inserted(), Some([Some("n"), None])).1, ["1", "b", "n"]);
    }
}
