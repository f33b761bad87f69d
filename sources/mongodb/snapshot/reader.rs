//! Has collections read beside the stream, by several workers: start at `Reader::run`.
//!
//! What the server's log keeps is not at stake, because the stream goes on meanwhile; where it falls behind, rows
//! wait for it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_core::error::{Error, Result};
use millrace_core::progress::Progress;
use millrace_core::requests::Requests;
use millrace_core::snapshot::{Jobs, Telling};
use mongodb::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::collections::Name;
use crate::config::Settings;
use crate::errors::{Phase, classified, is_unauthorized, rights};
use crate::snapshot::collection::{IdPart, Unread};
use crate::snapshot::desk::Order;
use crate::snapshot::find;
use crate::snapshot::worker::Worker;

/// What a snapshot needs, whatever it reads.
#[derive(Clone)]
pub struct Reader {
    pub client: Client,
    pub settings: Arc<Settings>,
    pub is_mongos: bool,
    pub orders: mpsc::Sender<Order>,
    pub requests: Arc<Requests>,
    pub progress: Arc<Progress>,
}

/// Something for a worker to do, of the reading with this number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Job {
    Collection(usize),
    Part { index: usize, number: usize, part: IdPart },
}

/// What the workers of one snapshot share.
pub(super) struct Shared {
    pub reader: Reader,
    unread: Vec<Unread>,
    /// The stream's number of the first of them: it knows those that were read before, too.
    base: usize,
    /// The stream's number of the first reading whose last document is the last of all.
    pub last: Option<usize>,
    /// Readings by their numbers.
    jobs: Jobs<Job>,
    told: Mutex<Told>,
}

struct Told {
    telling: Telling,
    /// The collections that are being read.
    names: BTreeSet<String>,
}

impl Reader {
    /// Ends when every one of these collections is through. `base` is the stream's number of the first.
    pub async fn run(self, base: usize, unread: Vec<Unread>) -> Result<()> {
        let mut telling = Telling::new(self.progress.clone());
        telling.figures.tables = unread.len() as u64;
        telling.figures.rows_estimated = self.estimate(&unread).await;
        telling.show(None);
        let (collections, documents) = (unread.len(), telling.figures.rows_estimated);
        tracing::info!(collections, documents, "reading the collections' documents");
        if unread.iter().any(|unread| unread.note.asked.is_none()) {
            self.requests.notify(None, "STARTED", []);
        }
        let last = self.last_with_documents(&unread).await?;
        let last = last.map(|last| base + last);
        let (first, numbers) = (jobs(&unread, base, last), base..base + unread.len());
        let shared = Arc::new(Shared {
            reader: self,
            unread,
            base,
            last,
            jobs: Jobs::default(),
            told: Mutex::new(Told { telling, names: BTreeSet::new() }),
        });
        shared.jobs.begin(numbers);
        shared.jobs.put(|jobs| jobs.extend(first));
        let mut workers = JoinSet::new();
        for _ in 0..shared.reader.settings.snapshot_workers {
            workers.spawn(work(shared.clone()).in_current_span());
        }
        while let Some(ended) = workers.join_next().await {
            let broken = |panic| Error::fatal("a reader of documents broke a rule of its own").source(panic);
            ended.map_err(broken)??;
        }
        lock(&shared.told).telling.finished();
        let of_each = shared.unread.iter().map(|unread| unread.note.asked.as_ref());
        shared.reader.requests.completed(of_each);
        Ok(())
    }

    /// Documents of all collections, as the server's figures have them.
    async fn estimate(&self, unread: &[Unread]) -> u64 {
        let mut sum = 0;
        for unread in unread {
            let database = self.client.database(&unread.name.database);
            // A figure for people: without it they see none.
            let answer = database.run_command(find::count(&unread.name)).await;
            sum += answer.map_or(0, |reply| find::counted(&reply));
        }
        sum
    }

    /// The last first reading of a collection that has a document: its last document is the last of all.
    async fn last_with_documents(&self, unread: &[Unread]) -> Result<Option<usize>> {
        let firsts = unread.iter().enumerate().filter(|(_, unread)| unread.note.asked.is_none());
        for (index, unread) in firsts.rev() {
            let database = self.client.database(&unread.name.database);
            let reply = database.run_command(find::any(&unread.name)).await;
            if find::has_any(&reply.map_err(|error| self.refused(&unread.name, error))?) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    pub fn refused(&self, name: &Name, error: mongodb::error::Error) -> Error {
        let lacks_right = is_unauthorized(&error);
        let what = format!("cannot read the documents of {name}");
        let refused = classified(what, error, &self.settings, Phase::Reading);
        if lacks_right {
            return refused.hint(format!("{}; or set snapshot = \"no_data\"", rights(&self.settings)));
        }
        refused
    }
}

/// What to begin with, in the order of the collections, with the last one behind all others: it waits for them. Of
/// several readings of one collection, the first: the tracker watches one of them at a time.
fn jobs(unread: &[Unread], base: usize, last: Option<usize>) -> VecDeque<Job> {
    let firsts =
        unread.iter().enumerate().filter(|(at, one)| !unread.iter().take(*at).any(|o| o.name == one.name));
    let (last, others): (Vec<usize>, Vec<usize>) =
        firsts.map(|(at, _)| base + at).partition(|index| Some(*index) == last);
    others.into_iter().chain(last).map(Job::Collection).collect()
}

async fn work(shared: Arc<Shared>) -> Result<()> {
    let mut worker = Worker::new(shared.clone());
    while let Some(job) = shared.jobs.next().await {
        match job {
            Job::Collection(index) => worker.collection(index).await?,
            Job::Part { index, number, part } => worker.part(index, number, part).await?,
        }
    }
    Ok(())
}

impl Shared {
    /// Never, once the stream has ended: then the whole run does.
    pub async fn order(&self, order: Order) {
        if self.reader.orders.send(order).await.is_err() {
            std::future::pending().await
        }
    }

    /// A reading by its number.
    pub fn unread(&self, index: usize) -> Option<&Unread> {
        self.unread.get(index.checked_sub(self.base)?)
    }

    /// Parts of a collection that somebody has begun: before anything else. Those of the last collection come behind
    /// everything else, because whoever ends one waits for all others.
    pub fn share(&self, index: usize, parts: impl Iterator<Item = Job>) {
        let parts: Vec<Job> = parts.collect();
        self.jobs.put(|jobs| match self.last == Some(index) {
            true => jobs.extend(parts),
            false => parts.into_iter().rev().for_each(|part| jobs.push_front(part)),
        });
    }

    pub fn begun(&self, index: usize, name: &str) {
        if let Some(unread) = self.unread(index) {
            self.reader.requests.in_progress(unread.note.asked.as_ref(), name, self.together(index));
        }
        self.show(|names| {
            names.insert(name.to_owned());
        });
    }

    /// The reading has come to its end with so many documents, or was given up. To be told by each of its readers.
    pub fn through(&self, index: usize, documents: Option<u64>) {
        if !self.jobs.through(index) {
            return;
        }
        let Some(unread) = self.unread(index) else { return };
        let (name, asked) = (unread.name.to_string(), unread.note.asked.as_ref());
        lock(&self.told).telling.figures.tables_done += 1;
        self.show(|names| {
            names.remove(&name);
        });
        let behind = (index + 1..self.base + self.unread.len())
            .find(|index| self.unread(*index).is_some_and(|other| other.name == unread.name));
        self.share(index, behind.map(Job::Collection).into_iter());
        let outcome = documents.map_or(("STOPPED", 0), |documents| ("SUCCEEDED", documents));
        self.reader.requests.scanned(asked, name, outcome, &self.together(index));
    }

    /// The collections that are read for the same reason as this one; of those that were asked for, what is left.
    fn together(&self, index: usize) -> Vec<String> {
        let Some(one) = self.unread(index) else { return Vec::new() };
        let asked = one.note.asked.as_ref().map(|asked| &asked.id);
        let is_one = |other: &&Unread| other.note.asked.as_ref().map(|asked| &asked.id) == asked;
        let named = |number| self.unread(number).filter(is_one).map(|unread| unread.name.to_string());
        self.jobs.together(index, self.base..self.base + self.unread.len(), one.note.asked.is_some(), named)
    }

    /// Whether somebody has said that the documents are no longer wanted.
    pub fn is_given_up(&self, index: usize) -> bool {
        let Some(unread) = self.unread(index).filter(|unread| unread.note.asked.is_some()) else {
            return false;
        };
        !self.jobs.left(|left| left.contains(&index))
            || self.reader.requests.is_stopped(&unread.name.to_string())
    }

    fn show(&self, change: impl FnOnce(&mut BTreeSet<String>)) {
        let mut told = lock(&self.told);
        let Told { telling, names } = &mut *told;
        change(names);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        telling.figures.table = Some(names.join(", ")).filter(|names| !names.is_empty());
        telling.show(None);
    }

    /// So many more documents are handed over.
    pub fn delivered(&self, documents: u64) {
        let telling = &mut lock(&self.told).telling;
        telling.rows(telling.figures.rows + documents);
    }

    /// What a worker cannot go on without.
    pub fn waits_for(&self, reason: Option<String>) {
        lock(&self.told).telling.show(reason);
    }

    /// Whether the first documents of all other collections are out.
    pub fn are_others_through(&self) -> bool {
        self.jobs.left(|left| self.are_through(left))
    }

    fn are_through(&self, left: &BTreeSet<usize>) -> bool {
        let is_first = |index: usize| self.unread(index).is_some_and(|unread| unread.note.asked.is_none());
        !left.iter().any(|index| Some(*index) != self.last && is_first(*index))
    }

    pub async fn others_are_through(&self) {
        self.jobs.until(|left| self.are_through(left)).await;
    }
}

/// Nothing panics with the lock in hand.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use millrace_core::requests::Asked;
    use millrace_core::snapshot::Phase;

    use super::*;
    use crate::snapshot::collection::CollectionNote;

    fn unread(collection: &str, asked: Option<&str>) -> Unread {
        let asked = asked.map(|id| Asked { id: id.into(), ..Asked::default() });
        let name = Name { database: "s".into(), collection: collection.into() };
        let note = CollectionNote { asked, ..CollectionNote::new(Phase::Pending) };
        Unread { name, note, parts: IdPart::cut(&[]), listed: Vec::new() }
    }

    #[test]
    fn of_each_collection_the_first_reading_is_begun_and_the_last_collection_comes_last() {
        let all = [unread("a", None), unread("b", None), unread("c", None), unread("b", Some("june"))];
        let numbers = |last| {
            let jobs = jobs(&all, 10, last);
            jobs.iter()
                .map(|job| if let Job::Collection(index) = job { *index } else { 0 })
                .collect::<Vec<_>>()
        };
        assert_eq!(numbers(Some(11)), [10, 12, 11]);
        assert_eq!(numbers(None), [10, 11, 12]);
    }
}
