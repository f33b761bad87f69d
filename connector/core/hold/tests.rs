//! What is held, when it is tried again, and which changes pass meanwhile.

use super::*;

fn thing(relation: &str) -> Thing {
    Thing { relation: relation.into(), columns: Vec::new(), values: Vec::new() }
}

fn waiting(relation: &str) -> Waiting {
    Waiting {
        thing: thing(relation),
        topics: Vec::new(),
        since_ms: 1,
        since: "0/10".into(),
        why: "refused".into(),
        hint: None,
    }
}

fn strike(relation: &str, code: &str) -> Strike {
    let (topics, hint) = (Vec::new(), None);
    Strike { thing: thing(relation), topics, code: code.into(), why: "refused".into(), hint }
}

#[test]
fn a_place_covers_what_committed_before_it_and_the_cut_transaction_up_to_its_change() {
    let mark = |commit, change, n| Mark { commit, change, n };
    let passed = Passed { commit: 100, open: Some(mark(120, 110, 2)) };
    assert!(passed.covers(mark(99, 1, 0)));
    assert!(passed.covers(mark(120, 110, 2)));
    assert!(!passed.covers(mark(120, 110, 3)));
    assert!(!Passed { commit: 100, open: None }.covers(mark(100, 90, 0)));
}

#[test]
fn what_is_tried_is_told_from_what_is_new_by_the_position() {
    let mark = |commit| Mark { commit, change: 1, n: 0 };
    let at = |commit| Gate::Past(Passed { commit, open: None });
    let lane = |relation, gate| Lane { thing: thing(relation), topics: Vec::new(), gate };
    let held = vec![lane("a.b", at(10)), lane("a.c", Gate::Shut)];
    let lanes = Lanes { rest: at(50), held, ..Lanes::default() };
    assert!(lanes.tried("a.b", mark(20)).is_some());
    assert!(lanes.tried("a.b", mark(50)).is_none(), "it is new");
    assert!(lanes.tried("a.c", mark(20)).is_none() && lanes.tried("a.d", mark(20)).is_none());
    assert!(lanes.stops("a.b", mark(9)) && !lanes.stops("a.b", mark(10)));
    assert!(lanes.stops("a.d", mark(49)) && !lanes.stops("a.d", mark(50)));
    assert!(lanes.shuts("a.c") && lanes.stops("a.c", mark(60)) && !lanes.shuts("a.b"));
}

fn is_due(holds: &Holds, relation: &str) -> bool {
    holds.is_due(&thing(relation))
}

/// An attempt that holds everything, and takes so long to come back to where the stream was.
async fn back_after(holds: &Holds, took: Duration) {
    holds.begins();
    tokio::time::advance(took).await;
    holds.caught_up();
}

fn released(relation: &str) -> Lanes {
    let gate = Gate::Past(Passed::default());
    let held = vec![Lane { thing: thing(relation), topics: Vec::new(), gate }];
    Lanes { held, ..Lanes::default() }
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_tried_later_each_time_and_at_once_when_somebody_says_so() {
    let holds = Holds::default();
    holds.struck(&strike("a.b", "x"));
    holds.stand(vec![waiting("a.b")]);
    back_after(&holds, Duration::ZERO).await;
    assert!(!is_due(&holds, "a.b") && is_due(&holds, "a.c"));
    tokio::time::advance(FIRST).await;
    assert!(is_due(&holds, "a.b"));
    holds.struck(&strike("a.b", "x"));
    back_after(&holds, Duration::ZERO).await;
    tokio::time::advance(FIRST).await;
    assert!(!is_due(&holds, "a.b"));
    holds.try_now();
    assert!(is_due(&holds, "a.b") && holds.next().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_wait_begins_once_the_stream_is_back_and_is_longer_than_that_took() {
    let holds = Holds::default();
    holds.struck(&strike("a.b", "x"));
    holds.stand(vec![waiting("a.b")]);
    holds.begins();
    tokio::time::advance(LONGEST).await;
    assert!(!is_due(&holds, "a.b") && holds.next().is_none(), "the stream is not back yet");
    holds.caught_up();
    tokio::time::advance(LONGEST).await;
    assert!(!is_due(&holds, "a.b"), "it took as long to come back");
    tokio::time::advance(LONGEST).await;
    assert!(is_due(&holds, "a.b"));
}

#[tokio::test(start_paused = true)]
async fn for_a_registry_that_is_away_the_registry_is_asked_first_whoever_begins_the_attempt() {
    let holds = Holds::default();
    holds.struck(&strike("a.b", REGISTRY_AWAY));
    holds.stand(vec![waiting("a.b")]);
    back_after(&holds, Duration::ZERO).await;
    assert!(holds.next().is_some_and(|(_, is_away)| is_away));
    tokio::time::advance(ASK_EVERY).await;
    assert!(!is_due(&holds, "a.b"), "it was not asked");
    holds.postpone();
    assert!(!is_due(&holds, "a.b"));
    tokio::time::advance(ASK_EVERY).await;
    holds.answered();
    assert!(is_due(&holds, "a.b"));
    // It is there and takes nothing.
    holds.struck(&strike("a.b", REGISTRY_AWAY));
    back_after(&holds, Duration::ZERO).await;
    assert!(holds.next().is_some_and(|(next, _)| next >= Instant::now() + ASK_EVERY * 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_released_is_not_due_again_until_it_fails_again() {
    let holds = Holds::default();
    holds.struck(&strike("a.b", "x"));
    holds.stand(vec![waiting("a.b")]);
    back_after(&holds, Duration::ZERO).await;
    tokio::time::advance(FIRST).await;
    holds.on_trial(&released("a.b"));
    assert!(is_due(&holds, "a.b") && holds.next().is_none());
    holds.struck(&strike("a.b", "x"));
    back_after(&holds, Duration::ZERO).await;
    assert!(holds.next().is_some_and(|(next, _)| next >= Instant::now() + FIRST * 2));
}

#[tokio::test(start_paused = true)]
async fn many_that_cannot_go_out_leave_the_rest_twice_the_time_that_all_of_them_took() {
    let holds = Holds::default();
    let all = ["a.b", "a.c", "a.d"];
    all.iter().for_each(|one| holds.struck(&strike(one, "x")));
    holds.stand(all.iter().map(|one| waiting(one)).collect());
    back_after(&holds, Duration::ZERO).await;
    tokio::time::advance(FIRST).await;
    // Each try begins an attempt of its own, and the second one has taken the round too far.
    for one in ["a.b", "a.c"] {
        holds.begins();
        all.iter().filter(|one| is_due(&holds, one)).for_each(|one| holds.on_trial(&released(one)));
        tokio::time::advance(ROUND_MAX * 2 / 3).await;
        holds.struck(&strike(one, "x"));
    }
    assert!(!all.iter().any(|one| is_due(&holds, one)), "the third is left for another time");
    holds.begins();
    holds.caught_up();
    tokio::time::advance(ROUND_MAX * 2).await;
    assert!(!all.iter().any(|one| is_due(&holds, one)), "both attempts count");
    tokio::time::advance(ROUND_MAX).await;
    assert!(all.iter().all(|one| is_due(&holds, one)));
}

#[tokio::test(start_paused = true)]
async fn a_try_that_something_else_ended_has_failed_too_and_only_a_try() {
    let holds = Holds::default();
    holds.stand(vec![waiting("a.b")]);
    holds.begins();
    holds.on_trial(&released("a.b"));
    assert!(holds.failed() && !is_due(&holds, "a.b"));
    holds.begins();
    assert!(!holds.failed(), "nothing was tried");
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_together_are_due_when_the_last_of_them_is() {
    let holds = Holds::default();
    let with = |relation: &str, topic: &str| Waiting { topics: vec![topic.into()], ..waiting(relation) };
    holds.struck(&strike("a.b", "x"));
    holds.struck(&strike("a.c", "x"));
    holds.struck(&strike("a.c", "x"));
    holds.stand(vec![with("a.b", "t"), with("a.c", "t")]);
    back_after(&holds, Duration::ZERO).await;
    assert!(holds.next().is_some_and(|(next, _)| next == Instant::now() + FIRST * 2));
}

#[test]
fn who_waits_with_one_of_a_group_waits_with_all_of_it() {
    let topics = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let (t, u, both, none) = (topics(&["t"]), topics(&["u"]), topics(&["t", "u"]), topics(&[]));
    let of = [("a", &t[..]), ("b", &u[..]), ("c", &none[..]), ("d", &both[..]), ("c", &none[..])];
    assert_eq!(groups(&of), [1, 1, 2, 1, 2]);
}

#[test]
fn a_second_strike_before_the_first_one_is_stored_takes_nothing_from_it() {
    let holds = Holds::default();
    holds.struck(&strike("a.b", "x"));
    holds.struck(&strike("a.c", "x"));
    holds.struck(&strike("a.b", "y"));
    let strikes = holds.strikes();
    let relations: Vec<_> = strikes.iter().map(|one| one.thing.relation.as_str()).collect();
    assert_eq!(relations, ["a.c", "a.b"]);
    holds.stand(vec![waiting("a.b"), waiting("a.c")]);
    assert_eq!(holds.strikes().len(), 2, "what is shown is not stored by that");
    holds.forget_strikes();
    assert!(holds.strikes().is_empty());
}

#[test]
fn nothing_new_may_wait_while_rows_are_read_or_a_time_is_sought_or_too_much_waits() {
    let holds = Holds::default();
    assert!(holds.can_hold());
    holds.reads(true);
    assert!(!holds.can_hold());
    holds.reads(false);
    holds.seeks(true);
    assert!(!holds.can_hold());
    holds.seeks(false);
    assert!(holds.can_hold());
    holds.stand((0..HELD_MAX).map(|n| waiting(&format!("a.t{n}"))).collect());
    assert!(!holds.can_hold());
}

#[test]
fn a_status_names_what_waits_and_why() {
    let holds = Holds::default();
    assert!(holds.words().is_none());
    holds.stand(vec![waiting("a.b"), waiting("a.c")]);
    let (reason, _) = holds.words().unwrap();
    assert!(reason.contains("a.b (and 1 more): refused"), "{reason}");
}
