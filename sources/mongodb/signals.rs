//! Which collection's new documents are signals, and what they hold. Start at `SignalCollection`.

use std::collections::VecDeque;

use millrace_core::position::Mark;
use millrace_core::signal::inserted::{Heard, Inserted};

use crate::bson::{Dialect, Doc, Fault, Style, Value, put_value};
use crate::collections::Name;
use crate::event::Namespace;

#[derive(Debug, Default)]
pub struct SignalCollection {
    name: Option<Name>,
    pub documents: Inserted,
}

impl SignalCollection {
    /// `waiting`: what is left over from before.
    pub fn new(name: Option<Name>, waiting: VecDeque<Heard>) -> Self {
        Self { name, documents: Inserted::new(waiting) }
    }

    /// Takes a document that was inserted somewhere. Of the signal collection's its fields are the id, the type and
    /// the data, whatever their names. No event of a transaction that is aborted comes, so it counts at once.
    pub fn hear(&mut self, to: Namespace<'_>, document: Option<Doc<'_>>, mark: Mark) -> Result<(), Fault> {
        let is_own = |name: &Name| {
            name.database.as_bytes() == to.database && name.collection.as_bytes() == to.collection
        };
        let Some(document) = document.filter(|_| self.name.as_ref().is_some_and(is_own)) else {
            return Ok(());
        };
        let mut fields = document.elements();
        let mut next = || match fields.next() {
            Some(field) => text(field.map_err(Fault::Malformed)?.1),
            None => Ok(String::new()),
        };
        self.documents.hear(Heard::new(mark, next()?, next()?, next()?));
        self.documents.committed();
        Ok(())
    }
}

/// A text as it is, an id of the server's own by its digits, and anything else as JSON.
fn text(value: Value<'_>) -> Result<String, Fault> {
    match value {
        Value::Text(text) => Ok(String::from_utf8_lossy(text).into_owned()),
        Value::ObjectId(id) => Ok(id.iter().map(|byte| format!("{byte:02x}")).collect()),
        Value::Null | Value::Undefined => Ok(String::new()),
        other => {
            let mut json = Vec::new();
            put_value(Style::compact(Dialect::Relaxed), other, None, &mut json)?;
            Ok(String::from_utf8_lossy(&json).into_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::signal::Action;
    use millrace_core::signal::inserted::way;
    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::{Document, RawDocumentBuf, doc};

    use super::*;

    fn heard(collection: &str, document: &Document) -> Option<Heard> {
        let name = Name { database: "ops".into(), collection: "signals".into() };
        let mut signals = SignalCollection::new(Some(name), VecDeque::new());
        let raw = RawDocumentBuf::try_from(document).unwrap();
        let to = Namespace { raw: Doc::default(), database: b"ops", collection: collection.as_bytes() };
        signals.hear(to, Some(Doc::new(raw.as_bytes()).unwrap()), Mark::default()).unwrap();
        let (to, mut from) = way();
        signals.documents.tell(&to);
        from.try_recv().ok()
    }

    #[test]
    fn data_is_a_document_or_its_text_and_its_field_may_have_another_name() {
        let data = doc! { "data-collections": ["shop.orders"], "type": "incremental" };
        let id = ObjectId::from_bytes([7; 12]);
        for document in [
            doc! { "_id": "one", "type": "execute-snapshot", "data": data.clone() },
            doc! { "_id": "one", "kind": "execute-snapshot", "payload": serde_json::to_string(&data).unwrap() },
            doc! { "_id": id, "type": "execute-snapshot", "data": data },
        ] {
            let signal = heard("signals", &document).and_then(|heard| heard.signal()).expect("a signal");
            let Action::Execute(execute) = &signal.action else { panic!("{signal:?}") };
            assert!(execute.collections.iter().any(|wanted| wanted.fits("shop.orders")));
            assert!(signal.id == "one" || signal.id == "07".repeat(12), "{}", signal.id);
        }
        assert!(heard("orders", &doc! { "_id": "one", "type": "log" }).is_none(), "of another collection");
        let odd = heard("signals", &doc! { "_id": 5 }).expect("whatever it is");
        assert!(odd.signal().is_none());
    }
}
