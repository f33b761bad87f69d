//! The publication: which tables the server sends. Start at `ensure`.

use std::collections::BTreeSet;

use millrace_core::error::{Error, Result};
use serde::Deserialize;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::catalog::{self, Form, TableInfo};
use crate::config::Settings;
use crate::errors;
use crate::server::{self, SCHEMAS_VERSION, ServerFacts};
use crate::tables::{TablePattern, quoted};

/// A publication as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Publication {
    pub all_tables: bool,
    /// Inserts, updates, deletes and truncates are all published.
    pub all_operations: bool,
    /// Changes of a partition are sent as changes of its root.
    pub via_root: bool,
    /// Oids of the tables that it lists.
    pub tables: BTreeSet<u32>,
    pub schemas: BTreeSet<String>,
    /// Where a connector leaves word that it made it.
    pub comment: Option<String>,
}

/// The comment on a publication that a connector made: others may be shared with anybody.
pub fn made_by(connector: &str) -> String {
    format!("made by millrace for connector {connector}")
}

/// The publication of this name, if there is one.
pub async fn read(client: &Client, name: &str, facts: &ServerFacts) -> Result<Option<Publication>> {
    let schemas = if facts.version >= SCHEMAS_VERSION {
        "SELECT json_agg(n.nspname) FROM pg_publication_namespace s \
         JOIN pg_namespace n ON n.oid = s.pnnspid WHERE s.pnpubid = p.oid"
    } else {
        "SELECT NULL::json"
    };
    let sql = format!(
        "SELECT json_build_object(
           'all_tables', p.puballtables, 'via_root', p.pubviaroot,
           'all_operations', p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate,
           'tables', (SELECT coalesce(json_agg(r.prrelid::bigint), '[]')
             FROM pg_publication_rel r WHERE r.prpubid = p.oid),
           'comment', obj_description(p.oid, 'pg_publication'),
           'schemas', coalesce(({schemas}), '[]'))::text
         FROM pg_publication p WHERE p.pubname = $1"
    );
    let what = || format!("cannot read publication {name}");
    let row = client.query_opt(&sql, &[&name]).await.map_err(|error| errors::query(what(), error))?;
    let Some(row) = row else { return Ok(None) };
    let text: String = row.try_get(0).map_err(|error| errors::query(what(), error))?;
    serde_json::from_str(&text).map(Some).map_err(|error| Error::fatal(what()).source(error))
}

/// The tables of the file that are there, and what of it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub tables: Vec<TableInfo>,
    /// Entries that mean no table.
    pub missing: Vec<TablePattern>,
}

/// Looks up what the file asks for.
pub async fn wanted(client: &Client, settings: &Settings) -> Result<Wanted> {
    let mut tables = catalog::tables_with(client, &settings.tables, settings.partitions).await?;
    let is_missing = |pattern: &&TablePattern| {
        // An expression may mean tables that are still to come, but not all of them may.
        let may_be_empty = matches!(pattern, TablePattern::Expression(_)) && !tables.is_empty();
        !may_be_empty && !tables.iter().any(|table| pattern.matches(&table.schema, &table.table))
    };
    let missing = settings.tables.iter().filter(is_missing).cloned().collect();
    tables.retain(|table| settings.wants(&table.schema, &table.table));
    Ok(Wanted { tables, missing })
}

/// Whether this connector may make the publication, or change the one that is there.
pub fn may_change(settings: &Settings, found: Option<&Publication>) -> bool {
    let is_own = |found: &Publication| found.comment == Some(made_by(&settings.connector));
    settings.create_publication && (settings.alter_publication || found.is_none_or(is_own))
}

/// Where the publication says what is captured, keeps of the tables those that it sends.
pub fn keep_captured(settings: &Settings, found: Option<&Publication>, tables: &mut Vec<TableInfo>) {
    if let Some(found) = found.filter(|found| settings.only_published && !may_change(settings, Some(found))) {
        tables.retain(|table| found.sends(table));
    }
}

/// Says that a publication is this connector's, which earlier releases kept in step without saying so. For a connector
/// that ran with them.
pub async fn claim(client: &Client, settings: &Settings, facts: &ServerFacts) -> Result<()> {
    let found = read(client, &settings.publication, facts).await?;
    let is_unmarked = |found: &Publication| found.comment.is_none() && !found.all_tables;
    if !settings.create_publication || facts.in_recovery || !found.as_ref().is_some_and(is_unmarked) {
        return Ok(());
    }
    match client.batch_execute(&marking(settings)).await {
        // Then it is not.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(()),
        Err(error) => {
            let what = format!("cannot mark publication {} as this connector's", settings.publication);
            Err(errors::query(what, error))
        }
        Ok(()) => Ok(()),
    }
}

fn marking(settings: &Settings) -> String {
    let by = made_by(&settings.connector).replace('\'', "''");
    format!("COMMENT ON PUBLICATION {} IS '{by}';", quoted(&settings.publication))
}

/// The tables of the file that this connector is for.
pub async fn captured(client: &Client, settings: &Settings) -> Result<Vec<TableInfo>> {
    let mut tables = wanted(client, settings).await?.tables;
    if settings.only_published {
        let facts = server::facts(client).await?;
        let found = read(client, &settings.publication, &facts).await?;
        keep_captured(settings, found.as_ref(), &mut tables);
    }
    Ok(tables)
}

/// The tables that have to be published: those of the file, and the signal table.
pub async fn published(
    client: &Client,
    settings: &Settings,
    tables: &[TableInfo],
) -> Result<(Vec<TableInfo>, Vec<TablePattern>)> {
    let mut all = tables.to_vec();
    let Some(name) = &settings.signals.table else { return Ok((all, Vec::new())) };
    let pattern = TablePattern::One(name.clone());
    let found = catalog::tables_by_pattern(client, std::slice::from_ref(&pattern)).await?.pop();
    let missing = if found.is_none() { vec![pattern] } else { Vec::new() };
    all.extend(found.filter(|found| !tables.iter().any(|table| table.oid == found.oid)));
    Ok((all, missing))
}

/// What has to be typed so that the server sends what the file asks for. Pure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: it fits, or sends more, which is filtered here.
    Keep,
    /// Statements, run together or not at all.
    Run(Vec<String>),
}

/// Compares a publication with the tables that are wanted. Nothing is ever taken out: nobody can know who else reads
/// it, and to send too much costs bytes, to send too little costs changes.
pub fn plan(name: &str, found: Option<&Publication>, wanted: &[TableInfo]) -> Plan {
    // A root's own changes do not exist: they are its parts', and come under its name only on request.
    let via_root = wanted.iter().any(|table| table.form == Form::Partitioned);
    let name = quoted(name);
    let list =
        |tables: &[&TableInfo]| tables.iter().map(|table| table.name().sql()).collect::<Vec<_>>().join(", ");
    let mut statements = Vec::new();
    match found {
        None => {
            let tables: Vec<_> = wanted.iter().collect();
            let with = format!("WITH (publish_via_partition_root = {via_root})");
            statements.push(format!("CREATE PUBLICATION {name} FOR TABLE {} {with}", list(&tables)));
        }
        Some(found) => {
            if !found.all_operations {
                statements.push(format!(
                    "ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')"
                ));
            }
            if found.via_root != via_root && (via_root || hides_a_part(found, wanted)) {
                statements
                    .push(format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = {via_root})"));
            }
            let added: Vec<_> = wanted.iter().filter(|table| !found.sends(table)).collect();
            if !added.is_empty() {
                statements.push(format!("ALTER PUBLICATION {name} ADD TABLE {}", list(&added)));
            }
        }
    }
    if statements.is_empty() { Plan::Keep } else { Plan::Run(statements) }
}

/// With `publish_via_partition_root`, a part is sent under its root's name if the root is published too.
fn hides_a_part(found: &Publication, wanted: &[TableInfo]) -> bool {
    wanted.iter().any(|table| table.root.is_some_and(|root| found.all_tables || found.tables.contains(&root)))
}

impl Publication {
    /// Whether the server sends this table's changes.
    pub fn sends(&self, table: &TableInfo) -> bool {
        let with_root = table.root.is_some_and(|root| !self.via_root && self.tables.contains(&root));
        self.all_tables
            || self.tables.contains(&table.oid)
            || with_root
            || self.schemas.contains(&table.schema)
    }
}

/// Makes the publication, or adds to it what the file asks for, where that is allowed; where it is not, an
/// error says what to type. Gives the tables as they are now.
pub async fn ensure(client: &Client, settings: &Settings, facts: &ServerFacts) -> Result<Vec<TableInfo>> {
    let name = &settings.publication;
    let Wanted { mut tables, mut missing } = wanted(client, settings).await?;
    let found = read(client, name, facts).await?;
    keep_captured(settings, found.as_ref(), &mut tables);
    let (all, of_signals) = published(client, settings, &tables).await?;
    missing.extend(of_signals);
    if !missing.is_empty() {
        return Err(absent(&missing, settings));
    }
    for table in &all {
        replicable(table)?;
    }
    if all.is_empty() {
        return Err(Error::config(format!("publication {name} sends no table that the file asks for"))
            .hint(format!("ALTER PUBLICATION {} ADD TABLE ...;", quoted(name))));
    }
    let Plan::Run(statements) = plan(name, found.as_ref(), &all) else { return Ok(tables) };
    let typed = format!("{};", statements.join("; "));
    if !may_change(settings, found.as_ref()) {
        return Err(
            Error::config(format!("publication {name} {}", lack(settings, found.is_some()))).hint(typed)
        );
    }
    if facts.in_recovery {
        return Err(Error::config(format!(
            "publication {name} must be changed, and a standby cannot do that"
        ))
        .hint(format!("on the primary: {typed}")));
    }
    let added = |table: &&TableInfo| found.as_ref().is_none_or(|found| !found.sends(table));
    for table in all.iter().filter(added) {
        identified(table, name)?;
    }
    // One message of several statements is one transaction.
    let run = if found.is_none() { format!("{typed} {}", marking(settings)) } else { typed.clone() };
    client.batch_execute(&run).await.map_err(|error| match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            errors::query(format!("role {} may not change publication {name}", settings.user), error)
                .hint(format!("as the owner of the tables: {typed}"))
        }
        // Seen otherwise a moment ago: a migration or another instance. Look again.
        Some(&(SqlState::DUPLICATE_OBJECT | SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_OBJECT)) => {
            Error::transient(format!("publication {name} or its tables changed just now")).source(error)
        }
        _ => errors::query(format!("cannot change publication {name}"), error).hint(typed.clone()),
    })?;
    Ok(tables)
}

/// What is wrong with a publication that is to be left alone.
pub fn lack(settings: &Settings, is_there: bool) -> &'static str {
    match (settings.create_publication, is_there) {
        (false, false) => "does not exist, and create_publication is false",
        (false, true) => "does not send what is asked for, and create_publication is false",
        (true, _) => {
            "does not send what is asked for, and alter_publication is false: somebody else made it, and may share it"
        }
    }
}

/// Passes by: migrations often run as a job of their own.
fn absent(missing: &[TablePattern], settings: &Settings) -> Error {
    let names = missing.iter().map(TablePattern::to_string).collect::<Vec<_>>().join(", ");
    let verb = if missing.len() == 1 { "does" } else { "do" };
    Error::transient(format!("{names} {verb} not exist in database {}", settings.database))
        .hint("create what is missing, or correct tables in [source.postgres]")
}

/// Views, foreign tables and unlogged tables have no changes in the log.
pub fn replicable(table: &TableInfo) -> Result<()> {
    let name = table.name();
    if table.form == Form::Other {
        return Err(Error::config(format!("{name} is not a table"))
            .hint("list tables only, and in place of a view the tables that it reads"));
    }
    if !table.is_logged {
        return Err(Error::config(format!(
            "table {name} is unlogged or temporary: its changes are not in the log"
        ))
        .hint(format!("ALTER TABLE {} SET LOGGED;", name.sql())));
    }
    Ok(())
}

/// Publishing a table without an identity would break the application: its updates would be refused.
pub fn identified(table: &TableInfo, publication: &str) -> Result<()> {
    if table.has_identity() {
        return Ok(());
    }
    let name = table.name();
    let (sql, publication) = (name.sql(), quoted(publication));
    Err(Error::config(format!(
        "table {name} has neither a primary key nor a replica identity: once it is published, the server refuses \
         every UPDATE and DELETE on it"
    ))
    .hint(format!(
        "ALTER TABLE {sql} REPLICA IDENTITY FULL; or, if rows are only ever inserted, publish it yourself: \
         CREATE PUBLICATION {publication} FOR TABLE {sql}; (ALTER PUBLICATION {publication} ADD TABLE {sql}; if it \
         is there already)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Identity;

    fn table(oid: u32, name: &str) -> TableInfo {
        TableInfo {
            oid,
            schema: "public".into(),
            table: name.into(),
            form: Form::Table,
            is_logged: true,
            identity: Identity::Full,
            root: None,
            columns: vec![],
            indexes: vec![],
        }
    }

    fn publication(tables: &[u32]) -> Publication {
        Publication {
            all_tables: false,
            all_operations: true,
            via_root: false,
            tables: tables.iter().copied().collect(),
            schemas: BTreeSet::new(),
            comment: None,
        }
    }

    fn run(statements: &[&str]) -> Plan {
        Plan::Run(statements.iter().map(|statement| (*statement).to_owned()).collect())
    }

    #[test]
    fn a_missing_publication_is_made_for_the_wanted_tables() {
        assert_eq!(
            plan("p", None, &[table(1, "a"), table(2, "B\"b")]),
            run(&["CREATE PUBLICATION \"p\" FOR TABLE \"public\".\"a\", \"public\".\"B\"\"b\" \
                   WITH (publish_via_partition_root = false)"])
        );
    }

    #[test]
    fn a_publication_that_fits_is_left_alone() {
        let found = publication(&[1]);
        assert_eq!(plan("p", Some(&found), &[table(1, "a")]), Plan::Keep);
        let all = Publication { all_tables: true, ..publication(&[]) };
        assert_eq!(plan("p", Some(&all), &[table(1, "a")]), Plan::Keep);
        let schema = Publication { schemas: ["public".to_owned()].into(), ..publication(&[]) };
        assert_eq!(plan("p", Some(&schema), &[table(1, "a")]), Plan::Keep);
    }

    #[test]
    fn tables_join_with_the_file_and_those_of_others_stay() {
        let found = publication(&[1, 2]);
        let wanted = [table(1, "a"), table(3, "c")];
        let add = "ALTER PUBLICATION \"p\" ADD TABLE \"public\".\"c\"";
        assert_eq!(plan("p", Some(&found), &wanted), run(&[add]));
    }

    fn settings(more: &str) -> Settings {
        let raw = format!("url = 'postgres://bob@db/shop'\ntables = ['/public\\..*/']\n{more}");
        Settings::resolve(toml::from_str(&raw).unwrap(), "orders").unwrap()
    }

    #[test]
    fn a_publication_of_somebody_else_is_left_alone_and_says_what_is_captured_where_the_file_says_so() {
        let own = Publication { comment: Some(made_by("orders")), ..publication(&[1]) };
        let other = Publication { comment: Some(made_by("others")), ..publication(&[1]) };
        let shared = "alter_publication = false\nonly_published = true";
        for (more, found, may, kept) in [
            ("", &other, true, 2),
            (shared, &own, true, 2),
            (shared, &other, false, 1),
            ("create_publication = false", &own, false, 2),
            ("create_publication = false\nonly_published = true", &own, false, 1),
        ] {
            let (settings, mut tables) = (settings(more), vec![table(1, "a"), table(2, "b")]);
            keep_captured(&settings, Some(found), &mut tables);
            assert_eq!((may_change(&settings, Some(found)), tables.len()), (may, kept), "{more}");
        }
        assert!(may_change(&settings(shared), None));
    }

    #[test]
    fn a_part_is_sent_with_its_root_under_its_own_name() {
        let part = TableInfo { root: Some(1), ..table(2, "part") };
        assert!(publication(&[1]).sends(&part));
        assert!(!Publication { via_root: true, ..publication(&[1]) }.sends(&part));
    }

    #[test]
    fn operations_that_are_not_published_are_never_silently_missing() {
        let found = Publication { all_operations: false, ..publication(&[1]) };
        assert_eq!(
            plan("p", Some(&found), &[table(1, "a")]),
            run(&["ALTER PUBLICATION \"p\" SET (publish = 'insert, update, delete, truncate')"])
        );
    }

    #[test]
    fn a_root_is_sent_under_its_own_name() {
        let root = TableInfo { form: Form::Partitioned, ..table(1, "root") };
        let all = Publication { all_tables: true, ..publication(&[]) };
        let set = "ALTER PUBLICATION \"p\" SET (publish_via_partition_root = true)";
        assert_eq!(plan("p", Some(&all), std::slice::from_ref(&root)), run(&[set]));
        let Plan::Run(statements) = plan("p", None, &[root]) else { panic!() };
        assert!(statements[0].ends_with("WITH (publish_via_partition_root = true)"), "{statements:?}");
    }

    #[test]
    fn a_part_is_not_hidden_behind_its_root() {
        let part = TableInfo { root: Some(1), ..table(2, "part") };
        let all = Publication { all_tables: true, via_root: true, ..publication(&[]) };
        let set = "ALTER PUBLICATION \"p\" SET (publish_via_partition_root = false)";
        assert_eq!(plan("p", Some(&all), std::slice::from_ref(&part)), run(&[set]));
        let only_part = Publication { via_root: true, ..publication(&[2]) };
        assert_eq!(plan("p", Some(&only_part), &[part]), Plan::Keep);
    }

    #[test]
    fn a_table_that_would_break_the_application_is_not_published() {
        let bare = TableInfo { identity: Identity::Default, ..table(1, "log") };
        let error = identified(&bare, "p").unwrap_err();
        assert!(
            error.hint_text().unwrap().starts_with("ALTER TABLE \"public\".\"log\" REPLICA IDENTITY FULL;")
        );
        identified(&table(1, "a"), "p").unwrap();
    }

    #[test]
    fn what_has_no_changes_in_the_log_is_refused() {
        assert!(replicable(&TableInfo { form: Form::Other, ..table(1, "view") }).is_err());
        let error = replicable(&TableInfo { is_logged: false, ..table(1, "cache") }).unwrap_err();
        assert_eq!(error.hint_text(), Some("ALTER TABLE \"public\".\"cache\" SET LOGGED;"));
    }
}
