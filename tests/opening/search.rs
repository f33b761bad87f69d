//! Breadth first over every state, so that the way to what is found is a shortest one; then back from the
//! states in which somebody is done: what is not reached that way is stuck. Start at `search`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use crate::fault;
use crate::instance::{self, Action, Taken};
use crate::state::{Outcome, Size, State};
use crate::variant::Variant;

/// What a search saw.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Distinct states, those behind a bad outcome not among them.
    pub states: usize,
    pub steps: usize,
    /// Each outcome with a shortest way to it, a step a line.
    pub outcomes: BTreeMap<Outcome, String>,
}

/// Walks everything that can happen; what lies behind a bad outcome is not looked at.
pub fn search(variant: &Variant, size: Size) -> Found {
    let mut graph = Graph::new();
    let mut found = Found::default();
    graph.add(State::new(), 0);
    let mut taken = Vec::new();
    let mut at = 0;
    while let Some(state) = graph.states.get(at).copied() {
        let sure = every_step(&state, size, variant, &mut taken);
        for (nth, (_, _, led)) in taken.drain(..).enumerate() {
            found.steps += 1;
            match led {
                Ok(next) => {
                    let to = graph.add(next.canonical(size), at);
                    if nth < sure {
                        graph.edges.push((narrow(to), narrow(at)));
                    }
                }
                Err(outcome) => {
                    let way = || graph.way(at, Some(outcome), size, variant);
                    found.outcomes.entry(outcome).or_insert_with(way);
                }
            }
        }
        at += 1;
    }
    found.states = graph.states.len();
    if let Some(stuck) = graph.stuck() {
        let way = graph.way(stuck, None, size, variant);
        found.outcomes.insert(Outcome::Stuck, way);
    }
    found
}

/// Every step from here; the first ones, as many as it gives, need neither a fault nor luck.
fn every_step(state: &State, size: Size, variant: &Variant, out: &mut Vec<Taken>) -> usize {
    for i in 0..size.instances {
        instance::steps(state, i, size, variant, out);
    }
    fault::timeouts(state, out);
    let sure = out.len();
    fault::late(state, out);
    fault::faults(state, size, variant, out);
    sure
}

/// States by number, and how they hang together.
struct Graph {
    states: Vec<State>,
    /// From where each was seen first.
    parents: Vec<u32>,
    /// Numbers of states, plus one, by hash.
    slots: Vec<u32>,
    /// Sure steps, backwards: to, from.
    edges: Vec<(u32, u32)>,
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("fewer states than fit into memory")
}

impl Graph {
    fn new() -> Self {
        Self { states: Vec::new(), parents: Vec::new(), slots: vec![0; 1 << 16], edges: Vec::new() }
    }

    fn add(&mut self, state: State, parent: usize) -> usize {
        if self.states.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let mut slot = self.home(&state);
        while let Some(known) = self.slots[slot].checked_sub(1) {
            if self.states[known as usize] == state {
                return known as usize;
            }
            slot = (slot + 1) % self.slots.len();
        }
        self.states.push(state);
        self.parents.push(narrow(parent));
        self.slots[slot] = narrow(self.states.len());
        self.states.len() - 1
    }

    fn home(&self, state: &State) -> usize {
        let mut hasher = Mixer(0);
        state.hash(&mut hasher);
        // The upper bits are the well mixed ones.
        usize::try_from(hasher.0 >> 32).unwrap_or_default() % self.slots.len()
    }

    fn grow(&mut self) {
        self.slots = vec![0; self.slots.len() * 2];
        for number in 0..self.states.len() {
            let mut slot = self.home(&self.states[number]);
            while self.slots[slot] != 0 {
                slot = (slot + 1) % self.slots.len();
            }
            self.slots[slot] = narrow(number + 1);
        }
    }

    /// The first state from which no sure step leads to an end.
    fn stuck(&mut self) -> Option<usize> {
        self.edges.sort_unstable();
        let finished = self.states.iter().enumerate().filter(|(_, state)| state.is_finished());
        let mut queue: Vec<usize> = finished.map(|(number, _)| number).collect();
        let mut good = vec![false; self.states.len()];
        queue.iter().for_each(|number| good[*number] = true);
        while let Some(to) = queue.pop() {
            let start = self.edges.partition_point(|(edge, _)| (*edge as usize) < to);
            for (_, from) in self.edges[start..].iter().take_while(|(edge, _)| *edge as usize == to) {
                if !std::mem::replace(&mut good[*from as usize], true) {
                    queue.push(*from as usize);
                }
            }
        }
        good.iter().position(|good| !good)
    }

    /// How one gets to a state, and from there to what is bad.
    fn way(&self, to: usize, outcome: Option<Outcome>, size: Size, variant: &Variant) -> String {
        let mut numbers = vec![to];
        while let Some(number) = numbers.last().copied().filter(|number| *number > 0) {
            numbers.push(self.parents[number] as usize);
        }
        numbers.reverse();
        let mut way = String::new();
        let mut taken = Vec::new();
        // Walked anew, so that an instance keeps its name although the states stored do not.
        let mut state = State::new();
        for (nth, _) in numbers.iter().enumerate() {
            let next = numbers.get(nth + 1).map(|next| Ok(self.states[*next]));
            let next = next.or(outcome.map(Err));
            every_step(&state, size, variant, &mut taken);
            let step =
                taken.drain(..).find(|(_, _, led)| Some(led.map(|state| state.canonical(size))) == next);
            let Some((who, action, led)) = step else { break };
            // Writing to a string cannot fail.
            let _ = writeln!(way, "  {}", told(who, action));
            state = led.unwrap_or(state);
        }
        way
    }
}

fn told(who: Option<u8>, action: Action) -> String {
    match who {
        Some(i) => format!("{}: {action:?}", ["A", "B", "C"].get(usize::from(i)).unwrap_or(&"?")),
        None => format!("brokers: {action:?}"),
    }
}

/// A quick hash of the few dozen bytes of a state; states are compared besides.
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for eight in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..eight.len()].copy_from_slice(eight);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}
