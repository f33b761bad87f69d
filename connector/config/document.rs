//! One file as a person reads it: its name and its text, and a problem shown at its place with a caret.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::shown::is_secret_name;

/// Something that must change in a file or in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `orders.toml`, or `orders.toml:7:1`.
    pub place: String,
    pub message: String,
    /// The line with a caret under it.
    pub excerpt: Option<String>,
    pub hint: Option<String>,
}

impl Problem {
    pub fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into(), excerpt: None, hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{excerpt}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Document {
    /// The path as it was given.
    pub name: String,
    pub text: String,
}

impl Document {
    /// A problem at a place of the text, with the line shown.
    pub fn at(&self, span: Range<usize>, message: impl Into<String>) -> Problem {
        let start = boundary(&self.text, span.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |newline| start + newline);
        let line = self.text[..line_start].matches('\n').count() + 1;
        let column = self.text[line_start..start].chars().count() + 1;
        let end = boundary(&self.text, span.end.clamp(start, line_end));
        let shown = without_value(&self.text[line_start..line_end], end - line_start);
        let marked = shown.len().min(end - line_start).saturating_sub(start - line_start);
        let carets =
            "^".repeat(shown[shown.len().min(start - line_start)..][..marked].chars().count().max(1));
        let more = if line_start + shown.len() < line_end { " ..." } else { "" };
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        let pad = " ".repeat(column.min(shown.chars().count() + 1) - 1);
        let excerpt = format!("  {number} | {shown}{more}\n  {gutter} | {pad}{carets}");
        Problem {
            place: format!("{}:{line}:{column}", self.name),
            message: message.into(),
            excerpt: Some(excerpt),
            hint: None,
        }
    }

    /// The place of a dotted key, or of the longest part of it that the file has; the file where it has none
    /// (a default, or a variable). The line is not shown with it: it may hold a password.
    pub fn place_of(&self, key: &str) -> String {
        let found = DeTable::parse(&self.text).ok().and_then(|table| span_of(table.get_ref(), key));
        match found {
            Some(span) => self.at(span, String::new()).place,
            None => self.name.clone(),
        }
    }

    /// The file has a section `[first.second]`, in whatever way it is written.
    pub fn has_section(&self, first: &str, second: &str) -> bool {
        let Ok(table) = DeTable::parse(&self.text) else { return false };
        let section = table.get_ref().get(first).map(Spanned::get_ref);
        matches!(section, Some(DeValue::Table(inner)) if inner.get(second).is_some())
    }
}

/// The last place at or before this one where a character begins.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The line up to the marked place, or up to the `=` of a key that may hold a secret: who mistypes
/// `password` must not find the password in the log.
fn without_value(line: &str, marked_until: usize) -> &str {
    let equals = line.find('=').map_or(line.len(), |equals| equals + 1);
    if is_secret_key(&line[..equals]) { &line[..equals] } else { &line[..marked_until.max(equals)] }
}

/// Close to a name that secrets have, for a person's fingers.
fn is_secret_key(text: &str) -> bool {
    let key = text.trim_end_matches('=').trim().trim_matches('"').to_lowercase();
    let close = |name: &str| strsim::damerau_levenshtein(&key, name) <= 2;
    is_secret_name(&key) || ["password", "passwd", "secret", "token", "url"].into_iter().any(close)
}

/// The place of the longest part of a dotted key that the table has.
fn span_of(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let exact = table.iter().find(|(name, _)| name.get_ref() == key);
    let (name, value): (&Spanned<_>, _) =
        exact.or_else(|| table.iter().find(|(name, _)| name.get_ref() == first))?;
    let deeper = match (value.get_ref(), rest) {
        (DeValue::Table(inner), Some(rest)) => span_of(inner, rest),
        _ => None,
    };
    deeper.or_else(|| Some(name.span()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document { name: "a.toml".into(), text: text.into() }
    }

    #[test]
    fn a_place_is_shown_with_line_column_and_caret() {
        let problem = document("name = \"a\"\n  wrong = 1\n").at(13..18, "no");
        assert_eq!(problem.to_string(), "a.toml:2:3: no\n  2 |   wrong = ...\n    |   ^^^^^");
    }

    #[test]
    fn a_secret_under_a_mistyped_key_is_not_shown() {
        for line in ["pasword = \"hunter2\"", "password = \"hunter2", "sasl_token = 'hunter2'"] {
            for span in [0..5, 0..line.len(), line.len() - 3..line.len()] {
                let text = document(line).at(span, "no").to_string();
                assert!(!text.contains("hunter"), "{text}");
            }
        }
    }

    #[test]
    fn a_key_is_found_at_its_line() {
        let document = document("[sink.kafka]\nbootstrap = []\n[sink.kafka.client]\n\"acks\" = \"1\"\n");
        assert_eq!(document.place_of("sink.kafka.bootstrap"), "a.toml:2:1");
        assert_eq!(document.place_of("sink.kafka.client.acks"), "a.toml:4:1");
        assert_eq!(document.place_of("format.encoding"), "a.toml");
    }

    #[test]
    fn a_span_past_the_end_is_shown_at_the_end() {
        assert_eq!(document("é").at(50..60, "no").place, "a.toml:1:2");
    }
}
