//! `millrace check` on what a promotion would lack: settings of the primary and of the standby. Start at `check`.

use millrace_core::error::Result;
use millrace_core::report::Report;
use tokio_postgres::Client;

use crate::config::Settings;
use crate::errors;
use crate::server::{FAILOVER_VERSION, ServerFacts};
use crate::slot::Slot;

/// Slots of standbys, and those that the server waits for before it sends anything to us.
const STANDBYS: &str = "\
SELECT ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE slot_type = 'physical' ORDER BY 1),
  ARRAY(SELECT trim(BOTH ' \"' FROM name) FROM
    unnest(string_to_array(current_setting('synchronized_standby_slots', true), ',')) name WHERE trim(name) <> '')";

/// What keeps the rows of the catalog on the primary that decoding on a standby needs.
const FEEDBACK: &str = "SELECT current_setting('hot_standby_feedback') = 'on'";

const SUBJECT: &str = "failover";

pub async fn check(
    report: &mut Report,
    client: &Client,
    settings: &Settings,
    facts: &ServerFacts,
    slot: Option<&Slot>,
) -> Result<()> {
    if facts.in_recovery {
        return of_standby(report, client).await;
    }
    if !settings.failover_slot || facts.version < FAILOVER_VERSION {
        return Ok(());
    }
    if let Some(slot) = slot.filter(|slot| slot.failover == Some(false)) {
        let hint = format!(
            "psql \"dbname={} replication=database\" -c 'ALTER_REPLICATION_SLOT {} (FAILOVER true);'",
            settings.database, slot.name
        );
        report.warn(SUBJECT, format!("slot {} does not follow the promotion of a standby", slot.name), hint);
    }
    let what = "cannot look up the standbys";
    let row = client.query_one(STANDBYS, &[]).await.map_err(|error| errors::query(what, error))?;
    let column = |at| row.try_get::<_, Vec<String>>(at).map_err(|error| errors::query(what, error));
    standbys(report, &column(0)?, &column(1)?);
    Ok(())
}

fn standbys(report: &mut Report, there: &[String], waited_for: &[String]) {
    let set = |names: &str| {
        format!("ALTER SYSTEM SET synchronized_standby_slots = {names}; SELECT pg_reload_conf();")
    };
    let missing: Vec<&str> =
        waited_for.iter().filter(|name| !there.contains(name)).map(String::as_str).collect();
    if !missing.is_empty() {
        let lack = format!("the server sends nothing until slot {} is there", missing.join(", "));
        return report.fail(SUBJECT, lack, set("'<the slots of the standbys that may be promoted>'"));
    }
    match (there, waited_for) {
        ([], _) => report.pass(SUBJECT, "no standby has a slot here"),
        (there, []) => report.warn(
            SUBJECT,
            "a standby may lack what was delivered when it is promoted",
            format!(
                "{} and on the standby sync_replication_slots = on, hot_standby_feedback = on, and a dbname in \
                 primary_conninfo",
                set(&format!("'{}'", there.join(", ")))
            ),
        ),
        (_, waited_for) => {
            report.pass(SUBJECT, format!("what is sent is on {} before", waited_for.join(", ")));
        }
    }
}

async fn of_standby(report: &mut Report, client: &Client) -> Result<()> {
    let what = "cannot look up the standby's settings";
    let row = client.query_one(FEEDBACK, &[]).await.map_err(|error| errors::query(what, error))?;
    if row.try_get(0).map_err(|error| errors::query(what, error))? {
        report.pass("hot_standby_feedback", "on");
    } else {
        report.warn(
            "hot_standby_feedback",
            "the primary may remove what decoding needs, and the slot is lost then",
            "on the standby: ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();",
        );
    }
    Ok(())
}
