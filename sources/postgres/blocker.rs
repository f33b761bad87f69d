//! What the making of a slot waits for: every transaction of the server that was under way when it began, of
//! whatever database. Start at `shown_while`.

use std::time::Duration;

use millrace_core::error::{Error, Result};
use millrace_core::progress::{Progress, State};
use tokio_postgres::Client;

use crate::config::Settings;
use crate::server::ServerFacts;
use crate::tables::quoted;
use crate::{control, errors};

/// A slot is usually made within milliseconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Everybody may see who holds which transaction; since when, only for one's own or as a monitor.
const OLDEST: &str = "\
SELECT l.pid, x.gid, x.database::text, a.usename::text, a.application_name,
  extract(epoch FROM clock_timestamp() - coalesce(x.prepared, a.xact_start))::bigint
FROM pg_locks l
LEFT JOIN pg_prepared_xacts x ON x.transaction = l.transactionid
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
  AND l.pid IS DISTINCT FROM pg_backend_pid()
ORDER BY age(l.transactionid) DESC LIMIT 1";

/// The oldest transaction under way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Blocker {
    who: String,
    /// Where we may see it.
    seconds: Option<i64>,
    ends_it: String,
}

impl Blocker {
    async fn oldest(client: &Client) -> Result<Option<Self>> {
        let what = "cannot look for the oldest transaction";
        let row = client.query_opt(OLDEST, &[]).await.map_err(|error| errors::query(what, error))?;
        let Some(row) = row else { return Ok(None) };
        let text =
            |index| row.try_get::<_, Option<String>>(index).map_err(|error| errors::query(what, error));
        let pid: Option<i32> = row.try_get(0).map_err(|error| errors::query(what, error))?;
        let seconds = row.try_get(5).map_err(|error| errors::query(what, error))?;
        let (gid, database, user, application) = (text(1)?, text(2)?, text(3)?, text(4)?);
        Ok(match (pid, gid) {
            (_, Some(gid)) => Some(Self {
                who: format!("prepared transaction {gid:?}"),
                seconds,
                ends_it: format!(
                    "in database {}: ROLLBACK PREPARED '{}'; (or COMMIT PREPARED)",
                    quoted(&database.unwrap_or_default()),
                    gid.replace('\'', "''")
                ),
            }),
            (Some(pid), None) => {
                let of = [user, application].into_iter().flatten().filter(|name| !name.is_empty());
                let of = of.collect::<Vec<_>>().join(", ");
                let of = if of.is_empty() { of } else { format!(" ({of})") };
                Some(Self {
                    who: format!("the transaction of server process {pid}{of}"),
                    seconds,
                    ends_it: format!("SELECT pg_terminate_backend({pid});"),
                })
            }
            (None, None) => None,
        })
    }

    /// What is told of it, and what ends it.
    fn told(&self) -> (String, String) {
        let age = self.seconds.map(|seconds| format!(", open for {seconds} s")).unwrap_or_default();
        (format!("{}{age}", self.who), format!("let it end, or: {}", self.ends_it))
    }
}

/// The error of a slot that could not be made in time.
pub async fn timed_out(client: &Client, settings: &Settings, facts: &ServerFacts) -> Error {
    let (slot, seconds) = (&settings.slot, settings.create_slot_timeout.as_secs());
    let what = format!("slot {slot} could not be made within {seconds} s");
    if facts.in_recovery {
        return Error::transient(format!(
            "{what}: a standby waits for its primary to say what is under way there"
        ))
        .hint("on the primary: SELECT pg_log_standby_snapshot(); and end what is open there for long");
    }
    match Blocker::oldest(client).await {
        Ok(Some(blocker)) => {
            let (told, hint) = blocker.told();
            Error::transient(format!("{what}, because the server waits for {told}")).hint(hint)
        }
        // It has ended by now.
        _ => Error::transient(format!("{what}: a transaction that was under way did not end")),
    }
}

/// Shows, while a slot is being made, what the server waits for.
pub async fn shown_while<T>(
    settings: &Settings,
    progress: &Progress,
    making: impl Future<Output = Result<T>>,
) -> Result<T> {
    let telling = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            tell(settings, progress).await;
        }
    };
    tokio::select! {
        biased;
        made = making => made,
        () = telling => Err(Error::transient("the making of the slot was given up")),
    }
}

/// On a connection of its own: the other one waits.
async fn tell(settings: &Settings, progress: &Progress) {
    if let Ok(control) = control::connect(settings).await
        && let Ok(Some(blocker)) = Blocker::oldest(&control.client).await
    {
        let (told, hint) = blocker.told();
        let reason = format!("slot {} is made once the server has seen the end of {told}", settings.slot);
        progress.show(State::Starting, Some(reason), Some(hint));
    }
}
