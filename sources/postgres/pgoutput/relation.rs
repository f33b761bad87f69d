//! The message that describes a table before its first row of a session, and again after it changed.

use super::Malformed;
use super::reader::Reader;

/// How the server identifies old rows, as the message says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// By the primary key, if there is one.
    Default,
    /// Not at all.
    Nothing,
    /// By all columns.
    Full,
    /// By a unique index.
    Index,
}

/// Owned, because it comes once a table and has to reach the thread that asks the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationMessage {
    pub id: u32,
    pub namespace: String,
    pub name: String,
    pub identity: Identity,
    /// As in the table, without dropped and generated ones.
    pub columns: Vec<RelationColumn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Part of the replica identity; with `Identity::Full` every column is.
    pub key: bool,
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
}

pub(super) fn parse(mut reader: Reader<'_>) -> Result<RelationMessage, Malformed> {
    let id = reader.u32("relation")?;
    // The server writes the catalog's schema as an empty string.
    let namespace = match reader.string("schema of a relation")? {
        "" => "pg_catalog",
        namespace => namespace,
    }
    .to_owned();
    let name = reader.string("name of a relation")?.to_owned();
    let identity = match reader.u8("replica identity")? {
        b'd' => Identity::Default,
        b'n' => Identity::Nothing,
        b'f' => Identity::Full,
        b'i' => Identity::Index,
        _ => return reader.fail("unknown replica identity"),
    };
    let count = reader.u16("number of columns")?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let flags = reader.u8("flags of a column")?;
        let name = reader.string("name of a column")?.to_owned();
        let type_oid = reader.u32("type of a column")?;
        let typmod = reader.i32("modifier of a type")?;
        columns.push(RelationColumn { key: flags & 1 != 0, name, type_oid, typmod });
    }
    reader.end()?;
    Ok(RelationMessage { id, namespace, name, identity, columns })
}
