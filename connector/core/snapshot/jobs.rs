//! What the workers of one snapshot have to do, and which of its tables or collections are not through. Start at
//! `Jobs::next`.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::requests::NAMED_MAX;

#[derive(Debug)]
pub struct Jobs<J> {
    waiting: Mutex<VecDeque<J>>,
    /// By number. Told again when there is a new job.
    left: watch::Sender<BTreeSet<usize>>,
}

impl<J> Default for Jobs<J> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), left: watch::Sender::default() }
    }
}

impl<J> Jobs<J> {
    /// The next thing to do; `None` once everything is through. Cancel-safe.
    pub async fn next(&self) -> Option<J> {
        let mut left = self.left.subscribe();
        loop {
            left.mark_unchanged();
            if let Some(job) = self.change(VecDeque::pop_front) {
                return Some(job);
            }
            if left.borrow().is_empty() {
                return None;
            }
            // The sender lives as long as `self`.
            left.changed().await.ok()?;
        }
    }

    /// Puts jobs where they belong among those that wait, and tells of them.
    pub fn put(&self, place: impl FnOnce(&mut VecDeque<J>)) {
        self.change(place);
        self.left.send_modify(|_| {});
    }

    /// Nothing panics with the lock in hand.
    fn change<T>(&self, change: impl FnOnce(&mut VecDeque<J>) -> T) -> T {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// These are not through.
    pub fn begin(&self, numbers: impl IntoIterator<Item = usize>) {
        self.left.send_modify(|left| left.extend(numbers));
    }

    /// Whether that was not known yet.
    pub fn through(&self, number: usize) -> bool {
        self.left.send_if_modified(|left| left.remove(&number))
    }

    /// A look at what is left.
    pub fn left<T>(&self, look: impl FnOnce(&BTreeSet<usize>) -> T) -> T {
        look(&self.left.borrow())
    }

    /// The names of what is read together with this one: of `all`, or of what is left of them. So many that it shows
    /// where there are too many to be told.
    pub fn together(
        &self,
        number: usize,
        all: Range<usize>,
        only_left: bool,
        name: impl Fn(usize) -> Option<String>,
    ) -> Vec<String> {
        let enough = NAMED_MAX + 1;
        if !only_left {
            return all.filter_map(name).take(enough).collect();
        }
        self.left(|left| {
            let (before, behind) = (left.range(..number), left.range(number + 1..));
            let numbers = before.copied().chain([number]).chain(behind.copied());
            numbers.filter_map(name).take(enough).collect()
        })
    }

    /// Until what is left is so.
    pub async fn until(&self, wanted: impl FnMut(&BTreeSet<usize>) -> bool) {
        // The sender lives as long as `self`.
        let _ = self.left.subscribe().wait_for(wanted).await;
    }
}
