//! A connector's file, changed key by key.

use std::path::Path;

use toml::{Table, Value};

/// What will be written to `<name>.toml`.
#[derive(Clone)]
pub struct File(Table);

impl File {
    pub fn new(name: &str) -> Self {
        let mut file = Self(Table::new());
        file.set("name", name);
        file
    }

    /// One of the files of `configs/`. They name others from the repository on, and tests run elsewhere.
    pub fn of_configs(path: &str) -> Self {
        let configs = xtask::services::repository().join("configs");
        let text =
            Self::text_of_configs(path).replace("${file:configs", &format!("${{file:{}", configs.display()));
        Self(toml::from_str(&text).expect("a connector's file"))
    }

    /// Any file of `configs/`.
    pub fn text_of_configs(path: &str) -> String {
        let path = xtask::services::repository().join("configs").join(path);
        let text = std::fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn name(&self) -> &str {
        self.0["name"].as_str().expect("a name is text")
    }

    /// Sets `sink/kafka/transaction/timeout_ms`; parts are divided by `/`, because keys may hold dots.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) -> &mut Self {
        let (table, key) = self.enter(path);
        table.insert(key, value.into());
        self
    }

    /// Takes over the sections of a text, each in the place of what was there.
    pub fn lay(&mut self, text: &str) -> &mut Self {
        let text: Table = toml::from_str(text).expect("the text of a file");
        self.0.extend(text);
        self
    }

    pub fn remove(&mut self, path: &str) -> &mut Self {
        let (table, key) = self.enter(path);
        table.remove(&key);
        self
    }

    fn enter(&mut self, path: &str) -> (&mut Table, String) {
        let mut parts: Vec<&str> = path.split('/').collect();
        let key = parts.pop().expect("split gives at least one part").to_owned();
        let mut table = &mut self.0;
        for part in parts {
            let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().expect("a section is a table");
        }
        (table, key)
    }

    pub fn text(&self) -> String {
        toml::to_string(&self.0).expect("a table can be written")
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.text()).expect("the connector's file can be written");
    }
}
