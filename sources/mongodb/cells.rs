//! The cells of a document's change, written into a batch from BSON: start at `of_document`.

use millrace_core::batch::{Cell, ChangeBatch, Tag, document};

use crate::bson::{
    Along, Dialect, Doc, Fault, FieldRules, Malformed, Style, Value, put_value, write_document, write_text,
};
use crate::event::Update;

/// Small, so it fits any integer.
pub const CELLS: u32 = document::CELLS as u32;

pub const NULL: Cell = Cell { start: 0, len: 0, tag: Tag::Null };

/// What an update set, removed and cut off.
pub fn description(
    style: Style,
    update: Update<'_>,
    rules: Option<&FieldRules>,
    cells: &mut [Cell; document::CELLS],
    batch: &mut ChangeBatch,
) -> Result<(), Fault> {
    cells[document::UPDATED] = text(batch, |out| updated_fields(style, update.updated, rules, out))?;
    // A name may be left out by a rule, and a list without names is as good as none.
    let mut removed = Vec::new();
    for element in update.removed.elements() {
        let name = element?.1.text("removedFields")?;
        if let Some(name) = renamed(rules, name) {
            removed.push(name);
        }
    }
    if !removed.is_empty() {
        cells[document::REMOVED] = copied(batch, &list(removed.iter().map(Vec::as_slice)))?;
    }
    let mut truncated = Vec::new();
    for element in update.truncated.elements() {
        let array = element?.1.document("truncatedArrays")?;
        let size = array.need("newSize")?.integer("newSize")?;
        if let Some(name) = renamed(rules, array.need("field")?.text("field")?) {
            truncated.extend([name, size.to_string().into_bytes()]);
        }
    }
    if !truncated.is_empty() {
        cells[document::TRUNCATED] = copied(batch, &list(truncated.iter().map(Vec::as_slice)))?;
    }
    Ok(())
}

/// The name of a path by the rules; `None` where it is left out.
fn renamed(rules: Option<&FieldRules>, path: &[u8]) -> Option<Vec<u8>> {
    match rules {
        None => Some(path.to_vec()),
        Some(rules) => rules.along(path).map(|along| along.path),
    }
}

fn updated_fields(
    style: Style,
    fields: Doc<'_>,
    rules: Option<&FieldRules>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let Some(rules) = rules else { return write_document(style, fields, None, out) };
    let mut left: Vec<(Along<'_>, Value<'_>)> = Vec::new();
    for element in fields.elements() {
        let (path, value) = element?;
        left.extend(rules.along(path).map(|along| (along, value)));
    }
    // Those that keep their names first: `None` is below every number.
    left.sort_by_key(|(along, _)| along.renamed_by);
    out.push(b'{');
    for (index, (along, value)) in left.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(style.comma());
        }
        let is_taken = |(before, _): &(Along<'_>, Value<'_>)| before.path == along.path;
        if along.renamed_by.is_some() && left.iter().take(index).any(is_taken) {
            return Err(Fault::NameTaken(String::from_utf8_lossy(&along.path).into_owned()));
        }
        write_text(&along.path, out);
        out.extend_from_slice(style.colon());
        let below = along.below.filter(|_| matches!(value, Value::Document(_) | Value::Array(_)));
        put_value(style, *value, below, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// The texts as an array prints them.
fn list<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (index, text) in texts.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'"');
        for byte in String::from_utf8_lossy(text).bytes() {
            if matches!(byte, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(byte);
        }
        out.push(b'"');
    }
    out.push(b'}');
    out
}

/// A cell of these bytes.
pub fn copied(batch: &mut ChangeBatch, bytes: &[u8]) -> Result<Cell, Fault> {
    text(batch, |out| {
        out.extend_from_slice(bytes);
        Ok(())
    })
}

/// A cell of what `fill` adds to the batch's bytes.
pub fn text(
    batch: &mut ChangeBatch,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>,
) -> Result<Cell, Fault> {
    let start = batch.bytes.len();
    fill(&mut batch.bytes)?;
    // A batch closes far below what offsets reach, and a document has 16 MB.
    let offset = |at: usize| u32::try_from(at).map_err(|_| Fault::Malformed(Malformed::Length));
    Ok(Cell { start: offset(start)?, len: offset(batch.bytes.len() - start)?, tag: Tag::Text })
}

/// The cell of an id.
pub fn of_id(batch: &mut ChangeBatch, dialect: Dialect, id: Value<'_>) -> Result<Cell, Fault> {
    text(batch, |out| put_value(Style::compact(dialect), id, None, out))
}

/// The cell of a whole document.
pub fn of_document(
    batch: &mut ChangeBatch,
    dialect: Dialect,
    doc: Doc<'_>,
    rules: Option<&FieldRules>,
) -> Result<Cell, Fault> {
    text(batch, |out| write_document(Style::compact(dialect), doc, rules, out))
}
