//! What somebody asks of a running connector: to read rows again, to pause that, to stop it. In Debezium's words,
//! whatever way a signal comes. Start at `parse`; `file` and `inserted` are two of the ways.

pub mod file;
pub mod inserted;

use regex_lite::Regex;
use serde::Deserialize;
use serde_json::Value as Json;
use tokio::sync::mpsc;

use crate::error::{Error, Result};

/// Signals that wait for a source; one more is refused.
const WAITING_MAX: usize = 64;

#[derive(Clone, Debug)]
pub struct Signal {
    /// Names it in notifications.
    pub id: String,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// Read the rows of these collections.
    Execute(Execute),
    /// Read no more of these; of none named: of all.
    Stop(Vec<Wanted>),
    Pause,
    Resume,
    /// Say this in the log.
    Log(String),
}

#[derive(Clone, Debug)]
pub struct Execute {
    pub collections: Vec<Wanted>,
    /// Conditions on the rows of a collection, in the source's own language.
    pub conditions: Vec<(Wanted, String)>,
    /// A column to read in the order of, instead of the key.
    pub surrogate_key: Option<String>,
    /// No change goes out while rows do; otherwise rows come beside the changes.
    pub blocking: bool,
}

/// Full names that a regular expression fits as a whole.
#[derive(Clone, Debug)]
pub struct Wanted(Regex);

impl Wanted {
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |error| {
            Error::config(format!("{text:?} is not a regular expression"))
                .source(error)
                .hint("name collections as in \"public.orders\" or \"public\\\\.o.*\"")
        };
        Regex::new(&format!("^(?:{text})$")).map(Self).map_err(wrong)
    }

    pub fn fits(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

/// What waits for a source, and how it is put there.
pub fn signals() -> (mpsc::Sender<Signal>, mpsc::Receiver<Signal>) {
    mpsc::channel(WAITING_MAX)
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Data {
    r#type: Option<String>,
    data_collections: Vec<String>,
    additional_conditions: Vec<Condition>,
    /// As older releases have it: for every collection.
    additional_condition: Option<String>,
    surrogate_key: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Condition {
    data_collection: String,
    filter: String,
}

/// A signal as a table, a topic, a file or a request holds it. `data` is an object, or the text of one.
pub fn parse(id: impl Into<String>, kind: &str, data: &Json) -> Result<Signal> {
    let id = id.into();
    let wrong = |error| Error::config(format!("the data of signal {id} is not understood")).source(error);
    let data: Data = match data {
        Json::Null => Data::default(),
        Json::String(text) if text.trim().is_empty() => Data::default(),
        Json::String(text) => serde_json::from_str(text).map_err(wrong)?,
        object => serde_json::from_value(object.clone()).map_err(wrong)?,
    };
    let collections =
        || data.data_collections.iter().map(|text| Wanted::parse(text)).collect::<Result<Vec<_>>>();
    let action = match kind {
        "execute-snapshot" => execute(&id, &data, collections()?)?,
        "stop-snapshot" => Action::Stop(collections()?),
        "pause-snapshot" => Action::Pause,
        "resume-snapshot" => Action::Resume,
        "log" => Action::Log(data.message.unwrap_or_default()),
        other => {
            return Err(Error::config(format!("signal {id} is of the unknown type {other:?}"))
                .hint("use execute-snapshot, stop-snapshot, pause-snapshot, resume-snapshot or log"));
        }
    };
    Ok(Signal { id, action })
}

fn execute(id: &str, data: &Data, collections: Vec<Wanted>) -> Result<Action> {
    let blocking = match data.r#type.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("incremental") => false,
        Some("blocking") => true,
        Some(other) => {
            return Err(Error::config(format!("signal {id} asks for a snapshot of type {other:?}")).hint(
                "use incremental: rows come beside the changes, each at a place where it is newest; or \
                 blocking: changes wait until the rows are out",
            ));
        }
    };
    if collections.is_empty() {
        return Err(Error::config(format!("signal {id} names no collections"))
            .hint("set data-collections, as in [\"public.orders\"]"));
    }
    let mut conditions = Vec::new();
    for condition in &data.additional_conditions {
        conditions.push((Wanted::parse(&condition.data_collection)?, condition.filter.clone()));
    }
    if let Some(filter) = &data.additional_condition {
        conditions.push((Wanted::parse(".*")?, filter.clone()));
    }
    let surrogate_key = data.surrogate_key.clone();
    Ok(Action::Execute(Execute { collections, conditions, surrogate_key, blocking }))
}

impl Execute {
    /// The condition on the rows of a collection.
    pub fn filter(&self, name: &str) -> Option<&str> {
        self.conditions.iter().find(|(wanted, _)| wanted.fits(name)).map(|(_, filter)| filter.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_snapshot_is_asked_for_by_names_with_conditions_whether_data_is_an_object_or_its_text() {
        let data = json!({
            "type": "INCREMENTAL",
            "data-collections": ["public.orders", "public\\.item.*"],
            "additional-conditions": [{"data-collection": "public.orders", "filter": "id > 5"}],
            "surrogate-key": "seq",
        });
        for data in [data.clone(), Json::String(data.to_string())] {
            let signal = parse("one", "execute-snapshot", &data).unwrap();
            let Action::Execute(execute) = signal.action else { panic!() };
            let wanted = |name: &str| execute.collections.iter().any(|wanted| wanted.fits(name));
            assert!(wanted("public.orders") && wanted("public.items") && !wanted("public.orders_old"));
            assert_eq!(execute.filter("public.orders"), Some("id > 5"));
            assert_eq!(execute.filter("public.items"), None);
            assert_eq!(execute.surrogate_key.as_deref(), Some("seq"));
            assert!(!execute.blocking);
        }
    }

    #[test]
    fn a_snapshot_for_which_changes_wait_is_asked_for_by_its_type() {
        for (data, expected) in [
            (json!({"data-collections": ["a.b"], "type": "BLOCKING"}), true),
            (json!({"data-collections": ["a.b"], "type": "incremental"}), false),
            (json!({"data-collections": ["a.b"]}), false),
        ] {
            let Action::Execute(execute) = parse("one", "execute-snapshot", &data).unwrap().action else {
                panic!()
            };
            assert_eq!(execute.blocking, expected, "{data}");
        }
    }

    #[test]
    fn the_condition_of_older_releases_is_for_every_collection() {
        let data = json!({"data-collections": ["a.b"], "additional-condition": "x = 1"});
        let Action::Execute(execute) = parse("one", "execute-snapshot", &data).unwrap().action else {
            panic!()
        };
        assert_eq!(execute.filter("a.b"), Some("x = 1"));
    }

    #[test]
    fn pause_resume_and_stop_need_no_data() {
        for (kind, data) in [("pause-snapshot", json!({})), ("resume-snapshot", Json::Null)] {
            parse("one", kind, &data).unwrap();
        }
        let signal = parse("one", "stop-snapshot", &json!("")).unwrap();
        assert!(matches!(signal.action, Action::Stop(wanted) if wanted.is_empty()));
    }

    #[test]
    fn what_is_not_understood_is_refused_and_says_what_would_be() {
        for (kind, data) in [
            ("execute", json!({})),
            ("execute-snapshot", json!({})),
            ("execute-snapshot", json!("{")),
            ("execute-snapshot", json!({"data-collections": ["("]})),
            ("execute-snapshot", json!({"data-collections": ["a.b"], "type": "sideways"})),
        ] {
            assert!(parse("one", kind, &data).is_err(), "{kind} {data}");
        }
    }
}
