//! Logical messages, what `pg_logical_emit_message` wrote. Those of a prefix that is captured as rows are rows
//! of the relation `pg_logical_emit_message.<prefix>`, a table that cannot be (names of schemas do not begin so);
//! those whose prefix makes events are changes of one relation for all of them.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_core::batch::{Cell, ChangeBatch, Row, Tag};
use millrace_core::error::{Error, Result};
use millrace_core::pattern::Pattern;
use millrace_core::relation::{Column, Kind, Relation, Shape, SourceValue};

use crate::relation::{Origin, source_block};

/// Stands for the schema.
pub const NAMESPACE: &str = "pg_logical_emit_message";

/// What our own messages begin with: heartbeats, and the marks of chunks. They are nobody's events.
const OWN: &str = "millrace";

/// The relations of captured prefixes. Kept over sessions, so that nothing is planned anew.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    by_prefix: HashMap<String, Entry>,
    events: Option<Events>,
}

/// Which prefixes make events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    pub wanted: Vec<Pattern>,
    pub unwanted: Vec<Pattern>,
}

impl Prefixes {
    fn mean(&self, prefix: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(prefix));
        let is_own = prefix == OWN || prefix.strip_prefix(OWN).is_some_and(|rest| rest.starts_with('.'));
        any(&self.wanted) && !any(&self.unwanted) && !is_own
    }
}

#[derive(Clone, Debug)]
struct Events {
    prefixes: Prefixes,
    /// Of messages inside a transaction, and of those outside any: they have no transaction to tell of.
    inside: Entry,
    outside: Entry,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Index in the batch.
    pub relation: u32,
    /// Its content is text where it can be: for routes, which read it as such.
    pub as_row: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    relation: Arc<Relation>,
    /// Its index in the batch with this number.
    in_batch: Option<(u64, u32)>,
}

impl Messages {
    pub fn new(prefixes: &[String], events: &Prefixes, origin: &Origin) -> Self {
        let entry = |relation| Entry { relation: Arc::new(relation), in_batch: None };
        let events = (!events.wanted.is_empty()).then(|| Events {
            prefixes: events.clone(),
            inside: entry(of_events(origin, true)),
            outside: entry(of_events(origin, false)),
        });
        let rows = prefixes.iter().map(|prefix| (prefix.clone(), entry(relation(prefix, origin))));
        Self { by_prefix: rows.collect(), events }
    }

    /// Where in the batch a message's relation is; `None` where it is not captured. What lies outside any
    /// transaction is no row of anything.
    pub fn relation_in(
        &mut self,
        prefix: &str,
        is_inside: bool,
        number: u64,
        batch: &mut ChangeBatch,
    ) -> Option<Captured> {
        let (entry, as_row) = match self.by_prefix.get_mut(prefix).filter(|_| is_inside) {
            Some(entry) => (entry, true),
            None => {
                let events = self.events.as_mut().filter(|events| events.prefixes.mean(prefix))?;
                (if is_inside { &mut events.inside } else { &mut events.outside }, false)
            }
        };
        Some(Captured { relation: entry.place_in(number, batch), as_row })
    }
}

impl Entry {
    fn place_in(&mut self, number: u64, batch: &mut ChangeBatch) -> u32 {
        if let Some((of, index)) = self.in_batch
            && of == number
        {
            return index;
        }
        let index = u32::try_from(batch.relations.len()).unwrap_or(u32::MAX);
        batch.relations.push(self.relation.clone());
        self.in_batch = Some((number, index));
        index
    }
}

/// Keyed by the prefix. A message belongs to no table.
fn of_events(origin: &Origin, is_inside: bool) -> Relation {
    let column = |name, kind| Column::new(name, kind, true);
    let mut source = source_block("", "", origin);
    for field in source.fields.iter_mut().filter(|field| !is_inside && field.name == "txId") {
        field.value = SourceValue::NoLong;
    }
    Relation {
        version: Relation::next_version(),
        namespace: NAMESPACE.into(),
        name: "message".into(),
        columns: vec![column("prefix", Kind::Text), column("content", Kind::Bytes)],
        key: vec![0],
        identity: Vec::new(),
        source,
        shape: Shape::Messages,
    }
}

fn relation(prefix: &str, origin: &Origin) -> Relation {
    let column = |name| Column::new(name, Kind::Text, false);
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

/// Content that is no text, or is to be bytes, stands there as a bytea prints: every message is delivered, or
/// rejected by policy.
pub fn append(batch: &mut ChangeBatch, prefix: &str, content: &[u8], as_row: bool) -> Result<Row> {
    let start = place(batch.cells.len())?;
    push(batch, |bytes| bytes.extend_from_slice(prefix.as_bytes()))?;
    push(batch, |bytes| match std::str::from_utf8(content) {
        Ok(text) if as_row => bytes.extend_from_slice(text.as_bytes()),
        _ => {
            bytes.extend_from_slice(b"\\x");
            for byte in content {
                bytes.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
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
