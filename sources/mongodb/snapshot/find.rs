//! What the server is asked for a chunk, and the rows in its answer. Start at `Chunk::command`.
//!
//! Ids are put into the command as the server sent them, byte by byte: nothing that stands for them in between
//! could change their type.

use millrace_core::batch::{ChangeBatch, Row, document};
use millrace_core::snapshot::CHUNK_BYTES;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc, rawdoc};

use crate::bson::{Dialect, Doc, FieldRules, Malformed, Value};
use crate::cells::{CELLS, NULL, of_document, of_id};
use crate::collections::Name;
use crate::resume_token::ClusterTime;
use crate::snapshot::collection::IdPart;
use crate::snapshot::id::{self, Id};
use crate::snapshot::tracker::row;

/// Enough that parts are about alike, and read at once.
const SAMPLES_A_PART: usize = 100;

/// Which documents.
#[derive(Clone, Copy, Debug)]
pub enum Range<'a> {
    /// What is left of a part.
    Of(&'a IdPart),
    These(&'a [Id]),
}

/// One chunk, as it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    pub collection: &'a str,
    pub range: Range<'a>,
    /// A condition on the documents besides.
    pub filter: Option<&'a RawDocumentBuf>,
    /// Documents at most. One more is asked for, so that the last chunk is known to be the last.
    pub rows_max: u64,
    pub seen: ClusterTime,
    /// As of `seen`; otherwise what is committed then or later.
    pub is_exact: bool,
}

impl Chunk<'_> {
    pub fn command(&self) -> Result<RawDocumentBuf, mongodb::bson::error::Error> {
        let rows = i64::try_from(self.rows_max.saturating_add(1)).unwrap_or(i64::MAX);
        let seen = self.seen.timestamp();
        let concern = match self.is_exact {
            true => doc! { "level": "snapshot", "atClusterTime": seen },
            false => doc! { "level": "majority", "afterClusterTime": seen },
        };
        let base = doc! {
            "find": self.collection, "hint": { "_id": 1 }, "sort": { "_id": 1 }, "limit": rows, "batchSize": rows,
            "readConcern": concern,
        };
        let mut elements = base_elements(&base)?;
        let mut filter = Vec::new();
        match self.range {
            Range::Of(part) => {
                // Where a comparison would stay inside one type, these go on in the index. `min` takes its bound in,
                // and `max` does not.
                if let Some(first) = part.last.as_ref().or(part.from.as_ref()) {
                    put_document("min", &element("_id", first), &mut elements);
                }
                if let Some(until) = &part.until {
                    put_document("max", &element("_id", until), &mut elements);
                }
                if let Some(last) = &part.last {
                    put_document("_id", &element("$ne", last), &mut filter);
                }
            }
            Range::These(ids) => {
                let mut list = Vec::new();
                for (index, id) in ids.iter().enumerate() {
                    id::put(&index.to_string(), id, &mut list);
                }
                let mut any = Vec::new();
                put(ARRAY, "$in", &list, &mut any);
                put_document("_id", &any, &mut filter);
            }
        }
        if let Some(condition) = self.filter {
            // In a list of its own, because it may name the id, too.
            let condition = Doc::new(condition.as_bytes()).map_or(&[][..], Doc::as_bytes);
            let mut both = Vec::new();
            put_document("0", condition, &mut both);
            put(ARRAY, "$and", &both, &mut filter);
        }
        put_document("filter", &filter, &mut elements);
        let mut bytes = Vec::with_capacity(elements.len() + 5);
        put_framed(&elements, &mut bytes);
        RawDocumentBuf::from_bytes(bytes)
    }
}

const DOCUMENT: u8 = 0x03;
const ARRAY: u8 = 0x04;

fn base_elements(base: &Document) -> Result<Vec<u8>, mongodb::bson::error::Error> {
    let raw = RawDocumentBuf::try_from(base)?;
    Ok(Doc::new(raw.as_bytes()).map(|doc| doc.as_bytes().to_vec()).unwrap_or_default())
}

fn element(name: &str, id: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    id::put(name, id, &mut out);
    out
}

fn put_document(name: &str, elements: &[u8], out: &mut Vec<u8>) {
    put(DOCUMENT, name, elements, out);
}

fn put(code: u8, name: &str, elements: &[u8], out: &mut Vec<u8>) {
    out.push(code);
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    put_framed(elements, out);
}

/// Elements with their length before them and a zero byte behind.
fn put_framed(elements: &[u8], out: &mut Vec<u8>) {
    // The server refuses what is above 48 MB, long before four bytes are too few.
    let length = i32::try_from(elements.len() + 5).unwrap_or(i32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(elements);
    out.push(0);
}

/// What of the answers to one command was taken.
#[derive(Debug, Default)]
pub struct Found {
    pub rows: ChangeBatch,
    pub ids: Vec<Id>,
    /// There is more in the range.
    pub more: bool,
    /// The server's time at the reading.
    pub until: ClusterTime,
}

/// How the rows are written.
#[derive(Clone, Copy, Debug)]
pub struct Writing<'a> {
    pub dialect: Dialect,
    pub keys: Dialect,
    pub rules: Option<&'a FieldRules>,
    pub rows_max: u64,
    pub is_mongos: bool,
}

/// Why an answer could not be taken.
#[derive(Debug)]
pub enum Fault {
    Malformed(Malformed),
    Unwritable(crate::bson::Fault),
}

impl From<Malformed> for Fault {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl Found {
    /// Takes one answer.
    pub fn take(&mut self, reply: Doc<'_>, writing: Writing<'_>) -> Result<(), Fault> {
        let cursor = reply.need("cursor")?.document("cursor")?;
        self.until = self.until.max(time_of(reply, writing.is_mongos)?);
        self.more |= cursor.need("id")?.integer("cursor.id")? != 0;
        for name in ["firstBatch", "nextBatch"] {
            let Some(batch) = cursor.get(name)? else { continue };
            for document in batch.array(name)?.elements() {
                if self.ids.len() as u64 >= writing.rows_max || self.rows.bytes.len() >= CHUNK_BYTES {
                    self.more = true;
                    return Ok(());
                }
                self.row(document?.1.document(name)?, writing)?;
            }
        }
        Ok(())
    }

    fn row(&mut self, doc: Doc<'_>, writing: Writing<'_>) -> Result<(), Fault> {
        let id = id::of(doc)?;
        let mut cells = [NULL; document::CELLS];
        let unwritable = Fault::Unwritable;
        cells[document::ID] = of_id(&mut self.rows, writing.keys, value_of(&id)?).map_err(unwritable)?;
        let after = of_document(&mut self.rows, writing.dialect, doc, writing.rules);
        cells[document::AFTER] = after.map_err(unwritable)?;
        let start = u32::try_from(self.rows.cells.len()).map_err(|_| Malformed::Length)?;
        self.rows.cells.extend_from_slice(&cells);
        self.rows.changes.push(row(Row { start, len: CELLS }));
        self.ids.push(id);
        Ok(())
    }
}

fn value_of(id: &[u8]) -> Result<Value<'_>, Malformed> {
    Ok(Doc::of_elements(id).elements().next().ok_or(Malformed::Cut)??.1)
}

/// What the stream must have passed. Shards tell a time of their own data; the cluster's covers the events of a
/// transaction of several shards too, which the reading may have seen.
fn time_of(reply: Doc<'_>, is_mongos: bool) -> Result<ClusterTime, Malformed> {
    let time = if is_mongos {
        reply.need("$clusterTime")?.document("$clusterTime")?.need("clusterTime")?
    } else {
        reply.need("operationTime")?
    };
    time.timestamp("operationTime").map(ClusterTime)
}

/// A condition as a signal or the file has it: a query in JSON, extended or plain.
pub fn condition(text: &str) -> Result<RawDocumentBuf, Box<dyn std::error::Error + Send + Sync>> {
    let document: Document = serde_json::from_str(text)?;
    Ok(RawDocumentBuf::try_from(&document)?)
}

/// Whether the server understands a condition; without running it.
pub fn explained(name: &Name, condition: &RawDocumentBuf) -> RawDocumentBuf {
    let find = rawdoc! { "find": name.collection.as_str(), "filter": condition.clone() };
    rawdoc! { "explain": find, "verbosity": "queryPlanner" }
}

/// Some ids in their order, to cut a collection at: many for each of its parts, so that these are about alike.
pub fn sampled(name: &Name, parts: usize) -> Document {
    let size = i64::try_from(parts.saturating_mul(SAMPLES_A_PART)).unwrap_or(i64::MAX);
    let pipeline = [
        doc! { "$sample": { "size": size } },
        doc! { "$project": { "_id": 1 } },
        doc! { "$sort": { "_id": 1 } },
    ];
    doc! { "aggregate": &name.collection, "pipeline": pipeline.to_vec(), "cursor": { "batchSize": size } }
}

/// Where that many parts meet, from the answer to `sampled`. One id may be in it twice.
pub fn bounds(reply: Doc<'_>, parts: usize) -> Result<Vec<Id>, Malformed> {
    let mut ids: Vec<Id> = Vec::new();
    let batch = reply.need("cursor")?.document("cursor")?.need("firstBatch")?.array("firstBatch")?;
    for document in batch.elements() {
        ids.push(id::of(document?.1.document("firstBatch")?)?);
    }
    let mut bounds: Vec<Id> = (1..parts).filter_map(|n| ids.get(n * ids.len() / parts).cloned()).collect();
    bounds.dedup();
    Ok(bounds)
}

/// A rough count, from the collection's figures.
pub fn count(name: &Name) -> Document {
    doc! { "count": &name.collection }
}

/// Whether there is a document at all.
pub fn any(name: &Name) -> Document {
    doc! { "find": &name.collection, "limit": 1, "projection": { "_id": 1 }, "singleBatch": true }
}

/// The answer to `any`.
pub fn has_any(reply: &Document) -> bool {
    let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    batch.is_ok_and(|batch| !batch.is_empty())
}

/// The answer to `count`.
pub fn counted(reply: &Document) -> u64 {
    match reply.get("n") {
        Some(Bson::Int32(n)) => u64::try_from(*n).unwrap_or(0),
        Some(Bson::Int64(n)) => u64::try_from(*n).unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Timestamp, oid::ObjectId};

    fn id_of(value: impl Into<Bson>) -> Id {
        let raw = RawDocumentBuf::try_from(&doc! { "_id": value.into() }).unwrap();
        id::of(Doc::new(raw.as_bytes()).unwrap()).unwrap()
    }

    fn behind(id: impl Into<Bson>) -> IdPart {
        IdPart { last: Some(id_of(id)), ..IdPart::default() }
    }

    fn asked(range: Range<'_>, is_exact: bool) -> Document {
        asked_where(range, is_exact, None)
    }

    fn asked_where(range: Range<'_>, is_exact: bool, filter: Option<&RawDocumentBuf>) -> Document {
        let seen = ClusterTime(5 << 32 | 6);
        let chunk = Chunk { collection: "c", range, filter, rows_max: 9, seen, is_exact };
        Document::try_from(chunk.command().unwrap().as_ref()).unwrap()
    }

    #[test]
    fn a_condition_stands_beside_the_range_and_its_values_have_their_types() {
        let text = r#"{"_id": {"$gt": {"$oid": "070707070707070707070707"}}, "n": {"$lt": 5}}"#;
        let condition = condition(text).unwrap();
        let document = doc! { "_id": { "$gt": ObjectId::from_bytes([7; 12]) }, "n": { "$lt": 5 } };
        let next = asked_where(Range::Of(&behind(7_i64)), true, Some(&condition));
        let filter = next.get_document("filter").unwrap();
        assert_eq!(filter, &doc! { "_id": { "$ne": 7_i64 }, "$and": [document.clone()] });
        let first = asked_where(Range::Of(&IdPart::default()), true, Some(&condition));
        assert_eq!(first.get_document("filter").unwrap(), &doc! { "$and": [document] });
        assert!(super::condition("id > 5").is_err());
    }

    #[test]
    fn a_range_begins_after_an_id_whatever_comes_next_to_it_in_the_index() {
        let first = asked(Range::Of(&IdPart::default()), true);
        assert_eq!(first.get_document("hint").unwrap(), &doc! { "_id": 1 });
        let at = Timestamp { time: 5, increment: 6 };
        assert_eq!(
            first.get_document("readConcern").unwrap(),
            &doc! { "level": "snapshot", "atClusterTime": at }
        );
        assert!(!first.contains_key("min") && first.get_i64("limit").is_ok_and(|limit| limit == 10));
        let next = asked(Range::Of(&behind(7_i64)), false);
        assert_eq!(next.get_document("min").unwrap(), &doc! { "_id": 7_i64 });
        assert_eq!(next.get_document("filter").unwrap(), &doc! { "_id": { "$ne": 7_i64 } });
        let concern = doc! { "level": "majority", "afterClusterTime": at };
        assert_eq!(next.get_document("readConcern").unwrap(), &concern);
    }

    #[test]
    fn a_part_ends_before_the_next_one_begins() {
        let parts = IdPart::cut(&[id_of(3), id_of("a")]);
        let min_max = |part: &IdPart| {
            let asked = asked(Range::Of(part), true);
            ["min", "max"]
                .map(|bound| asked.get_document(bound).ok().and_then(|bound| bound.get("_id").cloned()))
        };
        let [first, middle, last] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!(min_max(first), [None, Some(Bson::from(3))]);
        assert_eq!(min_max(middle), [Some(Bson::from(3)), Some("a".into())]);
        assert_eq!(min_max(last), [Some("a".into()), None]);
        assert!(
            asked(Range::Of(middle), true).get_document("filter").unwrap().is_empty(),
            "its first id is its own"
        );
        let begun = IdPart { last: Some(id_of(5)), ..middle.clone() };
        assert_eq!(min_max(&begun), [Some(Bson::from(5)), Some("a".into())]);
    }

    #[test]
    fn parts_meet_at_ids_that_are_spread_over_a_sample() {
        let meet = |ids: &[i32], parts: usize| {
            let mut list = mongodb::bson::RawArrayBuf::new();
            ids.iter().for_each(|id| list.push(rawdoc! { "_id": *id }));
            let reply = rawdoc! { "cursor": { "firstBatch": list, "id": 0_i64, "ns": "d.c" }, "ok": 1.0 };
            bounds(Doc::new(reply.as_bytes()).unwrap(), parts).unwrap()
        };
        assert_eq!(meet(&[1, 2, 3, 4, 5, 6], 3), [id_of(3), id_of(5)]);
        assert_eq!(meet(&[1, 1, 1], 3), [id_of(1)], "rises");
        assert_eq!(meet(&[], 2), [] as [Id; 0]);
        assert_eq!(meet(&[1, 2], 1), [] as [Id; 0]);
    }

    #[test]
    fn listed_ids_are_asked_for_with_their_types() {
        let these = asked(Range::These(&[id_of(1), id_of("a"), id_of(1.0)]), true);
        assert_eq!(these.get_document("filter").unwrap(), &doc! { "_id": { "$in": [1, "a", 1.0] } });
    }

    fn taken(documents: &[RawDocumentBuf], cursor: i64, rows_max: u64) -> Found {
        let mut list = mongodb::bson::RawArrayBuf::new();
        for document in documents {
            list.push(document.clone());
        }
        let reply = rawdoc! {
            "cursor": { "firstBatch": list, "id": cursor, "ns": "d.c" },
            "ok": 1.0,
            "operationTime": Timestamp { time: 8, increment: 1 },
            "$clusterTime": { "clusterTime": Timestamp { time: 9, increment: 1 } },
        };
        let mut found = Found::default();
        let writing = Writing {
            dialect: Dialect::Strict,
            keys: Dialect::Relaxed,
            rules: None,
            rows_max,
            is_mongos: false,
        };
        found.take(Doc::new(reply.as_bytes()).unwrap(), writing).unwrap();
        found
    }

    #[test]
    fn an_answer_becomes_rows_and_says_whether_there_is_more() {
        let documents = [rawdoc! { "_id": 1, "a": "x" }, rawdoc! { "a": "y", "_id": "two" }];
        let found = taken(&documents, 0, 9);
        assert_eq!((found.ids.len(), found.more), (2, false));
        assert_eq!(found.until.to_string(), "8.1");
        let cells = found.rows.cells_of(found.rows.changes[1].after);
        assert_eq!(found.rows.text(cells[document::ID]), br#""two""#);
        assert_eq!(found.rows.text(cells[document::AFTER]), br#"{"a": "y","_id": "two"}"#);
        let cut = taken(&documents, 0, 1);
        assert_eq!((cut.ids.len(), cut.more), (1, true));
        assert!(taken(&documents, 77, 9).more);
    }
}
