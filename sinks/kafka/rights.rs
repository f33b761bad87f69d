//! What a user of the cluster must be allowed to do for a connector, as the commands that allow it. Brokers with an
//! authorizer that denies by default need all of them, and nothing else. Start at `commands`; `error` names the one
//! that is missing when a broker refuses.

use std::fmt;

use millrace_core::error::Error;

use crate::config::Settings;
use crate::errors::{self, Code, Failure};
use crate::signals::Heard;

/// What is done to a topic of events.
const TO_DATA: &[&str] = &["Create", "Describe", "DescribeConfigs", "Write"];
/// The same, and read back.
const TO_POSITION: &[&str] = &["Create", "Describe", "DescribeConfigs", "Read", "Write"];
const TO_TURN: &[&str] = &["Create", "Describe", "Read"];
const TO_SIGNALS: &[&str] = &["Describe", "Read"];

/// What a right is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum On<'a> {
    Topic(&'a str),
    /// All whose names begin so.
    Topics(&'a str),
    Group(&'a str),
    /// All that begin so.
    TransactionalIds(&'a str),
}

impl fmt::Display for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {name}"),
            Self::Topics(prefix) => write!(f, "topics {prefix}*"),
            Self::Group(name) => write!(f, "group {name}"),
            Self::TransactionalIds(prefix) => write!(f, "transactional ids {prefix}-*"),
        }
    }
}

impl On<'_> {
    fn options(self) -> String {
        let prefixed = "--resource-pattern-type prefixed";
        match self {
            Self::Topic(name) => format!("--topic {name}"),
            Self::Topics(prefix) => format!("--topic {prefix} {prefixed}"),
            Self::Group(name) => format!("--group {name}"),
            Self::TransactionalIds(prefix) => format!("--transactional-id {prefix} {prefixed}"),
        }
    }

    /// What is done to it.
    fn operations(self, settings: &Settings) -> &'static [&'static str] {
        match self {
            Self::Topic(name) if name == settings.position_topic => TO_POSITION,
            Self::Topic(name) if name == settings.turn_topic() => TO_TURN,
            Self::Topic(name) if settings.signal_topic() == Some(name) => TO_SIGNALS,
            Self::Topic(_) | Self::Topics(_) => TO_DATA,
            Self::Group(_) => &["Read"],
            Self::TransactionalIds(_) => &["Describe", "Write"],
        }
    }

    /// Whether a broker's code says that a right on it is missing.
    fn is_refused_by(self, code: Code) -> bool {
        match self {
            // Topics are made by a right on them or, where that is missing, on the cluster.
            Self::Topic(_) | Self::Topics(_) => matches!(code.0, 29 | 31),
            Self::Group(_) => code.0 == 30,
            Self::TransactionalIds(_) => code.0 == 53,
        }
    }
}

fn command(settings: &Settings, user: &str, operations: &[&str], on: On<'_>) -> String {
    let operations: Vec<String> =
        operations.iter().map(|operation| format!("--operation {operation}")).collect();
    format!(
        "kafka-acls.sh --bootstrap-server {} --add --allow-principal {user} {} {}",
        settings.brokers(),
        operations.join(" "),
        on.options()
    )
}

/// The error for what a broker refused because this user may not do `operation` there, with the command that allows
/// it; for any other failure, what it is anywhere else.
pub(crate) fn error(
    settings: &Settings,
    what: impl Into<String>,
    failure: Failure,
    operation: &str,
    on: On<'_>,
) -> Error {
    let what = what.into();
    match lacking(settings, &what, failure.code, operation, on) {
        Some((message, hint)) => Error::transient(message).hint(hint).source(failure),
        None => errors::error(what, failure),
    }
}

/// What is said, and what to type, where a broker's code says that a right is missing.
pub(crate) fn lacking(
    settings: &Settings,
    what: &str,
    code: Code,
    operation: &str,
    on: On<'_>,
) -> Option<(String, String)> {
    if !on.is_refused_by(code) {
        return None;
    }
    let own_certificate = settings.client_value("ssl.certificate.location");
    let user = match (settings.client_value("sasl.username"), own_certificate) {
        (Some(name), _) => format!("User:{name}"),
        (None, Some(_)) => "User:<the subject of certificate_file>".to_owned(),
        (None, None) => "User:ANONYMOUS".to_owned(),
    };
    let known = on.operations(settings);
    let alone = ["Describe", operation];
    let operations = if known.contains(&operation) { known } else { &alone };
    let command = command(settings, &user, operations, on);
    Some((
        format!("{what}: {user} may not {operation} on {on}"),
        format!("{command}; `millrace check` prints every right that the connector needs"),
    ))
}

/// A topic that records go to, or the beginning of the names of several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    pub name: String,
    pub is_prefix: bool,
}

/// What each right is for, and the command that gives it; nothing where no user logs in.
pub fn commands(
    settings: &Settings,
    destinations: &[Destination],
    high_availability: bool,
) -> Vec<(String, String)> {
    let Some(user) = settings.client_value("sasl.username") else { return Vec::new() };
    let id = &settings.transactional_id;
    let turn = settings.turn_topic();
    let mut needed = vec![On::TransactionalIds(id), On::Topic(&settings.position_topic)];
    if high_availability {
        needed.extend([On::Topic(&turn), On::Group(id)]);
    }
    if let Some(Heard { topic, group }) = &settings.signals {
        needed.extend([On::Topic(topic), On::Group(group)]);
    }
    needed.extend(destinations.iter().map(|Destination { name, is_prefix }| match is_prefix {
        true => On::Topics(name),
        false => On::Topic(name),
    }));
    let user = format!("User:{user}");
    let given = |on: On<'_>| (on.to_string(), command(settings, &user, on.operations(settings), on));
    needed.into_iter().map(given).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Raw;

    fn settings(more: serde_json::Value) -> Settings {
        let mut json = json!({"bootstrap": ["b:1"]});
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let raw: Raw = serde_json::from_value(json).unwrap();
        Settings::resolve(raw, "orders").unwrap()
    }

    #[test]
    fn a_right_that_is_missing_is_told_with_the_user_the_thing_the_operation_and_the_command() {
        let settings = settings(json!({"security": "sasl_plaintext", "sasl":
            {"mechanism": "PLAIN", "username": "o", "password": "p"}}));
        let table = [
            (29, "Write", On::Topic("events"), "topic events", "Create --operation Describe"),
            (29, "Read", On::Topic("events"), "topic events", "Describe --operation Read --topic events"),
            (31, "Create", On::Topic("events"), "topic events", "--operation Create"),
            (29, "Read", On::Topic(&settings.position_topic), "topic millrace-", "--operation Read"),
            (30, "Read", On::Group("millrace-orders"), "group millrace-orders", "--operation Read --group"),
            (53, "Write", On::TransactionalIds("i"), "transactional ids i-*", "--transactional-id i "),
        ];
        for (code, operation, on, thing, command) in table {
            let failure = Failure { code: Code(code), text: "denied".to_owned(), retriable: false };
            let error = error(&settings, "cannot go on", failure, operation, on);
            let told = format!("cannot go on: User:o may not {operation} on {thing}");
            assert!(error.message().starts_with(&told), "{error}");
            let hint = error.hint_text().unwrap();
            assert!(hint.contains("--allow-principal User:o") && hint.contains(command), "{hint}");
        }
        let away = Failure { code: Code::TIMED_OUT, text: "away".to_owned(), retriable: false };
        assert_eq!(error(&settings, "cannot", away, "Write", On::Topic("t")).message(), "cannot");
    }

    #[test]
    fn a_user_s_rights_are_commands_and_without_a_user_there_are_none() {
        let destinations = [Destination { name: "orders.".into(), is_prefix: true }];
        assert_eq!(commands(&settings(json!({})), &destinations, false), []);
        let sasl = json!({"mechanism": "PLAIN", "username": "o", "password": "p"});
        let settings = settings(json!({"security": "sasl_plaintext", "sasl": sasl}));
        let found = commands(&settings, &destinations, true);
        assert_eq!(found.len(), 5);
        assert_eq!(
            found[4].1,
            "kafka-acls.sh --bootstrap-server b:1 --add --allow-principal User:o --operation Create --operation \
             Describe --operation DescribeConfigs --operation Write --topic orders. --resource-pattern-type prefixed"
        );
    }
}
