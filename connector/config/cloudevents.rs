//! `[route.outbox.cloudevents]`: events as CloudEvents 1.0 has them in Kafka, made of what routes can do anyway. In
//! mode `structured` the value is the whole event, in mode `binary` it is the payload and the headers say the rest.

use millrace_core::route::rule::{Field, FieldForm, FieldFrom, Header, Outbox};

use super::Problems;
use super::format::choice;
use super::raw;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Structured,
    Binary,
}

/// Adds to the outbox and to its route what the mode asks for.
pub fn lay(
    raw: &raw::CloudEvents,
    outbox: &mut Outbox,
    headers: &mut Vec<Header>,
    texts: &mut Vec<(String, String)>,
    problems: &mut Problems,
) {
    const KEY: &str = "route.outbox.cloudevents";
    let modes = [("structured", Mode::Structured), ("binary", Mode::Binary)];
    let Some(mode) = choice(problems, "route.outbox.cloudevents.mode", &raw.mode, &modes) else {
        if raw.mode.is_none() && *raw != raw::CloudEvents::default() {
            problems.add(KEY, "has no `mode`; it is structured or binary");
        }
        return;
    };
    let Some(source) = &raw.source else {
        return problems.add(
            "route.outbox.cloudevents.source",
            "is missing; it names who tells, as in \"/shop/orders\"",
        );
    };
    if !outbox.fields.is_empty() {
        return problems
            .add(KEY, "and [[route.outbox.fields]] both say what the value is; take one of the two");
    }
    let of = |name: &str, form| FieldFrom::Column { name: name.to_owned(), form };
    let id = outbox.id.clone().unwrap_or_else(|| "id".into());
    let kind = raw.r#type.as_deref().unwrap_or("type");
    if mode == Mode::Binary {
        let column = |name: &str, column: &str| Header {
            name: name.into(),
            column: column.into(),
            optional: false,
            is_time: false,
        };
        let own = [("ce_id", id.as_str()), ("ce_type", kind), ("ce_subject", outbox.aggregate.as_str())];
        headers.extend(own.map(|(name, of)| column(name, of)));
        let time = raw.time.as_deref();
        headers.extend(time.map(|of| Header { is_time: true, ..column("ce_time", of) }));
        let said = [("ce_specversion", "1.0"), ("ce_source", source), ("content-type", "application/json")];
        texts.extend(said.map(|(name, text)| (name.to_owned(), text.to_owned())));
        return;
    }
    let text = |text: &str| FieldFrom::Text(text.to_owned());
    let mut fields = vec![
        ("specversion", text("1.0")),
        ("id", of(&id, FieldForm::Text)),
        ("source", text(source)),
        ("type", of(kind, FieldForm::Text)),
        ("subject", of(&outbox.aggregate, FieldForm::Text)),
        ("datacontenttype", text("application/json")),
    ];
    fields.extend(raw.time.as_deref().map(|column| ("time", of(column, FieldForm::Time))));
    fields.push(("data", of(&outbox.payload, FieldForm::ByType)));
    outbox.fields = fields.into_iter().map(|(name, from)| Field { name: name.into(), from }).collect();
    texts.push(("content-type".into(), "application/cloudevents+json".into()));
}
