//! `millrace adopt`: a connector that was drained goes on at another server, the one that its database was upgraded
//! or moved to. Start at `adopted`.
//!
//! Nothing of the old log is on the new server, so what proves that nothing was missed is what the tables hold: the
//! same as when the old server was drained. The slot is made before they are read, so a change after that is in it.

use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use tokio_postgres::Client;

use crate::config::Settings;
use crate::control;
use crate::lsn::Lsn;
use crate::position::{Drained, Stored, Streamed};
use crate::server::ServerFacts;
use crate::{contents, publication, server, slot, start};

/// What an operator has looked at himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consent {
    /// The tables are what they were: they need not be compared.
    pub unseen: bool,
    /// Places in the log may begin again below those that were delivered.
    pub lower_log: bool,
}

/// The position that the new server is gone on from.
pub async fn adopted(settings: &Settings, stored: &Position, consent: Consent) -> Result<Position> {
    let Stored::Streamed(mut old) = Stored::parse(stored)? else { return Err(not_drained()) };
    let Some(drained) = old.drained.take() else { return Err(not_drained()) };
    old.nothing_waits("the old server still has what waits")?;
    let control = control::connect(settings).await?;
    let facts = server::preconditions(&control.client, settings).await?;
    if facts.in_recovery {
        return Err(
            Error::config(format!("{} is a standby", settings.server)).hint("name the primary in url")
        );
    }
    if old.system_identifier == facts.system_identifier.to_string() {
        // Nothing was upgraded: what was drained goes on.
        let slot = slot::read(&control.client, &settings.slot).await?;
        start::verify(settings, &facts, &old, slot.as_ref())?;
        return Ok(old.to_position());
    }
    if !consent.lower_log {
        above(facts.end, &old)?;
    }
    let (at, is_made) = slot_of(settings, &control.client, &facts).await?;
    let compared = async {
        if !consent.lower_log {
            above(at, &old)?;
        }
        if consent.unseen { Ok(()) } else { compare(settings, &drained).await }
    };
    if let Err(error) = compared.await {
        // A slot that is only in the way of the next try.
        if is_made {
            slot::drop(&control.client, &settings.slot).await?;
        }
        return Err(error);
    }
    let system = facts.system_identifier.to_string();
    let mut position = Streamed::starting_at(&system, facts.timeline, &settings.slot, at);
    // How the old server published the tables says nothing of this one, where the catalog has other numbers.
    position.chosen = true;
    // Numbers of chunks go on; nothing was delivered from this server yet.
    position.snapshot_chunk = old.snapshot_chunk;
    position.snapshot_lsn = old.snapshot_chunk.map(|_| Lsn::default());
    Ok(position.to_position())
}

/// Where the new server's slot begins, and whether it was made here. A server of version 17 and later has its slots
/// from before the upgrade; one may also have been made by hand, before anybody wrote.
async fn slot_of(settings: &Settings, client: &Client, facts: &ServerFacts) -> Result<(Lsn, bool)> {
    // First: what is committed before a publication is there cannot be sent.
    publication::ensure(client, settings, facts).await?;
    let Some(slot) = slot::read(client, &settings.slot).await? else {
        return Ok((slot::create(client, settings, facts).await?, true));
    };
    slot.usable(settings)?;
    slot.free(None)?;
    let confirmed = slot.confirmed_flush_lsn;
    let confirmed = confirmed.ok_or_else(|| Error::config(format!("slot {} is being created", slot.name)))?;
    Ok((confirmed, false))
}

async fn compare(settings: &Settings, drained: &Drained) -> Result<()> {
    let Some(before) = &drained.tables else {
        return Err(Error::config("the tables' rows were not added up when the connector was drained, so nobody can tell whether the new server has the same")
            .hint("compare them yourself, then: millrace adopt <file> --unseen"));
    };
    let found = contents::differences(before, &contents::of(settings).await?);
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::config(format!("the tables are not what they were when the connector was drained: {}", found.join("; ")))
        .hint(
            "whoever wrote after the drain wrote what was never delivered: take it back, or bring the old server up \
             again, run millrace drain there and upgrade anew; where the slot was there before the first new write, \
             or you made up for what is missing: millrace adopt <file> --unseen",
        ))
}

/// Consumers and `millrace audit` take a place below the last one for something that comes a second time.
fn above(end: Lsn, old: &Streamed) -> Result<()> {
    if end >= old.end_lsn {
        return Ok(());
    }
    // Of 16 MB each, 256 to a log.
    let next = (old.end_lsn.0 >> 24) + 1;
    let segment = format!("00000001{:08X}{:08X}", next >> 8, next & 0xFF);
    Err(Error::config(format!("the new server's log is at {end}, below {} of the old one", old.end_lsn)).hint(format!(
        "positions in headers would go back; pg_upgrade sees to it by itself, otherwise stop the new server and move \
         its log on: pg_resetwal -l {segment} -D <its data>; or accept it: millrace adopt <file> --lower-log"
    )))
}

fn not_drained() -> Error {
    Error::config("the connector was not drained: what its old server still had for it would be lost unseen")
        .hint(
            "bring the old server up with nobody writing, and run millrace drain <file>; if that is gone, compare \
             the tables with their topics and begin anew with `millrace position <file> reset --yes`",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_begins_again_below_the_old_one_is_refused_with_the_segment_to_move_on_to() {
        for (end, segment) in
            [(0x5_0300_0000, "000000010000000500000004"), (0x5_FF00_0001, "000000010000000600000000")]
        {
            let old = Streamed::starting_at("1", 1, "s", Lsn(end));
            above(Lsn(end), &old).expect("a later one goes on");
            let error = above(Lsn(0x200_0000), &old).expect_err("an earlier one is refused");
            assert!(error.hint_text().is_some_and(|hint| hint.contains(segment)), "{error:?}");
        }
    }
}
