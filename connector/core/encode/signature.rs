//! Who wrote a record: a header over the bytes of its value, with the name of the key. Start at `Signature`.

use std::fmt;
use std::sync::Arc;

use ring::hmac;
use ring::signature::Ed25519KeyPair;

use super::lexical::hex::base64;

/// The header's name. Its value is `<algorithm>:<key id>:<base64>`.
pub const HEADER: &str = "signature";

/// As long as what HMAC-SHA-256 gives: a shorter secret is the weaker part of the two.
const SECRET_BYTES_MIN: usize = 32;

/// A key with its name.
#[derive(Clone)]
pub struct Signature {
    key_id: String,
    key: Arc<Key>,
}

enum Key {
    Ed25519(Ed25519KeyPair),
    Hmac(hmac::Key),
}

impl Signature {
    /// `document` is the private key in PKCS#8, as DER.
    pub fn ed25519(key_id: &str, document: &[u8]) -> Result<Self, &'static str> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(document);
        let pair = pair.map_err(|_| "is no private key of Ed25519 in PKCS#8")?;
        Ok(Self { key_id: key_id.to_owned(), key: Arc::new(Key::Ed25519(pair)) })
    }

    pub fn hmac_sha256(key_id: &str, secret: &[u8]) -> Result<Self, &'static str> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err("is shorter than 32 bytes");
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Ok(Self { key_id: key_id.to_owned(), key: Arc::new(Key::Hmac(key)) })
    }

    /// The header's value for a record's value.
    pub(crate) fn of(&self, value: &[u8]) -> Vec<u8> {
        let mut out = format!("{}:{}:", self.algorithm(), self.key_id).into_bytes();
        match self.key.as_ref() {
            Key::Ed25519(pair) => base64(pair.sign(value).as_ref(), &mut out),
            Key::Hmac(key) => base64(hmac::sign(key, value).as_ref(), &mut out),
        }
        out
    }

    /// Whether this key has signed this value. Both algorithms always give the same signature.
    pub fn verifies(&self, header: &[u8], value: &[u8]) -> bool {
        self.of(value) == header
    }

    /// Whether the header names this key, truly or not.
    pub fn is_named(&self, header: &[u8]) -> bool {
        header.starts_with(format!("{}:{}:", self.algorithm(), self.key_id).as_bytes())
    }

    fn algorithm(&self) -> &'static str {
        match self.key.as_ref() {
            Key::Ed25519(_) => "ed25519",
            Key::Hmac(_) => "hmac-sha256",
        }
    }
}

/// Without the key.
impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signature").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Keys are compared by what they sign.
impl PartialEq for Signature {
    fn eq(&self, other: &Self) -> bool {
        self.of(b"") == other.of(b"")
    }
}
impl Eq for Signature {}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ED25519, KeyPair, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_signature_of_ed25519_is_verified_by_the_public_key_alone() {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let signature = Signature::ed25519("k1", document.as_ref()).unwrap();
        let header = String::from_utf8(signature.of(b"value")).unwrap();
        let signed = header.strip_prefix("ed25519:k1:").unwrap();
        let bytes = decoded(signed);
        let public = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap().public_key().as_ref().to_vec();
        assert!(UnparsedPublicKey::new(&ED25519, public).verify(b"value", &bytes).is_ok());
        assert!(signature.verifies(header.as_bytes(), b"value"));
        assert!(!signature.verifies(header.as_bytes(), b"other"));
    }

    #[test]
    fn a_mac_is_that_of_any_other_tool() {
        // printf 'value' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef -binary | base64
        let signature = Signature::hmac_sha256("k2", b"0123456789abcdef0123456789abcdef").unwrap();
        let header = String::from_utf8(signature.of(b"value")).unwrap();
        assert_eq!(header, "hmac-sha256:k2:sCczZ2/I7dVH6OKjFMqALMnd4EyQPkz0gTkWamIh58o=");
        assert!(Signature::hmac_sha256("k2", b"short").is_err());
        assert!(!format!("{signature:?}").contains("0123"));
    }

    fn decoded(text: &str) -> Vec<u8> {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bits = 0_u32;
        let mut out = Vec::new();
        for (at, digit) in text.bytes().filter(|digit| *digit != b'=').enumerate() {
            bits = bits << 6 | u32::try_from(DIGITS.iter().position(|d| *d == digit).unwrap()).unwrap();
            if at % 4 != 0 {
                out.push((bits >> (6 - 2 * (at % 4))) as u8);
            }
        }
        out
    }
}
