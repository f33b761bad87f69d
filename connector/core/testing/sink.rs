//! A sink with two transactional ids, like the one for Kafka: claims, turns, commits that end in every way.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::time::Duration;

use millrace_core::batch::{EncodedBatch, Record};
use millrace_core::error::{Error, Result};
use millrace_core::position::{Notes, Position};
use millrace_core::report::Report;
use millrace_core::sink::{SchemaType, Sink, Targets, Topic};
use tokio::time::{Instant, sleep, sleep_until};

use crate::points::Points;
use crate::reading::Reading;
use crate::world::{Ended, Fenced, Plant, Seen};

/// Whole records wait this long for company.
const AGE: Duration = Duration::from_millis(30);
/// Inside a source transaction, this long for its rest.
const QUIET: Duration = Duration::from_millis(500);
/// A request that was held back arrives within this time, or finds that nobody waits for it.
const LATE_MS: u64 = 400;

pub struct Scripted<R> {
    points: Points,
    session: Option<Session>,
    /// What is to be told when somebody asks next.
    settled: Option<Position>,
    claimed: bool,
    remembered: Option<Position>,
    reading: PhantomData<fn() -> R>,
}

struct Session {
    epochs: [u64; 2],
    turn: usize,
    open: Option<Open>,
    /// Closed, the oldest first.
    closing: VecDeque<Closing>,
    newest: Option<Position>,
}

struct Open {
    end: Position,
    whole: bool,
    touched: Instant,
    records: usize,
}

struct Closing {
    id: usize,
    end: Position,
    /// When the brokers answer.
    at: Instant,
}

/// Knows every topic, sometimes late.
#[derive(Clone)]
pub struct Known(Points);

impl Targets for Known {
    async fn topic(&self, _name: &str) -> Result<Topic> {
        self.0.here("topic").await;
        if self.0.world.strikes(10) {
            // A broker or a registry that is away for a while.
            sleep(Duration::from_secs(1 + self.0.world.below(5))).await;
        }
        Ok(Topic { index: 0, partitions: 4, record_bytes_max: 1 << 20 })
    }

    async fn schema(&self, _of: SchemaType, _subject: &str, _text: &str) -> Result<u32> {
        Ok(1)
    }
}

impl<R: Reading> Scripted<R> {
    pub fn new(points: Points) -> Self {
        Self { points, session: None, settled: None, claimed: false, remembered: None, reading: PhantomData }
    }

    fn fenced(&mut self) -> Error {
        self.session = None;
        let world = &self.points.world;
        let rival = world.claimant().filter(|by| self.claimed && *by != self.points.instance);
        world.note(format!("{}: fenced, rival {rival:?}", self.points.instance));
        match rival {
            Some(rival) => Error::fenced(format!("{rival} took over")),
            None => Error::transient("fenced by nobody"),
        }
    }

    fn trouble(&mut self, what: &str) -> Error {
        self.points.world.note(format!("{}: {what}", self.points.instance));
        if self.points.world.plant != Plant::GoesOnAfterTrouble {
            self.session = None;
        }
        Error::transient(what.to_owned())
    }

    /// The request arrives at some later time, from nobody.
    fn held_back(&self, then: impl FnOnce(&crate::world::World) + Send + 'static) {
        let world = self.points.world.clone();
        let late = Duration::from_millis(world.below(LATE_MS));
        tokio::spawn(async move {
            sleep(late).await;
            then(&world);
        });
    }

    async fn opened(&mut self) -> Result<Option<Position>, Option<Error>> {
        let world = self.points.world.clone();
        let mut epochs = [0; 2];
        for (id, epoch) in epochs.iter_mut().enumerate() {
            self.points.here("init").await;
            if world.strikes(2) {
                self.held_back(move |world| {
                    world.init(id);
                });
                return Err(Some(self.trouble("an init was held back")));
            }
            *epoch = world.init(id);
        }
        for (id, epoch) in epochs.iter().enumerate() {
            self.points.here("claim").await;
            world.claim(id, *epoch, self.points.instance).map_err(|Fenced| None)?;
            self.claimed = true;
        }
        self.points.here("position").await;
        let mut newest = world.newest().map(|end| end.position);
        if world.plant == Plant::OpensFromMemory && self.remembered.is_some() {
            newest.clone_from(&self.remembered);
        }
        self.session =
            Some(Session { epochs, turn: 0, open: None, closing: VecDeque::new(), newest: newest.clone() });
        Ok(newest)
    }

    async fn enqueue(&mut self, batch: &EncodedBatch) -> Result<()> {
        let Some(end) = batch.end.clone() else { return Ok(()) };
        let world = self.points.world.clone();
        while self.session.as_ref().is_some_and(|session| session.closing.len() == 2) {
            self.settle_one().await?;
        }
        let Some(session) = &mut self.session else { return Err(Error::transient("not open")) };
        let seen: Vec<Seen> = batch.records.iter().map(|record| seen(batch, record)).collect();
        let (id, epoch) = (session.turn, session.epochs[session.turn]);
        if world.write(id, epoch, &seen).is_err() {
            return Err(self.fenced());
        }
        let records = session.open.as_ref().map_or(0, |open| open.records) + seen.len();
        let (whole, touched) = (batch.whole, Instant::now());
        session.open = Some(Open { end: end.clone(), whole, touched, records });
        if world.plant == Plant::SettlesWhatItEnqueued {
            self.settled = Some(end);
        }
        let cut = !whole && records > 4 && world.chance(40);
        if cut || whole && (batch.drained || world.chance(30)) { self.close().await } else { Ok(()) }
    }

    /// The position goes in, and the brokers are asked to commit.
    async fn close(&mut self) -> Result<()> {
        let world = self.points.world.clone();
        self.points.here("before the position").await;
        let Some(session) = &mut self.session else { return Err(Error::transient("not open")) };
        let Some(open) = session.open.take() else { return Ok(()) };
        let (id, epoch) = (session.turn, session.epochs[session.turn]);
        let ended = Ended {
            covered: R::covered(&world.log, &open.end),
            place: R::place(&open.end),
            position: open.end.clone(),
        };
        if world.plant == Plant::PositionApart && world.commit(id, epoch).is_err() {
            return Err(self.fenced());
        }
        if world.write_end(id, epoch, ended).is_err() {
            return Err(self.fenced());
        }
        let at = Instant::now() + Duration::from_millis(1 + world.below(20));
        session.closing.push_back(Closing { id, end: open.end, at });
        session.turn = 1 - id;
        Ok(())
    }

    /// Waits for the oldest commit. Cancel-safe.
    async fn settle_one(&mut self) -> Result<()> {
        let world = self.points.world.clone();
        let Some(closing) = self.session.as_ref().and_then(|session| session.closing.front()) else {
            return Ok(());
        };
        sleep_until(closing.at).await;
        self.points.here("commit").await;
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(Closing { id, end, .. }) = session.closing.pop_front() else { return Ok(()) };
        let epoch = session.epochs[id];
        let late = move |world: &crate::world::World| {
            // Refused, unless the epoch is still the present one.
            let _ = world.commit(id, epoch);
        };
        if world.strikes(4) {
            self.held_back(late);
            return Err(self.trouble("a commit was held back"));
        }
        if world.strikes(3) {
            // Asked for twice: whoever goes on may have the next transaction aborted or committed by it.
            let _ = world.abort(id, epoch);
            self.held_back(move |world| {
                let _ = world.abort(id, epoch);
            });
            return Err(self.trouble("a transaction was aborted"));
        }
        if world.strikes(2) {
            // The brokers end it because it took too long.
            world.init(id);
        }
        if world.commit(id, epoch).is_err() {
            return Err(self.fenced());
        }
        if world.strikes(4) {
            self.held_back(late);
            return Err(self.trouble("a commit was doubtful"));
        }
        if world.strikes(3) {
            return Err(self.trouble("a commit was not answered"));
        }
        session.newest = Some(end.clone());
        self.remembered = Some(end.clone());
        self.settled = Some(end);
        Ok(())
    }

    /// When time alone closes what is open.
    fn due(&self) -> Option<Instant> {
        let session = self.session.as_ref()?;
        let open = session.open.as_ref().filter(|_| session.closing.len() < 2)?;
        Some(open.touched + if open.whole { AGE } else { QUIET })
    }
}

impl<R: Reading> Sink for Scripted<R> {
    type Targets = Known;

    async fn check(&self) -> Result<Report> {
        Ok(Report::default())
    }

    async fn open(&mut self) -> Result<Option<Position>> {
        self.settled = None;
        if self.points.world.plant == Plant::GoesOnAfterTrouble && self.session.is_some() {
            return Ok(self.points.world.newest().map(|end| end.position));
        }
        self.session = None;
        self.opened().await.map_err(|error| error.unwrap_or_else(|| self.fenced()))
    }

    fn notes(&mut self) -> Notes {
        Notes::default()
    }

    fn targets(&self) -> Known {
        Known(self.points.clone())
    }

    async fn send(&mut self, batch: &EncodedBatch) -> Result<()> {
        self.points.here("sink takes a batch").await;
        self.enqueue(batch).await
    }

    async fn settled(&mut self) -> Result<Position> {
        loop {
            if let Some(position) = self.settled.take() {
                return Ok(position);
            }
            let is_closing = self.session.as_ref().is_some_and(|session| !session.closing.is_empty());
            match self.due() {
                _ if is_closing => self.settle_one().await?,
                Some(due) => {
                    sleep_until(due).await;
                    self.close().await?;
                }
                None => std::future::pending().await,
            }
        }
    }

    async fn idle(&mut self) -> Result<()> {
        let whole = self.session.as_ref().and_then(|session| session.open.as_ref()).is_some_and(|o| o.whole);
        while whole && self.session.as_ref().is_some_and(|session| session.closing.len() == 2) {
            self.settle_one().await?;
        }
        if whole { self.close().await } else { Ok(()) }
    }

    async fn close(&mut self) -> Result<Option<Position>> {
        self.idle().await?;
        while self.session.as_ref().is_some_and(|session| !session.closing.is_empty()) {
            self.settle_one().await?;
        }
        Ok(self.session.take().and_then(|session| session.newest))
    }
}

/// A record with the row that its value holds.
fn seen(batch: &EncodedBatch, record: &Record) -> Seen {
    let value = record.value.map(|span| batch.slice(span)).unwrap_or_default();
    let json: Option<serde_json::Value> = serde_json::from_slice(value).ok();
    let row = json.as_ref().and_then(|event| event.get("after")?.get("id")?.as_u64());
    Seen { mark: record.mark, row }
}
