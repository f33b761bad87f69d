//! An id as the server has it, in a form that can be compared, noted and asked for: an element of BSON without a
//! name.

use crate::bson::{Doc, Malformed};

/// Its type, a zero byte where a name would end, its value.
pub type Id = Box<[u8]>;

/// The one that no other comes after.
pub const GREATEST: [u8; 2] = [0x7F, 0];

/// The id of a document, or of a document's key.
pub fn of(doc: Doc<'_>) -> Result<Id, Malformed> {
    doc.nameless("_id")
}

/// As it stands in a note: hexadecimal digits.
pub fn to_text(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn from_text(text: &str) -> Option<Id> {
    let byte = |at| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let id: Id = (0..text.len()).step_by(2).map(byte).collect::<Option<_>>()?;
    // Whatever it is sent to the server in, it must be one element.
    let mut elements = Doc::of_elements(&id).elements();
    let is_one = elements.next()?.is_ok_and(|(name, _)| name.is_empty()) && elements.next().is_none();
    is_one.then_some(id)
}

/// Adds the element under a name.
pub fn put(name: &str, id: &[u8], out: &mut Vec<u8>) {
    let (code, value) = id.split_at_checked(1).unwrap_or_default();
    out.extend_from_slice(code);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Bson, Decimal128, oid::ObjectId, rawdoc};
    use mongodb::bson::{RawDocumentBuf, doc};

    #[test]
    fn ids_of_every_type_come_back_from_a_note_and_go_to_the_server_as_they_were() {
        let ids: [Bson; 7] = [
            1.into(),
            1_i64.into(),
            "ä \0 b".into(),
            ObjectId::from_bytes([7; 12]).into(),
            doc! { "a": { "b": [1, 2] } }.into(),
            Decimal128::from_bytes([3; 16]).into(),
            Bson::Null,
        ];
        for id in ids {
            let raw = RawDocumentBuf::try_from(&doc! { "x": 1, "_id": id.clone(), "y": 2 }).unwrap();
            let found = of(Doc::new(raw.as_bytes()).unwrap()).unwrap();
            assert_eq!(from_text(&to_text(&found)).as_ref(), Some(&found), "{id}");
            let mut element = Vec::new();
            put("_id", &found, &mut element);
            let alone = RawDocumentBuf::try_from(&doc! { "_id": id.clone() }).unwrap();
            assert_eq!(Doc::new(alone.as_bytes()).unwrap(), Doc::of_elements(&element), "{id}");
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let two = rawdoc! { "": 1, "b": 2 };
        let two = to_text(Doc::new(two.as_bytes()).unwrap().as_bytes());
        for text in ["", "1", "zz", "0700", "1000000000", "ä", &two] {
            assert_eq!(from_text(text), None, "{text}");
        }
        assert!(of(Doc::default()).is_err());
    }
}
