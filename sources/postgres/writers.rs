//! Transactions under way that write, and whose they are: what the end of a drain waits for. Start at `read`.

use millrace_core::error::Result;
use tokio_postgres::Client;

use crate::errors;

/// A transaction that has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    pub xid: String,
    /// A session, or what a prepared one is called.
    pub who: String,
}

/// Of this database, the oldest first. Locks are shown to every role, and so are the sessions that hold them.
const WRITERS: &str = "\
SELECT xid::text, who FROM (
  SELECT l.transactionid AS xid, format('process %s of %s%s', l.pid, a.usename,
    ', for ' || extract(epoch FROM clock_timestamp() - a.xact_start)::bigint || ' s') AS who
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
    AND a.datname = current_database()
  UNION ALL
  SELECT transaction, format('prepared as %L by %s', gid, owner)
  FROM pg_prepared_xacts WHERE database = current_database()) w
ORDER BY age(xid) DESC";

pub async fn read(client: &Client) -> Result<Vec<Writer>> {
    let what = "cannot look up who writes";
    let failed = |error| errors::query(what, error);
    let rows = client.query(WRITERS, &[]).await.map_err(failed)?;
    let writer = |row: &tokio_postgres::Row| Ok(Writer { xid: row.try_get(0)?, who: row.try_get(1)? });
    rows.iter().map(writer).collect::<Result<_, _>>().map_err(failed)
}
