//! Which member made a schema of Avro one that those before it do not go with. Start at `changed`.

use serde_json::Value as Json;

/// What the newest schema of a subject and one that it does not take say of the first member that both have with types
/// that do not go together. A registry says so in words of its own, and not always of which member.
pub(super) fn changed(newest: &str, refused: &str) -> Option<String> {
    differ(&serde_json::from_str(newest).ok()?, &serde_json::from_str(refused).ok()?, "")
}

fn differ(was: &Json, is: &Json, path: &str) -> Option<String> {
    let (was, is) = (there(was), there(is));
    let (kind_was, kind_is) = (kind(was)?, kind(is)?);
    if kind_was != kind_is {
        let member = if path.is_empty() { "the payload".to_owned() } else { format!("member {path}") };
        return (!is_read_as(kind_was, kind_is)).then(|| format!("{member} is {kind_is} and was {kind_was}"));
    }
    match kind_is {
        "array" => differ(was.get("items")?, is.get("items")?, path),
        "record" => {
            let earlier = was.get("fields")?.as_array()?;
            is.get("fields")?.as_array()?.iter().find_map(|field| {
                let name = field.get("name")?.as_str()?;
                let before =
                    earlier.iter().find(|field| field.get("name").and_then(Json::as_str) == Some(name));
                let dot = if path.is_empty() { "" } else { "." };
                differ(before?.get("type")?, field.get("type")?, &format!("{path}{dot}{name}"))
            })
        }
        _ => None,
    }
}

/// The branch of a union that is not null.
fn there(of: &Json) -> &Json {
    let branches = of.as_array().map(Vec::as_slice).unwrap_or_default();
    branches.iter().find(|branch| *branch != "null").unwrap_or(of)
}

fn kind(of: &Json) -> Option<&str> {
    of.as_str().or_else(|| of.get("type")?.as_str())
}

/// Avro's promotions.
fn is_read_as(was: &str, is: &str) -> bool {
    matches!((was, is), ("int", "long" | "double") | ("long", "double"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_member_whose_type_changed_is_named_with_both() {
        let record = |fields: &str| format!(r#"["null",{{"type":"record","name":"p","fields":[{fields}]}}]"#);
        let field =
            |name: &str, of: &str| format!(r#"{{"name":"{name}","type":["null",{of}],"default":null}}"#);
        let deep = |of: &str| {
            let items = format!(r#"{{"type":"record","name":"i","fields":[{}]}}"#, field("n", of));
            record(&field("list", &format!(r#"{{"type":"array","items":{items}}}"#)))
        };
        let int = record(&field("n", r#""int""#));
        for (newest, refused, expected) in [
            (&int, &record(&field("n", r#""string""#)), Some("member n is string and was int")),
            (&int, &record(&field("n", r#""double""#)), None),
            (&record(&field("n", r#""double""#)), &int, Some("member n is int and was double")),
            (&int, &record(&field("m", r#""string""#)), None),
            (&deep(r#""int""#), &deep(r#""boolean""#), Some("member list.n is boolean and was int")),
            (&int, &r#"["null","string"]"#.to_owned(), Some("the payload is string and was record")),
        ] {
            assert_eq!(changed(newest, refused).as_deref(), expected, "{refused}");
        }
    }
}
