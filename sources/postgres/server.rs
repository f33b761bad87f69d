//! What the server is, and whether it can serve a logical slot at all. Start at `preconditions`.

use std::time::Duration;

use millrace_core::error::{Error, Result};
use serde::{Deserialize, Deserializer};
use tokio_postgres::Client;

use crate::config::Settings;
use crate::errors;
use crate::lsn::Lsn;
use crate::tables::quoted;

/// The first version with `messages` in pgoutput.
const OLDEST_VERSION: u32 = 140_000;
/// The first version that decodes on a standby.
const STANDBY_VERSION: u32 = 160_000;
/// The first version with slots that follow a failover.
pub const FAILOVER_VERSION: u32 = 170_000;
/// The first version with `FOR TABLES IN SCHEMA`.
pub const SCHEMAS_VERSION: u32 = 150_000;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServerFacts {
    /// As in `server_version_num`: 150018.
    pub version: u32,
    /// Drawn when the cluster was made; a restored copy has the same.
    #[serde(deserialize_with = "unsigned")]
    pub system_identifier: u64,
    pub timeline: u32,
    pub in_recovery: bool,
    /// How far the log is safe on the primary's disk, or replayed on a standby.
    #[serde(deserialize_with = "lsn")]
    pub end: Lsn,
    pub wal_level: String,
    /// Zero: never.
    #[serde(deserialize_with = "milliseconds", rename = "wal_sender_timeout_ms")]
    pub wal_sender_timeout: Duration,
    pub encoding: String,
    pub can_replicate: bool,
    pub can_create: bool,
    pub slots_max: u32,
    pub slots_used: u32,
    pub walsenders_max: u32,
    pub walsenders_used: u32,
}

fn lsn<'de, D: Deserializer<'de>>(from: D) -> Result<Lsn, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

/// SQL has no unsigned numbers: the identifier's upper half arrives as negative ones.
fn unsigned<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    i64::deserialize(from).map(i64::cast_unsigned)
}

fn milliseconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_millis)
}

/// The timeline comes from the name of the segment being written: the control file still names the old
/// one until the first checkpoint after a promotion. On a standby there is no such name. Whether it is a standby is
/// asked once: a promotion in between would give the old timeline with the end of the new one.
const FACTS: &str = "\
SELECT json_build_object(
  'version', current_setting('server_version_num')::int,
  'system_identifier', (SELECT system_identifier FROM pg_control_system()),
  'timeline', CASE WHEN s.is_standby
    THEN (SELECT timeline_id::bigint FROM pg_control_checkpoint())
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END,
  'in_recovery', s.is_standby,
  'end', CASE WHEN s.is_standby THEN coalesce(pg_last_wal_replay_lsn(), '0/0')
    ELSE pg_current_wal_flush_lsn() END,
  'wal_level', current_setting('wal_level'),
  'wal_sender_timeout_ms', (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'),
  'encoding', current_setting('server_encoding'),
  'can_replicate', (SELECT r.rolreplication OR r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)
    OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'rds_replication'
               AND pg_has_role(current_user, r.oid, 'member')),
  'can_create', has_database_privilege(current_database(), 'CREATE'),
  'slots_max', current_setting('max_replication_slots')::int,
  'slots_used', (SELECT count(*) FROM pg_replication_slots),
  'walsenders_max', current_setting('max_wal_senders')::int,
  'walsenders_used', (SELECT count(*) FROM pg_stat_replication))::text
FROM (SELECT pg_is_in_recovery() AS is_standby OFFSET 0) s";

pub async fn facts(client: &Client) -> Result<ServerFacts> {
    let what = "cannot read the server's state";
    let row = client.query_one(FACTS, &[]).await.map_err(|error| errors::query(what, error))?;
    let text: String = row.try_get(0).map_err(|error| errors::query(what, error))?;
    serde_json::from_str(&text).map_err(|error| Error::fatal(what).source(error))
}

/// Reads the facts and refuses a server that cannot serve this connector, whatever its tables are.
pub async fn preconditions(client: &Client, settings: &Settings) -> Result<ServerFacts> {
    let facts = facts(client).await?;
    for condition in CONDITIONS {
        condition(&facts, settings).map_err(|problem| Error::config(problem.message).hint(problem.hint))?;
    }
    Ok(facts)
}

/// What the server lacks, and what to type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    pub subject: &'static str,
    pub message: String,
    pub hint: String,
}

/// A condition that holds, as `check` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub subject: &'static str,
    pub detail: String,
}

/// Says what was seen where the condition holds, else what to do.
pub type Condition = fn(&ServerFacts, &Settings) -> Result<Held, Lack>;

/// In the order in which they are worth mending.
pub const CONDITIONS: [Condition; 5] = [version, wal_level, role, encoding, standby];

fn version(facts: &ServerFacts, _: &Settings) -> Result<Held, Lack> {
    let (subject, major) = ("server version", facts.version / 10_000);
    if facts.version >= OLDEST_VERSION {
        return Ok(Held { subject, detail: format!("PostgreSQL {major}") });
    }
    let message = format!("the server is PostgreSQL {major}, older than 14");
    Err(Lack { subject, message, hint: "upgrade it to 14 or later".to_owned() })
}

fn wal_level(facts: &ServerFacts, _: &Settings) -> Result<Held, Lack> {
    let subject = "wal_level";
    if facts.wal_level == "logical" {
        return Ok(Held { subject, detail: "logical".to_owned() });
    }
    Err(Lack {
        subject,
        message: format!("wal_level is {}, and only logical can be decoded", facts.wal_level),
        hint: "ALTER SYSTEM SET wal_level = logical; and restart the server (on RDS: rds.logical_replication = 1)"
            .to_owned(),
    })
}

fn role(facts: &ServerFacts, settings: &Settings) -> Result<Held, Lack> {
    let (subject, user) = ("role", &settings.user);
    if facts.can_replicate {
        return Ok(Held { subject, detail: format!("{user} may replicate") });
    }
    let role = quoted(user);
    Err(Lack {
        subject,
        message: format!("role {user} may not replicate"),
        hint: format!("ALTER ROLE {role} REPLICATION; (on RDS: GRANT rds_replication TO {role};)"),
    })
}

/// The server converts its text to UTF-8 for us, except where it does not know what the text is.
fn encoding(facts: &ServerFacts, settings: &Settings) -> Result<Held, Lack> {
    let subject = "encoding";
    if facts.encoding != "SQL_ASCII" {
        return Ok(Held { subject, detail: facts.encoding.clone() });
    }
    Err(Lack {
        subject,
        message: format!("database {} has encoding SQL_ASCII, whose text may be anything", settings.database),
        hint: "move it into a database with ENCODING 'UTF8'".to_owned(),
    })
}

fn standby(facts: &ServerFacts, settings: &Settings) -> Result<Held, Lack> {
    let subject = "recovery";
    match (facts.in_recovery, facts.version >= STANDBY_VERSION) {
        (false, _) => Ok(Held { subject, detail: "a primary".to_owned() }),
        (true, true) => Ok(Held { subject, detail: "a standby".to_owned() }),
        (true, false) => Err(Lack {
            subject,
            message: format!("{} is a standby, which decodes from PostgreSQL 16 on", settings.server.host),
            hint: "name the primary in url".to_owned(),
        }),
    }
}
