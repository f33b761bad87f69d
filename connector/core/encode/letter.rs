//! Dead letters: a change that cannot become a record, raw, with what is wrong with it. A letter holds its
//! relation too, so that the change can be encoded again from the letter alone.
//!
//! Key: the change's position. Value: the letter as JSON. Headers say the same for those who only look on. What
//! `[format]` hides of a row is not in its letter either.

use std::sync::Arc;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::change::{Context, Pass};
use super::hidden::{How, Worn};
use super::{header, reject};
use crate::batch::{
    Before, Cell, Change, ChangeBatch, Op, Record, ReplicationOrigin, Row, Span, Tag, Transaction,
    Value as CellValue,
};
use crate::chaos::{self, Point};
use crate::error::Error;
use crate::position::{Mark, Position};
use crate::relation::Relation;
use crate::route;

const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Letter {
    pub v: u32,
    /// Which attempt to deliver it has failed: 1 from the stream, then one more for every replay.
    pub attempt: u32,
    pub error: Reason,
    pub position: String,
    pub mark: Mark,
    pub transaction: Transaction,
    /// Its replication origin by name, and where it committed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<(String, u64)>,
    pub relation: Relation,
    pub op: Op,
    pub has_before: Before,
    /// A text, null, or `false` for a value that was not sent; one a column. Absent where the row is too large
    /// for the topic of dead letters.
    pub before: Option<Vec<Json>>,
    pub after: Option<Vec<Json>>,
    /// Columns are left out of the rows, or disguised in them, as in every record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// Those that are disguised to keep a secret; `None` where nothing is hidden, and in letters of before it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disguised: Option<Vec<String>>,
    /// Stands for rows that are too large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// `bad_json`, `too_large`, ...
    pub code: String,
    pub message: String,
    /// Of the schema that the change does not fit, or would have been written by, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_id: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    pub bytes: usize,
    pub sha256: String,
}

impl Letter {
    /// A letter as it lies in its topic.
    pub fn parse(value: &[u8]) -> Result<Self, String> {
        let letter: Self = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        match letter.v {
            VERSION => Ok(letter),
            other => Err(format!("its version is {other}, and this release knows {VERSION}")),
        }
    }

    /// What its rows wear already.
    pub fn worn(&self) -> Worn {
        match (self.hidden, &self.disguised) {
            (false, _) => Worn::default(),
            (true, Some(columns)) => Worn::By(columns.clone()),
            (true, None) => Worn::Unsaid,
        }
    }

    /// The change again; `None` where its rows were left out.
    pub fn to_batch(&self, seq: u64) -> Option<ChangeBatch> {
        if self.left_out.is_some() {
            return None;
        }
        let mut batch = ChangeBatch {
            relations: vec![Arc::new(self.relation.clone())],
            end: Some(Position::new("{}")),
            whole: true,
            seq,
            ..ChangeBatch::default()
        };
        let origin = match &self.origin {
            Some((name, commit)) => {
                Some(ReplicationOrigin { name: put_text(&mut batch, Tag::Text, name)?, commit: *commit })
            }
            None => None,
        };
        batch.transactions.push(Transaction { origin, ..self.transaction });
        let before = put_row(&mut batch, self.before.as_deref().unwrap_or_default())?;
        let after = put_row(&mut batch, self.after.as_deref().unwrap_or_default())?;
        let (op, has_before, mark) = (self.op, self.has_before, self.mark);
        batch.changes.push(Change { op, has_before, relation: 0, transaction: 0, mark, before, after });
        Some(batch)
    }

    fn fits_beside(&mut self, bytes: usize, limit: usize) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        if bytes + text.len() <= limit {
            return text;
        }
        let hash = digest(&SHA256, text.as_bytes());
        let sha256 = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        self.left_out = Some(LeftOut { bytes: text.len(), sha256 });
        (self.before, self.after) = (None, None);
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn put_row(batch: &mut ChangeBatch, cells: &[Json]) -> Option<Row> {
    let start = u32::try_from(batch.cells.len()).ok()?;
    for cell in cells {
        let (tag, text) = match cell {
            Json::String(text) => (Tag::Text, text.as_str()),
            Json::Null => (Tag::Null, ""),
            _ => (Tag::Unchanged, ""),
        };
        let cell = put_text(batch, tag, text)?;
        batch.cells.push(cell);
    }
    Some(Row { start, len: u32::try_from(cells.len()).ok()? })
}

fn put_text(batch: &mut ChangeBatch, tag: Tag, text: &str) -> Option<Cell> {
    let (start, len) = (u32::try_from(batch.bytes.len()).ok()?, u32::try_from(text.len()).ok()?);
    batch.bytes.extend_from_slice(text.as_bytes());
    Some(Cell { start, len, tag })
}

impl Pass<'_> {
    fn letter(&self, context: Context<'_>, error: &Error, attempt: u32) -> Option<Letter> {
        let change = context.change;
        let hidden = &context.plan.hidden;
        let row = |row: Row| {
            let cells = self.batch.cells_of(row).iter().enumerate();
            let cells = cells.map(|(index, cell)| {
                let value = self.batch.value(*cell);
                match hidden.iter().find(|hidden| hidden.index == index) {
                    None => shown(value),
                    Some(hidden) => disguised(value, &hidden.how),
                }
            });
            cells.collect::<Vec<_>>()
        };
        let relation = self.batch.relations.get(change.relation as usize)?.as_ref().clone();
        let worn = hidden.iter().filter(|hidden| hidden.is_worn());
        let worn = worn.filter_map(|hidden| Some(relation.columns.get(hidden.index)?.name.clone()));
        let disguised = (!hidden.is_empty()).then(|| worn.collect());
        Some(Letter {
            v: VERSION,
            attempt,
            error: Reason {
                code: error.code_text().unwrap_or("record").to_owned(),
                message: error.to_string(),
                schema_id: error.schema_id().or(context.plan.schema_id),
            },
            position: reject::place(change.mark),
            mark: change.mark,
            transaction: *context.transaction,
            origin: context.transaction.origin.map(|origin| {
                let name = self.batch.text(origin.name);
                (String::from_utf8_lossy(name).into_owned(), origin.commit)
            }),
            relation,
            op: change.op,
            has_before: change.has_before,
            before: Some(row(change.before)),
            after: Some(row(change.after)),
            hidden: !hidden.is_empty(),
            disguised,
            left_out: None,
        })
    }

    /// Puts a letter in the place of a change's records. False where there is no topic for it.
    #[cold]
    pub(crate) fn bury(&mut self, context: Context<'_>, error: &Error) -> bool {
        let Some(dead) = self.dead else { return false };
        let Some(mut letter) = self.letter(context, error, self.attempt) else { return false };
        let start = self.out.bytes.len();
        self.out.bytes.extend_from_slice(letter.position.as_bytes());
        let key_end = self.out.bytes.len();
        let table = context.plan.table.as_str();
        let attempt = letter.attempt.to_string();
        let schema_id = letter.error.schema_id.map(|id| id.to_string());
        let schema_id = schema_id.as_ref().map(|id| ("error.schema_id", id.as_str()));
        let headers = [
            ("position", letter.position.as_str()),
            ("relation", table),
            ("error.code", &letter.error.code),
            ("error.message", &letter.error.message),
            ("attempt", &attempt),
        ];
        for (name, value) in headers.into_iter().chain(schema_id) {
            header::put(&mut self.out.bytes, name, |out| out.extend_from_slice(value.as_bytes()));
        }
        let headers_end = self.out.bytes.len();
        let text = letter.fits_beside(headers_end - start, dead.record_bytes_max);
        self.out.bytes.extend_from_slice(text.as_bytes());
        let spans = [(start, key_end), (key_end, headers_end), (headers_end, self.out.bytes.len())];
        let [Some(key), Some(headers), Some(value)] = spans.map(|(start, end)| span(start, end)) else {
            return false;
        };
        let partition = route::partition(Some(self.out.slice(key)), dead.topic.partitions);
        self.out.records.push(Record {
            topic: dead.topic.index,
            partition,
            key: Some(key),
            value: Some(value),
            headers,
            mark: context.change.mark,
            time_ms: 0,
        });
        chaos::pass(Point::LetterPlaced);
        true
    }
}

fn shown(value: CellValue<'_>) -> Json {
    match value {
        CellValue::Null => Json::Null,
        CellValue::Unchanged => Json::Bool(false),
        CellValue::Text(text) => Json::String(String::from_utf8_lossy(text).into_owned()),
    }
}

/// A column that is left out counts as one that was not sent.
fn disguised(value: CellValue<'_>, how: &How) -> Json {
    let by = match how {
        How::LeftOut => return Json::Bool(false),
        How::Worn => return shown(value),
        How::By(by) => by,
    };
    let text = match value {
        CellValue::Text(text) => text,
        CellValue::Null if by.hides_null() => b"",
        CellValue::Null | CellValue::Unchanged => return shown(value),
    };
    let mut out = Vec::new();
    by.put(text, &mut out);
    shown(CellValue::Text(&out))
}

fn span(start: usize, end: usize) -> Option<Span> {
    Some(Span { start: u32::try_from(start).ok()?, len: u32::try_from(end - start).ok()? })
}
