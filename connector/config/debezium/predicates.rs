//! Predicates: for which records a transform is. Start at `Predicates::records_of`.
//!
//! Which headers a record has is known before there is one: those that Debezium gives every record of a table, and
//! those that the transforms before put in or take away.

use std::collections::BTreeMap;

use super::Kind;
use super::given::Given;
use super::steps::short;

/// What Debezium gives every record of a table, behind `__debezium.context.`.
const CONTEXT: [&str; 4] = ["connectorLogicalName", "taskId", "connectorName", "runId"];

/// Those of records whose row changed its key.
const MOVED: [&str; 2] = ["__debezium.newkey", "__debezium.oldkey"];
const BY_RECORD: &str = "is known with each record only; write `filter` in a [[route]] of a TOML file";

/// The records that a transform is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Records {
    All,
    None,
    /// Of the topics that fit, or that do not.
    Topics {
        pattern: String,
        negated: bool,
        /// They are meant by the names that they have before every router.
        first_names: bool,
    },
    Tombstones {
        negated: bool,
    },
}

/// What a predicate asks.
enum Asked {
    Topics(String),
    Tombstones,
    Header(String),
}

/// Which records have a header; one that is not there is in none.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Bearers {
    All,
    Topics {
        pattern: String,
        negated: bool,
    },
    /// Why they cannot be told.
    Unknown(String),
}

/// The predicates of a file, and the headers at the transform at hand.
pub struct Predicates {
    known: BTreeMap<String, Asked>,
    headers: BTreeMap<String, Bearers>,
}

impl Predicates {
    pub fn read(kind: Kind, given: &mut Given) -> Self {
        let mut known = BTreeMap::new();
        for name in given.list("predicates") {
            let origin = format!("predicates.{name}.type");
            let class = given.required(&origin);
            let asked = match short(&class) {
                "TopicNameMatches" => Asked::Topics(given.required(&format!("predicates.{name}.pattern"))),
                "RecordIsTombstone" => Asked::Tombstones,
                "HasHeaderKey" => Asked::Header(given.required(&format!("predicates.{name}.name"))),
                _ => {
                    given.wrong(format!(
                        "{origin}: {class:?} cannot be had, only TopicNameMatches, RecordIsTombstone and HasHeaderKey"
                    ));
                    continue;
                }
            };
            known.insert(name, asked);
        }
        let mut headers = BTreeMap::new();
        for name in MOVED {
            headers.insert(
                name.to_owned(),
                Bearers::Unknown(format!("whether a row changed its key {BY_RECORD}")),
            );
        }
        if given.flag("extended.headers.enabled", true) {
            // Logical messages have a topic of their own, and no such headers.
            let messages = format!("{}.message", given.get("topic.prefix").unwrap_or_default());
            let bearers = match kind {
                Kind::Postgres => Bearers::Topics { pattern: topic_pattern(&messages), negated: true },
                Kind::Mongodb => Bearers::All,
            };
            for name in CONTEXT {
                headers.insert(format!("__debezium.context.{name}"), bearers.clone());
            }
        }
        Self { known, headers }
    }

    /// What the predicate of the transform of this name asks for; `None` where a problem was told.
    pub fn records_of(&self, name: &str, given: &mut Given) -> Option<Records> {
        let origin = format!("transforms.{name}.predicate");
        let negated = given.flag(&format!("transforms.{name}.negate"), false);
        let Some(wanted) = given.get(&origin).map(str::to_owned) else { return Some(Records::All) };
        match self.known.get(&wanted) {
            None => {
                given.wrong(format!("{origin}: {wanted:?} is none of the predicates that are understood"));
                None
            }
            Some(Asked::Topics(pattern)) => {
                Some(Records::Topics { pattern: pattern.clone(), negated, first_names: false })
            }
            Some(Asked::Tombstones) => Some(Records::Tombstones { negated }),
            Some(Asked::Header(header)) => match (self.headers.get(header), negated) {
                (None, false) | (Some(Bearers::All), true) => Some(Records::None),
                (None, true) | (Some(Bearers::All), false) => Some(Records::All),
                (Some(Bearers::Topics { pattern, negated: others }), _) => Some(Records::Topics {
                    pattern: pattern.clone(),
                    negated: negated ^ others,
                    first_names: true,
                }),
                (Some(Bearers::Unknown(why)), _) => {
                    given.wrong(format!("{origin}: header {header:?} cannot be asked for: {why}"));
                    None
                }
            },
        }
    }

    /// Takes note of what a transform of this class does to the headers of its records.
    pub fn pass(&mut self, name: &str, class: &str, records: &Records, given: &Given) {
        let of = |option: &str| format!("transforms.{name}.{option}");
        match short(class) {
            "InsertHeader" => {
                if let Some(header) = given.get(&of("header")) {
                    self.put(header, records);
                }
            }
            "DropHeaders" => {
                for header in given.list(&of("headers")) {
                    self.take(&header, records);
                }
            }
            "HeaderFrom$Value" => {
                let why = format!("whether a value holds the field that it is made of {BY_RECORD}");
                for header in given.list(&of("headers")) {
                    self.headers.insert(header, Bearers::Unknown(why.clone()));
                }
            }
            _ => {}
        }
    }

    /// Takes note of headers that a transform adds to the records that have a value.
    pub fn pass_flat(&mut self, name: &str, given: &Given) {
        let of = |option: &str| format!("transforms.{name}.{option}");
        let prefix = given.get(&of("add.headers.prefix")).unwrap_or("__");
        let why = format!("whether a record is a tombstone, which has none of add.headers, {BY_RECORD}");
        for field in given.list(&of("add.headers")) {
            let (field, alias) = field.split_once(':').unwrap_or((&field, &field));
            let called = if alias == field { field.replace('.', "_") } else { alias.to_owned() };
            self.headers.insert(format!("{prefix}{called}"), Bearers::Unknown(why.clone()));
        }
    }

    fn put(&mut self, header: &str, records: &Records) {
        let bearers = match (self.headers.get(header), records) {
            (_, Records::None) | (Some(Bearers::All), _) => return,
            (_, Records::All) => Bearers::All,
            (None, Records::Topics { pattern, negated, .. }) => {
                Bearers::Topics { pattern: pattern.clone(), negated: *negated }
            }
            (Some(_), Records::Topics { .. }) | (_, Records::Tombstones { .. }) => several(),
        };
        self.headers.insert(header.to_owned(), bearers);
    }

    fn take(&mut self, header: &str, records: &Records) {
        match (self.headers.get(header), records) {
            (None, _) | (_, Records::None) => {}
            (Some(_), Records::All) => drop(self.headers.remove(header)),
            (Some(_), Records::Topics { .. } | Records::Tombstones { .. }) => {
                self.headers.insert(header.to_owned(), several());
            }
        }
    }
}

fn several() -> Bearers {
    Bearers::Unknown(
        "several transforms say for which topics it is there; ask for those topics instead".into(),
    )
}

/// The expression that fits this topic alone.
pub fn topic_pattern(name: &str) -> String {
    name.replace('.', "\\.")
}
