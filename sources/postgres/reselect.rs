//! Values that an update left as they were and the server did not send again (TOAST), read from the table as they
//! are now. Start at `Reselect::fill`.

use std::collections::HashMap;

use millrace_core::batch::{Before, Cell, Change, ChangeBatch, Op, Row, Tag, Value};
use millrace_core::error::{Error, Result};
use millrace_core::relation::{Relation, Shape};

use crate::config::Reselected;
use crate::snapshot::key::literal;
use crate::tables::{TableName, quoted};

/// Runs a statement that finds one row at most: its values as texts.
pub type Query = Box<dyn FnMut(&str) -> Result<Option<Vec<Option<String>>>> + Send>;

/// Versions of tables whose columns are remembered.
const RELATIONS_MAX: usize = 4096;

pub struct Reselect {
    columns: Reselected,
    query: Query,
    /// Of each relation version, the places of the columns that are meant.
    meant: HashMap<u64, Vec<usize>>,
}

impl Reselect {
    pub fn new(columns: Reselected, query: Query) -> Self {
        Self { columns, query, meant: HashMap::new() }
    }

    /// Completes the newest change of a batch. What is gone by now stays as it was not sent.
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
        let Some(values) = (self.query)(&sql)? else { return Ok(()) };
        for (at, value) in lacking.into_iter().zip(values) {
            put(batch, change.after, at, value.as_deref())?;
        }
        Ok(())
    }

    fn meant(&mut self, relation: &Relation) -> &[usize] {
        if self.meant.len() >= RELATIONS_MAX {
            self.meant.clear();
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
        let query = move |sql: &str| {
            told.lock().unwrap().push(sql.to_owned());
            Ok(found.clone().map(Vec::from))
        };
        Reselect::new(columns, Box::new(query)).fill(&mut batch).unwrap();
        let cells = batch.cells_of(batch.changes[0].after).to_vec();
        let shown = cells.iter().map(|cell| match batch.value(*cell) {
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Value::Null => "null".to_owned(),
            Value::Unchanged => "-".to_owned(),
        });
        let asked = asked.lock().unwrap().clone();
        (asked, shown.collect())
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
