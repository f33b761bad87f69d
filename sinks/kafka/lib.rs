//! Kafka as a sink: data and position in one Kafka transaction.
//!
//! Start at `KafkaSink::open` (module `opening`: shut out, claim, read the position), then at
//! `transaction::Session`, which one opening gives and the first trouble ends. `topics` and `registry` answer
//! what the encoder asks before it encodes; `errors` says what a code means.

mod admin;
pub mod audit;
mod check;
mod closing;
pub mod compacted;
pub mod config;
pub mod dead_letters;
mod errors;
pub mod gauges;
pub mod group;
mod login;
mod native;
mod opening;
pub mod operators;
mod partitions;
mod position;
mod producer;
pub mod registry;
pub mod rights;
pub mod rules;
pub mod signals;
mod stop;
mod topics;
mod traced;
mod transaction;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millrace_core::batch::EncodedBatch;
use millrace_core::chaos::{self, Point};
use millrace_core::error::{Error, Kind, Result};
use millrace_core::position::{Notes, Position};
use millrace_core::progress::Progress;
use millrace_core::report::Report;
use millrace_core::sink::{Registered, SchemaType, Sink, Targets, Topic};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

pub use config::{Raw, Settings};
pub use native::allocator::tune as tune_allocator;

use admin::Presence;
use login::Login;
use opening::{Doubt, Opening};
use position::Keys;
use producer::Producer;
use registry::Registry;
use stop::Stop;
use topics::Topics;
use transaction::Session;

/// An orderly end, commits and threads together: with what the source takes, below the daemon's 10 s.
const CLOSE_WITHIN: Duration = Duration::from_millis(3_500);
/// Old producers are shut out by the epoch of the new ones, so this wait only keeps memory small.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

pub struct KafkaSink {
    session: Option<Session>,
    /// Of the topics that the session writes to.
    partitions: partitions::Watch,
    /// What the session's producers were made with.
    login: Login,
    /// The newest position that was read or committed here.
    newest: Option<Position>,
    /// Why the last session ended, until somebody was told.
    stopped: Option<Stop>,
    opening: Opening,
    registry: Option<Arc<Registry>>,
    /// Threads of producers that were dropped and may still be at work.
    leaving: Vec<oneshot::Receiver<()>>,
    /// The next opening follows an abort or a doubtful commit.
    recycle: bool,
    /// The gauges are read as long as this is there.
    watching: Option<Arc<()>>,
    /// Fenced, and the claims have not said yet by whom: until they do, nobody is shut out.
    unjudged: bool,
}

impl KafkaSink {
    /// `topic_prefix` names the position's key; `instance` is drawn once per process and connector.
    pub fn new(
        settings: Settings,
        registry: Option<registry::Settings>,
        topic_prefix: &str,
        instance: String,
        progress: Arc<Progress>,
    ) -> Result<Self> {
        let settings = Arc::new(settings);
        let registry = match registry {
            Some(registry) => Some(Arc::new(Registry::new(registry, progress.clone())?)),
            None => None,
        };
        let opening = Opening {
            keys: Keys::new(&settings.name, topic_prefix),
            topics: Arc::new(Topics::new(settings.clone(), progress.clone())),
            settings,
            progress,
            instance,
            doubt: Doubt::default(),
            claimed: false,
        };
        Ok(Self {
            session: None,
            login: Login::new(&opening.settings),
            partitions: partitions::Watch::new(opening.topics.clone()),
            newest: None,
            stopped: None,
            opening,
            registry,
            leaving: Vec::new(),
            recycle: false,
            watching: None,
            unjudged: false,
        })
    }

    /// The session is over; its producers abort what is open and end, on their own threads.
    fn end_session(&mut self, doubtful: bool) {
        let Some(mut session) = self.session.take() else { return };
        self.newest.clone_from(&session.newest);
        let limit = self.opening.settings.limits.timeout / 4;
        self.opening.doubt.session_over(session.clean, doubtful, limit);
        self.leaving.extend(session.producers.iter_mut().filter_map(|producer| producer.ended()));
    }

    /// The error for whoever asked, once the reason of the stop is known. Cancel-safe: what is not yet told
    /// is kept.
    async fn tell(&mut self) -> Error {
        if let Err(taken) = self.judge().await {
            self.stopped = None;
            return taken;
        }
        match self.stopped.take() {
            Some(stop) => stop.into_error(&self.opening.settings),
            None => Error::transient("the sink is not open").hint("it is opened anew"),
        }
    }

    /// After a fence, asks the claims. `Err`: another instance took over, or nobody could say.
    async fn judge(&mut self) -> Result<()> {
        if !self.unjudged {
            return Ok(());
        }
        let taken = self.opening.taken_over().await?;
        self.unjudged = false;
        taken.map_or(Ok(()), Err)
    }

    fn stop(&mut self, stop: Stop) {
        if stop.is_fenced() {
            chaos::pass(Point::Fenced);
        }
        self.recycle |= !matches!(stop, Stop::Error(_));
        self.unjudged |= stop.is_fenced();
        self.end_session(stop.is_doubtful());
        self.stopped = Some(stop);
    }

    /// Waits until the threads of former producers are gone, at most until then.
    async fn leave(&mut self, deadline: Instant) {
        for ended in self.leaving.drain(..) {
            // Either it ends, or the process goes on without waiting for it.
            let _ = timeout_at(deadline, ended).await;
        }
    }
}

impl KafkaSink {
    /// Puts a position in the place of whatever is stored, readable or not, by an operator's decision. An
    /// instance that still runs is shut out first. `forget` also takes away the partition counts.
    pub async fn overwrite(&mut self, position: &Position, forget: bool) -> Result<()> {
        let known = match forget {
            true => self.opening.slow_keys().await?,
            false => Vec::new(),
        };
        let written = async {
            let (mut session, _) = self.opening.open(Some(position)).await?;
            session.overwrite(position, &known).await
        };
        match written.await {
            Ok(()) => Ok(()),
            Err(stop) => {
                self.stop(stop);
                Err(self.tell().await)
            }
        }
    }
}

impl Sink for KafkaSink {
    type Targets = KafkaTargets;

    async fn check(&self) -> Result<Report> {
        let Opening { settings, topics, .. } = &self.opening;
        Ok(check::check(settings, topics, self.registry.as_deref()).await)
    }

    async fn open(&mut self) -> Result<Option<Position>> {
        self.end_session(false);
        self.stopped = None;
        self.leave(Instant::now() + LEAVE_WITHIN).await;
        self.judge().await?;
        if std::mem::take(&mut self.recycle) {
            self.opening.progress.recycles.fetch_add(1, Ordering::Relaxed);
        }
        self.login = Login::new(&self.opening.settings);
        match self.opening.open(None).await {
            Ok((session, position)) => {
                self.login.of(session.producers.iter().map(Producer::refused));
                self.session = Some(session);
                self.partitions.opened();
                if self.watching.is_none() {
                    let Opening { settings, progress, .. } = &self.opening;
                    self.watching = gauges::watch(settings.clone(), progress.clone());
                }
                Ok(position)
            }
            Err(stop) => {
                self.stop(stop);
                Err(self.tell().await)
            }
        }
    }

    fn notes(&mut self) -> Notes {
        self.session.as_mut().map(|session| std::mem::take(&mut session.notes)).unwrap_or_default()
    }

    fn targets(&self) -> KafkaTargets {
        KafkaTargets { topics: self.opening.topics.clone(), registry: self.registry.clone(), patience: None }
    }

    async fn send(&mut self, batch: &EncodedBatch) -> Result<()> {
        if let Some(session) = &mut self.session {
            match session.send(batch).await {
                Ok(()) => return Ok(()),
                Err(stop) => self.stop(stop),
            }
        }
        Err(self.tell().await)
    }

    async fn settled(&mut self) -> Result<Position> {
        if let Some(session) = &mut self.session {
            let settled = tokio::select! {
                biased;
                settled = session.settled() => settled,
                changed = self.partitions.changed() => Err(Stop::Error(changed)),
                changed = self.login.changed() => Err(Stop::Error(changed)),
            };
            match settled {
                Ok(position) => return Ok(position),
                Err(stop) => self.stop(stop),
            }
        }
        Err(self.tell().await)
    }

    async fn idle(&mut self) -> Result<()> {
        if let Some(session) = &mut self.session {
            match session.idle().await {
                Ok(()) => return Ok(()),
                Err(stop) => self.stop(stop),
            }
        }
        Err(self.tell().await)
    }

    async fn close(&mut self) -> Result<Option<Position>> {
        let deadline = Instant::now() + CLOSE_WITHIN;
        let mut newest = None;
        if let Some(session) = &mut self.session {
            let finished = timeout_at(deadline - LEAVE_WITHIN, session.finish()).await;
            newest.clone_from(&session.newest);
            chaos::pass(Point::Closed);
            match finished {
                Ok(Ok(())) => self.end_session(false),
                Ok(Err(stop)) => self.stop(stop),
                Err(_) => self.stop(Stop::Error(
                    Error::transient(format!(
                        "kafka at {} did not take the last commit in time",
                        self.opening.settings.brokers()
                    ))
                    .hint("nothing is lost: the next start reads the position and goes on from there"),
                )),
            }
        }
        self.leave(deadline).await;
        match &self.stopped {
            // Who took over is asked of brokers that may be away; the next opening asks again.
            Some(stop) if !stop.is_doubtful() => {
                Err(timeout_at(deadline, self.tell()).await.unwrap_or_else(|_| {
                    Error::transient("shut out of kafka, and it could not be learned in time by whom")
                        .hint("nothing is lost: the next start finds out before it shuts out anybody")
                }))
            }
            // A doubtful commit is a commit, and its producers are gone.
            Some(_) | None => {
                self.stopped = None;
                Ok(newest)
            }
        }
    }

    async fn undisturbed(&mut self) -> Result<()> {
        self.end_session(false);
        self.opening.undisturbed(self.newest.as_ref()).await
    }
}

/// Handed to the encoder; usable while the sink is busy.
#[derive(Clone)]
pub struct KafkaTargets {
    topics: Arc<Topics>,
    registry: Option<Arc<Registry>>,
    /// How long a registry is waited for that has answered before; `None`: as long as it takes.
    patience: Option<Duration>,
}

impl Targets for KafkaTargets {
    async fn topic(&self, name: &str) -> Result<Topic> {
        self.topics.ensure(name).await
    }

    async fn schema(&self, of: SchemaType, subject: &str, text: &str) -> Result<u32> {
        self.registry()?.register(of, subject, text, self.patience).await
    }

    async fn registered(&self, subject: &str) -> Result<Option<Registered>> {
        self.registry()?.latest(subject, self.patience).await
    }

    fn hasty(&self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self.clone() }
    }

    async fn answers(&self) -> bool {
        match &self.registry {
            // One that lets nobody list subjects may take a schema.
            Some(registry) => !matches!(registry.probe().await, Err(away) if away.kind() == Kind::Transient),
            None => true,
        }
    }
}

impl KafkaTargets {
    fn registry(&self) -> Result<&Registry> {
        self.registry.as_deref().ok_or_else(|| {
            Error::config("schemas need a registry, and none is configured")
                .hint("registry = \"http://host:8081\" in [format], or encoding = \"json\"")
        })
    }
}

/// The position that the sink holds, read without shutting anybody out.
pub async fn read_position(settings: &Settings, topic_prefix: &str) -> Result<Option<Position>> {
    let settings = Arc::new(settings.clone());
    let keys = Keys::new(&settings.name, topic_prefix);
    let topics = Topics::new(settings.clone(), Arc::default());
    if topics.admin.presence(&settings.position_topic).await? == Presence::Missing {
        return Ok(None);
    }
    opening::blocking(move || position::read(&settings, &keys)).await.map(|found| found.position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_that_was_fenced_while_the_brokers_are_away_is_bounded_too() {
        let raw = Raw { bootstrap: vec!["127.0.0.1:1".to_owned()], ..Raw::default() };
        let settings = Settings::resolve(raw, "orders").unwrap();
        let mut sink = KafkaSink::new(settings, None, "shop", "me".to_owned(), Arc::default()).unwrap();
        // As a fence leaves it.
        sink.opening.claimed = true;
        sink.unjudged = true;
        sink.stopped = Some(Stop::Error(Error::transient("fenced")));
        let began = Instant::now();
        let closed = sink.close().await;
        assert!(closed.is_err() && sink.unjudged);
        assert!(began.elapsed() < CLOSE_WITHIN * 2, "{:?}", began.elapsed());
    }
}
