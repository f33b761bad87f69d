//! What is said of a record that cannot be written. Values and keys are never named: they may be secrets.

use super::header::mark_text;
use super::lexical::Bad;
use super::plan::Plan;
use crate::error::Error;
use crate::position::Mark;

fn place(mark: Mark) -> String {
    String::from_utf8_lossy(mark_text(mark).as_slice()).into_owned()
}

fn column(plan: &Plan, index: usize) -> &str {
    plan.row.columns.get(index).map_or("?", |column| column.name.as_str())
}

#[cold]
pub(crate) fn bad_value(plan: &Plan, mark: Mark, index: usize, bad: Bad) -> Error {
    let kind = plan.row.columns.get(index).map(|column| format!("{:?}", column.r#type)).unwrap_or_default();
    let what = match bad {
        Bad::Malformed => format!("is not in the form of its type ({kind})"),
        Bad::OutOfRange => format!("is beyond the range of its type ({kind})"),
        Bad::Special => "is NaN or infinite, and the column is NOT NULL".into(),
        Bad::NullElement => "has a NULL element, which Debezium's schema of such an array cannot say".into(),
    };
    let (table, name) = (&plan.table, column(plan, index));
    let error = Error::record(format!("table {table}, column {name}: the value at {} {what}", place(mark)));
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
        .hint(format!("run: ALTER TABLE {table} REPLICA IDENTITY FULL"))
}

#[cold]
pub(crate) fn no_old_row(plan: &Plan, mark: Mark) -> Error {
    let table = &plan.table;
    Error::record(format!("table {table}: the delete at {} came without the old row", place(mark)))
        .hint(format!("run: ALTER TABLE {table} REPLICA IDENTITY FULL"))
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
pub(crate) fn too_large(plan: &Plan, mark: Mark, size: usize) -> Error {
    let (table, limit, topic) = (&plan.table, plan.record_bytes_max, &plan.topic_name);
    let place = place(mark);
    Error::record(format!(
        "table {table}: the record at {place} has {size} bytes and the limit is {limit}, with what Kafka adds to \
         a record taken off"
    ))
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
