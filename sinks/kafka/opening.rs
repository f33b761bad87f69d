//! Opening: shuts out any predecessor, then reads the position. The order is the correctness.
//!
//! Start at `open`. The steps stand in `rules::OPENING`; every later initialisation, for whatever
//! reason, is this whole procedure again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millrace_core::chaos::{self, Point};
use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::progress::{Progress, now_us};

use crate::admin::Presence;
use crate::config::{RETRY_BACKOFF, Settings};
use crate::errors::Failure;
use crate::native::{self, Topic};
use crate::position::{self, Claim, Found, Keys};
use crate::producer::{Producer, Trouble};
use crate::rules::{self, Step};
use crate::stop::Stop;
use crate::topics::Topics;
use crate::transaction::Session;

/// Doubtful commits in a row after which the backoff, and with it the threshold of doubt, is doubled.
const DOUBTS_IN_A_ROW: u32 = 3;
/// Commits without doubt after which the next opening begins with the shortest backoff again.
const CLEAN_STRETCH: u32 = 1_000;

/// How slow a commit may be before it is in doubt. It grows where the brokers are that slow all the time:
/// a threshold that every commit passes would open the producers anew for ever.
#[derive(Debug)]
pub struct Doubt {
    pub backoff: Duration,
    in_a_row: u32,
}

impl Default for Doubt {
    fn default() -> Self {
        Self { backoff: RETRY_BACKOFF, in_a_row: 0 }
    }
}

impl Doubt {
    /// A session is over after `clean` commits without doubt.
    pub fn session_over(&mut self, clean: u32, doubtful: bool, limit: Duration) {
        if clean > 0 {
            self.in_a_row = 0;
        }
        if clean >= CLEAN_STRETCH {
            self.backoff = RETRY_BACKOFF;
        }
        if doubtful {
            self.in_a_row += 1;
            if self.in_a_row >= DOUBTS_IN_A_ROW {
                self.longer(limit);
            }
        }
    }

    pub fn claim_doubtful(&mut self, limit: Duration) {
        self.longer(limit);
    }

    fn longer(&mut self, limit: Duration) {
        self.in_a_row = 0;
        self.backoff = (self.backoff * 2).min(limit).max(RETRY_BACKOFF);
        let backoff_ms = self.backoff.as_millis();
        tracing::warn!(backoff_ms, "commits are slow: the retry backoff of the new producers is longer");
    }
}

/// What stays the same over every opening.
pub struct Opening {
    pub settings: Arc<Settings>,
    pub keys: Keys,
    pub topics: Arc<Topics>,
    pub progress: Arc<Progress>,
    /// Drawn once per process and connector: with a new one at each opening nobody would stay active.
    pub instance: String,
    pub doubt: Doubt,
    /// A claim of ours was committed, in this opening or an earlier one.
    pub claimed: bool,
}

impl Opening {
    /// `over`: the position that is to stand from now on, so that the old one is not read: it may be what
    /// is broken.
    pub async fn open(&mut self, over: Option<&Position>) -> Result<(Session, Option<Position>), Stop> {
        self.topics.ensure_position_topic().await?;
        let sizes = self.topics.sizes();
        let backoff_ms = u64::try_from(self.doubt.backoff.as_millis()).unwrap_or(u64::MAX);
        self.progress.commit_backoff_ms.store(backoff_ms, Ordering::Relaxed);
        let producer = |nth| Producer::new(&self.settings, nth, self.doubt.backoff, sizes);
        let producers = [producer(0)?, producer(1)?];
        let [first, second] = &producers;
        let name = &self.settings.position_topic;
        let position_topic = [first.topic(name)?, second.topic(name)?];
        let mut found = Found::default();
        for step in rules::OPENING {
            match step {
                Step::Init(nth) => init(&producers[nth]).await?,
                Step::Claim(nth) => self.claim(&producers[nth], &position_topic[nth]).await?,
                Step::Read if over.is_none() => found = self.read().await?,
                Step::Read => (),
            }
        }
        chaos::pass(Point::PositionRead);
        self.topics.reopened(found.partitions);
        let mut session = Session::new(
            producers,
            position_topic,
            self.settings.clone(),
            self.topics.clone(),
            self.keys.clone(),
            self.progress.clone(),
            sizes,
        );
        session.newest.clone_from(&found.position);
        session.notes = found.notes;
        Ok((session, found.position))
    }

    /// Commits who is at work, without a position: it is not known yet, and one from memory would override
    /// a newer one.
    async fn claim(&mut self, producer: &Producer, topic: &Topic) -> Result<(), Stop> {
        let what = || format!("cannot commit the claim of {}", producer.id());
        let trouble = |trouble| Stop::Trouble { what: what(), trouble };
        producer.began(&mut producer.begin()).await.map_err(trouble)?;
        let claim =
            Claim { instance: self.instance.clone(), id: producer.id().to_owned(), time_ms: now_us() / 1000 };
        let (key, value) = (self.keys.claim.as_bytes(), position::claim_value(&claim));
        let produced =
            topic.produce(position::STREAM, Some(key), Some(value.as_bytes()), std::iter::empty(), 0, 0);
        // An empty transaction would commit without the broker, and look like a claim.
        if let Err(code) = produced {
            let refused = Failure { code, text: native::describe(code), retriable: false };
            return Err(trouble(producer.failed().unwrap_or(Trouble::Call(refused))));
        }
        let ordered = tokio::time::Instant::now();
        let committed =
            producer.committed(&mut producer.commit(None).done, ordered).await.map_err(trouble)?;
        self.claimed = true;
        chaos::pass(Point::Claimed);
        if committed.doubtful {
            self.doubt.claim_doubtful(self.settings.limits.timeout / 4);
            self.progress.doubtful_commits.fetch_add(1, Ordering::Relaxed);
            return Err(Stop::Doubtful { id: producer.id().to_owned(), committed });
        }
        Ok(())
    }

    /// The keys of what changes seldom; none where the position topic is not there yet.
    pub async fn slow_keys(&self) -> Result<Vec<String>> {
        if self.topics.admin.presence(&self.settings.position_topic).await? == Presence::Missing {
            return Ok(Vec::new());
        }
        let (settings, keys) = (self.settings.clone(), self.keys.clone());
        let found = blocking(move || position::read_slow(&settings, &keys)).await?;
        let topics = found.partitions.keys().map(|topic| self.keys.partitions(topic));
        Ok(topics.chain(found.notes.keys().map(|key| self.keys.note(key))).collect())
    }

    async fn read(&self) -> Result<Found> {
        let (settings, keys) = (self.settings.clone(), self.keys.clone());
        blocking(move || position::read(&settings, &keys)).await
    }

    /// After librdkafka said fenced, which means two things: another instance took over, or the broker ended
    /// our own transaction. The claims tell them apart. `Ok(None)` is the second: open again. While they
    /// cannot be read nothing is known, and nobody may be shut out.
    pub async fn taken_over(&self) -> Result<Option<Error>> {
        if !self.claimed {
            return Ok(None);
        }
        let (settings, keys) = (self.settings.clone(), self.keys.clone());
        let newest = blocking(move || position::read_claim(&settings, &keys)).await?;
        Ok(self.strangers(newest))
    }

    /// Whether what was read at opening is still the newest. `Err`: another instance has taken over, or the
    /// position was moved, and whoever judged by the old one opens again first.
    pub async fn undisturbed(&self, newest: Option<&Position>) -> Result<()> {
        let found = self.read().await?;
        if let Some(taken) = self.strangers(found.claim) {
            return Err(taken);
        }
        if found.position.as_ref() != newest {
            let connector = &self.settings.connector;
            return Err(Error::transient(format!(
                "the position of connector {connector} was moved meanwhile"
            ))
            .hint("it is opened anew and goes on from there"));
        }
        Ok(())
    }

    /// The error for a newest claim that is not ours.
    fn strangers(&self, newest: Option<Claim>) -> Option<Error> {
        let claim = rules::rival(self.claimed, newest, |claim| claim.instance == self.instance)?;
        let ago_s = (now_us() / 1000 - claim.time_ms) / 1000;
        let error = Error::fenced(format!(
            "another instance took over connector {}: {}, {ago_s} s ago",
            self.settings.connector, claim.instance
        ));
        Some(error.hint("stop one of the two, or give them different names; the other one goes on meanwhile"))
    }
}

/// Shuts out whoever used the id before.
async fn init(producer: &Producer) -> Result<(), Stop> {
    chaos::pass(Point::BeforeInit);
    producer.init().await.map_err(|trouble| Stop::Trouble {
        what: format!("cannot initialise transactional id {}", producer.id()),
        trouble,
    })?;
    chaos::pass(Point::AfterInit);
    Ok(())
}

/// Runs a read that blocks.
pub async fn blocking<T: Send + 'static>(read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| Error::transient("reading the position did not finish").source(error))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(7_500);

    #[test]
    fn the_backoff_doubles_after_three_doubtful_commits_in_a_row() {
        let mut doubt = Doubt::default();
        doubt.session_over(0, true, LIMIT);
        doubt.session_over(0, true, LIMIT);
        assert_eq!(doubt.backoff, RETRY_BACKOFF);
        doubt.session_over(0, true, LIMIT);
        assert_eq!(doubt.backoff, RETRY_BACKOFF * 2);
    }

    #[test]
    fn a_clean_commit_between_starts_the_count_again() {
        let mut doubt = Doubt::default();
        for _ in 0..10 {
            doubt.session_over(0, true, LIMIT);
            doubt.session_over(1, true, LIMIT);
        }
        assert_eq!(doubt.backoff, RETRY_BACKOFF);
    }

    #[test]
    fn the_backoff_doubles_after_each_doubtful_claim_up_to_a_limit() {
        let mut doubt = Doubt::default();
        doubt.claim_doubtful(LIMIT);
        assert_eq!(doubt.backoff, RETRY_BACKOFF * 2);
        for _ in 0..10 {
            doubt.claim_doubtful(LIMIT);
        }
        assert_eq!(doubt.backoff, LIMIT);
    }

    #[test]
    fn a_long_clean_stretch_ends_the_long_backoff() {
        let mut doubt = Doubt::default();
        doubt.claim_doubtful(LIMIT);
        doubt.session_over(CLEAN_STRETCH - 1, false, LIMIT);
        assert_eq!(doubt.backoff, RETRY_BACKOFF * 2);
        doubt.session_over(CLEAN_STRETCH, false, LIMIT);
        assert_eq!(doubt.backoff, RETRY_BACKOFF);
    }
}
