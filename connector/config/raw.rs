//! The file as it is written: one field a key, nothing applied, nothing checked.

use std::collections::BTreeMap;
use std::fmt;

use millrace_core::secret::Secret;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use crate::registry::{RawSink, RawSource};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// Names the slot, the transactional id and the metrics label.
    pub name: Option<String>,
    /// Several instances with this file stand by for each other.
    pub high_availability: Option<bool>,
    /// Kafka Connect's, for what a connector does when it is loaded.
    pub initial_state: Option<String>,
    pub source: RawSource,
    pub format: Format,
    pub route: Vec<Route>,
    pub step: Vec<Step>,
    pub dead_letters: DeadLetters,
    pub signature: Signature,
    pub sink: RawSink,
    pub rest: Rest,
    pub operator_log: OperatorLog,
    pub traces: Option<Traces>,
}

/// What records look like. Choices are text here, so that `${env:NAME}` may make them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Format {
    pub envelope: Option<String>,
    pub encoding: Option<String>,
    pub rename_topics: Vec<RenameTopics>,
    pub json_schemas: Option<bool>,
    pub dialect: Option<String>,
    pub decimals: Option<String>,
    pub times: Option<String>,
    pub intervals: Option<String>,
    pub binary: Option<String>,
    pub hstore: Option<String>,
    pub context_headers: Option<bool>,
    pub skip_operations: Option<Vec<String>>,
    pub skip_unchanged: Option<bool>,
    pub exclude_columns: Option<Vec<String>>,
    pub source_types: Option<Vec<String>>,
    pub source_types_of: Option<Vec<String>>,
    pub comments: Option<bool>,
    pub include_columns: Option<Vec<String>>,
    pub mask_columns: Option<BTreeMap<String, usize>>,
    pub truncate_columns: Option<BTreeMap<String, usize>>,
    pub hash_columns: Option<Vec<String>>,
    pub hash_algorithm: Option<String>,
    pub hash_salt: Option<SecretString>,
    pub hash_version: Option<u8>,
    pub hmac_columns: Option<Vec<String>>,
    pub hmac_secret: Option<SecretString>,
    pub encrypt_columns: Option<Vec<String>>,
    pub encrypt_secret: Option<SecretString>,
    pub encrypt_key_id: Option<String>,
    pub tombstones: Option<bool>,
    pub truncates: Option<bool>,
    pub transactions: Option<bool>,
    pub transaction_topic: Option<String>,
    pub heartbeat_topic_interval_s: Option<u64>,
    pub heartbeat_topic: Option<String>,
    pub notification_topic: Option<String>,
    pub flat: Flat,
    pub placeholder: Option<String>,
    pub schema_names: Option<String>,
    pub field_names: Option<String>,
    pub record_bytes_max: Option<u32>,
    pub topic_prefix: Option<String>,
    pub registry: Option<OneOrMany>,
    pub registry_username: Option<String>,
    pub registry_password: Option<Secret>,
    pub registry_token: Option<Secret>,
    pub registry_ca_file: Option<std::path::PathBuf>,
    pub compatibility: BTreeMap<String, String>,
}

/// Topics that go by another name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenameTopics {
    pub from: String,
    pub to: String,
    pub only: Option<String>,
    pub not: Option<String>,
    pub schemas: Option<bool>,
    pub key_field: Option<String>,
    pub key_from: Option<String>,
    pub key_to: Option<String>,
}

/// How rows and documents become flat records.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Flat {
    pub arrays: Option<String>,
    pub flatten: Option<bool>,
    pub delimiter: Option<String>,
    pub deletes: Option<String>,
    pub add_fields: Option<Vec<String>>,
    pub add_fields_prefix: Option<String>,
    pub add_headers: Option<Vec<String>>,
    pub add_headers_prefix: Option<String>,
}

/// Where the records of some relations go, and how they look, if not as `[format]` says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    pub relations: OneOrMany,
    pub envelope: Option<String>,
    pub encoding: Option<String>,
    pub topic: Option<String>,
    pub topic_by: Option<String>,
    pub topics: BTreeMap<String, String>,
    pub fallback: Option<String>,
    pub topic_regex: Option<String>,
    pub topic_replacement: Option<String>,
    pub allow: Option<OneOrMany>,
    pub key: Option<OneOrMany>,
    pub headers: BTreeMap<String, String>,
    pub header_texts: BTreeMap<String, String>,
    pub filter: Option<String>,
    pub copy_to: Option<OneOrMany>,
    pub on_reject: Option<String>,
    pub outbox: Outbox,
}

/// What becomes of fields and headers; one thing a step.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    pub relations: OneOrMany,
    pub only: Option<String>,
    pub not: Option<String>,
    pub drop: OneOrMany,
    pub keep: OneOrMany,
    pub rename: BTreeMap<String, String>,
    pub of: Option<String>,
    pub replace: OneOrMany,
    pub with: Option<String>,
    pub insert: BTreeMap<String, String>,
    pub headers: BTreeMap<String, String>,
    pub moves: Option<bool>,
    pub header_texts: BTreeMap<String, String>,
    pub drop_headers: OneOrMany,
    pub key: OneOrMany,
    pub partition_by: OneOrMany,
    pub partitions: Option<u32>,
    pub partition_hash: Option<String>,
    pub timezone: Option<String>,
    pub timestamps: OneOrMany,
    pub discard: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Outbox {
    pub document: Option<String>,
    pub id: Option<String>,
    pub aggregate: Option<String>,
    pub payload: Option<String>,
    pub payload_form: Option<String>,
    pub timestamp: Option<String>,
    pub partition: Option<String>,
    pub tracing: Option<String>,
    pub tombstone_on_empty: Option<bool>,
    pub on_update: Option<String>,
    pub delete_after_s: Option<u64>,
    pub delete_earlier: Option<bool>,
    pub first_start: Option<String>,
    pub order_by: Option<OneOrMany>,
    pub any_order: Option<bool>,
    pub subject: Option<String>,
    pub schema_type: Option<String>,
    pub schemas: BTreeMap<String, String>,
    pub derive_schemas: Option<bool>,
    pub schema_id: Option<String>,
    pub schema_id_header: Option<String>,
    pub fields: Vec<Field>,
    pub cloudevents: CloudEvents,
    pub routed: Routed,
}

/// Records as Debezium's event router and Kafka Connect's converters write them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Routed {
    pub key: Option<String>,
    pub value: Option<String>,
    pub expand: Option<bool>,
    pub expanded_nulls: Option<String>,
    pub schema_version: Option<String>,
    pub placed: Vec<String>,
    pub missing: Option<String>,
}

/// The value or the headers as CloudEvents 1.0 has them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct CloudEvents {
    pub mode: Option<String>,
    pub source: Option<String>,
    pub r#type: Option<String>,
    pub time: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Field {
    pub name: String,
    pub column: Option<String>,
    pub text: Option<String>,
    pub form: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetters {
    pub on_reject: Option<String>,
    pub topic: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Signature {
    pub key_id: Option<String>,
    pub ed25519_secret: Option<SecretString>,
    pub hmac_sha256_secret: Option<SecretString>,
}

/// Belongs to the daemon: the first file that sets it wins, two different ones are refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rest {
    pub listen: Option<String>,
    pub open_reading: Option<bool>,
}

/// Where spans go. Belongs to the daemon, as `Rest` does.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traces {
    pub endpoint: Option<String>,
    pub headers: BTreeMap<String, Secret>,
    pub ca_file: Option<std::path::PathBuf>,
    pub timeout_s: Option<u64>,
    pub ratio: Option<f64>,
    pub service: Option<String>,
}

/// Where it is written what operators do with the connector.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperatorLog {
    pub file: Option<std::path::PathBuf>,
    pub topic: Option<String>,
}

/// A string, or a list of strings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OneOrMany(pub Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(OneOrMany(all))
            }
        }
        deserializer.deserialize_any(Items)
    }
}
