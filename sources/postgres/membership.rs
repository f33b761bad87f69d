//! How each captured table is published, noted beside the position: a table that was not sent for a while is a
//! hole that no position shows. Start at `gaps` and `Membership::moved`.
//!
//! The server decides for each change by the catalog of its moment, and what is not published then is never sent.
//! So it does not suffice that a table is published now. Each way by which it is (its own place in the publication,
//! its schema's, that of all tables) has a number of the catalog that is given once: as long as one of the ways that
//! were noted is there, the table was never out. `publish` is an option of the publication's own row, of which each
//! ALTER makes a new version; one that changed neither owner nor `publish_via_partition_root` may have been it.
//! A table of the same name with another number was sent from its beginning where one transaction made and published it,
//! and nobody has renamed it since.

use std::collections::{BTreeSet, HashMap};

use millrace_core::error::{Error, Result};
use millrace_core::position::{Note, Notes, Position};
use millrace_core::progress::State;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::catalog::TableInfo;
use crate::config::Settings;
use crate::errors;
use crate::lsn::Lsn;
use crate::server::{SCHEMAS_VERSION, ServerFacts};
use crate::tables::TableName;
use crate::{publication, start};

/// The key of the publication's note, and what that of each table begins with.
const PUBLICATION: &str = "publication";
const TABLE: &str = "published ";

/// The publication's own row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Own {
    publication: u32,
    /// Of the row.
    version: String,
    owner: u32,
    via_root: bool,
}

impl Own {
    /// Its options were changed and changed back, as far as can be seen.
    fn was_touched(&self, now: &Self) -> bool {
        self.publication == now.publication
            && self.version != now.version
            && (self.owner, self.via_root) == (now.owner, now.via_root)
    }
}

/// A table in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    oid: u32,
    /// Empty: its changes are not sent.
    ways: BTreeSet<String>,
}

impl Member {
    fn goes_on(&self, now: &Self) -> bool {
        !self.ways.is_disjoint(&now.ways)
    }
}

/// The publication and the captured tables at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Membership {
    own: Own,
    all_operations: bool,
    tables: Vec<Named>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Named {
    #[serde(flatten)]
    name: TableName,
    #[serde(flatten)]
    member: Member,
    /// The transaction that made it, or was the last to alter it, gave it its place in the publication.
    published_at_birth: bool,
}

impl Named {
    fn key(&self) -> String {
        format!("{TABLE}{}", self.name.sql())
    }

    fn note(&self) -> Note {
        Note { key: self.key().into(), text: Some(text_of(&self.member)) }
    }
}

fn text_of(value: &impl Serialize) -> std::sync::Arc<str> {
    // Numbers and strings: serde_json cannot fail on them.
    serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned()).into()
}

/// What follows from the notes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Changes of them were not sent.
    lost: Vec<TableName>,
    /// The name stands for another table, which was not sent from its beginning.
    others: Vec<TableName>,
    /// The same, and sent from its beginning: but for what the same transaction wrote before it published it.
    born: Vec<TableName>,
}

impl Membership {
    /// Of these tables, by their names; `None`: there is no such publication.
    pub async fn read(client: &Client, settings: &Settings, tables: &[TableName]) -> Result<Option<Self>> {
        let what = || format!("cannot look up how publication {} has its tables", settings.publication);
        let version = client.query_one("SELECT current_setting('server_version_num')::int", &[]).await;
        let version: i32 =
            version.and_then(|row| row.try_get(0)).map_err(|error| errors::query(what(), error))?;
        let by_schema = if u32::try_from(version).unwrap_or_default() >= SCHEMAS_VERSION {
            "UNION ALL SELECT w.oid, 'schema ' || s.oid FROM wanted w CROSS JOIN own p
             JOIN pg_publication_namespace s ON s.pnnspid = w.relnamespace AND s.pnpubid = p.oid"
        } else {
            ""
        };
        // Each table is looked up once, however many there are: it is asked every few seconds.
        let sql = format!(
            "WITH own AS MATERIALIZED (
               SELECT oid, xmin, pubowner, pubviaroot, puballtables,
                 pubinsert AND pubupdate AND pubdelete AND pubtruncate AS all_operations
               FROM pg_publication WHERE pubname = $1),
             wanted AS MATERIALIZED (
               SELECT c.oid, n.nspname, c.relname, c.relnamespace, c.relispartition
               FROM unnest($2::text[], $3::text[]) AS t(schema, name)
               JOIN pg_namespace n ON n.nspname = t.schema
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name),
             ways(oid, way) AS (
               SELECT w.oid, 'all ' || p.oid FROM wanted w CROSS JOIN own p WHERE p.puballtables
               UNION ALL SELECT w.oid, 'table ' || r.oid FROM wanted w CROSS JOIN own p
               JOIN pg_publication_rel r ON r.prrelid = w.oid AND r.prpubid = p.oid
               UNION ALL SELECT w.oid, 'table ' || r.oid FROM wanted w CROSS JOIN own p
               CROSS JOIN LATERAL pg_partition_ancestors(w.oid) AS a(relid)
               JOIN pg_publication_rel r ON r.prrelid = a.relid AND r.prpubid = p.oid
               WHERE w.relispartition AND a.relid <> w.oid
               {by_schema})
             SELECT json_build_object(
               'own', json_build_object('publication', p.oid::bigint, 'version', p.xmin::text,
                 'owner', p.pubowner::bigint, 'via_root', p.pubviaroot),
               'all_operations', p.all_operations,
               'tables', (SELECT coalesce(json_agg(json_build_object(
                   'schema', w.nspname, 'table', w.relname, 'oid', w.oid::bigint,
                   'published_at_birth', EXISTS (SELECT FROM pg_publication_rel r
                     JOIN pg_class c ON c.oid = r.prrelid
                     WHERE r.prrelid = w.oid AND r.prpubid = p.oid AND c.xmin = r.xmin),
                   'ways', coalesce(x.ways, '[]'))), '[]')
                 FROM wanted w
                 LEFT JOIN (SELECT oid, json_agg(way) AS ways FROM ways GROUP BY oid) x ON x.oid = w.oid))::text
             FROM own p"
        );
        let (schemas, names): (Vec<&str>, Vec<&str>) =
            tables.iter().map(|table| (table.schema.as_str(), table.table.as_str())).unzip();
        let row = client.query_opt(&sql, &[&settings.publication, &schemas, &names]).await;
        let Some(row) = row.map_err(|error| errors::query(what(), error))? else { return Ok(None) };
        let text: String = row.try_get(0).map_err(|error| errors::query(what(), error))?;
        serde_json::from_str(&text).map(Some).map_err(|error| Error::fatal(what()).source(error))
    }

    fn names(&self) -> Vec<TableName> {
        self.tables.iter().map(|table| table.name.clone()).collect()
    }

    /// Held against what was noted. Pure.
    fn judge(&self, noted: &Notes) -> Judged {
        let own = noted.get(PUBLICATION).and_then(|text| serde_json::from_str::<Own>(text).ok());
        let touched = own.is_some_and(|own| own.was_touched(&self.own));
        let mut judged = Judged::default();
        for table in &self.tables {
            let known = noted.get(&table.key()).and_then(|text| serde_json::from_str::<Member>(text).ok());
            let Some(known) = known else { continue };
            let goes_on = known.goes_on(&table.member);
            if !goes_on && known.oid != table.member.oid {
                let is_sent = table.published_at_birth && !touched;
                let judged = if is_sent { &mut judged.born } else { &mut judged.others };
                judged.push(table.name.clone());
            } else if !goes_on || touched {
                judged.lost.push(table.name.clone());
            }
        }
        judged
    }

    /// What is to be noted, and what is to be forgotten because it is no longer captured.
    pub fn notes(&self, noted: &Notes) -> Vec<Note> {
        let sent = || self.tables.iter().filter(|table| !table.member.ways.is_empty());
        let own = Note { key: PUBLICATION.into(), text: Some(text_of(&self.own)) };
        let mut notes: Vec<Note> = std::iter::once(own).chain(sent().map(Named::note)).collect();
        notes.retain(|note| noted.get(&*note.key).map(String::as_str) != note.text.as_deref());
        let kept: BTreeSet<String> = sent().map(Named::key).collect();
        let gone = noted.keys().filter(|key| key.starts_with(TABLE) && !kept.contains(*key));
        notes.extend(gone.map(|key| Note { key: key.as_str().into(), text: None }));
        notes
    }

    /// Looks again while the stream runs, and gives what is to be noted anew. What may be a hole ends the attempt:
    /// the next one makes the publication right and judges by the notes.
    pub async fn moved(&mut self, client: &Client, settings: &Settings) -> Result<Vec<Note>> {
        let now = Self::read(client, settings, &self.names()).await?;
        let Some(now) = now else {
            return Err(Error::transient(format!("publication {} is gone", settings.publication)));
        };
        let notes = self.compared(&now, &settings.publication)?;
        let mut seen: HashMap<TableName, Member> =
            now.tables.into_iter().map(|table| (table.name, table.member)).collect();
        for known in &mut self.tables {
            // One that is gone may come back.
            if let Some(member) = seen.remove(&known.name) {
                known.member = member;
            }
        }
        self.own = now.own;
        Ok(notes)
    }

    fn compared(&self, now: &Self, publication: &str) -> Result<Vec<Note>> {
        let options = self.own.via_root != now.own.via_root || self.own.was_touched(&now.own);
        if options || !now.all_operations {
            return Err(Error::transient(format!(
                "the options of publication {publication} were changed: what it sends is looked at anew"
            )));
        }
        let mut notes = Vec::new();
        if self.own != now.own {
            notes.push(Note { key: PUBLICATION.into(), text: Some(text_of(&now.own)) });
        }
        let members: HashMap<&TableName, &Member> =
            self.tables.iter().map(|table| (&table.name, &table.member)).collect();
        for table in &now.tables {
            let known = members.get(&table.name).filter(|known| ***known != table.member);
            let Some(known) = known else { continue };
            // Whoever makes a table anew and publishes it has seen to it.
            let is_seen_to = known.oid != table.member.oid && !table.member.ways.is_empty();
            // One that was made just now joins at the next start.
            let was_sent = !known.ways.is_empty();
            if was_sent && !is_seen_to && !known.goes_on(&table.member) {
                return Err(Error::transient(format!(
                    "table {} left publication {publication}, or was made anew: what is sent is looked at anew",
                    table.name
                )));
            }
            if was_sent {
                notes.push(table.note());
            }
        }
        Ok(notes)
    }
}

/// The captured tables that the server sends, and how all captured ones are published.
pub async fn sent(
    client: &Client,
    settings: &Settings,
    facts: &ServerFacts,
    (from, noted): (Option<&Position>, &Notes),
) -> Result<(Vec<TableInfo>, Option<Membership>)> {
    if start::unbroken(from)?.is_some() && !noted.contains_key(PUBLICATION) {
        publication::claim(client, settings, facts).await?;
    }
    let mut tables = publication::wanted(client, settings).await?.tables;
    let published = publication::read(client, &settings.publication, facts).await?;
    publication::keep_captured(settings, published.as_ref(), &mut tables);
    let names: Vec<TableName> = tables.iter().map(TableInfo::name).collect();
    let membership = Membership::read(client, settings, &names).await?;
    // One that was made just now is not sent yet: it joins at the next start.
    tables.retain(|table| published.as_ref().is_some_and(|published| published.sends(table)));
    Ok((tables, membership))
}

/// The tables whose rows have to be read anew because changes of them were not sent; an error where the file does
/// not ask for that. `end`: of what is delivered.
pub fn gaps(settings: &Settings, now: &Membership, noted: &Notes, end: Lsn) -> Result<Vec<TableName>> {
    // Where no changes are wanted, none is missed.
    if !settings.snapshot.stream {
        return Ok(Vec::new());
    }
    let Judged { mut lost, mut others, mut born } = now.judge(noted);
    // What an outbox holds says nothing of what was sent of it: its rows are not read anew.
    let is_read = |table: &mut TableName| settings.snapshot.rows && settings.outbox(table).is_none();
    lost.extend(others.extract_if(.., |table| !is_read(table)));
    others.extend(born.extract_if(.., is_read));
    for table in &born {
        tracing::warn!(%table, "the name stands for another table than before, which was made and published at once");
    }
    for table in &others {
        tracing::warn!(%table, "the name stands for another table than before: its rows are read");
    }
    if lost.is_empty() {
        return Ok(others);
    }
    let names = lost.iter().map(TableName::to_string).collect::<Vec<_>>().join(", ");
    let publication = &settings.publication;
    let why = format!(
        "changes of {names} are missing: publication {publication} did not send them for a while, or was changed \
         and changed back"
    );
    if settings.snapshot.on_loss {
        tracing::warn!("{why}; the tables are read anew, and what was deleted meanwhile stays unknown");
        others.append(&mut lost);
        return Ok(others);
    }
    let mend = format!(
        "find out who altered the publication (where a column list or a row filter was changed by one ALTER \
         PUBLICATION ... SET TABLE, nothing is missing); compare the tables with their topics, then accept the gap with \
         `millrace position <file> set --to {end} --yes`, or begin anew with `millrace position <file> reset --yes`"
    );
    Err(Error::fatal(why).hint(mend).state(State::PositionLost))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(version: &str) -> Own {
        Own { publication: 1, version: version.into(), owner: 10, via_root: false }
    }

    fn with(own: Own, oid: u32, ways: &[&str]) -> Membership {
        let member = Member { oid, ways: ways.iter().map(|way| (*way).to_owned()).collect() };
        let tables = vec![Named { name: TableName::new("public", "a"), member, published_at_birth: false }];
        Membership { own, all_operations: true, tables }
    }

    fn noted(membership: &Membership) -> Notes {
        let text = |note: &Note| Some((note.key.to_string(), note.text.as_ref()?.to_string()));
        membership.notes(&Notes::new()).iter().filter_map(text).collect()
    }

    #[test]
    fn a_table_is_lost_when_none_of_its_ways_is_left_and_when_the_options_were_changed_and_changed_back() {
        let before = with(own("7"), 5, &["table 30", "schema 40"]);
        for (now, lost, others) in [
            (before.clone(), 0, 0),
            (with(own("7"), 5, &["schema 40"]), 0, 0),
            (with(own("7"), 5, &["table 31"]), 1, 0),
            (with(own("7"), 5, &[]), 1, 0),
            (with(own("8"), 5, &["table 30"]), 1, 0),
            (with(Own { owner: 11, ..own("8") }, 5, &["table 30"]), 0, 0),
            (with(Own { via_root: true, ..own("8") }, 5, &["table 30"]), 0, 0),
            // Made anew: sent from its beginning by the schema, and not by a place of its own.
            (with(own("7"), 6, &["schema 40"]), 0, 0),
            (with(own("7"), 6, &["table 31"]), 0, 1),
        ] {
            let judged = now.judge(&noted(&before));
            assert_eq!((judged.lost.len(), judged.others.len()), (lost, others), "{now:?}");
        }
        let mut born = with(own("7"), 6, &["table 31"]);
        born.tables[0].published_at_birth = true;
        let judged = born.judge(&noted(&before));
        assert_eq!((judged.born.len(), judged.others.len()), (1, 0), "made and published at once");
        assert_eq!(with(own("9"), 9, &[]).judge(&Notes::new()), Judged::default(), "nothing was noted");
    }

    #[test]
    fn what_is_noted_is_forgotten_with_the_table_and_not_noted_twice() {
        let before = with(own("7"), 5, &["table 30"]);
        assert_eq!(before.notes(&noted(&before)), []);
        let none = Membership { tables: vec![], ..before.clone() };
        let notes = none.notes(&noted(&before));
        assert!(notes.len() == 1 && notes[0].text.is_none(), "{notes:?}");
    }

    #[test]
    fn while_the_stream_runs_a_way_that_is_gone_ends_the_attempt_and_one_that_comes_is_noted() {
        let before = with(own("7"), 5, &["table 30"]);
        for (now, notes) in [
            (before.clone(), Some(0)),
            (with(own("7"), 5, &["schema 40", "table 30"]), Some(1)),
            (with(own("7"), 5, &["table 31"]), None),
            (with(own("7"), 5, &[]), None),
            (with(own("8"), 5, &["table 30"]), None),
            (with(Own { owner: 11, ..own("8") }, 5, &["table 30"]), Some(1)),
            (with(own("7"), 6, &["table 31"]), Some(1)),
            (with(own("7"), 6, &[]), None),
            (Membership { all_operations: false, ..before.clone() }, None),
            (Membership { tables: vec![], ..before.clone() }, Some(0)),
        ] {
            let compared = before.compared(&now, "p");
            assert_eq!(compared.as_ref().ok().map(Vec::len), notes, "{now:?}: {compared:?}");
        }
    }
}
