//! One state of the model: the brokers, what is under way, and every instance.

use std::fmt;

use crate::log::{Entry, Log, NOBODY, What};
use crate::variant::Variant;

pub const INSTANCES_MAX: usize = 3;
pub const IDS: [u8; 2] = [0, 1];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub instances: u8,
    pub batches: u8,
    pub faults: u8,
}

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// A batch is visible twice.
    Double,
    /// One half of a Kafka transaction is visible without the other.
    Torn,
    /// The position has passed a batch that is not visible.
    Lost,
    /// Batches are visible in another order than that of the source.
    Disordered,
    /// No step that is left leads to an end: nobody is active for ever.
    Stuck,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Double => "double",
            Outcome::Torn => "torn",
            Outcome::Lost => "lost",
            Outcome::Disordered => "disordered",
            Outcome::Stuck => "nobody active for ever",
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Not started yet.
    #[default]
    Off,
    /// Before this step of its opening.
    Opening(u8),
    /// The claim of this step is written and not committed.
    Claiming(u8),
    /// Fenced; asks the claims by whom.
    Judging,
    Streaming,
    /// Another took over.
    Stopped,
    /// It knows that everything is delivered.
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    pub phase: Phase,
    /// Which of the variant's orders this opening takes.
    pub order: u8,
    /// A claim of this process was committed.
    pub claimed: bool,
    /// The batch that is written next, from 1; 0 outside a session.
    pub next: u8,
    /// The id that it is written on.
    pub turn: u8,
    /// Its data is written, its position is not.
    pub open: bool,
    /// Transactions that wait for their commit: of the other id, or of both, the one whose turn it is first.
    pub pending: u8,
    /// The position that it knows, plus one. Zero in variants that do not need it.
    pub known: u8,
    /// The last batch that it sent. Zero in variants that do not need it.
    pub sent: u8,
}

/// Requests under way, of one id's present epoch; `inits` of any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flight {
    pub commits: u8,
    pub aborts: u8,
    pub inits: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub instances: [Instance; INSTANCES_MAX],
    /// Who has the id's present epoch.
    pub holder: [u8; 2],
    /// The id's last transaction was aborted, so a commit without one is refused.
    pub aborted: [bool; 2],
    pub flight: [Flight; 2],
    /// Batches from the first one on that are visible in order, and no longer in the log.
    pub visible: u8,
    pub data: Log<8>,
    pub positions: Log<16>,
    pub faults: u8,
}

impl State {
    pub fn new() -> Self {
        Self {
            instances: [Instance::default(); INSTANCES_MAX],
            holder: [NOBODY; 2],
            aborted: [false; 2],
            flight: [Flight::default(); 2],
            visible: 0,
            data: Log::default(),
            positions: Log::default(),
            faults: 0,
        }
    }

    pub fn instance(&mut self, i: u8) -> &mut Instance {
        &mut self.instances[usize::from(i)]
    }

    pub fn holds(&self, i: u8, id: u8) -> bool {
        self.holder[usize::from(id)] == i
    }

    pub fn has_open(&self, id: u8) -> bool {
        self.data.has_open(id) || self.positions.has_open(id)
    }

    /// The brokers end the open transaction of an id, if there is one.
    pub fn end(&mut self, id: u8, commit: bool) -> Result<(), Outcome> {
        if !self.has_open(id) {
            return Ok(());
        }
        self.aborted[usize::from(id)] = !commit;
        let is_whole = self.is_whole(id);
        self.data.end(id, commit);
        self.positions.end(id, commit);
        self.positions.compact();
        if !commit {
            return Ok(());
        }
        self.check()?;
        if !is_whole {
            return Err(Outcome::Torn);
        }
        Ok(())
    }

    /// The open transaction holds data with its position, or a claim.
    fn is_whole(&self, id: u8) -> bool {
        let of = |entry: &Entry| entry.open == Some(id);
        let data = self.data.iter().filter(of).count();
        let positions = self.positions.iter().filter(of);
        let claims = positions.clone().any(|entry| matches!(entry.what, What::Claim(_)));
        claims || data == positions.count()
    }

    /// A new epoch: what is open is aborted, and what is under way of the old one will be refused.
    pub fn bump(&mut self, id: u8, holder: u8) {
        // Aborting shows nothing to anybody.
        let _ = self.end(id, false);
        let at = usize::from(id);
        self.holder[at] = holder;
        self.aborted[at] = false;
        self.flight[at] = Flight { commits: 0, aborts: 0, ..self.flight[at] };
    }

    /// Looks at everything that a `read_committed` reader sees.
    fn check(&mut self) -> Result<(), Outcome> {
        let mut seen = u16::from(self.visible > 0) * ((1 << (self.visible + 1)) - 2);
        let mut newest = self.visible;
        let mut is_prefix = true;
        let mut visible = self.visible;
        for entry in self.data.iter() {
            let What::Data(batch) = entry.what else { continue };
            if entry.open.is_some() {
                is_prefix = false;
                continue;
            }
            if seen & (1 << batch) != 0 {
                return Err(Outcome::Double);
            }
            if batch < newest {
                return Err(Outcome::Disordered);
            }
            (seen, newest) = (seen | (1 << batch), batch);
            is_prefix &= batch == visible + 1;
            if is_prefix {
                visible = batch;
            }
        }
        let (position, _) = self.positions.newest(None);
        if (1..=position).any(|batch| seen & (1 << batch) == 0) {
            return Err(Outcome::Lost);
        }
        self.visible = visible;
        self.data.rewrite(|entry| match entry {
            Entry { what: What::Data(batch), open: None } if batch <= visible => None,
            entry => Some(entry),
        });
        Ok(())
    }

    /// The instance lets go of its producers; what they have open stays until somebody ends it.
    pub fn end_session(&mut self, i: u8, variant: &Variant) {
        for holder in &mut self.holder {
            if *holder == i {
                *holder = NOBODY;
            }
        }
        self.positions.remove(What::End(i));
        let new_id = variant.new_id_at_each_opening;
        let instance = self.instance(i);
        let Instance { claimed, known, sent, .. } = *instance;
        *instance = Instance { phase: Phase::Opening(0), claimed, known, sent, ..Instance::default() };
        if new_id {
            self.disown_claims(i);
        }
    }

    /// Nobody is known by the name any more under which these claims were made.
    pub fn disown_claims(&mut self, i: u8) {
        self.positions.rewrite(|entry| match entry.what {
            What::Claim(by) if by == i => Some(Entry { what: What::Claim(NOBODY), ..entry }),
            _ => Some(entry),
        });
    }

    /// The same with its instances in one order, by all that tells them apart: which of them is called first
    /// makes no difference to what can happen.
    pub fn canonical(&self, size: Size) -> Self {
        let mut order: [u8; INSTANCES_MAX] = [0, 1, 2];
        order[..usize::from(size.instances)].sort_by_key(|i| self.marks_of(*i));
        if order.is_sorted() {
            return *self;
        }
        let mut renamed = *self;
        let mut names = [NOBODY; INSTANCES_MAX + 1];
        for (new, old) in (0..).zip(order) {
            names[usize::from(old)] = new;
            renamed.instances[usize::from(new)] = self.instances[usize::from(old)];
        }
        for holder in &mut renamed.holder {
            *holder = names[usize::from(*holder)];
        }
        renamed.positions.rewrite(|entry| {
            let what = match entry.what {
                What::Claim(by) => What::Claim(names[usize::from(by)]),
                What::End(by) => What::End(names[usize::from(by)]),
                what => what,
            };
            Some(Entry { what, ..entry })
        });
        renamed
    }

    /// The instance itself, the ids that it holds, and the places in the log that name it.
    fn marks_of(&self, i: u8) -> (Instance, [bool; 2], u32) {
        let places = self.positions.iter().enumerate().filter(|(_, entry)| match entry.what {
            What::Claim(by) | What::End(by) => by == i,
            What::Data(_) | What::Position(_) => false,
        });
        let places = places.fold(0, |mask, (place, _)| mask | 1 << place);
        (self.instances[usize::from(i)], self.holder.map(|holder| holder == i), places)
    }

    pub fn is_finished(&self) -> bool {
        self.instances.iter().any(|instance| instance.phase == Phase::Done)
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}
