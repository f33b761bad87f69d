//! Single message transforms: those that say what a key of ours says, and for every other one the key that comes
//! nearest. Start at `transforms`.

use toml::{Table, Value};

use super::given::Given;
use super::keys::Keys;
use super::{Kind, flat};

/// What cannot be had, by the last part of the class's name, and what to use.
const REFUSED: [(&str, &str); 11] = [
    (
        "ExtractNewRecordState",
        "once, and of rows; of documents io.debezium.connector.mongodb.transforms.ExtractNewDocumentState",
    ),
    (
        "ExtractNewDocumentState",
        "once, and of documents; of rows io.debezium.transforms.ExtractNewRecordState",
    ),
    ("EventRouter", "write a [[route]] with envelope = \"outbox\" in a TOML file"),
    ("MongoEventRouter", "write a [[route]] with envelope = \"outbox\" in a TOML file"),
    ("Filter", "set filter in a [[route]] of a TOML file"),
    ("ContentBasedRouter", "set topic_by and topics in a [[route]] of a TOML file"),
    ("PartitionRouting", "set key in a [[route]] of a TOML file: rows of one key share a partition"),
    ("ReplaceField", "use column.include.list or column.exclude.list"),
    ("MaskField", "use column.mask.with.<length>.chars"),
    ("ValueToKey", "use message.key.columns"),
    ("TimestampConverter", "use time.precision.mode"),
];

/// Of every transform.
const GENERAL: [&str; 3] = ["type", "predicate", "negate"];
const REGEX_ROUTER: [&str; 2] = ["regex", "replacement"];
const LOGICAL_ROUTER: [&str; 8] = [
    "topic.regex",
    "topic.replacement",
    "key.enforce.uniqueness",
    "key.field.name",
    "key.field.regex",
    "key.field.replacement",
    "schema.name.adjustment.mode",
    "logical.table.cache.size",
];
/// What the field is called that tells tables apart.
const KEY_FIELD: &str = "__dbz__physicalTableIdentifier";

/// A predicate on the name of the topic.
struct Predicate {
    name: String,
    pattern: String,
}

pub fn transforms(kind: Kind, given: &mut Given, keys: &mut Keys) {
    let predicates = predicates(given);
    let (mut rules, mut flattened) = (Vec::new(), None);
    for name in given.list("transforms") {
        let class = given.required(&format!("transforms.{name}.type"));
        let rule = match last_part(&class) {
            "" => continue,
            "RegexRouter" => regex_router(&name, given),
            "ByLogicalTableRouter" => logical_router(&name, given),
            _ if class == flat::class(kind) && flattened.is_none() => {
                flattened = Some(name);
                continue;
            }
            other => {
                refuse(&name, other, given);
                continue;
            }
        };
        rules.extend(conditioned(&name, rule, &predicates, given).map(Value::Table));
    }
    if let Some(name) = flattened {
        flat::flat(&name, kind, given, keys);
    }
    if !rules.is_empty() {
        keys.set("format", "rename_topics", Value::Array(rules), "transforms");
    }
}

/// `Filter` of `io.debezium.transforms.Filter`, `MaskField` of `org.apache.kafka.connect.transforms.MaskField$Value`.
fn last_part(class: &str) -> &str {
    let class = class.split('$').next().unwrap_or_default();
    class.rsplit('.').next().unwrap_or_default()
}

fn refuse(name: &str, class: &str, given: &mut Given) {
    let known = REFUSED.iter().find(|(known, _)| *known == class);
    let hint = known.map_or(
        "only RegexRouter, ByLogicalTableRouter and ExtractNewRecordState are understood, and EventRouter alone",
        |(_, hint)| hint,
    );
    given.wrong_with_hint(format!("transforms.{name}.type: {class} cannot be had"), hint.to_owned());
}

fn regex_router(name: &str, given: &mut Given) -> Table {
    only_known(name, &REGEX_ROUTER, given);
    renaming(name, ["regex", "replacement"], given)
}

/// Schemas go by the new name too, and keys tell the old one.
fn logical_router(name: &str, given: &mut Given) -> Table {
    only_known(name, &LOGICAL_ROUTER, given);
    let mut rule = renaming(name, ["topic.regex", "topic.replacement"], given);
    rule.insert("schemas".into(), true.into());
    if given.flag(&format!("transforms.{name}.key.enforce.uniqueness"), true) {
        let text = |property: &str| given.get(&format!("transforms.{name}.{property}")).map(str::to_owned);
        let field = text("key.field.name").unwrap_or_else(|| KEY_FIELD.to_owned());
        let (from, to) = (text("key.field.regex"), text("key.field.replacement"));
        rule.insert("key_field".into(), field.into());
        rule.extend(from.map(|from| ("key_from".to_owned(), from.into())));
        rule.extend(to.map(|to| ("key_to".to_owned(), to.into())));
    }
    rule
}

fn renaming(name: &str, [from, to]: [&str; 2], given: &mut Given) -> Table {
    let mut text = |property: &str| Value::from(given.required(&format!("transforms.{name}.{property}")));
    Table::from_iter([("from".to_owned(), text(from)), ("to".to_owned(), text(to))])
}

fn only_known(name: &str, known: &[&str], given: &mut Given) {
    let prefix = format!("transforms.{name}.");
    for (property, _) in given.under(&prefix) {
        if !known.contains(&property.as_str()) && !GENERAL.contains(&property.as_str()) {
            given.wrong_with_hint(
                format!("{prefix}{property}: is not a property of this transform"),
                format!("it takes {}", known.join(", ")),
            );
        }
    }
}

/// Only for the topics that its predicate names.
fn conditioned(name: &str, mut rule: Table, predicates: &[Predicate], given: &mut Given) -> Option<Table> {
    let origin = format!("transforms.{name}.predicate");
    let negated = given.flag(&format!("transforms.{name}.negate"), false);
    if let Some(wanted) = given.get(&origin).map(str::to_owned) {
        let Some(predicate) = predicates.iter().find(|predicate| predicate.name == wanted) else {
            given.wrong(format!("{origin}: {wanted:?} is none of the predicates that are understood"));
            return None;
        };
        rule.insert(if negated { "not" } else { "only" }.into(), predicate.pattern.clone().into());
    }
    Some(rule)
}

fn predicates(given: &mut Given) -> Vec<Predicate> {
    let mut found = Vec::new();
    for name in given.list("predicates") {
        let origin = format!("predicates.{name}.type");
        let class = given.required(&origin);
        if last_part(&class) == "TopicNameMatches" {
            let pattern = given.required(&format!("predicates.{name}.pattern"));
            found.push(Predicate { name, pattern });
        } else {
            given.wrong(format!("{origin}: {class:?} cannot be had, only TopicNameMatches"));
        }
    }
    found
}
