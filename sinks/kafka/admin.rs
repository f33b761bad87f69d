//! Questions and orders to the cluster outside of any transaction: metadata, topics, their configuration.
//!
//! One client of the wrapper, made when first needed. Every call is bounded and off the async runtime.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use millrace_core::error::{Error, Result};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{FromClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use crate::config::Settings;
use crate::errors::{self, Class, Code, Failure};
use crate::native;
use crate::rights::{self, On};

/// One question. Short, because the asker shows that it waits and asks again.
const TIMEOUT: Duration = Duration::from_secs(5);

type Client = AdminClient<DefaultClientContext>;

/// What the cluster says about a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Missing,
    /// Made, but not every partition has a leader yet.
    Coming,
    Ready {
        partitions: u32,
        replication: u32,
    },
}

/// What there is to see of a cluster.
pub struct Cluster {
    /// By topic.
    pub partitions: HashMap<String, u32>,
    /// The id of one that can be asked something about itself.
    pub broker: i32,
    /// How many are up.
    pub brokers: usize,
}

pub struct Admin {
    settings: Arc<Settings>,
    client: Mutex<Option<Arc<Client>>>,
}

impl Admin {
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings, client: Mutex::default() }
    }

    /// Never asks the broker to make the topic.
    pub async fn presence(&self, topic: &str) -> Result<Presence> {
        let name = topic.to_owned();
        let metadata =
            self.blocking(move |client| client.inner().fetch_metadata(Some(&name), TIMEOUT)).await?;
        let about = || format!("cannot describe topic {topic} on kafka at {}", self.settings.brokers());
        let metadata = metadata.map_err(|error| self.error(about(), &error))?;
        let Some(found) = metadata.topics().first() else { return Ok(Presence::Missing) };
        match found.error().map(|code| Code(code as i32)) {
            None => (),
            // UNKNOWN_TOPIC_OR_PART, and librdkafka's own words for it
            Some(Code(3 | -188)) => return Ok(Presence::Missing),
            // LEADER_NOT_AVAILABLE
            Some(Code(5)) => return Ok(Presence::Coming),
            Some(code) => return Err(self.refused(&about(), code, "Describe", topic)),
        }
        let partitions = found.partitions();
        if partitions.is_empty() || partitions.iter().any(|partition| partition.leader() < 0) {
            return Ok(Presence::Coming);
        }
        Ok(Presence::Ready {
            partitions: u32::try_from(partitions.len()).unwrap_or(u32::MAX),
            replication: partitions
                .first()
                .map_or(0, |partition| u32::try_from(partition.replicas().len()).unwrap_or(u32::MAX)),
        })
    }

    /// Whether every partition's leader serves it.
    pub async fn answers(&self, topic: &str, partitions: u32) -> Result<bool> {
        let name = topic.to_owned();
        self.blocking(move |client| {
            (0..partitions.cast_signed())
                .all(|partition| client.inner().fetch_watermarks(&name, partition, TIMEOUT).is_ok())
        })
        .await
    }

    /// All topics that we may see, and the brokers that are up.
    pub async fn cluster(&self) -> Result<Cluster> {
        let metadata = self.blocking(|client| client.inner().fetch_metadata(None, TIMEOUT)).await?;
        let about = || format!("cannot reach kafka at {}", self.settings.brokers());
        let metadata = metadata.map_err(|error| self.error(about(), &error))?;
        let known = metadata.topics().iter().filter(|topic| topic.error().is_none());
        // The one that answered has no id where it was asked under a name that is not the one it gives itself.
        let answered = Some(metadata.orig_broker_id()).filter(|id| *id >= 0);
        let any = || metadata.brokers().first().map(|broker| broker.id());
        let count = |partitions: usize| u32::try_from(partitions).unwrap_or(u32::MAX);
        Ok(Cluster {
            partitions: known.map(|t| (t.name().to_owned(), count(t.partitions().len()))).collect(),
            broker: answered.or_else(any).unwrap_or_default(),
            brokers: metadata.brokers().len(),
        })
    }

    /// The id that the brokers gave themselves, once one of them has answered anything.
    pub async fn cluster_id(&self) -> Result<Option<String>> {
        self.blocking(|client| client.inner().fetch_cluster_id(Duration::ZERO)).await
    }

    /// `None` leaves a number to the broker. A topic that is there already is fine.
    pub async fn create(
        &self,
        topic: &str,
        partitions: Option<u32>,
        replication: Option<u32>,
        config: &BTreeMap<String, String>,
    ) -> Result<()> {
        let about = || format!("cannot create topic {topic} on kafka at {}", self.settings.brokers());
        let number = |n: Option<u32>| n.map_or(-1, |n| i32::try_from(n).unwrap_or(i32::MAX));
        let mut new = NewTopic::new(topic, number(partitions), TopicReplication::Fixed(number(replication)));
        for (key, value) in config {
            new = new.set(key, value);
        }
        let client = self.client().await?;
        let created = client.create_topics([&new], &options()).await;
        let created = created.map_err(|error| self.error(about(), &error))?;
        match created.into_iter().next() {
            Some(Err((_, rdkafka::types::RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) | None => {
                Ok(())
            }
            Some(Err((_, rdkafka::types::RDKafkaErrorCode::InvalidReplicationFactor))) => {
                let brokers = self.cluster().await?.brokers;
                Err(too_few_brokers(&about(), replication, brokers))
            }
            Some(Err((_, code))) => Err(self.refused(&about(), Code(code as i32), "Create", topic)),
        }
    }

    /// The configuration of a topic, or `None` where we may not see it.
    pub async fn topic_config(&self, topic: &str) -> Result<Option<BTreeMap<String, String>>> {
        self.config(ResourceSpecifier::Topic(topic), topic).await
    }

    pub async fn broker_config(&self, id: i32) -> Result<Option<BTreeMap<String, String>>> {
        self.config(ResourceSpecifier::Broker(id), &format!("broker {id}")).await
    }

    async fn config(
        &self,
        what: ResourceSpecifier<'_>,
        name: &str,
    ) -> Result<Option<BTreeMap<String, String>>> {
        let about =
            || format!("cannot read the configuration of {name} on kafka at {}", self.settings.brokers());
        let client = self.client().await?;
        let described = client.describe_configs([&what], &options()).await;
        let described = described.map_err(|error| self.error(about(), &error))?;
        match described.into_iter().next() {
            Some(Ok(resource)) => Ok(Some(
                resource
                    .entries
                    .into_iter()
                    .filter_map(|entry| entry.value.map(|value| (entry.name, value)))
                    .collect(),
            )),
            Some(Err(code)) if errors::class(Code(code as i32)) == Class::Authorisation => Ok(None),
            Some(Err(code)) => Err(errors::error(about(), plain(Code(code as i32)))),
            None => Ok(None),
        }
    }

    async fn client(&self) -> Result<Arc<Client>> {
        self.blocking(|client| client.clone()).await
    }

    /// Runs a call of the client where it may block. The calls bound themselves by `TIMEOUT`.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Arc<Client>) -> T + Send + 'static,
    ) -> Result<T> {
        let made = self.made().clone();
        let settings = self.settings.clone();
        let run = move || -> Result<(Arc<Client>, T)> {
            let client = match made {
                Some(client) => client,
                None => Arc::new(make(&settings)?),
            };
            let outcome = call(&client);
            Ok((client, outcome))
        };
        let (client, outcome) = tokio::task::spawn_blocking(run)
            .await
            .map_err(|error| Error::transient("a call to kafka did not finish").source(error))??;
        *self.made() = Some(client);
        Ok(outcome)
    }

    fn made(&self) -> MutexGuard<'_, Option<Arc<Client>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A timeout alone says nothing; what the connections reported last does. That a login was refused stands
    /// in their code alone.
    fn error(&self, about: String, error: &KafkaError) -> Error {
        let trouble = self.made().as_ref().and_then(|client| native::drain_log(client.inner()));
        // Without a code it is about the call itself: an argument that it does not take, or its end.
        let code = match error {
            KafkaError::AdminOpCreation(_) => Code::INVALID,
            other => other.rdkafka_error_code().map_or(Code::CANCELLED, |code| Code(code as i32)),
        };
        let (code, text) = match trouble {
            Some(trouble)
                if errors::class(code) == Class::Away
                    && errors::class(trouble.code) == Class::Authorisation =>
            {
                (trouble.code, trouble.text)
            }
            Some(trouble) => (code, format!("{error}: {}", trouble.text)),
            None => (code, error.to_string()),
        };
        let error = errors::error(about, Failure { code, text, retriable: false });
        match errors::class(code) {
            // A client keeps the login that it was made with, and the brokers may be waiting for another.
            Class::Authorisation => {
                self.give_up();
                self.settings.with_login(error)
            }
            Class::Away => {
                self.give_up();
                self.settings.with_login(self.settings.with_certificate(error))
            }
            _ => error,
        }
    }

    /// The cluster's own answer: a missing right is the user's to give, here, before anything was begun.
    fn refused(&self, about: &str, code: Code, operation: &str, topic: &str) -> Error {
        match rights::lacking(&self.settings, about, code, operation, On::Topic(topic)) {
            Some((message, hint)) => Error::config(message).source(plain(code)).hint(hint),
            None => errors::error(about, plain(code)),
        }
    }

    /// The next call makes a client anew.
    fn give_up(&self) {
        let Some(client) = self.made().take() else { return };
        // The client joins its threads when it goes, which an async thread must not wait for.
        let spawned = thread::Builder::new().name("kafka-admin-end".to_owned()).spawn(move || drop(client));
        if spawned.is_err() {
            tracing::debug!("no thread to end the admin client on");
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn make(settings: &Settings) -> Result<Client> {
    let mut config = settings.client_config()?;
    config.set_log_level(RDKafkaLogLevel::Error);
    // Without them librdkafka only logs what its connections met, and a line of text has no code.
    config.set("enabled_events", rdkafka_sys::RD_KAFKA_EVENT_ERROR.to_string());
    Client::from_config(&config).map_err(|why| settings.refused(why))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT))
}

fn plain(code: Code) -> Failure {
    Failure { code, text: native::describe(code), retriable: false }
}

/// Brokers come and go, and the same order is taken once they are there.
fn too_few_brokers(about: &str, replication: Option<u32>, brokers: usize) -> Error {
    let wanted = match replication {
        Some(replicas) => format!("{replicas} replicas are asked for"),
        None => "the brokers' own default.replication.factor asks for more".to_owned(),
    };
    let are = if brokers == 1 { "is" } else { "are" };
    Error::transient(format!(
        "{about}: the replication factor cannot be had: {wanted}, and {brokers} of the brokers {are} up"
    ))
    .hint("start the missing brokers, or set replication in [sink.kafka.topic_defaults]; it is tried again")
}
