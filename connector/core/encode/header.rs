//! Record headers, in the layout of `EncodedBatch::headers`.

use super::json;
use super::plan::RowPlan;
use super::row::Notes;
use super::short::Short;
use crate::batch::ChangeBatch;
use crate::position::Mark;

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
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(len_at..start) {
        place.copy_from_slice(&len.to_le_bytes());
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
