//! The MongoDB connector's own properties.

use millrace_core::pattern::Pattern;
use toml::{Table, Value};

use super::given::Given;
use super::keys::{Keys, list, seconds};
use super::shared::escaped;

const SOURCE: &str = "source.mongodb";

pub fn source(given: &mut Given, keys: &mut Keys) {
    let url = url(given);
    keys.set(SOURCE, "url", url, "mongodb.connection.string");
    let password = given.get("mongodb.password").map(str::to_owned);
    keys.set_some(SOURCE, "password", password, "mongodb.password");
    for (property, key) in [
        ("mongodb.connect.timeout.ms", "connect_timeout_s"),
        ("mongodb.server.selection.timeout.ms", "server_selection_timeout_s"),
    ] {
        let limit = given.number(property).and_then(seconds);
        keys.set_some(SOURCE, key, limit, property);
    }
    collections(given, keys);
    fields(given, keys);
    capture(given, keys);
    snapshot(given, keys);
    signals(given, keys);
}

fn snapshot(given: &mut Given, keys: &mut Keys) {
    let mode = mode(given);
    keys.set(SOURCE, "snapshot", mode, "snapshot.mode");
    let threads = given.number("snapshot.max.threads");
    keys.set_some(SOURCE, "snapshot_workers", threads, "snapshot.max.threads");
    let property = "snapshot.include.collection.list";
    let names: Vec<String> =
        given.list(property).iter().map(|entry| collection(given, property, entry)).collect();
    if !names.is_empty() {
        keys.set(SOURCE, "snapshot_collections", list(names), property);
    }
    filters(given, keys);
}

/// The two that go on streaming after one look at what was there, by whatever name.
fn mode(given: &mut Given) -> &'static str {
    let word = given.get("snapshot.mode").unwrap_or("initial").to_ascii_lowercase();
    let why = match word.as_str() {
        "initial" => return "initial",
        "no_data" | "never" => return "no_data",
        "configuration_based" => return by_flags(given),
        "always" => {
            "documents are read once; the signal execute-snapshot reads them again while changes go on"
        }
        "initial_only" => "a connector goes on with the changes; remove it once its snapshot is COMPLETED",
        "when_needed" => {
            "what was lost is not replaced unasked; after a loss, begin anew with position reset"
        }
        "custom" => "it names Java code",
        _ => "it is none of Debezium's",
    };
    given.wrong(format!("snapshot.mode: {word:?} cannot be had, only initial and no_data: {why}"));
    "initial"
}

fn by_flags(given: &mut Given) -> &'static str {
    let of = |flag: &str| format!("snapshot.mode.configuration.based.{flag}");
    let [data, stream, on_loss] =
        ["snapshot.data", "start.stream", "snapshot.on.data.error"].map(|flag| given.flag(&of(flag), false));
    if !stream {
        let why = "a connector goes on with the changes; set it to true, and remove the connector afterwards";
        given.wrong(format!("{}: false cannot be had: {why}", of("start.stream")));
    }
    if on_loss {
        let why = "what was lost is not replaced unasked; begin anew with position reset";
        given.wrong(format!("{}: true cannot be had: {why}", of("snapshot.on.data.error")));
    }
    if data { "initial" } else { "no_data" }
}

/// Conditions on what is read, each in a property of its own.
fn filters(given: &mut Given, keys: &mut Keys) {
    const PROPERTY: &str = "snapshot.collection.filter.overrides";
    let names = given.list(PROPERTY);
    let mut filters = Table::new();
    for (name, filter) in given.under(&format!("{PROPERTY}.")) {
        if names.contains(&name) {
            filters.insert(name, Value::String(filter));
        } else {
            given.wrong(format!("{PROPERTY}.{name}: {name} is not in {PROPERTY}"));
        }
    }
    for name in names.iter().filter(|name| !filters.contains_key(*name)) {
        given.wrong(format!("{PROPERTY}.{name}: is missing"));
    }
    if !filters.is_empty() {
        keys.set(SOURCE, "snapshot_filters", Value::Table(filters), PROPERTY);
    }
}

/// REST takes signals besides; a topic is heard by the sink.
fn signals(given: &mut Given, keys: &mut Keys) {
    let channels = given.list("signal.enabled.channels");
    for channel in channels.iter().filter(|channel| !matches!(channel.as_str(), "source" | "kafka")) {
        let origin = "signal.enabled.channels";
        given.wrong(format!(
            "{origin}: {channel:?} cannot be had, only source and kafka; REST takes signals too"
        ));
    }
    let listens = channels.is_empty() || channels.iter().any(|channel| channel == "source");
    let collection = given.get("signal.data.collection").map(str::to_owned).filter(|_| listens);
    keys.set_some(SOURCE, "signal_collection", collection, "signal.data.collection");
}

/// The user and what goes with it, put into the connection string.
fn url(given: &mut Given) -> String {
    let mut url = given.required("mongodb.connection.string");
    let Some(at) = url.find("://").map(|at| at + 3) else { return url };
    if let Some(user) = given.get("mongodb.user")
        && !url.get(at..).is_some_and(|rest| rest.contains('@'))
    {
        let user = escaped(user);
        url.insert_str(at, &format!("{user}@"));
        let source = given.get("mongodb.authsource").unwrap_or("admin").to_owned();
        add(&mut url, "authSource", &source);
    }
    if given.flag("mongodb.ssl.enabled", false) {
        add(&mut url, "tls", "true");
    }
    url
}

fn add(url: &mut String, name: &str, value: &str) {
    if url.contains(&format!("{name}=")) {
        return;
    }
    let has_path = url.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    if !has_path {
        url.push('/');
    }
    url.push(if url.contains('?') { '&' } else { '?' });
    url.push_str(&format!("{name}={value}"));
}

/// Debezium looks at both lists: a collection is captured where its database is, and it itself.
fn collections(given: &mut Given, keys: &mut Keys) {
    let (whole, single) = ("database.include.list", "collection.include.list");
    let databases: Vec<String> =
        given.list(whole).iter().map(|entry| database(given, whole, entry)).collect();
    let mut names: Vec<String> =
        given.list(single).iter().map(|entry| collection(given, single, entry)).collect();
    let origin = if names.is_empty() { whole } else { single };
    match (names.is_empty(), databases.is_empty()) {
        (true, true) => names.push(target(given).unwrap_or_else(|| "*.*".to_owned())),
        (true, false) => names.extend(given.list(whole).iter().map(|entry| all_of(given, whole, entry))),
        (false, true) => {}
        (false, false) => {
            let patterns: Vec<Pattern> =
                databases.iter().filter_map(|database| Pattern::parse(database).ok()).collect();
            // One that is named needs no second look.
            let is_outside = |name: &String| match name.split_once('.') {
                Some((database, _)) if !name.starts_with('/') && database != "*" => {
                    !patterns.iter().any(|pattern| pattern.matches(database))
                }
                _ => false,
            };
            names.retain(|name| !is_outside(name));
            if names.is_empty() {
                given.wrong(format!("{single}: names no collection of the databases in {whole}"));
            }
            if names.iter().any(|name| name.starts_with('/') || name == "*.*") {
                keys.set(SOURCE, "databases", list(databases), whole);
            }
        }
    }
    keys.set(SOURCE, "collections", list(names), origin);
    let (whole, single) = ("database.exclude.list", "collection.exclude.list");
    let mut names: Vec<String> = given.list(whole).iter().map(|entry| all_of(given, whole, entry)).collect();
    names.extend(given.list(single).iter().map(|entry| collection(given, single, entry)).collect::<Vec<_>>());
    let origin = if given.get(single).is_some() { single } else { whole };
    keys.set(SOURCE, "exclude_collections", list(names), origin);
}

/// What the stream is opened on, where no list says more.
fn target(given: &mut Given) -> Option<String> {
    let target = given.get("capture.target")?.to_owned();
    match given.get("capture.scope").unwrap_or_default().to_ascii_lowercase().as_str() {
        "database" => Some(format!("{target}.*")),
        "collection" => Some(target),
        _ => None,
    }
}

fn is_literal(given: &Given) -> bool {
    given.get("filters.match.mode").is_some_and(|mode| mode.eq_ignore_ascii_case("literal"))
}

fn collection(given: &mut Given, property: &str, entry: &str) -> String {
    name(entry, is_literal(given)).unwrap_or_else(|| given.expression(property, entry))
}

/// Every collection of the databases that an entry means.
fn all_of(given: &mut Given, property: &str, entry: &str) -> String {
    if is_literal(given) {
        return format!("{entry}.*");
    }
    let text = format!("{entry}\\..*");
    name(&text, false).unwrap_or_else(|| given.expression(property, &format!("(?:{entry})\\..*")))
}

/// The databases that an entry means.
fn database(given: &mut Given, property: &str, entry: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    if is_literal(given) || entry.chars().all(is_plain) {
        return entry.to_owned();
    }
    given.expression(property, entry)
}

/// `shop\.orders` and `shop[.]orders` as `shop.orders`, `shop\..*` as `shop.*`; `None` of what is a real
/// expression and stays one. A point that is not escaped is taken for a point, as whoever writes it means it.
fn name(expression: &str, literal: bool) -> Option<String> {
    if literal {
        return Some(expression.to_owned());
    }
    if expression == ".*" {
        return Some("*.*".to_owned());
    }
    let plain = expression.replace("\\.", ".").replace("[.]", ".");
    let (plain, whole) =
        plain.strip_suffix("..*").map_or((plain.as_str(), false), |database| (database, true));
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = !plain.is_empty() && plain.chars().all(is_plain) && (whole || plain.contains('.'));
    fits.then(|| if whole { format!("{plain}.*") } else { plain.to_owned() })
}

fn fields(given: &mut Given, keys: &mut Keys) {
    keys.set(SOURCE, "exclude_fields", list(given.list("field.exclude.list")), "field.exclude.list");
    let mut renamed = Table::new();
    for entry in given.list("field.renames") {
        match entry.rsplit_once(':') {
            Some((field, new)) => drop(renamed.insert(field.to_owned(), Value::String(new.to_owned()))),
            None => given.wrong(format!("field.renames: {entry:?} is not database.collection.field:new")),
        }
    }
    keys.set(SOURCE, "rename_fields", Value::Table(renamed), "field.renames");
}

fn capture(given: &mut Given, keys: &mut Keys) {
    let modes = [
        ("change_streams_update_full", "full"),
        ("change_streams", ""),
        ("change_streams_with_pre_image", "pre"),
        ("change_streams_update_full_with_pre_image", "full pre"),
    ];
    let mode = given.word("capture.mode", &modes);
    let full =
        given.word("capture.mode.full.update.type", &[("lookup", "lookup"), ("post_image", "post_image")]);
    let update = if mode.contains("full") { full } else { "none" };
    keys.set(SOURCE, "update_document", update, "capture.mode");
    keys.set(SOURCE, "pre_images", mode.contains("pre"), "capture.mode");
    let scopes = [("deployment", "deployment"), ("database", "database"), ("collection", "collection")];
    let scope = given.word("capture.scope", &scopes);
    keys.set(SOURCE, "scope", scope, "capture.scope");
    if let Some(time) = given.number("capture.start.op.time").and_then(|time| u64::try_from(time).ok()) {
        let at = format!("{}.{}", time >> 32, time & 0xffff_ffff);
        keys.set(SOURCE, "start_at", at, "capture.start.op.time");
    }
    let oversize = given.word("cursor.oversize.handling.mode", &[("fail", "fail"), ("split", "split")]);
    keys.set(SOURCE, "split_large_events", oversize == "split", "cursor.oversize.handling.mode");
}
