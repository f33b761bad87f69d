//! The aggregation behind the stream: what the server is asked for, and its fingerprint. Pure.
//!
//! Collections are left out on the server's side, so that nothing is sent in vain; drops and renames of
//! captured ones come along, and of others that take the place of one. No stage may change an event's `_id`: it is the
//! place to go on from.

use millrace_core::pattern::Pattern as Names;
use mongodb::bson::{Bson, Document, doc};

use crate::collections::{Name, Pattern};
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
    let mut wanted = wanted(settings);
    wanted.push(taking_a_place(settings));
    stages_for(settings, begin, splits, &wanted)
}

fn stages_for(settings: &Settings, begin: &Begin, splits: bool, wanted: &[Document]) -> Vec<Document> {
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
    let mut stages = vec![doc! { "$changeStream": stream }, doc! { "$match": { "$or": wanted } }];
    if splits && settings.split_large_events {
        stages.push(doc! { "$changeStreamSplitLargeEvent": {} });
    }
    stages
}

/// What happens to everything, what to the captured collections, and signals.
fn wanted(settings: &Settings) -> Vec<Document> {
    let named = |wanted: &[Operation]| -> Vec<&'static str> {
        Operation::ALL.iter().filter(|(_, known)| wanted.contains(known)).map(|(word, _)| *word).collect()
    };
    let of_all = named(&[Operation::Invalidate, Operation::DropDatabase]);
    let of_one: Vec<&str> =
        Operation::ALL.iter().map(|(word, _)| *word).filter(|word| !of_all.contains(word)).collect();
    let captured = captured(settings, "ns", doc! { "operationType": { "$in": of_one } });
    let mut wanted = vec![doc! { "operationType": { "$in": of_all } }, captured];
    if let Some(Name { database, collection }) = &settings.signal_collection {
        wanted.push(doc! { "operationType": "insert", "ns.db": database, "ns.coll": collection });
    }
    wanted
}

/// `$out` and a rename with `dropTarget` put another collection in the place of one, whatever its name was before.
fn taking_a_place(settings: &Settings) -> Document {
    captured(settings, "to", doc! { "operationType": "rename" })
}

/// Those of these events whose field names a captured collection.
fn captured(settings: &Settings, field: &str, mut events: Document) -> Document {
    // What cannot be asked of the server is left to the decoder: it looks at every name again.
    if settings.collections.iter().all(can_be_asked) {
        events.insert("$or", conditions(&settings.collections, field));
    }
    let excluded = conditions(&settings.exclude_collections, field);
    if !excluded.is_empty() {
        events.insert("$nor", excluded);
    }
    let is_plain = |names: &Names| !names.is_expression() && !names.text().contains('*');
    if !settings.databases.is_empty() && settings.databases.iter().all(is_plain) {
        let databases: Vec<&str> = settings.databases.iter().map(Names::text).collect();
        events.insert(format!("{field}.db"), doc! { "$in": databases });
    }
    events
}

fn can_be_asked(pattern: &Pattern) -> bool {
    match pattern {
        Pattern::One { .. } | Pattern::Database(_) => true,
        Pattern::Expression(_) => pattern.server_expression().is_some(),
        Pattern::All => false,
    }
}

/// One condition a database, and one an expression.
fn conditions(patterns: &[Pattern], field: &str) -> Vec<Document> {
    let [of_database, of_collection] = ["db", "coll"].map(|name| format!("{field}.{name}"));
    let mut conditions: Vec<Document> = Vec::new();
    for pattern in patterns {
        match pattern {
            Pattern::All => {}
            Pattern::Database(database) => conditions.push(doc! { &of_database: database }),
            Pattern::Expression(_) => {
                conditions.extend(pattern.server_expression().map(|expression| fits(expression, field)));
            }
            Pattern::One { database, .. } => {
                let names: Vec<&str> = patterns
                    .iter()
                    .filter_map(|other| match other {
                        Pattern::One { database: d, collection } if d == database => {
                            Some(collection.as_str())
                        }
                        _ => None,
                    })
                    .collect();
                let condition = doc! { &of_database: database, &of_collection: { "$in": names } };
                if !conditions.contains(&condition) {
                    conditions.push(condition);
                }
            }
        }
    }
    conditions
}

/// The whole name fits an expression.
fn fits(expression: &str, field: &str) -> Document {
    let [database, collection] = ["db", "coll"].map(|name| format!("${field}.{name}"));
    let name = doc! { "$concat": [database, ".", { "$ifNull": [collection, ""] }] };
    doc! { "$expr": { "$regexMatch": { "input": name, "regex": expression, "options": "i" } } }
}

/// Equal for equal questions, wherever they begin. What is asked for with every one of them, of other names by the same
/// patterns, is left out: a position from before that was asked is one of the same question.
pub fn fingerprint(settings: &Settings, splits: bool) -> String {
    let stages = stages_for(settings, &Begin::Now, splits, &wanted(settings));
    let stages: Vec<Bson> = stages.into_iter().map(Bson::Document).collect();
    hashed(&Bson::Array(stages).to_string())
}

/// FNV-1a: it has to be the same in every build, and to tell two questions of one connector apart.
fn hashed(text: &str) -> String {
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
    fn the_server_is_asked_for_signals_though_their_collection_is_not_captured() {
        let settings = settings(
            "collections = ['/shop.*/']\nexclude_collections = ['ops.signals']\ndatabases = ['shop']\n\
             signal_collection = 'ops.signals'",
        );
        let stages = stages(&settings, &Begin::Now, false);
        let any = stages[1].get_document("$match").unwrap().get_array("$or").unwrap();
        let captured = any[1].as_document().unwrap();
        assert_eq!(captured.get_document("ns.db").unwrap(), &doc! { "$in": ["shop"] });
        let signals = doc! { "operationType": "insert", "ns.db": "ops", "ns.coll": "signals" };
        assert_eq!(any[2], Bson::from(signals));
    }

    #[test]
    fn the_fingerprint_follows_the_question_and_not_its_beginning() {
        let one = settings("collections = ['shop.a']");
        let two = settings("collections = ['shop.a']\npre_images = true");
        assert_eq!(fingerprint(&one, true), fingerprint(&one, true));
        assert_ne!(fingerprint(&one, true), fingerprint(&two, true));
    }

    #[test]
    fn a_collection_that_takes_a_captured_one_s_place_is_asked_for_by_its_new_name() {
        let asked = |toml: &str| {
            let stages = stages(&settings(toml), &Begin::Now, false);
            stages[1].get_document("$match").unwrap().get_array("$or").unwrap()[2].clone()
        };
        let of_one = doc! {
            "operationType": "rename",
            "$or": [{ "to.db": "shop", "to.coll": { "$in": ["a"] } }],
            "$nor": [{ "to.db": "other" }],
        };
        assert_eq!(asked("collections = ['shop.a']\nexclude_collections = ['other.*']"), Bson::from(of_one));
        assert_eq!(asked("collections = ['*.*']"), Bson::from(doc! { "operationType": "rename" }));
        assert!(asked(r"collections = ['/shop\.a/']").to_string().contains("$to.db"));
    }

    #[test]
    fn the_fingerprint_is_that_of_releases_before() {
        let settings = settings("collections = ['shop.a']\nupdate_document = 'none'");
        let text = Bson::Array(vec![
            Bson::from(doc! { "$changeStream": { "allChangesForCluster": true } }),
            Bson::from(doc! { "$match": { "$or": [
                { "operationType": { "$in": ["dropDatabase", "invalidate"] } },
                {
                    "operationType": { "$in": ["insert", "update", "replace", "delete", "drop", "rename"] },
                    "$or": [{ "ns.db": "shop", "ns.coll": { "$in": ["a"] } }],
                },
            ] } }),
        ]);
        assert_eq!(fingerprint(&settings, false), hashed(&text.to_string()));
    }

    #[test]
    fn large_events_are_split_where_the_server_can_and_the_file_lets_it() {
        let settings = settings("collections = ['*.*']");
        let split = |splits| stages(&settings, &Begin::Now, splits).len() == 3;
        assert!(split(true) && !split(false));
    }
}
