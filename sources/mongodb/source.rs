//! The source as the pipeline sees it: start at `MongodbSource::run`.
//!
//! One client. A task asks for replies (`reader`), a thread decodes them (`stream`), and what stays here reads what
//! was there before (`snapshot`) and looks at the server's log from time to time, to tell how long the connector
//! may stand still.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::progress::Progress;
use millrace_core::report::Report;
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
use crate::oplog::Window;
use crate::pipeline::Begin;
use crate::position::Streamed;
use crate::reader::{Reader, open};
use crate::relation::Origin;
use crate::resume_token::ClusterTime;
use crate::session::Session;
use crate::snapshot::collection::{self, Plan};
use crate::snapshot::desk::{Desk, desk};
use crate::snapshot::tracker::Tracker;
use crate::start::Place;
use crate::stream::{Limits, Stream};
use crate::{check, collections, snapshot, start};

/// How often the status learns how far back the server's log reaches: it loses hours, not seconds.
const SAMPLE_EVERY: Duration = Duration::from_secs(15);

pub struct MongodbSource {
    settings: Arc<Settings>,
    origin: Origin,
}

impl MongodbSource {
    /// `version` is what the source block of each event shows.
    pub fn new(settings: Settings, topic_prefix: &str, version: &str) -> Self {
        let origin = Origin { version: version.to_owned(), name: topic_prefix.to_owned() };
        Self { settings: Arc::new(settings), origin }
    }

    /// Whoever reads the documents that are there, where some are left to be read, and what the stream has to know
    /// of it.
    fn snapshot(
        &self,
        client: &Client,
        facts: &Facts,
        plan: Plan,
        progress: Arc<Progress>,
    ) -> (Option<Tracker>, Option<Desk>, Option<snapshot::reader::Reader>) {
        if plan.unread.is_empty() && plan.notes.is_empty() {
            return (None, None, None);
        }
        let tracker = Tracker::new(plan.unread.clone(), plan.notes);
        if plan.unread.is_empty() {
            return (Some(tracker), None, None);
        }
        let (desk, counter) = desk();
        let (client, settings) = (client.clone(), self.settings.clone());
        let reader =
            snapshot::reader::Reader::new(client, settings, facts.is_mongos, counter, plan.unread, progress);
        (Some(tracker), Some(desk), Some(reader))
    }

    /// Opens the stream and starts its two halves.
    async fn stream(
        &self,
        client: &Client,
        facts: &Facts,
        position: Streamed,
        (feed, tracker, desk): (Feed, Option<Tracker>, Option<Desk>),
    ) -> Result<(JoinHandle<()>, JoinHandle<Result<()>>)> {
        let settings = &self.settings;
        let begin = start::begin(&position);
        let cursor = open(client, settings, &begin, facts.splits()).await.map_err(|error| {
            let what = format!("cannot go on at {} of {}", position.cluster_time, settings.place());
            classified(what, error, settings, Phase::Opening)
        })?;
        tracing::info!(from = %position.cluster_time, scope = %settings.scope, "streaming");
        let (to, replies) = mpsc::channel(1);
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
        let stream = Stream::new(Handle::current(), replies, session, feed, limits, desk);
        let decoding = tokio::task::spawn_blocking(move || stream.run());
        Ok((reading, decoding))
    }

    /// Everything beside the stream, until the stream ends.
    async fn attend(
        &self,
        client: &Client,
        decoding: &mut JoinHandle<Result<()>>,
        (reader, progress): (Option<snapshot::reader::Reader>, &Progress),
    ) -> Result<()> {
        let mut sample = interval(SAMPLE_EVERY);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut may_read_log = true;
        let mut reads = reader.is_some();
        let mut rows = pin!(async {
            match reader {
                Some(reader) => reader.run().await,
                None => Ok(()),
            }
        });
        loop {
            tokio::select! {
                biased;
                ended = &mut *decoding => {
                    // The panic's own words may hold row data; the hook has logged its place.
                    return ended.unwrap_or_else(|_| {
                        Err(Error::fatal("the decoder of the change stream stopped by a panic"))
                    });
                }
                read = &mut rows, if reads => {
                    read?;
                    reads = false;
                }
                _ = sample.tick(), if may_read_log => may_read_log = look_at_log(client, progress).await,
            }
        }
    }
}

/// False when there is no use in asking again.
async fn look_at_log(client: &Client, progress: &Progress) -> bool {
    match Window::read(client).await {
        Ok(Some(window)) => {
            let delivered = ClusterTime(progress.delivered.load(Ordering::Relaxed));
            progress.log_window_s.store(window.length().as_secs(), Ordering::Relaxed);
            progress.log_headroom_s.store(window.headroom(delivered).as_secs(), Ordering::Relaxed);
            true
        }
        Ok(None) => false,
        Err(error) if crate::errors::is_resumable(&error) => true,
        Err(error) => {
            tracing::info!(cause = %error.kind, "the log's window is not shown: the user may not read local.oplog.rs");
            false
        }
    }
}

impl Source for MongodbSource {
    async fn check(&self) -> Result<Report> {
        check::check(&self.settings).await
    }

    async fn preconditions(&self) -> Result<()> {
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
        let Place { position, is_first } =
            start::place(&self.settings, &client, &facts, from.as_ref()).await?;
        // After the place was taken: what comes into being from there on comes as changes.
        let there = collections::there(&client, &self.settings).await?;
        let plan = collection::plan(&self.settings, &there, &feed.notes, is_first)?;
        if is_first && !feed.commit_with(position.to_position(), plan.notes.clone()).await? {
            return Ok(());
        }
        let progress = feed.progress.clone();
        let (tracker, desk, reader) = self.snapshot(&client, &facts, plan, progress.clone());
        let (reading, mut decoding) = self.stream(&client, &facts, position, (feed, tracker, desk)).await?;
        let result = self.attend(&client, &mut decoding, (reader, &progress)).await;
        // Gone before the next attempt, and its cursor with it.
        reading.abort();
        let _ = reading.await;
        result
    }
}
