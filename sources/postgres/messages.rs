//! Logical messages as rows: what `pg_logical_emit_message(true, prefix, content)` wrote is a row of the
//! relation `pg_logical_emit_message.<prefix>`, a table that cannot be (names of schemas do not begin so).

use std::collections::HashMap;
use std::sync::Arc;

use millrace_core::batch::{Cell, ChangeBatch, Row, Tag};
use millrace_core::error::{Error, Result};
use millrace_core::relation::{Column, Kind, Relation, Shape};

use crate::relation::{Origin, source_block};

/// Stands for the schema.
pub const NAMESPACE: &str = "pg_logical_emit_message";

/// The relations of captured prefixes. Kept over sessions, so that nothing is planned anew.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    by_prefix: HashMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    relation: Arc<Relation>,
    /// Its index in the batch with this number.
    in_batch: Option<(u64, u32)>,
}

impl Messages {
    pub fn new(prefixes: &[String], origin: &Origin) -> Self {
        let entry = |prefix: &String| {
            let entry = Entry { relation: Arc::new(relation(prefix, origin)), in_batch: None };
            (prefix.clone(), entry)
        };
        Self { by_prefix: prefixes.iter().map(entry).collect() }
    }

    /// The index in the batch of a prefix's relation; `None` where it is not captured.
    pub fn relation_in(&mut self, prefix: &str, number: u64, batch: &mut ChangeBatch) -> Option<u32> {
        let entry = self.by_prefix.get_mut(prefix)?;
        if let Some((of, index)) = entry.in_batch
            && of == number
        {
            return Some(index);
        }
        let index = u32::try_from(batch.relations.len()).unwrap_or(u32::MAX);
        batch.relations.push(entry.relation.clone());
        entry.in_batch = Some((number, index));
        Some(index)
    }
}

fn relation(prefix: &str, origin: &Origin) -> Relation {
    let column = |name: &str| Column { name: name.into(), kind: Kind::Text, nullable: false, default: None };
    Relation {
        version: Relation::next_version(),
        namespace: NAMESPACE.into(),
        name: prefix.into(),
        columns: vec![column("prefix"), column("content")],
        key: Vec::new(),
        identity: Vec::new(),
        source: source_block(NAMESPACE, prefix, origin),
        shape: Shape::Rows,
    }
}

/// Content that is no text stands there as a bytea prints: every message is delivered, or rejected by policy.
pub fn append(batch: &mut ChangeBatch, prefix: &str, content: &[u8]) -> Result<Row> {
    let start = place(batch.cells.len())?;
    push(batch, |bytes| bytes.extend_from_slice(prefix.as_bytes()))?;
    push(batch, |bytes| match std::str::from_utf8(content) {
        Ok(text) => bytes.extend_from_slice(text.as_bytes()),
        Err(_) => {
            bytes.extend_from_slice(b"\\x");
            for byte in content {
                bytes.extend_from_slice(format!("{byte:02x}").as_bytes());
            }
        }
    })?;
    Ok(Row { start, len: 2 })
}

fn push(batch: &mut ChangeBatch, fill: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let start = batch.bytes.len();
    fill(&mut batch.bytes);
    let len = place(batch.bytes.len() - start)?;
    place(batch.bytes.len())?;
    batch.cells.push(Cell { start: place(start)?, len, tag: Tag::Text });
    Ok(())
}

fn place(at: usize) -> Result<u32> {
    u32::try_from(at)
        .map_err(|_| Error::fatal("a batch of changes exceeds 4 GiB").hint("make batches smaller"))
}
