//! Events in Avro by a schema that somebody declared or registered, instead of one that Millrace makes: JSON is
//! written by the schema, exactly or not at all. `schema` reads the text, `write` writes by it; start at
//! `Typed::put`.

mod schema;
mod write;

use std::collections::HashMap;

use self::schema::Schema;
pub(crate) use self::write::Misfit;
use super::target::View;
use crate::error::{Error, Result};
use crate::route::rule::Schemas;
use crate::sink::Targets;

/// Subjects that the rows of one relation may choose: as many as topics.
const SUBJECTS_MAX: usize = crate::route::rule::TOPICS_MAX;

/// The schemas of one relation's events, by the subject that each row chooses.
#[derive(Debug)]
pub(crate) struct Typed {
    settings: Schemas,
    /// Of the subject's template, in its order.
    columns: Vec<usize>,
    /// By the values of the columns, each followed by a zero byte.
    known: HashMap<Vec<u8>, Known>,
}

/// What the registry said of a subject.
#[derive(Debug)]
struct Known {
    subject: String,
    /// `None`: it has no schema.
    found: Option<Found>,
    /// Number of the batch in which it was asked.
    asked: u64,
}

#[derive(Debug)]
struct Found {
    id: u32,
    schema: Schema,
}

/// What came of a row's schema.
pub(crate) enum Outcome {
    Written,
    /// `learn` has to be asked first, or asked again.
    Unknown,
    Refused(Refusal),
}

/// Why there is no value.
pub(crate) enum Refusal {
    /// A column of the subject is NULL.
    NoSubject,
    NoSchema {
        subject: String,
    },
    Misfit {
        subject: String,
        misfit: Misfit,
    },
}

impl Typed {
    pub(crate) fn new(settings: &Schemas, columns: Vec<usize>) -> Self {
        Self { settings: settings.clone(), columns, known: HashMap::new() }
    }

    /// Writes a value, framed with the id of its schema. `room` is memory used again for every row. In the batch
    /// `seq` nothing is asked twice: whatever does not fit by then does not fit.
    pub(crate) fn put(
        &self,
        row: View<'_>,
        json: &[u8],
        seq: u64,
        room: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        if !selector(&self.columns, row, room) {
            return Outcome::Refused(Refusal::NoSubject);
        }
        let Some(known) = self.known.get(room.as_slice()) else { return Outcome::Unknown };
        let subject = || known.subject.clone();
        let is_fresh = known.asked == seq;
        let Some(found) = &known.found else {
            return match is_fresh {
                true => Outcome::Refused(Refusal::NoSchema { subject: subject() }),
                false => Outcome::Unknown,
            };
        };
        let start = out.len();
        out.push(0);
        out.extend_from_slice(&found.id.to_be_bytes());
        match found.schema.put(json, out) {
            Ok(()) => Outcome::Written,
            // The registry may have a newer schema by now.
            Err(misfit) => {
                out.truncate(start);
                match is_fresh {
                    true => Outcome::Refused(Refusal::Misfit { subject: subject(), misfit }),
                    false => Outcome::Unknown,
                }
            }
        }
    }

    /// Asks for the schema of this row's subject, unless it is known and the row fits it.
    pub(crate) async fn learn<T: Targets>(&mut self, targets: &T, row: View<'_>, seq: u64) -> Result<()> {
        let mut selector_room = Vec::new();
        if !selector(&self.columns, row, &mut selector_room) {
            return Ok(());
        }
        if self.known.get(&selector_room).is_some_and(|known| known.asked == seq) {
            return Ok(());
        }
        if self.known.len() >= SUBJECTS_MAX && !self.known.contains_key(&selector_room) {
            self.known.clear();
        }
        let texts: Vec<_> = selector_room.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let subject = self.settings.subject.fill(texts.iter().map(AsRef::as_ref));
        let declared = self.settings.texts.iter().find(|(name, _)| *name == subject);
        let found = match declared {
            Some((_, text)) => Some((targets.schema(&subject, text).await?, text.clone())),
            None => targets.registered(&subject).await?,
        };
        let found = match found {
            None => None,
            Some((id, text)) => {
                let schema = Schema::parse(&text).map_err(|why| {
                    Error::config(format!("the schema of subject {subject} cannot be written by: {why}"))
                        .hint("register one that is a record of what its events hold")
                })?;
                Some(Found { id, schema })
            }
        };
        self.known.insert(selector_room, Known { subject, found, asked: seq });
        Ok(())
    }
}

/// The values that choose; false where one is missing.
fn selector(columns: &[usize], row: View<'_>, out: &mut Vec<u8>) -> bool {
    out.clear();
    for column in columns {
        let Some(text) = row.text(*column) else { return false };
        out.extend_from_slice(text);
        out.push(0);
    }
    true
}
