//! Defaults applied, choices made, cross-checks done: what the rest of the daemon works with.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use millrace_core::encode::signature::Signature;
use millrace_core::encode::{Envelope, Format};
use millrace_core::error::Error;
use millrace_core::route::is_topic_name;
use millrace_core::route::step::Does;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use secrecy::ExposeSecret;

use super::{format, raw, route};
use crate::operators;
use crate::registry::{self, Sink, Source};
use crate::supervisor::Wanted;

/// Longer names would not fit beside what the slot, the topic and the transactional id add.
const NAME_LEN_MAX: usize = 50;

/// One connector, ready to be built.
#[derive(Clone, Debug)]
pub struct Connector {
    pub name: String,
    /// Several instances with this file stand by for each other, and one at a time is at work.
    pub high_availability: bool,
    /// What is wanted of it until an operator wants something else.
    pub initial_state: Wanted,
    /// The file it came from, as it was given.
    pub file: String,
    pub source: Source,
    pub format: Format,
    pub sink: Sink,
    /// `None`: nobody wants to know what operators did.
    pub operator_log: Option<operators::Log>,
    /// Its configuration as REST shows it.
    pub shown: BTreeMap<String, String>,
    /// Another one where the file, read again, says something else.
    pub fingerprint: u64,
}

/// Where REST listens and what it gives away there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    pub listen: SocketAddr,
    /// Reading paths and metrics are open off loopback too.
    pub open_reading: bool,
}

impl Default for Rest {
    /// Kafka Connect's port, on loopback: status names tables and hosts.
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8083)), open_reading: false }
    }
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// `source.postgres.tables`, where to look in the file.
    pub key: String,
    /// Names the key itself.
    pub message: String,
    pub hint: Option<String>,
}

/// What is wrong, all of it.
#[derive(Debug, Default)]
pub struct Problems {
    pub found: Vec<Found>,
}

impl Problems {
    pub fn add(&mut self, key: &str, message: impl AsRef<str>) {
        let message = format!("{key}: {}", message.as_ref());
        self.found.push(Found { key: key.to_owned(), message, hint: None });
    }

    /// Takes over what a source or a sink says of its section: its messages begin with the key, whole or
    /// after the section's name.
    pub fn add_section(&mut self, section: &str, errors: Vec<Error>) {
        for error in errors {
            let message = error.to_string();
            let rest = message.strip_prefix(&format!("[{section}] ")).unwrap_or(&message);
            let first = rest.split([' ', ':']).next().unwrap_or_default();
            let key = match first.starts_with(section) {
                true => first.to_owned(),
                false => format!("{section}.{first}"),
            };
            self.found.push(Found { key, message, hint: error.hint_text().map(str::to_owned) });
        }
    }
}

/// The file's settings; `None` where a part is missing, and `problems` says what.
pub fn resolve(
    raw: raw::File,
    file: &str,
    shown: BTreeMap<String, String>,
    problems: &mut Problems,
) -> Option<Connector> {
    let name = name(raw.name.as_deref(), problems);
    let high_availability = raw.high_availability.unwrap_or(false);
    if high_availability && raw.sink.kafka.is_none() {
        problems.add("high_availability", "needs [sink.kafka]: a consumer group there says whose turn it is");
    }
    let initial_state = initial_state(raw.initial_state.as_deref(), problems);
    let mut format = format::resolve(&raw.format, &name, problems);
    format.signature = signature(&raw.signature, problems);
    route::resolve(&raw, &mut format, problems);
    let operator_log = operator_log(&raw, problems);
    let source = raw.source.resolve(&name, problems);
    let sink = raw.sink.resolve(&raw.format, &format, &name, problems);
    let (mut source, sink) = (source?, sink?);
    source.sweep(&format.routes, problems);
    let is_said = raw.route.iter().any(|route| route.outbox.first_start.is_some());
    source.begin_outboxes(&format, is_said, problems);
    // Those of a router take values by their types.
    let mut outboxes = format.routes.iter().filter_map(|route| route.outbox.as_ref());
    if !source.has_plain_values() && outboxes.any(|outbox| outbox.routed.is_none()) {
        problems.add(
            "source.mongodb.json",
            "wraps ids, dates and numbers, and an outbox's consumers expect JSON; set json = \"plain\"",
        );
    }
    fit(&raw.format.flat, &format, &source, problems);
    let shown = registry::with_connect_keys(shown, &source);
    let file = file.to_owned();
    Some(Connector {
        name,
        high_availability,
        initial_state,
        file,
        source,
        format,
        sink,
        operator_log,
        shown,
        fingerprint: 0,
    })
}

/// What there is of rows alone, and of documents alone.
fn fit(flat: &raw::Flat, format: &Format, source: &Source, problems: &mut Problems) {
    let is_flat = |format: &Format| format.envelope == Envelope::Flat;
    if *flat != raw::Flat::default() && !format.is_somewhere(is_flat) {
        problems.add("format.flat", "has no effect but with envelope = \"flat\"");
    }
    let of_documents = [
        ("arrays", flat.arrays.is_some()),
        ("flatten", flat.flatten.is_some()),
        ("delimiter", flat.delimiter.is_some()),
    ];
    for (key, _) in of_documents.into_iter().filter(|(_, is_set)| *is_set && !source.has_documents()) {
        problems.add(&format!("format.flat.{key}"), "has no effect but on documents; remove it");
    }
    for (key, parts) in [("add_fields", &format.flat.fields), ("add_headers", &format.flat.headers)] {
        for part in parts.iter().filter(|part| !part.is_of(source.has_documents())) {
            let name = &part.name;
            problems.add(
                &format!("format.flat.{key}"),
                format!("names a part that events of this source do not have, as {name:?}"),
            );
        }
    }
    let names_fields =
        |does: &Does| !matches!(does, Does::Discard | Does::HeaderTexts(_) | Does::DropHeaders(_));
    if source.has_documents() && format.steps.iter().any(|step| names_fields(&step.does)) {
        problems.add(
            "step",
            "names fields, and documents have no columns; exclude_fields and rename_fields in [source.mongodb] are theirs",
        );
    }
}

/// In any case: Connect has it in capitals.
fn initial_state(word: Option<&str>, problems: &mut Problems) -> Wanted {
    let known = [("running", Wanted::Running), ("paused", Wanted::Paused), ("stopped", Wanted::Stopped)];
    format::choice(problems, "initial_state", &word.map(str::to_ascii_lowercase), &known).unwrap_or_default()
}

/// Where operators' actions are written, where the file says one of both.
fn operator_log(raw: &raw::File, problems: &mut Problems) -> Option<operators::Log> {
    let raw::OperatorLog { file, topic } = raw.operator_log.clone();
    if let Some(topic) = &topic {
        if !is_topic_name(topic) {
            problems.add("operator_log.topic", "cannot be the name of a Kafka topic");
        }
        if raw.sink.kafka.is_none() {
            problems.add("operator_log.topic", "needs [sink.kafka]; a `file` does not");
        }
    }
    let is_said = file.is_some() || topic.is_some();
    is_said.then_some(operators::Log { file, topic })
}

/// The key that signs every value, where the file has one.
fn signature(raw: &raw::Signature, problems: &mut Problems) -> Option<Signature> {
    let key_id = raw.key_id.as_deref().unwrap_or("millrace");
    if key_id.is_empty() || key_id.contains(':') {
        problems.add("signature.key_id", "is a name without a colon");
    }
    let (key, made) = match (&raw.ed25519_secret, &raw.hmac_sha256_secret) {
        (None, None) => {
            if raw.key_id.is_some() {
                problems
                    .add("signature", "has a key_id and no key; add ed25519_secret or hmac_sha256_secret");
            }
            return None;
        }
        (Some(_), Some(_)) => {
            problems.add("signature", "has two keys; a value is signed once");
            return None;
        }
        (Some(pem), None) => {
            let document = PrivatePkcs8KeyDer::from_pem_slice(pem.expose_secret().as_bytes());
            let made = match document {
                Ok(document) => Signature::ed25519(key_id, document.secret_pkcs8_der()),
                Err(_) => Err("is no PEM of a private key; make one: openssl genpkey -algorithm ed25519"),
            };
            ("signature.ed25519_secret", made)
        }
        (None, Some(secret)) => {
            let made = Signature::hmac_sha256(key_id, secret.expose_secret().trim_end().as_bytes());
            ("signature.hmac_sha256_secret", made)
        }
    };
    made.map_err(|why| problems.add(key, why)).ok()
}

fn name(name: Option<&str>, problems: &mut Problems) -> String {
    let Some(name) = name else {
        problems.add("name", "is missing; it names the slot, the transactional id and the metrics label");
        // Checked on under a name that is right, so that only what is wrong is named.
        return "unnamed".to_owned();
    };
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(fits) {
        problems.add(
            "name",
            format!("{name:?} must be 1 to {NAME_LEN_MAX} lower-case letters, digits, `-` and `_`"),
        );
        return "unnamed".to_owned();
    }
    name.to_owned()
}

/// `[rest]` of one file, as far as it says something.
pub fn rest(raw: &raw::Rest, problems: &mut Problems) -> Option<Rest> {
    if raw.listen.is_none() && raw.open_reading.is_none() {
        return None;
    }
    let mut rest = Rest::default();
    if let Some(listen) = &raw.listen {
        match listen.parse() {
            Ok(listen) => rest.listen = listen,
            Err(_) => {
                problems.add("rest.listen", format!("{listen:?} is not an address like 127.0.0.1:8083"))
            }
        }
    }
    rest.open_reading = raw.open_reading.unwrap_or(false);
    Some(rest)
}
