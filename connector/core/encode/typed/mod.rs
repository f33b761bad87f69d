//! Events by a schema that somebody declared or registered, instead of one that Millrace makes of rows. In Avro JSON
//! is written by it, exactly or not at all; of JSON Schema it is checked and goes out as it is. `schema` reads a text
//! of Avro and `write` writes by it; `check` is for JSON Schema. Start at `Typed::put`.

mod check;
mod schema;
mod write;

use std::collections::HashMap;

use self::check::Checker;
use self::schema::Schema;
use super::target::View;
use crate::error::{Error, Result};
use crate::route::rule::Schemas;
use crate::sink::{Registered, SchemaType, Targets};

/// Subjects that the rows of one relation may choose: as many as topics.
const SUBJECTS_MAX: usize = crate::route::rule::TOPICS_MAX;

/// The schemas of one relation's events, by the subject that each row chooses.
#[derive(Debug)]
pub(crate) struct Typed {
    settings: Schemas,
    /// Of the subject's template, in its order.
    columns: Vec<usize>,
    /// What is registered for a subject without a text of its own, where the file asks for it.
    derived: Option<String>,
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
    form: Form,
}

/// A schema, ready for events.
#[derive(Debug)]
enum Form {
    Avro(Schema),
    Json(Checker),
}

impl Form {
    /// The error says what is wrong with the text.
    fn parse(of: SchemaType, text: &str) -> Result<Self, String> {
        Ok(match of {
            SchemaType::Avro => Self::Avro(Schema::parse(text)?),
            SchemaType::Json => Self::Json(Checker::parse(text)?),
        })
    }

    /// The error says what does not fit, and where.
    fn put(&self, json: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Avro(schema) => schema.put(json, out).map_err(|misfit| misfit.to_string()),
            Self::Json(checker) => {
                checker.check(json)?;
                out.extend_from_slice(json);
                Ok(())
            }
        }
    }
}

/// Why events cannot be written by this text; `None` where they can.
pub fn unusable(of: SchemaType, text: &str) -> Option<String> {
    Form::parse(of, text).err()
}

/// What came of a row's schema.
pub(crate) enum Outcome {
    /// By the schema of this id.
    Written(u32),
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
        id: u32,
        misfit: String,
    },
}

impl Typed {
    /// `derived` counts where the file asks for it.
    pub(crate) fn new(settings: &Schemas, columns: Vec<usize>, derived: Option<String>) -> Self {
        let derived = derived.filter(|_| settings.derived);
        Self { settings: settings.clone(), columns, derived, known: HashMap::new() }
    }

    /// The header that holds a schema's id; `None`: it is in the frame.
    pub(crate) fn id_header(&self) -> Option<&str> {
        self.settings.id_header.as_deref()
    }

    /// Writes a value, framed with the id of its schema unless that is in a header. `room` is memory used again for
    /// every row. In the batch `seq` nothing is asked twice: whatever does not fit by then does not fit.
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
        if self.settings.id_header.is_none() {
            out.push(0);
            out.extend_from_slice(&found.id.to_be_bytes());
        }
        match found.form.put(json, out) {
            Ok(()) => Outcome::Written(found.id),
            // The registry may have a newer schema by now.
            Err(misfit) => {
                out.truncate(start);
                match is_fresh {
                    true => Outcome::Refused(Refusal::Misfit { subject: subject(), id: found.id, misfit }),
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
        let found = self.found(targets, &subject).await?;
        self.known.insert(selector_room, Known { subject, found, asked: seq });
        Ok(())
    }

    /// The schema of a subject: declared, made of the route, or the registry's newest.
    async fn found<T: Targets>(&self, targets: &T, subject: &str) -> Result<Option<Found>> {
        let of = self.settings.of;
        let declared = self.settings.texts.iter().find(|(name, _)| name == subject).map(|(_, text)| text);
        if let Some(text) = declared.or(self.derived.as_ref()) {
            // Read first: what nobody can read is not registered either.
            let form = readable(of, subject, text)?;
            let id = targets.schema(of, subject, text).await?;
            return Ok(Some(Found { id, form }));
        }
        match targets.registered(subject).await? {
            None => Ok(None),
            Some(Registered { id, of: other, text }) if other == of => {
                Ok(Some(Found { id, form: readable(of, subject, &text)? }))
            }
            Some(Registered { of: other, .. }) => Err(Error::config(format!(
                "the schema of subject {subject} is of type {other}, and its route's events are to be {of}"
            ))
            .hint("correct schema_type or subject in [route.outbox]")),
        }
    }
}

fn readable(of: SchemaType, subject: &str, text: &str) -> Result<Form> {
    Form::parse(of, text).map_err(|why| {
        let hint = match of {
            SchemaType::Avro => "register one that is a record of what its events hold",
            SchemaType::Json => "correct it, in [route.outbox.schemas] or in the registry",
        };
        Error::config(format!("the schema of subject {subject} cannot be written by: {why}")).hint(hint)
    })
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
