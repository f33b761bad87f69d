//! Which tables a signal wants read: start at `take`.

use millrace_core::error::Result;
use millrace_core::requests::{Asked, Requests};
use millrace_core::signal::Signal;
use tokio_postgres::Client;

use crate::config::Settings;
use crate::errors;
use crate::publication;
use crate::snapshot::table::{Phase, TableNote, Unread};
use crate::tables::TableName;

/// Does what a signal says; gives the tables that it wants read.
pub async fn take(
    requests: &Requests,
    signal: Signal,
    settings: &Settings,
    client: &Client,
) -> Result<Vec<Unread>> {
    let Some((asked, execute)) = requests.hear(signal) else { return Ok(Vec::new()) };
    let tables = publication::wanted(client, settings).await?.tables;
    let mut unread = Vec::new();
    for table in &tables {
        let (name, table_name) = (table.name().to_string(), table.name());
        if !execute.collections.iter().any(|wanted| wanted.fits(&name)) {
            continue;
        }
        let surrogate = execute.surrogate_key.as_ref();
        let has_column = |key: &String| table.columns.iter().any(|c| c.name == *key && c.not_null);
        let filter = execute.filter(&name).map(str::to_owned);
        let refused = match surrogate {
            _ if table.key().is_empty() => Some("NO_PRIMARY_KEY"),
            Some(key) if !has_column(key) => Some("SQL_EXCEPTION"),
            _ if !is_condition(client, &table_name, filter.as_deref()).await? => Some("SQL_EXCEPTION"),
            _ => None,
        };
        if let Some(status) = refused {
            requests.scanned(Some(&asked), name, status);
            continue;
        }
        let of_table = Asked { id: asked.id.clone(), filter, surrogate_key: surrogate.cloned() };
        let note = TableNote { asked: Some(of_table), ..TableNote::new(Phase::Reading) };
        unread.push(Unread { table: table_name, note, listed: Vec::new(), is_keyless: false });
    }
    let names: Vec<String> = unread.iter().map(|unread| unread.table.to_string()).collect();
    requests.started(&asked, &names);
    Ok(unread)
}

/// Whether the server understands a condition; without running it.
async fn is_condition(client: &Client, table: &TableName, filter: Option<&str>) -> Result<bool> {
    let Some(filter) = filter else { return Ok(true) };
    let prepared = client.prepare(&format!("SELECT FROM {} WHERE ({filter})", table.sql())).await;
    match prepared {
        Ok(_) => Ok(true),
        Err(error) if error.as_db_error().is_none() => {
            Err(errors::query("cannot ask about a signal's filter", error))
        }
        Err(error) => {
            tracing::warn!(%table, filter, "a signal's filter is refused: {error}");
            Ok(false)
        }
    }
}
