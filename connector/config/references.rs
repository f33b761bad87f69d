//! `${env:NAME}` and `${file:/path}` in values, put in after parsing: what a secret holds can never change
//! the shape of the file. `$${` stands for `${`.

use std::io::Read;

use config::{Value, ValueKind};

use super::environment::Environment;

/// A secret is a password, a token or a certificate chain, not a disk.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Replaces the references of every string below `value`; gives each that could not be as key and message.
pub fn resolve(value: &mut Value, environment: &Environment) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    walk(value, "", environment, &mut problems);
    problems
}

fn walk(value: &mut Value, key: &str, environment: &Environment, problems: &mut Vec<(String, String)>) {
    let dot = if key.is_empty() { "" } else { "." };
    match &mut value.kind {
        ValueKind::String(text) => match substitute(text, environment) {
            Ok(whole) => *text = whole,
            Err(messages) => problems.extend(messages.into_iter().map(|message| (key.to_owned(), message))),
        },
        ValueKind::Table(table) => {
            let mut entries: Vec<_> = table.iter_mut().collect();
            entries.sort_by_key(|(name, _)| name.as_str());
            for (name, inner) in entries {
                walk(inner, &format!("{key}{dot}{name}"), environment, problems);
            }
        }
        ValueKind::Array(items) => {
            for inner in items {
                walk(inner, key, environment, problems);
            }
        }
        _ => {}
    }
}

fn substitute(text: &str, environment: &Environment) -> Result<String, Vec<String>> {
    let mut out = String::with_capacity(text.len());
    let mut problems = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = reference.strip_prefix("${").unwrap_or_default();
            continue;
        }
        out.push_str(before);
        let Some((inner, after)) = reference.strip_prefix("${").and_then(|inner| inner.split_once('}'))
        else {
            problems.push("a `${` has no `}`; write `$${` for the characters themselves".to_owned());
            return Err(problems);
        };
        match fetch(inner, environment) {
            Ok(value) => out.push_str(&value),
            Err(problem) => problems.push(problem),
        }
        rest = after;
    }
    out.push_str(rest);
    if problems.is_empty() { Ok(out) } else { Err(problems) }
}

fn fetch(reference: &str, environment: &Environment) -> Result<String, String> {
    match reference.split_once(':') {
        Some(("env", name)) => environment
            .get(name)
            .map(str::to_owned)
            .ok_or_else(|| format!("environment variable {name} is not set")),
        Some(("file", path)) => read(path).map_err(|error| format!("cannot read file {path}: {error}")),
        _ => Err("a reference is ${env:NAME} or ${file:/path}; write `$${` for the characters themselves"
            .to_owned()),
    }
}

/// Editors and `echo` end a file with a line break that is not part of the secret.
fn read(path: &str) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    let trimmed = text.strip_suffix('\n').unwrap_or(&text);
    Ok(trimmed.strip_suffix('\r').unwrap_or(trimmed).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Result<String, Vec<String>> {
        substitute(text, &Environment::of(&[("USER", "shop"), ("TRICKY", "a\" = ${env:USER}")]))
    }

    #[test]
    fn a_variable_is_put_in_inside_a_value() {
        assert_eq!(resolved("postgres://${env:USER}@db/${env:USER}").unwrap(), "postgres://shop@db/shop");
    }

    #[test]
    fn what_a_variable_holds_is_never_read_as_a_reference() {
        assert_eq!(resolved("${env:TRICKY}").unwrap(), "a\" = ${env:USER}");
    }

    #[test]
    fn a_file_loses_its_last_line_break_and_no_other() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "se cret\n\n").unwrap();
        assert_eq!(resolved(&format!("${{file:{}}}", file.path().display())).unwrap(), "se cret\n");
    }

    #[test]
    fn a_missing_file_and_a_missing_variable_are_both_named() {
        let problems = resolved("${file:/nowhere/pw}${env:NOPE}").unwrap_err();
        assert!(problems[0].starts_with("cannot read file /nowhere/pw: "), "{problems:?}");
        assert_eq!(problems[1], "environment variable NOPE is not set");
    }

    #[test]
    fn an_escaped_reference_is_text() {
        assert_eq!(resolved("$${env:USER}").unwrap(), "${env:USER}");
    }

    #[test]
    fn an_unknown_reference_is_refused() {
        assert!(resolved("${vault:x}").is_err());
        assert!(resolved("${env:USER").is_err());
    }
}
