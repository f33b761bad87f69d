//! One table or one type of event waits while everything else goes on: what waits, how far it was delivered, and when it
//! is tried again.
//!
//! The encoder finds what cannot go out (`Strike`) and ends the attempt with it. The next attempt begins at the stored
//! position, from which the source holds the thing: its changes are read and make no records, and the source's position
//! says so. Until one that does is stored, the strike is remembered here, over whatever else ends an attempt. Nothing that
//! was on its way is needed for that. To release it is an attempt too: the source begins where it was held, and each change
//! passes the `Gate` of what it belongs to. Gates never move while an attempt lasts.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::position::Mark;

/// Of an error because a registry that was there before does not answer for something new.
pub const REGISTRY_AWAY: &str = "registry_away";

/// A try opens everything anew, for a second or so: first soon, because what is mended is mostly mended while somebody
/// looks on, and then seldom.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);
/// A registry that is away is asked whether it is back, which disturbs nobody. One that is there and takes nothing is
/// tried less and less.
const ASK_EVERY: Duration = Duration::from_secs(3);
const ASK_SELDOM: Duration = Duration::from_secs(120);
/// Of the time that an attempt takes to come back to where the stream was, at least so much goes by until the next try.
const TIMES_AS_LONG: u32 = 2;
/// More would not fit into a position, which is one record.
pub const HELD_MAX: usize = 100;
/// A try that fails after longer than this leaves those that are due with it for another time.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// As much of an error as a position keeps.
const WORDS_MAX: usize = 600;

/// What waits: a relation, or those of its rows that choose their topic by these values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    /// `schema.table`
    pub relation: String,
    /// Both empty for the whole relation.
    pub columns: Vec<String>,
    pub values: Vec<String>,
}

impl Thing {
    pub fn is_whole(&self) -> bool {
        self.columns.is_empty()
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.relation)?;
        for (nth, (column, value)) in self.columns.iter().zip(&self.values).enumerate() {
            let lead = if nth == 0 { ", the events with" } else { " and" };
            write!(f, "{lead} {column} = {value}")?;
        }
        Ok(())
    }
}

/// Something cannot go out, and may wait alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    pub thing: Thing,
    /// Where its records go, as far as that is known.
    pub topics: Vec<String>,
    pub code: String,
    pub why: String,
    pub hint: Option<String>,
}

/// Up to where changes were delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Every transaction that commits before this place.
    pub commit: u64,
    /// And of the one that was cut, everything up to this change.
    pub open: Option<Mark>,
}

impl Passed {
    pub fn covers(self, mark: Mark) -> bool {
        mark.commit < self.commit || self.open.is_some_and(|open| mark <= open)
    }
}

/// Which changes make records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    #[default]
    Open,
    /// Those behind this place.
    Past(Passed),
    /// None.
    Shut,
}

impl Gate {
    #[inline]
    pub fn stops(self, mark: Mark) -> bool {
        match self {
            Self::Open => false,
            Self::Past(passed) => passed.covers(mark),
            Self::Shut => true,
        }
    }
}

/// One thing that is held, in one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    pub thing: Thing,
    pub topics: Vec<String>,
    pub gate: Gate,
}

/// What an attempt holds and releases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lanes {
    /// Of everything else.
    pub rest: Gate,
    pub held: Vec<Lane>,
    /// Nothing was held in the stored position.
    pub is_new: bool,
}

impl Lanes {
    /// Something is being released.
    pub fn releases(&self) -> bool {
        self.held.iter().any(|lane| lane.gate != Gate::Shut)
    }

    /// Of a whole relation, where its rows need not be told apart.
    pub fn gate(&self, relation: &str) -> Gate {
        let whole = self.held.iter().find(|lane| lane.thing.is_whole() && lane.thing.relation == relation);
        whole.map_or(self.rest, |lane| lane.gate)
    }

    /// Those of a relation's rows that have a gate of their own.
    pub fn parts<'a>(&'a self, relation: &'a str) -> impl Iterator<Item = &'a Lane> {
        self.held.iter().filter(move |lane| !lane.thing.is_whole() && lane.thing.relation == relation)
    }

    /// Whether a relation makes no records at all.
    pub fn shuts(&self, relation: &str) -> bool {
        self.gate(relation) == Gate::Shut && self.parts(relation).all(|lane| lane.gate == Gate::Shut)
    }

    /// Whether a change makes no record, whatever its row is.
    pub fn stops(&self, relation: &str, mark: Mark) -> bool {
        self.gate(relation).stops(mark) && self.parts(relation).all(|lane| lane.gate.stops(mark))
    }

    /// What of a relation a change is there for that lies before the position: then it is released, and may fail again.
    pub fn tried(&self, relation: &str, mark: Mark) -> Option<&Lane> {
        let is_tried = |lane: &&Lane| lane.gate != Gate::Shut && lane.thing.relation == relation;
        self.held.iter().find(is_tried).filter(|_| self.rest.stops(mark))
    }

    /// What is held of another relation, and goes to this topic.
    pub fn shut_topic(&self, topic: &str, relation: &str) -> bool {
        let is_it = |lane: &&Lane| lane.gate == Gate::Shut && lane.topics.iter().any(|other| other == topic);
        self.held.iter().filter(is_it).any(|lane| lane.thing.relation != relation)
    }
}

/// One thing that is held, for whoever looks on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub thing: Thing,
    pub topics: Vec<String>,
    /// Milliseconds since 1970.
    pub since_ms: i64,
    /// The place in the source's log.
    pub since: String,
    pub why: String,
    pub hint: Option<String>,
}

/// When something is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// So long after the stream has come back to where it was: until then everything else would wait for the next try.
    After(Duration),
    At(Instant),
    /// By the attempt that begins, or it is being tried.
    Now,
}

#[derive(Debug)]
struct Try {
    thing: Thing,
    times: u32,
    when: When,
    is_away: bool,
}

impl Try {
    fn new(thing: Thing) -> Self {
        Self { thing, times: 0, when: When::Now, is_away: false }
    }

    fn wait(&mut self) {
        let (first, longest) = if self.is_away { (ASK_EVERY, ASK_SELDOM) } else { (FIRST, LONGEST) };
        self.when = When::After((first * 2_u32.pow(self.times.min(16))).min(longest));
    }

    fn fail(&mut self) {
        self.wait();
        self.times += 1;
    }
}

#[derive(Debug, Default)]
struct Known {
    /// What no stored position says yet.
    strikes: Vec<Strike>,
    waiting: Vec<Waiting>,
    tries: Vec<Try>,
    /// By the attempt that is under way.
    released: Vec<Thing>,
    /// Since when the stream has not been back where it was.
    began: Option<Instant>,
}

/// What a connector holds: shown by the source, tried again by the pipeline.
#[derive(Debug, Default)]
pub struct Holds {
    known: Mutex<Known>,
    /// How many things wait.
    pub count: AtomicU64,
    /// Rows of tables are read, or the place that an operator chose by a time has not come: nothing new may wait.
    reads: AtomicBool,
    seeks: AtomicBool,
}

impl Holds {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn waiting(&self) -> Vec<Waiting> {
        self.known().waiting.clone()
    }

    pub fn is_empty(&self) -> bool {
        self.known().waiting.is_empty()
    }

    /// Whether something new may wait. Where it may not, a registry is waited for, and what it refuses is stopped at.
    pub fn can_hold(&self) -> bool {
        let is_barred = self.reads.load(Ordering::Relaxed) || self.seeks.load(Ordering::Relaxed);
        !is_barred && self.count.load(Ordering::Relaxed) < HELD_MAX as u64
    }

    /// Rows are being read, or no longer.
    pub fn reads(&self, reads: bool) {
        self.reads.store(reads, Ordering::Relaxed);
    }

    /// The stream is on its way to a time that an operator chose, or no longer.
    pub fn seeks(&self, seeks: bool) {
        self.seeks.store(seeks, Ordering::Relaxed);
    }

    /// What is held now; tells the log what no longer is.
    pub fn stand(&self, waiting: Vec<Waiting>) {
        let mut known = self.known();
        for gone in &known.waiting {
            if !waiting.iter().any(|one| one.thing == gone.thing) {
                tracing::info!(held = %gone.thing, "released: what waited is delivered");
            }
        }
        known.tries.retain(|tried| waiting.iter().any(|one| one.thing == tried.thing));
        self.count.store(waiting.len() as u64, Ordering::Relaxed);
        known.waiting = waiting;
    }

    /// It could not go out, for the first time or again.
    pub fn struck(&self, strike: &Strike) {
        let is_away = strike.code == REGISTRY_AWAY;
        let mut known = self.known();
        known.strikes.retain(|other| other.thing != strike.thing);
        known.strikes.push(strike.clone());
        let at = known.tries.iter().position(|tried| tried.thing == strike.thing);
        let times = at.and_then(|at| known.tries.get(at)).map_or(0, |tried| tried.times);
        let mut tried = Try { times, is_away, ..Try::new(strike.thing.clone()) };
        tried.fail();
        match at.and_then(|at| known.tries.get_mut(at)) {
            Some(known) => *known = tried,
            None => known.tries.push(tried),
        }
        // One after the other they would keep the rest from going on.
        if known.began.is_some_and(|began| began.elapsed() > ROUND_MAX) {
            known.tries.iter_mut().filter(|tried| tried.when == When::Now).for_each(Try::wait);
        }
    }

    /// An attempt that was to release something failed, and not by something that could wait. False: none was.
    pub fn failed(&self) -> bool {
        let mut known = self.known();
        let released = std::mem::take(&mut known.released);
        let is_it = |tried: &&mut Try| released.contains(&tried.thing);
        known.tries.iter_mut().filter(is_it).for_each(Try::fail);
        !released.is_empty()
    }

    /// What is to be held from the stored position on, by what no stored position says yet.
    pub fn strikes(&self) -> Vec<Strike> {
        self.known().strikes.clone()
    }

    /// A position is stored that says what is held; or what was to be held cannot be, and has to be met again.
    pub fn forget_strikes(&self) {
        self.known().strikes.clear();
    }

    /// An operator wants everything tried at once.
    pub fn try_now(&self) {
        let mut known = self.known();
        known.tries.clear();
        known.strikes.clear();
    }

    /// An attempt begins.
    pub fn begins(&self) {
        let mut known = self.known();
        known.began.get_or_insert_with(Instant::now);
        known.released.clear();
    }

    /// Something else is in the way of all, however long.
    pub fn pauses(&self) {
        self.known().began = None;
    }

    /// The stream is where it was when the attempt began, or further: the wait for the next try begins.
    pub fn caught_up(&self) {
        let (mut known, now) = (self.known(), Instant::now());
        let began = known.began.take();
        let took = began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        let soonest = now + took * TIMES_AS_LONG;
        for tried in &mut known.tries {
            match tried.when {
                When::After(wait) => tried.when = When::At(soonest.max(now + wait)),
                When::At(at) => tried.when = When::At(soonest.max(at)),
                When::Now => {}
            }
        }
    }

    /// Whether something is to be released by an attempt that begins now. A registry that was away has to be asked first.
    pub fn is_due(&self, thing: &Thing) -> bool {
        let known = self.known();
        known.tries.iter().find(|tried| tried.thing == *thing).is_none_or(|tried| match tried.when {
            When::Now => true,
            When::At(at) => !tried.is_away && at <= Instant::now(),
            When::After(_) => false,
        })
    }

    /// The attempt that begins releases some of these.
    pub fn on_trial(&self, lanes: &Lanes) {
        let mut known = self.known();
        for lane in lanes.held.iter().filter(|lane| lane.gate != Gate::Shut) {
            match known.tries.iter_mut().find(|tried| tried.thing == lane.thing) {
                Some(tried) => tried.when = When::Now,
                None => known.tries.push(Try::new(lane.thing.clone())),
            }
            known.released.push(lane.thing.clone());
        }
    }

    /// When the next things are to be tried, and whether a registry has to be back for that.
    pub fn next(&self) -> Option<(Instant, bool)> {
        let known = self.known();
        let of: Vec<_> =
            known.waiting.iter().map(|one| (one.thing.relation.as_str(), one.topics.as_slice())).collect();
        let groups = groups(&of);
        let next_of = |group: &usize| {
            let things = groups.iter().zip(&known.waiting).filter(|(other, _)| *other == group);
            let tries =
                things.filter_map(|(_, one)| known.tries.iter().find(|tried| tried.thing == one.thing));
            last_of(tries)
        };
        groups.iter().filter_map(next_of).min_by_key(|(next, _)| *next)
    }

    /// The registry is back.
    pub fn answered(&self) {
        self.of_registry(When::Now);
    }

    /// The registry is still away.
    pub fn postpone(&self) {
        self.of_registry(When::At(Instant::now() + ASK_EVERY));
    }

    /// Of those for which it was time to ask the registry.
    fn of_registry(&self, then: When) {
        let now = Instant::now();
        let mut known = self.known();
        let is_asked = |tried: &&mut Try| tried.is_away && matches!(tried.when, When::At(at) if at <= now);
        known.tries.iter_mut().filter(is_asked).for_each(|tried| tried.when = then);
    }

    /// What a status says of all of it: a reason and what to type. `None`: nothing waits.
    pub fn words(&self) -> Option<(String, Option<String>)> {
        let known = self.known();
        let first = known.waiting.first()?;
        let more = match known.waiting.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let Waiting { thing, since, why, .. } = first;
        let reason = format!("held since {since}, while the rest goes on: {thing}{more}: {why}");
        Some((reason, first.hint.clone()))
    }
}

/// When all of them are due, and whether one of them waits for a registry; `None`: nothing has to happen for that, or
/// something else has to first.
fn last_of<'a>(tries: impl Iterator<Item = &'a Try>) -> Option<(Instant, bool)> {
    let mut last: Option<(Instant, bool)> = None;
    for tried in tries {
        match tried.when {
            When::After(_) => return None,
            When::Now => {}
            When::At(at) => {
                let (latest, asks) = last.unwrap_or((at, false));
                last = Some((latest.max(at), asks || tried.is_away));
            }
        }
    }
    last
}

/// Who waits with whom, each with the number of its group: those of one relation, those that go to one topic, and who
/// waits with one of them.
pub fn groups(things: &[(&str, &[String])]) -> Vec<usize> {
    let mut groups: Vec<usize> = (0..things.len()).collect();
    for (at, (relation, topics)) in things.iter().enumerate() {
        for (before, (other, others)) in things.iter().enumerate().take(at) {
            let is_with = relation == other || topics.iter().any(|topic| others.contains(topic));
            if let (true, Some(from), Some(to)) =
                (is_with, groups.get(at).copied(), groups.get(before).copied())
            {
                groups.iter_mut().filter(|group| **group == from).for_each(|group| *group = to);
            }
        }
    }
    groups
}

/// As much of an error's words as is kept.
pub fn cut(words: &str) -> String {
    match words.char_indices().nth(WORDS_MAX) {
        Some((end, _)) => format!("{}...", words.get(..end).unwrap_or_default()),
        None => words.to_owned(),
    }
}

#[cfg(test)]
mod tests;
