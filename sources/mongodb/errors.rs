//! What an answer of the server means for the connector, decided by its code. Start at `classified`.
//!
//! Unlike a log that is decoded message by message, a change stream is a question that can be asked again
//! from the place in the sink: nothing is skipped by asking once more. So what is not listed is `Transient`.

use std::collections::HashSet;

use millrace_core::error::{Error, Kind};
use millrace_core::progress::State;
use mongodb::error::{Error as DriverError, ErrorKind};

use crate::config::Settings;

/// While what failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A stream is being opened at a position: its token is judged.
    Opening,
    Reading,
}

/// Codes: `src/mongo/base/error_codes.yml`.
mod code {
    pub const UNAUTHORIZED: i32 = 13;
    pub const AUTHENTICATION_FAILED: i32 = 18;
    pub const CURSOR_NOT_FOUND: i32 = 43;
    pub const INVALID_RESUME_TOKEN: i32 = 260;
    pub const CHANGE_STREAM_FATAL: i32 = 280;
    pub const CHANGE_STREAM_HISTORY_LOST: i32 = 286;
    /// A token of another form: of another server's version.
    pub const INVALID_KEY_STRING: i32 = 50811;
    pub const CHANGE_STREAM_TOPOLOGY: i32 = 464;
    pub const OBJECT_TOO_LARGE: i32 = 10334;
    pub const ONLY_ON_REPLICA_SETS: i32 = 40573;
    /// A read as of a time that the storage engine no longer keeps, of a collection that it keeps none of, or of a time
    /// that has not come.
    pub const SNAPSHOT_TOO_OLD: i32 = 239;
    pub const SNAPSHOT_UNAVAILABLE: i32 = 246;
    pub const INVALID_OPTIONS: i32 = 72;
    /// A member that is going down, or is no longer primary: the drivers' list for reads.
    pub const PASSING: [i32; 13] = [11600, 11602, 10107, 13435, 13436, 189, 91, 7, 6, 89, 9001, 134, 262];
}

/// What the server's code says; `None` where the error is not an answer.
pub fn code_of(error: &DriverError) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

/// The user lacks a right.
pub fn is_unauthorized(error: &DriverError) -> bool {
    code_of(error) == Some(code::UNAUTHORIZED)
}

/// The list of the drivers' specification: the stream may be opened again where it stood, at once.
pub fn is_resumable(error: &DriverError) -> bool {
    match code_of(error) {
        Some(code) => may_resume(code, error.labels()),
        None => matches!(
            error.kind.as_ref(),
            ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::ServerSelection { .. }
        ),
    }
}

fn may_resume(code: i32, labels: &HashSet<String>) -> bool {
    code == code::CURSOR_NOT_FOUND || labels.contains("ResumableChangeStreamError")
}

/// A read as of a time was refused: what is committed now may be read all the same.
pub fn is_too_old(error: &DriverError) -> bool {
    use code::{SNAPSHOT_TOO_OLD, SNAPSHOT_UNAVAILABLE};
    code_of(error).is_some_and(|code| [SNAPSHOT_TOO_OLD, SNAPSHOT_UNAVAILABLE].contains(&code))
}

/// A read as of a time was refused because the server has nothing of that time yet, or cannot do such a read at all.
pub fn is_not_yet(error: &DriverError) -> bool {
    code_of(error) == Some(code::INVALID_OPTIONS)
}

/// A read may be tried again soon: the server is away, or another becomes the primary.
pub fn is_passing(error: &DriverError) -> bool {
    is_resumable(error) || code_of(error).is_some_and(|code| code::PASSING.contains(&code))
}

/// The place is gone, whatever is done.
fn is_lost(code: i32, phase: Phase) -> bool {
    match code {
        code::CHANGE_STREAM_FATAL | code::CHANGE_STREAM_HISTORY_LOST | code::CHANGE_STREAM_TOPOLOGY => true,
        // A valid token was judged invalid in the middle of a stream before: only an opening proves it.
        code::INVALID_RESUME_TOKEN | code::INVALID_KEY_STRING => phase == Phase::Opening,
        _ => false,
    }
}

/// An error of the driver under our own words.
pub fn classified(what: impl Into<String>, error: DriverError, settings: &Settings, phase: Phase) -> Error {
    let what = what.into();
    if let Some(code) = code_of(&error) {
        return answered(what, code, error, settings, phase);
    }
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => refused_login(what, error, settings),
        ErrorKind::InvalidTlsConfig { .. } => login(
            Error::config(what).source(error),
            "check tls in url, tls_ca_file and tls_certificate_key_file in [source.mongodb]",
            settings,
        ),
        ErrorKind::InvalidArgument { .. } | ErrorKind::IncompatibleServer { .. } => {
            Error::config(what).source(error).hint("check url in [source.mongodb]")
        }
        ErrorKind::ServerSelection { .. } | ErrorKind::Io(_) | ErrorKind::DnsResolve { .. } => {
            // A wrong password is found out by the monitors' connections too, and hidden behind this.
            login(
                Error::transient(what).source(error),
                &format!(
                    "is a primary of the replica set reachable at {}, under the names that its members have?",
                    settings.place()
                ),
                settings,
            )
        }
        _ => Error::transient(what).source(error),
    }
}

fn answered(what: String, code: i32, error: DriverError, settings: &Settings, phase: Phase) -> Error {
    if is_lost(code, phase) {
        return lost(what, error);
    }
    match code {
        code::UNAUTHORIZED => Error::config(what).source(error).hint(rights(settings)),
        code::AUTHENTICATION_FAILED => refused_login(what, error, settings),
        code::ONLY_ON_REPLICA_SETS => Error::config(what).source(error).hint(
            "change streams need a replica set: start mongod with --replSet rs0 and run: rs.initiate()",
        ),
        code::OBJECT_TOO_LARGE => Error::record(what).source(error).hint(
            "an event is above 16 MB: leave images out (pre_images = false, update_document = \"none\"), or \
             use a server from 6.0.9, which splits such events",
        ),
        _ => Error::new(Kind::Transient, what).source(error),
    }
}

fn refused_login(what: String, error: DriverError, settings: &Settings) -> Error {
    let hint = "check the user of url, authSource in it, and password, in [source.mongodb]";
    login(Error::config(what).source(error), hint, settings)
}

/// What comes from files may be about to change there: it is read again by the next attempt. What only a
/// restart changes keeps the kind that the error has.
fn login(error: Error, hint: &str, settings: &Settings) -> Error {
    let files = settings.login_files();
    if files.is_empty() {
        return error.hint(hint);
    }
    error.passing().hint(format!(
        "{hint}; what the login comes from is read again for every attempt, no restart is needed: {files}"
    ))
}

fn lost(what: String, error: DriverError) -> Error {
    Error::fatal(what)
        .source(error)
        .hint(
            "the server no longer has the changes after the position; compare the collections with their \
             topics, then accept the gap with `millrace position <file> set --yes`, and keep more of the log: \
             db.adminCommand({replSetResizeOplog: 1, size: <MB>, minRetentionHours: 48})",
        )
        .state(State::PositionLost)
}

/// What the user needs, as typed in a shell.
pub fn rights(settings: &Settings) -> String {
    use crate::config::Scope;
    const STREAM: &str = "\"find\", \"changeStream\"";
    // Whether a collection keeps images stands in its options, and only who may list collections sees those.
    const WITH_IMAGES: &str = "\"find\", \"changeStream\", \"listCollections\"";
    let privilege = |database: &str, collection: &str, actions: &str| {
        format!("{{resource: {{db: \"{database}\", collection: \"{collection}\"}}, actions: [{actions}]}}")
    };
    let actions = if settings.wants_images() { WITH_IMAGES } else { STREAM };
    let privileges = match &settings.scope {
        Scope::Deployment => privilege("", "", actions),
        Scope::Database(database) => privilege(database, "", actions),
        Scope::Collection(database, collection) if settings.wants_images() => {
            let of_database = privilege(database, "", "\"listCollections\"");
            format!("{}, {of_database}", privilege(database, collection, STREAM))
        }
        Scope::Collection(database, collection) => privilege(database, collection, STREAM),
    };
    format!(
        "db.getSiblingDB(\"admin\").createRole({{role: \"millrace\", roles: [], privileges: [{privileges}]}}), and \
         grant it to the user of url"
    )
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{deserialize_from_document, doc};

    use super::*;

    #[test]
    fn the_rights_are_those_that_the_file_needs() {
        let of = |toml: &str| {
            let file = format!("url = 'mongodb://db'\ncollections = ['shop.a']\n{toml}");
            rights(&Settings::resolve(toml::from_str(&file).unwrap(), "orders").unwrap())
        };
        assert!(of("").contains(r#"{db: "", collection: ""}, actions: ["find", "changeStream"]}]"#));
        let with_images =
            r#"{db: "shop", collection: ""}, actions: ["find", "changeStream", "listCollections"]}]"#;
        assert!(of("scope = 'database'\npre_images = true").contains(with_images));
        let of_one = of("scope = 'collection'\nupdate_document = 'post_image'");
        assert!(
            of_one.contains(r#"{db: "shop", collection: "a"}, actions: ["find", "changeStream"]}"#),
            "{of_one}"
        );
        assert!(
            of_one.contains(r#"{db: "shop", collection: ""}, actions: ["listCollections"]}"#),
            "{of_one}"
        );
    }

    #[test]
    fn a_stream_is_opened_again_after_a_lost_cursor_what_the_server_says_and_a_lost_connection() {
        let labels = |label: &str| HashSet::from([label.to_owned()]);
        assert!(may_resume(43, &HashSet::new()) && may_resume(10107, &labels("ResumableChangeStreamError")));
        assert!(!may_resume(10107, &HashSet::new()) && !may_resume(286, &labels("NonResumable")));
        let answer = |code: i32| {
            let command = doc! { "code": code, "codeName": "X", "errmsg": "x" };
            ErrorKind::Command(deserialize_from_document(command).expect("an answer"))
        };
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let io = ErrorKind::Io(std::sync::Arc::new(broken));
        for (kind, expected) in [(answer(43), true), (answer(13), false), (answer(286), false), (io, true)] {
            assert_eq!(is_resumable(&DriverError::from(kind.clone())), expected, "{kind:?}");
        }
    }

    #[test]
    fn only_an_opening_judges_a_token() {
        for (code, phase, expected) in [
            (286, Phase::Reading, true),
            (280, Phase::Reading, true),
            (464, Phase::Opening, true),
            (260, Phase::Reading, false),
            (260, Phase::Opening, true),
            (50811, Phase::Reading, false),
            (50811, Phase::Opening, true),
            (10107, Phase::Opening, false),
            (13, Phase::Opening, false),
        ] {
            assert_eq!(is_lost(code, phase), expected, "{code} {phase:?}");
        }
    }
}
