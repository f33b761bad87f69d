//! Arrays as the database prints them: `{1,NULL,"a \"b\""}`, nested braces, `[0:1]={...}` bounds.
//!
//! The elements of an array of several dimensions come out in reading order; the dimensions and bounds are
//! left behind, for the column's type says nothing of them.

use super::Bad;

/// The elements of an array that are not null; `None` where the text is not one.
pub(crate) fn elements(text: &[u8], delimiter: u8) -> Option<impl Iterator<Item = Vec<u8>>> {
    let mut elements = Elements::default();
    elements.parse(text, delimiter).ok()?;
    let owned: Vec<Vec<u8>> = elements.iter().flatten().map(<[u8]>::to_vec).collect();
    Some(owned.into_iter())
}

/// The elements of one array, unescaped. Used again and again.
#[derive(Debug, Default)]
pub(crate) struct Elements {
    spans: Vec<Option<std::ops::Range<usize>>>,
    text: Vec<u8>,
}

impl Elements {
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// `None` is a NULL.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.spans.iter().map(|span| span.clone().map(|span| self.text.get(span).unwrap_or_default()))
    }

    pub(crate) fn parse(&mut self, text: &[u8], delimiter: u8) -> Result<(), Bad> {
        self.spans.clear();
        self.text.clear();
        let mut rest = without_bounds(text)?;
        let mut depth = 0_usize;
        let mut last = Last::Open;
        while let [byte, tail @ ..] = rest {
            (last, rest) = match (byte, last) {
                (b'{', Last::Open | Last::Delimiter) => {
                    depth += 1;
                    (Last::Open, tail)
                }
                (b'}', Last::Open | Last::Value) if depth > 0 => {
                    depth -= 1;
                    if depth == 0 {
                        return if tail.is_empty() { Ok(()) } else { Err(Bad::Malformed) };
                    }
                    (Last::Value, tail)
                }
                (byte, Last::Value) if *byte == delimiter => (Last::Delimiter, tail),
                (b'"', Last::Open | Last::Delimiter) if depth > 0 => (Last::Value, self.quoted(tail)?),
                (_, Last::Open | Last::Delimiter) if depth > 0 => (Last::Value, self.bare(rest, delimiter)?),
                _ => return Err(Bad::Malformed),
            };
        }
        Err(Bad::Malformed)
    }

    /// What follows an opening quote, up to the closing one.
    fn quoted<'a>(&mut self, text: &'a [u8]) -> Result<&'a [u8], Bad> {
        let start = self.text.len();
        let mut rest = text;
        loop {
            let plain = rest.iter().position(|b| matches!(b, b'"' | b'\\')).ok_or(Bad::Malformed)?;
            let (before, tail) = rest.split_at(plain);
            self.text.extend_from_slice(before);
            rest = match tail {
                [b'\\', escaped, tail @ ..] => {
                    self.text.push(*escaped);
                    tail
                }
                [b'"', tail @ ..] => {
                    self.spans.push(Some(start..self.text.len()));
                    return Ok(tail);
                }
                _ => return Err(Bad::Malformed),
            };
        }
    }

    fn bare<'a>(&mut self, text: &'a [u8], delimiter: u8) -> Result<&'a [u8], Bad> {
        let ends = |b: &u8| *b == delimiter || *b == b'}';
        let (element, rest) = text.split_at(text.iter().position(ends).ok_or(Bad::Malformed)?);
        if element.is_empty() || element.iter().any(|b| matches!(b, b'{' | b'"' | b'\\')) {
            return Err(Bad::Malformed);
        }
        if element == b"NULL" {
            self.spans.push(None);
        } else {
            let start = self.text.len();
            self.text.extend_from_slice(element);
            self.spans.push(Some(start..self.text.len()));
        }
        Ok(rest)
    }
}

/// What stood before the place that is looked at.
#[derive(Clone, Copy)]
enum Last {
    Open,
    Value,
    Delimiter,
}

fn without_bounds(text: &[u8]) -> Result<&[u8], Bad> {
    if !text.starts_with(b"[") {
        return Ok(text);
    }
    let equals = text.iter().position(|b| *b == b'=').ok_or(Bad::Malformed)?;
    let (bounds, rest) = text.split_at(equals);
    if bounds.iter().all(|b| b.is_ascii_digit() || b"[]:+-".contains(b)) {
        super::expect(rest, b"=")
    } else {
        Err(Bad::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str, delimiter: u8) -> Result<Vec<Option<String>>, Bad> {
        let mut elements = Elements::default();
        elements.parse(text.as_bytes(), delimiter)?;
        Ok(elements.iter().map(|e| e.map(|e| String::from_utf8_lossy(e).into_owned())).collect())
    }

    #[test]
    fn elements_come_out_unescaped_and_in_order() {
        let known: [(&str, &[Option<&str>]); 9] = [
            ("{}", &[]),
            ("{1,2}", &[Some("1"), Some("2")]),
            ("{NULL,\"NULL\",null}", &[None, Some("NULL"), Some("null")]),
            ("{\"\",\" \",\"a,b\"}", &[Some(""), Some(" "), Some("a,b")]),
            (r#"{"a \"b\" \\ c"}"#, &[Some(r#"a "b" \ c"#)]),
            ("{{1,2},{3,NULL}}", &[Some("1"), Some("2"), Some("3"), None]),
            ("[0:1]={1,2}", &[Some("1"), Some("2")]),
            ("[-1:0][2:3]={{1,2},{3,4}}", &[Some("1"), Some("2"), Some("3"), Some("4")]),
            ("{zażółć}", &[Some("zażółć")]),
        ];
        for (text, expected) in known {
            let expected: Vec<_> = expected.iter().map(|e| e.map(str::to_owned)).collect();
            assert_eq!(parse(text, b','), Ok(expected), "{text}");
        }
        assert_eq!(parse("{(1,1),(0,0);(2,2),(1,1)}", b';').unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_an_array_is_refused() {
        for text in [
            "", "1", "{", "}", "{1", "{1,}", "{,1}", "{1,,2}", "{1}2", "{\"a}", "{\"a\\", "{{1}", "{1}}",
            "{\"a\"b}", "{a\"b\"}", "{a{b}", "{{1}{2}}", "[0:1]{1}", "[x]={1}", "{a\\b}", ",", "{}{}",
        ] {
            assert_eq!(parse(text, b','), Err(Bad::Malformed), "{text}");
        }
    }

    proptest! {
        #[test]
        fn quoted_elements_come_back_as_they_went_in(elements in prop::collection::vec(".*", 1..8)) {
            let quote = |e: &String| format!("\"{}\"", e.replace('\\', r"\\").replace('"', "\\\""));
            let text = format!("{{{}}}", elements.iter().map(quote).collect::<Vec<_>>().join(","));
            prop_assert_eq!(parse(&text, b',').unwrap(), elements.into_iter().map(Some).collect::<Vec<_>>());
        }

        #[test]
        fn no_text_breaks_the_parser(text in r#"[\[{},;"\\a1:=\]NULL]{0,30}"#) {
            // Whatever it makes of the text, it never makes more elements than there are separators.
            if let Ok(elements) = parse(&text, b',') {
                prop_assert!(elements.len() <= text.matches(',').count() + 1, "{elements:?}");
            }
        }
    }
}
