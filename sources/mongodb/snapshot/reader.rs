//! Reads collections in chunks, beside the stream: start at `Reader::run`.
//!
//! Every chunk is of a time that the stream's thread tells and watches from before the first document is read;
//! nothing of it outlives a crash. What the server's log keeps is not at stake, because the stream goes on
//! meanwhile; where it falls behind, rows wait for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use millrace_core::batch::ChangeBatch;
use millrace_core::error::{Error, Result};
use millrace_core::progress::Progress;
use millrace_core::requests::Requests;
use millrace_core::snapshot::{Pace, Telling, UNDER_WAY_MAX};
use mongodb::Client;
use mongodb::bson::RawDocumentBuf;
use tokio::sync::oneshot;

use crate::bson::{Doc, FieldRules};
use crate::collections::Name;
use crate::config::Settings;
use crate::errors::{Phase, classified, is_passing, is_too_old, is_unauthorized, rights};
use crate::resume_token::ClusterTime;
use crate::session::{malformed, unwritable};
use crate::snapshot::collection::Unread;
use crate::snapshot::desk::{Counter, Order};
use crate::snapshot::find::{self, Chunk, Fault, Found, Range, Writing};
use crate::snapshot::id::{self, Id};
use crate::snapshot::tracker::{Outcome, Read};

/// Before a chunk that could not be read is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A stream that is less behind than this is not behind.
const BEHIND_LEAST: Duration = Duration::from_secs(60);

/// A server that cannot be read from for this long is a matter for the whole connector.
const AWAY_PATIENCE: Duration = Duration::from_secs(60);

pub struct Reader {
    client: Client,
    settings: Arc<Settings>,
    is_mongos: bool,
    counter: Counter,
    requests: Arc<Requests>,
    /// What is read now.
    unread: Vec<Unread>,
    /// The stream's number of the first of them: it knows those that were read before, too.
    base: usize,
    progress: Arc<Progress>,
    buffers: Vec<ChangeBatch>,
    telling: Telling,
}

/// Where the reading of one collection is.
struct Place {
    /// The stream's number of it.
    index: usize,
    name: Name,
    /// A condition on the documents.
    filter: Option<RawDocumentBuf>,
    rules: Option<FieldRules>,
    last: Option<Id>,
    ended: bool,
    pace: Pace,
    /// Read as of a time. Where the server refuses that, what is committed is read, and the stream has to come
    /// further before it may be placed.
    is_exact: bool,
}

/// Why a chunk was not read.
enum Refusal {
    /// The server does not read as of the time that the stream is at, or does not read this as of any time.
    TooOld,
    /// It is away, or a new primary is being elected.
    Away(mongodb::error::Error),
    Failed(Error),
}

impl Reader {
    pub fn new(
        client: Client,
        settings: Arc<Settings>,
        is_mongos: bool,
        counter: Counter,
        requests: Arc<Requests>,
        progress: Arc<Progress>,
    ) -> Self {
        let telling = Telling::new(progress.clone());
        let (unread, buffers) = (Vec::new(), Vec::new());
        Self { client, settings, is_mongos, counter, requests, unread, base: 0, progress, buffers, telling }
    }

    /// Ends when every one of these collections is through, and can read others then. `base` is the stream's number
    /// of the first.
    pub async fn run(mut self, base: usize, unread: Vec<Unread>) -> Result<Self> {
        (self.base, self.unread) = (base, unread);
        self.telling = Telling::new(self.progress.clone());
        self.telling.figures.tables = self.unread.len() as u64;
        self.telling.figures.rows_estimated = self.estimate().await;
        self.telling.show(None);
        let (collections, documents) = (self.unread.len(), self.telling.figures.rows_estimated);
        tracing::info!(collections, documents, "reading the collections' documents");
        if self.unread.iter().any(|unread| unread.note.asked.is_none()) {
            self.requests.notify(None, "STARTED", []);
        }
        for index in 0..self.unread.len() {
            self.collection(index).await?;
            self.telling.figures.tables_done += 1;
            self.telling.show(None);
        }
        self.telling.finished();
        self.requests.completed(self.unread.iter().map(|unread| unread.note.asked.as_ref()));
        Ok(self)
    }

    /// Documents of all collections, as the server's figures have them.
    async fn estimate(&self) -> u64 {
        let mut sum = 0;
        for unread in &self.unread {
            let database = self.client.database(&unread.name.database);
            // A figure for people: without it they see none.
            let answer = database.run_command(find::count(&unread.name)).await;
            sum += answer.map_or(0, |reply| find::counted(&reply));
        }
        sum
    }

    /// Reads one collection to its end, and again what was listed meanwhile.
    async fn collection(&mut self, index: usize) -> Result<()> {
        let Some(unread) = self.unread.get_mut(index) else { return Ok(()) };
        let asked = unread.note.asked.clone();
        let condition = asked.as_ref().and_then(|asked| asked.filter.as_deref()).map(find::condition);
        let filter = condition
            .transpose()
            .map_err(|error| Error::fatal("a condition that was understood once is not now").source(error))?;
        let mut place = Place {
            index: self.base + index,
            name: unread.name.clone(),
            filter,
            rules: self.settings.rules(&unread.name.database, &unread.name.collection),
            last: unread.last.take(),
            ended: unread.note.ended,
            pace: Pace::new(self.settings.snapshot_chunk_rows),
            is_exact: true,
        };
        let before = unread.note.rows;
        let mut listed = std::mem::take(&mut unread.listed);
        let delivered = self.telling.figures.rows;
        self.telling.figures.table = Some(place.name.to_string());
        let name = place.name.to_string();
        let mut under_way = 0;
        loop {
            self.requests.go_on().await;
            if asked.is_some() && self.requests.is_stopped(&name) {
                self.order(Order::Drop(place.index))?;
                for _ in 0..under_way {
                    let outcome = self.outcome().await;
                    self.buffers.push(outcome.buffer);
                }
                self.requests.scanned(asked.as_ref(), name, "STOPPED");
                return Ok(());
            }
            while !place.ended && under_way < UNDER_WAY_MAX {
                self.chunk(&mut place, None).await?;
                under_way += 1;
            }
            if under_way == 0 {
                self.chunk(&mut place, Some(std::mem::take(&mut listed))).await?;
                under_way += 1;
            }
            let mut outcome = self.outcome().await;
            under_way -= 1;
            while outcome.spoiled && under_way > 0 {
                // Those behind it go the same way.
                self.buffers.push(outcome.buffer);
                outcome = self.outcome().await;
                under_way -= 1;
            }
            if outcome.spoiled {
                (place.last, place.ended) = (outcome.last, outcome.ended);
                place.pace.halve();
                tracing::warn!(collection = %place.name, "too much changed under a chunk: it is read again, smaller");
            }
            self.buffers.push(outcome.buffer);
            self.telling.rows(delivered + outcome.rows.saturating_sub(before));
            listed = outcome.listed;
            if outcome.done {
                let (collection, documents) = (&place.name, outcome.rows);
                tracing::info!(%collection, documents, "all documents of the collection are read");
                self.requests.scanned(asked.as_ref(), name, "SUCCEEDED");
                return Ok(());
            }
        }
    }

    /// Reads a chunk as of the place where the stream is, and hands it over.
    async fn chunk(&mut self, place: &mut Place, requested: Option<Vec<Id>>) -> Result<()> {
        let (id, found) = self.read(place, requested.as_deref()).await?;
        let Found { rows, ids, more, until } = found;
        let requested = match requested {
            // What did not fit is looked up another time.
            Some(_) if more => Some(ids.clone()),
            whole => whole,
        };
        if requested.is_none() {
            place.ended = !more;
            place.last = ids.last().cloned().or(place.last.take());
            place.pace.after(ids.len(), rows.bytes.len());
        }
        let is_last_collection = place.ended && !self.has_documents_after(place).await?;
        let ended = place.ended;
        let read = Read { id, rows, ids, requested, ended, is_last_collection, until };
        self.order(Order::Read(Box::new(read)))
    }

    /// The documents of a chunk that the stream watches, and its number.
    async fn read(&mut self, place: &mut Place, requested: Option<&[Id]>) -> Result<(u64, Found)> {
        let mut away: Option<Instant> = None;
        loop {
            self.paced().await;
            let (id, seen) = self.open(place.index).await?;
            let refusal = match self.find(place, requested, seen).await {
                Ok(found) => {
                    self.telling.show(None);
                    return Ok((id, found));
                }
                Err(refusal) => refusal,
            };
            self.order(Order::Cancel(id))?;
            let reason = match refusal {
                Refusal::Failed(error) => return Err(error),
                Refusal::TooOld if place.is_exact => {
                    place.is_exact = false;
                    continue;
                }
                Refusal::TooOld => format!("a moment of which {} can be read", place.name),
                Refusal::Away(error) if away.get_or_insert_with(Instant::now).elapsed() > AWAY_PATIENCE => {
                    return Err(self.refused(&place.name, error));
                }
                Refusal::Away(error) => format!("the server: {}", error.kind),
            };
            self.telling.show(Some(reason));
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Until the stream has no need of the server's whole attention.
    async fn paced(&mut self) {
        loop {
            let of =
                |figure: &std::sync::atomic::AtomicU64| Duration::from_secs(figure.load(Ordering::Relaxed));
            let (window, lag) = (of(&self.progress.log_window_s), of(&self.progress.log_lag_s));
            let Some(reason) = too_far_behind(window, lag) else { return };
            self.telling.show(Some(reason));
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn open(&self, collection: usize) -> Result<(u64, ClusterTime)> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Open { collection, reply })?;
        match answer.await {
            Ok(opened) => Ok(opened),
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
        let range = requested.map_or(Range::After(place.last.as_deref()), Range::These);
        let mut rows = self.buffers.pop().unwrap_or_default();
        rows.clear();
        let mut found = Found { rows, ..Found::default() };
        self.ask(place, range, rows_max, seen, &mut found).await?;
        // A range that begins somewhere ends before the greatest key, which is an id like any other.
        let greatest = Id::from(id::GREATEST);
        if requested.is_none()
            && place.last.is_some()
            && !found.more
            && place.last.as_ref() != Some(&greatest)
        {
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
        let database = self.client.database(&place.name.database);
        let cursor = database.run_raw_cursor_command(command).batch().await;
        let mut cursor = cursor.map_err(|error| self.judged(&place.name, error))?;
        let Some(reply) = cursor.next().await else { return Ok(()) };
        let reply = reply.map_err(|error| self.judged(&place.name, error))?;
        let dialect = self.settings.json;
        let writing = Writing {
            dialect,
            keys: self.settings.json_keys,
            rules: place.rules.as_ref(),
            rows_max,
            is_mongos: self.is_mongos,
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
        if is_passing(&error) {
            return Refusal::Away(error);
        }
        Refusal::Failed(self.refused(name, error))
    }

    fn refused(&self, name: &Name, error: mongodb::error::Error) -> Error {
        let lacks_right = is_unauthorized(&error);
        let what = format!("cannot read the documents of {name}");
        let refused = classified(what, error, &self.settings, Phase::Reading);
        if lacks_right {
            return refused.hint(format!("{}; or set snapshot = \"no_data\"", rights(&self.settings)));
        }
        refused
    }

    /// Whether a collection that comes after this one has a document: where none has, this one's last is the
    /// last.
    async fn has_documents_after(&self, place: &Place) -> Result<bool> {
        let after = self.unread.iter().skip(place.index - self.base + 1);
        for unread in after.filter(|unread| unread.note.asked.is_none()) {
            let database = self.client.database(&unread.name.database);
            let reply = database.run_command(find::any(&unread.name)).await;
            if find::has_any(&reply.map_err(|error| self.refused(&unread.name, error))?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn order(&self, order: Order) -> Result<()> {
        let sent = self.counter.orders.try_send(order);
        sent.map_err(|_| Error::transient("the stream has ended under a snapshot"))
    }

    /// Never, once the stream has ended: then the whole run does.
    async fn outcome(&mut self) -> Outcome {
        match self.counter.outcomes.recv().await {
            Some(outcome) => outcome,
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
