//! The position's file: one line of JSON, replaced whole. Written beside itself, synced, renamed, and the
//! folder synced, so that a crash at any instant leaves the old position or the new one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use millrace_core::error::{Error, Result};
use millrace_core::position::{Notes, Position};
use millrace_core::progress::State;
use millrace_core::report::Report;
use serde_json::value::RawValue;

/// The file as it stands on the disk.
#[derive(serde::Serialize, serde::Deserialize)]
struct Stored<'a> {
    /// Whose position it is: another connector's is never taken for ours.
    connector: String,
    #[serde(borrow)]
    position: &'a RawValue,
    /// What the source remembers beside it.
    #[serde(borrow, default, skip_serializing_if = "BTreeMap::is_empty")]
    notes: BTreeMap<String, &'a RawValue>,
}

pub struct PositionFile {
    path: PathBuf,
    connector: String,
}

impl PositionFile {
    pub fn new(path: PathBuf, connector: &str) -> Self {
        Self { path, connector: connector.to_owned() }
    }

    /// `None` only where there is no file: an unreadable one is an error, never a first start.
    pub fn read(&self) -> Result<Option<(Position, Notes)>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == ErrorKind::InvalidData => return Err(self.unreadable(error)),
            Err(error) => return Err(self.io("cannot read", error)),
        };
        let stored: Stored<'_> = serde_json::from_str(&text).map_err(|error| self.unreadable(error))?;
        if stored.connector != self.connector {
            let path = self.path.display();
            return Err(Error::config(format!(
                "position file {path} belongs to connector {}, not to {}",
                stored.connector, self.connector
            ))
            .hint("set position_file in [sink.stdout] to a file of its own"));
        }
        let position = stored.position.get();
        if !position.starts_with('{') {
            return Err(self.unreadable("the position is not a JSON object"));
        }
        let notes = stored.notes.into_iter().map(|(key, text)| (key, text.get().to_owned())).collect();
        Ok(Some((Position::new(position), notes)))
    }

    pub fn write(&self, position: &Position, notes: &Notes) -> Result<()> {
        let beside = self.beside();
        let raw = |text| serde_json::from_str::<&RawValue>(text).map_err(|error| self.unreadable(error));
        let mut kept = BTreeMap::new();
        for (key, text) in notes {
            kept.insert(key.clone(), raw(text)?);
        }
        let stored =
            Stored { connector: self.connector.clone(), position: raw(position.as_str())?, notes: kept };
        let mut line = serde_json::to_string(&stored).map_err(|error| self.unreadable(error))?;
        line.push('\n');
        let put = || {
            let mut file = File::create(&beside)?;
            file.write_all(line.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            File::open(self.folder())?.sync_all()
        };
        put().map_err(|error| self.io("cannot write", error))
    }

    /// Looks without changing anything.
    pub fn check(&self, report: &mut Report) {
        let subject = format!("position file {}", self.path.display());
        match fs::metadata(self.folder()) {
            Ok(folder) if folder.is_dir() => {}
            _ => {
                let hint = format!("mkdir -p {}", self.folder().display());
                return report.fail(subject, "its folder does not exist", hint);
            }
        }
        match self.read() {
            Ok(Some(_)) => report.pass(subject, "holds a position"),
            Ok(None) => report.pass(subject, "not there yet: a first start"),
            Err(error) => {
                let hint = error.hint_text().unwrap_or_default().to_owned();
                report.fail(subject, error.to_string(), hint);
            }
        }
    }

    fn beside(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        self.path.with_file_name(name)
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    fn unreadable(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::fatal(format!("position file {} holds no position", self.path.display()))
            .state(State::PositionLost)
            .source(cause)
            .hint(format!(
                "put back the file from a backup; or drop the replication slot and remove {} to begin anew",
                self.path.display()
            ))
    }

    fn io(&self, doing: &str, error: std::io::Error) -> Error {
        let message = format!("{doing} position file {}", self.path.display());
        match error.kind() {
            ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory => Error::config(message)
                .source(error)
                .hint("set state_dir in [sink.stdout] to a folder that the daemon may write to"),
            _ => Error::transient(message).source(error),
        }
    }
}
