//! What outlives a crash: the brokers, the place that the source was told, and the check of both.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use millrace_core::position::{Mark, Position};

use crate::log::Log;
use crate::random::Random;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    Nothing,
    /// The source confirms what it handed over.
    ConfirmsWhatItSent,
    /// The sink calls settled what it only enqueued.
    SettlesWhatItEnqueued,
    /// After trouble the sink goes on with the producers that it has.
    GoesOnAfterTrouble,
    /// The sink opens anew with the position that it remembers.
    OpensFromMemory,
    /// The position goes into a transaction of its own.
    PositionApart,
    /// A batch is handed over twice.
    SendsTwice,
    /// A stretch of the log is passed over.
    PassesOver,
}

/// A record as a reader of the sink sees it: where it says that it lies, and which row it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub mark: Mark,
    pub row: Option<u64>,
}

/// What is written through one transactional id and not ended.
#[derive(Clone, Debug, Default)]
pub struct Open {
    pub records: Vec<Seen>,
    pub end: Option<Ended>,
}

/// A position with what the source's own reading makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub position: Position,
    pub covered: usize,
    pub place: u64,
}

/// The brokers refuse this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced;

#[derive(Debug, Default)]
struct Brokers {
    epochs: [u64; 2],
    open: [Open; 2],
    claim: Option<u64>,
    /// Changes that are visible, all in order.
    visible: usize,
    newest: Option<Ended>,
    confirmed: u64,
    violation: Option<String>,
    trace: Vec<String>,
}

pub struct World {
    pub log: Log,
    pub plant: Plant,
    brokers: Mutex<Brokers>,
    random: Mutex<Random>,
    faults: Mutex<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn new(seed: u64, plant: Plant) -> Self {
        let mut random = Random::new(seed, 1);
        let log = Log::new(&mut random);
        let faults = random.below(6);
        Self {
            log,
            plant,
            brokers: Mutex::default(),
            random: Mutex::new(Random::new(seed, 2)),
            faults: Mutex::new(faults),
        }
    }

    pub fn below(&self, limit: u64) -> u64 {
        lock(&self.random).below(limit)
    }

    pub fn chance(&self, percent: u64) -> bool {
        lock(&self.random).chance(percent)
    }

    /// A fault, while there are any left.
    pub fn strikes(&self, percent: u64) -> bool {
        let mut left = lock(&self.faults);
        if *left == 0 || !self.chance(percent) {
            return false;
        }
        *left -= 1;
        true
    }

    pub fn note(&self, what: impl fmt::Display) {
        lock(&self.brokers).trace.push(what.to_string());
    }

    /// The first one counts.
    pub fn violate(&self, what: impl fmt::Display) {
        lock(&self.brokers).violate(what);
    }

    pub fn violation(&self) -> Option<String> {
        lock(&self.brokers).violation.clone()
    }

    pub fn trace(&self) -> Vec<String> {
        lock(&self.brokers).trace.clone()
    }

    /// Everything is visible, and the source knows it.
    pub fn is_over(&self) -> bool {
        let brokers = lock(&self.brokers);
        let end = self.log.transactions.last().map_or(0, |last| last.end);
        brokers.violation.is_some() || (brokers.visible == self.log.changes.len() && brokers.confirmed >= end)
    }

    /// A new epoch, whose holder it gives; what was open under the old one is aborted.
    pub fn init(&self, id: usize) -> u64 {
        let mut brokers = lock(&self.brokers);
        brokers.open[id] = Open::default();
        brokers.epochs[id] += 1;
        brokers.epochs[id]
    }

    pub fn claim(&self, id: usize, epoch: u64, instance: u64) -> Result<(), Fenced> {
        let mut brokers = lock(&self.brokers);
        brokers.holds(id, epoch)?;
        brokers.claim = Some(instance);
        Ok(())
    }

    pub fn claimant(&self) -> Option<u64> {
        lock(&self.brokers).claim
    }

    pub fn newest(&self) -> Option<Ended> {
        lock(&self.brokers).newest.clone()
    }

    pub fn write(&self, id: usize, epoch: u64, records: &[Seen]) -> Result<(), Fenced> {
        let mut brokers = lock(&self.brokers);
        brokers.holds(id, epoch)?;
        brokers.open[id].records.extend_from_slice(records);
        Ok(())
    }

    pub fn write_end(&self, id: usize, epoch: u64, end: Ended) -> Result<(), Fenced> {
        let mut brokers = lock(&self.brokers);
        brokers.holds(id, epoch)?;
        brokers.open[id].end = Some(end);
        Ok(())
    }

    pub fn abort(&self, id: usize, epoch: u64) -> Result<(), Fenced> {
        let mut brokers = lock(&self.brokers);
        brokers.holds(id, epoch)?;
        brokers.open[id] = Open::default();
        Ok(())
    }

    /// Makes visible what is open, and looks at what a reader sees now.
    pub fn commit(&self, id: usize, epoch: u64) -> Result<(), Fenced> {
        let mut brokers = lock(&self.brokers);
        brokers.holds(id, epoch)?;
        let Open { records, end } = std::mem::take(&mut brokers.open[id]);
        for record in &records {
            let expected = self.log.changes.get(brokers.visible).copied();
            if expected != Some(record.mark) {
                let before = self.log.changes[..brokers.visible].contains(&record.mark);
                let what = if before { "a second time" } else { "out of order" };
                brokers.violate(format!("{record:?} is visible {what}, where {expected:?} was due"));
                return Ok(());
            }
            if record.row != u64::try_from(brokers.visible).ok() {
                let due = brokers.visible;
                brokers.violate(format!("{record:?} holds another row than {due}"));
            }
            brokers.visible += 1;
        }
        let visible = brokers.visible;
        brokers.trace.push(format!("visible: {visible}, by id {id} in its epoch {epoch}"));
        match end {
            None if records.is_empty() => (),
            None => brokers.violate("data became visible without its position"),
            Some(end) => brokers.moved(end),
        }
        Ok(())
    }

    /// The source frees its log up to here.
    pub fn confirm(&self, place: u64) {
        let mut brokers = lock(&self.brokers);
        let durable = brokers.newest.as_ref().map_or(0, |newest| newest.place);
        // Invariant 1: nothing is confirmed before it is delivered.
        if place > durable {
            brokers.violate(format!("{place} was confirmed, and {durable} is durable"));
        }
        brokers.confirmed = brokers.confirmed.max(place);
    }

    pub fn confirmed(&self) -> u64 {
        lock(&self.brokers).confirmed
    }
}

impl Brokers {
    fn holds(&self, id: usize, epoch: u64) -> Result<(), Fenced> {
        if self.epochs[id] == epoch { Ok(()) } else { Err(Fenced) }
    }

    fn violate(&mut self, what: impl fmt::Display) {
        self.violation.get_or_insert_with(|| what.to_string());
    }

    /// Invariants 2 and 3: the position says what is visible, and only rises.
    fn moved(&mut self, end: Ended) {
        let Ended { covered, place, .. } = end;
        if covered != self.visible {
            let visible = self.visible;
            self.violate(format!("the position covers {covered} changes, and {visible} are visible"));
        }
        if let Some(before) = &self.newest
            && before.place > place
        {
            let before = before.place;
            self.violate(format!("the position went back from {before} to {place}"));
        }
        self.newest = Some(end);
    }
}
