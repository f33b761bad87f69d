//! The load of documents under which Debezium and the daemon read one change stream in turn: start at [`run`]; how they
//! take turns, in [`crate::turns`].

use millrace_ledger::mongodb::{Ended, abort, commit, connect};
use mongodb::bson::{Document, doc};
use mongodb::{ClientSession, Collection};
use serde_json::json;

use crate::turns::{self, Outcome, Table, Transaction, Writer};
use crate::{Place, Result};

const COLLECTION: &str = "load";

pub async fn run(place: &Place, url: &str, seed: u64) -> Result<Outcome> {
    let name = format!("takeover_documents_{seed}_{}", std::process::id());
    let client = connect(url).await?;
    let database = client.database(&name);
    database.create_collection(COLLECTION).await?;
    let session = async || -> Result<Session> {
        let session = client.start_session().await?;
        Ok(Session { session, collection: database.collection(COLLECTION) })
    };
    let table = Table {
        properties: json!({
            "connector.class": "io.debezium.connector.mongodb.MongoDbConnector",
            "mongodb.connection.string": url,
            "collection.include.list": format!("{name}\\.{COLLECTION}"),
            "capture.mode": "change_streams",
        }),
        topic: format!("{name}.{name}.{COLLECTION}"),
        // JSON of the id in a text.
        number: |key| key["id"].as_str()?.parse().ok(),
        writers: [session().await?, session().await?, session().await?, session().await?],
    };
    turns::run(place, &name, seed, table).await
}

struct Session {
    session: ClientSession,
    collection: Collection<Document>,
}

impl Writer for Session {
    /// One statement alone is written without a transaction.
    async fn commit(&mut self, transaction: &Transaction) -> Result<bool> {
        let documents = |rows: &std::ops::Range<i64>| -> Vec<Document> {
            rows.clone().map(|id| doc! { "_id": id, "note": format!("document {id}") }).collect()
        };
        if let [(rows, _)] = transaction.statements.as_slice() {
            self.collection.insert_many(documents(rows)).await?;
            return Ok(true);
        }
        self.session.start_transaction().await?;
        for (rows, pause) in &transaction.statements {
            let inserted = self.collection.insert_many(documents(rows)).session(&mut self.session).await;
            if let Err(error) = inserted {
                return Ok(abort(&mut self.session, error).await? != Ended::Again);
            }
            tokio::time::sleep(*pause).await;
        }
        Ok(commit(&mut self.session).await? != Ended::Again)
    }
}
