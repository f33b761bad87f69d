//! What goes wrong, and what arrives late. Start at `faults` and at `late`.

use millrace_kafka::rules::Step;

use crate::instance::{Action, Late, Taken, byte, committed, front};
use crate::log::NOBODY;
use crate::state::{IDS, Phase, Size, State};
use crate::variant::Variant;

/// Everything that one more fault can do.
pub fn faults(state: &State, size: Size, variant: &Variant, out: &mut Vec<Taken>) {
    if state.faults >= size.faults {
        return;
    }
    let mut before = *state;
    before.faults += 1;
    for i in 0..size.instances {
        let instance = before.instances[usize::from(i)];
        match instance.phase {
            Phase::Off | Phase::Stopped | Phase::Done => continue,
            Phase::Opening(at) => init_held_back(&before, i, at, variant, out),
            Phase::Claiming(at) => {
                if let Some(Step::Claim(id)) = variant.step(instance.order, at) {
                    doubtful(&before, i, byte(id), size, variant, out);
                }
            }
            Phase::Judging => (),
            Phase::Streaming => {
                if instance.pending > 0 {
                    let id = front(instance.turn, instance.pending);
                    doubtful(&before, i, id, size, variant, out);
                }
                abort(&before, i, variant, out);
            }
        }
        crash(&before, i, variant, out);
    }
    for id in IDS {
        if before.has_open(id) && !before.holds(NOBODY, id) {
            let mut next = before;
            next.bump(id, NOBODY);
            out.push((None, Action::TimedOut(id), Ok(next)));
        }
    }
}

/// What the brokers do with what nobody ends any more: sure to come, so no fault.
pub fn timeouts(state: &State, out: &mut Vec<Taken>) {
    for id in IDS {
        if state.has_open(id) && state.holds(NOBODY, id) {
            let mut next = *state;
            next.bump(id, NOBODY);
            out.push((None, Action::TimedOut(id), Ok(next)));
        }
    }
}

/// A request that was held back arrives.
pub fn late(state: &State, out: &mut Vec<Taken>) {
    for id in IDS {
        let at = usize::from(id);
        let flight = state.flight[at];
        if flight.commits > 0 {
            let mut next = *state;
            next.flight[at].commits -= 1;
            let ended = next.end(id, true);
            out.push((None, Action::Arrives(Late::Commit, id), ended.map(|()| next)));
        }
        if flight.aborts > 0 {
            let mut next = *state;
            next.flight[at].aborts -= 1;
            let ended = next.end(id, false);
            out.push((None, Action::Arrives(Late::Abort, id), ended.map(|()| next)));
        }
        if flight.inits > 0 {
            let mut next = *state;
            next.flight[at].inits -= 1;
            next.bump(id, NOBODY);
            out.push((None, Action::Arrives(Late::Init, id), Ok(next)));
        }
    }
}

/// The process ends and is started again: it knows nothing, and not its former name.
fn crash(before: &State, i: u8, variant: &Variant, out: &mut Vec<Taken>) {
    let mut next = *before;
    next.end_session(i, variant);
    next.disown_claims(i);
    next.positions.compact();
    let instance = next.instance(i);
    (instance.claimed, instance.known, instance.sent) = (false, 0, 0);
    out.push((Some(i), Action::Crash, Ok(next)));
}

/// The instance gives up and opens again while its request is under way.
fn init_held_back(before: &State, i: u8, at: u8, variant: &Variant, out: &mut Vec<Taken>) {
    let chosen = before.instances[usize::from(i)].order;
    let orders = if at == 0 { 0..byte(variant.orders.len()) } else { chosen..chosen + 1 };
    for order in orders {
        let Some(Step::Init(id)) = variant.step(order, at) else { continue };
        let mut next = *before;
        next.flight[id].inits += 1;
        next.end_session(i, variant);
        next.positions.compact();
        out.push((Some(i), Action::InitHeldBack(byte(id)), Ok(next)));
    }
}

/// A commit whose request is under way still: without an answer, or after the answer to a second one.
fn doubtful(before: &State, i: u8, id: u8, size: Size, variant: &Variant, out: &mut Vec<Taken>) {
    if !before.holds(i, id) || !before.has_open(id) {
        return;
    }
    let mut next = *before;
    next.flight[usize::from(id)].commits += 1;
    next.end_session(i, variant);
    next.positions.compact();
    out.push((Some(i), Action::CommitHeldBack(id), Ok(next)));

    let mut next = *before;
    let recycle = match next.instance(i).phase {
        Phase::Claiming(_) => variant.recycle_after_a_doubtful_claim,
        _ => variant.recycle_after_doubt,
    };
    next.flight[usize::from(id)].commits += 1;
    let ended = next.end(id, true).and_then(|()| committed(&mut next, i, size, variant));
    if recycle && next.instance(i).phase != Phase::Done {
        next.end_session(i, variant);
        next.positions.compact();
    }
    out.push((Some(i), Action::CommitTwice(id), ended.map(|()| next)));
}

/// A record was not delivered: what is open is aborted, and everything opened anew.
fn abort(before: &State, i: u8, variant: &Variant, out: &mut Vec<Taken>) {
    let mut next = *before;
    let instance = *next.instance(i);
    let id = instance.turn;
    if !instance.open || !next.holds(i, id) {
        return;
    }
    if variant.recycle_after_an_abort {
        // Whether the request to abort comes or the brokers do it themselves, is the same to everybody.
        next.end_session(i, variant);
        next.positions.compact();
    } else if instance.pending == 0 && next.has_open(id) {
        // Asked for twice; then the batch is sent once more by the same producer.
        next.flight[usize::from(id)].aborts += 1;
        // Aborting shows nothing to anybody.
        let _ = next.end(id, false);
        next.instance(i).open = false;
    } else {
        return;
    }
    out.push((Some(i), Action::Abort(id), Ok(next)));
}
