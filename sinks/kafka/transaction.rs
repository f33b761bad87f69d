//! Two producers that take turns, so that one may send while the other commits.
//!
//! Start at `Session::send`. Records go into the open transaction of the producer whose turn it is; closing
//! it adds the position and hands it to that producer's thread, and the other one is next. The rules that
//! make log order, commit order and position order one are in `begin` and in `Producer::commit`.

mod open;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millrace_core::batch::{EncodedBatch, Record};
use millrace_core::chaos::{self, Point};
use millrace_core::error::{Error, Result};
use millrace_core::position::{Notes, Position};
use millrace_core::progress::{Progress, now_us};
use tokio::sync::oneshot;

use crate::closing::{self, Close, Standing};
use crate::config::Settings;
use crate::errors::{Code, Failure};
use crate::native::{self, Topic};
use crate::position::{self, Keys};
use crate::producer::{Producer, Sizes, Trouble};
use crate::rules;
use crate::stop::Stop;
use crate::topics::Topics;
use crate::traced::Traced;
use open::{Open, Pending};

/// Brokers forget a transactional id that is silent for `transactional.id.expiration.ms`, a week by default;
/// hourly was asked for, and this leaves room.
const KEEPALIVE: Duration = Duration::from_secs(45 * 60);

/// While the queue is full, a record is tried again this often; the queue drains in tens of milliseconds.
const QUEUE_RETRY: Duration = Duration::from_millis(1);

/// Records between two runs of the callbacks that give delivered records' memory back; one comes at a batch's end too.
const POLL_EVERY: usize = 512;

/// A data topic in each producer.
struct Slot {
    name: Arc<str>,
    partitions: u32,
    record_bytes_max: u32,
    handles: [Option<Topic>; 2],
    /// Its partition count stands in the position topic, or in the open transaction.
    recorded: bool,
}

/// From one opening to the next.
pub struct Session {
    // Handles go before the producers they came from.
    slots: Vec<Option<Slot>>,
    position_topic: [Topic; 2],
    pub producers: [Producer; 2],
    settings: Arc<Settings>,
    topics: Arc<Topics>,
    keys: Keys,
    progress: Arc<Progress>,
    sizes: Sizes,
    /// Whose transaction is open or next.
    turn: usize,
    /// The answer to a begin that was ordered.
    beginning: Option<oneshot::Receiver<Result<(), Failure>>>,
    open: Option<Open>,
    /// At most one a producer, in commit order.
    pending: VecDeque<Pending>,
    /// The newest durable position that nobody was told of.
    settled: Option<Position>,
    /// The newest durable position.
    pub newest: Option<Position>,
    /// As they were found at the opening; taken by the source.
    pub notes: Notes,
    committed_at: [Instant; 2],
    /// Keepalives that are due: none, or what is left of one on each producer.
    keepalives: u8,
    /// The source transaction that was cut last.
    cut: Option<u64>,
    /// Commits since the opening, none of them doubtful.
    pub clean: u32,
    text: String,
}

impl Session {
    pub fn new(
        producers: [Producer; 2],
        position_topic: [Topic; 2],
        settings: Arc<Settings>,
        topics: Arc<Topics>,
        keys: Keys,
        progress: Arc<Progress>,
        sizes: Sizes,
    ) -> Self {
        Self {
            slots: Vec::new(),
            position_topic,
            producers,
            settings,
            topics,
            keys,
            progress,
            sizes,
            turn: rules::FIRST,
            beginning: None,
            open: None,
            pending: VecDeque::with_capacity(2),
            settled: None,
            newest: None,
            notes: Notes::default(),
            committed_at: [Instant::now(); 2],
            keepalives: 0,
            cut: None,
            clean: 0,
            text: String::new(),
        }
    }

    pub async fn send(&mut self, batch: &EncodedBatch) -> Result<(), Stop> {
        let Some(end) = &batch.end else {
            return if batch.records.is_empty() {
                Ok(())
            } else {
                Err(Error::fatal(format!("batch {} carries no position", batch.seq)).into())
            };
        };
        while self.keepalives > 0 {
            self.keep_alive().await?;
        }
        self.begin().await?;
        self.enqueue(batch).await?;
        self.write_notes(batch).await?;
        chaos::pass(Point::BatchEnqueued);
        if let Some(open) = &mut self.open {
            if let Some(traced) = &mut open.traced {
                let slot = |topic: u32| self.slots.get(topic as usize)?.as_ref();
                traced.holds(batch, |topic| slot(topic).map(|slot| slot.name.clone()));
            }
            open.end = Some(end.clone());
            open.whole = batch.whole;
            open.drained = batch.drained;
            open.newest_batch = Instant::now();
        }
        self.close_if_due().await
    }

    /// Cancel-safe: whatever is under way is kept in `self`.
    pub async fn settled(&mut self) -> Result<Position, Stop> {
        loop {
            if let Some(position) = self.settled.take() {
                return Ok(position);
            }
            if self.keepalives > 0 {
                self.keep_alive().await?;
                continue;
            }
            let look = self.look_at();
            let time = async {
                match look {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                settled = self.settle_one(), if !self.pending.is_empty() => {
                    settled?;
                    self.close_if_due().await?;
                }
                () = time => self.on_time().await?,
            }
        }
    }

    /// Commits what is open, if it is whole.
    pub async fn idle(&mut self) -> Result<(), Stop> {
        if let Some(open) = &mut self.open {
            open.drained = true;
        }
        self.close_if_due().await
    }

    /// Commits a position alone, and with it that nothing stands under these keys any more.
    pub async fn overwrite(&mut self, position: &Position, forgotten: &[String]) -> Result<(), Stop> {
        self.begin().await?;
        for key in forgotten {
            self.write(position::SLOW, key, None).await?;
        }
        if let Some(open) = &mut self.open {
            open.end = Some(position.clone());
            open.whole = true;
        }
        self.close(Close::PositionOnly).await?;
        self.finish().await
    }

    /// Commits what is whole and waits for it.
    pub async fn finish(&mut self) -> Result<(), Stop> {
        self.idle().await?;
        while !self.pending.is_empty() {
            self.settle_one().await?;
            // What was whole behind that commit had to wait for it.
            self.close_if_due().await?;
        }
        Ok(())
    }

    /// Makes sure that a transaction is open on the producer whose turn it is.
    ///
    /// It may send once every record of the transaction before is acknowledged, and it begins nothing while
    /// that one has been committing for more than a third of the timeout. Cancel-safe.
    async fn begin(&mut self) -> Result<(), Stop> {
        if self.open.is_some() {
            return Ok(());
        }
        if self.topics.sizes().batch_bytes < self.sizes.batch_bytes {
            return Err(Error::transient("a topic takes smaller batches than the producers make")
                .hint("the producers are opened anew with smaller ones")
                .into());
        }
        while let Some(before) = self.pending.front_mut() {
            let both = before.nth == self.turn;
            if !both && let Some(flushed) = &mut before.flushed {
                let wait = tokio::time::timeout(self.settings.limits.timeout, flushed).await;
                before.flushed = None;
                before.is_flushed = matches!(wait, Ok(Ok(())));
            }
            let slow = before.given.elapsed() > self.settings.limits.timeout / 3;
            if !both && before.is_flushed && !slow {
                break;
            }
            self.settle_one().await?;
        }
        let Some(producer) = self.producers.get(self.turn) else { return Ok(()) };
        let answer = self.beginning.get_or_insert_with(|| producer.begin());
        let begun = producer.began(answer).await;
        self.beginning = None;
        begun.map_err(|trouble| Stop::Trouble {
            what: format!("cannot begin a transaction of {}", producer.id()),
            trouble,
        })?;
        self.open = Some(Open::new(Traced::begin(&self.settings.connector, producer.id())));
        Ok(())
    }

    async fn enqueue(&mut self, batch: &EncodedBatch) -> Result<(), Stop> {
        // Once a batch, where librdkafka would ask the clock for each record.
        let now_ms = now_us() / 1000;
        for (nth, record) in batch.records.iter().enumerate() {
            if (nth % POLL_EVERY == POLL_EVERY - 1 || nth + 1 == batch.records.len())
                && let Some(producer) = self.producers.get(self.turn)
            {
                producer.poll();
            }
            self.prepare_slot(record.topic).await?;
            let bytes = self.fitting(batch, record)?;
            while let Err(code) = self.try_produce(batch, record, now_ms) {
                self.make_room(code).await?;
            }
            chaos::pass(Point::RecordEnqueued);
            let Some(open) = &mut self.open else { continue };
            open.records += 1;
            open.bytes += bytes;
            if open.source != record.mark.commit {
                open.source = record.mark.commit;
                open.source_bytes = 0;
            }
            open.source_bytes += bytes;
        }
        Ok(())
    }

    /// The size of a record, which must be within its topic's limit. The encoder has seen to that.
    fn fitting(&self, batch: &EncodedBatch, record: &Record) -> Result<u64, Stop> {
        let len = |span: Option<millrace_core::batch::Span>| span.map_or(0, |span| u64::from(span.len));
        let bytes = len(record.key) + len(record.value) + u64::from(record.headers.len);
        let Some(Some(slot)) = self.slots.get(record.topic as usize) else { return Ok(bytes) };
        if record.partition >= slot.partitions {
            return Err(Error::fatal(format!(
                "batch {} names partition {} of topic {}, which has {}",
                batch.seq, record.partition, slot.name, slot.partitions
            ))
            .into());
        }
        if bytes > u64::from(slot.record_bytes_max) {
            return Err(Error::record(format!(
                "a record of {bytes} bytes is too large for topic {}, which takes {}",
                slot.name, slot.record_bytes_max
            ))
            .hint(format!("raise max.message.bytes of topic {}", slot.name))
            .into());
        }
        Ok(bytes)
    }

    fn try_produce(&self, batch: &EncodedBatch, record: &Record, now_ms: i64) -> Result<(), Code> {
        let slot = self.slots.get(record.topic as usize).and_then(Option::as_ref);
        let Some(topic) = slot.and_then(|slot| slot.handles.get(self.turn)?.as_ref()) else { return Ok(()) };
        topic.produce(
            record.partition,
            record.key.map(|span| batch.slice(span)),
            record.value.map(|span| batch.slice(span)),
            batch.headers(record),
            record.mark.change,
            if record.time_ms == 0 { now_ms } else { record.time_ms },
        )
    }

    /// Makes the topic's handle in the producer whose turn it is, and adds the topic's partition count to
    /// the transaction that holds the first record for it.
    async fn prepare_slot(&mut self, index: u32) -> Result<(), Stop> {
        let at = index as usize;
        if let Some(Some(slot)) = self.slots.get(at)
            && slot.recorded
            && slot.handles.get(self.turn).is_some_and(Option::is_some)
        {
            return Ok(());
        }
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        let (Some(slot), Some(producer)) = (self.slots.get_mut(at), self.producers.get(self.turn)) else {
            return Ok(());
        };
        let slot = match slot {
            Some(slot) => slot,
            None => {
                let new = new_slot(&self.topics, index)?;
                self.progress.use_topic(&new.name);
                slot.insert(new)
            }
        };
        if let Some(handle @ None) = slot.handles.get_mut(self.turn) {
            *handle = Some(producer.data_topic(&slot.name, slot.partitions)?);
        }
        if !slot.recorded {
            let key = self.keys.partitions(&slot.name);
            let value = position::partitions_value(slot.partitions);
            self.write(position::SLOW, &key, Some(&value)).await?;
            if let Some(Some(slot)) = self.slots.get_mut(at) {
                slot.recorded = true;
            }
        }
        Ok(())
    }

    async fn send_position(&mut self, position: &Position) -> Result<(), Stop> {
        let mut text = std::mem::take(&mut self.text);
        position::source_value(position.as_str(), &mut text);
        let written = self.write(position::STREAM, &self.keys.position, Some(&text)).await;
        self.text = text;
        written
    }

    async fn write_notes(&mut self, batch: &EncodedBatch) -> Result<(), Stop> {
        let mut text = std::mem::take(&mut self.text);
        for note in &batch.notes {
            let value = note.text.as_ref().map(|object| {
                position::source_value(object, &mut text);
                text.as_str()
            });
            self.write(position::SLOW, &self.keys.note(&note.key), value).await?;
        }
        self.text = text;
        Ok(())
    }

    /// Adds a record to the position topic, within the open transaction.
    async fn write(&self, partition: u32, key: &str, value: Option<&str>) -> Result<(), Stop> {
        let Some(topic) = self.position_topic.get(self.turn) else { return Ok(()) };
        let (key, value) = (Some(key.as_bytes()), value.map(str::as_bytes));
        while let Err(code) = topic.produce(partition, key, value, std::iter::empty(), 0, 0) {
            self.make_room(code).await?;
        }
        Ok(())
    }

    /// After a record was not taken: waits until the queue has room, or says why there is none. The open
    /// transaction is never ended here: without its position a commit of it would be half a truth.
    async fn make_room(&self, code: Code) -> Result<(), Stop> {
        let Some(producer) = self.producers.get(self.turn) else { return Ok(()) };
        match code {
            Code::QUEUE_FULL => {
                producer.poll();
                let waited =
                    self.open.as_ref().is_some_and(|open| open.is_overdue(self.settings.limits.timeout));
                if !producer.has_undelivered() && !waited {
                    tokio::time::sleep(QUEUE_RETRY).await;
                    return Ok(());
                }
            }
            Code::TOO_LARGE => {
                return Err(Error::transient("a record is larger than the producers were opened for")
                    .hint("the producers are opened anew with the topics' own limits")
                    .into());
            }
            _ => (),
        }
        let refused = || Trouble::Call(Failure { code, text: native::describe(code), retriable: false });
        let trouble = producer.failed().unwrap_or_else(refused);
        self.progress.aborts.fetch_add(1, Ordering::Relaxed);
        Err(Stop::Trouble { what: format!("cannot send to kafka through {}", producer.id()), trouble })
    }

    async fn close_if_due(&mut self) -> Result<(), Stop> {
        let Some(open) = &self.open else { return Ok(()) };
        if open.end.is_none() {
            return Ok(());
        }
        let standing = Standing { waits: !self.pending.is_empty(), ..open.standing() };
        match closing::close_reason(&standing, &self.settings.limits) {
            Some(reason) => self.close(reason).await,
            None => Ok(()),
        }
    }

    /// Invariant 2: the position goes into the transaction of its data. Cancel-safe: nothing changes until
    /// the position is enqueued, and then everything at once.
    async fn close(&mut self, reason: Close) -> Result<(), Stop> {
        let Some(open) = &self.open else { return Ok(()) };
        // Last of all: a transaction that its producer did not live to end holds no position, so that even a
        // broker that loses the abort cannot make us go on after what was never committed.
        if let Some(end) = open.end.clone() {
            self.send_position(&end).await?;
        }
        chaos::pass(Point::PositionEnqueued);
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if let Some(traced) = &mut open.traced {
            traced.closing(open.end.as_ref());
        }
        if reason.cuts() && self.cut != Some(open.source) {
            self.cut = Some(open.source);
            self.progress.cut_transactions.fetch_add(1, Ordering::Relaxed);
            reason.tell_cut(open.records, open.begun.elapsed());
        }
        let Some(producer) = self.producers.get(self.turn) else { return Ok(()) };
        let previous = self.pending.back().map(|before| before.gate.clone());
        let ending = producer.commit(previous);
        self.pending.push_back(Pending {
            nth: self.turn,
            given: Instant::now(),
            flushed: Some(ending.flushed),
            is_flushed: false,
            done: ending.done,
            gate: ending.gate,
            position: open.end,
            records: open.records,
            cuts: reason.cuts(),
            traced: open.traced,
        });
        self.turn = rules::after(self.turn);
        Ok(())
    }

    /// Waits for the oldest commit that is under way. Cancel-safe.
    async fn settle_one(&mut self) -> Result<(), Stop> {
        let Some(oldest) = self.pending.front_mut() else { return Ok(()) };
        let Some(producer) = self.producers.get(oldest.nth) else { return Ok(()) };
        let outcome = producer.committed(&mut oldest.done, oldest.given.into()).await;
        let id = producer.id().to_owned();
        let Some(mut ended) = self.pending.pop_front() else { return Ok(()) };
        let traced = ended.traced.take();
        let committed = match outcome {
            Ok(committed) => committed,
            Err(trouble) => {
                if let Some(traced) = traced {
                    traced.failed(&trouble);
                }
                self.progress.aborts.fetch_add(1, Ordering::Relaxed);
                return Err(Stop::Trouble { what: format!("cannot commit a transaction of {id}"), trouble });
            }
        };
        chaos::pass(match ended {
            Pending { cuts: true, .. } => Point::CutCommitted,
            Pending { records: 0, .. } => Point::IdleCommitted,
            Pending { .. } => Point::Committed,
        });
        if let Some(traced) = traced {
            traced.committed(committed.doubtful);
        }
        self.progress.commits.fetch_add(1, Ordering::Relaxed);
        self.progress.commit_latency.observe(committed.whole);
        self.progress.delivered_records.fetch_add(ended.records, Ordering::Relaxed);
        if let Some(at) = self.committed_at.get_mut(ended.nth) {
            *at = Instant::now();
        }
        if let Some(position) = ended.position {
            self.newest = Some(position.clone());
            self.settled = Some(position);
        }
        if committed.doubtful {
            self.progress.doubtful_commits.fetch_add(1, Ordering::Relaxed);
            return Err(Stop::Doubtful { id, committed });
        }
        self.clean = self.clean.saturating_add(1);
        Ok(())
    }

    /// When time alone asks for something.
    fn look_at(&self) -> Option<Instant> {
        if let Some(open) = &self.open {
            open.end.as_ref()?;
            if open.whole && !self.pending.is_empty() {
                // The end of the one before it is what it waits for.
                return None;
            }
            return Some(Instant::now() + closing::look_after(&open.standing(), &self.settings.limits));
        }
        if !self.pending.is_empty() {
            return None;
        }
        self.committed_at.iter().min().map(|oldest| *oldest + KEEPALIVE)
    }

    async fn on_time(&mut self) -> Result<(), Stop> {
        if self.open.is_some() {
            return self.close_if_due().await;
        }
        // On both, so that the turn comes back to where it was: the first data after opening is on `-0`.
        self.keepalives = 2;
        Ok(())
    }

    /// Cancel-safe; a keepalive that is written twice does no harm.
    async fn keep_alive(&mut self) -> Result<(), Stop> {
        self.begin().await?;
        let Some(producer) = self.producers.get(self.turn) else { return Ok(()) };
        let key = self.keys.keepalive(producer.id());
        self.write(position::SLOW, &key, Some(&position::keepalive_value(now_us() / 1000))).await?;
        self.close(Close::PositionOnly).await?;
        self.keepalives -= 1;
        Ok(())
    }
}

fn new_slot(topics: &Topics, index: u32) -> Result<Slot, Stop> {
    let Some(known) = topics.get(index) else {
        return Err(
            Error::fatal(format!("a record names topic number {index}, which nobody asked for")).into()
        );
    };
    Ok(Slot {
        recorded: topics.is_recorded(&known.name),
        name: known.name,
        partitions: known.topic.partitions,
        record_bytes_max: known.topic.record_bytes_max,
        handles: [None, None],
    })
}

#[cfg(test)]
mod tests;
