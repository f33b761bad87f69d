//! What the two sides are told of a Postgres database: one file, but for what two readers of one database cannot share.

use serde_json::{Map, Value as Json, json};

use super::modes::{BY_ROOT, HEARTBEAT};
use super::{Config, Table, changes};
use crate::sides::{Sides, escaped};
use crate::{Encoding, Result};

/// Written by the heartbeats, a row for each side.
pub const PULSES: &str = "pulses";
/// What the table that a side takes its signals from begins with.
pub const SIGNALS: &str = "signals_";

/// Debezium's publication leaves out what the file has skipped, and then the server may not even tell of the transaction:
/// it has everything, as the daemon's has, and skips by itself.
const EVERYTHING: &str = "\
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT pubname FROM pg_publication WHERE pubname LIKE 'theirs%'
    AND NOT (pubinsert AND pubupdate AND pubdelete AND pubtruncate)
  LOOP EXECUTE format('ALTER PUBLICATION %I SET (publish = %L)', name, 'insert, update, delete, truncate'); END LOOP;
END $$;";

/// Starts both.
pub async fn start(config: &Config, database: &str, url: &str, tables: &[Table]) -> Result<Sides> {
    let file = file(config, database, url, tables)?;
    let own = |side: &str| {
        json!({
            "slot.name": format!("{side}_{database}"),
            "publication.name": publication(side, database),
            "signal.data.collection": format!("public.{SIGNALS}{side}"),
            "heartbeat.action.query": format!("UPDATE public.{PULSES} SET n = n + 1 WHERE side = '{side}'"),
        })
    };
    let both = [own("theirs"), own("ours")];
    Sides::start_with(&config.place, config.encoding.into(), database, &file, both).await
}

pub fn publication(side: &str, database: &str) -> String {
    format!("{side}_{database}")
}

/// The daemon publishes no table whose updates the server would refuse from then on; whoever knows that it has none
/// does it.
pub fn publication_of_inserts(config: &Config, database: &str) -> String {
    let (ours, by_root) = (publication("ours", database), by_root(config));
    format!("CREATE PUBLICATION {ours} FOR TABLE inserts_only WITH (publish_via_partition_root = {by_root})")
}

/// Waits until both stream.
pub async fn both_stream(sides: &mut Sides, url: &str) -> Result<()> {
    let client = super::connect(url).await?;
    for _ in 0..600 {
        sides.still_run().await?;
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE active AND database = current_database()";
        if client.query_one(sql, &[]).await?.get::<_, i64>(0) == 2 {
            // Before 15 the server sends empty transactions too: the newest place is the same for both from here on.
            client.batch_execute("DROP TABLE IF EXISTS unwatched; CREATE TABLE unwatched ()").await?;
            return Ok(client.batch_execute(EVERYTHING).await?);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Err(format!("not both sides stream; {}", sides.log_tail()).into())
}

/// The connector, its login, and a slot and a publication of this name.
pub fn login(name: &str, url: &str) -> Result<Json> {
    let rest = url.strip_prefix("postgres://").ok_or("not a Postgres url")?;
    let (login, place) = rest.split_once('@').ok_or("a url without a user")?;
    let (user, password) = login.split_once(':').ok_or("a url without a password")?;
    let (address, database) = place.split_once('/').ok_or("a url without a database")?;
    let (host, port) = address.split_once(':').ok_or("a url without a port")?;
    Ok(json!({
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": host,
        "database.port": port,
        "database.user": user,
        "database.password": password,
        "database.dbname": database,
        "plugin.name": "pgoutput",
        "publication.name": format!("theirs_{name}"),
        "publication.autocreate.mode": "filtered",
        "slot.name": format!("theirs_{name}"),
    }))
}

fn file(config: &Config, name: &str, url: &str, tables: &[Table]) -> Result<Map<String, Json>> {
    let Json::Object(mut file) = login(name, url)? else { return Err("not an object".into()) };
    let modes = &config.modes;
    let converter = match config.encoding {
        Encoding::Avro => "io.confluent.connect.avro.AvroConverter",
        Encoding::Json | Encoding::Plain => "org.apache.kafka.connect.json.JsonConverter",
    };
    let mut all = json!({
        "tasks.max": "1",
        "topic.prefix": name,
        "poll.interval.ms": "20",
        "producer.override.bootstrap.servers": config.place.bootstrap,
        "topic.creation.default.partitions": "3",
        "topic.creation.default.replication.factor": "1",
        "topic.creation.groups": "one",
        "topic.creation.one.include": ".*notifications",
        "topic.creation.one.partitions": "1",
        "topic.heartbeat.prefix": format!("{name}.heartbeat"),
        "notification.sink.topic.name": format!("{name}.notifications"),
    });
    for side in ["key", "value"] {
        all[format!("{side}.converter")] = converter.into();
        match config.encoding {
            Encoding::Avro => {
                all[format!("{side}.converter.schema.registry.url")] = config.place.registry.as_str().into();
            }
            Encoding::Json | Encoding::Plain => {
                all[format!("{side}.converter.schemas.enable")] = "true".into()
            }
        }
    }
    names(config, tables, &mut all);
    columns(modes.choice("columns"), &mut all);
    if modes.choice("messages") == "included" {
        all["message.prefix.include.list"] = "audit.*".into();
    } else {
        all["message.prefix.exclude.list"] = "ignored,millrace\\..*".into();
    }
    if modes.choice("reselect") == "yes" {
        all["post.processors"] = "again".into();
        all["again.type"] = "io.debezium.processors.reselect.ReselectColumnsPostProcessor".into();
        all["again.reselect.columns.include.list"] = "public\\.heavy:(words|doc|ints|must)".into();
    }
    let configuration = "snapshot.mode.configuration.based";
    all[format!("{configuration}.snapshot.schema")] = "true".into();
    all[format!("{configuration}.snapshot.data")] = modes.reads_rows().to_string().into();
    all[format!("{configuration}.start.stream")] = "true".into();
    let Json::Object(all) = all else { return Err("not an object".into()) };
    file.extend(all);
    file.extend(modes.properties().map(|(property, word)| (property.to_owned(), word.into())));
    Ok(file)
}

/// Of the tables that are captured.
pub fn captured(config: &Config, tables: &[Table]) -> Vec<String> {
    let parts: &[&str] = if by_root(config) { &["partings"] } else { &["partings_1", "partings_2"] };
    let own = changes::TABLES.iter().chain(parts).map(|name| format!("public.{name}"));
    let names = tables.iter().map(|table| format!("public.{}", table.name));
    // Debezium hears only a table that it captures.
    let beside = ["public.signals_theirs", "public.signals_ours", "other-place.Odd Table", "public.the_end"];
    names.chain(own).chain(beside.map(str::to_owned)).collect()
}

fn by_root(config: &Config) -> bool {
    config.modes.get(BY_ROOT) == "true"
}

fn names(config: &Config, tables: &[Table], all: &mut Json) {
    // Debezium reads a table and its parts, where both are named.
    let unnamed = if by_root(config) { "public\\.partings_.*" } else { "public\\.partings" };
    let unseen = format!("{unnamed},public\\.(pulses|unwatched|spatial_ref_sys)");
    match config.modes.choice("tables") {
        "excluded" => all["table.exclude.list"] = unseen.into(),
        "schema included" => {
            all["schema.include.list"] = "public,other-.*".into();
            all["table.exclude.list"] = unseen.into();
        }
        "schema excluded" => {
            all["schema.exclude.list"] = "unse.n".into();
            all["table.exclude.list"] = unseen.into();
        }
        _ => all["table.include.list"] = escaped(&captured(config, tables)).into(),
    }
    if config.modes.choice("keys") == "chosen" {
        all["message.key.columns"] = "public\\.t[0-3]:id;(.*).heavy_full:id,n".into();
    }
}

/// Expressions for names that the random columns have: their type and a number. Of texts but for `citext`: Debezium shows
/// it as it is, although it is told not to.
fn columns(choice: &str, all: &mut Json) {
    let texts = "public\\..*\\.(text|varchar_20|char_5|words|note|line)(_\\d)?";
    match choice {
        "masked" => all["column.mask.with.7.chars"] = texts.into(),
        "hashed" => all["column.mask.hash.SHA-256.with.salt.CzQMA0cB5K"] = texts.into(),
        "hashed v2" => all["column.mask.hash.v2.MD5.with.salt.CzQMA0cB5K"] = texts.into(),
        "truncated" => all["column.truncate.to.3.chars"] = texts.into(),
        "excluded" => {
            all["column.exclude.list"] = "public\\..*\\.(bool|int4|text|note|numeric.*)(_\\d)?".into()
        }
        "included" => all["column.include.list"] = "public\\..*\\.[^b].*,other-.*".into(),
        "typed" => all["column.propagate.source.type"] = format!("{texts},.*\\.id,.*\\.time.*").into(),
        "typed by type" => {
            all["datatype.propagate.source.type"] =
                ".*\\.VARCHAR,.*\\.INT4,.*\\.TIMESTAMPTZ,.*\\.MOOD".into();
        }
        _ => {}
    }
}

/// Whether the heartbeats write to the database.
pub fn beats(config: &Config) -> bool {
    config.modes.streams() && config.modes.get(HEARTBEAT) != "0"
}
