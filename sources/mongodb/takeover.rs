//! Debezium's offsets: one of them becomes a position of ours, and a position of ours one of theirs. Start at
//! `taken`.
//!
//! An offset names the last event that was delivered by its resume token, as a position of ours does, so either
//! goes on with the next event wherever the other one stopped, inside a transaction too.

use std::sync::Arc;

use millrace_core::encode::base64;
use millrace_core::error::{Error, Result};
use millrace_core::position::{Notes, Position};
use millrace_core::takeover::{self, Incremental};
use mongodb::bson::{Bson, RawDocumentBuf};
use serde::{Deserialize, Serialize};

use crate::bson::Doc;
use crate::client;
use crate::config::Settings;
use crate::position::Stored;
use crate::resume_token::{ClusterTime, ResumeToken};
use crate::snapshot::collection;
use crate::start::starting_at;

/// An offset as Debezium writes it, of what counts here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Offset {
    #[serde(default)]
    sec: Option<u64>,
    #[serde(default)]
    ord: Option<u64>,
    /// The token's document in base64; before 2.x the digits in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resume_token: Option<String>,
    /// While documents are read that were there before.
    #[serde(default, skip_serializing)]
    initsync: Option<bool>,
    #[serde(flatten, skip_serializing)]
    incremental: Incremental,
}

/// The position that an offset means. Whether the server still has what comes after it is seen at the start.
pub async fn taken(settings: &Settings, offset: &str) -> Result<Position> {
    let (token, time) = place(offset)?;
    let settings = Arc::new(settings.clone());
    let client = client::connect(&settings).await?;
    let facts = client::facts(&client, &settings).await?;
    facts.preconditions()?;
    Ok(starting_at(&settings, &facts, token, time).to_position())
}

/// The offset from which Debezium goes on where this position stands.
pub fn handed_back(position: &Position, notes: &Notes) -> Result<String> {
    let Stored::Streamed(at) = Stored::parse(position)? else {
        return Err(Error::config("the connector has not begun yet: there is nothing to hand back"));
    };
    takeover::all_rows_are_read(&collection::unfinished(notes))?;
    let token = at.resume_token.map(|token| written(&token)).transpose()?;
    let (sec, ord) = (Some(at.sec), Some(at.ord.into()));
    let offset = Offset { sec, ord, resume_token: token, ..Offset::default() };
    // Numbers and a text: serde_json cannot fail on them.
    Ok(serde_json::to_string(&offset).unwrap_or_default())
}

fn place(text: &str) -> Result<(Option<ResumeToken>, ClusterTime)> {
    let offset: Offset = serde_json::from_str(text).map_err(|error| {
        Error::config("the offset is not one of Debezium's MongoDB connector").source(error)
    })?;
    offset.incremental.refuse()?;
    if offset.initsync == Some(true) {
        return Err(Error::config("Debezium has not finished its snapshot").hint(
            "let it finish, or begin anew: no document of it can be told from those that are missing",
        ));
    }
    if let Some(text) = &offset.resume_token {
        let token = read(text).ok_or_else(|| {
            Error::config(format!("the offset's resume_token is none of the server's: {text}"))
        })?;
        let time =
            token.cluster_time().map_err(|error| Error::config("the offset's token is cut").source(error))?;
        return Ok((Some(token), time));
    }
    match (
        offset.sec.and_then(|sec| u32::try_from(sec).ok()),
        offset.ord.and_then(|ord| u32::try_from(ord).ok()),
    ) {
        (Some(sec), Some(ord)) => Ok((None, ClusterTime(u64::from(sec) << 32 | u64::from(ord)))),
        _ => Err(Error::config("the offset names no place in the change stream")),
    }
}

fn read(text: &str) -> Option<ResumeToken> {
    if let Ok(token) = ResumeToken::typed(text) {
        return Some(token);
    }
    let binary = serde_json::json!({"$binary": {"base64": text, "subType": "00"}});
    let Ok(Bson::Binary(binary)) = serde_json::from_value::<Bson>(binary) else { return None };
    ResumeToken::read(Doc::new(&binary.bytes).ok()?).ok()
}

fn written(token: &ResumeToken) -> Result<String> {
    let document = RawDocumentBuf::try_from(&token.to_document())
        .map_err(|error| Error::fatal("the position's token cannot be written").source(error))?;
    let mut text = Vec::new();
    base64(document.as_bytes(), &mut text);
    // Base64 is ASCII.
    Ok(String::from_utf8(text).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Streamed;

    /// Of a real server: an insert at 1700000000.5.
    const DATA: &str = "826553F100000000052B022C0100296E5A1004";

    #[test]
    fn a_token_is_taken_in_base64_and_as_its_digits() {
        let token = ResumeToken::typed(DATA).unwrap();
        for text in [written(&token).unwrap(), DATA.to_owned()] {
            let offset = format!(r#"{{"sec":1700000000,"ord":5,"resume_token":"{text}"}}"#);
            let (taken, time) = place(&offset).unwrap();
            assert_eq!((taken.as_ref(), time.to_string().as_str()), (Some(&token), "1700000000.5"));
        }
    }

    #[test]
    fn an_offset_without_a_token_names_a_time() {
        let (token, time) = place(r#"{"sec":1700000000,"ord":5}"#).unwrap();
        assert_eq!((token, time.to_string().as_str()), (None, "1700000000.5"));
    }

    #[test]
    fn an_unfinished_snapshot_and_an_offset_of_something_else_are_refused() {
        for text in [
            r#"{"sec":1,"ord":2,"initsync":true}"#,
            r#"{"sec":1,"ord":2,"incremental_snapshot_collections":"[{}]"}"#,
            r#"{"lsn":7}"#,
            r#"{"sec":1,"ord":2,"resume_token":"82"}"#,
            r#"{"sec":1,"ord":2,"resume_token":"!"}"#,
            "x",
        ] {
            assert!(place(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_handed_back_is_taken_at_the_same_place() {
        let token = ResumeToken::typed(DATA).unwrap();
        let time = token.cluster_time().unwrap();
        let at = Streamed::starting_at("rs0", "deployment", "ab", Some(token.clone()), time);
        let notes = |text: &str| Notes::from([("snapshot shop.orders".to_owned(), text.to_owned())]);
        let offset = handed_back(&at.to_position(), &notes(r#"{"state":"done"}"#)).unwrap();
        assert!(offset.starts_with(r#"{"sec":1700000000,"ord":5,"resume_token":""#), "{offset}");
        assert_eq!(place(&offset).unwrap(), (Some(token), time));
        let error = handed_back(&at.to_position(), &notes(r#"{"state":"pending"}"#)).unwrap_err();
        assert!(error.message().contains("shop.orders"), "{error}");
    }
}
