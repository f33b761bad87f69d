//! What librdkafka's error codes mean: one match, on codes and never on text. Start at `class`.

use std::fmt;

use millrace_core::error::Error;
use rdkafka_sys::rd_kafka_resp_err_t as Err;

/// A code of librdkafka (negative) or of a broker (positive). Brokers may send codes that the bindings do
/// not know, so it stays a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub i32);

impl Code {
    pub const FENCED: Code = Code(Err::RD_KAFKA_RESP_ERR__FENCED as i32);
    pub const QUEUE_FULL: Code = Code(Err::RD_KAFKA_RESP_ERR__QUEUE_FULL as i32);
    pub const TOO_LARGE: Code = Code(Err::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE as i32);
    pub const INVALID: Code = Code(Err::RD_KAFKA_RESP_ERR__INVALID_ARG as i32);
    pub const CANCELLED: Code = Code(Err::RD_KAFKA_RESP_ERR__DESTROY as i32);
    pub const UNKNOWN_TOPIC: Code = Code(Err::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as i32);
    pub const TOPIC_REFUSED: Code = Code(Err::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as i32);
    pub const ID_REFUSED: Code = Code(Err::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED as i32);
    pub const TIMED_OUT: Code = Code(Err::RD_KAFKA_RESP_ERR__TIMED_OUT as i32);
}

/// What to do about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Another producer took the transactional id, or the broker ended our transaction; the claims say which.
    Fenced,
    /// A right is missing or a login is refused: shown, and tried again with backoff.
    Authorisation,
    /// The broker refuses this record.
    Record,
    /// The broker refuses the time of this record, which is that of our machine.
    Clock,
    /// A setting is wrong for this broker.
    Config,
    /// Passes by itself: open anew.
    Away,
    /// A rule of the protocol was broken between us and the broker: open anew.
    OutOfStep,
    /// Not known to this version.
    Unknown,
}

/// Table: "Errors from librdkafka".
pub fn class(code: Code) -> Class {
    const FENCED: i32 = Code::FENCED.0;
    match code.0 {
        FENCED => Class::Fenced,
        // INVALID_PRODUCER_EPOCH, PRODUCER_FENCED: not yet made one by librdkafka.
        47 | 90 => Class::Fenced,
        // TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID and DELEGATION_TOKEN authorisation failed
        29..=31 | 53 | 65 => Class::Authorisation,
        // UNSUPPORTED_SASL_MECHANISM, ILLEGAL_SASL_STATE, SASL_AUTHENTICATION_FAILED, token not found, expired
        33 | 34 | 58 | 62 | 66 => Class::Authorisation,
        // _AUTHENTICATION, _SSL
        -169 | -181 => Class::Authorisation,
        // INVALID_MSG_SIZE, MSG_SIZE_TOO_LARGE, RECORD_LIST_TOO_LARGE, INVALID_RECORD
        4 | 10 | 18 | 87 => Class::Record,
        // INVALID_TIMESTAMP
        32 => Class::Clock,
        // TOPIC_EXCEPTION, UNSUPPORTED_VERSION, INVALID_PARTITIONS .. INVALID_CONFIG, INVALID_REQUEST,
        // UNSUPPORTED_FOR_MESSAGE_FORMAT, POLICY_VIOLATION, INVALID_TRANSACTION_TIMEOUT,
        // UNSUPPORTED_COMPRESSION_TYPE
        17 | 35 | 37..=40 | 42..=44 | 50 | 76 => Class::Config,
        // _INVALID_ARG, _UNSUPPORTED_FEATURE, _NOT_CONFIGURED
        -186 | -165 | -145 => Class::Config,
        // OUT_OF_ORDER and DUPLICATE sequence, INVALID_TXN_STATE, INVALID_PRODUCER_ID_MAPPING,
        // CONCURRENT_TRANSACTIONS, TRANSACTION_COORDINATOR_FENCED, UNKNOWN_PRODUCER_ID, TRANSACTION_ABORTABLE
        45 | 46 | 48 | 49 | 51 | 52 | 59 | 120 => Class::OutOfStep,
        // _FATAL, _INCONSISTENT, _GAPLESS_GUARANTEE, _STATE, _PURGE_QUEUE, _PURGE_INFLIGHT
        -150 | -149 | -148 | -172 | -152 | -151 => Class::OutOfStep,
        // INVALID_MSG: a checksum that did not hold on the way
        2 => Class::Away,
        // Leaders and coordinators that move, replicas that lag, timeouts, quotas, storage, epochs
        3 | 5..=9 | 11 | 13..=16 | 19 | 20 | 41 | 56 | 74 | 75 | 77 | 78 | 80 | 89 | 100 | 129 => Class::Away,
        // Every other code of librdkafka itself: transport, resolve, timeout, destroy and their like
        -200..=-101 => Class::Away,
        _ => Class::Unknown,
    }
}

const ALL_BROKERS_DOWN: i32 = Err::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN as i32;

/// What librdkafka calls the connection on which transactions are ended.
const COORDINATOR: &str = "TxnCoordinator";

/// Whether an error that librdkafka reports beside all calls can have touched a commit that is under way. A
/// broker that is gone for good while the others do its work is reported for ever, and puts none in doubt.
/// Which connection an error is of stands in its text alone, which begins with the connection's name.
pub fn concerns_commit(code: Code, text: &str) -> bool {
    const FATAL: i32 = Err::RD_KAFKA_RESP_ERR__FATAL as i32;
    matches!(code.0, ALL_BROKERS_DOWN | FATAL) || text.starts_with(COORDINATOR)
}

/// Whether what the connections report is worth more than what they reported before: that all brokers are down
/// comes behind the reason why.
pub fn tells_more(code: Code, before: Option<Code>) -> bool {
    code.0 != ALL_BROKERS_DOWN || before.is_none()
}

/// What a call of librdkafka failed with.
#[derive(Clone, Debug)]
pub struct Failure {
    pub code: Code,
    /// librdkafka's words, for people.
    pub text: String,
    pub retriable: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.code.0)
    }
}

impl std::error::Error for Failure {}

/// The error for a failure while doing `what` ("cannot commit a transaction of millrace-orders-0").
pub fn error(what: impl Into<String>, failure: Failure) -> Error {
    let class = class(failure.code);
    let (error, hint) = match class {
        Class::Fenced => (Error::transient(what), "the producers are opened anew"),
        Class::Authorisation => (Error::transient(what), refused(failure.code)),
        Class::Record => {
            (Error::record(what), "raise max.message.bytes of the topic, or correct the record at its source")
        }
        // The same record is taken as soon as the clock is right, so this passes by itself.
        Class::Clock => (
            Error::transient(what),
            "set this machine's clock right: a broker takes no record from further ahead than its topic's message.timestamp.after.max.ms",
        ),
        Class::Config => {
            (Error::config(what), "correct [sink.kafka] or the broker's setting that the cause names")
        }
        Class::Away => (
            Error::transient(what),
            "check that the brokers run and that bootstrap in [sink.kafka] reaches them",
        ),
        Class::OutOfStep => (Error::transient(what), "the producers are opened anew"),
        // Nothing is guessed: the position read at the next opening says what happened.
        Class::Unknown => (
            Error::transient(what),
            "this code of the broker is not known to this version; if it stays, report it with the broker's version",
        ),
    };
    error.hint(hint).source(failure)
}

/// What to do about a login that a broker refuses, about a broker that is not trusted, and about a right that is
/// missing.
fn refused(code: Code) -> &'static str {
    match code.0 {
        33 | 34 | 58 | 62 | 66 | -169 => {
            "correct mechanism, username and password in [sink.kafka.sasl], or give the brokers that user: \
             kafka-configs.sh --alter --entity-type users for SCRAM, their JAAS configuration for PLAIN"
        }
        // librdkafka does not tell which of these it was.
        -181 => {
            "see that ca_file in [sink.kafka.tls] holds the authority of the brokers' certificate, that the \
             certificate names the host in bootstrap, and that it has not expired: openssl s_client \
             -connect <host:port> -CAfile <ca_file> -verify_hostname <host> says which"
        }
        _ => {
            "check the broker's ACLs for this user (Write and Describe on topics and on the transactional id) and its login in [sink.kafka]"
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::error::Kind;

    use super::*;

    #[test]
    fn each_class_of_the_table_has_its_kind() {
        let table = [
            (Err::RD_KAFKA_RESP_ERR__FENCED, Class::Fenced, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR_PRODUCER_FENCED, Class::Fenced, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Class::Authorisation, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED, Class::Authorisation, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR__AUTHENTICATION, Class::Authorisation, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR__SSL, Class::Authorisation, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, Class::Record, Kind::Record),
            (Err::RD_KAFKA_RESP_ERR_INVALID_RECORD, Class::Record, Kind::Record),
            (Err::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, Class::Clock, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR_POLICY_VIOLATION, Class::Config, Kind::Config),
            (Err::RD_KAFKA_RESP_ERR_INVALID_TRANSACTION_TIMEOUT, Class::Config, Kind::Config),
            (Err::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, Class::OutOfStep, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID, Class::OutOfStep, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR__PURGE_QUEUE, Class::OutOfStep, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR__TRANSPORT, Class::Away, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, Class::Away, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, Class::Away, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, Class::Away, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, Class::Away, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR_UNKNOWN, Class::Unknown, Kind::Transient),
            (Err::RD_KAFKA_RESP_ERR_INCONSISTENT_VOTER_SET, Class::Unknown, Kind::Transient),
        ];
        for (code, expected, kind) in table {
            let code = Code(code as i32);
            assert_eq!(class(code), expected, "{code:?}");
            let failure = Failure { code, text: "why".to_owned(), retriable: false };
            let error = error("cannot commit", failure);
            assert_eq!(error.kind(), kind, "{code:?}");
            assert!(error.hint_text().is_some());
        }
    }

    #[test]
    fn only_an_error_of_the_coordinator_or_of_all_brokers_concerns_a_commit() {
        let transport = Code(Err::RD_KAFKA_RESP_ERR__TRANSPORT as i32);
        let table = [
            (transport, "TxnCoordinator: kafka-2:9092: Disconnected (after 10ms in state UP)", true),
            (transport, "kafka-9:9092/bootstrap: Connect to ipv4#10.0.0.9:9092 failed", false),
            (transport, "kafka-2:9092/2: Disconnected", false),
            (Code(Err::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN as i32), "1/1 brokers are down", true),
        ];
        for (code, text, expected) in table {
            assert_eq!(concerns_commit(code, text), expected, "{text}");
        }
    }

    #[test]
    fn that_all_brokers_are_down_hides_no_reason() {
        let down = Code(ALL_BROKERS_DOWN);
        let login = Code(Err::RD_KAFKA_RESP_ERR__AUTHENTICATION as i32);
        assert!(tells_more(down, None) && tells_more(login, Some(down)));
        assert!(!tells_more(down, Some(login)));
    }

    #[test]
    fn an_error_shows_the_object_and_librdkafkas_words() {
        let failure = Failure { code: Code(7), text: "request timed out".to_owned(), retriable: true };
        let error = error("cannot begin on millrace-orders-0", failure);
        assert_eq!(error.to_string(), "cannot begin on millrace-orders-0: request timed out (7)");
    }
}
