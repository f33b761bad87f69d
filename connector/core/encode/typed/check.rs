//! JSON as a JSON Schema has it, or not at all. Start at `Checker::parse`.
//!
//! What a draft does not know says nothing in it, and every event would pass: such a word is refused by its name where
//! the schema is read. Nothing is fetched: a schema is whole in its own text.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, ValidationError, Validator};
use serde_json::Value as Json;

/// A schema made ready to check by.
#[derive(Debug)]
pub(crate) struct Checker(Validator);

impl Checker {
    /// The error says what is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let schema: Json = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
        let options = jsonschema::options().offline();
        let options = match schema.get("$schema") {
            Some(_) => options,
            // As Confluent's clients take it.
            None => options.with_draft(Draft::Draft7),
        };
        let checker = options.build(&schema).map_err(|error| match error.instance_path().as_str() {
            "" => error.to_string(),
            place => format!("{error} at #{place}"),
        })?;
        match idle_word(&schema, Age::of(checker.draft()), "#") {
            None => Ok(Self(checker)),
            Some(word) => {
                Err(format!("{word} says nothing in its draft; name one in \"$schema\" that has it"))
            }
        }
    }

    /// The error says where what is broken. Values are not named: they may be secrets.
    pub(crate) fn check(&self, json: &[u8]) -> Result<(), String> {
        // It is JSON by its grammar already: a number may be too large for a double, a text no Unicode.
        let value: Json = serde_json::from_slice(json).map_err(|error| format!("cannot be read: {error}"))?;
        self.0.validate(&value).map_err(|error| broken(&error))
    }
}

/// A pointer into the event, the word that it breaks, and where that stands in the schema.
#[cold]
fn broken(error: &ValidationError<'_>) -> String {
    let place = match error.instance_path().as_str() {
        "" => "the value",
        place => place,
    };
    let name = match error.kind() {
        ValidationErrorKind::Required { property } => format!(" of {property}"),
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            format!(" by {}", unexpected.join(", "))
        }
        _ => String::new(),
    };
    format!("{place} breaks {}{name} (#{})", error.kind().keyword(), error.schema_path())
}

/// Drafts in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    Draft4,
    Draft6,
    Draft7,
    Draft2019,
    Draft2020,
}

impl Age {
    fn of(draft: Draft) -> Self {
        match draft {
            Draft::Draft4 => Self::Draft4,
            Draft::Draft6 => Self::Draft6,
            Draft::Draft7 => Self::Draft7,
            Draft::Draft201909 => Self::Draft2019,
            // Later ones build on it.
            _ => Self::Draft2020,
        }
    }
}

/// Words that ask something of a value and are not in every draft: since when, and until when.
const WORDS: [(&str, Age, Age); 16] = [
    ("const", Age::Draft6, Age::Draft2020),
    ("contains", Age::Draft6, Age::Draft2020),
    ("propertyNames", Age::Draft6, Age::Draft2020),
    ("if", Age::Draft7, Age::Draft2020),
    ("then", Age::Draft7, Age::Draft2020),
    ("else", Age::Draft7, Age::Draft2020),
    ("dependentRequired", Age::Draft2019, Age::Draft2020),
    ("dependentSchemas", Age::Draft2019, Age::Draft2020),
    ("minContains", Age::Draft2019, Age::Draft2020),
    ("maxContains", Age::Draft2019, Age::Draft2020),
    ("unevaluatedItems", Age::Draft2019, Age::Draft2020),
    ("unevaluatedProperties", Age::Draft2019, Age::Draft2020),
    ("$recursiveRef", Age::Draft2019, Age::Draft2019),
    ("prefixItems", Age::Draft2020, Age::Draft2020),
    ("$dynamicRef", Age::Draft2020, Age::Draft2020),
    ("additionalItems", Age::Draft4, Age::Draft2019),
];

/// Words whose value is a schema or a list of schemas, and those whose value has schemas by name.
const INSIDE: [&str; 16] = [
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "oneOf",
    "prefixItems",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
];
const BY_NAME: [&str; 6] =
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];

/// A word of another draft, with its place.
fn idle_word(schema: &Json, age: Age, place: &str) -> Option<String> {
    let Json::Object(words) = schema else { return None };
    for (word, value) in words {
        let place = format!("{place}/{word}");
        if WORDS.iter().any(|(known, from, to)| known == word && !(*from..=*to).contains(&age)) {
            return Some(place);
        }
        let found = match value {
            Json::Object(named) if BY_NAME.contains(&word.as_str()) => {
                named.iter().find_map(|(name, inner)| idle_word(inner, age, &format!("{place}/{name}")))
            }
            Json::Array(list) if INSIDE.contains(&word.as_str()) => {
                let mut list = list.iter().enumerate();
                list.find_map(|(nth, inner)| idle_word(inner, age, &format!("{place}/{nth}")))
            }
            inner if INSIDE.contains(&word.as_str()) => idle_word(inner, age, &place),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(schema: &Json) -> String {
        Checker::parse(&schema.to_string()).unwrap_err()
    }

    fn said(schema: &Json, value: &str) -> String {
        let checker = Checker::parse(&schema.to_string()).unwrap();
        checker.check(value.as_bytes()).err().unwrap_or_default()
    }

    #[test]
    fn a_misfit_names_the_pointer_and_the_word_and_never_the_value() {
        let schema = json!({
            "type": "object",
            "required": ["id"],
            "additionalProperties": false,
            "properties": {
                "id": {"type": "string", "minLength": 2, "pattern": "^a"},
                "lines": {"type": "array", "items": {"$ref": "#/definitions/line"}},
                "at": {"type": "string", "format": "date-time"},
                "how": {"enum": ["secret"]}
            },
            "definitions": {"line": {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}}}
        });
        for (value, expected) in [
            (r#"{"id":"ab","lines":[{"n":3}],"at":"2024-01-02T03:04:05Z","how":"secret"}"#, ""),
            ("7777", "the value breaks type (#/type)"),
            ("{}", "the value breaks required of \"id\" (#/required)"),
            (
                r#"{"id":"ab","colour":7777}"#,
                "the value breaks additionalProperties by colour (#/additionalProperties)",
            ),
            (r#"{"id":"7777"}"#, "/id breaks pattern (#/properties/id/pattern)"),
            (r#"{"id":"ab","at":"7777"}"#, "/at breaks format (#/properties/at/format)"),
            (r#"{"id":"ab","how":"7777"}"#, "/how breaks enum (#/properties/how/enum)"),
            (
                r#"{"id":"ab","lines":[{"n":1},{"n":7777}]}"#,
                "/lines/1/n breaks maximum (#/definitions/line/properties/n/maximum)",
            ),
        ] {
            assert_eq!(said(&schema, value), expected, "{value}");
        }
    }

    #[test]
    fn what_no_checker_can_read_is_told_so() {
        for value in ["1e400", r#""\ud800""#, &("[".repeat(200) + &"]".repeat(200))] {
            assert!(said(&json!(true), value).starts_with("cannot be read: "), "{value}");
        }
    }

    #[test]
    fn a_text_that_is_no_schema_is_told_with_what_is_wrong() {
        assert!(Checker::parse("{").unwrap_err().contains("no JSON"));
        for (schema, part) in [
            (json!({"properties": {"a": {"type": "strng"}}}), "#/properties/a"),
            (json!({"required": "id"}), "#/required"),
            (json!({"pattern": "("}), "("),
            (json!({"$ref": "#/definitions/nowhere"}), "nowhere"),
            (json!({"$ref": "https://example.com/other.json"}), "https://example.com/other.json"),
            (json!({"$schema": "https://example.com/own"}), "https://example.com/own"),
            (json!([1]), "1"),
        ] {
            let said = refused(&schema);
            assert!(said.contains(part), "{schema}: {said}");
        }
    }

    #[test]
    fn a_word_of_another_draft_is_refused_by_its_name() {
        let (draft4, draft2020) =
            ("http://json-schema.org/draft-04/schema#", "https://json-schema.org/draft/2020-12/schema");
        for (schema, place) in [
            (json!({"unevaluatedProperties": false}), "#/unevaluatedProperties"),
            (json!({"properties": {"a": {"prefixItems": [{}]}}}), "#/properties/a/prefixItems"),
            (json!({"anyOf": [{}, {"dependentRequired": {}}]}), "#/anyOf/1/dependentRequired"),
            (json!({"$schema": draft4, "items": {"const": 1}}), "#/items/const"),
            (json!({"$schema": draft2020, "additionalItems": false}), "#/additionalItems"),
        ] {
            let said = refused(&schema);
            assert!(said.starts_with(&format!("{place} says nothing")), "{schema}: {said}");
        }
        for schema in [
            json!({"$schema": draft2020, "prefixItems": [{}], "unevaluatedItems": false}),
            // Names of members, and values.
            json!({"properties": {"prefixItems": {"enum": [{"prefixItems": 1}], "default": {"prefixItems": 1}}}}),
        ] {
            assert!(Checker::parse(&schema.to_string()).is_ok(), "{schema}");
        }
    }

    #[test]
    fn a_schema_that_only_names_itself_takes_no_stack() {
        for schema in [json!({"$ref": "#"}), json!({"allOf": [{"$ref": "#"}], "type": "object"})] {
            if let Ok(checker) = Checker::parse(&schema.to_string()) {
                let _ = checker.check(b"{\"a\": 1}");
            }
        }
    }
}
