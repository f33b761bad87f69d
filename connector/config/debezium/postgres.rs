//! The Postgres connector's own properties.

use toml::{Table, Value};

use super::given::{Given, expression, split};
use super::keys::{Keys, list, seconds};
use super::properties::{CONNECT, POSTGRES, Property, SHARED, is_named};
use super::shared::escaped;

const SOURCE: &str = "source.postgres";
const FORMAT: &str = "format";

pub fn source(given: &mut Given, keys: &mut Keys) {
    connection(given, keys);
    slot(given, keys);
    tables(given, keys);
    columns(given, keys);
    values(given, keys);
    snapshot(given, keys);
    messages(given, keys);
    signals(given, keys);
    post_processors(given, keys);
    heartbeat(given, keys);
}

/// The one that reads values again.
fn post_processors(given: &mut Given, keys: &mut Keys) {
    let names = given.list("post.processors");
    for (property, _) in given.under("") {
        let name = property.strip_suffix(".type").or(property.split_once(".reselect.").map(|(name, _)| name));
        let is_own = name.is_none_or(|name| names.iter().any(|own| own == name));
        let fits = |(pattern, ..): &Property| !pattern.starts_with("*.") && is_named(pattern, &property);
        if !is_own && !POSTGRES.iter().chain(SHARED).chain(CONNECT).any(fits) {
            given.wrong(format!("{property}: is not a property of this connector"));
        }
    }
    for (index, name) in names.iter().enumerate() {
        let of = |option: &str| format!("{name}.{option}");
        let class = given.required(&of("type"));
        if class.is_empty() {
            continue;
        }
        if class.rsplit('.').next() != Some("ReselectColumnsPostProcessor") || index > 0 {
            given.wrong(format!("{}: only ReselectColumnsPostProcessor can be had, once", of("type")));
            continue;
        }
        // There a column stands behind a colon.
        let mut columns = |property: &str| {
            let texts = given.list(&of(property));
            let texts = texts.iter().map(|text| text.replace("(?:", "(").replace(':', "\\."));
            texts.map(|text| given.expression(property, &text)).collect::<Vec<_>>()
        };
        let [mut wanted, mut unwanted] =
            ["reselect.columns.include.list", "reselect.columns.exclude.list"].map(&mut columns);
        if wanted.is_empty() {
            wanted.push("*".to_owned());
        } else {
            // There the one list is not looked at beside the other.
            unwanted.clear();
        }
        let nulls = given.flag(&of("reselect.null.values"), true);
        keys.set(SOURCE, "reselect_columns", list(wanted), &of("reselect.columns.include.list"));
        keys.set(SOURCE, "exclude_reselect_columns", list(unwanted), &of("reselect.columns.exclude.list"));
        keys.set(SOURCE, "reselect_nulls", nulls, &of("reselect.null.values"));
    }
}

/// REST takes signals besides; JMX is not listened to.
fn signals(given: &mut Given, keys: &mut Keys) {
    let channels = given.list("signal.enabled.channels");
    let origin = "signal.enabled.channels";
    for channel in channels.iter().filter(|channel| !matches!(channel.as_str(), "source" | "file" | "kafka"))
    {
        given.wrong(format!("{origin}: {channel:?} cannot be had, only source, file and kafka"));
    }
    let listens = |to: &str| channels.is_empty() && to == "source" || channels.iter().any(|own| own == to);
    let table = given.get("signal.data.collection").map(str::to_owned).filter(|_| listens("source"));
    keys.set_some(SOURCE, "signal_table", table, "signal.data.collection");
    if listens("file") {
        let file = given.get("signal.file").unwrap_or("file-signals.txt").to_owned();
        keys.set(SOURCE, "signal_file", file, "signal.file");
        let every = given.number("signal.poll.interval.ms").and_then(seconds);
        keys.set_some(SOURCE, "signal_file_interval_s", every, "signal.poll.interval.ms");
    }
}

/// Without a word every prefix makes events.
fn messages(given: &mut Given, keys: &mut Keys) {
    let [included, excluded] =
        ["message.prefix.include.list", "message.prefix.exclude.list"].map(|list| given.expressions(list));
    // Beside the event router there are none.
    let included = match included.is_empty() {
        true if super::outbox::name(given, super::Kind::Postgres).is_some() => Vec::new(),
        true => vec![expression(".*")],
        false => included,
    };
    keys.set(SOURCE, "message_events", list(included), "message.prefix.include.list");
    keys.set(SOURCE, "exclude_message_events", list(excluded), "message.prefix.exclude.list");
}

fn snapshot(given: &mut Given, keys: &mut Keys) {
    let modes = [
        ("initial", "initial"),
        ("initial_only", "initial_only"),
        ("always", "always"),
        ("no_data", "no_data"),
        ("never", "no_data"),
        ("when_needed", "when_needed"),
        ("configuration_based", "configuration_based"),
    ];
    let mode = given.word("snapshot.mode", &modes);
    keys.set(SOURCE, "snapshot", mode, "snapshot.mode");
    if mode == "configuration_based" {
        for (flag, key) in [
            ("snapshot.data", "snapshot_rows"),
            ("start.stream", "snapshot_stream"),
            ("snapshot.on.data.error", "snapshot_on_loss"),
        ] {
            let property = format!("snapshot.mode.configuration.based.{flag}");
            let is_on = given.flag(&property, false);
            keys.set(SOURCE, key, is_on, &property);
        }
    }
    let threads = given.number("snapshot.max.threads");
    keys.set_some(SOURCE, "snapshot_workers", threads, "snapshot.max.threads");
}

fn connection(given: &mut Given, keys: &mut Keys) {
    let [host, user, database] =
        ["database.hostname", "database.user", "database.dbname"].map(|name| given.required(name));
    let port = given.number("database.port").unwrap_or(5432);
    let url = format!("postgres://{}@{}:{port}/{}", escaped(&user), escaped(&host), escaped(&database));
    keys.set(SOURCE, "url", url, "database.hostname");
    let password = given.get("database.password").map(str::to_owned);
    keys.set_some(SOURCE, "password", password, "database.password");
    let modes = [
        ("prefer", "prefer"),
        ("allow", "prefer"),
        ("disable", "disable"),
        ("require", "require"),
        ("verify-ca", "verify-ca"),
        ("verify-full", "verify-full"),
    ];
    let mode = given.word("database.sslmode", &modes);
    keys.set(SOURCE, "sslmode", mode, "database.sslmode");
    for name in ["sslrootcert", "sslcert", "sslkey"] {
        let property = format!("database.{name}");
        let file = given.get(&property).map(str::to_owned);
        keys.set_some(SOURCE, name, file, &property);
    }
}

fn slot(given: &mut Given, keys: &mut Keys) {
    let slot = given.get("slot.name").unwrap_or("debezium").to_owned();
    keys.set(SOURCE, "slot", slot, "slot.name");
    keys.set(SOURCE, "existing_slot", "take", "slot.name");
    let failover = given.flag("slot.failover", false);
    keys.set(SOURCE, "failover_slot", failover, "slot.failover");
    let publication = given.get("publication.name").unwrap_or("dbz_publication").to_owned();
    keys.set(SOURCE, "publication", publication, "publication.name");
    altering(given, keys);
    let via_root = given.flag("publish.via.partition.root", false);
    let partitions = if via_root { "root" } else { "parts" };
    keys.set(SOURCE, "partitions", partitions, "publish.via.partition.root");
    let interval = given.number("status.update.interval.ms").and_then(seconds);
    keys.set_some(SOURCE, "status_interval_s", interval, "status.update.interval.ms");
}

/// There only `filtered` alters a publication that is there, and without a list of tables what it sends is captured.
fn altering(given: &mut Given, keys: &mut Keys) {
    let origin = "publication.autocreate.mode";
    let names = ["all_tables", "filtered", "disabled", "no_tables"];
    let mode = given.word(origin, &names.map(|name| (name, name)));
    keys.set(SOURCE, "create_publication", matches!(mode, "all_tables" | "filtered"), origin);
    keys.set(SOURCE, "alter_publication", mode == "filtered", origin);
    let is_listed = ["schema.include.list", "table.include.list"].map(|list| !given.list(list).is_empty());
    keys.set(SOURCE, "only_published", mode != "filtered" && !is_listed.contains(&true), origin);
}

fn tables(given: &mut Given, keys: &mut Keys) {
    let schemas = schemas(given, "schema.include.list");
    let tables = given.expressions("table.include.list");
    if !schemas.is_empty() && !tables.is_empty() {
        given.wrong(
            "schema.include.list: cannot be had beside table.include.list, whose expressions name schemas too"
                .to_owned(),
        );
    }
    let origin = if schemas.is_empty() { "table.include.list" } else { "schema.include.list" };
    let mut included = [schemas, tables].concat();
    if included.is_empty() {
        included.push(expression(".*"));
    }
    keys.set(SOURCE, "tables", list(included), origin);
    let excluded = self::schemas(given, "schema.exclude.list");
    let origin = if excluded.is_empty() { "table.exclude.list" } else { "schema.exclude.list" };
    let excluded = [excluded, given.expressions("table.exclude.list")].concat();
    keys.set(SOURCE, "exclude_tables", list(excluded), origin);
    let mut chosen = Table::new();
    let text = given.get("message.key.columns").unwrap_or_default().to_owned();
    for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
        match entry.rsplit_once(':') {
            Some((table, columns)) => {
                let table = given.expression("message.key.columns", table.trim());
                chosen.insert(table, list(split(columns)));
            }
            None => given.wrong(format!("message.key.columns: {entry:?} is not table:column,column")),
        }
    }
    keys.set(SOURCE, "message_keys", Value::Table(chosen), "message.key.columns");
}

/// Every table of the schemas that the expressions mean.
fn schemas(given: &mut Given, property: &str) -> Vec<String> {
    let list = given.list(property);
    list.iter().map(|schema| given.expression(property, &format!("(?:{schema})\\..*"))).collect()
}

fn columns(given: &mut Given, keys: &mut Keys) {
    for (property, key) in
        [("column.include.list", "include_columns"), ("column.exclude.list", "exclude_columns")]
    {
        let columns = given.expressions(property);
        keys.set(FORMAT, key, list(columns), property);
    }
    for (property, key) in [
        ("column.propagate.source.type", "source_types"),
        ("datatype.propagate.source.type", "source_types_of"),
    ] {
        let columns = given.expressions(property);
        keys.set(FORMAT, key, list(columns), property);
    }
    let skip = given.flag("skip.messages.without.change", false);
    keys.set(FORMAT, "skip_unchanged", skip, "skip.messages.without.change");
    for (key, before, after) in [
        ("mask_columns", "column.mask.with.", ".chars"),
        ("truncate_columns", "column.truncate.to.", ".chars"),
    ] {
        let mut chosen = Table::new();
        for (rest, columns) in given.under(before) {
            let count = rest.strip_suffix(after).and_then(|count| count.parse::<i64>().ok());
            let Some(count) = count.filter(|count| *count >= 0) else {
                given.wrong(format!("{before}{rest}: is not {before}<number>{after}"));
                continue;
            };
            for column in split(&columns) {
                let column = given.expression(&format!("{before}{rest}"), &column);
                chosen.insert(column, Value::Integer(count));
            }
        }
        if !chosen.is_empty() {
            keys.set(FORMAT, key, Value::Table(chosen), &format!("{before}*{after}"));
        }
    }
    hashes(given, keys);
}

fn hashes(given: &mut Given, keys: &mut Keys) {
    let all = given.under("column.mask.hash.");
    let mut chosen: Option<(String, String, i64)> = None;
    let mut hashed = Vec::new();
    for (rest, columns) in all {
        let (version, rest) = rest.strip_prefix("v2.").map_or((1, rest.as_str()), |rest| (2, rest));
        let Some((algorithm, salt)) = rest.split_once(".with.salt.") else {
            given.wrong(format!("column.mask.hash.{rest}: has no .with.salt.<salt>"));
            continue;
        };
        let this = (algorithm.to_lowercase().replace('-', ""), salt.to_owned(), version);
        if chosen.as_ref().is_some_and(|chosen| *chosen != this) {
            given.wrong(
                "column.mask.hash.*: one algorithm, one salt and one version for all columns".to_owned(),
            );
        }
        chosen = Some(this);
        for column in split(&columns) {
            hashed.push(given.expression("column.mask.hash.*", &column));
        }
    }
    let Some((algorithm, salt, version)) = chosen else { return };
    let origin = "column.mask.hash.*.with.salt.*";
    keys.set(FORMAT, "hash_columns", list(hashed), origin);
    keys.set(FORMAT, "hash_algorithm", algorithm, origin);
    keys.set(FORMAT, "hash_salt", salt, origin);
    keys.set(FORMAT, "hash_version", version, origin);
}

fn values(given: &mut Given, keys: &mut Keys) {
    let times = [
        ("adaptive", "adaptive"),
        ("adaptive_time_microseconds", "adaptive_time_microseconds"),
        ("connect", "connect"),
        ("isostring", "iso_string"),
        ("microseconds", "microseconds"),
        ("nanoseconds", "nanoseconds"),
    ];
    let binary =
        [("bytes", "bytes"), ("base64", "base64"), ("base64-url-safe", "base64_url_safe"), ("hex", "hex")];
    let decimals = [("precise", "precise"), ("double", "double"), ("string", "string")];
    for (property, key, words) in [
        ("time.precision.mode", "times", times.as_slice()),
        ("decimal.handling.mode", "decimals", decimals.as_slice()),
        ("hstore.handling.mode", "hstore", [("json", "json"), ("map", "map")].as_slice()),
        ("interval.handling.mode", "intervals", [("numeric", "numeric"), ("string", "string")].as_slice()),
        ("binary.handling.mode", "binary", binary.as_slice()),
    ] {
        let word = given.word(property, words);
        keys.set(FORMAT, key, word, property);
    }
    let property = "unavailable.value.placeholder";
    let placeholder = given.get(property).map(str::to_owned);
    if placeholder.as_deref().is_some_and(|text| text.starts_with("hex:")) {
        given.wrong(format!("{property}: cannot be bytes, only a text"));
    }
    keys.set_some(FORMAT, "placeholder", placeholder, property);
}

/// Without a query of its own an idle database is not written to, as in Debezium.
fn heartbeat(given: &mut Given, keys: &mut Keys) {
    let every = given.number("heartbeat.interval.ms").and_then(seconds);
    let query = given.get("heartbeat.action.query").map(str::to_owned);
    let interval = every.filter(|_| query.is_some()).unwrap_or(0);
    keys.set(SOURCE, "heartbeat_interval_s", interval, "heartbeat.interval.ms");
    if interval > 0 {
        keys.set_some(SOURCE, "heartbeat_query", query, "heartbeat.action.query");
    }
}
