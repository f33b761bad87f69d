//! Reads a collection or a part of one, in chunks beside the stream: start at `Worker::collection`.
//!
//! Every chunk is of a time that the stream's thread tells and watches from before the first document is read;
//! nothing of it outlives a crash. One is read while the one before waits for the stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use millrace_core::batch::ChangeBatch;
use millrace_core::error::{Error, Result};
use millrace_core::snapshot::{Pace, UNDER_WAY_MAX};
use mongodb::bson::RawDocumentBuf;
use tokio::sync::oneshot;

use crate::bson::{Doc, FieldRules};
use crate::collections::Name;
use crate::errors::{is_not_yet, is_passing, is_too_old};
use crate::resume_token::ClusterTime;
use crate::session::{malformed, unwritable};
use crate::snapshot::collection::IdPart;
use crate::snapshot::desk::Order;
use crate::snapshot::find::{self, Chunk, Fault, Found, Range, Writing};
use crate::snapshot::id::{self, Id};
use crate::snapshot::reader::{Job, Reader, Shared};
use crate::snapshot::tracker::{Outcome, Read};

/// Before a chunk that could not be read is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Before a chunk of a time that the server has not reached is tried again.
const SOON: Duration = Duration::from_millis(100);

/// Longer than an idle server goes without an entry in its log.
const NOT_YET_PATIENCE: Duration = Duration::from_secs(12);

/// A stream that is less behind than this is not behind.
const BEHIND_LEAST: Duration = Duration::from_secs(60);

/// A server that cannot be read from for this long is a matter for the whole connector.
const AWAY_PATIENCE: Duration = Duration::from_secs(60);

/// A part of a collection that is worth a worker of its own.
const CHUNKS_WORTH_A_PART: u64 = 2;

pub(super) struct Worker {
    shared: Arc<Shared>,
    buffers: Vec<ChangeBatch>,
}

/// Where the reading of one part of a collection is.
struct Place {
    /// The stream's number of the collection.
    index: usize,
    name: Name,
    /// A condition on the documents.
    filter: Option<RawDocumentBuf>,
    rules: Option<FieldRules>,
    /// Which of the collection's parts, and how far it is read.
    number: usize,
    part: IdPart,
    pace: Pace,
    /// Read as of a time. Where the server refuses that, what is committed is read, and the stream has to come
    /// further before it may be placed.
    is_exact: bool,
    /// What the stream will say of the chunks that it has, the oldest first.
    under_way: VecDeque<oneshot::Receiver<Outcome>>,
}

/// Why a chunk was not read.
enum Refusal {
    /// The server does not read as of the time that the stream is at, or does not read this as of any time.
    TooOld,
    /// The server has not reached that time, or does not read as of any.
    NotYet,
    /// It is away, or a new primary is being elected.
    Away(mongodb::error::Error),
    Failed(Error),
}

impl Worker {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, buffers: Vec::new() }
    }

    /// Begins a collection, or goes on with it: its first part is read here, and the others by whoever comes.
    pub async fn collection(&mut self, index: usize) -> Result<()> {
        let Some(unread) = self.shared.unread(index) else { return Ok(()) };
        let name = unread.name.to_string();
        let mut parts = unread.parts.clone();
        if parts == [IdPart::default()] {
            parts = self.cut(&unread.name).await;
            let cut = parts.clone();
            self.shared.order(Order::Cut { collection: index, parts: cut }).await;
        }
        self.shared.begun(index, &name);
        let mut left = parts.into_iter().enumerate().filter(|(_, part)| !part.ended);
        let first = left.next();
        self.shared.share(index, left.map(|(number, part)| Job::Part { index, number, part }));
        match first {
            Some((number, part)) => self.part(index, number, part).await,
            // What was listed is all that is left.
            None => self.part(index, 0, IdPart { ended: true, ..IdPart::default() }).await,
        }
    }

    /// A part for each worker, where the collection is worth it.
    async fn cut(&self, name: &Name) -> Vec<IdPart> {
        let Reader { client, settings, .. } = &self.shared.reader;
        let database = client.database(&name.database);
        let count = database.run_command(find::count(name)).await.map_or(0, |reply| find::counted(&reply));
        let worth = CHUNKS_WORTH_A_PART * settings.snapshot_chunk_rows;
        let parts = usize::try_from(count / worth).unwrap_or(usize::MAX).min(settings.snapshot_workers);
        if parts < 2 {
            return IdPart::cut(&[]);
        }
        let sampled = async {
            let cursor = database.run_cursor_command(find::sampled(name, parts)).batch();
            cursor.await?.next().await.transpose()
        };
        let bounds = match &sampled.await {
            Ok(Some(reply)) => Doc::new(reply.as_raw_document().as_bytes())
                .and_then(|reply| find::bounds(reply, parts))
                .unwrap_or_default(),
            Ok(None) => Vec::new(),
            // Whatever is wrong, the reading itself will tell it.
            Err(error) => {
                let cause = error.kind.to_string();
                tracing::info!(collection = %name, %cause, "the collection cannot be sampled, and is read as one");
                Vec::new()
            }
        };
        IdPart::cut(&bounds)
    }

    /// Reads a part to its end. Whoever ends the last part reads again what was listed meanwhile.
    pub async fn part(&mut self, index: usize, number: usize, part: IdPart) -> Result<()> {
        let Some(mut place) = self.place(index, number, part)? else { return Ok(()) };
        let name = place.name.to_string();
        let (mut listed, mut whole) = self
            .shared
            .unread(index)
            .map_or((Vec::new(), false), |unread| (unread.listed.clone(), unread.note.ended));
        loop {
            self.shared.reader.requests.go_on().await;
            if self.shared.is_given_up(index) {
                return self.give_up(place).await;
            }
            while !place.part.ended && place.under_way.len() < UNDER_WAY_MAX {
                self.chunk(&mut place, None).await?;
            }
            if place.under_way.is_empty() {
                if !whole {
                    return Ok(());
                }
                self.chunk(&mut place, Some(std::mem::take(&mut listed))).await?;
            }
            let mut outcome = place.outcome().await;
            while outcome.spoiled && !place.under_way.is_empty() {
                // Those behind it go the same way.
                self.buffers.push(outcome.buffer);
                outcome = place.outcome().await;
            }
            if outcome.spoiled {
                (place.part.last, place.part.ended) = (outcome.last, outcome.ended);
                place.pace.halve();
                tracing::warn!(collection = %name, "too much changed under a chunk: it is read again, smaller");
            }
            self.buffers.push(outcome.buffer);
            self.shared.delivered(outcome.placed);
            (listed, whole) = (outcome.listed, outcome.whole);
            if outcome.done {
                let documents = outcome.rows;
                tracing::info!(collection = %name, documents, "all documents of the collection are read");
                self.shared.through(index, Some(documents));
                return Ok(());
            }
        }
    }

    /// No more of this collection is wanted.
    async fn give_up(&mut self, mut place: Place) -> Result<()> {
        self.shared.order(Order::Drop(place.index)).await;
        while !place.under_way.is_empty() {
            let outcome = place.outcome().await;
            self.buffers.push(outcome.buffer);
        }
        self.shared.through(place.index, None);
        Ok(())
    }

    fn place(&self, index: usize, number: usize, part: IdPart) -> Result<Option<Place>> {
        let Some(unread) = self.shared.unread(index) else { return Ok(None) };
        let (settings, name) = (&self.shared.reader.settings, &unread.name);
        let filter = match &unread.note.asked {
            Some(asked) => asked.filter.as_deref().map(find::condition).transpose().map_err(|error| {
                Error::fatal("a condition that was understood once is not now").source(error)
            })?,
            None => settings.snapshot_filter(&name.database, &name.collection).cloned(),
        };
        Ok(Some(Place {
            index,
            name: unread.name.clone(),
            filter,
            rules: settings.rules(&unread.name.database, &unread.name.collection),
            number,
            part,
            pace: Pace::new(settings.snapshot_chunk_rows),
            is_exact: true,
            under_way: VecDeque::new(),
        }))
    }

    /// Reads a chunk as of the place where the stream is, and hands it over.
    async fn chunk(&mut self, place: &mut Place, requested: Option<Vec<Id>>) -> Result<()> {
        let is_last_collection = self.shared.last == Some(place.index);
        let (id, found) = loop {
            let (id, found) = self.read(place, requested.as_deref()).await?;
            let is_early = is_last_collection && (requested.is_some() || !found.more);
            if !is_early || self.shared.are_others_through() {
                break (id, found);
            }
            // Its last document comes behind those of all others. Unread, because changes that are watched for
            // as long as they take would only be kept in vain.
            self.shared.order(Order::Cancel(id)).await;
            self.buffers.push(found.rows);
            self.shared.others_are_through().await;
        };
        let Found { rows, ids, more, until } = found;
        let requested = match requested {
            // What did not fit is looked up another time.
            Some(_) if more => Some(ids.clone()),
            whole => whole,
        };
        let after = place.part.last.clone();
        let part = &mut place.part;
        if requested.is_none() {
            part.ended = !more;
            part.last = ids.last().cloned().or(part.last.take());
            place.pace.after(ids.len(), rows.bytes.len());
        }
        let ended = part.ended;
        let read = Box::new(Read { id, rows, ids, requested, after, ended, is_last_collection, until });
        let (reply, outcome) = oneshot::channel();
        place.under_way.push_back(outcome);
        self.shared.order(Order::Read { read, reply }).await;
        Ok(())
    }

    /// The documents of a chunk that the stream watches, and its number.
    async fn read(&mut self, place: &mut Place, requested: Option<&[Id]>) -> Result<(u64, Found)> {
        let (mut away, mut early): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            self.paced().await;
            let (id, seen) = self.open(place).await;
            let refusal = match self.find(place, requested, seen).await {
                Ok(found) => {
                    self.shared.waits_for(None);
                    return Ok((id, found));
                }
                Err(refusal) => refusal,
            };
            self.shared.order(Order::Cancel(id)).await;
            let reason = match refusal {
                Refusal::Failed(error) => return Err(error),
                Refusal::NotYet if early.get_or_insert_with(Instant::now).elapsed() < NOT_YET_PATIENCE => {
                    tokio::time::sleep(SOON).await;
                    continue;
                }
                Refusal::TooOld | Refusal::NotYet if place.is_exact => {
                    place.is_exact = false;
                    continue;
                }
                Refusal::TooOld | Refusal::NotYet => format!("a moment of which {} can be read", place.name),
                Refusal::Away(error) if away.get_or_insert_with(Instant::now).elapsed() > AWAY_PATIENCE => {
                    return Err(self.shared.reader.refused(&place.name, error));
                }
                Refusal::Away(error) => format!("the server: {}", error.kind),
            };
            self.shared.waits_for(Some(reason));
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Until the stream has no need of the server's whole attention.
    async fn paced(&self) {
        loop {
            let of = |figure: &AtomicU64| Duration::from_secs(figure.load(Ordering::Relaxed));
            let progress = &self.shared.reader.progress;
            let (window, lag) = (of(&progress.log_window_s), of(&progress.log_lag_s));
            let Some(reason) = too_far_behind(window, lag) else { return };
            self.shared.waits_for(Some(reason));
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn open(&self, place: &Place) -> (u64, ClusterTime) {
        let (reply, answer) = oneshot::channel();
        let (collection, part) = (place.index, place.number);
        self.shared.order(Order::Open { collection, part, reply }).await;
        match answer.await {
            Ok(opened) => opened,
            // The stream has ended, and with it the whole run.
            Err(_) => std::future::pending().await,
        }
    }

    async fn find(
        &mut self,
        place: &Place,
        requested: Option<&[Id]>,
        seen: ClusterTime,
    ) -> Result<Found, Refusal> {
        let rows_max = requested.map_or(place.pace.rows(), |ids| ids.len() as u64);
        let range = requested.map_or(Range::Of(&place.part), Range::These);
        let mut rows = self.buffers.pop().unwrap_or_default();
        rows.clear();
        let mut found = Found { rows, ..Found::default() };
        self.ask(place, range, rows_max, seen, &mut found).await?;
        // A range that begins somewhere ends before the greatest key, which is an id like any other.
        let (greatest, part) = (Id::from(id::GREATEST), &place.part);
        let begins = part.last.is_some() || part.from.is_some();
        let is_to_the_end = begins && part.until.is_none() && part.last.as_ref() != Some(&greatest);
        if requested.is_none() && is_to_the_end && !found.more {
            self.ask(place, Range::These(&[greatest]), rows_max, seen, &mut found).await?;
        }
        Ok(found)
    }

    /// Asks once, and takes the answer: what does not fit into its 16 MB is asked for anew.
    async fn ask(
        &self,
        place: &Place,
        range: Range<'_>,
        rows_max: u64,
        seen: ClusterTime,
        found: &mut Found,
    ) -> Result<(), Refusal> {
        let (collection, is_exact) = (place.name.collection.as_str(), place.is_exact);
        let filter = place.filter.as_ref();
        let chunk = Chunk { collection, range, filter, rows_max, seen, is_exact };
        let command = chunk.command().map_err(|error| {
            Refusal::Failed(Error::fatal("a command for a chunk cannot be written").source(error))
        })?;
        let database = self.shared.reader.client.database(&place.name.database);
        let cursor = database.run_raw_cursor_command(command).batch().await;
        let mut cursor = cursor.map_err(|error| self.judged(&place.name, error))?;
        let Some(reply) = cursor.next().await else { return Ok(()) };
        let reply = reply.map_err(|error| self.judged(&place.name, error))?;
        let dialect = self.shared.reader.settings.json;
        let writing = Writing {
            dialect,
            keys: self.shared.reader.settings.json_keys,
            rules: place.rules.as_ref(),
            rows_max,
            is_mongos: self.shared.reader.is_mongos,
        };
        let reply = Doc::new(reply.as_raw_document().as_bytes()).map_err(Fault::from);
        reply.and_then(|reply| found.take(reply, writing)).map_err(|fault| {
            Refusal::Failed(match fault {
                Fault::Malformed(error) => malformed(&error),
                Fault::Unwritable(fault) => unwritable(&place.name.to_string(), seen, fault),
            })
        })
    }

    fn judged(&self, name: &Name, error: mongodb::error::Error) -> Refusal {
        if is_too_old(&error) {
            return Refusal::TooOld;
        }
        if is_not_yet(&error) {
            return Refusal::NotYet;
        }
        if is_passing(&error) {
            return Refusal::Away(error);
        }
        Refusal::Failed(self.shared.reader.refused(name, error))
    }
}

impl Place {
    /// Of its oldest chunk. Never, once the stream has ended: then the whole run does.
    async fn outcome(&mut self) -> Outcome {
        match self.under_way.pop_front() {
            Some(outcome) => match outcome.await {
                Ok(outcome) => outcome,
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}

/// Why rows wait: the stream has used up a quarter of what the server's log keeps. Rows can be read later, and
/// what leaves the log before it was streamed is gone.
fn too_far_behind(window: Duration, behind: Duration) -> Option<String> {
    (behind > window / 4 && behind > BEHIND_LEAST).then(|| {
        let [behind, window] = [behind, window].map(|length| length.as_secs());
        format!("the change stream: it is {behind} s behind, and the server's log reaches back {window} s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_wait_while_the_stream_has_used_up_a_quarter_of_what_the_log_keeps() {
        let of = |window, behind| {
            too_far_behind(Duration::from_secs(window), Duration::from_secs(behind)).is_some()
        };
        assert!(!of(0, 0), "nothing is known yet");
        assert!(!of(86_400, 0) && !of(86_400, 16_400));
        assert!(of(86_400, 26_400));
        assert!(!of(100, 50), "a young log's window says nothing");
    }
}
