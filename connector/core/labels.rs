//! The labels of enumerations in the values of a row. Start at `strange_label`.

use crate::encode::elements;
use crate::relation::Kind;

/// Whether values of this kind are labels, or arrays of them.
pub fn has_labels(kind: &Kind) -> bool {
    match kind {
        Kind::Enum { .. } => true,
        Kind::Array(element) | Kind::Delimited { element, .. } => has_labels(element),
        _ => false,
    }
}

/// The first label in a value that neither its kind has nor `is_known` knows. Nothing is allocated for a plain one.
pub fn strange_label(kind: &Kind, text: &[u8], is_known: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    match kind {
        Kind::Enum { labels } => {
            let is_one = labels.iter().any(|label| label.as_bytes() == text) || is_known(text);
            (!is_one).then(|| text.to_vec())
        }
        Kind::Array(element) => of_array((element, b','), text, &is_known),
        Kind::Delimited { element, delimiter } => of_array((element, *delimiter), text, &is_known),
        _ => None,
    }
}

/// Several dimensions come as one.
fn of_array(
    (element, delimiter): (&Kind, u8),
    text: &[u8],
    is_known: &dyn Fn(&[u8]) -> bool,
) -> Option<Vec<u8>> {
    match element {
        Kind::Enum { .. } => {
            elements(text, delimiter)?.find_map(|label| strange_label(element, &label, is_known))
        }
        Kind::Array(element) => of_array((element, b','), text, is_known),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strange(kind: &Kind, text: &str) -> Option<String> {
        let found = strange_label(kind, text.as_bytes(), |label| label == b"former");
        found.map(|label| String::from_utf8(label).unwrap())
    }

    #[test]
    fn a_label_that_the_kind_has_not_is_found_in_a_value_and_in_an_array() {
        let mood = || Kind::Enum { labels: vec!["sad".into(), "so, so".into()] };
        let array = |element| Kind::Array(Box::new(element));
        for text in ["sad", "so, so", "former"] {
            assert_eq!(strange(&mood(), text), None, "{text}");
        }
        assert_eq!(strange(&mood(), "glad").as_deref(), Some("glad"));
        let some = r#"{sad,"so, so",NULL,former}"#;
        assert_eq!(strange(&array(mood()), some), None);
        assert_eq!(strange(&array(array(mood())), some), None);
        assert_eq!(strange(&array(mood()), "{sad,glad}").as_deref(), Some("glad"));
        assert_eq!(strange(&Kind::Text, "glad"), None);
        assert!(has_labels(&array(mood())) && !has_labels(&array(Kind::Text)));
    }
}
