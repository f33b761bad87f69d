//! What the two sides are told of a Postgres database.

use serde_json::json;

use super::{Config, Table};
use crate::Result;
use crate::sides::{Sides, Told, escaped, quoted};

/// Starts both and waits until both stream.
pub async fn start(config: &Config, database: &str, url: &str, tables: &[Table]) -> Result<Sides> {
    let own = super::changes::TABLES;
    let names = tables.iter().map(|table| table.name.as_str()).chain(own).chain(["the_end"]);
    let names: Vec<String> = names.map(|name| format!("public.{name}")).collect();
    let told = Told {
        source: format!(
            "[source.postgres]\nurl = \"{url}\"\ntables = [{}]\nsnapshot = \"no_data\"\nheartbeat_interval_s = 0\n\
             message_events = [\"/audit.*/\"]\npublication = \"millrace_{database}\"\n{}",
            quoted(&names),
            config.modes.source.join("\n")
        ),
        format: config.modes.format.join("\n"),
        debezium: debezium(config, database, url, &names)?,
    };
    let mut sides = Sides::start(&config.place, config.encoding, database, told).await?;
    both_stream(&mut sides, url).await?;
    Ok(sides)
}

/// Waits until both stream.
pub async fn both_stream(sides: &mut Sides, url: &str) -> Result<()> {
    let client = super::connect(url).await?;
    for _ in 0..600 {
        sides.still_run().await?;
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE active AND database = current_database()";
        if client.query_one(sql, &[]).await?.get::<_, i64>(0) == 2 {
            // Before 15 the server sends empty transactions too: the newest place is the same for both from here on.
            client.batch_execute("CREATE TABLE unwatched ()").await?;
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Err(format!("not both sides stream; {}", sides.log_tail()).into())
}

/// The connector, its login, and a slot and a publication of this name.
pub fn login(name: &str, url: &str) -> Result<serde_json::Value> {
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

fn debezium(config: &Config, name: &str, url: &str, tables: &[String]) -> Result<serde_json::Value> {
    let mut properties = login(name, url)?;
    properties["table.include.list"] = escaped(tables).into();
    properties["message.prefix.include.list"] = "audit.*".into();
    properties["publish.via.partition.root"] = "true".into();
    for (key, value) in &config.modes.debezium {
        properties[key.as_str()] = value.clone().into();
    }
    Ok(properties)
}
