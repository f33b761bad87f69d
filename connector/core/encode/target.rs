//! Where the records of one relation version go: one topic, or one that each row chooses. Topics are asked
//! for before a batch is encoded (`Target::learn`) and only looked up while it is.

use std::collections::HashMap;

use super::gate::Gates;
use super::reject;
use crate::batch::Cell;
use crate::error::{Error, Result};
use crate::position::Mark;
use crate::route::rule::{Route, TOPICS_MAX, TopicRule};
use crate::sink::{Targets, Topic};

/// Values that choose are remembered up to this many and a batch.
const SELECTORS_MAX: usize = 100_000;

/// A topic as records are written to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub topic: Topic,
    pub name: String,
    /// Largest record that the format and the topic take.
    pub record_bytes_max: usize,
}

impl Place {
    pub(crate) async fn of<T: Targets>(targets: &T, name: &str, record_bytes_max: u32) -> Result<Self> {
        let topic = targets.topic(name).await?;
        let record_bytes_max = record_bytes_max.min(topic.record_bytes_max) as usize;
        Ok(Self { topic, name: name.into(), record_bytes_max })
    }

    /// Of a relation that makes no records.
    pub(crate) fn nowhere() -> Self {
        Self::default()
    }
}

/// The cells of a row with the bytes that they point into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub bytes: &'a [u8],
    pub cells: &'a [Cell],
}

impl<'a> View<'a> {
    /// `None` where the value is NULL or was not sent.
    pub(crate) fn text(&self, index: usize) -> Option<&'a [u8]> {
        let cell = self.cells.get(index).filter(|cell| cell.tag == crate::batch::Tag::Text)?;
        let start = cell.start as usize;
        self.bytes.get(start..start + cell.len as usize)
    }
}

#[derive(Debug)]
pub(crate) enum Target {
    Fixed(Place),
    Chosen(Box<Chosen>),
}

/// Topics by the values that choose them.
#[derive(Debug)]
pub(crate) struct Chosen {
    route: Route,
    pub(super) rule: TopicRule,
    /// Of the rule, in its order.
    pub(super) columns: Vec<usize>,
    /// By the values of the columns, each followed by a zero byte. `None`: no topic that the route allows.
    pub(super) known: HashMap<Vec<u8>, Option<usize>>,
    pub(super) places: Vec<Place>,
    pub(super) gates: Gates,
}

/// What a row's choice came to.
pub(crate) enum Choice<'a> {
    Place(&'a Place),
    Refused,
    /// `learn` has not seen these values yet.
    Unknown,
}

impl Target {
    pub(crate) fn chosen(route: &Route, rule: TopicRule, columns: Vec<usize>, gates: Gates) -> Self {
        let (known, places) = (HashMap::new(), Vec::new());
        Self::Chosen(Box::new(Chosen { route: route.clone(), rule, columns, known, places, gates }))
    }

    /// Every topic that it knows.
    pub(crate) fn places(&self) -> &[Place] {
        match self {
            Self::Fixed(place) => std::slice::from_ref(place),
            Self::Chosen(chosen) => &chosen.places,
        }
    }

    /// Whether a row that chooses by these values makes no record now: then its topic need not be known.
    #[cold]
    pub(crate) fn stops(&self, selector: &[u8], mark: Mark) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Chosen(chosen) => chosen.gates.gate(Some(selector)).stops(mark),
        }
    }

    /// `room` is memory used again for every row.
    #[inline]
    pub(crate) fn choice(&self, row: View<'_>, room: &mut Vec<u8>) -> Choice<'_> {
        match self {
            Self::Fixed(place) => Choice::Place(place),
            Self::Chosen(chosen) => chosen.choice(row, room),
        }
    }
}

impl Chosen {
    fn choice(&self, row: View<'_>, room: &mut Vec<u8>) -> Choice<'_> {
        if !self.selector(row, room) {
            return Choice::Refused;
        }
        match self.known.get(room.as_slice()) {
            Some(Some(at)) => self.places.get(*at).map_or(Choice::Refused, Choice::Place),
            Some(None) => Choice::Refused,
            None => Choice::Unknown,
        }
    }

    /// The values that choose; false where one is missing.
    pub(super) fn selector(&self, row: View<'_>, out: &mut Vec<u8>) -> bool {
        out.clear();
        for column in &self.columns {
            let Some(text) = row.text(*column) else { return false };
            out.extend_from_slice(text);
            out.push(0);
        }
        true
    }

    /// To be called before a batch is learned: what is forgotten is only asked for again.
    pub(crate) fn make_room(&mut self) {
        if self.known.len() > SELECTORS_MAX {
            self.known.clear();
        }
    }

    /// Makes sure of the topic that this row chooses.
    pub(crate) async fn learn<T: Targets>(&mut self, targets: &T, row: View<'_>) -> Result<()> {
        let mut selector = Vec::new();
        if !self.selector(row, &mut selector) || self.known.contains_key(&selector) {
            return Ok(());
        }
        let texts: Vec<_> = selector.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
        let values: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let name = self.rule.topic(&values).filter(|name| self.route.allows(name));
        let at = match name {
            None => None,
            Some(name) => match self.places.iter().position(|place| place.name == name) {
                Some(at) => Some(at),
                None if self.places.len() >= TOPICS_MAX => None,
                None => {
                    self.places.push(Place::of(targets, &name, self.route.format.record_bytes_max).await?);
                    Some(self.places.len() - 1)
                }
            },
        };
        self.known.insert(selector, at);
        Ok(())
    }

    /// What is said of a row that chooses no topic; its values are not named.
    pub(crate) fn refusal(&self, table: &str, place: &str) -> Error {
        let columns = self.rule.columns().join(", ");
        let message = format!("table {table}: the row at {place} chooses no allowed topic by {columns}");
        Error::record(message).code(reject::TOPIC_NOT_ALLOWED).hint(
            "add the topic to `allow` of its [[route]], or a fallback to the route's map; a row may choose one of \
             at most 1000 topics, with a legal name",
        )
    }
}
