//! One transactional producer: an instance of librdkafka and the thread that makes its blocking calls.
//!
//! Records are enqueued by the sink's task itself; everything that may block is a command to the thread, and
//! everything that waits for an answer of the thread has a watch. Start at `Producer`; the thread's side is
//! `Worker`.

use std::sync::mpsc as commands;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use millrace_core::chaos::{self, Point};
use millrace_core::error::{Error, Result};
use tokio::sync::oneshot;

use crate::config::{Limits, Settings};
use crate::errors::{self, Class, Code, Failure};
use crate::login::Refused;
use crate::native::{Client, Outstanding, Role, Topic, Undelivered};
use crate::position;
use crate::rights::{self, On};

/// The initialisation that follows waits longer, and tells why.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an idle thread runs librdkafka's callbacks.
const IDLE_POLL: Duration = Duration::from_millis(500);
/// An abort at the end is a courtesy to readers; the broker does it anyway when the transaction times out.
const ABORT_TIMEOUT: Duration = Duration::from_secs(3);
/// A call that is made again has this long at least.
const RESUMED_WITH: Duration = Duration::from_secs(1);
/// Above any batch that fits into memory, so that `batch.size` alone decides.
const BATCH_RECORDS: &str = "1000000";
/// Waits for a fuller batch this long; neither a commit nor a push waits for it. Above the age of records under
/// load: once a partition's oldest is older than this, librdkafka polls without pause until the answer to its
/// request before has come.
const LINGER_MS: &str = "100";
/// How long a push makes librdkafka send what it has: its threads wake up meanwhile, and little is added.
const PUSH: Duration = Duration::from_millis(2);
/// Queued records are bounded by bytes; this only must not come first.
const QUEUE_RECORDS: &str = "1000000";

/// What a record's headers and bookkeeping may add to its bytes.
const RECORD_OVERHEAD: u64 = 64 * 1024;

/// Bytes of one batch and of one record, as the topics allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub batch_bytes: u32,
    pub record_bytes: u32,
}

/// How long an ended transaction took to commit, and whether its end may have been asked for twice.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    pub doubtful: bool,
    /// The commit call alone.
    pub call: Duration,
    /// From the order to commit until it is done.
    pub whole: Duration,
}

/// Why a transaction was not committed.
#[derive(Debug)]
pub enum Trouble {
    Call(Failure),
    Undelivered(Undelivered),
    /// The transaction before it was not, or not without doubt.
    Predecessor,
}

impl Trouble {
    pub fn is_fenced(&self) -> bool {
        match self {
            Trouble::Call(failure) => errors::class(failure.code) == Class::Fenced,
            Trouble::Undelivered(record) => errors::class(record.failure.code) == Class::Fenced,
            Trouble::Predecessor => false,
        }
    }

    /// `what` names the call and its object.
    pub fn into_error(self, what: &str, settings: &Settings) -> Error {
        match self {
            Trouble::Call(failure) => {
                let ids = On::TransactionalIds(&settings.transactional_id);
                rights::error(settings, what, failure, "Write", ids)
            }
            Trouble::Undelivered(Undelivered { failure, topic, partition, place }) => {
                let place = match place {
                    0 => String::new(),
                    place => format!(", of the change at {:X}/{:X}", place >> 32, place & 0xFFFF_FFFF),
                };
                let what =
                    format!("a record for partition {partition} of topic {topic}{place}, was not delivered");
                let on = match failure.code {
                    Code::ID_REFUSED => On::TransactionalIds(&settings.transactional_id),
                    _ => On::Topic(&topic),
                };
                rights::error(settings, what, failure, "Write", on)
            }
            Trouble::Predecessor => Error::transient(format!("{what}: the one before it is in doubt")),
        }
    }
}

enum Command {
    Init(oneshot::Sender<Result<(), Failure>>),
    Begin(oneshot::Sender<Result<(), Failure>>),
    Push,
    Commit(Order),
}

/// One transaction to be ended, and everyone who waits for it.
struct Order {
    /// Of the transaction before it, on the other producer.
    previous: Option<Arc<Gate>>,
    gate: Arc<Gate>,
    flushed: oneshot::Sender<()>,
    done: oneshot::Sender<Result<Committed, Trouble>>,
    given: Instant,
}

/// What the sink keeps of a transaction that is being ended.
pub struct Ending {
    pub flushed: oneshot::Receiver<()>,
    pub done: oneshot::Receiver<Result<Committed, Trouble>>,
    /// For the transaction after it.
    pub gate: Arc<Gate>,
}

/// Holds a commit back until the one before it is through.
#[derive(Debug, Default)]
pub struct Gate {
    /// `true`: committed beyond doubt.
    outcome: Mutex<Option<bool>>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, clear: bool) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(clear);
        self.changed.notify_all();
    }

    /// False too when nothing is known in time.
    fn is_clear_within(&self, timeout: Duration) -> bool {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(outcome, timeout, |outcome| outcome.is_none());
        let (outcome, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *outcome == Some(true)
    }
}

/// The sink's side of a producer. Dropping it aborts what is open and ends the thread, without waiting.
pub struct Producer {
    id: String,
    // Dropped before `commands`, so that the thread holds the last reference and is the one that blocks.
    client: Arc<Client>,
    commands: commands::Sender<Command>,
    ended: Option<oneshot::Receiver<()>>,
    watch: Duration,
    outstanding: Arc<Outstanding>,
}

impl Producer {
    pub fn new(settings: &Settings, nth: usize, backoff: Duration, sizes: Sizes) -> Result<Self> {
        let id = format!("{}-{nth}", settings.transactional_id);
        let config = config(settings, &id, backoff, sizes)?;
        let client = Client::new(&config, Role::Producer).map_err(|why| settings.refused(why))?;
        let (commands, orders) = commands::channel();
        let (end, ended) = oneshot::channel();
        // Half may wait while the other half is on its way.
        let outstanding =
            Arc::new(Outstanding::new(batch_bytes(settings, sizes), queue_bytes(settings, sizes) / 2));
        let worker = Worker {
            client: client.clone(),
            outstanding: outstanding.clone(),
            limits: settings.limits,
            doubt: backoff.mul_f64(DOUBT),
            open: false,
        };
        let topic = settings.position_topic.clone();
        let name = format!("kafka-{nth}-{}", settings.connector);
        thread::Builder::new()
            .name(name)
            .spawn(move || {
                worker.connect(&topic);
                worker.run(&orders);
                // Nobody may wait any more.
                let _ = end.send(());
            })
            .map_err(|error| Error::transient("cannot start a thread for a producer").source(error))?;
        Ok(Self { id, client, commands, ended: Some(ended), watch: settings.limits.watch(), outstanding })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether a broker did not let it in.
    pub fn refused(&self) -> Refused {
        self.client.events().refused()
    }

    /// A topic's handle in this producer.
    pub fn topic(&self, name: &str) -> Result<Topic> {
        self.client.topic(name).map_err(|failure| unusable(name, failure))
    }

    /// The same, for a topic that many records go to.
    pub fn data_topic(&self, name: &str, partitions: u32) -> Result<Topic> {
        let topic = self.client.counted_topic(name, partitions, &self.outstanding);
        topic.map_err(|failure| unusable(name, failure))
    }

    /// Runs the callbacks that wait, which makes room in the queue; and where much waits for fuller batches, it is
    /// sent as it is.
    pub fn poll(&self) {
        self.client.poll(Duration::ZERO);
        if self.outstanding.takes_push() {
            self.order(Command::Push);
        }
    }

    /// Why the open transaction has failed, as far as librdkafka says; `None` where it says nothing.
    pub fn failed(&self) -> Option<Trouble> {
        let undelivered = self.client.events().undelivered();
        undelivered.map(|record| cause(&self.client, record)).or(self.client.fatal().map(Trouble::Call))
    }

    /// A record of the open transaction was not delivered: it can only fail.
    pub fn has_undelivered(&self) -> bool {
        self.client.events().undelivered().is_some()
    }

    pub async fn init(&self) -> Result<(), Trouble> {
        let (reply, answer) = oneshot::channel();
        self.answer(Command::Init(reply), answer).await
    }

    /// Orders a transaction to be begun; the answer is for `began`.
    pub fn begin(&self) -> oneshot::Receiver<Result<(), Failure>> {
        let (reply, answer) = oneshot::channel();
        self.order(Command::Begin(reply));
        answer
    }

    /// Cancel-safe: the answer stays with the caller.
    pub async fn began(&self, answer: &mut oneshot::Receiver<Result<(), Failure>>) -> Result<(), Trouble> {
        self.watched(answer).await
    }

    /// Orders the open transaction to be ended, after `previous`. Never waits.
    pub fn commit(&self, previous: Option<Arc<Gate>>) -> Ending {
        let gate = Arc::<Gate>::default();
        let (flushed_reply, flushed) = oneshot::channel();
        let (done_reply, done) = oneshot::channel();
        let given = Instant::now();
        let order = Order { previous, gate: gate.clone(), flushed: flushed_reply, done: done_reply, given };
        self.order(Command::Commit(order));
        Ending { flushed, done, gate }
    }

    /// Waits for a commit that was ordered then; cancel-safe, and however often it is asked anew, the watch
    /// goes on.
    pub async fn committed(
        &self,
        done: &mut oneshot::Receiver<Result<Committed, Trouble>>,
        ordered: tokio::time::Instant,
    ) -> Result<Committed, Trouble> {
        match tokio::time::timeout_at(ordered + self.watch, done).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(self.lost()),
        }
    }

    /// Becomes ready when the thread has ended and everything is given back.
    pub fn ended(&mut self) -> Option<oneshot::Receiver<()>> {
        self.ended.take()
    }

    fn order(&self, command: Command) {
        // A thread that is gone drops the reply, which the one who waits for it sees.
        let _ = self.commands.send(command);
    }

    async fn answer(
        &self,
        command: Command,
        mut answer: oneshot::Receiver<Result<(), Failure>>,
    ) -> Result<(), Trouble> {
        self.order(command);
        self.watched(&mut answer).await
    }

    async fn watched(&self, answer: &mut oneshot::Receiver<Result<(), Failure>>) -> Result<(), Trouble> {
        match tokio::time::timeout(self.watch, answer).await {
            Ok(Ok(outcome)) => outcome.map_err(|failure| Trouble::Call(self.explained(failure))),
            Ok(Err(_)) | Err(_) => Err(self.lost()),
        }
    }

    /// A timeout alone says nothing; what the connections told last does.
    fn explained(&self, mut failure: Failure) -> Failure {
        if failure.code == Code::TIMED_OUT
            && let Some(trouble) = self.client.events().trouble()
        {
            failure.text = format!("{}: {trouble}", failure.text);
        }
        failure
    }

    /// The call will not come back, or its thread is gone: the instance is left behind.
    fn lost(&self) -> Trouble {
        let text = format!("no answer from librdkafka within {} s", self.watch.as_secs());
        Trouble::Call(Failure { code: Code::TIMED_OUT, text, retriable: false })
    }
}

/// Of the backoff: librdkafka's jitter is a fifth, so a commit below this was not retried inside.
pub const DOUBT: f64 = 0.8;

pub fn config(
    settings: &Settings,
    id: &str,
    backoff: Duration,
    sizes: Sizes,
) -> Result<rdkafka::ClientConfig> {
    let backoff_ms = backoff.as_millis().to_string();
    let timeout_ms = settings.limits.timeout.as_millis();
    let mut config = settings.client_config()?;
    let mut owned = |key: &str, value: String| {
        config.set(key, value);
    };
    owned("transactional.id", id.to_owned());
    owned("transaction.timeout.ms", timeout_ms.to_string());
    owned("enable.idempotence", "true".to_owned());
    owned("acks", "all".to_owned());
    owned("message.timeout.ms", settings.limits.delivery().as_millis().to_string());
    owned("retry.backoff.ms", backoff_ms.clone());
    owned("retry.backoff.max.ms", backoff_ms);
    owned("message.max.bytes", sizes.record_bytes.to_string());
    owned("queue.buffering.max.messages", QUEUE_RECORDS.to_owned());
    owned("queue.buffering.max.kbytes", queue_bytes(settings, sizes).div_ceil(1024).to_string());
    owned("statistics.interval.ms", "0".to_owned());
    if settings.client_value("linger.ms").is_none() {
        owned("linger.ms", LINGER_MS.to_owned());
    }
    if settings.client_value("batch.num.messages").is_none() {
        owned("batch.num.messages", BATCH_RECORDS.to_owned());
    }
    owned("batch.size", batch_bytes(settings, sizes).to_string());
    Ok(config)
}

fn unusable(topic: &str, failure: Failure) -> Error {
    errors::error(format!("cannot use topic {topic}"), failure)
}

/// Half of the memory each; but a queue that cannot hold the largest record would never take it.
fn queue_bytes(settings: &Settings, sizes: Sizes) -> u64 {
    (settings.memory_bytes / 2).max(u64::from(sizes.record_bytes) + RECORD_OVERHEAD)
}

fn batch_bytes(settings: &Settings, sizes: Sizes) -> u64 {
    let wished = settings.client_value("batch.size").and_then(|text| text.parse().ok()).unwrap_or(u32::MAX);
    wished.min(sizes.batch_bytes).into()
}

/// The thread's side.
struct Worker {
    client: Arc<Client>,
    outstanding: Arc<Outstanding>,
    limits: Limits,
    doubt: Duration,
    /// A transaction is begun and not ended.
    open: bool,
}

impl Worker {
    /// An initialisation that finds no connection asks again only after half a second, so there is one first.
    /// The second question goes to a partition's leader: the connection to the bootstrap address, which may
    /// have answered the first, is dropped as soon as librdkafka knows the brokers.
    fn connect(&self, topic: &str) {
        let found = self.client.topic(topic).and_then(|topic| {
            topic.look_up(CONNECT_TIMEOUT)?;
            topic.offsets(position::STREAM.cast_signed(), CONNECT_TIMEOUT)
        });
        if let Err(failure) = found {
            tracing::debug!(%failure, "cannot connect a producer yet");
        }
    }

    fn run(mut self, orders: &commands::Receiver<Command>) {
        loop {
            match orders.recv_timeout(IDLE_POLL) {
                Ok(Command::Init(reply)) => {
                    let deadline = Instant::now() + self.limits.call();
                    let _ = reply.send(until(deadline, |left| self.client.init_transactions(left)));
                }
                Ok(Command::Begin(reply)) => {
                    let begun = self.client.begin_transaction();
                    self.open |= begun.is_ok();
                    let _ = reply.send(begun);
                }
                // It times out: what it makes room for comes meanwhile.
                Ok(Command::Push) => drop(self.client.flush(PUSH)),
                Ok(Command::Commit(order)) => self.end(order),
                Err(commands::RecvTimeoutError::Timeout) => self.client.poll(Duration::ZERO),
                Err(commands::RecvTimeoutError::Disconnected) => break,
            }
        }
        self.client.purge();
        if self.open {
            chaos::pass(Point::BeforeAbort);
            // The broker ends it anyway, later; and what follows begins with a new epoch.
            let _ = self.client.abort_transaction(ABORT_TIMEOUT);
            chaos::pass(Point::Aborted);
        }
    }

    fn end(&mut self, order: Order) {
        let Order { previous, gate, flushed, done, given } = order;
        let outcome = self.commit(previous, flushed, given);
        let clear = outcome.as_ref().is_ok_and(|committed| !committed.doubtful);
        gate.set(clear);
        // The sink may have given up already.
        let _ = done.send(outcome);
    }

    /// Flushes, waits for the transaction before, and only then commits: so log order, commit order and
    /// position order are one.
    fn commit(
        &mut self,
        previous: Option<Arc<Gate>>,
        flushed: oneshot::Sender<()>,
        given: Instant,
    ) -> Result<Committed, Trouble> {
        // One deadline for all of it: the broker ends the transaction then, whatever this still waits for.
        let deadline = given + self.limits.ending();
        let left = || deadline.saturating_duration_since(Instant::now());
        self.outstanding.settle(deadline, |wait| self.client.poll(wait));
        let flush = self.client.flush(left());
        if let Some(undelivered) = self.client.events().undelivered() {
            return Err(cause(&self.client, undelivered));
        }
        flush.map_err(|failure| self.fatal_or(failure))?;
        let _ = flushed.send(());
        if let Some(previous) = previous
            && !previous.is_clear_within(left())
        {
            return Err(Trouble::Predecessor);
        }
        self.client.events().take_errors_seen();
        chaos::pass(Point::Flushed);
        let started = Instant::now();
        let deadline = deadline.min(started + self.limits.call());
        until(deadline, |left| self.client.commit_transaction(left))
            .map_err(|failure| self.fatal_or(failure))?;
        let call = started.elapsed();
        self.open = false;
        self.client.poll(Duration::ZERO);
        let doubtful =
            (call > self.doubt || self.client.events().take_errors_seen()) && !chaos::recycle_off();
        Ok(Committed { doubtful, call, whole: given.elapsed() })
    }

    fn fatal_or(&self, failure: Failure) -> Trouble {
        Trouble::Call(self.client.fatal().unwrap_or(failure))
    }
}

/// The same call again while librdkafka says so and there is time for it. Never with little time: one whose own
/// first step runs out of it is forgotten by librdkafka, and the answer to the commit that is still under way then
/// finds no call that it belongs to, which ends the process.
fn until(deadline: Instant, mut call: impl FnMut(Duration) -> Result<(), Failure>) -> Result<(), Failure> {
    let left = || deadline.saturating_duration_since(Instant::now());
    loop {
        match call(left().max(Duration::from_millis(1))) {
            Err(failure) if failure.retriable && left() >= RESUMED_WITH => (),
            answer => return answer,
        }
    }
}

/// What stands behind a record that was not delivered: when the transaction fails, librdkafka drops all its
/// records, and their own codes then say no more than that.
fn cause(client: &Client, undelivered: Undelivered) -> Trouble {
    if let Some(fatal) = client.fatal() {
        return Trouble::Call(fatal);
    }
    if errors::class(undelivered.failure.code) == Class::OutOfStep
        // Inside a transaction this call changes nothing: it fails, with the transaction's own error if any.
        && let Err(failure) = client.begin_transaction()
        && !matches!(errors::class(failure.code), Class::OutOfStep)
    {
        // The broker says which topic it refuses to this user, and librdkafka does not: the first one, or another of the
        // same transaction.
        if failure.code == Code::TOPIC_REFUSED {
            return Trouble::Undelivered(Undelivered { failure, ..undelivered });
        }
        return Trouble::Call(failure);
    }
    Trouble::Undelivered(undelivered)
}

#[cfg(test)]
mod tests;
