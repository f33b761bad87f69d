//! Which topics a rule is for, by an expression. Start at `Topics`.

use regex_lite::Regex;

/// Topics that an expression fits as a whole, or all others.
#[derive(Clone, Debug)]
pub struct Topics {
    fits: Regex,
    negated: bool,
}

// A regular expression is what it was made of.
impl PartialEq for Topics {
    fn eq(&self, other: &Self) -> bool {
        (self.fits.as_str(), self.negated) == (other.fits.as_str(), other.negated)
    }
}
impl Eq for Topics {}

impl Topics {
    /// The error says what is wrong with the expression.
    pub fn new(expression: &str, negated: bool) -> Result<Self, String> {
        Ok(Self { fits: whole(expression)?, negated })
    }

    pub fn matches(&self, topic: &str) -> bool {
        self.fits.is_match(topic) != self.negated
    }
}

/// An expression that has to fit all of a name.
pub fn whole(expression: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{expression})$"))
        .map_err(|error| format!("{expression:?} is no expression: {error}"))
}
