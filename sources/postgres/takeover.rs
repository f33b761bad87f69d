//! Debezium's offsets: one of them becomes a position of ours, and a position of ours one of theirs. Start at
//! `taken`.
//!
//! An offset names the last event that was delivered (`lsn`, in transaction `txId`) and the end of the commit
//! before it (`lsn_commit`). Where that event's own transaction ends is not in it, so the slot is asked,
//! without moving it.

use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Row};

use crate::config::Settings;
use crate::lsn::Lsn;
use crate::pgoutput::{self, Message};
use crate::position::{Open, Stored, Streamed};
use crate::tables::quoted;
use crate::{control, errors, server, slot};

/// Messages that are looked at first; four times as many at each further look.
const PEEK_FIRST: i32 = 1_000;

/// A transaction beyond this many messages behind the slot's position is not looked for.
const PEEK_MAX: i32 = 16_000_000;

/// An offset as Debezium writes it, of what counts here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Offset {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lsn_proc: Option<u64>,
    #[serde(default, rename = "messageType", skip_serializing_if = "Option::is_none")]
    message_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lsn_commit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lsn: Option<u64>,
    #[serde(default, rename = "txId", skip_serializing_if = "Option::is_none")]
    tx_id: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ts_usec: Option<i64>,
    /// Only in offsets of a snapshot's rows.
    #[serde(default, skip_serializing)]
    snapshot: Option<serde_json::Value>,
    #[serde(default, skip_serializing)]
    snapshot_completed: Option<bool>,
}

/// What an offset says of the transaction in which it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Everything up to here was delivered, and nothing behind it.
    Whole(Lsn),
    /// The transactions up to `commit`, and of this one the events up to `event`.
    Inside { commit: Option<Lsn>, event: Lsn, xid: u32 },
}

/// The position that an offset means, proved to be one that the slot can serve.
pub async fn taken(settings: &Settings, offset: &str) -> Result<Position> {
    let offset = parsed(offset)?;
    let control = control::connect(settings).await?;
    let facts = server::preconditions(&control.client, settings).await?;
    let Some(slot) = slot::read(&control.client, &settings.slot).await? else {
        return Err(Error::config(format!("slot {} does not exist", settings.slot))
            .hint("name Debezium's slot: it holds what was not delivered yet"));
    };
    slot.usable(settings)?;
    slot.free(None)?;
    let confirmed = slot.confirmed_flush_lsn.unwrap_or_default();
    let system = facts.system_identifier.to_string();
    let at = |end| Streamed::starting_at(&system, facts.timeline, &settings.slot, end);
    let mut position = match place(&offset)? {
        Place::Whole(end) => at(end.max(confirmed)),
        Place::Inside { commit, event, xid } => match find(&control.client, settings, event, xid).await? {
            // Not before the slot's own place: it was confirmed only after all of it was delivered.
            Some(open) => Streamed { open: Some(open), ..at(commit.unwrap_or(confirmed).max(confirmed)) },
            None if confirmed >= event => at(confirmed),
            None => {
                return Err(Error::fatal(format!(
                    "slot {} does not have transaction {xid} of Debezium's offset at {event}",
                    settings.slot
                ))
                .hint("is it the offset of this slot? if so, begin anew with `millrace position <file> set --yes`"));
            }
        },
    };
    (position.lsn, position.lsn_commit, position.lsn_proc) = (offset.lsn, offset.lsn_commit, offset.lsn_proc);
    (position.tx_id, position.ts_usec) = (offset.tx_id, offset.ts_usec);
    Ok(position.to_position())
}

/// The offset from which Debezium goes on where this position stands.
pub fn handed_back(position: &Position) -> Result<String> {
    let Stored::Streamed(at) = Stored::parse(position)? else {
        return Err(Error::config("the connector has not begun yet: there is nothing to hand back"));
    };
    if let Some(open) = at.open {
        return Err(Error::config(format!(
            "transaction {} is delivered in part, and Debezium's offset could not say how far",
            open.xid
        ))
        .hint("start the connector once more, let it come to the transaction's end, and stop it"));
    }
    let end = Some(at.end_lsn.0);
    let offset = Offset {
        lsn_proc: end,
        message_type: Some("COMMIT".to_owned()),
        lsn_commit: end,
        lsn: end,
        tx_id: at.tx_id,
        ts_usec: at.ts_usec,
        ..Offset::default()
    };
    // Numbers and a word: serde_json cannot fail on them.
    Ok(serde_json::to_string(&offset).unwrap_or_default())
}

fn parsed(text: &str) -> Result<Offset> {
    let offset: Offset = serde_json::from_str(text).map_err(|error| {
        Error::config("the offset is not one of Debezium's Postgres connector").source(error)
    })?;
    match (&offset.snapshot, offset.snapshot_completed) {
        (None, _) | (Some(_), Some(true)) => Ok(offset),
        (Some(_), _) => Err(Error::config("Debezium has not finished its snapshot")
            .hint("let it finish, or begin anew: no row of it can be told from those that are missing")),
    }
}

fn place(offset: &Offset) -> Result<Place> {
    let (event, commit) = (offset.lsn.map(Lsn), offset.lsn_commit.map(Lsn));
    match (event, commit, offset.tx_id) {
        // A snapshot's rows all name the place where the stream begins.
        (Some(event), _, _) if offset.snapshot.is_some() => Ok(Place::Whole(event)),
        (Some(event), Some(commit), _) if event <= commit => Ok(Place::Whole(commit)),
        (Some(event), commit, Some(xid)) => Ok(Place::Inside { commit, event, xid }),
        (_, Some(commit), _) => Ok(Place::Whole(commit)),
        (event, None, None) => match offset.lsn_proc.map(Lsn).or(event) {
            Some(end) => Ok(Place::Whole(end)),
            None => Err(Error::config("the offset names no place in the log")),
        },
        (None, None, Some(_)) => Err(Error::config("the offset names no place in the log")),
    }
}

/// The transaction of the offset among those that the slot has, and how far it was delivered: events of one
/// place in the log count as delivered together, which is how Debezium goes on from such an offset too.
async fn find(client: &Client, settings: &Settings, event: Lsn, xid: u32) -> Result<Option<Open>> {
    let sql = "SELECT lsn::text, data FROM pg_logical_slot_peek_binary_changes($1, NULL, $2, \
               'proto_version', '1', 'publication_names', $3, 'messages', 'true')";
    let what = || format!("cannot look into slot {}", settings.slot);
    let publication = quoted(&settings.publication);
    let mut limit = PEEK_FIRST;
    loop {
        let rows = client.query(sql, &[&settings.slot, &limit, &publication]).await;
        let rows = rows.map_err(|error| errors::query(what(), error))?;
        let messages: Result<Vec<_>, _> = rows.iter().map(message).collect();
        let messages = messages.map_err(|error| errors::query(what(), error))?;
        if let Some(open) = furthest(&messages, event, xid)? {
            return Ok(Some(open));
        }
        let seen = i32::try_from(messages.len()).unwrap_or(i32::MAX);
        if seen < limit || limit >= PEEK_MAX {
            return Ok(None);
        }
        limit = limit.saturating_mul(4);
    }
}

/// A row of the answer: the place of a message in the log, and the message.
fn message(row: &Row) -> Result<(String, &[u8]), tokio_postgres::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

fn furthest(messages: &[(String, &[u8])], event: Lsn, xid: u32) -> Result<Option<Open>> {
    let mut found: Option<Open> = None;
    for (lsn, data) in messages {
        let message = pgoutput::parse(data)
            .map_err(|error| Error::fatal("postgres sent a malformed pgoutput message").source(error))?;
        match message {
            Message::Begin { final_lsn, xid: begun, .. } if begun == xid => {
                found = Some(Open { final_lsn: Lsn(final_lsn), xid, change_lsn: event, n: 0 });
            }
            Message::Commit { .. } if found.is_some() => break,
            Message::Insert { .. }
            | Message::Update { .. }
            | Message::Delete { .. }
            | Message::Truncate { .. }
            | Message::Message { transactional: true, .. } => {
                let at: Lsn =
                    lsn.parse().map_err(|error| Error::fatal("not a place in the log").source(error))?;
                if let Some(open) = found.as_mut().filter(|_| at == event) {
                    open.n += 1;
                }
            }
            _ => {}
        }
    }
    // Counted from one, and the index begins at zero.
    Ok(found.map(|open| Open { n: open.n.saturating_sub(1), ..open }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::writer::Writer;

    fn offset(text: &str) -> Result<Place> {
        place(&parsed(text)?)
    }

    #[test]
    fn an_offset_lies_inside_a_transaction_until_its_commit_is_in_it() {
        for (text, expected) in [
            (
                r#"{"lsn_proc":200,"messageType":"INSERT","lsn_commit":100,"lsn":200,"txId":7,"ts_usec":1}"#,
                Place::Inside { commit: Some(Lsn(100)), event: Lsn(200), xid: 7 },
            ),
            (r#"{"lsn_proc":300,"lsn_commit":300,"lsn":200,"txId":7}"#, Place::Whole(Lsn(300))),
            (r#"{"lsn":50,"txId":6}"#, Place::Inside { commit: None, event: Lsn(50), xid: 6 }),
            (
                r#"{"last_snapshot_record":true,"lsn":40,"txId":5,"ts_usec":1,"snapshot":"INITIAL","snapshot_completed":true}"#,
                Place::Whole(Lsn(40)),
            ),
        ] {
            assert_eq!(offset(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn an_unfinished_snapshot_and_an_offset_of_something_else_are_refused() {
        for text in
            [r#"{"lsn":40,"snapshot":"INITIAL","snapshot_completed":false}"#, r#"{"sec":1,"ord":2}"#, "x"]
        {
            assert!(offset(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_furthest_delivered_change_is_the_last_of_its_place() {
        let insert = Writer::default().tag(b'I').u32(1).tag(b'N').tuple(&[]).0;
        let begin = |xid: u32, final_lsn: u64| Writer::default().tag(b'B').u64(final_lsn).u64(0).u32(xid).0;
        let commit = Writer::default().tag(b'C').tag(0).u64(0).u64(0).u64(0).0;
        let (first, second) = (begin(6, 0x90), begin(7, 0x200));
        let log = [
            ("0/50".to_owned(), first.as_slice()),
            ("0/A0".to_owned(), insert.as_slice()),
            ("0/98".to_owned(), commit.as_slice()),
            ("0/50".to_owned(), second.as_slice()),
            ("0/60".to_owned(), insert.as_slice()),
            ("0/A0".to_owned(), insert.as_slice()),
            ("0/A0".to_owned(), insert.as_slice()),
            ("0/B0".to_owned(), insert.as_slice()),
            ("0/208".to_owned(), commit.as_slice()),
        ];
        let open = furthest(&log, Lsn(0xA0), 7).unwrap();
        assert_eq!(open, Some(Open { final_lsn: Lsn(0x200), xid: 7, change_lsn: Lsn(0xA0), n: 1 }));
        assert_eq!(furthest(&log, Lsn(0xA0), 9).unwrap(), None);
    }

    #[test]
    fn a_whole_position_is_handed_back_and_one_inside_a_transaction_is_not() {
        let mut at = Streamed::starting_at("7", 1, "s", Lsn(0x10));
        let text = handed_back(&at.to_position()).unwrap();
        assert_eq!(text, r#"{"lsn_proc":16,"messageType":"COMMIT","lsn_commit":16,"lsn":16}"#);
        at.open = Some(Open { final_lsn: Lsn(0x30), xid: 5, change_lsn: Lsn(0x20), n: 2 });
        assert!(handed_back(&at.to_position()).is_err());
    }
}
