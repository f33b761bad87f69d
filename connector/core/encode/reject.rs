//! What is said of a record that cannot be written. Values and keys are never named: they may be secrets.

use super::header::mark_text;
use super::lexical::Bad;
use super::outbox::Poison;
use super::plan::Plan;
use super::target::Place;
use super::typed::Refusal;
use crate::error::Error;
use crate::position::Mark;
use crate::sink::SCHEMA_INCOMPATIBLE;

pub(crate) const TOPIC_NOT_ALLOWED: &str = "topic_not_allowed";

pub(crate) fn place(mark: Mark) -> String {
    String::from_utf8_lossy(mark_text(mark).as_slice()).into_owned()
}

fn column(plan: &Plan, index: usize) -> &str {
    plan.row.columns.iter().find(|column| column.index == index).map_or("?", |column| column.name.as_str())
}

#[cold]
pub(crate) fn bad_value(plan: &Plan, mark: Mark, index: usize, bad: Bad) -> Error {
    let kind = plan
        .row
        .columns
        .iter()
        .find(|column| column.index == index)
        .map(|column| format!("{:?}", column.r#type))
        .unwrap_or_default();
    let what = match bad {
        Bad::Malformed => format!("is not in the form of its type ({kind})"),
        Bad::OutOfRange => format!("is beyond the range of its type ({kind})"),
        Bad::Special => "is NaN or infinite, and the column is NOT NULL".into(),
        Bad::NullElement => "has a NULL element, which Debezium's schema of such an array cannot say".into(),
    };
    let (table, name) = (&plan.table, column(plan, index));
    let error = Error::record(format!("table {table}, column {name}: the value at {} {what}", place(mark)))
        .code("bad_value");
    match bad {
        Bad::Special => error.hint("set decimals = \"string\" in [format]"),
        Bad::NullElement => error.hint("use the dialect of Millrace, or leave the column out"),
        Bad::Malformed | Bad::OutOfRange => error.hint(format!(
            "correct the row, or leave column {name} out of what is captured; if the value is right for the \
             database, report it with the column's type"
        )),
    }
}

#[cold]
pub(crate) fn key_not_sent(plan: &Plan, mark: Mark, index: usize) -> Error {
    let (table, name) = (&plan.table, column(plan, index));
    Error::record(format!("table {table}: the row at {} came without its key column {name}", place(mark)))
        .code("key_not_sent")
        .hint(format!("run: ALTER TABLE {table} REPLICA IDENTITY FULL"))
}

#[cold]
pub(crate) fn no_old_row(plan: &Plan, mark: Mark) -> Error {
    let table = &plan.table;
    Error::record(format!("table {table}: the delete at {} came without the old row", place(mark)))
        .code("no_old_row")
        .hint(format!("run: ALTER TABLE {table} REPLICA IDENTITY FULL"))
}

/// Of a document that cannot be a flat record.
#[cold]
pub(crate) fn flat(plan: &Plan, mark: Mark, what: &str) -> Error {
    Error::record(format!("collection {}: the document at {} cannot be flat: {what}", plan.table, place(mark)))
        .code("bad_value")
        .hint(
            "set arrays = \"document\" in [format.flat], or encoding = \"json\" without schemas, which takes any array",
        )
}

#[cold]
pub(crate) fn malformed_list(plan: &Plan, mark: Mark) -> Error {
    Error::fatal(format!(
        "table {}: the update at {} has a malformed list of fields",
        plan.table,
        place(mark)
    ))
}

#[cold]
pub(crate) fn too_large(plan: &Plan, target: &Place, mark: Mark, size: usize) -> Error {
    let (table, limit, topic) = (&plan.table, target.record_bytes_max, &target.name);
    let place = place(mark);
    Error::record(format!(
        "table {table}: the record at {place} has {size} bytes and the limit is {limit}, with what Kafka adds to \
         a record taken off"
    ))
    .code("too_large")
    .hint(format!("raise max.message.bytes of topic {topic}, and record_bytes_max if that is lower"))
}

#[cold]
pub(crate) fn batch_too_large(plan: &Plan, mark: Mark) -> Error {
    let (table, limit) = (&plan.table, crate::batch::BATCH_BYTES_LIMIT);
    Error::fatal(format!("table {table}: the records of the batch at {} exceed {limit} bytes", place(mark)))
        .hint("make batches smaller")
}

#[cold]
pub(crate) fn cell_count(plan: &Plan, count: usize) -> Error {
    let columns = plan.envelope.cells;
    Error::fatal(format!("table {}: a row has {count} cells for {columns} columns", plan.table))
}

#[cold]
pub(crate) fn no_key(plan: &Plan, mark: Mark) -> Error {
    let table = &plan.table;
    Error::record(format!("table {table}: the delete at {} has no key to be told by", place(mark)))
        .code("no_key")
        .hint("give the table a primary key, name columns as `key` in its [[route]], or use envelope = \"debezium\"")
}

#[cold]
pub(crate) fn not_spread(plan: &Plan, mark: Mark, field: &str) -> Error {
    let (table, place) = (&plan.table, place(mark));
    Error::record(format!(
        "table {table}: the row at {place} came without {field}, by which it finds its partition"
    ))
    .code("not_sent")
    .hint(format!(
        "run: ALTER TABLE {table} REPLICA IDENTITY FULL; or write {field}? in partition_by, and such rows go by their key"
    ))
}

#[cold]
pub(crate) fn partition(plan: &Plan, target: &Place, mark: Mark, partition: u32) -> Error {
    let (table, topic, count) = (&plan.table, &target.name, target.topic.partitions);
    let place = place(mark);
    Error::record(format!(
        "table {table}: the row at {place} names partition {partition} of topic {topic}, which has {count}"
    ))
    .code("bad_partition")
    .hint("write numbers from 0 up to the count less one")
}

/// Of an event that is not written as its schema says. Names of members are those of the schema, or of a member
/// that it lacks; values are not named.
#[cold]
pub(crate) fn schema(plan: &Plan, mark: Mark, why: &Refusal) -> Error {
    let (table, place) = (&plan.table, place(mark));
    let event = format!("table {table}: the event at {place}");
    match why {
        Refusal::NoSubject => Error::record(format!("{event} has NULL where its subject is told"))
            .code("no_schema")
            .hint("write what the template of `subject` in [route.outbox] names"),
        Refusal::NoSchema { subject } => {
            Error::record(format!("{event} has no schema: the registry knows no subject {subject}"))
                .code("no_schema")
                .hint(
                    "register its schema, then replay the event; or name its text in [route.outbox.schemas]",
                )
        }
        Refusal::Misfit { subject, id, misfit } => {
            Error::record(format!("{event} does not fit the schema of subject {subject}: {misfit}"))
                .code("schema_misfit")
                .schema(*id)
                .hint("correct the event, or register a schema that takes it and replay the event")
        }
    }
}

/// Of an event whose payload would have a schema that its subject does not take.
#[cold]
pub(crate) fn inferred(plan: &Plan, mark: Mark, subject: &str, why: &str) -> Error {
    let (table, place) = (&plan.table, place(mark));
    Error::record(format!("table {table}: the payload of the event at {place} infers another schema: {why}"))
        .code(SCHEMA_INCOMPATIBLE)
        .hint(format!(
            "a member keeps its type: correct the event; or lower the level of subject {subject} at the registry and \
             replay it"
        ))
}

/// Of a row of an outbox.
#[cold]
pub(crate) fn poison(plan: &Plan, mark: Mark, why: Poison) -> Error {
    let (code, what, hint) = match why {
        Poison::BadJson => ("bad_json", "is not JSON", "write JSON, or set payload_form = \"text\""),
        Poison::EmptyId => ("empty_id", "has no id", "write an id with every event"),
        Poison::EmptyKey => ("empty_key", "has no aggregate id, and so no key", "write one with every event"),
        Poison::EmptyPayload => {
            ("empty_payload", "has no payload", "write one, or set tombstone_on_empty = true")
        }
        Poison::BadPartition => ("bad_partition", "names a partition that is no number", "write a number"),
        Poison::BadTimestamp => {
            ("bad_timestamp", "has a time that is none", "write a timestamptz or RFC 3339")
        }
        Poison::BadField => ("bad_value", "has a value that is not in the form of its type", "correct it"),
        Poison::Update => ("update", "was updated, and events do not change", "insert a new event instead"),
    };
    let (table, place) = (&plan.table, place(mark));
    Error::record(format!("table {table}: the event at {place} {what}")).code(code).hint(hint)
}
