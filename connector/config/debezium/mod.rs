//! A connector as Kafka Connect is given it, a JSON file with Debezium's properties: read into the keys of a
//! TOML file, which then goes the way of every other. Start at `translate`.
//!
//! Each property is looked up in `properties`: taken over (`shared`, `transforms`, `steps`, `flat`, `outbox`, `postgres`, `mongodb`), idle,
//! or refused with a reason; one that is not there is answered with the nearest that is.

mod connect;
mod flat;
mod given;
mod keys;
mod mongodb;
mod outbox;
mod postgres;
mod predicates;
mod properties;
mod shared;
mod steps;
mod transforms;

use std::collections::BTreeMap;

use self::given::Given;
use self::keys::Keys;
use self::properties::{CONNECT, Here, MONGODB, POSTGRES, Property, SHARED, is_named};
use super::document::{Document, Problem};
use super::shown;
use super::strict::nearest;

/// The class of each connector.
const POSTGRES_CLASS: &str = "io.debezium.connector.postgresql.PostgresConnector";
const MONGODB_CLASS: &str = "io.debezium.connector.mongodb.MongoDbConnector";

/// What became of a file.
#[derive(Debug)]
pub struct Translated {
    /// The same as TOML.
    pub document: Document,
    /// By our key, the property that made it.
    origins: BTreeMap<String, String>,
    /// The properties as REST shows them.
    pub shown: BTreeMap<String, String>,
}

impl Translated {
    /// A problem of one of our keys, in the file's own words.
    pub fn told(&self, key: &str, message: String, hint: Option<String>) -> Problem {
        let mut at = key;
        let origin = loop {
            match (self.origins.get(at), at.rsplit_once('.')) {
                (Some(origin), _) => break Some(origin),
                (None, Some((outer, _))) => at = outer,
                (None, None) => break None,
            }
        };
        let place = match origin {
            Some(origin) => format!("{}: {origin}", self.document.name),
            None => self.document.name.clone(),
        };
        Problem { place, message, excerpt: None, hint }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Postgres,
    Mongodb,
}

/// The file's text as TOML, or everything that is wrong with it.
pub fn translate(document: &Document) -> Result<Translated, Vec<Problem>> {
    let problem = |message: String| Problem::new(&document.name, message);
    let (name, properties) = given::read(&document.text).map_err(|why| vec![problem(why)])?;
    let class = properties.get("connector.class").map(String::as_str).unwrap_or_default();
    let kind = match class {
        POSTGRES_CLASS | "PostgresConnector" | "PostgresqlConnector" => Kind::Postgres,
        MONGODB_CLASS | "MongoDbConnector" => Kind::Mongodb,
        other => {
            let message = format!("connector.class: {other:?} is not a connector of this daemon");
            return Err(vec![
                problem(message).hint(format!("it takes {POSTGRES_CLASS} and {MONGODB_CLASS}")),
            ]);
        }
    };
    let tables = tables(kind);
    let mut given = Given::new(document.name.clone(), properties);
    judge(&mut given, &tables);
    let mut keys = Keys::default();
    connect::connector(name, &mut given, &mut keys);
    let routed = outbox::name(&given, kind);
    match &routed {
        None => connect::converters(&mut given, &mut keys),
        Some(name) => outbox::route(name, kind, &mut given, &mut keys),
    }
    connect::topics(&given, &mut keys);
    connect::producer(&mut given, &mut keys);
    shared::format(&mut given, &mut keys);
    shared::signal_topic(&given, &mut keys);
    if routed.is_none() {
        transforms::transforms(kind, &mut given, &mut keys);
    }
    match kind {
        Kind::Postgres => postgres::source(&mut given, &mut keys),
        Kind::Mongodb => mongodb::source(&mut given, &mut keys),
    }
    let (problems, shown) = (given.problems, shown::hidden(&given.properties));
    if !problems.is_empty() {
        return Err(problems);
    }
    let (text, origins) = keys.into_text();
    Ok(Translated { document: Document { name: document.name.clone(), text }, origins, shown })
}

fn tables(kind: Kind) -> Vec<&'static Property> {
    let own = match kind {
        Kind::Postgres => POSTGRES,
        Kind::Mongodb => MONGODB,
    };
    own.iter().chain(SHARED).chain(CONNECT).collect()
}

/// Every property is a known one, and none asks for what cannot be had.
fn judge(given: &mut Given, tables: &[&Property]) {
    let all: Vec<(String, String)> = given.properties.clone().into_iter().collect();
    for (name, value) in all {
        judge_one(given, ("", &name), &value, tables);
    }
}

/// `name` stands behind `prefix`, of which the tables know nothing.
fn judge_one(given: &mut Given, (prefix, name): (&str, &str), value: &str, tables: &[&Property]) {
    // The most exact of the names that fit.
    let fits = tables.iter().filter(|(pattern, ..)| is_named(pattern, name));
    let found = fits.max_by_key(|(pattern, ..)| (!pattern.contains('*'), pattern.len()));
    match found {
        None => {
            let known: Vec<&str> = tables.iter().map(|(name, ..)| *name).collect();
            let message = format!("{prefix}{name}: is not a property of this connector");
            match nearest(name, &known) {
                Some(near) => given.wrong_with_hint(message, format!("did you mean {prefix}{near}?")),
                None => given.wrong_with_hint(message, "see configs/debezium.md".to_owned()),
            }
        }
        Some((_, _, Here::Becomes(_) | Here::Idle(_))) => {}
        Some((_, default, Here::Only(values, why))) => {
            let is_one = |allowed: &&str| allowed.eq_ignore_ascii_case(value.trim());
            if !values.iter().any(is_one) && !is_one(default) {
                let values = values.join(", ");
                given.wrong(format!("{prefix}{name}: {value:?} cannot be had, only {values}: {why}"));
            }
        }
        // What says nothing asks for nothing.
        Some((_, _, Here::Refused(_))) if value.trim().is_empty() => {}
        Some((_, _, Here::Refused(why))) => given.wrong(format!("{prefix}{name}: cannot be had: {why}")),
    }
}

#[cfg(test)]
mod tests;
