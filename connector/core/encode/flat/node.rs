//! A document's JSON as a tree of typed values: extended JSON in each of its dialects, and JSON without types.
//! Start at `document`.

use crate::encode::lexical::time;

/// The server allows 100 levels, and extended JSON puts up to two more around a value.
const DEPTH_MAX: u32 = 300;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Null,
    /// BSON's `undefined`: not there.
    Undefined,
    Bool(bool),
    Int32(i32),
    Int64(i64),
    /// As it is spelled.
    Double(String),
    Text(String),
    Bytes(Vec<u8>),
    /// Milliseconds since 1970.
    Time(i64),
    Array(Vec<Node>),
    Document(Members),
    /// A struct whose schema has this name.
    Named(&'static str, Members),
}

pub(crate) type Members = Vec<(String, Node)>;

/// The schema of a regular expression, as Debezium names it.
const REGEX: &str = "io.debezium.mongodb.regex";

/// The members of a document; `None` where the text is no JSON object.
pub(crate) fn document(text: &[u8]) -> Option<Members> {
    match value(text)? {
        Node::Document(members) => Some(members),
        _ => None,
    }
}

/// One value, and nothing behind it.
pub(crate) fn value(text: &[u8]) -> Option<Node> {
    Reader { rest: text, is_plain: false }.whole()
}

/// The members of an object in which names with dollars mean nothing.
pub(crate) fn plain(text: &[u8]) -> Option<Members> {
    match (Reader { rest: text, is_plain: true }).whole()? {
        Node::Document(members) => Some(members),
        _ => None,
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    is_plain: bool,
}

impl Reader<'_> {
    fn whole(&mut self) -> Option<Node> {
        let node = self.value(0)?;
        self.skip_blanks();
        self.rest.is_empty().then_some(node)
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn takes(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn value(&mut self, depth: u32) -> Option<Node> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.skip_blanks();
        match self.rest.first()? {
            b'{' if self.is_plain => self.object(depth).map(Node::Document),
            b'{' => self.object(depth).map(typed),
            b'[' => self.array(depth),
            b'"' => self.string().map(Node::Text),
            _ => self.word(),
        }
    }

    fn object(&mut self, depth: u32) -> Option<Members> {
        let mut members = Members::new();
        self.takes(b'{');
        if self.takes(b'}') {
            return Some(members);
        }
        loop {
            self.skip_blanks();
            let name = self.string()?;
            if !self.takes(b':') {
                return None;
            }
            members.push((name, self.value(depth + 1)?));
            if self.takes(b'}') {
                return Some(members);
            }
            if !self.takes(b',') {
                return None;
            }
        }
    }

    fn array(&mut self, depth: u32) -> Option<Node> {
        let mut items = Vec::new();
        self.takes(b'[');
        if self.takes(b']') {
            return Some(Node::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.takes(b']') {
                return Some(Node::Array(items));
            }
            if !self.takes(b',') {
                return None;
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        let inner = self.rest.strip_prefix(b"\"")?;
        let mut is_escaped = false;
        let end = inner.iter().position(|byte| {
            let ends = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            ends
        })?;
        let (text, rest) = inner.split_at(end);
        self.rest = rest.get(1..)?;
        if !text.contains(&b'\\') {
            return Some(std::str::from_utf8(text).ok()?.to_owned());
        }
        let quoted = [b"\"", text, b"\""].concat();
        serde_json::from_slice(&quoted).ok()
    }

    /// A number or a name.
    fn word(&mut self) -> Option<Node> {
        let is_end = |byte: &u8| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace();
        let end = self.rest.iter().position(is_end).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            b"null" => return Some(Node::Null),
            b"true" => return Some(Node::Bool(true)),
            b"false" => return Some(Node::Bool(false)),
            b"NaN" | b"Infinity" | b"-Infinity" => {}
            _ if word.first().is_none_or(|byte| !byte.is_ascii_digit() && *byte != b'-') => return None,
            _ => {}
        }
        let text = std::str::from_utf8(word).ok()?;
        if let Ok(number) = text.parse::<i64>() {
            return Some(i32::try_from(number).map_or(Node::Int64(number), Node::Int32));
        }
        text.parse::<f64>().ok()?;
        Some(Node::Double(text.to_owned()))
    }
}

/// What an object of extended JSON stands for.
fn typed(members: Members) -> Node {
    let is_typed = members.len() <= 2 && members.first().is_some_and(|(name, _)| name.starts_with('$'));
    match is_typed.then(|| extended(&members)).flatten() {
        Some(node) => node,
        None => Node::Document(members),
    }
}

fn extended(members: &Members) -> Option<Node> {
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    let first = &members.first()?.1;
    let second = members.get(1).map(|(_, node)| node);
    match (names.as_slice(), first, second) {
        (["$oid" | "$numberDecimal" | "$symbol" | "$code"], Node::Text(text), _) => {
            Some(Node::Text(text.clone()))
        }
        (["$numberLong"], Node::Text(text), _) => text.parse().ok().map(Node::Int64),
        (["$numberInt"], Node::Text(text), _) => text.parse().ok().map(Node::Int32),
        (["$numberDouble"], Node::Text(text), _) => Some(Node::Double(text.clone())),
        (["$date"], Node::Text(text), _) => {
            time::rfc3339_us(text.as_bytes()).ok().map(|us| Node::Time(us.div_euclid(1000)))
        }
        (["$date"], Node::Int32(ms), _) => Some(Node::Time(i64::from(*ms))),
        (["$date"], Node::Int64(ms), _) => Some(Node::Time(*ms)),
        (["$binary", "$type"], Node::Text(base64), Some(Node::Text(_))) => decoded(base64).map(Node::Bytes),
        (["$binary"], Node::Document(inner), _) => match inner.first() {
            Some((name, Node::Text(base64))) if name == "base64" => decoded(base64).map(Node::Bytes),
            _ => None,
        },
        (["$regex", "$options"], Node::Text(pattern), Some(Node::Text(options))) => {
            Some(regex(pattern, options))
        }
        (["$regularExpression"], Node::Document(inner), _) => match inner.as_slice() {
            [(_, Node::Text(pattern)), (_, Node::Text(options))] => Some(regex(pattern, options)),
            _ => None,
        },
        (["$timestamp"], Node::Document(inner), _) => match inner.first() {
            Some((name, Node::Int32(seconds))) if name == "t" => Some(Node::Time(i64::from(*seconds) * 1000)),
            Some((name, Node::Int64(seconds))) if name == "t" => Some(Node::Time(seconds.checked_mul(1000)?)),
            _ => None,
        },
        (["$code", "$scope"], Node::Text(code), Some(Node::Document(scope))) => {
            let code = ("code".to_owned(), Node::Text(code.clone()));
            Some(Node::Document(vec![code, ("scope".to_owned(), Node::Document(scope.clone()))]))
        }
        (["$undefined"], Node::Bool(true), _) => Some(Node::Undefined),
        (["$minKey"], ..) => Some(Node::Text("MinKey".to_owned())),
        (["$maxKey"], ..) => Some(Node::Text("MaxKey".to_owned())),
        _ => None,
    }
}

fn regex(pattern: &str, options: &str) -> Node {
    let text = |text: &str| Node::Text(text.to_owned());
    Node::Named(REGEX, vec![("regex".into(), text(pattern)), ("options".into(), text(options))])
}

/// The bytes of padded base64.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let sextet = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        bits = bits << 6 | u32::from(sextet(byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_gives_the_same_values() {
        let text = |text: &str| Node::Text(text.into());
        for (json, expected) in [
            ("1", Node::Int32(1)),
            ("{\"$numberInt\": \"1\"}", Node::Int32(1)),
            ("2147483648", Node::Int64(2_147_483_648)),
            ("{\"$numberLong\": \"5\"}", Node::Int64(5)),
            ("1.50", Node::Double("1.50".into())),
            ("NaN", Node::Double("NaN".into())),
            ("{\"$numberDouble\": \"NaN\"}", Node::Double("NaN".into())),
            ("\"a\\n\\u00e4\"", text("a\nä")),
            ("{\"$oid\": \"65\"}", text("65")),
            ("{\"$date\": 1700000000123}", Node::Time(1_700_000_000_123)),
            ("{\"$date\": \"2023-11-14T22:13:20.123Z\"}", Node::Time(1_700_000_000_123)),
            ("{\"$date\": {\"$numberLong\": \"-1\"}}", Node::Time(-1)),
            ("{\"$binary\": \"AQID\", \"$type\": \"00\"}", Node::Bytes(vec![1, 2, 3])),
            ("{\"$binary\": {\"base64\": \"AQI=\", \"subType\": \"00\"}}", Node::Bytes(vec![1, 2])),
            ("{\"$timestamp\": {\"t\": 3000000000, \"i\": 1}}", Node::Time(3_000_000_000_000)),
            ("{\"$regex\": \"a\", \"$options\": \"i\"}", regex("a", "i")),
            ("{\"$regularExpression\": {\"pattern\": \"a\", \"options\": \"i\"}}", regex("a", "i")),
            ("{\"$undefined\": true}", Node::Undefined),
            ("{\"$money\": 1}", Node::Document(vec![("$money".into(), Node::Int32(1))])),
            ("[null, true]", Node::Array(vec![Node::Null, Node::Bool(true)])),
            (" { } ", Node::Document(vec![])),
        ] {
            assert_eq!(value(json.as_bytes()), Some(expected), "{json}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["", "{", "[1", "{\"a\"}", "1 2", "\"a", "{\"a\":1,}", "tru", "-", "[1 2]"] {
            assert_eq!(value(text.as_bytes()), None, "{text}");
        }
        assert_eq!(value("[".repeat(1000).as_bytes()), None);
        assert_eq!(document(b"[1]"), None);
    }
}
