//! Streams changes from one slot, on a thread of its own: start at `Stream::run`.
//!
//! Reads frames, lets the session decode them into the batch, sends batches, and confirms to the server
//! what was delivered. It answers the server on a timer whatever the rest of the pipeline is doing.

mod copy_data;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use millrace_core::batch::{BatchLimits, ChangeBatch};
use millrace_core::chaos::{self, Point};
use millrace_core::error::{Error, Result};
use millrace_core::progress::now_us;
use millrace_core::source::{
    BATCH_AGE_MAX, BATCH_WAIT, Ended, Feed, STOP_DELIVERY_PATIENCE, STOP_OPEN_PATIENCE, TICK,
};

use self::copy_data::{CopyData, read_copy_data, status_update};
use crate::frames::Frame;
use crate::lsn::Lsn;
use crate::pgoutput::RelationMessage;
use crate::position::Stored;
use crate::relation::Described;
use crate::reselect::Reselect;
use crate::session::{Session, Step};
use crate::snapshot::desk::{Desk, Order};
use crate::wire::{Filled, Wire};

/// Idle progress reaches Kafka at most this often: each one costs a transaction there, and a slot that
/// lags a few seconds behind keeps nothing worth mentioning.
const ADVANCE_EVERY: Duration = Duration::from_secs(3);

/// What was delivered is confirmed this soon: the server frees WAL by checkpoints, minutes apart.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// An idle stream looks up this often while tables are read: the reader's orders come by no socket.
const TICK_READING: Duration = Duration::from_millis(1);

/// While the stream stands still for a snapshot, which takes about as long as a query.
const TICK_PAUSED: Duration = Duration::from_micros(200);

/// Between two looks at a commit that is in the log and not visible yet: mostly it is by the second one.
const GLANCE: Duration = Duration::from_millis(2);
const GLANCE_MAX: Duration = Duration::from_millis(100);

/// Such a commit is told of after this, and waited for no longer than that.
const UNSEEN_PATIENCE: Duration = Duration::from_secs(1);
const UNSEEN_MAX: Duration = Duration::from_secs(10);

/// Tables that were described before their transaction was visible are looked up again this often.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Limits {
    pub batch: BatchLimits,
    pub frame_bytes_max: usize,
    /// At most a third of the server's `wal_sender_timeout`.
    pub status_interval: Duration,
    /// Silence after which the connection counts as dead.
    pub receive_timeout: Duration,
}

/// Looks a table up in the catalog, described in the transaction of this number: the relation, and whether it is
/// captured. `None`: the catalog does not show yet what that transaction did.
pub type Describe = Box<dyn FnMut(&RelationMessage, Option<u32>) -> Result<Option<Described>> + Send>;

/// What the query connection tells the reader.
#[derive(Debug, Default)]
pub struct Told {
    /// The control connection is gone: the server may be shutting down and waits for us.
    pub abandoned: AtomicBool,
    /// Nothing more is wanted.
    pub enough: AtomicBool,
    /// The server's, where it has moved since the stream began.
    pub timeline: AtomicU32,
}

pub struct Stream {
    wire: Wire,
    session: Session,
    feed: Feed,
    describe: Describe,
    /// What stands before the next frame: a table that is not defined yet.
    undefined: Option<RelationMessage>,
    /// Since when its transaction is waited for, and whether that was told.
    unseen: Option<(Instant, bool)>,
    /// Described before its transaction was visible: to be described again, and when that is tried next.
    outdated: Vec<(RelationMessage, Option<u32>)>,
    next_look: Instant,
    limits: Limits,
    told: Arc<Told>,
    /// Where the readers of rows ask for something.
    desk: Option<Desk>,
    /// Completes rows, where the file asks for that.
    reselect: Option<Reselect>,
    batch: Option<ChangeBatch>,
    /// When the batch was taken up.
    batch_since: Instant,
    stopping_since: Option<Instant>,
    /// End of the newest position sent down.
    sent: Lsn,
    delivered: Lsn,
    /// The same, but for what waits: what the server need not keep.
    confirmable: Lsn,
    confirmed: Lsn,
    /// How many things waited in it.
    waiting: usize,
    /// Where the session began, until the stream is known to have come there.
    opened: Option<Lsn>,
    next_status: Instant,
    next_advance: Instant,
    /// The server asked for a reply that only a delivery can give: it is shutting down.
    reply_owed: bool,
}

impl Stream {
    pub fn new(
        wire: Wire,
        session: Session,
        feed: Feed,
        describe: Describe,
        limits: Limits,
        told: Arc<Told>,
        desk: Option<Desk>,
    ) -> Self {
        let (at, confirmable, waiting) = (session.end_lsn(), session.confirmable(), session.waiting());
        let now = Instant::now();
        Self {
            wire,
            session,
            feed,
            describe,
            undefined: None,
            unseen: None,
            outdated: Vec::new(),
            next_look: now,
            limits,
            told,
            desk,
            reselect: None,
            batch: None,
            batch_since: now,
            stopping_since: None,
            sent: at,
            delivered: at,
            confirmable,
            confirmed: confirmable,
            waiting,
            opened: Some(at),
            next_status: now,
            next_advance: now + ADVANCE_EVERY,
            reply_owed: false,
        }
    }

    pub fn reselecting(self, reselect: Option<Reselect>) -> Self {
        Self { reselect, ..self }
    }

    /// Ends with `Ok` only because the feed is stopping or broken.
    pub fn run(mut self) -> Result<()> {
        let progress = &self.feed.progress;
        progress.received.store(self.sent.0, Ordering::Relaxed);
        progress.delivered.store(self.sent.0, Ordering::Relaxed);
        progress.confirmed.store(self.confirmed.0, Ordering::Relaxed);
        progress.show_at_work();
        match self.read() {
            Ok(()) => self.finish(),
            Err(Ended::Stopping) => Ok(()),
            Err(Ended::Failed(error)) => Err(error),
        }
    }

    /// One turn a read: timers, a batch to fill, the frames that are here, then the socket.
    fn read(&mut self) -> Result<(), Ended> {
        loop {
            self.tick()?;
            if self.feed.stopping() || self.told.enough.load(Ordering::Relaxed) {
                let since = *self.stopping_since.get_or_insert_with(Instant::now);
                if self.session.is_whole() || since.elapsed() > STOP_OPEN_PATIENCE {
                    return Ok(());
                }
            }
            if self.desk.is_some() && self.attend_to_chunks()? == Standing::Still {
                continue;
            }
            if !self.take_up()? {
                continue;
            }
            if self.decode()? {
                continue;
            }
            if self.wire.fill()? == Filled::Some {
                continue;
            }
            self.drained()?;
            if self.batch.is_some() {
                let tick = if self.session.is_reading() { TICK_READING } else { TICK };
                let until = (Instant::now() + tick).min(self.next_status);
                self.wire.wait(until)?;
            }
        }
    }

    /// False while no batch is free.
    fn take_up(&mut self) -> Result<bool, Ended> {
        if self.batch.is_some() {
            return Ok(true);
        }
        let Some(batch) = self.feed.empty_until(Instant::now() + BATCH_WAIT)? else { return Ok(false) };
        self.session.begin_batch();
        self.batch = Some(batch);
        self.batch_since = Instant::now();
        Ok(true)
    }

    /// What the reader of the tables' rows wants of the stream.
    fn attend_to_chunks(&mut self) -> Result<Standing, Ended> {
        let Some(desk) = &mut self.desk else { return Ok(Standing::Going) };
        while let Ok(order) = desk.orders.try_recv() {
            let Some(tracker) = self.session.tracker() else { break };
            match order {
                Order::Pause(reply) => desk.wanted = Some(reply),
                Order::Resume(None) => drop(desk.resume()),
                Order::Resume(Some(opened)) => {
                    stood(desk.resume())?;
                    tracker.open(*opened);
                }
                Order::Hold(opened) => {
                    stood(desk.hold())?;
                    tracker.open(*opened);
                }
                Order::Block(block) => {
                    stood(desk.resume())?;
                    tracker.block(*block);
                }
                Order::Unblock => {
                    tracker.unblock();
                    desk.resume();
                }
                Order::Open(opened) => tracker.open(*opened),
                Order::Cut { table, key, parts } => tracker.cut(table, key, parts),
                Order::Saw { table, sight } => tracker.saw(table, sight),
                Order::Add { unread, row } => {
                    self.session.watch(unread);
                    if let Some(row) = row {
                        self.session.signals().rows.done(&row);
                    }
                }
                Order::Drop(table) => self.session.give_up(table),
                Order::Read(read) => tracker.read(*read),
                Order::Seen(seen) => tracker.seen(&seen),
                Order::Note(note) => tracker.note(note),
            }
        }
        self.session.signals().rows.tell(&desk.heard);
        if self.session.is_between() {
            if let Some(tracker) = self.session.tracker() {
                desk.pause(|| tracker.streamed());
                if let Some(passed) = tracker.stand() {
                    desk.stand(passed);
                    // What came before the rows does not wait for them.
                    if self.batch.as_ref().is_some_and(|batch| !batch.is_idle()) {
                        self.send(true)?;
                    }
                }
            }
            if self.session.has_chunk() {
                self.place_chunk()?;
            }
        }
        if self.desk.as_mut().is_some_and(Desk::is_paused) {
            std::thread::sleep(TICK_PAUSED);
            return Ok(Standing::Still);
        }
        Ok(Standing::Going)
    }

    /// Sends a chunk's rows as a batch of their own, where the stream stands now.
    fn place_chunk(&mut self) -> Result<(), Ended> {
        if self.batch.as_ref().is_some_and(|batch| !batch.is_idle()) {
            self.send(false)?;
        }
        if !self.take_up()? {
            return Ok(());
        }
        let placed = self.batch.as_mut().and_then(|batch| self.session.place(batch));
        let Some((outcome, reader)) = placed else { return Ok(()) };
        if !outcome.spoiled {
            chaos::pass(Point::ChunkPlaced);
            // Small tables must not each wait for a transaction's age.
            self.send(outcome.done)?;
        }
        // A reader that is gone ends the whole run by itself.
        let _ = reader.try_send(outcome);
        Ok(())
    }

    /// Decodes the frames that are already here. True when it closed the batch and there may be more.
    fn decode(&mut self) -> Result<bool, Ended> {
        if let Some(message) = self.undefined.take()
            && !self.define(message)?
        {
            return Ok(true);
        }
        self.define_again()?;
        let Some(batch) = &mut self.batch else { return Ok(false) };
        let session = &mut self.session;
        let mut reply = false;
        let (mut full, mut late) = (false, false);
        let reading = session.is_reading();
        let mut wanted = self.desk.as_ref().is_some_and(|desk| desk.wanted.is_some());
        let mut seen = Lsn(0);
        while let Some(frame) = self.wire.frame(self.limits.frame_bytes_max)? {
            let data = match frame {
                Frame::Data(data) => data,
                Frame::Done => {
                    return Err(Error::transient("postgres ended the replication stream").into());
                }
            };
            match read_copy_data(data)? {
                CopyData::Keepalive { end, reply_requested } => {
                    session.advance(end)?;
                    seen = seen.max(end);
                    reply |= reply_requested;
                }
                CopyData::XLog { lsn, data } => {
                    let changes = batch.changes.len();
                    match session.apply(data, lsn, batch)? {
                        Step::Quiet | Step::Ended => {}
                        // Asking the server takes its time, and thousands of tables take long: it waits for a status.
                        Step::Relation(message) => {
                            self.undefined = Some(message);
                            late = true;
                        }
                        // Whoever wrote the label has seen it, and so does the catalog: nothing to wait for.
                        Step::Outgrown(message) => {
                            if let Some(now) = (self.describe)(&message, None)? {
                                session.redefine(now.fit()?, batch)?;
                            }
                            late = Instant::now() >= self.next_status;
                        }
                    }
                    if let Some(reselect) = self.reselect.as_mut().filter(|_| batch.changes.len() > changes) {
                        reselect.fill(batch)?;
                        late |= Instant::now() >= self.next_status;
                    }
                }
            }
            full = self.limits.batch.are_reached(batch, session.is_whole());
            if reading {
                wanted |= session.has_chunk();
                if wanted && session.is_between() {
                    break;
                }
            }
            if full || reply || late {
                break;
            }
        }
        self.note_seen(seen);
        if full || self.is_due() {
            self.send(false)?;
        }
        if reply {
            self.reply_now()?;
        }
        Ok(full || reply || late || (wanted && self.session.is_between()))
    }

    /// The server is done with its log up to here: once that is where the session began, what waits may count on it.
    fn note_seen(&mut self, seen: Lsn) {
        let Some(opened) = self.opened else { return };
        if seen >= opened || self.session.end_lsn() > opened {
            self.opened = None;
            self.feed.progress.holds.caught_up();
        }
    }

    /// Completes a table by the catalog. False where that does not show it yet: a commit is in the log, and streamed,
    /// before it is visible, and by an older catalog its rows would have the columns of before. Not waited for without
    /// end: the commit may itself wait for us, where this connection counts as a synchronous standby.
    fn define(&mut self, message: RelationMessage) -> Result<bool, Ended> {
        let xid = self.session.xid();
        // What was to be said again of this table is older than this.
        self.outdated.retain(|(other, _)| other.id != message.id);
        if let Some(described) = (self.describe)(&message, xid)? {
            self.defined(described);
            self.unseen = None;
            return Ok(true);
        }
        let (since, is_told) = self.unseen.get_or_insert_with(|| (Instant::now(), false));
        let waited = since.elapsed();
        let table = format!("{}.{}", message.namespace, message.name);
        if !*is_told && waited > UNSEEN_PATIENCE {
            *is_told = true;
            tracing::info!(
                table,
                transaction = xid,
                "the commit of a transaction that describes a table is in the log and not visible yet: it is waited for"
            );
        }
        // A transaction is waited for once, however many tables it describes.
        let was_waited_for = self.outdated.iter().any(|(_, other)| *other == xid);
        if waited < UNSEEN_MAX && !was_waited_for {
            self.undefined = Some(message);
            std::thread::sleep((waited / 20).clamp(GLANCE, GLANCE_MAX));
            return Ok(false);
        }
        tracing::warn!(
            table,
            transaction = xid,
            hint = "a synchronous standby may be away: see synchronous_standby_names",
            "the commit is still not visible: its rows go out by what the catalog shows of the table now"
        );
        self.unseen = None;
        if let Some(described) = (self.describe)(&message, None)? {
            self.defined(described);
        }
        self.outdated.push((message, xid));
        Ok(true)
    }

    fn defined(&mut self, Described { oid, relation, captured, unfit }: Described) {
        self.session.define(oid, relation, captured);
        self.session.must_not_tell(oid, unfit);
    }

    /// What was described too soon, once its transaction is visible.
    fn define_again(&mut self) -> Result<(), Ended> {
        if self.outdated.is_empty() || !self.session.is_between() || Instant::now() < self.next_look {
            return Ok(());
        }
        self.next_look = Instant::now() + LOOK_AGAIN_EVERY;
        for (message, xid) in std::mem::take(&mut self.outdated) {
            match (self.describe)(&message, xid)? {
                Some(described) => self.defined(described),
                None => self.outdated.push((message, xid)),
            }
        }
        Ok(())
    }

    /// Nothing more is here now: what is whole goes out and is committed at once.
    fn drained(&mut self) -> Result<(), Ended> {
        if self.wire.silence() > self.limits.receive_timeout {
            let silent = self.limits.receive_timeout.as_secs();
            return Err(Error::transient(format!("postgres has said nothing for {silent} s")).into());
        }
        if !self.session.is_whole() {
            return Ok(());
        }
        // Read, though there may be nothing in it for us: what the lag is measured from.
        self.feed.progress.received.fetch_max(self.session.end_lsn().0, Ordering::Relaxed);
        let filled = self.batch.as_ref().is_some_and(|batch| !batch.is_idle());
        let is_released = self.waiting > 0 && self.session.waiting() < self.waiting;
        let advanced = self.session.end_lsn() > self.sent || is_released;
        if filled || (advanced && (self.reply_owed || Instant::now() >= self.next_advance)) {
            self.send(true)?;
        }
        Ok(())
    }

    /// Whether something whole has waited long enough, although there is more to read.
    fn is_due(&self) -> bool {
        let Some(batch) = &self.batch else { return false };
        if !self.session.is_whole() {
            return false;
        }
        if batch.is_idle() {
            return self.session.end_lsn() > self.sent && Instant::now() >= self.next_advance;
        }
        self.batch_since.elapsed() >= BATCH_AGE_MAX
    }

    fn send(&mut self, drained: bool) -> Result<(), Ended> {
        let Some(mut batch) = self.batch.take() else { return Ok(()) };
        self.session.on_timeline(self.told.timeline.load(Ordering::Relaxed));
        let position = self.session.position();
        // Invariant 3.
        assert!(position.end_lsn >= self.sent, "positions only rise");
        (self.sent, self.waiting) = (position.end_lsn, position.held.len());
        self.next_advance = Instant::now() + ADVANCE_EVERY;
        batch.end = Some(position.to_position());
        batch.whole = self.session.is_whole();
        batch.drained = drained;
        self.session.take_notes(&mut batch);
        let progress = &self.feed.progress;
        progress.received.fetch_max(self.sent.0, Ordering::Relaxed);
        progress.source_end.fetch_max(self.sent.0, Ordering::Relaxed);
        let ended = batch.transactions.iter().filter(|transaction| transaction.part.end.is_some()).count();
        progress.transactions.fetch_add(ended as u64, Ordering::Relaxed);
        self.feed.send(batch)?;
        Ok(())
    }

    /// The server wants to hear from us. When it is shutting down it asks until our confirmation reaches
    /// what it sent, so idle progress is delivered without waiting for its turn.
    fn reply_now(&mut self) -> Result<(), Ended> {
        self.reply_owed = self.session.is_whole() && self.session.end_lsn() > self.delivered;
        self.status()?;
        Ok(())
    }

    /// Deliveries and timers; called at least every `TICK` and every `BATCH_WAIT`.
    fn tick(&mut self) -> Result<(), Ended> {
        if self.feed.broken() {
            return Err(Ended::Stopping);
        }
        if self.told.abandoned.load(Ordering::Relaxed) {
            return Err(Error::transient("the control connection to postgres was lost")
                .hint("if the server is shutting down or restarting, this passes by itself")
                .into());
        }
        self.note_delivered()?;
        let now = Instant::now();
        if now >= self.next_status || (self.reply_owed && self.confirmable > self.confirmed) {
            self.status()?;
        }
        Ok(())
    }

    fn note_delivered(&mut self) -> Result<()> {
        if !self.feed.delivered_moved() {
            return Ok(());
        }
        let Some(position) = self.feed.delivered() else { return Ok(()) };
        let Stored::Streamed(streamed) = Stored::parse(&position)? else { return Ok(()) };
        self.delivered = self.delivered.max(streamed.end_lsn);
        self.confirmable = self.confirmable.max(streamed.confirmable());
        let progress = &self.feed.progress;
        progress.delivered.store(self.delivered.0, Ordering::Relaxed);
        // Every position of this attempt says what it was begun with.
        progress.holds.forget_strikes();
        progress.holds.seeks(streamed.since_us.is_some());
        if streamed.held.len() as u64 != progress.holds.count.load(Ordering::Relaxed) {
            progress.holds.stand(streamed.waiting());
            progress.show_at_work();
        }
        chaos::pass(Point::Unconfirmed);
        let soon = Instant::now() + CONFIRM_EVERY;
        self.next_status = self.next_status.min(soon);
        Ok(())
    }

    /// Tells the server how far everything is delivered.
    fn status(&mut self) -> Result<()> {
        // Invariant 1: only what is delivered is confirmed, and it was received before.
        assert!(self.delivered <= self.sent, "delivered {} after sent {}", self.delivered, self.sent);
        assert!(self.confirmable <= self.delivered, "{} is delivered but for what waits", self.confirmable);
        assert!(self.confirmed <= self.confirmable, "confirmed {} runs ahead", self.confirmed);
        self.confirmed = self.confirmable;
        if self.delivered >= self.session.end_lsn() {
            self.reply_owed = false;
        }
        // A silent server is asked for a sign of life well before the watchdog.
        let ask = self.wire.silence() > self.limits.receive_timeout / 3;
        let update = status_update(self.confirmed, now_us(), ask);
        self.wire.send(&update, self.limits.receive_timeout)?;
        chaos::pass(Point::ConfirmSent);
        self.feed.progress.confirmed.store(self.confirmed.0, Ordering::Relaxed);
        self.next_status = Instant::now() + self.limits.status_interval;
        Ok(())
    }

    /// An orderly end: the last whole batch is delivered and confirmed before the connection goes.
    fn finish(mut self) -> Result<()> {
        chaos::pass(Point::Stopping);
        let deadline = Instant::now() + STOP_DELIVERY_PATIENCE;
        let unsent = self.batch.as_ref().is_some_and(|batch| !batch.is_idle());
        let worth_it = unsent || self.session.end_lsn() > self.sent;
        if self.session.is_whole() && worth_it && self.send(true).is_err() {
            return Ok(());
        }
        while self.delivered < self.sent && !self.feed.broken() && Instant::now() < deadline {
            self.note_delivered()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        self.status()?;
        self.wire.finish(Duration::from_secs(1))
    }
}

/// A snapshot of which the stream did not know when it went on is worth nothing.
fn stood(still: bool) -> Result<()> {
    still.then_some(()).ok_or_else(|| Error::transient("a snapshot took so long that the stream went on"))
}

/// Whether frames are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Going,
    /// A snapshot is being taken.
    Still,
}
