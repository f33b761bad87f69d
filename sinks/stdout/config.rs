//! `[sink.stdout]`: `Raw` mirrors the file, `Settings` has the defaults applied.

use std::path::PathBuf;

use millrace_core::error::Error;
use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The whole path of the position's file.
    pub position_file: Option<String>,
    /// The folder of `<connector>.position`, where `position_file` is not set.
    pub state_dir: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub position_file: PathBuf,
}

impl Settings {
    /// Every problem at once, each beginning with its key.
    pub fn resolve(raw: Raw, connector_name: &str) -> Result<Self, Vec<Error>> {
        let mut problems = Vec::new();
        for (key, value) in [("position_file", &raw.position_file), ("state_dir", &raw.state_dir)] {
            if value.as_deref() == Some("") {
                problems.push(
                    Error::config(format!("[sink.stdout] {key} is empty"))
                        .hint("give a path or leave it out"),
                );
            }
        }
        if raw.position_file.is_some() && raw.state_dir.is_some() {
            problems.push(
                Error::config("[sink.stdout] state_dir has no effect beside position_file")
                    .hint("remove one of the two"),
            );
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let position_file = match raw.position_file {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(raw.state_dir.as_deref().unwrap_or("."))
                .join(format!("{connector_name}.position")),
        };
        Ok(Self { position_file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_lies_beside_the_daemon_unless_the_file_says_otherwise() {
        let settings = Settings::resolve(Raw::default(), "orders").unwrap();
        assert_eq!(settings.position_file, PathBuf::from("./orders.position"));
    }

    #[test]
    fn two_places_for_one_position_are_refused() {
        let raw = Raw { position_file: Some(String::new()), state_dir: Some("/tmp".into()) };
        assert_eq!(Settings::resolve(raw, "orders").unwrap_err().len(), 2);
    }
}
