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

use crate::bson::{Doc, Malformed};
use crate::client::target;
use crate::config::Settings;
use crate::errors::{Phase, classified, is_resumable};
use crate::pipeline::{Begin, stages};
use crate::resume_token::ResumeToken;

/// How long the server waits for something new before it answers with nothing. An answer with nothing is also
/// what proves that a transaction has ended, so this bounds how long one waits in an idle deployment, but for a stream
/// that was just opened (`Opening`): there it is the ten seconds after which an idle server writes to its log.
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
    Batch(Answer),
    Failed(Error),
}

/// What the server answered.
pub struct Answer {
    pub batch: RawBatch,
    /// The server has shown more than the place at which the stream was opened: see `Opening`.
    pub has_moved: bool,
    /// What it takes until it is decoded.
    _room: OwnedSemaphorePermit,
}

/// One opening of the stream, and whether the server knows more than its place.
///
/// A member that was just elected may have an entry in its log and not know yet that it is committed. A stream that
/// is opened there at an event of that entry answers with nothing, at the very place, until the member's first own
/// entry is committed: such a reply does not say that nothing more of the event's transaction comes.
struct Opening {
    at: Begin,
    has_moved: bool,
}

impl Opening {
    fn at(place: &Begin) -> Self {
        Self { at: place.clone(), has_moved: false }
    }

    fn take(&mut self, token: Option<&ResumeToken>, has_events: bool) {
        let is_past = |token: &ResumeToken| match &self.at {
            Begin::Now => false,
            Begin::After(place) => token.is_after(place),
            Begin::At(time) => token.cluster_time().is_ok_and(|of_token| of_token > *time),
        };
        self.has_moved |= has_events || token.is_some_and(is_past);
    }
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

fn cursor_of(reply: &RawBatch) -> Result<Doc<'_>, Malformed> {
    Doc::new(reply.as_raw_document().as_bytes())?.need("cursor")?.document("cursor")
}

/// The stream's place after a reply.
pub fn place_after(reply: &RawBatch) -> Result<Option<ResumeToken>, Malformed> {
    let token = cursor_of(reply)?.get("postBatchResumeToken")?;
    token.map(|token| ResumeToken::read(token.document("postBatchResumeToken")?)).transpose()
}

fn has_events(reply: &RawBatch) -> Result<bool, Malformed> {
    let cursor = cursor_of(reply)?;
    for name in ["firstBatch", "nextBatch"] {
        if let Some(batch) = cursor.get(name)? {
            return Ok(batch.array(name)?.elements().next().is_some());
        }
    }
    Ok(false)
}

impl Reader {
    /// Ends when the decoder has gone, or after an error that it has got.
    pub async fn run(mut self, mut cursor: RawBatchCursor, to: mpsc::Sender<Reply>) {
        let mut trouble = Trouble::default();
        let mut opening = Opening::at(&self.begin);
        let ahead = Arc::new(Semaphore::new(AHEAD_KIB as usize));
        // A place first, so that nothing is fetched that nobody has room for.
        while let Ok(place) = to.reserve().await {
            let error = match cursor.next().await {
                Some(Ok(batch)) => match self.remember(&batch, &mut opening) {
                    Ok(()) => {
                        trouble.pass(&self.progress);
                        let room = ahead.clone().acquire_many_owned(room_of(&batch)).await;
                        // It is never closed.
                        let Ok(room) = room else { return };
                        place.send(Reply::Batch(Answer { batch, has_moved: opening.has_moved, _room: room }));
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
                Ok(opened) => (cursor, opening) = (opened, Opening::at(&self.begin)),
                Err(error) => return place.send(Reply::Failed(error)),
            }
        }
    }

    fn remember(&mut self, batch: &RawBatch, opening: &mut Opening) -> Result<()> {
        let read = place_after(batch).and_then(|token| Ok((token, has_events(batch)?)));
        let (token, has_events) = read.map_err(|error| {
            Error::fatal(format!("mongodb sent a malformed reply: {error}"))
                .hint("nothing was skipped; report this with the server's version")
        })?;
        opening.take(token.as_ref(), has_events);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a real server: two events of one transaction, a place between events of its time, and one after it.
    const FIRST: &str = "826553F100000000052B0429296E1404";
    const EVENTS: [&str; 2] =
        ["826553F100000000052B042C0100296E5A1004", "826553F100000000052B042C01006E5A1004"];
    const LATER: &str = "826553F100000000062B0429296E1404";

    fn token(digits: &str) -> ResumeToken {
        ResumeToken::typed(digits).unwrap()
    }

    fn has_moved(at: &Begin, replies: &[(&str, bool)]) -> bool {
        let mut opening = Opening::at(at);
        for (place, has_events) in replies {
            opening.take(Some(&token(place)), *has_events);
        }
        opening.has_moved
    }

    #[test]
    fn nothing_at_the_very_place_where_a_stream_was_opened_proves_nothing() {
        let at = Begin::After(token(EVENTS[0]));
        assert!(!has_moved(&at, &[]));
        assert!(!has_moved(&at, &[(EVENTS[0], false), (EVENTS[0], false)]));
        assert!(!has_moved(&at, &[(FIRST, false)]), "a place before it says less");
        assert!(has_moved(&at, &[(EVENTS[0], false), (EVENTS[1], false)]), "of an event that is not wanted");
        assert!(has_moved(&at, &[(LATER, false), (LATER, false)]));
        assert!(has_moved(&at, &[(EVENTS[1], true), (EVENTS[1], false)]));
    }

    #[test]
    fn a_time_at_which_a_stream_was_opened_is_passed_by_an_event_of_it_and_by_a_later_place() {
        let at = Begin::At(token(FIRST).cluster_time().unwrap());
        assert!(!has_moved(&at, &[(FIRST, false)]));
        assert!(has_moved(&at, &[(EVENTS[0], true)]));
        assert!(has_moved(&at, &[(LATER, false)]));
    }
}
