//! One document with a value of every type, as MongoDB's Java driver 5.9 wrote it in BSON and in JSON.

use super::*;
use proptest::prelude::*;

fn every_type() -> Vec<u8> {
    let text = include_str!("fixtures/types.hex").trim();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn written(style: Style, bytes: &[u8], rules: Option<&FieldRules>) -> String {
    let mut out = Vec::new();
    write_document(style, Doc::new(bytes).unwrap(), rules, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn bson(json: serde_json::Value) -> Vec<u8> {
    let document = mongodb::bson::serialize_to_document(&json).unwrap();
    mongodb::bson::RawDocumentBuf::try_from(&document).unwrap().as_bytes().to_vec()
}

fn rules(of: &[(&str, Rule)]) -> FieldRules {
    let mut rules = FieldRules::default();
    for (order, (path, rule)) in of.iter().enumerate() {
        rules.add(&path.split('.').collect::<Vec<_>>(), rule, order);
    }
    rules
}

#[test]
fn every_type_is_written_as_the_java_driver_writes_it() {
    let relaxed = Style { dialect: Dialect::Relaxed, spaced: true };
    for (style, expected) in [
        (Style::compact(Dialect::Strict), include_str!("fixtures/strict.json")),
        (Style::compact(Dialect::Relaxed), include_str!("fixtures/relaxed.json")),
        (relaxed, include_str!("fixtures/relaxed_spaced.json")),
        (Style::compact(Dialect::Canonical), include_str!("fixtures/canonical.json")),
    ] {
        let text = written(style, &every_type(), None);
        let fields = |text: &str| text.trim().split(",\"").map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(fields(&text), fields(expected), "{style:?}");
    }
}

#[test]
fn the_plain_dialect_is_json_without_types() {
    let text = written(Style::compact(Dialect::Plain), &every_type(), None);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (field, expected) in [
        ("d2", "1.0E+300"),
        ("nan", r#""NaN""#),
        ("bin", r#""AQID/w==""#),
        ("uuid", r#""00000000-0000-0000-0000-000000000000""#),
        ("undef", "null"),
        ("oid", r#""65f0aa0102030405060708ff""#),
        ("date", r#""2023-11-14T22:13:20.123Z""#),
        ("date100", r#""2023-11-14T22:13:20.100Z""#),
        ("dateneg", r#""1969-12-31T23:59:59.999Z""#),
        ("datebig", "253402300800000"),
        ("regex", r#""/a/b\"c/imx""#),
        ("ptr", r#"{"ref":"db.c","id":"65f0aa0102030405060708ff"}"#),
        ("jss", r#"{"code":"g()","scope":{"x":1}}"#),
        ("ts", r#"{"t":4294967295,"i":7}"#),
        ("i64", "1099511627776"),
        ("dec", "1.50E+3"),
        ("decinf", r#""-Infinity""#),
        ("dec5", "12345678901234567890123456789012.34"),
        ("min", r#""MinKey""#),
    ] {
        assert!(json.get(field).is_some(), "{field}");
        assert!(text.contains(&format!("\"{field}\":{expected}")), "{field}: {expected} in {text}");
    }
}

#[test]
fn bytes_cut_anywhere_are_an_error_and_never_a_panic() {
    let bytes = every_type();
    for end in 0..bytes.len() {
        assert!(Doc::new(&bytes[..end]).is_err(), "{end}");
    }
}

#[test]
fn text_that_is_not_utf_8_is_written_with_replacement_characters() {
    let mut out = Vec::new();
    write_text(b"a\xffb", &mut out);
    assert_eq!(out, "\"a\u{fffd}b\"".as_bytes());
}

#[test]
fn nesting_beyond_the_server_s_limit_is_an_error() {
    let mut bytes = bson(serde_json::json!({}));
    for _ in 0..300 {
        let len = i32::try_from(bytes.len() + 8).unwrap().to_le_bytes();
        bytes = [&len[..], &[3, b'a', 0], &bytes, &[0]].concat();
    }
    let mut out = Vec::new();
    let fault = write_document(Style::compact(Dialect::Strict), Doc::new(&bytes).unwrap(), None, &mut out);
    assert_eq!(fault, Err(Fault::Malformed(Malformed::Depth)));
}

#[test]
fn fields_are_left_out_and_renamed_through_documents_and_arrays_of_documents() {
    let rules =
        rules(&[("secret", Rule::Exclude), ("a.b", Rule::Exclude), ("list.x", Rule::Rename("y".into()))]);
    let doc = bson(serde_json::json!({
        "_id": 1, "secret": 2, "a": {"b": 3, "c": 4}, "list": [{"x": 5}, [{"x": 6}], 7]
    }));
    assert_eq!(
        written(Style::compact(Dialect::Plain), &doc, Some(&rules)),
        r#"{"_id":1,"a":{"c":4},"list":[{"y":5},[{"x":6}],7]}"#
    );
}

#[test]
fn a_field_with_another_name_stands_behind_those_that_keep_theirs() {
    let rename = |new: &str| Rule::Rename(new.into());
    let rules = rules(&[("a", rename("z")), ("b", rename("y"))]);
    let doc = bson(serde_json::json!({"b": 1, "x": 2, "a": 3}));
    assert_eq!(written(Style::compact(Dialect::Plain), &doc, Some(&rules)), r#"{"x":2,"z":3,"y":1}"#);
}

#[test]
fn a_name_that_is_taken_is_not_given_twice() {
    let rename = |new: &str| Rule::Rename(new.into());
    let of_two = |of: &[(&str, Rule)]| {
        let mut out = Vec::new();
        let doc = bson(serde_json::json!({"a": 1, "b": 2}));
        let rules = rules(of);
        write_document(Style::compact(Dialect::Plain), Doc::new(&doc).unwrap(), Some(&rules), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    };
    assert_eq!(of_two(&[("a", rename("b"))]), Err(Fault::NameTaken("b".into())));
    assert_eq!(of_two(&[("a", rename("c")), ("b", rename("c"))]), Err(Fault::NameTaken("c".into())));
    assert_eq!(of_two(&[("a", rename("b")), ("b", rename("c"))]), Err(Fault::NameTaken("b".into())));
    // A name that was given up before is free.
    assert_eq!(of_two(&[("b", Rule::Exclude), ("a", rename("b"))]), Ok(r#"{"b":1}"#.into()));
    assert_eq!(of_two(&[("b", rename("c")), ("a", rename("b"))]), Ok(r#"{"c":2,"b":1}"#.into()));
}

#[test]
fn the_paths_of_an_update_follow_the_rules_past_places_in_arrays() {
    let rules =
        rules(&[("a.b", Rule::Exclude), ("list.x", Rule::Rename("y".into())), ("deep.p.q", Rule::Exclude)]);
    let along = |path: &str| {
        let along = rules.along(path.as_bytes())?;
        Some((String::from_utf8(along.path).unwrap(), along.below.is_some()))
    };
    for (path, expected) in [
        ("a.b", None),
        ("a.b.c", None),
        ("a.0.b", None),
        ("a.0.1.b", Some(("a.0.1.b".to_owned(), false))),
        ("list.3.x", Some(("list.3.y".to_owned(), false))),
        ("list.3", Some(("list.3".to_owned(), true))),
        ("deep.p", Some(("deep.p".to_owned(), true))),
        ("other.b", Some(("other.b".to_owned(), false))),
    ] {
        assert_eq!(along(path), expected, "{path}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(doc) = Doc::new(&bytes) {
            let mut out = Vec::new();
            let written = write_document(Style::compact(Dialect::Relaxed), doc, None, &mut out);
            let fits = written.is_err() || out.starts_with(b"{");
            prop_assert!(fits);
        }
    }

    #[test]
    fn decimals_are_printed_as_the_driver_prints_them(bytes in any::<[u8; 16]>()) {
        let mut out = Vec::new();
        decimal::put(&bytes, &mut out);
        let expected = mongodb::bson::Decimal128::from_bytes(bytes).to_string();
        prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn dates_are_those_of_the_calendar(ms in 0_i64..253_402_300_799_999) {
        let mut out = Vec::new();
        put_date(ms, Fraction::Shortest, &mut out);
        let expected = mongodb::bson::DateTime::from_millis(ms).try_to_rfc3339_string().unwrap();
        prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
