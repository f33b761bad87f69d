//! The rules, each of which can be switched off.

use millrace_kafka::rules::{self, Step};

/// One protocol. `Variant::default()` is the sink's own.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Each opening takes one of these.
    pub orders: &'static [&'static [Step]],
    /// The first transaction after an opening is on either id.
    pub first_on_either: bool,
    /// A claim also says how far the instance believes it got.
    pub claims_carry_a_position: bool,
    /// After a doubtful commit of data everything is opened anew.
    pub recycle_after_doubt: bool,
    /// After a doubtful commit of a claim too.
    pub recycle_after_a_doubtful_claim: bool,
    /// After an abort too.
    pub recycle_after_an_abort: bool,
    /// Every opening reads the position, not only the first one.
    pub reads_at_every_opening: bool,
    /// Where the position read is the one that was known, go on after the last batch sent.
    pub goes_on_where_nothing_changed: bool,
    /// The instance id is drawn anew at each opening.
    pub new_id_at_each_opening: bool,
    /// Whoever asks the claims does not wait for what is open before the end.
    pub judges_without_waiting: bool,
    /// A stranger's claim is newest: that alone means taken over.
    pub fenced_by_the_newest_claim_alone: bool,
}

impl Default for Variant {
    fn default() -> Self {
        Self {
            orders: &[&rules::OPENING],
            first_on_either: false,
            claims_carry_a_position: false,
            recycle_after_doubt: true,
            recycle_after_a_doubtful_claim: true,
            recycle_after_an_abort: true,
            reads_at_every_opening: true,
            goes_on_where_nothing_changed: false,
            new_id_at_each_opening: false,
            judges_without_waiting: false,
            fenced_by_the_newest_claim_alone: false,
        }
    }
}

impl Variant {
    pub fn step(&self, order: u8, at: u8) -> Option<Step> {
        self.orders.get(usize::from(order))?.get(usize::from(at)).copied()
    }

    /// Whether an instance has to remember how far it got: only so does memory make states differ.
    pub fn remembers(&self) -> bool {
        self.claims_carry_a_position || !self.reads_at_every_opening || self.goes_on_where_nothing_changed
    }

    /// Without claims nobody can tell a takeover from a timeout: everybody opens again.
    pub fn has_claims(&self) -> bool {
        self.orders.iter().flat_map(|order| order.iter()).any(|step| matches!(step, Step::Claim(_)))
    }
}
