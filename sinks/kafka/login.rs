//! Sees that the login of a client has changed after the brokers refused it. librdkafka reads passwords and
//! certificates once, when a client is made, so one that was refused needs a new client as soon as its files
//! hold something else. Start at `Login::changed`.
//!
//! Not sooner: as long as nobody refuses the old login, a new one may be unknown to the brokers yet.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millrace_core::error::{Error, Result};
use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep_until};

use crate::config::Settings;
use crate::errors::{self, Class, Code};

/// A few small files, and only after a refusal.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Raised by the callbacks of a client that was refused. Clones are one flag.
#[derive(Clone, Debug, Default)]
pub struct Refused(Arc<AtomicBool>);

impl Refused {
    /// What librdkafka reports beside all calls.
    pub fn note(&self, code: Code) {
        if errors::class(code) == Class::Authorisation {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What clients were made with.
pub struct Login {
    settings: Arc<Settings>,
    used: Option<u64>,
    clients: Vec<Refused>,
    due: Instant,
}

impl Login {
    /// To be called before the clients are made: what changes in between is seen later, and not missed.
    pub fn new(settings: &Arc<Settings>) -> Self {
        let used = fingerprint(settings).ok();
        Self { settings: settings.clone(), used, clients: Vec::new(), due: Instant::now() }
    }

    pub fn of(&mut self, clients: impl IntoIterator<Item = Refused>) {
        self.clients.extend(clients);
    }

    /// A client was refused, and would not be made as it was.
    pub fn is_outdated(&self) -> bool {
        // A file that cannot be read now is being replaced.
        let now = || fingerprint(&self.settings).ok();
        self.clients.iter().any(Refused::is_raised) && now().is_some_and(|now| Some(now) != self.used)
    }

    /// Returns only with the reason to make the clients anew. Cancel-safe.
    pub async fn changed(&mut self) -> Error {
        loop {
            sleep_until(self.due).await;
            self.due = Instant::now() + LOOK_EVERY;
            if self.is_outdated() {
                let what = format!(
                    "kafka at {} refused the login, which has changed since",
                    self.settings.brokers()
                );
                return Error::transient(what).hint("the producers are opened anew with the present one");
            }
        }
    }
}

/// Of everything that a client is made with and that a file may hold.
fn fingerprint(settings: &Settings) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for (key, value) in settings.client_keys() {
        let value = value.read()?;
        (key, value.expose_secret()).hash(&mut hasher);
        if key.ends_with(".location") {
            // What is no file (a directory of certificates) is judged by its name alone.
            std::fs::read(value.expose_secret()).unwrap_or_default().hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHENTICATION: Code = Code(-169);
    const TRANSPORT: Code = Code(-195);

    fn settings(ca: &std::path::Path) -> Arc<Settings> {
        let raw = serde_json::json!({
            "bootstrap": ["a:1"], "security": "ssl", "tls": {"ca_file": ca.display().to_string()},
        });
        Arc::new(Settings::resolve(serde_json::from_value(raw).unwrap(), "orders").unwrap())
    }

    #[test]
    fn only_a_refused_login_that_has_changed_is_outdated() {
        let file = std::env::temp_dir().join(format!("millrace-login-{}", std::process::id()));
        std::fs::write(&file, "old").unwrap();
        let mut login = Login::new(&settings(&file));
        let refused = Refused::default();
        login.of([Refused::default(), refused.clone()]);
        assert!(!login.is_outdated(), "nobody refused");
        refused.note(TRANSPORT);
        std::fs::write(&file, "new").unwrap();
        assert!(!login.is_outdated(), "a broker that is away refuses nothing");
        refused.note(AUTHENTICATION);
        assert!(login.is_outdated());
        std::fs::write(&file, "old").unwrap();
        assert!(!login.is_outdated(), "the brokers would refuse it again");
        std::fs::remove_file(&file).unwrap();
    }
}
