//! One row of a message: its columns are walked once, while they are appended to a batch.
//!
//! This is the hot path. The raw bytes go into the batch with one copy, tags and lengths included, and the
//! cells point past those.

use millrace_core::batch::{BATCH_BYTES_LIMIT, Cell, ChangeBatch, Row, Tag};

use super::Malformed;
use super::reader::Reader;

/// A row as it was sent. New tuples and the old ones of deletes end with the message and are not walked
/// before `append_tuple`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    raw: &'a [u8],
    /// Length of the message that `raw` ends at, counted so that `total - raw.len()` is where it begins.
    total: usize,
}

impl<'a> Tuple<'a> {
    /// How many columns the message says that the row has.
    pub fn columns(&self) -> u16 {
        self.columns
    }

    /// A tuple that ends the message.
    #[inline]
    pub(super) fn last(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let columns = reader.u16("number of columns")?;
        Ok(Self { columns, raw: reader.rest(), total: reader.total() })
    }

    /// A tuple with something after it: its columns are stepped over to find its end.
    pub(super) fn inner(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let columns = reader.u16("number of columns")?;
        let begin = *reader;
        for _ in 0..columns {
            match reader.u8("tag of a column")? {
                b'n' | b'u' => {}
                _ => {
                    let len = reader.u32("length of a column")?;
                    reader.bytes(len as usize, "value of a column")?;
                }
            }
        }
        let len = begin.rest().len() - reader.rest().len();
        let raw = begin.rest().get(..len).unwrap_or_default();
        Ok(Self { columns, raw, total: begin.at() + len })
    }
}

/// Appends a row to a batch: its bytes and one cell a column, which must be as many as the relation has.
/// After an error the batch holds remains of the row that no change refers to.
pub fn append_tuple(batch: &mut ChangeBatch, tuple: &Tuple<'_>, columns: usize) -> Result<Row, Malformed> {
    let mut reader = Reader::tail(tuple.raw, tuple.total);
    if usize::from(tuple.columns) != columns {
        return reader.fail("a row has another number of columns than its relation");
    }
    let base = batch.bytes.len();
    if base.saturating_add(tuple.raw.len()) > BATCH_BYTES_LIMIT {
        return reader.fail("a row is too large for the batch");
    }
    // Cannot wrap below: it never passes the end that was just checked.
    let Ok(mut place) = u32::try_from(base) else { return reader.fail("a batch is too large") };
    batch.bytes.extend_from_slice(tuple.raw);
    let first = batch.cells.len();
    batch.cells.reserve(columns);
    for _ in 0..columns {
        let tag = reader.u8("tag of a column")?;
        place = place.wrapping_add(1);
        let cell = match tag {
            b't' => {
                let len = reader.u32("length of a column")?;
                let text = reader.bytes(len as usize, "value of a column")?;
                // Most values are ASCII, and the full check costs several times as much on short ones.
                if !text.is_ascii() && std::str::from_utf8(text).is_err() {
                    return reader.fail("text that is not UTF-8");
                }
                let start = place.wrapping_add(4);
                place = start.wrapping_add(len);
                Cell { start, len, tag: Tag::Text }
            }
            b'n' => Cell { start: place, len: 0, tag: Tag::Null },
            b'u' => Cell { start: place, len: 0, tag: Tag::Unchanged },
            b'b' => return reader.fail("a binary column, which was never asked for"),
            _ => return reader.fail("unknown tag of a column"),
        };
        batch.cells.push(cell);
    }
    reader.end()?;
    match (u32::try_from(first), u32::try_from(columns)) {
        (Ok(start), Ok(len)) => Ok(Row { start, len }),
        _ => reader.fail("too many columns for the batch"),
    }
}
