//! `subject` and its neighbours in `[route.outbox]`: by which schemas events are written, and where their ids stand.

use millrace_core::encode::{Encoding, unusable};
use millrace_core::route::rule::{Outbox, Schemas};
use millrace_core::route::template::Template;
use millrace_core::sink::SchemaType;

use super::Problems;
use super::format::choice;
use super::raw;

/// What consumers find the id under, unless the file says otherwise.
const ID_HEADER: &str = "schema-id";

/// What the route says of its encoding has to be what its events become.
pub fn must_agree(raw: &raw::Route, encoding: Encoding, problems: &mut Problems) {
    let is_json = raw.outbox.schema_type.as_deref() == Some("json");
    match (&raw.encoding, &raw.outbox.subject, encoding) {
        (None, ..) | (_, None, Encoding::Json { .. }) => {}
        (Some(_), None, Encoding::Avro) => problems.add(
            "route.outbox.subject",
            "is missing: it names what an event's schema is registered under, as in \"{type}-value\"",
        ),
        (Some(_), Some(_), Encoding::Json { .. }) if !is_json => problems.add(
            "route.outbox.subject",
            "beside encoding = \"json\" needs schema_type = \"json\": without it the schemas are Avro",
        ),
        (Some(_), Some(_), Encoding::Avro) if is_json => {
            problems.add("route.outbox.schema_type", "is json, and the route's encoding avro");
        }
        (Some(_), Some(_), _) => {}
    }
}

/// `None` where events have no schema of somebody's.
pub fn resolve(raw: &raw::Outbox, problems: &mut Problems) -> Option<Schemas> {
    let Some(subject) = &raw.subject else {
        for (key, is_set) in [
            ("schemas", !raw.schemas.is_empty()),
            ("schema_type", raw.schema_type.is_some()),
            ("derive_schemas", raw.derive_schemas.is_some()),
            ("schema_id", raw.schema_id.is_some()),
            ("schema_id_header", raw.schema_id_header.is_some()),
        ] {
            if is_set {
                problems.add(&format!("route.outbox.{key}"), "needs `subject` beside it");
            }
        }
        return None;
    };
    if raw.payload_form.as_deref().is_some_and(|form| form != "json") {
        problems.add("route.outbox.payload_form", "must be json where events are written by a schema");
    }
    let types = [("avro", SchemaType::Avro), ("json", SchemaType::Json)];
    let of = choice(problems, "route.outbox.schema_type", &raw.schema_type, &types);
    let of = of.unwrap_or(SchemaType::Avro);
    let derived = raw.derive_schemas.unwrap_or(false);
    if derived && of == SchemaType::Avro {
        problems.add("route.outbox.derive_schemas", "needs schema_type = \"json\"");
    }
    for (subject, text) in &raw.schemas {
        if let Some(why) = unusable(of, text) {
            problems
                .add("route.outbox.schemas", format!("the schema of subject {subject} is unusable: {why}"));
        }
    }
    let id_header = id_header(raw, problems);
    match Template::parse(subject) {
        Ok(subject) => {
            let texts = raw.schemas.clone().into_iter().collect();
            Some(Schemas { of, subject, texts, derived, id_header })
        }
        Err(why) => {
            problems.add("route.outbox.subject", why);
            None
        }
    }
}

fn id_header(raw: &raw::Outbox, problems: &mut Problems) -> Option<String> {
    let places = [("frame", false), ("header", true)];
    let in_header = choice(problems, "route.outbox.schema_id", &raw.schema_id, &places).unwrap_or(false);
    match &raw.schema_id_header {
        Some(_) if !in_header => {
            problems.add("route.outbox.schema_id_header", "has no effect without schema_id = \"header\"");
        }
        Some(name) if name.is_empty() => problems.add("route.outbox.schema_id_header", "must not be empty"),
        _ => {}
    }
    in_header.then(|| raw.schema_id_header.clone().unwrap_or_else(|| ID_HEADER.into()))
}

/// A payload alone says nothing of what it holds.
pub fn must_be_derivable(outbox: &Outbox, problems: &mut Problems) {
    if outbox.fields.is_empty() && outbox.schemas.as_ref().is_some_and(|schemas| schemas.derived) {
        problems.add(
            "route.outbox.derive_schemas",
            "needs [[route.outbox.fields]] or structured cloudevents: of a payload alone no schema can be made that its \
             next one is sure to fit",
        );
    }
}
