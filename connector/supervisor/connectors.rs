//! The connectors of the daemon, as its parts see them: by name, while files come and go.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use millrace_core::progress::Progress;
use millrace_core::signal::{self, Signal};
use tokio::sync::{mpsc, watch};

use super::Ended;
use super::orders::Orders;
use crate::config;

/// One connector.
#[derive(Debug)]
pub struct Connector {
    name: String,
    /// Of the file as it was read last.
    settings: RwLock<Arc<config::Connector>>,
    pub progress: Arc<Progress>,
    pub orders: Orders,
    /// For what is asked of it while it runs.
    signals: Mutex<mpsc::Sender<Signal>>,
    /// How it ended by itself, until it is begun anew.
    pub ended: watch::Sender<Option<Ended>>,
}

impl Connector {
    pub fn new(settings: config::Connector) -> Self {
        Self {
            name: settings.name.clone(),
            orders: Orders::new(settings.initial_state),
            settings: RwLock::new(Arc::new(settings)),
            progress: Arc::default(),
            signals: Mutex::new(signal::signals().0),
            ended: watch::Sender::new(None),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn settings(&self) -> Arc<config::Connector> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What its next beginning goes by.
    pub fn set_settings(&self, settings: config::Connector) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// `false`: nobody hears it now, or many wait.
    pub fn signal(&self, signal: Signal) -> bool {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner).try_send(signal).is_ok()
    }

    /// Both ends of the signals for a run that begins: others than REST tell some too.
    pub fn hear(&self) -> (mpsc::Sender<Signal>, mpsc::Receiver<Signal>) {
        let (signals, heard) = signal::signals();
        *self.signals.lock().unwrap_or_else(PoisonError::into_inner) = signals.clone();
        (signals, heard)
    }

    /// Whether it failed, and is not tried again by itself.
    pub fn has_failed(&self) -> bool {
        matches!(*self.ended.borrow(), Some(Ended::Failed(_)))
    }
}

/// All of them, in the order of their files.
#[derive(Debug, Default)]
pub struct Connectors(RwLock<Vec<Arc<Connector>>>);

impl Connectors {
    pub fn all(&self) -> Vec<Arc<Connector>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn find(&self, name: &str) -> Option<Arc<Connector>> {
        self.all().into_iter().find(|connector| connector.name() == name)
    }

    pub fn set(&self, connectors: Vec<Arc<Connector>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = connectors;
    }
}

impl From<Vec<Arc<Connector>>> for Connectors {
    fn from(connectors: Vec<Arc<Connector>>) -> Self {
        Self(RwLock::new(connectors))
    }
}
