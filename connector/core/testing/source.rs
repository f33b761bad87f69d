//! A source that reads the log, cuts it into batches at any place, and confirms what was delivered.

use std::time::{Duration, Instant};

use millrace_core::batch::ChangeBatch;
use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::progress::Progress;
use millrace_core::report::Report;
use millrace_core::source::{Feed, Source, Stopping};

use crate::log::Event;
use crate::points::Points;
use crate::reading::Reading;
use crate::world::Plant;

/// How often an idle source looks up.
const TICK: Duration = Duration::from_millis(3);
/// In percent: after a message the batch is handed over, whatever it ends with.
const CUT: u64 = 20;
/// The table gets a new version.
const ALTERED: u64 = 4;
/// The connection breaks.
const BROKEN: u64 = 1;
/// A stop waits this long for what is on its way.
const PATIENCE: Duration = Duration::from_secs(4);

pub struct Scripted<R> {
    points: Points,
    reading: std::marker::PhantomData<fn() -> R>,
}

impl<R: Reading> Scripted<R> {
    pub fn new(points: Points) -> Self {
        Self { points, reading: std::marker::PhantomData }
    }
}

/// One run of it.
struct Run<R> {
    points: Points,
    feed: Feed,
    reading: R,
    batch: Option<ChangeBatch>,
    /// The place in the log that was read last.
    received: u64,
    delivered: u64,
    /// The end of the newest batch that was handed over.
    sent: Option<Position>,
}

enum Ended {
    Stopping,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Ended::Failed(error)
    }
}

impl From<Stopping> for Ended {
    fn from(_: Stopping) -> Self {
        Ended::Stopping
    }
}

impl<R: Reading> Source for Scripted<R> {
    async fn check(&self) -> Result<Report> {
        Ok(Report::default())
    }

    async fn preconditions(&self, _progress: &Progress) -> Result<()> {
        self.points.here("preconditions").await;
        Ok(())
    }

    async fn run(&mut self, from: Option<Position>, feed: Feed) -> Result<()> {
        self.points.here("source begins").await;
        let world = &self.points.world;
        let reading = R::open(from.as_ref())?;
        let place = from.as_ref().map_or(0, R::place);
        if world.confirmed() > place {
            let confirmed = world.confirmed();
            world
                .violate(format!("opened at {place}, and the source has freed everything up to {confirmed}"));
        }
        world.note(format!("{}: streams from {place}", self.points.instance));
        let (points, delivered) = (self.points.clone(), place);
        let mut run = Run { points, feed, reading, batch: None, received: place, delivered, sent: None };
        match run.stream(place).await {
            Ok(()) => run.finish().await,
            Err(Ended::Stopping) => Ok(()),
            Err(Ended::Failed(error)) => Err(error),
        }
    }
}

impl<R: Reading> Run<R> {
    async fn stream(&mut self, place: u64) -> Result<(), Ended> {
        let world = self.points.world.clone();
        let first = world.log.from(place);
        let passed_over = if world.plant == Plant::PassesOver { 2 } else { 0 };
        for at in first.. {
            while !self.has_batch()? {
                if self.looks_up().await? {
                    return Ok(());
                }
            }
            match world.log.events.get(at) {
                Some(event) if passed_over > 0 && at % 17 < passed_over && !is_end(*event) => (),
                Some(event) => self.take(*event).await?,
                None => break,
            }
            if self.feed.stopping() {
                return Ok(());
            }
        }
        self.hand_over(true).await?;
        while !self.looks_up().await? {}
        Ok(())
    }

    fn has_batch(&mut self) -> Result<bool, Ended> {
        if self.batch.is_none() {
            self.batch = self.feed.empty_until(Instant::now())?;
            if self.batch.is_some() {
                self.reading.begin_batch();
            }
        }
        Ok(self.batch.is_some())
    }

    async fn take(&mut self, event: Event) -> Result<(), Ended> {
        let world = self.points.world.clone();
        self.points.here("message").await;
        if world.strikes(BROKEN) {
            return Err(Error::transient("the scripted source broke").into());
        }
        if world.chance(ALTERED) {
            self.reading.altered();
        }
        let Some(batch) = &mut self.batch else { return Ok(()) };
        self.reading.apply(&world.log, event, batch)?;
        self.received = self.received.max(place_of(&world.log, event));
        let drained = world.chance(10);
        if drained || world.chance(CUT) {
            self.hand_over(drained).await?;
        }
        self.confirm();
        Ok(())
    }

    async fn hand_over(&mut self, drained: bool) -> Result<(), Ended> {
        self.points.here("before the hand-over").await;
        let Some(mut batch) = self.batch.take() else { return Ok(()) };
        let end = self.reading.position();
        batch.end = Some(end.clone());
        batch.whole = self.reading.is_whole();
        batch.drained = drained;
        self.sent = Some(end);
        let again = (self.points.world.plant == Plant::SendsTwice && !batch.changes.is_empty())
            .then(|| copy_of(&batch));
        self.feed.send(batch)?;
        if let Some(again) = again {
            while !self.has_batch()? {
                tokio::time::sleep(TICK).await;
            }
            self.batch = None;
            self.feed.send(again)?;
        }
        self.points.here("after the hand-over").await;
        Ok(())
    }

    /// Waits a little and confirms; true when it is time to stop.
    async fn looks_up(&mut self) -> Result<bool, Ended> {
        tokio::time::sleep(TICK).await;
        self.confirm();
        if self.feed.broken() {
            return Err(Ended::Stopping);
        }
        Ok(self.feed.stopping())
    }

    fn confirm(&mut self) {
        let world = &self.points.world;
        if world.plant == Plant::ConfirmsWhatItSent
            && let Some(sent) = &self.sent
        {
            world.confirm(R::place(sent));
        }
        if !self.feed.delivered_moved() {
            return;
        }
        let Some(position) = self.feed.delivered() else { return };
        let place = R::place(&position);
        if place > self.received.max(self.delivered) {
            world.violate(format!("{place} was delivered, and {} received", self.received));
        }
        if place < self.delivered {
            world.violate(format!("delivered went back from {} to {place}", self.delivered));
        }
        self.delivered = place;
        world.confirm(place);
    }

    /// What was handed over is waited for, as long as it makes sense.
    async fn finish(mut self) -> Result<()> {
        let _ = self.hand_over(true).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.feed.delivered() != self.sent && tokio::time::Instant::now() < deadline {
            if matches!(self.looks_up().await, Err(Ended::Stopping)) {
                break;
            }
        }
        self.confirm();
        Ok(())
    }
}

fn is_end(event: Event) -> bool {
    matches!(event, Event::Begin { .. } | Event::Commit { .. })
}

fn place_of(log: &crate::Log, event: Event) -> u64 {
    match event {
        Event::Begin { .. } => 0,
        Event::Change { change, .. } => log.changes[change].change,
        Event::Commit { transaction } => log.transactions[transaction].end,
        Event::Alive { place } => place,
    }
}

fn copy_of(batch: &ChangeBatch) -> ChangeBatch {
    ChangeBatch {
        bytes: batch.bytes.clone(),
        cells: batch.cells.clone(),
        changes: batch.changes.clone(),
        transactions: batch.transactions.clone(),
        relations: batch.relations.clone(),
        end: batch.end.clone(),
        whole: batch.whole,
        drained: batch.drained,
        ..ChangeBatch::default()
    }
}
