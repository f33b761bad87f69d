//! What `check` finds of the schemas that an outbox's events are to have. Changes nothing. Start at `schemas`.

use std::sync::Arc;

use millrace_core::encode::unusable;
use millrace_core::pattern::Pattern;
use millrace_core::progress::Progress;
use millrace_core::report::Report;
use millrace_core::route::rule::Schemas;
use millrace_core::sink::Registered;
use millrace_kafka::registry::Registry;

use super::Sink;
use crate::config::Connector;

/// Subjects that are looked at where rows choose them: a registry may have any number that are alike.
const SUBJECTS_MAX: usize = 100;

/// Nothing where the registry does not answer, which the sink's own side tells.
pub async fn schemas(connector: &Connector) -> Report {
    let mut report = Report::default();
    let outboxes = connector.format.routes.iter().filter_map(|route| route.outbox.as_ref());
    let asked: Vec<&Schemas> = outboxes.filter_map(|outbox| outbox.schemas.as_ref()).collect();
    let Sink::Kafka(_, Some(settings)) = &connector.sink else { return report };
    if asked.is_empty() {
        return report;
    }
    let Ok(registry) = Registry::new(settings.clone(), Arc::new(Progress::default())) else { return report };
    let Ok((_, subjects)) = registry.probe().await else { return report };
    for schemas in asked {
        for (subject, _) in &schemas.texts {
            report.pass(format!("subject {subject}"), "its text in the file can be read");
        }
        match schemas.subject.columns().next() {
            None => one(&registry, schemas, &mut report).await,
            Some(_) => alike(&registry, schemas, &subjects, &mut report).await,
        }
    }
    report
}

fn is_in_the_file(schemas: &Schemas, subject: &str) -> bool {
    schemas.texts.iter().any(|(name, _)| name == subject)
}

/// A subject that is the same for every event.
async fn one(registry: &Registry, schemas: &Schemas, report: &mut Report) {
    let subject = schemas.subject.fill([]);
    if schemas.derived || is_in_the_file(schemas, &subject) {
        return;
    }
    let name = format!("subject {subject}");
    match registry.latest(&subject, None).await {
        Ok(Some(found)) => newest(name, schemas, &found, report),
        Ok(None) => report.fail(
            name,
            "the registry knows no such subject: every event would be a reject",
            "register its schema, or name its text in [route.outbox.schemas]",
        ),
        Err(error) => report.fail(name, error.to_string(), error.hint_text().unwrap_or_default()),
    }
}

/// Subjects that rows may choose. One of another type may be somebody else's.
async fn alike(registry: &Registry, schemas: &Schemas, subjects: &[String], report: &mut Report) {
    let pattern = Pattern::new(schemas.subject.fill(schemas.subject.columns().map(|_| "*")));
    let fits = |subject: &&String| pattern.matches(subject) && !is_in_the_file(schemas, subject);
    let alike: Vec<&String> = subjects.iter().filter(fits).collect();
    for subject in alike.iter().take(SUBJECTS_MAX) {
        match registry.latest(subject, None).await {
            Ok(Some(found)) if found.of == schemas.of => {
                newest(format!("subject {subject}"), schemas, &found, report);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, subject, "a subject is not looked at"),
        }
    }
    if alike.is_empty() && schemas.texts.is_empty() && !schemas.derived {
        report.warn(
            format!("subjects {pattern}"),
            "the registry knows none: every event would be a reject",
            "register the schemas of the events, or name their texts in [route.outbox.schemas]",
        );
    }
}

fn newest(name: String, schemas: &Schemas, found: &Registered, report: &mut Report) {
    let hint = "correct it in the registry: an event that chooses it stops the connector";
    if found.of != schemas.of {
        report.fail(name, format!("is of type {}, and the route wants {}", found.of, schemas.of), hint);
        return;
    }
    match unusable(found.of, &found.text) {
        None => report.pass(name, format!("its newest schema, of id {}, can be read", found.id)),
        Some(why) => {
            report.fail(name, format!("its newest schema, of id {}, is unusable: {why}", found.id), hint)
        }
    }
}
