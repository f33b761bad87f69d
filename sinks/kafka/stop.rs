//! Why a session is over, and what that means for the connector.

use millrace_core::error::Error;

use crate::config::Settings;
use crate::producer::{Committed, Trouble};

/// Why a session is over. Every one of these means that the sink is opened anew.
#[derive(Debug)]
pub enum Stop {
    Error(Error),
    /// The transaction was not committed.
    Trouble {
        what: String,
        trouble: Trouble,
    },
    /// It was committed, but its end may have been asked for twice, and the second may yet arrive.
    Doubtful {
        id: String,
        committed: Committed,
    },
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Error(error)
    }
}

impl Stop {
    pub fn is_fenced(&self) -> bool {
        match self {
            Stop::Trouble { trouble, .. } => trouble.is_fenced(),
            Stop::Error(_) | Stop::Doubtful { .. } => false,
        }
    }

    pub fn is_doubtful(&self) -> bool {
        matches!(self, Stop::Doubtful { .. })
    }

    pub fn into_error(self, settings: &Settings) -> Error {
        match self {
            Stop::Error(error) => error,
            Stop::Trouble { what, trouble } => trouble.into_error(&what, settings),
            Stop::Doubtful { id, committed } => Error::transient(format!(
                "a commit of {id} took {} ms: its end may have been asked for twice, and the second may yet arrive",
                committed.call.as_millis()
            ))
            .hint("both producers are opened anew, which shuts it out; look for the cause at the brokers or the network"),
        }
    }
}
