//! What one side wrote, as text that can be compared: keys, values and headers as JSON, schemas as they are.

use std::collections::HashMap;
use std::time::Duration;

use millrace_ledger::avro;
use millrace_ledger::reader::{Isolation, Reader, Record};

use crate::{Encoding, Encodings, Result};

const PATIENCE: Duration = Duration::from_secs(30);

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub key: Option<String>,
    /// `None` is a tombstone.
    pub value: Option<String>,
    /// The registry's texts; empty for JSON, which carries its own.
    pub key_schema: String,
    pub value_schema: String,
    pub headers: Vec<(String, String)>,
    /// The record's own time; 0 where it is that of whoever wrote it.
    pub time_ms: i64,
}

/// By topic without `prefix`, and partition.
pub type Topics = std::collections::BTreeMap<(String, i32), Vec<Written>>;

/// Reads every topic that begins with `prefix`, as far as it is committed now.
pub async fn read(bootstrap: &str, prefix: &str, decoder: &mut Decoder) -> Result<Topics> {
    let mut reader = Reader::new(bootstrap, Isolation::ReadCommitted, PATIENCE);
    let topics = reader.topics(prefix).await?;
    let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_ref()).collect();
    let mut found = Topics::new();
    for record in reader.read_all(&names).await?.records {
        let topic = record.topic.strip_prefix(prefix).unwrap_or(&record.topic).to_owned();
        let place = format!("{}-{}", record.topic, record.partition);
        let written = decoder.decode(&record).await.map_err(|error| format!("{place}: {error}"))?;
        found.entry((topic, record.partition)).or_default().push(written);
    }
    Ok(found)
}

/// Bytes to text.
pub struct Decoder {
    encodings: Encodings,
    registry: avro::Registry,
    url: String,
    http: reqwest::Client,
    texts: HashMap<u32, String>,
    has_times: bool,
}

impl Decoder {
    pub fn new(encodings: Encodings, registry: &str) -> Result<Self> {
        let known = avro::Registry::new(registry)?;
        let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
        Ok(Self {
            encodings,
            registry: known,
            url: registry.to_owned(),
            http,
            texts: HashMap::new(),
            has_times: false,
        })
    }

    /// Records have times that are not those of whoever wrote them.
    #[must_use]
    pub fn with_times(self, has_times: bool) -> Self {
        Self { has_times, ..self }
    }

    async fn decode(&mut self, record: &Record) -> Result<Written> {
        let (key, key_schema) = self.text(self.encodings.key, record.key.as_deref()).await?;
        let (value, value_schema) = self.text(self.encodings.value, record.value.as_deref()).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let header = |(name, value): &(String, Option<bytes::Bytes>)| {
            (name.clone(), value.as_deref().map_or_else(|| "null".into(), text))
        };
        Ok(Written {
            key,
            value,
            key_schema,
            value_schema,
            headers: record.headers.iter().map(header).collect(),
            time_ms: if self.has_times { record.timestamp_ms } else { 0 },
        })
    }

    async fn text(&mut self, encoding: Encoding, bytes: Option<&[u8]>) -> Result<(Option<String>, String)> {
        let Some(bytes) = bytes else { return Ok((None, String::new())) };
        match encoding {
            Encoding::Json => return Ok((Some(String::from_utf8(bytes.to_vec())?), String::new())),
            Encoding::Plain => return Ok((Some(bytes.escape_ascii().to_string()), String::new())),
            Encoding::Avro => {}
        }
        let decoded = self.registry.decode(bytes).await;
        let decoded = decoded.map_err(|error| format!("{error:?}: {}", bytes.escape_ascii()))?;
        let schema = self.schema(decoded.schema_id).await?;
        Ok((Some(decoded.json().to_string()), schema))
    }

    async fn schema(&mut self, id: u32) -> Result<String> {
        if let Some(text) = self.texts.get(&id) {
            return Ok(text.clone());
        }
        let url = format!("{}/schemas/ids/{id}", self.url);
        let answer: serde_json::Value = self.http.get(url).send().await?.json().await?;
        let text = answer["schema"].as_str().ok_or("the registry gives no schema")?.to_owned();
        self.texts.insert(id, text.clone());
        Ok(text)
    }
}
