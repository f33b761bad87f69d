//! The replication slot: read, judged, made and dropped. Start at `read`.

use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use millrace_core::progress::State;
use serde::{Deserialize, Deserializer};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::blocker;
use crate::config::Settings;
use crate::errors;
use crate::lsn::Lsn;
use crate::server::{FAILOVER_VERSION, ServerFacts};

/// The only plugin that is spoken here; part of every server.
const PLUGIN: &str = "pgoutput";

/// A row of `pg_replication_slots`. Columns that a server's version does not have yet are `None`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Slot {
    #[serde(rename = "slot_name")]
    pub name: String,
    /// `None`: a physical slot.
    pub plugin: Option<String>,
    pub database: Option<String>,
    pub active: bool,
    pub active_pid: Option<i32>,
    /// `application_name` of the session that holds it, where we may see it.
    pub active_application: Option<String>,
    /// The oldest log that it keeps.
    #[serde(deserialize_with = "lsn")]
    pub restart_lsn: Option<Lsn>,
    /// What was confirmed; a request below it is silently moved up to it.
    #[serde(deserialize_with = "lsn")]
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes that can still be written before the slot is in danger; `None`: unlimited.
    pub safe_wal_size: Option<i64>,
    /// From 17 on.
    pub invalidation_reason: Option<String>,
    /// From 16 on, while only that reason was told.
    pub conflicting: Option<bool>,
    /// From 17 on.
    pub failover: Option<bool>,
    /// Bytes of log that it keeps.
    #[serde(rename = "retained_bytes")]
    pub retained: Option<u64>,
}

fn lsn<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Lsn>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

/// The row as JSON, so that one statement serves every version's columns.
const READ: &str = "\
SELECT (to_jsonb(s) || jsonb_build_object(
  'active_application', (SELECT a.application_name FROM pg_stat_activity a WHERE a.pid = s.active_pid),
  'retained_bytes', greatest(0, pg_wal_lsn_diff(
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END,
    s.restart_lsn))))::text
FROM pg_replication_slots s WHERE s.slot_name = $1";

/// The slot of this name, whatever it is.
pub async fn read(client: &Client, name: &str) -> Result<Option<Slot>> {
    let what = || format!("cannot read slot {name}");
    let row = client.query_opt(READ, &[&name]).await.map_err(|error| errors::query(what(), error))?;
    let Some(row) = row else { return Ok(None) };
    let text: String = row.try_get(0).map_err(|error| errors::query(what(), error))?;
    serde_json::from_str(&text).map(Some).map_err(|error| Error::fatal(what()).source(error))
}

impl Slot {
    /// Refuses a slot that is not ours to read: another plugin, another database, or log already gone.
    pub fn usable(&self, settings: &Settings) -> Result<()> {
        let name = &self.name;
        let other = || {
            format!(
                "drop it (SELECT pg_drop_replication_slot('{name}');) or set slot in [source.postgres] to another name"
            )
        };
        match (self.plugin.as_deref(), self.database.as_deref()) {
            (Some(PLUGIN), Some(database)) if database == settings.database => {}
            (Some(PLUGIN), database) => {
                let database = database.unwrap_or("no database");
                return Err(Error::config(format!(
                    "slot {name} is of {database}, not of {}",
                    settings.database
                ))
                .hint(other()));
            }
            (plugin, _) => {
                let found = plugin.map_or("is physical".to_owned(), |plugin| format!("has plugin {plugin}"));
                return Err(Error::config(format!("slot {name} {found}, and not {PLUGIN}")).hint(other()));
            }
        }
        match self.lost() {
            None => Ok(()),
            Some(reason) => Err(Error::fatal(format!("slot {name} is lost: {reason}"))
                .state(State::PositionLost)
                .hint(format!(
                    "the log after the stored position is gone; copy the tables anew, drop the slot \
                     (SELECT pg_drop_replication_slot('{name}');) and run: millrace position <file> reset --yes"
                ))),
        }
    }

    /// Why the slot cannot be read any more.
    pub fn lost(&self) -> Option<&str> {
        match (&self.invalidation_reason, self.conflicting, self.wal_status.as_deref()) {
            (Some(reason), _, _) => Some(reason),
            (None, Some(true), _) => Some("it conflicts with recovery"),
            (None, _, Some("lost")) => Some("the server removed log that it still needed"),
            (None, _, _) => None,
        }
    }

    /// Refuses, for now, a slot that another session reads. `own_pid`: the server process of our own
    /// replication connection, if there is one.
    pub fn free(&self, own_pid: Option<i32>) -> Result<()> {
        match self.active_pid {
            Some(pid) if self.active && own_pid != Some(pid) => Err(self.taken(pid)),
            _ => Ok(()),
        }
    }

    fn taken(&self, pid: i32) -> Error {
        let name = &self.name;
        let by = self.active_application.as_deref().filter(|name| !name.is_empty());
        let by = by.map(|name| format!(" ({name})")).unwrap_or_default();
        // A logical slot has this from the moment that it can be read.
        if self.plugin.is_some() && self.confirmed_flush_lsn.is_none() {
            return Error::transient(format!(
                "slot {name} is still being made by server process {pid}{by}, which waits for the end of \
                 transactions that were open before"
            ))
            .hint(format!(
                "let them end, the oldest first: SELECT pid, xact_start FROM pg_stat_activity WHERE backend_xid IS \
                 NOT NULL ORDER BY age(backend_xid) DESC; and SELECT * FROM pg_prepared_xacts; or give the slot up: \
                 SELECT pg_terminate_backend({pid});"
            ));
        }
        Error::transient(format!("slot {name} is being read by server process {pid}{by}"))
            .hint(format!("stop the other reader, or, if it is dead: SELECT pg_terminate_backend({pid});"))
    }
}

/// Makes the slot and gives its consistent point: every transaction that commits after it will be sent.
/// Waits for the transactions that are under way now, each of which is a lock to the server.
pub async fn create(client: &Client, settings: &Settings, facts: &ServerFacts) -> Result<Lsn> {
    let name = &settings.slot;
    if !settings.create_slot {
        return Err(Error::config(format!("slot {name} does not exist, and create_slot is false"))
            .hint(format!("SELECT pg_create_logical_replication_slot('{name}', '{PLUGIN}');")));
    }
    // Only a primary's slot can be told to follow a failover.
    let follows = settings.failover_slot && facts.version >= FAILOVER_VERSION && !facts.in_recovery;
    let sql = if follows {
        "SELECT lsn::text FROM pg_create_logical_replication_slot($1, $2, false, false, true)"
    } else {
        "SELECT lsn::text FROM pg_create_logical_replication_slot($1, $2, false, false)"
    };
    let what = || format!("cannot create slot {name}");
    let limit = settings.create_slot_timeout.as_secs();
    let patience = format!("SET statement_timeout = '{limit}s'; SET lock_timeout = 0");
    client.batch_execute(&patience).await.map_err(|error| errors::query(what(), error))?;
    let row = match client.query_one(sql, &[&name, &PLUGIN]).await {
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
            return Err(blocker::timed_out(client, settings, facts).await);
        }
        made => made,
    };
    let row = row.map_err(|error| match error.code() {
        Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED) => errors::query(what(), error)
            .hint("raise max_replication_slots and restart the server, or drop a slot that nobody reads"),
        // Seen absent a moment ago: another instance starts too. Look again.
        Some(&SqlState::DUPLICATE_OBJECT) => {
            Error::transient(format!("slot {name} was created by somebody else just now"))
        }
        _ => errors::query(what(), error),
    })?;
    let as_before = "RESET statement_timeout; RESET lock_timeout";
    client.batch_execute(as_before).await.map_err(|error| errors::query(what(), error))?;
    let text: String = row.try_get(0).map_err(|error| errors::query(what(), error))?;
    text.parse().map_err(|error| Error::fatal(what()).source(error))
}

/// Drops the slot; whether there was one.
pub async fn drop(client: &Client, name: &str) -> Result<bool> {
    drop_idle(client, name, Duration::ZERO).await
}

/// As [`drop`], of a slot whose walsender may need so long to see that its client is gone.
pub async fn drop_idle(client: &Client, name: &str, patience: Duration) -> Result<bool> {
    let until = Instant::now() + patience;
    loop {
        match client.execute("SELECT pg_drop_replication_slot($1)", &[&name]).await {
            Ok(_) => return Ok(true),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => return Ok(false),
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(errors::query(format!("cannot drop slot {name}"), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Raw;
    use millrace_core::error::Kind;

    fn settings() -> Settings {
        let raw: Raw = toml::from_str("url = 'postgres://bob@db/shop'\ntables = ['a.b']").unwrap();
        Settings::resolve(raw, "orders").unwrap()
    }

    /// As PostgreSQL 15 gives it.
    fn slot(change: impl FnOnce(&mut serde_json::Value)) -> Slot {
        let mut json = serde_json::json!({
            "slot_name": "millrace_orders", "plugin": "pgoutput", "slot_type": "logical", "datoid": 5,
            "database": "shop", "temporary": false, "active": false, "active_pid": null, "xmin": null,
            "catalog_xmin": "740", "restart_lsn": "0/1A2B", "confirmed_flush_lsn": "0/1A63",
            "wal_status": "reserved", "safe_wal_size": null, "two_phase": false,
            "active_application": null, "retained_bytes": 56
        });
        change(&mut json);
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_slot_of_ours_is_usable_and_free() {
        let slot = slot(|_| {});
        slot.usable(&settings()).unwrap();
        slot.free(None).unwrap();
        assert_eq!((slot.restart_lsn, slot.retained), (Some(Lsn(0x1A2B)), Some(56)));
    }

    #[test]
    fn a_slot_of_another_plugin_or_database_or_a_physical_one_is_refused() {
        for (key, value) in [
            ("plugin", "wal2json".into()),
            ("database", "other".into()),
            ("plugin", serde_json::Value::Null),
            ("database", serde_json::Value::Null),
        ] {
            let error = slot(|json| json[key] = value).usable(&settings()).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{error}");
            assert!(error.hint_text().unwrap().contains("pg_drop_replication_slot('millrace_orders')"));
        }
    }

    #[test]
    fn a_slot_whose_log_is_gone_is_position_lost() {
        for (key, value) in [
            ("wal_status", "lost".into()),
            ("invalidation_reason", "idle_timeout".into()),
            ("conflicting", true.into()),
        ] {
            let error = slot(|json| json[key] = value).usable(&settings()).unwrap_err();
            assert_eq!((error.kind(), error.shown_state()), (Kind::Fatal, State::PositionLost), "{error}");
        }
    }

    #[test]
    fn a_slot_that_somebody_else_reads_names_the_reader_and_passes_by() {
        let slot = slot(|json| {
            json["active"] = true.into();
            json["active_pid"] = 4711.into();
            json["active_application"] = "pg_recvlogical".into();
        });
        let error = slot.free(None).unwrap_err();
        assert_eq!(error.kind(), Kind::Transient);
        assert!(error.message().contains("4711 (pg_recvlogical)"), "{error}");
        slot.free(Some(4711)).unwrap();
    }

    #[test]
    fn a_slot_that_is_being_made_says_so_and_passes_by() {
        let slot = slot(|json| {
            json["active"] = true.into();
            json["active_pid"] = 4711.into();
            json["confirmed_flush_lsn"] = serde_json::Value::Null;
        });
        let error = slot.free(None).unwrap_err();
        assert_eq!(error.kind(), Kind::Transient);
        assert!(error.message().contains("still being made by server process 4711"), "{error}");
    }
}
