//! The source of a connector that is drained: it streams as always, and ends when nothing more comes.

use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::progress::Progress;

use super::PostgresSource;
use crate::drain::{self, Wish};
use crate::position::{Drained, Stored};
use crate::start;

impl PostgresSource {
    /// Ends its run once everything is delivered.
    pub fn draining(self, wish: Wish) -> Self {
        Self { drain: Some(wish), ..self }
    }

    /// The position of a run that ended so, from the last one that was delivered.
    pub fn drained(&self, delivered: &Position) -> Result<Position> {
        let drained = self.drained.get().cloned();
        let drained =
            drained.ok_or_else(|| Error::transient("the run ended before everything was delivered"))?;
        drain::marked(delivered, drained)
    }

    /// Whether this start is wanted: a drain where there is anything to drain, any other where nothing was drained.
    pub(super) fn may_start(&self, from: Option<&Position>) -> Result<()> {
        match self.drain {
            Some(_) => self.drainable(from),
            None => start::undrained(from),
        }
    }

    fn drainable(&self, from: Option<&Position>) -> Result<()> {
        match from.map(Stored::parse).transpose()? {
            Some(Stored::Streamed(at)) if self.settings.snapshot.stream => {
                at.nothing_waits("not everything can be delivered")
            }
            Some(Stored::Streamed(_)) => {
                Err(Error::config("this connector reads rows and streams nothing: there is nothing to drain")
                    .hint("its rows are read anew at the new server, under a new name"))
            }
            None | Some(Stored::Creating { .. }) => {
                Err(Error::config("the connector has never run: there is nothing to drain")
                    .hint("start it at the new server"))
            }
        }
    }

    /// Ready when nothing more is to come; never where nobody asked for that.
    pub(super) async fn drains(&self, progress: &Progress) -> Result<Drained> {
        match self.drain {
            Some(wish) => drain::prove(&self.settings, progress, wish).await,
            None => std::future::pending().await,
        }
    }
}
