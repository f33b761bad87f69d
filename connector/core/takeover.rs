//! What taking over from Debezium and handing back mean for snapshots, whatever the source: start at `Incremental`.

use serde::Deserialize;

use crate::error::{Error, Result};

/// The part of an offset that tells of an incremental snapshot under way. How far it is stands there as serialised Java
/// objects, which nobody else can go on from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Incremental {
    /// A list in JSON, of those that are left.
    #[serde(default, rename = "incremental_snapshot_collections")]
    collections: Option<String>,
}

#[derive(Deserialize)]
struct Collection {
    #[serde(rename = "incremental_snapshot_collections_id")]
    id: String,
}

impl Incremental {
    /// An error where one is under way: nobody would read what is left of it.
    pub fn refuse(&self) -> Result<()> {
        let Some(text) = self.collections.as_deref() else { return Ok(()) };
        let left = match serde_json::from_str::<Vec<Collection>>(text) {
            Ok(left) if left.is_empty() => return Ok(()),
            Ok(left) => left.into_iter().map(|collection| collection.id).collect::<Vec<_>>().join(", "),
            Err(_) => text.to_owned(),
        };
        Err(Error::config(format!("Debezium has not finished its incremental snapshot of {left}")).hint(
            "let it finish, or end it with a stop-snapshot signal; then stop Debezium and take over, and send \
             execute-snapshot to this connector for what is left",
        ))
    }
}

/// An error where a snapshot of ours has rows left: Debezium would not read them.
pub fn all_rows_are_read(unfinished: &[&str]) -> Result<()> {
    if unfinished.is_empty() {
        return Ok(());
    }
    Err(Error::config(format!(
        "the snapshot of {} is not finished, and its rows would never be delivered",
        unfinished.join(", ")
    ))
    .hint(
        "start the connector, let it read them to the end (or, where a signal asked for them, send \
         stop-snapshot), stop it, and hand back then",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> Option<String> {
        let offset: Incremental = serde_json::from_str(json).unwrap();
        offset.refuse().err().map(|error| error.message().to_owned())
    }

    #[test]
    fn only_an_incremental_snapshot_under_way_is_refused_with_what_is_left_of_it() {
        assert_eq!(refused(r#"{"lsn":7}"#), None);
        assert_eq!(refused(r#"{"incremental_snapshot_collections":"[]"}"#), None);
        let one = r#"{"incremental_snapshot_collections":"[{\"incremental_snapshot_collections_id\":\"public.a\"}]"}"#;
        assert!(refused(one).unwrap().ends_with("snapshot of public.a"));
        assert!(refused(r#"{"incremental_snapshot_collections":"?"}"#).unwrap().ends_with("of ?"));
    }
}
