//! The differences that are meant to be: `allowed.toml`, each with its reason.

use serde::Deserialize;

use crate::Result;

/// The list that comes with this crate.
const LIST: &str = include_str!("allowed.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    difference: Vec<Rule>,
}

/// One kind of difference. Patterns are taken letter by letter, but for `*`, which is anything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Where: `value.payload.ts_ms`, `key...`, `header.<name>`, `schema.value`.
    pub place: String,
    /// Only in this topic.
    #[serde(default = "anything")]
    pub topic: String,
    /// Only where Debezium wrote this.
    #[serde(default = "anything")]
    pub theirs: String,
    /// Only where the daemon wrote this.
    #[serde(default = "anything")]
    pub ours: String,
    /// Only in rows that a snapshot read.
    #[serde(default)]
    pub in_rows: bool,
    /// Only where both are numbers.
    #[serde(default)]
    pub both_numbers: bool,
    /// Only where both are the same but for the spelling of numbers.
    #[serde(default)]
    pub same_numbers: bool,
    pub reason: String,
}

fn anything() -> String {
    "*".to_owned()
}

/// The rules, and how often each was needed.
#[derive(Debug)]
pub struct Allowed {
    rules: Vec<(Rule, u64)>,
}

impl Allowed {
    pub fn read() -> Result<Self> {
        let file: File = toml::from_str(LIST)?;
        Ok(Self { rules: file.difference.into_iter().map(|rule| (rule, 0)).collect() })
    }

    /// Whether a difference is one of the list's; counts it.
    pub fn covers(&mut self, topic: &str, (place, is_row): (&str, bool), theirs: &str, ours: &str) -> bool {
        let fits = |rule: &Rule| {
            matches(&rule.place, place)
                && matches(&rule.topic, topic)
                && matches(&rule.theirs, theirs)
                && matches(&rule.ours, ours)
                && (is_row || !rule.in_rows)
                && (!rule.both_numbers || are_numbers(theirs, ours))
                && (!rule.same_numbers || are_same_numbers(theirs, ours))
        };
        match self.rules.iter_mut().find(|(rule, _)| fits(rule)) {
            Some((_, count)) => {
                *count += 1;
                true
            }
            None => false,
        }
    }

    /// Whether a rule is about this place, whatever else it asks for; none that is about all values.
    pub fn names(&self, place: &str) -> bool {
        self.rules.iter().any(|(rule, _)| rule.place != "value.*" && matches(&rule.place, place))
    }

    /// Reasons and counts of the rules that were needed.
    pub fn used(&self) -> impl Iterator<Item = (&str, u64)> {
        self.rules.iter().filter(|(_, count)| *count > 0).map(|(rule, count)| (rule.reason.as_str(), *count))
    }
}

/// Whether a text fits a pattern with `*`.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(tail, &rest[at..]))
}

fn are_numbers(left: &str, right: &str) -> bool {
    [left, right].iter().all(|text| text.parse::<i64>().is_ok())
}

/// Whether two texts differ only in how the same numbers are spelled.
fn are_same_numbers(left: &str, right: &str) -> bool {
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'E' | 'e');
    let runs = |text: &str| -> Vec<String> {
        let mut runs: Vec<(bool, String)> = Vec::new();
        for c in text.chars() {
            match runs.last_mut() {
                Some((kind, run)) if *kind == is_number(c) => run.push(c),
                _ => runs.push((is_number(c), c.into())),
            }
        }
        runs.into_iter().map(|(_, run)| run).collect()
    };
    let same = |(left, right): (&String, &String)| {
        left == right || matches!((left.parse::<f64>(), right.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
    };
    let (left, right) = (runs(left), runs(right));
    left.len() == right.len() && left.iter().zip(&right).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_anything() {
        for (pattern, text, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.c", false),
            ("*", "", true),
            ("*x*", "axb", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn numbers_may_be_spelled_differently_and_nothing_else_may() {
        for (left, right, expected) in [
            ("{\"a\": 1.4E+17}", "{\"a\": 1.40E17}", true),
            ("{\"a\": 1.4E+17}", "{\"a\": 1.5E+17}", false),
            ("{\"a\": 1.0}", "{\"b\": 1.0}", false),
            ("[1,2]", "[1]", false),
        ] {
            assert_eq!(are_same_numbers(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn every_rule_says_why() {
        let allowed = Allowed::read().unwrap();
        assert!(!allowed.rules.is_empty());
        assert!(allowed.rules.iter().all(|(rule, _)| rule.reason.len() > 20 && rule.place != "*"));
    }
}
