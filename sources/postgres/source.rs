//! The source as the pipeline sees it: start at `PostgresSource::run`.
//!
//! Two connections. The replication connection belongs to a thread (`stream`); the query connection stays
//! here, for the heartbeat, for what the status shows (`beside`), and to notice that the server is going down.

mod beside;
mod describing;
mod drained;
mod possible;

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use millrace_core::chaos::{self, Point};
use millrace_core::error::{Error, Result};
use millrace_core::hold::{Gate, Holds, Lanes};
use millrace_core::position::Position;
use millrace_core::progress::{Progress, State, now_us};
use millrace_core::relation::Relation;
use millrace_core::report::Report;
use millrace_core::requests::Ears;
use millrace_core::signal::Signal;
use millrace_core::signal::file::SignalFile;
use millrace_core::signal::inserted::Heard;
use millrace_core::source::{Feed, Source};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use self::possible::{may_read, possible};
use crate::config::Settings;
use crate::control::{self, Control};
use crate::handshake::Handshake;
use crate::held;
use crate::janitor::{self, Janitor, Swept};
use crate::lsn::Lsn;
use crate::membership::{self, Membership};
use crate::messages::Messages;
use crate::position::{Drained, Streamed, creating};
use crate::relation::Origin;
use crate::server::{self, ServerFacts};
use crate::session::Session;
use crate::signals::SignalTable;
use crate::snapshot::desk::{self, Desk, Order};
use crate::snapshot::reader::{Counter, Reader};
use crate::snapshot::requests;
use crate::snapshot::table::{self, Unread, Wish};
use crate::snapshot::tracker::Tracker;
use crate::stream::{Limits, Stream, Told};
use crate::{catalog, check, described, drain, publication, slot, start};

/// How often the status learns what the server keeps for us.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// A standby is asked more often: a promotion should be noticed before much is delivered after it.
const SAMPLE_STANDBY_EVERY: Duration = Duration::from_secs(1);

/// A query on a healthy connection takes milliseconds; past this the connection counts as lost.
const QUERY_PATIENCE: Duration = Duration::from_secs(10);

/// A walsender sees within this that its client is gone.
const LET_GO_PATIENCE: Duration = Duration::from_secs(5);

/// From the first byte to the stream, beside the making of a slot: within it a standby may catch up (60 s).
const START_PATIENCE: Duration = Duration::from_secs(150);

/// The largest frame that is read into memory: a row cannot be larger in Postgres.
const FRAME_BYTES_MAX: usize = 1_073_741_824;

pub struct PostgresSource {
    settings: Settings,
    origin: Origin,
    /// Tables that were read are to be read again: until the first start of the process has come to its end.
    reads_again: bool,
    /// What is asked of it while it runs.
    ears: Ears,
    /// The slot has to go.
    over_limit: AtomicBool,
    /// Ends once the server has nothing more to give, and how it was then.
    drain: Option<drain::Wish>,
    drained: OnceLock<Drained>,
}

impl PostgresSource {
    /// `version` is what the source block of each event shows.
    pub fn new(settings: Settings, topic_prefix: &str, version: &str) -> Self {
        let origin = Origin {
            version: version.to_owned(),
            name: topic_prefix.to_owned(),
            database: settings.database.clone(),
        };
        let file = settings.signals.file.clone();
        let ears = Ears::default().file(file.map(|(path, every)| SignalFile::new(path, every)));
        Self {
            reads_again: settings.snapshot.always,
            settings,
            origin,
            ears,
            over_limit: AtomicBool::new(false),
            drain: None,
            drained: OnceLock::new(),
        }
    }

    /// Listens to what is asked for.
    pub fn listening(self, signals: mpsc::Receiver<Signal>) -> Self {
        Self { ears: self.ears.daemon(signals), ..self }
    }

    /// Which rows this start wants.
    fn wish(&self) -> Wish {
        match (self.settings.snapshot.rows, self.reads_again) {
            (false, _) => Wish::Nothing,
            (true, false) => Wish::New,
            (true, true) => Wish::Again,
        }
    }

    /// Nothing more is wanted of the server: it need not keep its log.
    async fn let_go(&self, client: &Client) -> Result<()> {
        let slot = &self.settings.slot;
        if self.settings.create_slot
            && !self.settings.slot_made_beforehand
            && slot::drop_idle(client, slot, LET_GO_PATIENCE).await?
        {
            tracing::info!(%slot, "dropped the slot: nothing more is wanted of it");
        }
        Ok(())
    }

    /// Everything up to the first byte of the stream.
    async fn start(&mut self, mut from: Option<Position>, mut feed: Feed) -> Result<Begun> {
        self.may_start(from.as_ref())?;
        let Control { client, server, ended } = control::connect(&self.settings).await?;
        let facts = server::preconditions(&client, &self.settings).await?;
        let requests = self.ears.requests(&self.settings.connector, &feed.progress, &feed.notes);
        let past = (from.as_ref(), &feed.notes);
        let (tables, membership) = membership::sent(&client, &self.settings, &facts, past).await?;
        let mut wish = self.wish();
        if self.loses(&client, &facts, from.as_ref(), &feed.lanes.clone()).await? {
            from = Some(creating(&self.settings.slot));
            wish = Wish::Anew;
        }
        let is_first = start::is_first(from.as_ref())?;
        if let (Some(end), Some(membership)) = (start::unbroken(from.as_ref())?, &membership) {
            let gaps = membership::gaps(&self.settings, membership, &feed.notes, end)?;
            wish = table::read_anew(&gaps, &mut feed.notes, wish);
        }
        let mut plan = table::plan(wish, &tables, &feed.notes, is_first, &self.settings.outboxes)?;
        plan.notes.extend(membership.iter().flat_map(|membership| membership.notes(&feed.notes)));
        possible(&plan, (&client, &tables), &facts, &self.settings).await?;
        if !self.settings.snapshot.stream && !is_first && plan.unread.is_empty() {
            self.let_go(&client).await?;
            return Ok(Begun::Through);
        }
        may_read(&plan.unread, &feed)?;
        let place =
            start::place(&self.settings, &client, &facts, &mut feed, from, plan.notes.clone()).await?;
        let Some(position) = place else { return Ok(Begun::Stopping) };
        // A standby deletes nothing, and forgets what was clean: it cannot tell whether it stays so.
        let sweepable = if facts.in_recovery { &[] } else { &*tables };
        let (swept, notes) =
            janitor::plan(&client, &self.settings, sweepable, (&feed.notes, &plan.unread), is_first).await?;
        plan.notes.extend(notes);
        self.reads_again = false;
        let client = Arc::new(client);
        // Both connections are with one server, whichever of several it is.
        self.settings.server = server;
        let (desk, orders, heard) = desk::desk(plan.unread.iter().any(Unread::is_half_drained));
        let counter = Counter {
            orders,
            token: format!("{}/{:x}", self.settings.slot, now_us()).into(),
            newest_id: Arc::default(),
            requests,
            progress: feed.progress.clone(),
            drained: Arc::default(),
        };
        let tables = plan.unread.len();
        if plan.unread.iter().all(|unread| unread.note.asked.is_some()) {
            counter.requests.skipped();
        }
        let (joined, mut waiting) = (plan.joined, table::apart(plan.unread));
        let (base, unread) = waiting.pop_front().unwrap_or_default();
        feed.progress.holds.stand(position.waiting());
        let mut tracker = Tracker::new(unread.clone(), plan.notes, counter.token.to_string())
            .followed(self.settings.snapshot.stream);
        waiting.iter().for_each(|(_, unread)| tracker.add(unread.clone()));
        // Rows are read once nothing waits any more.
        let mut reader = None;
        if position.held.is_empty() {
            reader = self.reader(&counter, base, unread).await?.map(|reader| reader.joined(joined));
        } else {
            waiting.push_front((base, unread));
        }
        let reading = self.stream(&client, &facts, position, (feed, tracker, desk)).await?;
        let janitor = self.janitor(&counter, swept);
        let rows = Rows { counter, tables, reader, joined, waiting, membership };
        Ok(Begun::Streaming(Box::new(Started { client, ended, facts, reading, rows, heard, janitor })))
    }

    /// Deletes delivered rows until it is dropped.
    fn janitor(&self, counter: &Counter, swept: Vec<Swept>) -> JoinSet<()> {
        let mut janitor = JoinSet::new();
        // While it is drained, its deletes would be somebody's writes, and leave other rows to be compared.
        if let Some(own) = Janitor::new(&self.settings, counter, swept)
            && self.drain.is_none()
        {
            janitor.spawn(own.run());
        }
        janitor
    }

    /// Whether all tables are to be read anew, because the server no longer has what comes after the position.
    async fn loses(
        &self,
        client: &Client,
        facts: &ServerFacts,
        from: Option<&Position>,
        lanes: &Lanes,
    ) -> Result<bool> {
        if !self.settings.snapshot.on_loss {
            return Ok(false);
        }
        let Some(lost) = start::lost(&self.settings, client, facts, from).await? else { return Ok(false) };
        // What waits would be read with the rest, and the file says nothing of that.
        if !lanes.held.is_empty() {
            return Err(lost);
        }
        tracing::warn!("{lost}; all tables are read anew, and what was deleted meanwhile stays unknown");
        Ok(true)
    }

    /// Whoever reads the tables' rows, where some are left to be read.
    async fn reader(&self, counter: &Counter, base: usize, unread: Vec<Unread>) -> Result<Option<Reader>> {
        if unread.is_empty() {
            return Ok(None);
        }
        counter.progress.holds.reads(true);
        let (settings, origin) = (self.settings.on_primary(), self.origin.clone());
        let control = control::connect(&settings).await?;
        Ok(Some(Reader::new(settings, origin, control, counter.clone(), (base, unread))))
    }

    /// Opens the replication connection and hands it to its thread.
    async fn stream(
        &self,
        client: &Arc<Client>,
        facts: &ServerFacts,
        mut position: Streamed,
        (mut feed, tracker, desk): (Feed, Tracker, Desk),
    ) -> Result<Reading> {
        let settings = &self.settings;
        feed.progress.holds.seeks(position.since_us.is_some());
        let mut handshake = Handshake::connect(settings, &settings.application_name()).await?;
        let went_back = start::follow_timeline(&mut handshake, facts, &mut position).await?;
        if went_back && feed.lanes.releases() {
            // What is passed over was decided by the place of before, behind which the new timeline has other changes.
            feed.commit(position.to_position()).await?;
            return Err(Error::transient(
                "the promoted server never had the end of the log: what waits is looked at anew",
            ));
        }
        let walsender = handshake.backend_pid;
        let released: Vec<bool> = feed.lanes.held.iter().map(|lane| lane.gate != Gate::Shut).collect();
        let from = position.begins_at(&released);
        let mut wire = handshake.start_replication(&settings.slot, from, &settings.publication).await?;
        start::verify_active(settings, client, &position, walsender, &mut wire).await?;
        chaos::pass(Point::SlotChecked);
        tracing::info!(slot = %settings.slot, %from, "streaming");

        let told = Arc::new(Told::default());
        let limits = Limits {
            batch: settings.batch,
            frame_bytes_max: FRAME_BYTES_MAX,
            status_interval: status_interval(settings.status_interval, facts.wal_sender_timeout)
                // A silent server is asked for a sign of life with a status, before it counts as dead.
                .min(settings.receive_timeout / 3),
            receive_timeout: settings.receive_timeout,
        };
        let describe = self.describe(client.clone(), catalog::describing(client).await?);
        let messages = Messages::new(&settings.messages, &settings.message_events, &self.origin);
        let signals = SignalTable::new(settings.signals.table.clone(), Heard::noted(&feed.notes));
        let session = Session::new(position, messages, Some(tracker)).holding(released).listening(signals);
        let stream = Stream::new(wire, session, feed, describe, limits, told.clone(), Some(desk))
            .reselecting(self.reselect(client.clone()));
        let thread = tokio::task::spawn_blocking(move || stream.run());
        Ok(Reading { thread, told })
    }

    /// Everything beside the stream, until the stream ends.
    async fn attend(
        &self,
        ended: &mut JoinHandle<Result<()>>,
        client: &Client,
        facts: &ServerFacts,
        reading: &mut Reading,
        (rows, heard, ears): (Rows, &mut mpsc::Receiver<Heard>, &mut Ears),
    ) -> Result<()> {
        let Rows { counter, mut tables, reader, joined, mut waiting, mut membership } = rows;
        let progress = &*counter.progress;
        let mut heartbeat = interval(self.settings.heartbeat_interval.unwrap_or(SAMPLE_EVERY));
        let mut is_standby = facts.in_recovery;
        let mut sample = interval(if is_standby { SAMPLE_STANDBY_EVERY } else { SAMPLE_EVERY });
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let beats = self.settings.heartbeat_interval.is_some();
        let (mut enough, mut reads): (Option<Lsn>, _) = (None, reader.is_some());
        let mut rows: Pin<Box<dyn Future<Output = Result<()>> + Send>> = match reader {
            Some(reader) => Box::pin(reader.run()),
            None => Box::pin(std::future::pending()),
        };
        let mut draining = pin!(self.drains(progress));
        loop {
            if !reads
                && progress.holds.is_empty()
                && let Some((base, unread)) = waiting.pop_front()
                && let Some(reader) = self.reader(&counter, base, unread).await?
            {
                (reads, enough, rows) = (true, None, Box::pin(reader.joined(joined).run()));
            }
            tokio::select! {
                biased;
                ended = &mut reading.thread => return outcome(ended),
                _ = &mut *ended => {
                    // The server waits in its shutdown until the walsender has heard from us: let it go.
                    reading.told.abandoned.store(true, Ordering::Relaxed);
                    return outcome((&mut reading.thread).await);
                }
                _ = heartbeat.tick(), if beats && !is_standby && self.drain.is_none() => self.heartbeat(client).await?,
                read = &mut rows, if reads => {
                    read?;
                    reads = false;
                    progress.holds.reads(false);
                    if waiting.is_empty() && !self.settings.snapshot.stream {
                        enough = Some(self.last_beat(client, is_standby).await?);
                    }
                }
                // Once all rows are read.
                proven = &mut draining, if !reads && self.drained.get().is_none() => {
                    let _ = self.drained.set(proven?);
                    reading.told.enough.store(true, Ordering::Relaxed);
                }
                demand = next_demand(heard, ears) => {
                    let known = (is_standby, &mut tables);
                    waiting.extend(self.hear(demand, client, (&counter, ears), known).await?);
                }
                _ = sample.tick() => {
                    // Confirmed is what is delivered: the last rows lie before it.
                    let end = enough.filter(|_| !reads && waiting.is_empty());
                    if end.is_some_and(|end| progress.confirmed.load(Ordering::Relaxed) >= end.0) {
                        reading.told.enough.store(true, Ordering::Relaxed);
                    }
                    self.sample(client, &counter, &mut membership).await?;
                    if is_standby {
                        is_standby = self.follow(client, &reading.told).await?;
                    }
                }
            }
        }
    }

    /// Does what a signal says. Has the stream told of the tables that it wants read, and gives them with the
    /// number of the first; `tables` is how many the stream knows.
    async fn hear(
        &self,
        Demand { signal, row }: Demand,
        client: &Client,
        (counter, ears): (&Counter, &mut Ears),
        (is_standby, tables): (bool, &mut usize),
    ) -> Result<Option<(usize, Vec<Unread>)>> {
        let mut unread = Vec::new();
        if let Some(signal) = &signal {
            let taken = requests::take(&counter.requests, signal.clone(), &self.settings, client);
            let taken = tokio::time::timeout(QUERY_PATIENCE, taken).await;
            let taken = taken.unwrap_or_else(|_| Err(no_answer(&self.settings)));
            if taken.is_err() && row.is_none() {
                ears.again(signal.clone());
            }
            unread = taken?;
        }
        if is_standby && self.settings.primaries.is_empty() && !unread.is_empty() {
            tracing::warn!("rows cannot be read from a standby: the signal is passed over");
            unread.clear();
        }
        // Of one that came by a row, the row's own note tells a later attempt.
        if let Some(signal) = signal.filter(|_| row.is_none() && !unread.is_empty()) {
            counter.requests.taken(signal);
        }
        let order = counter.orders.try_send(Order::Add { unread: unread.clone(), row });
        order.map_err(|_| Error::transient("the stream has ended under a signal"))?;
        if unread.is_empty() {
            return Ok(None);
        }
        let base = *tables;
        *tables += unread.len();
        Ok(Some((base, unread)))
    }
}

impl Source for PostgresSource {
    async fn check(&self) -> Result<Report> {
        check::check(&self.settings).await
    }

    async fn preconditions(&self, progress: &Progress) -> Result<()> {
        patiently(&self.settings, async {
            let control = control::connect(&self.settings).await?;
            let facts = server::preconditions(&control.client, &self.settings).await?;
            publication::ensure(&control.client, &self.settings, &facts).await?;
            // A slot that a healthy instance reads is left alone before its producers are shut out for
            // nothing.
            match slot::read(&control.client, &self.settings.slot).await? {
                Some(slot) => {
                    slot.free(None)?;
                    self.watch_kept(&control.client, &slot, progress).await
                }
                None => Ok(()),
            }
        })
        .await
    }

    async fn relations(&self) -> Result<Vec<Relation>> {
        patiently(&self.settings, described::now(&self.settings, &self.origin)).await
    }

    fn can_hold(&self) -> bool {
        self.settings.snapshot.stream && self.drain.is_none()
    }

    fn hold(&self, from: Option<Position>, holds: &Holds) -> Result<(Option<Position>, Lanes)> {
        held::open(&self.settings, from, holds)
    }

    async fn run(&mut self, from: Option<Position>, feed: Feed) -> Result<()> {
        // What was proved in an attempt that failed is proved anew.
        self.drained = OnceLock::new();
        let (progress, stop, stopped) = (feed.progress.clone(), feed.stop(), feed.stop());
        let settings = self.settings.clone();
        // A cancelled start is a crash at that place, which every later one can deal with.
        let started = tokio::select! {
            biased;
            () = stop => return Ok(()),
            started = patiently(&settings, self.start(from, feed)) => started?,
        };
        let started = match started {
            Begun::Stopping => return Ok(()),
            Begun::Through => {
                rest(&progress, stopped).await;
                return Ok(());
            }
            Begun::Streaming(started) => *started,
        };
        let Started { client, mut ended, facts, mut reading, rows, mut heard, janitor } = started;
        let mut ears = std::mem::take(&mut self.ears);
        let result =
            self.attend(&mut ended, &client, &facts, &mut reading, (rows, &mut heard, &mut ears)).await;
        self.ears = ears;
        drop(janitor);
        if result.is_err() {
            // Whatever failed here, the thread must be gone before the next attempt.
            reading.told.abandoned.store(true, Ordering::Relaxed);
            if !reading.thread.is_finished() {
                let _ = (&mut reading.thread).await;
            }
        }
        if self.over_limit.swap(false, Ordering::Relaxed) {
            patiently(&self.settings, self.let_go(&client)).await?;
        }
        if result.is_ok() && self.drain.is_none() && reading.told.enough.load(Ordering::Relaxed) {
            patiently(&self.settings, self.let_go(&client)).await?;
            rest(&progress, stopped).await;
        }
        result
    }
}

/// Something that somebody asks for.
struct Demand {
    /// `None`: it was not understood.
    signal: Option<Signal>,
    /// The key of the note of the row that it came by.
    row: Option<String>,
}

/// The next one, whatever way it comes. Cancel-safe.
async fn next_demand(heard: &mut mpsc::Receiver<Heard>, ears: &mut Ears) -> Demand {
    tokio::select! {
        Some(row) = heard.recv() => Demand { signal: row.signal(), row: Some(row.key) },
        signal = ears.next() => Demand { signal: Some(signal), row: None },
    }
}

/// There is nothing more to do, until the daemon ends.
async fn rest(progress: &Progress, stopped: impl Future<Output = ()>) {
    let reason = "all rows are delivered, and snapshot wants no changes after them";
    progress.show(State::Running, Some(reason.to_owned()), None);
    stopped.await;
}

/// What a start came to.
enum Begun {
    Stopping,
    /// All rows were delivered, and nothing else is wanted.
    Through,
    Streaming(Box<Started>),
}

/// A start that came to its end.
struct Started {
    client: Arc<Client>,
    ended: JoinHandle<Result<()>>,
    facts: ServerFacts,
    reading: Reading,
    rows: Rows,
    /// Rows of the signal table.
    heard: mpsc::Receiver<Heard>,
    /// Deletes delivered rows until it is dropped.
    janitor: JoinSet<()>,
}

/// The rows that are read beside the stream.
struct Rows {
    counter: Counter,
    /// How many tables the stream was told of.
    tables: usize,
    /// While rows of tables are left to be read.
    reader: Option<Reader>,
    /// A table joined a connector that already ran.
    joined: bool,
    /// Those that are read when it is through, with the number of the first.
    waiting: VecDeque<(usize, Vec<Unread>)>,
    /// How the captured tables are published.
    membership: Option<Membership>,
}

/// The stream's thread while it runs.
struct Reading {
    thread: JoinHandle<Result<()>>,
    told: Arc<Told>,
}

/// A server that is half gone, or a proxy that is, takes a query and never answers it.
async fn patiently<T>(settings: &Settings, work: impl Future<Output = Result<T>>) -> Result<T> {
    let patience = START_PATIENCE + settings.create_slot_timeout;
    match tokio::time::timeout(patience, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::transient(format!(
            "postgres at {} let a start wait for {} s",
            settings.place(),
            patience.as_secs()
        ))
        .hint("look at pg_stat_activity for what the connection waits for, and at what lies between")),
    }
}

fn outcome(ended: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    // The panic's own words may hold row data; the hook has logged its place.
    ended.unwrap_or_else(|_| Err(Error::fatal("the reader of the replication stream stopped by a panic")))
}

/// As configured, and at most a third of what the server tolerates.
fn status_interval(configured: Duration, wal_sender_timeout: Duration) -> Duration {
    // Zero: never times out.
    if wal_sender_timeout.is_zero() { configured } else { configured.min(wal_sender_timeout / 3) }
}

fn no_answer(settings: &Settings) -> Error {
    let seconds = QUERY_PATIENCE.as_secs();
    Error::transient(format!("postgres at {} did not answer a query within {seconds} s", settings.place()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_goes_out_at_least_three_times_within_the_server_s_patience() {
        let ten = Duration::from_secs(10);
        assert_eq!(status_interval(ten, Duration::from_secs(6)), Duration::from_secs(2));
        assert_eq!(status_interval(ten, Duration::from_secs(60)), ten);
        assert_eq!(status_interval(ten, Duration::ZERO), ten);
    }
}
