//! What a worker asks the server for each table and each chunk beside the rows, prepared once: to plan it takes the
//! server longer than to answer it. Start at `Statements::prepare`.

use millrace_core::error::{Error, Result};
use tokio_postgres::{Client, Statement};

use crate::catalog::{self, TableInfo};
use crate::errors;
use crate::snapshot::select::Published;
use crate::snapshot::tracker::MESSAGE_PREFIX;
use crate::tables::TableName;

/// The view looks at every table of the publication, so only where there is something to be found in it: the table
/// itself, or one that it is a part of, has a list or a condition.
const PUBLISHED: &str = "SELECT to_jsonb(t)::text FROM pg_publication_tables t
    WHERE EXISTS (SELECT FROM pg_publication_rel r
        WHERE r.prrelid = ANY (ARRAY(
            SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = $2 AND c.relname = $3
            UNION SELECT a.relid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            CROSS JOIN LATERAL pg_partition_ancestors(c.oid) AS a(relid)
            WHERE n.nspname = $2 AND c.relname = $3 AND c.relispartition))
          AND (to_jsonb(r) ->> 'prattrs' IS NOT NULL OR to_jsonb(r) ->> 'prqual' IS NOT NULL))
    AND t.pubname = $1 AND t.schemaname = $2 AND t.tablename = $3";

const STATISTICS: &str = "SELECT (SELECT greatest(c.reltuples, 0)::bigint FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2),
    (SELECT s.histogram_bounds::text::text[] FROM pg_stats s
      WHERE s.schemaname = $1 AND s.tablename = $2 AND s.attname = $3 LIMIT 1)";

pub struct Statements {
    naming: Statement,
    published: Statement,
    statistics: Statement,
    message: Statement,
}

impl Statements {
    pub async fn prepare(client: &Client) -> Result<Self> {
        let prepare = async |sql| {
            client.prepare(sql).await.map_err(|error| errors::query("cannot prepare a snapshot", error))
        };
        Ok(Self {
            naming: catalog::naming(client).await?,
            published: prepare(PUBLISHED).await?,
            statistics: prepare(STATISTICS).await?,
            message: prepare("SELECT pg_logical_emit_message(true, $1::text, $2::text)").await?,
        })
    }

    /// The table as the transaction under way sees it, or as it is now; `None` where it is gone.
    pub async fn table(&self, client: &Client, table: &TableName) -> Result<Option<TableInfo>> {
        catalog::named(client, &self.naming, table).await
    }

    /// What the publication sends of it, within the chunk's own transaction. Versions without filters show none.
    pub async fn published(
        &self,
        client: &Client,
        publication: &str,
        table: &TableName,
    ) -> Result<Published> {
        let what = || format!("cannot read what publication {publication} sends of {table}");
        let row = client.query_opt(&self.published, &[&publication, &table.schema, &table.table]).await;
        let Some(row) = row.map_err(|error| errors::query(what(), error))? else {
            return Ok(Published::default());
        };
        let text: String = row.try_get(0).map_err(|error| errors::query(what(), error))?;
        serde_json::from_str(&text).map_err(|error| Error::fatal(what()).source(error))
    }

    /// How many rows the statistics know of, and values of a column between which about as many lie each.
    pub async fn statistics(
        &self,
        client: &Client,
        table: &TableName,
        column: &str,
    ) -> Result<(u64, Vec<String>)> {
        let failed = |error| errors::query(format!("cannot look up the statistics of {table}"), error);
        let row = client.query_one(&self.statistics, &[&table.schema, &table.table, &column]).await;
        let row = row.map_err(failed)?;
        let rows: Option<i64> = row.try_get(0).map_err(failed)?;
        let bounds: Option<Vec<String>> = row.try_get(1).map_err(failed)?;
        Ok((u64::try_from(rows.unwrap_or(0)).unwrap_or(0), bounds.unwrap_or_default()))
    }

    /// Writes a message of ours into the log.
    pub async fn message(&self, client: &Client, content: &str) -> Result<()> {
        let sent = client.query(&self.message, &[&MESSAGE_PREFIX, &content]).await;
        sent.map(drop).map_err(|error| errors::query("cannot write a chunk's message", error))
    }
}
