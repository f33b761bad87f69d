//! Files and folders to connectors, with every problem of all of them at once.

use std::fs;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError};

use super::document::{Document, Problem};
use super::environment::Environment;
use super::settings::{self, Connector, Found, Problems, Rest};
use super::{debezium, fingerprint, raw, references, shown, strict, traces};
use crate::telemetry::traces::Settings as Traces;

/// What the daemon is to run.
#[derive(Debug)]
pub struct Loaded {
    pub connectors: Vec<Connector>,
    pub rest: Rest,
    /// `None`: nobody wants spans.
    pub traces: Option<Traces>,
}

/// What a file says of the daemon, with its name.
#[derive(Default)]
struct OfDaemon {
    rest: Option<(String, Rest)>,
    traces: Option<(String, Traces)>,
}

type ReadFile = (Connector, OfDaemon);

/// Reads every file, and every `*.toml` and `*.json` of every folder, in order.
pub fn load(paths: &[PathBuf], environment: &Environment) -> Result<Loaded, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut connectors: Vec<Connector> = Vec::new();
    let mut of_daemon = OfDaemon::default();
    for file in files(paths, &mut problems) {
        let (connector, its) = match read(&file, environment) {
            Ok(read) => read,
            Err(more) => {
                problems.extend(more);
                continue;
            }
        };
        agree("rest", &mut of_daemon.rest, its.rest, &mut problems);
        agree("traces", &mut of_daemon.traces, its.traces, &mut problems);
        // Names of slots and publications have no hyphen, so `a-b` and `a_b` would share theirs.
        let slot_name = |connector: &Connector| connector.name.replace('-', "_");
        match connectors.iter().find(|known| slot_name(known) == slot_name(&connector)) {
            Some(known) if known.name != connector.name => problems.push(
                Problem::new(
                    &connector.file,
                    format!(
                        "name: {:?} and {:?} in {} differ only in - and _",
                        connector.name, known.name, known.file
                    ),
                )
                .hint("their slots and publications would have one name: change more of one of the two"),
            ),
            Some(known) => problems.push(
                Problem::new(
                    &connector.file,
                    format!("name: {:?} is taken by {}", connector.name, known.file),
                )
                .hint("two connectors of one name would shut each other out of slot and transactions"),
            ),
            None => connectors.push(connector),
        }
    }
    let traces = match of_daemon.traces {
        Some((_, traces)) => Some(traces),
        None => traces::of_environment(environment),
    };
    if problems.is_empty() {
        Ok(Loaded { connectors, rest: of_daemon.rest.map(|(_, rest)| rest).unwrap_or_default(), traces })
    } else {
        Err(problems)
    }
}

/// A section of the daemon's own may stand in one file, or say the same in all.
fn agree<T: PartialEq>(
    section: &str,
    known: &mut Option<(String, T)>,
    found: Option<(String, T)>,
    problems: &mut Vec<Problem>,
) {
    match (&*known, found) {
        (Some((first, one)), Some((second, other))) if *one != other => problems.push(
            Problem::new(second, format!("{section}: differs from [{section}] in {first}; a daemon has one"))
                .hint("keep it in one file only"),
        ),
        (None, found) => *known = found,
        _ => {}
    }
}

fn files(paths: &[PathBuf], problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        match in_folder(path) {
            Ok(found) if found.is_empty() => {
                problems.push(Problem::new(
                    path.display().to_string(),
                    "no *.toml or *.json file in this folder",
                ));
            }
            Ok(found) => files.extend(found),
            Err(error) => {
                problems.push(Problem::new(path.display().to_string(), format!("cannot be read: {error}")));
            }
        }
    }
    files
}

fn in_folder(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "toml" || ext == "json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path, environment: &Environment) -> Result<ReadFile, Vec<Problem>> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path)
        .map_err(|error| vec![Problem::new(&name, format!("cannot be read: {error}"))])?;
    let document = Document { name, text };
    match path.extension().is_some_and(|ext| ext == "json") {
        true => of_connect(&document, environment),
        false => parse(&document, environment),
    }
}

/// A connector's properties as Kafka Connect takes them.
fn of_connect(document: &Document, environment: &Environment) -> Result<ReadFile, Vec<Problem>> {
    let translated = debezium::translate(document)?;
    let (mut connector, of_daemon) = parse_as(&translated.document, environment, &|found: Found| {
        translated.told(&found.key, found.message, found.hint)
    })?;
    connector.shown = translated.shown;
    Ok((connector, of_daemon))
}

/// One file's text to its settings.
fn parse(document: &Document, environment: &Environment) -> Result<ReadFile, Vec<Problem>> {
    parse_as(document, environment, &|found: Found| Problem {
        place: document.place_of(&found.key),
        message: found.message,
        excerpt: None,
        hint: found.hint,
    })
}

/// `told` gives what is wrong with a key its place.
fn parse_as(
    document: &Document,
    environment: &Environment,
    told: &dyn Fn(Found) -> Problem,
) -> Result<ReadFile, Vec<Problem>> {
    strict::read(document)?;
    let merged = environment.lay_over(document).map_err(|error| vec![overlaid(document, &error)])?;
    let shown = shown::flatten(&merged.cache);
    let (raw, [fingerprint, of_traces]) = with_references(document, merged, environment)?;

    let mut problems = Problems::default();
    let rest = settings::rest(&raw.rest, &mut problems);
    let traces = raw.traces.as_ref();
    let traces = traces.and_then(|raw| traces::resolve(raw, of_traces, environment, &mut problems));
    let of_daemon = OfDaemon {
        rest: rest.map(|rest| (document.name.clone(), rest)),
        traces: traces.map(|traces| (document.name.clone(), traces)),
    };
    match settings::resolve(raw, &document.name, shown, &mut problems) {
        Some(connector) if problems.found.is_empty() => {
            Ok((Connector { fingerprint, ..connector }, of_daemon))
        }
        _ => Err(problems.found.into_iter().map(told).collect()),
    }
}

/// The merged tree, read once as it stands, for errors that may be shown whole, and once with its secrets
/// in, where an error names its key and nothing else; with the fingerprints of the latter and of its `[traces]`.
fn with_references(
    document: &Document,
    mut merged: Config,
    environment: &Environment,
) -> Result<(raw::File, [u64; 2]), Vec<Problem>> {
    merged.clone().try_deserialize::<raw::File>().map_err(|error| vec![overlaid(document, &error)])?;
    let missing = references::resolve(&mut merged.cache, environment);
    if !missing.is_empty() {
        return Err(missing.into_iter().map(|(key, message)| unresolved(document, &key, &message)).collect());
    }
    let fingerprints = [fingerprint::of(&merged.cache), fingerprint::of_section(&merged.cache, "traces")];
    let raw = merged.try_deserialize::<raw::File>().map_err(|error| {
        let key = key_of(&error).unwrap_or_default();
        vec![unresolved(document, &key, "does not fit once its references are put in")]
    })?;
    Ok((raw, fingerprints))
}

fn unresolved(document: &Document, key: &str, message: &str) -> Problem {
    Problem::new(document.place_of(key), format!("{key}: {message}"))
}

/// The file alone was read strictly before, so what is wrong now came with the environment.
fn overlaid(document: &Document, error: &ConfigError) -> Problem {
    let text = error.to_string();
    let place = format!("{} with the MILLRACE__ variables", document.name);
    if let Some(start) = text.find("unknown field `") {
        let (message, hint) = strict::unknown_key(&text[start..]);
        let problem = Problem::new(place, message);
        return match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        };
    }
    // The value itself is not shown: it may be a secret under a wrong name.
    match error {
        ConfigError::Type { key: Some(key), expected, .. } => {
            Problem::new(place, format!("{key}: must be {expected}"))
        }
        _ => Problem::new(place, key_of(error).map_or(text, |key| format!("{key}: does not fit"))),
    }
}

fn key_of(error: &ConfigError) -> Option<String> {
    match error {
        ConfigError::Type { key, .. } => key.clone(),
        ConfigError::At { key, error, .. } => key.clone().or_else(|| key_of(error)),
        _ => None,
    }
}

/// A file's text, as tests write it.
#[cfg(test)]
pub fn parse_text(text: &str, environment: &Environment) -> Result<Connector, Vec<Problem>> {
    let document = Document { name: "orders.toml".to_owned(), text: text.to_owned() };
    parse(&document, environment).map(|(connector, _)| connector)
}

/// A file of Kafka Connect's.
#[cfg(test)]
pub fn parse_json(text: &str, environment: &Environment) -> Result<Connector, Vec<Problem>> {
    let document = Document { name: "shop.json".to_owned(), text: text.to_owned() };
    of_connect(&document, environment).map(|(connector, _)| connector)
}
