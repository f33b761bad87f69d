//! What operators want of a connector that is loaded: at work, paused or stopped, and begun anew.
//!
//! `Orders` is what REST and a reload give, `Told` what the connector's tasks hear of them. A pause lasts as long as
//! the process: what is to hold for good stands in the file, as `initial_state`.

use std::sync::Arc;

use millrace_core::progress::State;
use tokio::sync::watch;

/// Kafka Connect's target state of a connector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    #[default]
    Running,
    Paused,
    Stopped,
}

impl Wanted {
    /// What a connector shows that is held.
    pub fn held(self) -> Option<State> {
        match self {
            Self::Running => None,
            Self::Paused => Some(State::Paused),
            Self::Stopped => Some(State::Stopped),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    wanted: Wanted,
    /// Grows with each new beginning that is asked for.
    round: u64,
    /// The connector is no longer among the files.
    is_gone: bool,
}

impl Order {
    /// The run that began in this round.
    fn ends(&self, round: u64) -> bool {
        self.is_gone || self.round != round
    }
}

#[derive(Clone, Debug)]
pub struct Orders {
    order: Arc<watch::Sender<Order>>,
}

impl Orders {
    pub fn new(wanted: Wanted) -> Self {
        let order = Order { wanted, round: 0, is_gone: false };
        Self { order: Arc::new(watch::Sender::new(order)) }
    }

    pub fn want(&self, wanted: Wanted) {
        self.order.send_if_modified(|order| std::mem::replace(&mut order.wanted, wanted) != wanted);
    }

    /// A connector that failed for good is tried again; one at work goes on from its stored position.
    pub fn begin_anew(&self) {
        self.order.send_modify(|order| order.round += 1);
    }

    /// Ends it for good.
    pub fn dismiss(&self) {
        self.order.send_modify(|order| order.is_gone = true);
    }

    /// `stopping`: the whole daemon ends.
    pub fn told(&self, stopping: watch::Receiver<bool>) -> Told {
        let order = self.order.subscribe();
        let round = order.borrow().round;
        Told { stopping, order, round }
    }
}

/// The ear of one run, from one beginning to the next.
#[derive(Clone, Debug)]
pub struct Told {
    stopping: watch::Receiver<bool>,
    order: watch::Receiver<Order>,
    round: u64,
}

impl Told {
    /// The run is to end: the daemon stops, or it is to begin anew.
    pub fn is_over(&self) -> bool {
        *self.stopping.borrow() || self.order.borrow().ends(self.round)
    }

    /// For good, and not to begin anew.
    pub fn is_stopped(&self) -> bool {
        *self.stopping.borrow() || self.order.borrow().is_gone
    }

    pub fn wanted(&self) -> Wanted {
        self.order.borrow().wanted
    }

    /// Returns when the run is to end. Cancel-safe.
    pub async fn over(&mut self) {
        self.until(|_| false).await;
    }

    /// Returns when the run is to end, or something else is wanted than this. Cancel-safe.
    pub async fn no_longer(&mut self, wanted: Wanted) {
        self.until(|order| order.wanted != wanted).await;
    }

    async fn until(&mut self, is_other: impl Fn(&Order) -> bool) {
        let round = self.round;
        // `wait_for` also ends when the other side has gone.
        tokio::select! {
            _ = self.stopping.wait_for(|stop| *stop) => {}
            _ = self.order.wait_for(|order| order.ends(round) || is_other(order)) => {}
        }
    }
}
