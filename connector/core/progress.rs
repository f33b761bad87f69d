//! What a connector shows of itself: its state and its figures. Written by the pipeline, the source and
//! the sink of one connector; read by REST and by the metrics page. Counted per batch, never per row.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::batch::Op;
use crate::hold::Holds;
use crate::position::Position;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Starting,
    Running,
    /// A peer is away; waits and tries again.
    Degraded,
    /// Changes wait, and none has been delivered for a while.
    Stalled,
    /// The source no longer has what comes after our position.
    PositionLost,
    /// The source's log ends before our position: it was restored.
    PositionAhead,
    /// Another instance is active; this one waits.
    Standby,
    Paused,
    /// Another instance took over.
    Fenced,
    Failed,
    Stopped,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "STARTING",
            State::Running => "RUNNING",
            State::Degraded => "DEGRADED",
            State::Stalled => "STALLED",
            State::PositionLost => "POSITION_LOST",
            State::PositionAhead => "POSITION_AHEAD",
            State::Standby => "STANDBY",
            State::Paused => "PAUSED",
            State::Fenced => "FENCED",
            State::Failed => "FAILED",
            State::Stopped => "STOPPED",
        }
    }
}

/// A state with the words that explain it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub state: State,
    pub reason: Option<String>,
    pub hint: Option<String>,
    pub since_ms: i64,
}

/// Upper bounds of the latency buckets, in seconds.
pub const LATENCY_BUCKETS: [f64; 14] =
    [0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// A histogram of durations with fixed buckets.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; LATENCY_BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

impl Latency {
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BUCKETS.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Counts by bucket, the last one above every bound, and the sum in seconds.
    pub fn read(&self) -> (Vec<u64>, f64) {
        let counts = self.buckets.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        (counts, self.sum_us.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

/// Tables with a count of their own: a page of some 400 kB.
pub const TABLES_MAX: usize = 1_000;
/// Stands for the rest; no table's name is without its schema.
pub const OTHER_TABLES: &str = "(others)";

/// Events by operation: create, update, delete, truncate, read.
pub type OpCounts = [u64; 5];

pub fn op_index(op: Op) -> usize {
    match op {
        Op::Insert => 0,
        Op::Update => 1,
        Op::Delete => 2,
        Op::Truncate => 3,
        Op::Read => 4,
    }
}

/// Notifications that are kept for those who ask.
const NOTIFICATIONS_MAX: usize = 1_000;

/// What happens to a snapshot, in Debezium's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Of the signal that asked for it.
    pub id: String,
    /// `Initial Snapshot` or `Incremental Snapshot`.
    pub aggregate: &'static str,
    /// `STARTED`, `TABLE_SCAN_COMPLETED`, `COMPLETED`, ...
    pub kind: &'static str,
    pub data: BTreeMap<&'static str, String>,
    /// Milliseconds since 1970.
    pub at_ms: i64,
}

/// How far the snapshot is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFigures {
    pub tables: u64,
    pub tables_done: u64,
    /// Rows on their way or delivered since the start, and how many the source's statistics promise.
    pub rows: u64,
    pub rows_estimated: u64,
    /// The table that is being read.
    pub table: Option<String>,
    /// What it cannot go on without, where it stands still.
    pub waits_for: Option<String>,
    /// Why no change goes out meanwhile, where the stream stands still for the rows.
    pub holds_stream: Option<String>,
    /// Milliseconds since 1970.
    pub started_ms: i64,
    pub finished_ms: Option<i64>,
}

impl SnapshotFigures {
    /// Seconds left at the pace so far; `None` where nothing can be said yet.
    pub fn seconds_left(&self, now_ms: i64) -> Option<u64> {
        if self.finished_ms.is_some() {
            return Some(0);
        }
        let left = self.rows_estimated.checked_sub(self.rows)?;
        let took_ms = u128::try_from(now_ms - self.started_ms).ok()?;
        let left_ms = (u128::from(left) * took_ms).checked_div(u128::from(self.rows))?;
        u64::try_from(left_ms / 1000).ok()
    }
}

/// A gauge that has a name of its own on the page of metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    pub name: String,
    pub help: &'static str,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

/// Figures of one connector. A *place* is a point in the source's log as a number (an LSN, a
/// cluster time).
#[derive(Debug)]
pub struct Progress {
    shown: Mutex<Shown>,
    /// Newest place read from the source. Written by the source.
    pub received: AtomicU64,
    /// Newest place whose data and position are durable. Written by the source, from the watermark.
    pub delivered: AtomicU64,
    /// Newest place told to the source. Written by the source.
    pub confirmed: AtomicU64,
    /// Where the source's log ends now. Written by the source.
    pub source_end: AtomicU64,
    /// Bytes that the source keeps for us. Written by the source, sampled.
    pub retained_bytes: AtomicU64,
    /// How far back the source's log reaches, how far what is delivered lies behind its end, and how long that will
    /// stay inside it, where the log keeps what it can and not what we need. Written by the source, sampled.
    pub log_window_s: AtomicU64,
    pub log_lag_s: AtomicU64,
    pub log_headroom_s: AtomicU64,
    pub received_changes: AtomicU64,
    pub received_bytes: AtomicU64,
    pub transactions: AtomicU64,
    pub delivered_records: AtomicU64,
    /// How often the position became another one.
    pub moves: AtomicU64,
    /// Records that could not be encoded or accepted.
    pub failed_events: AtomicU64,
    /// Of those, what went to the dead letters.
    pub dead_letters: AtomicU64,
    /// Source transactions above the cut size, in several Kafka transactions.
    pub cut_transactions: AtomicU64,
    pub commits: AtomicU64,
    pub aborts: AtomicU64,
    /// Times that the producers were opened anew after an abort or a doubtful commit.
    pub recycles: AtomicU64,
    pub doubtful_commits: AtomicU64,
    /// How long the sink waits before it asks for a commit again; it grows where commits are slow all the
    /// time. 0 where there is no such thing.
    pub commit_backoff_ms: AtomicU64,
    pub restarts: AtomicU64,
    pub commit_latency: Latency,
    /// From the source's commit to the sink's.
    pub end_to_end: Latency,
    /// Commit time of the oldest change that is not delivered, microseconds since 1970; 0 when drained.
    pub pending_since_us: AtomicI64,
    events: Mutex<BTreeMap<String, OpCounts>>,
    topics: Mutex<Vec<String>>,
    position: Mutex<Option<Position>>,
    kafka_cluster_id: Mutex<Option<String>>,
    active_instance: Mutex<Option<String>>,
    snapshot: Mutex<Option<SnapshotFigures>>,
    figures: Mutex<Vec<Figure>>,
    notifications: Mutex<VecDeque<Notification>>,
    /// How many there were.
    notified: watch::Sender<u64>,
    /// How many of them are durable on their topic.
    pub notifications_told: AtomicU64,
    /// What waits while the rest goes on.
    pub holds: Holds,
}

impl Default for Progress {
    fn default() -> Self {
        let shown = Shown { state: State::Starting, reason: None, hint: None, since_ms: now_us() / 1000 };
        Self {
            shown: Mutex::new(shown),
            received: AtomicU64::default(),
            delivered: AtomicU64::default(),
            confirmed: AtomicU64::default(),
            source_end: AtomicU64::default(),
            retained_bytes: AtomicU64::default(),
            log_window_s: AtomicU64::default(),
            log_lag_s: AtomicU64::default(),
            log_headroom_s: AtomicU64::default(),
            received_changes: AtomicU64::default(),
            received_bytes: AtomicU64::default(),
            transactions: AtomicU64::default(),
            delivered_records: AtomicU64::default(),
            moves: AtomicU64::default(),
            failed_events: AtomicU64::default(),
            dead_letters: AtomicU64::default(),
            cut_transactions: AtomicU64::default(),
            commits: AtomicU64::default(),
            aborts: AtomicU64::default(),
            recycles: AtomicU64::default(),
            doubtful_commits: AtomicU64::default(),
            commit_backoff_ms: AtomicU64::default(),
            restarts: AtomicU64::default(),
            commit_latency: Latency::default(),
            end_to_end: Latency::default(),
            pending_since_us: AtomicI64::default(),
            events: Mutex::default(),
            topics: Mutex::default(),
            position: Mutex::default(),
            kafka_cluster_id: Mutex::default(),
            active_instance: Mutex::default(),
            snapshot: Mutex::default(),
            figures: Mutex::default(),
            notifications: Mutex::default(),
            notified: watch::Sender::new(0),
            notifications_told: AtomicU64::default(),
            holds: Holds::default(),
        }
    }
}

impl Progress {
    /// Changes the state shown; logs nothing, so that the one who knows the cause logs it once.
    pub fn show(&self, state: State, reason: Option<String>, hint: Option<String>) {
        let mut shown = lock(&self.shown);
        let since_ms = if shown.state == state { shown.since_ms } else { now_us() / 1000 };
        *shown = Shown { state, reason, hint, since_ms };
    }

    /// At work, with or without something that waits.
    pub fn show_at_work(&self) {
        match self.holds.words() {
            Some((reason, hint)) => self.show(State::Degraded, Some(reason), hint),
            None => self.show(State::Running, None, None),
        }
    }

    /// Whether that is what is shown.
    pub fn is_at_work(&self) -> bool {
        let Shown { state, reason, .. } = self.shown();
        match state {
            State::Running => true,
            State::Degraded => self.holds.words().is_some_and(|(words, _)| reason == Some(words)),
            _ => false,
        }
    }

    pub fn shown(&self) -> Shown {
        lock(&self.shown).clone()
    }

    /// Adds a batch's events of one table. Tables beyond the first so many share one count: each has its lines
    /// on the page of metrics.
    pub fn count_events(&self, table: &str, counts: &OpCounts) {
        let mut events = lock(&self.events);
        let is_counted = events.len() < TABLES_MAX || events.contains_key(table);
        let table = if is_counted { table } else { OTHER_TABLES };
        if !events.contains_key(table) {
            events.insert(table.to_owned(), OpCounts::default());
        }
        if let Some(sum) = events.get_mut(table) {
            for (sum, count) in sum.iter_mut().zip(counts) {
                *sum += count;
            }
        }
    }

    pub fn events(&self) -> BTreeMap<String, OpCounts> {
        lock(&self.events).clone()
    }

    /// Notes a topic that records went to.
    pub fn use_topic(&self, topic: &str) {
        let mut topics = lock(&self.topics);
        if !topics.iter().any(|t| t == topic) {
            topics.push(topic.to_owned());
        }
    }

    pub fn topics(&self) -> Vec<String> {
        lock(&self.topics).clone()
    }

    pub fn set_position(&self, position: Position) {
        *lock(&self.position) = Some(position);
    }

    /// Where several instances stand by for each other: the one that is active, as far as this one knows.
    pub fn set_active_instance(&self, instance: Option<String>) {
        *lock(&self.active_instance) = instance;
    }

    pub fn active_instance(&self) -> Option<String> {
        lock(&self.active_instance).clone()
    }

    pub fn set_snapshot(&self, figures: SnapshotFigures) {
        *lock(&self.snapshot) = Some(figures);
    }

    /// The snapshot under way, or the last one of this process.
    pub fn snapshot(&self) -> Option<SnapshotFigures> {
        lock(&self.snapshot).clone()
    }

    /// Gauges that a sink shows by names of their own, in the place of those before.
    pub fn set_figures(&self, figures: Vec<Figure>) {
        *lock(&self.figures) = figures;
    }

    pub fn figures(&self) -> Vec<Figure> {
        lock(&self.figures).clone()
    }

    /// Says something to whoever watches snapshots, and to the log.
    pub fn notify(&self, notification: Notification) {
        let Notification { id, aggregate, kind, data, .. } = &notification;
        tracing::info!(%id, aggregate, kind, ?data, "notification");
        let mut all = lock(&self.notifications);
        if all.len() >= NOTIFICATIONS_MAX {
            all.pop_front();
        }
        all.push_back(notification);
        self.notified.send_modify(|notified| *notified += 1);
    }

    /// How many notifications there were.
    pub fn notified(&self) -> u64 {
        *self.notified.borrow()
    }

    /// Changes with each notification, and has for those that were there before.
    pub fn news(&self) -> watch::Receiver<u64> {
        let mut news = self.notified.subscribe();
        news.mark_changed();
        news
    }

    /// Those after the first `told`, as far as they are kept, and how many there were.
    pub fn notifications_after(&self, told: u64) -> (Vec<Notification>, u64) {
        let all = lock(&self.notifications);
        let notified = self.notified();
        let new = usize::try_from(notified.saturating_sub(told)).unwrap_or(usize::MAX);
        let known = all.len().saturating_sub(new);
        (all.iter().skip(known).cloned().collect(), notified)
    }

    /// The newest ones, oldest first.
    pub fn notifications(&self) -> Vec<Notification> {
        lock(&self.notifications).iter().cloned().collect()
    }

    /// What the brokers of the sink call their cluster.
    pub fn set_kafka_cluster_id(&self, id: String) {
        *lock(&self.kafka_cluster_id) = Some(id);
    }

    pub fn kafka_cluster_id(&self) -> Option<String> {
        lock(&self.kafka_cluster_id).clone()
    }

    /// The newest position that is durable in the sink.
    pub fn position(&self) -> Option<Position> {
        lock(&self.position).clone()
    }

    /// Age of the oldest change that is not delivered; zero when drained.
    pub fn lag(&self) -> Duration {
        let since = self.pending_since_us.load(Ordering::Relaxed);
        if since == 0 {
            return Duration::ZERO;
        }
        Duration::from_micros(u64::try_from(now_us() - since).unwrap_or(0))
    }
}

/// Wall clock, microseconds since 1970.
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A poisoned figure is still a figure: the panic itself stops the connector elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let latency = Latency::default();
        latency.observe(Duration::from_millis(1));
        latency.observe(Duration::from_secs(60));
        let (counts, sum) = latency.read();
        assert_eq!((counts[0], counts[LATENCY_BUCKETS.len()]), (1, 1));
        assert!((sum - 60.001).abs() < 1e-6);
    }

    #[test]
    fn tables_beyond_the_limit_share_one_count() {
        let progress = Progress::default();
        for n in 0..TABLES_MAX + 5 {
            progress.count_events(&format!("public.t{n}"), &[1, 0, 0, 0, 0]);
        }
        progress.count_events("public.t0", &[1, 0, 0, 0, 0]);
        let events = progress.events();
        assert_eq!((events.len(), events[OTHER_TABLES][0], events["public.t0"][0]), (TABLES_MAX + 1, 5, 2));
    }

    #[test]
    fn the_time_left_is_that_of_the_rows_left_at_the_pace_so_far() {
        let figures = SnapshotFigures { rows: 100, rows_estimated: 400, ..SnapshotFigures::default() };
        assert_eq!(figures.seconds_left(10_000), Some(30));
        assert_eq!(SnapshotFigures { rows: 0, ..figures.clone() }.seconds_left(10_000), None);
        assert_eq!(SnapshotFigures { rows: 500, ..figures.clone() }.seconds_left(10_000), None);
        assert_eq!(SnapshotFigures { finished_ms: Some(1), ..figures }.seconds_left(10_000), Some(0));
    }

    #[test]
    fn lag_is_zero_when_nothing_is_pending() {
        let progress = Progress::default();
        assert_eq!(progress.lag(), Duration::ZERO);
        progress.pending_since_us.store(now_us() - 2_000_000, Ordering::Relaxed);
        assert!(progress.lag() >= Duration::from_secs(2));
    }
}
