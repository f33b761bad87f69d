//! Record headers, in the layout of `EncodedBatch::headers`.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;

use super::Format;
use super::json;
use super::plan::RowPlan;
use super::row::Notes;
use super::short::Short;
use super::steps::Made;
use crate::batch::{ChangeBatch, HEADER_NULL};
use crate::position::Mark;
use crate::relation::{Relation, SourceValue};

/// Adds a header whose value `fill` writes.
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    // Names are our own constants.
    out.extend_from_slice(&u16::try_from(name.len()).unwrap_or_default().to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    let len_at = out.len();
    out.extend_from_slice(&[0; 4]);
    let start = out.len();
    fill(out);
    // A value beyond four bytes of length is beyond the size of a record, which is checked for the whole.
    let len = u32::try_from(out.len() - start).unwrap_or(HEADER_NULL);
    if let Some(place) = out.get_mut(len_at..start) {
        place.copy_from_slice(&len.to_le_bytes());
    }
}

/// Adds a header whose value is null.
pub(crate) fn put_null(out: &mut Vec<u8>, name: &str) {
    let start = out.len();
    put(out, name, |_| {});
    let len_at = start + 2 + name.len();
    if let Some(place) = out.get_mut(len_at..) {
        place.copy_from_slice(&HEADER_NULL.to_le_bytes());
    }
}

/// `<commit>/<change>/<n>/<sub>`: where the change lies in the source's log, and which of its records this is.
#[inline]
pub(crate) fn put_position(out: &mut Vec<u8>, mark: Mark, sub: u32) {
    let mut text = mark_text(mark);
    text.push(b"/");
    text.push_number(u64::from(sub));
    put(out, "position", |out| out.extend_from_slice(text.as_slice()));
}

/// `<commit>/<change>/<n>`, for headers and for messages.
#[inline]
pub(crate) fn mark_text(mark: Mark) -> Short {
    let mut text = Short::new();
    text.push_hex(mark.commit);
    text.push(b"/");
    text.push_hex(mark.change);
    text.push(b"/");
    text.push_number(u64::from(mark.n));
    text
}

/// Which reading of a table without a key the row is of, from the second one on: rows of those before are to be
/// forgotten.
pub(crate) fn put_attempt(out: &mut Vec<u8>, attempt: u32) {
    put(out, "snapshot.attempt", |out| out.extend_from_slice(attempt.to_string().as_bytes()));
}

/// The columns whose value was neither changed nor sent, as a JSON list.
pub(crate) fn put_unchanged(out: &mut Vec<u8>, row: &RowPlan, notes: &Notes) {
    if notes.unchanged.is_empty() {
        return;
    }
    put(out, "unchanged", |out| {
        for (place, index) in notes.unchanged.iter().enumerate() {
            out.push(if place == 0 { b'[' } else { b',' });
            put_name(out, row, *index);
        }
        out.push(b']');
    });
}

/// The texts of numbers that are none, by column, as a JSON object.
pub(crate) fn put_special(out: &mut Vec<u8>, name: &str, row: &RowPlan, notes: &Notes, batch: &ChangeBatch) {
    if notes.special.is_empty() {
        return;
    }
    put(out, name, |out| {
        for (place, (index, cell)) in notes.special.iter().enumerate() {
            out.push(if place == 0 { b'{' } else { b',' });
            put_name(out, row, *index);
            out.push(b':');
            json::put_string(out, batch.text(*cell));
        }
        out.push(b'}');
    });
}

fn put_name(out: &mut Vec<u8>, row: &RowPlan, index: usize) {
    // Rare, and rows are not that wide.
    let name =
        row.columns.iter().find(|column| column.index == index).map_or("", |column| column.name.as_str());
    json::put_string(out, name.as_bytes());
}

/// What is the same in every record: the dialect's own headers, and those of steps.
pub(crate) fn beside(format: &Format, relation: &Relation, made: &Made, has_context: bool) -> Vec<u8> {
    let mut out = if has_context { context(format, relation, made) } else { Vec::new() };
    for (name, text) in &made.texts {
        put(&mut out, name, |out| out.extend_from_slice(text.as_bytes()));
    }
    out
}

/// Debezium's headers: which connector, which of its tasks, which run of it.
fn context(format: &Format, relation: &Relation, made: &Made) -> Vec<u8> {
    let connector = relation.source.fields.iter().find(|field| field.name == "connector");
    let connector = match connector.map(|field| &field.value) {
        Some(SourceValue::Text(name)) => name.as_str(),
        _ => "",
    };
    let mut out = Vec::new();
    for (name, value) in [
        ("connectorLogicalName", format.topic_prefix.as_str()),
        ("taskId", "0"),
        ("connectorName", connector),
        ("runId", run_id()),
    ] {
        let name = format!("__debezium.context.{name}");
        if !made.drops_header(&name) {
            put(&mut out, &name, |out| out.extend_from_slice(value.as_bytes()));
        }
    }
    out
}

/// Drawn once a process, in the form of a UUID.
fn run_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        // The standard library's own source of chance: the keys of its hash maps.
        let draw = || RandomState::new().build_hasher().finish();
        let (high, low) = (draw() & !0xf000 | 0x4000, draw() & !(0b11 << 62) | 0b10 << 62);
        let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xffff);
        format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", low >> 48, low & 0xffff_ffff_ffff)
    })
}
