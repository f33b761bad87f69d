//! An independent `read_committed` consumer that notes when it had each record. It waits in the broker
//! for the first byte, on a thread of its own, so that nothing else holds it up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use millrace_ledger::reader::{Isolation, Reader, Start};

use crate::{Result, Servers};

/// Longer than a daemon needs to make its topic.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a fetch waits for something new before it asks again.
const FETCH_WAIT: Duration = Duration::from_millis(500);

/// A record, not yet decoded: that would hold up the next fetch.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When the fetch that brought it was answered, in microseconds since 1970.
    pub at_us: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

pub struct Observer {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    failure: Mutex<Option<String>>,
    stop: AtomicBool,
}

impl Observer {
    /// Waits for the topic to be made, and reads it from its beginning.
    pub fn start(servers: &Servers, topic: &str) -> Observer {
        let state = Arc::new(State::default());
        let (own, topic) = (state.clone(), topic.to_owned());
        let reader = Reader::new(&servers.bootstrap, Isolation::ReadCommitted, PATIENCE);
        let thread = thread::spawn(move || {
            if let Err(error) = watch(reader, &topic, &own) {
                *lock(&own.failure) = Some(error.to_string());
            }
        });
        Observer { state, thread: Some(thread) }
    }

    /// What was seen from the `from`th record on.
    pub fn seen_from(&self, from: usize) -> Result<Vec<Seen>> {
        if let Some(failure) = lock(&self.state.failure).as_deref() {
            return Err(format!("the consumer has ended: {failure}").into());
        }
        Ok(lock(&self.state.seen).get(from..).unwrap_or_default().to_vec())
    }

    pub fn count(&self) -> usize {
        lock(&self.state.seen).len()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic over there has been reported there.
            let _ = thread.join();
        }
    }
}

fn watch(mut reader: Reader, topic: &str, state: &State) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        while reader.topics(topic).await?.is_empty() {
            if state.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        reader.assign(topic, Start::Earliest).await?;
        while !state.stop.load(Ordering::Relaxed) {
            let read = reader.poll(FETCH_WAIT).await?;
            let at_us = now_us();
            let seen = read.records.into_iter().map(|r| Seen { at_us, key: r.key, value: r.value });
            lock(&state.seen).extend(seen);
        }
        Ok(())
    })
}

/// The clock that Postgres stamps its commits with.
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
