//! `[route.outbox.routed]`: choices as text become those of Debezium's event router and Kafka Connect's converters.

use millrace_core::route::rule::{Converter, Placed, Placement, Routed};

use super::Problems;
use super::format::choice;
use super::raw;

const SECTION: &str = "route.outbox.routed";

/// `None` where the section does not stand in the file.
pub fn resolve(raw: &raw::Outbox, problems: &mut Problems) -> Option<Routed> {
    let routed = &raw.routed;
    if *routed == raw::Routed::default() {
        return None;
    }
    let has_others = !raw.fields.is_empty()
        || raw.partition.is_some()
        || raw.subject.is_some()
        || raw.payload_form.is_some()
        || raw.cloudevents != raw::CloudEvents::default();
    if has_others {
        problems.add(
            SECTION,
            "says what a record is; take payload_form, fields, partition, subject and cloudevents out",
        );
    }
    let mut converter = |name: &str, chosen: &Option<String>| {
        let key = format!("{SECTION}.{name}");
        let known = [
            ("string", Converter::Text),
            ("bytes", Converter::Bytes),
            ("json", Converter::Json { schemas: false }),
            ("json_with_schema", Converter::Json { schemas: true }),
            ("avro", Converter::Avro),
        ];
        if chosen.is_none() {
            problems.add(&key, "is missing: string, bytes, json, json_with_schema or avro");
        }
        choice(problems, &key, chosen, &known).unwrap_or(Converter::Text)
    };
    let (key, value) = (converter("key", &routed.key), converter("value", &routed.value));
    let nulls = [("drop", false), ("bytes", true)];
    let nulls = choice(problems, "route.outbox.routed.expanded_nulls", &routed.expanded_nulls, &nulls);
    let missing = [("error", false), ("ignore", true)];
    let missing = choice(problems, "route.outbox.routed.missing", &routed.missing, &missing);
    Some(Routed {
        key,
        value,
        expand: routed.expand.unwrap_or(false),
        keeps_nulls: nulls.unwrap_or(false),
        schema_version: routed.schema_version.clone(),
        placed: routed.placed.iter().filter_map(|text| placed(text, problems)).collect(),
        skips_missing: missing.unwrap_or(false),
    })
}

/// `column:header`, `column:envelope:name`, `column:partition`.
fn placed(text: &str, problems: &mut Problems) -> Option<Placed> {
    let mut parts = text.split(':').map(str::trim);
    let (column, at, name, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
    let at = match at.map(str::to_ascii_lowercase).as_deref() {
        Some("header") => Some(Placement::Header),
        Some("envelope") => Some(Placement::Envelope),
        Some("partition") => Some(Placement::Partition),
        _ => None,
    };
    match (column.filter(|column| !column.is_empty()), at, rest) {
        (Some(column), Some(at), None) => {
            let name = name.filter(|name| !name.is_empty()).unwrap_or(column);
            Some(Placed { column: column.to_owned(), at, name: name.to_owned() })
        }
        _ => {
            problems.add(
                "route.outbox.routed.placed",
                format!(
                    "{text:?} is not column:header, column:envelope or column:partition, with :name behind it"
                ),
            );
            None
        }
    }
}
