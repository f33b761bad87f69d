//! What an instance does by itself. Start at `steps`.

use millrace_kafka::rules::{self, Step};

use crate::log::{NOBODY, What};
use crate::state::{Outcome, Phase, Size, State};
use crate::variant::Variant;

/// What was done, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Init(u8),
    WriteClaim(u8),
    Commit(u8),
    FindEnd,
    Read,
    Judge,
    WriteData(u8),
    WritePosition(u8),
    // Faults.
    Crash,
    InitHeldBack(u8),
    CommitHeldBack(u8),
    CommitTwice(u8),
    Abort(u8),
    // Without any instance.
    TimedOut(u8),
    Arrives(Late, u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    Init,
    Commit,
    Abort,
}

/// A step with where it leads. `None` as the instance: the brokers or the network.
pub type Taken = (Option<u8>, Action, Result<State, Outcome>);

/// Why an instance reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Position,
    Claim,
}

/// Everything that one instance can do next without any fault.
pub fn steps(state: &State, i: u8, size: Size, variant: &Variant, out: &mut Vec<Taken>) {
    let instance = state.instances[usize::from(i)];
    match instance.phase {
        Phase::Off => opening(state, i, 0, size, variant, out),
        Phase::Opening(at) => opening(state, i, at, size, variant, out),
        Phase::Claiming(at) => {
            if let Some(Step::Claim(id)) = variant.step(instance.order, at) {
                commit(state, i, byte(id), size, variant, out);
            }
        }
        Phase::Judging => read(state, i, Reading::Claim, size, variant, out),
        Phase::Streaming => streaming(state, i, size, variant, out),
        Phase::Stopped | Phase::Done => (),
    }
}

pub fn byte(id: usize) -> u8 {
    u8::try_from(id).unwrap_or(NOBODY)
}

fn opening(state: &State, i: u8, at: u8, size: Size, variant: &Variant, out: &mut Vec<Taken>) {
    let chosen = state.instances[usize::from(i)].order;
    // The order is drawn with the first step.
    let orders = if at == 0 { 0..byte(variant.orders.len()) } else { chosen..chosen + 1 };
    for order in orders {
        let Some(step) = variant.step(order, at) else { continue };
        let mut next = *state;
        next.instance(i).order = order;
        match step {
            Step::Init(id) => {
                let id = byte(id);
                next.bump(id, i);
                next.instance(i).phase = Phase::Opening(at + 1);
                out.push((Some(i), Action::Init(id), Ok(next)));
            }
            Step::Claim(id) => {
                let id = byte(id);
                if next.holds(i, id) {
                    next.positions.push(What::Claim(i), Some(id));
                    if variant.claims_carry_a_position {
                        let known = next.instance(i).known.saturating_sub(1);
                        next.positions.push(What::Position(known), Some(id));
                    }
                    next.instance(i).phase = Phase::Claiming(at);
                } else {
                    fenced(&mut next, i, variant);
                }
                out.push((Some(i), Action::WriteClaim(id), Ok(next)));
            }
            Step::Read => {
                let known = next.instance(i).known;
                if variant.reads_at_every_opening || known == 0 {
                    read(&next, i, Reading::Position, size, variant, out);
                } else {
                    stream_from(&next, i, known - 1, size, variant, out);
                }
            }
        }
    }
}

/// Reads up to the end as it is now: at once where nothing is open before it, else when all of that has ended.
fn read(state: &State, i: u8, why: Reading, size: Size, variant: &Variant, out: &mut Vec<Taken>) {
    let mut next = *state;
    let end = What::End(i);
    let has_found_end = state.positions.iter().any(|entry| entry.what == end);
    let before = state.positions.iter().take_while(|entry| entry.what != end);
    let waits = why == Reading::Position || !variant.judges_without_waiting;
    if waits && { before }.any(|entry| entry.open.is_some()) {
        if !has_found_end {
            next.positions.push(end, None);
            out.push((Some(i), Action::FindEnd, Ok(next)));
        }
        return;
    }
    let (position, claim) = state.positions.newest(has_found_end.then_some(i));
    next.positions.remove(end);
    next.positions.compact();
    match why {
        Reading::Position => stream_from(&next, i, position, size, variant, out),
        Reading::Claim => {
            let claimed = variant.fenced_by_the_newest_claim_alone || next.instance(i).claimed;
            match rules::rival(claimed, claim, |by| *by == i) {
                Some(_) => next.instance(i).phase = Phase::Stopped,
                None => next.instance(i).phase = Phase::Opening(0),
            }
            out.push((Some(i), Action::Judge, Ok(next)));
        }
    }
}

fn stream_from(state: &State, i: u8, position: u8, size: Size, variant: &Variant, out: &mut Vec<Taken>) {
    let first = byte(rules::FIRST);
    let turns = if variant.first_on_either { 0..2 } else { first..first + 1 };
    for turn in turns {
        let mut next = *state;
        let instance = next.instance(i);
        let unchanged = instance.known == position + 1;
        instance.next = position + 1;
        if variant.goes_on_where_nothing_changed && unchanged {
            instance.next = instance.next.max(instance.sent + 1);
        }
        instance.turn = turn;
        instance.phase = Phase::Streaming;
        if variant.remembers() {
            instance.known = position + 1;
        }
        let finished = finish_if_done(&mut next, i, size, variant);
        out.push((Some(i), Action::Read, finished.map(|()| next)));
    }
}

/// Everything is delivered, as far as the instance knows.
fn finish_if_done(state: &mut State, i: u8, size: Size, variant: &Variant) -> Result<(), Outcome> {
    let instance = *state.instance(i);
    if instance.next <= size.batches || instance.open || instance.pending > 0 {
        return Ok(());
    }
    state.end_session(i, variant);
    let done = state.instance(i);
    (done.phase, done.known, done.sent, done.claimed) = (Phase::Done, 0, 0, false);
    if state.visible == size.batches { Ok(()) } else { Err(Outcome::Lost) }
}

fn streaming(state: &State, i: u8, size: Size, variant: &Variant, out: &mut Vec<Taken>) {
    let mut next = *state;
    let instance = *next.instance(i);
    let id = instance.turn;
    if instance.open {
        if next.holds(i, id) {
            next.positions.push(What::Position(instance.next), Some(id));
            let closed = next.instance(i);
            closed.open = false;
            closed.pending += 1;
            closed.sent = if variant.goes_on_where_nothing_changed { instance.next } else { 0 };
            closed.next += 1;
            closed.turn = byte(rules::after(usize::from(id)));
        } else {
            fenced(&mut next, i, variant);
        }
        out.push((Some(i), Action::WritePosition(id), Ok(next)));
    } else if instance.pending < 2 && instance.next <= size.batches {
        if next.holds(i, id) {
            next.data.push(What::Data(instance.next), Some(id));
            next.instance(i).open = true;
        } else {
            fenced(&mut next, i, variant);
        }
        out.push((Some(i), Action::WriteData(id), Ok(next)));
    }
    if instance.pending > 0 {
        commit(state, i, front(instance.turn, instance.pending), size, variant, out);
    }
}

/// The id of the oldest transaction that waits for its commit.
pub fn front(turn: u8, pending: u8) -> u8 {
    if pending == 2 { turn } else { byte(rules::after(usize::from(turn))) }
}

fn commit(state: &State, i: u8, id: u8, size: Size, variant: &Variant, out: &mut Vec<Taken>) {
    let mut next = *state;
    let ended = if !next.holds(i, id) {
        fenced(&mut next, i, variant);
        Ok(())
    } else if !next.has_open(id) && next.aborted[usize::from(id)] {
        // A late request ended it before; the broker refuses to commit what was aborted.
        next.end_session(i, variant);
        Ok(())
    } else {
        next.end(id, true).and_then(|()| committed(&mut next, i, size, variant))
    };
    out.push((Some(i), Action::Commit(id), ended.map(|()| next)));
}

/// A commit was answered with OK.
pub fn committed(state: &mut State, i: u8, size: Size, variant: &Variant) -> Result<(), Outcome> {
    let instance = state.instance(i);
    if let Phase::Claiming(at) = instance.phase {
        instance.phase = Phase::Opening(at + 1);
        instance.claimed = true;
        return Ok(());
    }
    instance.pending -= 1;
    if variant.remembers() {
        // What was written next, less what still waits, was committed last.
        instance.known = instance.next - instance.pending;
    }
    finish_if_done(state, i, size, variant)
}

/// The broker refused the instance's epoch.
fn fenced(state: &mut State, i: u8, variant: &Variant) {
    state.end_session(i, variant);
    if variant.has_claims() {
        state.instance(i).phase = Phase::Judging;
    }
}
