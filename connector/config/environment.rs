//! What the daemon takes from its environment, read once; and the overlay, `MILLRACE__SINK__KAFKA__...`,
//! which is laid over every file that has the section it names.

use std::collections::BTreeMap;

use config::{Config, ConfigError, File, FileFormat, Map, Value, ValueKind};

use super::document::Document;
use crate::registry;

const PREFIX: &str = "MILLRACE";

/// Keys that hold lists: in the environment their items are parted by commas.
pub const LISTS: [&str; 27] = [
    "source.postgres.tables",
    "source.postgres.primary_hosts",
    "source.postgres.exclude_tables",
    "source.postgres.messages",
    "source.postgres.message_events",
    "source.postgres.exclude_message_events",
    "source.postgres.reselect_columns",
    "source.postgres.exclude_reselect_columns",
    "source.mongodb.collections",
    "source.mongodb.exclude_collections",
    "source.mongodb.databases",
    "source.mongodb.snapshot_collections",
    "source.mongodb.exclude_fields",
    "format.registry",
    "format.skip_operations",
    "format.exclude_columns",
    "format.include_columns",
    "format.source_types",
    "format.source_types_of",
    "format.hash_columns",
    "format.hmac_columns",
    "format.encrypt_columns",
    "format.flat.add_fields",
    "format.flat.add_headers",
    "sink.kafka.bootstrap",
    "sink.kafka.gauges.topics",
    "sink.kafka.gauges.groups",
];

/// Orders faults for a test; builds without debug assertions refuse it.
const CHAOS: &str = "MILLRACE_CHAOS";

/// The variables of one process.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Variables that are not UTF-8 cannot be meant for us.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    #[cfg(test)]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// What a test ordered to go wrong inside this process.
    pub fn chaos(&self) -> Option<&str> {
        self.get(CHAOS)
    }

    /// The file with the overlay on it. Nothing is parsed on the way: the password `000123` stays as it is.
    pub fn lay_over(&self, document: &Document) -> Result<Config, ConfigError> {
        let overlay: Map<String, String> = self
            .0
            .iter()
            .filter(|(name, _)| name.starts_with(PREFIX) && is_for(name, document))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let environment = config::Environment::with_prefix(PREFIX)
            .prefix_separator("__")
            .separator("__")
            .source(Some(overlay));
        let mut merged = Config::builder()
            .add_source(File::from_str(&document.text, FileFormat::Toml))
            .add_source(environment)
            .build()?;
        for key in LISTS {
            split(&mut merged.cache, key);
        }
        Ok(merged)
    }
}

/// A variable for a source or a sink that this file does not use is meant for another connector. One that
/// names no source or sink at all is kept, to be refused by its name.
fn is_for(variable: &str, document: &Document) -> bool {
    let mut parts = variable.split("__").skip(1).map(str::to_lowercase);
    let section = parts.next().unwrap_or_default();
    let known = match section.as_str() {
        "source" => registry::SOURCES,
        "sink" => registry::SINKS,
        _ => return true,
    };
    let kind = parts.next().unwrap_or_default();
    !known.contains(&kind.as_str()) || document.has_section(&section, &kind)
}

fn split(value: &mut Value, key: &str) {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let ValueKind::Table(table) = &mut value.kind else { return };
    let Some(inner) = table.get_mut(first) else { return };
    if let Some(rest) = rest {
        return split(inner, rest);
    }
    if let ValueKind::String(text) = &inner.kind {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<Value> = items.map(Value::from).collect();
        inner.kind = ValueKind::Array(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(variables: &[(&str, &str)]) -> Config {
        let text = "name = \"a\"\n[source.postgres]\nurl = \"x\"\n[sink.stdout]\n".to_owned();
        let document = Document { name: "a.toml".into(), text };
        Environment::of(variables).lay_over(&document).unwrap()
    }

    #[test]
    fn a_password_of_digits_keeps_its_zeros() {
        let merged = merged(&[("MILLRACE__SOURCE__POSTGRES__PASSWORD", "000123")]);
        assert_eq!(merged.get_string("source.postgres.password").unwrap(), "000123");
    }

    #[test]
    fn a_list_is_parted_by_commas() {
        let merged = merged(&[("MILLRACE__SOURCE__POSTGRES__TABLES", "public.a, public.b")]);
        let tables: Vec<String> = merged.get("source.postgres.tables").unwrap();
        assert_eq!(tables, ["public.a", "public.b"]);
    }

    #[test]
    fn a_variable_for_a_sink_that_is_not_used_is_for_another_connector() {
        let merged =
            merged(&[("MILLRACE__SINK__KAFKA__BOOTSTRAP", "a:1"), ("MILLRACE__SINK__KAFAK__X", "1")]);
        assert!(merged.get::<Value>("sink.kafka").is_err());
        assert!(merged.get::<Value>("sink.kafak").is_ok());
    }
}
