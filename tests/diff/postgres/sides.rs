//! Debezium and the daemon, both reading one database into one Kafka.
//!
//! Schema names begin with the topic prefix, so both have the same one; Debezium's topics are moved aside by
//! a transform behind everything that names a schema.

use millrace_ledger::daemon::Daemon;
use serde_json::{Map, Value as Json, json};

use super::{Config, Table};
use crate::connect::Worker;
use crate::{Encoding, Place, Result};

/// Before the names of Debezium's topics.
const ASIDE: &str = "theirs.";

pub struct Sides {
    name: String,
    worker: Worker,
    daemon: Daemon,
}

/// Starts both and waits until both stream.
pub async fn start(config: &Config, database: &str, url: &str, tables: &[Table]) -> Result<Sides> {
    let name = database.to_owned();
    let names: Vec<String> = tables.iter().map(|table| format!("public.{}", table.name)).collect();
    let names = [names, vec!["public.the_end".into()]].concat();
    let worker = Worker::at(&config.place.connect)?;
    let daemon =
        Daemon::with_file(&config.place.binary, &config.place.dir, &name, &file(config, &name, url, &names))?;
    worker.start(&name, debezium(config, &name, url, &names)?).await?;
    let mut sides = Sides { name, worker, daemon };
    sides.daemon.start()?;
    let client = super::connect(url).await?;
    for _ in 0..600 {
        sides.still_run().await?;
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE active AND database = current_database()";
        if client.query_one(sql, &[]).await?.get::<_, i64>(0) == 2 {
            return Ok(sides);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Err(format!("not both sides stream; {}", sides.log_tail()).into())
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

fn file(config: &Config, name: &str, url: &str, tables: &[String]) -> String {
    let Place { bootstrap, registry, .. } = &config.place;
    let quoted: Vec<String> = tables.iter().map(|table| format!("\"{table}\"")).collect();
    let (source, format) = (config.modes.source.join("\n"), config.modes.format.join("\n"));
    let encoding = match config.encoding {
        Encoding::Avro => "encoding = \"avro\"",
        Encoding::Json => "encoding = \"json\"\njson_schemas = true",
    };
    format!(
        "name = \"{name}\"\n\
         [source.postgres]\nurl = \"{url}\"\ntables = [{}]\nheartbeat_interval_s = 0\n{source}\n\
         [format]\ndialect = \"debezium\"\n{encoding}\nregistry = \"{registry}\"\n{format}\n\
         [sink.kafka]\nbootstrap = [\"{bootstrap}\"]\nposition_topic = \"position-{name}\"\n\
         [sink.kafka.topic_defaults]\npartitions = 3\nreplication = 1\n\
         [rest]\nlisten = \"127.0.0.1:0\"\n",
        quoted.join(", ")
    )
}

fn debezium(config: &Config, name: &str, url: &str, tables: &[String]) -> Result<Map<String, Json>> {
    let rest = url.strip_prefix("postgres://").ok_or("not a Postgres url")?;
    let (login, place) = rest.split_once('@').ok_or("a url without a user")?;
    let (user, password) = login.split_once(':').ok_or("a url without a password")?;
    let (address, database) = place.split_once('/').ok_or("a url without a database")?;
    let (host, port) = address.split_once(':').ok_or("a url without a port")?;
    let tables: Vec<String> = tables.iter().map(|table| table.replace('.', "\\.")).collect();
    let mut properties = json!({
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": host,
        "database.port": port,
        "database.user": user,
        "database.password": password,
        "database.dbname": database,
        "plugin.name": "pgoutput",
        "publication.name": format!("theirs_{name}"),
        "publication.autocreate.mode": "filtered",
        "slot.name": format!("theirs_{name}"),
        "snapshot.mode": "no_data",
        "topic.prefix": name,
        "table.include.list": tables.join(","),
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
    for (key, value) in &config.modes.debezium {
        properties.insert(key.clone(), value.clone().into());
    }
    Ok(properties.clone())
}
