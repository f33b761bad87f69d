//! JSON that came in a column: checked, and taken apart into the members of its outermost object.

use serde::de::IgnoredAny;

/// Whether it is exactly one JSON value.
pub(crate) fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Takes an object apart: each member's name and value, both as they are written. `None` where the text is
/// JSON but no object. Only for text that `is_json`.
pub(crate) fn members(text: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut rest = text.trim_ascii().strip_prefix(b"{")?.trim_ascii_start();
    let mut found = Vec::new();
    while !rest.starts_with(b"}") {
        let (name, tail) = value(rest)?;
        let (member, tail) = value(tail.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())?;
        found.push((name, member));
        let tail = tail.trim_ascii_start();
        rest = tail.strip_prefix(b",").unwrap_or(tail).trim_ascii_start();
        if rest.is_empty() {
            return None;
        }
    }
    Some(found)
}

/// Takes a list apart, each element as it is written. `None` where the text is JSON but no list.
pub(crate) fn elements(text: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = text.trim_ascii().strip_prefix(b"[")?.trim_ascii_start();
    let mut found = Vec::new();
    while !rest.starts_with(b"]") {
        let (element, tail) = value(rest)?;
        found.push(element);
        let tail = tail.trim_ascii_start();
        rest = tail.strip_prefix(b",").unwrap_or(tail).trim_ascii_start();
        if rest.is_empty() {
            return None;
        }
    }
    Some(found)
}

/// The value that the text begins with, and what follows it.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut depth = 0_u32;
    let mut in_string = false;
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    in_string = false;
                    if depth == 0 {
                        return text.split_at_checked(at + 1);
                    }
                }
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return text.split_at_checked(at),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return text.split_at_checked(at + 1);
                }
            }
            b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return text.split_at_checked(at),
            _ => {}
        }
    }
    Some((text, b""))
}

/// The value of the member of this name or, where there is none, of the member inside another one whose names
/// these are with a dot between them.
pub(crate) fn member<'a>(members: &[(&[u8], &'a [u8])], name: &str) -> Option<&'a [u8]> {
    // As parsers do: of two members of one name the last one counts.
    let find = |name: &str| members.iter().rev().find(|(written, _)| is_named(written, name));
    if let Some((_, value)) = find(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    let (_, inside) = find(first)?;
    member(&self::members(inside)?, rest)
}

/// Writes a member's value as a column's text: a string without its quotes and escapes, anything else as it is.
pub(crate) fn put_text(value: &[u8], out: &mut Vec<u8>) {
    match value {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => out.extend_from_slice(inner),
        [b'"', ..] => match serde_json::from_slice::<String>(value) {
            Ok(text) => out.extend_from_slice(text.as_bytes()),
            // A lone surrogate: JSON by its grammar, and no text. It stays as it is written.
            Err(_) => out.extend_from_slice(value),
        },
        _ => out.extend_from_slice(value),
    }
}

/// Whether the member's name is this one.
pub(crate) fn is_named(written: &[u8], name: &str) -> bool {
    match written {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => inner == name.as_bytes(),
        _ => serde_json::from_slice::<String>(written).is_ok_and(|written| written == name),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn members_come_apart_as_they_are_written() {
        let text = br#" { "a" : {"x": [1, "}"]} , "b":"q\"},", "c" :-1.5e3,"d":null , "e": [ ] } "#;
        let text = text.as_slice();
        let seen: Vec<(String, String)> = members(text)
            .unwrap()
            .into_iter()
            .map(|(n, v)| (String::from_utf8_lossy(n).into(), String::from_utf8_lossy(v).into()))
            .collect();
        let expected = [
            ("\"a\"", "{\"x\": [1, \"}\"]}"),
            ("\"b\"", "\"q\\\"},\""),
            ("\"c\"", "-1.5e3"),
            ("\"d\"", "null"),
            ("\"e\"", "[ ]"),
        ];
        assert_eq!(seen, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(members(b"{}"), Some(Vec::new()));
        assert!(members(b"[1]").is_none() && members(b"5").is_none());
    }

    #[test]
    fn elements_come_apart_as_they_are_written() {
        let text = br#" [ 1.50 , "a,]", [2, [3]],{"x":[4]} , null]"#;
        let expected = ["1.50", "\"a,]\"", "[2, [3]]", "{\"x\":[4]}", "null"];
        assert_eq!(elements(text), Some(expected.map(str::as_bytes).to_vec()));
        assert_eq!(elements(b"[ ]"), Some(Vec::new()));
        assert!(elements(b"{}").is_none());
    }

    #[test]
    fn a_string_loses_its_escapes_and_a_number_keeps_its_digits() {
        let text = |value: &str| {
            let mut out = Vec::new();
            put_text(value.as_bytes(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(r#""a\"\u00e9""#), "a\"é");
        assert_eq!(text("12.50"), "12.50");
        assert!(is_named(br#""\u0069d""#, "id") && !is_named(b"\"id2\"", "id"));
    }

    #[test]
    fn a_member_inside_another_is_found_by_both_names_and_a_name_with_a_dot_comes_first() {
        let found = members(br#"{"a":{"b":1,"c":{"d":2}},"a.b":3,"n":null}"#).unwrap();
        let seen = ["a.b", "a.c.d", "a.x", "n.x", "n"].map(|name| member(&found, name));
        let expected = [Some("3"), Some("2"), None, None, Some("null")];
        assert_eq!(seen, expected.map(|value| value.map(str::as_bytes)));
    }

    #[test]
    fn what_is_not_json_is_told() {
        for text in ["{\"a\":}", "{", "", "nul", "{} {}", "\"\u{1}\""] {
            assert!(!is_json(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_object_comes_apart_as_serde_sees_it(
            object in prop::collection::btree_map("\\PC{0,4}", "[\\PC\"\\\\{}\\[\\],:]{0,6}", 0..5)
        ) {
            let text = serde_json::to_string_pretty(&object).unwrap();
            let parsed: Value = serde_json::from_str(&text).unwrap();
            let found = members(text.as_bytes()).unwrap();
            prop_assert_eq!(found.len(), object.len());
            for (name, value) in found {
                let name: String = serde_json::from_slice(name).unwrap();
                let value: Value = serde_json::from_slice(value).unwrap();
                prop_assert_eq!(&parsed[&name], &value);
            }
        }
    }
}
