//! The topic of the log. Each Kafka transaction there fences whoever shares its transactional id, so this process has
//! one under way for a topic at a time, and it takes along all entries that wait for it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use millrace_core::error::{Error, Kind, Result};
use tokio::sync::oneshot;

use crate::config::Connector;
use crate::registry;

/// For a Kafka transaction: longer than a healthy cluster takes, shorter than somebody waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Entries that wait for Kafka: more than people do while it is away.
const WAITING_MAX: usize = 256;

/// The entries for one topic of one connector.
#[derive(Default)]
struct Queue {
    turn: tokio::sync::Mutex<()>,
    waiting: Mutex<Vec<Entry>>,
}

struct Entry {
    line: String,
    done: oneshot::Sender<Result<()>>,
}

/// By connector and topic.
type Queues = HashMap<(String, String), Arc<Queue>>;

/// Puts an entry behind the others; it is durable when this returns. Whoever stops waiting does not take it back.
pub async fn send(connector: &Connector, topic: &str, line: String) -> Result<()> {
    let queue = queue_of(&connector.name, topic);
    let (done, sent) = oneshot::channel();
    {
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            return Err(Error::transient(format!("{WAITING_MAX} entries wait for topic {topic} already")));
        }
        waiting.push(Entry { line, done });
    }
    let (connector, topic) = (connector.clone(), topic.to_owned());
    tokio::spawn(async move { queue.send_what_waits(&connector, &topic).await });
    sent.await.unwrap_or_else(|_| Err(Error::fatal("the operator log broke a rule of its own")))
}

fn queue_of(connector: &str, topic: &str) -> Arc<Queue> {
    static QUEUES: LazyLock<Mutex<Queues>> = LazyLock::new(Mutex::default);
    let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
    queues.entry((connector.to_owned(), topic.to_owned())).or_default().clone()
}

impl Queue {
    async fn send_what_waits(&self, connector: &Connector, topic: &str) {
        let _turn = self.turn.lock().await;
        let entries = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if entries.is_empty() {
            return;
        }
        let (lines, waiting): (Vec<_>, Vec<_>) =
            entries.into_iter().map(|entry| (entry.line, entry.done)).unzip();
        let sent = tokio::time::timeout(PATIENCE, registry::tell_operators(connector, topic, &lines)).await;
        let sent = sent.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Err(Error::transient(format!("topic {topic} did not take a record within {seconds} s")))
        });
        let failed = sent.err().map(|error| Failed::of(&error));
        for done in waiting {
            // Whoever does not wait any more needs no answer.
            let _ = done.send(failed.as_ref().map_or(Ok(()), |failed| Err(failed.error())));
        }
    }
}

/// An error that several are told.
struct Failed {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Failed {
    fn of(error: &Error) -> Self {
        let hint = error.hint_text().map(str::to_owned);
        Self { kind: error.kind(), message: error.to_string(), hint }
    }

    fn error(&self) -> Error {
        let error = Error::new(self.kind, self.message.clone());
        match &self.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        }
    }
}
