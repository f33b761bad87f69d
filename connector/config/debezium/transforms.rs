//! Single message transforms, in their order: routers of topics here, flat records in `flat`, all others in `steps`. Start
//! at `transforms`.

use toml::{Table, Value};

use super::given::Given;
use super::keys::Keys;
use super::predicates::{Predicates, Records};
use super::steps::{Place, Step};
use super::{Kind, flat, steps};

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

/// Where tombstones are left out: before rows are made flat, or behind that, which may make one of a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtered {
    Before,
    Behind,
}

pub fn transforms(kind: Kind, given: &mut Given, keys: &mut Keys) {
    let mut predicates = Predicates::read(kind, given);
    let (mut rules, mut made, mut flattened, mut filtered) = (Vec::new(), Vec::new(), None, None);
    for name in given.list("transforms") {
        let class = given.required(&format!("transforms.{name}.type"));
        let rule = match steps::short(&class) {
            "" => continue,
            "RegexRouter" => regex_router(&name, given),
            "ByLogicalTableRouter" => logical_router(&name, given),
            _ if class == flat::class(kind) && flattened.is_none() => {
                predicates.pass_flat(&name, given);
                flattened = Some(name);
                continue;
            }
            _ => {
                let Some(records) = predicates.records_of(&name, given) else { continue };
                let (is_flat, is_renamed) = (flattened.is_some(), !rules.is_empty());
                predicates.pass(&name, &class, &records, given);
                let place = Place { kind, is_flat, is_renamed, records };
                match steps::step(&name, &class, &place, given) {
                    // What it says is right all the same.
                    _ if place.records == Records::None => {}
                    Some(Step::Steps(steps)) => made.extend(steps.into_iter().map(Value::Table)),
                    Some(Step::NoTombstones) if is_flat => filtered = Some(Filtered::Behind),
                    Some(Step::NoTombstones) => filtered = filtered.or(Some(Filtered::Before)),
                    None => {}
                }
                continue;
            }
        };
        let is_renamed = !rules.is_empty();
        rules.extend(conditioned(&name, rule, is_renamed, &predicates, given).map(Value::Table));
    }
    if let Some(name) = flattened {
        flat::flat(&name, kind, filtered, given, keys);
    }
    if filtered.is_some() {
        keys.set("format", "tombstones", false, "transforms");
    }
    if !rules.is_empty() {
        keys.set("format", "rename_topics", Value::Array(rules), "transforms");
    }
    if !made.is_empty() {
        keys.set("", "step", Value::Array(made), "transforms");
    }
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

pub fn only_known(name: &str, known: &[&str], given: &mut Given) {
    let prefix = format!("transforms.{name}.");
    for (property, _) in given.under(&prefix) {
        if !known.contains(&property.as_str()) && !GENERAL.contains(&property.as_str()) {
            given.wrong_with_hint(
                format!("{prefix}{property}: is not a property of this transform"),
                format!("it takes {}", known.iter().chain(&GENERAL).copied().collect::<Vec<_>>().join(", ")),
            );
        }
    }
}

/// Only for the topics that its predicate names.
fn conditioned(
    name: &str,
    mut rule: Table,
    is_renamed: bool,
    predicates: &Predicates,
    given: &mut Given,
) -> Option<Table> {
    let records = predicates.records_of(name, given)?;
    let mut wrong = |why: &str| {
        given.wrong(format!("transforms.{name}.predicate: {why}"));
        None
    };
    match records {
        Records::All => {}
        Records::None => return None,
        Records::Topics { first_names: true, .. } if is_renamed => {
            return wrong(
                "behind a router of topics a header tells nothing of their new names; put it before",
            );
        }
        Records::Topics { pattern, negated, .. } => {
            rule.insert(if negated { "not" } else { "only" }.into(), pattern.into());
        }
        Records::Tombstones { .. } => {
            return wrong("a tombstone goes to the topic of its table's other records");
        }
    }
    Some(rule)
}
