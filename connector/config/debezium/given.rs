//! The properties of a file as they were given, all of them texts, and what is wrong with them.

use std::collections::BTreeMap;

use millrace_core::pattern::Pattern;
use serde_json::Value as Json;

use crate::config::document::Problem;

/// The connector's name beside the properties, and these.
pub type Read = (Option<String>, BTreeMap<String, String>);

/// Reads `{"name": ..., "config": {...}}`, or the properties alone.
pub fn read(text: &str) -> Result<Read, String> {
    let value: Json = serde_json::from_str(text)
        .map_err(|error| format!("is no JSON: line {}, column {}", error.line(), error.column()))?;
    let Json::Object(mut outer) = value else { return Err("is no JSON object".to_owned()) };
    let name = outer.get("name").and_then(Json::as_str).map(str::to_owned);
    let inner = match outer.remove("config") {
        Some(Json::Object(inner)) => inner,
        Some(_) => return Err("config: is no JSON object".to_owned()),
        None => outer,
    };
    let mut properties = BTreeMap::new();
    for (key, value) in inner {
        let text = match value {
            Json::String(text) => text,
            Json::Bool(_) | Json::Number(_) => value.to_string(),
            Json::Null => continue,
            Json::Array(_) | Json::Object(_) => return Err(format!("{key}: a property is a text")),
        };
        properties.insert(key, text);
    }
    Ok((name, properties))
}

/// What was given.
#[derive(Debug)]
pub struct Given {
    file: String,
    pub properties: BTreeMap<String, String>,
    pub problems: Vec<Problem>,
}

impl Given {
    pub fn new(file: String, properties: BTreeMap<String, String>) -> Self {
        Self { file, properties, problems: Vec::new() }
    }

    /// The value of a property that says something.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The properties that begin so, with the rest of their names.
    pub fn under(&self, prefix: &str) -> Vec<(String, String)> {
        let own = self.properties.iter();
        own.filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.trim().to_owned())))
            .collect()
    }

    pub fn wrong(&mut self, message: String) {
        self.problems.push(Problem::new(&self.file, message));
    }

    pub fn wrong_with_hint(&mut self, message: String, hint: String) {
        self.problems.push(Problem::new(&self.file, message).hint(hint));
    }

    pub fn required(&mut self, name: &str) -> String {
        let found = self.get(name).map(str::to_owned);
        found.unwrap_or_else(|| {
            self.wrong(format!("{name}: is missing"));
            String::new()
        })
    }

    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        match self.get(name).map(str::to_ascii_lowercase).as_deref() {
            None => default,
            Some("true") => true,
            Some("false") => false,
            Some(_) => {
                self.wrong(format!("{name}: must be true or false"));
                default
            }
        }
    }

    pub fn number(&mut self, name: &str) -> Option<i64> {
        let text = self.get(name)?.to_owned();
        let number = text.parse().ok();
        if number.is_none() {
            self.wrong(format!("{name}: {text:?} is no number"));
        }
        number
    }

    /// One of these words, in our words; the first where none is given.
    pub fn word(&mut self, name: &str, words: &[(&str, &'static str)]) -> &'static str {
        let usual = words.first().map_or("", |(_, ours)| *ours);
        let Some(given) = self.get(name).map(str::to_ascii_lowercase) else { return usual };
        match words.iter().find(|(word, _)| *word == given) {
            Some((_, ours)) => ours,
            None => {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                self.wrong(format!("{name}: {given:?} cannot be had, only {}", known.join(", ")));
                usual
            }
        }
    }

    /// A list of expressions, parted by commas; a comma of their own is written `\,`.
    pub fn list(&self, name: &str) -> Vec<String> {
        split(self.get(name).unwrap_or_default())
    }

    /// One expression, as our files write it; a problem where it is not understood.
    pub fn expression(&mut self, property: &str, text: &str) -> String {
        let written = expression(text);
        if let Err(why) = Pattern::parse(&written) {
            self.wrong(format!("{property}: {text:?} {why}"));
        }
        written
    }

    /// A list of them.
    pub fn expressions(&mut self, property: &str) -> Vec<String> {
        let list = self.list(property);
        list.iter().map(|text| self.expression(property, text)).collect()
    }
}

pub fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match (escaped, c) {
            (true, ',') => part.push(','),
            (true, other) => part.extend(['\\', other]),
            (false, '\\') => {}
            (false, ',') => parts.push(std::mem::take(&mut part)),
            (false, other) => part.push(other),
        }
        escaped = c == '\\' && !escaped;
    }
    if escaped {
        part.push('\\');
    }
    parts.push(part);
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// As our files write an expression.
pub fn expression(text: &str) -> String {
    format!("/{text}/")
}
