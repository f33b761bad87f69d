//! What the house asks of every file and neither compiler nor clippy checks. Reads the files that git
//! tracks; each rule is one test, and its failure says why the rule is there.
//! `Source` is a file with its comments and literals blanked out, so that words in them are not code.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

const LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const NAMES_REFUSED: [&str; 5] = ["utils", "common", "helpers", "types", "manager"];
const ASSERTIONS: [&str; 5] = ["assert", "expect", "unwrap", "panic", "check"];

#[test]
fn every_file_opens_with_what_it_is() {
    let found = sources().into_iter().filter(|file| !file.text.starts_with("//!"));
    assert_none(
        found.map(|file| file.path),
        "a reader starts at the top: open the file with //! and say what it is",
    );
}

#[test]
fn no_file_is_longer_than_six_hundred_lines_without_its_tests() {
    let long = code_sources().into_iter().filter_map(|file| {
        let lines = file.without_tests().lines().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines", file.path))
    });
    assert_none(long, "a file of more than 600 lines is two files: split it where its subject changes");
}

#[test]
fn no_function_is_longer_than_seventy_lines() {
    let mut long = Vec::new();
    for file in code_sources() {
        for function in functions(file.without_tests()) {
            let lines = function.text.lines().count();
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}: {lines} lines", function.place(&file)));
            }
        }
    }
    assert_none(long, "a function of more than 70 lines does several things: give each a name");
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    let mut named = Vec::new();
    for file in sources() {
        // Postgres itself calls them types, and that file is about nothing else.
        let excused = file.path == "sources/postgres/types.rs";
        let path = file.path.trim_end_matches(".rs");
        let by_path = path.split('/').any(|part| NAMES_REFUSED.contains(&part));
        let inline = NAMES_REFUSED.iter().any(|name| file.code.contains(&format!("mod {name} {{")));
        if (by_path && !excused) || inline {
            named.push(file.path);
        }
    }
    assert_none(
        named,
        "utils, common, helpers, types, manager collect what has no home: name the module by its subject",
    );
}

#[test]
fn only_the_configuration_reads_the_environment() {
    let allowed = ["connector/config", "connector/telemetry", "tests/"];
    let reads = ["env::var", "env::vars", "env::var_os", "env::vars_os"];
    let why = "what a connector does is decided by its file: read the environment in connector/config only";
    assert_none(lines_with(&reads, &allowed), why);
}

#[test]
fn only_the_outermost_functions_end_the_process() {
    let why = "an exit in the middle skips every commit and every destructor: return an error instead";
    assert_none(lines_with(&["process::exit"], &["connector/main.rs", "tests/xtask/"]), why);
}

#[test]
fn only_programs_that_talk_to_people_print() {
    let allowed =
        ["connector/cli", "connector/main.rs", "connector/core/encode_bench.rs", "sinks/stdout/", "tests/"];
    let why = "a daemon's words go through tracing, where they have a level and can be read by machines";
    assert_none(lines_with(&["print!", "println!", "eprint!", "eprintln!"], &allowed), why);
}

#[test]
fn every_channel_has_a_limit() {
    let channels = ["unbounded_channel", "mpsc::channel()"];
    assert_none(lines_with(&channels, &[]), "every queue has a limit (invariant 6): use a bounded channel");
}

#[test]
fn unsafe_code_stays_in_the_native_module_of_the_kafka_sink() {
    let why = "unsafe is for the calls of librdkafka that the wrapper makes slow, and for nothing else";
    assert_none(lines_with(&["unsafe"], &["sinks/kafka/native"]), why);
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    let places = ["root", "work", "home"].map(|place| format!("/{place}/"));
    let found = tracked().into_iter().filter_map(|path| {
        let text = read(&path)?;
        let line = text.lines().position(|line| places.iter().any(|place| line.contains(place)))?;
        Some(format!("{path}:{}", line + 1))
    });
    assert_none(found, "a fresh clone must work anywhere: no absolute path of somebody's machine");
}

#[test]
fn every_test_can_fail() {
    let mut empty = Vec::new();
    for file in sources() {
        for (function, attributes) in tests_in(&file.code) {
            let asserts = ASSERTIONS.iter().any(|word| function.text.contains(word));
            // One that another test runs as a process of its own proves nothing by itself, and says so.
            let excused = attributes.contains("should_panic") || attributes.contains("ignore");
            if !asserts && !excused {
                empty.push(function.place(&file));
            }
        }
    }
    assert_none(empty, "a test without an assertion passes whatever the code does");
}

#[test]
fn sources_sinks_and_core_do_not_know_each_other() {
    let (sources, sinks) = (packages("sources/"), packages("sinks/"));
    assert!(!sources.is_empty() && !sinks.is_empty(), "the Cargo.toml files of sources and sinks are found");
    let vendors: Vec<&Package> = sources.iter().chain(&sinks).collect();
    let mut arrows = Vec::new();
    for from in &vendors {
        let others = vendors.iter().filter(|to| to.name != from.name);
        arrows.extend(others.map(|to| (*from, to.name.clone())));
    }
    let core = packages("connector/core/");
    for from in &core {
        arrows.extend(vendors.iter().map(|to| (from, to.name.clone())));
    }
    let forbidden = arrows.into_iter().filter(|(from, to)| from.dependencies.contains(to));
    let why = "a source and a sink meet in the contract of connector/core only, and core knows no vendor";
    assert_none(forbidden.map(|(from, to)| format!("{} depends on {to}", from.name)), why);
}

/// Fails with all of them, and with the reason.
fn assert_none(found: impl IntoIterator<Item = String>, why: &str) {
    let mut list = String::new();
    let mut count = 0;
    for place in found {
        let _ = writeln!(list, "  {place}");
        count += 1;
    }
    assert!(count == 0, "{why}\n{list}");
}

struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// The code in front of the test module.
    fn without_tests(&self) -> &str {
        let mark = "#[cfg(test)]";
        let starts = self.code.match_indices(mark).map(|(at, _)| at);
        let is_module = |at: &usize| {
            let rest = self.code[at + mark.len()..].trim_start();
            rest.starts_with("mod ") && rest.find('{') < rest.find(';').or(Some(usize::MAX))
        };
        starts.filter(is_module).min().map_or(&self.code, |at| &self.code[..at])
    }
}

fn sources() -> Vec<Source> {
    let rust = tracked().into_iter().filter(|path| path.ends_with(".rs"));
    let found: Vec<Source> = rust
        .filter_map(|path| {
            let text = read(&path)?;
            let code = code_of(&text);
            Some(Source { path, text, code })
        })
        .collect();
    assert!(!found.is_empty(), "git tracks Rust files");
    found
}

/// Without the files that hold nothing but tests.
fn code_sources() -> Vec<Source> {
    let of_tests = |path: &str| path.ends_with("/tests.rs") || path.contains("/tests/") || path == file!();
    sources().into_iter().filter(|file| !of_tests(&file.path)).collect()
}

fn tracked() -> Vec<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let list = Command::new("git").args(["-C", root, "ls-files", "-z"]).output().expect("git runs");
    assert!(list.status.success(), "git ls-files: {}", String::from_utf8_lossy(&list.stderr));
    let names = String::from_utf8(list.stdout).expect("names in UTF-8");
    names.split_terminator('\0').map(str::to_owned).collect()
}

/// None for a file that is deleted but not yet committed so, or is no text.
fn read(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// Lines of code outside `allowed` that hold one of the names as whole words.
fn lines_with(names: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in sources() {
        if allowed.iter().any(|prefix| file.path.starts_with(prefix)) {
            continue;
        }
        for (number, line) in file.code.lines().enumerate() {
            if names.iter().any(|name| has_word(line, name)) {
                found.push(format!("{}:{}", file.path, number + 1));
            }
        }
    }
    found
}

fn has_word(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let joined = |c: char| c.is_alphanumeric() || c == '_';
        !line[..at].ends_with(joined) && !line[at + name.len()..].starts_with(joined)
    })
}

struct Function<'a> {
    name: &'a str,
    line: usize,
    text: &'a str,
    start: usize,
}

impl Function<'_> {
    fn place(&self, file: &Source) -> String {
        format!("{}:{} fn {}", file.path, self.line, self.name)
    }
}

/// Every function with a body, from `fn` to its closing brace.
fn functions(code: &str) -> Vec<Function<'_>> {
    let words = words(code);
    let pairs = words.windows(2).filter_map(|pair| match pair {
        [(start, "fn"), (at, name)] if code[start + 2..*at].trim().is_empty() => Some((*start, *name)),
        _ => None,
    });
    pairs
        .filter_map(|(start, name)| {
            let end = end_of_body(&code[start..])?;
            let line = code[..start].matches('\n').count() + 1;
            Some(Function { name, line, text: &code[start..start + end], start })
        })
        .collect()
}

/// Where the body of the function that starts here ends; none when it has no body.
fn end_of_body(code: &str) -> Option<usize> {
    let (mut inside, mut braces) = (0_i32, 0_i32);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => inside += 1,
            ')' | ']' => inside -= 1,
            ';' if inside == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' if braces == 1 => return Some(at + 1),
            '}' => braces -= 1,
            _ => {}
        }
    }
    None
}

/// Functions that carry a test attribute, with their attributes.
fn tests_in(code: &str) -> Vec<(Function<'_>, &str)> {
    functions(code)
        .into_iter()
        .filter_map(|function| {
            let above = &code[..function.start];
            let attributes = &above[above.rfind(['}', ';', '{']).map_or(0, |at| at + 1)..];
            let is_test = ["#[test]", "#[tokio::test"].iter().any(|mark| attributes.contains(mark));
            is_test.then_some((function, attributes))
        })
        .collect()
}

fn words(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut start = None;
    for (at, c) in code.char_indices().chain([(code.len(), ' ')]) {
        match (start, c.is_alphanumeric() || c == '_') {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                found.push((from, &code[from..at]));
                start = None;
            }
            _ => {}
        }
    }
    found
}

/// The text with comments and the insides of literals turned into blanks; every line stays where it is.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let blank = blank_length(rest, code.chars().next_back());
        if blank == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            let (skipped, next) = rest.split_at(blank);
            code.extend(skipped.chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = next;
        }
    }
    code
}

/// How many bytes from here on are a comment or a literal.
fn blank_length(rest: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    if rest.starts_with('"') {
        return quoted_length(rest);
    }
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'));
    if let (Some(raw), false) = (raw, in_word) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = rest.len() - raw.len() + hashes + 1;
            return rest[open..].find(&close).map_or(rest.len(), |at| open + at + close.len());
        }
    }
    if rest.starts_with('\'') { character_length(rest) } else { 0 }
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn quoted_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character, unless it is a lifetime.
fn character_length(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1)
        }
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

struct Package {
    name: String,
    dependencies: Vec<String>,
}

/// The packages below a directory, with all that they depend on, tests and builds included.
fn packages(prefix: &str) -> Vec<Package> {
    let manifests =
        tracked().into_iter().filter(|path| path.starts_with(prefix) && path.ends_with("/Cargo.toml"));
    let parsed = manifests.filter_map(|path| read(&path)?.parse::<toml::Table>().ok());
    parsed
        .filter_map(|manifest| {
            let name = manifest.get("package")?.get("name")?.as_str()?.to_owned();
            let mut dependencies = Vec::new();
            collect_dependencies(&manifest, &mut dependencies);
            Some(Package { name, dependencies })
        })
        .collect()
}

fn collect_dependencies(table: &toml::Table, found: &mut Vec<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else {
            continue;
        };
        if key.ends_with("dependencies") {
            found.extend(inner.keys().cloned());
        } else {
            // `[target.'cfg(...)'.dependencies]` lies two tables deeper.
            collect_dependencies(inner, found);
        }
    }
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = "let a = \"fn {\"; // fn b() {\nlet c = '{'; /* { /* } */ */ let d: &'static str = r#\"}\"#;";
    let code = code_of(text);
    assert_eq!(code.lines().count(), 2);
    assert_eq!(code.split_whitespace().collect::<String>(), "leta=;letc=;letd:&'staticstr=;");
}

#[test]
fn a_function_is_measured_from_its_name_to_its_closing_brace() {
    let code = "trait A { fn assert_none(x: [u8; 4]) -> u8; }\n\nfn outer() {\n    if x { y }\n}\n";
    let found = functions(code);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name, found[0].line, found[0].text.lines().count()), ("outer", 3, 3));
}

#[test]
fn a_test_without_an_assertion_is_seen() {
    let code = "#[test]\nfn idle() { run(); }\n#[tokio::test]\nasync fn busy() { assert!(true); }\n";
    let found = tests_in(code);
    assert_eq!(found.len(), 2);
    assert!(!found[0].0.text.contains("assert") && found[1].0.text.contains("assert"));
}
