//! How far the snapshot of each collection is: what is noted of it, and which collections a start has to read.
//! Start at `plan`.

use millrace_core::error::{Error, Result};
use millrace_core::pattern::Pattern as Names;
use millrace_core::position::{Note, Notes};
use millrace_core::requests;
use millrace_core::snapshot::Phase;
use serde::{Deserialize, Serialize};

use crate::collections::{Name, Pattern};
use crate::config::{Settings, Snapshot};
use crate::snapshot::id::{self, Id};

/// The note of one collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionNote {
    pub state: Phase,
    /// The last id that was read, in the order of the index, where it is read as one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// No document is left but the listed ones.
    #[serde(default)]
    pub ended: bool,
    /// Where it is read in several parts: how far each is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<PartNote>,
    /// Documents delivered.
    #[serde(default)]
    pub rows: u64,
    /// The request that it is read for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<requests::Asked>,
}

/// One of the parts, which follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartNote {
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    #[serde(default)]
    ended: bool,
}

/// A range of ids that is read by itself: of all, or of some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdPart {
    /// The first id; `None` where nothing is before it.
    pub from: Option<Id>,
    /// The first id of the next part.
    pub until: Option<Id>,
    /// The last one that was read.
    pub last: Option<Id>,
    /// Nothing in it is left.
    pub ended: bool,
}

impl IdPart {
    /// The parts that ids cut, each the first one of the next part; they rise.
    pub fn cut(bounds: &[Id]) -> Vec<Self> {
        let mut parts = vec![Self::default()];
        for bound in bounds {
            if let Some(last) = parts.last_mut() {
                last.until = Some(bound.clone());
            }
            parts.push(Self { from: Some(bound.clone()), ..Self::default() });
        }
        parts
    }
}

impl CollectionNote {
    pub fn new(state: Phase) -> Self {
        Self { state, last: None, ended: false, parts: Vec::new(), rows: 0, asked: None }
    }

    /// How far its parts are.
    pub fn put_parts(&mut self, parts: &[IdPart]) {
        let text = |id: &Option<Id>| id.as_deref().map(id::to_text);
        self.ended = parts.iter().all(|part| part.ended);
        match parts {
            [one] => self.last = text(&one.last),
            several => {
                let note = |part: &IdPart| PartNote {
                    until: text(&part.until),
                    last: text(&part.last),
                    ended: part.ended,
                };
                self.parts = several.iter().map(note).collect();
            }
        }
    }

    /// One of everything, where nobody has cut it.
    fn parts(&self, name: &str) -> Result<Vec<IdPart>> {
        let id = |text: &Option<String>| text.as_deref().map(|text| noted_id(name, text)).transpose();
        if self.parts.is_empty() {
            return Ok(vec![IdPart { last: id(&self.last)?, ended: self.ended, ..IdPart::default() }]);
        }
        let mut parts = Vec::new();
        let mut from = None;
        for note in &self.parts {
            let until = id(&note.until)?;
            let next = until.clone();
            parts.push(IdPart { from, until, last: id(&note.last)?, ended: note.ended });
            from = next;
        }
        Ok(parts)
    }

    /// A request that is through leaves nothing behind: it says nothing of the collection's first documents.
    pub fn to_note(&self, name: &str) -> Note {
        // Numbers and strings: serde_json cannot fail on them.
        let text = serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned());
        match &self.asked {
            Some(asked) => {
                let text = (self.state != Phase::Done).then(|| text.into());
                Note { key: asked_key(name, &asked.id).into(), text }
            }
            None => Note { key: key_of(name).into(), text: Some(text.into()) },
        }
    }

    /// The listed documents are those that its chunks left out.
    fn has_begun(&self) -> bool {
        self.ended || self.last.is_some() || !self.parts.is_empty()
    }
}

const COLLECTION: &str = "snapshot ";
/// Followed by the collection and the request's id, as a list in JSON: both may hold any character.
const ASKED_FOR: &str = "asked ";
const LISTED: &str = "reread ";
/// What the file asked for at the start before.
const ASKED: &str = "collections";

fn key_of(name: &str) -> String {
    format!("{COLLECTION}{name}")
}

fn asked_key(name: &str, id: &str) -> String {
    format!("{ASKED_FOR}{}", serde_json::json!([name, id]))
}

/// The note that a document has to be read again, or no longer. An id's text holds no blank, and names may.
pub fn listed(name: &str, id: &[u8], is_listed: bool) -> Note {
    let text = is_listed.then(|| "{}".into());
    Note { key: format!("{LISTED}{name} {}", id::to_text(id)).into(), text }
}

/// A collection whose documents are to be read, or read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub name: Name,
    pub note: CollectionNote,
    /// One at least.
    pub parts: Vec<IdPart>,
    /// Ids to be read again.
    pub listed: Vec<Id>,
}

/// What a start has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub unread: Vec<Unread>,
    /// To be noted with the next position.
    pub notes: Vec<Note>,
}

impl Plan {
    fn add(&mut self, name: &Name, note: CollectionNote, known: &Notes) -> Result<()> {
        let text = name.to_string();
        self.notes.push(note.to_note(&text));
        let parts = note.parts(&text)?;
        // Of several readings of one collection, they belong to the one that is under way.
        let listed = if note.has_begun() { listed_ids(&text, known)? } else { Vec::new() };
        self.unread.push(Unread { name: name.clone(), note, parts, listed });
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Asked {
    collections: Vec<String>,
    exclude_collections: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    databases: Vec<String>,
}

impl Asked {
    fn of(settings: &Settings) -> Self {
        let texts = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect();
        let (collections, exclude_collections) = (&settings.collections, &settings.exclude_collections);
        Self {
            collections: texts(collections),
            exclude_collections: texts(exclude_collections),
            databases: settings.databases.iter().map(ToString::to_string).collect(),
        }
    }

    fn wanted(&self, name: &Name) -> bool {
        let any = |entries: &[String]| {
            let mut patterns = entries.iter().filter_map(|entry| Pattern::parse(entry).ok());
            patterns.any(|pattern| pattern.matches(&name.database, &name.collection))
        };
        let mut databases = self.databases.iter().filter_map(|entry| Names::parse(entry).ok());
        let is_of_database =
            self.databases.is_empty() || databases.any(|names| names.matches(&name.database));
        is_of_database && any(&self.collections) && !any(&self.exclude_collections)
    }
}

/// Compares the collections that are there with what was noted of them. A collection is decided once, when it is
/// first seen: one that came into being while the stream already asked for it has had all its changes sent.
pub fn plan(settings: &Settings, there: &[Name], found: &Notes, is_first_start: bool) -> Result<Plan> {
    let nothing = Notes::new();
    // A connector that is to begin anew has nothing behind it.
    let known = if is_first_start { &nothing } else { found };
    let asked = known.get(ASKED).map(|text| parsed::<Asked>(ASKED, text)).transpose()?;
    let now = serde_json::to_string(&Asked::of(settings)).unwrap_or_else(|_| "{}".to_owned());
    let mut plan = Plan::default();
    plan.notes.push(Note { key: ASKED.into(), text: Some(now.into()) });
    for name in there {
        let text = name.to_string();
        let noted =
            known.get(&key_of(&text)).map(|note| parsed::<CollectionNote>(&text, note)).transpose()?;
        let joins = is_first_start || asked.as_ref().is_some_and(|asked| !asked.wanted(name));
        let note = match (settings.snapshot, noted) {
            (_, Some(CollectionNote { state: Phase::Done | Phase::Skipped, .. })) => continue,
            (Snapshot::Initial, Some(note)) => note,
            (Snapshot::Initial, None) if joins && settings.reads(&name.database, &name.collection) => {
                CollectionNote::new(Phase::Pending)
            }
            (Snapshot::Initial, None) | (Snapshot::NoData, _) => {
                plan.notes.push(CollectionNote::new(Phase::Skipped).to_note(&text));
                continue;
            }
        };
        plan.add(name, note, known)?;
    }
    for (key, text) in known.iter().filter_map(|(key, text)| Some((key.strip_prefix(ASKED_FOR)?, text))) {
        let [of, _id] = parsed::<[String; 2]>(key, key)?;
        if let Some(name) = there.iter().find(|name| name.to_string() == of) {
            plan.add(name, parsed(key, text)?, known)?;
        }
    }
    let is_kept = |key: &str| match (key.strip_prefix(COLLECTION), key.strip_prefix(LISTED)) {
        _ if is_first_start || key.starts_with(ASKED_FOR) => false,
        (Some(name), _) => wants(settings, name),
        (_, Some(listed)) => listed.rsplit_once(' ').is_some_and(|(name, _)| wants(settings, name)),
        (None, None) => true,
    };
    let gone = found.keys().filter(|key| !is_kept(key) && !plan.notes.iter().any(|note| *note.key == **key));
    let gone: Vec<Note> = gone.map(|key| Note { key: key.as_str().into(), text: None }).collect();
    plan.notes.extend(gone);
    plan.notes.retain(|note| found.get(&*note.key).map(String::as_str) != note.text.as_deref());
    Ok(plan)
}

/// Collections whose documents are not all delivered.
pub fn unfinished(found: &Notes) -> Vec<&str> {
    let is_through = |text: &str| {
        let note = serde_json::from_str::<CollectionNote>(text);
        note.is_ok_and(|note| matches!(note.state, Phase::Done | Phase::Skipped))
    };
    let is_of_one = |key: &str| key.starts_with(COLLECTION) || key.starts_with(ASKED_FOR);
    let noted = found.iter().filter(|(key, text)| is_of_one(key) && !is_through(text));
    noted.filter_map(|(key, _)| Some(key.split_once(' ')?.1)).collect()
}

fn wants(settings: &Settings, name: &str) -> bool {
    name.split_once('.').is_some_and(|(database, collection)| settings.wants(database, collection))
}

fn parsed<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| not_understood(what, text).source(error))
}

fn listed_ids(name: &str, found: &Notes) -> Result<Vec<Id>> {
    let keys = found.keys().filter_map(|key| key.strip_prefix(LISTED)?.rsplit_once(' '));
    keys.filter(|(of, _)| *of == name).map(|(_, text)| noted_id(name, text)).collect()
}

fn noted_id(name: &str, text: &str) -> Result<Id> {
    id::from_text(text).ok_or_else(|| not_understood(name, text))
}

fn not_understood(what: &str, text: &str) -> Error {
    Error::fatal(format!("what was noted of the snapshot of {what} is not understood: {text}"))
        .hint("was it written by a newer release? go back to that, or begin anew with `millrace position <file> reset --yes`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Raw;

    fn settings(toml: &str) -> Settings {
        let raw: Raw = toml::from_str(&format!("url = 'mongodb://db'\n{toml}")).unwrap();
        Settings::resolve(raw, "orders").unwrap()
    }

    fn names(names: &[&str]) -> Vec<Name> {
        let name = |text: &&str| text.split_once('.').map(|(d, c)| (d.to_owned(), c.to_owned())).unwrap();
        names.iter().map(name).map(|(database, collection)| Name { database, collection }).collect()
    }

    fn unread(plan: &Plan) -> Vec<String> {
        plan.unread.iter().map(|unread| unread.name.to_string()).collect()
    }

    fn after(found: &Notes, plan: &Plan) -> Notes {
        let mut notes = found.clone();
        for note in &plan.notes {
            match &note.text {
                Some(text) => notes.insert(note.key.to_string(), text.to_string()),
                None => notes.remove(&*note.key),
            };
        }
        notes
    }

    #[test]
    fn the_collections_of_a_first_start_are_read_and_those_that_were_read_are_not_read_again() {
        let settings = settings("collections = ['s.*']");
        let there = names(&["s.a", "s.b c"]);
        let first = plan(&settings, &there, &Notes::new(), true).unwrap();
        assert_eq!(unread(&first), ["s.a", "s.b c"]);
        let begun =
            CollectionNote { last: Some(id::to_text(b"\x0a\0")), ..CollectionNote::new(Phase::Pending) };
        let done = Plan {
            notes: vec![
                CollectionNote::new(Phase::Done).to_note("s.a"),
                begun.to_note("s.b c"),
                listed("s.b c", b"\x0a\0", true),
            ],
            unread: vec![],
        };
        let notes = after(&after(&Notes::new(), &first), &done);
        let next = plan(&settings, &there, &notes, false).unwrap();
        assert_eq!(unread(&next), ["s.b c"]);
        assert_eq!(next.unread[0].listed, [Id::from(*b"\x0a\0")]);
        assert_eq!(next.notes, [], "nothing new is noted");
    }

    #[test]
    fn one_that_came_into_being_under_the_stream_is_not_read_and_one_that_joins_is() {
        let narrow = settings("collections = ['s.a', 't.*']");
        let first = plan(&narrow, &names(&["s.a"]), &Notes::new(), true).unwrap();
        let notes = after(&Notes::new(), &first);
        let next = plan(&narrow, &names(&["s.a", "t.new"]), &notes, false).unwrap();
        assert_eq!(unread(&next), ["s.a"]);
        let notes = after(&notes, &next);
        let wide = settings("collections = ['s.*', 't.*']");
        let joined = plan(&wide, &names(&["s.a", "s.old", "t.new"]), &notes, false).unwrap();
        assert_eq!(unread(&joined), ["s.a", "s.old"]);
    }

    #[test]
    fn first_documents_are_read_where_the_file_names_them_and_one_passed_over_stays_so() {
        let some = settings("collections = ['s.*']\nsnapshot_collections = ['s.a']");
        let there = names(&["s.a", "s.b"]);
        let first = plan(&some, &there, &Notes::new(), true).unwrap();
        assert_eq!(unread(&first), ["s.a"]);
        let notes = after(&Notes::new(), &first);
        let all = plan(&settings("collections = ['s.*']"), &there, &notes, false).unwrap();
        assert_eq!(unread(&all), ["s.a"], "s.b was decided");
    }

    #[test]
    fn one_of_another_database_is_not_wanted_until_that_is() {
        let one = settings("collections = ['/.*/']\ndatabases = ['s']");
        assert!(one.wants("s", "a") && !one.wants("t", "a"));
        let first = plan(&one, &names(&["s.a"]), &Notes::new(), true).unwrap();
        let notes = after(&Notes::new(), &first);
        let both = settings("collections = ['/.*/']\ndatabases = ['s', 't']");
        let next = plan(&both, &names(&["s.a", "s.new", "t.old"]), &notes, false).unwrap();
        assert_eq!(unread(&next), ["s.a", "t.old"]);
    }

    #[test]
    fn one_that_left_the_file_is_forgotten_and_read_when_it_comes_back() {
        let both = settings("snapshot = 'no_data'\ncollections = ['s.a', 's.b']");
        let first = plan(&both, &names(&["s.a", "s.b"]), &Notes::new(), true).unwrap();
        assert_eq!(unread(&first), [] as [&str; 0]);
        let notes = after(&Notes::new(), &first);
        let one = settings("collections = ['s.a']");
        let left = plan(&one, &names(&["s.a"]), &notes, false).unwrap();
        let notes = after(&notes, &left);
        assert!(!notes.contains_key("snapshot s.b"), "{notes:?}");
        let back = plan(&settings("collections = ['s.a', 's.b']"), &names(&["s.a", "s.b"]), &notes, false);
        assert_eq!(unread(&back.unwrap()), ["s.b"]);
    }

    #[test]
    fn parts_are_read_on_where_each_of_them_is() {
        let settings = settings("collections = ['s.a']");
        let there = names(&["s.a"]);
        let first = plan(&settings, &there, &Notes::new(), true).unwrap();
        assert_eq!(first.unread[0].parts, [IdPart::default()]);
        let id = |number: u8| Id::from([0x10, 0, number, 0, 0, 0]);
        let mut parts = IdPart::cut(&[id(3), id(7)]);
        (parts[0].ended, parts[1].last) = (true, Some(id(5)));
        let mut note = CollectionNote::new(Phase::Reading);
        note.put_parts(&parts);
        assert!(!note.ended);
        let begun = Plan { notes: vec![note.to_note("s.a"), listed("s.a", &id(1), true)], unread: vec![] };
        let notes = after(&after(&Notes::new(), &first), &begun);
        let next = plan(&settings, &there, &notes, false).unwrap();
        assert_eq!((&next.unread[0].parts, &next.unread[0].listed), (&parts, &vec![id(1)]));
        parts.iter_mut().for_each(|part| part.ended = true);
        note.put_parts(&parts);
        assert!(note.ended);
    }

    #[test]
    fn a_request_is_read_on_whatever_the_file_says_of_first_documents_and_leaves_nothing_behind() {
        let settings = settings("snapshot = 'no_data'\ncollections = ['s.*']");
        let there = names(&["s.a", "s.b c"]);
        let notes = after(&Notes::new(), &plan(&settings, &there, &Notes::new(), true).unwrap());
        let asked = requests::Asked { id: "june 1".into(), ..Default::default() };
        let mut note = CollectionNote { asked: Some(asked), ..CollectionNote::new(Phase::Reading) };
        let made = Plan { notes: vec![note.to_note("s.b c"), note.to_note("s.gone")], unread: vec![] };
        let notes = after(&notes, &made);
        let next = plan(&settings, &there, &notes, false).unwrap();
        assert_eq!(unread(&next), ["s.b c"]);
        assert_eq!(next.unread[0].note, note);
        let gone = Note { key: r#"asked ["s.gone","june 1"]"#.into(), text: None };
        assert_eq!(next.notes, [gone], "the collection is not there any more");
        note.state = Phase::Done;
        let notes = after(&notes, &Plan { notes: vec![note.to_note("s.b c")], unread: vec![] });
        assert_eq!(unread(&plan(&settings, &there, &notes, false).unwrap()), [] as [&str; 0]);
    }

    #[test]
    fn a_connector_that_ran_before_it_noted_anything_gets_no_snapshot_and_one_that_begins_anew_does() {
        let settings = settings("collections = ['s.a']");
        let old = plan(&settings, &names(&["s.a"]), &Notes::new(), false).unwrap();
        assert_eq!(unread(&old), [] as [&str; 0]);
        let notes = after(&Notes::new(), &old);
        let anew = plan(&settings, &names(&["s.a"]), &notes, true).unwrap();
        assert_eq!(unread(&anew), ["s.a"]);
    }
}
