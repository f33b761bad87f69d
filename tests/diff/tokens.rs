//! JSON as a flat list of places and raw values: nothing of the text is lost, so that `1.0` and `1` differ,
//! and so do two orders of the same fields.

use crate::Result;

/// A place like `payload.after.price`, and the bytes of the value there as they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub place: String,
    pub raw: String,
}

/// Every scalar, and every empty object and array, in the order of the text.
pub fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut scanner = Scanner { rest: text, found: Vec::new(), place: String::new() };
    scanner.value()?;
    match scanner.rest.trim_start() {
        "" => Ok(scanner.found),
        rest => Err(format!("something follows the JSON: {rest:.40}").into()),
    }
}

struct Scanner<'a> {
    rest: &'a str,
    found: Vec<Token>,
    place: String,
}

impl Scanner<'_> {
    fn value(&mut self) -> Result<()> {
        self.rest = self.rest.trim_start();
        match self.rest.as_bytes().first() {
            Some(b'{') => self.members('}'),
            Some(b'[') => self.members(']'),
            Some(b'"') => {
                let raw = self.string()?;
                self.found.push(Token { place: self.place.clone(), raw });
                Ok(())
            }
            Some(_) => {
                let end = self.rest.find([',', '}', ']', ' ', '\n']).unwrap_or(self.rest.len());
                let (raw, rest) = self.rest.split_at(end);
                self.rest = rest;
                self.found.push(Token { place: self.place.clone(), raw: raw.to_owned() });
                Ok(())
            }
            None => Err("the JSON ends too early".into()),
        }
    }

    /// The inside of an object or an array.
    fn members(&mut self, close: char) -> Result<()> {
        self.rest = self.rest.get(1..).unwrap_or_default().trim_start();
        if let Some(rest) = self.rest.strip_prefix(close) {
            self.rest = rest;
            let raw = if close == '}' { "{}" } else { "[]" };
            self.found.push(Token { place: self.place.clone(), raw: raw.into() });
            return Ok(());
        }
        for index in 0.. {
            let outer = self.place.len();
            if close == '}' {
                self.rest = self.rest.trim_start();
                let name = self.string()?;
                if !self.place.is_empty() {
                    self.place.push('.');
                }
                self.place.push_str(name.trim_matches('"'));
                self.rest = self.rest.trim_start().strip_prefix(':').ok_or("a field without a colon")?;
            } else {
                self.place.push_str(&format!("[{index}]"));
            }
            self.value()?;
            self.place.truncate(outer);
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix(close) {
                self.rest = rest;
                return Ok(());
            }
            self.rest = self.rest.strip_prefix(',').ok_or("a comma is missing")?;
        }
        Ok(())
    }

    /// With its quotes and escapes.
    fn string(&mut self) -> Result<String> {
        let mut escaped = false;
        for (index, byte) in self.rest.bytes().enumerate().skip(1) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    let (raw, rest) = self.rest.split_at(index + 1);
                    self.rest = rest;
                    return Ok(raw.to_owned());
                }
                _ => {}
            }
        }
        Err("a string without an end".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scalar_keeps_its_place_and_its_bytes() {
        let found = tokens(r#"{"a":{"b":1.0,"c":[true,{"d":"x\"}"}]},"e":[],"f":null}"#).unwrap();
        let found: Vec<_> = found.iter().map(|t| (t.place.as_str(), t.raw.as_str())).collect();
        assert_eq!(
            found,
            [("a.b", "1.0"), ("a.c[0]", "true"), ("a.c[1].d", r#""x\"}""#), ("e", "[]"), ("f", "null")]
        );
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for text in ["", "{", "[1", "{\"a\"}", "1 2", "\"a"] {
            assert!(tokens(text).is_err(), "{text}");
        }
    }
}
