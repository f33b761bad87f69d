//! The key of a row: as bytes that are compared, as texts that are stored, and as SQL that asks for it.

use millrace_core::batch::{Before, Change, ChangeBatch, Tag};

/// The texts of the key's columns one after another, each behind its length.
pub type Key = Box<[u8]>;

/// The key of the row after a change, or before it. A key column that arrives unchanged is taken from the old
/// row; `false` where a part of it was not sent at all.
fn write(batch: &ChangeBatch, change: &Change, columns: &[u16], is_old: bool, out: &mut Vec<u8>) -> bool {
    out.clear();
    let (old, new) = (batch.cells_of(change.before), batch.cells_of(change.after));
    let rows = if is_old { [old, &[]] } else { [new, old] };
    columns.iter().all(|column| {
        let mut cells = rows.iter().filter_map(|row| row.get(usize::from(*column)));
        let Some(cell) = cells.find(|cell| cell.tag == Tag::Text) else { return false };
        out.extend_from_slice(&cell.len.to_le_bytes());
        out.extend_from_slice(batch.text(*cell));
        true
    })
}

/// The keys that a change touches: the row's before it, where one was sent, and the row's after it.
pub fn touched(batch: &ChangeBatch, change: &Change, columns: &[u16]) -> (Option<Key>, Option<Key>) {
    let mut bytes = Vec::new();
    let old = (change.has_before != Before::None && write(batch, change, columns, true, &mut bytes))
        .then(|| bytes.as_slice().into());
    let new = (change.after.len > 0 && write(batch, change, columns, false, &mut bytes))
        .then(|| bytes.as_slice().into());
    (old, new)
}

/// The key of a row that was read, into memory that is used again.
pub fn of_row<'a>(
    batch: &ChangeBatch,
    change: &Change,
    columns: &[u16],
    out: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    write(batch, change, columns, false, out).then_some(out.as_slice())
}

/// The texts of the columns.
pub fn texts(key: &[u8]) -> Vec<String> {
    let mut rest = key;
    let mut texts = Vec::new();
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let Some((text, tail)) = tail.split_at_checked(u32::from_le_bytes(*len) as usize) else { break };
        texts.push(String::from_utf8_lossy(text).into_owned());
        rest = tail;
    }
    texts
}

pub fn from_texts(texts: &[String]) -> Key {
    let mut key = Vec::new();
    for text in texts {
        // A value is shorter than a row, and a row than 1 GB.
        key.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        key.extend_from_slice(text.as_bytes());
    }
    key.into()
}

/// A row of literals. Without a type, so that each takes its column's.
pub fn literals(texts: &[String]) -> String {
    let literals: Vec<String> = texts.iter().map(|text| literal(text)).collect();
    format!("({})", literals.join(", "))
}

/// A value without a type, whatever the server's `standard_conforming_strings` is.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_literal_holds_whatever_the_value_does() {
        let texts = ["7", "o'hara", "c:\\new"].map(str::to_owned);
        assert_eq!(literals(&texts), r"('7', 'o''hara', E'c:\\new')");
    }

    proptest! {
        #[test]
        fn a_key_gives_back_its_texts(texts in proptest::collection::vec(".{0,12}", 1..4)) {
            prop_assert_eq!(super::texts(&from_texts(&texts)), texts);
        }
    }
}
