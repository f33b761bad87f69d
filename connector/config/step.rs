//! `[[step]]`: what becomes of fields and headers, one thing a step.

use std::collections::BTreeMap;

use millrace_core::encode::Format;
use millrace_core::pattern::Pattern;
use millrace_core::route::step::{Does, Hash, Inserted, KEPT_HEADERS, Name, Part, Spread, Step};
use millrace_core::route::topics::Topics;
use millrace_core::route::zone::Zone;

use super::Problems;
use super::format::choice;
use super::raw::{self, OneOrMany};

const KEY: &str = "step";

/// What a step can do, by the keys that say so.
const ACTIONS: &str = "drop, keep, rename, replace, insert, headers, header_texts, drop_headers, key, partition_by, timezone or discard";

/// Adds the steps to what `[format]` says.
pub fn resolve(raw: &[raw::Step], format: &mut Format, problems: &mut Problems) {
    for step in raw {
        let topics = topics(step, problems);
        let relations = step.relations.0.iter().map(|name| relation(name, problems)).collect();
        if let Some(does) = does(step, problems) {
            format.steps.push(Step { relations, topics, does });
        }
    }
}

fn relation(name: &str, problems: &mut Problems) -> Pattern {
    Pattern::parse(name).unwrap_or_else(|why| {
        problems.add("step.relations", format!("{name:?} {why}"));
        Pattern::new(name)
    })
}

fn topics(step: &raw::Step, problems: &mut Problems) -> Option<Topics> {
    let (text, negated) = match (&step.only, &step.not) {
        (None, None) => return None,
        (Some(text), None) => (text, false),
        (None, Some(text)) => (text, true),
        (Some(_), Some(_)) => {
            problems.add(KEY, "takes one of only and not");
            return None;
        }
    };
    Topics::new(text, negated).map_err(|why| problems.add(KEY, why)).ok()
}

/// The one thing that it does.
fn does(step: &raw::Step, problems: &mut Problems) -> Option<Does> {
    let parts = [("row", Part::Row), ("key", Part::Key)];
    let of = choice(problems, "step.of", &step.of, &parts).unwrap_or(Part::Row);
    let mut found = Vec::new();
    let mut take = |is_there: bool, does: &dyn Fn() -> Does| {
        if is_there {
            found.push(does());
        }
    };
    let some = |names: &OneOrMany| !names.0.is_empty();
    take(some(&step.drop), &|| Does::Drop { of, fields: names(&step.drop) });
    take(some(&step.keep), &|| Does::Keep { of, fields: names(&step.keep) });
    take(!step.rename.is_empty(), &|| Does::Rename { of, fields: renamed(&step.rename) });
    take(some(&step.replace), &|| Does::Replace { fields: names(&step.replace), with: step.with.clone() });
    take(!step.insert.is_empty(), &|| Does::Insert(inserted(&step.insert)));
    take(!step.headers.is_empty(), &|| {
        let fields = step.headers.iter().map(|(header, field)| (header.clone(), Name::parse(field)));
        Does::Headers { fields: fields.collect(), moves: step.moves.unwrap_or(false) }
    });
    take(!step.header_texts.is_empty(), &|| {
        Does::HeaderTexts(step.header_texts.clone().into_iter().collect())
    });
    take(some(&step.drop_headers), &|| Does::DropHeaders(step.drop_headers.0.clone()));
    take(some(&step.key), &|| Does::Key(names(&step.key)));
    let hashes = [("murmur2", Hash::Murmur2), ("java", Hash::Java)];
    let hash =
        choice(problems, "step.partition_hash", &step.partition_hash, &hashes).unwrap_or(Hash::Murmur2);
    let spread = || Spread { fields: names(&step.partition_by), partitions: step.partitions, hash };
    take(some(&step.partition_by), &|| Does::Partition(spread()));
    take(step.discard == Some(true), &|| Does::Discard);
    if let Some(zone) = step.timezone.as_deref().and_then(|name| zone(name, problems)) {
        take(true, &|| Does::Timezone { zone: zone.clone(), fields: names(&step.timestamps) });
    }
    beside(step, found.first(), problems);
    match found.len() {
        1 => found.pop(),
        0 => {
            problems.add(KEY, format!("does nothing; give it one of {ACTIONS}"));
            None
        }
        _ => {
            problems.add(KEY, "does several things; write a [[step]] for each, in their order");
            None
        }
    }
}

fn zone(name: &str, problems: &mut Problems) -> Option<Zone> {
    Zone::parse(name).map_err(|why| problems.add("step.timezone", why)).ok()
}

/// Keys that say something about what a step does.
fn beside(step: &raw::Step, does: Option<&Does>, problems: &mut Problems) {
    let is_named = matches!(does, Some(Does::Drop { .. } | Does::Keep { .. } | Does::Rename { .. }));
    let is_spread = matches!(does, Some(Does::Partition(_)));
    for (key, is_set, fits, needed) in [
        ("of", step.of.is_some(), is_named, "drop, keep or rename"),
        ("with", step.with.is_some(), matches!(does, Some(Does::Replace { .. })), "replace"),
        ("moves", step.moves.is_some(), matches!(does, Some(Does::Headers { .. })), "headers"),
        ("timestamps", !step.timestamps.0.is_empty(), step.timezone.is_some(), "timezone"),
        ("partitions", step.partitions.is_some(), is_spread, "partition_by"),
        ("partition_hash", step.partition_hash.is_some(), is_spread, "partition_by"),
    ] {
        if is_set && !fits {
            problems.add(&format!("step.{key}"), format!("has no effect without {needed}"));
        }
    }
    if step.partitions == Some(0) {
        problems.add("step.partitions", "must be at least 1");
    }
    for name in step.drop_headers.0.iter().filter(|name| KEPT_HEADERS.contains(&name.as_str())) {
        problems.add(
            "step.drop_headers",
            format!("{name:?} stays: what a value means, and audits, are read from it; dialect = \"debezium\" has none of them"),
        );
    }
}

fn names(names: &OneOrMany) -> Vec<Name> {
    names.0.iter().map(|name| Name::parse(name)).collect()
}

fn renamed(names: &BTreeMap<String, String>) -> Vec<(Name, String)> {
    names.iter().map(|(from, to)| (Name::parse(from), to.clone())).collect()
}

/// A `!` at the end of a name: the schema says that it is never null.
fn inserted(fields: &BTreeMap<String, String>) -> Vec<Inserted> {
    let field = |(name, text): (&String, &String)| {
        let required = name.strip_suffix('!');
        let name = required.unwrap_or(name).to_owned();
        Inserted { name, text: text.clone(), optional: required.is_none() }
    };
    fields.iter().map(field).collect()
}
