//! Where a change stream goes on: the server's token, and the cluster time inside it.
//!
//! A token is opaque but for its beginning: hexadecimal digits of the byte 0x82, for a timestamp, and then of
//! the cluster time, high byte first (`src/mongo/db/pipeline/resume_token.h`). That much tells whether
//! a place between two events lies past a transaction, so it is read, and refused if it is not there.

use std::fmt;
use std::str::FromStr;

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, Timestamp, doc};
use serde::{Deserialize, Serialize};

use crate::bson::{Doc, Malformed, Value};

/// Seconds since 1970 and an increment, as `seconds.increment`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterTime(pub u64);

impl ClusterTime {
    pub fn seconds(self) -> u64 {
        self.0 >> 32
    }

    /// The newest time before this one.
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    pub fn timestamp(self) -> Timestamp {
        // Two halves of 32 bits.
        Timestamp { time: (self.0 >> 32) as u32, increment: self.0 as u32 }
    }
}

impl From<Timestamp> for ClusterTime {
    fn from(timestamp: Timestamp) -> Self {
        Self(u64::from(timestamp.time) << 32 | u64::from(timestamp.increment))
    }
}

impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for ClusterTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (seconds, increment) = text.split_once('.').unwrap_or((text, "0"));
        let half = |part: &str| part.parse::<u32>().map(u64::from);
        match (half(seconds), half(increment)) {
            (Ok(seconds), Ok(increment)) => Ok(Self(seconds << 32 | increment)),
            _ => Err(format!("{text:?} is not a cluster time: seconds.increment")),
        }
    }
}

impl Serialize for ClusterTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClusterTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A token in a form that can be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeToken {
    /// Hexadecimal digits.
    #[serde(rename = "_data")]
    data: String,
    /// What the digits cannot say of the types in the document's key, in hexadecimal digits as well.
    #[serde(rename = "_typeBits", skip_serializing_if = "Option::is_none", default)]
    type_bits: Option<String>,
}

impl ResumeToken {
    /// Of an event, and not of a place between two: that has the kind 0 behind the version, `2B`, version, `29`.
    pub fn is_of_event(&self) -> bool {
        let is = |at: std::ops::Range<usize>, digits: &str| {
            self.data.get(at).is_some_and(|found| found.eq_ignore_ascii_case(digits))
        };
        !(is(18..20, "2B") && is(22..24, "29"))
    }

    /// The token that a person typed: its digits.
    pub fn typed(digits: &str) -> Result<Self, Malformed> {
        let token = Self { data: digits.to_owned(), type_bits: None };
        token.cluster_time().map(|_| token)
    }

    pub fn read(token: Doc<'_>) -> Result<Self, Malformed> {
        let data = token.need("_data")?.text("_data")?;
        let data = std::str::from_utf8(data).map_err(|_| Malformed::Field("_data"))?;
        let type_bits = match token.get("_typeBits")? {
            None => None,
            Some(Value::Binary { bytes, .. }) => {
                Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
            }
            Some(_) => return Err(Malformed::Field("_typeBits")),
        };
        Ok(Self { data: data.to_owned(), type_bits })
    }

    /// The cluster time of the event, or of the place between two.
    pub fn cluster_time(&self) -> Result<ClusterTime, Malformed> {
        cluster_time(self.data.as_bytes())
    }

    /// Tokens rise with the stream, digit by digit.
    pub fn is_after(&self, other: &Self) -> bool {
        self.data > other.data
    }

    /// As the server wants it back.
    pub fn to_document(&self) -> Document {
        let mut token = doc! { "_data": self.data.as_str() };
        if let Some(digits) = &self.type_bits {
            let byte = |at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
            let bytes = (0..digits.len()).step_by(2).filter_map(byte).collect();
            token.insert("_typeBits", Binary { subtype: BinarySubtype::Generic, bytes });
        }
        token
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.data)
    }
}

/// The cluster time of a token that is read in place.
pub fn cluster_time_of(token: Doc<'_>) -> Result<ClusterTime, Malformed> {
    cluster_time(token.need("_data")?.text("_data")?)
}

fn cluster_time(data: &[u8]) -> Result<ClusterTime, Malformed> {
    let digits = data.get(..18).and_then(|head| std::str::from_utf8(head).ok());
    let time = digits.and_then(|digits| digits.strip_prefix("82"));
    // `from_str_radix` would take a sign.
    let time = time.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let time = time.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    time.map(ClusterTime).ok_or(Malformed::Field("_data"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::rawdoc;

    /// Of a real server: an insert at 1700000000.5.
    const DATA: &str = "826553F100000000052B022C0100296E5A1004";

    #[test]
    fn the_cluster_time_stands_at_the_beginning_of_a_token() {
        let token = rawdoc! { "_data": DATA };
        let token = Doc::new(token.as_bytes()).unwrap();
        assert_eq!(cluster_time_of(token).unwrap().to_string(), "1700000000.5");
        assert_eq!(ResumeToken::read(token).unwrap().to_document(), doc! { "_data": DATA });
    }

    #[test]
    fn a_token_of_an_event_is_told_from_that_of_a_place() {
        let of = |data: &str| ResumeToken::typed(data).expect("a token").is_of_event();
        assert!(of("826553F100000000052B042C0100296E5A1004"));
        assert!(!of("826553F100000000052B0429296E1404") && !of("826553f100000000052b0229296e04"));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for data in ["", "82", "836553F10000000005", "82+553F10000000005", "82zzzzzzzzzzzzzzzz"] {
            assert!(ResumeToken::typed(data).is_err(), "{data}");
        }
    }

    #[test]
    fn type_bits_come_back_as_they_were() {
        let bits = Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] };
        let token = rawdoc! { "_data": DATA, "_typeBits": bits.clone() };
        let kept = ResumeToken::read(Doc::new(token.as_bytes()).unwrap()).unwrap();
        let text = serde_json::to_string(&kept).unwrap();
        let kept: ResumeToken = serde_json::from_str(&text).unwrap();
        assert_eq!(kept.to_document(), doc! { "_data": DATA, "_typeBits": bits });
    }

    #[test]
    fn a_cluster_time_is_read_as_it_is_shown() {
        let time = ClusterTime(1_700_000_000 << 32 | 7);
        assert_eq!(time.to_string().parse(), Ok(time));
        assert!("yesterday".parse::<ClusterTime>().is_err());
    }
}
