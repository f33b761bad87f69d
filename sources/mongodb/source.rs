//! The source as the pipeline sees it: start at `MongodbSource::run`.
//!
//! One client. A task asks for replies (`reader`), a thread decodes them (`stream`), and what stays here reads what
//! was there before (`snapshot`) and looks at the server's log from time to time, to tell how long the connector
//! may stand still.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::progress::Progress;
use millrace_core::report::Report;
use millrace_core::requests::{Ears, Requests};
use millrace_core::signal::Signal;
use millrace_core::signal::inserted::Heard;
use millrace_core::source::{Feed, Source};
use mongodb::Client;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::Instrument;

use crate::client::{self, Facts};
use crate::config::Settings;
use crate::errors::{Phase, classified};
use crate::oplog::{Forecast, Window};
use crate::pipeline::Begin;
use crate::position::Streamed;
use crate::reader::{self, Reader, open};
use crate::relation::Origin;
use crate::resume_token::ClusterTime;
use crate::session::Session;
use crate::signals::SignalCollection;
use crate::snapshot::collection::{self, Plan, Unread};
use crate::snapshot::desk::{Desk, Order, desk};
use crate::snapshot::requests;
use crate::snapshot::tracker::Tracker;
use crate::start::Place;
use crate::stream::{Limits, Stream};
use crate::{check, collections, snapshot, start};

/// How often the status learns how far back the server's log reaches: it loses hours, not seconds.
const SAMPLE_EVERY: Duration = Duration::from_secs(15);

pub struct MongodbSource {
    settings: Arc<Settings>,
    origin: Origin,
    /// What is asked of it while it runs.
    ears: Ears,
}

/// Those who read documents beside the stream, and what they have to do.
struct Rows {
    reader: snapshot::reader::Reader,
    /// What is being read.
    reading: Option<Pin<Box<dyn Future<Output = Result<()>> + Send>>>,
    /// How many readings of collections the stream knows.
    known: usize,
    /// What was asked for while others are read, with the number of the first.
    waiting: VecDeque<(usize, Vec<Unread>)>,
}

impl Rows {
    /// Reads these, now or when those before are through.
    fn read(&mut self, unread: Vec<Unread>) {
        if unread.is_empty() {
            return;
        }
        self.waiting.push_back((self.known, unread));
        self.known = self.waiting.back().map_or(self.known, |(base, unread)| base + unread.len());
        self.go_on();
    }

    fn go_on(&mut self) {
        if self.reading.is_none()
            && let Some((base, unread)) = self.waiting.pop_front()
        {
            self.reading = Some(Box::pin(self.reader.clone().run(base, unread)));
        }
    }

    /// Never, where nothing is read.
    async fn through(&mut self) -> Result<()> {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        reading.await?;
        self.reading = None;
        self.go_on();
        Ok(())
    }

    /// Does what a signal says. Has the stream told of the collections that it wants read, and that the document
    /// of this key, which it came in, is done.
    async fn hear(&mut self, signal: Option<Signal>, heard: Option<String>) -> Result<()> {
        let snapshot::reader::Reader { client, settings, requests, .. } = &self.reader;
        let unread = match &signal {
            Some(signal) => requests::take(requests, signal.clone(), settings, client).await?,
            None => Vec::new(),
        };
        // Of one that came by a document, the document's own note tells a later attempt.
        let taken = signal.filter(|_| heard.is_none() && !unread.is_empty());
        let order = self.reader.orders.try_send(Order::Add { unread: unread.clone(), heard });
        order.map_err(|_| Error::transient("the stream has ended under a signal"))?;
        if let Some(signal) = taken {
            requests.taken(signal);
        }
        self.read(unread);
        Ok(())
    }
}

impl MongodbSource {
    /// `version` is what the source block of each event shows.
    pub fn new(settings: Settings, topic_prefix: &str, version: &str) -> Self {
        let origin = Origin { version: version.to_owned(), name: topic_prefix.to_owned() };
        Self { settings: Arc::new(settings), origin, ears: Ears::default() }
    }

    /// Listens to what is asked for.
    pub fn listening(self, signals: mpsc::Receiver<Signal>) -> Self {
        Self { ears: self.ears.daemon(signals), ..self }
    }

    /// Whoever reads documents, with those that are left to be read, and what the stream has to know of it.
    fn rows(
        &self,
        client: &Client,
        facts: &Facts,
        plan: Plan,
        (requests, progress): (Arc<Requests>, &Arc<Progress>),
    ) -> (Tracker, Desk, Rows, mpsc::Receiver<Heard>) {
        let tracker = Tracker::new(plan.unread.clone(), plan.notes);
        let (desk, orders, heard) = desk();
        let reader = snapshot::reader::Reader {
            client: client.clone(),
            settings: self.settings.clone(),
            is_mongos: facts.is_mongos,
            orders,
            requests,
            progress: progress.clone(),
        };
        if plan.unread.iter().all(|unread| unread.note.asked.is_some()) {
            reader.requests.skipped();
        }
        let mut rows = Rows { reader, reading: None, known: 0, waiting: VecDeque::new() };
        rows.read(plan.unread);
        (tracker, desk, rows, heard)
    }

    /// Opens the stream and starts its two halves.
    async fn stream(
        &self,
        client: &Client,
        facts: &Facts,
        position: Streamed,
        (feed, tracker, signals, desk): (Feed, Tracker, SignalCollection, Desk),
    ) -> Result<(JoinHandle<()>, JoinHandle<Result<()>>)> {
        let settings = &self.settings;
        let begin = start::begin(&position);
        let cursor = open(client, settings, &begin, facts.splits()).await.map_err(|error| {
            let what = format!("cannot go on at {} of {}", position.cluster_time, settings.place());
            classified(what, error, settings, Phase::Opening)
        })?;
        tracing::info!(from = %position.cluster_time, scope = %settings.scope, "streaming");
        let (to, replies) = reader::way();
        let reader = Reader {
            client: client.clone(),
            settings: settings.clone(),
            splits: facts.splits(),
            progress: feed.progress.clone(),
            begin,
        };
        let reading = tokio::spawn(reader.run(cursor, to).in_current_span());
        let limits = Limits {
            batch: settings.batch,
            advance_every: settings.heartbeat_interval,
            is_mongos: facts.is_mongos,
        };
        let session = Session::new(settings.clone(), self.origin.clone(), position, tracker);
        let session = session.listening(signals);
        let stream = Stream::new(Handle::current(), replies, session, feed, limits, desk);
        let decoding = tokio::task::spawn_blocking(move || stream.run());
        Ok((reading, decoding))
    }

    /// Everything beside the stream, until the stream ends.
    async fn attend(
        &self,
        client: &Client,
        decoding: &mut JoinHandle<Result<()>>,
        (mut rows, mut heard, progress): (Rows, mpsc::Receiver<Heard>, &Progress),
        ears: &mut Ears,
    ) -> Result<()> {
        let mut sample = interval(SAMPLE_EVERY);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut log = Some(Forecast::default());
        loop {
            tokio::select! {
                biased;
                ended = &mut *decoding => {
                    // The panic's own words may hold row data; the hook has logged its place.
                    return ended.unwrap_or_else(|_| {
                        Err(Error::fatal("the decoder of the change stream stopped by a panic"))
                    });
                }
                read = rows.through() => read?,
                // Where this fails, its note is still there.
                Some(heard) = heard.recv() => rows.hear(heard.signal(), Some(heard.key)).await?,
                signal = ears.next() => {
                    let done = rows.hear(Some(signal.clone()), None).await;
                    if done.is_err() {
                        ears.again(signal);
                    }
                    done?;
                }
                _ = sample.tick(), if log.is_some() => {
                    if let Some(forecast) = log.take() {
                        log = look_at_log(client, progress, forecast).await;
                    }
                }
            }
        }
    }
}

/// `None` when there is no use in asking again.
async fn look_at_log(client: &Client, progress: &Progress, mut forecast: Forecast) -> Option<Forecast> {
    match Window::read(client).await {
        Ok(Some(window)) => {
            let delivered = ClusterTime(progress.delivered.load(Ordering::Relaxed));
            let headroom = forecast.headroom(window, delivered, Instant::now());
            let (window_s, lag_s) = (window.length().as_secs(), window.lag(delivered).as_secs());
            progress.log_window_s.store(window_s, Ordering::Relaxed);
            progress.log_lag_s.store(lag_s, Ordering::Relaxed);
            progress.log_headroom_s.store(headroom.as_secs(), Ordering::Relaxed);
            if forecast.gets_short(headroom, window) {
                let headroom_s = headroom.as_secs();
                tracing::warn!(
                    headroom_s,
                    lag_s,
                    window_s,
                    "the server's log will soon no longer reach what is delivered: keep more of it, \
                     db.adminCommand({{replSetResizeOplog: 1, size: <MB>, minRetentionHours: 48}})"
                );
            }
            Some(forecast)
        }
        Ok(None) => None,
        Err(error) if crate::errors::is_resumable(&error) => Some(forecast),
        Err(error) => {
            tracing::info!(cause = %error.kind, "the log's window is not shown: the user may not read local.oplog.rs");
            None
        }
    }
}

impl Source for MongodbSource {
    async fn check(&self) -> Result<Report> {
        check::check(&self.settings, None).await
    }

    async fn preconditions(&self, _progress: &Progress) -> Result<()> {
        let settings = &self.settings;
        let client = client::connect(settings).await?;
        let facts = client::facts(&client, settings).await?;
        facts.preconditions()?;
        check::images(&client, settings, &facts).await?;
        // Rights are proved by use, before a healthy instance is shut out for nothing.
        let opened = open(&client, settings, &Begin::Now, facts.splits()).await;
        let what = format!("cannot open a change stream on {} of {}", settings.scope, settings.place());
        opened.map(drop).map_err(|error| classified(what, error, settings, Phase::Reading))
    }

    async fn run(&mut self, from: Option<Position>, mut feed: Feed) -> Result<()> {
        let client = client::connect(&self.settings).await?;
        let facts = client::facts(&client, &self.settings).await?;
        facts.preconditions()?;
        let requests = self.ears.requests(&self.settings.connector, &feed.progress, &feed.notes);
        let Place { position, is_first } =
            start::place(&self.settings, &client, &facts, from.as_ref()).await?;
        // After the place was taken: what comes into being from there on comes as changes.
        let there = collections::there(&client, &self.settings).await?;
        let plan = collection::plan(&self.settings, &there, &feed.notes, is_first)?;
        if is_first && !feed.commit_with(position.to_position(), plan.notes.clone()).await? {
            return Ok(());
        }
        let progress = feed.progress.clone();
        // One that begins anew has nothing behind it.
        let waiting = if is_first { VecDeque::new() } else { Heard::noted(&feed.notes) };
        let signals = SignalCollection::new(self.settings.signal_collection.clone(), waiting);
        let (tracker, desk, rows, heard) = self.rows(&client, &facts, plan, (requests, &progress));
        let (reading, mut decoding) =
            self.stream(&client, &facts, position, (feed, tracker, signals, desk)).await?;
        let mut ears = std::mem::take(&mut self.ears);
        let result = self.attend(&client, &mut decoding, (rows, heard, &progress), &mut ears).await;
        self.ears = ears;
        // Gone before the next attempt, and its cursor with it.
        reading.abort();
        let _ = reading.await;
        result
    }
}
