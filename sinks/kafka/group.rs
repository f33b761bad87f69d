//! High availability: one consumer group a connector, and the owner of its one partition is active.
//!
//! The partition is of a topic that nothing is ever written to, because a partition stays with its owner only
//! where there is no other to share: the newcomer's share of two would move the turn to and fro. Start at
//! `join`; `attend` is the thread that keeps the membership alive.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Kind, Result};
use millrace_core::progress::Progress;
use millrace_core::turn::{self, Giver, Proof, Standing, Turn};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::oneshot;

use crate::config::Settings;
use crate::errors::{self, Class, Code, Failure};
use crate::login::{Login, Refused};
use crate::opening::blocking;
use crate::rights::{self, On};
use crate::topics::Topics;

/// Its turn is taken from an instance that was not heard of for so long. Brokers allow no less by default.
const SESSION_MS: &str = "6000";
/// How soon a waiting instance hears that the members are counted anew.
const HEARTBEAT_MS: &str = "1000";
/// A coordinator that takes longer to answer is looked for anew; it also bounds what a proof may take.
const SOCKET_TIMEOUT_MS: &str = "6000";
/// How soon it is seen that somebody deleted the topic: nothing is fetched from it, so nothing fails.
const REFRESH_MS: &str = "10000";
/// How soon a change and a question are seen; each look costs microseconds.
const POLL: Duration = Duration::from_millis(100);
/// How often the brokers are asked who is active, until they say so and afterwards.
const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(5);
/// Each broker is asked, and one that is away holds the answer back; meanwhile a turn would not be seen.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// From outside nothing waits for the answer but a person.
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries to make the topic.
const TRY_EVERY: Duration = Duration::from_secs(2);

/// Becomes a member, on threads of its own, until the turn is dropped. `instance` is how others name this one.
pub fn join(settings: &Settings, instance: &str, progress: Arc<Progress>) -> Turn {
    let (turn, giver) = turn::turn();
    let membership =
        Membership { settings: Arc::new(settings.clone()), instance: instance.to_owned(), giver };
    tokio::spawn(membership.begin(progress));
    turn
}

/// The instances that are members now, asked from outside.
pub async fn members(settings: &Settings) -> Result<Vec<String>> {
    let settings = settings.clone();
    blocking(move || {
        let Settings { transactional_id: group, .. } = &settings;
        let what = format!("cannot ask for the members of group {group} of kafka at {}", settings.brokers());
        let refused = |error: KafkaError| failed(&settings, what.clone(), &error);
        let quiet = Quiet { login: Refused::default() };
        let asking: BaseConsumer<Quiet> =
            settings.client_config()?.create_with_context(quiet).map_err(refused)?;
        let list = asking.fetch_group_list(Some(group), MEMBERS_TIMEOUT).map_err(refused)?;
        let members = list.groups().iter().flat_map(|group| group.members());
        Ok(members.map(|member| member.client_id().to_owned()).collect())
    })
    .await
}

/// How a membership ended.
enum Left {
    /// Nobody wants the turn any more.
    Dropped,
    /// Somebody deleted the topic.
    TopicGone,
    /// The brokers refused the login, and its files hold another one now.
    LoginChanged,
}

struct Membership {
    settings: Arc<Settings>,
    instance: String,
    giver: Giver,
}

impl Membership {
    /// Makes sure of the topic, then leaves the rest to a thread: the calls of a consumer block. Somebody may
    /// delete the topic meanwhile; then all of it again.
    async fn begin(mut self, progress: Arc<Progress>) {
        let topics = Topics::new(self.settings.clone(), progress);
        let topic = self.settings.turn_topic();
        while self.ensure(&topics, &topic).await {
            let (ended, end) = oneshot::channel();
            let name = format!("kafka-turn-{}", self.settings.connector);
            let topic = topic.clone();
            let attending = move || {
                let left = self.run(&topic);
                let _ = ended.send((self, left));
            };
            if let Err(error) = thread::Builder::new().name(name).spawn(attending) {
                tracing::error!("no thread to stand by on: {error}");
                return;
            }
            match end.await {
                Ok((membership, Left::TopicGone | Left::LoginChanged)) => self = membership,
                Ok((_, Left::Dropped)) | Err(_) => return,
            }
        }
    }

    /// Tries until the topic is there; false if the turn was dropped meanwhile.
    async fn ensure(&mut self, topics: &Topics, topic: &str) -> bool {
        loop {
            let error = match topics.ensure_turn_topic(topic).await {
                Ok(()) => return true,
                Err(error) => error,
            };
            self.trouble(&error);
            if error.kind() != Kind::Transient {
                tracing::warn!(hint = error.hint_text(), "cannot stand by: {error}");
            }
            tokio::select! {
                // Nobody asks before there is a turn, so this is the end.
                _ = self.giver.proofs.recv() => return false,
                () = tokio::time::sleep(TRY_EVERY) => {}
            }
        }
    }

    fn run(&mut self, topic: &str) -> Left {
        let (mut login, refused) = (Login::new(&self.settings), Refused::default());
        login.of([refused.clone()]);
        match self.consumer(topic, refused) {
            Ok(consumer) => self.attend(&consumer, topic, &login),
            Err(error) if error.kind() == Kind::Transient => {
                self.trouble(&error);
                thread::sleep(TRY_EVERY);
                Left::LoginChanged
            }
            Err(error) => {
                self.trouble(&error);
                // Settings do not mend themselves; it is shown until the end.
                while self.giver.proofs.blocking_recv().is_some() {}
                Left::Dropped
            }
        }
    }

    fn consumer(&self, topic: &str, login: Refused) -> Result<BaseConsumer<Quiet>> {
        let mut config = self.settings.client_config()?;
        config.set("client.id", &self.instance);
        config.set("group.id", &self.settings.transactional_id);
        config.set("session.timeout.ms", SESSION_MS);
        config.set("heartbeat.interval.ms", HEARTBEAT_MS);
        config.set("socket.timeout.ms", SOCKET_TIMEOUT_MS);
        // Its partition stays with an owner when others come.
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("enable.auto.commit", "false");
        config.set("topic.metadata.refresh.interval.ms", REFRESH_MS);
        let refused = |error: KafkaError| failed(&self.settings, "librdkafka refuses to stand by", &error);
        let consumer: BaseConsumer<Quiet> = config.create_with_context(Quiet { login }).map_err(refused)?;
        consumer.subscribe(&[topic]).map_err(refused)?;
        Ok(consumer)
    }

    /// Until the turn is dropped. Leaves the group at the end, so that the next one need not wait.
    fn attend(&mut self, consumer: &BaseConsumer<Quiet>, topic: &str, login: &Login) -> Left {
        let mut asked: Option<Instant> = None;
        let mut looked = Instant::now();
        // Why this one cannot be a member; the brokers answer who is active all the same.
        let mut refused: Option<Error> = None;
        loop {
            let polled = consumer.poll(POLL);
            if let Some(Err(error)) = polled {
                tracing::debug!(%error, "standing by");
                if is_missing(&error) {
                    tracing::warn!("topic {topic} has gone, and with it the turns: it is made again");
                    self.now(|standing| *standing = Standing::default());
                    return Left::TopicGone;
                }
                if is_refused(&error) {
                    refused = Some(failed(&self.settings, self.what("stand by"), &error));
                }
            }
            if looked.elapsed() >= ASK_EVERY {
                looked = Instant::now();
                if login.is_outdated() {
                    tracing::info!("the login has changed: standing by anew");
                    self.now(|standing| *standing = Standing::default());
                    return Left::LoginChanged;
                }
            }
            let mine = owns(consumer);
            if mine {
                refused = None;
            }
            if mine && !self.giver.standing.borrow().mine {
                // Nothing is ever written there: not to fetch is cheaper.
                let paused = consumer.assignment().and_then(|owned| consumer.pause(&owned));
                tracing::debug!(?paused, "the turn has come");
            }
            self.now(|standing| {
                if mine {
                    standing.active = Some(self.instance.clone());
                    standing.trouble = None;
                } else if standing.mine {
                    standing.active = None;
                }
                standing.mine = mine;
            });
            let every =
                if self.giver.standing.borrow().active.is_some() { ASK_AGAIN_EVERY } else { ASK_EVERY };
            if !mine && asked.is_none_or(|at| at.elapsed() >= every) {
                if self.ask(consumer, topic) {
                    refused = None;
                }
                if let Some(error) = &refused {
                    self.trouble(error);
                }
                asked = Some(Instant::now());
            }
            match self.giver.proofs.try_recv() {
                Ok(proof) => answer(proof, mine && proved(consumer, topic)),
                Err(TryRecvError::Empty) => (),
                Err(TryRecvError::Disconnected) => return Left::Dropped,
            }
        }
    }

    /// Asks the brokers who is active. Whether they know this one as a member.
    fn ask(&self, consumer: &BaseConsumer<Quiet>, topic: &str) -> bool {
        let group = &self.settings.transactional_id;
        match consumer.fetch_group_list(Some(group), ASK_TIMEOUT) {
            Ok(list) => {
                let members = || list.groups().iter().flat_map(|group| group.members());
                let mut owners = members().filter(|member| has_partition(member.assignment()));
                let owner = owners.next().map(|owner| owner.client_id().to_owned());
                self.now(|standing| {
                    standing.trouble = None;
                    // While members are counted anew nobody is named; the last one known is as good.
                    if owner.is_some() {
                        standing.active = owner;
                    }
                });
                members().any(|member| member.client_id() == self.instance)
            }
            // One broker of several that is away is no trouble of ours.
            Err(error)
                if !is_refused(&error) && consumer.fetch_metadata(Some(topic), ASK_TIMEOUT).is_ok() =>
            {
                tracing::debug!(%error, "cannot learn who is active");
                self.now(|standing| standing.trouble = None);
                false
            }
            Err(error) => {
                self.trouble(&failed(&self.settings, self.what("ask whose turn it is"), &error));
                false
            }
        }
    }

    fn what(&self, cannot: &str) -> String {
        let Settings { transactional_id: group, .. } = &*self.settings;
        format!("cannot {cannot} in group {group} of kafka at {}", self.settings.brokers())
    }

    fn trouble(&self, error: &Error) {
        let hint = error.hint_text().unwrap_or_default().to_owned();
        self.now(|standing| standing.trouble = Some((error.to_string(), hint)));
    }

    /// Changes the standing; whoever waits is woken only where it is another.
    fn now(&self, change: impl FnOnce(&mut Standing)) {
        self.giver.standing.send_if_modified(|standing| {
            let before = standing.clone();
            change(standing);
            *standing != before
        });
    }
}

/// Whoever asked may have gone.
fn answer(proof: Proof, proved: bool) {
    let _ = proof.send(proved);
}

fn owns(consumer: &BaseConsumer<Quiet>) -> bool {
    !consumer.assignment_lost() && consumer.assignment().is_ok_and(|owned| owned.count() > 0)
}

/// The coordinator takes an offset only from a member of the generation that is: so this fails for one that
/// was stopped for a while and has not heard yet that it was given up.
fn proved(consumer: &BaseConsumer<Quiet>, topic: &str) -> bool {
    let mut offsets = TopicPartitionList::with_capacity(1);
    if let Err(error) = offsets.add_partition_offset(topic, 0, Offset::Offset(0)) {
        tracing::debug!(%error, "no offset to prove a turn with");
        return false;
    }
    match consumer.commit(&offsets, CommitMode::Sync) {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "the turn is not proved");
            false
        }
    }
}

/// Whether an assignment, as consumers write it (version, count of topics, ...), names a topic.
fn has_partition(assignment: Option<&[u8]>) -> bool {
    let count = assignment.and_then(|bytes| bytes.get(2..)).and_then(|bytes| bytes.first_chunk::<4>());
    count.is_some_and(|count| i32::from_be_bytes(*count) > 0)
}

fn code_of(error: &KafkaError) -> Code {
    error.rdkafka_error_code().map_or(Code::CANCELLED, |code| Code(code as i32))
}

fn is_refused(error: &KafkaError) -> bool {
    errors::class(code_of(error)) == Class::Authorisation
}

fn is_missing(error: &KafkaError) -> bool {
    code_of(error) == Code::UNKNOWN_TOPIC
}

fn failed(settings: &Settings, what: impl Into<String>, error: &KafkaError) -> Error {
    let failure = Failure { code: code_of(error), text: error.to_string(), retriable: false };
    let turn = settings.turn_topic();
    let on = match failure.code {
        Code::TOPIC_REFUSED => On::Topic(&turn),
        _ => On::Group(&settings.transactional_id),
    };
    rights::error(settings, what, failure, "Read", on)
}

/// What goes wrong here is told by the state of the connector.
struct Quiet {
    login: Refused,
}

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, text: &str) {
        tracing::debug!(target: "librdkafka", "{text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.login.note(code_of(&error));
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Quiet {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_whoever_has_a_partition() {
        let one = [0, 3, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0];
        assert!(has_partition(Some(&one)));
        assert!(!has_partition(Some(&[0, 3, 0, 0, 0, 0])));
        assert!(!has_partition(Some(&[0, 3, 0])) && !has_partition(Some(&[])) && !has_partition(None));
    }
}
