//! From what the sink remembers to the place where the stream begins: start at `place`.
//!
//! Never guesses, and never begins at "now" when something was delivered before. A first start makes its
//! place durable before it reads from there, so that a crash in between finds either no place, with nothing
//! delivered, or the very place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::progress::State;
use mongodb::Client;
use mongodb::bson::{DateTime, Timestamp};

use crate::client::{self, Facts};
use crate::config::Settings;
use crate::errors::{Phase, classified, is_resumable};
use crate::oplog::Window;
use crate::pipeline::{Begin, fingerprint};
use crate::position::{Stored, Streamed, forgotten};
use crate::reader::{open, place_after};
use crate::resume_token::{ClusterTime, ResumeToken};

/// How long a member may take to catch up with the position before it counts as restored.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(60);

/// For a position of another set.
const OLD_SET: &str = "point source.mongodb.url at the old set, or start this connector under a new name";

/// Where the stream is to begin.
pub struct Place {
    pub position: Streamed,
    /// Nothing was delivered before: the position is of now, and nobody remembers it yet.
    pub is_first: bool,
}

/// The position to stream from, verified against the server.
pub async fn place(
    settings: &Arc<Settings>,
    client: &Client,
    facts: &Facts,
    from: Option<&Position>,
) -> Result<Place> {
    match from.map(Stored::parse).transpose()? {
        Some(Stored::Streamed(mut position)) => {
            verify(settings, client, facts, &position).await?;
            // One of before it was kept, or of a user who may read it since.
            let known = position.replica_set_id.take();
            position.replica_set_id = facts.replica_set_id.clone().or(known);
            Ok(Place { position: *position, is_first: false })
        }
        None | Some(Stored::Forgotten) => {
            let position = match settings.start_at {
                Some(time) => at(settings, client, facts, time).await?,
                None => now(settings, client, facts).await?,
            };
            tracing::info!(from = %position.cluster_time, "first start: changes from here on");
            Ok(Place { position, is_first: true })
        }
    }
}

/// Where a stream that is opened now begins.
async fn now(settings: &Settings, client: &Client, facts: &Facts) -> Result<Streamed> {
    let what = || format!("cannot open a change stream on {} of {}", settings.scope, settings.place());
    let failed = |error| classified(what(), error, settings, Phase::Reading);
    let splits = facts.splits();
    let mut cursor = open(client, settings, &Begin::Now, splits).await.map_err(failed)?;
    let reply = cursor.next().await.transpose().map_err(failed)?;
    let token = match &reply {
        Some(reply) => place_after(reply),
        None => Ok(None),
    };
    let token = token.ok().flatten();
    let Some((token, time)) = token.and_then(|token| token.cluster_time().ok().map(|time| (token, time)))
    else {
        return Err(Error::fatal(format!("{}: the server tells no place", what()))
            .hint("report this with the server's version"));
    };
    Ok(starting_at(settings, facts, Some(token), time))
}

/// The time that the file names, proved to be one that the server can serve, before anything is remembered of it.
async fn at(settings: &Settings, client: &Client, facts: &Facts, time: ClusterTime) -> Result<Streamed> {
    const HINT: &str = "correct start_at in [source.mongodb], or remove it to start now";
    if time > facts.end {
        let what = format!("start_at = {time} is later than the newest place of the server, {}", facts.end);
        return Err(Error::config(what).hint(HINT));
    }
    let opened = async {
        let mut cursor = open(client, settings, &Begin::At(time), facts.splits()).await?;
        cursor.next().await.transpose()
    };
    match opened.await {
        Ok(_) => Ok(starting_at(settings, facts, None, time)),
        Err(error) if is_resumable(&error) => {
            let what = format!("cannot open a change stream on {} of {}", settings.scope, settings.place());
            Err(classified(what, error, settings, Phase::Reading))
        }
        Err(error) => {
            let what = format!("the server cannot serve changes from start_at = {time} on");
            Err(Error::config(what).source(error).hint(HINT))
        }
    }
}

/// A position that nothing is known of but the place.
pub fn starting_at(
    settings: &Settings,
    facts: &Facts,
    token: Option<ResumeToken>,
    time: ClusterTime,
) -> Streamed {
    let pipeline = fingerprint(settings, facts.splits());
    let (set, scope) = (&facts.replica_set, settings.scope.to_string());
    // The event that the token is of does not come: what is read as of this place has to have it.
    let is_delivered = token.as_ref().is_some_and(ResumeToken::is_of_event);
    let position = Streamed::starting_at(set, &scope, &pipeline, token, time);
    let event_time = if is_delivered { time } else { position.event_time };
    Streamed { event_time, replica_set_id: facts.replica_set_id.clone(), ..position }
}

/// Where the stream is to be opened for a position: inside a transaction where that began.
pub fn begin(position: &Streamed) -> Begin {
    let (token, time) = match &position.begun {
        Some(begun) => (&begun.resume_token, begun.cluster_time),
        None => (&position.resume_token, position.cluster_time),
    };
    match token {
        Some(token) => Begin::After(token.clone()),
        None => Begin::At(time),
    }
}

async fn verify(settings: &Arc<Settings>, client: &Client, facts: &Facts, position: &Streamed) -> Result<()> {
    if position.replica_set != facts.replica_set {
        return Err(Error::fatal(format!(
            "the position is of replica set {:?}, and this is {:?}",
            position.replica_set, facts.replica_set
        ))
        .hint(OLD_SET)
        .state(State::PositionLost));
    }
    if let (Some(of_position), Some(now)) = (&position.replica_set_id, &facts.replica_set_id)
        && of_position != now
    {
        return Err(Error::fatal(format!(
            "the position is of another replica set {:?}: its id is {of_position}, and that of this one is {now}",
            position.replica_set
        ))
        .hint(OLD_SET)
        .state(State::PositionLost));
    }
    let scope = settings.scope.to_string();
    if position.scope != scope {
        return Err(Error::config(format!(
            "the position is of a stream on {}, and the file asks for one on {scope}",
            position.scope
        ))
        .hint("set scope in [source.mongodb] back, or start this connector under a new name"));
    }
    if position.pipeline != fingerprint(settings, facts.splits()) {
        tracing::info!(
            "the file asks for other collections or images than before: from the position on, events are those of now"
        );
    }
    caught_up(settings, client, facts, position).await
}

/// A member that was just restarted, or lags, may still be behind what was delivered from another before.
async fn caught_up(
    settings: &Arc<Settings>,
    client: &Client,
    facts: &Facts,
    position: &Streamed,
) -> Result<()> {
    // A place between events says nothing of its own time, and that of a first start lies a step beyond the log's end.
    let is_of_event = position.event_time == position.cluster_time;
    let needed = if is_of_event { position.cluster_time } else { position.cluster_time.before() };
    let mut end = facts.end;
    let deadline = Instant::now() + CATCH_UP_PATIENCE;
    while end < needed && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(250)).await;
        end = client::facts(client, settings).await?.end;
    }
    if end >= needed {
        return Ok(());
    }
    Err(Error::fatal(format!(
        "the server was restored to an earlier time: its log ends at {end}, before the position {}",
        position.cluster_time
    ))
    .hint(
        "events after the restore point were delivered and no longer exist in the database: compare, then \
         run `millrace position <file> set --yes`",
    )
    .state(State::PositionAhead))
}

/// The position that an operator chose, proved to be one that the server can serve: a resume token, a cluster
/// time, or the oldest place that the server still has.
pub async fn chosen(settings: &Settings, place: Option<&str>) -> Result<Position> {
    let settings = Arc::new(settings.clone());
    let client = client::connect(&settings).await?;
    let facts = client::facts(&client, &settings).await?;
    facts.preconditions()?;
    let position = match place {
        Some("now") => now(&settings, &client, &facts).await?,
        Some(text) => typed(&settings, &facts, text)?,
        None => {
            let what = format!("cannot read the log of {}", settings.place());
            let window = Window::read(&client).await;
            let window = window.map_err(|error| classified(what, error, &settings, Phase::Reading))?;
            let Some(window) = window else {
                return Err(Error::config("the server does not show how far back its log reaches")
                    .hint("name a place: millrace position <file> set <seconds.increment> --yes"));
            };
            starting_at(&settings, &facts, None, window.first)
        }
    };
    let what = format!("{} cannot serve that place", settings.place());
    let opened = async {
        let mut cursor = open(&client, &settings, &begin(&position), facts.splits()).await?;
        cursor.next().await.transpose()
    };
    opened.await.map_err(|error| classified(what, error, &settings, Phase::Opening))?;
    Ok(position.to_position())
}

fn typed(settings: &Settings, facts: &Facts, text: &str) -> Result<Streamed> {
    let not_one = || {
        Error::config(format!("{text:?} is not a place in a change stream")).hint(
            "a resume token (hexadecimal digits from 82 on), a cluster time like 1700000000.1, a time like \
                 2026-01-31T18:00:00Z, or now",
        )
    };
    if text.contains(':') {
        let time = DateTime::parse_rfc3339_str(text).map_err(|error| not_one().source(error))?;
        let seconds = u32::try_from(time.timestamp_millis() / 1000).map_err(|_| not_one())?;
        let time = ClusterTime::from(Timestamp { time: seconds, increment: 0 });
        return if time <= facts.end {
            Ok(starting_at(settings, facts, None, time))
        } else {
            Err(to_come(text))
        };
    }
    if let Ok(time) = text.parse::<ClusterTime>() {
        return Ok(starting_at(settings, facts, None, time));
    }
    let token = ResumeToken::typed(text).map_err(|_| not_one())?;
    let time = token.cluster_time().map_err(|_| not_one())?;
    Ok(starting_at(settings, facts, Some(token), time))
}

fn to_come(time: &str) -> Error {
    Error::config(format!("{time} is still to come, by the server's clock"))
        .hint("begin with what comes from now on: millrace position <file> set --to now --yes")
}

/// The position of a connector that never ran.
pub fn forget() -> Position {
    forgotten()
}
