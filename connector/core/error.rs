//! The one error type: five kinds that decide what happens next, and words that say what to do.

use std::fmt;

use crate::hold::Strike;
use crate::progress::State;

/// What an error means for the connector. Decided once, where the error is born, from codes and never
/// from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The file, a grant or a server setting must change; stops at once.
    Config,
    /// May pass by itself: everything is built anew from `Sink::open`, with backoff, for ever, visibly.
    Transient,
    /// One record cannot be encoded or accepted; the policy for rejects decides.
    Record,
    /// Another instance took over the slot or the transactional id.
    Fenced,
    /// Going on would guess past a gap or a broken rule; stops.
    Fatal,
}

/// What failed and on which object, in lower case; the cause; what to type.
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    state: Option<State>,
    code: Option<&'static str>,
    schema: Option<u32>,
    strike: Option<Box<Strike>>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            state: None,
            code: None,
            schema: None,
            strike: None,
            source: None,
        }
    }
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(Kind::Transient, message)
    }
    pub fn record(message: impl Into<String>) -> Self {
        Self::new(Kind::Record, message)
    }
    pub fn fenced(message: impl Into<String>) -> Self {
        Self::new(Kind::Fenced, message)
    }
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::new(Kind::Fatal, message)
    }

    /// What to type to mend it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// One word for what is wrong with a record, for machines.
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }
    /// The id of the schema that a record does not fit.
    pub fn schema(mut self, id: u32) -> Self {
        self.schema = Some(id);
        self
    }
    /// The state that the connector shows because of it, where the kind alone does not say it.
    pub fn state(mut self, state: State) -> Self {
        self.state = Some(state);
        self
    }
    /// What it is about may wait alone, while the rest goes on.
    pub fn striking(mut self, strike: Strike) -> Self {
        self.strike = Some(Box::new(strike));
        self
    }
    /// It may pass after all: what it is about is looked at anew by the next attempt.
    pub fn passing(mut self) -> Self {
        self.kind = Kind::Transient;
        self
    }
    /// The error underneath, for the chain of causes.
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }
    pub fn message(&self) -> &str {
        &self.message
    }
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
    pub fn code_text(&self) -> Option<&'static str> {
        self.code
    }
    pub fn schema_id(&self) -> Option<u32> {
        self.schema
    }
    pub fn strike(&self) -> Option<&Strike> {
        self.strike.as_deref()
    }
    /// The state to show: the named one, else the one that the kind implies.
    pub fn shown_state(&self) -> State {
        self.state.unwrap_or(match self.kind {
            Kind::Transient => State::Degraded,
            Kind::Fenced => State::Fenced,
            Kind::Config | Kind::Record | Kind::Fatal => State::Failed,
        })
    }
}

impl fmt::Display for Error {
    /// The message and its causes on one line; the hint is shown apart, by `hint_text`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source.as_deref().map(|e| e as &dyn std::error::Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

// The chain of causes is part of Display, so `source()` stays empty: nobody prints a cause twice.
impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_shows_its_cause_and_keeps_the_hint_apart() {
        let io = std::io::Error::other("connection refused");
        let error = Error::transient("cannot reach postgres at db:5432").source(io).hint("start it");
        assert_eq!(error.to_string(), "cannot reach postgres at db:5432: connection refused");
        assert_eq!(error.hint_text(), Some("start it"));
    }

    #[test]
    fn a_named_state_wins_over_the_one_that_the_kind_implies() {
        assert_eq!(Error::fatal("gone").state(State::PositionLost).shown_state(), State::PositionLost);
        assert_eq!(Error::transient("away").shown_state(), State::Degraded);
    }
}
