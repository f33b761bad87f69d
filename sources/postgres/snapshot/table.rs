//! How far the snapshot of each table is: what is noted of it, and which tables a start has to read.
//! Start at `plan`.

use std::collections::{HashSet, VecDeque};

use millrace_core::error::{Error, Result};
use millrace_core::position::{Note, Notes};
use millrace_core::requests::Asked;
use millrace_core::route::rule::FirstStart;
use serde::{Deserialize, Serialize};

use crate::catalog::{Form, TableInfo};
use crate::config::{Outboxes, first_that_fits};
use crate::snapshot::chunk::Of;
use crate::snapshot::key::{self, Key};
use crate::snapshot::sight::Sight;
use crate::tables::TableName;

/// Where the snapshot of a table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing was read; its changes are received and not emitted, because the rows will hold them.
    Pending,
    Reading,
    Done,
    /// Its rows are not wanted.
    Skipped,
}

/// The note of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableNote {
    pub state: Phase,
    /// The first snapshot, until the stream has passed all that it saw: changes in it are in the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// Names of the columns that the rows are read in the order of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// How far each part is. Empty until it is known how the table is cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// More rows have to be read again than are worth listing: then all of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeat: bool,
    /// Rows delivered.
    #[serde(default)]
    pub rows: u64,
    /// The request that it is read for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// How often the rows of a table without a key were begun again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub again: u32,
    /// Of an outbox: what tells the rows of the first snapshot from later ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sight: Option<Sight>,
}

/// A part of a table that is read by itself: rows whose first key column lies between two values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Not among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The last row that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Vec<String>>,
    /// No row comes after the last one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl TableNote {
    pub fn new(state: Phase) -> Self {
        Self {
            state,
            first: None,
            key: Vec::new(),
            parts: Vec::new(),
            repeat: false,
            rows: 0,
            asked: None,
            again: 0,
            sight: None,
        }
    }

    /// Asked for, and no change goes out meanwhile.
    pub fn is_blocking(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.blocking)
    }

    /// Asked for, to come beside the changes.
    pub fn is_incremental(&self) -> bool {
        self.asked.as_ref().is_some_and(Asked::is_incremental)
    }

    /// Only the listed rows are left.
    pub fn ended(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.ended)
    }

    pub fn part(&self, of: &Of) -> Option<&Part> {
        match of {
            Of::Part(index) => self.parts.get(*index),
            Of::Keys(_) => None,
        }
    }

    pub fn part_mut(&mut self, of: &Of) -> Option<&mut Part> {
        match of {
            Of::Part(index) => self.parts.get_mut(*index),
            Of::Keys(_) => None,
        }
    }

    pub fn to_note(&self, table: &TableName) -> Note {
        // Numbers and strings: serde_json cannot fail on them.
        let text = serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned());
        Note { key: key_of(table).into(), text: Some(text.into()) }
    }
}

const TABLE: &str = "snapshot ";
const LISTED: &str = "reread ";

fn key_of(table: &TableName) -> String {
    format!("{TABLE}{}", table.sql())
}

/// What the notes of a table's listed keys begin with.
fn listed_prefix(table: &TableName) -> String {
    format!("{LISTED}{} ", table.sql())
}

/// The note that a row has to be read again, or no longer.
pub fn listed(table: &TableName, row: &Key, is_listed: bool) -> Note {
    let texts = serde_json::Value::from(key::texts(row));
    let text = is_listed.then(|| "{}".into());
    Note { key: format!("{}{texts}", listed_prefix(table)).into(), text }
}

/// A table whose rows are to be read, or read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub table: TableName,
    pub note: TableNote,
    /// Keys to be read again.
    pub listed: Vec<Key>,
    /// Nothing tells its rows apart: they are read under one snapshot, from the beginning.
    pub is_keyless: bool,
    /// An outbox: its rows are events, and come before any new one in the order of these columns; of none, in any.
    pub order_by: Option<Vec<String>>,
}

impl Unread {
    /// An outbox whose rows are not out: an event that is deleted again before they are read would never be sent.
    pub fn is_undrained(&self) -> bool {
        self.order_by.is_some() && !self.note.ended()
    }

    /// A crash met an outbox while its rows were read: until the rest is out, no new event may be.
    pub fn is_half_drained(&self) -> bool {
        self.is_undrained() && self.note.state == Phase::Reading
    }
}

/// What a start has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub unread: Vec<Unread>,
    /// To be noted with the next position.
    pub notes: Vec<Note>,
    /// A table joined a connector that already ran: transactions from before the publication sent it may still
    /// be under way.
    pub joined: bool,
    /// Tables without a key that a crash met while they were read: what of them was delivered comes again.
    pub again: Vec<TableName>,
}

/// Which rows are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// None.
    Nothing,
    /// Those of tables that are new to the connector.
    New,
    /// Those of tables that were read, too.
    Again,
    /// All of them, as if nothing had ever been read: changes were missed.
    Anew,
}

/// Compares the tables of the file with what was noted of them.
///
/// A table is decided once, when it is first seen: a connector that began without a snapshot does not make
/// one up for its old tables later. `outboxes` say themselves what is wanted of their rows.
pub fn plan(
    wish: Wish,
    wanted: &[TableInfo],
    found: &Notes,
    is_first_start: bool,
    outboxes: &Outboxes,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let began_with_notes = found.keys().any(|key| key.starts_with(TABLE));
    let tables: Vec<&TableInfo> = wanted.iter().filter(|table| !is_part(table, wanted)).collect();
    for table in &tables {
        let name = table.name();
        let noted = found.get(&key_of(&name)).map(|text| parsed(&name, text)).transpose()?;
        let noted = noted.filter(|_| wish != Wish::Anew);
        let begins = is_first_start || began_with_notes || wish == Wish::Again || wish == Wish::Anew;
        let planned = match first_that_fits(outboxes, &name) {
            None => planned(wish, table, noted, begins),
            Some(first) => Planned { note: drained(first, noted, begins), again: false },
        };
        let Some(note) = planned.note else { continue };
        if note.state == Phase::Skipped {
            plan.notes.push(note.to_note(&name));
            continue;
        }
        plan.again.extend(planned.again.then(|| name.clone()));
        plan.joined |= note.state == Phase::Pending && !is_first_start;
        plan.notes.push(note.to_note(&name));
        // Keys that were listed of a table which is read from its beginning may be of another one of that name.
        let begins = wish == Wish::Anew || note.state == Phase::Pending;
        let listed = if begins { Vec::new() } else { listed_keys(&name, found)? };
        let order_by = first_that_fits(outboxes, &name).map(|first| match first {
            FirstStart::Drain { order_by } => order_by.clone(),
            FirstStart::FromNow => Vec::new(),
        });
        let is_keyless = table.key().is_empty();
        plan.unread.push(Unread { table: name, note, listed, is_keyless, order_by });
    }
    let kept: HashSet<String> = tables.iter().map(|table| key_of(&table.name())).collect();
    let is_pending = |table: &TableName| {
        plan.unread.iter().any(|unread| unread.table == *table && unread.note.state == Phase::Pending)
    };
    let goes_on = tables.iter().map(|table| table.name()).filter(|table| !is_pending(table));
    let prefixes: Vec<String> = goes_on.map(|table| listed_prefix(&table)).collect();
    let is_kept = |key: &String| match (key.starts_with(TABLE), key.starts_with(LISTED)) {
        (true, _) => kept.contains(key),
        (_, true) => wish != Wish::Anew && prefixes.iter().any(|prefix| key.starts_with(prefix)),
        _ => true,
    };
    let gone = found.keys().filter(|key| !is_kept(key));
    plan.notes.extend(gone.map(|key| Note { key: key.as_str().into(), text: None }));
    Ok(plan)
}

/// What becomes of one table: its note, where it is to be read or is decided now.
struct Planned {
    note: Option<TableNote>,
    /// Rows of it that were delivered come again.
    again: bool,
}

fn planned(wish: Wish, table: &TableInfo, noted: Option<TableNote>, begins: bool) -> Planned {
    let is_keyless = table.key().is_empty();
    let mut again = false;
    let note = match (wish, noted) {
        (Wish::Again, Some(TableNote { state: Phase::Done | Phase::Skipped, .. })) => {
            // Without a key, no change can be told to be of a row: those until the snapshot are in the rows.
            Some(TableNote::new(if is_keyless { Phase::Pending } else { Phase::Reading }))
        }
        (_, Some(TableNote { state: Phase::Done | Phase::Skipped, .. })) => None,
        // Asked for, whatever the file says of other rows.
        (_, Some(note)) if note.asked.is_some() && note.rows > 0 && is_half_read(&note, table) => {
            again = true;
            let asked = note.asked;
            Some(TableNote { again: note.again + 1, asked, ..TableNote::new(Phase::Reading) })
        }
        (_, Some(note)) if note.asked.is_some() => Some(note),
        (Wish::Nothing, _) => Some(TableNote::new(Phase::Skipped)),
        (_, Some(note)) if is_half_read(&note, table) => {
            again = true;
            Some(TableNote { again: note.again + 1, ..TableNote::new(Phase::Pending) })
        }
        // It was drained as an outbox, and is one no longer: under that snapshot no change was noted.
        (_, Some(note)) if note.sight.is_some() => Some(TableNote::new(Phase::Pending)),
        (_, Some(note)) => Some(note),
        (_, None) if begins => Some(TableNote::new(Phase::Pending)),
        (_, None) => Some(TableNote::new(Phase::Skipped)),
    };
    Planned { note, again }
}

/// The same for an outbox, whose rows are read once at most.
fn drained(first: &FirstStart, noted: Option<TableNote>, begins: bool) -> Option<TableNote> {
    match (first, noted) {
        (_, Some(TableNote { state: Phase::Done | Phase::Skipped, .. })) => None,
        (FirstStart::FromNow, Some(mut note)) if note.sight.is_some() => {
            // The rest is given up: what the snapshot saw is still not to come as changes.
            note.parts.iter_mut().for_each(|part| part.ended = true);
            Some(note)
        }
        (FirstStart::FromNow, _) => Some(TableNote::new(Phase::Skipped)),
        (FirstStart::Drain { .. }, Some(note)) if note.sight.is_some() => Some(note),
        // Until it is known what a snapshot saw, no row under it went out.
        (FirstStart::Drain { .. }, Some(_)) => Some(TableNote::new(Phase::Pending)),
        (FirstStart::Drain { .. }, None) if begins => Some(TableNote::new(Phase::Pending)),
        (FirstStart::Drain { .. }, None) => Some(TableNote::new(Phase::Skipped)),
    }
}

/// Tables that are read together, with the number of the first: those that are read beside the stream, and those of
/// each signal for which it stands still.
pub fn apart(mut unread: Vec<Unread>) -> VecDeque<(usize, Vec<Unread>)> {
    let reason =
        |unread: &Unread| unread.note.asked.clone().filter(|asked| asked.blocking).map(|asked| asked.id);
    unread.sort_by_key(reason);
    let mut groups = VecDeque::new();
    let mut base = 0;
    for group in unread.chunk_by(|one, other| reason(one) == reason(other)) {
        groups.push_back((base, group.to_vec()));
        base += group.len();
    }
    groups
}

/// Has these tables read as if they were new, whatever was noted of them; gives what is wished then.
pub fn read_anew(tables: &[TableName], noted: &mut Notes, wish: Wish) -> Wish {
    for table in tables {
        let note = TableNote::new(Phase::Pending).to_note(table);
        noted.extend(note.text.map(|text| (note.key.to_string(), text.to_string())));
    }
    if wish == Wish::Nothing && !tables.is_empty() { Wish::New } else { wish }
}

/// Tables whose rows are not all delivered.
pub fn unfinished(found: &Notes) -> Vec<&str> {
    let is_through = |text: &str| {
        let note = serde_json::from_str::<TableNote>(text);
        note.is_ok_and(|note| matches!(note.state, Phase::Done | Phase::Skipped))
    };
    let tables = found.iter().filter_map(|(key, text)| Some((key.strip_prefix(TABLE)?, text)));
    tables.filter(|(_, text)| !is_through(text)).map(|(table, _)| table).collect()
}

/// Rows without a key cannot be gone on with.
fn is_half_read(note: &TableNote, table: &TableInfo) -> bool {
    table.key().is_empty() && note.state == Phase::Reading && !note.ended()
}

/// With its root in the file, a part's changes come as the root's, and so do its rows.
pub fn is_part(table: &TableInfo, wanted: &[TableInfo]) -> bool {
    table.root.is_some_and(|root| {
        table.oid != root && wanted.iter().any(|other| other.oid == root && other.form == Form::Partitioned)
    })
}

fn parsed(table: &TableName, text: &str) -> Result<TableNote> {
    serde_json::from_str(text).map_err(|error| {
        Error::fatal(format!("what was noted of the snapshot of {table} is not understood: {text}"))
            .hint("was it written by a newer release? go back to that, or begin anew with `millrace position <file> reset --yes`")
            .source(error)
    })
}

fn listed_keys(table: &TableName, found: &Notes) -> Result<Vec<Key>> {
    let prefix = listed_prefix(table);
    let keys = found.range(prefix.clone()..).map_while(|(key, _)| key.strip_prefix(&prefix));
    keys.map(|texts| match serde_json::from_str::<Vec<String>>(texts) {
        Ok(texts) => Ok(key::from_texts(&texts)),
        Err(error) => {
            Err(Error::fatal(format!("a noted key of {table} is not understood: {texts}")).source(error))
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Identity, IndexInfo};

    fn table(oid: u32, name: &str) -> TableInfo {
        let key = IndexInfo {
            name: "pk".into(),
            is_primary: true,
            is_identity: false,
            not_null: true,
            columns: vec!["id".into()],
        };
        TableInfo {
            oid,
            schema: "public".into(),
            table: name.into(),
            form: Form::Table,
            is_logged: true,
            identity: Identity::Default,
            root: None,
            columns: vec![],
            indexes: vec![key],
        }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.unread.iter().map(|unread| unread.table.table.as_str()).collect()
    }

    fn noted(plan: &Plan) -> Notes {
        let text = |note: &Note| Some((note.key.to_string(), note.text.as_ref()?.to_string()));
        plan.notes.iter().filter_map(text).collect()
    }

    #[test]
    fn the_tables_of_a_first_start_are_read_and_those_that_were_read_are_not_read_again() {
        let first = plan(Wish::New, &[table(1, "a"), table(2, "b")], &Notes::new(), true, &[]).expect("plan");
        assert_eq!((names(&first), first.joined), (vec!["a", "b"], false));
        let mut notes = noted(&first);
        let done = TableNote::new(Phase::Done).to_note(&TableName::new("public", "a"));
        notes.insert(done.key.to_string(), done.text.expect("text").to_string());
        let next = plan(Wish::New, &[table(1, "a"), table(2, "b")], &notes, false, &[]).expect("plan");
        assert_eq!(names(&next), ["b"]);
    }

    #[test]
    fn a_table_that_joins_is_read_and_one_that_left_is_forgotten_so_that_it_is_read_when_it_comes_back() {
        let first = plan(Wish::Nothing, &[table(1, "a")], &Notes::new(), true, &[]).expect("plan");
        assert_eq!(names(&first), [] as [&str; 0]);
        let next = plan(Wish::New, &[table(2, "b")], &noted(&first), false, &[]).expect("plan");
        assert_eq!((names(&next), next.joined), (vec!["b"], true));
        assert!(
            next.notes.iter().any(|note| note.text.is_none() && &*note.key == "snapshot \"public\".\"a\"")
        );
    }

    #[test]
    fn a_connector_that_ran_before_it_noted_anything_gets_no_snapshot_of_its_old_tables() {
        let next = plan(Wish::New, &[table(1, "a")], &Notes::new(), false, &[]).expect("plan");
        assert_eq!(names(&next), [] as [&str; 0]);
        assert!(noted(&next)["snapshot \"public\".\"a\""].contains("skipped"));
    }

    #[test]
    fn a_part_is_read_with_its_root() {
        let root = TableInfo { form: Form::Partitioned, ..table(1, "root") };
        let part = TableInfo { root: Some(1), ..table(2, "part") };
        let first = plan(Wish::New, &[root, part], &Notes::new(), true, &[]).expect("plan");
        assert_eq!(names(&first), ["root"]);
    }

    #[test]
    fn a_table_without_a_key_that_was_read_in_part_begins_again_and_says_so() {
        let keyless = TableInfo { indexes: vec![], ..table(3, "keyless") };
        let half = TableNote { rows: 5, ..TableNote::new(Phase::Reading) };
        let through = Part { ended: true, ..Part::default() };
        let whole = TableNote { parts: vec![through], ..half.clone() };
        for (note, again) in [(half, 1), (whole, 0)] {
            let note = note.to_note(&keyless.name());
            let notes = Notes::from([(note.key.to_string(), note.text.expect("text").to_string())]);
            let next = plan(Wish::New, std::slice::from_ref(&keyless), &notes, false, &[]).expect("plan");
            assert_eq!((next.again.len(), next.unread[0].note.again), (again, again as u32));
            assert!(next.unread[0].is_keyless);
        }
    }

    #[test]
    fn a_table_without_a_key_that_a_signal_asked_for_begins_again_only_where_rows_of_it_are_out() {
        let keyless = TableInfo { indexes: vec![], ..table(3, "keyless") };
        let asked = Some(Asked { id: "one".into(), blocking: true, ..Asked::default() });
        for (rows, again) in [(0, 0), (5, 1)] {
            let note = TableNote { rows, asked: asked.clone(), ..TableNote::new(Phase::Reading) };
            let note = note.to_note(&keyless.name());
            let notes = Notes::from([(note.key.to_string(), note.text.expect("text").to_string())]);
            let next = plan(Wish::New, std::slice::from_ref(&keyless), &notes, false, &[]).expect("plan");
            let note = &next.unread[0].note;
            assert_eq!((next.again.len(), note.again, &note.asked), (again, again as u32, &asked));
        }
    }

    #[test]
    fn tables_that_were_read_are_read_again_on_request_and_their_changes_go_on_meanwhile() {
        let keyless = TableInfo { indexes: vec![], ..table(3, "keyless") };
        let tables = [table(1, "a"), keyless];
        let mut notes = Notes::new();
        for info in &tables {
            let note = TableNote::new(Phase::Done).to_note(&info.name());
            notes.insert(note.key.to_string(), note.text.expect("text").to_string());
        }
        let states = |wish| {
            let next = plan(wish, &tables, &notes, false, &[]).expect("plan");
            next.unread.iter().map(|unread| unread.note.state).collect::<Vec<_>>()
        };
        assert_eq!(states(Wish::New), []);
        assert_eq!(states(Wish::Again), [Phase::Reading, Phase::Pending]);
        assert_eq!(states(Wish::Anew), [Phase::Pending, Phase::Pending]);
    }

    #[test]
    fn what_was_listed_is_forgotten_when_all_is_read_anew() {
        let name = TableName::new("public", "a");
        let mut notes = Notes::new();
        let row = key::from_texts(&["7".to_owned()]);
        for note in [TableNote::new(Phase::Reading).to_note(&name), listed(&name, &row, true)] {
            notes.insert(note.key.to_string(), note.text.expect("text").to_string());
        }
        let next = plan(Wish::Anew, &[table(1, "a")], &notes, true, &[]).expect("plan");
        assert!(next.unread[0].listed.is_empty());
        assert!(next.notes.iter().any(|note| note.text.is_none() && note.key.starts_with(LISTED)));
    }

    #[test]
    fn listed_keys_come_back() {
        let name = TableName::new("public", "a");
        let row = key::from_texts(&["7".to_owned(), "ä \"b\"".to_owned()]);
        let mut notes = Notes::new();
        for note in [TableNote::new(Phase::Reading).to_note(&name), listed(&name, &row, true)] {
            notes.insert(note.key.to_string(), note.text.expect("text").to_string());
        }
        let next = plan(Wish::New, &[table(1, "a")], &notes, false, &[]).expect("plan");
        assert_eq!(next.unread[0].listed, [row]);
    }
}
