//! Debezium's offsets: one of them becomes a position of ours, and a position of ours one of theirs. Start at
//! `taken`.
//!
//! An offset names the last message that was delivered: its place in the log (`lsn`), its kind (`messageType`) and its
//! transaction (`txId`). Transactions come in the order of their commits, so everything that committed before that one
//! was delivered too. Places of changes prove nothing: one that is older than the newest commit may be of a
//! transaction that committed after it. Where the transaction ends is not in the offset, so the slot is asked, without
//! moving it.

use futures_util::TryStreamExt;
use millrace_core::error::{Error, Result};
use millrace_core::position::{Notes, Position};
use millrace_core::takeover::{self, Incremental};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::config::Settings;
use crate::lsn::Lsn;
use crate::pgoutput::{self, Message};
use crate::position::{Open, Stored, Streamed};
use crate::snapshot::table;
use crate::tables::quoted;
use crate::{control, errors, server, slot, start};

/// Messages that are looked at first; four times as many at each further look.
const PEEK_FIRST: i32 = 1_000;

/// A transaction beyond this many messages behind the slot's position is not looked for.
const PEEK_MAX: i32 = 16_000_000;

/// An offset as Debezium writes it, of what counts here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Offset {
    /// There as soon as anything was streamed.
    #[serde(default, skip_serializing)]
    lsn_proc: Option<u64>,
    /// Since 2.0 or so.
    #[serde(default, rename = "messageType", skip_serializing_if = "Option::is_none")]
    message_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lsn_commit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lsn: Option<u64>,
    /// With its epoch in offsets of a snapshot's rows.
    #[serde(default, rename = "txId", skip_serializing_if = "Option::is_none")]
    tx_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ts_usec: Option<i64>,
    /// Of the changes at the place, how many were delivered; since 3.7.
    #[serde(default, skip_serializing)]
    lsn_events_processed: Option<u32>,
    /// Only in offsets of a snapshot's rows: its kind, or just `true`.
    #[serde(default, skip_serializing)]
    snapshot: Option<serde_json::Value>,
    #[serde(default, skip_serializing)]
    snapshot_completed: Option<bool>,
    #[serde(default, skip_serializing)]
    last_snapshot_record: Option<bool>,
    #[serde(flatten, skip_serializing)]
    incremental: Incremental,
}

/// What an offset says was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Everything up to here, and nothing behind it.
    Whole(Lsn),
    /// The transactions that committed before this one, and of it the messages up to one.
    Inside { xid: u32, last: Last },
}

/// The last message that was delivered of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    at: Lsn,
    /// `None`: of a release that did not tell.
    kind: Option<Kind>,
    /// How many changes of this place were delivered, where that is told.
    count: Option<u32>,
}

/// As `messageType` has them. A row can lie where a message or a begin lies too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Begin,
    Change,
    Message,
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
    let (end, open) = match place(&offset)? {
        Place::Whole(end) => (end, None),
        Place::Inside { xid, last } => match find(&control.client, settings, xid, last).await? {
            Some(found) => (found.before.max(offset.lsn_commit.map(Lsn)).unwrap_or_default(), found.open),
            // Confirmed by the driver, with the transaction delivered to its end.
            None if confirmed >= last.at && last.kind != Some(Kind::Begin) => (confirmed, None),
            None => {
                return Err(Error::fatal(format!(
                    "slot {} does not have transaction {xid} of Debezium's offset at {}",
                    settings.slot, last.at
                ))
                .hint("is it the offset of this slot? if so, begin anew with `millrace position <file> set --yes`"));
            }
        },
    };
    // Not before the slot's own place: it was confirmed only after all of it was delivered.
    let end = end.max(confirmed);
    let system = facts.system_identifier.to_string();
    let mut position = Streamed::starting_at(&system, facts.timeline, &settings.slot, end);
    position.open = open;
    (position.lsn, position.lsn_commit, position.lsn_proc) = (offset.lsn, offset.lsn_commit, offset.lsn_proc);
    position.tx_id = offset.tx_id.and_then(|xid| u32::try_from(xid).ok());
    position.ts_usec = offset.ts_usec;
    position.chosen = true;
    Ok(position.to_position())
}

/// An error while the slot is read: whoever does is not stopped yet.
pub async fn nobody_reads(settings: &Settings) -> Result<()> {
    let control = control::connect(settings).await?;
    let slot = slot::read(&control.client, &settings.slot).await?;
    slot.map_or(Ok(()), |slot| slot.free(None))
}

/// The offset from which Debezium goes on where this position stands, proved to be one that the slot can serve and
/// that nobody moves any more.
pub async fn handed_back(settings: &Settings, position: &Position, notes: &Notes) -> Result<String> {
    let at = whole(position, notes)?;
    let control = control::connect(settings).await?;
    let facts = server::preconditions(&control.client, settings).await?;
    let slot = slot::read(&control.client, &settings.slot).await?;
    start::verify(settings, &facts, &at, slot.as_ref())?;
    Ok(written(&at))
}

/// The position, where nothing is delivered in part.
fn whole(position: &Position, notes: &Notes) -> Result<Streamed> {
    let Stored::Streamed(at) = Stored::parse(position)? else {
        return Err(Error::config("the connector has not begun yet: there is nothing to hand back"));
    };
    takeover::all_rows_are_read(&table::unfinished(notes))?;
    at.nothing_waits("Debezium's offset cannot say what waits")?;
    match at.open {
        Some(open) => Err(Error::config(format!(
            "transaction {} is delivered in part, and Debezium's offset could not say how far",
            open.xid
        ))
        .hint("start the connector once more, let it come to the transaction's end, and stop it")),
        None => Ok(*at),
    }
}

/// Without `lsn_proc`, as after a snapshot: Debezium begins right there. With it, it would first search the log for a
/// message at that very place, and take a row of a later transaction, written just behind the commit, for the last one
/// that was delivered.
fn written(at: &Streamed) -> String {
    let end = Some(at.end_lsn.0);
    let offset = Offset {
        message_type: Some("COMMIT".to_owned()),
        lsn_commit: end,
        lsn: end,
        tx_id: at.tx_id.map(u64::from),
        ts_usec: at.ts_usec,
        ..Offset::default()
    };
    // Numbers and a word: serde_json cannot fail on them.
    serde_json::to_string(&offset).unwrap_or_default()
}

fn parsed(text: &str) -> Result<Offset> {
    let offset: Offset = serde_json::from_str(text).map_err(|error| {
        Error::config("the offset is not one of Debezium's Postgres connector").source(error)
    })?;
    offset.incremental.refuse()?;
    let is = |kind: &str| {
        offset.snapshot.as_ref().and_then(|s| s.as_str()).is_some_and(|s| s.eq_ignore_ascii_case(kind))
    };
    if is("BLOCKING") {
        return Err(Error::config("the newest event of Debezium's is of a blocking snapshot").hint(
            "start it again, have a row written to a captured table, and stop it when that row is delivered",
        ));
    }
    let is_completed = offset.snapshot_completed.or(offset.last_snapshot_record) == Some(true);
    // An incremental one runs beside the stream, and what it has not finished was refused.
    if offset.snapshot.is_none() || is_completed || is("INCREMENTAL") {
        return Ok(offset);
    }
    Err(Error::config("Debezium has not finished its snapshot")
        .hint("let it finish, or begin anew: no row of it can be told from those that are missing"))
}

fn place(offset: &Offset) -> Result<Place> {
    let (event, commit) = (offset.lsn.map(Lsn), offset.lsn_commit.map(Lsn));
    let xid = offset.tx_id.and_then(|xid| u32::try_from(xid).ok());
    let kind = match offset.message_type.as_deref() {
        Some("COMMIT") => return whole_at([commit, event]),
        Some("BEGIN") => Some(Kind::Begin),
        Some("MESSAGE") => Some(Kind::Message),
        Some(_) => Some(Kind::Change),
        None => None,
    };
    // A snapshot's rows all name the place where the stream begins, and nothing was streamed yet.
    if offset.lsn_proc.is_none() && kind.is_none() {
        return whole_at([event, commit]);
    }
    match (event, xid) {
        (Some(at), Some(xid)) => {
            let count = offset.lsn_events_processed.filter(|_| kind == Some(Kind::Change));
            Ok(Place::Inside { xid, last: Last { at, kind, count } })
        }
        // A message outside of transactions: a place up to which everything is committed.
        (event, _) => whole_at([commit, offset.lsn_proc.map(Lsn).or(event)]),
    }
}

fn whole_at(places: [Option<Lsn>; 2]) -> Result<Place> {
    let end = places.into_iter().flatten().next();
    end.map(Place::Whole).ok_or_else(|| Error::config("the offset names no place in the log"))
}

/// The transaction of the offset among those that the slot has, and how far it was delivered.
async fn find(client: &Client, settings: &Settings, xid: u32, last: Last) -> Result<Option<Found>> {
    let sql = "SELECT lsn::text, data FROM pg_logical_slot_peek_binary_changes($1, NULL, $2::text::int, \
               'proto_version', '1', 'publication_names', $3, 'messages', 'true')";
    let what = || format!("cannot look into slot {}", settings.slot);
    let failed = |error| errors::query(what(), error);
    let publication = quoted(&settings.publication);
    let mut limit = PEEK_FIRST;
    loop {
        let words = [&settings.slot, &limit.to_string(), &publication];
        let rows = client.query_raw(sql, words).await.map_err(failed)?;
        tokio::pin!(rows);
        let (mut search, mut seen) = (Search::new(xid, last), 0);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let (lsn, data): (&str, &[u8]) =
                (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
            let lsn = lsn.parse().map_err(|error| Error::fatal(what()).source(error))?;
            if search.is_through(lsn, data)? {
                return search.found();
            }
            seen += 1;
        }
        if seen < limit {
            return Ok(None);
        }
        if limit >= PEEK_MAX {
            let what =
                format!("transaction {xid} of the offset is not among the first {seen} messages of the slot");
            return Err(Error::config(what).hint("let Debezium catch up, stop it, and take over then"));
        }
        limit = limit.saturating_mul(4);
    }
}

/// The transaction in which an offset lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    /// Where everything ends that was delivered whole.
    before: Option<Lsn>,
    /// How far it was delivered itself, where that is not all of it.
    open: Option<Open>,
}

/// Goes through what a slot has, in the order of the commits.
struct Search {
    xid: u32,
    last: Last,
    /// End of the newest commit that was passed.
    before: Option<Lsn>,
    /// The transaction, once it has begun.
    open: Option<Open>,
    /// Messages of it at the place, and those of them that are of the kind.
    there: u32,
    of_kind: u32,
}

impl Search {
    fn new(xid: u32, last: Last) -> Self {
        Self { xid, last, before: None, open: None, there: 0, of_kind: 0 }
    }

    /// Whether the end of the transaction has come.
    fn is_through(&mut self, lsn: Lsn, data: &[u8]) -> Result<bool> {
        let message = pgoutput::parse(data)
            .map_err(|error| Error::fatal("postgres sent a malformed pgoutput message").source(error))?;
        match message {
            Message::Begin { final_lsn, xid, .. } if xid == self.xid => {
                // Nothing of it was delivered, as far as is known.
                let none = Open { final_lsn: Lsn(final_lsn), xid, change_lsn: Lsn(0), n: 0 };
                self.open = Some(none);
            }
            Message::Commit { end_lsn, .. } => {
                let is_delivered = self.last.kind.is_none() && self.last.at == Lsn(end_lsn);
                if self.open.is_some() && !is_delivered {
                    return Ok(true);
                }
                self.before = Some(Lsn(end_lsn));
                return Ok(self.open.take().is_some());
            }
            Message::Insert { .. }
            | Message::Update { .. }
            | Message::Delete { .. }
            | Message::Truncate { .. } => self.pass(lsn, Kind::Change),
            Message::Message { transactional: true, .. } => self.pass(lsn, Kind::Message),
            _ => {}
        }
        Ok(false)
    }

    /// A message of a transaction: whether it is the last one that was delivered, or one before it.
    fn pass(&mut self, lsn: Lsn, kind: Kind) {
        let Some(open) = self.open.as_mut().filter(|_| self.last.kind != Some(Kind::Begin)) else { return };
        if lsn != self.last.at {
            return;
        }
        self.there += 1;
        if self.last.kind.is_none_or(|last| last == kind) {
            self.of_kind += 1;
            if self.last.count.is_none_or(|count| self.of_kind <= count) {
                // Counted from one, and the index begins at zero.
                open.n = self.there - 1;
            }
        }
    }

    fn found(self) -> Result<Option<Found>> {
        let Self { xid, last, before, of_kind, .. } = self;
        if of_kind > 1 && last.count.is_none() {
            return Err(Error::config(format!(
                "{of_kind} changes of transaction {xid} share the place {} of Debezium's offset, and it does not \
                 say how many of them were delivered",
                last.at
            ))
            .hint(
                "start Debezium again, have a row written to a captured table, stop it when that row is \
                 delivered, and take over then",
            ));
        }
        let change_lsn = if last.kind == Some(Kind::Begin) { Lsn(0) } else { last.at };
        let open = self.open.map(|open| Open { change_lsn, ..open });
        Ok(Some(Found { before, open }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::writer::Writer;

    fn offset(text: &str) -> Result<Place> {
        place(&parsed(text)?)
    }

    fn inside(at: u64, kind: Option<Kind>) -> Place {
        Place::Inside { xid: 7, last: last(at, kind) }
    }

    fn last(at: u64, kind: Option<Kind>) -> Last {
        Last { at: Lsn(at), kind, count: None }
    }

    #[test]
    fn an_offset_lies_inside_its_transaction_until_the_commit_was_delivered() {
        for (text, expected) in [
            (
                r#"{"lsn_proc":200,"messageType":"INSERT","lsn_commit":100,"lsn":200,"txId":7,"ts_usec":1}"#,
                inside(200, Some(Kind::Change)),
            ),
            // Older than the newest commit, and of a transaction that committed after that one.
            (
                r#"{"lsn_proc":50,"messageType":"INSERT","lsn_commit":110,"lsn":50,"txId":7,"ts_usec":1}"#,
                inside(50, Some(Kind::Change)),
            ),
            (
                r#"{"lsn_proc":300,"messageType":"COMMIT","lsn_commit":300,"lsn":300,"txId":7}"#,
                Place::Whole(Lsn(300)),
            ),
            (r#"{"lsn_proc":300,"lsn_commit":300,"lsn":200,"txId":7}"#, inside(200, None)),
            (
                r#"{"lsn_proc":90,"messageType":"BEGIN","lsn_commit":100,"lsn":90,"txId":7}"#,
                inside(90, Some(Kind::Begin)),
            ),
            (
                r#"{"lsn_proc":90,"messageType":"MESSAGE","lsn_commit":100,"lsn":120,"txId":7}"#,
                inside(120, Some(Kind::Message)),
            ),
            // Outside of transactions.
            (
                r#"{"lsn_proc":120,"messageType":"MESSAGE","lsn_commit":120,"lsn":120}"#,
                Place::Whole(Lsn(120)),
            ),
            // Nothing was streamed yet, and the number of a transaction has its epoch.
            (r#"{"lsn":50,"txId":4294967302}"#, Place::Whole(Lsn(50))),
            (
                r#"{"last_snapshot_record":true,"lsn":40,"txId":5,"ts_usec":1,"snapshot":"INITIAL","snapshot_completed":true}"#,
                Place::Whole(Lsn(40)),
            ),
            (r#"{"last_snapshot_record":true,"lsn":40,"txId":5,"snapshot":true}"#, Place::Whole(Lsn(40))),
        ] {
            assert_eq!(offset(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn an_unfinished_snapshot_and_an_offset_of_something_else_are_refused() {
        for text in [
            r#"{"lsn":40,"snapshot":"INITIAL","snapshot_completed":false}"#,
            r#"{"lsn":40,"snapshot":"BLOCKING","snapshot_completed":true}"#,
            r#"{"lsn":40,"snapshot":true,"last_snapshot_record":false}"#,
            r#"{"lsn_proc":9,"messageType":"INSERT","lsn":9,"txId":7,"incremental_snapshot_collections":
                "[{\"incremental_snapshot_collections_id\":\"public.orders\"}]"}"#,
            r#"{"sec":1,"ord":2}"#,
            "x",
        ] {
            assert!(offset(text).is_err(), "{text}");
        }
    }

    /// T6 commits up to 0x98, then T7 of which rows are older and younger than that.
    fn log() -> Vec<(u64, Vec<u8>)> {
        let insert = || Writer::default().tag(b'I').u32(1).tag(b'N').tuple(&[]).0;
        let begin = |xid: u32, end: u64| Writer::default().tag(b'B').u64(end).u64(0).u32(xid).0;
        let commit = |end: u64| Writer::default().tag(b'C').tag(0).u64(0).u64(end).u64(0).0;
        vec![
            (0x60, begin(6, 0x90)),
            (0xA0, insert()),
            (0x98, commit(0x98)),
            (0x50, begin(7, 0x200)),
            (0x50, insert()),
            (0xA0, insert()),
            (0xA0, insert()),
            (0xA0, insert()),
            (0xB0, insert()),
            (0x208, commit(0x208)),
        ]
    }

    fn found(xid: u32, last: Last) -> Result<Option<Found>> {
        let mut search = Search::new(xid, last);
        for (lsn, data) in log() {
            if search.is_through(Lsn(lsn), &data)? {
                return search.found();
            }
        }
        Ok(None)
    }

    fn open(change: u64, n: u32) -> Option<Found> {
        let open = Open { final_lsn: Lsn(0x200), xid: 7, change_lsn: Lsn(change), n };
        Some(Found { before: Some(Lsn(0x98)), open: Some(open) })
    }

    #[test]
    fn a_transaction_is_gone_on_with_behind_the_last_delivered_change() {
        let change = |at| last(at, Some(Kind::Change));
        assert_eq!(found(7, change(0x50)).unwrap(), open(0x50, 0));
        assert_eq!(found(7, change(0xB0)).unwrap(), open(0xB0, 0));
        assert_eq!(found(9, change(0xA0)).unwrap(), None);
        // Its begin lies where its first row lies.
        assert_eq!(found(7, last(0x50, Some(Kind::Begin))).unwrap(), open(0, 0));
        // Of a release that tells no kinds.
        let whole = Found { before: Some(Lsn(0x208)), open: None };
        assert_eq!(found(7, last(0x208, None)).unwrap(), Some(whole));
    }

    #[test]
    fn of_changes_that_share_a_place_the_offset_has_to_say_how_many_were_delivered() {
        let told = |count| Last { count: Some(count), ..last(0xA0, Some(Kind::Change)) };
        assert_eq!(found(7, told(2)).unwrap(), open(0xA0, 1));
        assert_eq!(found(7, told(3)).unwrap(), open(0xA0, 2));
        let error = found(7, last(0xA0, Some(Kind::Change))).unwrap_err();
        assert!(error.message().contains("3 changes of transaction 7"), "{error}");
    }

    #[test]
    fn a_row_that_lies_where_a_message_ends_is_told_from_it() {
        let insert = Writer::default().tag(b'I').u32(1).tag(b'N').tuple(&[]).0;
        let mut search = Search::new(7, last(0xA0, Some(Kind::Message)));
        assert!(!search.is_through(Lsn(0x50), &log()[3].1).unwrap());
        search.pass(Lsn(0xA0), Kind::Message);
        assert!(!search.is_through(Lsn(0xA0), &insert).unwrap());
        assert!(search.is_through(Lsn(0x208), &log()[9].1).unwrap());
        assert_eq!(search.found().unwrap().unwrap().open.unwrap().n, 0);
    }

    #[test]
    fn a_whole_position_is_handed_back_and_one_with_a_part_missing_is_not() {
        let mut at = Streamed::starting_at("7", 1, "s", Lsn(0x10));
        let notes = |state: &str| {
            let note = serde_json::json!({ "state": state }).to_string();
            Notes::from([(r#"snapshot "public"."orders""#.to_owned(), note)])
        };
        let back = whole(&at.to_position(), &notes("done")).unwrap();
        assert_eq!(written(&back), r#"{"messageType":"COMMIT","lsn_commit":16,"lsn":16}"#);
        assert_eq!(offset(&written(&back)).unwrap(), Place::Whole(Lsn(0x10)));
        for state in ["pending", "reading"] {
            let error = whole(&at.to_position(), &notes(state)).unwrap_err();
            assert!(error.message().contains("orders"), "{error}");
        }
        at.open = Some(Open { final_lsn: Lsn(0x30), xid: 5, change_lsn: Lsn(0x20), n: 2 });
        assert!(whole(&at.to_position(), &Notes::new()).is_err());
    }
}
