//! `[[route]]` and `[dead_letters]`: choices as text become the encoder's rules.

use std::time::Duration;

use millrace_core::encode::disguise::Disguise;
use millrace_core::encode::{Encoding, Envelope, Format};
use millrace_core::pattern::Pattern;
use millrace_core::route::filter::Filter;
use millrace_core::route::is_topic_name;
use millrace_core::route::rule::{
    Field, FieldForm, FieldFrom, FirstStart, Header, OnReject, OnUpdate, Outbox, PayloadForm, Route,
    TopicRule,
};
use millrace_core::route::template::Template;
use regex_lite::Regex;

use super::Problems;
use super::cloudevents;
use super::format::choice;
use super::raw;
use super::routed;
use super::step;
use super::typed;

const POLICIES: [(&str, OnReject); 3] =
    [("stop", OnReject::Stop), ("dead_letter", OnReject::DeadLetter), ("park", OnReject::Park)];

/// Adds the routes and the policy for rejects to what `[format]` says.
pub fn resolve(file: &raw::File, format: &mut Format, problems: &mut Problems) {
    let raw = &file.dead_letters;
    if let Some(policy) = choice(problems, "dead_letters.on_reject", &raw.on_reject, &POLICIES) {
        format.on_reject = policy;
    }
    if let Some(topic) = &raw.topic {
        format.dead_letters.clone_from(topic);
    }
    if !is_topic_name(&format.dead_letters) {
        problems.add("dead_letters.topic", "cannot be the name of a Kafka topic");
    }
    // Routes have them too.
    step::resolve(&file.step, format, problems);
    let routes = file.route.iter().map(|raw| route(raw, format, problems)).collect();
    format.routes = routes;
    parks_alone(file, format, problems);
    what_is_hidden_stays_hidden(format, problems);
}

/// What is parked waits alone, for which the source has to come back to it.
fn parks_alone(file: &raw::File, format: &Format, problems: &mut Problems) {
    if !format.is_somewhere(|format| format.on_reject == OnReject::Park) {
        return;
    }
    if file.source.mongodb.is_some() {
        problems
            .add("on_reject", "cannot be \"park\" with [source.mongodb]: write \"stop\" or \"dead_letter\"");
    }
    if !format.can_hold() {
        let what = "cannot be \"park\" with transactions = true in [format]: all changes of a transaction are told of together";
        problems.add("on_reject", what);
    }
}

/// Headers, topics, payloads and the keys of events are made of whole values. What patterns hide is found once the columns
/// are known.
fn what_is_hidden_stays_hidden(format: &Format, problems: &mut Problems) {
    for route in &format.routes {
        for disguised in &format.disguised {
            let name = disguised.columns.text();
            let is_name = !name.contains('*') && !disguised.columns.is_expression();
            let Some((relation, column)) = name.rsplit_once('.').filter(|_| is_name) else {
                continue;
            };
            let is_hidden = !matches!(disguised.by, Disguise::Truncate { .. });
            if is_hidden && route.names(column) && route.relations.iter().any(|own| own.matches(relation)) {
                problems.add(
                    "route",
                    format!(
                        "shows column {name}, which [format] masks, hashes or encrypts; take it out of one of the two"
                    ),
                );
            }
        }
    }
}

fn route(raw: &raw::Route, default: &Format, problems: &mut Problems) -> Route {
    let mut format = Format { routes: Vec::new(), ..default.clone() };
    let envelopes =
        [("debezium", Envelope::Debezium), ("flat", Envelope::Flat), ("outbox", Envelope::Outbox)];
    if let Some(envelope) = choice(problems, "route.envelope", &raw.envelope, &envelopes) {
        format.envelope = envelope;
    }
    let encodings = [("avro", Encoding::Avro), ("json", Encoding::Json { schemas: false })];
    if let Some(encoding) = choice(problems, "route.encoding", &raw.encoding, &encodings) {
        format.encoding = encoding;
    }
    if format.envelope == Envelope::Outbox {
        typed::must_agree(raw, format.encoding, problems);
        // What is written by a schema of somebody else's is JSON until then.
        format.encoding = Encoding::Json { schemas: false };
    }
    if let Some(policy) = choice(problems, "route.on_reject", &raw.on_reject, &POLICIES) {
        format.on_reject = policy;
    }
    let copies = raw.copy_to.as_ref().map(|topics| topics.0.clone()).unwrap_or_default();
    if raw.relations.0.is_empty() {
        problems.add("route.relations", "is missing; name tables, as in \"public.outbox\" or \"public.*\"");
    }
    if copies.iter().any(|topic| !is_topic_name(topic)) {
        problems.add("route.copy_to", "has a name that cannot be a Kafka topic's");
    }
    let key = raw.key.as_ref().map(|key| key.0.clone()).unwrap_or_default();
    let mut outbox = (format.envelope == Envelope::Outbox).then(|| outbox(&raw.outbox, problems));
    let mut headers: Vec<Header> = raw.headers.iter().map(|(name, column)| header(name, column)).collect();
    let mut header_texts: Vec<_> = raw.header_texts.clone().into_iter().collect();
    if let Some(outbox) = &mut outbox {
        cloudevents::lay(&raw.outbox.cloudevents, outbox, &mut headers, &mut header_texts, problems);
        typed::must_be_derivable(outbox, problems);
        if outbox.routed.is_some() && !headers.is_empty() {
            problems.add("route.headers", "are in `placed` of [route.outbox.routed], where there is one");
        }
    }
    if raw.filter.is_some() && raw.outbox.delete_after_s.is_some() {
        problems.add(
            "route.outbox.delete_after_s",
            "does not go with `filter`: rows that it leaves out go nowhere",
        );
    }
    if outbox.is_none() && raw.outbox != raw::Outbox::default() {
        problems.add("route.outbox", "has no effect without envelope = \"outbox\"");
    }
    if outbox.is_some() && key.len() > 1 {
        problems.add("route.key", "of an outbox is one column");
    }
    Route {
        relations: patterns(&raw.relations),
        topic: topic(raw, problems),
        allow: raw.allow.as_ref().map(patterns).unwrap_or_default(),
        key,
        headers,
        header_texts,
        filter: filter(raw, problems),
        copies,
        outbox,
        format,
    }
}

fn filter(raw: &raw::Route, problems: &mut Problems) -> Option<Filter> {
    let parsed = Filter::parse(raw.filter.as_ref()?);
    parsed.map_err(|why| problems.add("route.filter", format!("is no expression: {why}"))).ok()
}

fn patterns(raw: &raw::OneOrMany) -> Vec<Pattern> {
    raw.0.iter().map(Pattern::new).collect()
}

/// `column`, or `column?` for one that may be missing.
fn header(name: &str, column: &str) -> Header {
    let plain = column.strip_suffix('?');
    Header {
        name: name.into(),
        column: plain.unwrap_or(column).into(),
        optional: plain.is_some(),
        is_time: false,
    }
}

fn topic(raw: &raw::Route, problems: &mut Problems) -> Option<TopicRule> {
    let by_column = || raw.topic_by.clone();
    match (&raw.topic, raw.topics.is_empty(), &raw.topic_regex) {
        (None, true, None) => {
            if raw.topic_by.is_some() || raw.fallback.is_some() {
                problems.add("route.topic_by", "needs `topics` or `topic_regex` beside it");
            }
            None
        }
        (Some(text), true, None) => match Template::parse(text) {
            Ok(template) if template.columns().next().is_some() => Some(TopicRule::Template(template)),
            Ok(template) => {
                let name = template.fill([]);
                if !is_topic_name(&name) {
                    problems.add("route.topic", format!("{name:?} cannot be the name of a Kafka topic"));
                }
                Some(TopicRule::Fixed(name))
            }
            Err(why) => {
                problems.add("route.topic", why);
                None
            }
        },
        (None, false, None) => {
            let Some(column) = by_column() else {
                problems.add("route.topic_by", "is missing; it names the column whose value `topics` maps");
                return None;
            };
            // A table has no order once it is read: the longest pattern is the most exact one.
            let mut topics: Vec<_> = raw.topics.clone().into_iter().collect();
            topics.sort_by_key(|(pattern, _)| (pattern.contains('*'), std::cmp::Reverse(pattern.len())));
            let topics = topics.into_iter().map(|(pattern, topic)| (Pattern::new(pattern), topic)).collect();
            Some(TopicRule::Map { column, topics, fallback: raw.fallback.clone() })
        }
        (None, true, Some(text)) => {
            let replacement = raw.topic_replacement.clone().unwrap_or_else(|| "outbox.event.$0".into());
            match Regex::new(text) {
                Ok(regex) => Some(TopicRule::Replace {
                    column: by_column().unwrap_or_else(|| "aggregatetype".into()),
                    regex,
                    replacement,
                }),
                Err(error) => {
                    problems.add("route.topic_regex", format!("is no regular expression: {error}"));
                    None
                }
            }
        }
        _ => {
            problems.add("route.topic", "give one of `topic`, `topics` and `topic_regex`");
            None
        }
    }
}

fn outbox(raw: &raw::Outbox, problems: &mut Problems) -> Outbox {
    let default = Outbox::default();
    let or = |own: &Option<String>, default: String| own.clone().unwrap_or(default);
    let forms = [("json", PayloadForm::Json), ("text", PayloadForm::Text), ("bytes", PayloadForm::Bytes)];
    let updates = [("skip", OnUpdate::Skip), ("reject", OnUpdate::Reject), ("stop", OnUpdate::Stop)];
    Outbox {
        document: raw.document.clone(),
        id: raw.id.clone(),
        aggregate: or(&raw.aggregate, default.aggregate),
        payload: or(&raw.payload, default.payload),
        payload_form: choice(problems, "route.outbox.payload_form", &raw.payload_form, &forms)
            .unwrap_or(default.payload_form),
        timestamp: raw.timestamp.clone(),
        partition: raw.partition.clone(),
        tracing: or(&raw.tracing, default.tracing),
        tombstone_on_empty: raw.tombstone_on_empty.unwrap_or(false),
        on_update: choice(problems, "route.outbox.on_update", &raw.on_update, &updates)
            .unwrap_or(default.on_update),
        delete_after: raw.delete_after_s.map(Duration::from_secs),
        delete_earlier: raw.delete_earlier.unwrap_or(false),
        first_start: first_start(raw, problems),
        fields: raw.fields.iter().filter_map(|raw| field(raw, problems)).collect(),
        schemas: typed::resolve(raw, problems),
        routed: routed::resolve(raw, problems),
    }
}

/// What becomes of the rows that are there. Which columns give their order nobody can guess.
fn first_start(raw: &raw::Outbox, problems: &mut Problems) -> FirstStart {
    let known = [("from_now", false), ("drain_existing", true)];
    let drains = choice(problems, "route.outbox.first_start", &raw.first_start, &known).unwrap_or(false);
    let order_by = raw.order_by.as_ref().map(|columns| columns.0.clone()).unwrap_or_default();
    let any_order = raw.any_order.unwrap_or(false);
    if !drains {
        for (key, is_set) in [("order_by", raw.order_by.is_some()), ("any_order", raw.any_order.is_some())] {
            if is_set {
                let key = format!("route.outbox.{key}");
                problems.add(&key, "has no effect without first_start = \"drain_existing\"");
            }
        }
        return FirstStart::FromNow;
    }
    match (order_by.is_empty(), any_order) {
        (true, false) => problems.add(
            "route.outbox.order_by",
            "is missing: it names the columns whose order the events of before go out in, as in \
             order_by = [\"aggregateid\", \"version\"]; or set any_order = true, if consumers need none",
        ),
        (false, true) => {
            problems.add("route.outbox.any_order", "says the opposite of order_by; remove one of the two")
        }
        _ => {}
    }
    let twice = (1..order_by.len()).find(|at| order_by[..*at].contains(&order_by[*at]));
    if let Some(at) = twice {
        problems.add("route.outbox.order_by", format!("names {} twice", order_by[at]));
    }
    if raw.on_update.as_deref() == Some("skip") {
        // Read on after a crash, a row that was updated meanwhile cannot be told from a new one.
        problems.add(
            "route.outbox.on_update",
            "\"skip\" does not go with drain_existing: an update could hide a row that is still to be read; \
             set on_update = \"reject\"",
        );
    }
    FirstStart::Drain { order_by }
}

fn field(raw: &raw::Field, problems: &mut Problems) -> Option<Field> {
    let forms = [("text", FieldForm::Text), ("json", FieldForm::Json), ("time", FieldForm::Time)];
    let form = choice(problems, "route.outbox.fields.form", &raw.form, &forms);
    let from = match (&raw.column, &raw.text) {
        (Some(name), None) => {
            FieldFrom::Column { name: name.clone(), form: form.unwrap_or(FieldForm::ByType) }
        }
        (None, Some(text)) => FieldFrom::Text(text.clone()),
        _ => {
            problems.add("route.outbox.fields", "each field has a `column` or a `text`");
            return None;
        }
    };
    Some(Field { name: raw.name.clone(), from })
}
