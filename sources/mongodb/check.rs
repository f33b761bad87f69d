//! `millrace check`: proves every precondition on the server's side and changes nothing. Start at `check`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use millrace_core::error::{Error, Result};
use millrace_core::position::Position;
use millrace_core::report::Report;
use mongodb::Client;
use mongodb::bson::{Document, doc};

use crate::client::{self, Facts};
use crate::collections::Pattern;
use crate::config::{Settings, UpdateDocument};
use crate::errors::{Phase, classified, is_unauthorized};
use crate::oplog::{Forecast, Window};
use crate::pipeline::Begin;
use crate::position::Stored;
use crate::reader::open;
use crate::resume_token::ClusterTime;

/// A connector that stands still for longer than this, over a night or a weekend, is lost: so is its place.
const WINDOW_WANTED: Duration = Duration::from_secs(24 * 3600);

/// What was found, one line a precondition; a server that cannot be reached is a finding too. `position`: what the sink
/// keeps, where whoever asks could read it.
pub async fn check(settings: &Arc<Settings>, position: Option<&Position>) -> Result<Report> {
    let mut report = Report::default();
    let place = format!("mongodb {}", settings.place());
    let found = async {
        let client = client::connect(settings).await?;
        let facts = client::facts(&client, settings).await?;
        Ok::<_, Error>((client, facts))
    };
    match found.await {
        Err(error) => failed(&mut report, &place, &error),
        Ok((client, facts)) => {
            report.pass(place, format!("connected, version {}", facts.version));
            findings(&mut report, &client, &facts, settings, position).await;
        }
    }
    Ok(report)
}

async fn findings(
    report: &mut Report,
    client: &Client,
    facts: &Facts,
    settings: &Settings,
    position: Option<&Position>,
) {
    match facts.preconditions() {
        Err(error) => return failed(report, "replica set", &error),
        Ok(()) if facts.is_mongos => report.pass("replica set", "behind mongos"),
        Ok(()) => report.pass("replica set", format!("member of {}", facts.replica_set)),
    }
    stream(report, client, facts, settings).await;
    for pattern in &settings.collections {
        collection(report, client, facts, settings, pattern).await;
    }
    log(report, client, facts, position).await;
    if settings.split_large_events && !facts.splits() {
        report.warn(
            "large events",
            format!("mongodb {} does not split events above 16 MB: one stops the connector", facts.version),
            "use a server from 6.0.9, or leave images out",
        );
    }
}

/// Rights are proved by use.
async fn stream(report: &mut Report, client: &Client, facts: &Facts, settings: &Settings) {
    let subject = format!("change stream on {}", settings.scope);
    let opened = async {
        let mut cursor = open(client, settings, &Begin::Now, facts.splits()).await?;
        cursor.next().await.transpose()
    };
    match opened.await {
        Ok(_) => report.pass(subject, "can be opened"),
        Err(error) => {
            failed(report, &subject, &classified("cannot be opened", error, settings, Phase::Reading));
        }
    }
}

async fn collection(
    report: &mut Report,
    client: &Client,
    facts: &Facts,
    settings: &Settings,
    pattern: &Pattern,
) {
    let subject = format!("collection {pattern}");
    let found = match found(client, pattern).await {
        Ok(found) => found,
        Err(error) if is_unauthorized(&error) && wants_images(settings).is_none() => {
            return report.warn(
                subject,
                "the user may not list collections, so it is not looked up",
                "grant the user listCollections, if you want it looked up",
            );
        }
        Err(error) => {
            let error = classified("cannot be looked up", error, settings, Phase::Reading);
            return failed(report, &subject, &error);
        }
    };
    if found.is_empty() {
        return report.warn(
            subject,
            "does not exist yet; its documents are captured from the first on",
            "correct collections in [source.mongodb] if it never will",
        );
    }
    let wanted: Vec<&Found> =
        found.iter().filter(|found| settings.wants(&found.database, &found.name)).collect();
    match wants_images(settings) {
        None => report.pass(subject, format!("{} to capture", wanted.len())),
        Some(what) if !facts.keeps_images() => {
            report.fail(subject, format!("mongodb {} keeps no images", facts.version), what.to_owned());
        }
        Some(_) => {
            let without: Vec<&&Found> = wanted.iter().filter(|found| !found.keeps_images).collect();
            match without.first() {
                None => report.pass(subject, format!("{} to capture, with images", wanted.len())),
                Some(first) => {
                    report.fail(subject, format!("{} keeps no images", first.full_name()), first.mend());
                }
            }
        }
    }
}

/// The key of the file that asks for images, with what to do where there are none.
fn wants_images(settings: &Settings) -> Option<&'static str> {
    if settings.pre_images {
        return Some("use a server from 6.0, or set pre_images = false");
    }
    (settings.update_document == UpdateDocument::PostImage)
        .then_some("use a server from 6.0, or set update_document = \"lookup\"")
}

/// A file that asks for images is refused where a captured collection keeps none: they could not be made up
/// for later.
pub async fn images(client: &Client, settings: &Settings, facts: &Facts) -> Result<()> {
    let Some(hint) = wants_images(settings) else { return Ok(()) };
    if !facts.keeps_images() {
        return Err(Error::config(format!("mongodb {} keeps no images", facts.version)).hint(hint));
    }
    for pattern in &settings.collections {
        let what = format!("cannot look up collection {pattern}");
        let found = found(client, pattern).await;
        let found = found.map_err(|error| classified(what, error, settings, Phase::Reading))?;
        let lacks = |found: &&Found| settings.wants(&found.database, &found.name) && !found.keeps_images;
        if let Some(first) = found.iter().find(lacks) {
            return Err(
                Error::config(format!("collection {} keeps no images", first.full_name())).hint(first.mend())
            );
        }
    }
    Ok(())
}

struct Found {
    database: String,
    name: String,
    keeps_images: bool,
}

impl Found {
    fn full_name(&self) -> String {
        format!("{}.{}", self.database, self.name)
    }

    fn mend(&self) -> String {
        keep_images(&self.database, &self.name)
    }
}

/// What has a collection keep images, as typed in a shell.
pub fn keep_images(database: &str, collection: &str) -> String {
    format!(
        "db.getSiblingDB(\"{database}\").runCommand({{collMod: \"{collection}\", changeStreamPreAndPostImages: {{enabled: true}}}})"
    )
}

/// The collections that a pattern means and that exist; views are none.
async fn found(client: &Client, pattern: &Pattern) -> mongodb::error::Result<Vec<Found>> {
    let filter = match pattern {
        Pattern::One { collection, .. } => doc! { "name": collection },
        Pattern::Database(_) | Pattern::Expression(_) | Pattern::All => doc! {},
    };
    let mut all = Vec::new();
    for database in crate::collections::databases(client, pattern).await? {
        let list = doc! { "listCollections": 1, "filter": filter.clone() };
        let mut cursor = client.database(&database).run_cursor_command(list).await?;
        while let Some(entry) = cursor.next().await.transpose()? {
            if entry.get_str("type").is_ok_and(|kind| kind == "collection") {
                all.push(Found {
                    database: database.clone(),
                    name: entry.get_str("name").unwrap_or_default().to_owned(),
                    keeps_images: images_of(&entry),
                });
            }
        }
    }
    all.retain(|found| !found.name.starts_with("system.") && pattern.matches(&found.database, &found.name));
    Ok(all)
}

fn images_of(entry: &Document) -> bool {
    let options = entry.get_document("options").and_then(|o| o.get_document("changeStreamPreAndPostImages"));
    options.is_ok_and(|images| images.get_bool("enabled").unwrap_or(false))
}

async fn log(report: &mut Report, client: &Client, facts: &Facts, position: Option<&Position>) {
    const SUBJECT: &str = "oplog window";
    let window = Window::read(client).await;
    match &window {
        Ok(Some(window)) if window.length() < WINDOW_WANTED => report.warn(
            SUBJECT,
            format!("{} so far: a connector that stands still for longer loses its place", shown(window.length())),
            "keep at least two days: db.adminCommand({replSetResizeOplog: 1, minRetentionHours: 48})",
        ),
        Ok(Some(window)) => report.pass(SUBJECT, shown(window.length())),
        Ok(None) if facts.is_mongos => {
            report.warn(SUBJECT, "every shard has its own, and mongos shows none", "look at each shard");
        }
        Ok(None) => report.warn(SUBJECT, "is not shown", "grant the user read on database local"),
        Err(error) => report.warn(
            SUBJECT,
            format!("cannot be read, so its headroom is not foreseen: {}", error.kind),
            "grant the user read on database local: db.grantRolesToUser(..., [{role: \"read\", db: \"local\"}])",
        ),
    }
    let stored = position.and_then(|position| Stored::parse(position).ok());
    if let (Ok(Some(window)), Some(Stored::Streamed(position))) = (window, stored) {
        // Inside a transaction the stream is opened where that began.
        let begun = position.begun.as_ref().map_or(position.cluster_time, |begun| begun.cluster_time);
        headroom(report, window, begun);
    }
}

/// How much longer the connector may stand still, at the pace at which the log loses its beginning in the long run.
fn headroom(report: &mut Report, window: Window, at: ClusterTime) {
    const SUBJECT: &str = "oplog headroom";
    if at < window.first {
        return report.fail(
            SUBJECT,
            format!("the log begins at {}, after the position {at}", window.first),
            "compare the collections with their topics, then accept the gap with `millrace position <file> set --yes`",
        );
    }
    let left = Forecast::default().headroom(window, at, Instant::now());
    let detail = format!("{}: the position is {at}, {} behind", shown(left), shown(window.lag(at)));
    if left < WINDOW_WANTED && left < window.length() / 2 {
        report.warn(
            SUBJECT,
            detail,
            "start the connector, or keep more of the log: db.adminCommand({replSetResizeOplog: 1, size: <MB>, \
             minRetentionHours: 48})",
        );
    } else {
        report.pass(SUBJECT, detail);
    }
}

fn shown(length: Duration) -> String {
    let minutes = length.as_secs() / 60;
    format!("{} h {} min", minutes / 60, minutes % 60)
}

fn failed(report: &mut Report, subject: &str, error: &Error) {
    report.fail(subject, error.to_string(), error.hint_text().unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use millrace_core::report::Verdict;

    use super::*;

    #[test]
    fn what_is_left_of_the_log_before_the_position_is_told_and_little_of_it_warned_of() {
        let at = |hours: u64| ClusterTime((hours * 3600) << 32);
        let of = |hours| {
            let mut report = Report::default();
            headroom(&mut report, Window { first: at(100), last: at(200) }, at(hours));
            let finding = report.findings.remove(0);
            (finding.verdict, finding.detail)
        };
        let (verdict, detail) = of(160);
        assert_eq!(verdict, Verdict::Pass);
        assert!(detail.starts_with("60 h 0 min: ") && detail.ends_with(", 40 h 0 min behind"), "{detail}");
        assert_eq!([of(110).0, of(99).0], [Verdict::Warn, Verdict::Fail]);
    }
}
