//! What is held makes no records and needs no plan, and a try that fails ends as a try.

use super::scene::*;
use super::*;
use crate::error::Kind as ErrorKind;
use crate::hold::{Lane, Passed};
use crate::pattern::Pattern;
use crate::relation::Kind;
use crate::route::rule::{Header, Outbox, Route};

/// Where the scene's transaction commits.
const COMMIT: u64 = 0xABC;

fn past(commit: u64) -> Gate {
    Gate::Past(Passed { commit, open: None })
}

fn lane(relation: &str, topics: &[&str], gate: Gate) -> Lane {
    let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
    Lane { thing: gate::whole_of(relation), topics, gate }
}

/// Lanes of one thing.
fn lanes(rest: Gate, lane: Lane) -> Lanes {
    Lanes { rest, held: vec![lane], ..Lanes::default() }
}

fn desk(route: Route, lanes: Lanes) -> Desk {
    let mut desk = Desk::new(Format { routes: vec![route], ..json(false, millrace()) });
    desk.encoder = desk.encoder.holding(lanes);
    desk
}

/// The file names a column that `public.t` does not have.
fn misfit() -> Route {
    let header = Header { name: "kind".into(), column: "gone".into(), optional: false, is_time: false };
    Route { headers: vec![header], ..route("public.*", json(false, millrace())) }
}

fn one_row() -> ChangeBatch {
    let mut batch = batch(&relation(vec![column("id", Kind::Text)], &[0]));
    insert(&mut batch, &[t("1")]);
    batch
}

fn refused(desk: &mut Desk, batch: &ChangeBatch) -> Error {
    ready(desk.encoder.prepare(batch)).expect_err("it does not fit")
}

#[test]
fn a_table_that_waits_needs_no_plan_and_no_topic_whatever_became_of_its_columns() {
    let mut desk = desk(misfit(), lanes(Gate::Open, lane("public.t", &[], Gate::Shut)));
    assert!(desk.encode(&one_row()).is_empty());
    assert!(desk.registry.topics.lock().unwrap().is_empty());
}

#[test]
fn a_table_whose_changes_were_delivered_needs_no_plan_while_another_one_is_released() {
    let mut desk = desk(misfit(), lanes(past(COMMIT + 1), lane("public.u", &[], past(10))));
    assert!(desk.encode(&one_row()).is_empty());
    assert!(desk.registry.topics.lock().unwrap().is_empty());
}

#[test]
fn a_try_that_fails_for_whatever_reason_only_has_its_table_wait_on() {
    let mut desk = desk(misfit(), lanes(past(COMMIT + 1), lane("public.t", &[], past(10))));
    desk.progress.holds.reads(true);
    let error = refused(&mut desk, &one_row());
    assert_eq!(error.strike().expect("it waits on").thing, gate::whole_of("public.t"));
}

#[test]
fn what_comes_behind_the_position_stops_at_a_file_that_does_not_fit_as_ever() {
    let mut desk = desk(misfit(), lanes(past(20), lane("public.t", &[], past(10))));
    let error = refused(&mut desk, &one_row());
    assert_eq!((error.kind(), error.strike()), (ErrorKind::Config, None));
}

#[test]
fn a_table_with_copies_waits_with_who_waits_in_the_topic_of_the_copies() {
    let route = Route { copies: vec!["all".into()], ..route("public.*", json(false, millrace())) };
    let mut desk = desk(route, lanes(Gate::Open, lane("public.u", &["all"], Gate::Shut)));
    let error = refused(&mut desk, &one_row());
    let strike = error.strike().expect("it waits too");
    assert_eq!((strike.thing.relation.as_str(), strike.topics.len()), ("public.t", 2));
}

#[test]
fn poison_ends_a_try_and_stops_at_what_is_new() {
    let names = ["id", "aggregatetype", "aggregateid", "type", "payload?"];
    let columns = names.map(|name| column(name, if name == "payload?" { Kind::Json } else { Kind::Text }));
    let mut batch = batch(&relation(columns.into(), &[0]));
    insert(&mut batch, &[t("1"), t("secret"), t("7"), t("made"), t("{}")]);
    let format = Format { envelope: Envelope::Outbox, ..json(false, millrace()) };
    let to = || Route {
        allow: vec![Pattern::new("outbox.event.o*")],
        outbox: Some(Outbox::default()),
        ..route("public.*", format.clone())
    };
    for (rest, waits) in [(COMMIT + 1, true), (20, false)] {
        let mut desk = desk(to(), lanes(past(rest), lane("public.t", &[], past(10))));
        let error = desk.try_encode(&batch).expect_err("it chooses no topic that is allowed");
        assert_eq!((error.kind(), error.strike().is_some()), (ErrorKind::Record, waits), "{error}");
    }
}
