//! Names that a schema cannot hold, made legal.

use std::borrow::Cow;

/// How names are spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spelling {
    #[default]
    AsTheyAre,
    /// `_` for every character that Avro does not allow.
    Legal,
    /// `_u` and its number for each of them, and for `_` too, so that two names never become one.
    Escaped,
}

impl Spelling {
    /// A name of a schema, in which points part its namespace.
    pub(crate) fn full<'a>(self, name: &'a str) -> Cow<'a, str> {
        self.spelled(name, '.')
    }

    /// A name of a column. A digit at its begin stays, behind a `_`.
    pub(crate) fn field<'a>(self, name: &'a str) -> Cow<'a, str> {
        match self == Self::Legal && name.starts_with(|c: char| c.is_ascii_digit()) {
            true => Cow::Owned(self.spelled(&format!("_{name}"), '_').into_owned()),
            false => self.spelled(name, '_'),
        }
    }

    /// `also` is allowed behind the first character.
    fn spelled<'a>(self, name: &'a str, also: char) -> Cow<'a, str> {
        if self == Self::AsTheyAre {
            return Cow::Borrowed(name);
        }
        let mut out = String::new();
        for (at, unit) in name.encode_utf16().enumerate() {
            let c = u8::try_from(unit).ok().map(char::from);
            let is_legal = |c: char| {
                c.is_ascii_alphabetic()
                    || (c == '_' && self == Self::Legal)
                    || (at > 0 && (c.is_ascii_digit() || (c == also && c != '_')))
            };
            match c.filter(|c| is_legal(*c)) {
                Some(c) => out.push(c),
                None if self == Self::Legal => out.push('_'),
                None => out += &format!("_u{unit:04x}"),
            }
        }
        Cow::Owned(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_avro_does_not_allow_is_replaced_or_escaped() {
        for (name, legal, escaped) in [
            ("id", "id", "id"),
            ("id-x", "id_x", "id_u002dx"),
            ("my_id", "my_id", "my_u005fid"),
            ("1st", "_1st", "_u0031st"),
            ("1-", "_1_", "_u0031_u002d"),
            ("größe", "gr__e", "gr_u00f6_u00dfe"),
        ] {
            assert_eq!(Spelling::Legal.field(name), legal);
            assert_eq!(Spelling::Escaped.field(name), escaped);
            assert_eq!(Spelling::AsTheyAre.field(name), name);
        }
        assert_eq!(Spelling::Legal.full("my-shop.public.t"), "my_shop.public.t");
        assert_eq!(Spelling::Escaped.full("a.b_c"), "a.b_u005fc");
    }
}
