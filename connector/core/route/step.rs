//! What a file makes of the records of tables, step by step, each after the one before. Steps name the fields that
//! they find: what an earlier one renamed goes by its new name. Compiled once per relation version by
//! `encode::steps`; start at `Step`.

use super::topics::Topics;
use super::zone::Zone;
use crate::pattern::Pattern;

/// One `[[step]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `schema.table`; empty: every relation.
    pub relations: Vec<Pattern>,
    /// Of relations whose first topic this names.
    pub topics: Option<Topics>,
    pub does: Does,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Does {
    /// Relations make no records.
    Discard,
    /// These fields are left out.
    Drop {
        of: Part,
        fields: Vec<Name>,
    },
    /// All others are.
    Keep {
        of: Part,
        fields: Vec<Name>,
    },
    /// From, to.
    Rename {
        of: Part,
        fields: Vec<(Name, String)>,
    },
    /// Rows show this in the fields' place; without it, the zero of the field's type. NULL stays NULL.
    Replace {
        fields: Vec<Name>,
        with: Option<String>,
    },
    /// Fields at the end of the row, with their texts.
    Insert(Vec<Inserted>),
    /// Headers by their names, and the fields whose text they hold.
    Headers {
        fields: Vec<(String, Name)>,
        /// The fields leave the row.
        moves: bool,
    },
    /// Headers that are the same for every record.
    HeaderTexts(Vec<(String, String)>),
    DropHeaders(Vec<String>),
    /// Records are keyed by these fields.
    Key(Vec<Name>),
    /// Records of equal values in these fields share a partition.
    Partition(Spread),
    /// Timestamps are those of this zone's clocks; no fields: all of the row's.
    Timezone {
        zone: Zone,
        fields: Vec<Name>,
    },
}

/// Headers that no step may take: audits and signatures are read from them.
pub const KEPT_HEADERS: [&str; 6] =
    ["position", "unchanged", "special", "special.before", "snapshot.attempt", "signature"];

/// Where a field is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Row,
    Key,
}

/// A field that every row gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inserted {
    pub name: String,
    pub text: String,
    /// Its schema takes NULL, though it never is.
    pub optional: bool,
}

/// By which fields records find their partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    pub fields: Vec<Name>,
    /// Of the topic's partitions only so many, from the first; `None`: all.
    pub partitions: Option<u32>,
    pub hash: Hash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// Of a Kafka client for a key of the values' texts.
    Murmur2,
    /// The sum of what Java's objects answer, as in Debezium's PartitionRouting.
    Java,
}

/// A field; a `?` at the end allows it to be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub text: String,
    pub optional: bool,
}

impl Name {
    pub fn parse(text: &str) -> Self {
        let plain = text.strip_suffix('?');
        Self { text: plain.unwrap_or(text).to_owned(), optional: plain.is_some() }
    }
}

impl Step {
    /// Whether it is for the relation of this name, whose records go to this topic unless it is renamed.
    pub fn is_for(&self, relation: &str, topic: &str) -> bool {
        let by_name = self.relations.is_empty() || self.relations.iter().any(|own| own.matches(relation));
        by_name && self.topics.as_ref().is_none_or(|topics| topics.matches(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_for_the_relations_and_the_topics_that_it_names() {
        let step = |relations: &[&str], topics| Step {
            relations: relations.iter().map(|name| Pattern::new(*name)).collect(),
            topics,
            does: Does::Discard,
        };
        assert!(step(&[], None).is_for("public.a", "shop.public.a"));
        assert!(step(&["public.*"], None).is_for("public.a", "shop.public.a"));
        assert!(!step(&["other.*"], None).is_for("public.a", "shop.public.a"));
        let topics = |negated| Some(Topics::new("shop\\.public\\..*", negated).unwrap());
        assert!(step(&[], topics(false)).is_for("public.a", "shop.public.a"));
        assert!(!step(&[], topics(true)).is_for("public.a", "shop.public.a"));
        assert_eq!(Name::parse("a?"), Name { text: "a".into(), optional: true });
    }
}
