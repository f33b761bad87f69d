//! `millrace check`: proves every precondition of one connector, as a table of what passes, what fails and
//! what to type.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use millrace_core::encode::{Encoding, Envelope, Format};
use millrace_core::error::{Error, Result};
use millrace_core::report::{Report, Verdict};
use millrace_core::route::rule::TopicRule;

use super::{EXIT_CONFIG, refuse};
use crate::config::{self, Connector};
use crate::registry::{self, Destination};

/// Longer than both ends need when they answer at all.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn check(file: PathBuf) -> u8 {
    let loaded = match config::load(&[file], &config::Environment::of_process()) {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(&problems),
    };
    let mut passed = true;
    for connector in &loaded.connectors {
        println!("{} ({})", connector.name, connector.file);
        let sides = tokio::time::timeout(PATIENCE, registry::check(connector)).await;
        let sides = sides.map(Vec::from).unwrap_or_else(|_| {
            let waited = Error::transient(format!("no answer within {} s", PATIENCE.as_secs()));
            vec![("check", Err(waited.hint("look whether both ends answer at all")))]
        });
        let fit = tokio::time::timeout(PATIENCE, registry::fit(connector)).await;
        let schemas = tokio::time::timeout(PATIENCE, registry::schemas(connector)).await;
        let more = [
            ("schemas", Ok(schemas.unwrap_or_default())),
            ("columns", fit.unwrap_or_else(|_| Ok(Report::default()))),
            ("route", Ok(routes(connector))),
            ("format", Ok(flat(connector))),
            ("rights on kafka", Ok(rights(connector))),
        ];
        for (side, report) in sides.into_iter().chain(more) {
            let report = completed(report);
            if report.findings.is_empty() {
                continue;
            }
            passed &= !report.failed();
            print!("{}", table(side, &report));
        }
    }
    if passed { 0 } else { EXIT_CONFIG }
}

/// What the file alone tells of its routes.
fn routes(connector: &Connector) -> Report {
    let mut report = Report::default();
    for route in connector.format.routes.iter().filter(|route| route.outbox.is_some()) {
        let own = route.topic.iter().flat_map(TopicRule::topics);
        for topic in own.chain(route.copies.iter().map(String::as_str)) {
            if registry::declares_compacted(connector, topic) {
                report.warn(
                    format!("topic {topic}"),
                    "is compacted: of a key's events only the last is kept for good",
                    format!("set \"cleanup.policy\" = \"delete\" in [sink.kafka.topics.\"{topic}\"], unless that is meant"),
                );
            }
        }
    }
    report
}

/// What can be had of documents whose schemas are made of them.
fn flat(connector: &Connector) -> Report {
    let mut report = Report::default();
    let is_flat = |format: &Format| format.envelope == Envelope::Flat && format.encoding == Encoding::Avro;
    if connector.source.has_documents() && connector.format.is_somewhere(is_flat) {
        report.warn(
            "flat documents",
            "in Avro each shape of a document is a new schema of its topic's subject: a field that comes and goes is \
             taken by the level BACKWARD, one that changes its type by NONE alone",
            "set compatibility = { \"<topic>-value\" = \"NONE\" } in [format], or encoding = \"json\", where any \
             document goes",
        );
    }
    report
}

/// What the connector's user needs where brokers deny by default.
fn rights(connector: &Connector) -> Report {
    let format = &connector.format;
    let exact = |name: &str| Destination { name: name.to_owned(), is_prefix: false };
    let from = |prefix: &str| Destination { name: prefix.to_owned(), is_prefix: true };
    let mut wanted = BTreeSet::new();
    for route in &format.routes {
        wanted.extend(route.copies.iter().map(|name| exact(name)));
        match &route.topic {
            Some(rule @ (TopicRule::Fixed(_) | TopicRule::Map { .. })) => {
                wanted.extend(rule.topics().into_iter().map(exact));
            }
            Some(TopicRule::Template(_) | TopicRule::Replace { .. }) | None => {
                wanted.extend(route.allow.iter().map(|pattern| match pattern.text().split_once('*') {
                    None => exact(pattern.text()),
                    Some((prefix, _)) => from(prefix),
                }));
            }
        }
    }
    if format.has_dead_letters() {
        wanted.insert(exact(&format.dead_letters));
    }
    if connector.source.has_topics_of_its_own(format) {
        wanted.insert(from(&format!("{}.", format.topic_prefix)));
    }
    let mut report = Report::default();
    for (subject, command) in registry::rights(connector, &Vec::from_iter(wanted)) {
        report.pass(subject, command);
    }
    report
}

/// A check that could not be finished is one that failed.
fn completed(report: Result<Report>) -> Report {
    report.unwrap_or_else(|error| {
        let mut report = Report::default();
        let hint = error.hint_text().unwrap_or("mend this first, then check again").to_owned();
        report.fail("check", error.to_string(), hint);
        report
    })
}

pub fn table(side: &str, report: &Report) -> String {
    let width = report.findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
    let mut out = format!("  [{side}]\n");
    for finding in &report.findings {
        let verdict = match finding.verdict {
            Verdict::Pass => "pass",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {verdict}  {:width$}  {}", finding.subject, finding.detail);
        if let Some(hint) = finding.hint.as_deref().filter(|hint| !hint.is_empty()) {
            for line in hint.lines() {
                let _ = writeln!(out, "        -> {line}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_passes_what_fails_and_what_to_type() {
        let mut report = Report::default();
        report.pass("wal_level", "logical");
        report.fail("table public.orders", "is missing", "create it");
        assert_eq!(
            table("source.postgres", &report),
            "  [source.postgres]\n  pass  wal_level            logical\n  FAIL  table public.orders  is missing\n        -> create it\n"
        );
    }

    #[test]
    fn a_check_that_could_not_be_finished_fails() {
        assert!(completed(Err(Error::transient("cannot reach db:5432"))).failed());
    }
}
