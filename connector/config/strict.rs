//! Reads one file on its own, strictly: every key that we do not know is answered with its line, a caret
//! and the nearest key that we do know.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::document::{Document, Problem};
use super::raw;

/// More unknown keys than a person reads at once.
const PROBLEMS_MAX: usize = 50;

/// Every unknown key, and the first value of a wrong type. What is missing may come with the environment,
/// so it is no problem here.
pub fn read(document: &Document) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    let mut done: Vec<Range<usize>> = Vec::new();
    while done.len() < PROBLEMS_MAX {
        let mut table = match DeTable::parse(&document.text) {
            Ok(table) => table,
            Err(error) => return Err(vec![shown(document, &error)]),
        };
        remove(table.get_mut(), &done);
        let Err(error) = raw::File::deserialize(Deserializer::from(table)) else { break };
        let missing = error.message().starts_with("missing field `");
        if !missing {
            problems.push(shown(document, &error));
        }
        // What was judged is taken away and the rest read again, to name every key at once; what comes
        // after a value of a wrong type would be guesswork.
        match error.span() {
            Some(span) if (missing || is_unknown_key(&error)) && !done.contains(&span) => done.push(span),
            _ => break,
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Serde has no type for this error, only its words.
fn is_unknown_key(error: &toml::de::Error) -> bool {
    error.message().starts_with("unknown field `")
}

fn shown(document: &Document, error: &toml::de::Error) -> Problem {
    let message = error.message();
    let message = if is_unknown_key(error) { unknown_key(message) } else { (without_value(message), None) };
    let problem = match error.span() {
        Some(span) => document.at(span, message.0),
        None => Problem::new(&document.name, message.0),
    };
    match message.1 {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// From "invalid type: string \"hunter2\", expected a map" to the same without the value, which may be a secret
/// under a wrong key. The parser's own words may span lines.
fn without_value(message: &str) -> String {
    let line = message.lines().collect::<Vec<_>>().join("; ");
    match line.split_once(", expected ") {
        Some((found, expected)) if found.starts_with("invalid ") => {
            let kind = found.split(['`', '"']).next().unwrap_or_default().trim_end();
            format!("{kind}, expected {expected}")
        }
        _ => line,
    }
}

/// From "unknown field `tabels`, expected one of `tables`, `url`" to a message and a hint.
pub fn unknown_key(message: &str) -> (String, Option<String>) {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let key = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.collect();
    let message = format!("unknown key `{key}`");
    match nearest(key, &known) {
        Some(near) => (message, Some(format!("did you mean `{near}`?"))),
        None if known.is_empty() => (message, None),
        None => (message, Some(format!("known here: {}", known.join(", ")))),
    }
}

/// The known key that a slip of the finger most likely meant.
pub fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '.'], "_");
    let key = plain(key);
    let distance = |name: &str| strsim::damerau_levenshtein(&key, &plain(name));
    let best = known.iter().min_by_key(|name| distance(name))?;
    (distance(best) <= key.chars().count().div_ceil(3)).then_some(*best)
}

/// Takes away the keys, and the tables, that lie at these places.
fn remove(table: &mut DeTable<'_>, places: &[Range<usize>]) {
    let gone = |(key, value): &(&Spanned<_>, &Spanned<DeValue<'_>>)| {
        places.contains(&key.span()) || places.contains(&value.span())
    };
    let gone: Vec<Spanned<_>> = table.iter().filter(gone).map(|(key, _)| key.clone()).collect();
    for key in &gone {
        table.remove(key);
    }
    for (_, value) in table.iter_mut() {
        match value.get_mut() {
            DeValue::Table(inner) => remove(inner, places),
            DeValue::Array(items) => {
                for item in items.iter_mut() {
                    if let DeValue::Table(inner) = item.get_mut() {
                        remove(inner, places);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<Problem> {
        read(&Document { name: "orders.toml".into(), text: text.into() }).unwrap_err()
    }

    #[test]
    fn an_unknown_key_is_answered_with_line_caret_and_nearest_key() {
        let text = "name = \"orders\"\n\n[source.postgres]\nurl = \"postgres://db/shop\"\ntabels = []\n";
        let problems = problems(text);
        assert_eq!(
            problems[0].to_string(),
            "orders.toml:5:1: unknown key `tabels`\n  5 | tabels = ...\n    | ^^^^^^\n  hint: did you mean `tables`?"
        );
    }

    #[test]
    fn every_unknown_key_is_named_at_once() {
        let text = "nam = \"orders\"\n[sink.stdout]\nstate_dri = \"x\"\n[sorce.postgres]\nurl = \"x\"\n";
        let problems = problems(text);
        let messages: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(messages, ["unknown key `nam`", "unknown key `state_dri`", "unknown key `sorce`"]);
        assert_eq!(problems[2].hint.as_deref(), Some("did you mean `source`?"));
    }

    #[test]
    fn what_is_missing_hides_no_unknown_key_behind_it() {
        let problems = problems("[source.postgres]\n[sink.stdout]\nstate_dri = \"x\"\n");
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn a_value_of_a_wrong_type_is_shown_at_its_place() {
        let problems = problems("name = 5\n");
        assert_eq!(problems[0].place, "orders.toml:1:8");
        assert_eq!(problems[0].message, "invalid type: integer, expected a string");
    }

    #[test]
    fn a_broken_file_is_shown_at_its_place() {
        let problems = problems("name = \"orders\nx = 1\n");
        assert!(problems[0].place.starts_with("orders.toml:1:"), "{}", problems[0]);
    }

    #[test]
    fn a_key_that_resembles_none_is_answered_with_all() {
        let (_, hint) = unknown_key("unknown field `zzz`, expected one of `url`, `tables`");
        assert_eq!(hint.as_deref(), Some("known here: url, tables"));
    }
}
