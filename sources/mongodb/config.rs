//! `[source.mongodb]`: `Raw` mirrors the file, `Settings` is what the source works with. Start at
//! `Settings::resolve`, which lists every problem at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use millrace_core::batch::BatchLimits;
use millrace_core::error::Error;
use millrace_core::pattern::Pattern as Names;
use millrace_core::secret::Secret;
use mongodb::bson::RawDocumentBuf;
use mongodb::options::{ConnectionString, HostInfo};
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::bson::{Dialect, FieldRules, Rule};
use crate::collections::{Name, Pattern};
use crate::resume_token::ClusterTime;
use crate::snapshot::find::condition;

/// 1 MiB: some thousand events, enough to spread what a batch costs, and small enough to stay in the cache.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Cells and changes are memory too: narrow documents close a batch by their number.
const BATCH_ROWS_MAX: usize = 10_000;
/// A chunk is one batch: large enough to spread what its reading costs, small enough to be read again.
const SNAPSHOT_CHUNK_ROWS: u64 = 10_000;
/// As for tables: two keep the rest of the way busy.
const SNAPSHOT_WORKERS: usize = 2;
/// An idle set writes an entry into its log every ten seconds; a place younger than that does not exist.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Longer than an election, shorter than an operator's patience.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The table of the file, as it is written there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// `mongodb://user@host,host/?replicaSet=name`. May hold the password, hence a secret.
    pub url: Secret,
    pub password: Option<Secret>,
    pub collections: Vec<String>,
    #[serde(default)]
    pub exclude_collections: Vec<String>,
    #[serde(default)]
    pub databases: Vec<String>,
    pub scope: Option<ScopeKind>,
    pub snapshot: Option<Snapshot>,
    pub snapshot_chunk_rows: Option<u64>,
    pub snapshot_workers: Option<usize>,
    #[serde(default)]
    pub snapshot_collections: Vec<String>,
    #[serde(default)]
    pub snapshot_filters: BTreeMap<String, String>,
    pub start_at: Option<String>,
    pub signal_collection: Option<String>,
    pub update_document: Option<UpdateDocument>,
    pub pre_images: Option<bool>,
    pub json: Option<Dialect>,
    pub json_keys: Option<Dialect>,
    #[serde(default)]
    pub exclude_fields: Vec<String>,
    #[serde(default)]
    pub rename_fields: BTreeMap<String, String>,
    pub split_large_events: Option<bool>,
    pub tls_ca_file: Option<PathBuf>,
    pub tls_certificate_key_file: Option<PathBuf>,
    pub heartbeat_interval_s: Option<u64>,
    pub connect_timeout_s: Option<u64>,
    pub server_selection_timeout_s: Option<u64>,
    pub batch_bytes_max: Option<usize>,
    pub batch_rows_max: Option<usize>,
}

/// What the change stream is opened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScopeKind {
    Deployment,
    Database,
    Collection,
}

/// What is copied before the changes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Snapshot {
    /// The documents that are there when a collection is first captured.
    #[default]
    Initial,
    /// Nothing: changes from the first start on.
    NoData,
}

/// Which document stands in `after` of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateDocument {
    /// None: only what the update set.
    None,
    /// As it is when the event is read, maybe some updates later.
    #[default]
    Lookup,
    /// As the update left it, where the server keeps images.
    PostImage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Deployment,
    Database(String),
    Collection(String, String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deployment => f.write_str("deployment"),
            Self::Database(database) => write!(f, "database {database}"),
            Self::Collection(database, collection) => write!(f, "collection {database}.{collection}"),
        }
    }
}

/// A rule for one field of the collections that a pattern means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRule {
    pub collections: Pattern,
    pub path: String,
    pub rule: Rule,
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// The connector's name; what the server shows of our connections.
    pub connector: String,
    pub url: Secret,
    pub password: Option<Secret>,
    /// `host:port,host:port`, for messages.
    hosts: String,
    pub collections: Vec<Pattern>,
    pub exclude_collections: Vec<Pattern>,
    /// Of these alone; of all where none is named.
    pub databases: Vec<Names>,
    pub scope: Scope,
    pub snapshot: Snapshot,
    /// Documents of a collection that are read as of one time, at most.
    pub snapshot_chunk_rows: u64,
    /// Readers at the same time.
    pub snapshot_workers: usize,
    /// Those whose first documents are read; all where none is named.
    pub snapshot_collections: Vec<Pattern>,
    /// Conditions on first documents.
    pub snapshot_filters: Vec<(Pattern, RawDocumentBuf)>,
    /// Where a first start begins, if not now.
    pub start_at: Option<ClusterTime>,
    /// Its new documents are signals.
    pub signal_collection: Option<Name>,
    pub update_document: UpdateDocument,
    pub pre_images: bool,
    pub json: Dialect,
    /// Of ids in keys.
    pub json_keys: Dialect,
    pub fields: Vec<FieldRule>,
    /// Where the server can.
    pub split_large_events: bool,
    pub tls_ca_file: Option<PathBuf>,
    pub tls_certificate_key_file: Option<PathBuf>,
    pub heartbeat_interval: Duration,
    pub connect_timeout: Duration,
    pub server_selection_timeout: Duration,
    pub batch: BatchLimits,
}

impl Settings {
    /// Applies defaults and checks everything that can be checked without a server.
    pub fn resolve(raw: Raw, connector: &str) -> Result<Self, Vec<Error>> {
        let mut problems = Problems(Vec::new());
        let hosts = problems.url(&raw);
        let collections = problems.patterns("collections", &raw.collections);
        if raw.collections.is_empty() {
            problems.add(
                "collections is empty",
                "list what to capture: collections = [\"shop.orders\"] or [\"shop.*\"]",
            );
        }
        let scope = problems.scope(raw.scope.unwrap_or(ScopeKind::Deployment), &collections);
        let settings = Self {
            connector: connector.to_owned(),
            hosts,
            exclude_collections: problems.patterns("exclude_collections", &raw.exclude_collections),
            databases: problems.databases(&raw.databases),
            snapshot: raw.snapshot.unwrap_or_default(),
            snapshot_chunk_rows: problems.within(
                "snapshot_chunk_rows",
                raw.snapshot_chunk_rows,
                SNAPSHOT_CHUNK_ROWS,
                1..=1_000_000,
            ),
            snapshot_workers: problems.within(
                "snapshot_workers",
                raw.snapshot_workers,
                SNAPSHOT_WORKERS,
                1..=32,
            ),
            snapshot_collections: problems.patterns("snapshot_collections", &raw.snapshot_collections),
            snapshot_filters: problems.filters(&raw.snapshot_filters),
            start_at: problems.start(raw.start_at.as_deref()),
            signal_collection: problems.signals(raw.signal_collection.as_deref(), &scope),
            update_document: raw.update_document.unwrap_or_default(),
            pre_images: raw.pre_images.unwrap_or(false),
            json: raw.json.unwrap_or_default(),
            // As Debezium, whatever documents look like.
            json_keys: raw.json_keys.unwrap_or(Dialect::Relaxed),
            fields: problems.fields(&raw.exclude_fields, &raw.rename_fields),
            split_large_events: raw.split_large_events.unwrap_or(true),
            heartbeat_interval: problems.seconds("heartbeat_interval_s", raw.heartbeat_interval_s, HEARTBEAT),
            connect_timeout: problems.seconds("connect_timeout_s", raw.connect_timeout_s, CONNECT_TIMEOUT),
            server_selection_timeout: problems.seconds(
                "server_selection_timeout_s",
                raw.server_selection_timeout_s,
                SELECTION_TIMEOUT,
            ),
            batch: problems.batch(&raw),
            scope,
            collections,
            url: raw.url,
            password: raw.password,
            tls_ca_file: raw.tls_ca_file,
            tls_certificate_key_file: raw.tls_certificate_key_file,
        };
        if problems.0.is_empty() { Ok(settings) } else { Err(problems.0) }
    }

    /// The hosts, for messages.
    pub fn place(&self) -> &str {
        &self.hosts
    }

    /// The files that the login comes from, for messages; empty where only a restart changes it.
    pub fn login_files(&self) -> String {
        let secrets = self.password.iter().chain([&self.url]).filter_map(Secret::files);
        let certificates = [&self.tls_ca_file, &self.tls_certificate_key_file].into_iter().flatten();
        let certificates = certificates.map(|file| file.display().to_string());
        secrets.chain(certificates).collect::<Vec<_>>().join(", ")
    }

    /// What the server shows of our connections.
    pub fn application_name(&self) -> String {
        format!("millrace-{}", self.connector)
    }

    /// Whether documents are to come as they were at a change, which the server has to keep.
    pub fn wants_images(&self) -> bool {
        self.pre_images || self.update_document == UpdateDocument::PostImage
    }

    /// Whether the file asks for this collection.
    pub fn wants(&self, database: &str, collection: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(database, collection));
        let is_of_database =
            self.databases.is_empty() || self.databases.iter().any(|names| names.matches(database));
        is_of_database && any(&self.collections) && !any(&self.exclude_collections)
    }

    /// Whether the first documents of a captured collection are read.
    pub fn reads(&self, database: &str, collection: &str) -> bool {
        let mut patterns = self.snapshot_collections.iter();
        self.snapshot_collections.is_empty() || patterns.any(|pattern| pattern.matches(database, collection))
    }

    /// The condition on the first documents of a collection.
    pub fn snapshot_filter(&self, database: &str, collection: &str) -> Option<&RawDocumentBuf> {
        let mut filters = self.snapshot_filters.iter();
        filters.find(|(pattern, _)| pattern.matches(database, collection)).map(|(_, filter)| filter)
    }

    /// The rules for the fields of one collection; `None` where there are none.
    pub fn rules(&self, database: &str, collection: &str) -> Option<FieldRules> {
        let mut rules = FieldRules::default();
        for (order, field) in self.fields.iter().enumerate() {
            if field.collections.matches(database, collection) {
                rules.add(&field.path.split('.').collect::<Vec<_>>(), &field.rule, order);
            }
        }
        Some(rules).filter(|rules| !rules.is_empty())
    }
}

/// Collects what is wrong instead of stopping at the first of it.
struct Problems(Vec<Error>);

impl Problems {
    fn add(&mut self, message: impl Into<String>, hint: &str) {
        self.0.push(Error::config(format!("[source.mongodb] {}", message.into())).hint(hint));
    }

    /// The driver's own words may repeat a part of the url, and with it the password.
    fn url(&mut self, raw: &Raw) -> String {
        const HINT: &str = "write url = \"mongodb://user@host:27017,host:27017/?replicaSet=rs0\" and the password in its own key";
        let text = match raw.url.read() {
            Ok(text) => text,
            Err(error) => {
                self.0.push(error);
                return String::new();
            }
        };
        let text = text.expose_secret();
        if !text.starts_with("mongodb://") && !text.starts_with("mongodb+srv://") {
            self.add("url does not begin with mongodb:// or mongodb+srv://", HINT);
            return String::new();
        }
        let Ok(parsed) = ConnectionString::parse(text) else {
            self.add("url cannot be read", HINT);
            return String::new();
        };
        let has_password = parsed.credential.as_ref().is_some_and(|credential| credential.password.is_some());
        if has_password && raw.password.is_some() {
            self.add("password is given twice, in its own key and in url", "remove it from url");
        }
        if raw.password.is_some() && parsed.credential.is_none() {
            self.add("password is given, and url names no user", HINT);
        }
        match parsed.host_info {
            HostInfo::HostIdentifiers(hosts) => {
                hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
            HostInfo::DnsRecord(name) => name,
            _ => String::from("?"),
        }
    }

    fn patterns(&mut self, key: &str, entries: &[String]) -> Vec<Pattern> {
        let mut patterns = Vec::new();
        for entry in entries {
            match Pattern::parse(entry) {
                Ok(pattern) if patterns.contains(&pattern) => {
                    self.add(format!("{key}: {entry:?} is listed twice"), "remove one of the two");
                }
                Ok(pattern) => patterns.push(pattern),
                Err(what) => {
                    self.add(
                        format!("{key}: {entry:?} {what}"),
                        "write database.collection, database.*, *.* or an expression between slashes",
                    );
                }
            }
        }
        patterns
    }

    fn databases(&mut self, entries: &[String]) -> Vec<Names> {
        let mut databases = Vec::new();
        for entry in entries {
            match Names::parse(entry) {
                Ok(names) => databases.push(names),
                Err(what) => self.add(
                    format!("databases: {entry:?} {what}"),
                    "write a name, with * for anything, or an expression between slashes",
                ),
            }
        }
        databases
    }

    fn filters(&mut self, entries: &BTreeMap<String, String>) -> Vec<(Pattern, RawDocumentBuf)> {
        let mut filters = Vec::new();
        for (name, text) in entries {
            let pattern = self.patterns("snapshot_filters", std::slice::from_ref(name)).pop();
            match (condition(text), pattern) {
                (Ok(filter), Some(pattern)) => filters.push((pattern, filter)),
                (Ok(_), None) => {}
                (Err(error), _) => self.add(
                    format!("snapshot_filters: the condition of {name:?} is no query in JSON: {error}"),
                    "write it as for find, as in '{\"qty\": {\"$gt\": 5}}'",
                ),
            }
        }
        filters
    }

    fn start(&mut self, text: Option<&str>) -> Option<ClusterTime> {
        let parsed = text?.parse::<ClusterTime>();
        if let Err(what) = &parsed {
            self.add(format!("start_at: {what}"), "write seconds.increment, as in \"1700000000.1\"");
        }
        parsed.ok()
    }

    /// The stream has to see its inserts.
    fn signals(&mut self, text: Option<&str>, scope: &Scope) -> Option<Name> {
        let text = text?;
        let Ok(Pattern::One { database, collection }) = Pattern::parse(text) else {
            self.add(
                format!("signal_collection {text:?} is not one collection"),
                "write database.collection",
            );
            return None;
        };
        let is_seen = match scope {
            Scope::Deployment => true,
            Scope::Database(own) => *own == database,
            Scope::Collection(..) => false,
        };
        if !is_seen {
            self.add(
                format!("signal_collection {text:?} is not seen by a stream on {scope}"),
                "set scope = \"deployment\", or send signals by REST or by a topic (signal_topic)",
            );
        }
        Some(Name { database, collection })
    }

    fn batch(&mut self, raw: &Raw) -> BatchLimits {
        BatchLimits {
            bytes_max: self.within("batch_bytes_max", raw.batch_bytes_max, BATCH_BYTES_MAX, 4096..=1 << 30),
            rows_max: self.within("batch_rows_max", raw.batch_rows_max, BATCH_ROWS_MAX, 1..=1_000_000),
        }
    }

    /// A narrower stream needs fewer rights, and cannot see what lies beside it.
    fn scope(&mut self, kind: ScopeKind, collections: &[Pattern]) -> Scope {
        let first = collections.first();
        match (kind, first) {
            (ScopeKind::Deployment, _) | (_, None) => Scope::Deployment,
            (ScopeKind::Database, Some(first)) => {
                let one = collections.iter().all(|pattern| pattern.database() == first.database());
                match first.database().filter(|_| one) {
                    Some(database) => Scope::Database(database.to_owned()),
                    None => {
                        self.add(
                            "scope is \"database\", and collections names more than one",
                            "set scope = \"deployment\"",
                        );
                        Scope::Deployment
                    }
                }
            }
            (ScopeKind::Collection, Some(first)) => match (first, collections.len()) {
                (Pattern::One { database, collection }, 1) => {
                    Scope::Collection(database.clone(), collection.clone())
                }
                _ => {
                    self.add(
                        "scope is \"collection\", and collections names more than one",
                        "set scope = \"database\" or \"deployment\"",
                    );
                    Scope::Deployment
                }
            },
        }
    }

    fn fields(&mut self, excluded: &[String], renamed: &BTreeMap<String, String>) -> Vec<FieldRule> {
        let excluded = excluded.iter().map(|entry| ("exclude_fields", entry, Rule::Exclude));
        let renamed = renamed.iter().map(|(entry, new)| ("rename_fields", entry, Rule::Rename(new.clone())));
        let mut rules = Vec::new();
        for (key, entry, rule) in excluded.chain(renamed) {
            let bad_name = matches!(&rule, Rule::Rename(new) if new.is_empty() || new.contains(['.', '\0']));
            match field(entry).filter(|_| !bad_name) {
                Some((collections, path)) => rules.push(FieldRule { collections, path, rule }),
                None => self.add(
                    format!("{key}: {entry:?} is not usable"),
                    "write \"database.collection.field\" or \"database.collection.field.nested\", with * for \
                     any collection; a new name holds no dot",
                ),
            }
        }
        rules
    }

    fn seconds(&mut self, key: &str, given: Option<u64>, default: Duration) -> Duration {
        match given {
            None => default,
            // A day: longer than any useful interval, short enough to add to a clock without care.
            Some(seconds) if (1..=86_400).contains(&seconds) => Duration::from_secs(seconds),
            Some(seconds) => {
                self.add(format!("{key} = {seconds} is out of range"), "use 1 to 86400 seconds");
                default
            }
        }
    }

    fn within<T: Copy + PartialOrd + fmt::Display>(
        &mut self,
        key: &str,
        given: Option<T>,
        default: T,
        range: std::ops::RangeInclusive<T>,
    ) -> T {
        match given {
            Some(value) if !range.contains(&value) => {
                let hint = format!("use {} to {}", range.start(), range.end());
                self.add(format!("{key} = {value} is out of range"), &hint);
                default
            }
            _ => given.unwrap_or(default),
        }
    }
}

/// `database.collection.path`; a collection whose name holds a dot cannot be named so, only by `*`.
fn field(entry: &str) -> Option<(Pattern, String)> {
    let mut parts = entry.splitn(3, '.');
    let (database, collection, path) = (parts.next()?, parts.next()?, parts.next()?);
    let pattern = Pattern::parse(&format!("{database}.{collection}")).ok()?;
    let usable = path.split('.').all(|part| !part.is_empty()) && path != "_id";
    usable.then(|| (pattern, path.to_owned()))
}

#[cfg(test)]
mod tests;
