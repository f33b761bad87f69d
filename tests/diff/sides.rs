//! Debezium and the daemon, both reading one database into one Kafka: start at `Sides::start`.
//!
//! Schema names begin with the topic prefix, so both have the same one; Debezium's topics are moved aside by
//! a transform behind everything that names a schema.

use std::path::Path;
use std::time::{Duration, Instant};

use millrace_ledger::daemon::Daemon;
use serde_json::{Map, Value as Json, json};

use crate::compare::HEARTBEATS;
use crate::connect::Worker;
use crate::records::{Decoder, Topics, Written, read};
use crate::{Encoding, Encodings, Place, Result};

/// Both sides are done with a workload of this size within seconds.
const DONE_WITHIN: Duration = Duration::from_secs(90);

/// A side that has written nothing for so long is done.
const REST: Duration = Duration::from_millis(700);

/// A document of 16 MB, with an escape for each byte of it.
const RECORD_BYTES_MAX: u32 = 64 << 20;

/// Before the names of Debezium's topics.
const ASIDE: &str = "theirs.";

pub struct Sides {
    name: String,
    place: Place,
    encodings: Encodings,
    worker: Worker,
    daemon: Daemon,
    /// Records have times of their own.
    pub has_times: bool,
}

/// What the two are told beyond what is the same for every source.
pub struct Told {
    /// The table `[source.…]` of the daemon's file, and more lines for its `[format]`.
    pub source: String,
    pub format: String,
    /// Debezium's properties.
    pub debezium: Json,
}

impl Sides {
    /// Starts both; whether they stream shows in what they write.
    pub async fn start(place: &Place, encoding: Encoding, name: &str, told: Told) -> Result<Self> {
        let worker = Worker::at(&place.connect)?;
        let file = file(place, encoding, name, &told);
        let mut daemon = Daemon::with_file(&place.binary, &place.dir, name, &file)?;
        worker.start(name, properties(place, encoding, name, told.debezium)?).await?;
        daemon.start()?;
        Ok(Self {
            name: name.to_owned(),
            place: place.clone(),
            encodings: encoding.into(),
            worker,
            daemon,
            has_times: false,
        })
    }

    /// Starts both on one file, but for `theirs` and `ours`, which two readers of one database cannot share, and for
    /// the transform that moves Debezium's topics aside.
    pub async fn start_with(
        place: &Place,
        encodings: Encodings,
        name: &str,
        file: &Map<String, Json>,
        [theirs, ours]: [Json; 2],
    ) -> Result<Self> {
        let laid = |over: Json| -> Result<Map<String, Json>> {
            let Json::Object(over) = over else { return Err("properties are an object".into()) };
            let mut all = file.clone();
            all.extend(over);
            Ok(all)
        };
        let (mut theirs, ours) = (laid(theirs)?, laid(ours)?);
        let own = theirs.get("transforms").and_then(Json::as_str).unwrap_or_default().to_owned();
        let own: Vec<&str> = own.split(',').filter(|name| !name.is_empty()).collect();
        aside(&own, &mut theirs);
        let worker = Worker::at(&place.connect)?;
        let text = json!({ "name": name, "config": ours }).to_string();
        let mut daemon = Daemon::with_file_of(&place.binary, &place.dir, (name, "json"), &text)?;
        daemon.variables = vec![("MILLRACE__REST__LISTEN".to_owned(), "127.0.0.1:0".to_owned())];
        worker.start(name, theirs).await?;
        daemon.start()?;
        Ok(Self { name: name.to_owned(), place: place.clone(), encodings, worker, daemon, has_times: false })
    }

    /// An error if one of them has failed.
    pub async fn still_run(&mut self) -> Result<()> {
        self.daemon.still_runs()?;
        if self.daemon.state().await.is_some_and(|state| state.name == "FAILED") {
            return Err(format!("the daemon has failed; {}", self.log_tail()).into());
        }
        self.worker.runs(&self.name).await.map(drop)
    }

    pub fn log_tail(&self) -> String {
        self.daemon.log_tail()
    }

    /// Ends both, whatever came of them; what came of them is told first.
    pub async fn end<T>(mut self, outcome: Result<T>) -> Result<T> {
        let stopped = self.daemon.stop().await;
        let removed = self.worker.remove(&self.name).await;
        let found = outcome?;
        removed?;
        stopped?;
        Ok(found)
    }

    /// Waits until both have written the row with this id of a table.
    pub async fn both_hold(&mut self, table: &str, id: usize) -> Result<()> {
        let mut decoder = self.decoder()?;
        let deadline = Instant::now() + DONE_WITHIN;
        let ending = format!("\"id\":{id}");
        let is_row = |record: &Written| {
            record.key.as_deref().is_some_and(|key| key.trim_end_matches('}').ends_with(&ending))
        };
        for prefix in [format!("{ASIDE}{}.{table}", self.name), format!("{}.{table}", self.name)] {
            loop {
                self.still_run().await?;
                let topics = read(&self.place.bootstrap, &prefix, &mut decoder).await?;
                if topics.values().flatten().any(is_row) {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(format!("{prefix} has no row {id}; {}", self.log_tail()).into());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Stops both in good order.
    pub async fn stop(&mut self) -> Result<()> {
        self.worker.ask(&self.name, "stop").await?;
        self.daemon.stop().await.map(drop)
    }

    /// Has both go on.
    pub async fn resume(&mut self) -> Result<()> {
        self.daemon.start()?;
        self.worker.ask(&self.name, "resume").await
    }

    fn decoder(&self) -> Result<Decoder> {
        Ok(Decoder::new(self.encodings, &self.place.registry)?.with_times(self.has_times))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Debezium's records and ours, as soon as both have written to the topic that ends so; `write` is called
    /// between the looks.
    pub async fn both_show(
        &mut self,
        ending: &str,
        write: impl AsyncFnMut() -> Result<()>,
    ) -> Result<(Topics, Topics)> {
        self.both(|topics| topics.keys().any(|(topic, _)| topic.ends_with(ending)), write).await
    }

    /// Debezium's records and ours, as soon as both have written what is waited for.
    pub async fn both(
        &mut self,
        is_done: impl Fn(&Topics) -> bool,
        mut write: impl AsyncFnMut() -> Result<()>,
    ) -> Result<(Topics, Topics)> {
        let mut decoder = self.decoder()?;
        let (theirs, ours) = (format!("{ASIDE}{}.", self.name), format!("{}.", self.name));
        let deadline = Instant::now() + DONE_WITHIN;
        loop {
            self.still_run().await?;
            write().await?;
            let bootstrap = &self.place.bootstrap;
            let now =
                [read(bootstrap, &theirs, &mut decoder).await?, read(bootstrap, &ours, &mut decoder).await?];
            let done = [is_done(&now[0]), is_done(&now[1])];
            if done == [true; 2] {
                return self.at_rest(&theirs, &ours, &mut decoder).await;
            }
            if Instant::now() >= deadline {
                list(&self.place.dir, "", &now[0], &now[1])?;
                let [theirs, ours] = done;
                let log = self.log_tail();
                return Err(format!("not done: debezium {theirs}, millrace {ours}; {log}").into());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

impl Sides {
    /// Both sides' records once they grow no more: the last topic that was read may have grown after the first
    /// was, and ends of transactions come behind their last rows.
    async fn at_rest(&self, theirs: &str, ours: &str, decoder: &mut Decoder) -> Result<(Topics, Topics)> {
        let bootstrap = &self.place.bootstrap;
        let count = |topics: &Topics| -> usize {
            let counted = topics.iter().filter(|((topic, _), _)| !topic.contains(HEARTBEATS));
            counted.map(|(_, records)| records.len()).sum()
        };
        let mut before = None;
        loop {
            let now = (read(bootstrap, theirs, decoder).await?, read(bootstrap, ours, decoder).await?);
            let counts = (count(&now.0), count(&now.1));
            if before == Some(counts) {
                return Ok(now);
            }
            before = Some(counts);
            tokio::time::sleep(REST).await;
        }
    }
}

/// Leaves everything that both wrote in files, for whoever has to understand a difference.
pub fn list(dir: &Path, suffix: &str, theirs: &Topics, ours: &Topics) -> Result<()> {
    for (name, topics) in [("debezium", theirs), ("millrace", ours)] {
        let mut text = String::new();
        for ((topic, partition), records) in topics {
            for record in records {
                text += &format!("{topic}-{partition} {record:?}\n");
            }
        }
        std::fs::write(dir.join(format!("{name}{suffix}.txt")), text)?;
    }
    Ok(())
}

/// As the daemon's file takes a list.
pub fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// As Debezium takes a list, of expressions.
pub fn escaped(names: &[String]) -> String {
    names.iter().map(|name| name.replace('.', "\\.")).collect::<Vec<_>>().join(",")
}

fn file(place: &Place, encoding: Encoding, name: &str, told: &Told) -> String {
    let Place { bootstrap, registry, .. } = place;
    let Told { source, format, .. } = told;
    let encoding = match encoding {
        Encoding::Avro => "encoding = \"avro\"",
        Encoding::Json | Encoding::Plain => "encoding = \"json\"\njson_schemas = true",
    };
    format!(
        "name = \"{name}\"\n\
         {source}\n\
         [format]\ndialect = \"debezium\"\n{encoding}\nregistry = \"{registry}\"\n{format}\n\
         [sink.kafka]\nbootstrap = [\"{bootstrap}\"]\nposition_topic = \"position-{name}\"\n\
         [sink.kafka.topic_defaults]\npartitions = 3\nreplication = 1\n\
         [sink.kafka.topic_defaults.config]\n\"max.message.bytes\" = \"{RECORD_BYTES_MAX}\"\n\
         [rest]\nlisten = \"127.0.0.1:0\"\n"
    )
}

/// Debezium's topics get other names, behind its own transforms.
fn aside(own: &[&str], properties: &mut Map<String, Json>) {
    let all = [own, &["aside"]].concat().join(",");
    for (key, value) in [
        ("transforms", all),
        ("transforms.aside.type", "org.apache.kafka.connect.transforms.RegexRouter".to_owned()),
        ("transforms.aside.regex", "(.*)".to_owned()),
        ("transforms.aside.replacement", format!("{ASIDE}$1")),
    ] {
        properties.insert(key.to_owned(), value.into());
    }
}

fn properties(place: &Place, encoding: Encoding, name: &str, own: Json) -> Result<Map<String, Json>> {
    let converter = match encoding {
        Encoding::Avro => "io.confluent.connect.avro.AvroConverter",
        Encoding::Json | Encoding::Plain => "org.apache.kafka.connect.json.JsonConverter",
    };
    let mut all = json!({
        "tasks.max": "1",
        "snapshot.mode": "no_data",
        "topic.prefix": name,
        "poll.interval.ms": "20",
        "topic.creation.default.partitions": "3",
        "topic.creation.default.replication.factor": "1",
        "topic.creation.default.max.message.bytes": RECORD_BYTES_MAX.to_string(),
        "producer.override.max.request.size": RECORD_BYTES_MAX.to_string(),
        "producer.override.buffer.memory": (2 * RECORD_BYTES_MAX).to_string(),
    });
    let all = all.as_object_mut().ok_or("not an object")?;
    aside(&[], all);
    for side in ["key", "value"] {
        all.insert(format!("{side}.converter"), converter.into());
        all.insert(format!("{side}.converter.schema.registry.url"), place.registry.clone().into());
        all.insert(format!("{side}.converter.schemas.enable"), "true".into());
    }
    let Json::Object(own) = own else { return Err("properties are an object".into()) };
    all.extend(own);
    Ok(all.clone())
}
