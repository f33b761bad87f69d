//! A row of `COPY ... TO STDOUT` in text form: the same output functions as those of the stream, so the same
//! values, only with other marks around them.
//!
//! Format: <https://www.postgresql.org/docs/current/sql-copy.html>, "Text Format".

use millrace_core::batch::{BATCH_BYTES_LIMIT, Cell, ChangeBatch, Row, Tag};

use crate::pgoutput::Malformed;

/// Appends one row, the payload of one CopyData message. After an error the batch holds remains of the row that
/// no change refers to.
pub fn append_row(batch: &mut ChangeBatch, line: &[u8], columns: usize) -> Result<Row, Malformed> {
    let fail = |what, at| Err(Malformed { what, at });
    let Some((b'\n', line)) = line.split_last() else { return fail("a row without its end", line.len()) };
    if batch.bytes.len().saturating_add(line.len()) > BATCH_BYTES_LIMIT {
        return fail("a row is too large for the batch", 0);
    }
    let first = batch.cells.len();
    // A table without columns still has rows: their lines are empty.
    if columns > 0 {
        match memchr::memchr(b'\\', line) {
            None => append_plain(batch, line)?,
            Some(_) => append_escaped(batch, line)?,
        }
    }
    if batch.cells.len() - first != columns || (columns == 0 && !line.is_empty()) {
        return fail("a row has another number of columns than its relation", line.len());
    }
    match (u32::try_from(first), u32::try_from(columns)) {
        (Ok(start), Ok(len)) => Ok(Row { start, len }),
        _ => fail("too many columns for the batch", line.len()),
    }
}

/// Most rows: without an escape, and without a null. The line goes over as it is, and the tabs in it lie between
/// the cells.
fn append_plain(batch: &mut ChangeBatch, line: &[u8]) -> Result<(), Malformed> {
    utf8(line).map_err(|what| Malformed { what, at: 0 })?;
    let base = batch.bytes.len();
    batch.bytes.extend_from_slice(line);
    let mut start = 0;
    for end in memchr::memchr_iter(b'\t', line).chain(std::iter::once(line.len())) {
        batch.cells.push(text_cell(base + start, end - start)?);
        start = end + 1;
    }
    Ok(())
}

fn append_escaped(batch: &mut ChangeBatch, line: &[u8]) -> Result<(), Malformed> {
    let mut begin = 0;
    for end in memchr::memchr_iter(b'\t', line).chain(std::iter::once(line.len())) {
        let field = line.get(begin..end).unwrap_or_default();
        let cell = if field == b"\\N" {
            Cell { start: 0, len: 0, tag: Tag::Null }
        } else {
            let start = batch.bytes.len();
            append_text(&mut batch.bytes, field).map_err(|what| Malformed { what, at: begin })?;
            text_cell(start, batch.bytes.len() - start)?
        };
        batch.cells.push(cell);
        begin = end + 1;
    }
    Ok(())
}

fn text_cell(start: usize, len: usize) -> Result<Cell, Malformed> {
    match (u32::try_from(start), u32::try_from(len)) {
        (Ok(start), Ok(len)) => Ok(Cell { start, len, tag: Tag::Text }),
        _ => Err(Malformed { what: "a row is too large for the batch", at: 0 }),
    }
}

fn utf8(text: &[u8]) -> Result<(), &'static str> {
    if text.is_ascii() || std::str::from_utf8(text).is_ok() { Ok(()) } else { Err("text that is not UTF-8") }
}

/// A value without its escapes.
fn append_text(out: &mut Vec<u8>, field: &[u8]) -> Result<(), &'static str> {
    let start = out.len();
    let mut rest = field;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (plain, escape) = rest.split_at(at);
        out.extend_from_slice(plain);
        let [_, letter, tail @ ..] = escape else { return Err("a backslash at the end of a value") };
        out.push(match letter {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'\\' => b'\\',
            _ => return Err("an unknown escape in a value"),
        });
        rest = tail;
    }
    out.extend_from_slice(rest);
    utf8(out.get(start..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_core::batch::Value;
    use proptest::prelude::*;

    fn read(line: &[u8], columns: usize) -> Result<Vec<Option<String>>, Malformed> {
        let mut batch = ChangeBatch::default();
        let row = append_row(&mut batch, line, columns)?;
        let text = |cell: &Cell| match batch.value(*cell) {
            Value::Text(text) => Some(String::from_utf8(text.to_vec()).expect("checked")),
            Value::Null | Value::Unchanged => None,
        };
        Ok(batch.cells_of(row).iter().map(text).collect())
    }

    /// As the server writes a value.
    fn escaped(text: &str) -> String {
        let escapes = [
            ('\\', "\\\\"),
            ('\u{8}', "\\b"),
            ('\u{c}', "\\f"),
            ('\n', "\\n"),
            ('\r', "\\r"),
            ('\t', "\\t"),
            ('\u{b}', "\\v"),
        ];
        escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(*from, to))
    }

    #[test]
    fn nulls_empty_texts_and_the_text_of_a_null_are_told_apart() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(b"\\N\t\t\\\\N\n", 3), Ok(vec![None, some(""), some("\\N")]));
        assert_eq!(read(b"\n", 1), Ok(vec![some("")]));
        assert_eq!(read(b"\n", 0), Ok(vec![]));
    }

    #[test]
    fn what_is_not_a_row_is_an_error() {
        for (line, columns) in [
            (&b""[..], 1),
            (b"a", 1),
            (b"a\tb\n", 1),
            (b"a\n", 2),
            (b"a\\\n", 1),
            (b"\\x\n", 1),
            (b"\xff\n", 1),
            (b"\xff\\n\n", 1),
            (b"a\n", 0),
        ] {
            assert!(read(line, columns).is_err(), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn values_come_back_as_they_are_in_the_table(values in proptest::collection::vec(proptest::option::of("[^\0]{0,12}"), 1..5)) {
            let fields: Vec<String> = values.iter().map(|value| value.as_deref().map_or("\\N".to_owned(), escaped)).collect();
            let line = format!("{}\n", fields.join("\t"));
            prop_assert_eq!(read(line.as_bytes(), values.len()), Ok(values));
        }
    }
}
