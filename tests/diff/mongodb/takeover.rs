//! The load of documents under which Debezium and the daemon read one change stream in turn: start at [`run`]; how they
//! take turns, in [`crate::turns`].

use std::time::Duration;

use millrace_ledger::mongodb::{Ended, abort, commit, connect};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::{Value as Json, json};

use crate::turns::{self, Load, Outcome};
use crate::{Place, Result};

const COLLECTION: &str = "load";

pub async fn run(place: &Place, url: &str) -> Result<Outcome> {
    let name = format!("takeover_documents_{}", std::process::id());
    let client = connect(url).await?;
    client.database(&name).create_collection(COLLECTION).await?;
    let properties = json!({
        "connector.class": "io.debezium.connector.mongodb.MongoDbConnector",
        "mongodb.connection.string": url,
        "collection.include.list": format!("{name}\\.{COLLECTION}"),
        "capture.mode": "change_streams",
    });
    let (topic, load) = (format!("{name}.{name}.{COLLECTION}"), Load::default());
    // JSON of the id in a text.
    let number = |key: &Json| key["id"].as_str()?.parse().ok();
    let write = write(client, name.clone(), load.clone());
    turns::run(place, &name, (properties, &topic), number, write, load).await
}

/// One to five documents in a transaction, or one after the other, with pauses.
async fn write(client: Client, database: String, load: Load) -> Result<()> {
    let collection = client.database(&database).collection::<Document>(COLLECTION);
    let mut session = client.start_session().await?;
    let (mut next, mut round) = (1_i64, 0_i64);
    while load.goes_on() {
        round += 1;
        let documents: Vec<_> = (next..=next + round % 5)
            .map(|id| doc! { "_id": id, "note": format!("document {id}") })
            .collect();
        let count = i64::try_from(documents.len())?;
        if round % 2 == 0 {
            session.start_transaction().await?;
            let ended = match collection.insert_many(&documents).session(&mut session).await {
                Ok(_) => commit(&mut session).await?,
                Err(error) => abort(&mut session, error).await?,
            };
            if ended == Ended::Again {
                continue;
            }
        } else {
            collection.insert_many(&documents).await?;
        }
        next += count;
        load.wrote(next - 1);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    Ok(())
}
