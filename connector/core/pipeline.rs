//! Joins one source to one sink for one attempt: start at `run`.
//!
//! Three tasks, two shuttles. The source fills `ChangeBatch`es on its own thread or task; the encoder turns
//! each into an `EncodedBatch`; the sink's task sends those and hands the settled position back. Two batches
//! travel on each shuttle, so while one is being committed the next is encoded and the one after is filled.
//! Any error ends all three; what comes next is the supervisor's decision.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as shuttle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::block_in_place;
use tokio::time::Instant;
use tracing::Instrument;

use crate::batch::{ChangeBatch, EncodedBatch};
use crate::chaos::{self, Rule};
use crate::encode::{Encoded, Encoder, Format, hides_nothing, misfits};
use crate::error::{Error, Kind, Result};
use crate::hold::{Holds, Lanes};
use crate::position::Position;
use crate::progress::{Progress, now_us};
use crate::sink::{Sink, Targets};
use crate::source::{Feed, Source};

/// Batches on each shuttle: one being filled while the other is used.
const BATCHES: usize = 2;

/// Below this many bytes a batch is encoded in a few hundred microseconds, and moving the runtime's other
/// work to another thread costs more than it saves.
const SMALL_BATCH_BYTES: usize = 64 * 1024;

/// Between two looks at whether the newest batch is settled: what waits for it is in no hurry.
const SETTLED_LOOK: Duration = Duration::from_millis(20);

/// Between two looks at what is held.
const HOLDS_LOOK: Duration = Duration::from_secs(1);

/// What the encoder hands to the sink's task.
enum Down {
    Batch(EncodedBatch),
    /// The encoder is about to wait for a registry or a topic: nothing may stay open meanwhile.
    Idle,
}

/// Attempts one after the other, as long as each one ends only because something is to wait alone, or to be tried again.
/// Ends with `Ok` only because `stopping` was set.
pub async fn run<S: Source, K: Sink>(
    source: &mut S,
    sink: &mut K,
    format: Format,
    progress: Arc<Progress>,
    stopping: watch::Receiver<bool>,
) -> Result<()> {
    loop {
        // On the heap, like the reading in it: nested, and moved from one to the next, they would fill the stack.
        let struck = match Box::pin(attempt(source, sink, &format, &progress, stopping.clone())).await {
            Ok(Ending::Stopped) => return Ok(()),
            Ok(Ending::Due) => continue,
            Err(error) => error,
        };
        match struck.strike() {
            Some(new) if source.can_hold() => {
                tracing::warn!(held = %new.thing, hint = new.hint, "waits, while the rest goes on: {struck}");
                progress.holds.struck(new);
            }
            // Whatever is in the way of what was to be released, the rest is not to stand still for it.
            _ if progress.holds.failed() && !may_pass(struck.kind()) => {
                tracing::warn!(hint = struck.hint_text(), "what waits cannot go out, and waits on: {struck}");
            }
            _ => {
                progress.holds.pauses();
                return Err(struck);
            }
        }
    }
}

/// Whether an error says nothing against what was tried.
fn may_pass(kind: Kind) -> bool {
    match kind {
        Kind::Transient | Kind::Fenced => true,
        Kind::Config | Kind::Record | Kind::Fatal => false,
    }
}

/// Why an attempt ended in good order.
enum Ending {
    Stopped,
    /// Something that is held is to be tried again.
    Due,
}

/// One attempt, in the order that correctness asks for: the source must be able to stream before the sink
/// shuts out a predecessor.
async fn attempt<S: Source, K: Sink>(
    source: &mut S,
    sink: &mut K,
    format: &Format,
    progress: &Arc<Progress>,
    mut stopping: watch::Receiver<bool>,
) -> Result<Ending> {
    progress.holds.begins();
    let from = tokio::select! {
        biased;
        _ = stopping.wait_for(|stop| *stop) => return Ok(Ending::Stopped),
        from = open(source, sink, format, progress) => from?,
    };
    let (from, lanes) = source.hold(from, &progress.holds)?;
    if !lanes.held.is_empty() && !format.can_hold() {
        return Err(Error::config("something waits, and the file asks for the metadata of transactions")
            .hint("take `transactions` out of [format] until nothing is held"));
    }
    // What an earlier attempt had on its way comes again, or was delivered after all.
    progress.pending_since_us.store(0, Ordering::Relaxed);
    if let Some(position) = &from {
        progress.set_position(position.clone());
    }
    let encoder = Encoder::new(format.clone(), sink.targets(), progress.clone());
    let encoder = match source.can_hold() && format.can_hold() {
        true => encoder.holding(lanes.clone()),
        false => encoder,
    };
    flow(source, sink, encoder, (from, lanes), (format, progress), stopping).await
}

/// From the first batch to the last one.
async fn flow<S: Source, K: Sink>(
    source: &mut S,
    sink: &mut K,
    encoder: Encoder<K::Targets>,
    (from, lanes): (Option<Position>, Lanes),
    (format, progress): (&Format, &Arc<Progress>),
    mut stopping: watch::Receiver<bool>,
) -> Result<Ending> {
    let (full_in, full_out) = mpsc::channel(BATCHES);
    let (empty_in, empty_out) = shuttle::channel();
    let (down_in, down_out) = mpsc::channel(2 * BATCHES);
    let (spent_in, spent_out) = mpsc::channel(BATCHES);
    fill(&empty_in, &spent_in);
    let (delivered_in, delivered_out) = watch::channel(None);
    let (source_runs, source_ended) = watch::channel(());
    let (end, ending) = watch::channel(false);
    let feed = Feed {
        empties: empty_out,
        full: full_in,
        delivered: delivered_out,
        stopping: ending,
        seq: 0,
        lanes: Arc::new(lanes),
        notes: sink.notes(),
        progress: progress.clone(),
    };
    let task = EncodeTask {
        end: from.clone(),
        beat: format.heartbeat.as_ref().map(|heartbeat| Beat::new(heartbeat.every)),
        news: progress.news(),
        encoder,
        full: full_out,
        empties: empty_in,
        down: down_in,
        spent: spent_out,
        progress: progress.clone(),
        seq: 0,
        sent: 0,
        source_ended,
    };
    let encoding = tokio::spawn(task.run().in_current_span());
    let (shown, sent) = (progress.clone(), VecDeque::new());
    let delivery = Delivery { delivered: delivered_in, spent: spent_in, progress: shown, sent };
    let targets = sink.targets();

    let reading = Box::pin(async {
        let read = source.run(from.filter(|_| !chaos::is_broken(Rule::Begin)), feed).await;
        drop(source_runs);
        read
    });
    let mut is_due = false;
    let (read, sent) = tokio::select! {
        ended = async { tokio::join!(reading, delivery.run(sink, down_out)) } => ended,
        // Never ready: it only says when.
        () = told_to_end(&mut stopping, (progress, &targets), (&end, &mut is_due)) => return Ok(Ending::Stopped),
    };
    let encoded = encoding
        .await
        // The panic's own words may hold row data; the hook has logged its place.
        .unwrap_or_else(|_| Err(Error::fatal("the encoder stopped by a panic")));
    // The cause is where the chain broke first: an error downstream makes the ones upstream stop quietly,
    // and a source that fails still lets what it sent be delivered.
    sent.and(encoded)?;
    believed(read, sink).await?;
    Ok(if is_due { Ending::Due } else { Ending::Stopped })
}

/// Ends the attempt when the connector is to stop, and when something that is held is to be tried again. Goes on until
/// it is dropped.
async fn told_to_end(
    stopping: &mut watch::Receiver<bool>,
    (progress, targets): (&Progress, &impl Targets),
    (end, is_due): (&watch::Sender<bool>, &mut bool),
) {
    let is_stopped = tokio::select! {
        biased;
        // Whoever could ask may be gone: then the attempt ends by other means.
        stopped = stopping.wait_for(|stop| *stop) => stopped.is_ok(),
        () = next_try(&progress.holds, targets) => {
            *is_due = true;
            true
        }
    };
    if is_stopped {
        end.send_replace(true);
    }
    std::future::pending().await
}

/// Ready when something that is held is to be tried again. Cancel-safe.
async fn next_try(holds: &Holds, targets: &impl Targets) {
    loop {
        // What is held changes when nobody looks: a release, or the first word of the source.
        let Some((at, asks)) = holds.next() else {
            tokio::time::sleep(HOLDS_LOOK).await;
            continue;
        };
        tokio::time::sleep_until(at.min(Instant::now() + HOLDS_LOOK)).await;
        if at > Instant::now() {
            continue;
        }
        if !asks {
            return;
        }
        if targets.answers().await {
            holds.answered();
            return;
        }
        holds.postpone();
    }
}

async fn open<S: Source, K: Sink>(
    source: &S,
    sink: &mut K,
    format: &Format,
    progress: &Progress,
) -> Result<Option<Position>> {
    source.preconditions(progress).await?;
    let from = sink.open().await?;
    must_fit(source, format, from.is_none()).await?;
    Ok(from)
}

/// Whether the file fits what is captured now. Where the connector has a position already, rows of an older version of a
/// table may be the next to come, which the file fits and this version does not: then it is only told, and the first row
/// that does not fit stops the connector.
async fn must_fit<S: Source>(source: &S, format: &Format, is_first: bool) -> Result<()> {
    if !format.names_columns() {
        return Ok(());
    }
    let misfits = match source.relations().await {
        Ok(relations) => {
            // Its table may be still to come.
            for error in hides_nothing(format, &relations) {
                tracing::warn!(%error, hint = error.hint_text(), "a column is not hidden");
            }
            misfits(format, &relations)
        }
        Err(error) if error.kind() == Kind::Config => vec![error],
        Err(error) => return Err(error),
    };
    for error in misfits {
        if is_first {
            return Err(error);
        }
        tracing::warn!(%error, hint = error.hint_text(), "the file does not fit a table as it is now");
    }
    Ok(())
}

/// A source's last word, held against the sink: what it compared its own state with may be old by now, and a
/// rival that has moved on leaves the same traces as a slot that was lost.
async fn believed<K: Sink>(read: Result<()>, sink: &mut K) -> Result<()> {
    if let Err(error) = &read
        && ends_for_good(error.kind())
    {
        sink.undisturbed().await?;
    }
    read
}

fn ends_for_good(kind: Kind) -> bool {
    match kind {
        Kind::Config | Kind::Fatal => true,
        Kind::Transient | Kind::Record | Kind::Fenced => false,
    }
}

/// Puts the empty batches on both shuttles.
fn fill(empties: &shuttle::Sender<ChangeBatch>, spent: &mpsc::Sender<EncodedBatch>) {
    for _ in 0..BATCHES {
        // The receivers are alive and there is a place for each: neither can fail.
        let _ = empties.send(ChangeBatch::default());
        let _ = spent.try_send(EncodedBatch::default());
    }
}

struct EncodeTask<T: Targets> {
    encoder: Encoder<T>,
    full: mpsc::Receiver<ChangeBatch>,
    empties: shuttle::Sender<ChangeBatch>,
    down: mpsc::Sender<Down>,
    spent: mpsc::Receiver<EncodedBatch>,
    progress: Arc<Progress>,
    seq: u64,
    /// Batches sent down: one more than came for each heartbeat that went alone.
    sent: u64,
    /// The end of the newest batch; `None` inside a transaction, and before the first position of all.
    end: Option<Position>,
    /// Where heartbeats are wanted.
    beat: Option<Beat>,
    /// Changes when there is something to tell of snapshots.
    news: watch::Receiver<u64>,
    /// Its sender falls when the source has ended.
    source_ended: watch::Receiver<()>,
}

impl<T: Targets> EncodeTask<T> {
    /// Ends with `Ok` when either neighbour has gone.
    async fn run(mut self) -> Result<()> {
        loop {
            // A sink that ended must be noticed while the source is idle too.
            let next = tokio::select! {
                biased;
                () = self.down.closed() => return Ok(()),
                next = self.full.recv() => next,
                end = due(&mut self.beat, &self.end) => {
                    if !self.alone(end, true).await? {
                        return Ok(());
                    }
                    continue;
                }
                end = told(&mut self.news, &self.end, &self.progress) => {
                    if self.encoder.has_news() && !self.alone(end, false).await? {
                        return Ok(());
                    }
                    continue;
                }
            };
            let Some(batch) = next else { return Ok(()) };
            // Invariant 3: nothing is lost or turned round between the stages.
            if batch.seq != self.seq + 1 {
                return Err(Error::fatal(format!("batch {} came after batch {}", batch.seq, self.seq)));
            }
            self.seq = batch.seq;
            self.note_received(&batch);
            if chaos::is_broken(Rule::Every) && batch.seq.is_multiple_of(5) {
                let _ = self.empties.send(batch);
                continue;
            }
            let Some(mut out) = self.spent.recv().await else { return Ok(()) };
            if !self.encode(&batch, &mut out).await? {
                return Ok(());
            }
            self.end = batch.end.clone().filter(|_| batch.whole);
            let beats = self.end.is_some() && self.beat.as_mut().is_some_and(Beat::goes);
            if !self.put_beside(&mut out, beats).await? {
                return Ok(());
            }
            self.sent += 1;
            out.seq = self.sent;
            // The source may have ended already; then nobody wants the buffer back.
            let _ = self.empties.send(batch);
            if self.down.send(Down::Batch(out)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// False when the sink has gone.
    async fn encode(&mut self, batch: &ChangeBatch, out: &mut EncodedBatch) -> Result<bool> {
        let mut prepared = self.encoder.is_prepared(batch);
        loop {
            if !prepared {
                if self.down.send(Down::Idle).await.is_err() {
                    return Ok(false);
                }
                tokio::select! {
                    biased;
                    () = self.down.closed() => return Ok(false),
                    // A registry that is away must not hold up an end: what was not encoded comes again.
                    _ = self.source_ended.changed() => return Ok(false),
                    ready = self.encoder.prepare(batch) => ready?,
                }
            }
            out.clear();
            let encoded = if batch.bytes.len() < SMALL_BATCH_BYTES {
                self.encoder.encode(batch, out)?
            } else {
                block_in_place(|| self.encoder.encode(batch, out))?
            };
            match encoded {
                Encoded::Done => return Ok(true),
                Encoded::NeedsPrepare => prepared = false,
            }
        }
    }

    /// A heartbeat or news while nothing else is under way, at the newest position. False when the sink has gone.
    async fn alone(&mut self, end: Position, beats: bool) -> Result<bool> {
        let Some(mut out) = self.spent.recv().await else { return Ok(false) };
        out.clear();
        if !self.put_beside(&mut out, beats).await? {
            return Ok(false);
        }
        self.sent += 1;
        out.seq = self.sent;
        (out.end, out.whole, out.drained) = (Some(end), true, true);
        Ok(self.down.send(Down::Batch(out)).await.is_ok())
    }

    /// Adds a heartbeat where one is due, and what there is to tell. False when the sink has gone.
    async fn put_beside(&mut self, out: &mut EncodedBatch, beats: bool) -> Result<bool> {
        let tells = self.encoder.has_news();
        if (beats || tells) && !self.encoder.is_prepared_beside() {
            if self.down.send(Down::Idle).await.is_err() {
                return Ok(false);
            }
            tokio::select! {
                biased;
                () = self.down.closed() => return Ok(false),
                _ = self.source_ended.changed() => return Ok(false),
                ready = self.encoder.prepare_beside() => ready?,
            }
        }
        if beats {
            self.encoder.heartbeat(out)?;
        }
        if tells {
            self.encoder.tell(out)?;
        }
        Ok(true)
    }

    fn note_received(&self, batch: &ChangeBatch) {
        let Some(first) = batch.transactions.first() else { return };
        if batch.changes.is_empty() {
            return;
        }
        let since = &self.progress.pending_since_us;
        let _ = since.compare_exchange(0, first.commit_ts_us.max(1), Ordering::Relaxed, Ordering::Relaxed);
        self.progress.received_changes.fetch_add(batch.changes.len() as u64, Ordering::Relaxed);
        self.progress.received_bytes.fetch_add(batch.bytes.len() as u64, Ordering::Relaxed);
    }
}

/// When the next heartbeat is due.
struct Beat {
    every: Duration,
    next: Instant,
}

impl Beat {
    fn new(every: Duration) -> Self {
        Self { every, next: Instant::now() + every }
    }

    /// Whether a heartbeat goes with a batch that is ready now.
    fn goes(&mut self) -> bool {
        let now = Instant::now();
        let goes = now >= self.next;
        if goes {
            self.next = now + self.every;
        }
        goes
    }
}

/// Ready when a heartbeat is to go alone, at this position. Cancel-safe.
async fn due(beat: &mut Option<Beat>, end: &Option<Position>) -> Position {
    let (Some(beat), Some(end)) = (beat, end) else { return std::future::pending().await };
    tokio::time::sleep_until(beat.next).await;
    beat.next = Instant::now() + beat.every;
    end.clone()
}

/// Ready when there may be something to tell alone, at this position. Cancel-safe: whatever goes instead tells it.
async fn told(news: &mut watch::Receiver<u64>, end: &Option<Position>, progress: &Progress) -> Position {
    let Some(end) = end.as_ref() else { return std::future::pending().await };
    // The sender lives as long as the connector.
    let _ = news.changed().await;
    // Two batches that end alike and are under way together could not be told apart once one is settled.
    while progress.position().as_ref() != Some(end) {
        tokio::time::sleep(SETTLED_LOOK).await;
    }
    end.clone()
}

/// A batch that the sink has and has not settled.
struct Sent {
    end: Position,
    commit_ts_us: i64,
    buried: u64,
    told: u64,
}

struct Delivery {
    delivered: watch::Sender<Option<Position>>,
    spent: mpsc::Sender<EncodedBatch>,
    progress: Arc<Progress>,
    /// In the order of sending; settled from the front.
    sent: VecDeque<Sent>,
}

impl Delivery {
    /// Ends with `Ok` when the encoder has gone, after committing what is whole.
    async fn run<K: Sink>(mut self, sink: &mut K, mut down: mpsc::Receiver<Down>) -> Result<()> {
        loop {
            // Priorities: what is durable is told first, so that the source can confirm and free its log.
            tokio::select! {
                biased;
                settled = sink.settled() => self.settle(settled?),
                next = down.recv() => match next {
                    Some(Down::Batch(batch)) => self.send(sink, batch).await?,
                    Some(Down::Idle) => sink.idle().await?,
                    None => break,
                },
            }
        }
        if let Some(last) = sink.close().await? {
            self.settle(last);
        }
        Ok(())
    }

    async fn send<K: Sink>(&mut self, sink: &mut K, batch: EncodedBatch) -> Result<()> {
        let Some(end) = batch.end.clone() else {
            return Err(Error::fatal(format!("batch {} carries no position", batch.seq)));
        };
        if chaos::is_broken(Rule::Settled) {
            self.delivered.send_replace(Some(end.clone()));
        }
        self.sent.push_back(Sent {
            end,
            commit_ts_us: batch.commit_ts_us,
            buried: batch.buried,
            told: batch.told,
        });
        match sink.send(&batch).await {
            Err(_) if chaos::is_broken(Rule::Stop) => {}
            sent => sent?,
        }
        if chaos::is_broken(Rule::Once) {
            sink.send(&batch).await?;
        }
        // The encoder may have ended already; then nobody wants the buffer back.
        let _ = self.spent.try_send(batch);
        Ok(())
    }

    fn settle(&mut self, position: Position) {
        let now = now_us();
        if self.sent.iter().any(|sent| sent.end == position) {
            while let Some(sent) = self.sent.pop_front() {
                if sent.commit_ts_us > 0 {
                    let took = u64::try_from(now - sent.commit_ts_us).unwrap_or(0);
                    self.progress.end_to_end.observe(Duration::from_micros(took));
                }
                // Counted here, so that what an attempt had to send again counts once.
                self.progress.failed_events.fetch_add(sent.buried, Ordering::Relaxed);
                self.progress.dead_letters.fetch_add(sent.buried, Ordering::Relaxed);
                self.progress.notifications_told.fetch_max(sent.told, Ordering::Relaxed);
                if sent.end == position {
                    break;
                }
            }
        }
        let pending = self.sent.iter().map(|sent| sent.commit_ts_us).find(|ts| *ts > 0).unwrap_or(0);
        self.progress.pending_since_us.store(pending, Ordering::Relaxed);
        if self.progress.position().as_ref() != Some(&position) {
            self.progress.moves.fetch_add(1, Ordering::Relaxed);
        }
        self.progress.set_position(position.clone());
        self.delivered.send_replace(Some(position));
    }
}
