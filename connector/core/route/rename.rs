//! Topics under other names than those that relations give them. Pure; start at `renamed`.

use regex_lite::Regex;

use super::java;
use super::topics::{Topics, whole};

/// Topics that an expression fits as a whole are called by its replacement.
#[derive(Clone, Debug)]
pub struct Rename {
    rule: Rule,
    when: Option<Topics>,
    /// Schemas are named after the new topic, too.
    schemas: bool,
    key: Option<KeyField>,
}

/// A field at the end of every key that tells tables apart which share a topic.
#[derive(Clone, Debug)]
struct KeyField {
    name: String,
    /// What becomes of the old topic's name; without it, or where it does not fit, the name itself.
    rule: Option<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    from: Regex,
    /// As the library of expressions takes it.
    to: String,
}

// A regular expression is what it was made of.
impl PartialEq for Rename {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}
impl Eq for Rename {}

impl Rename {
    /// `to` as Java's replacements are written. Says what is wrong with either.
    pub fn new(from: &str, to: &str) -> Result<Self, String> {
        Ok(Self { rule: Rule::new(from, to)?, when: None, schemas: false, key: None })
    }

    /// Only where this fits the topic; with `negated`, only where it does not.
    pub fn only(self, topics: &str, negated: bool) -> Result<Self, String> {
        Ok(Self { when: Some(Topics::new(topics, negated)?), ..self })
    }

    pub fn with_schemas(self, schemas: bool) -> Self {
        Self { schemas, ..self }
    }

    /// Keys get this field, which holds the old topic or what the rule makes of it.
    pub fn with_key_field(self, name: &str, rule: Option<(&str, &str)>) -> Result<Self, String> {
        let rule = rule.map(|(from, to)| Rule::new(from, to)).transpose()?;
        Ok(Self { key: Some(KeyField { name: name.to_owned(), rule }), ..self })
    }
}

impl Rule {
    fn new(from: &str, to: &str) -> Result<Self, String> {
        let from = whole(from)?;
        let to = java::replacement(to, &from).map_err(|why| format!("{to:?} {why}"))?;
        Ok(Self { from, to })
    }

    /// `None` where it does not fit.
    fn apply(&self, text: &str) -> Option<String> {
        let found = self.from.captures(text)?;
        let mut out = String::new();
        found.expand(&self.to, &mut out);
        Some(out)
    }
}

/// What the records of a relation go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renamed {
    pub topic: String,
    /// What schemas are named after, where that is not the first name.
    pub schemas: Option<String>,
    /// Fields at the end of the key, with their texts.
    pub key_fields: Vec<(String, String)>,
}

/// After each of these in turn. A name that would become empty stays.
pub fn renamed(renames: &[Rename], topic: String) -> Renamed {
    let mut renamed = Renamed { topic, ..Renamed::default() };
    for rename in renames {
        let old = renamed.topic.as_str();
        let is_meant = rename.when.as_ref().is_none_or(|topics| topics.matches(old));
        let new = rename.rule.apply(old).filter(|new| is_meant && !new.is_empty());
        let Some(new) = new else { continue };
        if let Some(field) = &rename.key {
            let text = field.rule.as_ref().and_then(|rule| rule.apply(old)).unwrap_or_else(|| old.to_owned());
            renamed.key_fields.retain(|(name, _)| *name != field.name);
            renamed.key_fields.push((field.name.clone(), text));
        }
        if rename.schemas {
            renamed.schemas = Some(new.clone());
        }
        renamed.topic = new;
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rename(from: &str, to: &str) -> Rename {
        Rename::new(from, to).unwrap()
    }

    #[test]
    fn the_whole_name_is_fitted_and_the_names_that_come_of_it_go_on() {
        let all = [
            rename("shop\\.public\\.(.*)", "of_$1"),
            rename("of_(.*)_\\d+", "$1_x"),
            rename("never", "x").only("a", false).unwrap(),
            rename("gone", ""),
        ];
        for (topic, expected) in [
            ("shop.public.orders", "of_orders"),
            ("shop.public.orders_17", "orders_x"),
            ("my.shop.public.orders", "my.shop.public.orders"),
            ("never", "never"),
            ("gone", "gone"),
        ] {
            let found = renamed(&all, topic.to_owned());
            assert_eq!(found, Renamed { topic: expected.into(), ..Renamed::default() });
        }
        let others = [rename(".*", "other").only("shop.*", true).unwrap()];
        assert_eq!(renamed(&others, "shop.a".into()).topic, "shop.a");
        assert_eq!(renamed(&others, "b".into()).topic, "other");
        assert!(Rename::new("(", "x").is_err());
    }

    #[test]
    fn replacements_are_read_as_java_reads_them() {
        for (to, expected) in [
            ("$1x", "ax"),
            ("$12", "a2"),
            ("${second}-$1", "b-a"),
            ("\\$1", "$1"),
            ("a\\.b", "a.b"),
            ("$0", "ab"),
        ] {
            assert_eq!(renamed(&[rename("(a)(?P<second>b)", to)], "ab".into()).topic, expected, "{to}");
        }
    }

    #[test]
    fn tables_that_share_a_topic_share_its_schemas_and_are_told_apart_in_the_key() {
        let shards = rename("(.*)_shard\\d", "$1").with_schemas(true);
        let found = |shards: &Rename| renamed(std::slice::from_ref(shards), "s.a_shard7".into());
        let plain = shards.clone().with_key_field("table", None).unwrap();
        let expected = Renamed {
            topic: "s.a".into(),
            schemas: Some("s.a".into()),
            key_fields: vec![("table".into(), "s.a_shard7".into())],
        };
        assert_eq!(found(&plain), expected);
        for (from, text) in [(".*_(shard\\d)", "shard7"), ("(other)", "s.a_shard7")] {
            let by_rule = shards.clone().with_key_field("table", Some((from, "$1"))).unwrap();
            assert_eq!(found(&by_rule).key_fields, [("table".into(), text.into())]);
        }
    }
}
