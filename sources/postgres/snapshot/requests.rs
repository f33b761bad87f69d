//! Which tables a signal wants read: start at `take`.

use millrace_core::error::Result;
use millrace_core::requests::{Asked, Requests};
use millrace_core::signal::Signal;
use tokio_postgres::Client;

use crate::catalog::TableInfo;
use crate::config::Settings;
use crate::control;
use crate::errors;
use crate::publication;
use crate::snapshot::select::Filter;
use crate::snapshot::table::{Phase, TableNote, Unread, is_part};
use crate::tables::quoted;

/// Does what a signal says; gives the tables that it wants read.
pub async fn take(
    requests: &Requests,
    signal: Signal,
    settings: &Settings,
    client: &Client,
) -> Result<Vec<Unread>> {
    let Some((asked, execute)) = requests.hear(signal) else { return Ok(Vec::new()) };
    let tables = publication::captured(client, settings).await?;
    let (mut unread, mut all, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
    for table in tables.iter().filter(|table| !is_part(table, &tables)) {
        let (name, table_name) = (table.name().to_string(), table.name());
        if !execute.collections.iter().any(|wanted| wanted.fits(&name)) {
            continue;
        }
        all.push(name.clone());
        let is_keyless = table.key().is_empty();
        let surrogate = execute.surrogate_key.as_ref();
        let has_column = |key: &String| table.columns.iter().any(|c| c.name == *key && c.not_null);
        let filter = execute.filter(&name).map(str::to_owned);
        let of_table = Asked {
            id: asked.id.clone(),
            filter,
            surrogate_key: surrogate.cloned(),
            blocking: execute.blocking,
        };
        let refused = match surrogate {
            // They are events, and have their time.
            _ if settings.outbox(&table_name).is_some() => {
                tracing::warn!(table = %name, "a signal wants the rows of an outbox: they would be events twice");
                Some("SKIPPED")
            }
            // No change can be told to be of a row: only where none goes out are the rows in order with them.
            _ if is_keyless && !execute.blocking => Some("NO_PRIMARY_KEY"),
            Some(key) if !has_column(key) => Some("SQL_EXCEPTION"),
            _ if !is_understood(settings, table, Filter::of(Some(&of_table))).await? => Some("SQL_EXCEPTION"),
            _ => None,
        };
        if let Some(status) = refused {
            refusals.push((name, status));
            continue;
        }
        let note = TableNote { asked: Some(of_table), ..TableNote::new(Phase::Reading) };
        unread.push(Unread { table: table_name, note, listed: Vec::new(), is_keyless, order_by: None });
    }
    requests.started(&asked, &all, &refusals);
    Ok(unread)
}

/// Whether the server understands a filter, without running it; a whole statement has to give the table's columns. On a
/// connection of its own: others would find the role's search path on a shared one.
async fn is_understood(settings: &Settings, table: &TableInfo, filter: Filter<'_>) -> Result<bool> {
    let name = table.name();
    let columns = table.columns.iter().filter(|column| !column.generated);
    let sql = match filter {
        Filter::None => return Ok(true),
        Filter::Condition(condition) => format!("SELECT FROM {} WHERE ({condition})", name.sql()),
        Filter::Statement(statement) => {
            let names: Vec<String> = columns.clone().map(|column| quoted(&column.name)).collect();
            format!("SELECT {} FROM ({statement}) AS {}", names.join(", "), quoted(&name.table))
        }
    };
    let cannot = |error| errors::query("cannot ask about a signal's filter", error);
    let client = control::connect(settings).await?.client;
    client.batch_execute("BEGIN").await.map_err(cannot)?;
    client.batch_execute(control::PATH_OF_ROLE).await.map_err(cannot)?;
    let refused = match client.prepare(&sql).await {
        Ok(prepared) => {
            let given = prepared.columns().iter().map(|column| column.type_().oid());
            let is_it = !matches!(filter, Filter::Statement(_)) || given.eq(columns.map(|c| c.type_oid));
            if is_it {
                return Ok(true);
            }
            "it gives columns of other types than the table's".to_owned()
        }
        Err(error) if error.as_db_error().is_none() => return Err(cannot(error)),
        Err(error) => error.as_db_error().map(ToString::to_string).unwrap_or_default(),
    };
    tracing::warn!(table = %name, ?filter, "a signal's filter is refused: {refused}");
    Ok(false)
}
