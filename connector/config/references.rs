//! `${env:NAME}` and `${file:/path}` in values, put in after parsing: what a secret holds can never change
//! the shape of the file. `$${` stands for `${`. Kafka Connect's `${file:/path:property}` and
//! `${directory:/path:name}` are known too.

use config::{Value, ValueKind};
use millrace_core::secret::{FileRef, MARK, Part, marked};
use secrecy::ExposeSecret;

use super::environment::Environment;

/// Keys of a login: their files are read again for each connection, so that they may change while the daemon
/// runs. A `*` stands for any ending. Everything else is read once: a salt or a topic that changed under a
/// connector would change its records.
const LOGINS: [&str; 10] = [
    "source.postgres.url",
    "source.postgres.password",
    "source.mongodb.url",
    "source.mongodb.password",
    "format.registry_password",
    "format.registry_token",
    "sink.kafka.sasl.*",
    "sink.kafka.tls.key_password",
    "sink.kafka.client.*",
    "traces.headers.*",
];

fn is_login(key: &str) -> bool {
    LOGINS.iter().any(|login| match login.strip_suffix('*') {
        Some(start) => key.starts_with(start),
        None => key == *login,
    })
}

/// Replaces the references of every string below `value`; gives each that could not be as key and message.
pub fn resolve(value: &mut Value, environment: &Environment) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    walk(value, "", environment, &mut problems);
    problems
}

fn walk(value: &mut Value, key: &str, environment: &Environment, problems: &mut Vec<(String, String)>) {
    let dot = if key.is_empty() { "" } else { "." };
    match &mut value.kind {
        ValueKind::String(text) => match substitute(text, environment, is_login(key)) {
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

/// `keeps_files`: they are found to be readable, and stay what they are.
fn substitute(text: &str, environment: &Environment, keeps_files: bool) -> Result<String, Vec<String>> {
    let (mut whole, mut parts, mut problems) = (String::new(), Vec::new(), Vec::new());
    for part in parts_of(text, environment)? {
        match &part {
            Ok(Part::Text(text)) => whole += text.expose_secret(),
            Ok(Part::File(file)) => match file.read() {
                Ok(text) => whole += &text,
                Err(problem) => problems.push(problem),
            },
            Err(problem) => problems.push(problem.clone()),
        }
        parts.extend(part);
    }
    if keeps_files && whole.contains(MARK) {
        problems.push("holds the control character U+0001, which no login can".to_owned());
    }
    match problems.is_empty() {
        true if keeps_files => Ok(marked(&parts)),
        true => Ok(whole),
        false => Err(problems),
    }
}

/// Text and what is referred to in it, in order.
fn parts_of(text: &str, environment: &Environment) -> Result<Vec<Result<Part, String>>, Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            parts.push(Ok(Part::Text(format!("{before}${{").into())));
            rest = reference.strip_prefix("${").unwrap_or_default();
            continue;
        }
        parts.push(Ok(Part::Text(before.into())));
        let Some((inner, after)) = reference.strip_prefix("${").and_then(|inner| inner.split_once('}'))
        else {
            return Err(vec!["a `${` has no `}`; write `$${` for the characters themselves".to_owned()]);
        };
        parts.push(referred(inner, environment));
        rest = after;
    }
    parts.push(Ok(Part::Text(rest.into())));
    Ok(parts)
}

fn referred(reference: &str, environment: &Environment) -> Result<Part, String> {
    let directory = |place: &str| place.rsplit_once(':').map(|(path, name)| format!("{path}/{name}"));
    match reference.split_once(':') {
        Some(("env", name)) => environment
            .get(name)
            .map(|value| Part::Text(value.into()))
            .ok_or_else(|| format!("environment variable {name} is not set")),
        Some(("file", place)) => Ok(Part::File(FileRef::parse(place))),
        Some(("directory", place)) if place.contains(':') => {
            Ok(Part::File(FileRef::parse(&directory(place).unwrap_or_default())))
        }
        _ => Err("a reference is ${env:NAME} or ${file:/path}; write `$${` for the characters themselves"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::secret::Secret;

    use super::*;

    fn resolved(text: &str) -> Result<String, Vec<String>> {
        substitute(text, &environment(), false)
    }

    fn environment() -> Environment {
        Environment::of(&[("USER", "shop"), ("TRICKY", "a\" = ${env:USER}"), ("DOLLAR", "$")])
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
    fn a_login_keeps_its_files_and_everything_else_is_read_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old\n").unwrap();
        let text = format!("${{env:DOLLAR}}${{file:{}}}$${{x", file.path().display());
        let login =
            Secret::of_marked(&substitute(&text, &environment(), is_login("sink.kafka.client.a")).unwrap());
        let once = substitute(&text, &environment(), is_login("format.hash_salt")).unwrap();
        std::fs::write(file.path(), "new\n").unwrap();
        assert_eq!(login.read().unwrap().expose_secret(), "$new${x");
        assert_eq!(once, "$old${x");
    }

    #[test]
    fn files_as_kafka_connect_refers_to_them_are_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.properties"), "user=me\npw=se=cret\n").unwrap();
        std::fs::write(folder.path().join("pw"), "hush\n").unwrap();
        let at = folder.path().display();
        let text = format!("${{file:{at}/a.properties:pw}} ${{directory:{at}:pw}}");
        assert_eq!(resolved(&text).unwrap(), "se=cret hush");
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
