//! The load of rows under which Debezium and the daemon read one slot in turn: start at [`run`]; how they take
//! turns, in [`crate::turns`].

use std::time::Duration;

use serde_json::Value as Json;
use tokio_postgres::Client;

use crate::turns::{self, Load, Outcome};
use crate::{Place, Result};

pub async fn run(place: &Place, url: &str) -> Result<Outcome> {
    let name = format!("takeover_{}", std::process::id());
    super::connect(url).await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    let url = format!("{}/{name}", url.rsplit_once('/').ok_or("a url without a database")?.0);
    let client = super::connect(&url).await?;
    client.batch_execute("CREATE TABLE load (id bigint PRIMARY KEY, note text)").await?;
    let mut properties = super::sides::login(&name, &url)?;
    properties["table.include.list"] = "public\\.load".into();
    let (topic, load) = (format!("{name}.public.load"), Load::default());
    let number = |key: &Json| key["id"].as_i64();
    let write = write(client, load.clone());
    turns::run(place, &name, (properties, &topic), number, write, load).await
}

/// Transactions of one to five rows, some of several rows a statement, with pauses.
async fn write(client: Client, load: Load) -> Result<()> {
    let (mut next, mut round) = (1, 0_i64);
    while load.goes_on() {
        round += 1;
        let count = 1 + round % 5;
        let values: Vec<_> = (next..next + count).map(|id| format!("({id}, 'row {id}')")).collect();
        let statements: String = match round % 2 {
            0 => format!("INSERT INTO load VALUES {};", values.join(", ")),
            _ => values.iter().map(|row| format!("INSERT INTO load VALUES {row};")).collect(),
        };
        client.batch_execute(&format!("BEGIN; {statements} COMMIT")).await?;
        next += count;
        load.wrote(next - 1);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    Ok(())
}
