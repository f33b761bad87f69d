//! AES-256-GCM over single values. What comes out, before base64: the version (1), the length of the key's id and the id,
//! which are authenticated too; the nonce (12 bytes); the ciphertext; the tag (16 bytes).
//!
//! A nonce is eight bytes of chance, drawn once for 2^32 values, and a number: nonces drawn one by one would meet under a
//! key that is kept for some years. The same value is another text each time, also when it is encoded again after
//! a crash; what was encoded before it was never committed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::encode::lexical::hex;

const VERSION: u8 = 1;
pub const KEY_BYTES: usize = 32;

/// A key and its id. Does not print.
#[derive(Clone)]
pub struct Cipher(Arc<Inner>);

struct Inner {
    key: LessSafeKey,
    /// Tells two keys apart without showing them.
    mark: hmac::Tag,
    head: Vec<u8>,
    /// What the chance of each 2^32 values is made of.
    seed: hmac::Key,
    used: AtomicU64,
}

impl Cipher {
    /// Of a key in hexadecimal; an error says what is wrong with it.
    pub fn new(id: &str, key: &str) -> Result<Self, String> {
        let len = u8::try_from(id.len()).ok().filter(|len| *len > 0);
        let len = len.ok_or("its id must have 1 to 255 bytes")?;
        let bytes = unhex(key).filter(|bytes| bytes.len() == KEY_BYTES);
        let bytes = bytes.ok_or_else(|| {
            format!("is not {KEY_BYTES} bytes in hexadecimal; make one: openssl rand -hex {KEY_BYTES}")
        })?;
        let refused = |_| "this machine has no AES-256-GCM, or no source of chance".to_owned();
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(refused)?;
        Ok(Self(Arc::new(Inner {
            key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).map_err(refused)?),
            mark: hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), id.as_bytes()),
            head: [&[VERSION, len], id.as_bytes()].concat(),
            seed: hmac::Key::new(hmac::HMAC_SHA256, &seed),
            used: AtomicU64::new(0),
        })))
    }

    /// Adds the value's ciphertext, in base64.
    pub(super) fn put(&self, text: &[u8], out: &mut Vec<u8>) {
        let Inner { key, head, .. } = &*self.0;
        let nonce = self.nonce();
        let mut sealed = text.to_vec();
        let tag = key.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(head.as_slice()),
            &mut sealed,
        );
        // It fails for texts of 64 GiB alone, and then shows nothing.
        let Ok(tag) = tag else { return };
        hex::base64(&[head, &nonce[..], &sealed, tag.as_ref()].concat(), out);
    }

    /// What whoever has the key reads.
    #[cfg(test)]
    pub(crate) fn opened(&self, text: &str) -> Option<String> {
        use crate::encode::flat::node::{Node, value};
        let json = format!("{{\"$binary\":\"{text}\",\"$type\":\"00\"}}");
        let Some(Node::Bytes(bytes)) = value(json.as_bytes()) else { return None };
        let rest = bytes.strip_prefix(self.0.head.as_slice())?;
        let (nonce, mut sealed) = (rest.get(..12)?, rest.get(12..)?.to_vec());
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let aad = Aad::from(self.0.head.as_slice());
        let text = self.0.key.open_in_place(nonce, aad, &mut sealed).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }

    fn nonce(&self) -> [u8; 12] {
        let Inner { seed, used, .. } = &*self.0;
        let nth = used.fetch_add(1, Ordering::Relaxed);
        let chance = hmac::sign(seed, &(nth >> 32).to_be_bytes());
        let mut nonce = [0; 12];
        let (front, back) = nonce.split_at_mut(8);
        front.copy_from_slice(chance.as_ref().get(..8).unwrap_or(&[0; 8]));
        back.copy_from_slice(nth.to_be_bytes().get(4..).unwrap_or(&[0; 4]));
        nonce
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| char::from(*c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(byte).collect()
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

impl PartialEq for Cipher {
    fn eq(&self, other: &Self) -> bool {
        self.0.mark.as_ref() == other.0.mark.as_ref()
    }
}
impl Eq for Cipher {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::flat::node::{Node, value};

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn sealed(cipher: &Cipher, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        cipher.put(text.as_bytes(), &mut out);
        let json = format!("{{\"$binary\":\"{}\",\"$type\":\"00\"}}", String::from_utf8(out).unwrap());
        match value(json.as_bytes()) {
            Some(Node::Bytes(bytes)) => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whoever_has_the_key_opens_what_is_sealed_and_nobody_sees_that_two_values_are_equal() {
        let cipher = Cipher::new("2026", KEY).unwrap();
        let texts = ["anna@example.com", "anna@example.com", ""];
        let all: Vec<Vec<u8>> = texts.iter().map(|text| sealed(&cipher, text)).collect();
        assert_ne!(all[0], all[1]);
        for (bytes, text) in all.iter().zip(texts) {
            let (head, rest) = bytes.split_at(6);
            assert_eq!(head, b"\x01\x042026");
            let (nonce, rest) = rest.split_at(12);
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &unhex(KEY).unwrap()).unwrap());
            let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
            let mut rest = rest.to_vec();
            assert_eq!(key.open_in_place(nonce, Aad::from(head), &mut rest).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn no_nonce_comes_twice_and_another_process_draws_others() {
        let cipher = Cipher::new("a", KEY).unwrap();
        let first = cipher.nonce();
        cipher.0.used.store(u64::from(u32::MAX), Ordering::Relaxed);
        let (last, next) = (cipher.nonce(), cipher.nonce());
        assert_eq!((&last[..8], &last[8..]), (&first[..8], &[0xff; 4][..]));
        assert!(next[..8] != first[..8] && next[8..] == [0; 4]);
        assert_ne!(Cipher::new("a", KEY).unwrap().nonce()[..8], first[..8]);
    }

    #[test]
    fn a_key_that_is_none_is_refused_and_none_is_printed() {
        for key in ["", "00", &KEY[1..], &KEY.replace('0', "x")] {
            assert!(Cipher::new("a", key).unwrap_err().contains("openssl rand -hex 32"), "{key}");
        }
        assert!(Cipher::new("", KEY).is_err());
        let cipher = Cipher::new("a", KEY).unwrap();
        assert_eq!(format!("{cipher:?}"), "Cipher");
        assert!(cipher == Cipher::new("a", KEY).unwrap() && cipher != Cipher::new("b", KEY).unwrap());
    }
}
