//! A thin client of a Confluent-compatible schema registry: a schema under a subject becomes an id.
//!
//! Start at `Registry::register`. It waits, visibly, while the registry is away; every other answer is an
//! error that names the subject and what to type.

mod trust;

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_core::chaos::{self, Point};
use millrace_core::error::{Error, Result};
use millrace_core::hold::REGISTRY_AWAY;
use millrace_core::pattern::Pattern;
use millrace_core::progress::Progress;
use millrace_core::secret::Secret;
use millrace_core::sink::{Registered, SCHEMA_INCOMPATIBLE, SchemaType};
use reqwest::{StatusCode, Url};
use secrecy::ExposeSecret;

use crate::waiting::Waiting;

const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// A registry that answers at all answers within this; longer, and another one is asked.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// As much of a registry's answer as an error message quotes.
const QUOTE_CHARS: usize = 400;

#[derive(Clone, Debug, Default)]
pub enum Auth {
    #[default]
    None,
    Basic {
        user: String,
        password: Secret,
    },
    Bearer(Secret),
}

impl Auth {
    /// The files that it comes from; `None` where only a restart changes it.
    fn files(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Basic { password: secret, .. } | Self::Bearer(secret) => secret.files(),
        }
    }
}

/// Where the registry is and who we are to it.
#[derive(Clone, Debug)]
pub struct Settings {
    urls: Vec<Url>,
    auth: Auth,
    ca_file: Option<PathBuf>,
    /// Levels of compatibility that subjects are given, by pattern: the first that fits.
    levels: Vec<(Pattern, String)>,
}

impl Settings {
    /// `urls` are of one registry: the first that answers is kept. A user and a password in a URL count as
    /// basic authentication.
    pub fn new<U: AsRef<str>>(urls: &[U]) -> Result<Self, Vec<Error>> {
        let mut wrong = Vec::new();
        let mut settings = Self { urls: Vec::new(), auth: Auth::None, ca_file: None, levels: Vec::new() };
        if urls.is_empty() {
            wrong.push(Error::config("the registry has no url").hint("registry = \"http://host:8081\""));
        }
        for (nth, url) in urls.iter().enumerate() {
            // The text itself is not quoted: it may hold a password.
            match Url::parse(url.as_ref()) {
                Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => settings.add(url),
                Ok(_) | Err(_) => wrong.push(
                    Error::config(format!("registry url number {} is not an http or https url", nth + 1))
                        .hint("registry = \"http://host:8081\""),
                ),
            }
        }
        if wrong.is_empty() { Ok(settings) } else { Err(wrong) }
    }

    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// PEM certificates to trust instead of the system's.
    pub fn ca_file(mut self, file: PathBuf) -> Self {
        self.ca_file = Some(file);
        self
    }

    /// Subjects of these patterns are given these levels before anything is registered there.
    pub fn levels(mut self, levels: Vec<(Pattern, String)>) -> Self {
        self.levels = levels;
        self
    }

    fn add(&mut self, mut url: Url) {
        if let Some(password) = url.password() {
            let password = Secret::from(password);
            self.auth = Auth::Basic { user: url.username().to_owned(), password };
        }
        // Neither can fail for a url that has a host.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        self.urls.push(url);
    }
}

/// Shared by every clone of the sink's targets.
pub struct Registry {
    settings: Settings,
    http: Mutex<reqwest::Client>,
    /// Index of the url that answered last.
    current: AtomicUsize,
    ids: Mutex<HashMap<u128, u32>>,
    /// The newest schemas that were asked for, by subject.
    newest: Mutex<HashMap<String, Registered>>,
    progress: Arc<Progress>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("urls", &self.settings.urls).finish_non_exhaustive()
    }
}

impl Registry {
    pub fn new(settings: Settings, progress: Arc<Progress>) -> Result<Self> {
        let http = Mutex::new(client(&settings)?);
        let (ids, newest) = (Mutex::default(), Mutex::default());
        Ok(Self { settings, http, current: AtomicUsize::new(0), ids, newest, progress })
    }

    /// The id of a schema under a subject; asked of the registry once. With `patience`, fails with the code
    /// `REGISTRY_AWAY` where the registry is away for longer, and has answered before: what it has told then goes on.
    pub async fn register(
        &self,
        of: SchemaType,
        subject: &str,
        schema: &str,
        patience: Option<Duration>,
    ) -> Result<u32> {
        let key = fingerprint(of, subject, schema);
        if let Some(id) = self.ids().get(&key) {
            return Ok(*id);
        }
        let (mut body, mut other) = match of {
            SchemaType::Avro => (body_of(of, schema), respelled(schema)),
            SchemaType::Json => (body_of(of, schema), None),
        };
        let (mut waiting, since) = (Waiting::new(&self.progress), Instant::now());
        loop {
            match self.try_register(subject, &body).await {
                Ok(id) => {
                    chaos::pass(Point::SchemaRegistered);
                    self.ids().insert(key, id);
                    return Ok(id);
                }
                Err(Refusal::Invalid(error)) => match other.take() {
                    Some(text) => body = body_of(of, &text),
                    None => return Err(error.hint(invalid_hint(of))),
                },
                Err(Refusal::Stop(error)) => return Err(error),
                Err(Refusal::Again(error)) if self.is_too_long(since, patience) => return Err(away(error)),
                Err(Refusal::Again(error)) => waiting.after(&error).await,
            }
        }
    }

    /// The newest schema under a subject, asked for every time. `patience` as in `register`; what was told before counts
    /// while the registry is away.
    pub async fn latest(&self, subject: &str, patience: Option<Duration>) -> Result<Option<Registered>> {
        let (mut waiting, since) = (Waiting::new(&self.progress), Instant::now());
        loop {
            match self.try_latest(subject).await {
                Ok(found) => {
                    if let Some(found) = &found {
                        self.newest().insert(subject.to_owned(), found.clone());
                    }
                    return Ok(found);
                }
                Err(Refusal::Invalid(error) | Refusal::Stop(error)) => return Err(error),
                Err(Refusal::Again(error)) => {
                    let known = self.newest().get(subject).cloned().filter(|_| patience.is_some());
                    if known.is_some() {
                        return Ok(known);
                    }
                    if self.is_too_long(since, patience) {
                        return Err(away(error));
                    }
                    waiting.after(&error).await;
                }
            }
        }
    }

    /// Whether what is asked may wait alone: the registry has answered before, and is away for too long.
    fn is_too_long(&self, since: Instant, patience: Option<Duration>) -> bool {
        let has_answered = !self.ids().is_empty() || !self.newest().is_empty();
        has_answered && patience.is_some_and(|patience| since.elapsed() >= patience)
    }

    /// The text of a schema; `None` where the registry says that there is none of this id.
    pub async fn text_of(&self, id: u32) -> Result<Option<String>> {
        let mut last = Error::config("the registry has no url");
        for url in &self.settings.urls {
            let request =
                self.authorised(self.http().get(join(url, &["schemas", "ids", &id.to_string()])))?;
            let away = |error| {
                let what = format!("cannot ask the registry at {url} for schema {id}");
                trust::unreached(what, url, self.settings.ca_file.as_deref(), error)
            };
            match request.send().await.map_err(away) {
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND => return Ok(None),
                Ok(answer) if answer.status().is_success() => {
                    let body: serde_json::Value =
                        serde_json::from_str(&answer.text().await.map_err(away)?).unwrap_or_default();
                    return Ok(body.get("schema").and_then(|text| text.as_str()).map(ToOwned::to_owned));
                }
                Ok(answer) => {
                    let status = answer.status();
                    last =
                        Error::transient(format!("the registry at {url} answered {status} for schema {id}"))
                            .hint("look into its log");
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks whether the registry answers and lets us in; gives the url that did and the names of all subjects.
    pub async fn probe(&self) -> Result<(String, Vec<String>)> {
        let mut last = None;
        for url in &self.settings.urls {
            let request = self.authorised(self.http().get(join(url, &["subjects"])))?;
            match self.answer(request, url, "subjects").await {
                Ok(text) => return Ok((url.to_string(), serde_json::from_str(&text).unwrap_or_default())),
                Err(Refusal::Invalid(error) | Refusal::Stop(error)) => return Err(error),
                Err(Refusal::Again(error)) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::config("the registry has no url")))
    }

    /// Every url once, beginning with the one that answered last.
    fn urls(&self) -> impl Iterator<Item = (usize, &Url)> {
        let urls = &self.settings.urls;
        let first = self.current.load(Ordering::Relaxed);
        (0..urls.len()).filter_map(move |n| {
            let nth = (first + n) % urls.len();
            urls.get(nth).map(|url| (nth, url))
        })
    }

    async fn try_register(&self, subject: &str, body: &str) -> Result<u32, Refusal> {
        let mut last = None;
        for (nth, url) in self.urls() {
            match self.try_one(url, subject, body).await {
                Err(Refusal::Again(error)) => last = Some(error),
                answered => {
                    self.current.store(nth, Ordering::Relaxed);
                    return answered;
                }
            }
        }
        Err(unanswered(last))
    }

    async fn try_latest(&self, subject: &str) -> Result<Option<Registered>, Refusal> {
        let mut last = None;
        for (nth, url) in self.urls() {
            match self.latest_at(url, subject).await {
                Err(Refusal::Again(error)) => last = Some(error),
                answered => {
                    self.current.store(nth, Ordering::Relaxed);
                    return answered;
                }
            }
        }
        Err(unanswered(last))
    }

    async fn try_one(&self, url: &Url, subject: &str, body: &str) -> Result<u32, Refusal> {
        self.set_level(url, subject).await?;
        let request = self
            .authorised(self.http().post(join(url, &["subjects", subject, "versions"])))?
            .header("content-type", CONTENT_TYPE)
            .body(body.to_owned());
        let text = self.answer(request, url, subject).await?;
        id_of(&text).ok_or_else(|| {
            Refusal::Stop(
                Error::fatal(format!(
                    "the registry at {url} accepted subject {subject} without an id: {}",
                    quote(&text)
                ))
                .hint("is this the Confluent-compatible API? for Apicurio the url ends in /apis/ccompat/v7"),
            )
        })
    }

    /// The level that the file gives the subject, where it gives one.
    async fn set_level(&self, url: &Url, subject: &str) -> Result<(), Refusal> {
        let found = self.settings.levels.iter().find(|(pattern, _)| pattern.matches(subject));
        let Some((_, level)) = found else { return Ok(()) };
        let request = self
            .authorised(self.http().put(join(url, &["config", subject])))?
            .header("content-type", CONTENT_TYPE)
            .body(serde_json::json!({ "compatibility": level }).to_string());
        self.answer(request, url, subject).await.map(drop)
    }

    async fn latest_at(&self, url: &Url, subject: &str) -> Result<Option<Registered>, Refusal> {
        let path = join(url, &["subjects", subject, "versions", "latest"]);
        let (status, text) = self.said(self.authorised(self.http().get(path))?, url).await?;
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        // A path that it does not know has no code of this API.
        if status == StatusCode::NOT_FOUND && parsed.get("error_code").is_some() {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(self.refusal(status, url, subject, &text));
        }
        let word = |key: &str| parsed.get(key).and_then(|word| word.as_str());
        let of = match word("schemaType") {
            // Registries from before there were others.
            None | Some("AVRO") => SchemaType::Avro,
            Some("JSON") => SchemaType::Json,
            Some(other) => {
                return Err(Refusal::Stop(
                    Error::config(format!("subject {subject} has a schema of type {other}"))
                        .hint("name a subject of Avro or JSON Schema in [route.outbox]"),
                ));
            }
        };
        match (id_of(&text), word("schema").map(str::to_owned)) {
            (Some(id), Some(text)) => Ok(Some(Registered { id, of, text })),
            _ => Err(Refusal::Stop(Error::fatal(format!(
                "the registry at {url} gave no schema for subject {subject}: {}",
                quote(&text)
            )))),
        }
    }

    /// With the password or token as it is now.
    fn authorised(&self, request: reqwest::RequestBuilder) -> Result<reqwest::RequestBuilder> {
        let request = request.header("accept", CONTENT_TYPE);
        Ok(match &self.settings.auth {
            Auth::None => request,
            Auth::Basic { user, password } => {
                request.basic_auth(user, Some(password.read()?.expose_secret()))
            }
            Auth::Bearer(token) => request.bearer_auth(token.read()?.expose_secret()),
        })
    }

    fn http(&self) -> reqwest::Client {
        self.http.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The authority's certificates may have changed, and a client keeps those that it was made with.
    fn renew(&self) {
        if self.settings.ca_file.is_none() {
            return;
        }
        match client(&self.settings) {
            Ok(http) => *self.http.lock().unwrap_or_else(PoisonError::into_inner) = http,
            Err(error) => tracing::debug!(%error, "the registry's certificates are not read anew"),
        }
    }

    fn refusal(&self, status: StatusCode, url: &Url, subject: &str, text: &str) -> Refusal {
        match refusal(status, url, subject, text) {
            Refusal::Stop(error) if status == StatusCode::UNAUTHORIZED => match self.settings.auth.files() {
                Some(files) => Refusal::Again(error.passing().hint(format!(
                    "the registry's login comes from {files}, which is read again for every attempt: put the \
                     present one there, no restart is needed"
                ))),
                None => Refusal::Stop(error),
            },
            other => other,
        }
    }

    /// The body of a good answer, or what a bad one means.
    async fn answer(
        &self,
        request: reqwest::RequestBuilder,
        url: &Url,
        subject: &str,
    ) -> Result<String, Refusal> {
        let (status, text) = self.said(request, url).await?;
        if status.is_success() { Ok(text) } else { Err(self.refusal(status, url, subject, &text)) }
    }

    async fn said(
        &self,
        request: reqwest::RequestBuilder,
        url: &Url,
    ) -> Result<(StatusCode, String), Refusal> {
        let away = |error| {
            let what = format!("cannot reach the registry at {url}");
            Refusal::Again(trust::unreached(what, url, self.settings.ca_file.as_deref(), error))
        };
        let response = request.send().await.map_err(|error| {
            self.renew();
            away(error)
        })?;
        let status = response.status();
        let text = response.text().await.map_err(away)?;
        Ok((status, text))
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, HashMap<u128, u32>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, HashMap<String, Registered>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn client(settings: &Settings) -> Result<reqwest::Client> {
    let mut http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).user_agent("millrace");
    if let Some(file) = &settings.ca_file {
        let pem = std::fs::read(file).map_err(|error| ca_error(file).source(error))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| ca_error(file).source(error.without_url()))?;
        http = http.tls_certs_only(certificates);
    }
    http.build().map_err(|error| {
        Error::config("cannot set up the connection to the registry").source(error.without_url())
    })
}

#[derive(Debug)]
enum Refusal {
    /// May pass: another url, or later.
    Again(Error),
    /// It holds the text for no schema.
    Invalid(Error),
    Stop(Error),
}

/// A login that cannot be read now passes.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Again(error)
    }
}

fn unanswered(last: Option<Error>) -> Refusal {
    Refusal::Again(last.unwrap_or_else(|| Error::config("the registry has no url")))
}

fn body_of(of: SchemaType, text: &str) -> String {
    match of {
        // As clients write it that know no others.
        SchemaType::Avro => serde_json::json!({ "schema": text }),
        SchemaType::Json => serde_json::json!({ "schema": text, "schemaType": of.to_string() }),
    }
    .to_string()
}

fn invalid_hint(of: SchemaType) -> &'static str {
    match of {
        SchemaType::Avro => "a name in the table may have no place in Avro; exclude the column or rename it",
        SchemaType::Json => "correct its text in [route.outbox.schemas]",
    }
}

fn away(error: Error) -> Error {
    error.code(REGISTRY_AWAY)
}

fn id_of(answer: &str) -> Option<u32> {
    let answer: serde_json::Value = serde_json::from_str(answer).ok()?;
    answer.get("id")?.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// The same schema for a registry that refuses it as it is. Apicurio 3.0 takes a default `"{}"`, common for
/// jsonb, for an object before it parses the text, and then finds that no object is a string's default.
/// Spelled with an escape, it is left alone.
fn respelled(schema: &str) -> Option<String> {
    let other = schema.replace(r#":"{}""#, r#":"\u007b}""#);
    (other != schema).then_some(other)
}

fn refusal(status: StatusCode, url: &Url, subject: &str, text: &str) -> Refusal {
    let said = quote(text);
    match status.as_u16() {
        401 | 403 => Refusal::Stop(
            Error::config(format!(
                "the registry at {url} does not let us in for {subject} ({status}): {said}"
            ))
            .hint("correct the registry's user and password, or its token, and its access rights"),
        ),
        409 => Refusal::Stop(
            Error::config(format!(
                "the registry refuses the schema of subject {subject} as incompatible: {said}"
            ))
            .code(SCHEMA_INCOMPATIBLE)
            .hint(format!(
                "curl -X PUT -H 'content-type: {CONTENT_TYPE}' -d '{{\"compatibility\":\"NONE\"}}' \
                     {url}/config/{subject}, or send the table to a new topic, which has a new subject",
                url = url.as_str().trim_end_matches('/'),
            )),
        ),
        422 => Refusal::Invalid(
            Error::config(format!("the registry refuses the schema of subject {subject} as invalid: {said}"))
                .hint(invalid_hint(SchemaType::Avro)),
        ),
        404 => Refusal::Stop(
            Error::config(format!(
                "the registry at {url} does not know the path of subject {subject}: {said}"
            ))
            .hint("give the url of the Confluent-compatible API; for Apicurio it ends in /apis/ccompat/v7"),
        ),
        408 | 429 | 500..=599 => Refusal::Again(
            Error::transient(format!("the registry at {url} cannot answer for {subject} ({status}): {said}"))
                .hint("see the registry's own log"),
        ),
        _ => Refusal::Stop(
            Error::fatal(format!(
                "the registry at {url} gave an unknown answer for {subject} ({status}): {said}"
            ))
            .hint("see the registry's own log"),
        ),
    }
}

/// The registry's own message where there is one, without line breaks, and not too long.
fn quote(text: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let message = parsed.as_ref().and_then(|answer| answer.get("message")?.as_str()).unwrap_or(text);
    let words = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(QUOTE_CHARS) {
        Some((end, _)) => format!("{}...", words.get(..end).unwrap_or_default()),
        None => words,
    }
}

fn join(url: &Url, path: &[&str]) -> Url {
    let mut joined = url.clone();
    if let Ok(mut segments) = joined.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    joined
}

fn ca_error(file: &std::path::Path) -> Error {
    Error::config(format!("cannot use {} as the registry's certificates", file.display()))
        .hint("give a readable file of PEM certificates")
}

/// Schemas are long and tables many, so the cache keeps no text. 128 bits: no two schemas meet by chance.
fn fingerprint(of: SchemaType, subject: &str, schema: &str) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        (salt, of == SchemaType::Json, subject, schema).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    (half(1) << 64) | half(2)
}

#[cfg(test)]
mod tests;
