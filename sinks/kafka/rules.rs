//! The decisions on which exactly-once rests, pure and apart from everything that acts on them.
//!
//! `tests/opening` calls these same functions in a search over every interleaving of instances, faults and
//! late requests, so that what it judges is the code that runs.

/// One step of an opening. The number is that of the transactional id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Initialise the id, which shuts out whoever used it.
    Init(usize),
    /// Commit who is at work, through the id.
    Claim(usize),
    /// Read the position.
    Read,
}

/// The order is the correctness. Both ids are taken from a predecessor before either claims: otherwise it
/// could claim after us through the one that it still has, and both would think the other took over.
/// The position is read last, when nobody before us can move it any more.
pub const OPENING: [Step; 5] = [Step::Init(0), Step::Init(1), Step::Claim(0), Step::Claim(1), Step::Read];

/// Whose transaction is the first after an opening: the id that is taken first, so that whoever is being
/// shut out fails at once.
pub const FIRST: usize = 0;

/// Whose transaction comes after one of this id.
pub fn after(turn: usize) -> usize {
    1 - turn
}

/// The rival who took over, after librdkafka said fenced; `None` when the broker ended our own transaction or
/// openers met, which means: open again. `claimed`: a claim of ours was committed, in this opening or an
/// earlier one of this instance. Whoever holds the newest claim never gives way.
pub fn rival<C>(claimed: bool, newest: Option<C>, is_ours: impl FnOnce(&C) -> bool) -> Option<C> {
    // Ours was committed, so a stranger's that is newest lies after it.
    newest.filter(|claim| claimed && !is_ours(claim))
}
