//! What a connector leaves behind on the server: looked up and taken away. Start at `remnants`.

use millrace_core::error::Result;
use tokio_postgres::Client;

use crate::config::Settings;
use crate::control;
use crate::errors;
use crate::publication::made_by;
use crate::slot;
use crate::tables::quoted;

/// Slots like ours in this database that nobody reads, with what each keeps.
const ORPHANS: &str = "SELECT format('slot %s, which keeps %s of log', slot_name,
    pg_size_pretty(greatest(0, pg_wal_lsn_diff(
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END,
        restart_lsn))))
    FROM pg_replication_slots
    WHERE database = current_database() AND plugin = 'pgoutput' AND NOT active
      AND slot_name LIKE 'millrace\\_%' AND slot_name <> $1 ORDER BY slot_name";

/// What is there of this connector; a publication that it did not make is not its own. and what looks as if its connector were gone.
pub async fn remnants(settings: &Settings) -> Result<(Vec<String>, Vec<String>)> {
    let control = control::connect(settings).await?;
    let mut there = Vec::new();
    if let Some(slot) = slot::read(&control.client, &settings.slot).await? {
        slot.free(None)?;
        there.push(format!("slot {}, which keeps {} bytes of log", slot.name, slot.retained.unwrap_or(0)));
    }
    if has_publication(&control.client, settings).await? {
        there.push(format!("publication {}", settings.publication));
    }
    let rows = control.client.query(ORPHANS, &[&settings.slot]).await;
    let what = "cannot look for forgotten slots";
    let rows = rows.map_err(|error| errors::query(what, error))?;
    let orphans = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>();
    Ok((there, orphans.map_err(|error| errors::query(what, error))?))
}

/// Drops the slot and the publication, if they are this connector's to drop.
pub async fn remove(settings: &Settings) -> Result<()> {
    let control = control::connect(settings).await?;
    if slot::drop(&control.client, &settings.slot).await? {
        tracing::info!(slot = %settings.slot, "dropped the slot");
    }
    if has_publication(&control.client, settings).await? {
        let name = &settings.publication;
        let dropped = control.client.batch_execute(&format!("DROP PUBLICATION {}", quoted(name))).await;
        dropped.map_err(|error| errors::query(format!("cannot drop publication {name}"), error))?;
    }
    Ok(())
}

async fn has_publication(client: &Client, settings: &Settings) -> Result<bool> {
    let what = || format!("cannot look up publication {}", settings.publication);
    let sql = "SELECT EXISTS (SELECT FROM pg_publication
               WHERE pubname = $1 AND obj_description(oid, 'pg_publication') = $2)";
    let row = client.query_one(sql, &[&settings.publication, &made_by(&settings.connector)]).await;
    row.and_then(|row| row.try_get(0)).map_err(|error| errors::query(what(), error))
}
