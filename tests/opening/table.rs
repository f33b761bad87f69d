//! The table of rules: with all of them nothing bad can happen, and without each of them something does.
//! Each test prints how many states it saw and, for what it found, a shortest way there (`--nocapture`).

use millrace_kafka::rules::{OPENING, Step};
use millrace_opening::{Found, Outcome, Size, Variant, search};

const SMALL: Size = Size { instances: 2, batches: 3, faults: 2 };
const TWO: Size = Size { instances: 2, batches: 4, faults: 3 };
const THREE: Size = Size { instances: 3, batches: 2, faults: 2 };
const LARGEST: Size = Size { instances: 3, batches: 4, faults: 3 };

const NO_CLAIMS: &[Step] = &[Step::Init(0), Step::Init(1), Step::Read];
const NO_CLAIMS_TURNED_ROUND: &[Step] = &[Step::Init(1), Step::Init(0), Step::Read];
const TURNED_ROUND: &[Step] = &[Step::Init(1), Step::Init(0), Step::Claim(1), Step::Claim(0), Step::Read];
const CLAIMED_EARLY: &[Step] = &[Step::Init(0), Step::Claim(0), Step::Init(1), Step::Claim(1), Step::Read];

fn walk(variant: &Variant, size: Size) -> Found {
    let found = search(variant, size);
    let Size { instances, batches, faults } = size;
    let Found { states, steps, outcomes } = &found;
    println!("{instances} instances, {batches} batches, {faults} faults: {states} states, {steps} steps");
    for (outcome, way) in outcomes {
        println!("{outcome}:\n{way}");
    }
    found
}

fn assert_safe(variant: &Variant, size: Size) -> Found {
    let found = walk(variant, size);
    assert!(found.outcomes.is_empty(), "nothing bad can happen: {:#?}", found.outcomes);
    found
}

fn assert_finds(variant: &Variant, size: Size, expected: &[Outcome]) {
    let found = walk(variant, size);
    for outcome in expected {
        assert!(found.outcomes.contains_key(outcome), "{outcome} is found: {:#?}", found.outcomes);
    }
}

#[test]
fn with_every_rule_each_batch_comes_once_and_somebody_always_finishes() {
    let found = assert_safe(&Variant::default(), TWO);
    assert!(found.states > 300_000, "the search is as wide as it was: {}", found.states);
}

#[test]
fn with_every_rule_three_instances_do_no_more_harm_than_two() {
    let found = assert_safe(&Variant::default(), THREE);
    assert!(found.states > 1_000_000, "the search is as wide as it was: {}", found.states);
}

#[test]
#[ignore = "takes minutes and gigabytes: cargo test --workspace --test opening -- --ignored --nocapture"]
fn with_every_rule_the_largest_model_is_safe_too() {
    assert_safe(&Variant::default(), LARGEST);
}

#[test]
fn without_claims_initialising_in_any_order_doubles() {
    let orders = &[NO_CLAIMS, NO_CLAIMS_TURNED_ROUND];
    assert_finds(&Variant { orders, ..Variant::default() }, SMALL, &[Outcome::Double]);
}

#[test]
fn without_claims_the_first_data_on_either_id_doubles() {
    let variant = Variant { orders: &[NO_CLAIMS], first_on_either: true, ..Variant::default() };
    assert_finds(&variant, SMALL, &[Outcome::Double]);
}

#[test]
fn without_claims_the_sequence_and_the_first_id_are_enough() {
    assert_safe(&Variant { orders: &[NO_CLAIMS], ..Variant::default() }, TWO);
}

#[test]
fn with_claims_the_sequence_and_the_first_id_do_not_matter() {
    let orders: &[&[Step]] = &[&OPENING, TURNED_ROUND];
    assert_safe(&Variant { orders, first_on_either: true, ..Variant::default() }, SMALL);
}

#[test]
fn claims_that_carry_a_position_double() {
    let variant = Variant { claims_carry_a_position: true, ..Variant::default() };
    assert_finds(&variant, SMALL, &[Outcome::Double]);
}

#[test]
fn a_claim_before_the_second_id_is_taken_can_leave_nobody_active() {
    let orders = &[CLAIMED_EARLY];
    let variant = Variant { orders, judges_without_waiting: true, ..Variant::default() };
    assert_finds(&variant, TWO, &[Outcome::Stuck]);
}

#[test]
fn a_claim_before_the_second_id_is_taken_is_mended_by_a_judge_that_waits() {
    assert_safe(&Variant { orders: &[CLAIMED_EARLY], ..Variant::default() }, TWO);
}

#[test]
fn a_judge_that_does_not_wait_is_mended_by_taking_both_ids_first() {
    assert_safe(&Variant { judges_without_waiting: true, ..Variant::default() }, TWO);
}

#[test]
fn going_on_after_a_doubtful_commit_tears_and_loses() {
    let variant = Variant { recycle_after_doubt: false, ..Variant::default() };
    assert_finds(&variant, SMALL, &[Outcome::Torn, Outcome::Lost]);
}

#[test]
fn going_on_after_a_doubtful_claim_tears_and_loses() {
    let variant = Variant { recycle_after_a_doubtful_claim: false, ..Variant::default() };
    assert_finds(&variant, SMALL, &[Outcome::Torn, Outcome::Lost]);
}

#[test]
fn going_on_after_an_abort_loses() {
    let variant = Variant { recycle_after_an_abort: false, ..Variant::default() };
    assert_finds(&variant, SMALL, &[Outcome::Lost]);
}

#[test]
fn opening_anew_without_reading_doubles() {
    let variant = Variant { reads_at_every_opening: false, ..Variant::default() };
    assert_finds(&variant, SMALL, &[Outcome::Double]);
}

#[test]
fn going_on_after_the_last_batch_sent_loses() {
    let variant = Variant { goes_on_where_nothing_changed: true, ..Variant::default() };
    assert_finds(&variant, SMALL, &[Outcome::Lost]);
}

#[test]
fn a_new_instance_id_at_each_opening_leaves_nobody_active() {
    let variant = Variant { new_id_at_each_opening: true, ..Variant::default() };
    assert_finds(&variant, TWO, &[Outcome::Stuck]);
}

#[test]
fn giving_way_to_the_newest_claim_alone_leaves_nobody_active() {
    let variant = Variant { fenced_by_the_newest_claim_alone: true, ..Variant::default() };
    assert_finds(&variant, TWO, &[Outcome::Stuck]);
}
