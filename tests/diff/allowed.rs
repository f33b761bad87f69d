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
    /// Only where Debezium wrote this.
    #[serde(default = "anything")]
    pub theirs: String,
    /// Only where the daemon wrote this.
    #[serde(default = "anything")]
    pub ours: String,
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
    pub fn covers(&mut self, place: &str, theirs: &str, ours: &str) -> bool {
        let fits = |rule: &Rule| {
            matches(&rule.place, place) && matches(&rule.theirs, theirs) && matches(&rule.ours, ours)
        };
        match self.rules.iter_mut().find(|(rule, _)| fits(rule)) {
            Some((_, count)) => {
                *count += 1;
                true
            }
            None => false,
        }
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
    fn every_rule_says_why() {
        let allowed = Allowed::read().unwrap();
        assert!(!allowed.rules.is_empty());
        assert!(allowed.rules.iter().all(|(rule, _)| rule.reason.len() > 20 && rule.place != "*"));
    }
}
