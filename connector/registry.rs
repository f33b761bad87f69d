//! The only file that names concrete sources and sinks: their sections in the file, their settings, and how
//! each pair is built. A new one is a line in each `match`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_core::encode::{Dialect, Encoding, Format, hides_nothing, misfits};
use millrace_core::error::{Error, Kind, Result};
use millrace_core::pattern::Pattern;
use millrace_core::position::Position;
use millrace_core::progress::Progress;
use millrace_core::report::Report;
use millrace_core::route::rule::{Converter, Routed};
use millrace_core::signal::Signal;
use millrace_core::sink::Sink as _;
use millrace_core::source::Source as _;
use millrace_core::turn::Turn;
use millrace_kafka::KafkaSink;
pub use millrace_kafka::rights::Destination;
use millrace_mongodb::MongodbSource;
use millrace_postgres::PostgresSource;
use millrace_stdout::StdoutSink;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::config::{Connector, Problems, RawFormat};
use crate::supervisor::{self, Ended, Told};

mod letters;
mod offsets;
mod outboxes;
mod schemas;
mod upgrade;
pub use letters::{Asked, Replayed, dead_letters, replay, tell_operators};
pub use millrace_postgres::Consent;
pub use offsets::{Offsets, hand_back};
pub use schemas::schemas;
pub use upgrade::{adopt, drain};

pub const SOURCES: &[&str] = &["postgres", "mongodb"];
pub const SINKS: &[&str] = &["kafka", "stdout"];

/// What the source block of each event shows in Debezium's dialect: the version that it is held against.
const DEBEZIUM_VERSION: &str = "3.6.3.Final";

/// For a check that says more where the position can be read, and goes on without.
const POSITION_WITHIN: Duration = Duration::from_secs(10);

/// `[source.*]`: exactly one.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSource {
    pub postgres: Option<millrace_postgres::config::Raw>,
    pub mongodb: Option<millrace_mongodb::config::Raw>,
}

/// `[sink.*]`: exactly one.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSink {
    pub kafka: Option<millrace_kafka::config::Raw>,
    pub stdout: Option<millrace_stdout::config::Raw>,
}

#[derive(Clone, Debug)]
pub enum Source {
    Postgres(Box<millrace_postgres::config::Settings>),
    Mongodb(Box<millrace_mongodb::config::Settings>),
}

impl Source {
    /// Whether relations are captured that no route sends elsewhere.
    pub fn has_topics_of_its_own(&self, format: &Format) -> bool {
        let own = match self {
            Self::Postgres(settings) => &settings.tables,
            Self::Mongodb(_) => return format.routes.is_empty(),
        };
        let is_sent =
            |table: &str| format.routes.iter().any(|r| r.relations.iter().any(|p| p.matches(table)));
        own.iter().any(|table| !is_sent(&table.to_string()))
    }

    /// Whether events are of documents.
    pub fn has_documents(&self) -> bool {
        matches!(self, Self::Mongodb(_))
    }

    /// Whether ids, dates and numbers are written as JSON has them.
    pub fn has_plain_values(&self) -> bool {
        match self {
            Self::Postgres(_) => true,
            Self::Mongodb(settings) => settings.json == millrace_mongodb::bson::Dialect::Plain,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Sink {
    Kafka(Box<millrace_kafka::config::Settings>, Option<millrace_kafka::registry::Settings>),
    Stdout(millrace_stdout::config::Settings),
}

impl RawSource {
    pub fn resolve(self, connector: &str, problems: &mut Problems) -> Option<Source> {
        match (self.postgres, self.mongodb) {
            (Some(raw), None) => millrace_postgres::config::Settings::resolve(raw, connector)
                .map(|settings| Source::Postgres(Box::new(settings)))
                .map_err(|errors| problems.add_section("source.postgres", errors))
                .ok(),
            (None, Some(raw)) => millrace_mongodb::config::Settings::resolve(raw, connector)
                .map(|settings| Source::Mongodb(Box::new(settings)))
                .map_err(|errors| problems.add_section("source.mongodb", errors))
                .ok(),
            (Some(_), Some(_)) => {
                problems.add("source", "has both postgres and mongodb; a connector has one source");
                None
            }
            (None, None) => {
                problems.add(
                    "source",
                    "is missing; add [source.postgres] with url and tables, or [source.mongodb] with url and \
                     collections",
                );
                None
            }
        }
    }
}

impl RawSink {
    pub fn resolve(
        self,
        format_raw: &RawFormat,
        format: &Format,
        connector: &str,
        problems: &mut Problems,
    ) -> Option<Sink> {
        match (self.kafka, self.stdout) {
            (Some(_), Some(_)) => problems.add("sink", "has both kafka and stdout; a connector has one sink"),
            (None, None) => problems.add("sink", "is missing; add [sink.kafka] or [sink.stdout]"),
            (Some(raw), None) => {
                let registry = registry(format_raw, format, problems);
                let settings = millrace_kafka::config::Settings::resolve(raw, connector);
                return settings
                    .map(|settings| Sink::Kafka(Box::new(settings), registry))
                    .map_err(|errors| problems.add_section("sink.kafka", errors))
                    .ok();
            }
            (None, Some(raw)) => {
                if needs_registry(format) {
                    problems.add("format.encoding", "schemas need [sink.kafka]; set encoding = \"json\"");
                }
                let settings = millrace_stdout::config::Settings::resolve(raw, connector);
                return settings
                    .map(Sink::Stdout)
                    .map_err(|errors| problems.add_section("sink.stdout", errors))
                    .ok();
            }
        }
        None
    }
}

/// What Kafka Connect's tools look for in a configuration.
pub fn with_connect_keys(mut shown: BTreeMap<String, String>, source: &Source) -> BTreeMap<String, String> {
    shown.insert("connector.class".to_owned(), class(source).to_owned());
    shown.insert("tasks.max".to_owned(), "1".to_owned());
    shown
}

pub fn class(source: &Source) -> &'static str {
    match source {
        Source::Postgres(_) => "millrace.source.postgres",
        Source::Mongodb(_) => "millrace.source.mongodb",
    }
}

/// Every source, as `/connector-plugins` lists them.
pub const CLASSES: &[&str] = &["millrace.source.postgres", "millrace.source.mongodb"];

/// Something is written in Avro.
fn needs_registry(format: &Format) -> bool {
    format.encoding == Encoding::Avro
        || format.routes.iter().any(|route| {
            let is_avro = |routed: &Routed| [routed.key, routed.value].contains(&Converter::Avro);
            let is_typed = route.outbox.as_ref().is_some_and(|outbox| {
                outbox.schemas.is_some() || outbox.routed.as_ref().is_some_and(is_avro)
            });
            route.format.encoding == Encoding::Avro || is_typed
        })
}

/// Where `[format]` has its registry; a problem where avro has none.
fn registry(
    raw: &RawFormat,
    format: &Format,
    problems: &mut Problems,
) -> Option<millrace_kafka::registry::Settings> {
    use millrace_kafka::registry::{Auth, Settings};

    let auth = match (&raw.registry_username, &raw.registry_password, &raw.registry_token) {
        (None, None, None) => Auth::None,
        (Some(user), Some(password), None) => Auth::Basic { user: user.clone(), password: password.clone() },
        (None, None, Some(token)) => Auth::Bearer(token.clone()),
        _ => {
            problems.add(
                "format.registry_username",
                "set registry_username with registry_password, or registry_token alone",
            );
            Auth::None
        }
    };
    let Some(urls) = &raw.registry else {
        if needs_registry(format) {
            problems.add("format.registry", "is missing; schemas need one, like \"http://registry:8081\"");
        }
        return None;
    };
    let settings = match Settings::new(&urls.0) {
        Ok(settings) => settings,
        Err(errors) => {
            problems.add_section("format", errors);
            return None;
        }
    };
    let settings = settings.levels(levels(raw, problems));
    let settings = match auth {
        Auth::None => settings,
        Auth::Basic { .. } | Auth::Bearer(_) => settings.auth(auth),
    };
    Some(match &raw.registry_ca_file {
        Some(file) => settings.ca_file(file.clone()),
        None => settings,
    })
}

/// Levels of compatibility by pattern of subjects, the most exact pattern first.
fn levels(raw: &RawFormat, problems: &mut Problems) -> Vec<(Pattern, String)> {
    const KNOWN: [&str; 7] = [
        "NONE",
        "BACKWARD",
        "BACKWARD_TRANSITIVE",
        "FORWARD",
        "FORWARD_TRANSITIVE",
        "FULL",
        "FULL_TRANSITIVE",
    ];
    let mut levels: Vec<_> = raw.compatibility.iter().collect();
    levels.sort_by_key(|(pattern, _)| (pattern.contains('*'), std::cmp::Reverse(pattern.len())));
    if let Some((_, level)) = levels.iter().find(|(_, level)| !KNOWN.contains(&level.as_str())) {
        problems.add("format.compatibility", format!("{level:?} is not one of {}", KNOWN.join(", ")));
    }
    levels.into_iter().map(|(pattern, level)| (Pattern::new(pattern), level.clone())).collect()
}

/// Builds the pair and runs it until it ends.
pub async fn drive(
    connector: &Connector,
    progress: Arc<Progress>,
    (signals, heard): (mpsc::Sender<Signal>, mpsc::Receiver<Signal>),
    told: Told,
) -> Ended {
    // Signals of a topic are heard as long as this is there.
    let _listening = match &connector.sink {
        Sink::Kafka(to, _) => {
            let (to, key) = (Arc::new((**to).clone()), connector.format.topic_prefix.clone());
            let tell = move |signal| signals.try_send(signal).is_ok();
            millrace_kafka::signals::listen(to, key, progress.clone(), tell)
        }
        Sink::Stdout(_) => None,
    };
    match &connector.source {
        Source::Postgres(from) => {
            into_sink(postgres(connector, from).listening(heard), connector, progress, told).await
        }
        Source::Mongodb(from) => {
            into_sink(mongodb(connector, from).listening(heard), connector, progress, told).await
        }
    }
}

async fn into_sink(
    source: impl millrace_core::source::Source,
    connector: &Connector,
    progress: Arc<Progress>,
    told: Told,
) -> Ended {
    let format = connector.format.clone();
    match &connector.sink {
        Sink::Kafka(to, registry) => {
            let instance = instance();
            match kafka(connector, to, registry, &instance, progress.clone()) {
                Ok(sink) => {
                    let turn = turn(connector, to, &instance, &progress);
                    supervisor::attempts(source, sink, format, progress, told, turn).await
                }
                Err(error) => supervisor::failed(&error, &progress),
            }
        }
        Sink::Stdout(to) => {
            let sink = StdoutSink::new(to.clone(), &connector.name, progress.clone());
            supervisor::attempts(source, sink, format, progress, told, None).await
        }
    }
}

/// Where several instances stand by for each other.
fn turn(
    connector: &Connector,
    settings: &millrace_kafka::Settings,
    instance: &str,
    progress: &Arc<Progress>,
) -> Option<Turn> {
    connector.high_availability.then(|| millrace_kafka::group::join(settings, instance, progress.clone()))
}

/// Drawn once a process and connector, so that a sink knows its own claims when it opens again. The host is
/// there for people.
fn instance() -> String {
    let system = rustix::system::uname();
    format!("{}/{}", system.nodename().to_string_lossy(), uuid::Uuid::new_v4().simple())
}

/// What the sink's user must be allowed to do, with the commands that allow it.
pub fn rights(connector: &Connector, destinations: &[Destination]) -> Vec<(String, String)> {
    let of_operators = connector.operator_log.iter().filter_map(|log| log.topic.clone());
    let of_operators = of_operators.map(|name| Destination { name, is_prefix: false });
    let destinations: Vec<Destination> = destinations.iter().cloned().chain(of_operators).collect();
    match &connector.sink {
        Sink::Kafka(to, _) => {
            millrace_kafka::rights::commands(to, &destinations, connector.high_availability)
        }
        Sink::Stdout(_) => Vec::new(),
    }
}

/// Whether a topic of this name is made to keep only the last record of each key.
pub fn declares_compacted(connector: &Connector, topic: &str) -> bool {
    match &connector.sink {
        Sink::Kafka(to, _) => {
            to.declared(topic).config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"))
        }
        Sink::Stdout(_) => false,
    }
}

/// What `millrace check` found on the source's and on the sink's side.
pub async fn check(connector: &Connector) -> [(&'static str, Result<Report>); 2] {
    let source = match &connector.source {
        Source::Postgres(from) => ("source.postgres", postgres(connector, from).check().await),
        Source::Mongodb(from) => {
            let position = match &connector.sink {
                // Read without a producer: nobody is shut out. What hinders it is a finding of the sink's.
                Sink::Kafka(to, _) => {
                    let read = millrace_kafka::read_position(to, &connector.format.topic_prefix);
                    tokio::time::timeout(POSITION_WITHIN, read).await.ok().and_then(Result::ok).flatten()
                }
                Sink::Stdout(_) => None,
            };
            let settings = Arc::new(from.as_ref().clone());
            ("source.mongodb", millrace_mongodb::check::check(&settings, position.as_ref()).await)
        }
    };
    let progress = Arc::new(Progress::default());
    let sink = match &connector.sink {
        Sink::Kafka(to, registry) => {
            let report = match kafka(connector, to, registry, &instance(), progress) {
                Ok(sink) => sink.check().await,
                Err(error) => Err(error),
            };
            ("sink.kafka", report)
        }
        Sink::Stdout(to) => {
            ("sink.stdout", StdoutSink::new(to.clone(), &connector.name, progress).check().await)
        }
    };
    [source, sink]
}

/// Whether the captured relations are what the file's columns, routes and steps ask for. Nothing where the source cannot
/// be reached, which its own side tells.
pub async fn fit(connector: &Connector) -> Result<Report> {
    let mut report = Report::default();
    let format = &connector.format;
    if !format.names_columns() {
        return Ok(report);
    }
    let relations = match &connector.source {
        Source::Postgres(from) => postgres(connector, from).relations().await,
        Source::Mongodb(from) => mongodb(connector, from).relations().await,
    };
    let relations = match relations {
        Ok(relations) => relations,
        Err(error) if error.kind() == Kind::Config => {
            report.fail("columns", error.to_string(), error.hint_text().unwrap_or_default());
            return Ok(report);
        }
        Err(_) => return Ok(report),
    };
    for error in misfits(format, &relations).into_iter().chain(hides_nothing(format, &relations)) {
        report.fail("columns", error.to_string(), error.hint_text().unwrap_or_default());
    }
    let routes = format.routes.iter().flat_map(|route| &route.relations);
    let named = routes.chain(format.steps.iter().flat_map(|step| &step.relations));
    // Messages are known once there is one.
    let named = named.filter(|name| !name.text().starts_with(millrace_postgres::messages::NAMESPACE));
    let is_there = |name: &&Pattern| relations.iter().any(|relation| name.matches(&relation.full_name()));
    for name in named.filter(|name| !relations.is_empty() && !is_there(name)) {
        report.warn(
            format!("relations {name}"),
            "no captured table is of this name: its route or step says nothing",
            "correct `relations`, unless the table is still to come",
        );
    }
    if !report.failed() && !relations.is_empty() {
        report.pass("columns", format!("what the file names is there in {} tables", relations.len()));
    }
    Ok(report)
}

/// What the connector's topics prove by themselves.
pub async fn audit(connector: &Connector) -> Result<Report> {
    match &connector.sink {
        Sink::Kafka(to, registry) => {
            millrace_kafka::audit::audit(to, registry.as_ref(), &connector.format).await
        }
        Sink::Stdout(_) => Err(Error::config("there is nothing to audit: the sink is stdout")
            .hint("an audit reads the topics of a connector with [sink.kafka]")),
    }
}

/// Where an operator wants a connector to go on.
#[derive(Clone, Debug)]
pub enum Move {
    /// A place in the source's log, or the oldest that the source can still give.
    To(Option<String>),
    /// As if it had never run.
    Forget,
    /// Where Debezium stands, by its offsets in Kafka Connect's topic.
    TakeOver(Offsets),
}

/// The stored position, read without shutting anybody out.
pub async fn position(connector: &Connector) -> Result<Option<Position>> {
    match &connector.sink {
        Sink::Kafka(to, _) => millrace_kafka::read_position(to, &connector.format.topic_prefix).await,
        Sink::Stdout(to) => {
            StdoutSink::new(to.clone(), &connector.name, Arc::new(Progress::default())).open().await
        }
    }
}

/// Moves the stored position and gives the new one. The sink is opened as for streaming, so that an instance
/// that still runs is shut out and cannot move it back.
pub async fn move_position(connector: &Connector, to: Move) -> Result<Position> {
    // Nothing that was noted before is true of where another one has come to.
    let forget = matches!(to, Move::Forget | Move::TakeOver(_));
    let position = match (&connector.source, to) {
        (Source::Postgres(from), Move::To(lsn)) => millrace_postgres::chosen(from, lsn.as_deref()).await?,
        (Source::Postgres(from), Move::Forget) => millrace_postgres::forgotten(from).await?,
        (Source::Postgres(from), Move::TakeOver(offsets)) => {
            millrace_postgres::taken(from, &offsets::stored(connector, &offsets).await?).await?
        }
        (Source::Mongodb(from), Move::TakeOver(offsets)) => {
            millrace_mongodb::taken(from, &offsets::stored(connector, &offsets).await?).await?
        }
        (Source::Mongodb(from), Move::To(place)) => millrace_mongodb::chosen(from, place.as_deref()).await?,
        (Source::Mongodb(_), Move::Forget) => millrace_mongodb::forget(),
    };
    if let Source::Postgres(from) = &connector.source
        // One that cannot be read says nothing of what waits.
        && let Ok(Some(stored)) = self::position(connector).await
    {
        millrace_postgres::may_move(from, &stored, &position).await?;
    }
    overwrite(connector, &position, forget).await?;
    Ok(position)
}

/// What waits while the rest goes on, a line for each.
pub async fn waiting(connector: &Connector) -> Vec<String> {
    match (&connector.source, position(connector).await) {
        (Source::Postgres(_), Ok(Some(stored))) => millrace_postgres::waiting(&stored),
        _ => Vec::new(),
    }
}

async fn overwrite(connector: &Connector, position: &Position, forget: bool) -> Result<()> {
    let progress = Arc::new(Progress::default());
    match &connector.sink {
        Sink::Kafka(to, registry) => {
            kafka(connector, to, registry, &instance(), progress)?.overwrite(position, forget).await
        }
        Sink::Stdout(to) => {
            StdoutSink::new(to.clone(), &connector.name, progress).overwrite(position, forget).await
        }
    }
}

/// What a connector has on its source, and what nobody has.
pub struct Remnants {
    pub there: Vec<String>,
    /// Looks forgotten.
    pub orphans: Vec<String>,
}

/// Looks up what `remove` would remove.
pub async fn remnants(connector: &Connector) -> Result<Remnants> {
    match &connector.source {
        Source::Postgres(from) => {
            let (mut there, orphans) = millrace_postgres::remnants(from).await?;
            there.extend(waiting(connector).await);
            Ok(Remnants { there, orphans })
        }
        // A change stream leaves nothing.
        Source::Mongodb(_) => Ok(Remnants { there: Vec::new(), orphans: Vec::new() }),
    }
}

/// Forgets the position, shutting out an instance that still runs, and takes the connector off its source.
pub async fn remove(connector: &Connector) -> Result<()> {
    match &connector.source {
        Source::Postgres(from) => {
            // What waits was shown, and goes with the rest.
            overwrite(connector, &millrace_postgres::forgotten(from).await?, true).await?;
            millrace_postgres::remove(from).await
        }
        Source::Mongodb(_) => overwrite(connector, &millrace_mongodb::forget(), true).await,
    }
}

fn postgres(connector: &Connector, settings: &millrace_postgres::config::Settings) -> PostgresSource {
    PostgresSource::new(settings.clone(), &connector.format.topic_prefix, version(connector))
}

fn mongodb(connector: &Connector, settings: &millrace_mongodb::config::Settings) -> MongodbSource {
    MongodbSource::new(settings.clone(), &connector.format.topic_prefix, version(connector))
}

fn version(connector: &Connector) -> &'static str {
    match connector.format.dialect {
        Dialect::Millrace => env!("CARGO_PKG_VERSION"),
        Dialect::Debezium => DEBEZIUM_VERSION,
    }
}

fn kafka(
    connector: &Connector,
    settings: &millrace_kafka::config::Settings,
    registry: &Option<millrace_kafka::registry::Settings>,
    instance: &str,
    progress: Arc<Progress>,
) -> Result<KafkaSink> {
    let prefix = &connector.format.topic_prefix;
    KafkaSink::new(settings.clone(), registry.clone(), prefix, instance.to_owned(), progress)
}
