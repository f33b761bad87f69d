//! `"key"=>"value", "other"=>NULL`, as hstore prints it.

use std::ops::Range;

use super::{Bad, expect};

/// The pairs of one value, unescaped. Used again and again.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    text: Vec<u8>,
    pairs: Vec<Pair>,
}

#[derive(Debug)]
struct Pair {
    key: Range<usize>,
    value: Option<Range<usize>>,
    /// Its place in a Java hash map, and in the text.
    order: (u32, usize),
}

impl Pairs {
    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// In the order in which a Java hash map gives them, as Debezium does; `None` is a NULL.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let of = |range: &Range<usize>| self.text.get(range.clone()).unwrap_or_default();
        self.pairs.iter().map(move |pair| (of(&pair.key), pair.value.as_ref().map(of)))
    }

    pub(crate) fn parse(&mut self, text: &[u8]) -> Result<(), Bad> {
        self.text.clear();
        self.pairs.clear();
        let mut rest = text;
        while !rest.is_empty() {
            if !self.pairs.is_empty() {
                rest = expect(rest, b", ")?;
            }
            let (key, tail) = self.quoted(rest)?;
            let tail = expect(tail, b"=>")?;
            let (value, tail) = match tail.strip_prefix(b"NULL") {
                Some(tail) => (None, tail),
                None => self.quoted(tail).map(|(value, tail)| (Some(value), tail))?,
            };
            rest = tail;
            self.pairs.push(Pair { key, value, order: (0, self.pairs.len()) });
        }
        self.sort();
        Ok(())
    }

    fn quoted<'a>(&mut self, text: &'a [u8]) -> Result<(Range<usize>, &'a [u8]), Bad> {
        let start = self.text.len();
        let mut rest = expect(text, b"\"")?;
        loop {
            rest = match rest {
                [b'"', tail @ ..] => return Ok((start..self.text.len(), tail)),
                [b'\\', byte, tail @ ..] | [byte, tail @ ..] => {
                    self.text.push(*byte);
                    tail
                }
                [] => return Err(Bad::Malformed),
            };
        }
    }

    fn sort(&mut self) {
        // The table doubles when it is three quarters full.
        let mut buckets = 16_usize;
        while self.pairs.len() > buckets / 4 * 3 {
            buckets *= 2;
        }
        let last = u32::try_from(buckets - 1).unwrap_or(u32::MAX);
        for pair in &mut self.pairs {
            let key = self.text.get(pair.key.clone()).unwrap_or_default();
            let hash = java_hash(&String::from_utf8_lossy(key));
            pair.order.0 = (hash ^ hash >> 16) & last;
        }
        self.pairs.sort_unstable_by_key(|pair| pair.order);
    }
}

/// `String.hashCode`
fn java_hash(text: &str) -> u32 {
    text.encode_utf16().fold(0, |hash: u32, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<(String, Option<String>)>, Bad> {
        let mut pairs = Pairs::default();
        pairs.parse(text.as_bytes())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(pairs.iter().map(|(key, value)| (text(key), value.map(text))).collect())
    }

    #[test]
    fn pairs_come_out_unescaped() {
        let found = parse(r#""a"=>"1", "b"=>NULL, "k \"q"=>"v, w""#).unwrap();
        assert_eq!(found.len(), 3);
        for (key, value) in [("a", Some("1")), ("b", None), ("k \"q", Some("v, w"))] {
            assert!(found.contains(&(key.to_owned(), value.map(str::to_owned))), "{found:?}");
        }
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_hstore_is_refused() {
        for text in ["a", "\"a\"", "\"a\"=>", "\"a\"=>\"1\",", "\"a\"=>1", "\"a\"=>\"1\" \"b\"=>NULL"] {
            assert_eq!(parse(text), Err(Bad::Malformed), "{text}");
        }
    }

    #[test]
    fn strings_are_hashed_as_java_does() {
        for (text, expected) in [("", 0), ("a", 97), ("hello", 99_162_322), ("Aa", 2112), ("BB", 2112)] {
            assert_eq!(java_hash(text), expected, "{text}");
        }
    }
}
