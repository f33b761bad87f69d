//! What the plugin `pgoutput` writes: protocol 1, text format. Start at `parse`.
//!
//! Pure functions over slices. A message that is cut short, longer than its parts, or of an unknown kind
//! is an error and never skipped: a skipped one would be a lost change.
//! Format: <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>.

mod reader;
mod relation;
#[cfg(test)]
mod tests;
mod tuple;
#[cfg(test)]
pub(crate) mod writer;

use std::fmt;

use reader::Reader;
pub use relation::{Identity, RelationColumn, RelationMessage};
pub use tuple::{Tuple, append_tuple};

/// Microseconds from 1970, where we count from, to 2000, where Postgres does.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// The bytes are not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What should have been there, or should not.
    pub what: &'static str,
    /// Bytes from the beginning of the message.
    pub at: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed replication message: {} (byte {})", self.what, self.at)
    }
}

impl std::error::Error for Malformed {}

/// Which columns an old row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldKind {
    /// Those of the replica identity; the others are sent as null.
    Key,
    /// All.
    Full,
}

/// One message. Log positions are raw here, and `Lsn` everywhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Begin {
        /// Where the commit record begins: `Commit::commit_lsn` of the same transaction.
        final_lsn: u64,
        /// Microseconds since 1970.
        commit_ts_us: i64,
        xid: u32,
    },
    Commit {
        flags: u8,
        commit_lsn: u64,
        end_lsn: u64,
        /// Microseconds since 1970.
        commit_ts_us: i64,
    },
    Origin {
        commit_lsn: u64,
        name: &'a str,
    },
    Relation(RelationMessage),
    Type {
        oid: u32,
        namespace: &'a str,
        name: &'a str,
    },
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<(OldKind, Tuple<'a>)>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        kind: OldKind,
        old: Tuple<'a>,
    },
    Truncate {
        relations: Relations<'a>,
        cascade: bool,
        restart: bool,
    },
    Message {
        transactional: bool,
        /// For a non-transactional one the *end* of its record, else its beginning.
        lsn: u64,
        prefix: &'a str,
        content: &'a [u8],
    },
}

/// The relations that one TRUNCATE emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relations<'a>(&'a [u8]);

impl<'a> Relations<'a> {
    pub fn iter(&self) -> impl Iterator<Item = u32> + 'a {
        self.0.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// Parses one message, the payload of one XLogData frame.
pub fn parse(input: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut reader = Reader::new(input);
    match reader.u8("tag of the message")? {
        b'I' => {
            let relation = reader.u32("relation")?;
            tag(&mut reader, b'N')?;
            // The tuple runs to the end of the message; `append_tuple` finds out whether it really does.
            Ok(Message::Insert { relation, new: Tuple::last(&mut reader)? })
        }
        b'U' => update(reader),
        b'D' => {
            let relation = reader.u32("relation")?;
            let kind = match reader.u8("kind of the old row")? {
                b'K' => OldKind::Key,
                b'O' => OldKind::Full,
                _ => return reader.fail("a delete without an old row"),
            };
            Ok(Message::Delete { relation, kind, old: Tuple::last(&mut reader)? })
        }
        b'B' => begin(reader),
        b'C' => commit(reader),
        b'R' => relation::parse(reader).map(Message::Relation),
        b'T' => truncate(reader),
        b'M' => message(reader),
        b'Y' => {
            let oid = reader.u32("type")?;
            let namespace = reader.string("schema of a type")?;
            let name = reader.string("name of a type")?;
            reader.end()?;
            Ok(Message::Type { oid, namespace, name })
        }
        b'O' => {
            let commit_lsn = reader.u64("commit position at the origin")?;
            let name = reader.string("name of the origin")?;
            reader.end()?;
            Ok(Message::Origin { commit_lsn, name })
        }
        _ => Err(Malformed { what: "unknown tag of the message", at: 0 }),
    }
}

fn tag(reader: &mut Reader<'_>, expected: u8) -> Result<(), Malformed> {
    match reader.u8("a new row")? {
        found if found == expected => Ok(()),
        _ => reader.fail("no new row where one must be"),
    }
}

fn update(mut reader: Reader<'_>) -> Result<Message<'_>, Malformed> {
    let relation = reader.u32("relation")?;
    let kind = match reader.u8("kind of the row")? {
        b'N' => {
            return Ok(Message::Update { relation, old: None, new: Tuple::last(&mut reader)? });
        }
        b'K' => OldKind::Key,
        b'O' => OldKind::Full,
        _ => return reader.fail("an update with neither an old nor a new row"),
    };
    let old = Tuple::inner(&mut reader)?;
    tag(&mut reader, b'N')?;
    Ok(Message::Update { relation, old: Some((kind, old)), new: Tuple::last(&mut reader)? })
}

fn time_us(reader: &mut Reader<'_>) -> Result<i64, Malformed> {
    match reader.i64("commit time")?.checked_add(POSTGRES_EPOCH_US) {
        Some(us) => Ok(us),
        None => reader.fail("a commit time out of range"),
    }
}

fn begin(mut reader: Reader<'_>) -> Result<Message<'_>, Malformed> {
    let final_lsn = reader.u64("commit position")?;
    let commit_ts_us = time_us(&mut reader)?;
    let xid = reader.u32("transaction id")?;
    reader.end()?;
    Ok(Message::Begin { final_lsn, commit_ts_us, xid })
}

fn commit(mut reader: Reader<'_>) -> Result<Message<'_>, Malformed> {
    let flags = reader.u8("flags of the commit")?;
    let commit_lsn = reader.u64("commit position")?;
    let end_lsn = reader.u64("end position")?;
    let commit_ts_us = time_us(&mut reader)?;
    reader.end()?;
    Ok(Message::Commit { flags, commit_lsn, end_lsn, commit_ts_us })
}

fn truncate(mut reader: Reader<'_>) -> Result<Message<'_>, Malformed> {
    let count = reader.u32("number of truncated relations")?;
    let flags = reader.u8("flags of the truncate")?;
    let Some(len) = (count as usize).checked_mul(4) else {
        return reader.fail("number of truncated relations");
    };
    let relations = Relations(reader.bytes(len, "truncated relations")?);
    reader.end()?;
    Ok(Message::Truncate { relations, cascade: flags & 1 != 0, restart: flags & 2 != 0 })
}

fn message(mut reader: Reader<'_>) -> Result<Message<'_>, Malformed> {
    let flags = reader.u8("flags of the logical message")?;
    let lsn = reader.u64("position of the logical message")?;
    let prefix = reader.string("prefix of the logical message")?;
    let len = reader.u32("length of the logical message")?;
    let content = reader.bytes(len as usize, "content of the logical message")?;
    reader.end()?;
    Ok(Message::Message { transactional: flags & 1 != 0, lsn, prefix, content })
}
