//! The collections, the journal beside them, and how a document is compared.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, Document, deserialize_from_document, doc};
use mongodb::options::ReadConcern;
use mongodb::{Client, Database};
use serde_json::Value as Json;

use crate::Result;
use crate::journal::{Content, Did, Entry};
use crate::tables::short_hash;

/// Indexes are those of the ledger's tables, of which only the last one's old rows are compared.
pub const COLLECTIONS: [&str; 3] = ["account", "wide", "member"];
pub const JOURNAL: &str = "journal";

pub fn database(client: &Client) -> Database {
    client.database("ledger")
}

/// Drops what an earlier run left and creates the collections, with images.
pub async fn create(client: &Client) -> Result<()> {
    let ledger = database(client);
    ledger.drop().await?;
    for name in COLLECTIONS {
        let images = doc! { "create": name, "changeStreamPreAndPostImages": { "enabled": true } };
        ledger.run_command(images).await?;
    }
    // A transaction cannot create it on every server.
    ledger.create_collection(JOURNAL).await?;
    Ok(())
}

/// What is compared of a document: its JSON, fields in their order.
pub fn hash(document: &Json) -> u32 {
    short_hash(&document.to_string())
}

/// One change as the journal has it.
#[derive(Clone, Debug)]
pub struct Noted {
    pub seq: i64,
    pub collection: usize,
    pub did: Did,
    pub key: i64,
    /// After the change, for a delete before it.
    pub hash: u32,
}

impl Noted {
    fn to_bson(&self) -> Bson {
        doc! {
            "seq": self.seq,
            "of": COLLECTIONS.get(self.collection).copied().unwrap_or_default(),
            "did": self.did.code(),
            "key": self.key,
            "hash": i64::from(self.hash),
        }
        .into()
    }
}

/// The journal's document of one transaction.
pub fn journal(transaction: i64, noted: &[Noted]) -> Document {
    let changes: Vec<Bson> = noted.iter().map(Noted::to_bson).collect();
    doc! { "_id": transaction, "changes": changes }
}

/// Committed changes, by rising sequence number.
pub async fn read_journal(client: &Client) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let collection = database(client).collection::<Document>(JOURNAL);
    let mut cursor = collection.find(doc! {}).read_concern(ReadConcern::majority()).await?;
    while cursor.advance().await? {
        let transaction: Document = cursor.deserialize_current()?;
        let xid = u64::try_from(transaction.get_i64("_id")?)?;
        for change in transaction.get_array("changes")? {
            let change = change.as_document().ok_or("the journal holds something else than changes")?;
            entries.push(entry(xid, change)?);
        }
    }
    entries.sort_by_key(|entry| entry.seq);
    Ok(entries)
}

fn entry(xid: u64, change: &Document) -> Result<Entry> {
    let (name, did) = (change.get_str("of")?, change.get_str("did")?);
    let table = COLLECTIONS.iter().position(|collection| *collection == name);
    Ok(Entry {
        seq: change.get_i64("seq")?,
        xid,
        table: table.ok_or_else(|| format!("the journal names the collection {name}"))?,
        did: Did::ALL
            .into_iter()
            .find(|known| known.code() == did)
            .ok_or_else(|| format!("the journal names the operation {did}"))?,
        key: change.get_i64("key")?.to_string().into(),
        new_key: None,
        payload: Box::new([u32::try_from(change.get_i64("hash")?)?]),
    })
}

/// The documents as they stand now.
pub async fn read_content(client: &Client) -> Result<Content> {
    let mut content: Content = BTreeMap::new();
    for (index, name) in COLLECTIONS.iter().enumerate() {
        let collection = database(client).collection::<Document>(name);
        let mut cursor = collection.find(doc! {}).read_concern(ReadConcern::majority()).await?;
        while cursor.advance().await? {
            let document: Document = cursor.deserialize_current()?;
            let key = document.get_i64("_id")?.to_string();
            let json: Json = deserialize_from_document(document)?;
            content.insert((index, key.into()), Box::new([hash(&json)]));
        }
    }
    Ok(content)
}
