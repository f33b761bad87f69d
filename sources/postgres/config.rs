//! `[source.postgres]`: `Raw` mirrors the file, `Settings` is what the source works with. Start at
//! `Settings::resolve`, which lists every problem at once.

mod reselect;
mod signals;
mod snapshot;
mod url;
mod wal;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use millrace_core::batch::BatchLimits;
use millrace_core::error::{Error, Result as Outcome};
use millrace_core::pattern::Pattern;
use millrace_core::route::rule::FirstStart;
use millrace_core::secret::Secret;
use secrecy::SecretString;
use serde::Deserialize;

use crate::janitor::Keep;
use crate::messages::Prefixes;
use crate::tables::{TableName, TablePattern};
pub use reselect::Reselected;
pub use signals::Signals;
pub use snapshot::{Snapshot, SnapshotMode};
pub use url::{Host, Password, Server, Target};
pub use wal::{WalPolicy, gigabytes};

/// 1 MiB: some thousand rows, enough to spread what a batch costs, and small enough to stay in the cache.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Cells and changes are memory too: narrow rows close a batch by their number.
const BATCH_ROWS_MAX: usize = 10_000;
/// A chunk is one batch: large enough to spread what its snapshot costs, small enough to be read again.
const CHUNK_ROWS_MAX: u64 = 10_000;
/// One reads while another one's rows are on their way; more load the server for little.
const WORKERS: usize = 2;
/// Keeps an idle database's slot moving, at the price of one tiny log record.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// As pg_recvlogical; the stream shortens it to a third of the server's `wal_sender_timeout`.
const STATUS: Duration = Duration::from_secs(10);
/// The server sends a keepalive after half its `wal_sender_timeout`, 30 s by default: twice that is dead.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// As Debezium: longer than most transactions, shorter than an operator's patience.
const CREATE_SLOT: Duration = Duration::from_secs(90);
/// Longer than a slow name server, shorter than an operator's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Postgres cuts longer names short (NAMEDATALEN - 1), and two cut names can be one.
const NAME_BYTES_MAX: usize = 63;

/// The table of the file, as it is written there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// `postgres://user@host:port/database`. May hold the password, hence a secret.
    pub url: Secret,
    pub primary_hosts: Option<Vec<String>>,
    pub password: Option<Secret>,
    pub tables: Vec<String>,
    #[serde(default)]
    pub exclude_tables: Vec<String>,
    pub partitions: Option<Partitions>,
    #[serde(default)]
    pub message_keys: BTreeMap<String, Vec<String>>,
    pub messages: Option<Vec<String>>,
    #[serde(default)]
    pub message_events: Vec<String>,
    #[serde(default)]
    pub exclude_message_events: Vec<String>,
    #[serde(default)]
    pub reselect_columns: Vec<String>,
    #[serde(default)]
    pub exclude_reselect_columns: Vec<String>,
    pub reselect_nulls: Option<bool>,
    pub signal_table: Option<String>,
    pub signal_file: Option<PathBuf>,
    pub signal_file_interval_s: Option<u64>,
    pub publication: Option<String>,
    pub slot: Option<String>,
    pub create_publication: Option<bool>,
    pub alter_publication: Option<bool>,
    pub only_published: Option<bool>,
    pub create_slot: Option<bool>,
    pub create_slot_timeout_s: Option<u64>,
    pub failover_slot: Option<bool>,
    pub snapshot: Option<SnapshotMode>,
    pub snapshot_rows: Option<bool>,
    pub snapshot_stream: Option<bool>,
    pub snapshot_on_loss: Option<bool>,
    pub snapshot_chunk_rows: Option<u64>,
    pub snapshot_workers: Option<usize>,
    pub sslmode: Option<SslMode>,
    pub channel_binding: Option<ChannelBinding>,
    pub sslrootcert: Option<PathBuf>,
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    pub heartbeat_interval_s: Option<u64>,
    pub status_interval_s: Option<u64>,
    pub receive_timeout_s: Option<u64>,
    pub connect_timeout_s: Option<u64>,
    pub slot_made_beforehand: Option<bool>,
    pub wal_limit_gb: Option<f64>,
    pub wal_policy: Option<WalPolicy>,
    pub existing_slot: Option<ExistingSlot>,
    pub heartbeat_query: Option<String>,
    pub batch_bytes_max: Option<usize>,
    pub batch_rows_max: Option<usize>,
}

/// As in libpq.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    Disable,
    /// TLS where the server offers it.
    Prefer,
    /// TLS, with any certificate.
    Require,
    /// TLS, with a certificate that chains to a trusted root.
    VerifyCa,
    /// The same, and made out to the host.
    #[default]
    VerifyFull,
}

/// By what a partitioned table is captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partitions {
    #[default]
    Root,
    Parts,
}

/// What becomes of a slot that is there before the connector's first start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExistingSlot {
    #[default]
    Refuse,
    /// Its confirmed position is the start.
    Take,
}

/// As in libpq: whether a password is tied to the TLS session that it goes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelBinding {
    Disable,
    /// Where the server offers it.
    #[default]
    Prefer,
    /// A server that cannot is refused, and one that asks for no such proof.
    Require,
}

impl SslMode {
    /// Whether a server without TLS is refused.
    pub fn demands(self) -> bool {
        match self {
            SslMode::Disable | SslMode::Prefer => false,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => true,
        }
    }
}

/// What both connections need to set up TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub mode: SslMode,
    /// PEM; without it Mozilla's roots are trusted.
    pub root_cert: Option<PathBuf>,
    /// PEM files of the certificate and the key to show to the server.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// What is read from files, with their keys, for messages; empty where nothing is.
    pub fn files(&self) -> String {
        let root = self.root_cert.iter().map(|path| format!("sslrootcert {}", path.display()));
        let client = self
            .client
            .iter()
            .map(|(cert, key)| format!("sslcert {} and sslkey {}", cert.display(), key.display()));
        root.chain(client).collect::<Vec<_>>().join(", ")
    }
}

/// What routes say of the rows that are there, by the tables that they are of; nothing where a table is no outbox.
pub type Outboxes = [(Vec<Pattern>, Option<FirstStart>)];

#[derive(Clone, Debug)]
pub struct Settings {
    /// The connector's name; part of `application_name`.
    pub connector: String,
    /// The one that is spoken to: the first until a connection is made.
    pub server: Server,
    /// In the order in which they are tried.
    pub servers: Vec<Server>,
    pub target: Target,
    /// Where rows are read, where `servers` are standbys.
    pub primaries: Vec<Server>,
    pub user: String,
    pub database: String,
    pub password: Option<Password>,
    pub tls: Tls,
    pub channel_binding: ChannelBinding,
    pub tables: Vec<TablePattern>,
    /// And what of it not.
    pub exclude_tables: Vec<TablePattern>,
    pub partitions: Partitions,
    /// Columns to key events by instead of the table's own key.
    pub message_keys: Vec<(TablePattern, Vec<String>)>,
    /// Prefixes of transactional logical messages that are captured.
    pub messages: Vec<String>,
    /// Prefixes of logical messages that make events.
    pub message_events: Prefixes,
    /// Values that are read again where an update did not send them.
    pub reselected: Reselected,
    pub signals: Signals,
    pub publication: String,
    pub slot: String,
    pub create_publication: bool,
    /// One that somebody else made is changed, too.
    pub alter_publication: bool,
    /// Of `tables`, only those that are published: where nobody here publishes the others.
    pub only_published: bool,
    pub create_slot: bool,
    pub create_slot_timeout: Duration,
    /// A slot that is made follows a promotion, where the server can have it so.
    pub failover_slot: bool,
    pub snapshot: Snapshot,
    /// Rows of a table that are read under one snapshot, at most.
    pub snapshot_chunk_rows: u64,
    /// Connections that read rows at the same time.
    pub snapshot_workers: usize,
    /// `None`: off.
    pub heartbeat_interval: Option<Duration>,
    pub status_interval: Duration,
    pub receive_timeout: Duration,
    pub connect_timeout: Duration,
    /// Bytes of log that the server may keep for this connector.
    pub wal_limit: Option<u64>,
    pub wal_policy: WalPolicy,
    /// The slot was made by somebody else, so its `confirmed_flush_lsn` is the start.
    pub slot_made_beforehand: bool,
    /// A slot that is there at the first start is taken over; where there is none, it is made.
    pub takes_slot: bool,
    /// Run at every heartbeat, in place of the message in the log.
    pub heartbeat_query: Option<String>,
    /// How long the rows of tables stay that are deleted after they were delivered. The first that fits counts.
    pub swept: Vec<(Vec<Pattern>, Option<Keep>)>,
    /// What becomes of the rows that are there of tables that are outboxes. The first that fits counts.
    pub outboxes: Box<Outboxes>,
    pub batch: BatchLimits,
}

impl Settings {
    /// Applies defaults and checks everything that can be checked without a server.
    pub fn resolve(raw: Raw, connector: &str) -> Result<Self, Vec<Error>> {
        let mut problems = Problems(Vec::new());
        let url = raw.url.read().map_err(|error| vec![error]).and_then(|text| url::parse(&text));
        let url = url.unwrap_or_else(|found| {
            problems.0.extend(found);
            url::Url::default()
        });
        let own = format!("millrace_{}", connector.to_lowercase().replace(|c| !is_slot_char(c), "_"));
        let heartbeat = problems.seconds("heartbeat_interval_s", raw.heartbeat_interval_s, HEARTBEAT, 0);
        let snapshot = Snapshot::resolve(&raw, &mut problems);
        let (wal_limit, wal_policy) = wal::limit(&raw, &mut problems);
        let to_connect = raw.connect_timeout_s.or(url.connect_timeout_s);
        let to_make_a_slot = raw.create_slot_timeout_s;
        let settings = Self {
            connector: connector.to_owned(),
            tls: tls(&raw, &url, &mut problems),
            channel_binding: raw.channel_binding.or(url.channel_binding).unwrap_or_default(),
            message_events: message_events(&raw, &mut problems),
            reselected: Reselected::resolve(&raw, &mut problems),
            signals: Signals::resolve(&raw, &mut problems),
            password: problems.only_one(
                raw.password.map(Password::Own),
                url.password.as_ref().map(|_| Password::OfUrl(raw.url)),
                "password",
            ),
            server: url.first(),
            servers: url.servers,
            target: url.target,
            primaries: problems.servers(raw.primary_hosts.as_deref().unwrap_or_default()),
            user: url.user,
            database: url.database,
            tables: tables(&raw.tables, &mut problems),
            exclude_tables: patterns(&raw.exclude_tables, &mut problems),
            partitions: raw.partitions.unwrap_or_default(),
            message_keys: message_keys(raw.message_keys, &mut problems),
            messages: raw.messages.unwrap_or_default(),
            publication: problems.name("publication", raw.publication, &own),
            slot: problems.slot(raw.slot, &own),
            create_publication: raw.create_publication.unwrap_or(true),
            alter_publication: raw.alter_publication.unwrap_or(true),
            only_published: raw.only_published.unwrap_or(false),
            create_slot: raw.create_slot.unwrap_or(true),
            create_slot_timeout: problems.seconds("create_slot_timeout_s", to_make_a_slot, CREATE_SLOT, 1),
            failover_slot: raw.failover_slot.unwrap_or(true),
            snapshot,
            snapshot_chunk_rows: problems.within(
                "snapshot_chunk_rows",
                raw.snapshot_chunk_rows,
                CHUNK_ROWS_MAX,
                1..=1_000_000,
            ),
            snapshot_workers: problems.within("snapshot_workers", raw.snapshot_workers, WORKERS, 1..=32),
            heartbeat_interval: Some(heartbeat).filter(|interval| !interval.is_zero()),
            status_interval: problems.seconds("status_interval_s", raw.status_interval_s, STATUS, 1),
            receive_timeout: problems.seconds("receive_timeout_s", raw.receive_timeout_s, RECEIVE_TIMEOUT, 1),
            connect_timeout: problems.seconds("connect_timeout_s", to_connect, CONNECT_TIMEOUT, 1),
            wal_limit,
            wal_policy,
            slot_made_beforehand: raw.slot_made_beforehand.unwrap_or(false),
            takes_slot: raw.existing_slot == Some(ExistingSlot::Take),
            heartbeat_query: problems.heartbeat_query(raw.heartbeat_query, heartbeat),
            swept: Vec::new(),
            outboxes: Box::default(),
            batch: batch_limits(raw.batch_bytes_max, raw.batch_rows_max, &mut problems),
        };
        if problems.0.is_empty() { Ok(settings) } else { Err(problems.0) }
    }

    /// `user@host:port/database`, for messages: everything but the password.
    pub fn place(&self) -> String {
        format!("{}@{}/{}", self.user, self.server, self.database)
    }

    /// The same on the server where rows are read.
    pub fn on_primary(&self) -> Self {
        let Some(server) = self.primaries.first().cloned() else { return self.clone() };
        Self { server, servers: self.primaries.clone(), target: Target::ReadWrite, ..self.clone() }
    }

    /// The password as it is now.
    pub fn present_password(&self) -> Outcome<Option<SecretString>> {
        self.password.as_ref().map(Password::read).transpose()
    }

    /// What the server shows of both our connections.
    pub fn application_name(&self) -> String {
        format!("millrace-{}", self.connector)
    }

    /// The columns that the file wants this table's events keyed by.
    pub fn message_key(&self, schema: &str, table: &str) -> Option<&[String]> {
        let found = self.message_keys.iter().find(|(pattern, _)| pattern.matches(schema, table));
        found.map(|(_, columns)| columns.as_slice())
    }

    /// How long the table's rows stay after they were delivered, where they are deleted then.
    pub fn swept_after(&self, table: &TableName) -> Option<Keep> {
        first_that_fits(&self.swept, table).copied()
    }

    /// What becomes of the rows that are there, where the table is an outbox.
    pub fn outbox(&self, table: &TableName) -> Option<&FirstStart> {
        first_that_fits(&self.outboxes, table)
    }

    /// Whether the rows of some outbox are wanted that are there.
    pub fn drains(&self) -> bool {
        let drains = |first: &Option<FirstStart>| matches!(first, Some(FirstStart::Drain { .. }));
        self.outboxes.iter().any(|(_, first)| drains(first))
    }

    /// Whether the file asks for this table.
    pub fn wants(&self, schema: &str, table: &str) -> bool {
        let any = |patterns: &[TablePattern]| patterns.iter().any(|pattern| pattern.matches(schema, table));
        any(&self.tables) && !any(&self.exclude_tables)
    }
}

/// What the first route says that fits a table.
pub fn first_that_fits<'a, T>(routes: &'a [(Vec<Pattern>, Option<T>)], table: &TableName) -> Option<&'a T> {
    let name = table.to_string();
    routes.iter().find(|(patterns, _)| patterns.iter().any(|own| own.matches(&name)))?.1.as_ref()
}

fn is_slot_char(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '_')
}

fn tls(raw: &Raw, url: &url::Url, problems: &mut Problems) -> Tls {
    let file = |own: &Option<PathBuf>, of_url: &Option<PathBuf>| own.clone().or_else(|| of_url.clone());
    let root_cert = file(&raw.sslrootcert, &url.sslrootcert);
    let client = match (file(&raw.sslcert, &url.sslcert), file(&raw.sslkey, &url.sslkey)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            problems.add("sslcert and sslkey belong together", "give both or neither");
            None
        }
    };
    // Nobody listens in on this machine; everywhere else a server has to prove who it is.
    let primaries = raw.primary_hosts.iter().flatten().filter_map(|text| url::place(text));
    let is_local = url.servers.iter().cloned().chain(primaries).all(|server| server.is_local());
    let usual = if is_local { SslMode::Prefer } else { SslMode::VerifyFull };
    let mode = match (raw.sslmode.or(url.sslmode).unwrap_or(usual), &root_cert) {
        // As libpq: who names a root wants it looked at.
        (SslMode::Require, Some(_)) => SslMode::VerifyCa,
        (mode, _) => mode,
    };
    if mode == SslMode::Disable && (root_cert.is_some() || client.is_some()) {
        problems.add("certificates are given, but sslmode is disable", "set sslmode = \"verify-full\"");
    }
    Tls { mode, root_cert, client }
}

fn batch_limits(bytes: Option<usize>, rows: Option<usize>, problems: &mut Problems) -> BatchLimits {
    BatchLimits {
        bytes_max: problems.within("batch_bytes_max", bytes, BATCH_BYTES_MAX, 4096..=1 << 30),
        rows_max: problems.within("batch_rows_max", rows, BATCH_ROWS_MAX, 1..=1_000_000),
    }
}

fn tables(entries: &[String], problems: &mut Problems) -> Vec<TablePattern> {
    if entries.is_empty() {
        problems
            .add("tables is empty", "list what to capture: tables = [\"public.orders\"] or [\"public.*\"]");
    }
    patterns(entries, problems)
}

fn patterns(entries: &[String], problems: &mut Problems) -> Vec<TablePattern> {
    let mut patterns = Vec::new();
    for entry in entries {
        match TablePattern::parse(entry) {
            Ok(pattern) if patterns.contains(&pattern) => {
                problems.add(format!("table {entry:?} is listed twice"), "remove one of the two");
            }
            Ok(pattern) => patterns.push(pattern),
            Err(what) => problems.add(format!("table {entry:?} {what}"), "write schema.table or schema.*"),
        }
    }
    patterns
}

fn message_keys(
    given: BTreeMap<String, Vec<String>>,
    problems: &mut Problems,
) -> Vec<(TablePattern, Vec<String>)> {
    let mut keys = Vec::new();
    for (table, columns) in given {
        match TablePattern::parse(&table) {
            Ok(pattern) => keys.push((pattern, columns)),
            Err(what) => {
                problems
                    .add(format!("message_keys: table {table:?} {what}"), "write schema.table or schema.*");
            }
        }
    }
    keys
}

fn message_events(raw: &Raw, problems: &mut Problems) -> Prefixes {
    let hint = "write a prefix, or /expression/";
    Prefixes {
        wanted: problems.expressions(("message_events", hint), &raw.message_events),
        unwanted: problems.expressions(("exclude_message_events", hint), &raw.exclude_message_events),
    }
}

/// Collects what is wrong instead of stopping at the first of it.
struct Problems(Vec<Error>);

impl Problems {
    fn add(&mut self, message: impl Into<String>, hint: &str) {
        self.0.push(Error::config(format!("[source.postgres] {}", message.into())).hint(hint));
    }

    fn only_one<T>(&mut self, own: Option<T>, of_url: Option<T>, key: &str) -> Option<T> {
        if own.is_some() && of_url.is_some() {
            self.add(format!("{key} is given twice, in its own key and in url"), "remove it from url");
        }
        own.or(of_url)
    }

    fn servers(&mut self, given: &[String]) -> Vec<Server> {
        let mut servers = Vec::new();
        for text in given {
            match url::place(text) {
                Some(server) => servers.push(server),
                None => {
                    self.add(format!("primary_hosts: {text:?} is no host"), "write \"db1.internal:5432\"");
                }
            }
        }
        servers
    }

    fn heartbeat_query(&mut self, given: Option<String>, interval: Duration) -> Option<String> {
        if given.is_some() && interval.is_zero() {
            self.add(
                "heartbeat_query is never run: heartbeat_interval_s is 0",
                "set heartbeat_interval_s = 10",
            );
        }
        given
    }

    fn expressions(&mut self, (key, hint): (&str, &str), given: &[String]) -> Vec<Pattern> {
        let mut found = Vec::new();
        for text in given {
            match Pattern::parse(text) {
                Ok(pattern) => found.push(pattern),
                Err(why) => self.add(format!("{key}: {text:?} {why}"), hint),
            }
        }
        found
    }

    fn name(&mut self, key: &str, given: Option<String>, own: &str) -> String {
        let name = given.unwrap_or_else(|| own.to_owned());
        // pgoutput takes a list of publications, split at commas, and cuts blanks off.
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains([',', '\0', ' ']) {
            self.add(
                format!("{key} {name:?} is not usable as a name"),
                "use 1 to 63 letters, digits and underscores",
            );
        }
        name
    }

    fn slot(&mut self, given: Option<String>, own: &str) -> String {
        let slot = given.unwrap_or_else(|| own.to_owned());
        if slot.is_empty() || slot.len() > NAME_BYTES_MAX || !slot.chars().all(is_slot_char) {
            self.add(
                format!("slot {slot:?} is not usable as the name of a replication slot"),
                "use 1 to 63 of the characters a-z, 0-9 and _",
            );
        }
        slot
    }

    fn seconds(&mut self, key: &str, given: Option<u64>, default: Duration, least: u64) -> Duration {
        match given {
            None => default,
            // A day: longer than any useful interval, short enough to add to a clock without care.
            Some(seconds) if (least..=86_400).contains(&seconds) => Duration::from_secs(seconds),
            Some(seconds) => {
                self.add(
                    format!("{key} = {seconds} is out of range"),
                    &format!("use {least} to 86400 seconds"),
                );
                default
            }
        }
    }

    fn within<T: PartialOrd + Copy + std::fmt::Display>(
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

#[cfg(test)]
mod tests;
