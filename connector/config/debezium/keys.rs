//! Our keys under construction, each with the property that made it.

use std::collections::BTreeMap;

use toml::{Table, Value};

#[derive(Debug, Default)]
pub struct Keys {
    root: Table,
    origins: BTreeMap<String, String>,
}

impl Keys {
    /// Sets a key: `section`, dots between its parts, and the key's own name, which may hold dots.
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<Value>, origin: &str) {
        let mut table = &mut self.root;
        for part in section.split('.').filter(|part| !part.is_empty()) {
            let inner = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = inner else { return };
            table = inner;
        }
        let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        table.insert(key.to_owned(), value.into());
        self.origins.insert(path, origin.to_owned());
    }

    pub fn set_some(&mut self, section: &str, key: &str, value: Option<impl Into<Value>>, origin: &str) {
        if let Some(value) = value {
            self.set(section, key, value, origin);
        }
    }

    /// Says which property made a key inside of what was set as a whole.
    pub fn note(&mut self, path: &str, origin: &str) {
        self.origins.insert(path.to_owned(), origin.to_owned());
    }

    /// The text of a TOML file, and the properties by key.
    pub fn into_text(self) -> (String, BTreeMap<String, String>) {
        // Tables of strings, numbers and lists: they can always be written.
        (toml::to_string(&self.root).unwrap_or_default(), self.origins)
    }
}

/// A list, as TOML has it.
pub fn list(items: Vec<String>) -> Value {
    Value::Array(items.into_iter().map(Value::String).collect())
}

/// Whole seconds, at least one, of milliseconds; none of nothing.
pub fn seconds(ms: i64) -> Option<i64> {
    (ms > 0).then(|| (ms + 999) / 1000)
}
