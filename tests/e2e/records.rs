//! Everything that a committed reader sees in a topic, from its beginning, kept up as it grows.

use std::collections::HashMap;
use std::time::Duration;

use millrace_ledger::avro::Registry;
use millrace_ledger::reader::{Isolation, Reader, Start};

use crate::event::Event;
use crate::wait::PATIENCE;

/// How long one look waits for something new.
const LOOK: Duration = Duration::from_millis(20);

pub struct Records {
    bootstrap: String,
    registry: Registry,
    topics: HashMap<String, Followed>,
}

struct Followed {
    reader: Reader,
    events: Vec<Event>,
}

impl Records {
    pub fn new(bootstrap: &str, registry: &str) -> Self {
        let registry = Registry::new(registry).expect("a client for the registry");
        Self { bootstrap: bootstrap.to_owned(), registry, topics: HashMap::new() }
    }

    /// The events of a topic that are committed by now. Waits for the topic to exist.
    pub async fn of(&mut self, topic: &str) -> &[Event] {
        if !self.topics.contains_key(topic) {
            let mut reader = Reader::new(&self.bootstrap, Isolation::ReadCommitted, PATIENCE);
            reader.assign(topic, Start::Earliest).await.expect("the topic can be read");
            self.topics.insert(topic.to_owned(), Followed { reader, events: Vec::new() });
        }
        let followed = self.topics.get_mut(topic).expect("just put there");
        let read = followed.reader.poll(LOOK).await.expect("the topic can be read");
        for record in &read.records {
            followed.events.push(Event::decode(record, &mut self.registry).await);
        }
        &followed.events
    }

    /// A topic that was deleted is read from its beginning when it is asked for again.
    pub fn forget(&mut self, topic: &str) {
        self.topics.remove(topic);
    }
}
