//! What of a Postgres stream waits while the rest goes on: its part of a position, and how places are told apart.
//! Start at `open`.
//!
//! The slot is confirmed to the lowest place of all, so that the server keeps what waits. A stream that releases
//! something begins at the lowest place of what it releases, with nothing skipped by the session: what was delivered is
//! told by the gates, one for each thing that is held and one for the rest, which the encoder asks for every change.

use millrace_core::error::{Error, Result};
use millrace_core::hold::{Gate, HELD_MAX, Holds, Lane, Lanes, Passed, Strike, Thing, Waiting, groups};
use millrace_core::position::{Mark, Position};
use millrace_core::progress::now_us;
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::lsn::Lsn;
use crate::messages::NAMESPACE;
use crate::position::{Open, Stored, Streamed};
use crate::slot::{self, Slot};
use crate::{control, server};

/// Up to where changes were delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub end_lsn: Lsn,
    pub open: Option<Open>,
}

impl Place {
    /// What is delivered of both together.
    pub fn join(self, other: Self) -> Self {
        let end_lsn = self.end_lsn.max(other.end_lsn);
        let open = [self.open, other.open].into_iter().flatten().max_by_key(order);
        // A transaction ends behind its commit record.
        Self { end_lsn, open: open.filter(|open| open.final_lsn >= end_lsn) }
    }

    fn passed(self) -> Passed {
        Passed { commit: self.end_lsn.0, open: self.open.map(mark) }
    }
}

fn order(open: &Open) -> (Lsn, Lsn, u32) {
    (open.final_lsn, open.change_lsn, open.n)
}

fn mark(open: Open) -> Mark {
    Mark { commit: open.final_lsn.0, change: open.change_lsn.0, n: open.n }
}

/// One thing that waits, as the position has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub relation: String,
    /// Its rows with these values in these columns; the whole relation where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Where its records go, as far as that was known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// Up to here, and up to this change of the transaction that was cut, it is delivered.
    pub end_lsn: Lsn,
    pub open: Option<Open>,
    /// Of the last transaction before, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn_commit: Option<u64>,
    /// Milliseconds since 1970.
    pub since_ms: i64,
    pub why: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Held {
    pub fn thing(&self) -> Thing {
        let Self { relation, columns, values, .. } = self;
        Thing { relation: relation.clone(), columns: columns.clone(), values: values.clone() }
    }

    pub fn place(&self) -> Place {
        Place { end_lsn: self.end_lsn, open: self.open }
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            thing: self.thing(),
            topics: self.topics.clone(),
            since_ms: self.since_ms,
            since: self.end_lsn.to_string(),
            why: self.why.clone(),
            hint: self.hint.clone(),
        }
    }
}

impl Streamed {
    pub fn place(&self) -> Place {
        Place { end_lsn: self.end_lsn, open: self.open }
    }

    /// Up to where everything is delivered, what waits too.
    pub fn confirmable(&self) -> Lsn {
        self.held.iter().map(|held| held.end_lsn).fold(self.end_lsn, Lsn::min)
    }

    /// Where a stream begins that releases these of what waits, by their index.
    pub fn begins_at(&self, released: &[bool]) -> Lsn {
        let of = self.held.iter().zip(released).filter(|(_, is_released)| **is_released);
        of.map(|(held, _)| held.end_lsn).min().unwrap_or(self.end_lsn)
    }

    pub fn waiting(&self) -> Vec<Waiting> {
        self.held.iter().map(Held::waiting).collect()
    }

    /// Refuses what could not go on with something that waits.
    pub fn nothing_waits(&self, what: &str) -> Result<()> {
        let Some(held) = self.held.first() else { return Ok(()) };
        Err(Error::config(format!("{what}: {} is held since {}: {}", held.thing(), held.end_lsn, held.why)).hint(format!(
            "mend that and restart the connector, and what waits goes out; or give it up, with everything behind it to \
             be sent again: millrace position <file> set --to {} --yes",
            self.confirmable()
        )))
    }

    fn add(&mut self, strike: &Strike) {
        let thing = &strike.thing;
        if let Some(held) = self.held.iter_mut().find(|held| held.thing() == *thing) {
            // It waits where it did, by what it waits for now.
            (held.why, held.hint) = (strike.why.clone(), strike.hint.clone());
            let new = strike.topics.iter().filter(|topic| !held.topics.contains(topic));
            let new: Vec<String> = new.cloned().collect();
            held.topics.extend(new);
            return;
        }
        // A part of what was being released is delivered up to where the whole of it is.
        let is_whole = |held: &&Held| held.relation == thing.relation && held.thing().is_whole();
        let whole = self.held.iter().find(is_whole).map(|held| (held.place(), held.lsn_commit));
        let (Place { end_lsn, open }, lsn_commit) = whole.unwrap_or((self.place(), self.lsn_commit));
        self.held.push(Held {
            relation: thing.relation.clone(),
            columns: thing.columns.clone(),
            values: thing.values.clone(),
            topics: strike.topics.clone(),
            end_lsn,
            open,
            lsn_commit,
            since_ms: now_us() / 1000,
            why: strike.why.clone(),
            hint: strike.hint.clone(),
        });
    }

    /// Who waits together is released together: once the last of them is due.
    fn lanes(&self, is_due: impl Fn(&Thing) -> bool) -> Lanes {
        let of: Vec<_> =
            self.held.iter().map(|held| (held.relation.as_str(), held.topics.as_slice())).collect();
        let groups = groups(&of);
        let waits = groups.iter().zip(&self.held).filter(|(_, held)| !is_due(&held.thing()));
        let waits: Vec<usize> = waits.map(|(group, _)| *group).collect();
        let held = self.held.iter().zip(&groups).map(|(held, group)| Lane {
            thing: held.thing(),
            topics: held.topics.clone(),
            gate: match waits.contains(group) {
                false => Gate::Past(held.place().passed()),
                true => Gate::Shut,
            },
        });
        let held: Vec<Lane> = held.collect();
        let releases = held.iter().any(|lane| lane.gate != Gate::Shut);
        let rest = if releases { Gate::Past(self.place().passed()) } else { Gate::Open };
        Lanes { rest, held, is_new: false }
    }
}

/// The position with what waits from there on, and what an attempt from there holds and releases.
pub fn open(settings: &Settings, from: Option<Position>, holds: &Holds) -> Result<(Option<Position>, Lanes)> {
    let strikes = holds.strikes();
    let stored = from.as_ref().map(Stored::parse).transpose()?;
    let Some(Stored::Streamed(mut streamed)) = stored else {
        return match strikes.is_empty() {
            true => Ok((from, Lanes::default())),
            false => Err(met_again(holds, "the connector has not begun yet")),
        };
    };
    if streamed.since_us.is_some() && !strikes.is_empty() {
        return Err(met_again(holds, "the time that its position was set to has not come yet"));
    }
    let is_new = streamed.held.is_empty();
    strikes.iter().for_each(|strike| streamed.add(strike));
    if streamed.held.is_empty() {
        return Ok((from, Lanes::default()));
    }
    if !settings.snapshot.stream {
        streamed.nothing_waits("the file asks for rows alone")?;
    }
    for held in &streamed.held {
        captured(settings, held)?;
    }
    if streamed.held.len() > HELD_MAX {
        holds.forget_strikes();
        return Err(Error::config(format!("more than {HELD_MAX} tables and types of events would wait"))
            .hint("millrace position <file> show names those that do, and why: mend that, then restart the connector"));
    }
    let lanes = Lanes { is_new, ..streamed.lanes(|thing| holds.is_due(thing)) };
    holds.on_trial(&lanes);
    Ok((Some(streamed.to_position()), lanes))
}

/// What was to wait cannot, now: the attempts that follow meet it as if nothing could, until that has changed.
pub fn met_again(holds: &Holds, why: &str) -> Error {
    holds.forget_strikes();
    Error::transient(format!(
        "something cannot go out, and cannot wait alone, because {why}: it is looked at anew"
    ))
}

/// What the file no longer captures could never be released.
fn captured(settings: &Settings, held: &Held) -> Result<()> {
    // A schema's name may hold a dot, and so may a table's.
    let mut parts = held.relation.match_indices('.').map(|(at, _)| held.relation.split_at(at));
    if parts.any(|(schema, table)| {
        let table = table.get(1..).unwrap_or_default();
        schema == NAMESPACE || settings.wants(schema, table)
    }) {
        return Ok(());
    }
    Err(Error::config(format!("{} waits, and the file no longer names {}", held.thing(), held.relation))
        .hint("name it until nothing is held, or take back what waits: millrace position <file> show says since when"))
}

/// What waits in a stored position, a line for each.
pub fn waiting(stored: &Position) -> Vec<String> {
    let Ok(Stored::Streamed(stored)) = Stored::parse(stored) else { return Vec::new() };
    let line =
        |held: &Held| format!("what waits of {} since {}, and was never sent", held.thing(), held.end_lsn);
    stored.held.iter().map(line).collect()
}

/// What waits in a stored position, and has to go out before a record of this relation, of this place, to these topics.
pub fn goes_before<'a>(
    stored: &Position,
    (relation, mark): (&str, Mark),
    topics: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let Ok(Stored::Streamed(stored)) = Stored::parse(stored) else { return None };
    let waits = |held: &&Held| !held.place().passed().covers(mark);
    let is_whole = |held: &Held| held.relation == relation && held.thing().is_whole();
    let topics: Vec<&str> = topics.collect();
    let goes_there = |held: &Held| held.topics.iter().any(|topic| topics.contains(&topic.as_str()));
    let mut of = stored.held.iter().filter(waits);
    of.find(|held| is_whole(held) || goes_there(held)).map(|held| held.thing().to_string())
}

/// Refuses to move a position past what waits, which would be lost unseen; not where it is lost already.
pub async fn may_move(settings: &Settings, stored: &Position, to: &Position) -> Result<()> {
    let Err(refused) = keeps(stored, to) else { return Ok(()) };
    let Ok(Stored::Streamed(stored)) = Stored::parse(stored) else { return Err(refused) };
    let control = control::connect(settings).await?;
    let facts = server::facts(&control.client).await?;
    if facts.system_identifier.to_string() != stored.system_identifier {
        // What waits is on another server.
        return Err(refused);
    }
    let slot = slot::read(&control.client, &settings.slot).await?;
    if has_log(slot.as_ref(), &stored) { Err(refused) } else { Ok(()) }
}

/// Whether a slot still has what waits.
fn has_log(slot: Option<&Slot>, stored: &Streamed) -> bool {
    let Some(slot) = slot.filter(|slot| slot.lost().is_none()) else { return false };
    slot.confirmed_flush_lsn.is_some_and(|confirmed| confirmed <= stored.confirmable())
}

/// Refuses a position past what waits in the stored one.
fn keeps(stored: &Position, to: &Position) -> Result<()> {
    let Ok(Stored::Streamed(stored)) = Stored::parse(stored) else { return Ok(()) };
    match Stored::parse(to)? {
        // Everything that waits comes again.
        Stored::Streamed(to)
            if to.since_us.is_none()
                && to.system_identifier == stored.system_identifier
                && to.end_lsn <= stored.confirmable() =>
        {
            Ok(())
        }
        _ => stored.nothing_waits("the position cannot be moved past what waits"),
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::error::Kind;
    use millrace_core::hold::REGISTRY_AWAY;

    use super::*;
    use crate::config::Raw;
    use crate::position::creating;

    fn settings(tables: &str) -> Settings {
        let file = format!("url = 'postgres://bob@db/shop'\ntables = [{tables}]");
        let raw: Raw = toml::from_str(&file).expect("a file");
        Settings::resolve(raw, "orders").expect("settings")
    }

    #[test]
    fn a_schema_whose_name_holds_a_dot_is_found_in_the_file() {
        let settings = settings("'\"a.b\".t'");
        let mut streamed = Streamed::starting_at("7", 1, "s", Lsn(10));
        streamed.add(&strike("a.b.t"));
        streamed.add(&strike("a.c.t"));
        let [known, unknown] = &streamed.held[..] else { panic!("two wait") };
        captured(&settings, known).expect("the file names it");
        captured(&settings, unknown).expect_err("the file does not");
    }

    #[test]
    fn a_file_that_asks_for_rows_alone_is_refused_while_something_waits() {
        let mut streamed = Streamed::starting_at("7", 1, "s", Lsn(10));
        streamed.add(&strike("public.t"));
        let mut settings = settings("'public.t'");
        let holds = Holds::default();
        open(&settings, Some(streamed.to_position()), &holds).expect("it goes on");
        settings.snapshot.stream = false;
        let error =
            open(&settings, Some(streamed.to_position()), &holds).expect_err("nothing would be streamed");
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("rows alone: public.t is held since"), "{error}");
    }

    #[test]
    fn a_record_goes_behind_what_waits_from_before_it_in_its_table_or_topic() {
        let mut streamed = Streamed::starting_at("7", 1, "s", Lsn(10));
        streamed.add(&Strike { topics: vec!["t".into(), "u".into()], ..strike("public.a") });
        let stored = streamed.to_position();
        let found = |relation, commit, topic| {
            let mark = Mark { commit, change: 1, n: 0 };
            goes_before(&stored, (relation, mark), ["none", topic].into_iter()).is_some()
        };
        assert!(found("public.a", 20, "v") && found("public.b", 20, "u"));
        assert!(!found("public.b", 20, "v") && !found("public.a", 9, "t"));
    }

    fn cut(final_lsn: u64, change: u64, n: u32) -> Option<Open> {
        Some(Open { final_lsn: Lsn(final_lsn), xid: 1, change_lsn: Lsn(change), n })
    }

    fn place(end: u64, open: Option<Open>) -> Place {
        Place { end_lsn: Lsn(end), open }
    }

    fn strike(relation: &str) -> Strike {
        Strike {
            thing: Thing { relation: relation.into(), columns: Vec::new(), values: Vec::new() },
            topics: Vec::new(),
            code: REGISTRY_AWAY.into(),
            why: "away".into(),
            hint: None,
        }
    }

    #[test]
    fn two_places_together_cover_what_either_covers() {
        for (one, other, both) in [
            (place(10, None), place(20, None), place(20, None)),
            (place(10, cut(30, 25, 0)), place(20, None), place(20, cut(30, 25, 0))),
            (place(10, cut(30, 25, 0)), place(10, cut(30, 25, 1)), place(10, cut(30, 25, 1))),
            // The transaction has ended.
            (place(10, cut(30, 25, 0)), place(35, None), place(35, None)),
        ] {
            assert_eq!((one.join(other), other.join(one)), (both, both));
        }
    }

    #[test]
    fn the_slot_is_confirmed_to_the_lowest_place_of_what_waits() {
        let mut streamed = Streamed::starting_at("7", 1, "s", Lsn(10));
        assert_eq!(streamed.confirmable(), Lsn(10));
        streamed.add(&strike("public.a"));
        streamed.end_lsn = Lsn(30);
        streamed.add(&strike("public.b"));
        streamed.add(&strike("public.a"));
        assert_eq!((streamed.held.len(), streamed.confirmable()), (2, Lsn(10)));
    }

    #[test]
    fn a_part_that_cannot_go_out_while_its_relation_is_released_waits_from_where_that_did() {
        let mut streamed = Streamed::starting_at("7", 1, "s", Lsn(10));
        streamed.lsn_commit = Some(9);
        streamed.add(&strike("public.outbox"));
        (streamed.end_lsn, streamed.open, streamed.lsn_commit) = (Lsn(50), cut(70, 60, 0), Some(50));
        let (columns, values) = (vec!["type".to_owned()], vec!["paid".to_owned()]);
        let part = Thing { relation: "public.outbox".into(), columns, values };
        streamed.add(&Strike { thing: part.clone(), ..strike("public.outbox") });
        let held = streamed.held.last().expect("the part");
        assert_eq!((held.thing(), held.place(), held.lsn_commit), (part, place(10, None), Some(9)));
    }

    #[test]
    fn what_is_released_passes_behind_its_own_place_and_the_rest_behind_the_position() {
        let mut streamed = Streamed::starting_at("7", 1, "s", Lsn(10));
        streamed.add(&strike("public.a"));
        streamed.end_lsn = Lsn(30);
        let held = streamed.lanes(|_| false);
        assert_eq!((held.gate("public.a"), held.gate("public.b")), (Gate::Shut, Gate::Open));
        let released = streamed.lanes(|_| true);
        let mark = |commit| Mark { commit, change: commit, n: 0 };
        assert!(released.gate("public.a").stops(mark(9)) && !released.gate("public.a").stops(mark(10)));
        assert!(released.gate("public.b").stops(mark(29)) && !released.gate("public.b").stops(mark(30)));
    }

    #[test]
    fn who_shares_a_topic_with_something_that_is_not_due_waits_for_it() {
        let mut streamed = Streamed::starting_at("7", 1, "s", Lsn(10));
        for (relation, topics) in
            [("public.a", &["t"][..]), ("public.b", &["t", "u"]), ("public.c", &["u"]), ("public.d", &["v"])]
        {
            let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
            streamed.add(&Strike { topics, ..strike(relation) });
        }
        let lanes = streamed.lanes(|thing| thing.relation != "public.a");
        let shut: Vec<bool> = lanes.held.iter().map(|lane| lane.gate == Gate::Shut).collect();
        assert_eq!(shut, [true, true, true, false]);
        assert!(!streamed.lanes(|_| true).held.iter().any(|lane| lane.gate == Gate::Shut));
    }

    #[test]
    fn a_position_is_not_moved_past_what_waits() {
        let mut streamed = Streamed::starting_at("7", 1, "s", Lsn(10));
        streamed.add(&strike("public.a"));
        streamed.end_lsn = Lsn(30);
        let stored = streamed.to_position();
        let to = |end| Streamed::starting_at("7", 1, "s", Lsn(end)).to_position();
        keeps(&stored, &to(10)).expect("all of it comes again");
        let error = keeps(&stored, &to(11)).expect_err("it would be lost");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("0/A")), "{error:?}");
        keeps(&stored, &creating("s")).expect_err("it would be lost");
        let elsewhere = Streamed::starting_at("8", 1, "s", Lsn(10)).to_position();
        keeps(&stored, &elsewhere).expect_err("the places of another server say nothing");
        keeps(&to(30), &creating("s")).expect("nothing waits");
    }

    #[test]
    fn a_strike_is_held_from_the_stored_position_on_and_no_more_than_a_position_takes() {
        let settings = settings("'public.*'");
        let stored = Streamed::starting_at("7", 1, "s", Lsn(10));
        let holds = Holds::default();
        holds.struck(&strike("public.a"));
        holds.struck(&strike("public.b"));
        let (from, lanes) = open(&settings, Some(stored.to_position()), &holds).expect("both wait");
        let Stored::Streamed(held) = Stored::parse(&from.expect("a position")).expect("parse") else {
            panic!("it has begun")
        };
        assert_eq!((held.held.len(), held.confirmable(), lanes.is_new), (2, Lsn(10), true));
        assert!(lanes.shuts("public.a") && lanes.shuts("public.b"));
        let (_, lanes) = open(&settings, Some(held.to_position()), &holds).expect("both still wait");
        assert!(!lanes.is_new, "the stored position says so");
        (0..HELD_MAX).for_each(|n| holds.struck(&strike(&format!("public.t{n}"))));
        open(&settings, Some(stored.to_position()), &holds).expect_err("that is too many");
        open(&settings, Some(stored.to_position()), &holds).expect("and met again");
    }

    #[test]
    fn what_cannot_wait_yet_is_met_again_without() {
        let settings = settings("'public.*'");
        let since_us = Some(1);
        let sought = Streamed { since_us, ..Streamed::starting_at("7", 1, "s", Lsn(10)) }.to_position();
        let holds = Holds::default();
        for from in [Some(sought), Some(creating("s")), None] {
            holds.struck(&strike("public.a"));
            let error = open(&settings, from.clone(), &holds).expect_err("not yet");
            assert_eq!(error.kind(), Kind::Transient);
            open(&settings, from, &holds).expect("nothing is to be held");
        }
    }

    #[test]
    fn what_waits_is_lost_with_the_slot_that_kept_its_log() {
        let mut streamed = Streamed::starting_at("7", 1, "s", Lsn(0x10));
        streamed.add(&strike("public.a"));
        streamed.end_lsn = Lsn(0x30);
        let slot = |confirmed: &str, status: &str| -> Slot {
            let slot = serde_json::json!({
                "slot_name": "s", "plugin": "pgoutput", "database": "shop", "active": false,
                "restart_lsn": "0/5", "confirmed_flush_lsn": confirmed, "wal_status": status,
                "temporary": false
            });
            serde_json::from_value(slot).expect("a slot")
        };
        assert!(has_log(Some(&slot("0/10", "reserved")), &streamed));
        assert!(!has_log(Some(&slot("0/11", "reserved")), &streamed), "it was made anew");
        assert!(!has_log(Some(&slot("0/10", "lost")), &streamed));
        assert!(!has_log(None, &streamed));
    }
}
