//! The aggregation behind the stream: what the server is asked for, and its fingerprint. Pure.
//!
//! Collections are left out on the server's side, so that nothing is sent in vain; drops and renames of
//! captured ones come along. No stage may change an event's `_id`: it is the place to go on from.

use mongodb::bson::{Bson, Document, doc};

use crate::collections::Pattern;
use crate::config::{Scope, Settings, UpdateDocument};
use crate::event::Operation;
use crate::resume_token::{ClusterTime, ResumeToken};

/// Where a stream begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the newest place.
    Now,
    /// After what the token names. Unlike `resumeAfter` this goes on after an invalidation too.
    After(ResumeToken),
    /// With the first event of that time or later.
    At(ClusterTime),
}

/// The stages. `splits`: the server can send an event above its limit in parts.
pub fn stages(settings: &Settings, begin: &Begin, splits: bool) -> Vec<Document> {
    let mut stream = doc! {};
    match begin {
        Begin::Now => {}
        Begin::After(token) => {
            stream.insert("startAfter", token.to_document());
        }
        Begin::At(time) => {
            stream.insert("startAtOperationTime", time.timestamp());
        }
    }
    if settings.scope == Scope::Deployment {
        stream.insert("allChangesForCluster", true);
    }
    match settings.update_document {
        UpdateDocument::None => {}
        UpdateDocument::Lookup => {
            stream.insert("fullDocument", "updateLookup");
        }
        UpdateDocument::PostImage => {
            stream.insert("fullDocument", "whenAvailable");
        }
    }
    if settings.pre_images {
        stream.insert("fullDocumentBeforeChange", "whenAvailable");
    }
    let mut stages = vec![doc! { "$changeStream": stream }, doc! { "$match": wanted(settings) }];
    if splits && settings.split_large_events {
        stages.push(doc! { "$changeStreamSplitLargeEvent": {} });
    }
    stages
}

fn wanted(settings: &Settings) -> Document {
    let named = |wanted: &[Operation]| -> Vec<&'static str> {
        Operation::ALL.iter().filter(|(_, known)| wanted.contains(known)).map(|(word, _)| *word).collect()
    };
    let of_all = named(&[Operation::Invalidate, Operation::DropDatabase]);
    let of_one: Vec<&str> =
        Operation::ALL.iter().map(|(word, _)| *word).filter(|word| !of_all.contains(word)).collect();
    let mut captured = doc! { "operationType": { "$in": of_one } };
    // What cannot be asked of the server is left to the decoder: it looks at every name again.
    if settings.collections.iter().all(can_be_asked) {
        captured.insert("$or", conditions(&settings.collections));
    }
    let excluded = conditions(&settings.exclude_collections);
    if !excluded.is_empty() {
        captured.insert("$nor", excluded);
    }
    doc! { "$or": [ { "operationType": { "$in": of_all } }, captured ] }
}

fn can_be_asked(pattern: &Pattern) -> bool {
    match pattern {
        Pattern::One { .. } | Pattern::Database(_) => true,
        Pattern::Expression(_) => pattern.server_expression().is_some(),
        Pattern::All => false,
    }
}

/// One condition a database, and one an expression.
fn conditions(patterns: &[Pattern]) -> Vec<Document> {
    let mut conditions: Vec<Document> = Vec::new();
    for pattern in patterns {
        match pattern {
            Pattern::All => {}
            Pattern::Database(database) => conditions.push(doc! { "ns.db": database }),
            Pattern::Expression(_) => conditions.extend(pattern.server_expression().map(fits)),
            Pattern::One { database, .. } => {
                let of_database: Vec<&str> = patterns
                    .iter()
                    .filter_map(|other| match other {
                        Pattern::One { database: d, collection } if d == database => {
                            Some(collection.as_str())
                        }
                        _ => None,
                    })
                    .collect();
                let condition = doc! { "ns.db": database, "ns.coll": { "$in": of_database } };
                if !conditions.contains(&condition) {
                    conditions.push(condition);
                }
            }
        }
    }
    conditions
}

/// The whole name fits an expression.
fn fits(expression: &str) -> Document {
    let name = doc! { "$concat": ["$ns.db", ".", { "$ifNull": ["$ns.coll", ""] }] };
    doc! { "$expr": { "$regexMatch": { "input": name, "regex": expression, "options": "i" } } }
}

/// Equal for equal questions, wherever they begin.
pub fn fingerprint(settings: &Settings, splits: bool) -> String {
    let stages: Vec<Bson> = stages(settings, &Begin::Now, splits).into_iter().map(Bson::Document).collect();
    // FNV-1a: it has to be the same in every build, and to tell two questions of one connector apart.
    let text = Bson::Array(stages).to_string();
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Raw;

    fn settings(toml: &str) -> Settings {
        let raw: Raw = toml::from_str(&format!("url = 'mongodb://db'\n{toml}")).unwrap();
        Settings::resolve(raw, "orders").unwrap()
    }

    #[test]
    fn the_server_is_asked_for_the_captured_collections_only() {
        let settings =
            settings("collections = ['shop.a', 'shop.b', 'other.*']\nexclude_collections = ['other.x']");
        let stages = stages(&settings, &Begin::Now, false);
        assert_eq!(stages.len(), 2);
        let captured = stages[1].get_document("$match").unwrap().get_array("$or").unwrap()[1].clone();
        let captured = captured.as_document().unwrap().clone();
        assert_eq!(
            captured.get_array("$or").unwrap(),
            &vec![
                Bson::from(doc! { "ns.db": "shop", "ns.coll": { "$in": ["a", "b"] } }),
                Bson::from(doc! { "ns.db": "other" }),
            ]
        );
        assert!(captured.contains_key("$nor"));
    }

    #[test]
    fn the_server_is_asked_for_names_that_fit_an_expression_and_for_all_where_it_may_read_one_differently() {
        let captured = |toml: &str| {
            let stages = stages(&settings(toml), &Begin::Now, false);
            let any = stages[1].get_document("$match").unwrap().get_array("$or").unwrap().clone();
            any[1].as_document().unwrap().clone()
        };
        let asked = captured(r"collections = ['/shop\.(a|b)/', 'other.x']");
        assert_eq!(asked.get_array("$or").unwrap().len(), 2);
        assert!(asked.to_string().contains("$regexMatch"), "{asked}");
        let all = captured(r"collections = ['/shop\.(?s:a|b)/']");
        assert!(!all.contains_key("$or"), "{all}");
        let without = captured(
            r"collections = ['shop.*']
exclude_collections = ['/shop\.\btmp/', 'shop.x']",
        );
        assert_eq!(without.get_array("$nor").unwrap().len(), 1);
    }

    #[test]
    fn the_fingerprint_follows_the_question_and_not_its_beginning() {
        let one = settings("collections = ['shop.a']");
        let two = settings("collections = ['shop.a']\npre_images = true");
        assert_eq!(fingerprint(&one, true), fingerprint(&one, true));
        assert_ne!(fingerprint(&one, true), fingerprint(&two, true));
    }

    #[test]
    fn large_events_are_split_where_the_server_can_and_the_file_lets_it() {
        let settings = settings("collections = ['*.*']");
        let split = |splits| stages(&settings, &Begin::Now, splits).len() == 3;
        assert!(split(true) && !split(false));
    }
}
