//! Everything that a run wrote and everything that reached Kafka, for the checker.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::Client;

use super::{Config, Planted};
use crate::Result;
use crate::checker::{Evidence, Mark, Verdict, check};
use crate::events::{Event, Events, Problem};
use crate::journal::{Content, Entry, read_content, read_journal};
use crate::plant::{Fault, Planting, plant};
use crate::random::Random;
use crate::reader::{Extent, Isolation, Read, Reader, Start, TopicPartition};
use crate::snapshot::Begins;

const READER_PATIENCE: Duration = Duration::from_secs(60);

/// Everything that is compared in the end.
pub struct Proof {
    journal: Vec<Entry>,
    content: Content,
    pub found: Events,
    extents: BTreeMap<TopicPartition, Extent>,
    uncommitted: Read,
    begins: Begins,
}

impl Proof {
    pub async fn collect(config: &Config, admin: &Client) -> Result<Proof> {
        let mut decoder = config.decoder()?;
        let mut reader = Reader::new(&config.bootstrap, Isolation::ReadCommitted, READER_PATIENCE);
        let there = reader.topics("").await?;
        // That every table's last row was seen is known; where there is no topic there is no such table.
        let mut topics = decoder.topics();
        topics.retain(|name| there.iter().any(|topic| &*topic.name == name));
        let mut extents = BTreeMap::new();
        for topic in &topics {
            extents.extend(reader.extents(topic).await?);
            reader.assign(topic, Start::Earliest).await?;
        }
        reader.limit_to(&extents.iter().map(|(key, extent)| (key.clone(), extent.end)).collect());
        let mut found = Events::default();
        while reader.behind() {
            let read = reader.poll(Duration::from_millis(100)).await?;
            let mut more = decoder.events(&read.records).await;
            found.events.append(&mut more.events);
            found.problems.append(&mut more.problems);
        }
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let mut second = Reader::new(&config.bootstrap, Isolation::ReadUncommitted, READER_PATIENCE).bare();
        let uncommitted = second.read_all(&names).await?;
        let (journal, content) = (read_journal(admin).await?, read_content(admin).await?);
        let begins = config.begins().await?;
        Ok(Proof { journal, content, found, extents, uncommitted, begins })
    }

    pub fn verdict(&self, config: &Config, marks: &[Mark]) -> Verdict {
        self.verdict_over(config, marks, &self.found.events, &self.found.problems)
    }

    fn verdict_over(
        &self,
        config: &Config,
        marks: &[Mark],
        events: &[Event],
        problems: &[Problem],
    ) -> Verdict {
        check(&Evidence {
            journal: &self.journal,
            events,
            problems,
            extents: &self.extents,
            content: &self.content,
            marks: Some(marks),
            uncommitted: Some(&self.uncommitted),
            limits: config.limits,
            begins: &self.begins,
        })
    }

    pub fn plant_all(&self, config: &Config, marks: &[Mark]) -> Vec<Planted> {
        let mut random = Random::fork(config.seed, u64::MAX - 2);
        let mut planted = Vec::new();
        for fault in Fault::ALL {
            planted.push(match plant(&self.found.events, fault, &mut random) {
                None => Planted { fault, place: None, found: 0 },
                Some(Planting { events, problems, place }) => {
                    let verdict = self.verdict_over(config, marks, &events, &problems);
                    Planted { fault, place: Some(place), found: fault.shows_in(&verdict.counts) }
                }
            });
        }
        planted
    }
}
