//! What a run of Postgres is made of beside its tables. Every choice goes through its words, so that twenty seeds in
//! a row go through all of them. Start at [`Modes::of`].

use std::collections::BTreeMap;
use std::fmt;

use millrace_ledger::random::Random;

use super::values::{Family, NOT_A_NUMBER, OF_DIMENSIONS};

/// Debezium's properties, and the words that they take turns with; an empty one is the default.
const PROPERTIES: &[(&str, &[&str])] = &[
    (
        SNAPSHOT,
        &[
            "initial",
            "initial",
            "initial",
            "initial",
            "no_data",
            "always",
            "when_needed",
            "when_needed",
            "initial_only",
            "configuration_based",
        ],
    ),
    (TIMES, &["", "", "adaptive_time_microseconds", "connect", "isostring", "microseconds", "nanoseconds"]),
    (DECIMALS, &["precise", "double", "string"]),
    ("binary.handling.mode", &["bytes", "base64", "base64-url-safe", "hex"]),
    ("hstore.handling.mode", &["json", "map"]),
    ("interval.handling.mode", &["numeric", "string"]),
    ("unavailable.value.placeholder", &["", "", "it is not here"]),
    ("tombstones.on.delete", &["", "true", "false"]),
    (UNCHANGED, &["", "true"]),
    (SKIPPED, &["", "none", "none", "t", "u", "d", "u,d,t"]),
    (METADATA, &["false", "true"]),
    (HEARTBEAT, &["0", "3000"]),
    ("schema.name.adjustment.mode", &["avro", "avro_unicode"]),
    ("field.name.adjustment.mode", &["avro", "avro_unicode"]),
    ("include.schema.comments", &["", "true"]),
    (BY_ROOT, &["true", "true", "false"]),
    ("extended.headers.enabled", &["", "", "false"]),
    ("notification.enabled.channels", &["", "sink"]),
];

/// Choices that are more than a property.
const CHOICES: &[(&str, &[&str])] = &[
    (
        "columns",
        &[
            "all",
            "masked",
            "hashed",
            "hashed v2",
            "truncated",
            "excluded",
            "included",
            "typed",
            "typed by type",
        ],
    ),
    ("tables", &["included", "excluded", "schema included", "schema excluded"]),
    ("messages", &["included", "excluded"]),
    ("restart", &["no", "no", "yes"]),
    ("signals", &["no", "yes"]),
    ("reselect", &["no", "no", "yes"]),
    ("keys", &["own", "own", "chosen"]),
    ("configuration", &["rows", "no rows"]),
];

pub const SNAPSHOT: &str = "snapshot.mode";
pub const METADATA: &str = "provide.transaction.metadata";
pub const HEARTBEAT: &str = "heartbeat.interval.ms";
pub const BY_ROOT: &str = "publish.via.partition.root";
pub const SKIPPED: &str = "skipped.operations";
const UNCHANGED: &str = "skip.messages.without.change";
const TIMES: &str = "time.precision.mode";
const DECIMALS: &str = "decimal.handling.mode";

/// How both sides are set up.
#[derive(Clone, Debug)]
pub struct Modes {
    properties: BTreeMap<String, String>,
    choices: BTreeMap<&'static str, &'static str>,
}

impl Modes {
    /// Those of a seed; `given` is stronger.
    pub fn of(seed: u64, given: &[(String, String)]) -> Self {
        let drawn = |(number, (name, words)): (u64, &(&'static str, &'static [&'static str]))| {
            (*name, word(seed, number, words))
        };
        let properties = (10..).zip(PROPERTIES).map(drawn);
        let mut properties: BTreeMap<String, String> =
            properties.map(|(name, word)| (name.to_owned(), word.to_owned())).collect();
        properties.extend(given.iter().cloned());
        properties.retain(|_, word| !word.is_empty());
        Self { properties, choices: (100..).zip(CHOICES).map(drawn).collect() }
    }

    /// The property as both are given it; its default is empty.
    pub fn get(&self, property: &str) -> &str {
        self.properties.get(property).map_or("", String::as_str)
    }

    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.properties.iter().map(|(name, word)| (name.as_str(), word.as_str()))
    }

    pub fn choice(&self, name: &str) -> &'static str {
        self.choices.get(name).copied().unwrap_or_default()
    }

    /// Rows that are there are read at the first start.
    pub fn reads_rows(&self) -> bool {
        match self.get(SNAPSHOT) {
            "no_data" => false,
            "configuration_based" => self.choice("configuration") == "rows",
            _ => true,
        }
    }

    pub fn streams(&self) -> bool {
        self.get(SNAPSHOT) != "initial_only"
    }

    /// Both are stopped in the middle.
    pub fn restarts(&self) -> bool {
        matches!(self.get(SNAPSHOT), "always" | "when_needed")
            || self.streams() && self.choice("restart") == "yes"
    }

    /// Slots are gone then.
    pub fn loses_slots(&self) -> bool {
        self.get(SNAPSHOT) == "when_needed" && self.choice("restart") == "yes"
    }

    /// Rows that are there are read at the second start.
    pub fn reads_again(&self) -> bool {
        self.reads_all_again() || self.loses_slots()
    }

    /// At every start.
    pub fn reads_all_again(&self) -> bool {
        self.get(SNAPSHOT) == "always"
    }

    pub fn signals(&self) -> bool {
        self.streams() && self.choice("signals") == "yes"
    }

    /// Whether Debezium can live with such values in these modes.
    pub fn takes(&self, family: &Family) -> bool {
        match family.sql {
            NOT_A_NUMBER => matches!(self.get(DECIMALS), "double" | "string"),
            // Two of the same are never equal for it.
            OF_DIMENSIONS => self.get(UNCHANGED) != "true",
            _ => true,
        }
    }
}

impl fmt::Display for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, word) in &self.properties {
            write!(f, "{name}={word} ")?;
        }
        let choices: Vec<String> =
            self.choices.iter().map(|(name, word)| format!("{name}: {word}")).collect();
        f.write_str(&choices.join(", "))
    }
}

/// As many seeds in a row as there are words go through all of them.
fn word(seed: u64, number: u64, words: &'static [&'static str]) -> &'static str {
    let count = words.len() as u64;
    let mut random = Random::fork(seed / count, number);
    let mut order: Vec<&'static str> = words.to_vec();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below_usize(at + 1));
    }
    order.get((seed % count) as usize).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn twenty_seeds_in_a_row_go_through_every_word() {
        for first in [0, 1, 7, 12345] {
            let modes: Vec<Modes> = (first..first + 20).map(|seed| Modes::of(seed, &[])).collect();
            for (property, words) in PROPERTIES {
                let seen: BTreeSet<&str> = modes.iter().map(|modes| modes.get(property)).collect();
                assert_eq!(seen, words.iter().copied().collect(), "{property} from {first}");
            }
            for (choice, words) in CHOICES {
                let seen: BTreeSet<&str> = modes.iter().map(|modes| modes.choice(choice)).collect();
                assert_eq!(seen, words.iter().copied().collect(), "{choice} from {first}");
            }
        }
    }

    #[test]
    fn what_is_given_is_stronger_than_what_is_drawn() {
        let given = [(SNAPSHOT.to_owned(), "no_data".to_owned()), (HEARTBEAT.to_owned(), String::new())];
        let modes = Modes::of(1, &given);
        assert_eq!((modes.get(SNAPSHOT), modes.get(HEARTBEAT)), ("no_data", ""));
        assert!(modes.streams() && !modes.reads_rows());
    }
}
