//! Decodes the replies of one change stream, on a thread of its own: start at `Stream::run`.
//!
//! Takes replies as the reader (`reader`) has them, lets the session turn events into changes, and sends
//! batches. The server keeps nothing for us, so there is nothing to confirm: what is delivered is only shown.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millrace_core::batch::{BatchLimits, ChangeBatch};
use millrace_core::chaos::{self, Point};
use millrace_core::error::{Error, Result};
use millrace_core::progress::State;
use millrace_core::source::{
    BATCH_AGE_MAX, BATCH_WAIT, Ended, Feed, STOP_DELIVERY_PATIENCE, STOP_OPEN_PATIENCE, TICK,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::bson::{Doc, Malformed};
use crate::position::Stored;
use crate::reader::{Answer, REPLY_EVENTS, Reply};
use crate::resume_token::ClusterTime;
use crate::session::Session;
use crate::snapshot::desk::{Desk, Order};

/// Of the 16 MB that a reply may have, with room for one event that did not fit.
const LARGE_REPLY: usize = 8 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct Limits {
    pub batch: BatchLimits,
    /// Idle progress reaches the sink this often: each one costs a Kafka transaction.
    pub advance_every: Duration,
    /// Shards have logs of their own, so an empty reply proves nothing about a transaction.
    pub is_mongos: bool,
}

/// What the stream's thread goes on with.
enum Next {
    Tick,
    Order(Order),
    Reply(Option<Reply>),
}

pub struct Stream {
    runtime: Handle,
    replies: mpsc::Receiver<Reply>,
    session: Session,
    feed: Feed,
    limits: Limits,
    desk: Desk,
    batch: Option<ChangeBatch>,
    /// When the batch was taken up.
    batch_since: Instant,
    stopping_since: Option<Instant>,
    /// The newest place sent down.
    sent: ClusterTime,
    delivered: ClusterTime,
    next_advance: Instant,
}

impl Stream {
    pub fn new(
        runtime: Handle,
        replies: mpsc::Receiver<Reply>,
        session: Session,
        feed: Feed,
        limits: Limits,
        desk: Desk,
    ) -> Self {
        let (at, now) = (session.cluster_time(), Instant::now());
        let next_advance = now + limits.advance_every;
        Self {
            runtime,
            replies,
            session,
            feed,
            limits,
            desk,
            batch: None,
            batch_since: now,
            stopping_since: None,
            sent: at,
            delivered: at,
            next_advance,
        }
    }

    /// Ends with `Ok` only because the feed is stopping or broken.
    pub fn run(mut self) -> Result<()> {
        let progress = &self.feed.progress;
        for place in [&progress.received, &progress.delivered, &progress.confirmed] {
            place.store(self.sent.0, Ordering::Relaxed);
        }
        progress.show(State::Running, None, None);
        match self.read() {
            Ok(()) => self.finish(),
            Err(Ended::Stopping) => Ok(()),
            Err(Ended::Failed(error)) => Err(error),
        }
    }

    /// One turn a reply, or a tick.
    fn read(&mut self) -> Result<(), Ended> {
        loop {
            self.tick()?;
            if self.feed.stopping() {
                let since = *self.stopping_since.get_or_insert_with(Instant::now);
                if self.session.is_whole() || since.elapsed() > STOP_OPEN_PATIENCE {
                    return Ok(());
                }
            }
            if !self.have_batch()? {
                continue;
            }
            match self.next() {
                // What was to be followed by more waits no longer for it: the server may be away.
                Next::Tick if self.session.is_whole() && self.is_filled() => self.send(true)?,
                Next::Tick => {}
                Next::Order(order) => self.obey(order),
                Next::Reply(Some(Reply::Batch(answer))) => self.take(&answer)?,
                Next::Reply(Some(Reply::Failed(error))) => {
                    // What was read is good; where it ends is where the next attempt goes on.
                    if self.session.is_whole() && self.is_filled() {
                        self.send(true)?;
                    }
                    return Err(error.into());
                }
                Next::Reply(None) => {
                    return Err(Error::transient("the reader of the change stream ended").into());
                }
            }
            self.place_chunks()?;
            self.note()?;
        }
    }

    /// Whatever comes first.
    fn next(&mut self) -> Next {
        let (replies, orders) = (&mut self.replies, &mut self.desk.orders);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                Some(order) = orders.recv() => Next::Order(order),
                reply = replies.recv() => Next::Reply(reply),
                () = tokio::time::sleep(TICK) => Next::Tick,
            }
        })
    }

    /// What the reader of documents wants of the stream.
    fn obey(&mut self, order: Order) {
        let seen = self.session.seen();
        let tracker = &mut self.session.tracker;
        match order {
            Order::Cut { collection, parts } => tracker.cut(collection, parts),
            Order::Open { collection, part, reply } => {
                let id = tracker.open((collection, part), seen);
                if reply.send((id, seen)).is_err() {
                    tracker.cancel(id);
                }
            }
            Order::Read { read, reply } => {
                self.desk.expect(read.id, reply);
                tracker.read(*read);
            }
            Order::Cancel(id) => tracker.cancel(id),
            Order::Add { unread, heard } => {
                tracker.add(unread);
                if let Some(key) = heard {
                    self.session.signals.documents.done(&key);
                }
            }
            Order::Drop(collection) => tracker.drop_collection(collection),
        }
    }

    /// Sends the rows of the chunks whose turn has come, each as a batch of its own, where the stream stands.
    fn place_chunks(&mut self) -> Result<(), Ended> {
        while self.session.has_chunk() && self.session.is_whole() {
            if self.is_filled() {
                self.send(false)?;
            }
            while !self.have_batch()? {
                self.tick()?;
            }
            let outcome = self.batch.as_mut().and_then(|batch| self.session.place_chunk(batch));
            let Some(outcome) = outcome else { return Ok(()) };
            if !outcome.spoiled {
                chaos::pass(Point::ChunkPlaced);
                self.send(false)?;
            }
            self.desk.tell(outcome);
        }
        Ok(())
    }

    /// What was asked for, or is no longer wanted, is noted at once: a crash must not forget it.
    fn note(&mut self) -> Result<(), Ended> {
        self.session.signals.documents.tell(&self.desk.heard);
        if self.session.has_notes() && self.session.is_whole() && self.have_batch()? {
            self.session.next_number();
            self.send(true)?;
        }
        Ok(())
    }

    fn have_batch(&mut self) -> Result<bool, Ended> {
        if self.batch.is_none() {
            let Some(batch) = self.feed.empty_until(Instant::now() + BATCH_WAIT)? else { return Ok(false) };
            self.session.begin_batch();
            self.batch = Some(batch);
            self.batch_since = Instant::now();
        }
        Ok(true)
    }

    fn take(&mut self, answer: &Answer) -> Result<(), Ended> {
        let reply = &answer.batch;
        let cursor = Doc::new(reply.as_raw_document().as_bytes())
            .and_then(|reply| reply.need("cursor")?.document("cursor"))
            .map_err(malformed)?;
        let (mut token, mut count) = (None, 0_usize);
        for field in cursor.elements() {
            let (name, value) = field.map_err(malformed)?;
            match name {
                b"firstBatch" | b"nextBatch" => {
                    for event in value.array("batch").map_err(malformed)?.elements() {
                        let (_, event) = event.map_err(malformed)?;
                        self.event(event.document("batch").map_err(malformed)?)?;
                        count += 1;
                    }
                }
                b"postBatchResumeToken" => {
                    token = Some(value.document("postBatchResumeToken").map_err(malformed)?);
                }
                _ => {}
            }
        }
        let drained = count == 0 && answer.has_moved && !self.limits.is_mongos;
        self.session.reply_ended(token, drained)?;
        self.feed.progress.received.fetch_max(self.session.cluster_time().0, Ordering::Relaxed);
        // One that had room for more has everything that there was.
        let has_more =
            count >= REPLY_EVENTS as usize || reply.as_raw_document().as_bytes().len() >= LARGE_REPLY;
        self.reply_ended(has_more)
    }

    fn event(&mut self, event: Doc<'_>) -> Result<(), Ended> {
        let is_full = |batch: &Option<ChangeBatch>, whole, limits: &Limits| {
            batch.as_ref().is_some_and(|batch| limits.batch.are_reached(batch, whole))
        };
        // Whether a transaction ends before this event matters only where the batch may be closed there.
        if is_full(&self.batch, true, &self.limits) && self.session.has_position() {
            self.session.fit(event)?;
            if is_full(&self.batch, self.session.is_whole(), &self.limits) {
                self.send(false)?;
            }
        }
        if self.session.has_chunk() && self.session.has_position() {
            self.session.fit(event)?;
            self.place_chunks()?;
        }
        while !self.have_batch()? {
            self.tick()?;
        }
        let Some(batch) = &mut self.batch else { return Ok(()) };
        self.session.apply(event, batch)?;
        Ok(())
    }

    /// What is whole goes out, and is committed at once when nothing more is here or on its way.
    fn reply_ended(&mut self, has_more: bool) -> Result<(), Ended> {
        if !self.session.is_whole() {
            return Ok(());
        }
        let drained = self.replies.is_empty() && !has_more;
        if self.is_filled() {
            if drained || self.batch_since.elapsed() >= BATCH_AGE_MAX {
                self.send(drained)?;
            }
        } else if self.session.cluster_time() > self.sent && Instant::now() >= self.next_advance {
            self.send(true)?;
        }
        Ok(())
    }

    fn is_filled(&self) -> bool {
        self.session.has_end() || self.batch.as_ref().is_some_and(|batch| !batch.is_idle())
    }

    fn send(&mut self, drained: bool) -> Result<(), Ended> {
        let Some(mut batch) = self.batch.take() else { return Ok(()) };
        self.session.tell_end(&mut batch)?;
        let position = self.session.position()?;
        // Invariant 3.
        assert!(position.cluster_time >= self.sent, "positions only rise");
        self.sent = position.cluster_time;
        self.next_advance = Instant::now() + self.limits.advance_every;
        batch.end = Some(position.to_position());
        batch.whole = self.session.is_whole();
        batch.drained = drained;
        self.session.take_notes(&mut batch.notes);
        let progress = &self.feed.progress;
        progress.received.fetch_max(self.sent.0, Ordering::Relaxed);
        progress.transactions.fetch_add(batch.transactions.len() as u64, Ordering::Relaxed);
        self.feed.send(batch)?;
        Ok(())
    }

    /// Deliveries; called at least every `TICK` and every `BATCH_WAIT`.
    fn tick(&mut self) -> Result<(), Ended> {
        if self.feed.broken() {
            return Err(Ended::Stopping);
        }
        self.note_delivered()?;
        Ok(())
    }

    fn note_delivered(&mut self) -> Result<()> {
        if !self.feed.delivered_moved() {
            return Ok(());
        }
        let Some(position) = self.feed.delivered() else { return Ok(()) };
        let Stored::Streamed(streamed) = Stored::parse(&position)? else { return Ok(()) };
        // Invariant 3.
        assert!(streamed.cluster_time <= self.sent, "delivered what was not sent");
        self.delivered = self.delivered.max(streamed.cluster_time);
        for place in [&self.feed.progress.delivered, &self.feed.progress.confirmed] {
            place.store(self.delivered.0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// An orderly end: the last whole batch is delivered before the stream goes.
    fn finish(mut self) -> Result<()> {
        let deadline = Instant::now() + STOP_DELIVERY_PATIENCE;
        let worth_it = self.is_filled() || self.session.cluster_time() > self.sent;
        if self.session.is_whole() && worth_it {
            match self.send(true) {
                Ok(()) => {}
                Err(Ended::Stopping) => return Ok(()),
                Err(Ended::Failed(error)) => return Err(error),
            }
        }
        while self.delivered < self.sent && !self.feed.broken() && Instant::now() < deadline {
            self.note_delivered()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

fn malformed(error: Malformed) -> Error {
    Error::fatal(format!("mongodb sent a malformed reply: {error}"))
        .hint("nothing was skipped; report this with the server's version")
}
