//! Whose turn it is, where several instances of one connector stand by for each other.
//!
//! `Turn` is what the loop of attempts sees of a membership, `Giver` what the membership sees of the loop.
//! Start at `Turn::come`. What a turn is good for is peace: two instances that both work shut each other out
//! again and again. That nothing is lost or doubled when they do all the same, the sink's claims see to.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::progress::{Progress, State};

/// A membership answers within its peer's timeouts; one that does not has no turn to give.
const PROOF_WITHIN: Duration = Duration::from_secs(10);
/// A proof fails while the members are being counted anew, which takes about a heartbeat.
const PROVE_EVERY: Duration = Duration::from_millis(250);
/// To tell the others costs one message; those who are not told find out by themselves.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// What a membership says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// As far as it was told.
    pub mine: bool,
    /// The instance whose turn it is.
    pub active: Option<String>,
    /// Why nobody can say whose turn it is, and what to type.
    pub trouble: Option<(String, String)>,
}

/// Somebody wants to know for sure that it is this instance's turn.
pub type Proof = oneshot::Sender<bool>;

#[derive(Debug)]
pub struct Turn {
    standing: watch::Receiver<Standing>,
    proofs: mpsc::Sender<Proof>,
}

/// Belongs to the membership. The others are told that it leaves once `proofs` is closed.
#[derive(Debug)]
pub struct Giver {
    pub standing: watch::Sender<Standing>,
    pub proofs: mpsc::Receiver<Proof>,
}

pub fn turn() -> (Turn, Giver) {
    let (standing_in, standing) = watch::channel(Standing::default());
    let (proofs, proofs_out) = mpsc::channel(1);
    (Turn { standing, proofs }, Giver { standing: standing_in, proofs: proofs_out })
}

impl Turn {
    /// Waits until it is this instance's turn, proved and not remembered: a process that was stopped for a
    /// while still remembers. Shows meanwhile whose it is. Cancel-safe.
    pub async fn come(&mut self, progress: &Progress) {
        loop {
            let standing = self.standing.borrow_and_update().clone();
            progress.set_active_instance(standing.active.clone());
            if standing.mine {
                if self.prove().await {
                    return;
                }
                sleep(PROVE_EVERY).await;
                continue;
            }
            show(&standing, progress);
            if self.standing.changed().await.is_err() {
                // The membership has gone, and without it nobody knows.
                let reason = "it left the group of its instances and cannot come back".to_owned();
                progress.show(State::Degraded, Some(reason), Some("restart the daemon".to_owned()));
                return std::future::pending().await;
            }
        }
    }

    async fn prove(&self) -> bool {
        let (proof, proved) = oneshot::channel();
        let asked = async {
            self.proofs.send(proof).await.ok()?;
            proved.await.ok()
        };
        timeout(PROOF_WITHIN, asked).await.ok().flatten().unwrap_or(false)
    }

    /// Returns once it is somebody else's turn. Cancel-safe.
    pub async fn over(&mut self) {
        // An error is the end of the membership.
        let _ = self.standing.wait_for(|standing| !standing.mine).await;
    }

    pub fn is_mine(&self) -> bool {
        self.standing.borrow().mine
    }

    /// Lets the next one have its turn at once.
    pub async fn leave(self) {
        let Self { mut standing, proofs } = self;
        drop(proofs);
        let gone = async { while standing.changed().await.is_ok() {} };
        // Those who are not told wait for the session's timeout.
        let _ = timeout(LEAVE_WITHIN, gone).await;
    }
}

fn show(standing: &Standing, progress: &Progress) {
    let Standing { active, trouble, .. } = standing;
    match (trouble, active) {
        (Some((reason, hint)), _) => {
            progress.show(State::Degraded, Some(reason.clone()), Some(hint.clone()));
        }
        (None, Some(active)) => {
            let reason = format!("instance {active} is active; this one takes over when it goes");
            progress.show(State::Standby, Some(reason), None);
        }
        (None, None) => progress.show(State::Starting, Some("waiting for its turn".to_owned()), None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn standing(mine: bool, active: &str) -> Standing {
        Standing { mine, active: Some(active.to_owned()), trouble: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_remembered_and_not_proved_is_none() {
        let (mut turn, mut giver) = turn();
        let progress = Arc::<Progress>::default();
        giver.standing.send_replace(standing(true, "me"));
        let waits = tokio::spawn(async move { turn.come(&progress).await });
        giver.proofs.recv().await.unwrap().send(false).unwrap();
        let again = giver.proofs.recv().await.unwrap();
        assert!(!waits.is_finished());
        again.send(true).unwrap();
        waits.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_another_s_turn_the_connector_stands_by_and_says_whose_it_is() {
        let (mut turn, giver) = turn();
        let progress = Arc::<Progress>::default();
        giver.standing.send_replace(standing(false, "host-2"));
        let shown = progress.clone();
        let waits = tokio::spawn(async move { turn.come(&progress).await });
        while shown.shown().state != State::Standby {
            tokio::task::yield_now().await;
        }
        assert!(shown.shown().reason.is_some_and(|reason| reason.contains("host-2")));
        assert_eq!(shown.active_instance().as_deref(), Some("host-2"));
        waits.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_membership_without_its_peer_is_degraded_with_what_to_type() {
        let (mut turn, giver) = turn();
        let progress = Arc::<Progress>::default();
        let trouble = Some(("no coordinator".to_owned(), "start it".to_owned()));
        giver.standing.send_replace(Standing { trouble, ..Standing::default() });
        let shown = progress.clone();
        let waits = tokio::spawn(async move { turn.come(&progress).await });
        while shown.shown().state != State::Degraded {
            tokio::task::yield_now().await;
        }
        assert_eq!(shown.shown().hint.as_deref(), Some("start it"));
        waits.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_over_when_the_membership_says_so() {
        let (mut turn, giver) = turn();
        giver.standing.send_replace(standing(true, "me"));
        assert!(timeout(PROOF_WITHIN, turn.over()).await.is_err());
        giver.standing.send_replace(standing(false, "other"));
        turn.over().await;
        assert!(!turn.is_mine());
    }

    #[tokio::test(start_paused = true)]
    async fn leaving_waits_until_the_others_were_told() {
        let (turn, mut giver) = turn();
        let told = tokio::spawn(async move { giver.proofs.recv().await.is_none() });
        turn.leave().await;
        assert!(told.is_finished() && told.await.unwrap());
    }
}
