//! `[format]`: choices as text become the encoder's settings.

use millrace_core::encode::{Decimals, Dialect, Encoding, Format};

use super::Problems;
use super::raw;
use super::strict::nearest;

/// Above this a Kafka record cannot be, whatever the broker allows.
const RECORD_BYTES_MAX: u32 = 1_000_000_000;

/// The defaults where a key is not set; problems where one does not fit.
pub fn resolve(raw: &raw::Format, name: &str, problems: &mut Problems) -> Format {
    let prefix = raw.topic_prefix.as_deref().unwrap_or(name);
    if !is_topic_name(prefix) {
        problems.add("format.topic_prefix", "may hold letters, digits, `.`, `_` and `-`, at most 200");
    }
    let mut format = Format::new(prefix);
    choice(problems, "format.envelope", &raw.envelope, &[("debezium", ())]);
    let json = Encoding::Json { schemas: raw.json_schemas.unwrap_or(false) };
    if let Some(encoding) =
        choice(problems, "format.encoding", &raw.encoding, &[("avro", Encoding::Avro), ("json", json)])
    {
        format.encoding = encoding;
    }
    let dialects = [("millrace", Dialect::Millrace), ("debezium", Dialect::Debezium)];
    if let Some(dialect) = choice(problems, "format.dialect", &raw.dialect, &dialects) {
        format.dialect = dialect;
    }
    let decimals = [("precise", Decimals::Precise), ("string", Decimals::Text), ("double", Decimals::Double)];
    if let Some(decimals) = choice(problems, "format.decimals", &raw.decimals, &decimals) {
        format.decimals = decimals;
    }
    format.tombstones = raw.tombstones.unwrap_or(format.tombstones);
    format.truncates = raw.truncates.unwrap_or(format.truncates);
    if let Some(placeholder) = &raw.placeholder {
        format.placeholder.clone_from(placeholder);
    }
    match raw.record_bytes_max {
        Some(0) => problems.add("format.record_bytes_max", "must be at least 1"),
        Some(max) if max > RECORD_BYTES_MAX => {
            problems.add("format.record_bytes_max", format!("must be at most {RECORD_BYTES_MAX}"));
        }
        Some(max) => format.record_bytes_max = max,
        None => {}
    }
    if raw.json_schemas.is_some() && format.encoding == Encoding::Avro {
        problems.add("format.json_schemas", "has no effect beside encoding = \"avro\"; remove it");
    }
    format
}

/// The meaning of a chosen word; `None` where none is set or it is not one of ours.
fn choice<T: Copy>(
    problems: &mut Problems,
    key: &str,
    chosen: &Option<String>,
    known: &[(&str, T)],
) -> Option<T> {
    let chosen = chosen.as_deref()?;
    if let Some((_, meaning)) = known.iter().find(|(word, _)| *word == chosen) {
        return Some(*meaning);
    }
    let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
    let meant = nearest(chosen, &words).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    problems.add(key, format!("{chosen:?} is not one of {}{meant}", words.join(", ")));
    None
}

/// Kafka's characters; 249 is its limit for the whole topic, of which the table needs a part.
fn is_topic_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 200
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}
