//! From what the sink remembers to the place where streaming begins: start at `place`.
//!
//! Never guesses. A first start leaves its mark in the sink before it creates the slot, so that a crash
//! between the two is told from a slot that lost its position; every later start proves that the slot
//! still has all that comes after the position.

use std::time::{Duration, Instant};

use millrace_core::chaos::{self, Point};
use millrace_core::error::{Error, Result};
use millrace_core::position::{Note, Position};
use millrace_core::progress::State;
use millrace_core::source::Feed;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::blocker;
use crate::config::Settings;
use crate::control;
use crate::errors;
use crate::handshake::Handshake;
use crate::lsn::Lsn;
use crate::position::{Stored, Streamed, creating};
use crate::server::{self, ServerFacts};
use crate::slot::{self, Slot};
use crate::wire::Wire;

/// How long a standby may take to replay up to the position before it counts as restored.
const REPLAY_PATIENCE: Duration = Duration::from_secs(60);

/// The slot becomes active under our own walsender at once; this is for a loaded server.
const ACTIVE_PATIENCE: Duration = Duration::from_secs(5);

/// Whether nothing has been delivered yet.
pub fn is_first(from: Option<&Position>) -> Result<bool> {
    let stored = from.map(Stored::parse).transpose()?;
    Ok(!matches!(stored, Some(Stored::Streamed(_))))
}

/// Refuses to go on where an operator said that nothing more is to come from the server.
pub fn undrained(from: Option<&Position>) -> Result<()> {
    let Some(Stored::Streamed(position)) = from.map(Stored::parse).transpose()? else { return Ok(()) };
    if position.drained.is_none() {
        return Ok(());
    }
    let (at, of) = (position.end_lsn, position.system_identifier);
    Err(Error::config(format!("the connector was drained at {at} of server {of}, for an upgrade"))
        .hint(
            "when the server is upgraded, and before anybody writes: millrace adopt <file>; to go on at the old \
             server as it was: the same",
        )
        .state(State::Stopped))
}

/// The end of what is delivered, where something was and no operator has accepted what is missing before it: what
/// was noted of the publication says something only then.
pub fn unbroken(from: Option<&Position>) -> Result<Option<Lsn>> {
    let stored = from.map(Stored::parse).transpose()?;
    Ok(match stored {
        Some(Stored::Streamed(position)) if !position.chosen => Some(position.end_lsn),
        _ => None,
    })
}

/// Why the server cannot serve the position any more, if it cannot.
pub async fn lost(
    settings: &Settings,
    client: &Client,
    facts: &ServerFacts,
    from: Option<&Position>,
) -> Result<Option<Error>> {
    let Some(Stored::Streamed(position)) = from.map(Stored::parse).transpose()? else { return Ok(None) };
    let slot = slot::read(client, &settings.slot).await?;
    let facts = replayed(client, facts, &position).await?;
    match verify(settings, &facts, &position, slot.as_ref()) {
        Err(error) if matches!(error.shown_state(), State::PositionLost | State::PositionAhead) => {
            may_create(settings)?;
            Ok(Some(error))
        }
        _ => Ok(None),
    }
}

/// The position to stream from, verified against the server, or `None` when the pipeline is stopping. `notes`
/// become durable with the position of a first start.
pub async fn place(
    settings: &Settings,
    client: &Client,
    facts: &ServerFacts,
    feed: &mut Feed,
    from: Option<Position>,
    notes: Vec<Note>,
) -> Result<Option<Streamed>> {
    let stored = from.as_ref().map(Stored::parse).transpose()?;
    let slot = slot::read(client, &settings.slot).await?;
    match (stored, slot) {
        (Some(Stored::Streamed(position)), slot) => {
            let facts = replayed(client, facts, &position).await?;
            verify(settings, &facts, &position, slot.as_ref())?;
            Ok(Some(Streamed { chosen: false, ..*position }))
        }
        // Nothing was delivered from it: the crash came between creating it and saying so.
        (Some(Stored::Creating { slot: begun }), found) => {
            if begun != settings.slot && found.is_some() {
                return Err(without_position(&settings.slot));
            }
            if found.is_some() {
                may_create(settings)?;
            }
            // Once more: an instance that was shut out meanwhile fails here, before it drops the slot that
            // the one after it has just made.
            if !feed.commit(creating(&begun)).await? {
                return Ok(None);
            }
            if slot::drop(client, &begun).await? {
                tracing::info!(slot = %begun, "dropped the slot of a first start that did not finish");
            }
            create(settings, client, facts, feed, notes).await
        }
        (None, None) if may_create(settings).is_err() => Err(missing_beforehand(settings)),
        (None, None) => {
            if !feed.commit(creating(&settings.slot)).await? {
                return Ok(None);
            }
            create(settings, client, facts, feed, notes).await
        }
        (None, Some(slot)) if settings.slot_made_beforehand || settings.takes_slot => {
            slot.usable(settings)?;
            slot.free(None)?;
            let Some(confirmed) = slot.confirmed_flush_lsn else {
                return Err(Error::fatal(format!("slot {} has no confirmed position", slot.name))
                    .hint("it is being created, or it is not a logical slot")
                    .state(State::PositionLost));
            };
            begin_at(settings, facts, feed, confirmed, notes).await
        }
        (None, Some(slot)) => Err(without_position(&slot.name)),
    }
}

/// The position that an operator chose, proved to be one that the slot can serve: `lsn`, or the oldest place
/// that the slot still has.
pub async fn chosen(settings: &Settings, lsn: Option<&str>) -> Result<Position> {
    let control = control::connect(settings).await?;
    let facts = server::preconditions(&control.client, settings).await?;
    let Some(slot) = slot::read(&control.client, &settings.slot).await? else {
        return Err(Error::config(format!(
            "slot {} does not exist, so there is no place to go on from",
            settings.slot
        ))
        .hint(
            "millrace position <file> reset --yes: the next start creates the slot and goes on from then",
        ));
    };
    slot.usable(settings)?;
    slot.free(None)?;
    let oldest = slot.confirmed_flush_lsn.unwrap_or(facts.end);
    let mut since_us = None;
    let at = match lsn {
        None => oldest,
        Some("now") => facts.end,
        Some(time) if time.contains(['-', ':']) => {
            since_us = Some(past(&control.client, time).await?);
            oldest
        }
        Some(text) => text.parse().map_err(|error| {
            Error::config("that is not a place in the log")
                .source(error)
                .hint("an LSN like 16/B374D848, a time like 2026-01-31T18:00:00Z, or now")
        })?,
    };
    if at < oldest || at > facts.end {
        return Err(Error::config(format!(
            "{at} is not a place that slot {} can go on from: it has {oldest} to {}",
            slot.name, facts.end
        )));
    }
    let system = facts.system_identifier.to_string();
    let position = Streamed::starting_at(&system, facts.timeline, &settings.slot, at);
    Ok(Streamed { since_us, chosen: true, ..position }.to_position())
}

/// A time as the server reads it, which has to lie behind it: one to come would pass over what nobody meant.
async fn past(client: &Client, time: &str) -> Result<i64> {
    let sql = "SELECT (extract(epoch FROM $1::text::timestamptz) * 1000000)::bigint, $1::text::timestamptz <= now()";
    let row = client.query_one(sql, &[&time]).await.map_err(|error| match error.code() {
        Some(&SqlState::INVALID_DATETIME_FORMAT | &SqlState::DATETIME_FIELD_OVERFLOW) => {
            Error::config(format!("{time} is not a time"))
                .source(error)
                .hint("write it like 2026-01-31T18:00:00Z")
        }
        _ => errors::query(format!("cannot read {time} as a time"), error),
    })?;
    let what = "cannot read a time";
    let column = |at| row.try_get(at).map_err(|error| errors::query(what, error));
    let is_past: bool = row.try_get(1).map_err(|error| errors::query(what, error))?;
    if is_past {
        return column(0);
    }
    Err(Error::config(format!("{time} is still to come, by the server's clock"))
        .hint("begin with what is committed from now on: millrace position <file> set --to now --yes"))
}

/// The position of a connector that never ran: its slot, if there is one, is dropped at the next start.
pub async fn forgotten(settings: &Settings) -> Result<Position> {
    let control = control::connect(settings).await?;
    if let Some(slot) = slot::read(&control.client, &settings.slot).await? {
        slot.free(None)?;
        may_create(settings)?;
    }
    Ok(creating(&settings.slot))
}

/// Once more when the slot is ours alone: until then somebody else could have moved it.
pub async fn verify_active(
    settings: &Settings,
    client: &Client,
    position: &Streamed,
    walsender: i32,
    wire: &mut Wire,
) -> Result<()> {
    let deadline = Instant::now() + ACTIVE_PATIENCE;
    loop {
        let Some(slot) = slot::read(client, &settings.slot).await? else {
            return Err(gone(settings, position));
        };
        if slot.active_pid == Some(walsender) {
            return not_ahead(&slot, position);
        }
        wire.refused()?;
        if Instant::now() >= deadline {
            return Err(Error::transient(format!(
                "slot {} is not active under our own walsender (process {walsender})",
                slot.name
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server on another timeline was promoted: what it has must still contain all that we delivered. Gives whether the
/// position went back.
pub async fn follow_timeline(
    handshake: &mut Handshake,
    facts: &ServerFacts,
    position: &mut Streamed,
) -> Result<bool> {
    if facts.timeline == position.timeline {
        return Ok(false);
    }
    if facts.timeline < position.timeline {
        return Err(ahead(&format!(
            "it is on timeline {}, and the position on timeline {}",
            facts.timeline, position.timeline
        )));
    }
    let rows = handshake.query(&format!("TIMELINE_HISTORY {}", facts.timeline)).await?;
    let history = rows.into_iter().next().and_then(|row| row.into_iter().nth(1).flatten());
    promoted(facts.timeline, history.as_deref().unwrap_or_default(), position)
}

/// The position on the timeline of a promoted server, by the history of that timeline. An idle primary's log is
/// passed as far as it reaches, which may be further than its standby had come when it died. Where nothing was
/// delivered of what the standby lacks, nothing is lost, and the position goes back to where it took over: then `true`.
fn promoted(timeline: u32, history: &str, position: &mut Streamed) -> Result<bool> {
    let reached = position.furthest();
    match left_timeline_at(history, position.timeline) {
        Some(switch) if reached <= switch => {
            position.timeline = timeline;
            Ok(false)
        }
        Some(switch) if position.delivered().is_none_or(|delivered| delivered <= switch) => {
            tracing::info!(passed = %reached, from = %switch, "the promoted server never had the end of the log");
            position.timeline = timeline;
            position.end_lsn = switch;
            // It was held at a place that was only passed.
            for held in &mut position.held {
                held.end_lsn = held.end_lsn.min(switch);
            }
            Ok(true)
        }
        Some(switch) => Err(ahead(&format!(
            "the server left timeline {} at {switch}, before the position {reached}",
            position.timeline
        ))),
        None => Err(Error::fatal(format!(
            "the server is on timeline {timeline}, which does not come from timeline {} of the position",
            position.timeline
        ))
        .hint("this is another branch of the server's history: compare the tables with their topics, then set the position anew with `millrace position`")
        .state(State::PositionLost)),
    }
}

/// Where a timeline ends according to a history file: lines of `<timeline> <switch point> <reason>`.
fn left_timeline_at(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let of = words.next()?.parse::<u32>().ok()?;
        let switch = words.next()?.parse().ok()?;
        (of == timeline).then_some(switch)
    })
}

/// A standby that was just restarted, or lags, may still be replaying what was delivered from it before.
async fn replayed(client: &Client, facts: &ServerFacts, position: &Streamed) -> Result<ServerFacts> {
    let mut facts = facts.clone();
    let deadline = Instant::now() + REPLAY_PATIENCE;
    while facts.in_recovery && facts.end < position.furthest() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(250)).await;
        facts = server::facts(client).await?;
    }
    Ok(facts)
}

/// Whether the server can serve the position, with this slot.
pub fn verify(
    settings: &Settings,
    facts: &ServerFacts,
    position: &Streamed,
    slot: Option<&Slot>,
) -> Result<()> {
    if position.system_identifier != facts.system_identifier.to_string() {
        return Err(Error::fatal(format!(
            "the position is of server {}, and this is server {}",
            position.system_identifier, facts.system_identifier
        ))
        .hint("point source.postgres.url at the old server, or start this connector under a new name")
        .state(State::PositionLost));
    }
    if position.slot != settings.slot {
        return Err(Error::config(format!(
            "the position belongs to slot {}, and the file names slot {}",
            position.slot, settings.slot
        ))
        .hint(format!(
            "set source.postgres.slot = \"{}\", or start this connector under a new name",
            position.slot
        )));
    }
    let Some(slot) = slot else { return Err(gone(settings, position)) };
    slot.usable(settings)?;
    slot.free(None)?;
    not_ahead(slot, position)?;
    let reached = position.furthest();
    if facts.timeline == position.timeline && reached > facts.end {
        return Err(ahead(&format!("its log ends at {}, before the position {reached}", facts.end)));
    }
    Ok(())
}

/// The server silently moves an older request forward to what the slot confirmed, and what lies between is
/// lost without a word: so it is compared here.
fn not_ahead(slot: &Slot, position: &Streamed) -> Result<()> {
    match slot.confirmed_flush_lsn {
        Some(confirmed) if confirmed <= position.confirmable() => Ok(()),
        confirmed => Err(Error::fatal(format!(
            "slot {} was moved or created anew behind this connector: it confirmed {}, past the position {}",
            slot.name,
            confirmed.map_or_else(|| "nothing yet".to_owned(), |lsn| lsn.to_string()),
            position.confirmable()
        ))
        .hint(
            "the changes between the two are gone from the slot; compare the tables with their topics, \
             then accept the gap with `millrace position <file> set --yes`",
        )
        .state(State::PositionLost)),
    }
}

async fn create(
    settings: &Settings,
    client: &Client,
    facts: &ServerFacts,
    feed: &mut Feed,
    notes: Vec<Note>,
) -> Result<Option<Streamed>> {
    chaos::pass(Point::CreatingCommitted);
    let making = slot::create(client, settings, facts);
    let consistent = blocker::shown_while(settings, &feed.progress, making).await?;
    chaos::pass(Point::SlotCreated);
    tracing::info!(slot = %settings.slot, at = %consistent, "created the replication slot");
    begin_at(settings, facts, feed, consistent, notes).await
}

async fn begin_at(
    settings: &Settings,
    facts: &ServerFacts,
    feed: &mut Feed,
    at: Lsn,
    notes: Vec<Note>,
) -> Result<Option<Streamed>> {
    let position =
        Streamed::starting_at(&facts.system_identifier.to_string(), facts.timeline, &settings.slot, at);
    let committed = feed.commit_with(position.to_position(), notes).await?;
    chaos::pass(Point::FirstPositionCommitted);
    Ok(committed.then_some(position))
}

/// A slot that somebody else made is never dropped.
fn may_create(settings: &Settings) -> Result<()> {
    if settings.create_slot && !settings.slot_made_beforehand {
        return Ok(());
    }
    let slot = &settings.slot;
    Err(Error::config(format!("slot {slot} would have to be dropped and made anew, and the file forbids it"))
        .hint(format!(
            "SELECT pg_drop_replication_slot('{slot}'), then make it anew and run \
             `millrace position <file> set --yes`; or set create_slot = true"
        )))
}

fn missing_beforehand(settings: &Settings) -> Error {
    let slot = &settings.slot;
    Error::config(format!("slot {slot} does not exist, and this connector may not create it")).hint(format!(
        "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput'), or set create_slot = true"
    ))
}

fn gone(settings: &Settings, position: &Streamed) -> Error {
    let slot = &settings.slot;
    Error::fatal(format!("slot {slot} is gone, and with it the changes after {}", position.end_lsn))
        .hint(
            "somebody dropped it, or the server was replaced; compare the tables with their topics, then \
             start anew with `millrace position <file> reset --yes`",
        )
        .state(State::PositionLost)
}

fn without_position(name: &str) -> Error {
    Error::fatal(format!("slot {name} exists, but the sink has no position for this connector"))
        .hint(format!(
            "either the position topic was lost (then compare the tables with their topics and run \
             `millrace position <file> set --yes`), or the slot is a stranger's: then name another one, or, \
             if nobody needs it, SELECT pg_drop_replication_slot('{name}')"
        ))
        .state(State::PositionLost)
}

fn ahead(what: &str) -> Error {
    Error::fatal(format!("the server was restored to an earlier time: {what}"))
        .hint(
            "it would skip every change until its log passes the position; events after the restore point \
             were delivered and no longer exist in the database: compare, then run \
             `millrace position <file> set --yes`",
        )
        .state(State::PositionAhead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_delivered_is_ahead_of_a_promoted_server_and_what_was_passed_is_not() {
        let history = "1\t0/3000000\tno recovery target specified\n";
        let switch = Lsn(0x300_0000);
        let at = |end, commit: Option<u64>| Streamed {
            lsn_commit: commit,
            ..Streamed::starting_at("7", 1, "s", Lsn(end))
        };
        for (mut position, expected) in [
            (at(0x2FF_0000, Some(0x2FF_0000)), Some(Lsn(0x2FF_0000))),
            // Idle for a while: the end is a keepalive's.
            (at(0x300_1000, Some(0x2FF_0000)), Some(switch)),
            (at(0x300_1000, None), Some(switch)),
            (at(0x300_1000, Some(0x300_1000)), None),
            (
                Streamed {
                    snapshot_chunk: Some(3),
                    snapshot_lsn: Some(Lsn(0x2FF_0000)),
                    ..at(0x300_1000, None)
                },
                Some(switch),
            ),
            (
                Streamed {
                    snapshot_chunk: Some(3),
                    snapshot_lsn: Some(Lsn(0x300_0800)),
                    ..at(0x300_1000, None)
                },
                None,
            ),
            // Of a version that noted no place.
            (Streamed { snapshot_chunk: Some(3), ..at(0x300_1000, Some(0x2FF_0000)) }, None),
        ] {
            let before = position.end_lsn;
            let told = promoted(2, history, &mut position);
            match expected {
                Some(end) => {
                    assert_eq!((position.end_lsn, position.timeline), (end, 2));
                    assert_eq!(told.expect("nothing is lost"), end < before);
                }
                None => assert_eq!(told.unwrap_err().shown_state(), State::PositionAhead),
            }
        }
    }

    #[test]
    fn a_history_file_says_where_each_timeline_was_left() {
        let history = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tbefore 2024\n";
        assert_eq!(left_timeline_at(history, 1), Some(Lsn(0x300_0000)));
        assert_eq!(left_timeline_at(history, 2), Some(Lsn(0x500_0000)));
        assert_eq!(left_timeline_at(history, 3), None);
    }
}
