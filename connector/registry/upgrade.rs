//! Takes a connector over an upgrade of its source: `drain` before it, `adopt` after it.

use std::sync::Arc;
use std::time::Duration;

use millrace_core::error::{Error, Kind, Result};
use millrace_core::pipeline;
use millrace_core::position::Position;
use millrace_core::progress::Progress;
use millrace_core::retry::Backoff;
use millrace_postgres::{Consent, Drain, PostgresSource};
use millrace_stdout::StdoutSink;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Sink, Source, instance, kafka, overwrite, position, postgres};
use crate::config::Connector;

/// How long trouble that may pass by itself is tried again without anything delivered.
const PATIENCE: Duration = Duration::from_secs(60);

impl Sink {
    /// Whether records go where a verb would print.
    pub fn takes_standard_output(&self) -> bool {
        matches!(self, Self::Stdout(_))
    }
}

/// Delivers everything that the source has, and records that nothing more is to come from it.
pub async fn drain(connector: &Connector, compares: bool) -> Result<Position> {
    let Source::Postgres(from) = &connector.source else { return Err(needs_none()) };
    let progress = Arc::new(Progress::default());
    let mut source = postgres(connector, from).draining(Drain { compares });
    let position = match &connector.sink {
        Sink::Kafka(to, registry) => {
            let sink = kafka(connector, to, registry, &instance(), progress.clone())?;
            delivered(connector, &mut source, sink, &progress).await
        }
        Sink::Stdout(to) => {
            let sink = StdoutSink::new(to.clone(), &connector.name, progress.clone());
            delivered(connector, &mut source, sink, &progress).await
        }
    };
    let position = position?;
    overwrite(connector, &position, false).await?;
    Ok(position)
}

/// Runs the pipeline until the source has nothing more to give.
async fn delivered(
    connector: &Connector,
    source: &mut PostgresSource,
    mut sink: impl millrace_core::sink::Sink,
    progress: &Arc<Progress>,
) -> Result<Position> {
    let mut backoff = Backoff::default();
    let mut since = Instant::now();
    let mut before = progress.position();
    loop {
        let (_end, ending) = watch::channel(false);
        let format = connector.format.clone();
        let Err(error) = pipeline::run(source, &mut sink, format, progress.clone(), ending).await else {
            break;
        };
        let now = progress.position();
        if now != before {
            (since, before) = (Instant::now(), now);
            backoff.reset();
        }
        match error.kind() {
            Kind::Transient if since.elapsed() < PATIENCE => {}
            Kind::Transient | Kind::Config | Kind::Record | Kind::Fenced | Kind::Fatal => return Err(error),
        }
        tracing::warn!(hint = error.hint_text(), "trying again: {error}");
        tokio::time::sleep(backoff.next_wait()).await;
    }
    let last = progress.position();
    let last = last.ok_or_else(|| Error::fatal("the sink gave no position, and everything was delivered"))?;
    source.drained(&last)
}

/// Has a drained connector go on at the server that its file names now.
pub async fn adopt(connector: &Connector, consent: Consent) -> Result<Position> {
    let Source::Postgres(from) = &connector.source else { return Err(needs_none()) };
    let Some(stored) = position(connector).await? else {
        return Err(Error::config("the connector has no position: there is nothing to go on from")
            .hint("start it, and its first start is at this server"));
    };
    let position = millrace_postgres::adopted(from, &stored, consent).await?;
    overwrite(connector, &position, false).await?;
    Ok(position)
}

fn needs_none() -> Error {
    Error::config("only a connector of Postgres is drained and adopted")
        .hint("a resume token of MongoDB outlives an upgrade of its servers: stop and start the connector")
}
