//! `millrace drain`: everything that the server has is delivered, and nothing more comes. Start at `prove`.
//!
//! It runs beside the stream and has no way of its own to know a change: what is asked is whether the stream, which
//! captures what the file says and nothing else, delivered anything between two places in the log.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::progress::{Progress, now_us};
use tokio_postgres::Client;

use crate::config::Settings;
use crate::control::{self, Control};
use crate::lsn::Lsn;
use crate::position::{Drained, Stored};
use crate::writers::{self, Writer};
use crate::{contents, errors, server};

/// How long transactions may take to end that are under way when writing is said to have stopped.
const QUIET_PATIENCE: Duration = Duration::from_secs(60);

/// Rounds in which something still comes, before somebody is taken to be writing.
const ROUNDS: usize = 5;

/// Between two looks at who still writes, and at how far the stream is.
const LOOK: Duration = Duration::from_millis(50);

/// What `drain` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Have the tables' rows added up, for `adopt` to compare them.
    pub compares: bool,
}

/// Returns when everything is delivered that was committed before, nothing of it in the last round.
pub async fn prove(settings: &Settings, progress: &Progress, wish: Wish) -> Result<Drained> {
    let Control { client, ended: _ended, .. } = control::connect(settings).await?;
    if server::facts(&client).await?.in_recovery {
        return Err(Error::config(format!(
            "{} is a standby, where nobody can tell who still writes",
            settings.server
        ))
        .hint("name the primary in url"));
    }
    let mut before = None;
    for _ in 0..ROUNDS {
        quiet(&client).await?;
        let end = beat(&client).await?;
        while progress.confirmed.load(Ordering::Relaxed) < end.0 {
            tokio::time::sleep(LOOK).await;
        }
        let received = progress.received_changes.load(Ordering::Relaxed);
        if let Some((was, tables)) = before.take()
            && was == received
        {
            return Ok(Drained { at_ms: now_us() / 1000, tables });
        }
        // Those of which the stream knows already, and their snapshot might not.
        quiet(&client).await?;
        let tables = if wish.compares { Some(contents::of(settings).await?) } else { None };
        before = Some((received, tables));
    }
    Err(Error::config("changes of captured tables go on coming")
        .hint("stop whoever writes to them, then run millrace drain again: nothing is lost meanwhile"))
}

/// Until every transaction has ended that writes now: what it wrote may lie anywhere before its commit.
async fn quiet(client: &Client) -> Result<()> {
    let deadline = Instant::now() + QUIET_PATIENCE;
    let mut left = writers::read(client).await?;
    while let Some(Writer { xid, who }) = left.first() {
        if Instant::now() >= deadline {
            return Err(Error::config(format!("transaction {xid} still writes: {who}"))
                .hint("end it, and stop whoever writes, then run millrace drain again"));
        }
        tokio::time::sleep(LOOK).await;
        let now = writers::read(client).await?;
        left.retain(|writer| now.iter().any(|other| other.xid == writer.xid));
    }
    Ok(())
}

/// A place in the log behind everything that was committed so far.
async fn beat(client: &Client) -> Result<Lsn> {
    let what = "cannot mark the end of the log";
    let sql = "SELECT pg_logical_emit_message(false, 'millrace', '')::text";
    let row = client.query_one(sql, &[]).await.map_err(|error| errors::query(what, error))?;
    let text: String = row.try_get(0).map_err(|error| errors::query(what, error))?;
    text.parse().map_err(|error| Error::fatal(what).source(error))
}

/// The position of a connector that is through with its server.
pub fn marked(position: &Position, drained: Drained) -> Result<Position> {
    match Stored::parse(position)? {
        Stored::Streamed(mut at) if at.open.is_none() => {
            // What comes next comes from another server, and later than any time that was chosen.
            at.since_us = None;
            at.drained = Some(drained);
            Ok(at.to_position())
        }
        Stored::Streamed(_) | Stored::Creating { .. } => {
            Err(Error::fatal(format!("the drained position is none to stop at: {position}")))
        }
    }
}
