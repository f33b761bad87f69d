//! The `[sink.kafka]` table: `Raw` mirrors the file, `Settings` is what the sink runs on.
//!
//! `Settings::resolve` applies defaults, checks everything and lists every problem at once. Start there.

mod limits;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use millrace_core::error::{Error, Result as Outcome};
use millrace_core::pattern::Pattern;
use millrace_core::secret::Secret;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::gauges::{self, Watched};
use crate::signals::Heard;
use limits::limits;
pub use limits::{Limits, RawTransaction};

/// librdkafka's jitter is a fifth, so a commit that took longer than four fifths of this may hide a retry.
pub(crate) const RETRY_BACKOFF: Duration = Duration::from_millis(500);

/// The table as it stands in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    #[serde(default)]
    pub bootstrap: Vec<String>,
    #[serde(default)]
    /// What operators of the cluster want to see on the page of metrics.
    pub gauges: gauges::Raw,
    #[serde(default)]
    pub client: ClientKeys,
    #[serde(default)]
    pub topic_defaults: RawTopics,
    /// By name, or by a pattern with `*`.
    #[serde(default)]
    pub topics: BTreeMap<String, RawTopics>,
    pub position_topic: Option<String>,
    /// Signals are heard there.
    pub signal_topic: Option<String>,
    /// The group whose offset says which were.
    pub signal_group: Option<String>,
    pub transactional_id_prefix: Option<String>,
    /// Parts the names of this deployment from those of others on the same brokers.
    pub cluster: Option<String>,
    #[serde(default)]
    pub transaction: RawTransaction,
    /// What both producers' queues may hold together.
    pub memory_bytes: Option<u64>,
    pub security: Option<Security>,
    pub sasl: Option<RawSasl>,
    pub tls: Option<RawTls>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTopics {
    pub partitions: Option<u32>,
    pub replication: Option<u32>,
    #[serde(default)]
    pub config: BTreeMap<String, Scalar>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl Security {
    fn name(self) -> &'static str {
        match self {
            Security::Plaintext => "plaintext",
            Security::Ssl => "ssl",
            Security::SaslPlaintext => "sasl_plaintext",
            Security::SaslSsl => "sasl_ssl",
        }
    }

    fn has_sasl(self) -> bool {
        matches!(self, Security::SaslPlaintext | Security::SaslSsl)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSasl {
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`.
    pub mechanism: String,
    pub username: Secret,
    pub password: Secret,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTls {
    pub ca_file: Option<PathBuf>,
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub key_password: Option<Secret>,
}

/// A value that librdkafka or a topic takes as text; in the file it may be a number or a boolean too.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Scalar {
    Text(String),
    Whole(i64),
    Flag(bool),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Text(text) => f.write_str(text),
            Scalar::Whole(number) => write!(f, "{number}"),
            Scalar::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

impl fmt::Debug for Scalar {
    /// A client key may hold a password, so no value prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `[sink.kafka.client]`: handed to librdkafka as it is.
pub type ClientKeys = BTreeMap<String, Scalar>;

/// What a new data topic is created with; `None` leaves it to the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicDefaults {
    pub partitions: Option<u32>,
    pub replication: Option<u32>,
    pub config: BTreeMap<String, String>,
}

#[derive(Clone)]
pub struct Settings {
    pub connector: String,
    /// With the cluster's name before it, if there is one: what parts this deployment's records, ids and
    /// topics from another's.
    pub name: String,
    pub bootstrap: Vec<String>,
    pub topic_defaults: TopicDefaults,
    /// By name or pattern, names first; each laid over the defaults.
    topics: Vec<(Pattern, TopicDefaults)>,
    pub position_topic: String,
    /// Without the `-0` or `-1` of the two producers.
    pub transactional_id: String,
    pub limits: Limits,
    pub memory_bytes: u64,
    pub(crate) gauges: Watched,
    pub(crate) signals: Option<Heard>,
    client: Vec<(String, Secret)>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("bootstrap", &self.bootstrap)
            .field("topic_defaults", &self.topic_defaults)
            .field("position_topic", &self.position_topic)
            .field("transactional_id", &self.transactional_id)
            .field("limits", &self.limits)
            .field("client", &self.client.iter().map(|(key, _)| key).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Keys that Millrace owns, and why. A trailing `*` stands for any ending.
const OWNED: [(&str, &str); 34] = [
    ("bootstrap.servers", "it is `bootstrap` in [sink.kafka]"),
    ("metadata.broker.list", "it is `bootstrap` in [sink.kafka]"),
    (
        "transactional.id",
        "it is made of `transactional_id_prefix` and the connector's name, so that a restart shuts out the instance before it",
    ),
    ("transaction.timeout.ms", "it is `timeout_ms` in [sink.kafka.transaction]"),
    ("enable.idempotence", "exactly-once needs it on"),
    ("enable.gapless.guarantee", "a transaction is kept whole by its commit"),
    ("acks", "exactly-once needs `all`"),
    ("request.required.acks", "exactly-once needs `all`"),
    ("max.in.flight", "exactly-once bounds it"),
    ("max.in.flight.requests.per.connection", "exactly-once bounds it"),
    ("retries", "a transaction retries until its timeout"),
    ("message.send.max.retries", "a transaction retries until its timeout"),
    ("retry.backoff.ms", "a commit's doubt is measured against it"),
    ("retry.backoff.max.ms", "a commit's doubt is measured against it"),
    ("message.timeout.ms", "it follows the transaction timeout"),
    ("delivery.timeout.ms", "it follows the transaction timeout"),
    ("message.max.bytes", "it follows `max.message.bytes` of the topics"),
    ("queue.buffering.max.kbytes", "it is `memory_bytes` in [sink.kafka]"),
    ("queue.buffering.max.messages", "it is `memory_bytes` in [sink.kafka]"),
    ("isolation.level", "the position is always read committed"),
    ("enable.partition.eof", "the reading of the position owns it"),
    ("enable.auto.*", "the position is stored in the transaction, not in a consumer group"),
    ("auto.*", "the position is stored in the transaction, not in a consumer group"),
    ("group.*", "the position is stored in the transaction, not in a consumer group"),
    ("fetch.*", "the reading of the position owns it"),
    ("allow.auto.create.topics", "topics are created explicitly, see [sink.kafka.topic_defaults]"),
    ("delivery.report.only.error", "deliveries are counted"),
    ("partitioner", "records carry their partition"),
    ("log.queue", "logs go through Millrace"),
    ("statistics.interval.ms", "statistics cost more than they tell; see /metrics"),
    ("enabled_events", "events go through Millrace"),
    ("plugin.library.paths", "it loads code"),
    ("ssl.engine.location", "it loads code"),
    ("test.*", "it is for librdkafka's own tests"),
];

/// Room for two transactions' worth of records in flight while the process stays small.
const MEMORY_BYTES: u64 = 8 * 1024 * 1024;
const MEMORY_BYTES_MIN: u64 = 1024 * 1024;
/// As long as a connector's name: both are parts of a topic's name.
const CLUSTER_LEN_MAX: usize = 50;

impl Settings {
    /// Everything that is wrong, not only the first problem.
    pub fn resolve(raw: Raw, connector: &str) -> Result<Self, Vec<Error>> {
        let mut wrong = Vec::new();
        if raw.bootstrap.is_empty() || raw.bootstrap.iter().any(|server| server.trim().is_empty()) {
            wrong.push(
                Error::config("sink.kafka.bootstrap names no broker")
                    .hint("bootstrap = [\"broker-1:9092\"] in [sink.kafka]"),
            );
        }
        let limits = limits(&raw.transaction, &mut wrong);
        let memory_bytes = raw.memory_bytes.unwrap_or(MEMORY_BYTES);
        if memory_bytes < MEMORY_BYTES_MIN {
            wrong.push(
                Error::config(format!(
                    "sink.kafka.memory_bytes is {memory_bytes}, too small for two producers"
                ))
                .hint(format!("memory_bytes = {MEMORY_BYTES} or leave it out")),
            );
        }
        let name = full_name(raw.cluster.as_deref(), connector, &mut wrong);
        let position_topic =
            raw.position_topic.clone().unwrap_or_else(|| format!("millrace-{name}-position"));
        check_topic_name(&position_topic, &mut wrong);
        let prefix = raw.transactional_id_prefix.as_deref().unwrap_or("millrace");
        let topic_defaults = topic_defaults("topic_defaults", &raw.topic_defaults, &mut wrong);
        let topics = topics(&raw.topics, &topic_defaults, &mut wrong);
        let client = client_keys(&raw, &mut wrong);
        let gauges = Watched::resolve(raw.gauges, &mut wrong);
        let signals = Heard::resolve(raw.signal_topic, raw.signal_group, &name, &mut wrong);
        let settings = Self {
            connector: connector.to_owned(),
            name: name.clone(),
            bootstrap: raw.bootstrap,
            topic_defaults,
            topics,
            position_topic,
            transactional_id: format!("{prefix}-{name}"),
            limits,
            memory_bytes,
            gauges,
            signals,
            client,
        };
        settings.try_client_keys(&mut wrong);
        if wrong.is_empty() { Ok(settings) } else { Err(wrong) }
    }

    /// Where signals are heard.
    pub fn signal_topic(&self) -> Option<&str> {
        self.signals.as_ref().map(|heard| heard.topic.as_str())
    }

    /// What every client of this sink begins with; files that a login comes from are read here.
    pub(crate) fn client_config(&self) -> Outcome<ClientConfig> {
        let mut config = ClientConfig::new();
        config.set("client.id", format!("millrace-{}", self.connector));
        config.set("log.connection.close", "false");
        // A topic that is missing is made with the declared partitions, never by asking about it.
        config.set("allow.auto.create.topics", "false");
        for (key, value) in &self.client {
            config.set(key.as_str(), value.read()?.expose_secret());
        }
        config.set("bootstrap.servers", self.bootstrap.join(","));
        Ok(config)
    }

    /// What librdkafka is given beside what Millrace owns.
    pub(crate) fn client_keys(&self) -> &[(String, Secret)] {
        &self.client
    }

    /// Adds to the hint of an absence what else it may be: brokers that do not take our certificate say so after
    /// the handshake, where librdkafka takes it for a connection that was lost.
    pub(crate) fn with_certificate(&self, error: Error) -> Error {
        let is_set = |key: &str| self.client.iter().any(|(name, _)| name == key);
        let over_tls = self.client_value("security.protocol").is_some_and(|name| name.contains("ssl"));
        if !over_tls {
            return error;
        }
        let hint = error.hint_text().map(|hint| format!("{hint}; ")).unwrap_or_default();
        match is_set("ssl.certificate.location") {
            true => error.hint(format!(
                "{hint}where the cause is a certificate, they do not take ours: openssl x509 -in \
                 <certificate_file> -noout -issuer -dates tells its authority and its last day"
            )),
            false => error.hint(format!(
                "{hint}where the cause is a certificate, they want one: certificate_file and key_file in \
                 [sink.kafka.tls]"
            )),
        }
    }

    /// Adds to the hint of a refusal where the login comes from, if that is read again.
    pub(crate) fn with_login(&self, error: Error) -> Error {
        let file = |(key, value): &(String, Secret)| match (value.files(), key.ends_with(".location")) {
            (Some(files), _) => Some(format!("{key} from {files}")),
            (None, true) => Some(format!("{key} {}", value.read().ok()?.expose_secret())),
            (None, false) => None,
        };
        let files: Vec<String> = self.client.iter().filter_map(file).collect();
        if files.is_empty() {
            return error;
        }
        let hint = error.hint_text().map(|hint| format!("{hint}; ")).unwrap_or_default();
        error.hint(format!(
            "{hint}the login is read again for every attempt, no restart is needed: {}",
            files.join(", ")
        ))
    }

    /// The error for a client that librdkafka does not make. Where it has a certificate of its own it may pass: that
    /// and its key are put into their files one behind the other.
    pub(crate) fn refused(&self, why: impl fmt::Display) -> Error {
        let error = Error::config(format!("librdkafka refuses the settings of the sink: {why}")).hint(
            "correct [sink.kafka]; files named in it must be readable, and SASL and TLS keys must fit together",
        );
        let own = ["ssl.certificate.location", "ssl.key.location", "ssl.keystore.location"];
        match self.client.iter().any(|(key, _)| own.contains(&key.as_str())) {
            true => self.with_login(error.passing()),
            false => error,
        }
    }

    /// What the user says about a key of librdkafka that Millrace does not own.
    pub(crate) fn client_value(&self, key: &str) -> Option<String> {
        let (_, value) = self.client.iter().find(|(name, _)| name == key)?;
        value.read().ok().map(|value| value.expose_secret().to_owned())
    }

    /// Whose one partition goes to the active instance, where several stand by for each other.
    pub(crate) fn turn_topic(&self) -> String {
        format!("{}-turn", self.position_topic)
    }

    /// What a topic of this name is made with.
    pub fn declared(&self, topic: &str) -> &TopicDefaults {
        let found = self.topics.iter().find(|(pattern, _)| pattern.matches(topic));
        found.map_or(&self.topic_defaults, |(_, declared)| declared)
    }

    /// `kafka-1:9092,kafka-2:9092`, for messages.
    pub fn brokers(&self) -> String {
        self.bootstrap.join(",")
    }

    /// Lets librdkafka parse each key, alone, so that every bad one is named.
    fn try_client_keys(&self, wrong: &mut Vec<Error>) {
        for (key, value) in &self.client {
            let value = match value.read() {
                Ok(value) => value,
                Err(error) => {
                    wrong.push(error);
                    continue;
                }
            };
            let mut config = ClientConfig::new();
            config.set(key.as_str(), value.expose_secret());
            if let Err(KafkaError::ClientConfig(_, _, key, _)) = config.create_native_config() {
                // librdkafka's own words quote the value, and the value may be a password.
                wrong.push(
                    Error::config(format!(
                        "sink.kafka.client: librdkafka does not take \"{key}\" as it stands"
                    ))
                    .hint("check its name and its value against librdkafka's CONFIGURATION.md"),
                );
            }
        }
    }
}

/// The connector's name among all that use these brokers. A point cannot be in either part, so that no two
/// pairs make one name.
fn full_name(cluster: Option<&str>, connector: &str, wrong: &mut Vec<Error>) -> String {
    let Some(cluster) = cluster else { return connector.to_owned() };
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if cluster.is_empty() || cluster.len() > CLUSTER_LEN_MAX || !cluster.chars().all(fits) {
        wrong.push(
            Error::config(format!(
                "sink.kafka.cluster is {cluster:?}, not 1 to {CLUSTER_LEN_MAX} lower-case letters, digits, `-` and `_`"
            ))
            .hint("cluster = \"staging\", or leave it out"),
        );
    }
    format!("{cluster}.{connector}")
}

fn topics(
    raw: &BTreeMap<String, RawTopics>,
    defaults: &TopicDefaults,
    wrong: &mut Vec<Error>,
) -> Vec<(Pattern, TopicDefaults)> {
    let mut topics: Vec<_> = raw
        .iter()
        .map(|(pattern, raw)| {
            let own = topic_defaults(&format!("topics.\"{pattern}\""), raw, wrong);
            let mut config = defaults.config.clone();
            config.extend(own.config);
            let partitions = own.partitions.or(defaults.partitions);
            let replication = own.replication.or(defaults.replication);
            (pattern.clone(), TopicDefaults { partitions, replication, config })
        })
        .collect();
    // A name before every pattern, and the longest pattern, which is the most exact one, first.
    topics.sort_by_key(|(pattern, _)| (pattern.contains('*'), std::cmp::Reverse(pattern.len())));
    let parsed = |(pattern, declared): (String, TopicDefaults)| match Pattern::parse(&pattern) {
        Ok(pattern) => Some((pattern, declared)),
        Err(why) => {
            let message = format!("sink.kafka.topics.\"{pattern}\" {why}");
            wrong.push(Error::config(message).hint("write a name, with * for anything, or /expression/"));
            None
        }
    };
    topics.into_iter().filter_map(parsed).collect()
}

fn topic_defaults(key: &str, raw: &RawTopics, wrong: &mut Vec<Error>) -> TopicDefaults {
    for (name, value) in [("partitions", raw.partitions), ("replication", raw.replication)] {
        if value == Some(0) {
            wrong.push(
                Error::config(format!("sink.kafka.{key}.{name} is 0"))
                    .hint("give a positive number, or leave it out for the broker's default"),
            );
        }
    }
    TopicDefaults {
        partitions: raw.partitions,
        replication: raw.replication,
        config: raw.config.iter().map(|(key, value)| (key.clone(), value.to_string())).collect(),
    }
}

pub(crate) fn check_topic_name(name: &str, wrong: &mut Vec<Error>) {
    let fits = (1..=249).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !fits {
        wrong.push(
            Error::config(format!("\"{name}\" cannot be the name of a Kafka topic"))
                .hint("use letters, digits, '.', '_' and '-'"),
        );
    }
}

/// The free keys, checked against the owned ones, and those that the explicit tables stand for.
fn client_keys(raw: &Raw, wrong: &mut Vec<Error>) -> Vec<(String, Secret)> {
    let mut keys = Vec::new();
    for (key, value) in &raw.client {
        match owned(key) {
            Some(reason) => wrong.push(
                Error::config(format!("sink.kafka.client must not hold \"{key}\": {reason}"))
                    .hint(format!("remove \"{key}\" from [sink.kafka.client]")),
            ),
            None => keys.push((key.clone(), Secret::of_marked(&value.to_string()))),
        }
    }
    for (key, value) in explicit_keys(raw, wrong) {
        if raw.client.contains_key(key) {
            wrong.push(
                Error::config(format!("\"{key}\" is given twice, in sink.kafka.client and by its own key"))
                    .hint(format!("remove \"{key}\" from [sink.kafka.client]")),
            );
        }
        keys.push((key.to_owned(), value));
    }
    keys
}

fn owned(key: &str) -> Option<&'static str> {
    let is = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => key.starts_with(start),
        None => key == pattern,
    };
    OWNED.iter().find(|(pattern, _)| is(pattern)).map(|(_, reason)| *reason)
}

fn explicit_keys(raw: &Raw, wrong: &mut Vec<Error>) -> Vec<(&'static str, Secret)> {
    let mut keys = Vec::new();
    if let Some(security) = raw.security {
        keys.push(("security.protocol", Secret::from(security.name())));
    }
    let sasl_on = raw.security.is_some_and(Security::has_sasl);
    if let Some(sasl) = &raw.sasl {
        if !sasl_on {
            wrong.push(
                Error::config("sink.kafka.sasl is given, but sink.kafka.security does not use it")
                    .hint("security = \"sasl_ssl\" in [sink.kafka]"),
            );
        }
        keys.push(("sasl.mechanisms", Secret::from(sasl.mechanism.as_str())));
        keys.push(("sasl.username", sasl.username.clone()));
        keys.push(("sasl.password", sasl.password.clone()));
    } else if sasl_on && !raw.client.keys().any(|key| key.starts_with("sasl.")) {
        wrong.push(
            Error::config("sink.kafka.security asks for SASL, but there is no user")
                .hint("add [sink.kafka.sasl] with mechanism, username and password"),
        );
    }
    if let Some(tls) = &raw.tls {
        let files = [
            ("ssl.ca.location", &tls.ca_file),
            ("ssl.certificate.location", &tls.certificate_file),
            ("ssl.key.location", &tls.key_file),
        ];
        for (key, file) in files {
            let Some(file) = file else { continue };
            if !file.is_file() {
                wrong.push(
                    Error::config(format!("sink.kafka.tls: {} is not a file", file.display()))
                        .hint("give the path of a PEM file that this user may read"),
                );
            }
            keys.push((key, Secret::from(file.display().to_string())));
        }
        if let Some(password) = &tls.key_password {
            keys.push(("ssl.key.password", password.clone()));
        }
    }
    keys
}

#[cfg(test)]
mod tests;
