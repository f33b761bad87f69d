//! A record of a topic as a consumer understands it.

use millrace_ledger::avro::Registry;
use millrace_ledger::reader::Record;
use serde_json::Value as Json;

#[derive(Clone, Debug)]
pub struct Event {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Json>,
    /// `None` is a tombstone.
    pub value: Option<Json>,
    /// Number of the Kafka transaction in its partition; `None` outside of any.
    pub kafka_transaction: Option<(i64, u64)>,
    pub headers: Vec<(String, String)>,
    /// Numbers of the schemas of key and value; `None` in JSON.
    pub schema_ids: (Option<u32>, Option<u32>),
}

impl Event {
    pub async fn decode(record: &Record, registry: &mut Registry) -> Self {
        let (key_schema, key) = decode(record.key.as_deref(), registry).await;
        let (value_schema, value) = decode(record.value.as_deref(), registry).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            key,
            value,
            kafka_transaction: record.tx.map(|tx| (tx.producer_id, tx.ordinal)),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), text(value.as_deref().unwrap_or_default())))
                .collect(),
            schema_ids: (key_schema, value_schema),
        }
    }

    /// The operation; `-` for a tombstone.
    pub fn op(&self) -> &str {
        match &self.value {
            None => "-",
            Some(value) => value["op"].as_str().unwrap_or("?"),
        }
    }

    /// The `id` of the key, else of the row.
    pub fn id(&self) -> Option<i64> {
        let of_key = self.key.as_ref().and_then(|key| key["id"].as_i64());
        of_key.or_else(|| self.after("id").as_i64()).or_else(|| self.before("id").as_i64())
    }

    /// A column of the new row; null where there is none.
    pub fn after(&self, column: &str) -> &Json {
        self.value.as_ref().map_or(&Json::Null, |value| &value["after"][column])
    }

    /// A column of the old row; null where there is none.
    pub fn before(&self, column: &str) -> &Json {
        self.value.as_ref().map_or(&Json::Null, |value| &value["before"][column])
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The header `position` as numbers that compare as positions do: commit, change, index, part.
    pub fn position(&self) -> [u64; 4] {
        let text = self.header("position").unwrap_or_else(|| panic!("{self:?} has no position"));
        let parts: Vec<&str> = text.split('/').collect();
        let hex = |part: &str| u64::from_str_radix(part, 16).ok();
        let parsed = match parts.as_slice() {
            [commit, change, n, sub] => {
                (|| Some([hex(commit)?, hex(change)?, n.parse().ok()?, sub.parse().ok()?]))()
            }
            _ => None,
        };
        parsed.unwrap_or_else(|| panic!("the position {text} is not of four numbers"))
    }
}

/// Confluent's frame begins with a zero byte, and no JSON does.
async fn decode(bytes: Option<&[u8]>, registry: &mut Registry) -> (Option<u32>, Option<Json>) {
    match bytes {
        None => (None, None),
        Some(frame @ [0, ..]) => {
            let decoded = registry.decode(frame).await;
            let decoded = decoded.unwrap_or_else(|error| panic!("not Avro of the registry: {error:?}"));
            (Some(decoded.schema_id), Some(decoded.json()))
        }
        Some(text) => (None, Some(serde_json::from_slice(text).expect("neither Avro nor JSON"))),
    }
}
