//! Thousands of seeds through the real pipeline; and rules broken on purpose, which the check must see.

use millrace_core::chaos::{Rule, break_rule};
use millrace_testing::drive::Finding;
use millrace_testing::{Counted, Plant, run};

fn finding(seed: u64, plant: Plant) -> Finding {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime of one thread").block_on(run::<Counted>(seed, plant))
}

/// Fails with the seed, what is broken, and how it came to that.
fn check_seed(seed: u64) {
    let Finding { seed, violation, trace } = finding(seed, Plant::Nothing);
    if let Some(violation) = violation {
        panic!("seed {seed}: {violation}\n{}", trace.join("\n"));
    }
}

#[test]
fn every_change_comes_once_and_in_order_whatever_goes_wrong() {
    (0..4_000).for_each(check_seed);
}

#[test]
fn a_seed_does_the_same_each_time() {
    for seed in 0..50 {
        let (one, other) = (finding(seed, Plant::Nothing), finding(seed, Plant::Nothing));
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
}

#[test]
fn the_seeds_reach_every_kind_of_trouble() {
    let traces: Vec<String> = (0..400).flat_map(|seed| finding(seed, Plant::Nothing).trace).collect();
    for trouble in [
        "killed at preconditions",
        "killed at init",
        "killed at claim",
        "killed at position",
        "killed at source begins",
        "killed at message",
        "killed at before the hand-over",
        "killed at after the hand-over",
        "killed at sink takes a batch",
        "killed at before the position",
        "killed at commit",
        "an init was held back",
        "a commit was held back",
        "a transaction was aborted",
        "a commit was doubtful",
        "a commit was not answered",
        "the scripted source broke",
        "rival None",
        "rival Some",
    ] {
        let times = traces.iter().filter(|line| line.contains(trouble)).count();
        assert!(times > 0, "{trouble} happens");
    }
}

fn check_is_seen(plant: Plant) {
    let seen = (0..400).map(|seed| finding(seed, plant)).find_map(|found| found.violation);
    assert!(seen.is_some(), "{plant:?} is seen");
}

#[test]
fn a_source_that_confirms_what_it_sent_is_seen() {
    check_is_seen(Plant::ConfirmsWhatItSent);
}

#[test]
fn a_sink_that_settles_what_it_enqueued_is_seen() {
    check_is_seen(Plant::SettlesWhatItEnqueued);
}

#[test]
fn a_sink_that_goes_on_after_trouble_is_seen() {
    check_is_seen(Plant::GoesOnAfterTrouble);
}

#[test]
fn a_sink_that_opens_from_memory_is_seen() {
    check_is_seen(Plant::OpensFromMemory);
}

#[test]
fn a_position_apart_from_its_data_is_seen() {
    check_is_seen(Plant::PositionApart);
}

#[test]
fn a_batch_that_is_sent_twice_is_seen() {
    check_is_seen(Plant::SendsTwice);
}

#[test]
fn a_source_that_passes_over_a_stretch_is_seen() {
    check_is_seen(Plant::PassesOver);
}

/// Plants break the scripted ends; here the pipeline between them is the one that is wrong.
#[test]
fn each_broken_rule_of_the_pipeline_is_seen() {
    for rule in [Rule::Begin, Rule::Every, Rule::Once, Rule::Settled, Rule::Stop] {
        break_rule(Some(rule));
        let seen = (0..400).map(|seed| finding(seed, Plant::Nothing)).find_map(|found| found.violation);
        break_rule(None);
        assert!(seen.is_some(), "{rule:?} is seen");
    }
}
