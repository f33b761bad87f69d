//! How a source finds its place again: by its position, and by what it passes over on a replay.

use std::sync::Arc;

use millrace_core::batch::ChangeBatch;
use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::relation::Relation;

use crate::log::{self, Event, Log};

/// From one opening to the next. `place` and `covered` are for the check and know no session.
pub trait Reading: Send + Sized {
    fn open(from: Option<&Position>) -> Result<Self>;
    /// A new batch is being filled.
    fn begin_batch(&mut self) {}
    fn apply(&mut self, log: &Log, event: Event, batch: &mut ChangeBatch) -> Result<()>;
    /// The table was altered: its next row is of a new version.
    fn altered(&mut self);
    fn position(&self) -> Position;
    fn is_whole(&self) -> bool;

    /// Where a server is asked to begin, and what may be confirmed to it.
    fn place(position: &Position) -> u64;
    /// How many changes of the log lie before a position.
    fn covered(log: &Log, position: &Position) -> usize;
}

/// The simplest one: counts the changes.
pub struct Counted {
    relation: Arc<Relation>,
    /// Changes delivered before this session began, and up to now.
    skipped: usize,
    count: usize,
    place: u64,
    is_whole: bool,
}

impl Reading for Counted {
    fn open(from: Option<&Position>) -> Result<Self> {
        let (place, count) = from.map_or(Ok((0, 0)), parts)?;
        let relation = Arc::new(log::relation());
        Ok(Self { relation, skipped: count, count, place, is_whole: true })
    }

    fn apply(&mut self, log: &Log, event: Event, batch: &mut ChangeBatch) -> Result<()> {
        match event {
            Event::Begin { .. } => (),
            Event::Change { change, .. } if change < self.skipped => self.is_whole = false,
            Event::Change { change, transaction } => {
                log::append(log, change, transaction, &self.relation, batch);
                self.is_whole = false;
                self.count = change + 1;
            }
            Event::Commit { transaction } => {
                self.is_whole = true;
                self.place = self.place.max(log.transactions[transaction].end);
            }
            Event::Alive { place } => self.place = self.place.max(place),
        }
        Ok(())
    }

    fn altered(&mut self) {
        self.relation = Arc::new(log::relation());
    }

    fn position(&self) -> Position {
        let (place, count) = (self.place, self.count);
        Position::new(serde_json::json!({ "place": place, "count": count }).to_string())
    }

    fn is_whole(&self) -> bool {
        self.is_whole
    }

    fn place(position: &Position) -> u64 {
        parts(position).map_or(0, |(place, _)| place)
    }

    fn covered(_log: &Log, position: &Position) -> usize {
        parts(position).map_or(0, |(_, count)| count)
    }
}

fn parts(position: &Position) -> Result<(u64, usize)> {
    let broken = || Error::fatal(format!("not a position of this source: {position}"));
    let json: serde_json::Value = serde_json::from_str(position.as_str()).map_err(|_| broken())?;
    let number = |name: &str| json.get(name).and_then(serde_json::Value::as_u64).ok_or_else(broken);
    let count = usize::try_from(number("count")?).map_err(|_| broken())?;
    Ok((number("place")?, count))
}
