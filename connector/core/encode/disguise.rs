//! Columns whose text is not for every reader: masked, hashed, encrypted or cut off, decided once per column. Hashes hold
//! for keys too, except in Debezium's dialect, whose keys keep what they are made of.

mod cipher;

use std::fmt;

pub use self::cipher::Cipher;

use md5::Md5;
use ring::hmac;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::connect::Schema;
use super::json::Json;
use super::value::{self, Scratch, Type, Writer};
use crate::pattern::Pattern;

/// What becomes of a column's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disguise {
    /// As many asterisks, whatever the value, and for NULL too: who reads them learns nothing.
    Mask { asterisks: usize },
    /// The digest of the salt and the text, in hexadecimal. Equal texts stay equal, and NULL stays NULL. In Debezium's
    /// dialect it is cut to what the column was declared to hold.
    Hash { algorithm: Algorithm, salt: Salt, of: Hashed, length: Option<usize> },
    /// The authentication code of the text under a secret key, in hexadecimal: nobody without the key finds a text by
    /// trying. NULL stays NULL.
    Hmac { key: HmacKey },
    /// The text for those who have a key, another one each time. NULL stays NULL.
    Encrypt(Cipher),
    /// The same for every value, as a text of the column's own type. NULL stays NULL.
    Replace(Box<Stand>),
    /// The first characters, as Java counts them.
    Truncate { characters: usize },
}

/// What stands in the place of all values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    text: String,
    r#type: Type,
}

impl Stand {
    /// `None` where the type does not hold it.
    pub(crate) fn new(text: &str, r#type: Type) -> Option<Self> {
        let written =
            value::write::<Json>(&r#type, text.as_bytes(), &mut Vec::new(), &mut Scratch::default());
        written.is_ok().then(|| Self { text: text.to_owned(), r#type })
    }
}

/// Shorter keys are the weaker part of the two.
pub const HMAC_KEY_BYTES_MIN: usize = 32;

/// Does not print.
#[derive(Clone)]
pub struct HmacKey(hmac::Key);

impl HmacKey {
    /// Of HMAC-SHA-256; `None` where the secret is too short.
    pub fn new(secret: &[u8]) -> Option<Self> {
        let is_long = secret.len() >= HMAC_KEY_BYTES_MIN;
        is_long.then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey")
    }
}

// Keys are compared by what they make.
impl PartialEq for HmacKey {
    fn eq(&self, other: &Self) -> bool {
        hmac::sign(&self.0, b"").as_ref() == hmac::sign(&other.0, b"").as_ref()
    }
}
impl Eq for HmacKey {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Broken for signatures; Debezium's users have it in their topics.
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// What is hashed behind the salt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hashed {
    /// The text's UTF-8.
    #[default]
    Text,
    /// The text as Java serialises a string: the first version of Debezium's hashes.
    Serialized,
}

/// Does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt(pub String);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt")
    }
}

/// Columns (`schema.table.column`) and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disguised {
    pub columns: Pattern,
    pub by: Disguise,
}

impl Disguise {
    /// Whether a NULL is hidden as well.
    pub(crate) fn hides_null(&self) -> bool {
        matches!(self, Self::Mask { .. })
    }

    /// Whether readers cannot tell two texts apart.
    pub(crate) fn shows_same(&self, one: &[u8], other: &[u8]) -> bool {
        match self {
            Self::Mask { .. } => true,
            Self::Truncate { characters } => cut(one, *characters) == cut(other, *characters),
            Self::Hash { .. } | Self::Hmac { .. } | Self::Encrypt(_) => one == other,
            Self::Replace(_) => true,
        }
    }

    /// Whether it is to keep a secret.
    pub(crate) fn is_secret(&self) -> bool {
        !matches!(self, Self::Truncate { .. })
    }

    /// As it is for a column that was declared to hold so many characters.
    pub(crate) fn within(&self, declared: Option<i32>) -> Self {
        let mut it = self.clone();
        if let Self::Hash { length, .. } = &mut it {
            *length =
                declared.and_then(|declared| usize::try_from(declared).ok()).filter(|length| *length > 0);
        }
        it
    }

    /// What the schema says of it, as Debezium does.
    pub(crate) fn tell(&self, schema: Schema) -> Schema {
        match self {
            Self::Mask { .. } | Self::Hash { .. } | Self::Hmac { .. } | Self::Encrypt(_) => {
                schema.parameter("masked", "true")
            }
            Self::Replace(_) => schema,
            Self::Truncate { characters } => schema.parameter("truncateLength", characters),
        }
    }

    pub(crate) fn write<W: Writer>(&self, text: &[u8], out: &mut Vec<u8>, room: &mut Vec<u8>) {
        if let Self::Truncate { characters } = self {
            return W::string(out, cut(text, *characters));
        }
        if let Self::Replace(stand) = self {
            // It was written once before it was taken.
            let _ = value::write::<W>(&stand.r#type, stand.text.as_bytes(), out, &mut Scratch::default());
            return;
        }
        room.clear();
        self.put(text, room);
        W::string(out, room);
    }

    /// Adds what readers see in the text's place.
    pub(crate) fn put(&self, text: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Mask { asterisks } => out.extend(std::iter::repeat_n(b'*', *asterisks)),
            Self::Truncate { characters } => out.extend_from_slice(cut(text, *characters)),
            Self::Replace(stand) => out.extend_from_slice(stand.text.as_bytes()),
            Self::Encrypt(cipher) => cipher.put(text, out),
            Self::Hmac { key } => hexadecimal(hmac::sign(&key.0, text).as_ref(), out),
            Self::Hash { algorithm, salt, of, length } => {
                let begun = out.len();
                let serialized = (*of == Hashed::Serialized).then(|| serialized(text));
                let text = serialized.as_deref().unwrap_or(text);
                match algorithm {
                    Algorithm::Md5 => digest::<Md5>(salt, text, out),
                    Algorithm::Sha1 => digest::<Sha1>(salt, text, out),
                    Algorithm::Sha224 => digest::<Sha224>(salt, text, out),
                    Algorithm::Sha256 => digest::<Sha256>(salt, text, out),
                    Algorithm::Sha384 => digest::<Sha384>(salt, text, out),
                    Algorithm::Sha512 => digest::<Sha512>(salt, text, out),
                }
                out.truncate(begun + length.unwrap_or(usize::MAX - begun));
            }
        }
    }
}

/// A string as Java's object streams write it: their head, the kind of string, its length in bytes, and
/// UTF-8 in which a character of four bytes is its two halves of UTF-16 in three bytes each, and a zero two.
fn serialized(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for c in String::from_utf8_lossy(text).chars() {
        match c {
            '\0' => bytes.extend_from_slice(&[0xc0, 0x80]),
            c if c.len_utf8() < 4 => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let [high, low] = unit.to_be_bytes();
                    bytes.extend_from_slice(&[
                        0xe0 | high >> 4,
                        0x80 | (high & 0x0f) << 2 | low >> 6,
                        0x80 | low & 0x3f,
                    ]);
                }
            }
        }
    }
    let head = match u16::try_from(bytes.len()) {
        Ok(len) => [&[0xac, 0xed, 0, 5, b't'][..], &len.to_be_bytes()].concat(),
        Err(_) => [&[0xac, 0xed, 0, 5, b'|'][..], &(bytes.len() as u64).to_be_bytes()].concat(),
    };
    [head, bytes].concat()
}

/// A disguise hides only what is written as text.
pub(crate) fn fits(r#type: &Type) -> bool {
    matches!(r#type, Type::Text)
}

fn digest<D: Digest>(salt: &Salt, text: &[u8], out: &mut Vec<u8>) {
    let digest = D::new().chain_update(salt.0.as_bytes()).chain_update(text).finalize();
    hexadecimal(&digest, out);
}

fn hexadecimal(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
        }
    }
}

/// As much of the text as has no more UTF-16 units than this, and no half of a character.
fn cut(text: &[u8], units: usize) -> &[u8] {
    let mut left = units;
    for (at, byte) in text.iter().enumerate() {
        let needed = match byte {
            0x80..=0xbf => continue,
            0xf0.. => 2,
            _ => 1,
        };
        if needed > left {
            return text.get(..at).unwrap_or_default();
        }
        left -= needed;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disguise: &Disguise, text: &str) -> String {
        let mut out = Vec::new();
        disguise.write::<Json>(text.as_bytes(), &mut out, &mut Vec::new());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_mask_tells_nothing_of_the_text() {
        for text in ["", "secret", "a much longer secret"] {
            assert_eq!(written(&Disguise::Mask { asterisks: 3 }, text), "\"***\"");
        }
        assert_eq!(written(&Disguise::Mask { asterisks: 0 }, "x"), "\"\"");
    }

    #[test]
    fn a_hash_is_that_of_the_salt_and_the_text() {
        let hash = |algorithm| Disguise::Hash {
            algorithm,
            salt: Salt("CzQMA0cB5K".into()),
            of: Hashed::Text,
            length: None,
        };
        // printf CzQMA0cB5Kanna@example.com | sha256sum
        let expected = "beb9f965d6e20f24f16bdef1c8e2a3ac5656cbdc933e784eb413772ded875717";
        assert_eq!(written(&hash(Algorithm::Sha256), "anna@example.com"), format!("\"{expected}\""));
        let within = |length| written(&hash(Algorithm::Sha256).within(Some(length)), "anna@example.com");
        assert_eq!((within(5), within(500)), ("\"beb9f\"".into(), format!("\"{expected}\"")));
        // As md5sum and sha1sum.
        let md5 = "27a9532d872ea91dbfc1b5959725fb82";
        assert_eq!(written(&hash(Algorithm::Md5), "anna@example.com"), format!("\"{md5}\""));
        let lengths =
            [Algorithm::Sha1, Algorithm::Sha224].map(|algorithm| written(&hash(algorithm), "").len());
        assert_eq!(lengths, [42, 58]);
        assert_eq!(written(&hash(Algorithm::Sha384), "").len(), 98);
        assert_eq!(written(&hash(Algorithm::Sha512), "").len(), 130);
        assert_eq!(format!("{:?}", Salt("secret".into())), "Salt");
    }

    #[test]
    fn a_keyed_hash_is_the_authentication_code_of_the_text() {
        assert!(HmacKey::new(b"short").is_none());
        let key = HmacKey::new(&[b'k'; 32]).unwrap();
        // printf anna@example.com | openssl dgst -sha256 -hmac kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk
        let expected = "a3c8303bc225bd2b4e17109e7eb0fc3ba162a5a0164df1a2f857f16d4c541ea8";
        assert_eq!(
            written(&Disguise::Hmac { key: key.clone() }, "anna@example.com"),
            format!("\"{expected}\"")
        );
        assert_eq!(format!("{key:?}"), "HmacKey");
    }

    #[test]
    fn the_first_version_hashes_a_string_as_java_serialises_it() {
        assert_eq!(serialized("ab".as_bytes()), [0xac, 0xed, 0, 5, b't', 0, 2, b'a', b'b']);
        assert_eq!(serialized("🦀".as_bytes())[5..], [0, 6, 0xed, 0xa0, 0xbe, 0xed, 0xb6, 0x80]);
        let long = serialized(&[b'x'; 70_000]);
        assert_eq!((long[4], long.len()), (b'|', 5 + 8 + 70_000));
    }

    #[test]
    fn a_text_is_cut_between_characters_as_java_counts_them() {
        for (text, characters, expected) in [
            ("abc", 5, "abc"),
            ("abc", 2, "ab"),
            ("grün", 3, "grü"),
            ("a🦀b", 2, "a"),
            ("a🦀b", 3, "a🦀"),
            ("", 1, ""),
        ] {
            assert_eq!(cut(text.as_bytes(), characters), expected.as_bytes(), "{text} {characters}");
        }
    }
}
