//! A change event as the server sends it: which fields it has, read in place. Start at `Event::read`.
//!
//! Fields: <https://www.mongodb.com/docs/manual/reference/change-events/>.

use crate::bson::{Doc, Malformed, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Insert,
    Update,
    Replace,
    Delete,
    Drop,
    Rename,
    DropDatabase,
    Invalidate,
}

impl Operation {
    /// The ones that the pipeline lets through.
    pub const ALL: [(&'static str, Operation); 8] = [
        ("insert", Operation::Insert),
        ("update", Operation::Update),
        ("replace", Operation::Replace),
        ("delete", Operation::Delete),
        ("drop", Operation::Drop),
        ("rename", Operation::Rename),
        ("dropDatabase", Operation::DropDatabase),
        ("invalidate", Operation::Invalidate),
    ];

    /// As the server has it.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("", |(word, _)| *word)
    }

    fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.iter().find(|(word, _)| word.as_bytes() == name).map(|(_, operation)| *operation)
    }
}

/// Database and collection; a dropped database has no collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace<'a> {
    /// As it stands in the event: equal for equal namespaces.
    pub raw: Doc<'a>,
    pub database: &'a [u8],
    pub collection: &'a [u8],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Update<'a> {
    pub updated: Doc<'a>,
    pub removed: Doc<'a>,
    pub truncated: Doc<'a>,
}

/// Which session and transaction a change belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session<'a> {
    pub id: Doc<'a>,
    pub transaction: i64,
}

/// One event, or as much of it as the fragments read so far hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Event<'a> {
    pub token: Doc<'a>,
    pub operation: Option<Operation>,
    pub cluster_time: Option<u64>,
    pub wall_ms: Option<i64>,
    pub namespace: Option<Namespace<'a>>,
    /// Where a renamed collection went.
    pub to: Option<Namespace<'a>>,
    pub key: Option<Doc<'a>>,
    pub after: Option<Doc<'a>>,
    pub before: Option<Doc<'a>>,
    pub update: Option<Update<'a>>,
    lsid: Option<Doc<'a>>,
    transaction: Option<i64>,
    /// Number of the fragment, and how many there are.
    pub fragment: Option<(i64, i64)>,
}

impl<'a> Event<'a> {
    /// Takes over the fields of one document: a whole event, or the next fragment of one.
    pub fn read(&mut self, doc: Doc<'a>) -> Result<(), Malformed> {
        for element in doc.elements() {
            let (name, value) = element?;
            match name {
                b"_id" => self.token = value.document("_id")?,
                b"operationType" => {
                    let word = value.text("operationType")?;
                    self.operation = Some(Operation::named(word).ok_or(Malformed::Field("operationType"))?);
                }
                b"clusterTime" => self.cluster_time = Some(value.timestamp("clusterTime")?),
                b"wallTime" => match value {
                    Value::DateTime(ms) => self.wall_ms = Some(ms),
                    _ => return Err(Malformed::Field("wallTime")),
                },
                b"ns" => self.namespace = Some(namespace(value.document("ns")?)?),
                b"to" => self.to = Some(namespace(value.document("to")?)?),
                b"documentKey" => self.key = Some(value.document("documentKey")?),
                b"fullDocument" => self.after = image(value, "fullDocument")?,
                b"fullDocumentBeforeChange" => self.before = image(value, "fullDocumentBeforeChange")?,
                b"updateDescription" => self.update = Some(update(value.document("updateDescription")?)?),
                b"lsid" => self.lsid = Some(value.document("lsid")?),
                b"txnNumber" => self.transaction = Some(value.integer("txnNumber")?),
                b"splitEvent" => self.fragment = Some(fragment(value.document("splitEvent")?)?),
                // What newer servers tell besides does not change what happened.
                _ => {}
            }
        }
        Ok(())
    }

    pub fn session(&self) -> Option<Session<'a>> {
        Some(Session { id: self.lsid?, transaction: self.transaction? })
    }

    /// More of this event is to come.
    pub fn is_partial(&self) -> bool {
        self.fragment.is_some_and(|(number, of)| number < of)
    }
}

/// A document that was looked up in vain, or not kept, is null.
fn image<'a>(value: Value<'a>, field: &'static str) -> Result<Option<Doc<'a>>, Malformed> {
    match value {
        Value::Null => Ok(None),
        _ => value.document(field).map(Some),
    }
}

fn namespace(doc: Doc<'_>) -> Result<Namespace<'_>, Malformed> {
    let collection = match doc.get("coll")? {
        Some(value) => value.text("ns.coll")?,
        None => b"",
    };
    Ok(Namespace { raw: doc, database: doc.need("db")?.text("ns.db")?, collection })
}

fn update(doc: Doc<'_>) -> Result<Update<'_>, Malformed> {
    let mut update = Update::default();
    for element in doc.elements() {
        let (name, value) = element?;
        match name {
            b"updatedFields" => update.updated = value.document("updatedFields")?,
            b"removedFields" => update.removed = value.array("removedFields")?,
            b"truncatedArrays" => update.truncated = value.array("truncatedArrays")?,
            _ => {}
        }
    }
    Ok(update)
}

fn fragment(doc: Doc<'_>) -> Result<(i64, i64), Malformed> {
    Ok((doc.need("fragment")?.integer("splitEvent.fragment")?, doc.need("of")?.integer("splitEvent.of")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Timestamp, rawdoc};

    #[test]
    fn the_fragments_of_an_event_make_it_whole() {
        let ts = Timestamp { time: 7, increment: 3 };
        let first = rawdoc! { "_id": { "_data": "82A" }, "splitEvent": { "fragment": 1, "of": 2 },
        "operationType": "update", "clusterTime": ts, "ns": { "db": "d", "coll": "c" } };
        let second = rawdoc! { "_id": { "_data": "82B" }, "splitEvent": { "fragment": 2, "of": 2 },
        "fullDocument": { "_id": 1 }, "fullDocumentBeforeChange": null };
        let mut event = Event::default();
        event.read(Doc::new(first.as_bytes()).unwrap()).unwrap();
        assert!(event.is_partial());
        event.read(Doc::new(second.as_bytes()).unwrap()).unwrap();
        assert!(!event.is_partial());
        assert_eq!((event.operation, event.cluster_time), (Some(Operation::Update), Some(7 << 32 | 3)));
        assert!(event.after.is_some() && event.before.is_none());
        assert_eq!(event.token.get("_data").unwrap(), Some(Value::Text(b"82B")));
    }

    #[test]
    fn an_operation_that_nobody_knows_is_an_error() {
        let doc = rawdoc! { "operationType": "reshardCollection" };
        let read = Event::default().read(Doc::new(doc.as_bytes()).unwrap());
        assert_eq!(read, Err(Malformed::Field("operationType")));
    }
}
