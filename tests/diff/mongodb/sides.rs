//! Debezium and the daemon, both reading one database into one Kafka. As for Postgres, Debezium's topics are
//! moved aside behind everything that names a schema.

use millrace_ledger::daemon::Daemon;
use serde_json::{Map, Value as Json, json};

use super::{COLLECTIONS, Config, END, Images, WARM};
use crate::connect::Worker;
use crate::{Encoding, Place, Result};

/// Before the names of Debezium's topics.
const ASIDE: &str = "theirs.";

pub struct Sides {
    name: String,
    worker: Worker,
    daemon: Daemon,
}

/// Starts both; whether they stream shows in what they write.
pub async fn start(config: &Config, name: &str) -> Result<Sides> {
    let worker = Worker::at(&config.place.connect)?;
    let mut daemon = Daemon::with_file(&config.place.binary, &config.place.dir, name, &file(config, name))?;
    worker.start(name, debezium(config, name)?).await?;
    daemon.start()?;
    Ok(Sides { name: name.to_owned(), worker, daemon })
}

impl Sides {
    /// An error if one of them has failed.
    pub async fn still_run(&mut self) -> Result<()> {
        self.daemon.still_runs()?;
        self.worker.runs(&self.name).await.map(drop)
    }

    pub fn their_topics(&self) -> String {
        format!("{ASIDE}{}.", self.name)
    }

    pub fn our_topics(&self) -> String {
        format!("{}.", self.name)
    }

    pub fn log_tail(&self) -> String {
        self.daemon.log_tail()
    }

    /// Ends both.
    pub async fn stop(&mut self) -> Result<()> {
        let stopped = self.daemon.stop().await;
        self.worker.remove(&self.name).await?;
        stopped.map(drop)
    }
}

fn names(name: &str) -> Vec<String> {
    COLLECTIONS.iter().chain(&[WARM, END]).map(|collection| format!("{name}.{collection}")).collect()
}

fn file(config: &Config, name: &str) -> String {
    let Place { bootstrap, registry, .. } = &config.place;
    let quoted: Vec<String> = names(name).iter().map(|name| format!("\"{name}\"")).collect();
    let images = match config.images {
        Images::None => "update_document = \"none\"",
        Images::Both => "update_document = \"post_image\"\npre_images = true",
    };
    let encoding = match config.encoding {
        Encoding::Avro => "encoding = \"avro\"",
        Encoding::Json => "encoding = \"json\"\njson_schemas = true",
    };
    format!(
        "name = \"{name}\"\n\
         [source.mongodb]\nurl = \"{}\"\ncollections = [{}]\n{images}\n\
         [format]\ndialect = \"debezium\"\n{encoding}\nregistry = \"{registry}\"\n\
         [sink.kafka]\nbootstrap = [\"{bootstrap}\"]\nposition_topic = \"position-{name}\"\n\
         [sink.kafka.topic_defaults]\npartitions = 3\nreplication = 1\n\
         [rest]\nlisten = \"127.0.0.1:0\"\n",
        config.url,
        quoted.join(", ")
    )
}

fn debezium(config: &Config, name: &str) -> Result<Map<String, Json>> {
    let collections: Vec<String> = names(name).iter().map(|name| name.replace('.', "\\.")).collect();
    let mode = match config.images {
        Images::None => "change_streams",
        Images::Both => "change_streams_update_full_with_pre_image",
    };
    let mut properties = json!({
        "connector.class": "io.debezium.connector.mongodb.MongoDbConnector",
        "tasks.max": "1",
        "mongodb.connection.string": config.url,
        "collection.include.list": collections.join(","),
        "capture.mode": mode,
        "capture.mode.full.update.type": "post_image",
        "snapshot.mode": "no_data",
        "topic.prefix": name,
        "poll.interval.ms": "20",
        "topic.creation.default.partitions": "3",
        "topic.creation.default.replication.factor": "1",
        "transforms": "aside",
        "transforms.aside.type": "org.apache.kafka.connect.transforms.RegexRouter",
        "transforms.aside.regex": "(.*)",
        "transforms.aside.replacement": format!("{ASIDE}$1"),
    });
    let converter = match config.encoding {
        Encoding::Avro => "io.confluent.connect.avro.AvroConverter",
        Encoding::Json => "org.apache.kafka.connect.json.JsonConverter",
    };
    let properties = properties.as_object_mut().ok_or("not an object")?;
    for side in ["key", "value"] {
        properties.insert(format!("{side}.converter"), converter.into());
        properties
            .insert(format!("{side}.converter.schema.registry.url"), config.place.registry.clone().into());
        properties.insert(format!("{side}.converter.schemas.enable"), "true".into());
    }
    Ok(properties.clone())
}
