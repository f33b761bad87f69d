//! `format.rename_topics`: topics by other names.

use millrace_core::encode::Format;
use millrace_core::route::rename::{Rename, renamed};

use super::Problems;
use super::raw::RenameTopics;

const KEY: &str = "format.rename_topics";

/// Of tables when they are met; of those beside them here.
pub fn topics(rules: &[RenameTopics], format: &mut Format, problems: &mut Problems) {
    for rule in rules {
        match rename(rule) {
            Ok(rename) => format.renames.push(rename),
            Err(why) => problems.add(KEY, why),
        }
    }
    let heartbeat = format.heartbeat.as_mut().map(|heartbeat| &mut heartbeat.topic);
    for topic in format.transactions.iter_mut().chain(heartbeat).chain(&mut format.notifications) {
        *topic = renamed(&format.renames, std::mem::take(topic)).topic;
    }
}

fn rename(rule: &RenameTopics) -> Result<Rename, String> {
    let mut rename = Rename::new(&rule.from, &rule.to)?.with_schemas(rule.schemas.unwrap_or(false));
    rename = match (&rule.only, &rule.not) {
        (Some(_), Some(_)) => return Err("takes one of only and not".to_owned()),
        (Some(topics), None) => rename.only(topics, false)?,
        (None, Some(topics)) => rename.only(topics, true)?,
        (None, None) => rename,
    };
    match (&rule.key_field, &rule.key_from, &rule.key_to) {
        (None, None, None) => Ok(rename),
        (Some(name), None, None) => rename.with_key_field(name, None),
        (Some(name), Some(from), Some(to)) => rename.with_key_field(name, Some((from, to))),
        _ => Err("key_from and key_to belong together, and to a key_field".to_owned()),
    }
}
