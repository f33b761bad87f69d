//! Both sides' topics, partition by partition and record by record. Start at [`compare`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value as Json;

use crate::Result;
use crate::allowed::Allowed;
use crate::records::{Topics, Written};
use crate::tokens::{Token, tokens};

/// In the names of topics of heartbeats.
pub const HEARTBEATS: &str = "heartbeat";

/// Stands for the partition of records without a key.
const KEYLESS: i32 = -1;

/// In the names of topics of notifications.
const NOTIFICATIONS: &str = "notifications";

/// How many kinds of difference a report shows.
const SHOWN_MAX: usize = 60;
/// How much of a value a report shows.
const VALUE_SHOWN: usize = 400;

/// Something that only one side wrote, or wrote differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub topic: String,
    pub place: String,
    pub theirs: String,
    pub ours: String,
}

/// What came of a comparison.
#[derive(Debug, Default)]
pub struct Report {
    pub topics: usize,
    /// Pairs that were compared.
    pub records: u64,
    /// Pairs without any difference beyond the allowed ones.
    pub equal: u64,
    /// The first of each kind, and how many there were.
    pub differences: BTreeMap<(String, String), (Difference, u64)>,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.differences.is_empty() && self.records > 0
    }

    fn add(&mut self, difference: Difference) {
        // The same column differs in `before` and `after` for one reason.
        let place = difference.place.replace(".before.", ".after.");
        let kind = (difference.topic.clone(), place);
        self.differences.entry(kind).or_insert((difference, 0)).1 += 1;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} topics, {} records, {} equal", self.topics, self.records, self.equal)?;
        for (difference, count) in self.differences.values().take(SHOWN_MAX) {
            let Difference { topic, place, theirs, ours } = difference;
            writeln!(f, "  {topic} {place} ({count} times)")?;
            writeln!(f, "    debezium: {}\n    millrace: {}", shortened(theirs), shortened(ours))?;
        }
        match self.differences.len().checked_sub(SHOWN_MAX) {
            Some(more) if more > 0 => writeln!(f, "  and {more} kinds more"),
            _ => Ok(()),
        }
    }
}

fn shortened(text: &str) -> String {
    if text.len() <= VALUE_SHOWN {
        return text.to_owned();
    }
    let start: String = text.chars().take(VALUE_SHOWN).collect();
    format!("{start}... ({} bytes)", text.len())
}

/// Pairs the records of each partition in their order.
pub fn compare(theirs: &Topics, ours: &Topics, allowed: &mut Allowed) -> Result<Report> {
    let (theirs, ours) =
        (&notices(&keyless_in_one(theirs, allowed)), &notices(&keyless_in_one(ours, allowed)));
    let places: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    let mut report = Report {
        topics: places.iter().map(|(topic, _)| topic).collect::<BTreeSet<_>>().len(),
        ..Report::default()
    };
    for place in places {
        let none = Vec::new();
        let (left, right) = (theirs.get(place).unwrap_or(&none), ours.get(place).unwrap_or(&none));
        let (topic, partition) = place;
        // How many there are is a matter of time.
        let (left, right) = match topic.contains(HEARTBEATS) && !left.is_empty() && !right.is_empty() {
            true => (&left[..1], &right[..1]),
            false => (left.as_slice(), right.as_slice()),
        };
        if left.len() != right.len() {
            report.add(Difference {
                topic: topic.clone(),
                place: format!("partition {partition}"),
                theirs: format!("{} records", left.len()),
                ours: format!("{} records", right.len()),
            });
        }
        for (left, right) in left.iter().zip(right) {
            report.records += 1;
            let found = pair(topic, left, right, allowed)?;
            report.equal += u64::from(found.is_empty());
            found.into_iter().for_each(|difference| report.add(difference));
        }
    }
    Ok(report)
}

/// Kafka's own producer puts records without a key now here, now there. They are compared beside the others, as one
/// partition, in the order of the source's log: rows of a table without a key, and truncates. Debezium's tombstones
/// without a key are left out: they mean nothing to anybody, and the daemon writes none.
fn keyless_in_one(topics: &Topics, allowed: &Allowed) -> Topics {
    let mut apart = Topics::new();
    for ((topic, partition), records) in topics {
        for record in records {
            let partition = if record.key.is_some() { *partition } else { KEYLESS };
            if record.key.is_some() || !is_tombstone(record) {
                apart.entry((topic.clone(), partition)).or_default().push(record.clone());
            }
        }
    }
    let keyless = apart.iter_mut().filter(|((_, partition), _)| *partition == KEYLESS);
    keyless.for_each(|(_, records)| {
        records.sort_by_cached_key(|record| (place_in_log(record), row(record, allowed)));
    });
    apart
}

/// Notifications come by what is told: several tables are read at a time, and in parts of each side's own. Of those that
/// say how far a table is, the first. Each side reads the table that the other has its signals from.
fn notices(topics: &Topics) -> Topics {
    let mut sorted = topics.clone();
    for ((topic, _), records) in &mut sorted {
        if topic.ends_with(NOTIFICATIONS) {
            records.retain(|record| !told(record).contains(".signals_"));
            records.sort_by_cached_key(told);
            let first = records.chunk_by(|a, b| told(a) == told(b) && told(a).contains("IN_PROGRESS"));
            *records = first.filter_map(<[Written]>::first).cloned().collect();
        }
    }
    sorted
}

fn told(record: &Written) -> String {
    let value: Json = record.value.as_deref().and_then(|v| serde_json::from_str(v).ok()).unwrap_or_default();
    let payload = if value["payload"].is_null() { &value } else { &value["payload"] };
    let data = &payload["additional_data"];
    let id = if payload["aggregate_type"] == "Initial Snapshot" { &Json::Null } else { &payload["id"] };
    let of = [&data["current_collection_in_progress"], &data["scanned_collection"]];
    format!("{} {id} {} {of:?}", payload["aggregate_type"], payload["type"])
}

/// Also where a converter wrote the null with its schema.
fn is_tombstone(record: &Written) -> bool {
    record.value.as_deref().is_none_or(|value| value.ends_with(",\"payload\":null}"))
}

/// What an event says that was done.
pub fn operation(record: &Written) -> Option<String> {
    let value: Json = serde_json::from_str(record.value.as_deref()?).ok()?;
    let payload = if value["payload"].is_null() { &value } else { &value["payload"] };
    payload["op"].as_str().map(str::to_owned)
}

/// What a snapshot's row holds: all of them may have one place. First what may not differ, so that both sides' are in one
/// order.
fn row(record: &Written, allowed: &Allowed) -> Option<String> {
    let is_row = operation(record).as_deref() == Some("r");
    let value: Json = serde_json::from_str(record.value.as_deref().filter(|_| is_row)?).ok()?;
    let payload = if value["payload"].is_null() { &value } else { &value["payload"] };
    let columns = payload["after"].as_object().into_iter().flatten();
    let strict: Vec<String> = columns
        .filter(|(name, _)| !allowed.names(&format!("value.after.{name}")))
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    Some(format!("{} {} {}", strict.join(" "), payload["after"], payload["source"]["snapshot"]))
}

fn place_in_log(record: &Written) -> u64 {
    let value: Json = record.value.as_deref().and_then(|v| serde_json::from_str(v).ok()).unwrap_or_default();
    let payload = if value["payload"].is_null() { &value } else { &value["payload"] };
    // Of a flat row, where it is added to the row.
    let lsn = [&payload["source"]["lsn"], &payload["__source_lsn"]];
    lsn.iter().find_map(|lsn| lsn.as_u64()).unwrap_or(0)
}

fn pair(topic: &str, left: &Written, right: &Written, allowed: &mut Allowed) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    let is_row = operation(left).as_deref() == Some("r");
    let mut differ = |place: &str, theirs: &str, ours: &str| {
        if theirs != ours && !allowed.covers(topic, (place, is_row), theirs, ours) {
            let (theirs, ours) = (theirs.to_owned(), ours.to_owned());
            found.push(Difference { topic: topic.to_owned(), place: place.to_owned(), theirs, ours });
        }
    };
    schemas("schema.key", &left.key_schema, &right.key_schema, &mut differ);
    schemas("schema.value", &left.value_schema, &right.value_schema, &mut differ);
    texts("key", left.key.as_deref(), right.key.as_deref(), &mut differ)?;
    texts("value", left.value.as_deref(), right.value.as_deref(), &mut differ)?;
    let names =
        |written: &Written| -> Vec<String> { written.headers.iter().map(|(name, _)| name.clone()).collect() };
    differ("time", &left.time_ms.to_string(), &right.time_ms.to_string());
    differ("headers", &names(left).join(" "), &names(right).join(" "));
    for (name, theirs) in &left.headers {
        if let Some((_, ours)) = right.headers.iter().find(|(other, _)| other == name) {
            differ(&format!("header.{name}"), theirs, ours);
        }
    }
    Ok(found)
}

fn texts(
    part: &str,
    left: Option<&str>,
    right: Option<&str>,
    differ: &mut impl FnMut(&str, &str, &str),
) -> Result<()> {
    let (Some(left), Some(right)) = (left, right) else {
        differ(part, left.unwrap_or("none"), right.unwrap_or("none"));
        return Ok(());
    };
    if left == right {
        return Ok(());
    }
    let (left, right) = match (split(left), split(right)) {
        (Some((their_schema, left)), Some((our_schema, right))) => {
            schemas(&format!("schema.{part}"), their_schema, our_schema, differ);
            (left, right)
        }
        _ => (left, right),
    };
    let (Ok(left), Ok(right)) = (tokens(left), tokens(right)) else {
        // No JSON.
        differ(part, left, right);
        return Ok(());
    };
    let places =
        |tokens: &[Token]| -> Vec<String> { tokens.iter().map(|token| token.place.clone()).collect() };
    if places(&left) == places(&right) {
        for (theirs, ours) in left.iter().zip(&right) {
            differ(&format!("{part}.{}", theirs.place), &theirs.raw, &ours.raw);
        }
        return Ok(());
    }
    let by_place = |tokens: &[Token]| -> BTreeMap<String, String> {
        tokens.iter().map(|token| (token.place.clone(), token.raw.clone())).collect()
    };
    let (theirs, ours) = (by_place(&left), by_place(&right));
    for place in theirs.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
        let of =
            |side: &BTreeMap<String, String>| side.get(place).map_or("nothing", String::as_str).to_owned();
        differ(&format!("{part}.{place}"), &of(&theirs), &of(&ours));
    }
    if theirs.keys().eq(ours.keys()) {
        differ(part, "its own order of fields", "another order of fields");
    }
    Ok(())
}

/// The schema and the payload of JSON that has both.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix("{\"schema\":")?.strip_suffix('}')?;
    // Values may hold anything: only the first mark behind a schema is the one.
    text.split_once(",\"payload\":")
}

/// Two schema texts: by the names of their fields, and if those agree, letter by letter.
fn schemas(part: &str, left: &str, right: &str, differ: &mut impl FnMut(&str, &str, &str)) {
    if left == right {
        return;
    }
    let named = |text: &str| {
        let mut found = BTreeMap::new();
        if let Ok(schema) = serde_json::from_str(text) {
            by_name(&schema, String::new(), &mut found);
        }
        found
    };
    let (theirs, ours) = (named(left), named(right));
    if theirs == ours {
        differ(part, left, right);
        return;
    }
    for place in theirs.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
        let of =
            |side: &BTreeMap<String, String>| side.get(place).map_or("nothing", String::as_str).to_owned();
        differ(&format!("{part}{place}"), &of(&theirs), &of(&ours));
    }
}

/// Flattens a schema; the fields of a struct are told apart by their names, not their numbers.
fn by_name(schema: &Json, place: String, found: &mut BTreeMap<String, String>) {
    match schema {
        Json::Object(members) => {
            for (name, member) in members {
                by_name(member, format!("{place}.{name}"), found);
            }
        }
        Json::Array(members) => {
            for (index, member) in members.iter().enumerate() {
                let name = member.get("field").or(member.get("name")).and_then(Json::as_str);
                let name = name.map_or_else(|| index.to_string(), str::to_owned);
                by_name(member, format!("{place}[{name}]"), found);
            }
        }
        scalar => {
            found.insert(place, scalar.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &str) -> Written {
        Written {
            key: Some("{\"id\":1}".into()),
            value: Some(value.into()),
            key_schema: String::new(),
            value_schema: String::new(),
            headers: Vec::new(),
            time_ms: 0,
        }
    }

    fn topics(values: &[&str]) -> Topics {
        Topics::from([(("public.t".to_owned(), 0), values.iter().map(|value| written(value)).collect())])
    }

    fn kinds(theirs: &[&str], ours: &[&str]) -> Vec<String> {
        let mut allowed = Allowed::read().unwrap();
        let report = compare(&topics(theirs), &topics(ours), &mut allowed).unwrap();
        report.differences.keys().map(|(_, place)| place.clone()).collect()
    }

    #[test]
    fn what_is_equal_but_for_the_processing_time_passes() {
        let (theirs, ours) = ([r#"{"op":"c","ts_ms":1}"#], [r#"{"op":"c","ts_ms":2}"#]);
        assert_eq!(kinds(&theirs, &ours), Vec::<String>::new());
    }

    #[test]
    fn records_without_a_key_are_compared_in_the_order_of_the_log_whatever_their_partition() {
        let at = |lsn: u64| Written { key: None, ..written(&format!(r#"{{"source":{{"lsn":{lsn}}}}}"#)) };
        let place = |partition: i32| ("public.t".to_owned(), partition);
        let empty = Written { value: None, ..at(0) };
        let theirs = Topics::from([(place(0), vec![at(3), empty]), (place(1), vec![at(1), at(2)])]);
        let ours = Topics::from([(place(0), vec![at(1), at(2), at(3)])]);
        let report = compare(&theirs, &ours, &mut Allowed::read().unwrap()).unwrap();
        assert!(report.passed() && report.equal == 3, "{report}");
    }

    #[test]
    fn every_planted_difference_is_found() {
        for (theirs, ours, expected) in [
            (vec![r#"{"a":1}"#], vec![r#"{"a":2}"#], "value.a"),
            (vec![r#"{"a":1.0}"#], vec![r#"{"a":1}"#], "value.a"),
            (vec![r#"{"a":1}"#], vec![r#"{"a":1,"b":null}"#], "value.b"),
            (vec![r#"{"a":1,"b":2}"#], vec![r#"{"b":2,"a":1}"#], "value"),
            (vec![r#"{"a":1}"#, "{}"], vec![r#"{"a":1}"#], "partition 0"),
            (vec![r#"{"source":{"ts_ms":1}}"#], vec![r#"{"source":{"ts_ms":2}}"#], "value.source.ts_ms"),
        ] {
            assert_eq!(kinds(&theirs, &ours), [expected], "{theirs:?} {ours:?}");
        }
    }
}
