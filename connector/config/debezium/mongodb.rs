//! The MongoDB connector's own properties.

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
    let modes = [("initial", "initial"), ("no_data", "no_data"), ("never", "no_data")];
    let mode = given.word("snapshot.mode", &modes);
    keys.set(SOURCE, "snapshot", mode, "snapshot.mode");
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

fn collections(given: &mut Given, keys: &mut Keys) {
    for (whole, single, key) in [
        ("database.include.list", "collection.include.list", "collections"),
        ("database.exclude.list", "collection.exclude.list", "exclude_collections"),
    ] {
        let mut names = Vec::new();
        let literal =
            given.get("filters.match.mode").is_some_and(|mode| mode.eq_ignore_ascii_case("literal"));
        for (property, is_whole) in [(whole, true), (single, false)] {
            for entry in given.list(property) {
                let text = if is_whole { format!("{entry}\\..*") } else { entry.clone() };
                match name(&text, literal && !is_whole) {
                    Some(name) => names.push(name),
                    None if is_whole => {
                        names.push(given.expression(property, &format!("(?:{entry})\\..*")));
                    }
                    None => names.push(given.expression(property, &entry)),
                }
            }
        }
        let both = given.get(whole).is_some() && given.get(single).is_some();
        if both && key == "collections" {
            given.wrong(format!("{whole}: cannot be had beside {single}, which names databases too"));
        }
        if names.is_empty() && key == "collections" {
            names.push("*.*".to_owned());
        }
        let origin = if given.get(single).is_some() { single } else { whole };
        keys.set(SOURCE, key, list(names), origin);
    }
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
    let oversize = given.word("cursor.oversize.handling.mode", &[("fail", "fail"), ("split", "split")]);
    keys.set(SOURCE, "split_large_events", oversize == "split", "cursor.oversize.handling.mode");
}
