//! Sends spans to a collector: OTLP over HTTP, in JSON (`otlp`). Start at `Exporter::start`.
//!
//! The work never waits for a collector: one that is slow or away costs spans, which are counted, and nothing else.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use millrace_core::retry::Backoff;
use millrace_core::secret::Secret;
use millrace_core::trace::{self, Span, Spans};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use secrecy::ExposeSecret;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::otlp::{self, Resource};

/// Spans of one request.
const REQUEST_SPANS_MAX: usize = 256;
/// How long the first span of a request waits for more.
const GATHERED_WITHIN: Duration = Duration::from_secs(1);
/// A collector that is away for longer does not get these spans: newer ones wait.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Whatever a collector says, it is asked again this soon.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// What it says of spans that it did not take is short.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// At the daemon's end, for what is still here.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// `[traces]`, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// With the path of OTLP in it.
    pub url: Url,
    /// Read for each request: a token may change.
    pub headers: Vec<(HeaderName, Secret)>,
    pub ca_file: Option<PathBuf>,
    pub timeout: Duration,
    pub ratio: f64,
    pub service: String,
    /// Another one where the file says something else.
    pub fingerprint: u64,
}

impl PartialEq for Settings {
    /// By what the file says: secrets cannot be compared.
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// What sends spans, as long as the daemon runs.
pub struct Exporter {
    ending: oneshot::Sender<()>,
    work: JoinHandle<()>,
}

impl Exporter {
    /// From now on spans are made and sent.
    pub fn start(settings: Settings) -> Result<Self> {
        let client = client(&settings)?;
        let (waiting, spans) = trace::install(settings.ratio)
            .zip(trace::wanted())
            .ok_or_else(|| Error::fatal("spans were wanted before"))?;
        let instance = uuid::Uuid::new_v4().to_string();
        let resource = Resource { service: settings.service.clone(), instance };
        info!(url = %settings.url, ratio = settings.ratio, "spans of Kafka transactions go to a collector");
        let (ending, ends) = oneshot::channel();
        let sender = Sender { settings, client, resource, spans, is_away: false };
        let work = tokio::spawn(sender.run(waiting, ends));
        Ok(Self { ending, work })
    }

    /// Sends what is still here, and waits for it, but not for long.
    pub async fn finish(self) {
        // Nobody to tell: the task has ended, and so has this.
        let _ = self.ending.send(());
        if tokio::time::timeout(ENDS_WITHIN, self.work).await.is_err() {
            debug!("the last spans did not go out in time");
        }
    }
}

fn client(settings: &Settings) -> Result<Client> {
    // A redirect would carry the headers, and what they hold, to somebody else.
    let no_detour = reqwest::redirect::Policy::none();
    let mut http = Client::builder().timeout(settings.timeout).user_agent("millrace").redirect(no_detour);
    if let Some(file) = &settings.ca_file {
        let unusable = || {
            Error::config(format!("cannot use {} as the certificates of the collector", file.display()))
                .hint("give ca_file in [traces] a readable file of PEM certificates")
        };
        let pem = std::fs::read(file).map_err(|error| unusable().source(error))?;
        let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable().source(error))?;
        http = http.tls_certs_only(roots);
    }
    http.build().map_err(|error| {
        Error::config("cannot set up the connection to the collector of spans").source(error)
    })
}

struct Sender {
    settings: Settings,
    client: Client,
    resource: Resource,
    spans: &'static Spans,
    /// Said once, and not for every request.
    is_away: bool,
}

/// What came of a request.
enum Sent {
    /// All but so many.
    Yes { rejected: u64 },
    /// May pass; not before this, where the collector says so.
    Away(Error, Option<Duration>),
    /// Would come of it each time.
    Refused(Error),
}

impl Sender {
    async fn run(mut self, mut waiting: mpsc::Receiver<Span>, mut ends: oneshot::Receiver<()>) {
        let mut batch = Vec::with_capacity(REQUEST_SPANS_MAX);
        loop {
            tokio::select! {
                biased;
                _ = &mut ends => break,
                () = gather(&mut waiting, &mut batch) => {}
            }
            tokio::select! {
                biased;
                _ = &mut ends => break,
                () = self.deliver(&batch) => batch.clear(),
            }
        }
        loop {
            while batch.len() < REQUEST_SPANS_MAX
                && let Ok(span) = waiting.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            // Once: who waits for us does not wait for a collector.
            let outcome = self.send(&batch).await;
            self.count(&batch, outcome);
            batch.clear();
        }
    }

    /// Tries for a while, and then lets them go. Cancelled, they are still the caller's.
    async fn deliver(&mut self, batch: &[Span]) {
        let (mut backoff, began) = (Backoff::default(), Instant::now());
        loop {
            match self.send(batch).await {
                Sent::Away(error, after) if began.elapsed() < AWAY_MAX => {
                    self.tell(&error);
                    tokio::time::sleep(after.unwrap_or_else(|| backoff.next_wait())).await;
                }
                outcome => return self.count(batch, outcome),
            }
        }
    }

    fn count(&mut self, batch: &[Span], outcome: Sent) {
        let all = batch.len() as u64;
        let rejected = match outcome {
            Sent::Yes { rejected } => {
                if std::mem::take(&mut self.is_away) {
                    info!(url = %self.settings.url, "the collector takes spans again");
                }
                rejected.min(all)
            }
            Sent::Away(error, _) | Sent::Refused(error) => {
                self.tell(&error);
                all
            }
        };
        self.spans.sent.fetch_add(all - rejected, Ordering::Relaxed);
        self.spans.dropped.fetch_add(rejected, Ordering::Relaxed);
    }

    fn tell(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.is_away, true) {
            warn!(hint = error.hint_text(), "{error}; events go on, and spans are dropped meanwhile");
        }
    }

    async fn send(&self, batch: &[Span]) -> Sent {
        let url = &self.settings.url;
        let body = otlp::request(&self.resource, batch).to_string();
        let mut request = self.client.post(url.clone()).header("content-type", "application/json").body(body);
        for (name, value) in &self.settings.headers {
            match header(value) {
                Ok(value) => request = request.header(name, value),
                Err(error) => return Sent::Away(error, None),
            }
        }
        let away = |error: reqwest::Error| {
            let error = Error::transient(format!("cannot send spans to {url}")).source(error.without_url());
            Sent::Away(error.hint("start the collector, or correct endpoint in [traces]"), None)
        };
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return away(error),
        };
        let status = answer.status();
        let after = answer.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
        let text = match beginning(answer).await {
            Ok(text) => text,
            Err(error) => return away(error),
        };
        let refused = Error::transient(format!("the collector at {url} does not take spans: {status}"));
        match status {
            _ if status.is_success() => Sent::Yes { rejected: self.rejected(&text) },
            // Those that the specification has tried again.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let after = after.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
                Sent::Away(refused.hint("look into its log"), after)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Sent::Refused(refused.hint("correct headers in [traces]"))
            }
            _ => Sent::Refused(refused.hint(
                "give endpoint in [traces] the collector's address for OTLP over HTTP, port 4318 by default; 4317 is \
                 gRPC's",
            )),
        }
    }

    fn rejected(&self, answer: &str) -> u64 {
        let Some((count, why)) = otlp::rejected(answer) else { return 0 };
        warn!(spans = count, why, "the collector took a request without some of its spans");
        count
    }
}

/// As much of an answer as is looked at.
async fn beginning(mut answer: Response) -> reqwest::Result<String> {
    let mut text = Vec::new();
    while text.len() < ANSWER_BYTES_MAX
        && let Some(chunk) = answer.chunk().await?
    {
        text.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// As it is now.
fn header(value: &Secret) -> Result<HeaderValue> {
    let text = value.read()?;
    let mut value = HeaderValue::from_str(text.expose_secret()).map_err(|_| {
        Error::transient("a value of headers in [traces] is none that HTTP has")
            .hint("take line breaks and other control characters out of it")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Waits for a span, and a moment for more. Cancelled, what it has is in the batch.
async fn gather(waiting: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) {
    if batch.is_empty() {
        match waiting.recv().await {
            Some(span) => batch.push(span),
            // Its other end is a static.
            None => return std::future::pending().await,
        }
    }
    let more = async {
        while batch.len() < REQUEST_SPANS_MAX {
            match waiting.recv().await {
                Some(span) => batch.push(span),
                None => return,
            }
        }
    };
    // Whether it is full or the time is over is all one.
    let _ = tokio::time::timeout(GATHERED_WITHIN, more).await;
}
