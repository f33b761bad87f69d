//! Proves from a connector's own topics what they can prove: start at `audit`.
//!
//! Every record carries where its change lies in the source's log and which of the change's records it is.
//! So a record that is there twice, one that is out of order, a key in the wrong partition and a change of
//! which only some records are there can all be proved. A change of which no record is there leaves no trace:
//! that nothing is missing between two changes is *not* proved by any header, and the report says so. What
//! takes away from a topic (retention, compaction, foreign records) makes it a topic that proves nothing.

mod decode;
mod judge;
pub(crate) mod reading;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_core::encode::{Dialect, Format};
use millrace_core::error::{Error, Result};
use millrace_core::progress::Progress;
use millrace_core::report::Report;
use millrace_core::sink::SchemaType;

use crate::config::Settings;
use crate::registry::{self, Registry};
use decode::{Decoder, Op, Unreadable};
use judge::{At, Judge, Violation};
use reading::{Place, Scope, Sighted};

/// What one pass saw.
#[derive(Debug, Default)]
struct Pass {
    records: u64,
    changes: u64,
    violation: Option<Violation>,
    /// Of each kind the first, and how many.
    foreign: Option<(At, &'static str, u64)>,
    schemaless: Option<(At, u32, u64)>,
    /// Values of events that were read by their registered schemas, and the topics whose events go by such.
    events: u64,
    by_schema: HashMap<Arc<str>, bool>,
    /// Values that this connector's key has signed, the first one that it has not, and the first without a
    /// signature.
    signed: u64,
    forged: Option<(At, u64)>,
    unsigned: Option<(At, u64)>,
    /// The registry could not be asked.
    failed: Option<Error>,
}

/// Fails where the topics cannot be read. A finding that fails is a violation; one that warns is something that
/// keeps the topics from proving what they should.
pub async fn audit(
    settings: &Settings,
    registry: Option<&registry::Settings>,
    format: &Format,
) -> Result<Report> {
    let mut report = Report::default();
    if format.dialect == Dialect::Debezium {
        report.warn(
            "positions",
            "records of the debezium dialect carry no position, so nothing can be proved from them",
            "only the millrace dialect (the default of [format]) can be audited",
        );
        return Ok(report);
    }
    let registry = match registry {
        Some(settings) => Some(Registry::new(settings.clone(), Arc::new(Progress::default()))?),
        None => None,
    };
    let (mut pass, scopes) = pass(settings, registry, format).await?;
    if let Some(error) = pass.failed.take() {
        return Err(error);
    }
    scope(&mut report, &scopes);
    strangers(&mut report, &pass);
    if pass.events > 0 {
        report.pass("events", format!("{} values, each read whole by the schema of its id", pass.events));
    }
    if format.signature.is_some() {
        signatures(&mut report, &pass);
    }
    let violation = match pass.violation.take() {
        Some(Violation::Disordered(before, at, place)) => {
            let twin = twin(settings, format, place, at.clone()).await?;
            Some(match twin {
                Some(twin) => Violation::Double(twin, at),
                None => Violation::Disordered(before, at, place),
            })
        }
        violation => violation,
    };
    let seen = format!("{} records of {} changes", pass.records, pass.changes);
    match violation {
        Some(violation) => report.fail(
            "records",
            format!("{violation} (the first violation, after {seen})"),
            "keep the topics as they are, and compare the rows of these changes with their table",
        ),
        None if pass.records == 0 => {
            report.warn("records", "there is no record to prove anything by", "audit after the first change");
        }
        None if scopes.iter().any(Scope::is_thinned) => report.pass(
            "records",
            format!(
                "{seen}: none twice, in order in each partition and for each key; whether a change is there in \
                 part cannot be told where records were taken away"
            ),
        ),
        None => report.pass(
            "records",
            format!(
                "{seen}: none twice, in order in each partition and for each key, no change in part; \
                 a change without any record leaves no trace here"
            ),
        ),
    }
    Ok(report)
}

async fn pass(
    settings: &Settings,
    registry: Option<Registry>,
    format: &Format,
) -> Result<(Pass, Vec<Scope>)> {
    let seen = Arc::new(Mutex::new(Pass::default()));
    let scopes = {
        let (seen, runtime) = (seen.clone(), tokio::runtime::Handle::current());
        let mut judge = Judge::new(format.tombstones, !format.spreads());
        let mut decoder = Decoder::new(format, registry, runtime);
        let of = format.clone();
        let with = move |next: Option<Sighted>| {
            let mut pass = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let flow = match next {
                Some(sighted) => pass.take(&sighted, &of, &mut decoder, &mut judge),
                None => {
                    pass.violation = judge.end();
                    ControlFlow::Break(())
                }
            };
            (pass.records, pass.changes) = (judge.records, judge.changes);
            flow
        };
        reading::records(settings, format, with).await?
    };
    let pass = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((pass, scopes))
}

impl Pass {
    fn take(
        &mut self,
        sighted: &Sighted,
        format: &Format,
        decoder: &mut Decoder,
        judge: &mut Judge,
    ) -> ControlFlow<()> {
        let at = || At::of(sighted);
        // Letters hold what is no event.
        if *sighted.topic == *format.dead_letters {
            return ControlFlow::Continue(());
        }
        self.verify(sighted, format);
        // A copy says once more what its original says.
        if format.routes.iter().flat_map(|route| &route.copies).any(|copy| *copy == *sighted.topic) {
            return ControlFlow::Continue(());
        }
        let Some(place) = sighted.place else {
            let (_, _, count) = self.foreign.get_or_insert_with(|| (at(), "it has no position", 0));
            *count += 1;
            return ControlFlow::Continue(());
        };
        let is_event = sighted.is_event && format.routes.iter().any(|route| route.outbox.is_some());
        let op = match (is_event, &sighted.value) {
            (false, value) => decoder.op(sighted.key.as_deref(), value.as_deref()),
            (true, Some(value)) if self.is_by_schema(&sighted.topic, format) => {
                let read = decoder.event(value);
                self.events += u64::from(matches!(read, Ok(Ok(_))));
                read
            }
            // What services write without a schema is theirs to read.
            (true, _) => Ok(Ok(Op::Other)),
        };
        match op {
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
            Ok(Err(Unreadable::SchemaMissing(id))) => {
                let (_, _, count) = self.schemaless.get_or_insert_with(|| (at(), id, 0));
                *count += 1;
                ControlFlow::Continue(())
            }
            Ok(Err(Unreadable::Foreign(why))) => {
                let (_, _, count) = self.foreign.get_or_insert_with(|| (at(), why, 0));
                *count += 1;
                ControlFlow::Continue(())
            }
            Ok(Ok(op)) => match judge.see(sighted, place, op) {
                Some(violation) => {
                    self.violation = Some(violation);
                    ControlFlow::Break(())
                }
                None => ControlFlow::Continue(()),
            },
        }
    }
}

impl Pass {
    /// Whether every event of this topic is in Avro, by a schema that is registered and whose id it begins with.
    fn is_by_schema(&mut self, topic: &Arc<str>, format: &Format) -> bool {
        if let Some(known) = self.by_schema.get(topic) {
            return *known;
        }
        let outboxes = format.routes.iter().filter(|route| route.may_choose(topic));
        let mut outboxes = outboxes.filter_map(|route| route.outbox.as_ref()).peekable();
        let is_it = outboxes.peek().is_some()
            && outboxes.all(|outbox| {
                let schemas = outbox.schemas.as_ref();
                schemas.is_some_and(|it| it.of == SchemaType::Avro && it.id_header.is_none())
            });
        self.by_schema.insert(topic.clone(), is_it);
        is_it
    }

    fn verify(&mut self, sighted: &Sighted, format: &Format) {
        let (Some(key), Some(value)) = (&format.signature, &sighted.value) else { return };
        let found = match &sighted.signature {
            Some(header) if key.verifies(header, value) => {
                self.signed += 1;
                return;
            }
            // Topics that several services write to hold the signatures of each.
            Some(header) if !key.is_named(header) => return,
            Some(_) => &mut self.forged,
            None => &mut self.unsigned,
        };
        found.get_or_insert_with(|| (At::of(sighted), 0)).1 += 1;
    }
}

/// The other record of the same place, if there is one.
async fn twin(settings: &Settings, format: &Format, place: Place, of: At) -> Result<Option<At>> {
    let found = Arc::new(Mutex::new(None));
    let twin = found.clone();
    let with = move |next: Option<Sighted>| match next {
        Some(other) if other.place == Some(place) && At::of(&other) != of => {
            *twin.lock().unwrap_or_else(PoisonError::into_inner) = Some(At::of(&other));
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    };
    reading::records(settings, format, with).await?;
    Ok(found.lock().unwrap_or_else(PoisonError::into_inner).take())
}

/// What the topics themselves are good for.
fn scope(report: &mut Report, scopes: &[Scope]) {
    if scopes.is_empty() {
        let detail = "the position topic names none: nothing was delivered yet, or the position was reset";
        report.warn("topics", detail, "run the connector first");
    }
    for Scope { name, partitions, shortened, compacted, letters, recorded } in scopes {
        let subject = format!("topic {name}");
        if *letters {
            // What waits there is told by `dead-letters list`; what was replayed may go, and proves nothing here.
            report.pass(subject, "holds dead letters, which stand for no record of the other topics");
        } else if *partitions == 0 {
            report.warn(subject, "is gone", "what it held cannot be looked at any more");
        } else if partitions != recorded {
            let detail = format!("has {partitions} partitions, and {recorded} when it was first written to");
            report.warn(subject, detail, "a key may lie in two partitions: its order cannot be proved");
        } else if !shortened.is_empty() {
            let detail =
                format!("begins above offset 0 in partitions {shortened:?}: retention took records away");
            report.warn(
                subject,
                detail,
                "set retention.ms and retention.bytes to -1 where audits are wanted",
            );
        } else if *compacted {
            let detail = "is compacted: older records of each key may be gone";
            report.warn(subject, detail, "audit a topic with cleanup.policy=delete");
        } else {
            report.pass(subject, format!("{partitions} partitions, complete from offset 0"));
        }
    }
}

/// Which values the connector's key has signed.
fn signatures(report: &mut Report, pass: &Pass) {
    if let Some((at, count)) = &pass.forged {
        let detail =
            format!("{count} values, the first at {at}, are not what the connector's key has signed");
        report.fail(
            "signatures",
            detail,
            "look who else writes to the topic, or audit with the key of that time",
        );
    }
    if let Some((at, count)) = &pass.unsigned {
        let detail = format!("{count} values have none, the first at {at}");
        report.warn("signatures", detail, "written before there was a key, or by somebody else");
    }
    if pass.forged.is_none() && pass.unsigned.is_none() {
        report.pass("signatures", format!("{} values, all signed by the connector's key", pass.signed));
    }
}

/// Records that are not of this connector, as far as one can see.
fn strangers(report: &mut Report, pass: &Pass) {
    if let Some((at, why, count)) = &pass.foreign {
        let detail = format!("{count}, the first at {at}: {why}");
        report.warn("foreign records", detail, "look who else writes to the topic");
    }
    if let Some((at, id, count)) = &pass.schemaless {
        let detail =
            format!("{count} records, the first at {at} with schema {id}, which the registry does not have");
        report.warn("schemas", detail, "restore the registry's schemas; without them the values are unknown");
    }
}
