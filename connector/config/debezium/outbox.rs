//! Debezium's outbox event routers, transforms, as a `[[route]]` over all tables or collections of the connector. Start
//! at `route`.

use millrace_core::route::java::replacement as replacement_of;
use regex_lite::Regex;
use toml::{Table, Value};

use super::given::Given;
use super::keys::{Keys, list};
use super::properties::Here::{Becomes, Idle, Only, Refused};
use super::properties::Property;
use super::{Kind, connect, judge_one};

const PREDICATES: &str =
    "every table of the connector is an outbox; others belong into a connector of their own";
const COLLECTIONS: &str =
    "every collection of the connector is an outbox; others belong into a connector of their own";
const LATER: &str = "Debezium 3.6.3 does not have it";

/// The options of either router, behind `transforms.<name>.`.
pub const EVENT_ROUTERS: &[Property] = &[
    ("type", "", Becomes("route.envelope = \"outbox\"")),
    ("field.name.adjustment.mode", "none", Only(&["none"], "Debezium writes null for what it renames")),
    ("route.by.field", "aggregatetype", Becomes("route.topic_by")),
    ("route.topic.regex", "(?<routedByValue>.*)", Becomes("route.topic_regex")),
    ("route.topic.replacement", "outbox.event.${routedByValue}", Becomes("route.topic_replacement")),
    ("route.tombstone.on.empty.payload", "false", Becomes("route.outbox.tombstone_on_empty")),
    ("tracing.span.context.field", "tracingspancontext", Becomes("route.outbox.tracing")),
    ("tracing.operation.name", "debezium-read", Idle("no span is made: the trace of the event is passed on")),
    ("tracing.with.context.field.only", "true", Idle("no span is made: the trace of the event is passed on")),
];

/// Those of the one of tables alone.
pub const EVENT_ROUTER: &[Property] = &[
    ("predicate", "", Refused(PREDICATES)),
    ("negate", "false", Only(&["false"], PREDICATES)),
    ("table.op.invalid.behavior", "warn", Becomes("route.outbox.on_update: skip, or stop for fatal")),
    ("table.field.event.id", "id", Becomes("route.outbox.id")),
    ("table.field.event.key", "aggregateid", Becomes("route.outbox.aggregate")),
    ("table.field.event.type", "type", Idle("Debezium's router does not use it either; place the column")),
    ("table.field.event.timestamp", "", Becomes("route.outbox.timestamp")),
    ("table.field.event.payload", "payload", Becomes("route.outbox.payload")),
    ("table.field.event.schema.version", "", Becomes("route.outbox.routed.schema_version")),
    ("table.fields.additional.placement", "", Becomes("route.outbox.routed.placed")),
    ("table.field.additional.missing", "error", Becomes("route.outbox.routed.missing")),
    (
        "table.fields.additional.error.on.missing",
        "true",
        Refused("Debezium 3.6 calls it table.field.additional.missing"),
    ),
    ("table.expand.json.payload", "false", Becomes("route.outbox.routed.expand")),
    ("table.json.payload.null.behavior", "ignore", Becomes("route.outbox.routed.expanded_nulls")),
    ("table.json.payload.empty.array.behavior", "ignore", Only(&["ignore"], LATER)),
];

/// Those of the one of documents alone.
pub const MONGO_EVENT_ROUTER: &[Property] = &[
    ("predicate", "", Refused(COLLECTIONS)),
    ("negate", "false", Only(&["false"], COLLECTIONS)),
    ("collection.op.invalid.behavior", "warn", Becomes("route.outbox.on_update: skip, or stop for fatal")),
    ("collection.field.event.id", "_id", Becomes("route.outbox.id")),
    ("collection.field.event.key", "aggregateid", Becomes("route.outbox.aggregate")),
    (
        "collection.field.event.type",
        "type",
        Idle("Debezium's router does not use it either; place the field"),
    ),
    (
        "collection.field.event.timestamp",
        "",
        Becomes("route.outbox.timestamp; a date is taken besides an int64"),
    ),
    (
        "collection.field.event.payload",
        "payload",
        Becomes("route.outbox.payload; one that is not there is null, where Debezium stops"),
    ),
    ("collection.field.event.schema.version", "", Becomes("route.outbox.routed.schema_version")),
    (
        "collection.fields.additional.placement",
        "",
        Becomes("route.outbox.routed.placed; of headers only values that are one text, number or id"),
    ),
    (
        "collection.field.additional.missing",
        "error",
        Becomes("route.outbox.routed.missing; a field that is not there is null in either"),
    ),
    (
        "collection.expand.json.payload",
        "false",
        Becomes("route.outbox.routed.expand: of a payload that is a document; off, it is its text"),
    ),
];

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Postgres => "io.debezium.transforms.outbox.EventRouter",
        Kind::Mongodb => "io.debezium.connector.mongodb.transforms.outbox.MongoEventRouter",
    }
}

/// The name of the transform, where there is one of this class.
pub fn name(given: &Given, kind: Kind) -> Option<String> {
    let is_router = |name: &String| given.get(&format!("transforms.{name}.type")) == Some(class(kind));
    given.list("transforms").into_iter().find(is_router)
}

/// What the transform and the converters behind it become.
pub fn route(name: &str, kind: Kind, given: &mut Given, keys: &mut Keys) {
    // The same options, of collections instead of tables.
    let of = |option: &str| match (kind, option.strip_prefix("table.")) {
        (Kind::Mongodb, Some(rest)) => format!("transforms.{name}.collection.{rest}"),
        _ => format!("transforms.{name}.{option}"),
    };
    only_one(name, given);
    let options = match kind {
        Kind::Postgres => EVENT_ROUTER,
        Kind::Mongodb => MONGO_EVENT_ROUTER,
    };
    let tables: Vec<&Property> = options.iter().chain(EVENT_ROUTERS).collect();
    for (option, value) in given.under(&of("")) {
        judge_one(given, (&of(""), &option), &value, &tables);
    }
    let mut route = Table::new();
    let mut set = |key: &str, value: Value, origin: &str| {
        route.insert(key.to_owned(), value);
        keys.note(&format!("route.{key}"), &of(origin));
    };
    set("relations", list(vec!["*".to_owned()]), "type");
    set("envelope", "outbox".into(), "type");
    let by = given.get(&of("route.by.field")).unwrap_or("aggregatetype").to_owned();
    set("topic_by", by.into(), "route.by.field");
    let regex = given.get(&of("route.topic.regex")).unwrap_or("(?<routedByValue>.*)").to_owned();
    let replacement = of("route.topic.replacement");
    let text = given.get(&replacement).unwrap_or("outbox.event.${routedByValue}").to_owned();
    // What is wrong with the expression is told where it is compiled.
    let read = Regex::new(&regex).map_or_else(|_| Ok(text.clone()), |regex| replacement_of(&text, &regex));
    match read {
        // A group is no reference.
        Ok(text) => set("topic_replacement", text.replace("${", "$${").into(), "route.topic.replacement"),
        Err(why) => given.wrong(format!("{replacement}: {text:?} {why}")),
    }
    set("topic_regex", regex.replace("${", "$${").into(), "route.topic.regex");
    let mut outbox = columns(given, &of, keys);
    let mut routed = members(given, &of, keys);
    converters(given, keys, &mut routed);
    outbox.insert("routed".to_owned(), Value::Table(routed));
    route.insert("outbox".to_owned(), Value::Table(outbox));
    keys.set("", "route", Value::Array(vec![Value::Table(route)]), "transforms");
}

/// What is not about the outbox goes through the converters too, and they would write Java's own texts of it.
fn only_one(name: &str, given: &mut Given) {
    let names = given.list("transforms");
    if let Some(other) = names.iter().find(|other| *other != name) {
        given.wrong(format!("transforms: {other:?} cannot be had beside {name:?}, the event router"));
    }
    for property in ["message.prefix.include.list", "message.prefix.exclude.list"] {
        if given.get(property).is_some() {
            given.wrong(format!(
                "{property}: cannot be had beside the event router: logical messages make no events there"
            ));
        }
    }
}

/// Which columns are what.
fn columns(given: &mut Given, of: &impl Fn(&str) -> String, keys: &mut Keys) -> Table {
    let mut outbox = Table::new();
    for (option, key) in [
        ("table.field.event.id", "id"),
        ("table.field.event.key", "aggregate"),
        ("table.field.event.payload", "payload"),
        ("table.field.event.timestamp", "timestamp"),
        ("tracing.span.context.field", "tracing"),
    ] {
        keys.note(&format!("route.outbox.{key}"), &of(option));
        if let Some(column) = given.get(&of(option)) {
            outbox.insert(key.to_owned(), column.into());
        }
    }
    let tombstone = given.flag(&of("route.tombstone.on.empty.payload"), false);
    outbox.insert("tombstone_on_empty".to_owned(), tombstone.into());
    let behaviours = [("warn", "skip"), ("error", "skip"), ("fatal", "stop")];
    let on_update = given.word(&of("table.op.invalid.behavior"), &behaviours);
    outbox.insert("on_update".to_owned(), on_update.into());
    outbox
}

/// What else there is in a record.
fn members(given: &mut Given, of: &impl Fn(&str) -> String, keys: &mut Keys) -> Table {
    let mut routed = Table::new();
    let mut set = |key: &str, value: Value, option: &str| {
        routed.insert(key.to_owned(), value);
        keys.note(&format!("route.outbox.routed.{key}"), &of(option));
    };
    let expand = "table.expand.json.payload";
    set("expand", given.flag(&of(expand), false).into(), expand);
    let nulls = "table.json.payload.null.behavior";
    let word = given.word(&of(nulls), &[("ignore", "drop"), ("optional_bytes", "bytes")]);
    set("expanded_nulls", word.into(), nulls);
    let version = "table.field.event.schema.version";
    if let Some(column) = given.get(&of(version)).map(str::to_owned) {
        set("schema_version", column.into(), version);
    }
    let placement = "table.fields.additional.placement";
    set("placed", list(given.list(&of(placement))), placement);
    let missing = "table.field.additional.missing";
    let word = given.word(&of(missing), &[("error", "error"), ("ignore", "ignore")]);
    set("missing", word.into(), missing);
    routed
}

/// The converters of events, and of whatever else there is.
fn converters(given: &mut Given, keys: &mut Keys, routed: &mut Table) {
    let mut words = Vec::new();
    for side in ["key", "value"] {
        let property = format!("{side}.converter");
        let Some(class) = given.get(&property).map(str::to_owned) else {
            given.wrong(format!("{property}: is missing; what the worker has is not known here"));
            continue;
        };
        let enabled = format!("{property}.schemas.enable");
        let word = match class.as_str() {
            "org.apache.kafka.connect.storage.StringConverter" => "string",
            "org.apache.kafka.connect.json.JsonConverter" if given.flag(&enabled, true) => "json_with_schema",
            "org.apache.kafka.connect.json.JsonConverter" => "json",
            "io.confluent.connect.avro.AvroConverter" => "avro",
            "org.apache.kafka.connect.converters.ByteArrayConverter"
            | "io.debezium.converters.ByteArrayConverter"
            | "io.debezium.converters.BinaryDataConverter" => "bytes",
            _ => {
                given.wrong(format!(
                    "{property}: {class:?} cannot be had behind the event router, only Kafka's StringConverter, \
                     JsonConverter and ByteArrayConverter, and io.confluent.connect.avro.AvroConverter"
                ));
                continue;
            }
        };
        routed.insert(side.to_owned(), word.into());
        keys.note(&format!("route.outbox.routed.{side}"), &property);
        words.push(word);
    }
    let [key, value] = words[..] else { return };
    if key == value && key != "string" && key != "bytes" {
        return connect::converters(given, keys);
    }
    let avro = if value == "avro" { "value" } else { "key" };
    if [key, value].contains(&"avro") {
        connect::registry(given, keys, &[avro]);
    }
    keys.set("format", "encoding", "json", "value.converter");
    for property in ["provide.transaction.metadata", "heartbeat.interval.ms"] {
        let is_off =
            given.get(property).is_none_or(|value| value == "0" || value.eq_ignore_ascii_case("false"));
        if !is_off {
            given.wrong(format!(
                "{property}: cannot be had with these converters, which are not for structs; give keys and values one \
                 to JSON or Avro"
            ));
        }
    }
}
