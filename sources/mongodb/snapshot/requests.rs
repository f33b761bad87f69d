//! Which collections a signal wants read: start at `take`.

use millrace_core::error::Result;
use millrace_core::requests::{Asked, Requests};
use millrace_core::signal::Signal;
use millrace_core::snapshot::Phase;
use mongodb::Client;

use crate::collections::{self, Name};
use crate::config::Settings;
use crate::errors::{self, classified, is_passing};
use crate::snapshot::collection::{CollectionNote, IdPart, Unread};
use crate::snapshot::find;

/// Does what a signal says; gives the collections that it wants read.
pub async fn take(
    requests: &Requests,
    signal: Signal,
    settings: &Settings,
    client: &Client,
) -> Result<Vec<Unread>> {
    let Some((asked, execute)) = requests.hear(signal) else { return Ok(Vec::new()) };
    let (mut unread, mut all, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for name in collections::there(client, settings).await? {
        let text = name.to_string();
        if !execute.collections.iter().any(|wanted| wanted.fits(&text)) {
            continue;
        }
        all.push(text.clone());
        let filter = execute.filter(&text).map(str::to_owned);
        if execute.blocking {
            tracing::warn!(
                collection = %name,
                hint = "use type incremental: documents come beside the changes, each where nothing newer of it has gone out",
                "a blocking snapshot of documents is refused"
            );
            refused.push((text, "SKIPPED"));
            continue;
        }
        let has_order = execute.surrogate_key.is_some();
        if has_order {
            tracing::warn!(collection = %name, "documents are read in the order of their ids: a surrogate key is refused");
        }
        if has_order || !is_condition(client, settings, &name, filter.as_deref()).await? {
            refused.push((text, "SQL_EXCEPTION"));
            continue;
        }
        let of_collection = Asked { id: asked.id.clone(), filter, surrogate_key: None, blocking: false };
        let note = CollectionNote { asked: Some(of_collection), ..CollectionNote::new(Phase::Reading) };
        unread.push(Unread { name, note, parts: IdPart::cut(&[]), listed: Vec::new() });
    }
    requests.started(&asked, &all, &refused);
    Ok(unread)
}

/// Whether the server understands a condition; without running it.
async fn is_condition(
    client: &Client,
    settings: &Settings,
    name: &Name,
    filter: Option<&str>,
) -> Result<bool> {
    let Some(filter) = filter else { return Ok(true) };
    let refused = match find::condition(filter) {
        Err(error) => error,
        Ok(condition) => {
            let explain = find::explained(name, &condition);
            match client.database(&name.database).run_raw_command(explain).await {
                Ok(_) => return Ok(true),
                // The signal is heard again.
                Err(error) if is_passing(&error) => {
                    let what = format!("cannot ask whether a condition on {name} is understood");
                    return Err(classified(what, error, settings, errors::Phase::Reading));
                }
                Err(error) => error.into(),
            }
        }
    };
    tracing::warn!(collection = %name, filter, "a signal's filter is refused, it has to be a query in JSON: {refused}");
    Ok(false)
}
