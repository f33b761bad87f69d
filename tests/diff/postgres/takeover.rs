//! The load of rows under which Debezium and the daemon read one slot in turn: start at [`run`]; how they take
//! turns, in [`crate::turns`].

use serde_json::Value as Json;
use tokio_postgres::Client;

use crate::turns::{self, Outcome, Table, Transaction, Writer};
use crate::{Place, Result};

pub async fn run(place: &Place, url: &str, seed: u64) -> Result<Outcome> {
    let name = format!("takeover_{seed}_{}", std::process::id());
    super::connect(url).await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    let url = format!("{}/{name}", url.rsplit_once('/').ok_or("a url without a database")?.0);
    let session = async || super::connect(&url).await;
    let first = session().await?;
    first.batch_execute("CREATE TABLE load (id bigint PRIMARY KEY, note text)").await?;
    let mut properties = super::sides::login(&name, &url)?;
    properties["table.include.list"] = "public\\.load".into();
    let table = Table {
        properties,
        topic: format!("{name}.public.load"),
        number: |key| key["id"].as_i64(),
        writers: [first, session().await?, session().await?, session().await?],
    };
    turns::run(place, &name, seed, table).await
}

/// Whether an offset's place lies before the end of the newest commit: its transaction was overtaken by that one.
pub fn is_overtaken(offset: &Json) -> bool {
    let place = |name: &str| offset[name].as_u64();
    offset["messageType"] != "COMMIT"
        && place("lsn").zip(place("lsn_commit")).is_some_and(|(at, end)| at <= end)
}

impl Writer for Client {
    async fn commit(&mut self, transaction: &Transaction) -> Result<bool> {
        self.batch_execute("BEGIN").await?;
        for (rows, pause) in &transaction.statements {
            let values: Vec<_> = rows.clone().map(|id| format!("({id}, 'row {id}')")).collect();
            self.batch_execute(&format!("INSERT INTO load VALUES {}", values.join(", "))).await?;
            tokio::time::sleep(*pause).await;
        }
        self.batch_execute("COMMIT").await?;
        Ok(true)
    }
}
