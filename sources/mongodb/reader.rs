//! Asks for replies ahead of whoever decodes them, and opens the stream again where it stood when the server
//! says that it may. Start at `Reader::run`.
//!
//! Replies wait for the decoder up to a number of bytes, so that the server is asked on while Kafka takes its time
//! over a commit. A reply has up to 16 MB: of those, one is being decoded and one waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use millrace_core::error::{Error, Result};
use millrace_core::progress::{Progress, State};
use millrace_core::retry::Backoff;
use mongodb::Client;
use mongodb::bson::RawDocumentBuf;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::bson::Doc;
use crate::client::target;
use crate::config::Settings;
use crate::errors::{Phase, classified, is_resumable};
use crate::pipeline::{Begin, stages};
use crate::resume_token::ResumeToken;

/// How long the server waits for something new before it answers with nothing. An answer with nothing is also
/// what proves that a transaction has ended, so this bounds how long one waits in an idle deployment.
const AWAIT: Duration = Duration::from_millis(100);

/// Events of one reply. A reply holds up to 16 MB otherwise, and a smaller one is as fast: the next is fetched while
/// this one is decoded, and it fits into the cache.
pub const REPLY_EVENTS: u32 = 1_000;

/// A stream that cannot be opened again for this long is a matter for the whole connector.
const REOPEN_PATIENCE: Duration = Duration::from_secs(60);
/// Where a login comes from files: an election is over by then.
const LOGIN_PATIENCE: Duration = Duration::from_secs(12);

/// Of replies that wait or are being decoded: some tenths of a second of a fast server.
const AHEAD_KIB: u32 = 8 * 1024;
/// More than there are of the usual size within those bytes.
const AHEAD_REPLIES: usize = 64;

/// What the decoder gets.
pub enum Reply {
    /// With the room that it takes until it is decoded.
    Batch(RawBatch, OwnedSemaphorePermit),
    Failed(Error),
}

/// From the reader to the decoder.
pub fn way() -> (mpsc::Sender<Reply>, mpsc::Receiver<Reply>) {
    mpsc::channel(AHEAD_REPLIES)
}

pub struct Reader {
    pub client: Client,
    pub settings: Arc<Settings>,
    pub splits: bool,
    pub progress: Arc<Progress>,
    /// Where to open the stream again: after the newest reply.
    pub begin: Begin,
}

/// Opens the stream; nothing is read yet.
pub async fn open(
    client: &Client,
    settings: &Settings,
    begin: &Begin,
    splits: bool,
) -> mongodb::error::Result<RawBatchCursor> {
    let stages = stages(settings, begin, splits);
    let (database, collection) = target(client, settings);
    match collection {
        None => database.aggregate(stages).max_await_time(AWAIT).batch_size(REPLY_EVENTS).batch().await,
        Some(name) => {
            let collection = database.collection::<RawDocumentBuf>(&name);
            collection.aggregate(stages).max_await_time(AWAIT).batch_size(REPLY_EVENTS).batch().await
        }
    }
}

/// In KiB. A reply larger than all the room there is gets that.
fn room_of(reply: &RawBatch) -> u32 {
    let kib = reply.as_raw_document().as_bytes().len() / 1024 + 1;
    u32::try_from(kib).unwrap_or(AHEAD_KIB).min(AHEAD_KIB)
}

/// The stream's place after a reply.
pub fn place_after(reply: &RawBatch) -> Result<Option<Doc<'_>>, crate::bson::Malformed> {
    let reply = Doc::new(reply.as_raw_document().as_bytes())?;
    let cursor = reply.need("cursor")?.document("cursor")?;
    cursor.get("postBatchResumeToken")?.map(|token| token.document("postBatchResumeToken")).transpose()
}

impl Reader {
    /// Ends when the decoder has gone, or after an error that it has got.
    pub async fn run(mut self, mut cursor: RawBatchCursor, to: mpsc::Sender<Reply>) {
        let mut trouble = Trouble::default();
        let ahead = Arc::new(Semaphore::new(AHEAD_KIB as usize));
        // A place first, so that nothing is fetched that nobody has room for.
        while let Ok(place) = to.reserve().await {
            let error = match cursor.next().await {
                Some(Ok(batch)) => match self.remember(&batch) {
                    Ok(()) => {
                        trouble.pass(&self.progress);
                        let room = ahead.clone().acquire_many_owned(room_of(&batch)).await;
                        // It is never closed.
                        let Ok(room) = room else { return };
                        place.send(Reply::Batch(batch, room));
                        continue;
                    }
                    Err(error) => return place.send(Reply::Failed(error)),
                },
                Some(Err(error)) if is_resumable(&error) => Some(error),
                Some(Err(error)) => {
                    let what = format!("cannot read the change stream of {}", self.settings.place());
                    return place.send(Reply::Failed(classified(
                        what,
                        error,
                        &self.settings,
                        Phase::Reading,
                    )));
                }
                // After an invalidation, for one.
                None => None,
            };
            match self.again(error, &mut trouble).await {
                Ok(opened) => cursor = opened,
                Err(error) => return place.send(Reply::Failed(error)),
            }
        }
    }

    fn remember(&mut self, batch: &RawBatch) -> Result<()> {
        let token = place_after(batch).and_then(|token| token.map(ResumeToken::read).transpose());
        let token = token.map_err(|error| {
            Error::fatal(format!("mongodb sent a malformed reply: {error}"))
                .hint("nothing was skipped; report this with the server's version")
        })?;
        if let Some(token) = token {
            self.begin = Begin::After(token);
        }
        Ok(())
    }

    /// Opens the stream again where it stood.
    async fn again(
        &self,
        mut error: Option<mongodb::error::Error>,
        trouble: &mut Trouble,
    ) -> Result<RawBatchCursor> {
        let what = format!("the change stream of {} broke off", self.settings.place());
        // The driver hides behind its waiting for a server that a login was refused, and only a new client has the
        // present one.
        let patience = match self.settings.login_files().is_empty() {
            true => REOPEN_PATIENCE,
            false => LOGIN_PATIENCE,
        };
        loop {
            trouble.wait(&what, error.as_ref(), &self.progress).await;
            match open(&self.client, &self.settings, &self.begin, self.splits).await {
                Ok(cursor) => return Ok(cursor),
                Err(found) if is_resumable(&found) && !trouble.is_too_long(patience) => error = Some(found),
                Err(found) => return Err(classified(what, found, &self.settings, Phase::Opening)),
            }
        }
    }
}

/// A stream that broke off, until a reply comes again.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
    backoff: Backoff,
}

impl Trouble {
    /// The first time at once: a primary that stepped down has told where the next one is.
    async fn wait(&mut self, what: &str, error: Option<&mongodb::error::Error>, progress: &Progress) {
        if self.since.is_some() {
            tokio::time::sleep(self.backoff.next_wait()).await;
        }
        self.since.get_or_insert_with(Instant::now);
        if let Some(error) = error {
            let cause = error.kind.to_string();
            tracing::warn!(%cause, "{what}; opening it again where it stood");
            progress.show(State::Degraded, Some(format!("{what}: {cause}")), None);
        }
    }

    fn is_too_long(&self, patience: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() > patience)
    }

    fn pass(&mut self, progress: &Progress) {
        if self.since.is_some() {
            progress.show(State::Running, None, None);
            *self = Self::default();
        }
    }
}
