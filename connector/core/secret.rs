//! A text that is shown nowhere, and whose parts that lie in files are read again each time it is needed: a
//! password that is changed there is taken up by the next connection, without a restart. Start at
//! `Secret::read`.

use std::fmt;
use std::io::Read;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};

/// A secret is a password, a token or a certificate chain, not a disk.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Parts files from text in the one string that a deserializer passes on. No keyboard makes it.
pub const MARK: char = '\u{1}';

/// A file, or one property of a file of properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRef {
    path: String,
    property: Option<String>,
}

impl FileRef {
    /// `/path`, or `/path:property` as Kafka Connect's file provider has it.
    pub fn parse(text: &str) -> Self {
        match text.rsplit_once(':') {
            Some((path, property)) if !property.is_empty() && !property.contains('/') => {
                Self { path: path.to_owned(), property: Some(property.to_owned()) }
            }
            _ => Self { path: text.to_owned(), property: None },
        }
    }

    /// What the file holds now. Editors and `echo` end it with a line break that is not part of the secret.
    pub fn read(&self) -> std::result::Result<String, String> {
        let text = read(&self.path).map_err(|error| format!("cannot read file {}: {error}", self.path))?;
        let Some(property) = &self.property else {
            let trimmed = text.strip_suffix('\n').unwrap_or(&text);
            return Ok(trimmed.strip_suffix('\r').unwrap_or(trimmed).to_owned());
        };
        let found = text.lines().filter_map(|line| line.split_once('='));
        let mut found = found.filter(|(name, _)| name.trim() == property);
        let value = found.next_back().map(|(_, value)| value.trim().to_owned());
        value.ok_or_else(|| format!("file {} has no property {property}", self.path))
    }
}

impl fmt::Display for FileRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.property {
            None => f.write_str(&self.path),
            Some(property) => write!(f, "{property} in {}", self.path),
        }
    }
}

fn read(path: &str) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[derive(Clone)]
pub enum Part {
    Text(SecretString),
    File(FileRef),
}

/// Text, and files between it.
#[derive(Clone)]
pub struct Secret(Vec<Part>);

impl Secret {
    /// As `marked` wrote it.
    pub fn of_marked(text: &str) -> Self {
        let part = |(nth, part): (usize, &str)| match nth % 2 {
            0 => Part::Text(part.into()),
            _ => Part::File(FileRef::parse(part)),
        };
        Self(text.split(MARK).enumerate().map(part).collect())
    }

    /// What it is now. An error passes: the file may be about to come.
    pub fn read(&self) -> Result<SecretString> {
        let mut whole = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => whole += text.expose_secret(),
                Part::File(file) => {
                    let text = file.read().map_err(|what| {
                        Error::transient(what).hint("put it back; it is read again for every attempt")
                    })?;
                    whole += &text;
                }
            }
        }
        Ok(whole.into())
    }

    /// The files that it comes from, for messages; `None` where it can only change with a restart.
    pub fn files(&self) -> Option<String> {
        let files = self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::File(file) => Some(file.to_string()),
        });
        let files: Vec<String> = files.collect();
        (!files.is_empty()).then(|| files.join(" and "))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(vec![Part::Text(text.into())])
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(vec![Part::Text(text.into())])
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::of_marked(&text))
    }
}

/// One string for text and the files in it, in order.
pub fn marked(parts: &[Part]) -> String {
    let mut out = String::new();
    for part in parts {
        match part {
            Part::Text(text) => out += text.expose_secret(),
            Part::File(FileRef { path, property }) => {
                out.push(MARK);
                out += path;
                if let Some(property) = property {
                    out.push(':');
                    out += property;
                }
                out.push(MARK);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (std::path::PathBuf, FileRef) {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("millrace-secret-{}-{count}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let file = FileRef::parse(&path.display().to_string());
        (path, file)
    }

    fn shown(secret: &Secret) -> String {
        secret.read().unwrap().expose_secret().to_owned()
    }

    #[test]
    fn a_file_that_changes_is_taken_up_by_the_next_reading() {
        let (path, file) = file("old\n");
        let marked = marked(&[Part::Text("user:".into()), Part::File(file), Part::Text("@host".into())]);
        let secret = Secret::of_marked(&marked);
        assert_eq!(shown(&secret), "user:old@host");
        std::fs::write(&path, "new").unwrap();
        assert_eq!(shown(&secret), "user:new@host");
        std::fs::remove_file(&path).unwrap();
        let error = secret.read().unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Transient);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }

    #[test]
    fn a_file_loses_its_last_line_break_and_no_other() {
        let (path, file) = file("se cret\n\n");
        assert_eq!(file.read().unwrap(), "se cret\n");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_property_of_a_file_of_connect_s_is_found() {
        let (path, _) = file("# secrets\nuser=me\npassword = a=b \n");
        let of = |property: &str| FileRef::parse(&format!("{}:{property}", path.display()));
        assert_eq!(of("password").read().unwrap(), "a=b");
        assert!(of("token").read().unwrap_err().ends_with("has no property token"));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn only_what_comes_from_files_names_them_and_nothing_prints() {
        let secret = Secret::from("hush");
        assert_eq!((secret.files(), format!("{secret:?}")), (None, "***".to_owned()));
        let secret = Secret::of_marked(&marked(&[Part::File(FileRef::parse("/run/pw"))]));
        assert_eq!(secret.files().as_deref(), Some("/run/pw"));
    }
}
