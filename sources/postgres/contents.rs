//! What the captured tables hold, so that one server's rows can be held against another's. Start at `of`.
//!
//! Rows are counted and their hashes added up on the server, in whatever order it reads them. Text is the same on every
//! version, and so is its hash.

use std::collections::BTreeMap;

use millrace_core::error::Result;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::catalog::TableInfo;
use crate::config::Settings;
use crate::position::Contents;
use crate::{control, errors, publication};

/// One snapshot for all tables, in which rows look alike on both servers and a row that a policy hides is an error. Large
/// tables take their time.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL row_security = off; \
    SET LOCAL bytea_output = hex; SET LOCAL lc_monetary = 'C'; SET LOCAL statement_timeout = 0";

/// Reads every captured table from its beginning to its end, on a connection of its own.
pub async fn of(settings: &Settings) -> Result<BTreeMap<String, Contents>> {
    let control = control::connect(settings).await?;
    let client = &control.client;
    let begun = client.batch_execute(BEGIN).await;
    begun.map_err(|error| errors::query("cannot begin to read the tables", error))?;
    let mut contents = BTreeMap::new();
    for table in publication::captured(client, settings).await? {
        tracing::info!(table = %table.name(), "reading all rows");
        contents.insert(table.name().to_string(), of_table(client, &table).await?);
    }
    Ok(contents)
}

async fn of_table(client: &Client, table: &TableInfo) -> Result<Contents> {
    let name = table.name();
    let sql = format!(
        "SELECT count(*), coalesce(sum(hashtextextended((r.*)::text, 0)), 0)::text FROM {} AS r",
        name.sql()
    );
    let what = || format!("cannot add up the rows of table {name}");
    let row = client.query_one(&sql, &[]).await.map_err(|error| match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => errors::query(what(), error).hint(format!(
            "GRANT SELECT ON {} TO <the role of source.postgres.url>, and where the table has row security, \
             ALTER ROLE ... BYPASSRLS; or compare the tables yourself: --unseen",
            name.sql()
        )),
        _ => errors::query(what(), error),
    })?;
    Ok(Contents {
        rows: row.try_get(0).map_err(|error| errors::query(what(), error))?,
        sum: row.try_get(1).map_err(|error| errors::query(what(), error))?,
    })
}

/// In which tables two readings differ; of tables that only the later one has, nothing is known.
pub fn differences(before: &BTreeMap<String, Contents>, now: &BTreeMap<String, Contents>) -> Vec<String> {
    let mut found = Vec::new();
    for (table, held) in before {
        match now.get(table) {
            None => found.push(format!("{table} is not there")),
            Some(holds) if holds.rows != held.rows => {
                found.push(format!("{table} had {} rows and has {}", held.rows, holds.rows));
            }
            Some(holds) if holds != held => found.push(format!("{table} has other rows than it had")),
            Some(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_hold_something_else_are_named_and_new_ones_are_not() {
        let holds = |tables: &[(&str, i64, &str)]| {
            let contents = |(table, rows, sum): &(&str, i64, &str)| {
                ((*table).to_owned(), Contents { rows: *rows, sum: (*sum).to_owned() })
            };
            tables.iter().map(contents).collect::<BTreeMap<_, _>>()
        };
        let before =
            holds(&[("a.gone", 1, "1"), ("a.more", 1, "1"), ("a.other", 1, "1"), ("a.same", 0, "0")]);
        let now = holds(&[("a.more", 2, "1"), ("a.new", 1, "1"), ("a.other", 1, "2"), ("a.same", 0, "0")]);
        let found = differences(&before, &now);
        let expected =
            ["a.gone is not there", "a.more had 1 rows and has 2", "a.other has other rows than it had"];
        assert_eq!(found, expected);
    }
}
