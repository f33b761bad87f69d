//! Bytes that nobody sends, given to the parsers of foreign bytes: a parser may refuse them, and must not
//! panic, hang, or call what it made of them sound when it is not. Start at [`run`].
//!
//! [`corpus`] is where it begins, [`mutate`] what it does to it, [`targets`] who gets the result. Nothing is
//! measured of which code was reached; in exchange it needs no other compiler than the rest.

pub mod corpus;
pub mod mutate;
pub mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use millrace_testing::random::Random;

use crate::targets::Target;

/// Inputs that were accepted, kept to be changed further.
const KEPT_MAX: usize = 4096;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub tried: u64,
    /// Of those, taken for sound.
    pub accepted: u64,
    /// The first input that broke something, and what was said.
    pub broken: Option<(Vec<u8>, String)>,
}

/// Tries inputs for so long, or so many of them, whichever comes first.
pub fn run(target: &Target, seed: u64, time: Duration, count: u64) -> Outcome {
    let mut random = Random::new(seed, 0);
    let mut known: Vec<Vec<u8>> = (target.seeds)();
    let mut outcome = Outcome::default();
    let until = Instant::now() + time;
    while outcome.tried < count && (outcome.tried & 63 != 0 || Instant::now() < until) {
        let at = random.below(known.len() as u64) as usize;
        let input = match known.get(at) {
            // First everything as it is.
            Some(seed) if outcome.tried < known.len() as u64 => {
                known.get(outcome.tried as usize).unwrap_or(seed).clone()
            }
            Some(seed) => mutate::changed(seed, &known, &mut random),
            None => Vec::new(),
        };
        outcome.tried += 1;
        let tried = catch_unwind(AssertUnwindSafe(|| (target.try_it)(&input)));
        match tried {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => {
                outcome.accepted += 1;
                if known.len() < KEPT_MAX && random.chance(10) {
                    known.push(input);
                }
            }
            Ok(Err(unsound)) => {
                outcome.broken = Some((input, unsound));
                return outcome;
            }
            Err(_) => {
                outcome.broken = Some((input, "it panicked".to_owned()));
                return outcome;
            }
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some thousands each: seconds. The long runs are `cargo xtask fuzz`.
    #[test]
    fn no_parser_breaks_on_bytes_that_nobody_sends() {
        for target in targets::ALL {
            let outcome = run(target, 7, Duration::from_secs(3), 20_000);
            assert!(outcome.broken.is_none(), "{}: {:?}", target.name, outcome.broken);
            assert!(outcome.accepted > 0, "{} refuses everything: it is not reached", target.name);
        }
    }

    #[test]
    fn a_parser_that_panics_and_one_that_is_unsound_are_found() {
        let panics = Target {
            name: "panics",
            seeds: || vec![b"ab".to_vec()],
            try_it: |input| {
                assert!(!input.contains(&0));
                Ok(true)
            },
        };
        let outcome = run(&panics, 1, Duration::from_secs(5), 100_000);
        assert_eq!(outcome.broken.map(|(_, why)| why).as_deref(), Some("it panicked"));
        let unsound = Target {
            name: "unsound",
            seeds: || vec![b"ab".to_vec()],
            try_it: |input| {
                if input.len() > 3 { Err("too long".into()) } else { Ok(true) }
            },
        };
        assert!(run(&unsound, 1, Duration::from_secs(5), 100_000).broken.is_some());
    }
}
